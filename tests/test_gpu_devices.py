"""Networks and augmentation on a GPU, without one: shapes, types and devices of every operation, but no numbers.

A tensor left on the CPU, operands of two types, and numbers read from the device (which would wait for it) are errors.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_networks import NETWORKS, tiny
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import videobench
from videobench.datasets.augment import Augmentation
from videobench.datasets.mixing import Mixing


@pytest.fixture
def imagined():
    with FakeTensorMode(allow_non_fake_inputs=True):
        try:
            torch.empty(2, 2, device="cuda").t().contiguous()
        except RuntimeError as error:  # torch 2.6
            pytest.skip(f"torch {torch.__version__} imagines no GPU without a driver: {str(error).splitlines()[0]}")
        yield
    torch.set_autocast_enabled("cuda", False)


def on_gpu(model: nn.Module) -> nn.Module:
    """The network with imagined tensors on a GPU; no gradients, which the library has no imagined streams for."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    there = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    tensors[name] = nn.Parameter(there, requires_grad=False) if tensors is module._parameters else there
    return model


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("lower", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_stay_on_the_gpu(name, lower, training, imagined):
    with torch._subclasses.fake_tensor.unset_fake_temporarily():
        model = tiny(name).train(training)
    model = on_gpu(model)
    if lower is not None:
        # torch.autocast switches itself off where there is no GPU.
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", lower)
    clip = torch.empty(NETWORKS[name][2], device="cuda")
    with torch.no_grad():
        logits = model(clip)
        if name == "movinet_stream" and not training:
            state = model.stream_state(len(clip))
            for frames in (clip[:, :, :1], clip[:, :, 1:2], clip[:, :, 2:]):
                streamed, state = model.stream(frames, state)
            assert (streamed.shape, streamed.device) == (logits.shape, logits.device)
    for head in logits.values() if isinstance(logits, dict) else [logits]:
        assert (head.device, len(head)) == (clip.device, 2)


@pytest.mark.parametrize("policy", ["rand-m7-n4-mstd0.5-inc1", "v0", "originalr", "3a", ""])
def test_augmentation_stays_on_the_gpu(policy, imagined):
    with torch._subclasses.fake_tensor.unset_fake_temporarily():
        colour = ["AUG.COLOR_JITTER", 0.4, "DATA.COLORJITTER", True, "DATA.GRAYSCALE", True, "DATA.GAUSSIAN", True]
        cfg = videobench.load_config([], ["AUG.ENABLE", True, "AUG.AA_TYPE", policy, "AUG.RE_PROB", 1.0, *colour])
        augmentation = replace(Augmentation.from_config(cfg), in_workers=False)
    for number in range(20):
        clips = torch.empty((2, 4, 3, 32, 40), dtype=torch.uint8, device="cuda")
        keys = [(0, number, 0), (0, number, 1)]
        inputs = augmentation.finish(augmentation.pixels(clips, keys), keys)
        assert (inputs.shape, inputs.dtype, inputs.device) == ((2, 3, 4, 32, 40), torch.float32, clips.device)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_mixing_stays_on_the_gpu(mode, imagined):
    mixing, rng = Mixing(10, mode=mode), np.random.default_rng(0)
    for _ in range(10):
        inputs, labels = torch.empty(3, 3, 4, 32, 32, device="cuda"), torch.empty(3, dtype=torch.int64, device="cuda")
        mixed, targets = mixing(inputs, labels, rng)
        assert (mixed.device, targets.device, targets.shape) == (inputs.device, inputs.device, (3, 10))
