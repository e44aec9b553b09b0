"""The direction of imports, and documents that say what is true."""

import ast
import builtins
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import yaml

import videobench
from videobench.config import ConfigError
from videobench.config.checks import check_config
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
    files = sorted((ROOT / "videobench" / layer).rglob("*.py"))
    assert files
    for path in files:
        for other in imported_layers(path) - {layer}:
            assert LAYERS[other] < LAYERS[layer], f"{path.relative_to(ROOT)} imports videobench.{other}"


@pytest.mark.parametrize("name", ["README.md", "INSTALL.md", "DATASET.md", "ARCHITECTURE.md", "CHANGELOG.md"])
def test_documents_name_files_that_exist(name):
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), f"{name} links to {target}"
    for target, anchor in re.findall(r"\]\(([\w/.-]*)#([^)]+)\)", text):
        headings = re.findall(r"^#+ (.+)$", (ROOT / (target or name)).read_text(), re.M)
        slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert anchor in slugs, f"{name} links to {target}#{anchor}"
    for target in re.findall(r"(?:configs|tools|slurm_scripts|benchmarks)/[\w/.-]+\.(?:py|yaml|sh)", text):
        assert (ROOT / target).exists(), f"{name} names {target}"


def commands() -> list[str]:
    """The command lines with a script of tools/ in the documents, without the Python that runs them."""
    texts = [(ROOT / name).read_text() for name in ("README.md", "INSTALL.md", "DATASET.md", "benchmarks/README.md")]
    lines = "\n".join(texts).replace("\\\n", " ")
    return re.findall(r"^(?:\S*/)?python (tools/\w+\.py .*)$", lines, re.M)


@pytest.mark.parametrize("command", commands())
def test_commands_in_documents_are_understood(command, monkeypatch):
    class Understood(Exception):
        pass

    def stop(name, *rest):
        if name.split(".")[0] == "videobench":
            raise Understood
        return load(name, *rest)

    load = builtins.__import__
    script, *words = shlex.split(command, comments=True)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [script, *words])
    # Tools load the package when they have understood their arguments.
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", stop)
        with pytest.raises(Understood):
            runpy.run_path(script, run_name="__main__")
    if script == "tools/run_net.py":
        args = runpy.run_path(script)["parse_args"](words)
        # Data, weights and what other commands write are not there, and nothing else may be wrong.
        files = [name for name in args.cfg if not name.startswith("lists/")]
        problems = []
        try:
            check_config(videobench.load_config(files, [*args.overrides, "DATA.PATH_TO_DATA_DIR", "lists"]))
        except ConfigError as error:
            problems = str(error).splitlines()[1:]
        assert [line for line in problems if not line.endswith("does not exist")] == []


def test_the_architecture_names_all_modules_and_no_others():
    named = set(re.findall(r"\w+\.py", (ROOT / "ARCHITECTURE.md").read_text()))
    modules = {path.name for path in (ROOT / "videobench").glob("**/*.py")} - {"__init__.py"}
    others = {path.name for folder in ("tools", "tests") for path in (ROOT / folder).glob("*.py")}
    assert modules <= named <= modules | others


def test_documents_give_the_demo_s_numbers():
    recipe = yaml.safe_load((ROOT / "configs/demo/uniformer_tiny.yaml").read_text())
    number = {3: "three", 4: "four"}[recipe["TEST"]["NUM_ENSEMBLE_VIEWS"]]
    assert f"tests it with {number} views per video" in (ROOT / "README.md").read_text().replace("\n", " ")
    text = (ROOT / "DATASET.md").read_text()
    assert f"{demo.SPLITS['train']} training and {demo.SPLITS['val']} validation videos" in text
    assert f"({demo.SIZE}x{demo.SIZE}, {demo.FRAMES} frames, H.264)" in text


def measured(name: str) -> dict:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def test_the_first_screen_gives_measured_numbers():
    text = (ROOT / "README.md").read_text().replace("\n ", "").split("\n## ")[0]
    corpus = measured("data")["corpus"]
    plain, ours, prepared = (
        corpus["clips"][f"{files}: {way}"]["cpu"]
        for files, way in (("original", "plain"), ("original", "ours"), ("prepared, fastdecode", "ours"))
    )
    assert f"a training clip takes {plain / ours:.1f} times less CPU time than the plain way" in text
    assert f"from prepared files {plain / prepared:.0f} times" in text
    views = corpus["views"]
    ratio = views["10x3: plain, per view"]["cpu"] / views["10x3: once"]["cpu"]
    assert f"all 30 views of a test video {ratio:.0f} times" in text
    faster = [row["times_faster"]["ours"] for row in measured("model_cpu")["infer"].values() if not row["few_blocks"]]
    assert len(faster) == 5
    assert f"networks are {min(faster):.1f} to {max(faster):.1f} times as fast on a CPU" in text


def test_the_table_of_the_estimate_is_an_excerpt_of_it():
    def cells(line: str) -> list[str]:
        return [cell.strip() for cell in line.split("|")[1:-1]]

    estimate = {}
    for *numbers, names in map(cells, (ROOT / "benchmarks/results/scale.md").read_text().splitlines()[4:]):
        estimate |= dict.fromkeys(names.split(", "), numbers)
    text = (ROOT / "benchmarks/README.md").read_text().split("\n## Scale\n")[1]
    rows = [row for row in map(cells, text.split("\nMeasured")[0].splitlines()) if row and row[0] in estimate]
    assert len(rows) > 10
    for name, *numbers in rows:
        assert numbers == estimate[name], name
    cores = {name: float(numbers[-1]) for name, numbers in estimate.items() if float(numbers[-1]) > 8}
    assert cores.keys() == {"uniformer_s8x8_k400", "uniformer_s16x8_k400", "uniformer_s16x8_k600"}
    largest = cores["uniformer_s8x8_k400"]
    assert f"UniFormer-S 8x8, {largest:.0f} with them" in text
    assert f"all but UniFormer-S 8x8 and 16x8 ({largest} and {cores['uniformer_s16x8_k400']})" in text


def test_imported_libraries_are_declared_and_declared_ones_imported():
    spelt = {"yaml": "pyyaml", "PIL": "pillow", "cv2": "opencv-python-headless"}
    imported = set()
    for path in [*(ROOT / "videobench").glob("**/*.py"), *(ROOT / "tools").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    imported -= {"videobench", "run_net", *sys.stdlib_module_names}
    imported = {spelt.get(name, name.replace("_", "-")) for name in imported}
    text = (ROOT / "setup.py").read_text()
    declared = {name.lower() for name in re.findall(r'"([A-Za-z-]+)>=', text.partition('"test": [')[0])}
    # FastAPI brings what it is made of; timm wants a torchvision that fits torch, torch.utils.tensorboard its namesake,
    # fvcore yacs; einops belongs to the fixed set of this project.
    assert imported - declared == {"starlette", "anyio", "pydantic"}
    assert declared - imported == {"torchvision", "tensorboard", "yacs", "einops"}


def test_tools_are_thin():
    for path in (ROOT / "tools").glob("*.py"):
        functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
        assert sum(1 for _ in path.open()) < 120, path
        assert len(functions) <= 4, path
