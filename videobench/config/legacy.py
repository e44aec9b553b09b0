"""The spellings of the published code bases, mapped to today's keys."""

from typing import Any

# Types a key takes besides the type of its default, because published files write it both ways.
ALTERNATIVE_TYPES: dict[str, tuple] = {
    "UNIFORMER.MLP_RATIO": (float, list),
    "MODEL.CHECKPOINT_NUM": (int,),
    "VIT.MLP_RATIO": (float,),
    "MVIT.POOL_KV_STRIDE": (None,),
    "TRAIN.MICRO_BATCH": (str,),
    "DATA.CLASS_NAMES": (list,),
    "MODEL.CHECKPOINT_CLASSES": (list,),
}

# Types of the keys whose default is None.
NULLABLE: dict[str, type] = {
    "UNIFORMER.QKV_SCALE": float,
    "MVIT.POOL_KV_STRIDE_ADAPTIVE": list,
    "MVIT.POOL_KVQ_KERNEL": list,
    "SOLVER.CLIP_GRAD_VAL": float,
    "SOLVER.CLIP_GRAD_L2NORM": float,
}

# What the numbers are in lists whose defaults do not tell (the others have numbers of the kind of their defaults).
NUMBERS: dict[str, type] = {
    **dict.fromkeys(("SOLVER.STEPS", "SOLVER.LRS", "UNIFORMER.MLP_RATIO"), float),
    **dict.fromkeys(("DATA.TRAIN_JITTER_SCALES_RELATIVE", "DATA.TRAIN_JITTER_ASPECT_RELATIVE"), float),
    **dict.fromkeys(("MVIT.POOL_KV_STRIDE_ADAPTIVE", "MVIT.POOL_KVQ_KERNEL"), int),
}
# The same in lists of lists of numbers.
ROWS: dict[str, type] = {
    **dict.fromkeys(("UNIFORMER.PRUNE_RATIO", "UNIFORMER.TRADE_OFF", "MVIT.DIM_MUL", "MVIT.HEAD_MUL"), float),
    **dict.fromkeys(("MVIT.POOL_KV_STRIDE", "MVIT.POOL_Q_STRIDE"), int),
}

# Keys that never had an effect, or whose effect is automatic here.
IGNORED: dict[str, str] = {
    "MODEL.ARCH": "the network is chosen by MODEL.MODEL_NAME alone",
    "MODEL.HEAD_ACT": "networks return logits; TEST.SCORES decides what is summed over the views",
    "MODEL.SINGLE_PATHWAY_ARCH": "every network here takes one clip",
    "MODEL.MULTI_PATHWAY_ARCH": "every network here takes one clip",
    "UNIFORMER.STAGE_TYPE": "no code ever read it",
    "UNIFORMER.REPRESENTATION_SIZE": "the extra layer never worked in the published code",
    "UNIFORMER.HEAD_DROPOUT_RATE": "no code ever read it",
    "MORPH.T_STRIDE": "read by the published code but without effect",
    "MORPH.PATCH_SIZE": "read by the published code but without effect",
    "MORPH.QKV_SCALE": "read by the published code but without effect",
    "MORPH.ATTENTION_DROPOUT_RATE": "read by the published code but without effect",
    "MVIT.NORM": "layer norm is the only norm",
    "VIT.IM_PRETRAINED": "nothing is downloaded; name image weights in TRAIN.CHECKPOINT_FILE_PATH",
    "VIT.PRETRAINED_WEIGHTS": "nothing is downloaded; name image weights in TRAIN.CHECKPOINT_FILE_PATH",
    "VIT.APPROX_ATTN_DIM": "only the exact attention is built",
    "AUG.RE_SPLIT": "no code ever read it",
    "DATA.RE_PROB": "no code ever read it",
    "SOLVER.WARMUP_FACTOR": "no code ever read it",
    "SOLVER.STEP_SIZE": "no code ever read it",
    "SOLVER.GAMMA": "only SlowFast's multigrid schedule ever read it",
    "PREFETCH.NUM_LOADERS": "left over from an internal version of SlowFast",
    "TRAIN.SAVE_LATEST": "the latest checkpoint is always kept",
    "TRAIN.CHECKPOINT_INFLATE": "image weights are inflated whenever the shapes ask for it",
    "TEST.CHECKPOINT_SQUEEZE_TEMPORAL": "shapes are matched whenever weights are loaded",
    "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN": "names of the published layouts are matched whenever weights are loaded",
    "TRAIN.KILL_LOSS_EXPLOSION_FACTOR": "TRAIN.MAX_NONFINITE_STEPS stops a run whose loss explodes",
    "UNIFORMER.PRETRAIN_NAME": "the name stood for a file; name that in TRAIN.CHECKPOINT_FILE_PATH",
    "MORPH.PRETRAIN_PATH": "name the file of image weights in TRAIN.CHECKPOINT_FILE_PATH",
    "DATA.DECODING_SHORT_SIZE": "frames are resized once, to what the crop needs",
    "DATA.TRAIN_CROP_NUM_TEMPORAL": "a training clip is one clip of a video",
    "DATA.TRAIN_CROP_NUM_SPATIAL": "a training clip has one crop",
    "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE": "decoder threads follow the number of cores",
    "TEST.SAVE_RESULTS_PATH": "the scores of every video are written to OUTPUT_DIR",
    "LOG_MODEL_INFO": "tools/model_info.py prints sizes and multiply-adds",
    "EPICKITCHENS.TEST_SPLIT": "no code ever read it",
    "EPICKITCHENS.TRAIN_PLUS_VAL": "no code ever read it",
    "TENSORBOARD.MODEL_VIS.TOPK": "activations are not drawn",
}

# Sections of networks and tasks of SlowFast that are not built here; MODEL.MODEL_NAME says what is.
IGNORED_SECTIONS: dict[str, str] = {
    **dict.fromkeys(("RESNET", "NONLOCAL", "X3D"), "ResNet-like networks are not built here"),
    **dict.fromkeys(("MASK", "CONTRASTIVE"), "networks are trained with labels here"),
    **dict.fromkeys(("AVA", "DEMO"), "whole clips are classified here, not the boxes in them"),
    "SLOWFAST": "there is one pathway",
    "MVIT.REV": "reversible networks are not built",
}

# Keys whose effect is not available: the value (as text) that asks for nothing and passes, what is said of any other.
UNSUPPORTED: dict[str, tuple[str, str]] = {
    "VIT.APPROX_ATTN_TYPE": ("none", "only the exact attention is built"),
    "VIT.VIDEO_INPUT": ("true", "networks here take clips"),
    "DATA.USE_REPEATED_AUG": (
        "false",
        "AUG.NUM_SAMPLE 3 with AUG.RESAMPLE_FRAMES True makes three clips of every decoded video",
    ),
    "TRAIN.CHECKPOINT_TYPE": ("pytorch", "only PyTorch files are read"),
    "TASK": (
        "",
        "self-supervised training is not built; to train with labels take the key out, and name pre-trained weights in "
        "TRAIN.CHECKPOINT_FILE_PATH",
    ),
    "DETECTION.ENABLE": ("false", "whole clips are classified here, not the boxes in them"),
    "DETECTION.ALIGNED": ("true", "whole clips are classified here, not the boxes in them"),
    "MULTIGRID.LONG_CYCLE": ("false", "clips keep their shape over a training run"),
    "MULTIGRID.SHORT_CYCLE": ("false", "clips keep their shape over a training run"),
    "SOLVER.LARS_ON": ("false", "SOLVER.OPTIMIZING_METHOD names what there is"),
    "MVIT.REV.ENABLE": ("false", "reversible networks are not built"),
    "MVIT.LAYER_SCALE_INIT_VALUE": ("0.0", "MViT has no layer scale here"),
    "MVIT.USE_FIXED_SINCOS_POS": ("false", "position tables are learned"),
    "CONTRASTIVE.NUM_MLP_LAYERS": ("1", "classifiers have one layer"),
    "MODEL.DETACH_FINAL_FC": ("false", "SOLVER.FREEZE_LAYERS -1 trains the classifier alone"),
    "DATA.TRAIN_JITTER_FPS": ("0.0", "training clips keep their frame rate"),
    "DATA.TRAIN_JITTER_MOTION_SHIFT": ("false", "a training clip has one crop"),
    "TEST.NUM_TEMPORAL_CLIPS": ("[]", "TEST.VIEW_SWEEP evaluates several numbers of clips in one pass"),
    # Motionformer's; its files are read as they were meant (code_bases.py).
    "MIXUP.MIXUP_ALPHA": ("0.0", "MIXUP.ENABLE True and MIXUP.ALPHA mix clips"),
    "MIXUP.CUTMIX_MINMAX": ("none", "MIXUP.CUTMIX_ALPHA says how the share of a clip is drawn"),
}

_PRECISION = {True: "fp16", False: "fp32"}

# Sections that only old files have; an empty one says nothing.
OLD_SECTIONS = {*IGNORED_SECTIONS, *(key.rpartition(".")[0] for key in (*IGNORED, *UNSUPPORTED) if "." in key)}

# Old key -> new key, and what the two positions of an old switch are called now (None: the value stays as it is).
RENAMED: dict[str, tuple[str, dict[bool, str] | None]] = {
    "TRAIN.MIXED_PRECISION": ("TRAIN.PRECISION", _PRECISION),
    "SOLVER.USE_MIXED_PRECISION": ("TRAIN.PRECISION", _PRECISION),
    "SOLVER.CLIP_GRADIENT": ("SOLVER.CLIP_GRAD_L2NORM", None),
    "SOLVER.CLIP_GRAD": ("SOLVER.CLIP_GRAD_L2NORM", None),
    "DATA.IN_VAL_CROP_RATIO": ("DATA.VAL_CROP_RATIO", None),
    "MIXUP.MIXUP_PROB": ("MIXUP.PROB", None),
    "MIXUP.MIXUP_SWITCH_PROB": ("MIXUP.SWITCH_PROB", None),
    "MIXUP.MIXUP_MODE": ("MIXUP.MODE", None),
    "TEST.TEST_BEST": ("TEST.CHECKPOINT", {True: "best", False: "last"}),
    "TRAIN.CHECKPOINT_IN_INIT": ("TRAIN.CHECKPOINT_INFLATION", {True: "repeat", False: "mean"}),
}

# Published values of DATA.DECODING_BACKEND that name no library here, and the rule that they mean for Kinetics.
READER_RULES: dict[str, str] = {"decord": "uniformer_decord", "torchvision": "slowfast_torchvision"}

# Old switch -> the keys that it stands for when it is on; off, it changes nothing.
STANDS_FOR: dict[str, dict[str, Any]] = {
    # Motionformer fixed the policy in its code; magnitudes above 10 count as 10 (it wrote 15 for EPIC-Kitchens).
    "DATA.USE_RAND_AUGMENT": {
        "AUG.ENABLE": True,
        "AUG.AA_TYPE": "rand-m20-mstd0.5-inc1",
        "AUG.INTERPOLATION": "random",
        "AUG.RE_PROB": 0.0,
    },
    # So did it with the ranges of its random resized crop (0.05 for Something-Something, which never used it).
    "DATA.USE_RANDOM_RESIZE_CROPS": {
        "DATA.TRAIN_JITTER_SCALES_RELATIVE": [0.08, 1.0],
        "DATA.TRAIN_JITTER_ASPECT_RELATIVE": [0.75, 1.3333],
    },
}
