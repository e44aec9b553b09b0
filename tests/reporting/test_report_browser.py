"""report.html in headless Chromium: errors, charts, hovering, sorting, pictures, keyboard, small and dark screens."""

from pathlib import Path

import pytest
from report_fixtures import made_up_scores, write_test, write_test_of_videos, write_training, write_videos

from videobench.engine.report import write_report
from videobench.reporting.curves import write_history

DESKTOP = {"width": 1200, "height": 900}
CLASSES = [f"class {c:03d} with a name of some length" for c in range(400)]


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """The page of a test with 400 classes and 20,000 videos."""
    scores, labels = made_up_scores(20_000, 400)
    folder = tmp_path_factory.mktemp("large")
    return write_report(write_test(write_training(folder), {"": scores}, {"": labels}, {"": CLASSES}, failed=20_000))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The page of a test on videos that are there; all of them are taken for the last class."""
    folder = tmp_path_factory.mktemp("small")
    cfg = write_videos(folder / "data", 10)
    return write_report(write_test_of_videos(folder / "run", cfg, ["a <b>bold</b> name", *"bcdefgh"]))


def opened(browser, path: Path):
    """A page in a window of its own, and what went wrong in it so far."""
    faults: list[str] = []
    page = browser.new_page(viewport=DESKTOP, color_scheme="light")
    page.set_default_timeout(120_000)  # a busy machine
    page.on("console", lambda message: faults.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if fetched(request.url) else None)
    page.goto(path.as_uri())
    return page, faults


@pytest.fixture(scope="module")
def windows(browser, large, small):
    return {"large": opened(browser, large), "small": opened(browser, small)}


@pytest.fixture(params=["large", "small"])
def each_page(request, windows):
    """One page after the other; the test must have raised no error, and fetched nothing."""
    page, faults = windows[request.param]
    yield page
    page.set_viewport_size(DESKTOP)
    assert faults == []


@pytest.fixture
def large_page(windows):
    """As `each_page`."""
    yield windows["large"][0]
    assert windows["large"][1] == []


@pytest.fixture
def small_page(windows):
    """As `each_page`."""
    yield windows["small"][0]
    assert windows["small"][1] == []


def fetched(address: str) -> bool:
    return not address.startswith(("file:", "data:"))


def column(page, table: str, number: int) -> list[str]:
    return page.eval_on_selector_all(
        f"#{table} tbody tr", "(rows, n) => rows.map((row) => row.cells[n].textContent)", number
    )


def point_at(page, key: str, *place: object) -> str:
    """Move the mouse to a place of a chart; returns what its tooltip says."""
    chart = page.locator(f'[data-chart="{key}"]')
    chart.scroll_into_view_if_needed()
    inside = chart.evaluate(
        "(e, place) => echarts.getInstanceByDom(e).convertToPixel({ xAxisIndex: 0, yAxisIndex: 0 }, place)", list(place)
    )
    box = chart.bounding_box()
    page.mouse.move(box["x"] + inside[0] - 3, box["y"] + inside[1])
    page.mouse.move(box["x"] + inside[0], box["y"] + inside[1])
    tip = chart.locator(".tip")
    tip.wait_for(state="visible")
    return tip.inner_text()


def test_twenty_thousand_videos_fit_on_the_page(large, large_page):
    assert large.stat().st_size < 10e6
    page = large_page
    drawn = page.evaluate(
        "[...document.querySelectorAll('[data-chart]')].every((e) => e.querySelector('canvas').getContext('2d')"
        ".getImageData(0, 0, 300, 200).data.some((value) => value))"
    )
    assert drawn
    assert page.locator("[data-chart]").count() == 8
    assert len(column(page, "class-table", 0)) == 400


def test_a_cell_of_the_confusion_matrix_is_named_under_the_mouse(large_page):
    page = large_page
    assert CLASSES[200] in (text := point_at(page, "confusion", 200, 200))
    assert "right" in text
    assert "videos (" in text


def test_names_are_text_in_tooltips_too(small_page):
    page = small_page
    text = point_at(page, "confusion", 7, 0)
    assert text.splitlines()[:2] == ["a <b>bold</b> name", "taken for h"]
    assert "confidence 20 to 30 %" in point_at(page, "calibration", 2, 50)


def test_tables_sort_and_filter(large_page):
    page = large_page
    shares = [float(text.removesuffix(" %")) for text in column(page, "class-table", 1)]
    assert shares == sorted(shares)
    page.click("#class-table th:nth-child(2) button")
    assert column(page, "class-table", 1) == [f"{share:.1f} %" for share in sorted(shares, reverse=True)]
    assert page.get_attribute("#class-table th:nth-child(2)", "aria-sort") == "descending"
    page.click("#class-table th:nth-child(2) button")
    assert column(page, "class-table", 1)[0] == f"{min(shares):.1f} %"
    page.click("#class-table th:nth-child(1) button")
    assert column(page, "class-table", 0) == CLASSES
    assert page.get_attribute("#class-table th:nth-child(2)", "aria-sort") is None
    page.fill("#class-table-find", "CLASS 12")
    assert page.locator("#class-table tbody tr:visible").count() == 10
    assert page.inner_text("#class-table-count") == "10 of 400"


def test_everything_can_be_reached_with_the_keyboard(small_page):
    page = small_page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("#class-table th:nth-child(1) button")
    page.keyboard.press("Enter")
    assert page.get_attribute("#class-table th:nth-child(1)", "aria-sort") == "ascending"
    page.focus("#config summary")
    page.keyboard.press("Enter")
    assert page.locator("#config pre").is_visible()
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every((e) => e.tabIndex === 0)")


def test_pictures_load(small_page):
    page = small_page
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    widths = page.eval_on_selector_all("#mistakes img", "(images) => images.map((image) => image.naturalWidth)")
    # Nine of ten videos are wrong, and both lists have all of them.
    assert len(widths) == 18
    assert min(widths) > 100


def test_a_phone_shows_the_page_without_scrolling_sideways(each_page):
    each_page.set_viewport_size({"width": 360, "height": 700})
    assert each_page.evaluate("document.documentElement.scrollWidth") <= 360
    # The charts follow.
    each_page.wait_for_function(
        "[...document.querySelectorAll('[data-chart]')].every("
        "(e) => e.querySelector('canvas').clientWidth <= e.clientWidth)"
    )


def test_curves_of_one_epoch_and_more_curves_than_colours(browser, tmp_path):
    columns = [f"{part}_{head}top1_err" for part in ("train", "val_clip") for head in ("", "verb_", "noun_")]
    write_history(tmp_path, [{"epoch": 1, **dict.fromkeys(columns, 40.0)}])
    page, faults = opened(browser, write_report(tmp_path))
    chart = "echarts.getInstanceByDom(document.querySelector('[data-chart]'))"
    assert page.evaluate(f"{chart}.getModel().getComponent('xAxis').axis.scale.getExtent()") == [0, 2]
    looks = page.evaluate(f"{chart}.getOption().series.map((s, n) => n % 4 + s.lineStyle.type)")
    assert len(looks) == len(set(looks)) == 6
    assert faults == []
    page.close()


def test_light_and_dark(small_page):
    page = small_page
    background = "getComputedStyle(document.body).backgroundColor"
    tip = "echarts.getInstanceByDom(document.querySelector('[data-chart]')).getOption().tooltip[0].backgroundColor"
    card = "getComputedStyle(document.documentElement).getPropertyValue('--card').trim()"
    ground = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(f"{tip} === {card}")  # charts are drawn anew when the page is told
        ground[scheme] = (page.evaluate(background), page.evaluate(tip))
    assert ground["light"][0] != ground["dark"][0]
    assert ground["light"][1] != ground["dark"][1]
