"""Weights from and to files: every published layout, 2D weights for 3D networks, a report of what went where."""

import argparse
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from videobench.models.layers import VideoModel

State = dict[str, Tensor]

# Where published files keep the weights, in the order of preference.
_LAYOUTS = ("model_state", "model", "state_dict")
# And their moving average: our own files, and timm's.
_AVERAGES = ("ema_state", "state_dict_ema", "model_ema")
_PREFIXES = ("module.", "_orig_mod.")

# Plain data that published checkpoints carry beside the weights (arguments, best accuracies, versions). The functions
# that make NumPy's scalars and arrays have other names in files of NumPy 1.
_NUMPY = [value.__reduce__()[0] for value in (np.float64(), np.empty(0))]
_PLAIN_DATA: list[Any] = [
    argparse.Namespace,
    TorchVersion,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefdSU"},
    *((make, f"numpy.{core}.multiarray.{make.__name__}") for make in _NUMPY for core in ("core", "_core")),
]

#: How an image kernel [O, I, 1, H, W] becomes a video kernel of a length: see :func:`load_weights`.
INFLATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "mean": lambda kernel, length: kernel.expand(-1, -1, length, -1, -1) / length,
    "repeat": lambda kernel, length: kernel.expand(-1, -1, length, -1, -1),
    "centre": lambda kernel, length: torch.nn.functional.pad(kernel, (0, 0, 0, 0, length // 2, (length - 1) // 2)),
}

#: What a file written by :func:`export_weights` holds.
EXPORT_LAYOUTS: dict[str, Callable[[State], dict[str, Any]]] = {
    "slowfast": lambda state: {"model_state": state},
    "bare": lambda state: state,
}


class WeightsError(ValueError):
    """Weights that cannot be loaded into the network at hand."""


@dataclass
class LoadReport:
    """What :func:`load_weights` did with every tensor of the file and of the network.

    Names are those of the network, except in ``unexpected`` and in the keys of ``renamed``, which are the file's.

    Attributes:
        source, layout: where the weights come from, and the entry they lay under (``bare``: none).
        loaded: tensors of the network that the file set, in whatever way; the next four lists say how.
        renamed: name in the file -> name in the network.
        inflated: made from image weights.
        resized: position tables of another size, interpolated.
        reshaped: the same numbers with other axes of length one.
        replaced: tensors of the classifier that the file has in another size or not at all; they stay fresh.
        mismatched: tensors that the file has in a shape nothing can be done with; they stay as they were.
        missing: tensors that the file does not have; they stay as they were.
        unexpected: tensors of the file that the network has no place for, and entries that are no tensors.
        class_names: what the file says of its classes (our own checkpoints do), by head (``""`` where there is one
            only), in the order of its outputs.
    """

    source: str
    layout: str
    loaded: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    inflated: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    replaced: dict[str, str] = field(default_factory=dict)
    mismatched: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    class_names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the file set every tensor of the network."""
        return not (self.replaced or self.mismatched or self.missing)

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.replaced) + len(self.mismatched) + len(self.missing)
        rows = [
            ("of them renamed", [f"{old} -> {new}" for old, new in self.renamed.items()]),
            ("of them inflated from 2D", self.inflated),
            ("of them resized", self.resized),
            ("of them reshaped", self.reshaped),
            ("replaced by a fresh classifier", [f"{name} ({why})" for name, why in self.replaced.items()]),
            ("of another shape, not loaded", [f"{name} ({why})" for name, why in self.mismatched.items()]),
            ("missing in the file", self.missing),
            ("unexpected in the file", self.unexpected),
        ]
        lines = [f"weights from {self.source} ({self.layout}):", f"  {len(self.loaded):5d} of {total} tensors loaded"]
        lines += [f"  {len(names):5d} {what}: {_some(names)}" for what, names in rows if names]
        return "\n".join(lines)


def load_weights(
    model: VideoModel,
    source: str | Path | dict[str, Any],
    *,
    min_match: float = 0.5,
    inflation: str = "mean",
    average: bool = False,
) -> LoadReport:
    """Load published or own weights into a network, in place.

    Args:
        model: the network.
        source: a file, or what such a file holds: a state dict, bare or under ``model_state``, ``model`` or
            ``state_dict``, with or without ``module.`` prefixes. Files are read without running code.
        min_match: share of the network's tensors that the file must set, and of the file's tensors that the network
            must have a place for (half the weights of a larger network fit a smaller one, and are of no use to it).
        inflation: how image kernels become video kernels. ``mean``: repeated over time and divided by the length, so
            that a still clip gives what the image gave (Carreira and Zisserman, 2017; UniFormer; SlowFast's
            CHECKPOINT_INFLATE). ``repeat``: not divided (SlowFast's CHECKPOINT_IN_INIT). ``centre``: in the middle
            frame, zero elsewhere. Motionformer's patch embedding is always centred, as published.
        average: take the moving average of the weights (``ema_state`` of our own checkpoints).

    Returns:
        What was loaded, renamed, inflated, resized, reshaped, replaced, missing and unexpected. A classifier of
        another size stays as it is (freshly initialised) and is listed as replaced.

    Raises:
        WeightsError: when the file cannot be read or too little of it fits; the network is then unchanged.
    """
    if inflation not in INFLATIONS:
        raise ValueError(f"inflation is {' or '.join(INFLATIONS)}, got {inflation!r}")
    is_file = isinstance(source, (str, Path))
    origin = str(source) if is_file else "the given weights"
    content = read_checkpoint(source) if is_file else source
    state, layout, not_tensors = _find_state(content, origin, average)
    try:
        adapted = model.adapt_weights(state)
    except ValueError as error:
        raise WeightsError(f"{origin}: {error}") from error

    report = LoadReport(origin, layout)
    names = content.get("class_names") if layout != "bare" else None
    if isinstance(names, list) and names:
        names = {"": names}
    if isinstance(names, dict):
        report.class_names = {head: [str(name) for name in of_head] for head, of_head in names.items()}
    target = model.state_dict()
    file_names = {id(tensor): name for name, tensor in state.items()}
    used: set[str] = set()
    fitted: State = {}
    for name, want in target.items():
        have = adapted.get(name)
        if have is None:
            if model.is_head(name):
                report.replaced[name] = "not in the file"
            else:
                report.missing.append(name)
            continue
        used.add(name if state.get(name) is have else file_names.get(id(have), name))
        tensor = _fit(have, want, name, report, inflation)
        if tensor is None:
            refused = report.replaced if model.is_head(name) else report.mismatched
            refused[name] = f"file {list(have.shape)}, network {list(want.shape)}"
            continue
        fitted[name] = tensor
        report.loaded.append(name)
        _note_origin(name, have, state, file_names, report)
    unused = [name for name in state if name not in used]
    report.unexpected = unused + not_tensors

    for count, total, whose in (
        (len(fitted), len(target), "the network's"),
        (len(state) - len(unused), len(state), "this file's"),
    ):
        if count < min_match * total:
            raise WeightsError(
                f"{origin}: only {count} of {whose} {total} tensors find a match; is it a checkpoint of another "
                f"architecture or size? (wanted: {type(model).__name__})\n{report}"
            )
    model.load_state_dict(fitted, strict=False)
    return report


def read_checkpoint(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """What a checkpoint file holds, on the CPU; only tensors and plain data are read, no code is run.

    Args:
        path: a file written by ``torch.save``, or one of safetensors (by its ending).
        mmap: leave tensors on the disk until they are used, where the file's form allows it.

    Raises:
        WeightsError: when the file is missing, damaged, or holds anything else; the message names it and the reason.
    """
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(_PLAIN_DATA):
            lazy = mmap and zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=lazy)
    except OSError as error:
        raise WeightsError(f"{path}: cannot read this checkpoint: {error.strerror or error}") from error
    except Exception as error:  # damaged bytes make the readers fail with errors of almost every type
        raise WeightsError(f"{path}: {_why_unreadable(path, error)}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a dict of tensors, got {type(content).__name__}")
    return content


def export_weights(model: VideoModel, path: str | Path, layout: str = "slowfast") -> None:
    """Write a network's weights for another code base: published names and shapes, nothing else in the file.

    Args:
        model: the network; the names of its state dict are the published ones.
        path: the file; it is replaced only when the new one is complete.
        layout: ``slowfast`` (under ``model_state``, as SlowFast and its descendants load) or ``bare`` (MoViNet).

    Raises:
        ValueError: when the layout is unknown.
        OSError: when the file cannot be written.
    """
    if layout not in EXPORT_LAYOUTS:
        raise ValueError(f"the layout is {' or '.join(EXPORT_LAYOUTS)}, got {layout!r}")
    # Clones, because a view would take the whole storage behind it along.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    write_checkpoint(path, EXPORT_LAYOUTS[layout](state))


def convert_weights(
    model: VideoModel, checkpoint: str | Path, path: str | Path, layout: str = "slowfast", *, average: bool = False
) -> LoadReport:
    """Load a checkpoint of any layout, or its averaged weights, and write it as :func:`export_weights` does.

    Raises:
        WeightsError: when the checkpoint does not set every tensor of the network; nothing is written then.
        OSError: when the file cannot be written.
    """
    report = load_weights(model, checkpoint, average=average)
    if not report.complete:
        raise WeightsError(
            f"{checkpoint}: the exported file would hold weights that are not from this checkpoint; describe the "
            f"network it is of (its classes, frames and size)\n{report}"
        )
    export_weights(model, path, layout)
    return report


def write_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write a file that :func:`read_checkpoint` reads; a reader finds the old file or the whole new one.

    Raises:
        OSError: when it cannot be written; a file of that name is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the directory entry too
    finally:
        os.close(folder)


def _find_state(content: dict[str, Any], origin: str, average: bool) -> tuple[State, str, list[str]]:
    """The tensors by their names without prefixes, the layout, and the other entries among them."""
    places = _AVERAGES if average else _LAYOUTS
    layout = next((key for key in places if isinstance(content.get(key), dict)), "bare")
    if average and layout == "bare":
        raise WeightsError(
            f"{origin}: no averaged weights in it ({', '.join(_AVERAGES)}); training keeps them with TRAIN.EMA True; "
            "the plain weights can be had from this file (TEST.WEIGHTS model)"
        )
    entries = content if layout == "bare" else content[layout]
    state: State = {}
    for name, value in entries.items():
        if isinstance(value, Tensor):
            short = _without_prefixes(str(name))
            if short in state:
                raise WeightsError(f"{origin}: two tensors are called {short}, one of them with a prefix")
            state[short] = value
    if not state:
        raise WeightsError(
            f"{origin}: no weights found, neither under {', '.join(_LAYOUTS)} nor at the top; there is "
            + (_some(map(str, content), 8) or "nothing in it")
        )
    return state, layout, [f"{name} ({type(v).__name__})" for name, v in entries.items() if not isinstance(v, Tensor)]


def _without_prefixes(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _fit(have: Tensor, want: Tensor, name: str, report: LoadReport, inflation: str) -> Tensor | None:
    """The file's tensor in the shape of the network's, or None when there is no honest way."""
    if have.shape == want.shape:
        return have
    if [size for size in have.shape if size != 1] == [size for size in want.shape if size != 1]:
        report.reshaped.append(name)
        return have.reshape(want.shape)
    if want.dim() == 5:
        kernel = have.unsqueeze(2) if have.dim() == 4 else have
        if kernel.dim() == 5 and kernel.shape == (*want.shape[:2], 1, *want.shape[3:]):
            report.inflated.append(name)
            return INFLATIONS[inflation](kernel, want.shape[2])
    return None


def _note_origin(name: str, have: Tensor, state: State, file_names: dict[int, str], report: LoadReport) -> None:
    """Say how the family came to a tensor that the file does not hold under this name."""
    same_name = state.get(name)
    if same_name is have:
        return
    if id(have) in file_names:
        report.renamed[file_names[id(have)]] = name
    elif same_name is None or same_name.dim() != have.dim():
        report.inflated.append(name)
    elif same_name.shape != have.shape:
        report.resized.append(name)


def _why_unreadable(path: str | Path, error: Exception) -> str:
    message = str(error)
    if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL ([\w.]+)", message)):
        return (
            f"it holds an object of {found[1]}, which is not read because it could run code; wanted: tensors (where "
            "the file can be trusted, torch.save its state dict alone with the code that wrote it)"
        )
    with open(path, "rb") as stream:
        start = stream.read(64)
    if not start:
        return "the file is empty"
    if re.fullmatch(rb"[\t\r\n -~]+", start):
        return f"this is a text, not a checkpoint; it begins with {start[:32].decode()!r}"
    found = re.search(r"WeightsUnpickler error:\s*(.+)", message)  # PyTorch's advice around it is to run the code
    reason = found[1] if found else message.split(". ")[0].splitlines()[0] if message else "cut short"
    return f"not a checkpoint, or a damaged one ({type(error).__name__}: {reason})"


def _some(names: Iterable[str], count: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
