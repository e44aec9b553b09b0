"""Who is which rank, as torchrun, srun and the command line say it."""

import stat

import pytest

from videobench.config import ConfigError, default_config
from videobench.distributed.place import find_place, settle


def config(**keys):
    cfg = default_config()
    cfg.NUM_GPUS = 0
    for name, value in keys.items():
        setattr(cfg, name, value)
    cfg.freeze()
    return cfg


TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "x",
    "TORCHELASTIC_RESTART_COUNT": "2",
}


def srun(tasks: int, nodes: int, per_node: str, task: int, local: int, node: int) -> dict[str, str]:
    numbers = {"STEP_NUM_TASKS": tasks, "STEP_NUM_NODES": nodes, "PROCID": task, "LOCALID": local, "NODEID": node}
    names = {"STEP_TASKS_PER_NODE": per_node, "STEP_NODELIST": "node[1-2]", "JOB_ID": "12", "STEP_ID": "3"}
    return {f"SLURM_{name}": str(value) for name, value in (numbers | names).items()}


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Two machines, as Slurm's own command tells them."""
    command = tmp_path / "scontrol"
    command.write_text("#!/bin/sh\necho node1\necho node2\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_a_plain_command_starts_its_ranks_itself():
    alone = find_place(config(), environment={})
    assert (alone.local_rank, alone.world_size) == (0, 1)
    several = find_place(config(NUM_CPU_RANKS=3), environment={})
    assert (several.local_rank, several.world_size, several.init_method) == (None, 3, "")
    assert find_place(config(NUM_GPUS=8, NUM_CPU_RANKS=3), environment={}).local_ranks == 8


def test_several_machines_need_a_place_to_meet():
    cfg = config(NUM_SHARDS=2, SHARD_ID=1)
    with pytest.raises(ConfigError, match=r"is 2: say where .*, with --init_method .* this one alone: NUM_SHARDS 1"):
        find_place(cfg, environment={})
    place = find_place(cfg, "tcp://first:1234", environment={})
    assert (place.shard, place.shards, place.world_size) == (1, 2, 2)
    assert str(place) == "this command: rank 1 of 2 on machine 2 of 2, meeting at tcp://first:1234"


def test_torchrun_decides(tmp_path):
    cfg = config(NUM_CPU_RANKS=3)
    place = find_place(cfg, environment=TORCHRUN)
    assert (place.found, place.shard, place.shards, place.local_ranks, place.local_rank) == ("torchrun", 1, 2, 4, 1)
    assert (place.init_method, place.attempt) == ("tcp://first:29500", "2")
    settle(cfg, place)
    assert (cfg.NUM_SHARDS, cfg.SHARD_ID, cfg.NUM_CPU_RANKS, cfg.is_frozen()) == (2, 1, 4, True)


def test_torchrun_with_half_an_environment_is_refused():
    environment = {name: value for name, value in TORCHRUN.items() if name != "MASTER_PORT"}
    with pytest.raises(ConfigError, match="MASTER_PORT is not set"):
        find_place(config(), environment=environment)


def test_srun_with_a_task_per_machine_starts_the_ranks_there(scontrol):
    place = find_place(config(NUM_CPU_RANKS=4), environment=srun(2, 2, "1(x2)", task=1, local=0, node=1))
    assert (place.shard, place.shards, place.local_ranks, place.local_rank) == (1, 2, 4, None)
    assert place.hosts == ("node1", "node2")
    assert place.init_method.startswith("tcp://node1:")


def test_srun_with_a_task_per_rank(scontrol):
    place = find_place(config(NUM_CPU_RANKS=4), environment=srun(8, 2, "4(x2)", task=6, local=2, node=1))
    assert (place.shard, place.shards, place.local_ranks, place.local_rank) == (1, 2, 4, 2)


def test_the_ranks_of_a_step_agree_on_the_port_and_other_steps_have_another(scontrol):
    first = [find_place(config(), environment=srun(2, 2, "1(x2)", task=i, local=0, node=i)) for i in range(2)]
    assert first[0].init_method == first[1].init_method
    ports = set()
    for job in range(10_000_000, 10_000_100):
        names = {"SLURM_STEP_ID": "4", "SLURM_JOB_ID": str(job)}
        environment = srun(2, 2, "1(x2)", task=0, local=0, node=0) | names
        ports.add(int(find_place(config(), environment=environment).init_method.rpartition(":")[2]))
    # Not among those that the system gives to any connection (from 32768 on).
    assert len(ports) == 100
    assert max(ports) < 32768
    assert int(first[0].init_method.rpartition(":")[2]) not in ports


@pytest.mark.parametrize(("tasks", "per_node"), [(6, "3(x2)"), (3, "2,1")])
def test_tasks_that_do_not_fit_are_refused(tasks, per_node):
    with pytest.raises(ConfigError, match=f"srun started {tasks} tasks on 2 machines, but NUM_CPU_RANKS is 4"):
        find_place(config(NUM_CPU_RANKS=4), environment=srun(tasks, 2, per_node, task=0, local=0, node=0))


def test_shards_on_the_command_line_win_over_srun():
    environment = srun(2, 2, "1(x2)", task=1, local=0, node=1)
    place = find_place(config(NUM_SHARDS=2, SHARD_ID=1), "tcp://first:1234", environment)
    assert (place.found, place.shard, place.init_method) == ("this command", 1, "tcp://first:1234")


def test_slurm_without_scontrol_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="cannot tell the machines of node"):
        find_place(config(), environment=srun(2, 2, "1(x2)", task=0, local=0, node=0))
