"""int8 forms of exported ONNX files."""

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videobench.inference.accuracy_change import AccuracyChange, accuracy_change, clips_of
from videobench.inference.export_facts import FACTS, ExportError
from videobench.inference.exporting import export, place_for
from videobench.inference.network import Network
from videobench.inference.onnx_file import Arrays, OnnxFile

# What becomes int8. Convolutions with ranges of the moment are slower in ONNX Runtime than in float32.
_OPERATORS = {"static": ["Conv", "MatMul", "Gemm"], "dynamic": ["MatMul", "Gemm"]}
# Clips that the logits of both files are compared on.
_COMPARED = 8


@dataclass(frozen=True)
class Quantized:
    """An int8 file.

    Attributes:
        path: the file.
        size: its bytes.
        float_size: those of the same file in float32.
        deviation: largest difference of the logits of the two on some clips, relative to the largest logit.
        operators: operators of the graph and how often each occurs.
        accuracy: what it costs; None where no list was given.
        facts: what is stored inside.
    """

    path: Path
    size: int
    float_size: int
    deviation: float
    operators: dict[str, int]
    accuracy: AccuracyChange | None
    facts: dict[str, Any]

    def __str__(self) -> str:
        int8 = self.facts["int8"]
        lines = [
            f"{self.path}: int8 ({int8['kind']}), {self.size / 1e6:.2f} MB, in float32 {self.float_size / 1e6:.2f} MB",
            f"  deviation from float32 on {int8['compared_on']}: {self.deviation:.2e} of the largest logit",
            f"  operators: {', '.join(f'{name} x{count}' for name, count in self.operators.items())}",
        ]
        return "\n".join(lines + ([f"  {int8['evaluated_on']}: {self.accuracy}"] if self.accuracy else []))


def export_int8(
    network: Network,
    path: str | Path,
    kind: str,
    *,
    stream: bool = False,
    dynamic: bool = False,
    calibrate: str | Path | None = None,
    clips: int = 100,
    evaluate: str | Path | None = None,
) -> Quantized:
    """Write a network as an ONNX file with int8 weights, one scale per output channel, and say what that costs.

    The float file is written and compared with the network first. What has no weights stays in float32.

    Args:
        network: what to export.
        path: the file.
        kind: ``static``: the inputs of convolutions and products are uint8, in ranges found on clips of a list;
            ``dynamic``: the inputs of products alone, in the range of the moment.
        stream, dynamic: see `exporting.export`.
        calibrate: the list (path and class number per line) for static ranges.
        clips: videos taken from it, evenly spread, one clip of each.
        evaluate: a list to measure the accuracy of the network and of the int8 file on.

    Raises:
        ExportError: when it cannot be exported so, or a library is missing.
        ConfigError: for a list that cannot be read.
    """
    if kind not in _OPERATORS:
        raise ExportError(f"int8 is {' or '.join(_OPERATORS)}, not {kind!r}")
    if (kind == "static") != (calibrate is not None):
        raise ExportError("static int8 wants a list of videos to find ranges on (--calibrate), dynamic int8 wants none")
    path = place_for(path, network)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        exported = export(network, before, "onnx", stream=stream, dynamic=dynamic)
        source = OnnxFile(before)

        def seen() -> Iterable[Tensor]:
            return clips_of(network, calibrate, clips) if calibrate else _noise(exported.facts)

        with _quietly():
            _quantize(before, after, kind, (given for clip in seen() for given, _ in source.calls(clip)))
        operators = _finish(after, exported.facts)
        file = OnnxFile(after)
        deviation = _deviation(source, file, islice(seen(), _COMPARED))
        accuracy = accuracy_change(network, file, evaluate) if evaluate else None
        facts = exported.facts | {
            "int8": {
                "kind": kind,
                "operators": _OPERATORS[kind],
                "calibrated_on": Path(calibrate).name if calibrate else None,
                "compared_on": f"clips of {Path(calibrate).name}" if calibrate else "random clips",
                "deviation": deviation,
                "evaluated_on": Path(evaluate).name if evaluate else None,
                "accuracy": asdict(accuracy) if accuracy else None,
            }
        }
        _finish(after, facts)
        after.replace(path)
    return Quantized(path, path.stat().st_size, exported.size, deviation, operators, accuracy, facts)


def _quantize(source: Path, target: Path, kind: str, inputs: Iterator[Arrays]) -> None:
    import onnx
    from onnxruntime import quantization as ort
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Inputs(ort.CalibrationDataReader):
        def get_next(self) -> Arrays | None:
            return next(inputs, None)

    # Only constants are quantised, so weights behind a transposition have to become some.
    prepared = source.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    model = onnx.load(prepared)
    # Shapes are found anew; the old ones contradict weights that dynamic quantisation transposes.
    del model.graph.value_info[:]
    # Weights of more than two axes cannot have a scale per channel.
    axes = {one.name: len(one.dims) for one in model.graph.initializer}
    batched = [node.name for node in model.graph.node if node.op_type == "MatMul" and axes.get(node.input[1], 2) != 2]
    options = {"op_types_to_quantize": _OPERATORS[kind], "per_channel": True, "weight_type": ort.QuantType.QInt8}
    # Products of two inputs (attention) have no weights.
    options |= {"nodes_to_exclude": batched, "extra_options": {"MatMulConstBOnly": True}}
    if kind == "static":
        options |= {"quant_format": ort.QuantFormat.QDQ, "activation_type": ort.QuantType.QUInt8}
        ort.quantize_static(model, target, Inputs(), **options)
    else:
        ort.quantize_dynamic(model, target, **options)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the advice that onnxruntime gives to those who prepare their files by hand."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _finish(path: Path, facts: dict[str, Any]) -> dict[str, int]:
    """Store facts in a file; returns how often each operator occurs."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {FACTS: json.dumps(facts)})
    onnx.save(model, path)
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def _noise(facts: dict[str, Any]) -> Iterator[Tensor]:
    """Random clips of the length that the network was trained on."""
    generator = torch.Generator().manual_seed(0)
    _, channels, _, height, width = facts["inputs"][0]["shape"]
    for _ in range(_COMPARED):
        yield torch.randn(1, channels, facts["preprocessing"]["frames"], height, width, generator=generator)


def _deviation(source: OnnxFile, file: OnnxFile, clips: Iterable[Tensor]) -> float:
    """The largest difference of any logit, relative to the largest one."""
    worst = 0.0
    for clip in clips:
        expected, found = ([*out.values()] if isinstance(out, dict) else [out] for out in (source(clip), file(clip)))
        for one, other in zip(expected, found, strict=True):
            worst = max(worst, float((one - other).abs().max() / one.abs().max().clamp_min(1e-12)))
    return worst
