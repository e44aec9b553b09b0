"""No network costs more than it did: operations and bytes of tiny networks, counted, against recorded values.

A change that lowers a cost may write the new values down, one that raises it has to say why:
``python tests/models/test_costs.py`` from the root of the repository writes ``costs.json`` anew. The operators that a
network comes down to are others in every release of PyTorch; with others than the one written down the tests skip.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[depth]) for depth in (1, 2)]

from tiny_networks import NETWORKS, sample, tiny

from benchmarks.counting import Cost, cost_of
from benchmarks.plain import plain_form

RECORDED = Path(__file__).with_name("costs.json")
RELEASE = ".".join(torch.__version__.split(".")[:2])
MODES = [(name, mode) for name in NETWORKS for mode in ("infer", "train")] + [("movinet_stream", "frame")]


def cost(model: torch.nn.Module, clip: torch.Tensor, mode: str) -> Cost:
    """Of a forward pass in eval mode without gradients (``frame``: on the next frame), or of both passes."""
    model.train(mode == "train")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    clip = clip[:, :, :1] if mode == "frame" else clip

    def step() -> None:
        if hasattr(model, "clean_activation_buffers") and mode != "frame":
            model.clean_activation_buffers()
        with torch.set_grad_enabled(mode == "train"):
            logits = model(clip)
            if mode == "train":
                heads = logits.values() if isinstance(logits, dict) else [logits]
                sum(F.cross_entropy(head, torch.zeros(len(clip), dtype=torch.int64)) for head in heads).backward()

    step()  # gradients exist from now on, and are added to
    return cost_of(step)


def more_than_recorded(name: str, mode: str, **arguments) -> dict[str, str]:
    """What a network, made with further arguments, needs more of than was written down for ``name``."""
    costs = json.loads(RECORDED.read_text())
    if costs["torch"] != RELEASE:
        pytest.skip(f"{RECORDED.name} was written with PyTorch {costs['torch']}, this is {RELEASE}")
    recorded = costs[name][mode]
    counted = asdict(cost(tiny(name, **arguments), sample(name), mode))
    assert counted.keys() == recorded.keys()
    return {what: f"{n} instead of {recorded[what]}" for what, n in counted.items() if n > recorded[what]}


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_a_network_costs_no_more_than_recorded(name, mode):
    more = more_than_recorded(name, mode)
    assert not more, f"{name} got dearer ({mode}): {more}"


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_a_dearer_network_is_noticed(mode):
    assert more_than_recorded("motionformer", mode, depth=3).keys() == {"operations", "bytes_moved", "kernels"}


def test_recomputed_activations_are_counted():
    assert more_than_recorded("motionformer", "train", checkpoint_blocks=-1).keys() >= {"operations", "kernels"}


@pytest.mark.parametrize(
    ("name", "mode"),
    [("mvit_video", "infer"), ("movinet_base", "infer"), ("movinet_stream", "infer"), ("movinet_stream", "frame")],
)
def test_inference_moves_fewer_bytes_than_the_plain_form(name, mode):
    model = tiny(name)
    assert cost(model, sample(name), mode).bytes_moved < cost(plain_form(model), sample(name), mode).bytes_moved


def test_a_copy_and_a_product_are_counted():
    x = torch.zeros(8, 4)
    assert cost_of(x.clone) == Cost(operations=0, bytes_moved=2 * 8 * 4 * 4, kernels=1)
    product = cost_of(lambda: x.t() @ x)
    assert product.operations == 2 * 4 * 8 * 4
    assert product.bytes_moved == 4 * (8 * 4 + 8 * 4 + 4 * 4)
    assert cost_of(lambda: x.view(4, 8).t()).kernels == 0


if __name__ == "__main__":
    costs: dict = {"torch": RELEASE} | {name: {} for name in NETWORKS}
    for name, mode in MODES:
        costs[name][mode] = asdict(cost(tiny(name), sample(name), mode))
    RECORDED.write_text(json.dumps(costs, indent=2) + "\n")
