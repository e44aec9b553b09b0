"""Clips, views and the order of an epoch."""

import numpy as np
import pytest
import torch

from videobench.config import load_config
from videobench.datasets.annotations import split_list
from videobench.datasets.augment import normalise
from videobench.datasets.clips import Temporal, TrainingClips
from videobench.datasets.decoding import Video, decode
from videobench.datasets.loader import EpochBatches, TrainingLoader
from videobench.datasets.views import VideoViews


@pytest.fixture
def cfg(tiny):
    return load_config([], tiny)


def test_a_clip_depends_on_seed_epoch_and_video_alone(cfg):
    one, two = (TrainingClips(cfg, split_list(cfg, "train")) for _ in range(2))
    two[(3, 5)]  # whatever was loaded before
    clip, label, failures = one[(0, 7)]
    again, _, _ = two[(0, 7)]
    assert torch.equal(clip, again)
    assert clip.dtype == torch.uint8
    assert clip.shape == (4, 3, 32, 32)
    assert label == one.videos.labels[one.order(0)[7]]
    assert not failures
    place = int(np.flatnonzero(one.order(1) == one.order(0)[7])[0])
    assert not torch.equal(clip, one[(1, place)][0])


def test_an_epoch_holds_every_video_once(cfg):
    dataset = TrainingClips(cfg, split_list(cfg, "train"))
    assert sorted(dataset.order(4)) == list(range(32))
    assert not np.array_equal(dataset.order(4), dataset.order(5))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_world_size_makes_the_same_batches(world_size):
    shares = [list(EpochBatches(35, 8, rank, world_size)) for rank in range(world_size)]
    assert all(len(share) == 4 for share in shares)
    batches = [sorted(key for share in shares for key in share[step]) for step in range(4)]
    assert batches == [[(0, 8 * step + i) for i in range(8)] for step in range(4)]


def test_workers_change_nothing(cfg):
    def epoch(workers):
        config = cfg.clone()
        config.defrost()
        config.DATA_LOADER.NUM_WORKERS = workers
        return list(TrainingLoader(config).epoch(2))

    alone = epoch(0)
    for workers in (1, 3):
        for (clips, labels), (other, other_labels) in zip(alone, epoch(workers), strict=True):
            assert torch.equal(clips, other)
            assert torch.equal(labels, other_labels)


def test_flips_swap_the_labels_that_depend_on_the_side(cfg):
    config = cfg.clone()
    config.defrost()
    config.DATA.FLIP_LABEL_PAIRS = [[0, 1], [6, 7]]
    dataset = TrainingClips(config, split_list(config, "train"))
    swapped = {0: 1, 1: 0, 6: 7, 7: 6}
    flips = 0
    for index in range(32):
        clip, label = dataset._clip(index, np.random.default_rng(index))
        dataset.flip = False
        plain, true_label = dataset._clip(index, np.random.default_rng(index))
        dataset.flip = True
        flipped = not torch.equal(clip, plain)
        flips += flipped
        assert torch.equal(clip, plain.flip(-1) if flipped else plain)
        assert label == (swapped.get(true_label, true_label) if flipped else true_label)
    assert 5 < flips < 27


def test_views_equal_single_decodes(cfg):
    videos = split_list(cfg, "val")
    views, label, index, failure = VideoViews(cfg, videos, clips=3, crops=3)[4]
    assert (views.shape, label, index, failure) == ((9, 4, 3, 32, 32), 4, 4, None)
    temporal = Temporal.from_config(cfg)
    with Video(videos.path(4)) as video:
        indices = temporal.indices(video, view=1, views=3)
    frames = decode(videos.path(4), indices)
    # Square frames: the three crops are the same, and so is a plain resize.
    small = torch.nn.functional.interpolate(
        frames.permute(0, 3, 1, 2), (32, 32), mode="bilinear", antialias=True, align_corners=False
    )
    for crop in range(3):
        assert torch.equal(views[3 + crop], small)


def test_shuffled_frames_are_the_same_frames(cfg):
    videos = split_list(cfg, "val")
    plain = VideoViews(cfg, videos, clips=2, crops=1)[3][0]
    shuffled = VideoViews(cfg, videos, clips=2, crops=1, shuffle_frames=True)[3][0]
    assert not torch.equal(plain, shuffled)
    for view, other in zip(plain, shuffled, strict=True):
        assert sorted(f.float().mean().item() for f in view) == sorted(f.float().mean().item() for f in other)


def test_normalise_is_the_published_arithmetic():
    clips = torch.randint(0, 256, (2, 3, 3, 4, 5), dtype=torch.uint8)
    mean, std = [0.45, 0.4, 0.5], [0.225, 0.2, 0.25]
    expected = (clips.double() / 255 - torch.tensor(mean).view(1, 1, 3, 1, 1)) / torch.tensor(std).view(1, 1, 3, 1, 1)
    out = normalise(clips, mean, std)
    assert out.shape == (2, 3, 3, 4, 5)
    torch.testing.assert_close(out.double(), expected.transpose(1, 2), atol=1e-5, rtol=1e-5)
    assert torch.equal(normalise(clips, mean, std, reverse_channels=True), out.flip(1))
