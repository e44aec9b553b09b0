"""One optimizer step: pieces of a batch, precision, clipping, and numbers that are not finite."""

import contextlib

import pytest
import torch
from tiny_networks import NETWORKS, tiny
from torch import nn

import videobench
from videobench.engine.training_step import TrainingStep, largest_micro_batch
from videobench.solver.optimizer import build_optimizer

# What makes the same batch give the same step: no dropout, and statistics that pieces do not change.
QUIET = {"uniformer": {"drop_path": 0.0}, "movinet_stream": {"dropout": 0.0}}
QUIET |= {name: {"drop_path": 0.0} for name in ("motionformer", "motionformer_epic")}


def make(name="motionformer", *overrides, dtype=torch.float64, seed=0, fused=False, **arguments):
    """A training step of a tiny network, made as the trainer makes it."""
    cfg = videobench.load_config([], ["NUM_GPUS", 0, "SOLVER.BASE_LR", 1e-3, *overrides])
    torch.manual_seed(seed)
    model = tiny(name, **QUIET[name], **arguments).to(dtype).train()
    optimizer = build_optimizer(model, cfg)
    for group in optimizer.param_groups:
        group.update({"foreach": None, "fused": True} if fused else {})
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingStep(cfg, model, model, optimizer, scaler)


def batch(name="motionformer", clips=8, classes=400, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(clips, *NETWORKS[name][2][1:], generator=generator, dtype=dtype)
    return inputs, torch.randint(classes, (clips,), generator=generator)


def weights(step):
    return {name: tensor.clone() for name, tensor in step.model.state_dict().items()}


@pytest.mark.parametrize("micro_batch", [4, 3, 1])
def test_pieces_of_a_batch_give_the_steps_of_the_whole(micro_batch):
    """Gradient accumulation to the batch size: the same losses and weights, step after step."""
    whole, pieces = make(), make()
    pieces.micro_batch = micro_batch
    for seed in range(3):
        one, two = whole(*batch(seed=seed)), pieces(*batch(seed=seed))
        torch.testing.assert_close(two.loss, one.loss, atol=1e-10, rtol=0)
        torch.testing.assert_close(two.grad_norm, one.grad_norm, atol=1e-10, rtol=0)
        torch.testing.assert_close(two.logits, one.logits, atol=1e-10, rtol=0)
    # AdamW divides by gradients' sizes, which lets rounding grow where a gradient is next to nothing.
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(pieces)[name], tensor, atol=1e-7, rtol=0, msg=name)


class Replayed:
    """A network that keeps its logits and gradients where those of the pass before are, as a CUDA graph does."""

    def __init__(self, model):
        self.model, self.parameters = model, [p for p in model.parameters() if p.requires_grad]
        self.logits = None
        self.gradients = [torch.empty_like(p) for p in self.parameters]

    def __call__(self, x):
        return _Replay.apply(self, x, *self.parameters)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, network, x, *parameters):
        with torch.enable_grad():
            logits = network.model(x)
        ctx.network, ctx.logits = network, logits
        network.logits = logits.detach().clone() if network.logits is None else network.logits.copy_(logits.detach())
        return network.logits.detach()

    @staticmethod
    def backward(ctx, gradient):
        network = ctx.network
        gradients = torch.autograd.grad(ctx.logits, network.parameters, gradient, allow_unused=True)
        for place, found in zip(network.gradients, gradients, strict=True):
            place.copy_(torch.zeros(()) if found is None else found)
        return (
            None,
            None,
            *[
                None if found is None else place.detach()
                for place, found in zip(network.gradients, gradients, strict=True)
            ],
        )


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_a_network_that_writes_over_its_last_results(micro_batch):
    """What CUDA graphs do to logits and gradients between passes (TRAIN.CUDA_GRAPHS) loses nothing."""
    plain, replayed = make(), make("motionformer", "TRAIN.CUDA_GRAPHS", True)
    plain.micro_batch = replayed.micro_batch = micro_batch
    replayed.forward = Replayed(replayed.model)
    for seed in range(3):
        one, two = plain(*batch(seed=seed)), replayed(*batch(seed=seed))
        replayed.forward.logits.fill_(torch.nan)
        torch.testing.assert_close(two.grad_norm, one.grad_norm)
        torch.testing.assert_close(two.logits, one.logits)
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(replayed)[name], tensor, msg=name)


def test_soft_targets_and_several_heads_in_pieces():
    soft = ("MODEL.LOSS_FUNC", "soft_cross_entropy")
    whole, pieces = make("motionformer_epic", *soft), make("motionformer_epic", *soft)
    pieces.micro_batch = 2
    inputs, _ = batch(clips=5)
    generator = torch.Generator().manual_seed(1)
    targets = {
        head: torch.rand(5, classes, generator=generator, dtype=torch.float64).softmax(1)
        for head, classes in (("verb", 97), ("noun", 300))
    }
    one, two = whole(inputs, targets), pieces(inputs, targets)
    torch.testing.assert_close(two.loss, one.loss, atol=1e-10, rtol=0)
    assert {head: tuple(logits.shape) for head, logits in two.logits.items()} == {"verb": (5, 97), "noun": (5, 300)}


def test_a_stream_is_trained_in_subclips():
    """A backward pass after each piece of the clip, the losses' mean, one step, and no frames left over."""
    step = make("movinet_stream", "MOVINET.TRAIN_SUBCLIPS", 2)
    other = make("movinet_stream")
    for model in (step.model, other.model):
        model.eval()  # statistics of batch norms would depend on the pieces
    inputs, labels = batch("movinet_stream", clips=2, classes=600)
    result = step(inputs, labels)
    # By hand, with the published loop.
    other.model.clean_activation_buffers()
    losses = []
    for piece in inputs.chunk(2, dim=2):
        logits = other.model(piece)
        losses.append(nn.functional.cross_entropy(logits, labels) / 2)
        losses[-1].backward()
    other.model.clean_activation_buffers()
    other.optimizer.step()
    torch.testing.assert_close(result.loss, sum(losses).detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(result.logits, logits.detach())
    for name, tensor in weights(other).items():
        torch.testing.assert_close(weights(step)[name], tensor, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(step.model(inputs[:1]), other.model(inputs[:1]))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("where", ["first", "later"])
def test_a_step_without_finite_numbers_changes_nothing(fused, where):
    step = make("uniformer", dtype=torch.float32, fused=fused)
    good = batch("uniformer", dtype=torch.float32)
    if where == "later":
        assert not step(*good).skipped
    before, moments = weights(step), str(step.optimizer.state_dict()["state"])
    inputs, labels = batch("uniformer", dtype=torch.float32, seed=1)
    inputs[3, 0, 0, 0, 0] = torch.inf
    result = step(inputs, labels)
    assert result.skipped
    assert not result.loss.isfinite()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(step).items())
    assert str(step.optimizer.state_dict()["state"]) == moments
    assert not step(*good).skipped
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(step).items())


def test_a_bad_gradient_alone_is_noticed():
    step = make(dtype=torch.float32)
    before = weights(step)
    parameter = next(p for p in step.model.parameters() if p.requires_grad)
    hook = parameter.register_hook(lambda gradient: gradient * torch.nan)
    result = step(*batch(dtype=torch.float32))
    assert result.loss.isfinite()
    assert result.skipped
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(step).items())
    hook.remove()
    assert not step(*batch(dtype=torch.float32)).skipped


def test_clipping_by_norm_and_by_value():
    def gradients(*overrides):
        step = make("motionformer", *overrides)
        norm = step(*batch()).grad_norm
        return norm, torch.cat([p.grad.flatten() for p in step.model.parameters() if p.grad is not None])

    norm, plain = gradients()
    torch.testing.assert_close(plain.norm(), norm)
    limit = float(norm) / 4
    reported, clipped = gradients("SOLVER.CLIP_GRAD_L2NORM", limit)
    torch.testing.assert_close(reported, norm)  # before clipping
    torch.testing.assert_close(clipped, plain / 4, atol=1e-6, rtol=1e-4)
    bound = float(plain.abs().max()) / 2
    # The value has precedence, as published.
    _, clipped = gradients("SOLVER.CLIP_GRAD_VAL", bound, "SOLVER.CLIP_GRAD_L2NORM", limit)
    torch.testing.assert_close(clipped, plain.clamp(-bound, bound))


@contextlib.contextmanager
def counted_reads():
    """How often a number was asked for from Python, which is when a GPU would have to be waited for."""
    count = [0]
    names = ("item", "cpu", "tolist", "__bool__", "__float__", "__int__", "numpy")
    originals = {name: getattr(torch.Tensor, name) for name in names}

    def counting(original):
        def read(self, *args, **kwargs):
            count[0] += 1
            return original(self, *args, **kwargs)

        return read

    try:
        for name, original in originals.items():
            setattr(torch.Tensor, name, counting(original))
        yield count
    finally:
        for name, original in originals.items():
            setattr(torch.Tensor, name, original)


@pytest.mark.parametrize("name", ["motionformer", "uniformer"])
def test_a_step_reads_nothing_from_the_device(name):
    """With fused optimizers, as on GPUs; the first step makes the moments and may look once."""
    step = make(name, "SOLVER.CLIP_GRAD_L2NORM", 1.0, dtype=torch.float32, fused=True)
    step.micro_batch = 4
    step(*batch(name, dtype=torch.float32))
    inputs, labels = batch(name, dtype=torch.float32)
    with counted_reads() as count:
        step(inputs, labels)
    assert count == [0]
    with counted_reads() as count:
        inputs.sum().item()
    assert count == [1]


@pytest.mark.parametrize(
    ("clips", "most", "chosen"), [(8, 8, 8), (8, 7, 4), (8, 3, 3), (7, 1, 1), (1, 1, 1), (64, 9, 8)]
)
def test_the_largest_micro_batch_that_fits(clips, most, chosen):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= most

    assert largest_micro_batch(clips, fits) == chosen
    assert max(tried) == clips
    assert len(tried) <= 8


def test_nothing_fits():
    with pytest.raises(torch.OutOfMemoryError, match="not even one clip"):
        largest_micro_batch(8, lambda size: False)


def test_trying_a_size_leaves_no_trace():
    step = make("uniformer", dtype=torch.float32)
    before = weights(step)
    inputs, labels = batch("uniformer", dtype=torch.float32)
    assert step.fits(inputs, labels, 2)
    whole = step.forward

    def full(clip):
        raise torch.OutOfMemoryError("CUDA out of memory")

    step.model.forward = full
    assert not step.fits(inputs, labels, 2)
    del step.model.forward
    assert step.forward is whole
    assert all(p.grad is None for p in step.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(step).items())


def test_bfloat16_arithmetic_keeps_float32_weights():
    step = make("uniformer", "TRAIN.PRECISION", "bf16", dtype=torch.float32)
    result = step(*batch("uniformer", dtype=torch.float32))
    assert result.logits.dtype == torch.bfloat16
    assert result.loss.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in step.model.parameters())
    assert not result.skipped
