"""Fine-tuning on somebody's own videos: lists, a recipe for small data, and the ordinary run with both."""

import csv
import io
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videobench.config import CfgNode, ConfigError, load_config
from videobench.datasets.own_videos import OwnVideos, own_videos
from videobench.engine.checkpoint import checkpoint_dir
from videobench.engine.run import run
from videobench.exit_status import BROKE_OFF, DONE, FAILED_VIDEOS, WRONG_INPUT
from videobench.models.zoo import zoo_row
from videobench.reporting.run_files import OutputError, whole_file

#: Epochs from given weights and from scratch.
EPOCHS = {True: 20, False: 60}
#: Largest number of videos per GPU (or on the CPU) and step.
BATCH_SIZE = 8
# Data whose published training fed BGR frames, and took a frame from each of T segments of the whole video.
_BGR, _SEGMENTS = ("SSv1", "SSv2", "EPIC-Kitchens-100"), ("SSv1", "SSv2")


def finetune(
    data: str | Path,
    *,
    model: str | None = None,
    config_files: Sequence[str] = (),
    weights: str | None = None,
    output: str | Path | None = None,
    epochs: int | None = None,
    val_share: float = 0.2,
    overrides: Sequence[Any] = (),
) -> int:
    """Train a network on the videos of a folder or table, test it on the part held back, and report.

    OUTPUT/lists gets the lists of both splits and the class names, OUTPUT/config.yaml the configuration (with which
    tools/run_net.py does the same again), OUTPUT/confusion.csv the confusion matrix; the rest is what every run leaves.

    Args:
        data: what :func:`~videobench.datasets.own_videos.own_videos` takes.
        model: id of a published network; its clips and published views come with it.
        config_files: YAML files of a network, in place of ``model``; of their recipe only what this one does not set.
        weights: checkpoint to begin with; a classifier of another size is replaced. None trains from scratch.
        output: folder of the run; None means output/finetune/ and the name of ``data``.
        epochs: training epochs; None means 20, from scratch 60.
        val_share: share of every class that is held back.
        overrides: alternating keys and values, which have the last word.

    Returns:
        The exit status of the run (:func:`videobench.engine.run.run`).
    """
    try:
        base = _network(model, config_files)
        if weights and not Path(weights).expanduser().is_file():
            raise ConfigError(f"--weights: there is no file {weights}")
        given = list(overrides) + (["SOLVER.MAX_EPOCH", epochs] if epochs is not None else [])
        cfg = load_config(config_files, [*base, *given])
        chosen = dict(zip(given[::2], given[1::2], strict=True))
        if "OUTPUT_DIR" in chosen:
            raise ConfigError("the folder of the run is named with --output, not with OUTPUT_DIR")
        source = Path(data).expanduser().resolve()
        output = Path(output or Path("output/finetune") / (source.name if source.is_dir() else source.stem))
        root = chosen.get("DATA.PATH_PREFIX")
        videos = own_videos(data, val_share=val_share, seed=cfg.RNG_SEED, root=root)
        epochs = cfg.SOLVER.MAX_EPOCH if "SOLVER.MAX_EPOCH" in chosen else EPOCHS[weights is not None]
        recipe, notes = small_data_recipe(cfg, videos, epochs, pretrained=weights is not None)
        if model:
            recipe |= _clips(cfg)
        recipe["OUTPUT_DIR"] = str(output)
        words = [*base, *(word for pair in _paths(videos, output, weights).items() for word in pair)]
        words += [*(word for pair in recipe.items() for word in pair), *given]
        cfg = load_config(config_files, words)
        _write_lists(videos, output)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    print(_summary(videos, output, weights, notes), flush=True)
    status = run(config_files, words, "")
    if status in (DONE, FAILED_VIDEOS) and cfg.TEST.ENABLE:
        try:
            print(_after(videos, output, trained=cfg.TRAIN.ENABLE))
        except OutputError as error:
            print(f"error: {error}", file=sys.stderr)
            return BROKE_OFF
    return status


def small_data_recipe(
    cfg: CfgNode, videos: OwnVideos, epochs: int, *, pretrained: bool
) -> tuple[dict[str, Any], list[str]]:
    """Keys and values for training on few videos, and what is to be said about them.

    From given weights: AdamW with learning rates that fall from the classifier to the input (SOLVER.LAYER_DECAY) and
    batch-norm statistics as they are (small batches make poor ones); label smoothing, random resized crops and, where
    the class names allow it, flips in both cases.

    Args:
        cfg: the network, and what the user has set.
        videos: the training data.
        epochs: training epochs.
        pretrained: whether training begins with given weights.
    """
    ranks = min(cfg.NUM_GPUS, torch.cuda.device_count())
    at_once = max(ranks, 1)
    classes = len(videos.classes)
    recipe = {
        "MODEL.NUM_CLASSES": classes,
        "MODEL.LOSS_FUNC": "cross_entropy",
        "MODEL.FROZEN_BN": pretrained,
        "NUM_GPUS": ranks,
        "TRAIN.ENABLE": True,
        "TRAIN.DATASET": "kinetics",
        "TRAIN.BATCH_SIZE": max(min(BATCH_SIZE * at_once, len(videos.train)) // at_once, 1) * at_once,
        "TRAIN.PRECISION": "bf16" if ranks and torch.cuda.is_bf16_supported() else "fp32",
        "TRAIN.EVAL_PERIOD": -(-epochs // 20),
        "TRAIN.CHECKPOINT_PERIOD": -(-epochs // 4),
        "TEST.ENABLE": True,
        "TEST.DATASET": "kinetics",
        "TEST.BATCH_SIZE": BATCH_SIZE * at_once,
        "TEST.CHECKPOINT": "last",  # the best epoch on the very videos that are tested would flatter
        "TEST.TOP_K": [1, 5] if classes > 5 else [1],
        "DATA.MULTI_LABEL": False,
        "DATA.MAX_FAILED_FRACTION": 0.1,
        "SOLVER.OPTIMIZING_METHOD": "adamw",
        "SOLVER.BASE_LR": 5e-4,
        "SOLVER.LR_POLICY": "cosine",
        "SOLVER.COSINE_END_LR": 5e-6,
        "SOLVER.COSINE_AFTER_WARMUP": True,
        "SOLVER.WARMUP_EPOCHS": epochs / 10,
        "SOLVER.WARMUP_START_LR": 5e-6,
        "SOLVER.MAX_EPOCH": epochs,
        "SOLVER.WEIGHT_DECAY": 0.05,
        "SOLVER.ZERO_WD_1D_PARAM": True,
        "SOLVER.LAYER_DECAY": 0.75 if pretrained else 1.0,
        "SOLVER.CLIP_GRAD_L2NORM": 1.0,
        "SOLVER.SMOOTHING": 0.1,
        "BN.USE_PRECISE_STATS": False,
        "AUG.ENABLE": False,
        "AUG.NUM_SAMPLE": 1,
        "MIXUP.ENABLE": False,
    }
    flips, note = flip_keys(videos.classes)
    if cfg.DATA.RANDOM_FLIP:
        return recipe | flips, [note]
    return recipe | {"DATA.FLIP_LABEL_PAIRS": []}, ["clips are not mirrored (DATA.RANDOM_FLIP)"]


_TURN = re.compile(r"(counter|anti)[ _-]?(?=clockwise)")
_SIDES = re.compile(r"(?<![a-z])(left|right|counterclockwise|clockwise)(?=(wards?|hand(ed)?)?(?![a-z]))")
_OTHER = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}


def flip_keys(classes: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Whether clips of these classes may be mirrored, as keys and values, and what is to be said about it.

    Names with a side (left, right, clockwise, counter-clockwise) whose other side is a class too swap their labels
    when a clip is mirrored; where one has no counterpart, nothing is mirrored.
    """
    plain = [_TURN.sub("counter", name.lower()) for name in classes]
    sided = [number for number, name in enumerate(plain) if _SIDES.search(name)]
    mirrored = {number: _SIDES.sub(lambda found: _OTHER[found[0]], plain[number]) for number in sided}
    alone = [classes[number] for number in sided if plain.count(mirrored[number]) != 1]
    if alone:
        keys = {"DATA.RANDOM_FLIP": False, "DATA.FLIP_LABEL_PAIRS": []}
        return keys, f"clips are not mirrored: left and right mean something in {', '.join(map(repr, alone))}"
    pairs = [[number, plain.index(name)] for number, name in mirrored.items() if number < plain.index(name)]
    keys = {"DATA.RANDOM_FLIP": True, "DATA.FLIP_LABEL_PAIRS": pairs}
    if not pairs:
        return keys, "clips are mirrored at random; where left and right mean something: DATA.RANDOM_FLIP False"
    swapped = "; ".join(f"{classes[a]} and {classes[b]}" for a, b in pairs)
    return keys, f"clips are mirrored at random, which swaps the classes {swapped}"


def _network(model: str | None, config_files: Sequence[str]) -> list[Any]:
    """The KEY VALUE pairs of a published network; none when it comes from YAML files."""
    if (model is None) == (not config_files):
        raise ConfigError("name a published network (--model) or the YAML files of one (--cfg), and not both")
    if model is None:
        return []
    try:
        row = zoo_row(model)
    except ValueError as error:
        raise ConfigError(f"--model: {error}") from error
    if row.settings["DATA.NUM_FRAMES"] == 1:
        raise ConfigError(f"{model} is a network for images; tools/model_info.py lists those for videos")
    settings = row.settings | {"DATA.REVERSE_INPUT_CHANNEL": row.data in _BGR}
    if row.data in _SEGMENTS:
        settings["DATA.SAMPLING_RULE"] = "segments_ssv2"
    return [word for pair in settings.items() for word in pair]


def _clips(cfg: CfgNode) -> dict[str, Any]:
    """Sizes of training clips for a network that comes without them: short sides as published at 224 pixels."""
    short = round(max(cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE) * 8 / 7)
    return {
        "DATA.TRAIN_JITTER_SCALES": [short, round(short * 1.25)],
        "DATA.TRAIN_JITTER_SCALES_RELATIVE": [0.3, 1.0],
        "DATA.TRAIN_JITTER_ASPECT_RELATIVE": [0.75, 1.3333],
    }


def _paths(videos: OwnVideos, output: Path, weights: str | None) -> dict[str, Any]:
    lists = (output / "lists").resolve()
    return {
        "DATA.PATH_TO_DATA_DIR": str(lists),
        "DATA.PATH_PREFIX": str(videos.root),
        "DATA.PATH_LABEL_SEPARATOR": " ",
        "DATA.CLASS_NAMES": str(lists / "classes.txt"),
        "TRAIN.CHECKPOINT_FILE_PATH": str(Path(weights).expanduser().resolve()) if weights else "",
        "TRAIN.CHECKPOINT_EPOCH_RESET": True,
        "TEST.CHECKPOINT_FILE_PATH": "",
    }


def _write_lists(videos: OwnVideos, output: Path) -> None:
    folder = output / "lists"
    if any(checkpoint_dir(output).glob("*.pyth")):
        for name, lines in videos.lists().items():
            path = folder / name
            if not path.exists() or path.read_bytes().decode("utf-8", "surrogateescape").split("\n") != [*lines, ""]:
                raise ConfigError(f"{output} holds a run on other videos ({path} differs); name another --output")
    try:
        videos.write_lists(folder)
    except OSError as error:
        raise ConfigError(f"--output: cannot write to {folder}: {error.strerror}") from error


def _summary(videos: OwnVideos, output: Path, weights: str | None, notes: Sequence[str]) -> str:
    labels = Counter(label for _, label in videos.val)
    rate = 100 * max(labels.values()) / len(videos.val)
    begin = (
        f"weights: {weights}; a classifier for another number of classes is replaced"
        if weights
        else "no weights given: training from scratch"
    )
    lines = [
        f"{len(videos.classes)} classes, {len(videos.train)} videos to train on and {len(videos.val)} to validate on; "
        f"lists: {output / 'lists'}",
        f"always naming the largest class would be right for {rate:.1f} % of the validation videos",
        begin,
        *videos.notes,
        *notes,
    ]
    return "\n".join(f"- {line}" for line in lines)


def _after(videos: OwnVideos, output: Path, *, trained: bool) -> str:
    """Write confusion.csv; what to say at the end of a run that ``trained``."""
    with np.load(output / "predictions.npz") as predictions:
        labels, predicted = predictions["label"], predictions["scores"].argmax(1)
    count = len(videos.classes)
    matrix = np.bincount(labels * count + predicted, minlength=count**2).reshape(count, count)
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["true class (rows), predicted class (columns)", *videos.classes])
    writer.writerows([name, *row] for name, row in zip(videos.classes, matrix.tolist(), strict=True))
    with whole_file(output / "confusion.csv") as file:
        file.write(table.getvalue().encode("utf-8", "surrogateescape"))
    # A test alone leaves a configuration without training.
    command = f"python tools/run_net.py --cfg {shlex.quote(str(output / 'config.yaml'))} TRAIN.ENABLE"
    again = f"the same again: {command} True OUTPUT_DIR DIR\n" * trained
    return (
        f"confusion matrix: {output / 'report.html'} and {output / 'confusion.csv'}\n"
        f"{again}test only:      {command} False"
    )
