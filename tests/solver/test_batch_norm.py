"""Recomputed and frozen batch-norm statistics."""

import logging

import pytest
import torch
from tiny_networks import sample, tiny
from torch import nn

from videobench.solver.batch_norm import recompute_statistics, training_mode
from videobench.solver.optimizer import freeze_layers


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv3d(4, 2, 1))


def batches(count: int) -> list[torch.Tensor]:
    return [3 * torch.randn(4, 3, 2, 5, 5) + 1 for _ in range(count)]


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}


def test_precise_statistics_are_those_of_all_batches_together():
    model, inputs = network(), batches(5)
    training_mode(model)
    model(inputs[0])
    norm = model[1]
    tensors = norm.running_mean, norm.running_var
    state = torch.get_rng_state()
    assert recompute_statistics(model, iter(inputs), 4) == 1
    assert torch.equal(torch.get_rng_state(), state)
    values = model[0](torch.cat(inputs[:4]))
    torch.testing.assert_close(norm.running_mean, values.mean((0, 2, 3, 4)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.running_var, values.var((0, 2, 3, 4), unbiased=False), rtol=1e-5, atol=1e-5)
    assert norm.momentum == 0.1
    assert (norm.running_mean, norm.running_var) == tensors  # the same tensors, new values
    assert norm.num_batches_tracked == 1  # steps of the training, however often statistics are made


def test_statistics_that_are_no_numbers_are_not_taken(caplog, monkeypatch):
    """A clip that half precision cannot take must not spoil weights that are all right."""
    monkeypatch.setattr(logging.getLogger("videobench"), "propagate", True)
    model, inputs = network(), batches(3)
    training_mode(model)
    model(inputs[0])
    before = statistics(model)
    inputs[1][0] = torch.inf
    recompute_statistics(model, inputs, 3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in statistics(model).items())
    assert "1 of 1 batch norms keep their statistics" in caplog.text


def test_an_average_gets_statistics_of_its_own():
    inputs = batches(3)
    model, average, alone = network(), network().eval(), network()
    for parameter in average.parameters():
        parameter.requires_grad_(False).mul_(2)
    for each in (model, alone):
        training_mode(each)
        torch.manual_seed(1)
        recompute_statistics(each, inputs, 3, average=average if each is model else None)
    values = average[0](torch.cat(inputs))
    torch.testing.assert_close(average[1].running_mean, values.mean((0, 2, 3, 4)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(average[1].running_var, values.var((0, 2, 3, 4), unbiased=False), rtol=1e-5, atol=1e-5)
    assert not any(module.training for module in average.modules())
    assert all(torch.equal(tensor, statistics(alone)[name]) for name, tensor in statistics(model).items())


def test_ranks_agree_on_the_statistics_of_all_their_batches():
    first, second = batches(2), batches(2)
    alone = network().train()
    recompute_statistics(alone, [*first, *second], 4)
    sent = []
    other = network().train()
    recompute_statistics(other, second, 2, mean_over_ranks=lambda tensor: sent.append(tensor) or tensor)
    answers = iter(sent)
    model = network().train()
    recompute_statistics(model, first, 2, mean_over_ranks=lambda tensor: (tensor + next(answers)) / 2)
    for name, want in statistics(alone).items():
        torch.testing.assert_close(statistics(model)[name], want, rtol=1e-5, atol=1e-6)


def test_networks_without_moving_statistics_draw_no_batch():
    def none():
        pytest.fail("a batch was drawn")
        yield

    frozen = network()
    training_mode(frozen, frozen_statistics=True)
    assert recompute_statistics(frozen, none(), 3) == 0
    assert recompute_statistics(tiny("motionformer").train(), none(), 3) == 0


@pytest.mark.parametrize("label", ["uniformer", "movinet_base", "morphmlp"])
def test_frozen_statistics_stay_while_weights_are_trained(label):
    model = tiny(label)
    before = statistics(model)
    assert before
    training_mode(model, frozen_statistics=True)
    assert model.training
    model(sample(label)).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in statistics(model).items())
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(norm.weight.grad is not None for norm in norms)
    training_mode(model)
    assert all(norm.training for norm in norms)


def test_norms_of_frozen_layers_stay_as_they_are():
    model = tiny("movinet_base")
    frozen = freeze_layers(model, 2)
    before = statistics(model)
    training_mode(model)
    model(sample("movinet_base"))
    layers = {name.rsplit(".", 1)[0] for name in frozen}
    moved = {name for name, tensor in statistics(model).items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.rsplit(".", 1)[0] not in layers}
    assert 0 < len(moved) < len(before)
