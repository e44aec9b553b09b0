"""Classes of loaded weights in the order of the labels."""

import logging

from videobench.config import CfgNode
from videobench.datasets.annotations import read_class_names
from videobench.engine.class_names import class_names
from videobench.models import LoadReport, VideoModel, WeightsError
from videobench.models.class_order import reorder_classes

logger = logging.getLogger(__name__)


def match_classes(model: VideoModel, report: LoadReport, cfg: CfgNode, *, required: bool) -> None:
    """Renumber the classifier of freshly loaded weights where they count their classes otherwise than the labels.

    The names of the weights' classes are in the file (ours) or in MODEL.CHECKPOINT_CLASSES (published ones), those of
    the labels in DATA.CLASS_NAMES; where one of them is not given, or the file brought no classifier, nothing is done.
    Classes of other names are no mistake in weights that training begins with (``required`` false).

    Raises:
        WeightsError: when the two lists have to name the same classes and do not.
    """
    published = cfg.MODEL.CHECKPOINT_CLASSES
    have = report.class_names.get("", []) or (read_class_names(published) if published else [])
    want = class_names(cfg).get("", [])
    if not have or not want or have == want or report.replaced:
        return
    try:
        moved = reorder_classes(model, have, want)
    except WeightsError as error:
        if required:
            raise WeightsError(f"{report.source}: {error}") from error
        logger.info("%s: the classifier was trained for other classes: %s", report.source, error)
        return
    if moved:
        logger.warning(
            "%s: %d of its %d classes are numbered otherwise than in DATA.CLASS_NAMES; they were renumbered by name",
            *(report.source, moved, len(want)),
        )
