"""Looking inside the data: clips exactly as the network gets them, and where in the videos they come from."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videobench.config import CfgNode, ConfigError
from videobench.config.checks import check_config
from videobench.datasets.annotations import READERS, read_kinetics, split_list
from videobench.datasets.augment import Augmentation, normalise
from videobench.datasets.backends import VideoReader
from videobench.datasets.clips import Cut, Failure, TrainingClips, TrainingItem
from videobench.datasets.containers import VideoError
from videobench.datasets.preparation.files import printable
from videobench.datasets.records import Label, TextBuilder, VideoList
from videobench.datasets.views import VideoViews, Views
from videobench.engine.class_names import class_names
from videobench.engine.tester import view_grids
from videobench.reporting.contact_sheet import SheetRow

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShownClip:
    """One clip.

    Attributes:
        name: which one of the video's it is.
        label: its class or classes in words; a mirrored clip may have another one than its video.
        cut: its frames, its box and whether it is mirrored.
        pixels: what the network gets, un-normalised: uint8 [T, H, W, 3], RGB.
    """

    name: str
    label: str
    cut: Cut
    pixels: np.ndarray


@dataclass(frozen=True)
class ShownVideo:
    """A video and its clips.

    Attributes:
        path: the file or folder.
        frames: how many it has.
        fps: frames per second; None where nothing tells.
        originals: for every clip its middle frame as it is in the video, uint8 [H, W, 3].
        clips: the clips.
    """

    path: str
    frames: int
    fps: float | None
    originals: list[np.ndarray]
    clips: list[ShownClip]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pixels, for JSON; boxes are in pixels of the video's frames."""
        height, width = self.originals[0].shape[:2]
        return {
            "video": self.path,
            "frames": self.frames,
            "fps": self.fps,
            "height": height,
            "width": width,
            "clips": [
                {
                    "name": clip.name,
                    "label": clip.label,
                    "frames": list(clip.cut.frames),
                    "box": {name: round(float(edge), 3) for name, edge in clip.cut.box._asdict().items()},
                    "mirrored": clip.cut.mirrored,
                }
                for clip in self.clips
            ],
        }

    def as_text(self) -> str:
        """The same in lines."""
        facts = self.as_dict()
        rate = f"{self.fps:.5g} frames/s" if self.fps else "frame rate unknown"
        lines = [f"{printable(self.path)}: {self.frames} frames of {facts['width']} x {facts['height']}, {rate}"]
        for clip in facts["clips"]:
            box = ", ".join(f"{name} {edge:g}" for name, edge in clip["box"].items())
            mirrored = "; mirrored" * clip["mirrored"]
            frames = " ".join(map(str, clip["frames"]))
            lines.append(f"  {clip['name']}: {clip['label']}; frames {frames}; box {box}{mirrored}")
        return "\n".join(lines)

    def sheet_rows(self) -> list[SheetRow]:
        """What a contact sheet shows of it."""
        return [
            SheetRow(
                f"{printable(self.path)}   {clip.label}   {clip.name}{', mirrored' * clip.cut.mirrored}",
                original,
                tuple(clip.cut.box),
                clip.cut.frames,
                clip.pixels,
            )
            for clip, original in zip(self.clips, self.originals, strict=True)
        ]


def shown_videos(
    cfg: CfgNode, split: str, *, num: int = 8, epoch: int = 0, video: str | None = None
) -> Iterator[ShownVideo]:
    """Videos as training (split train), validation (val) or test (test) reads them.

    For training these are the first ones in the order of an epoch, with the clips of that epoch, augmented; mixup and
    cutmix come later and are not shown. For the others the first ones of the list, with all their views. A video that
    cannot be read is named in a warning; in training another one takes its place.

    Args:
        cfg: the configuration.
        split: train, val or test.
        num: how many videos, 1 or more.
        epoch: which one, from 0.
        video: one video instead: its path, or its name in the list. Files that are not in the list can be named where
            the list is one of video files.

    Raises:
        ConfigError: for a configuration or a list that cannot be used, numbers below these, and a video that is not in
            the list.
        VideoError: for ``video``, when it cannot be read.
    """
    if num < 1 or epoch < 0:
        raise ConfigError(f"--num is {num} and --epoch {epoch}; use 1 or more, and 0 or more")
    try:
        _check(cfg)
        videos = split_list(cfg, split)
        index = None if video is None else _find(videos, video)
    except ConfigError:
        if video is None or not _needs_no_list(cfg, split, video):
            raise
        _check(cfg, os.path.dirname(os.path.abspath(video)))
        videos, index = _list_of_one(cfg, video), 0
    names = class_names(cfg)
    if split == "train":
        clips = TrainingClips(cfg, videos)
        order = clips.order(epoch)
        chosen = order[:num] if index is None else [index]
        for position in [int(np.flatnonzero(order == i)[0]) for i in chosen]:
            item = clips[epoch, position]
            for failure in item.failures:
                _unreadable(failure, video)
            if item.clips is not None:
                yield _training_video(cfg, videos, item, epoch, names)
    else:
        grid = view_grids(cfg)[0] if split == "test" else (1, 1)
        views = VideoViews(cfg, videos, [grid], shuffle_frames=split == "test" and cfg.TEST.SHUFFLE_FRAMES)
        for i in range(min(num, len(videos))) if index is None else [index]:
            item = views[i]
            if item.failure is not None:
                _unreadable(item.failure, video)
            else:
                yield _viewed_video(cfg, views, item, names)


def _unreadable(failure: Failure, wanted: str | None) -> None:
    if wanted is not None:
        raise VideoError(failure.video, failure.cause)
    logger.warning("unreadable video: %s: %s", failure.video, failure.cause)


def _training_video(cfg: CfgNode, videos: VideoList, item: TrainingItem, epoch: int, names) -> ShownVideo:
    augmentation = Augmentation.from_config(cfg)
    keys = [(epoch, item.index, sample) for sample in range(len(item.clips))]
    inputs = augmentation.finish(augmentation.pixels(item.clips, keys), keys)
    shown = [
        ShownClip(f"epoch {epoch}, sample {sample}", _label_text(_of_sample(item.labels, sample), names), cut, pixels)
        for sample, (cut, pixels) in enumerate(zip(item.cuts, _un_normalised(cfg, inputs), strict=True))
    ]
    return _video(videos, item.index, shown)


def _of_sample(labels: Tensor | dict[str, Tensor], sample: int) -> Label:
    if isinstance(labels, dict):
        return {head: int(part[sample]) for head, part in labels.items()}
    return int(labels[sample]) if labels.dim() == 1 else labels[sample].numpy()


def _viewed_video(cfg: CfgNode, loader: VideoViews, views: Views, names) -> ShownVideo:
    data, ((clips, crops),) = cfg.DATA, loader.grids
    inputs = normalise(views.clips(), data.MEAN, data.STD, reverse_channels=data.REVERSE_INPUT_CHANNEL)
    pixels, label = _un_normalised(cfg, inputs), _label_text(loader.videos.label(views.index), names)
    shown = [
        ShownClip(
            f"clip {place // crops + 1} of {clips}, crop {place % crops + 1} of {crops}",
            label,
            Cut(tuple(views.frames(view)), views.box(view), False),
            pixels[view],
        )
        for place, view in enumerate(views.grids[0].tolist())
    ]
    return _video(loader.videos, views.index, shown)


def _un_normalised(cfg: CfgNode, inputs: Tensor) -> np.ndarray:
    """Network inputs [N, C, T, H, W] as uint8 RGB [N, T, H, W, C]."""
    data = cfg.DATA
    inputs = inputs.flip(1) if data.REVERSE_INPUT_CHANNEL else inputs
    std, mean = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (data.STD, data.MEAN))
    pixels = (255 * (inputs * std + mean)).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 4, 1).contiguous().numpy()


def _video(videos: VideoList, index: int, clips: list[ShownClip]) -> ShownVideo:
    middles = [clip.cut.frames[len(clip.cut.frames) // 2] for clip in clips]
    with videos.open(index) as video:
        wanted = sorted(set(middles))
        frames = video.decode(wanted).numpy()
        count, fps = video.frames, video.fps
    originals = [frames[wanted.index(number)] for number in middles]
    return ShownVideo(videos.path(index), count, float(fps) if fps else None, originals, clips)


def _label_text(label: Label, names: dict[str, Sequence[str]]) -> str:
    def say(number: int, head: str = "") -> str:
        known = names.get(head)
        return known[number] if known and number >= 0 else f"class {number}" if number >= 0 else "no label"

    if isinstance(label, dict):
        return ", ".join(f"{head} {say(number, head)}" for head, number in label.items())
    if isinstance(label, int):
        return say(label)
    return "; ".join(say(number) for number in np.flatnonzero(label).tolist()) or "no label"


def _check(cfg: CfgNode, folder: str | None = None) -> None:
    """Raise a ConfigError for a configuration that cannot run; weights are not needed, nor lists with a folder."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TRAIN.CHECKPOINT_FILE_PATH = cfg.TEST.CHECKPOINT_FILE_PATH = ""
    if folder is not None:
        cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.PATH_PREFIX = folder, ""
    check_config(cfg)


def _needs_no_list(cfg: CfgNode, split: str, video: str) -> bool:
    """Whether a video is a file, and lists hold paths of files."""
    name = (cfg.TEST if split == "test" else cfg.TRAIN).DATASET.lower()
    return READERS.get(name) is read_kinetics and os.path.isfile(video)


def _list_of_one(cfg: CfgNode, video: str) -> VideoList:
    name = TextBuilder()
    name.add(os.path.abspath(video))
    return VideoList(
        source=Path(video),
        prefix="",
        names=name.column(),
        labels=np.array([-1]),
        reader=replace(VideoReader.from_config(cfg, Path(video)), cache=None),
    )


def _find(videos: VideoList, video: str) -> int:
    wanted = os.path.abspath(video)
    for index in range(len(videos)):
        if video == videos.name(index) or wanted == os.path.abspath(videos.path(index)):
            return index
    raise ConfigError(f"{video} is not in {videos.source}")
