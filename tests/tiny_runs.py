"""Data sets in their real form and overrides that make the recipes of configs/ run in seconds on a CPU."""

from pathlib import Path

import dataset_fixtures

from videobench.engine.run import run

ROOT = Path(__file__).resolve().parents[1]

_GROWTH = [[1, 2.0], [2, 2.0]]
_MVIT = {
    "MVIT.EMBED_DIM": 8,
    "MVIT.NUM_HEADS": 1,
    "MVIT.DEPTH": 3,
    "MVIT.DIM_MUL": _GROWTH,
    "MVIT.HEAD_MUL": _GROWTH,
}
#: Keys that shrink a family's network and clips, by MODEL.MODEL_NAME or a part of the recipe's path.
NETWORKS: dict[str, dict] = {
    "Uniformer": {
        "UNIFORMER.EMBED_DIM": [8, 8, 16, 16],
        "UNIFORMER.DEPTH": [1, 1, 1, 1],
        "UNIFORMER.HEAD_DIM": 8,
        "DATA.NUM_FRAMES": 4,
    },
    "MorphMLP": {
        "MORPH.LAYERS": [1, 1, 1, 1],
        "MORPH.EMBED_DIMS": [16, 16, 16, 16],
        "MORPH.SEGMENT_DIM": [4, 4, 4, 1],
    },
    "VisionTransformer": {
        "VIT.EMBED_DIM": 16,
        "VIT.DEPTH": 2,
        "VIT.NUM_HEADS": 2,
        "VIT.TEMPORAL_RESOLUTION": 2,
        "DATA.NUM_FRAMES": 4,
    },
    "MViT": {
        **_MVIT,
        "MVIT.POOL_Q_STRIDE": [[0, 1, 1, 1], [1, 1, 2, 2], [2, 1, 2, 2]],
        "DATA.NUM_FRAMES": 4,
    },
    "MViT image": {**_MVIT, "MVIT.POOL_Q_STRIDE": [[0, 1, 1], [1, 2, 2], [2, 2, 2]]},
    "MoViNet": {"DATA.NUM_FRAMES": 4},
}
#: A network of actions and where its clips come from.
EPIC = {
    "MODEL.MODEL_NAME": "VisionTransformer",
    **NETWORKS["VisionTransformer"],
    "TRAIN.DATASET": "epickitchens",
    "TEST.DATASET": "epickitchens",
}
_SMALL = {
    "NUM_GPUS": 0,
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TEST_CROP_SIZE": 32,
    "DATA.TRAIN_JITTER_SCALES": [32, 36],
    "DATA_LOADER.NUM_WORKERS": 0,
    "TRAIN.PRECISION": "fp32",
    "TRAIN.BATCH_SIZE": 2,
    "TEST.BATCH_SIZE": 4,
    "SOLVER.MAX_EPOCH": 1,
    "SOLVER.WARMUP_EPOCHS": 0.0,
    "TENSORBOARD.ENABLE": False,
}


def words(settings: dict) -> list:
    """KEY VALUE pairs."""
    return [str(word) for setting in settings.items() for word in setting]


def overrides(network: str, output: Path, **more) -> list:
    """KEY VALUE pairs that make a recipe of a network small."""
    return words({**_SMALL, **NETWORKS[network], "OUTPUT_DIR": output, **more})


def write_data_set(kind: str, root: Path) -> dict:
    """A data set of the kind that a recipe reads, and the keys that say where it is.

    Args:
        kind: kinetics (lists with blanks), kinetics_commas, ssv1, ssv2_uniformer, ssv2_morphmlp (lists of frame
            folders), ssv2 (official), epic or imagenet.
        root: an empty folder.
    """
    lists = {"DATA.PATH_TO_DATA_DIR": root}
    if kind.startswith("kinetics"):
        dataset_fixtures.kinetics(root, "," if kind.endswith("commas") else " ")
        (root / "test.csv").write_text((root / "val.csv").read_text())
        return {**lists, "DATA.PATH_PREFIX": root}
    if kind in ("ssv1", "ssv2_uniformer", "ssv2_morphmlp"):
        template = {"ssv1": "{:05d}.jpg", "ssv2_uniformer": "img_{:05d}.jpg", "ssv2_morphmlp": "{:06d}.jpg"}[kind]
        dataset_fixtures.sth(root, template)
        if kind != "ssv1":
            for path in root.glob("somesomev1_*"):
                path.rename(root / path.name.replace("somesomev1", "somesomev2"))
        return {**lists, "DATA.PATH_PREFIX": root / "frames"}
    {"ssv2": dataset_fixtures.ssv2, "epic": dataset_fixtures.epic, "imagenet": dataset_fixtures.imagenet}[kind](root)
    if kind == "epic":
        return {**lists, "EPICKITCHENS.ANNOTATIONS_DIR": root, "EPICKITCHENS.VISUAL_DATA_DIR": root}
    return {**lists, "DATA.PATH_PREFIX": root / "frames"} if kind == "ssv2" else lists


def train_and_test(recipe: str, settings: list) -> int:
    """Run a recipe of configs/; returns the exit status."""
    return run([str(ROOT / "configs" / recipe)], settings, "")
