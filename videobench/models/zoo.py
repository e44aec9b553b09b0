"""The published networks by their ids, from the facts in ``zoo.yaml`` and the files in ``networks/``."""

import difflib
import fnmatch
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from videobench.config import CfgNode, load_config
from videobench.config.loading import file_settings
from videobench.models.layers import VideoModel
from videobench.models.registry import build_model

_PUBLISHED = ("top1", "top5", "action_top1", "noun_top1", "gflops", "params")


@dataclass(frozen=True)
class ZooRow:
    """One published row.

    Attributes:
        name: its id.
        family: UniFormer, MorphMLP, Motionformer, MViTv2 or MoViNet.
        data: the data set that the row's weights and accuracies are of.
        settings: configuration keys that make the network, its clips and the published views.
        published: what its authors report: accuracies ``top1``, ``top5`` (or ``action_top1``, ``noun_top1``) in
            percent, ``gflops`` per view (1e9 multiply-adds) and ``params`` in millions, as far as they are printed.
        config: its recipe, a file in the repository's ``configs/``.
        source: the repository it was published in.
    """

    name: str
    family: str
    data: str
    settings: dict[str, Any]
    published: dict[str, float]
    config: str
    source: str


def list_models(pattern: str = "*") -> list[str]:
    """Ids of the published rows that match a shell-like pattern, as ``"movinet_*"``, in the order of the zoo."""
    return fnmatch.filter(_zoo()["rows"], pattern)


def create_model(name: str, num_classes: int | dict[str, int] | None = None, **overrides: Any) -> VideoModel:
    """Build the network of a published row, with fresh weights, on the CPU.

    Args:
        name: an id of :func:`list_models`.
        num_classes: classifier outputs in place of the row's own; several named ones for Motionformer alone.
        overrides: constructor arguments in place of what the row says.

    Raises:
        ValueError: when no row has this id (the message names the nearest ones), or for less than one class.
    """
    if num_classes is not None:
        if min(num_classes.values() if isinstance(num_classes, dict) else [num_classes]) < 1:
            raise ValueError(f"num_classes is 1 or more, got {num_classes}; forward_features gives features without it")
        overrides["num_classes"] = num_classes
    return build_model(zoo_config(name), **overrides)


def zoo_config(name: str) -> CfgNode:
    """The configuration of a row's network, its clips and the published views, everything else at its default.

    Raises:
        ValueError: when no row has this id.
    """
    return load_config([], [word for setting in zoo_row(name).settings.items() for word in setting])


def zoo_row(name: str) -> ZooRow:
    """The facts about a row.

    Raises:
        ValueError: when no row has this id.
    """
    zoo = _zoo()
    if name not in zoo["rows"]:
        near = difflib.get_close_matches(name, zoo["rows"], n=4, cutoff=0.4)
        hint = f"Did you mean {' or '.join(near)}?" if near else "No id is similar."
        raise ValueError(f"no published network is called {name!r}. {hint} videobench.list_models() has all ids.")
    row = zoo["rows"][name]
    data, family = zoo["data"][row["data"]], zoo["families"][row["network"].split("_")[0]]
    frames, stride, size = row["clip"]
    clips, crops = row["views"]
    settings = {
        "DATA.NUM_FRAMES": frames,
        "DATA.SAMPLING_RATE": stride,
        "DATA.TRAIN_CROP_SIZE": size,
        "DATA.TEST_CROP_SIZE": size,
        "TEST.NUM_ENSEMBLE_VIEWS": clips,
        "TEST.NUM_SPATIAL_CROPS": crops,
    }
    for source in (data, _network(row["network"]), row):
        settings |= {key: value for key, value in source.items() if "." in key}
    published = {key: row[key] for key in _PUBLISHED if key in row}
    if "gflops" in published and family in zoo["gflops_of_all_views"]:
        published["gflops"] /= clips * crops
    source = data.get("source", zoo["sources"][family])
    return ZooRow(name, family, row["data"], settings, published, f"{row['config']}.yaml", source)


@cache
def _network(name: str) -> dict[str, Any]:
    # Installed packages are folders, so that a file of theirs has a path and can name others.
    return file_settings(Path(__file__).parent / "networks" / f"{name}.yaml")


@cache
def _zoo() -> dict[str, Any]:
    return yaml.safe_load(resources.files("videobench.models").joinpath("zoo.yaml").read_text(encoding="utf-8"))
