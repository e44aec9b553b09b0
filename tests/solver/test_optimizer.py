"""Parameter groups and optimizers against the reference numbers and their formulas."""

import copy
import math

import golden
import pytest
import torch
from tiny_networks import NETWORKS, tiny
from torch import nn

from videobench.config import ConfigError, load_config
from videobench.config.checks import check_config
from videobench.models import VideoModel, build_model
from videobench.solver.optimizer import (
    build_optimizer,
    describe_groups,
    freeze_layers,
    parameter_groups,
)

_FAMILIES = ("UNIFORMER.", "MORPH.", "MVIT.", "VIT.")


class Named(VideoModel):
    """Parameters of given names and shapes, those of ``stem_bn`` in a batch norm; layers as MViT counts them."""

    def __init__(self, shapes: dict, *, exempt: set[str] = frozenset(), heeds: bool = False) -> None:
        super().__init__()
        self.exempt, self.heeds_no_weight_decay = set(exempt), heeds
        for name, shape in shapes.items():
            *path, leaf = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.BatchNorm3d(8) if part == "stem_bn" else nn.Module())
                module = getattr(module, part)
            if not hasattr(module, leaf):
                module.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))

    def no_weight_decay(self) -> set[str]:
        return self.exempt

    def layer_groups(self) -> list[list[str]]:
        depth = len(list(self.blocks.children()))
        layers = [[] for _ in range(depth + 2)]
        for name, _ in self.named_parameters():
            if name.startswith("blocks."):
                layers[1 + int(name.split(".")[1])].append(name)
            else:
                layers[0 if name.startswith(("cls_token", "pos_embed", "patch_embed")) else depth + 1].append(name)
        return layers


def names_of(model: nn.Module, groups: list[dict]) -> dict[str, list[str]]:
    """Parameter names of every group, sorted, by the group's name."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: sorted(known[id(p)] for p in group["params"]) for group in groups}


def test_members_of_groups_equal_the_references():
    table = golden.table("schedules")
    shapes = table["toy_network"]["shapes"]
    compared = 0
    for entry in table["weight_decay_groups"]:
        if entry["repository"] == "mvit" and not entry["wrapped_for_several_gpus"]:
            continue  # on one GPU it compares the list with names of modules, and only this toy has such a module
        # Networks name their exempt parameters in full; SlowFast looks for the listed words in every name.
        exempt = {name for name in shapes if any(word in name for word in entry["no_weight_decay_list"])}
        model = Named(shapes, exempt=exempt, heeds=entry["repository"] == "SlowFast")
        words = ["SOLVER.ZERO_WD_1D_PARAM", bool(entry["ZERO_WD_1D_PARAM"]), "SOLVER.WEIGHT_DECAY", 0.05]
        groups = parameter_groups(model, load_config([], words))
        names = names_of(model, groups)
        assert names["decayed"] == entry["decayed"], entry
        assert sorted(names["batch_norm"] + names.get("not_decayed", [])) == entry["not_decayed"], entry
        assert {g["name"]: g["weight_decay"] for g in groups if g["weight_decay"]} == {"decayed": 0.05}
        assert all(group["lr_scale"] == 1.0 for group in groups)
        compared += 1
    assert compared == 22


def test_layer_decay_equals_the_references():
    table = golden.table("schedules")
    one_block = {n: s for n, s in table["toy_network"]["shapes"].items() if not n.startswith(("blocks.1", "stem_bn"))}
    for entry in table["layer_decay"]:
        shapes = {name: shape for name, shape in one_block.items() if not name.startswith("blocks.")}
        for block in range(entry["depth"]):
            shapes |= {n.replace(".0.", f".{block}.", 1): s for n, s in one_block.items() if n.startswith("blocks.")}
        exempt = {name for name in shapes if name.split(".")[-1] in entry["no_weight_decay_list"]}
        model = Named(shapes, exempt=exempt, heeds=True)
        words = ["SOLVER.ZERO_WD_1D_PARAM", True, "SOLVER.LAYER_DECAY", entry["LAYER_DECAY"]]
        groups = parameter_groups(model, load_config([], words))
        names = names_of(model, groups)
        scales = {name: g["lr_scale"] for g in groups for name in names[g["name"]]}
        for name, scale in entry["scale"].items():
            if entry["repository"] == "mvit" and name == "pos_embed_spatial":
                continue  # counts with the head there; its image networks have no such table
            found = {value for other, value in scales.items() if f"{other}.".startswith(f"{name}.")}
            assert len(found) == 1
            assert found.pop() == pytest.approx(scale, rel=1e-12), (entry["repository"], name)
        free = {name for g in groups if not g["weight_decay"] for name in names[g["name"]]}
        assert {n for n in free if not n.startswith("blocks.") or n.startswith("blocks.0.")} == set(
            entry["not_decayed"]
        )


REAL = (
    *("uniformer_s16x4_k400", "uniformer_b16x4_k400", "morphmlp_k400_mlp_s16x4", "morphmlp_k400_mlp_b32x4"),
    *("motionformer_k400_motionformer_224_16x4", "mvitv2_t_in1k"),
)


@pytest.mark.parametrize("row", REAL)
def test_parameter_groups_of_whole_networks_equal_the_references(row):
    reference = golden.table("schedules")["real_networks"]["groups"]
    assert set(reference) == set(REAL)
    entry = next(e for e in golden.table("zoo")["entries"] if e["id"] == row)
    recipe = {**entry["defaults_in_effect"], **entry["recipe"]}
    left_out = ("PRETRAIN", "APPROX_ATTN_DIM")
    wanted = [key for key in recipe if key.startswith(_FAMILIES) and not any(word in key for word in left_out)]
    more = ("SOLVER.WEIGHT_DECAY", "SOLVER.ZERO_WD_1D_PARAM", "BN.WEIGHT_DECAY", "SOLVER.LAYER_DECAY")
    more += ("MODEL.MODEL_NAME", "MODEL.NUM_CLASSES", "DATA.NUM_FRAMES", "DATA.TRAIN_CROP_SIZE")
    wanted += [key for key in more if key in recipe]
    cfg = load_config([], [word for key in wanted for word in (key, recipe[key])])
    with torch.device("meta"):
        model = build_model(cfg)
    groups = parameter_groups(model, cfg)
    if row.startswith("motionformer"):
        # Parameters without effect on the logits are not trained here; the published optimizer carried them along.
        groups[0]["params"] += [p for p in model.parameters() if not p.requires_grad]
    ours = {g["name"]: (g["weight_decay"], len(g["params"]), sum(p.numel() for p in g["params"])) for g in groups}
    expected = [(g["weight_decay"], g["tensors"], g["elements"]) for g in reference[row] if g["tensors"]]
    assert [ours[name] for name in ("batch_norm", "decayed", "not_decayed") if name in ours] == expected


@pytest.mark.parametrize("label", NETWORKS)
def test_layer_decay_covers_every_family(label):
    model = tiny(label)
    words = ["SOLVER.LAYER_DECAY", 0.5, "SOLVER.ZERO_WD_1D_PARAM", True]
    groups = parameter_groups(model, load_config([], words))
    assert sum(len(g["params"]) for g in groups) == sum(p.requires_grad for p in model.parameters())
    names = names_of(model, groups)
    head = {g["lr_scale"] for g in groups if any(map(model.is_head, names[g["name"]]))}
    assert max(head) == 1.0
    assert min(g["lr_scale"] for g in groups) == 0.5 ** (len(model.layer_groups()) - 1)


class Toy(VideoModel):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1)
        self.norm = nn.BatchNorm3d(4)
        self.head = nn.Linear(4, 2)

    def layer_groups(self) -> list[list[str]]:
        return [["conv.weight", "conv.bias"], ["norm.weight", "norm.bias"], ["head.weight", "head.bias"]]


def test_every_parameter_is_in_one_group():
    model = Toy()
    cfg = load_config([], ["SOLVER.ZERO_WD_1D_PARAM", True, "SOLVER.WEIGHT_DECAY", 0.3, "BN.WEIGHT_DECAY", 0.1])
    groups = {g["name"]: g for g in parameter_groups(model, cfg)}
    assert {n: (g["weight_decay"], len(g["params"])) for n, g in groups.items()} == {
        "batch_norm": (0.1, 2),
        "decayed": (0.3, 2),
        "not_decayed": (0.0, 2),
    }
    assert describe_groups(groups.values()) == (
        "8 batch_norm (weight decay 0.1); 20 decayed (weight decay 0.3); 6 not_decayed (weight decay 0)"
    )


def test_the_summary_of_layered_groups_is_one_line():
    groups = parameter_groups(Toy(), load_config([], ["SOLVER.LAYER_DECAY", 0.5, "SOLVER.WEIGHT_DECAY", 0.3]))
    assert [g["name"] for g in groups] == ["layer 0, decayed", "layer 1, batch_norm", "layer 2, decayed"]
    assert describe_groups(groups) == (
        "26 decayed (weight decay 0.3); 8 batch_norm (weight decay 0); "
        "learning rates from 0.25 times the scheduled one to all of it"
    )


@pytest.mark.parametrize(("switch", "method"), [(True, "published"), (False, "published"), (True, "always")])
def test_named_parameters_are_exempt_where_the_published_training_heeds_them(switch, method):
    small = ["MVIT.DEPTH", 1, "MVIT.EMBED_DIM", 8, "MVIT.PATCH_PADDING", [1, 3, 3], "DATA.TRAIN_CROP_SIZE", 32]
    words = ["MODEL.MODEL_NAME", "MViT", "MVIT.ZERO_DECAY_POS_CLS", switch, "SOLVER.NO_WEIGHT_DECAY", method]
    cfg = load_config([], [*small, *words, "MVIT.REL_POS_SPATIAL", True])
    model = build_model(cfg)
    assert bool(model.no_weight_decay()) is switch
    assert set(names_of(model, parameter_groups(model, cfg)).get("not_decayed", [])) == model.no_weight_decay()


@pytest.mark.parametrize(("method", "free"), [("published", 0), ("always", 3)])
def test_the_list_that_the_published_code_never_read_is_one_key_away(method, free):
    model = tiny("motionformer")
    groups = names_of(model, parameter_groups(model, load_config([], ["SOLVER.NO_WEIGHT_DECAY", method])))
    assert len(groups.get("not_decayed", [])) == free


@pytest.mark.parametrize(("method", "tables"), [("published", False), ("always", True)])
def test_layer_decay_exempts_tables_inside_blocks_only_on_request(method, tables):
    model = tiny("mvit_video", zero_decay_pos_cls=True)
    cfg = load_config([], ["SOLVER.NO_WEIGHT_DECAY", method, "SOLVER.LAYER_DECAY", 0.8])
    groups = parameter_groups(model, cfg)
    free = {name for g in groups if not g["weight_decay"] for name in names_of(model, groups)[g["name"]]}
    assert "cls_token" in free
    assert ("blocks.0.attn.rel_pos_h" in free) is tables


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("sgd", torch.optim.SGD),
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("mt_adamw", torch.optim.AdamW),
    ],
)
def test_optimizers_by_name(method, kind):
    cfg = load_config([], ["SOLVER.OPTIMIZING_METHOD", method, "SOLVER.MOMENTUM", 0.7, "SOLVER.BETAS", [0.8, 0.95]])
    optimizer = build_optimizer(Toy(), cfg)
    assert type(optimizer) is kind
    options = optimizer.param_groups[0]
    assert options.get("momentum", 0.7) == 0.7
    assert options.get("betas", (0.8, 0.95)) == (0.8, 0.95)
    assert options.get("eps", 1e-8) == 1e-8


# Update rules written out for one number: Loshchilov and Hutter (2019), Kingma and Ba (2015), Sutskever et al. (2013).
def adamw(w, g, s, t, lr, wd):
    s["m"], s["v"] = 0.9 * s["m"] + 0.1 * g, 0.999 * s["v"] + 0.001 * g * g
    return w * (1 - lr * wd) - lr * (s["m"] / (1 - 0.9**t)) / (math.sqrt(s["v"] / (1 - 0.999**t)) + 1e-8)


def adam(w, g, s, t, lr, wd):
    return adamw(w, g + wd * w, s, t, lr, 0.0)


def sgd(w, g, s, t, lr, wd):
    g += wd * w
    s["m"] = g if t == 1 else 0.9 * s["m"] + g
    return w - lr * (g + 0.9 * s["m"])


def rmsprop(w, g, s, t, lr, wd):
    g += wd * w
    s["v"] = 0.9 * (1.0 if t == 1 else s["v"]) + 0.1 * g * g
    s["m"] = 0.9 * s["m"] + lr * g / math.sqrt(s["v"] + 1.0)
    return w - s["m"]


@pytest.mark.parametrize("rule", [adamw, adam, sgd, rmsprop], ids=lambda rule: rule.__name__)
def test_optimizers_follow_their_formulas(rule):
    torch.manual_seed(0)
    model = Toy().double()
    cfg = load_config([], ["SOLVER.OPTIMIZING_METHOD", rule.__name__, "SOLVER.WEIGHT_DECAY", 0.3])
    optimizer = build_optimizer(model, cfg)
    want, states = model.head.weight.flatten().tolist(), [{"m": 0.0, "v": 0.0} for _ in range(8)]
    for step in range(1, 6):
        lr = 0.1 / step
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        gradient = model.head.weight.grad.flatten().tolist()
        optimizer.param_groups[1]["lr"] = lr
        optimizer.step()
        want = [rule(w, g, s, step, lr, 0.3) for w, g, s in zip(want, gradient, states, strict=True)]
    torch.testing.assert_close(
        model.head.weight.detach().flatten(), torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("method", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_restored_optimizer_goes_on_bit_for_bit(method):
    torch.manual_seed(0)
    cfg = load_config([], ["SOLVER.OPTIMIZING_METHOD", method, "SOLVER.BASE_LR", 0.01])
    model = Toy()
    gradients = [[torch.randn_like(p) for p in model.parameters()] for _ in range(4)]

    def go(model, optimizer, some):
        for step in some:
            for parameter, gradient in zip(model.parameters(), step, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()

    optimizer = build_optimizer(model, cfg)
    go(model, optimizer, gradients[:2])
    again, state = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    restored = build_optimizer(again, cfg)
    restored.load_state_dict(state)
    go(model, optimizer, gradients[2:])
    go(again, restored, gradients[2:])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ConfigError, match="one of sgd, adam, adamw, mt_adamw, rmsprop, got 'lamb'"):
        build_optimizer(Toy(), load_config([], ["SOLVER.OPTIMIZING_METHOD", "lamb"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SOLVER.LAYER_DECAY", 0.0], "SOLVER.LAYER_DECAY is 0.0"),
        (["SOLVER.FREEZE_LAYERS", -2], "SOLVER.FREEZE_LAYERS is -2"),
        (["SOLVER.CLIP_GRAD_VAL", 0.0], "SOLVER.CLIP_GRAD_VAL is 0.0"),
        (["SOLVER.OPTIMIZING_METHOD", "rmsprop", "SOLVER.RMSPROP_EPSILON", 0.0], "SOLVER.RMSPROP_EPSILON 0.0 above 0"),
        (["TRAIN.EMA_DECAY", 1.0], "TRAIN.EMA_DECAY is 1.0"),
        (["TRAIN.EMA_DEVICE", "disk"], "TRAIN.EMA_DEVICE is 'disk'"),
        (["BN.USE_PRECISE_STATS", True, "BN.NUM_BATCHES_PRECISE", 0], "BN.NUM_BATCHES_PRECISE is 0"),
        (["BN.USE_PRECISE_STATS", True, "MODEL.FROZEN_BN", True], "switch one of them off"),
    ],
)
def test_values_that_make_no_sense_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        check_config(load_config([], words))


@pytest.mark.parametrize(("count", "trained"), [(0, 6), (1, 4), (2, 2), (3, 2), (-1, 2)])
def test_leading_layers_are_frozen_but_never_the_classifier(count, trained):
    model = Toy()
    frozen = freeze_layers(model, count)
    left = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(left) == trained
    assert not set(left) & set(frozen)
    assert {"head.weight", "head.bias"} <= set(left)
    assert sum(len(g["params"]) for g in parameter_groups(model, load_config())) == trained


@pytest.mark.parametrize("label", NETWORKS)
def test_only_the_classifier_of_a_network_can_be_trained(label):
    model = tiny(label)
    freeze_layers(model, -1)
    left = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert left == {name for name, _ in model.named_parameters() if model.is_head(name)}


def test_more_layers_than_there_are_cannot_be_frozen():
    with pytest.raises(ConfigError, match=r"SOLVER\.FREEZE_LAYERS is 4; this network has 3 layers"):
        freeze_layers(Toy(), 4)
    model = Toy().requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter of the network is trained"):
        build_optimizer(model, load_config())
