"""A test as plain as can be: every frame decoded, every view made by itself and sent through the network alone."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import videobench
from videobench.config import CfgNode
from videobench.datasets.annotations import split_list
from videobench.datasets.cropping import image_test_window, test_windows
from videobench.datasets.records import VideoList
from videobench.datasets.sampling import clip_indices
from videobench.engine import tester


def plain_scores(cfg: CfgNode, clips: int, crops: int) -> dict[str, np.ndarray]:
    """Scores [videos, classes] of every head of the network in TEST.CHECKPOINT_FILE_PATH, computed in float64."""
    model = videobench.build_model(cfg).double().eval()
    videobench.load_weights(model, cfg.TEST.CHECKPOINT_FILE_PATH)
    videos = split_list(cfg, "test")
    rows: dict[str, list[Tensor]] = {}
    for index in range(len(videos)):
        views = [_scores(cfg, model, view) for view in _views(cfg, videos, index, clips, crops)]
        for head in views[0]:
            whole = views[0][head]
            for view in views[1:]:
                whole = whole + view[head] if cfg.DATA.ENSEMBLE_METHOD == "sum" else torch.maximum(whole, view[head])
            rows.setdefault(head, []).append(whole)
    return {head: torch.stack(row).numpy() for head, row in rows.items()}


def _views(cfg: CfgNode, videos: VideoList, index: int, clips: int, crops: int) -> list[Tensor]:
    data, size = cfg.DATA, cfg.DATA.TEST_CROP_SIZE
    with videos.open(index) as video:
        frames, fps = video.decode(range(video.frames)), video.fps
    views = []
    for clip in range(clips):
        indices = clip_indices(
            videos.rule if data.SAMPLING_RULE == "auto" else data.SAMPLING_RULE,
            frames=len(frames),
            fps=fps,
            num_frames=data.NUM_FRAMES,
            stride=data.SAMPLING_RATE,
            target_fps=data.TARGET_FPS,
            use_offset=data.USE_OFFSET_SAMPLING,
            view=clip,
            views=clips,
        )
        for crop in range(crops):
            if videos.pictures:
                small, box = image_test_window(*frames.shape[1:3], size, data.VAL_CROP_RATIO)
                mode = "bicubic"
            else:
                short_side = data.TRAIN_JITTER_SCALES[0] if crops == 1 and videos.crop_margin else size
                small, boxes = test_windows(*frames.shape[1:3], short_side, size, crops, cfg.TEST.SINGLE_CROP)
                box, mode = boxes[crop], "bilinear"
            pixels = []
            for i in indices:
                frame = frames[i].permute(2, 0, 1)[None]
                if frame.shape[2:] != torch.Size(small):
                    frame = F.interpolate(frame, small, mode=mode, antialias=True)
                pixels.append(frame[0, :, int(box.y0) : int(box.y0) + size, int(box.x0) : int(box.x0) + size])
            views.append(torch.stack(pixels, 1))
    return views


def compute_in_double(monkeypatch) -> None:
    """Make the tester's network compute in float64, so that differences are mistakes and no rounding."""
    build = tester.build_model

    def build_double(cfg):
        model = build(cfg).double()
        forward = model.forward
        model.forward = lambda clip: forward(clip.double())
        return model

    monkeypatch.setattr(tester, "build_model", build_double)


@torch.no_grad()
def _scores(cfg: CfgNode, model: torch.nn.Module, view: Tensor) -> dict[str, Tensor]:
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1, 1) for v in (cfg.DATA.MEAN, cfg.DATA.STD))
    clip = (view.double() / 255 - mean) / std
    logits = model((clip.flip(0) if cfg.DATA.REVERSE_INPUT_CHANNEL else clip)[None])
    heads = logits if isinstance(logits, dict) else {"": logits}
    kinds = {"softmax": lambda x: x.softmax(0), "sigmoid": torch.sigmoid, "logits": lambda x: x}
    return {name: kinds[cfg.TEST.SCORES](head[0]) for name, head in heads.items()}
