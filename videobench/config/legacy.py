"""The spellings of the published code bases, mapped to today's keys."""

from collections.abc import Callable
from typing import Any

# Types a key takes besides the type of its default, because published files write it both ways.
ALTERNATIVE_TYPES: dict[str, tuple] = {
    "UNIFORMER.MLP_RATIO": (float, list),
    "MODEL.CHECKPOINT_NUM": (int,),
    "VIT.MLP_RATIO": (float,),
    "MVIT.POOL_KV_STRIDE": (None,),
}

# Types of the keys whose default is None.
NULLABLE: dict[str, type] = {
    "UNIFORMER.QKV_SCALE": float,
    "MVIT.POOL_KV_STRIDE_ADAPTIVE": list,
    "MVIT.POOL_KVQ_KERNEL": list,
    "SOLVER.CLIP_GRAD_L2NORM": float,
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
    "VIT.VIDEO_INPUT": "networks here take clips",
    "VIT.IM_PRETRAINED": "nothing is downloaded; name image weights in TRAIN.CHECKPOINT_FILE_PATH",
    "VIT.PRETRAINED_WEIGHTS": "nothing is downloaded; name image weights in TRAIN.CHECKPOINT_FILE_PATH",
    "VIT.APPROX_ATTN_DIM": "only the exact attention is built",
    "SLOWFAST.ALPHA": "there is one pathway",
    "AUG.RE_SPLIT": "no code ever read it",
    "DATA.RE_PROB": "no code ever read it",
    "SOLVER.WARMUP_FACTOR": "no code ever read it",
    "SOLVER.STEP_SIZE": "no code ever read it",
    "PREFETCH.NUM_LOADERS": "left over from an internal version of SlowFast",
    "TRAIN.SAVE_LATEST": "the latest checkpoint is always kept",
    "TRAIN.CHECKPOINT_INFLATE": "image weights are inflated whenever the shapes ask for it",
    "TEST.CHECKPOINT_SQUEEZE_TEMPORAL": "shapes are matched whenever weights are loaded",
}

# Keys that wait for something that is not there yet; the switches that would need them are in UNSUPPORTED.
_WAITING = {
    "AUG.ENABLE": "AUG.AA_TYPE AUG.COLOR_JITTER AUG.INTERPOLATION AUG.RE_COUNT AUG.RE_MODE AUG.RE_PROB",
    "MIXUP.ENABLE": "MIXUP.ALPHA MIXUP.CUTMIX_ALPHA MIXUP.LABEL_SMOOTH_VALUE MIXUP.PROB MIXUP.SWITCH_PROB",
    "BN.USE_PRECISE_STATS": "BN.NUM_BATCHES_PRECISE",
    "TRAIN.DATASET": "DATA.IMAGE_TEMPLATE DATA.LABEL_PATH_TEMPLATE",
}
for _switch, _keys in _WAITING.items():
    IGNORED |= dict.fromkeys(_keys.split(), f"it has no effect with what {_switch} can be today")

# Keys whose effect is not available: the value (as text) that asks for nothing and passes, what is said of any other.
UNSUPPORTED: dict[str, tuple[str, str]] = {
    "VIT.APPROX_ATTN_TYPE": ("none", "only the exact attention is built"),
    "AUG.ENABLE": ("false", "augmentation beyond crops and flips is not available yet"),
    "AUG.NUM_SAMPLE": ("1", "repeated augmentation is not available yet"),
    "MIXUP.ENABLE": ("false", "mixing of samples is not available yet"),
    "BN.USE_PRECISE_STATS": ("false", "recomputed batch-norm statistics are not available yet"),
    "DATA.COLORJITTER": ("false", "colour jitter is not available yet"),
    "DATA.GAUSSIAN": ("false", "Gaussian blur is not available yet"),
    "DATA.GRAYSCALE": ("false", "grey clips are not available yet"),
    "DATA.USE_RANDOM_RESIZE_CROPS": (
        "false",
        "set DATA.TRAIN_JITTER_SCALES_RELATIVE and DATA.TRAIN_JITTER_ASPECT_RELATIVE for random resized crops",
    ),
    "DATA.USE_RAND_AUGMENT": ("false", "RandAugment is not available yet"),
    "DATA.USE_REPEATED_AUG": ("false", "repeated augmentation is not available yet"),
    "SOLVER.SMOOTHING": ("0.0", "label smoothing is not available yet"),
    "TRAIN.CHECKPOINT_TYPE": ("pytorch", "only PyTorch files are read"),
    "TRAIN.CHECKPOINT_IN_INIT": ("false", "load image weights with videobench.load_weights(..., inflation='repeat')"),
    "UNIFORMER.PRETRAIN_NAME": ("none", "name the file of image weights in TRAIN.CHECKPOINT_FILE_PATH"),
    "MORPH.PRETRAIN_PATH": ("none", "name the file of image weights in TRAIN.CHECKPOINT_FILE_PATH"),
}

# Old key -> new key, and how the value is translated.
RENAMED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "TRAIN.MIXED_PRECISION": ("TRAIN.PRECISION", lambda on: "fp16" if on else "fp32"),
    "SOLVER.USE_MIXED_PRECISION": ("TRAIN.PRECISION", lambda on: "fp16" if on else "fp32"),
    "SOLVER.CLIP_GRADIENT": ("SOLVER.CLIP_GRAD_L2NORM", lambda norm: norm),
    "SOLVER.CLIP_GRAD": ("SOLVER.CLIP_GRAD_L2NORM", lambda norm: norm),
    "TEST.TEST_BEST": ("TEST.CHECKPOINT", lambda best: "best" if best else "last"),
}
