"""Where the frames of the videos of a list are, kept from run to run, so that no file has to be read through twice.

One SQLite file for all videos, workers and ranks. An entry holds for a path, a size and a modification time; everything
that does not fit, cannot be read or does not pass its checksum is as good as absent.
"""

import hashlib
import itertools
import logging
import os
import sqlite3
import struct
import time
import zlib
from pathlib import Path

import av
import numpy as np

from videobench.config import CfgNode, ConfigError
from videobench.datasets.packets import VideoIndex

logger = logging.getLogger(__name__)

# A change of what is stored, or of the library that reads files, makes older entries void.
_VERSION = f"2 {av.library_versions['libavformat']}"
_HEAD = struct.Struct("<qqqq")
# Entries wait for each other so that a worker writes now and then only; of one that is killed they are lost.
_WAITING, _SECONDS = 16, 1.0


class IndexCache:
    """The cache file; it is made when first used, and any number of processes may use it at once."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._owner = 0
        self._waiting: dict[bytes, tuple[int, int, bytes]] = {}
        self._written = time.monotonic()
        self._broken = ""

    @classmethod
    def from_config(cls, cfg: CfgNode, source: Path) -> "IndexCache | None":
        """The cache that DATA.INDEX_CACHE asks for: off, auto (beside the list ``source``) or a path.

        Raises:
            ConfigError: when the folder of a path is not there or cannot be written to.
        """
        where = cfg.DATA.INDEX_CACHE
        if where == "off":
            return None
        path = source.with_name(f"{source.name}.index") if where == "auto" else Path(where)
        # A folder list is its own source.
        if not os.access(path.parent, os.W_OK | os.X_OK):
            if where != "auto":
                raise ConfigError(
                    f"DATA.INDEX_CACHE: {path.parent} is no folder that can be written to; use off or auto"
                )
            logger.info("%s cannot be written to: no index of the videos is kept (DATA.INDEX_CACHE)", path.parent)
            return None
        return cls(path)

    def get(self, video: str, status: os.stat_result) -> VideoIndex | None:
        """The index of a video, if there is one for its present size and modification time."""
        key = _key(video)
        self._write_now_and_then()
        row = self._waiting.get(key)
        if row is None:
            rows = self._run("SELECT size, mtime, content FROM videos WHERE key = ?", [key])
            row = rows[0] if rows else None
        if row is None or row[:2] != (status.st_size, status.st_mtime_ns):
            return None
        return _unpacked(row[2])

    def put(self, video: str, status: os.stat_result, index: VideoIndex) -> None:
        """Keep the index of a video that had this size and modification time before it was read."""
        self._waiting[_key(video)] = status.st_size, status.st_mtime_ns, _packed(index)
        self._write_now_and_then()

    def flush(self) -> None:
        """Write what waits."""
        rows = [(key, *row) for key, row in self._waiting.items()]
        if rows and self._run("INSERT OR REPLACE INTO videos VALUES (?, ?, ?, ?)", rows, many=True) is not None:
            self._waiting.clear()
        self._written = time.monotonic()

    def _write_now_and_then(self) -> None:
        if len(self._waiting) >= _WAITING or (self._waiting and time.monotonic() - self._written > _SECONDS):
            self.flush()

    def _run(self, statement: str, values: list, *, many: bool = False) -> list | None:
        """The rows of a statement; None when it could not be run now."""
        for attempt in range(2):
            if self._broken:
                self._waiting.clear()
                return None
            try:
                connection = self._open()
                with connection:
                    cursor = (
                        connection.executemany(statement, values) if many else connection.execute(statement, values)
                    )
                    return cursor.fetchall()
            except sqlite3.OperationalError as error:
                if "locked" in str(error):
                    return None
                # A file system without locks, a full disk, a folder that is gone: work goes on without the cache.
                self._give_up(error)
            except sqlite3.DatabaseError as error:
                self._connection = None
                if attempt:
                    self._give_up(error)
                else:
                    self._begin_anew(error)
        return None

    def _open(self) -> sqlite3.Connection:
        # A connection must not be carried into another process.
        if self._connection is None or self._owner != os.getpid():
            self._owner = os.getpid()
            connection = sqlite3.connect(self.path, timeout=5)
            # Damage may turn bytes into text.
            connection.text_factory = bytes
            # After a power failure the file may be damaged, which is noticed; entries are not worth waiting for disks.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS videos (key BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, content BLOB) "
                "WITHOUT ROWID"
            )
            connection.commit()
            self._connection = connection
        return self._connection

    def _begin_anew(self, error: Exception) -> None:
        logger.warning("%s is damaged (%s) and is made anew", self.path, error)
        # The journal of the old file must not be applied to the new one.
        try:
            Path(f"{self.path}-journal").unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        except OSError as denied:
            # In a shared folder it may belong to somebody else.
            self._give_up(denied)

    def _give_up(self, error: Exception) -> None:
        self._broken = str(error)
        logger.warning("%s cannot be used (%s): DATA.INDEX_CACHE is off for this process", self.path, error)


def _key(video: str) -> bytes:
    return hashlib.blake2b(_VERSION.encode() + b"\0" + os.fsencode(os.path.abspath(video)), digest_size=16).digest()


def _packed(index: VideoIndex) -> bytes:
    """An index as compressed bytes, a few hundred for a short video; zlib adds a checksum."""
    head = _HEAD.pack(index.frames, len(index.key_frames), len(index.pts), index.span)
    times = [np.diff(column, prepend=0).astype("<i8").tobytes() for column in (index.key_frames, index.pts, index.pos)]
    return zlib.compress(b"".join([head, *times, index.kind.tobytes(), index.damage.encode()]), 1)


def _unpacked(content: bytes) -> VideoIndex | None:
    try:
        content = zlib.decompress(content)
        frames, keys, packets, span = _HEAD.unpack_from(content)
        places = np.cumsum([_HEAD.size, 8 * keys, 8 * packets, 8 * packets, packets])
        parts = [content[start:end] for start, end in itertools.pairwise(places)]
        key_frames, pts, pos = (np.cumsum(np.frombuffer(part, "<i8")) for part in parts[:3])
        kind = np.frombuffer(parts[3], np.uint8)
        return VideoIndex(frames, key_frames, content[places[-1] :].decode(), pts, pos, kind, span)
    except (zlib.error, struct.error, ValueError, TypeError):
        return None
