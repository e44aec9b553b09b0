"""Which of how many processes this one is: one answer for a plain command, torchrun, srun and submitit."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from videobench.config import CfgNode, ConfigError
from videobench.config.checks import local_ranks

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MEET_LOCALLY = "tcp://localhost:9999"


@dataclass(frozen=True)
class Place:
    """Where this process stands among all.

    Attributes:
        found: who says so: "this command", "torchrun" or "srun".
        shard: number of this machine, from 0.
        shards: number of machines.
        local_ranks: ranks on every machine.
        local_rank: the rank that this process is on its machine; None when it starts ``local_ranks`` processes itself.
        init_method: where all ranks meet (``tcp://host:port``); empty when any free port of this machine will do.
        attempt: how often this group was started before; another attempt must not meet the leftovers of the last.
        hosts: the machines by number, where that is known.
    """

    found: str
    shard: int
    shards: int
    local_ranks: int
    local_rank: int | None = None
    init_method: str = ""
    attempt: str = "0"
    hosts: tuple[str, ...] = ()

    @property
    def world_size(self) -> int:
        """Ranks on all machines."""
        return self.shards * self.local_ranks

    def __str__(self) -> str:
        where = f", meeting at {self.init_method}" if self.init_method and self.world_size > 1 else ""
        ranks = f"{self.local_ranks} rank{'s' * (self.local_ranks != 1)}"
        if self.local_rank is not None:
            ranks = f"rank {self.shard * self.local_ranks + self.local_rank} of {self.world_size}"
        return f"{self.found}: {ranks} on machine {self.shard + 1} of {self.shards}{where}"


def find_place(cfg: CfgNode, init_method: str = "", environment: Mapping[str, str] = os.environ) -> Place:
    """Find out which process of how many this is.

    torchrun's word counts first. Next comes srun, unless the configuration itself names several machines
    (``--num_shards``). srun may start one task per machine, which then starts a process per GPU, or one task per rank.

    Args:
        cfg: NUM_GPUS, NUM_CPU_RANKS, NUM_SHARDS, SHARD_ID.
        init_method: where the ranks meet, when the user says it.
        environment: the environment variables.

    Raises:
        ConfigError: when the number of tasks does not fit the configuration, or nobody says where to meet.
    """
    if "TORCHELASTIC_RUN_ID" in environment or all(name in environment for name in _TORCHRUN):
        return _torchrun(environment)
    if cfg.NUM_SHARDS == 1 and int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return _srun(cfg, init_method, environment)
    if cfg.NUM_SHARDS > 1 and not init_method:
        raise ConfigError(
            f"NUM_SHARDS is {cfg.NUM_SHARDS}: say where the machines meet, with --init_method tcp://HOST:PORT "
            f"(HOST is the first machine; {_MEET_LOCALLY} when all are this one), or use this one alone: NUM_SHARDS 1"
        )
    ranks = local_ranks(cfg)
    alone = 0 if ranks == 1 else None
    return Place("this command", cfg.SHARD_ID, cfg.NUM_SHARDS, ranks, alone, init_method)


def settle(cfg: CfgNode, place: Place) -> None:
    """Write into a configuration what the launcher decided: machines, and ranks per machine."""
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.NUM_SHARDS, cfg.SHARD_ID = place.shards, place.shard
    if cfg.NUM_GPUS:
        cfg.NUM_GPUS = place.local_ranks
    else:
        cfg.NUM_CPU_RANKS = place.local_ranks
    if frozen:
        cfg.freeze()


def _torchrun(environment: Mapping[str, str]) -> Place:
    missing = [name for name in _TORCHRUN if name not in environment]
    if missing:
        raise ConfigError(f"torchrun is at work here, but {missing[0]} is not set in the environment")
    rank, world, local = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if world % local or rank // local != int(environment.get("GROUP_RANK", rank // local)):
        raise ConfigError(
            f"torchrun started {world} processes, {local} of them here: every machine needs the same number "
            "(--nproc-per-node)"
        )
    return Place(
        "torchrun",
        shard=rank // local,
        shards=world // local,
        local_ranks=local,
        local_rank=int(environment["LOCAL_RANK"]),
        init_method=f"tcp://{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}",
        attempt=environment.get("TORCHELASTIC_RESTART_COUNT", "0"),
    )


def _srun(cfg: CfgNode, init_method: str, environment: Mapping[str, str]) -> Place:
    tasks, nodes = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_STEP_NUM_NODES"])
    ranks = local_ranks(cfg)
    key = "NUM_GPUS" if cfg.NUM_GPUS else "NUM_CPU_RANKS"
    # "2(x4)" or "2,1": the latter spreads them unevenly.
    uneven = "," in environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    if uneven or tasks % nodes or tasks // nodes not in (1, ranks):
        raise ConfigError(
            f"srun started {tasks} tasks on {nodes} machines, but {key} is {ranks}: use --ntasks-per-node=1 (each task "
            f"starts {ranks} processes) or --ntasks-per-node={ranks} (each task is one of them)"
        )
    hosts = _hosts(environment["SLURM_STEP_NODELIST"])
    # A port of its own for every step, so that jobs on shared machines do not meet; below 32768, from where on Linux
    # hands out ports to connections.
    port = 20000 + (int(environment["SLURM_JOB_ID"]) * 7 + int(environment.get("SLURM_STEP_ID", 0))) % 12000
    own = ranks == 1 or tasks // nodes == ranks
    return Place(
        "srun",
        shard=int(environment["SLURM_NODEID"]),
        shards=nodes,
        local_ranks=ranks,
        local_rank=int(environment["SLURM_LOCALID"]) if own else None,
        init_method=init_method or f"tcp://{hosts[0]}:{port}",
        attempt=environment.get("SLURM_RESTART_COUNT", "0"),
        hosts=hosts,
    )


def _hosts(nodes: str) -> tuple[str, ...]:
    try:
        command = ["scontrol", "show", "hostnames", nodes]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"cannot tell the machines of {nodes}: scontrol show hostnames failed ({error})") from error
    return tuple(done.stdout.split())
