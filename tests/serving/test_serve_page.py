"""The page of the server in headless Chromium: dropping, choosing, bars, errors, keyboard, small and dark screens."""

import base64
import re

import pytest
from running_server import PATIENCE, running
from video_fixtures import X264, pictures, write_clip

from videobench.serving.limits import Limits
from videobench.serving.service import Service

LIMITS = Limits(upload_bytes=100_000, decode_seconds=PATIENCE, answer_seconds=PATIENCE)
# A file is dropped as a browser does it, on what is under the mouse.
DROP = """([place, files]) => {
  const transfer = new DataTransfer();
  for (const [name, content] of files)
    transfer.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
  for (const type of ["dragenter", "dragover", "drop"])
    document.querySelector(place).dispatchEvent(
      new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("video") / "a <b>bold name.mp4", pictures(20), options=X264)


@pytest.fixture(scope="module")
def server(predictor):
    with running(Service(predictor, LIMITS)) as address:
        yield address


@pytest.fixture
def page(browser, server):
    """The page; it must raise no errors, and fetch nothing from elsewhere."""
    faults: list[str] = []
    page = browser.new_page(viewport={"width": 1000, "height": 800}, color_scheme="light")
    page.set_default_timeout(PATIENCE * 1000)
    # Chromium reports answers that are errors, too; those to uploads are meant.
    reported = "Failed to load resource"
    page.on("console", lambda message: None if message.text.startswith(reported) else faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith((server.url, "data:")) else faults.append(one.url))
    page.on("response", lambda one: faults.append(one.url) if one.request.method == "GET" and not one.ok else None)
    page.goto(server.url)
    page.locator("#facts:not(:empty)").wait_for()
    yield page
    page.close()
    assert faults == []


def drop(page, *files: tuple[str, bytes], place: str = "#drop") -> None:
    page.evaluate(DROP, [place, [(name, base64.b64encode(content).decode()) for name, content in files]])


def finished(page, count: int) -> list[list[str]]:
    """The lines of all results once they are there."""
    from playwright.sync_api import expect

    # Functions to wait for are out: the page allows no evaluation of strings.
    expect(page.locator(".card")).to_have_count(count, timeout=PATIENCE * 1000)
    expect(page.locator("progress")).to_have_count(0, timeout=PATIENCE * 1000)
    return [[line for line in text.splitlines() if line] for text in page.locator(".card").all_inner_texts()]


def test_a_dropped_video_gets_its_classes(page, predictor, video):
    drop(page, (video.name, video.read_bytes()))
    ((name, facts, *_),) = finished(page, 1)
    # Names of files are text.
    assert name == video.name
    assert re.fullmatch(r"2 clips of 4 frames, \d+\.\d\d s", facts)
    wanted = predictor.predict(video).top(5)
    lines = page.locator(".classes li")
    assert [line.split("\n") for line in lines.all_inner_texts()] == [[name, f"{100 * p:.1f} %"] for name, p in wanted]
    # The bars are as long as the classes are likely.
    sizes = lines.evaluate_all("(all) => all.map((e) => parseFloat(getComputedStyle(e).backgroundSize))")
    assert sizes == pytest.approx([100 * share for _, share in wanted], abs=0.1)
    assert page.get_attribute("#results", "aria-live") == "polite"


def test_files_are_chosen_with_the_keyboard(page, video):
    # Playwright takes choosers over from when somebody listens, and listening begins some time later.
    page.on("filechooser", lambda _: None)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.evaluate("getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files([video, video])
    assert len(finished(page, 2)) == 2
    assert page.locator(".classes").count() == 2


def test_progress_is_shown(page, video):
    from playwright.sync_api import expect

    page.route("**/predict", lambda route: None)  # no answer yet
    drop(page, ("first.mp4", video.read_bytes()), ("second.mp4", video.read_bytes()))
    expect(page.locator(".state")).to_have_text(["Waiting", re.compile("Uploading|Looking at it")])
    expect(page.locator("progress")).to_have_count(2)


def test_what_is_wrong_with_a_file_is_said(page, video):
    drop(page, ("notes.txt", b"no video"), ("large.mp4", bytes(200_000)), (video.name, video.read_bytes()))
    good, large, notes = finished(page, 3)
    assert notes == ["notes.txt", "the file cannot be read: not a video, or its header is missing"]
    assert large == ["large.mp4", "The file has 0.2 MiB; at most 0.1 MiB may be."]
    assert len(good) > 2
    assert page.locator(".bad:visible").count() == 2


def test_a_file_beside_the_field_does_not_replace_the_page(page, video):
    drop(page, (video.name, video.read_bytes()), place="h1")
    assert page.locator(".card").count() == 0
    assert page.locator("#drop").is_visible()


def test_a_server_that_is_gone_is_said(page, video):
    page.route("**/predict", lambda route: route.abort())
    drop(page, (video.name, video.read_bytes()))
    ((_, trouble),) = finished(page, 1)
    assert trouble == "The server cannot be reached, or broke off the upload."


def test_several_heads(page, video):
    classes = {head: [{"class": f"some {head}", "probability": 0.5}] for head in ("verb", "noun")}
    answer = {"classes": classes, "views": {"clips": 1, "crops": 3, "frames": 8}, "seconds": {"total": 1}}
    page.route("**/predict", lambda route: route.fulfill(json=answer))
    drop(page, (video.name, video.read_bytes()))
    ((_, *lines),) = finished(page, 1)
    assert lines == ["1 clip of 8 frames x 3 crops, 1.00 s"] + [
        line for head in classes for line in (head, f"some {head}", "50.0 %")
    ]


def test_small_and_dark_screens(page, video):
    page.set_viewport_size({"width": 360, "height": 700})
    drop(page, (f"{'a_long_name_without_spaces' * 5}.mp4", video.read_bytes()))
    finished(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ground[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground["light"] != ground["dark"]
