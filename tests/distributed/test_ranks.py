"""Ranks that come together, fail, hang and end together: real processes on this machine."""

import json
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore

from videobench.config import ConfigError, load_config
from videobench.distributed.launch import launch
from videobench.distributed.place import Place
from videobench.distributed.watch import JoinError, call_roll
from videobench.exit_status import STOPPED

SCRIPT = str(Path(__file__).with_name("rank_scenarios.py"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(scenario: str, *words, command=(sys.executable,)) -> subprocess.Popen:
    line = [*command, SCRIPT, scenario, *map(str, words)]
    return subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def meeting_point() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def machines(scenario: str, count: int, *words) -> list[subprocess.Popen]:
    """The same command on several machines, which are all this one."""
    shared = ["--init_method", meeting_point(), "NUM_SHARDS", count, *words, "SHARD_ID"]
    return [start(scenario, *shared, shard) for shard in range(count)]


def test_ranks_of_one_command_work_together_and_give_their_status():
    running = [start("add", "NUM_CPU_RANKS", 3), start("status", "NUM_CPU_RANKS", 2)]
    (code, out, err), other = map(finish, running)
    assert code == 0, err
    found, result = out.splitlines()
    assert re.fullmatch(r"this command: rank 0 of 3 on machine 1 of 1, meeting at tcp://.*: ranks \[0, 1, 2\]", found)
    assert result == "sum 6 of 3 on cpu, 1 machines"
    assert other[0] == 3


def test_machines_with_several_ranks_each_work_together():
    (code, out, err), second = map(finish, machines("add", 2, "NUM_CPU_RANKS", 2))
    assert code == 0, err
    assert out.endswith("\nsum 10 of 4 on cpu, 2 machines\n")
    assert second[:2] == (0, "")


def test_a_rank_that_fails_ends_all_and_says_why_first():
    (code, _, first), (other, _, second) = map(finish, machines("fail", 2, "NUM_CPU_RANKS", 2))
    assert code == other == 1
    # The traceback is the failing rank's, at the place where it was; the others have a line each.
    assert second.index("rank 3 on") < second.index("a mistake of the last rank")
    assert "at epoch 1, step 7" in second
    assert second.count("Traceback") == 1
    assert "Traceback" not in first
    for rank, text in ((0, first), (1, first), (2, second)):
        assert re.search(rf"rank {rank}: ended by rank 3: .* at epoch 1, step 7: ValueError: a mistake", text)


def test_a_mistake_in_the_input_is_one_message_and_its_own_status():
    code, _, err = finish(start("wrong_input", "NUM_CPU_RANKS", 2))
    assert code == 2
    assert err.startswith("error: THE.KEY is wrong\n")
    assert "Traceback" not in err


@pytest.mark.parametrize(("scenario", "rank"), [("killed", 1), ("first_killed", 0), ("first_killed_while_joining", 0)])
def test_a_killed_rank_is_named_and_ends_all(scenario, rank):
    code, _, err = finish(start(scenario, "NUM_CPU_RANKS", 2))
    assert code == 1
    assert f"rank {rank} on {socket.gethostname()} was killed by SIGKILL" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "moment", ["told_between_starts", "told_while_joining", "told_before_work_listens", "told_to_one"]
)
def test_ranks_asked_to_stop_while_they_begin_end_with_the_status_of_a_stop(moment):
    code, _, err = finish(start(moment, "NUM_CPU_RANKS", 2))
    assert code == STOPPED, err
    assert re.search(r"was killed by SIG(TERM|USR1); the same command goes on\n", err)
    assert "Traceback" not in err
    if moment in ("told_between_starts", "told_while_joining"):
        assert "[c10d]" not in err  # what PyTorch says of a store that is not there yet


def test_ranks_with_nothing_left_but_words_finish():
    assert finish(start("told_at_the_end", "NUM_CPU_RANKS", 2))[0] == 3


def test_a_killed_rank_of_another_machine_is_named():
    (code, _, first), (other, _, _) = map(finish, machines("killed", 2, "NUM_CPU_RANKS", 2))
    assert code == other == 1
    assert "ended by rank 3: rank 3 on" in first
    assert "was killed by SIGKILL" in first


def test_a_rank_that_stops_answering_is_named():
    first, second = machines("silent", 2)
    try:
        code, _, err = finish(first)
    finally:
        second.kill()
        second.communicate()
    assert code == 1
    assert f"rank 1 on {socket.gethostname()} has not answered for 3 s" in err


def test_a_rank_that_hangs_is_named_with_its_step():
    code, _, err = finish(start("hang", "NUM_CPU_RANKS", 2))
    assert code == 1
    assert "no rank got any further in 4 s (DIST.TIMEOUT); the hindmost: rank 1 on" in err
    assert "at epoch 2, step 5" in err


def test_a_rank_that_never_joins_is_named_by_all_that_did():
    store, machines = HashStore(), {rank: f"machine {rank + 1}" for rank in range(3)}
    with ThreadPoolExecutor(1) as second:
        waiting = second.submit(call_roll, store, 2, 3, 600.0, machines)
        store.wait(["here/2"], timedelta(seconds=600))
        calls = [lambda: call_roll(store, 0, 3, 0.1, machines), waiting.result]
        for call, seconds in zip(calls, ("0", "600"), strict=True):
            expected = (
                rf"^rank 1 \(machine 2\) did not join within {seconds} s \(DIST.TIMEOUT\); 3 ranks were expected$"
            )
            with pytest.raises(JoinError, match=expected):
                call()


def test_a_rank_that_joins_late_is_waited_for():
    store, machines = HashStore(), {0: "first", 1: "second"}
    with ThreadPoolExecutor(1) as first:
        waiting = first.submit(call_roll, store, 0, 2, 600.0, machines)
        store.wait(["here/0"], timedelta(seconds=600))
        assert call_roll(store, 1, 2, 600.0, machines) == waiting.result() == [socket.gethostname()] * 2


def test_two_machines_with_the_same_number_are_told():
    store = HashStore()
    for rank in (1, 0):
        store.add(f"claims/{rank}", 1)
        store.set(f"here/{rank}", "the other machine")
    with pytest.raises(JoinError, match=r"two processes are rank 1, on the other machine and on .*own --shard_id"):
        call_roll(store, 1, 2, 600.0, {})


def test_the_place_to_meet_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        point = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = finish(start("add", "--init_method", point, "NUM_SHARDS", 2))
    assert code == 1
    assert f"rank 0 on {socket.gethostname()} cannot listen at {point}" in err


def test_a_first_rank_that_cannot_be_reached_is_told():
    words = ["--init_method", meeting_point(), "NUM_SHARDS", 2, "DIST.TIMEOUT", 3, "SHARD_ID", 1]
    code, _, err = finish(start("add", *words))
    assert code == 1
    assert "rank 1 on" in err
    assert "cannot reach rank 0 at tcp://127.0.0.1:" in err


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("init_method", ["file:///tmp/x", "localhost:1234", "tcp://localhost", "tcp://localhost:99999"])
def test_other_meeting_places_are_refused(init_method, ranks):
    place = Place("this command", 0, 2, ranks, 0 if ranks == 1 else None, init_method)
    with pytest.raises(ConfigError, match=re.escape(f"--init_method is {init_method!r}; use tcp://HOST:PORT")):
        launch(load_config([], ["NUM_GPUS", 0]), place, lambda cfg, device: 0, {})


def test_addresses_of_ipv6_are_a_place_to_meet():
    if not socket.has_ipv6:
        pytest.skip("needs IPv6")
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            port = probe.getsockname()[1]
    except OSError:
        pytest.skip("needs an IPv6 address of this machine")
    code, out, err = finish(start("add", "--init_method", f"tcp://[::1]:{port}", "NUM_CPU_RANKS", 2))
    assert code == 0, err
    assert out.endswith("\nsum 3 of 2 on cpu, 1 machines\n")


def test_ranks_of_a_launcher_that_would_share_gpus_are_refused(monkeypatch):
    """Four ranks that see two GPUs; one GPU each would be what a launcher shows its ranks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    place = Place("torchrun", 0, 1, 4, 3, "tcp://localhost:1234")
    with pytest.raises(ConfigError, match="NUM_GPUS is 4, but this machine has 2 usable GPUs"):
        launch(load_config([], ["NUM_GPUS", 4]), place, lambda cfg, device: 0, {})


def test_torchrun_starts_the_ranks_and_restarts_them():
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    code, out, err = finish(start("restarted", command=[*torchrun, "--max-restarts", "1"]))
    assert code == 0, err
    assert re.search(r"^torchrun: rank 0 of 2 on machine 1 of 1.*\nsum 3 of 2 on cpu, 1 machines$", out, re.MULTILINE)
    assert "the first attempt" in err


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_ranks_train_like_one_batch_norms_included(ranks):
    code, out, err = finish(start("same_as_one", "NUM_CPU_RANKS", ranks))
    assert code == 0, err
    differences = json.loads(out.splitlines()[-1])
    assert len(differences) == 5
    assert max(differences.values()) < 1e-10, differences


@pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="this PyTorch splits weights on GPUs only")
def test_split_weights_train_like_whole_ones_and_leave_the_same_checkpoints(tmp_path):
    """In pieces with clipping, average and recomputed activations; each goes on from the other's checkpoint."""
    code, out, err = finish(start("sharded_like_replicated", "NUM_CPU_RANKS", 2, "OUTPUT_DIR", tmp_path))
    assert code == 0, err
    for name, differences in json.loads(out.splitlines()[-1]).items():
        assert differences.pop("kept") == 0, name
        assert differences.pop("learned") > 1e-5, name
        assert max(differences.values()) < 1e-10, (name, differences)
