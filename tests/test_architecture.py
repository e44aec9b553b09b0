"""The direction of imports, and documents that say what is true."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A layer may import those below it.
LAYERS = {"config": 0, "models": 1, "datasets": 1, "solver": 1, "distributed": 1, "reporting": 1, "engine": 2}


def imported_layers(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("videobench.")}


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


def test_tools_are_thin():
    for path in (ROOT / "tools").glob("*.py"):
        functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
        assert sum(1 for _ in path.open()) < 120, path
        assert len(functions) <= 4, path
