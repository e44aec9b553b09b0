"""A training step never waits for the GPU: no number is read from tensors, and every copy to the device is queued.

What would wait shows on a CPU as operators: ``_local_scalar_dense`` (``item``, ``bool``, ``float``), those whose result
is as long as the values say, and copies between devices that are not ``non_blocking``. The meta device stands for a GPU
where work is done on clips: it has no numbers to read at all.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import videobench
from videobench.datasets import pixel_ops
from videobench.datasets.augment import Augmentation
from videobench.datasets.mixing import MODES, Mixing
from videobench.datasets.pixel_ops import Sampling
from videobench.datasets.rand_augment import OPERATIONS, Frame, Step
from videobench.engine.metrics import training_errors
from videobench.engine.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
_aten = torch.ops.aten
_READ = {_aten._local_scalar_dense, _aten.nonzero, _aten.masked_select, _aten._unique2, _aten.equal, _aten.bincount}
_COPIES = {_aten._to_copy, _aten.copy_}
EVERYTHING = [
    *("AUG.ENABLE", True, "AUG.AA_TYPE", "rand-m7-n4-mstd0.5-inc1", "AUG.RE_PROB", 1.0),
    *("MIXUP.ENABLE", True, "MODEL.LOSS_FUNC", "soft_cross_entropy"),
]


class Waits(TorchDispatchMode):
    """Counts the operators for which a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        operator = func.overloadpacket
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
        queued = kwargs.get("non_blocking", operator is _aten.copy_ and args[2:3] == (True,))
        crossing = operator in _COPIES and len({tensor.device for tensor in tensors}) > 1 and not queued
        # A mask as an index is looked through for what it lets pass.
        masked = operator is _aten.index and any(tensor.dtype == torch.bool for tensor in tree_leaves(args[1:]))
        if operator in _READ or crossing or masked:
            self.count[str(func)] += 1
        return out


def test_steps_between_log_lines(tiny, tmp_path):
    """The real loop with all it can do to a step on the device; the first one makes the moments and may look once."""
    cfg = videobench.load_config(
        str(ROOT / "configs/demo/uniformer_tiny.yaml"),
        [
            *(
                *tiny,
                *EVERYTHING,
                "SOLVER.CLIP_GRAD_L2NORM",
                1.0,
                "TRAIN.EMA",
                True,
                "TRAIN.MICRO_BATCH",
                2,
                "TRAIN.BATCH_SIZE",
                4,
            ),
            *("SOLVER.MAX_EPOCH", 1, "LOG_PERIOD", 1000, "TENSORBOARD.ENABLE", False, "OUTPUT_DIR", str(tmp_path)),
        ],
    )
    trainer = Trainer(cfg, torch.device("cpu"))
    for group in trainer.state.optimizer.param_groups:
        group.update({"foreach": None, "fused": True})  # as on GPUs
    batches, waits = trainer.loader.epoch, []

    def watched(*args, **kwargs):
        for batch in batches(*args, **kwargs):
            with Waits() as mode:
                yield batch
            waits.append(mode.count)

    trainer.loader.epoch = watched
    assert trainer.run()
    assert len(waits) >= 4
    assert waits[1:-1] == [Counter()] * (len(waits) - 2)
    assert (
        waits[-1]["aten._local_scalar_dense.default"] + len(waits[0]) > 0
    )  # the count sees the first and the last one


@pytest.fixture
def clips():
    """Clips on a device from which nothing can be read, and their keys."""
    return torch.empty(4, 3, 3, 40, 48, dtype=torch.uint8, device="meta"), torch.arange(12).view(4, 3)


def augmentation(*overrides):
    return Augmentation.from_config(videobench.load_config([], [*EVERYTHING, *overrides]))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_operations_on_pixels(interpolation, clips):
    for name in OPERATIONS:
        operation = Step(name, probability=1.0, magnitude=9.0, spread=0.0, bound=10.0)
        drawn, value = operation.draw(Frame(40, 48, np.random.default_rng(0)))
        with Waits() as waits:
            result = pixel_ops.apply(drawn, clips[0][0], value, Sampling((128, 128, 128), interpolation))
        assert result.shape == clips[0][0].shape
        assert not waits.count, name


@pytest.mark.parametrize(
    "overrides",
    [
        ("AUG.AA_TYPE", "", "AUG.COLOR_JITTER", 0.4),
        ("DATA.GAUSSIAN", True, "DATA.COLORJITTER", True, "DATA.GRAYSCALE", True),
        ("AUG.RE_MODE", "rand", "AUG.RE_COUNT", 3, "DATA.REVERSE_INPUT_CHANNEL", True),
    ],
)
def test_other_augmentation(overrides, clips):
    both = augmentation(*overrides)
    with Waits() as waits:
        inputs = both.finish(both.pixels(*clips), clips[1])
    assert inputs.shape == (4, 3, 3, 40, 48)
    assert not waits.count


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_mixing_and_errors(mode, seed):
    inputs = torch.empty(5, 3, 2, 16, 16, device="meta")
    with Waits() as waits:
        mixing = Mixing(num_classes=7, mode=mode)
        _, targets = mixing(inputs, torch.empty(5, dtype=torch.int64, device="meta"), np.random.default_rng(seed))
        errors = training_errors(torch.empty(5, 7, device="meta"), targets)
    assert errors["top1_err"].device.type == "meta"
    assert not waits.count


def test_waits_are_counted():
    x = torch.ones(3)
    with Waits() as waits:
        bool(x[0])
        x[x > 0]
        x.to("meta")
        x.to("meta", non_blocking=True)
        torch.empty(3, device="meta").copy_(x, non_blocking=True)
    assert sum(waits.count.values()) == 3
