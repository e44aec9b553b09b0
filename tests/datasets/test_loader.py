"""Training batches: the same for any number of workers and ranks, from any step on, whatever the files are like."""

import faulthandler
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import video_fixtures as videos

from videobench.config import ConfigError, load_config
from videobench.config.checks import check_config
from videobench.datasets import clips, workers
from videobench.datasets.annotations import split_list
from videobench.datasets.backends import VideoReader
from videobench.datasets.containers import VideoError
from videobench.datasets.loader import DataError, EpochBatches, TrainingLoader
from videobench.datasets.views import ViewLoader


@pytest.fixture
def configure(tiny):
    """The demo configuration with some keys changed."""
    return lambda *overrides: load_config([], [*tiny, *overrides])


def assert_same(batches, others):
    for one, other in zip(batches, others, strict=True):
        assert torch.equal(one.clips, other.clips)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.keys, other.keys)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_world_size_makes_the_same_batches(world_size):
    shares = [list(EpochBatches(35, 8, rank, world_size).keys(0)) for rank in range(world_size)]
    share = 8 // world_size
    for step in range(4):
        batch = sorted(key for keys in shares for key in keys[step * share : (step + 1) * share])
        assert batch == [(0, 8 * step + i) for i in range(8)]
    assert list(EpochBatches(35, 8, 1, 2).keys(3, first_step=2)) == [(3, p) for p in (20, 21, 22, 23, 28, 29, 30, 31)]


def test_what_a_batch_holds(configure):
    loader = TrainingLoader(configure("AUG.DEVICE", "gpu"))
    order = loader.dataset.order(3)
    batches = list(loader.epoch(3))
    assert len(batches) == len(loader) == 4
    seen = []
    for step, batch in enumerate(batches):
        assert batch.clips.dtype == torch.uint8
        assert batch.clips.shape == (8, 4, 3, 32, 32)
        assert len(batch) == 8
        indices = order[8 * step : 8 * step + 8].tolist()
        assert batch.keys.tolist() == [[3, index, 0] for index in indices]
        assert batch.labels.tolist() == loader.videos.labels[indices].tolist()
        assert batch.videos == [loader.videos.path(index) for index in indices]
        seen += indices
        for row, index in enumerate(indices):
            item = loader.dataset[(3, int(np.flatnonzero(order == index)[0]))]
            assert torch.equal(batch.clips[row], item.clips[0])
    assert sorted(seen) == list(range(32))
    moved = batches[0].to("cpu")
    assert_same([moved], batches[:1])


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_workers_change_nothing(configure, device):
    def epoch(count):
        recipe = ("AUG.ENABLE", True, "AUG.AA_TYPE", "", "AUG.COLOR_JITTER", 0.4, "AUG.DEVICE", device)
        return list(TrainingLoader(configure("DATA_LOADER.NUM_WORKERS", count, *recipe)).epoch(2))

    alone = epoch(0)
    for count in (1, 2, 3):
        assert_same(alone, epoch(count))


def test_pixels_are_augmented_in_the_workers_only_where_that_is_asked_for(configure):
    recipe = ("AUG.ENABLE", True, "AUG.AA_TYPE", "", "AUG.COLOR_JITTER", 0.4, "DATA_LOADER.NUM_WORKERS", 2)
    loader = TrainingLoader(configure(*recipe, "AUG.DEVICE", "cpu"))
    here, there = list(loader.epoch(0)), list(TrainingLoader(configure(*recipe, "AUG.DEVICE", "gpu")).epoch(0))
    for one, other in zip(here, there, strict=True):
        assert not torch.equal(one.clips, other.clips)
        assert torch.equal(one.clips, loader._augmentation.pixels(other.clips, other.keys))


@pytest.mark.parametrize("count", [0, 2])
def test_an_epoch_goes_on_where_it_was_left(configure, count):
    loader = TrainingLoader(configure("DATA_LOADER.NUM_WORKERS", count))
    whole = list(loader.epoch(1))
    for first in range(5):
        opened = []
        note = clips.note_reading
        if not count:
            clips.note_reading = opened.append
        try:
            rest = list(loader.epoch(1, first))
        finally:
            clips.note_reading = note
        assert_same(rest, whole[first:])
        if not count:
            assert opened == loader.dataset.order(1)[8 * first : 32].tolist(), "earlier videos are not opened"


def test_epochs_read_ahead_are_the_same(configure):
    alone = [list(TrainingLoader(configure()).epoch(epoch)) for epoch in range(2)]
    loader = TrainingLoader(configure("DATA_LOADER.NUM_WORKERS", 2, "SOLVER.MAX_EPOCH", 2))
    assert_same(loader.epoch(0), alone[0])
    assert_same([next(loader.epoch(1))], alone[1][:1])
    assert_same(loader.epoch(1, 1), alone[1][1:])
    assert_same(loader.epoch(1), alone[1])


@pytest.mark.parametrize("count", [0, 2])
def test_ranks_share_the_batches_of_one(configure, count):
    whole = list(TrainingLoader(configure()).epoch(0))
    ranks = [
        list(TrainingLoader(configure("DATA_LOADER.NUM_WORKERS", count), rank=r, world_size=2).epoch(0)) for r in (0, 1)
    ]
    for batch, one, other in zip(whole, *ranks, strict=True):
        assert torch.equal(batch.clips, torch.cat([one.clips, other.clips]))
        assert torch.equal(batch.keys, torch.cat([one.keys, other.keys]))


def test_batches_that_are_kept_stay_as_they_are(configure):
    kept, sums = [], []
    for batch in TrainingLoader(configure("DATA_LOADER.NUM_WORKERS", 2, "DATA_LOADER.PREFETCH", 1)).epoch(0):
        kept.append(batch)
        sums.append(batch.clips.long().sum().item())
    assert [batch.clips.long().sum().item() for batch in kept] == sums


def test_too_few_videos_for_a_batch(configure):
    with pytest.raises(DataError, match=r"train.csv: 32 videos do not fill one batch of 64 \(TRAIN.BATCH_SIZE"):
        TrainingLoader(configure("TRAIN.BATCH_SIZE", 64))


# Bad files.


def write_sound_only(path):
    sound = videos.write_sound(path.with_suffix(".m4a"))
    sound.rename(path)


def damage_middle(path):
    videos.write_clip(path, options=videos.X264)
    videos.damage_packet(path, 2)


def cut_short(path):
    videos.write_clip(path, mux_options={"movflags": "faststart"}, options=videos.X264)
    videos.cut(path, path, 0.6)


def no_frames(path):
    videos.write_clip(path, 250, mux_options={"movflags": "faststart"})
    videos.cut(path, path, through=b"mdat")


HEADER = "not a video, or its header is missing"
# What is wrong, as a regular expression.
BAD = {
    "missing": (lambda p: None, "no such file"),
    "empty": (lambda p: p.write_bytes(b""), "empty file"),
    "text": (lambda p: p.write_text("no video\n" * 99), HEADER),
    "directory": (lambda p: p.mkdir(), "is a directory"),
    "fifo": (os.mkfifo, "not a regular file"),
    "sound": (write_sound_only, "no video stream, only audio"),
    "truncated": (cut_short, r"damaged: \d+ of 40 packets are missing"),
    "headless": (lambda p: videos.cut(videos.write_clip(p, options=videos.X264), p, 0.7), HEADER),
    "no_frames": (no_frames, "no frames: 250 of 250 packets are missing"),
    "damaged": (
        damage_middle,
        r"frame \d+ asked for, none is there \(packet 2: Invalid data found when processing input\)",
    ),
}


@pytest.fixture
def spoil(demo_data, tmp_path, configure):
    """A copy of the demo data with some training files spoiled, by their number in the list."""

    def make(deeds, *overrides):
        folder = tmp_path / "data"
        shutil.copytree(demo_data, folder, copy_function=os.link)
        paths = {}
        names = split_list(configure("DATA.PATH_TO_DATA_DIR", str(folder)), "train")
        for index, deed in deeds.items():
            paths[index] = folder / names.name(index)
            paths[index].unlink()
            deed(paths[index])
        where = ("DATA.PATH_TO_DATA_DIR", str(folder), "DATA.PATH_PREFIX", str(folder))
        return configure(*where, *overrides), paths

    return make


@pytest.mark.parametrize("count", [0, 2])
def test_every_kind_of_bad_file_is_named_and_replaced(spoil, count, caplog):
    numbers = dict(zip(BAD, range(0, 30, 3), strict=True))
    cfg, paths = spoil(
        {numbers[kind]: BAD[kind][0] for kind in BAD},
        *("DATA.MAX_FAILED_FRACTION", 0.4, "DATA_LOADER.NUM_WORKERS", count),
    )
    loader = TrainingLoader(cfg)
    started = time.monotonic()
    batches = list(loader.epoch(0))
    assert time.monotonic() - started < 120, "nothing waits for a FIFO"
    assert len(batches) == 4
    assert all(len(batch) == 8 for batch in batches)
    read = {index for batch in batches for index in batch.keys[:, 1].tolist()}
    assert read == set(range(32)) - set(numbers.values())
    for batch in batches:
        assert batch.labels.tolist() == loader.videos.labels[batch.keys[:, 1].numpy()].tolist()
    assert sorted(loader.failed) == sorted(numbers.values())
    for kind, index in numbers.items():
        failure = loader.failed[index]
        assert failure.video == str(paths[index])
        assert re.fullmatch(BAD[kind][1], failure.cause), kind
        assert caplog.text.count(f"unreadable video replaced: {paths[index]}: {failure.cause}") == 1
    caplog.clear()
    assert_same(list(loader.epoch(0)), batches)
    assert not caplog.records, "every file is named once"


@pytest.mark.parametrize("count", [0, 2])
def test_too_many_bad_files_stop_the_run_and_are_named(spoil, count):
    deeds = dict.fromkeys((1, 4, 9), lambda p: None)
    cfg, paths = spoil(deeds, "DATA.MAX_FAILED_FRACTION", 0.08, "DATA_LOADER.NUM_WORKERS", count)
    with pytest.raises(DataError) as caught:
        list(TrainingLoader(cfg).epoch(0))
    first, *named = str(caught.value).splitlines()
    assert first.endswith(
        "train.csv: 3 of 32 videos cannot be read, more than the 2 that DATA.MAX_FAILED_FRACTION allows; mend or "
        "remove them:"
    )
    assert sorted(named) == sorted(f"  {path}: no such file" for path in paths.values())


def test_failures_before_a_resumed_step_count(spoil):
    cfg, _ = spoil(dict.fromkeys((1, 4, 9), lambda p: None), "DATA.MAX_FAILED_FRACTION", 0.08)
    loader = TrainingLoader(cfg)
    order = loader.dataset.order(0).tolist()
    last = max(order.index(i) for i in (1, 4, 9))
    before = last // 8
    batches = loader.epoch(0)
    for _ in range(before):
        next(batches)
    failed = list(loader.failed.values())
    assert 0 < len(failed) < 3
    fresh = TrainingLoader(cfg)
    with pytest.raises(DataError, match="3 of 32 videos cannot be read"):
        list(fresh.epoch(0, before, failed))


def deadly(path, deed):
    """`VideoReader.open`, which does something to the reader of one file."""
    open_video = VideoReader.open

    def watched(self, source):
        if source == path:
            deed()
        return open_video(self, source)

    return watched


DEEDS = {
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL, out of memory?"),
    "crashed": (lambda: (faulthandler.disable(), os.kill(os.getpid(), signal.SIGSEGV)), "SIGSEGV"),
    "hung": (lambda: time.sleep(60), "DATA_LOADER.TIMEOUT"),
}


@pytest.mark.parametrize("way", DEEDS)
def test_a_video_that_brings_its_reader_down_is_replaced_in_training(way, configure, monkeypatch, caplog):
    deed, cause = DEEDS[way]
    limits = ("DATA.MAX_FAILED_FRACTION", 0.05, "DATA_LOADER.TIMEOUT", 2.0)
    loader = TrainingLoader(configure("DATA_LOADER.NUM_WORKERS", 2, *limits))
    path = loader.videos.path(7)
    monkeypatch.setattr(workers, "_PULSE", 0.05)
    monkeypatch.setattr(VideoReader, "open", deadly(path, deed))
    batches = list(loader.epoch(0))
    assert list(loader.failed) == [7]
    assert cause in loader.failed[7].cause
    assert f"unreadable video replaced: {path}: {loader.failed[7].cause}" in caplog.text
    assert 7 not in {index for batch in batches for index in batch.keys[:, 1].tolist()}
    assert len(batches) == 4
    monkeypatch.undo()

    def refuse():
        raise VideoError(path, "bad")

    # The same as if the file had been unreadable from the start.
    plain = TrainingLoader(configure("DATA.MAX_FAILED_FRACTION", 0.05))
    monkeypatch.setattr(VideoReader, "open", deadly(path, refuse))
    assert_same(batches, list(plain.epoch(0)))


def test_readers_brought_down_too_often_stop_the_run(configure, monkeypatch):
    loader = TrainingLoader(configure("DATA_LOADER.NUM_WORKERS", 2, "DATA.MAX_FAILED_FRACTION", 0.01))
    path = loader.videos.path(7)
    monkeypatch.setattr(VideoReader, "open", deadly(path, DEEDS["crashed"][0]))
    with pytest.raises(DataError) as caught:
        list(loader.epoch(0))
    assert str(caught.value).splitlines()[1] == f"  {path}: reading it brought its process down (SIGSEGV)"


@pytest.mark.parametrize("way", DEEDS)
def test_a_video_that_brings_its_reader_down_is_reported_in_evaluation(way, configure, monkeypatch):
    deed, cause = DEEDS[way]
    loader = ViewLoader(configure("DATA_LOADER.NUM_WORKERS", 2, "DATA_LOADER.TIMEOUT", 2.0), "val", [(2, 1)])
    path = loader.videos.path(4)
    plain = [views.clips() for views in loader]
    monkeypatch.setattr(workers, "_PULSE", 0.05)
    monkeypatch.setattr(VideoReader, "open", deadly(path, deed))
    found = [views.to(torch.device("cpu")) for views in loader]
    assert [views.index for views in found] == list(range(10))
    assert [views.index for views in found if views.failure] == [4]
    assert found[4].failure.video == path
    assert cause in found[4].failure.cause
    assert all(torch.equal(plain[views.index], views.clips()) for views in found if not views.failure)


def private_megabytes(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Private_Clean"))) / 1024


def test_a_million_videos_cost_a_worker_next_to_nothing(configure, demo_data, tmp_path):
    """The list is shared; what a worker has of its own beyond a short list's is the order of an epoch."""

    def memory(repeat):
        (tmp_path / "train.csv").write_bytes((demo_data / "train.csv").read_bytes() * repeat)
        loader = TrainingLoader(configure("DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA_LOADER.NUM_WORKERS", 2))
        next(loader.epoch(0))
        return max(private_megabytes(worker.process.pid) for worker in loader._pool._workers)

    short, long = memory(1), memory(31250)
    assert long - short < 30


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATA_LOADER.TIMEOUT", -1.0, "DATA_LOADER.TIMEOUT is -1.0; use seconds, or 0 for any time"),
        ("DATA_LOADER.PREFETCH", 0, "DATA_LOADER.PREFETCH is 0; it must be at least 1"),
        ("DATA_LOADER.NUM_WORKERS", -2, "DATA_LOADER.NUM_WORKERS is -2"),
        ("DATA.DECODING_BACKEND", "opencv", "DATA.DECODING_BACKEND is 'opencv'; use pyav or torchcodec"),
    ],
)
def test_keys_of_the_loader_are_checked(key, value, message, configure):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_config(configure(key, value))


def test_workers_are_shared_among_ranks(configure, monkeypatch):
    monkeypatch.setattr(workers, "usable_cores", lambda: 12)
    automatic = ("DATA_LOADER.NUM_WORKERS", -1)
    assert workers.worker_count(configure(*automatic, "NUM_GPUS", 4)) == 3
    assert workers.worker_count(configure(*automatic, "NUM_GPUS", 0)) == 12
    assert workers.worker_count(configure(*automatic, "NUM_GPUS", 16)) == 1
    assert workers.worker_count(configure("DATA_LOADER.NUM_WORKERS", 5, "NUM_GPUS", 4)) == 5
