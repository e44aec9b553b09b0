"""Rules that span keys, checked before any work starts."""

import re
from pathlib import Path

from videobench.config.defaults import _C
from videobench.config.loading import CfgNode, ConfigError

# Lists of videos, frame folders, actions, pictures, and videos in class folders.
DATASETS = (
    *("kinetics", "ucf101", "sth", "ssv2", "hmdb", "epickitchens"),
    *("imagenet", "image_folder", "video_folder"),
)
#: Those whose records are single pictures.
PICTURES = ("imagenet", "image_folder")
SAMPLING_RULES = (
    *("auto", "time", "native", "uniformer_decord", "slowfast_torchvision", "morphmlp_torchvision"),
    *("motionformer_pyav", "uniformer_pyav", "segments_sth", "segments_ssv2", "epic"),
)
_TIMELESS = ("auto", "native", "uniformer_decord", "segments_sth", "segments_ssv2")
PRECISIONS = ("fp32", "bf16", "fp16")
# What timm's RandAugment and AutoAugment read, less what they would skip in silence.
_AA_TYPE = re.compile(
    r"rand(-(m|n|mmax|inc)\d+|-(mstd|p)\d+(\.\d+)?|-t(weights|3aw?))*|(v0r?|originalr?|3a)(-mstd\d+(\.\d+)?)?"
)
LOSSES = ("cross_entropy", "soft_cross_entropy", "bce", "bce_logit")
METHODS = ("sgd", "adam", "adamw", "mt_adamw", "rmsprop")


def local_ranks(cfg: CfgNode) -> int:
    """Ranks on every machine: one per GPU, or NUM_CPU_RANKS without GPUs."""
    return cfg.NUM_GPUS or cfg.NUM_CPU_RANKS


def check_config(cfg: CfgNode) -> None:
    """Raise one ConfigError that lists every rule the configuration breaks, with the keys and what to do."""
    rules = (
        *(_counts, _choices, _sharding, _cuda_graphs, _data_sets, _views, _pixels),
        *(_schedule, _augmentation, _losses, _paths),
    )
    problems = [problem for rule in rules for problem in rule(cfg)]
    if problems:
        raise ConfigError("this configuration cannot run:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _counts(cfg: CfgNode):
    if cfg.RNG_SEED < 0:
        yield f"RNG_SEED is {cfg.RNG_SEED}; use 0 or more"
    if cfg.NUM_GPUS < 0:
        yield f"NUM_GPUS is {cfg.NUM_GPUS}; use 0 for the CPU or the number of GPUs per machine"
    if cfg.DIST.TIMEOUT <= 0:
        yield f"DIST.TIMEOUT is {cfg.DIST.TIMEOUT}; use the seconds that ranks may wait for each other"
    if not 0 <= cfg.SHARD_ID < cfg.NUM_SHARDS:
        yield f"SHARD_ID is {cfg.SHARD_ID}, but NUM_SHARDS is {cfg.NUM_SHARDS}: it counts machines from 0"
    if cfg.NUM_CPU_RANKS < 1:
        yield f"NUM_CPU_RANKS is {cfg.NUM_CPU_RANKS}; use the number of processes that a machine without GPUs runs"
    ranks = max(local_ranks(cfg), 1)
    if (sync := cfg.BN.NUM_SYNC_DEVICES) and (sync < 0 or ranks * cfg.NUM_SHARDS % sync):
        total = ranks * cfg.NUM_SHARDS
        yield f"BN.NUM_SYNC_DEVICES is {sync}; use 0 for all ranks, or a divisor of their number, {total}"
    for key, enabled in (("TRAIN", cfg.TRAIN.ENABLE), ("TEST", cfg.TEST.ENABLE)):
        size = cfg[key].BATCH_SIZE
        if enabled and (size < 1 or size % ranks):
            below = size // ranks * ranks
            fits = f"{below} or {below + ranks}" if below > 0 else f"{ranks}"
            counted = "NUM_GPUS" if cfg.NUM_GPUS else "NUM_CPU_RANKS"
            yield f"{key}.BATCH_SIZE is {size}, which does not divide by {ranks} ({counted}); use {fits}"
    for key in (
        *("LOG_PERIOD", "MODEL.NUM_CLASSES", "SOLVER.MAX_EPOCH", "TRAIN.EVAL_PERIOD", "TRAIN.CHECKPOINT_PERIOD"),
        *("DATA_LOADER.PREFETCH", "AUG.NUM_SAMPLE", "TRAIN.MAX_NONFINITE_STEPS", "MOVINET.TRAIN_SUBCLIPS"),
        *("DATA.NUM_FRAMES", "DATA.SAMPLING_RATE", "DATA.TARGET_FPS", "DATA.TRAIN_CROP_SIZE", "DATA.TEST_CROP_SIZE"),
        *("UNIFORMER.HEAD_DIM", "MVIT.EMBED_DIM", "MVIT.NUM_HEADS", "MVIT.DEPTH", "VIT.PATCH_SIZE"),
        *("VIT.PATCH_SIZE_TEMP", "VIT.CHANNELS", "VIT.EMBED_DIM", "VIT.DEPTH", "VIT.NUM_HEADS"),
        *("UNIFORMER.EMBED_DIM", "MORPH.EMBED_DIMS", "MORPH.SEGMENT_DIM", "MVIT.PATCH_STRIDE"),
    ):
        yield from _at_least_one(cfg, key)
    if cfg.DATA_LOADER.NUM_WORKERS < -1:
        yield f"DATA_LOADER.NUM_WORKERS is {cfg.DATA_LOADER.NUM_WORKERS}; use -1 (automatic), 0 or more"
    if cfg.DATA_LOADER.TIMEOUT < 0:
        yield f"DATA_LOADER.TIMEOUT is {cfg.DATA_LOADER.TIMEOUT}; use seconds, or 0 for any time"
    if not 0 <= cfg.DATA.MAX_FAILED_FRACTION < 1:
        yield f"DATA.MAX_FAILED_FRACTION is {cfg.DATA.MAX_FAILED_FRACTION}; use a share from 0 to below 1"
    micro = cfg.TRAIN.MICRO_BATCH
    if micro != "auto" and (not isinstance(micro, int) or micro < 0):
        yield f"TRAIN.MICRO_BATCH is {micro!r}; use 0 (the whole batch at once), a number of clips, or auto"
    for key in ("CHECKPOINT_STEPS", "KEEP_CHECKPOINTS"):
        if cfg.TRAIN[key] < 0:
            yield f"TRAIN.{key} is {cfg.TRAIN[key]}; use 0 or more"
    pieces, movinet = cfg.MOVINET.TRAIN_SUBCLIPS, cfg.MODEL.MODEL_NAME == "MoViNet" and cfg.MOVINET.CAUSAL
    if pieces > 1 and cfg.TRAIN.ENABLE:
        if not movinet:
            yield f"MOVINET.TRAIN_SUBCLIPS is {pieces}; only a MoViNet with MOVINET.CAUSAL True takes clips in pieces"
        if cfg.DATA.NUM_FRAMES % pieces:
            yield f"DATA.NUM_FRAMES {cfg.DATA.NUM_FRAMES} does not divide into MOVINET.TRAIN_SUBCLIPS {pieces}"
    if cfg.TEST.ALLOW_FAILED < 0:
        yield f"TEST.ALLOW_FAILED is {cfg.TEST.ALLOW_FAILED}; use 0 or the number of unreadable videos to accept"


def _at_least_one(cfg: CfgNode, key: str):
    node = cfg
    for part in key.split("."):
        node = node[part]
    if min([node] if isinstance(node, int) else node, default=1) < 1:
        yield f"{key} is {node}; it must be at least 1"


def _choices(cfg: CfgNode):
    rows = (
        ("TRAIN.DATASET", cfg.TRAIN.DATASET.lower(), DATASETS),
        ("TEST.DATASET", cfg.TEST.DATASET.lower(), DATASETS),
        ("DATA.SAMPLING_RULE", cfg.DATA.SAMPLING_RULE, SAMPLING_RULES),
        ("DATA.STORED_AS", cfg.DATA.STORED_AS, ("frames", "videos")),
        ("DATA.DECODING_BACKEND", cfg.DATA.DECODING_BACKEND, ("pyav", "torchcodec")),
        ("DATA.ENSEMBLE_METHOD", cfg.DATA.ENSEMBLE_METHOD, ("sum", "max")),
        ("TEST.SCORES", cfg.TEST.SCORES, ("softmax", "logits", "sigmoid")),
        ("TEST.SINGLE_CROP", cfg.TEST.SINGLE_CROP, ("centre", "left")),
        ("TEST.CHECKPOINT", cfg.TEST.CHECKPOINT, ("last", "best")),
        ("TEST.WEIGHTS", cfg.TEST.WEIGHTS, ("model", "ema")),
        ("TEST.PRECISION", cfg.TEST.PRECISION, PRECISIONS),
        ("TRAIN.CHECKPOINT_INFLATION", cfg.TRAIN.CHECKPOINT_INFLATION, ("mean", "repeat", "centre")),
        ("TRAIN.PRECISION", cfg.TRAIN.PRECISION, PRECISIONS),
        ("BN.NORM_TYPE", cfg.BN.NORM_TYPE, ("batchnorm", "sync_batchnorm")),
        ("MODEL.LOSS_FUNC", cfg.MODEL.LOSS_FUNC, LOSSES),
        ("AUG.INTERPOLATION", cfg.AUG.INTERPOLATION, ("bilinear", "bicubic", "random")),
        ("AUG.RE_MODE", cfg.AUG.RE_MODE, ("pixel", "rand", "const")),
        ("AUG.DEVICE", cfg.AUG.DEVICE, ("auto", "cpu", "gpu")),
        ("MIXUP.MODE", cfg.MIXUP.MODE, ("batch", "pair", "elem")),
        ("SOLVER.OPTIMIZING_METHOD", cfg.SOLVER.OPTIMIZING_METHOD, METHODS),
        ("SOLVER.NO_WEIGHT_DECAY", cfg.SOLVER.NO_WEIGHT_DECAY, ("published", "always")),
        ("TRAIN.EMA_DEVICE", cfg.TRAIN.EMA_DEVICE, ("", "cpu")),
        ("SOLVER.LR_POLICY", cfg.SOLVER.LR_POLICY, ("cosine", "steps_with_relative_lrs")),
    )
    for key, value, known in rows:
        if value not in known:
            yield f"{key} is {value!r}; use {' or '.join(known)}"
    for key, section in (("TRAIN.PRECISION", cfg.TRAIN), ("TEST.PRECISION", cfg.TEST)):
        if section.ENABLE and section.PRECISION == "fp16" and cfg.NUM_GPUS == 0:
            yield f"{key} fp16 needs a GPU (NUM_GPUS is 0); use bf16 or fp32 on the CPU"
    if cfg.TEST.WEIGHTS == "ema" and cfg.TRAIN.ENABLE and cfg.TEST.ENABLE and not cfg.TRAIN.EMA:
        yield "TEST.WEIGHTS is ema, but this run keeps no average; set TRAIN.EMA True, or TEST.WEIGHTS model"


def _sharding(cfg: CfgNode):
    train = cfg.TRAIN
    if not (train.ENABLE and train.SHARD):
        return
    if cfg.MODEL.MODEL_NAME == "MoViNet":
        yield "TRAIN.SHARD cannot split the single numbers among MoViNet's parameters, which are few: set it False"
    if train.PRECISION == "fp16":
        yield "TRAIN.SHARD has no gradient scaler for TRAIN.PRECISION fp16; use bf16 or fp32"
    if train.MICRO_BATCH == "auto":
        yield "TRAIN.MICRO_BATCH auto lets each rank try by itself, which TRAIN.SHARD does not; use a number of clips"
    if train.CHANNELS_LAST:
        yield "TRAIN.SHARD splits weights that lie in the plain order; set TRAIN.CHANNELS_LAST False"
    if train.EMA and train.EMA_DEVICE:
        yield f"TRAIN.EMA_DEVICE {train.EMA_DEVICE}: with TRAIN.SHARD the average is split too; leave it empty"


def _cuda_graphs(cfg: CfgNode):
    train = cfg.TRAIN
    if not (train.ENABLE and train.CUDA_GRAPHS):
        return
    if not train.COMPILE:
        yield "TRAIN.CUDA_GRAPHS records what torch.compile makes; set TRAIN.COMPILE True"
    if local_ranks(cfg) * cfg.NUM_SHARDS != 1 or cfg.NUM_GPUS != 1:
        yield "TRAIN.CUDA_GRAPHS is for runs on one GPU (NUM_GPUS 1, NUM_SHARDS 1); set it False"
    if cfg.MODEL.MODEL_NAME == "MoViNet" and cfg.MOVINET.TRAIN_SUBCLIPS > 1:
        yield "TRAIN.CUDA_GRAPHS forgets the past of MOVINET.TRAIN_SUBCLIPS: set one of them to False or 1"


def _enabled_data_sets(cfg: CfgNode) -> dict[str, str]:
    """The data sets in use by the key that names them, in lower case."""
    enabled = {"TRAIN.DATASET": cfg.TRAIN, "TEST.DATASET": cfg.TEST}
    return {key: section.DATASET.lower() for key, section in enabled.items() if section.ENABLE}


def _data_sets(cfg: CfgNode):
    data, used = cfg.DATA, _enabled_data_sets(cfg)
    for key, name in used.items():
        # Extracted frames come without their times; those of ssv2 and epickitchens have known rates.
        if name in ("sth", "hmdb") and data.STORED_AS == "frames" and data.SAMPLING_RULE not in _TIMELESS:
            yield (
                f"DATA.SAMPLING_RULE {data.SAMPLING_RULE} counts time, but the frame folders of {key} {name} do not "
                f"tell theirs; use {' or '.join(_TIMELESS)}"
            )
        if name in PICTURES and data.NUM_FRAMES != 1:
            yield f"DATA.NUM_FRAMES is {data.NUM_FRAMES}; the clips of {key} {name} are pictures: set it to 1"
        if name == "epickitchens" and data.FLIP_LABEL_PAIRS:
            yield f"DATA.FLIP_LABEL_PAIRS is {data.FLIP_LABEL_PAIRS}; {name} has two labels a clip: use []"
        if data.MULTI_LABEL and name not in ("kinetics", "ucf101"):
            yield f"DATA.MULTI_LABEL is True; the lists of {key} {name} have one label a video"
    if data.MULTI_LABEL and cfg.TRAIN.ENABLE and cfg.MODEL.LOSS_FUNC not in ("bce", "bce_logit"):
        yield f"DATA.MULTI_LABEL wants MODEL.LOSS_FUNC bce, not {cfg.MODEL.LOSS_FUNC}"
    try:
        numbered = data.IMAGE_TEMPLATE.format(1) != data.IMAGE_TEMPLATE.format(2)
    except (ValueError, LookupError):
        numbered = False
    if not numbered:
        yield f"DATA.IMAGE_TEMPLATE is {data.IMAGE_TEMPLATE!r}; use a place for one number, as {{:05d}}.jpg"
    if data.LABEL_PATH_TEMPLATE.replace("{}", "").count("{"):
        yield f"DATA.LABEL_PATH_TEMPLATE is {data.LABEL_PATH_TEMPLATE!r}; use {{}} for train or validation"
    if not 0 <= data.VAL_CROP_RATIO <= 1:
        yield f"DATA.VAL_CROP_RATIO is {data.VAL_CROP_RATIO}; use a share of the picture, or 0 for all of it"


def _views(cfg: CfgNode):
    data, test = cfg.DATA, cfg.TEST
    if test.NUM_ENSEMBLE_VIEWS < 1 and test.NUM_ENSEMBLE_VIEWS != -1:
        yield (
            f"TEST.NUM_ENSEMBLE_VIEWS is {test.NUM_ENSEMBLE_VIEWS}; a video needs at least one clip (-1 evaluates "
            "1, 3, 5, 7 and 10)"
        )
    for grid in test.VIEW_SWEEP:
        counts = isinstance(grid, list) and len(grid) == 2 and all(type(number) is int for number in grid)
        if not counts or grid[0] < 1 or grid[1] not in (1, 3):
            yield f"TEST.VIEW_SWEEP has {grid}; use [clips, crops] with 1 clip or more and 1 or 3 crops, as [[4, 1]]"
    if test.NUM_SPATIAL_CROPS not in (1, 3):
        yield f"TEST.NUM_SPATIAL_CROPS is {test.NUM_SPATIAL_CROPS}; use 1 (centre) or 3 (along the long side)"
    if data.MULTI_LABEL and test.ENABLE and test.SCORES == "softmax":
        yield "DATA.MULTI_LABEL wants TEST.SCORES sigmoid or logits, not softmax, which is for one label per video"
    if not test.TOP_K or any(not isinstance(k, int) or k < 1 for k in test.TOP_K):
        yield f"TEST.TOP_K is {test.TOP_K}; use one or more numbers from 1"


def _pixels(cfg: CfgNode):
    data, test = cfg.DATA, cfg.TEST
    scales = data.TRAIN_JITTER_SCALES
    if len(scales) != 2 or not 1 <= scales[0] <= scales[1]:
        yield f"DATA.TRAIN_JITTER_SCALES is {scales}; use the smallest and the largest short side, as [256, 320]"
    else:
        used = _enabled_data_sets(cfg)
        jitter = used.get("TRAIN.DATASET") not in (None, *PICTURES) and not data.TRAIN_JITTER_SCALES_RELATIVE
        if jitter and scales[0] < data.TRAIN_CROP_SIZE:
            yield (
                f"DATA.TRAIN_CROP_SIZE {data.TRAIN_CROP_SIZE} does not fit into frames with a short side of "
                f"{scales[0]} (DATA.TRAIN_JITTER_SCALES)"
            )
        crops = [test.NUM_SPATIAL_CROPS, *(grid[1] for grid in test.VIEW_SWEEP if isinstance(grid, list) and grid[1:])]
        one_crop = cfg.TRAIN.ENABLE or (cfg.TEST.ENABLE and 1 in crops)
        # The others cut a single crop out of frames whose short side is the crop's.
        margin = {"kinetics", "ucf101", "video_folder"} & set(used.values())
        if one_crop and margin and scales[0] < data.TEST_CROP_SIZE:
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
    for key, value in (
        *((f"SOLVER.{leaf}", solver[leaf]) for leaf in ("WARMUP_START_LR", "COSINE_END_LR", "MOMENTUM", "DAMPENING")),
        *(("SOLVER.WEIGHT_DECAY", solver.WEIGHT_DECAY), ("BN.WEIGHT_DECAY", cfg.BN.WEIGHT_DECAY)),
    ):
        if value < 0:
            yield f"{key} is {value}; use 0 or more"
    if solver.WARMUP_EPOCHS < 0:
        yield f"SOLVER.WARMUP_EPOCHS is {solver.WARMUP_EPOCHS}; use 0 for no warm-up"
    if len(solver.BETAS) != 2 or not all(0 <= beta < 1 for beta in solver.BETAS):
        yield f"SOLVER.BETAS is {solver.BETAS}; use two numbers from 0 to below 1"
    if solver.LR_POLICY == "cosine" and solver.COSINE_END_LR >= solver.BASE_LR:
        yield f"SOLVER.COSINE_END_LR {solver.COSINE_END_LR} must be below SOLVER.BASE_LR {solver.BASE_LR}"
    if solver.COSINE_AFTER_WARMUP and solver.WARMUP_EPOCHS >= solver.MAX_EPOCH:
        yield (
            f"SOLVER.WARMUP_EPOCHS {solver.WARMUP_EPOCHS} leaves nothing of SOLVER.MAX_EPOCH {solver.MAX_EPOCH}; "
            "warm up for fewer epochs, or 0"
        )
    for key in ("CLIP_GRAD_VAL", "CLIP_GRAD_L2NORM"):
        if solver[key] is not None and not solver[key] > 0:
            yield f"SOLVER.{key} is {solver[key]}; use a number above 0, or None for no clipping"
    if solver.BASE_LR_NUM_SHARDS < 0:
        yield f"SOLVER.BASE_LR_NUM_SHARDS is {solver.BASE_LR_NUM_SHARDS}; use 0 for NUM_SHARDS, or a number of machines"
    if not 0 < solver.LAYER_DECAY <= 1:
        yield f"SOLVER.LAYER_DECAY is {solver.LAYER_DECAY}; use a factor above 0 and up to 1 (the same rate everywhere)"
    if solver.FREEZE_LAYERS < -1:
        yield f"SOLVER.FREEZE_LAYERS is {solver.FREEZE_LAYERS}; use 0 or the number of leading layers, or -1 for all"
    if solver.OPTIMIZING_METHOD == "rmsprop" and not (0 <= solver.RMSPROP_RHO < 1 and solver.RMSPROP_EPSILON > 0):
        yield (
            f"SOLVER.RMSPROP_RHO {solver.RMSPROP_RHO} must be from 0 to below 1 and SOLVER.RMSPROP_EPSILON "
            f"{solver.RMSPROP_EPSILON} above 0"
        )
    if not 0 <= cfg.TRAIN.EMA_DECAY < 1:
        yield f"TRAIN.EMA_DECAY is {cfg.TRAIN.EMA_DECAY}; use a share from 0 to below 1"
    if cfg.BN.USE_PRECISE_STATS and cfg.BN.NUM_BATCHES_PRECISE < 1:
        yield f"BN.NUM_BATCHES_PRECISE is {cfg.BN.NUM_BATCHES_PRECISE}; use 1 or more batches"
    if cfg.BN.USE_PRECISE_STATS and cfg.MODEL.FROZEN_BN:
        yield "BN.USE_PRECISE_STATS recomputes what MODEL.FROZEN_BN keeps as it is; switch one of them off"
    if solver.OPTIMIZING_METHOD == "sgd" and solver.NESTEROV and (solver.MOMENTUM <= 0 or solver.DAMPENING != 0):
        yield "SOLVER.NESTEROV needs SOLVER.MOMENTUM above 0 and SOLVER.DAMPENING 0"


def _augmentation(cfg: CfgNode):
    aug = cfg.AUG
    for key in ("AUG.RE_PROB", "MIXUP.PROB", "MIXUP.SWITCH_PROB"):
        section, leaf = key.split(".")
        if not 0 <= cfg[section][leaf] <= 1:
            yield f"{key} is {cfg[section][leaf]}; use a probability from 0 to 1"
    if aug.AA_TYPE and not _AA_TYPE.fullmatch(aug.AA_TYPE):
        yield (
            f"AUG.AA_TYPE is {aug.AA_TYPE!r}; use timm's grammar: rand with -m, -n, -mmax, -inc (whole numbers), "
            "-mstd, -p (numbers), -tweights, -t3a or -t3aw, as rand-m7-n4-mstd0.5-inc1 (the older -w0 is no longer "
            "read); or v0, v0r, original, originalr or 3a, with -mstd; or '' for neither"
        )
    if aug.COLOR_JITTER < 0:
        yield f"AUG.COLOR_JITTER is {aug.COLOR_JITTER}; use 0 for none, or a share such as 0.4"
    if aug.RE_COUNT < 1:
        yield f"AUG.RE_COUNT is {aug.RE_COUNT}; it must be at least 1 (AUG.RE_PROB 0 switches erasing off)"
    if aug.DEVICE == "gpu" and cfg.NUM_GPUS == 0:
        yield "AUG.DEVICE gpu needs a GPU (NUM_GPUS is 0); use auto or cpu"


def _losses(cfg: CfgNode):
    if not cfg.TRAIN.ENABLE:
        return
    mixup, loss, smoothing = cfg.MIXUP, cfg.MODEL.LOSS_FUNC, cfg.SOLVER.SMOOTHING
    for key, value in (("SOLVER.SMOOTHING", smoothing), ("MIXUP.LABEL_SMOOTH_VALUE", mixup.LABEL_SMOOTH_VALUE)):
        if not 0 <= value < 1:
            yield f"{key} is {value}; use a share from 0 to below 1"
    if smoothing and mixup.ENABLE:
        yield "SOLVER.SMOOTHING and MIXUP.ENABLE both smooth labels; set SOLVER.SMOOTHING 0 (MIXUP.LABEL_SMOOTH_VALUE)"
    elif smoothing and loss != "cross_entropy":
        yield f"SOLVER.SMOOTHING is part of MODEL.LOSS_FUNC cross_entropy, not of {loss}; set it to 0"
    if not mixup.ENABLE:
        return
    if loss == "cross_entropy":
        yield "MIXUP.ENABLE makes soft targets; use MODEL.LOSS_FUNC soft_cross_entropy (or bce)"
    if min(mixup.ALPHA, mixup.CUTMIX_ALPHA) < 0 or not (mixup.ALPHA or mixup.CUTMIX_ALPHA):
        yield (
            f"MIXUP.ALPHA is {mixup.ALPHA} and MIXUP.CUTMIX_ALPHA {mixup.CUTMIX_ALPHA}; use one or both above 0 "
            "(MIXUP.ENABLE False switches mixing off)"
        )
    clips = cfg.TRAIN.BATCH_SIZE // max(local_ranks(cfg), 1) * cfg.AUG.NUM_SAMPLE
    if clips == 1 and mixup.PROB > 0:
        yield (
            "MIXUP.ENABLE has nothing to mix with one clip per rank; raise TRAIN.BATCH_SIZE or AUG.NUM_SAMPLE, or set "
            "MIXUP.PROB 0 for label smoothing alone"
        )


def _paths(cfg: CfgNode):
    data = cfg.DATA
    if not cfg.OUTPUT_DIR:
        yield f"OUTPUT_DIR is empty; name the folder of the results (the default is {_C.OUTPUT_DIR})"
    elsewhere = {"epickitchens": cfg.EPICKITCHENS.ANNOTATIONS_DIR, "imagenet": data.PATH_TO_PRELOAD_IMDB}
    if not data.PATH_TO_DATA_DIR and not all(elsewhere.get(name) for name in _enabled_data_sets(cfg).values()):
        yield "DATA.PATH_TO_DATA_DIR is empty; name the folder with the list files train.csv, val.csv and test.csv"
    for key, value in (
        ("DATA.PATH_TO_DATA_DIR", data.PATH_TO_DATA_DIR),
        ("DATA.PATH_PREFIX", data.PATH_PREFIX),
        ("DATA.PATH_TO_PRELOAD_IMDB", data.PATH_TO_PRELOAD_IMDB),
        ("EPICKITCHENS.ANNOTATIONS_DIR", cfg.EPICKITCHENS.ANNOTATIONS_DIR),
        ("EPICKITCHENS.VISUAL_DATA_DIR", cfg.EPICKITCHENS.VISUAL_DATA_DIR),
        ("TRAIN.CHECKPOINT_FILE_PATH", cfg.TRAIN.CHECKPOINT_FILE_PATH),
        ("TEST.CHECKPOINT_FILE_PATH", cfg.TEST.CHECKPOINT_FILE_PATH),
    ):
        if value and not Path(value).exists():
            yield f"{key}: {value} does not exist"
    if not data.PATH_LABEL_SEPARATOR:
        yield f"DATA.PATH_LABEL_SEPARATOR is empty; the default is {_C.DATA.PATH_LABEL_SEPARATOR!r}"


def _each(value: str | list) -> list:
    return value if isinstance(value, list) else [value]
