"""Weights from files: every published layout, 2D weights for 3D networks, and a report of what went where."""

import argparse
import collections
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videobench.models.layers import VideoModel

State = dict[str, Tensor]

# Where published files keep the weights, in the order of preference.
_LAYOUTS = ("model_state", "model", "state_dict")
_PREFIXES = ("module.", "_orig_mod.")


class WeightsError(ValueError):
    """Weights that cannot be loaded into the network at hand."""


@dataclass
class LoadReport:
    """What :func:`load_weights` did with every tensor of the file and of the network.

    Names are those of the network, except in ``unexpected`` and in the keys of ``renamed``.
    """

    source: str
    layout: str
    loaded: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    inflated: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    replaced: dict[str, str] = field(default_factory=dict)
    mismatched: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            ("loaded", self.loaded),
            ("renamed", [f"{old} -> {new}" for old, new in self.renamed.items()]),
            ("inflated from 2D", self.inflated),
            ("reshaped", self.reshaped),
            ("replaced by a fresh classifier", [f"{k} ({v})" for k, v in self.replaced.items()]),
            ("of another shape, not loaded", [f"{k} ({v})" for k, v in self.mismatched.items()]),
            ("missing in the file", self.missing),
            ("unexpected in the file", self.unexpected),
        ]
        lines = [f"weights from {self.source} ({self.layout}):"]
        for what, names in rows:
            if names or what == "loaded":
                shown = "" if what == "loaded" else ": " + ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
                lines.append(f"  {len(names):5d} {what}{shown}")
        return "\n".join(lines)


def load_weights(model: VideoModel, source: str | Path | dict[str, Any], *, min_match: float = 0.5) -> LoadReport:
    """Load published or own weights into a network, in place.

    Args:
        model: the network.
        source: a file, or what such a file holds: a state dict, bare or under ``model_state``, ``model`` or
            ``state_dict``, with or without ``module.`` prefixes. Files are read with ``weights_only=True``.
        min_match: share of the network's tensors that must find a match.

    Returns:
        What was loaded, renamed, inflated, reshaped, replaced, missing and unexpected. A classifier of another size
        stays as it is (freshly initialised) and is listed as replaced.

    Raises:
        WeightsError: when the file cannot be read or too little of it fits the network.
    """
    content = read_checkpoint(source) if isinstance(source, (str, Path)) else source
    state, layout = _find_state(content, str(source) if isinstance(source, (str, Path)) else "the given dict")
    report = LoadReport(source=str(source) if isinstance(source, (str, Path)) else "a dict", layout=layout)
    adapted = model.adapt_weights(state)
    report.renamed = {old: new for old, new in _renames(state, adapted).items() if old != new}

    target = model.state_dict()
    fitted: State = {}
    for name, want in target.items():
        have = adapted.get(name)
        if have is None:
            report.missing.append(name)
        elif (tensor := _fit(have, want, name, report)) is not None:
            fitted[name] = tensor
            report.loaded.append(name)
        elif model.is_head(name):
            report.replaced[name] = f"file {list(have.shape)}, network {list(want.shape)}"
        else:
            report.mismatched[name] = f"file {list(have.shape)}, network {list(want.shape)}"
    report.unexpected = [name for name in adapted if name not in target]
    if len(report.loaded) < min_match * len(target):
        raise WeightsError(
            f"{report.source}: only {len(report.loaded)} of the network's {len(target)} tensors match this file; is it "
            f"a checkpoint of another architecture ({type(model).__name__} wanted)?\n{report}"
        )
    model.load_state_dict(fitted, strict=False)
    return report


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint file holds, on the CPU; only tensors and plain data are read, no code is run.

    Raises:
        WeightsError: when the file is missing, damaged, or holds anything else.
    """
    try:
        # argparse.Namespace and friends are plain data that published checkpoints carry along.
        with torch.serialization.safe_globals([argparse.Namespace, collections.OrderedDict, collections.defaultdict]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot read this checkpoint: {error.strerror or error}") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{path}: not a checkpoint that can be read safely, or a damaged one: {reason}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a dict of tensors, got {type(content).__name__}")
    return content


def _find_state(content: dict[str, Any], source: str) -> tuple[State, str]:
    layout = next((key for key in _LAYOUTS if isinstance(content.get(key), dict)), "bare")
    state = content if layout == "bare" else content[layout]
    tensors = {_strip(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(
            f"{source}: no weights found: neither under {', '.join(_LAYOUTS)} nor at the top; the file has "
            + (", ".join(map(str, list(content)[:8])) or "nothing")
        )
    return tensors, layout


def _strip(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _renames(state: State, adapted: State) -> dict[str, str]:
    by_identity = {id(tensor): name for name, tensor in state.items()}
    return {by_identity[id(t)]: name for name, t in adapted.items() if id(t) in by_identity}


def _fit(have: Tensor, want: Tensor, name: str, report: LoadReport) -> Tensor | None:
    """The file's tensor in the shape of the network's, or None when there is no honest way."""
    if have.shape == want.shape:
        return have
    if _without_ones(have) == _without_ones(want):
        report.reshaped.append(name)
        return have.reshape(want.shape)
    if have.dim() == 4 and want.dim() == 5 and have.shape == want.shape[:2] + want.shape[3:]:
        # Inflation (Carreira and Zisserman, 2017): a video of equal frames gives what the image gave.
        report.inflated.append(name)
        return have.unsqueeze(2).expand(want.shape) / want.shape[2]
    return None


def _without_ones(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]
