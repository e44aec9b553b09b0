"""The views of a video, cut from frames that are decoded once; shares of ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from video_fixtures import write_clip

from videobench.config import load_config
from videobench.datasets import backends
from videobench.datasets.annotations import split_list
from videobench.datasets.clips import Temporal
from videobench.datasets.containers import VideoError
from videobench.datasets.cropping import test_crops as crops_of
from videobench.datasets.decoding import Video, decode
from videobench.datasets.picture_files import PictureFiles, VideoSegment
from videobench.datasets.pictures import PART
from videobench.datasets.views import VideoViews, ViewLoader, spread, video_bytes


@pytest.fixture
def cfg(tiny):
    return load_config([], tiny)


@pytest.fixture(scope="module")
def wide(tiny, tmp_path_factory):
    """A wide, a tall and a square video, the last one shorter than a clip."""
    folder = tmp_path_factory.mktemp("wide")
    for i, (size, length) in enumerate((((96, 48), 40), ((48, 64), 30), ((48, 48), 3))):
        write_clip(folder / f"{i}.mp4", length, size=size, options={"preset": "ultrafast", "g": "12"})
    (folder / "test.csv").write_text("0.mp4 0\n1.mp4 1\n2.mp4 2\n")
    overrides = ["DATA.PATH_TO_DATA_DIR", str(folder), "DATA.PATH_PREFIX", str(folder), "DATA.SAMPLING_RATE", 3]
    return load_config([], [*tiny, *overrides])


@pytest.mark.parametrize("short", [32, 40])
@pytest.mark.parametrize("grids", [((3, 3),), ((1, 1),), ((2, 3), (4, 1), (1, 1), (1, 3))])
def test_views_equal_clips_decoded_and_cut_one_by_one(wide, grids, short):
    wide = wide.clone()
    wide.defrost()
    wide.DATA.TRAIN_JITTER_SCALES = [short, 48]
    videos, temporal = split_list(wide, "test"), Temporal.from_config(wide, split_list(wide, "test"))
    for index in range(3):
        views = VideoViews(wide, videos, grids)[index]
        clips = views.clips()
        assert clips.dtype == torch.uint8
        for (count, crops), members in zip(grids, views.grids, strict=True):
            expected = []
            for k in range(count):
                with Video(videos.path(index)) as video:
                    indices = temporal.indices(video, view=k, views=count)
                frames = decode(videos.path(index), indices)
                expected += crops_of(frames, {1: short, 3: 32}[crops], 32, crops)
            assert torch.equal(clips[torch.from_numpy(members)], torch.stack(expected))


def test_views_that_coincide_are_one(wide):
    videos = split_list(wide, "test")
    one_clip = VideoViews(wide, videos, ((10, 3), (1, 3)))[2]
    # Three square frames repeated: every crop is the same, and there are no more clips than places to begin.
    assert len(one_clip) < 10
    assert [len(members) for members in one_clip.grids] == [30, 3]
    # Frames are handed over once, however many views show them.
    assert sum(len(plane) for plane in one_clip.planes) <= 3
    many = VideoViews(wide, videos, ((30, 3),))[0]
    assert sum(plane.numel() for plane in many.planes) <= 40 * 3 * 32 * 64
    assert len(many.grids[0]) == 90


def test_parts_of_the_views_are_the_views(wide):
    views = VideoViews(wide, split_list(wide, "test"), ((3, 3),))[0]
    whole = views.clips()
    assert torch.equal(torch.cat([views.clips(0, 4), views.clips(4, 5), views.clips(5, len(views))]), whole)
    assert torch.equal(views.to(torch.device("cpu")).clips(), whole)


def test_a_single_crop_lies_at_the_centre_or_left(wide):
    videos = split_list(wide, "test")
    three = VideoViews(wide, videos, ((1, 3),))[0].clips()
    for where, crop in (("centre", 1), ("left", 0)):
        config = wide.clone()
        config.defrost()
        config.TEST.SINGLE_CROP = where
        one = VideoViews(config, videos, ((1, 1),))[0].clips()
        assert torch.equal(one[0], three[crop])
    assert not torch.equal(three[0], three[1])


def test_shuffled_frames_are_the_same_frames(cfg):
    videos = split_list(cfg, "val")
    plain = VideoViews(cfg, videos, ((2, 1),))[3].clips()
    shuffled = VideoViews(cfg, videos, ((2, 1),), shuffle_frames=True)[3].clips()
    assert not torch.equal(plain, shuffled)
    for view, other in zip(plain, shuffled, strict=True):
        assert sorted(f.float().mean().item() for f in view) == sorted(f.float().mean().item() for f in other)
    # Whatever else is evaluated, a grid is shuffled alike.
    views = VideoViews(cfg, videos, ((3, 1), (2, 1)), shuffle_frames=True)[3]
    assert torch.equal(views.clips()[torch.from_numpy(views.grids[1])], shuffled)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_every_video_once_in_order(cfg, workers):
    cfg.defrost()
    cfg.DATA_LOADER.NUM_WORKERS = workers
    whole = [views.clips() for views in ViewLoader(cfg, "val", ((2, 1),))]
    assert len(whole) == 10
    for rank in range(3):
        loader = ViewLoader(cfg, "val", ((2, 1),), rank=rank, world_size=3)
        kept = [views.to(torch.device("cpu")) for views in loader]
        assert [views.index for views in kept] == list(range(rank, 10, 3))
        assert len(loader) == len(kept)
        for views in kept:
            assert torch.equal(views.clips(), whole[views.index])
    some = ViewLoader(cfg, "val", ((2, 1),), indices=[7, 2])
    assert [views.index for views in some] == [7, 2]
    assert [views.index for views in some] == [7, 2]


def test_videos_of_a_loader_take_turns_in_its_memory(cfg):
    """So nothing is copied on the way; whoever keeps views takes `Views.to`."""
    cfg.defrost()
    cfg.DATA_LOADER.NUM_WORKERS = 1
    kept = list(ViewLoader(cfg, "val"))
    assert len({views.planes[0].data_ptr() for views in kept}) < len(kept) == 10


def test_a_video_is_decoded_once_for_all_views(wide, monkeypatch):
    asked = []

    class Counting(Video):
        def decode(self, indices):
            asked.append(list(indices))
            return super().decode(indices)

    monkeypatch.setattr(backends, "Video", Counting)
    VideoViews(wide, split_list(wide, "test"), ((10, 3), (4, 1)))[0]
    assert len(asked) == 1
    assert len(set(asked[0])) == len(asked[0])


def test_no_more_than_a_part_of_the_frames_is_there_at_full_size(wide, tmp_path):
    path = split_list(wide, "test").path(0)
    for i, frame in enumerate(decode(path, range(40)).numpy(), start=1):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    wanted = [*range(0, 38, 2), 39]
    folder = PictureFiles("folder", lambda i: str(tmp_path / f"{i + 1}.png"), 40)
    # Before its first frame, a segment that begins early repeats that.
    for opened in (Video(path), folder, VideoSegment(Video(path), 0, 2, earlier=3)):
        with opened as video:
            whole = video.decode(wanted)
            parts, sizes = torch.zeros_like(whole), []

            def take(rows, frames, parts=parts, sizes=sizes):
                parts[rows] = frames
                sizes.append(len(rows))

            video.decode_parts(wanted, take)
        assert torch.equal(parts, whole)
        assert len(sizes) > 1
        assert max(sizes) <= PART + 3
        assert sum(sizes) == len(wanted)


def test_pictures_of_different_sizes_are_named_whatever_part_they_are_in(tmp_path):
    for i in range(20):
        Image.new("RGB", (8, 8 if i < 18 else 9)).save(tmp_path / f"{i}.png")
    folder = PictureFiles(str(tmp_path), lambda i: str(tmp_path / f"{i}.png"), 20)
    with pytest.raises(VideoError, match=r"18.png is 8 x 9, but 0.png is 8 x 8"):
        folder.decode_parts([*range(16), 18, 19], lambda *_: None)


def test_no_other_program_is_run_for_a_picture(tmp_path):
    path = tmp_path / "1.png"
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    with PictureFiles(str(tmp_path), lambda _: str(path), 2) as folder, pytest.raises(VideoError) as caught:
        folder.decode([0])
    assert caught.value.cause == "1.png: not a picture, or its header is missing"


def test_a_video_that_cannot_be_read_says_why(wide, tmp_path):
    (tmp_path / "test.csv").write_text("gone.mp4 0\n")
    wide = wide.clone()
    wide.defrost()
    wide.DATA.PATH_TO_DATA_DIR = wide.DATA.PATH_PREFIX = str(tmp_path)
    videos = split_list(wide, "test")
    views = VideoViews(wide, videos, ((2, 1),))[0]
    assert len(views) == 0
    assert views.failure.video.endswith("gone.mp4")
    assert "no such file" in views.failure.cause.lower()
    assert video_bytes(videos, [0]).tolist() == [0.0]


def test_bytes_are_those_of_the_files(wide):
    videos = split_list(wide, "test")
    expected = [(videos.source.parent / f"{i}.mp4").stat().st_size for i in (2, 0)]
    assert video_bytes(videos, [2, 0]).tolist() == expected
    # What two records share, each has half of.
    assert video_bytes(videos, [1, 1]).tolist() == [video_bytes(videos, [1])[0] / 2] * 2


@given(st.lists(st.integers(0, 10**9), max_size=60), st.integers(1, 9))
def test_shares_hold_every_job_once_and_are_even(costs, ranks):
    shares = spread(costs, ranks)
    assert sorted(job for share in shares for job in share) == list(range(len(costs)))
    assert all(share == sorted(share) for share in shares)
    counts = [len(share) for share in shares]
    assert max(counts) - min(counts) <= 1
    sums = [sum(costs[job] for job in share) for share in shares]
    # No two ranks differ by more than the dearest job.
    assert max(sums) - min(sums) <= max(costs, default=0)


def test_shares_follow_the_cost():
    costs = np.array([9, 1, 9, 1, 9, 1, 9, 1])  # taking turns would give one of two ranks everything
    assert [costs[share].sum() for share in spread(costs, 2)] == [20, 20]
