"""The direction of imports, and documents that say what is true."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from videobench.datasets import demo

ROOT = Path(__file__).resolve().parents[1]
# A layer may import those below it.
LAYERS = {
    "config": 0,
    "models": 1,
    "datasets": 1,
    "solver": 1,
    "distributed": 1,
    "reporting": 1,
    "engine": 2,
    "inference": 3,
    "serving": 4,
}


def imported_layers(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = {name.split(".")[1] for name in names if name.startswith("videobench.")}
    return parts & LAYERS.keys()


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_run_downward(layer):
    files = sorted((ROOT / "videobench" / layer).glob("*.py"))
    assert files
    for path in files:
        for other in imported_layers(path) - {layer}:
            assert LAYERS[other] < LAYERS[layer], f"{path.relative_to(ROOT)} imports videobench.{other}"


@pytest.mark.parametrize("name", ["README.md", "INSTALL.md", "DATASET.md", "ARCHITECTURE.md", "CHANGELOG.md"])
def test_documents_name_files_that_exist(name):
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), f"{name} links to {target}"
    for target in re.findall(r"(?:configs|tools|slurm_scripts|benchmarks)/[\w/.-]+\.(?:py|yaml|sh)", text):
        assert (ROOT / target).exists(), f"{name} names {target}"


def test_documents_give_the_demo_s_numbers():
    recipe = yaml.safe_load((ROOT / "configs/demo/uniformer_tiny.yaml").read_text())
    number = {3: "three", 4: "four"}[recipe["TEST"]["NUM_ENSEMBLE_VIEWS"]]
    assert f"tests it with {number} views per video" in (ROOT / "README.md").read_text().replace("\n", " ")
    text = (ROOT / "DATASET.md").read_text()
    assert f"{demo.SPLITS['train']} training and {demo.SPLITS['val']} validation videos" in text
    assert f"({demo.SIZE}x{demo.SIZE}, {demo.FRAMES} frames, H.264)" in text


def test_tools_are_thin():
    for path in (ROOT / "tools").glob("*.py"):
        functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
        assert sum(1 for _ in path.open()) < 120, path
        assert len(functions) <= 4, path
