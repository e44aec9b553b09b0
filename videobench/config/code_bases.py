"""What the published code bases do where a YAML file of theirs says nothing, or means another thing than it does here.

A file is recognised by the keys that only such files have. Its gaps are then filled as its code base fills them, so
that it gives the recipe that it gave there.
"""

from collections.abc import Mapping
from typing import Any

# Where a SlowFast-like code base has another default than ours.
_SLOWFAST = {
    "MODEL.MODEL_NAME": "SlowFast",  # which is not built here: better refused than another network in its place
    "DATA.TEST_CROP_SIZE": 256,
    "DATA.USE_OFFSET_SAMPLING": False,
    "SOLVER.OPTIMIZING_METHOD": "sgd",
}
# UniFormer and MorphMLP always train in fp16, always clip, and sum what the network returns.
_UNIFORMER = _SLOWFAST | {"TRAIN.PRECISION": "fp16", "SOLVER.CLIP_GRAD_L2NORM": 20.0, "TEST.SCORES": "logits"}

DEFAULTS: dict[str, dict[str, Any]] = {
    "UniFormer": _UNIFORMER,
    "MorphMLP": _UNIFORMER,
    "Motionformer": _SLOWFAST,
    "SlowFast": _SLOWFAST,
    "mvit": {
        "NUM_GPUS": 8,
        "RNG_SEED": 0,
        "MODEL.MODEL_NAME": "MViT",
        "MODEL.NUM_CLASSES": 1000,
        "MODEL.DROPOUT_RATE": 0.0,
        "MODEL.LOSS_FUNC": "soft_cross_entropy",
        "MVIT.CLS_EMBED_ON": False,
        "MVIT.DIM_MUL_IN_ATT": True,
        "MVIT.PATCH_KERNEL": [7, 7],
        "MVIT.PATCH_STRIDE": [4, 4],
        "MVIT.PATCH_PADDING": [3, 3],
        "MVIT.POOL_KVQ_KERNEL": [3, 3],
        "MVIT.REL_POS_SPATIAL": True,
        "MVIT.RESIDUAL_POOLING": True,
        "MVIT.USE_ABS_POS": False,
        "MVIT.ZERO_DECAY_POS_CLS": False,
        "DATA.NUM_FRAMES": 1,
        "DATA.SAMPLING_RATE": 1,
        "DATA.MEAN": [0.485, 0.456, 0.406],
        "DATA.STD": [0.229, 0.224, 0.225],
        "AUG.ENABLE": True,
        "AUG.AA_TYPE": "rand-m9-n6-mstd0.5-inc1",
        "MIXUP.ENABLE": True,
        "TRAIN.DATASET": "imagenet",
        "TRAIN.BATCH_SIZE": 256,
        "TEST.ENABLE": False,
        "TEST.DATASET": "imagenet",
        "TEST.BATCH_SIZE": 64,
        "TEST.NUM_ENSEMBLE_VIEWS": 1,
        "TEST.NUM_SPATIAL_CROPS": 1,
        "SOLVER.BASE_LR": 0.00025,
        "SOLVER.OPTIMIZING_METHOD": "sgd",
        "SOLVER.COSINE_AFTER_WARMUP": True,
        "SOLVER.COSINE_END_LR": 1e-6,
        "SOLVER.WARMUP_EPOCHS": 70.0,
        "SOLVER.WARMUP_START_LR": 1e-8,
        "SOLVER.WEIGHT_DECAY": 0.05,
        "SOLVER.ZERO_WD_1D_PARAM": True,
    },
}

# Which frames of a Kinetics video a code base takes: by its reader, or whatever its reader ("").
_KINETICS_RULES = {
    "UniFormer": {"decord": "uniformer_decord", "torchvision": "slowfast_torchvision", "": "uniformer_pyav"},
    "MorphMLP": {"decord": "uniformer_decord", "": "morphmlp_torchvision"},
    "Motionformer": {"": "motionformer_pyav"},
    "SlowFast": {"": "slowfast_torchvision"},
}
_AREA_FILTER = ("slowfast_torchvision", "morphmlp_torchvision")
_SEGMENT_RULES = {"sth": "segments_sth", "hmdb": "native", "ssv2": "segments_ssv2", "epickitchens": "epic"}
# What a head does to its outputs in a test, and what is therefore summed over the views.
_SCORES = {"sigmoid": "sigmoid", "none": "logits"}
# Keys that act here, and that a code base takes without reading them, or not for these networks (Motionformer scales
# rates before it reads the file).
_UNREAD = {
    "UniFormer": ("BN.NORM_TYPE",),
    "MorphMLP": ("BN.NORM_TYPE", "TRAIN.MIXED_PRECISION", "SOLVER.CLIP_GRAD_VAL", "SOLVER.CLIP_GRAD_L2NORM"),
    "Motionformer": ("DATA.ENSEMBLE_METHOD", "SOLVER.BASE_LR_SCALE_NUM_SHARDS"),
}


def code_base(settings: Mapping[str, Any]) -> str | None:
    """The code base that a YAML file, given by the full names of its keys, was written for; None for our own files."""
    arch, name = settings.get("MODEL.ARCH"), settings.get("MODEL.MODEL_NAME")
    if arch is not None:
        families = {"uniformer": "UniFormer", "morph": "MorphMLP"}
        return "Motionformer" if name == "VisionTransformer" else families.get(str(arch), "SlowFast")
    # mvit, for images alone, has no ARCH, and its files leave the name of the network to its defaults.
    images = _dataset({**DEFAULTS["mvit"], **settings}) == "imagenet"
    return "mvit" if name is None and images and any(key.startswith("MVIT.DIM_MUL") for key in settings) else None


def without_effect(settings: Mapping[str, Any], base: str) -> list[str]:
    """Keys that a file of a code base sets, that act here, and that did nothing there."""
    keys = list(_UNREAD.get(base, ()))
    augmented_crops = base in ("UniFormer", "MorphMLP") or (base == "SlowFast" and _dataset(settings) == "ssv2")
    if augmented_crops and not _is_true(settings.get("AUG.ENABLE")) and _dataset(settings) != "imagenet":
        keys += ["DATA.TRAIN_JITTER_SCALES_RELATIVE", "DATA.TRAIN_JITTER_ASPECT_RELATIVE"]
    if base == "Motionformer" and not _is_true(settings.get("SOLVER.USE_MIXED_PRECISION")):
        keys.append("SOLVER.CLIP_GRAD")  # its gradient scaler clips
    exempt = "MVIT.ZERO_DECAY_POS_CLS"
    if base == "mvit" and _is_true(settings.get(exempt)) and not 0 < _number(settings.get("SOLVER.LAYER_DECAY")) < 1:
        keys.append(exempt)  # looked for among names of modules, except with layer decay
    return [key for key in keys if key in settings]


def as_published(settings: Mapping[str, Any], base: str) -> dict[str, Any]:
    """The settings of a file of a code base, with what that code base does beyond them.

    Some things depend on the data set: which frames a clip takes, the channel order (frames of folders were read as
    BGR, and REVERSE_INPUT_CHANNEL made RGB of them; here frames are RGB, and it makes BGR), where a single crop lies,
    and how frames are made smaller (one reader used an area filter, the others bilinear interpolation).
    """
    inert = without_effect(settings, base)
    filled = {**DEFAULTS[base], **{key: value for key, value in settings.items() if key not in inert}}
    dataset = _dataset(filled)
    if dataset == "kinetics":
        rules = _KINETICS_RULES[base]
        filled.setdefault("DATA.SAMPLING_RULE", rules.get(str(filled.get("DATA.DECODING_BACKEND")), rules[""]))
        filled.setdefault("DATA.ANTIALIAS", filled["DATA.SAMPLING_RULE"] in _AREA_FILTER)
    elif dataset in _SEGMENT_RULES:
        filled.setdefault("DATA.ANTIALIAS", False)
        filled.setdefault("DATA.SAMPLING_RULE", _SEGMENT_RULES[dataset])
        filled["DATA.REVERSE_INPUT_CHANNEL"] = not _is_true(filled.get("DATA.REVERSE_INPUT_CHANNEL"))
        if dataset != "epickitchens":
            filled.setdefault("TEST.SINGLE_CROP", "left")
    elif dataset == "imagenet":
        for key, value in (("NUM_ENSEMBLE_VIEWS", 1), ("NUM_SPATIAL_CROPS", 1)):
            filled.setdefault(f"TEST.{key}", value)
    if base != "UniFormer":
        # Their launchers overwrote the number with that of the command line; its launcher kept it.
        filled.pop("NUM_SHARDS", None)
    if base in ("SlowFast", "mvit") and (scores := _SCORES.get(str(filled.get("MODEL.HEAD_ACT")))):
        filled.setdefault("TEST.SCORES", scores)
    if base == "Motionformer":
        _choose_loss(filled)
    return filled


def _choose_loss(filled: dict[str, Any]) -> None:
    """Motionformer mixes where one of its alphas is above 0, and SMOOTHING is that of the mixed targets then."""
    smoothing = filled.get("SOLVER.SMOOTHING", 0.0)
    if max(_number(filled.get(f"MIXUP.{key}")) for key in ("MIXUP_ALPHA", "CUTMIX_ALPHA")) > 0:
        filled |= {
            "MIXUP.ENABLE": True,
            "MIXUP.ALPHA": filled.pop("MIXUP.MIXUP_ALPHA", 0.0),
            "MIXUP.CUTMIX_ALPHA": filled.get("MIXUP.CUTMIX_ALPHA", 0.0),
            "MIXUP.LABEL_SMOOTH_VALUE": smoothing,
            "SOLVER.SMOOTHING": 0.0,
            "MODEL.LOSS_FUNC": "soft_cross_entropy",
        }
    elif _number(smoothing) > 0:
        filled["MODEL.LOSS_FUNC"] = "cross_entropy"


def _dataset(settings: Mapping[str, Any]) -> str:
    return str(settings.get("TRAIN.DATASET", settings.get("TEST.DATASET", "kinetics"))).lower()


def _is_true(value: Any) -> bool:
    return str(value).lower() == "true"


def _number(value: Any) -> float:
    """A number as YAML has it (1e-4 is text there); 0 for what is none, of which the merge says more."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
