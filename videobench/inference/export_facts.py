"""What an exported file says of itself: class names, preprocessing, inputs and outputs."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videobench.inference.given import GivenVideos
from videobench.inference.network import Network

#: Where the facts lie in an exported file: the metadata of ONNX, an extra file of the other two.
FACTS = "videobench.json"


class ExportError(RuntimeError):
    """A network that cannot be exported as asked, or whose export computes something else."""


def facts_of(
    network: Network,
    form: str,
    names: Sequence[str],
    inputs: Sequence[Tensor],
    outputs: Sequence[str],
    *,
    dynamic: bool,
    half: bool,
    stream: bool,
) -> dict[str, Any]:
    """The facts of an export to come.

    Args:
        network: what is exported.
        form: the kind of file.
        names: of the inputs.
        inputs: examples of them.
        outputs: their names.
        dynamic, half, stream: see `exporting.export`.
    """
    cfg, data = network.cfg, network.cfg.DATA
    videos = GivenVideos.of(cfg, ())
    return {
        "format": form,
        "model": cfg.MODEL.MODEL_NAME,
        "class_names": network.class_names,
        "inputs": [
            {"name": name, "shape": ["batch" if dynamic and i == 0 else n for i, n in enumerate(one.shape)]}
            | {"type": str(one.dtype).removeprefix("torch.")}
            for name, one in zip(names, inputs, strict=True)
        ],
        "outputs": list(outputs),
        "stream": stream,
        "half": half,
        "preprocessing": {
            "layout": "N C T H W, RGB / 255" if not data.REVERSE_INPUT_CHANNEL else "N C T H W, BGR / 255",
            # The order of the channels is turned round after these.
            "mean_rgb": list(data.MEAN),
            "std_rgb": list(data.STD),
            "short_side": data.TRAIN_JITTER_SCALES[0] if videos.crop_margin else data.TEST_CROP_SIZE,
            "crop": data.TEST_CROP_SIZE,
            "antialias": data.ANTIALIAS,
            "frames": data.NUM_FRAMES,
            "stride": data.SAMPLING_RATE,
            "target_fps": float(data.TARGET_FPS),
            "sampling_rule": videos.rule if data.SAMPLING_RULE == "auto" else data.SAMPLING_RULE,
            "views": [cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS],
            "scores": cfg.TEST.SCORES,
        },
    }


def read_facts(path: str | Path) -> dict[str, Any]:
    """What an exported file says of itself.

    Raises:
        ExportError: for a file that was not written by `exporting.export`.
    """
    suffix = Path(path).suffix
    extra = {FACTS: ""}
    if suffix == ".onnx":
        import onnx

        text = {entry.key: entry.value for entry in onnx.load(path).metadata_props}.get(FACTS, "")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated
            if suffix == ".pt2":
                torch.export.load(path, extra_files=extra)
            else:
                torch.jit.load(path, _extra_files=extra)
        text = extra[FACTS]
    if not text:
        raise ExportError(f"{path}: no {FACTS} in it; it was not written by tools/export.py")
    return json.loads(text)
