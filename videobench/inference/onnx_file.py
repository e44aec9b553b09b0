"""An exported ONNX file in the place of a network."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from videobench.inference.export_facts import FACTS, ExportError

#: Arrays by the names of a file's inputs or outputs.
Arrays = dict[str, np.ndarray]


class OnnxFile(nn.Module):
    """Runs a file that `exporting.export` wrote, on the CPU by ONNX Runtime.

    A file that takes a stream gets a clip frame by frame, from a state of zeros.

    Args:
        path: the file.

    Raises:
        ExportError: when ONNX Runtime is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise ExportError("ONNX needs onnxruntime: pip install 'videobench[export]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.facts = json.loads(self.session.get_modelmeta().custom_metadata_map[FACTS])

    def call(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """All outputs for all inputs, both in the file's order."""
        names = [one["name"] for one in self.facts["inputs"]]
        given = {name: one.numpy() for name, one in zip(names, inputs, strict=True)}
        return [torch.from_numpy(out) for out in self._run(given).values()]

    def forward(self, clips: Tensor) -> Tensor | dict[str, Tensor]:
        """Logits [N, classes], by head where there are several, of clips [N, C, T, H, W]."""
        free = self.facts["inputs"][0]["shape"][0] == "batch"
        rows = [self._logits(part) for part in ((clips,) if free else clips.split(1))]
        heads = [torch.from_numpy(np.concatenate(parts)) for parts in zip(*rows, strict=True)]
        return heads[0] if len(heads) == 1 else dict(zip(self.facts["class_names"], heads, strict=True))

    def clean_activation_buffers(self) -> None:
        """A causal network's way to begin a new video; here every clip is one."""

    def calls(self, clips: Tensor) -> Iterator[tuple[Arrays, Arrays]]:
        """What goes in and what comes out, call by call: once, or frame by frame with the state of the call before."""
        first, *states = self.facts["inputs"]
        if not self.facts["stream"]:
            yield (given := {first["name"]: clips.numpy()}), self._run(given)
            return
        state = {one["name"]: np.zeros((len(clips), *one["shape"][1:]), one["type"]) for one in states}
        for frame in clips.split(1, dim=2):
            given = {first["name"]: frame.numpy(), **state}
            outputs = self._run(given)
            state = {name: outputs[f"next.{name.removeprefix('state.')}"] for name in state}
            yield given, outputs

    def _logits(self, clips: Tensor) -> list[np.ndarray]:
        """Logits of every head after the last frame."""
        for _, outputs in self.calls(clips):
            last = outputs
        return [out for name, out in last.items() if name.startswith("logits")]

    def _run(self, given: Arrays) -> Arrays:
        names = self.facts["outputs"]
        return dict(zip(names, self.session.run(names, given), strict=True))
