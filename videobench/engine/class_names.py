"""Class names per head of a network, from DATA.CLASS_NAMES."""

from videobench.config import CfgNode, ConfigError
from videobench.datasets.annotations import read_class_names
from videobench.datasets.epic_kitchens import NOUNS, VERBS


def class_names(cfg: CfgNode) -> dict[str, list[str]]:
    """Names by head: ``{"": names}``, or ``{"verb": ..., "noun": ...}`` for EPIC-Kitchens; empty without a file.

    Raises:
        ConfigError: for a file that cannot be used, and when the number of names is not the number of classes.
    """
    files = cfg.DATA.CLASS_NAMES
    if not files:
        return {}
    if "epickitchens" in (cfg.TEST.DATASET.lower(), cfg.TRAIN.DATASET.lower()):
        if isinstance(files, str) or len(files) != 2:
            raise ConfigError(f"DATA.CLASS_NAMES is {files}; EPIC-Kitchens takes two files, [verbs, nouns]")
        heads = {
            "verb": (files[0], VERBS, f"there are {VERBS} verbs"),
            "noun": (files[1], NOUNS, f"there are {NOUNS} nouns"),
        }
    else:
        heads = {"": (files, cfg.MODEL.NUM_CLASSES, f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}")}
    names = {head: read_class_names(file) for head, (file, _, _) in heads.items()}
    for head, (file, count, reason) in heads.items():
        if len(names[head]) != count:
            raise ConfigError(f"{file} (DATA.CLASS_NAMES) has {len(names[head])} classes, but {reason}")
    return names
