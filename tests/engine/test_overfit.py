"""The smallest form of every family learns 16 clips by heart."""

import numpy as np
import pytest
import torch
from tiny_networks import NETWORKS

import videobench
from videobench.datasets.augment import normalise
from videobench.datasets.demo import CLASSES, render_clip
from videobench.engine.metrics import training_errors
from videobench.engine.training_step import TrainingStep
from videobench.solver.optimizer import build_optimizer


@pytest.fixture(scope="module")
def clips():
    """Two clips of every motion: uint8 [16, 16, 3, 32, 32], and their classes."""
    rng = np.random.default_rng(0)
    labels = torch.arange(16) % len(CLASSES)
    frames = np.stack([render_clip(int(label), rng)[:48:3, ::3, ::3] for label in labels])
    return torch.from_numpy(frames).permute(0, 1, 4, 2, 3), labels


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["uniformer", "morphmlp", "motionformer", "mvit_video", "mvit_image", "movinet_base", "movinet_stream"]
)
def test_sixteen_clips_are_learned_by_heart(clips, name):
    row, small, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = videobench.create_model(row, **small, num_classes=len(CLASSES)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    cfg = videobench.load_config([], ["NUM_GPUS", 0, "SOLVER.CLIP_GRAD_L2NORM", 1.0])
    step = TrainingStep(cfg, model, model, build_optimizer(model, cfg), torch.amp.GradScaler("cpu", enabled=False))
    for group in step.optimizer.param_groups:
        group["lr"], group["weight_decay"] = 5e-3, 0.0
    frames, labels = clips
    wanted = 1 if len(shape) == 4 else shape[2]
    inputs = normalise(frames[:, :: 16 // wanted], [0.45] * 3, [0.225] * 3)
    for _ in range(40):
        for _ in range(10):
            step(inputs, labels)
        model.eval()
        with torch.no_grad():
            error = training_errors(model(inputs), labels)["top1_err"]
        model.clean_activation_buffers()
        model.train()
        if error == 0:
            return
    pytest.fail(f"{error:.1f}% of the clips are still wrong")
