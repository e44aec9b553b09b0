"""Networks for other runtimes: ONNX, torch.export and TorchScript files, checked against the network they come from."""

import copy
import json
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videobench.inference.export_facts import FACTS, ExportError, facts_of
from videobench.inference.network import Network
from videobench.inference.onnx_file import OnnxFile
from videobench.models import VideoModel
from videobench.models.movinet import MoViNet

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "torchscript": ".pt"}
OPSET = 18
# What the outputs may differ by, relative to the largest logit, before the export is refused.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2}


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        path: the file.
        size: its bytes.
        parameters: bytes of the network's parameters and buffers.
        deviation: largest difference to the network in eager mode on random clips, relative to its largest logit.
        operators: operators of the graph and how often each occurs; empty where the format does not list them.
        facts: what is stored inside.
    """

    path: Path
    size: int
    parameters: int
    deviation: float
    operators: dict[str, int]
    facts: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        counted = ", ".join(f"{name} x{count}" for name, count in self.operators.items())
        inputs = ", ".join(f"{one['name']} {one['shape']}" for one in self.facts["inputs"][:3])
        more = f" and {len(self.facts['inputs']) - 3} more" if len(self.facts["inputs"]) > 3 else ""
        opset = f", opset {self.facts['opset']}" if "opset" in self.facts else ""
        return (
            f"{self.path}: {self.facts['format']}{opset}, {self.size / 1e6:.2f} MB (parameters "
            f"{self.parameters / 1e6:.2f} MB)\n"
            f"  takes {inputs}{more}\n"
            f"  deviation from the network on random clips: {self.deviation:.2e} of the largest logit"
            + (f"\n  operators: {counted}" if counted else "")
        )


class WholeClip(nn.Module):
    """A network as (clip) -> one tensor of logits per head; a causal one begins a new video with every clip."""

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        logits = self.model.forward_head(self.model.forward_features(clip))
        return tuple(logits.values()) if isinstance(logits, dict) else (logits,)


class NextFrames(nn.Module):
    """A causal network as (frames, *state) -> (logits, *state); see :meth:`MoViNet.stream`."""

    def __init__(self, model: VideoModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, list(names)

    def forward(self, frames: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, left = self.model.stream(frames, dict(zip(self.names, state, strict=True)))
        return (logits, *(left[name] for name in self.names))


def export(
    network: Network,
    path: str | Path,
    form: str,
    *,
    stream: bool = False,
    dynamic: bool = False,
    half: bool = False,
) -> Exported:
    """Write a network for another runtime, with class names and preprocessing inside, and compare the two.

    Args:
        network: what to export.
        path: the file.
        form: ``onnx``, ``torch_export`` or ``torchscript``.
        stream: a causal network frame by frame, its state as inputs and outputs of the same names (``state.*`` and
            ``next.*``); a zero state is the beginning.
        dynamic: any number of clips per call, instead of one.
        half: float16 weights, inputs and outputs.

    Raises:
        ExportError: when the network has no such form, a library is missing, or the file computes something else.
    """
    if form not in SUFFIXES:
        raise ExportError(f"the form is {', '.join(SUFFIXES)}, not {form!r}")
    path = place_for(path, network)
    dtype = torch.float16 if half else torch.float32
    model = copy.deepcopy(network.model).cpu().to(dtype).eval()
    if isinstance(model, MoViNet):
        model.fold_norms()
    batch = 2 if dynamic else 1
    module, inputs, names = _program(network, model, batch, dtype, stream)
    outputs = [f"logits.{head}" if head else "logits" for head in network.class_names]
    if stream:
        outputs += [f"next.{name.removeprefix('state.')}" for name in names[1:]]
    facts = facts_of(network, form, names, inputs, outputs, dynamic=dynamic, half=half, stream=stream)
    # A file that is refused must not be found later, nor take the place of a good one.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecated forms and of tracers' guesses; the comparison below decides
            try:
                call, operators = _WRITERS[form](module, inputs, made, facts, dynamic)
            except ExportError:
                raise
            except RuntimeError as error:  # of torch's exporters, dozens of lines long
                first = str(error).strip().partition("\n")[0]
                raise ExportError(f"{path}: PyTorch cannot export this network as {form}: {first}") from error
        deviation = _compare(module, call, inputs, dynamic, stream)
        if not deviation <= _TOLERANCE[dtype]:
            raise ExportError(
                f"{path}: computes something else than the network: its outputs differ by {deviation:.2e} of the "
                f"largest logit, allowed are {_TOLERANCE[dtype]:g}"
            )
        made.replace(path)
    parameters = sum(tensor.nbytes for tensor in model.state_dict().values())
    return Exported(path, path.stat().st_size, parameters, deviation, operators, facts)


def place_for(path: str | Path, network: Network) -> Path:
    """Where a file is to be written; folders to it are made.

    Raises:
        ExportError: when no file can be there, or the network's weights are.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}") from error
    if path.is_dir():
        raise ExportError(f"{path}: is a folder; name a file to write")
    if path.resolve() == network.weights.resolve():
        raise ExportError(f"{path}: are the weights themselves; name another file to write")
    return path


def _program(
    network: Network, model: VideoModel, batch: int, dtype: torch.dtype, stream: bool
) -> tuple[nn.Module, tuple[Tensor, ...], list[str]]:
    """What to export, an example of its inputs, and their names."""
    data = network.cfg.DATA
    size, channels = data.TEST_CROP_SIZE, data.INPUT_CHANNEL_NUM[0]
    if stream:
        if not getattr(getattr(model, "style", None), "causal", False):
            raise ExportError(f"{network.weights}: only a causal MoViNet streams; export it without --stream")
        state = model.stream_state(batch, size=size)
        frames = torch.randn(batch, channels, 1, size, size).to(dtype)
        return NextFrames(model, list(state)), (frames, *state.values()), ["frames", *(f"state.{n}" for n in state)]
    clip = torch.randn(batch, channels, data.NUM_FRAMES, size, size).to(dtype)
    return WholeClip(model), (clip,), ["clip"]


Call = Callable[[tuple[Tensor, ...]], Sequence[Tensor]]


def _shapes(inputs: Sequence[Tensor], dynamic: bool) -> Any:
    if not dynamic:
        return None
    shapes = [{0: torch.export.Dim("batch")} for _ in inputs]
    # The state of a stream comes as variable arguments.
    return (shapes[0],) if len(inputs) == 1 else (shapes[0], tuple(shapes[1:]))


def _write_torch_export(module, inputs, path: Path, facts, dynamic: bool) -> tuple[Call, dict[str, int]]:
    program = torch.export.export(module, inputs, dynamic_shapes=_shapes(inputs, dynamic))
    # A clip may be larger than the weights: one number stands for it.
    program.example_inputs = (tuple(example.new_zeros(()).expand_as(example) for example in inputs), {})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of files on this machine
    torch.export.save(program, path, extra_files={FACTS: json.dumps(facts)})
    loaded = torch.export.load(path)
    operators = Counter(str(node.target) for node in loaded.graph.nodes if node.op == "call_function")
    run = loaded.module()
    return lambda given: run(*given), dict(operators.most_common())


def _write_torchscript(module, inputs, path: Path, facts, dynamic: bool) -> tuple[Call, dict[str, int]]:
    traced = torch.jit.trace(module, inputs, check_trace=False)
    torch.jit.save(traced, path, _extra_files={FACTS: json.dumps(facts)})
    loaded = torch.jit.load(path)
    operators = Counter(node.kind() for node in loaded.inlined_graph.nodes() if node.kind() != "prim::Constant")
    return lambda given: loaded(*given), dict(operators.most_common())


def _write_onnx(module, inputs, path: Path, facts, dynamic: bool) -> tuple[Call, dict[str, int]]:
    try:
        import onnxruntime  # noqa: F401 (what the file is compared with)
        import onnxscript  # noqa: F401 (what torch exports with)
    except ImportError as error:
        raise ExportError(f"ONNX needs {error.name}: pip install 'videobench[export]'") from error
    for name in ("onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    program = torch.onnx.export(
        module,
        inputs,
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=_shapes(inputs, dynamic),
        input_names=[one["name"] for one in facts["inputs"]],
        output_names=facts["outputs"],
        verbose=False,
    )
    if dynamic and isinstance(program.model.graph.inputs[0].shape[0], int):
        raise ExportError("PyTorch made the number of clips a constant; export it without --dynamic")
    facts["opset"] = program.model.opset_imports[""]
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # lines of files on this machine
    program.model.metadata_props[FACTS] = json.dumps(facts)
    program.save(path, external_data=False)
    operators = Counter(node.op_type for node in program.model.graph.all_nodes())
    return OnnxFile(path).call, dict(operators.most_common())


_WRITERS = {"onnx": _write_onnx, "torch_export": _write_torch_export, "torchscript": _write_torchscript}


def _compare(module: nn.Module, call: Call, inputs: tuple[Tensor, ...], dynamic: bool, stream: bool) -> float:
    """The largest difference of any output on random inputs, relative to the largest logit; of a stream, after frames
    that continue each other.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in (1, 3) if dynamic else (1,):
        states = [torch.zeros(batch, *one.shape[1:], dtype=one.dtype) for one in inputs[1:]]
        theirs = list(states)
        for _ in range(3):
            clip = torch.randn(batch, *inputs[0].shape[1:], generator=generator).to(inputs[0].dtype)
            with torch.no_grad():
                expected = module(clip, *states)
                found = call((clip, *theirs))
            if stream:
                states, theirs = list(expected[1:]), list(found[1:])
                expected, found = expected[:1], found[:1]
            for one, other in zip(expected, found, strict=True):
                scale = one.double().abs().max().clamp_min(1e-12)
                worst = max(worst, float((one.double() - other.double()).abs().max() / scale))
    return worst
