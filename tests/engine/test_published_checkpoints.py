"""Training goes on from checkpoints of the published code bases."""

import copy
from pathlib import Path

import pytest
import torch
from tiny_networks import tiny

from videobench.config import load_config
from videobench.engine.training_state import TrainingState
from videobench.solver.optimizer import build_optimizer


@pytest.mark.parametrize("label", ["motionformer", "motionformer_divided", "motionformer_epic"])
@pytest.mark.parametrize("method", ["adamw", "sgd"])
def test_motionformer_s_optimizer_has_more_parameters_than_are_trained(label, method):
    model = tiny(label)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    assert not all(trained)
    options = {"lr": 0.01, "weight_decay": 0.05} | ({"momentum": 0.9, "nesterov": True} if method == "sgd" else {})
    theirs = copy.deepcopy(model).requires_grad_()
    of_theirs = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[method](theirs.parameters(), **options)
    generator = torch.Generator().manual_seed(0)

    def step(network, optimizer, gradients) -> None:
        for parameter, gradient, read in zip(network.parameters(), gradients, trained, strict=True):
            parameter.grad = gradient if read else None
        optimizer.step()

    first, second = ([torch.randn(p.shape, generator=generator) for p in model.parameters()] for _ in range(2))
    step(theirs, of_theirs, first)
    optimizer_state = of_theirs.state_dict()
    optimizer_state["param_groups"].insert(0, {**optimizer_state["param_groups"][0], "params": []})  # of batch norms
    content = {"epoch": 4, "model_state": theirs.state_dict(), "optimizer_state": optimizer_state, "cfg": ""}

    cfg = load_config([], ["SOLVER.OPTIMIZING_METHOD", method, "SOLVER.BASE_LR", 0.01, "SOLVER.WEIGHT_DECAY", 0.05])
    state = TrainingState(model, build_optimizer(model, cfg), torch.amp.GradScaler("cpu", enabled=False), None)
    state.resume(Path("checkpoint_epoch_00005.pyth"), copy.deepcopy(content), cfg)
    assert state.epoch == 5
    for network, optimizer in ((theirs, of_theirs), (model, state.optimizer)):
        step(network, optimizer, second)
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), model.parameters(), strict=True))
