"""Ranks that look after each other: who is there, how far everyone is, and why the run ends when one of them fails.

Every rank keeps one line about itself in the rendezvous store and looks there every few seconds for a rank that gave
up. The first rank looks at all lines: a rank that no longer answers, or a group in which nothing has moved for
DIST.TIMEOUT, ends the run with a message that names rank, machine and step. Training's own communication is left
alone.
"""

import contextlib
import datetime
import json
import os
import socket
import sys
import threading
import time
from typing import Any

import torch.distributed as dist

from videobench.distributed import group
from videobench.exit_status import BROKE_OFF

#: Seconds between two looks, without an answer before a rank counts as dead, and given to others to read why.
LOOK, DEAD, FAREWELL = 2.0, 60.0, 6.0
_WORD = "gave up"
#: What is raised when the store is no longer there, and what that means.
STORE_GONE = (dist.DistError, RuntimeError)
RANK_0_GONE = "rank 0, which holds the run together, does not answer any more"


class JoinError(RuntimeError):
    """The ranks could not come together."""


def speak_for(address: tuple[str, int], prefix: str, rank: int, text: str, status: int) -> None:
    """Tell every rank why a rank ended that cannot say so itself; in vain when the store ended with it."""
    patience = datetime.timedelta(seconds=8)
    with contextlib.suppress(*STORE_GONE, OSError):
        # Where nobody listens PyTorch would try for long, and complain at length.
        socket.create_connection(address, patience.total_seconds()).close()
        store = dist.TCPStore(*address, is_master=False, timeout=patience, wait_for_workers=False)
        _leave_word(dist.PrefixStore(f"{prefix}/watch", store), rank, text, status)


def _leave_word(store: dist.Store, rank: int, text: str, status: int) -> None:
    store.compare_set(_WORD, "", json.dumps({"rank": rank, "status": status, "text": text}))


class Watch:
    """This rank's line in the store, and its look at the others'.

    Args:
        address: host and port of the store.
        prefix: of the keys of this group in the store.
        rank: this rank.
        world_size: how many there are.
        timeout: seconds in which some rank has to get on.
    """

    def __init__(self, address: tuple[str, int], prefix: str, rank: int, world_size: int, timeout: float) -> None:
        self.rank, self.world_size, self.timeout = rank, world_size, timeout
        # A connection of its own: the group's may be busy in a collective.
        patience = datetime.timedelta(seconds=30)
        store = dist.TCPStore(*address, is_master=False, timeout=patience, wait_for_workers=False)
        self._store = dist.PrefixStore(f"{prefix}/watch", store)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._beats: dict[int, tuple[dict[str, Any], float]] = {}
        self._moved = (None, time.monotonic())

    def start(self) -> None:
        """Begin to look."""
        self._say()
        self._thread.start()

    def stop(self) -> None:
        """Look no longer: this rank is done."""
        self._over.set()
        self._thread.join()
        self._store.set(f"left/{self.rank}", "done")

    def give_up(self, text: str, status: int) -> None:
        """Tell every rank why this one ends, if it is the first to do so."""
        self._over.set()
        with contextlib.suppress(*STORE_GONE):
            _leave_word(self._store, self.rank, text, status)
            if self.rank == 0:
                self._wait_for_readers()

    def ended_by(self, patience: float = 0.0) -> dict[str, Any] | None:
        """What the rank that gave up first left behind (rank, status, text), waiting ``patience`` seconds for it."""
        until = time.monotonic() + patience
        while not (found := self._store.check([_WORD])) and time.monotonic() < until:
            time.sleep(0.2)
        return json.loads(self._store.get(_WORD)) if found else None

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            try:
                self._say()
                if left := self.ended_by():
                    self._leave(left)
                if self.rank == 0:
                    self._look_at_all()
            except STORE_GONE:
                if not self._over.is_set():
                    self._end(RANK_0_GONE, BROKE_OFF)

    def _say(self) -> None:
        count, text = group.progress()
        # Time makes every line a new one, so that silence shows.
        line = {"count": count, "text": text, "host": socket.gethostname(), "time": time.time()}
        self._store.set(str(self.rank), json.dumps(line))

    def _look_at_all(self) -> None:
        now = time.monotonic()
        for rank in range(self.world_size):
            if self._store.check([f"left/{rank}"]):
                self._beats.pop(rank, None)
                continue
            if not self._store.check([str(rank)]):
                continue
            line = json.loads(self._store.get(str(rank)))
            if rank not in self._beats or self._beats[rank][0] != line:
                self._beats[rank] = (line, now)
            elif now - self._beats[rank][1] > DEAD:
                self._announce(
                    f"rank {rank} on {line['host']} has not answered for {DEAD:.0f} s; it was {line['text']}"
                )
        counts = {rank: line["count"] for rank, (line, _) in self._beats.items()}
        if counts != self._moved[0]:
            self._moved = counts, now
        elif counts and now - self._moved[1] > self.timeout:
            ahead = max(counts.values())
            behind = [rank for rank, count in counts.items() if count < ahead] or sorted(counts)
            lines = {rank: self._beats[rank][0] for rank in behind}
            who = "; ".join(f"rank {rank} on {line['host']}: {line['text']}" for rank, line in lines.items())
            self._announce(f"no rank got any further in {self.timeout:.0f} s (DIST.TIMEOUT); the hindmost: {who}")

    def _announce(self, text: str) -> None:
        self.give_up(text, BROKE_OFF)
        self._end(text, BROKE_OFF)

    def _leave(self, left: dict[str, Any]) -> None:
        self._store.set(f"left/{self.rank}", "read")
        if self.rank == 0:
            self._wait_for_readers()
        self._end(f"ended by rank {left['rank']}: {left['text']}", left["status"])

    def _wait_for_readers(self) -> None:
        # The store goes with this rank: let the others read first.
        until = time.monotonic() + FAREWELL
        keys = [f"left/{rank}" for rank in range(1, self.world_size)]
        while time.monotonic() < until and not all(self._store.check([key]) for key in keys):
            time.sleep(0.2)

    def _end(self, text: str, status: int) -> None:
        print(f"rank {self.rank}: {text}", file=sys.stderr, flush=True)
        # This rank's main thread may be stuck in a collective for good.
        os._exit(status)


def call_roll(store: dist.Store, rank: int, world_size: int, timeout: float, machines: dict[int, str]) -> list[str]:
    """Wait until every rank is here; returns their hosts.

    Args:
        store: of this group.
        rank: this rank.
        world_size: how many there should be.
        timeout: seconds to wait.
        machines: what is known about where each rank should run.

    Raises:
        JoinError: on every rank that is here, naming those that are not; when two processes say they are the same one.
    """
    host = socket.gethostname()
    # Kept by name so that the other one of two equal ranks can be told.
    if store.add(f"claims/{rank}", 1) > 1:
        other = store.get(f"here/{rank}").decode()
        raise JoinError(
            f"two processes are rank {rank}, on {other} and on {host}: give every machine its own --shard_id"
        )
    store.set(f"here/{rank}", host)
    if rank == 0:
        until = time.monotonic() + timeout
        missing = list(range(world_size))
        while missing and time.monotonic() < until:
            missing = [other for other in missing if not store.check([f"here/{other}"])]
            time.sleep(0.05)
        store.set("roll", json.dumps(missing))
    else:
        store.wait(["roll"], datetime.timedelta(seconds=timeout + 30))
        missing = json.loads(store.get("roll"))
    if missing:
        if rank == 0:
            time.sleep(1.0)  # the store goes with this rank
        where = ", ".join(f"rank {other} ({machines[other]})" for other in missing)
        raise JoinError(f"{where} did not join within {timeout:.0f} s (DIST.TIMEOUT); {world_size} ranks were expected")
    return [store.get(f"here/{other}").decode() for other in range(world_size)]
