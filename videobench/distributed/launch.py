"""Starting the ranks of this machine, joining all ranks to a group, and ending them together."""

import contextlib
import datetime
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
import torch.distributed as dist

from videobench.config import CfgNode, ConfigError
from videobench.distributed.group import progress
from videobench.distributed.place import Place
from videobench.distributed.watch import RANK_0_GONE, STORE_GONE, JoinError, Watch, call_roll, speak_for
from videobench.exit_status import BROKE_OFF, STOPPED

Work = Callable[[CfgNode, torch.device], int]

#: Signals that ask a run to stop. Work that has something to save catches them itself; before, between and after they
#: end a process at once, and the command with STOPPED.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
#: Seconds that the other ranks of a machine have to end by themselves after one of them failed.
_GRACE = 20.0


def launch(cfg: CfgNode, place: Place, work: Work, expected: Mapping[type[Exception], int]) -> int:
    """Run ``work(cfg, device)`` on every rank of this machine and return the exit status.

    A rank that fails ends all ranks, on all machines: it says why first, the others say which rank ended them.

    A request to stop (STOP_SIGNALS) goes to all ranks of this machine. A rank that it ends, because its work did not
    catch it, had nothing to save, and the exit status is STOPPED.

    Args:
        cfg: the configuration (see :func:`videobench.distributed.place.settle`).
        place: which ranks live here.
        work: what each rank does; its result is the exit status.
        expected: the exit status for errors whose message is enough; any other error is shown with its traceback.

    Raises:
        ConfigError: when this machine has fewer GPUs than asked for.
        Exception: what ``work`` raises, when it runs in this process alone.
    """
    _check_gpus(cfg, place)
    if place.world_size == 1:
        with _handled(_end_stopped):
            return work(cfg, _device(cfg, 0))
    if not place.init_method:
        place = replace(place, init_method=f"tcp://localhost:{_free_port()}")
    _address(place.init_method)  # a mistake in it is told here, once, not by every rank
    if place.local_rank is not None:
        return _run_rank(cfg, place, work, expected)
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=_rank_process, args=(cfg, replace(place, local_rank=local), work, expected))
        for local in range(place.local_ranks)
    ]
    # The store's complaints about a rank that ended, with C++ stack traces, would bury the reason.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    asked: list[int] = []

    def forward(number: int, _frame: object) -> None:
        asked.append(number)
        for process in ranks:
            if process.pid and process.is_alive():
                os.kill(process.pid, number)

    # The ranks decide together when to stop.
    with _handled(forward):
        for process in ranks:
            process.start()
        if asked:  # those that had not begun by then were not told
            forward(asked[0], None)
        return _wait_for(ranks, place)


def finish_undisturbed() -> None:
    """Ignore requests to stop from here on: what is left is short, and a command that goes on would do more again."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _wait_for(ranks: list, place: Place) -> int:
    """Wait for the processes of this machine; when one fails, end the others."""
    first, running = place.shard * place.local_ranks, list(ranks)
    while running:
        sentinels = multiprocessing.connection.wait([process.sentinel for process in running])
        ended = [process for process in running if process.sentinel in sentinels]
        running = [process for process in running if process not in ended]
        for process in ended:
            process.join()
        # One that a signal ended (its status is negative) is the reason for the end of the others.
        if failed := min((p for p in ended if p.exitcode), key=lambda p: p.exitcode > 0, default=None):
            break
    else:
        return 0
    rank, status = first + ranks.index(failed), failed.exitcode
    if status < 0:
        name, stopped = signal.Signals(-status).name, -status in STOP_SIGNALS
        text = f"rank {rank} on {socket.gethostname()} was killed by {name}" + "; the same command goes on" * stopped
        status = STOPPED if stopped else BROKE_OFF
        print(text, file=sys.stderr, flush=True)
        if stopped:  # the others were told, too, and most of them end now
            _join_all(running, 3.0)
        if rank != 0 and (place.shard or ranks[0].is_alive()):  # with rank 0 the store is gone
            speak_for(_address(place.init_method), _prefix(place), rank, text, status)
    _join_all(running, _GRACE)
    for process in running:
        if process.is_alive():
            process.kill()
            process.join()
    return status


def _join_all(processes: list, seconds: float) -> None:
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))


@contextlib.contextmanager
def _handled(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Requests to stop go to a handler, unless somebody around this command (submitit) has one."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        for number in STOP_SIGNALS:
            if not callable(before[number]):
                signal.signal(number, handler)
        yield
    finally:
        for number, kept in before.items():
            signal.signal(number, kept)


def _end_stopped(number: int, _frame: object) -> None:
    text = f"stopped by {signal.Signals(number).name} with nothing to save; the same command goes on\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode())  # standard error, but not the stream: this may have interrupted a use of it
    os._exit(STOPPED)


def _rank_process(cfg: CfgNode, place: Place, work: Work, expected: Mapping[type[Exception], int]) -> None:
    # Ctrl-C reaches the whole process group: the parent says it once.
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(_run_rank(cfg, place, work, expected))


def _run_rank(cfg: CfgNode, place: Place, work: Work, expected: Mapping[type[Exception], int]) -> int:
    device = _device(cfg, place.local_rank)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // place.local_ranks))
    try:
        watch = _join(cfg, place, device)
    except JoinError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return BROKE_OFF
    except STORE_GONE as error:
        if not _lost_touch(error):
            raise
        where = f"rank {place.shard * place.local_ranks + place.local_rank} on {socket.gethostname()}"
        reason = _last_line(str(error))
        print(f"{where}, joining: lost touch with another rank ({reason})", file=sys.stderr, flush=True)
        return BROKE_OFF
    try:
        status = work(cfg, device)
    except Exception as error:
        sys.stdout.flush()
        # Other threads of this rank may wait in a collective for good.
        os._exit(_explain(error, watch, expected))
    watch.stop()
    dist.barrier()
    dist.destroy_process_group()
    return status


def _explain(error: Exception, watch: Watch, expected: Mapping[type[Exception], int]) -> int:
    """Say why this rank ends, and tell the others; returns the exit status."""
    where = f"rank {watch.rank} on {socket.gethostname()}, {progress()[1]}"
    status = next((code for kind, code in expected.items() if isinstance(error, kind)), None)
    lost_touch = _lost_touch(error)
    # A rank that ends breaks the others' connections; why it ended is known a little later.
    try:
        word = watch.ended_by(patience=15.0 * lost_touch)
    except STORE_GONE:
        word = {"rank": 0, "text": RANK_0_GONE, "status": BROKE_OFF}
    if word:
        print(f"rank {watch.rank}: ended by rank {word['rank']}: {word['text']}", file=sys.stderr, flush=True)
        watch.give_up("", word["status"])
        return word["status"]
    # Printed before the others hear of it, so that it comes first.
    if status is not None:
        brief = full = f"error: {error}"
    elif lost_touch:
        brief = full = f"{where}: lost touch with another rank ({_last_line(str(error))})"
    else:
        full = f"{where}:\n{traceback.format_exc()}"
        brief = f"{where}: {_last_line(full)}"
    print(full, file=sys.stderr, flush=True)
    watch.give_up(brief, status or BROKE_OFF)
    return status or BROKE_OFF


def _lost_touch(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _join(cfg: CfgNode, place: Place, device: torch.device) -> Watch:
    rank, timeout = place.shard * place.local_ranks + place.local_rank, float(cfg.DIST.TIMEOUT)
    address = _address(place.init_method)
    patience = datetime.timedelta(seconds=timeout)
    # Under torchrun the store is its agent's.
    hosts_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store = dist.TCPStore(*address, is_master=hosts_store, timeout=patience, wait_for_workers=False)
    except (dist.DistError, RuntimeError) as error:
        what = "listen at" if hosts_store else "reach rank 0 at"
        raise JoinError(
            f"rank {rank} on {socket.gethostname()} cannot {what} {place.init_method} "
            f"(tried for {timeout:.0f} s, DIST.TIMEOUT): {_last_line(str(error))}"
        ) from error
    prefix = _prefix(place)
    machines = {
        r: place.hosts[r // place.local_ranks] if place.hosts else f"machine {r // place.local_ranks + 1}"
        for r in range(place.world_size)
    }
    hosts = call_roll(dist.PrefixStore(f"{prefix}/roll", store), rank, place.world_size, timeout, machines)
    dist.init_process_group(
        backend=cfg.DIST_BACKEND if device.type == "cuda" else "gloo",
        store=dist.PrefixStore(f"{prefix}/group", store),
        rank=rank,
        world_size=place.world_size,
        # The watch speaks first: it knows which rank is behind.
        timeout=datetime.timedelta(seconds=timeout + 60),
        device_id=device if device.type == "cuda" else None,
    )
    if rank == 0:
        by_host = {host: [r for r, h in enumerate(hosts) if h == host] for host in dict.fromkeys(hosts)}
        print(f"{place}; {'; '.join(f'{host}: ranks {ranks}' for host, ranks in by_host.items())}", flush=True)
    watch = Watch(address, prefix, rank, place.world_size, timeout)
    watch.start()
    return watch


def _check_gpus(cfg: CfgNode, place: Place) -> None:
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # A launcher may show each rank its own GPU alone.
    bound = available == 1 and place.local_rank is not None
    needed = min(1, cfg.NUM_GPUS) if bound else cfg.NUM_GPUS
    if available < needed:
        raise ConfigError(
            f"NUM_GPUS is {cfg.NUM_GPUS}, but this machine has {available} usable GPU{'s' * (available != 1)}; "
            "set NUM_GPUS to what is there (0 runs on the CPU)"
        )


def _device(cfg: CfgNode, local_rank: int) -> torch.device:
    if cfg.NUM_GPUS == 0:
        return torch.device("cpu")
    index = local_rank % torch.cuda.device_count()
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _prefix(place: Place) -> str:
    return f"videobench/{place.attempt}"


def _address(init_method: str) -> tuple[str, int]:
    scheme, _, rest = init_method.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--init_method is {init_method!r}; use tcp://HOST:PORT, where HOST is the first machine")
    return host.removeprefix("[").removesuffix("]"), int(port)  # [::1] is how addresses of IPv6 stand before a port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""
