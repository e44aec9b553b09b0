"""Rules that span keys, checked before any work starts."""

from pathlib import Path

from videobench.config.defaults import _C
from videobench.config.loading import CfgNode, ConfigError

DATASETS = ("kinetics",)
SAMPLING_RULES = (
    *("time", "native", "uniformer_decord", "slowfast_torchvision", "morphmlp_torchvision", "motionformer_pyav"),
    *("uniformer_pyav", "segments_sth", "segments_ssv2", "epic"),
)
PRECISIONS = ("fp32", "bf16", "fp16")
LOSSES = ("cross_entropy",)
METHODS = ("sgd", "adam", "adamw")


def check_config(cfg: CfgNode) -> None:
    """Raise one ConfigError that lists every rule the configuration breaks, with the keys and what to do."""
    problems = [*_counts(cfg), *_choices(cfg), *_views(cfg), *_schedule(cfg), *_paths(cfg)]
    if problems:
        raise ConfigError("this configuration cannot run:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _counts(cfg: CfgNode):
    if cfg.NUM_GPUS < 0:
        yield f"NUM_GPUS is {cfg.NUM_GPUS}; use 0 for the CPU or the number of GPUs per machine"
    if not 0 <= cfg.SHARD_ID < cfg.NUM_SHARDS:
        yield f"SHARD_ID is {cfg.SHARD_ID}, but NUM_SHARDS is {cfg.NUM_SHARDS}: it counts machines from 0"
    ranks = max(cfg.NUM_GPUS, 1)
    for key, enabled in (("TRAIN", cfg.TRAIN.ENABLE), ("TEST", cfg.TEST.ENABLE)):
        size = cfg[key].BATCH_SIZE
        if enabled and (size < 1 or size % ranks):
            below = size // ranks * ranks
            fits = f"{below} or {below + ranks}" if below > 0 else f"{ranks}"
            yield f"{key}.BATCH_SIZE is {size}, which does not divide by {ranks} (NUM_GPUS); use {fits}"
    for key in (
        *("LOG_PERIOD", "MODEL.NUM_CLASSES", "SOLVER.MAX_EPOCH", "TRAIN.EVAL_PERIOD", "TRAIN.CHECKPOINT_PERIOD"),
        *("DATA.NUM_FRAMES", "DATA.SAMPLING_RATE", "DATA.TARGET_FPS", "DATA.TRAIN_CROP_SIZE", "DATA.TEST_CROP_SIZE"),
    ):
        yield from _at_least_one(cfg, key)
    if cfg.DATA_LOADER.NUM_WORKERS < -1:
        yield f"DATA_LOADER.NUM_WORKERS is {cfg.DATA_LOADER.NUM_WORKERS}; use -1 (automatic), 0 or more"
    if not 0 <= cfg.DATA.MAX_FAILED_FRACTION < 1:
        yield f"DATA.MAX_FAILED_FRACTION is {cfg.DATA.MAX_FAILED_FRACTION}; use a share from 0 to below 1"
    if cfg.TEST.ALLOW_FAILED < 0:
        yield f"TEST.ALLOW_FAILED is {cfg.TEST.ALLOW_FAILED}; use 0 or the number of unreadable videos to accept"


def _at_least_one(cfg: CfgNode, key: str):
    node = cfg
    for part in key.split("."):
        node = node[part]
    if node < 1:
        yield f"{key} is {node}; it must be at least 1"


def _choices(cfg: CfgNode):
    rows = (
        ("TRAIN.DATASET", cfg.TRAIN.DATASET.lower(), DATASETS),
        ("TEST.DATASET", cfg.TEST.DATASET.lower(), DATASETS),
        ("DATA.SAMPLING_RULE", cfg.DATA.SAMPLING_RULE, SAMPLING_RULES),
        ("DATA.DECODING_BACKEND", cfg.DATA.DECODING_BACKEND, ("pyav",)),
        ("DATA.ENSEMBLE_METHOD", cfg.DATA.ENSEMBLE_METHOD, ("sum", "max")),
        ("TEST.SCORES", cfg.TEST.SCORES, ("softmax", "logits")),
        ("TEST.CHECKPOINT", cfg.TEST.CHECKPOINT, ("last", "best")),
        ("TRAIN.PRECISION", cfg.TRAIN.PRECISION, PRECISIONS),
        ("MODEL.LOSS_FUNC", cfg.MODEL.LOSS_FUNC, LOSSES),
        ("SOLVER.OPTIMIZING_METHOD", cfg.SOLVER.OPTIMIZING_METHOD, METHODS),
        ("SOLVER.NO_WEIGHT_DECAY", cfg.SOLVER.NO_WEIGHT_DECAY, ("published", "always")),
        ("SOLVER.LR_POLICY", cfg.SOLVER.LR_POLICY, ("cosine", "steps_with_relative_lrs")),
    )
    for key, value, known in rows:
        if value not in known:
            yield f"{key} is {value!r}; use {' or '.join(known)}"
    if cfg.TRAIN.PRECISION == "fp16" and cfg.NUM_GPUS == 0:
        yield "TRAIN.PRECISION fp16 needs a GPU (NUM_GPUS is 0); use bf16 or fp32 on the CPU"


def _views(cfg: CfgNode):
    data, test = cfg.DATA, cfg.TEST
    if test.NUM_ENSEMBLE_VIEWS < 1:
        yield f"TEST.NUM_ENSEMBLE_VIEWS is {test.NUM_ENSEMBLE_VIEWS}; a video needs at least one clip"
    if test.NUM_SPATIAL_CROPS not in (1, 3):
        yield f"TEST.NUM_SPATIAL_CROPS is {test.NUM_SPATIAL_CROPS}; use 1 (centre) or 3 (along the long side)"
    if not test.TOP_K or any(not isinstance(k, int) or k < 1 for k in test.TOP_K):
        yield f"TEST.TOP_K is {test.TOP_K}; use one or more numbers from 1"
    scales = data.TRAIN_JITTER_SCALES
    if len(scales) != 2 or not 1 <= scales[0] <= scales[1]:
        yield f"DATA.TRAIN_JITTER_SCALES is {scales}; use the smallest and the largest short side, as [256, 320]"
    else:
        if cfg.TRAIN.ENABLE and not data.TRAIN_JITTER_SCALES_RELATIVE and scales[0] < data.TRAIN_CROP_SIZE:
            yield (
                f"DATA.TRAIN_CROP_SIZE {data.TRAIN_CROP_SIZE} does not fit into frames with a short side of "
                f"{scales[0]} (DATA.TRAIN_JITTER_SCALES)"
            )
        one_crop = cfg.TRAIN.ENABLE or (cfg.TEST.ENABLE and test.NUM_SPATIAL_CROPS == 1)
        if one_crop and scales[0] < data.TEST_CROP_SIZE:
            yield (
                f"DATA.TEST_CROP_SIZE {data.TEST_CROP_SIZE} does not fit into frames with a short side of {scales[0]} "
                "(with one spatial crop, as in validation, the short side is the first of DATA.TRAIN_JITTER_SCALES)"
            )
    for key in ("TRAIN_JITTER_SCALES_RELATIVE", "TRAIN_JITTER_ASPECT_RELATIVE"):
        bounds = data[key]
        if bounds and (len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]):
            yield f"DATA.{key} is {bounds}; use [smallest, largest], above 0, or [] for none"
    if bool(data.TRAIN_JITTER_SCALES_RELATIVE) != bool(data.TRAIN_JITTER_ASPECT_RELATIVE):
        yield "DATA.TRAIN_JITTER_SCALES_RELATIVE and DATA.TRAIN_JITTER_ASPECT_RELATIVE go together: set both or none"
    pairs = data.FLIP_LABEL_PAIRS
    classes = [label for pair in pairs for label in pair] if all(isinstance(pair, list) for pair in pairs) else pairs
    if any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs) or len(set(classes)) != len(classes):
        yield f"DATA.FLIP_LABEL_PAIRS is {pairs}; use pairs of class numbers, each class once, as [[0, 1], [4, 5]]"
    elif any(not isinstance(label, int) or not 0 <= label < cfg.MODEL.NUM_CLASSES for label in classes):
        yield f"DATA.FLIP_LABEL_PAIRS is {pairs}; classes are 0 to {cfg.MODEL.NUM_CLASSES - 1}"
    channels = data.INPUT_CHANNEL_NUM[0] if data.INPUT_CHANNEL_NUM else 0
    if channels != 3:
        yield f"DATA.INPUT_CHANNEL_NUM is {data.INPUT_CHANNEL_NUM}; videos have [3] channels"
    for key in ("MEAN", "STD"):
        if len(data[key]) != 3 or (key == "STD" and min(data[key]) <= 0):
            yield f"DATA.{key} is {data[key]}; use one number per colour channel" + " above 0" * (key == "STD")


def _schedule(cfg: CfgNode):
    solver = cfg.SOLVER
    if not cfg.TRAIN.ENABLE:
        return
    steps = solver.STEPS
    if solver.LR_POLICY == "steps_with_relative_lrs" and (
        not steps or steps[0] != 0 or steps != sorted(set(steps)) or len(steps) != len(solver.LRS)
    ):
        yield f"SOLVER.STEPS {steps} begins with 0, rises, and has one SOLVER.LRS each, which is {solver.LRS}"
    if solver.WARMUP_EPOCHS < 0:
        yield f"SOLVER.WARMUP_EPOCHS is {solver.WARMUP_EPOCHS}; use 0 for no warm-up"
    if len(solver.BETAS) != 2 or not all(0 <= beta < 1 for beta in solver.BETAS):
        yield f"SOLVER.BETAS is {solver.BETAS}; use two numbers from 0 to below 1"
    if solver.LR_POLICY == "cosine" and solver.COSINE_END_LR >= solver.BASE_LR:
        yield f"SOLVER.COSINE_END_LR {solver.COSINE_END_LR} must be below SOLVER.BASE_LR {solver.BASE_LR}"
    if solver.COSINE_AFTER_WARMUP and solver.WARMUP_EPOCHS >= solver.MAX_EPOCH:
        yield f"SOLVER.WARMUP_EPOCHS {solver.WARMUP_EPOCHS} leaves nothing of SOLVER.MAX_EPOCH {solver.MAX_EPOCH}"
    if solver.CLIP_GRAD_L2NORM is not None and not solver.CLIP_GRAD_L2NORM > 0:
        yield f"SOLVER.CLIP_GRAD_L2NORM is {solver.CLIP_GRAD_L2NORM}; use a norm above 0, or None for no clipping"
    if solver.OPTIMIZING_METHOD == "sgd" and solver.NESTEROV and (solver.MOMENTUM <= 0 or solver.DAMPENING != 0):
        yield "SOLVER.NESTEROV needs SOLVER.MOMENTUM above 0 and SOLVER.DAMPENING 0"


def _paths(cfg: CfgNode):
    data = cfg.DATA
    if not data.PATH_TO_DATA_DIR:
        yield "DATA.PATH_TO_DATA_DIR is empty; name the folder with the list files train.csv, val.csv and test.csv"
    for key, value in (
        ("DATA.PATH_TO_DATA_DIR", data.PATH_TO_DATA_DIR),
        ("DATA.PATH_PREFIX", data.PATH_PREFIX),
        ("DATA.CLASS_NAMES", data.CLASS_NAMES),
        ("TRAIN.CHECKPOINT_FILE_PATH", cfg.TRAIN.CHECKPOINT_FILE_PATH),
        ("TEST.CHECKPOINT_FILE_PATH", cfg.TEST.CHECKPOINT_FILE_PATH),
    ):
        if value and not Path(value).exists():
            yield f"{key}: {value} does not exist"
    if not data.PATH_LABEL_SEPARATOR:
        yield f"DATA.PATH_LABEL_SEPARATOR is empty; the default is {_C.DATA.PATH_LABEL_SEPARATOR!r}"
