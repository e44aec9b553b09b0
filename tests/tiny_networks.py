"""A network of every family small enough for tests, made from rows of the zoo through constructor arguments."""

import torch
from torch import Tensor

import videobench
from videobench.models import VideoModel
from videobench.models.movinet_variants import Stage, Variant

MOVINET = Variant(
    stem=4,
    stages=(Stage(4, "bc", (8, 12), 2, 1, 0), Stage(8, "dc", (16, 12), 2, 0, 0)),
    head=16,
    hidden=24,
)
UNIFORMER = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "head_dim": 8}
MORPHMLP = {"dims": (8, 8, 8, 8), "depths": (1, 1, 1, 1), "chunk_lengths": (4, 4, 4, 1)}
MOTIONFORMER = {"dim": 16, "depth": 2, "num_heads": 2, "temporal_resolution": 2}
_GROWTH = [[1, 2.0], [2, 2.0]]
MVIT = {"input_size": 32, "embed_dim": 8, "depth": 3, "dim_mul": _GROWTH, "head_mul": _GROWTH}
MVIT_VIDEO = {**MVIT, "num_frames": 4, "pool_q_stride": [[0, 1, 1, 1], [1, 1, 2, 2], [2, 1, 2, 2]]}
MVIT_IMAGE = {**MVIT, "pool_q_stride": [[0, 1, 1], [1, 2, 2], [2, 2, 2]]}

#: Row of the zoo, constructor arguments, and the shape of an input with two samples.
NETWORKS: dict[str, tuple[str, dict, tuple[int, ...]]] = {
    "uniformer": ("uniformer_s16x4_k400", UNIFORMER, (2, 3, 4, 32, 32)),
    "morphmlp": ("morphmlp_k400_mlp_s16x4", {**MORPHMLP, "temporal_groups": 2}, (2, 3, 16, 32, 32)),
    "motionformer": ("motionformer_k400_motionformer_224_16x4", MOTIONFORMER, (2, 3, 4, 32, 32)),
    "motionformer_divided": ("motionformer_k400_divided_224_16x4", MOTIONFORMER, (2, 3, 4, 32, 32)),
    "motionformer_epic": ("motionformer_ek_motionformer_224_16x4", MOTIONFORMER, (2, 3, 4, 32, 32)),
    "mvit_video": ("mvitv2_s_k400_16x4", MVIT_VIDEO, (2, 3, 4, 32, 32)),
    "mvit_image": ("mvitv2_t_in1k", MVIT_IMAGE, (2, 3, 32, 32)),
    "movinet_base": ("movinet_a0_base_k600", {"variant": MOVINET}, (2, 3, 4, 32, 32)),
    "movinet_stream": ("movinet_a0_stream_k600", {"variant": MOVINET}, (2, 3, 4, 32, 32)),
}


def tiny(name: str, *, seed: int = 0, **arguments) -> VideoModel:
    """A network of ``NETWORKS`` in eval mode, with random numbers in every tensor of its state dict."""
    row, small, _ = NETWORKS[name]
    return scramble(videobench.create_model(row, **{**small, **arguments}), seed).eval()


def scramble(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random numbers in every floating-point tensor: fresh weights have zeros that hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.3, generator=generator)
    return model


def lively(model: VideoModel, shape: tuple[int, ...] = (3, 4, 32, 32)) -> VideoModel:
    """Random weights with which every input of a shape gets other scores."""
    scramble(model).eval()
    noise = torch.randn((16, *shape), generator=torch.Generator().manual_seed(0))
    linears = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and model.is_head(f"{name}.")]
    with torch.no_grad():
        logits = model(noise)
        for linear, head in zip(linears, logits.values() if isinstance(logits, dict) else [logits], strict=True):
            scale = 2 / head.std(0).mean()
            linear.weight *= scale
            linear.bias.copy_(scale * (linear.bias - head.mean(0)))
    return model


def sample(name: str, seed: int = 0) -> Tensor:
    """An input for a network of ``NETWORKS``."""
    return torch.randn(NETWORKS[name][2], generator=torch.Generator().manual_seed(seed))
