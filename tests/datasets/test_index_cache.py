"""The index cache: never trusted beyond what fits, never in the way."""

import multiprocessing
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
import video_fixtures as videos

from videobench.config import ConfigError, load_config
from videobench.datasets import decoding, index_cache
from videobench.datasets.backends import VideoReader
from videobench.datasets.decoding import Video
from videobench.datasets.index_cache import IndexCache
from videobench.datasets.loader import TrainingLoader


@pytest.fixture
def clip(tmp_path):
    return str(videos.write_clip(tmp_path / "a.mp4", 12, options=videos.REPEATABLE | {"g": "5"}))


@pytest.fixture
def cache(tmp_path):
    return IndexCache(tmp_path / "train.csv.index")


@pytest.fixture
def scans(monkeypatch):
    """The files that were read through to find their frames."""
    read = []
    for way in ("_scan", "_count"):
        plain = getattr(Video, way)
        monkeypatch.setattr(Video, way, lambda self, plain=plain: read.append(self.path) or plain(self))
    return read


def frames_of(cache, path):
    with VideoReader(cache=cache).open(path) as video:
        return video.decode([3, 1, 7])


def same(one, other):
    arrays = all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("key_frames", "pts", "pos", "kind")
    )
    return arrays and (one.frames, one.damage, one.span) == (other.frames, other.damage, other.span)


@pytest.mark.parametrize("kind", ["h264_edit_list", "vp9_hidden_frames", "mpeg4_avi", "h264_vfr", "gif"])
def test_an_index_comes_back_as_it_was(kind, cache, tmp_path):
    path = str(videos.KINDS[kind](tmp_path))
    with Video(path) as video:
        index = video.index
    cache.put(path, os.stat(path), index)
    for stage in ("waiting", "written", "read by another"):
        if stage == "written":
            cache.flush()
        elif stage == "read by another":
            cache = IndexCache(cache.path)
        found = cache.get(path, os.stat(path))
        assert same(found, index), stage
    assert cache.path.stat().st_size < 30_000
    picks = [index.frames - 1, 0, 5]
    with Video(path, found) as video:
        assert np.array_equal(video.decode(picks).numpy(), videos.reference(Path(path))[picks])


def test_a_file_is_read_through_once(cache, clip, scans):
    first = frames_of(cache, clip)
    assert scans == [clip]
    assert torch.equal(frames_of(cache, clip), first)
    cache.flush()
    assert torch.equal(frames_of(IndexCache(cache.path), clip), first)
    assert scans == [clip]


def test_facts_that_nobody_asked_for_are_not_kept(cache, clip):
    with VideoReader(cache=cache).open(clip):
        pass
    cache.flush()
    assert cache.get(clip, os.stat(clip)) is None


@pytest.mark.parametrize("change", ["content", "time"])
def test_a_changed_file_is_read_anew(change, cache, clip, scans):
    frames_of(cache, clip)
    cache.flush()
    if change == "content":
        status = os.stat(clip)
        videos.write_clip(Path(clip), 20, options=videos.REPEATABLE | {"g": "3"})
        os.utime(clip, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(clip, ns=(0, 10**18))
    assert np.array_equal(frames_of(cache, clip).numpy(), videos.reference(Path(clip))[[3, 1, 7]])
    assert scans == [clip, clip]
    frames_of(cache, clip)
    assert scans == [clip, clip]


def test_a_file_that_changes_while_it_is_read_does_not_fit_its_entry(cache, clip, scans):
    with VideoReader(cache=cache).open(clip) as video:
        video.decode([0])
        os.utime(clip, ns=(0, 10**18))
    frames_of(cache, clip)
    assert scans == [clip, clip]


def test_another_version_finds_nothing(cache, clip, scans, monkeypatch):
    frames_of(cache, clip)
    cache.flush()
    monkeypatch.setattr(index_cache, "_VERSION", "of tomorrow")
    frames_of(cache, clip)
    assert scans == [clip, clip]


def test_an_entry_of_another_file_gives_the_right_frames_all_the_same(cache, clip, tmp_path):
    """As after a change that keeps size and time: frames that were not announced are noticed."""
    (tmp_path / "other").mkdir()
    other = str(videos.KINDS["h264_vfr"](tmp_path / "other"))
    with Video(other) as video:
        cache.put(clip, os.stat(clip), video.index)
    assert np.array_equal(frames_of(cache, clip).numpy(), videos.reference(Path(clip))[[3, 1, 7]])
    assert cache.get(clip, os.stat(clip)).frames == 12, "and the entry is put right"


@pytest.mark.parametrize("spoil", ["row", "head", "middle", "text", "cut"])
def test_a_damaged_cache_is_made_anew(spoil, cache, clip, scans, caplog):
    expected = frames_of(cache, clip)
    for number in range(400):
        with Video(clip) as video:
            cache.put(f"{clip}{number}", os.stat(clip), video.index)
    cache.flush()
    scans.clear()
    path = cache.path
    cache = IndexCache(path)
    content = bytearray(path.read_bytes())
    if spoil == "row":
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE videos SET content = substr(content, 1, 40) || x'00' || substr(content, 42)")
        connection.close()
    elif spoil == "head":
        content[:200] = os.urandom(200)
    elif spoil == "middle":
        content[4096:] = np.random.default_rng(0).bytes(len(content) - 4096)
    elif spoil == "text":
        content = bytearray(b"no database at all\n" * 100)
    else:
        del content[5000:]
    if spoil != "row":
        path.write_bytes(content)
    assert torch.equal(frames_of(cache, clip), expected)
    cache.flush()
    assert scans == [clip]
    assert ("is damaged" in caplog.text) == (spoil != "row")
    assert torch.equal(frames_of(IndexCache(path), clip), expected)
    assert scans == [clip], "the new one serves"


def test_a_place_that_cannot_be_written_to_is_no_obstacle(clip, tmp_path, caplog):
    folder = tmp_path / "gone"
    folder.mkdir()
    cache = IndexCache(folder / "index")
    folder.rmdir()
    for _ in range(3):
        assert frames_of(cache, clip).shape[0] == 3
        cache.flush()
    assert caplog.text.count("cannot be used") == 1


def test_a_damaged_cache_of_somebody_else_is_no_obstacle(cache, clip, caplog, monkeypatch):
    def refuse(path, missing_ok=False):
        raise PermissionError(1, "Operation not permitted", str(path))

    cache.path.write_bytes(b"no database at all\n" * 100)
    monkeypatch.setattr(Path, "unlink", refuse)
    for _ in range(3):
        assert frames_of(cache, clip).shape[0] == 3
        cache.flush()
    assert caplog.text.count("cannot be used ([Errno 1] Operation not permitted") == 1


def _fill(path, names, clip):
    cache = IndexCache(path)
    with Video(clip) as video:
        for name in names:
            cache.put(name, os.stat(clip), video.index)
            cache.flush()


def test_many_processes_write_at_once(cache, clip):
    context = multiprocessing.get_context("fork")
    # The connection of this process must not be used by the others.
    cache.get(clip, os.stat(clip))
    names = [[f"{clip}{place}.{i}" for i in range(40)] for place in range(4)]
    writers = [context.Process(target=_fill, args=(cache.path, part, clip)) for part in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert all(cache.get(name, os.stat(clip)).frames == 12 for part in names for name in part)


def test_where_the_cache_is(tiny, tmp_path, monkeypatch):
    source = tmp_path / "lists" / "train.csv"
    source.parent.mkdir()

    def where(value):
        cache = IndexCache.from_config(load_config([], [*tiny, "DATA.INDEX_CACHE", value]), source)
        return cache and cache.path

    assert where("off") is None
    assert where("auto") == source.parent / "train.csv.index"
    assert where(str(tmp_path / "all.index")) == tmp_path / "all.index"
    with pytest.raises(ConfigError, match=r"DATA.INDEX_CACHE: .*nowhere is no folder that can be written to"):
        where(str(tmp_path / "nowhere" / "index"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert where("auto") is None


def test_the_cache_changes_no_clip(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(index_cache, "_SECONDS", 0.0)

    def epoch(value, workers):
        return list(TrainingLoader(load_config([], [*tiny, *value, "DATA_LOADER.NUM_WORKERS", workers])).epoch(0))

    plain = epoch(("DATA.INDEX_CACHE", "off"), 0)
    for workers in (2, 2, 0):
        found = epoch(("DATA.INDEX_CACHE", str(tmp_path / "index")), workers)
        for one, other in zip(plain, found, strict=True):
            assert torch.equal(one.clips, other.clips)
    monkeypatch.setattr(decoding.Video, "_scan", lambda self: pytest.fail(f"{self.path} is read through again"))
    with sqlite3.connect(tmp_path / "index") as connection:
        (count,) = connection.execute("SELECT count(*) FROM videos").fetchone()
    connection.close()
    assert count == 32
    epoch(("DATA.INDEX_CACHE", str(tmp_path / "index")), 0)
