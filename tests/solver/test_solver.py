"""Learning rates, parameter groups and losses against the reference numbers."""

import golden
import pytest
import torch
from torch import nn

from videobench.config import ConfigError, load_config
from videobench.models import VideoModel, build_model
from videobench.solver.losses import training_loss
from videobench.solver.optimizer import build_optimizer, parameter_groups
from videobench.solver.schedule import learning_rate, shard_scale


def solver_config(entry: dict):
    words = [w for key, value in entry["solver"].items() for w in (f"SOLVER.{key}", value)]
    return load_config([], [*words, "NUM_SHARDS", entry["num_shards"]])


def test_schedules_equal_the_references():
    entries = golden.table("schedules")["schedules"]
    assert len(entries) > 20
    for entry in entries:
        cfg = solver_config(entry)
        # Motionformer's switch never acts: its code scales the defaults before it reads the YAML.
        scale = 1.0 if entry["repository"] == "Motionformer" else shard_scale(cfg)
        for epoch, lr in entry["points"]:
            assert learning_rate(cfg.SOLVER, epoch, scale) == pytest.approx(lr, rel=1e-9), (entry["name"], epoch)


@pytest.mark.parametrize("row", ["uniformer_s16x4_k400", "morphmlp_k400_mlp_s16x4", "mvitv2_t_in1k"])
def test_parameter_groups_of_whole_networks_equal_the_references(row):
    entry = next(e for e in golden.table("zoo")["entries"] if e["id"] == row)
    recipe = {**entry["defaults_in_effect"], **entry["recipe"]}
    wanted = [key for key in recipe if key.startswith(("UNIFORMER.", "MORPH.", "MVIT.")) and "PRETRAIN" not in key]
    more = ("SOLVER.WEIGHT_DECAY", "SOLVER.ZERO_WD_1D_PARAM", "BN.WEIGHT_DECAY")
    more += ("MODEL.MODEL_NAME", "MODEL.NUM_CLASSES", "DATA.NUM_FRAMES", "DATA.TRAIN_CROP_SIZE")
    wanted += [key for key in more if key in recipe]
    cfg = load_config([], [word for key in wanted for word in (key, recipe[key])])
    with torch.device("meta"):
        model = build_model(cfg)
    ours = {
        g["name"]: (g["weight_decay"], len(g["params"]), sum(p.numel() for p in g["params"]))
        for g in parameter_groups(model, cfg)
    }
    reference = golden.table("schedules")["real_networks"]["groups"][row]
    expected = [(g["weight_decay"], g["tensors"], g["elements"]) for g in reference]
    assert [ours[name] for name in ("batch_norm", "decayed", "not_decayed") if name in ours] == expected


class Toy(VideoModel):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1)
        self.norm = nn.BatchNorm3d(4)
        self.head = nn.Linear(4, 2)


def test_every_parameter_is_in_one_group():
    model = Toy()
    cfg = load_config([], ["SOLVER.ZERO_WD_1D_PARAM", True, "SOLVER.WEIGHT_DECAY", 0.3, "BN.WEIGHT_DECAY", 0.1])
    groups = {g["name"]: g for g in parameter_groups(model, cfg)}
    assert {n: (g["weight_decay"], len(g["params"])) for n, g in groups.items()} == {
        "batch_norm": (0.1, 2),
        "decayed": (0.3, 2),
        "not_decayed": (0.0, 2),
    }


@pytest.mark.parametrize(
    ("method", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_optimizers_by_name(method, kind):
    cfg = load_config([], ["SOLVER.OPTIMIZING_METHOD", method, "SOLVER.MOMENTUM", 0.7, "SOLVER.BETAS", [0.8, 0.95]])
    optimizer = build_optimizer(Toy(), cfg)
    assert type(optimizer) is kind
    options = optimizer.param_groups[0]
    assert options.get("momentum", 0.7) == 0.7
    assert options.get("betas", (0.8, 0.95)) == (0.8, 0.95)


@pytest.mark.parametrize(("switch", "method"), [(True, "published"), (False, "published"), (True, "always")])
def test_named_parameters_are_exempt_where_the_published_training_heeds_them(switch, method):
    small = ["MVIT.DEPTH", 1, "MVIT.EMBED_DIM", 8, "MVIT.PATCH_PADDING", [1, 3, 3], "DATA.TRAIN_CROP_SIZE", 32]
    words = ["MODEL.MODEL_NAME", "MViT", "MVIT.ZERO_DECAY_POS_CLS", switch, "SOLVER.NO_WEIGHT_DECAY", method]
    model = build_model(load_config([], [*small, *words]))
    assert model.heeds_no_weight_decay
    assert bool(model.no_weight_decay()) is switch
    groups = {g["name"]: g["params"] for g in parameter_groups(model, load_config(), model.no_weight_decay())}
    free = {id(p) for p in groups.get("not_decayed", [])}
    assert {n for n, p in model.named_parameters() if id(p) in free} == model.no_weight_decay()


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ConfigError, match="one of sgd, adam, adamw, got 'lamb'"):
        build_optimizer(Toy(), load_config([], ["SOLVER.OPTIMIZING_METHOD", "lamb"]))


def test_the_loss_of_several_heads_is_their_mean():
    torch.manual_seed(0)
    verb, noun, labels = torch.randn(4, 3), torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    parts = [training_loss("cross_entropy", x, labels) for x in (verb, noun)]
    assert torch.equal(training_loss("cross_entropy", {"verb": verb, "noun": noun}, labels), sum(parts) / 2)
    both = {"verb": labels, "noun": labels.flip(0)}
    flipped = training_loss("cross_entropy", noun, labels.flip(0))
    assert torch.equal(training_loss("cross_entropy", {"verb": verb, "noun": noun}, both), (parts[0] + flipped) / 2)
