"""Reference numbers: files of weights recipes, probes and logits that the published implementations gave.

They lie outside the repository; tests that need them skip, with the reason, where they are absent.
"""

import importlib.util
import json
import os
from functools import cache
from pathlib import Path

import pytest
import torch

SHARED = Path(os.environ.get("VIDEOBENCH_SHARED", Path(__file__).resolve().parents[2] / "shared"))
GOLDEN = SHARED / "golden"


def require(path: Path) -> Path:
    """The path, or a skipped test when it is absent."""
    if not path.exists():
        pytest.skip(f"needs {path.relative_to(SHARED)} of the reference folder (set VIDEOBENCH_SHARED), not found")
    return path


@cache
def recipe():
    """The module that makes weights and inputs again."""
    spec = importlib.util.spec_from_file_location("golden_recipe", require(GOLDEN / "recipe.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(name: str) -> dict:
    """A table of reference numbers: ``schedules``, ``sampling``, ``transforms``, ``zoo``, ``config_keys``."""
    return json.loads(require(GOLDEN / f"{name}.json").read_text())


def model_file(family: str, name: str) -> dict:
    """One network's golden file."""
    return json.loads(require(GOLDEN / family / f"{name}.json").read_text())


def state(golden: dict, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """The weights of a golden file, in the published naming."""
    arrays = recipe().make_state(golden["state"])
    return {
        name: torch.as_tensor(array).to(torch.int64 if name.endswith("num_batches_tracked") else dtype)
        for name, array in arrays.items()
    }


def clip(golden: dict, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The input of a golden file."""
    return torch.from_numpy(recipe().make_input(golden["input"])).to(dtype)


def build_overrides(golden: dict) -> list:
    """A golden file's ``build`` block as KEY VALUE pairs."""
    return [word for pair in golden["build"].items() for word in pair]


def nested(settings: dict) -> dict:
    """Full names of keys and their values as the sections of a YAML file."""
    tree: dict = {}
    for key, value in settings.items():
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return tree
