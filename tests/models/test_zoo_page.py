"""MODEL_ZOO.md: up to date, its links lead somewhere, every difference is explained."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from videobench.models.info import ModelInfo, model_info
from videobench.models.zoo import list_models, zoo_row
from videobench.models.zoo_page import EXPLANATIONS, differences, model_zoo_page

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "MODEL_ZOO.md").read_text()


@pytest.fixture
def infos() -> dict[str, ModelInfo]:
    """The sizes that the page gives; the recipes' test compares its parameters with the networks."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| ")]
    sizes = {}
    for name, parameters, giga_macs, *rest in (row for row in rows if len(row) == 10 and row[0] != "name"):
        published = zoo_row(name).published
        sizes[name] = ModelInfo(name, int(parameters.replace(",", "")), float(giga_macs), rest[1], rest[2], published)
    return sizes


def test_the_page_is_up_to_date(infos):
    assert set(infos) == set(list_models())
    assert model_zoo_page(infos) == PAGE


def test_links_lead_to_recipes():
    links = re.findall(r"\]\((?!http)([^)]+)\)", PAGE)
    assert len(links) == 79
    assert all((ROOT / link).is_file() for link in links)
    assert set(re.findall(r"\]\((http[^)]+)\)", PAGE)) == {zoo_row(name).source for name in list_models()}


def test_every_difference_is_explained_and_every_explanation_needed(infos):
    found = {(name, what) for name, info in infos.items() for what in differences(zoo_row(name), info)}
    assert found == set(EXPLANATIONS)
    with pytest.raises(ValueError, match=r"uniformer_s8x8_k400: GFLOPs are 20, printed 17\.5; say why"):
        model_zoo_page(infos | {"uniformer_s8x8_k400": replace(infos["uniformer_s8x8_k400"], giga_macs=20.0)})


@pytest.mark.slow
def test_the_page_has_the_counted_sizes():
    assert model_zoo_page({name: model_info(name) for name in list_models()}) == PAGE
