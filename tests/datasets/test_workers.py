"""Loader processes: order, reuse, death and hanging, and what they leave behind."""

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from videobench.datasets import workers
from videobench.datasets.containers import VideoError
from videobench.datasets.reading import note_progress, note_reading
from videobench.datasets.workers import WorkerError, WorkerPool

SHARED_MEMORY = "/dev/shm"  # noqa: S108


def read(index):
    """An item that tells who made it."""
    note_reading(index)
    return {"index": index, "pid": os.getpid(), "pixels": torch.full((3, 4), index)}


def misbehave_at(victim, deed):
    """A loader whose ``deed`` runs while it reads one video; refusals become the item."""

    def load(index):
        try:
            note_reading(index)
        except VideoError as error:
            return error.cause
        if index == victim:
            deed()
        return index

    return load


def pool_of(load, size=2, **options):
    return WorkerPool(load, workers=size, videos=100, path=lambda i: f"/videos/{i}.mp4", **options)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_items_come_in_order_and_the_last_group_may_be_smaller(size):
    groups = list(pool_of(read, size).groups(range(11), 4))
    assert [[item["index"] for item in group] for group in groups] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert all(torch.equal(item["pixels"], torch.full((3, 4), item["index"])) for group in groups for item in group)
    pids = {item["pid"] for group in groups for item in group}
    assert len(pids) <= max(size, 1)
    assert (os.getpid() in pids) == (size == 0)


def test_workers_stay_and_a_stream_left_early_does_not_disturb_the_next():
    pool = pool_of(read, 2)
    first = pool.groups(range(50), 3)
    seen = {item["pid"] for item in next(first)}
    for _ in range(30):
        seen |= {item["pid"] for item in next(pool.groups(range(50), 3))}
    assert [item["index"] for (item,) in pool.groups([7, 8])] == [7, 8]
    assert len(seen) <= 2
    with pytest.raises(WorkerError, match="one stream of items at a time"):
        next(first)


@pytest.mark.parametrize("size", [0, 2])
def test_items_come_as_they_are_finished(size):
    pool = pool_of(read, size)
    items = dict(pool.as_finished(range(30)))
    assert {key: item["index"] for key, item in items.items()} == {key: key for key in range(30)}
    assert list(pool.as_finished([])) == []
    assert [key for key, _ in pool.as_finished([9])] == [9]


def test_a_slow_item_holds_up_no_other(tmp_path):
    def wait_for_the_others(index):
        while index == 0 and len(list(tmp_path.iterdir())) < 19:
            time.sleep(0.01)
        (tmp_path / str(index)).touch()

    assert [key for key, _ in pool_of(wait_for_the_others, 2).as_finished(range(20))][-1] == 0


def test_slow_reading_that_goes_on_does_not_count_as_hanging(monkeypatch):
    monkeypatch.setattr(workers, "_PULSE", 0.05)

    def go_on():
        for _ in range(130):
            time.sleep(0.01)
            note_progress()

    assert dict(pool_of(misbehave_at(3, go_on), timeout=1).as_finished(range(6))) == {i: i for i in range(6)}


def test_no_more_is_loaded_ahead_than_asked_for(tmp_path):
    def load(index):
        (tmp_path / str(index)).touch()

    pool = pool_of(load, 1, ahead=5)
    groups = pool.groups(range(50), 2)
    next(groups)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 7)
    time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) == 7


def test_any_item_travels_unchanged():
    pixels = torch.arange(48).reshape(1, 3, 4, 4)
    items = [
        {
            "last": pixels.contiguous(memory_format=torch.channels_last),
            "part": pixels[:, :, 1:3, ::2],
            "no": torch.empty(0),
        },
        (np.arange(5), None, "text"),
        [torch.tensor(2.5), torch.zeros(300_000, dtype=torch.uint8), torch.tensor([True, False])],
    ]
    pool = pool_of(items.__getitem__, 1, item_bytes=100_000)
    (one,), (two,), (three,) = pool.groups(range(3))
    assert one["last"].is_contiguous(memory_format=torch.channels_last)
    for name, tensor in items[0].items():
        assert torch.equal(one[name], tensor)
    assert np.array_equal(two[0], items[1][0])
    assert two[1:] == items[1][1:]
    for got, tensor in zip(three, items[2], strict=True):
        assert got.dtype == tensor.dtype
        assert torch.equal(got, tensor)
    one["last"] += 1


def test_a_mistake_in_the_loading_is_raised_with_its_place():
    def load(index):
        raise KeyError(f"mistake {index}")

    with pytest.raises(WorkerError, match=r"(?s)failed on (\d):.*line \d+, in load.*mistake \1"):
        list(pool_of(load).groups(range(3)))


@pytest.mark.parametrize(
    ("deed", "end"),
    [
        # pytest's handler would print its stack.
        (lambda: (faulthandler.disable(), ctypes.string_at(0)), "SIGSEGV"),
        (lambda: (faulthandler.disable(), os.abort()), "SIGABRT"),
        (lambda: os._exit(3), "exit status 3"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL, out of memory?"),
    ],
)
def test_a_video_that_kills_its_reader_is_named_and_refused(deed, end, caplog):
    pool = pool_of(misbehave_at(5, deed))
    items = [item for (item,) in pool.groups(range(12))]
    cause = f"reading it brought its process down ({end})"
    assert items == [*range(5), cause, *range(6, 12)]
    assert f"/videos/5.mp4: {cause}; a fresh process takes over" in caplog.text
    assert [item for (item,) in pool.groups([5, 6])] == [cause, 6], "no worker dies of it twice"
    assert len(caplog.records) == (2 if "KILL" in end else 1)


def test_a_worker_killed_by_chance_costs_nothing(tmp_path, caplog):
    def deed():
        if not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    assert [item for (item,) in pool_of(misbehave_at(5, deed)).groups(range(12))] == list(range(12))
    assert "/videos/5.mp4: reading it brought its process down (SIGKILL, out of memory?); " in caplog.text
    assert "reads it once more" in caplog.text


def test_killing_idle_workers_costs_nothing():
    pool = pool_of(read)
    pids = {item["pid"] for (item,) in pool.groups(range(9))}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in pids))
    after = [item for (item,) in pool.groups(range(9))]
    assert [item["index"] for item in after] == list(range(9))
    assert not pids & {item["pid"] for item in after}


@pytest.mark.parametrize("deed", [lambda: time.sleep(60), lambda: ctypes.PyDLL(None).sleep(60)])
def test_a_video_that_never_ends_is_named_and_refused(deed, caplog, monkeypatch):
    monkeypatch.setattr(workers, "_PULSE", 0.05)
    pool = pool_of(misbehave_at(3, deed), timeout=1)
    items = [item for (item,) in pool.groups(range(6))]
    cause = "reading it made no progress in 1 s (DATA_LOADER.TIMEOUT)"
    assert items == [0, 1, 2, cause, 4, 5]
    assert f"/videos/3.mp4: {cause}; a fresh process takes over" in caplog.text
    assert dict(pool.as_finished(range(6))) == dict(enumerate(items))


def test_time_that_the_owner_spends_elsewhere_is_not_held_against_a_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_PULSE", 0.05)

    def read_until_told():
        (tmp_path / "reading").touch()
        wait_for((tmp_path / "enough").exists)

    pool = pool_of(misbehave_at(3, read_until_told), timeout=1)
    groups = pool.groups(range(6))
    assert next(groups) == [0]
    wait_for((tmp_path / "reading").exists)
    time.sleep(1.2)
    (tmp_path / "enough").touch()
    assert [item for (item,) in groups] == [1, 2, 3, 4, 5]


def test_workers_that_die_before_they_read_anything_end_the_run():
    with pytest.raises(WorkerError, match=r"3 loader processes in a row ended \(exit status 9\) before they read"):
        list(pool_of(lambda index: os._exit(9), 1).groups(range(3)))


def test_signals_for_the_run_do_not_reach_the_workers():
    pool = pool_of(read, 1)
    ((one,),) = list(pool.groups([1]))
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(one["pid"], name)
    ((two,),) = list(pool.groups([2]))
    assert two["pid"] == one["pid"]


@pytest.mark.parametrize("way", ["close", "forget"])
def test_a_pool_leaves_no_process_behind(way):
    pool = pool_of(misbehave_at(8, lambda: time.sleep(60)))
    next(pool.groups(range(9)))
    pids = [worker.process.pid for worker in pool._workers]
    if way == "close":
        pool.close()
        assert [item for (item,) in pool.groups(range(3))] == [0, 1, 2], "it can be used again"
    del pool
    wait_for(lambda: not any(alive(pid) for pid in pids))


def own(channel, end):
    """Have workers, one of them busy, tell who they are, and end."""
    if end.startswith("SIG"):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    pool = pool_of(misbehave_at(3, lambda: time.sleep(60)))
    next(pool.groups(range(9)))
    channel.send([worker.process.pid for worker in pool._workers])
    if end == "raise":
        raise RuntimeError("over")
    if end != "return":
        time.sleep(60)


@pytest.mark.parametrize("end", ["return", "raise", "SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_outlives_its_owner(end):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    owner = context.Process(target=own, args=(theirs, end))
    owner.start()
    pids = ours.recv()
    if end.startswith("SIG"):
        assert all(alive(pid) for pid in pids)
        os.kill(owner.pid, getattr(signal, end))
    owner.join(60)
    assert owner.exitcode is not None
    wait_for(lambda: not any(alive(pid) for pid in pids))


def test_memory_of_workers_does_not_depend_on_dev_shm():
    """Far more than most containers' 64 MB, and used."""
    pool = pool_of(lambda index: torch.full((20_000_000,), index, dtype=torch.uint8), 2)
    before = os.statvfs(SHARED_MEMORY)
    for (item,) in pool.groups(range(6)):
        assert item[0] == item[-1]
    after = os.statvfs(SHARED_MEMORY)
    assert (before.f_bavail - after.f_bavail) * before.f_frsize < 20_000_000


def test_memory_that_does_not_fit_is_refused_before_the_first_item():
    with pytest.raises(MemoryError, match=r"no address space for \d+ MiB of batches in preparation .*PREFETCH"):
        next(pool_of(read, 2, item_bytes=1 << 50).groups(range(3)))
