"""What every registered network keeps alike: distributed training, configuration files, memory orders, its contract.

What a family's own tests hold it to is not repeated here.
"""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import golden
import pytest
import torch
import torch.distributed as dist
import yaml
from tiny_networks import MORPHMLP, MOTIONFORMER, NETWORKS, UNIFORMER, scramble
from torch import Tensor
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

import videobench
from videobench.models import VideoModel, model_names, zoo_config

_KEPT = [[], [], [1.0], [1.0]]
_LIGHT = {**UNIFORMER, "depths": (1, 1, 1, 2)}
_PRUNED = [[], [], [1.0], [0.5, 1.0]]
#: As the table of small networks, with a registered name where no row of the zoo has it.
TABLE: dict[str, tuple[str, dict, tuple[int, ...]]] = NETWORKS | {
    "uniformer_light": (
        "Uniformer_light_fp32",
        {**_LIGHT, "keep_ratios": _PRUNED, "trade_offs": _PRUNED},
        (2, 3, 4, 64, 64),
    ),
    "uniformer_light_ls": (
        "Uniformer_light_ls_fp32",
        {**_LIGHT, "keep_ratios": _PRUNED, "trade_offs": _PRUNED},
        (2, 3, 4, 64, 64),
    ),
    "morphmlp_32": ("morphmlp_k400_mlp_s32x4", {**MORPHMLP, "temporal_groups": 2}, (2, 3, 32, 32, 32)),
    "morphmlp_image": ("MorphMLP_image", MORPHMLP, (2, 3, 1, 32, 32)),
    "motionformer_joint": ("motionformer_k400_joint_224_16x4", MOTIONFORMER, (2, 3, 4, 32, 32)),
}


def config(label: str):
    source = TABLE[label][0]
    return (
        zoo_config(source)
        if source in videobench.list_models()
        else videobench.load_config([], ["MODEL.MODEL_NAME", source])
    )


def build(label: str, **arguments) -> VideoModel:
    """A network of the table in float64, with random numbers in every tensor."""
    return scramble(videobench.build_model(config(label), **{**TABLE[label][1], **arguments})).double()


def clip(label: str, seed: int = 0) -> Tensor:
    return torch.randn(TABLE[label][2], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heads(logits: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    return logits if isinstance(logits, dict) else {"": logits}


def test_the_table_has_every_registered_name():
    assert {config(label).MODEL.MODEL_NAME for label in TABLE} == set(model_names())


# Distributed training -------------------------------------------------------------------------------------------------

RANKS, STEPS = 2, 2


def train(label: str, rank: int, wrap: Callable[[VideoModel], Callable], **arguments) -> dict[str, list | dict]:
    """Gradients of every step on a rank's own clips, with stochastic depth and dropout, and the buffers after them."""
    model = build(label, **arguments).train()
    forward = wrap(model)
    found = []
    for step in range(STEPS):
        model.zero_grad(set_to_none=True)
        model.clean_activation_buffers()
        torch.manual_seed(RANKS * step + rank)
        logits = forward(clip(label, seed=RANKS * step + rank))
        sum(head.square().mean() for head in heads(logits).values()).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    return {"gradients": found, "buffers": dict(model.named_buffers())}


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    found = {}
    for label in TABLE:
        try:
            found[label] = {
                "alone": train(label, rank, lambda model: model),
                "stored": train(label, rank, lambda model: DistributedDataParallel(model, static_graph=True)),
                "recomputed": train(
                    label, rank, lambda model: DistributedDataParallel(model, static_graph=True), checkpoint_blocks=-1
                ),
                # Without a static graph, a parameter that gets no gradient is an error in the second step.
                "dynamic": train(label, rank, DistributedDataParallel, checkpoint_blocks=-1),
            }
        except Exception as error:
            raise RuntimeError(f"{label} failed on rank {rank}") from error
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What every rank found, for all networks: starting processes takes longer than all their steps."""
    folder = tmp_path_factory.mktemp("ranks")
    start_processes(run_rank, (folder,), nprocs=RANKS, start_method="spawn")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("label", TABLE)
def test_distributed_gradients_with_recomputed_blocks(label, ranks):
    first, second = (found[label] for found in ranks)
    for step in range(STEPS):
        stored = first["stored"]["gradients"][step]
        for name, gradient in stored.items():
            assert gradient is not None, name
            mean = (first["alone"]["gradients"][step][name] + second["alone"]["gradients"][step][name]) / RANKS
            torch.testing.assert_close(gradient, mean, rtol=1e-9, atol=1e-12, msg=name)
            for found in (first, second):
                for form in ("stored", "recomputed", "dynamic"):
                    assert torch.equal(found[form]["gradients"][step][name], gradient), f"{form} {name}"
    for found in (first, second):
        for name, buffer in found["stored"]["buffers"].items():
            assert torch.equal(found["recomputed"]["buffers"][name], buffer), name


# Configuration files --------------------------------------------------------------------------------------------------


def golden_files() -> list[str]:
    files = sorted(path.relative_to(golden.GOLDEN) for path in golden.GOLDEN.glob("*/*.json"))
    return [str(path) for path in files if "build" in json.loads((golden.GOLDEN / path).read_text())]


def build_block(g: dict) -> dict:
    """Configuration keys of a golden file; MoViNet's are named as its constructor arguments there."""
    if "variant" in g["build"]:
        keys = {"MOVINET.VARIANT": "variant", "MOVINET.CAUSAL": "causal", "MOVINET.CONV_TYPE": "conv_type"}
        keys |= {"MOVINET.TF_LIKE": "tf_like", "MODEL.NUM_CLASSES": "num_classes"}
        return {"MODEL.MODEL_NAME": "MoViNet"} | {key: g["build"][name] for key, name in keys.items()}
    section = next(iter(g["build"])).split(".")[0]
    named = {"MORPH": "MorphMLP_image", "MVIT": "MViT", "VIT": "VisionTransformer"}
    return {"MODEL.MODEL_NAME": named.get(section), **g["build"]}


def nested(block: dict) -> dict:
    sections: dict[str, dict] = {}
    for key, value in block.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    return sections


@pytest.mark.parametrize("file", golden_files() or [pytest.param("", marks=pytest.mark.skip("no reference folder"))])
def test_build_blocks_are_configuration_files(file, tmp_path):
    g = json.loads((golden.GOLDEN / file).read_text())
    block = build_block(g)
    for spelling, content in (("nested", nested(block)), ("dotted", block)):
        path = tmp_path / f"{spelling}.yaml"
        path.write_text(yaml.safe_dump(content))
        cfg = videobench.load_config(path)
        assert cfg == videobench.load_config([], golden.build_overrides({"build": block})), spelling
        with torch.device("meta"):
            model = videobench.build_model(cfg)
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        assert shapes == {name: entry["shape"] for name, entry in g["state"].items()}, spelling
        assert sum(parameter.numel() for parameter in model.parameters()) == g["parameters"], spelling


# Memory order and precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [label for label in TABLE if not label.startswith("uniformer")])
def test_memory_order_of_the_input_changes_nothing(label):
    model, contiguous = build(label).eval(), clip(label)
    channels_last = torch.channels_last if contiguous.dim() == 4 else torch.channels_last_3d
    with torch.no_grad():
        expected = model(contiguous)
        model.clean_activation_buffers()
        logits = model(contiguous.contiguous(memory_format=channels_last))
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("label", ["uniformer_light", "uniformer_light_ls"])
def test_bfloat16_stays_close_where_no_tokens_are_merged(label):
    """Within 5 % of the logits' spread; where tokens are merged, scores that are close may change places."""
    model = build(label, keep_ratios=_KEPT, trade_offs=_KEPT, depths=(1, 1, 1, 1)).eval()
    with torch.no_grad():
        exact = model(clip(label))
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model.float()(clip(label).float())
    assert (mixed - exact).abs().max() < 0.05 * exact.std()


# The contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", TABLE)
def test_features_and_a_new_head(label):
    model = build(label).eval()
    before = {name: parameter.shape for name, parameter in model.named_parameters()}
    model.reset_head(7)
    scramble(model)
    with torch.no_grad():
        features = model.forward_features(clip(label))
        logits = heads(model(clip(label)))
    assert features.shape == (2, model.num_features)
    assert {out.shape for out in logits.values()} == {(2, 7)}
    torch.testing.assert_close(heads(model.forward_head(features)), logits, rtol=1e-12, atol=1e-12)

    after = {name: parameter.shape for name, parameter in model.named_parameters()}
    replaced = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert {name for name in before.keys() | after.keys() if model.is_head(name)} == replaced
    groups = model.layer_groups()
    assert sorted(name for group in groups for name in group) == sorted(after)
    assert {name for name in after if model.is_head(name)} <= set(groups[-1])


@pytest.mark.parametrize("label", TABLE)
def test_no_clips_have_no_logits(label):
    model = build(label).eval()
    some = heads(model(clip(label)))
    model.clean_activation_buffers()
    none = heads(model(clip(label)[:0]))
    assert {head: out.shape for head, out in none.items()} == {head: out[:0].shape for head, out in some.items()}


@pytest.mark.parametrize("label", TABLE)
def test_exempt_from_decay_are_parameters_of_the_body(label):
    model = build(label)
    assert model.no_weight_decay() <= {name for name, _ in model.named_parameters() if not model.is_head(name)}


@pytest.mark.parametrize("label", ["uniformer", "uniformer_light", "morphmlp", "motionformer", "mvit_video"])
def test_impossible_rates_of_stochastic_depth(label):
    name = {"morphmlp": "drop_path_rate", "mvit_video": "drop_path_rate"}.get(label, "drop_path")
    for rate in (-0.1, 1.5, float("nan")):
        with pytest.raises(videobench.ConfigError, match="stochastic depth lies between 0 and 1"):
            build(label, **{name: rate})


@pytest.mark.parametrize("label", TABLE)
def test_clips_between_cleaned_buffers_do_not_meet(label):
    model = build(label).eval()
    with torch.no_grad():
        model(clip(label, seed=1))
        model.clean_activation_buffers()
        after_another = model(clip(label))
        model.clean_activation_buffers()
        torch.testing.assert_close(model(clip(label)), after_another, rtol=0, atol=0)
