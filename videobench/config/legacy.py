"""The spellings of the published code bases, mapped to today's keys."""

from typing import Any

# Types a key takes besides the type of its default, because published files write it both ways.
ALTERNATIVE_TYPES: dict[str, tuple] = {
    "UNIFORMER.MLP_RATIO": (float, list),
    "MODEL.CHECKPOINT_NUM": (int,),
    "VIT.MLP_RATIO": (float,),
    "MVIT.POOL_KV_STRIDE": (None,),
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
    "TRAIN.CHECKPOINT_IN_INIT": "image weights are recognised by their names and shapes",
    "TEST.CHECKPOINT_SQUEEZE_TEMPORAL": "shapes are matched whenever weights are loaded",
}

# Keys whose effect is not available: the value that asks for nothing and passes, and what is said of any other.
UNSUPPORTED: dict[str, tuple[Any, str]] = {
    "VIT.APPROX_ATTN_TYPE": ("none", "only the exact attention is built"),
}

# Old key -> new key.
RENAMED: dict[str, str] = {}


def translate(key: str, value: Any) -> tuple[str, Any]:
    """The new key and value of a renamed one."""
    return RENAMED[key], value
