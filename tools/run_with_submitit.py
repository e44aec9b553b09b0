"""Send a run to Slurm: python tools/run_with_submitit.py --cfg FILE --job_dir DIR [--num_shards N] [KEY VALUE ...]."""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from run_net import split_files


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Send training and testing to Slurm, one task per GPU; a preempted one is requeued and goes on.",
        epilog="KEY VALUE pairs override the configuration, as in tools/run_net.py.",
    )
    parser.add_argument("--cfg", nargs="+", action="append", required=True, metavar="FILE", help="YAML files")
    parser.add_argument("--job_dir", required=True, help="OUTPUT_DIR of the run; the job's own files go to DIR/slurm")
    parser.add_argument("--num_shards", type=int, default=1, help="machines (default: %(default)s)")
    parser.add_argument("--gpus_per_node", type=int, default=8, help="GPUs per machine; 0 runs on CPUs (default: 8)")
    parser.add_argument("--cpu_ranks", type=int, default=1, help="processes per machine without GPUs")
    parser.add_argument("--cpus_per_task", type=int, default=8, help="cores per process (default: %(default)s)")
    parser.add_argument("--mem_gb", type=float, help="memory per machine (default: the partition's)")
    parser.add_argument("--partition", default="", help="Slurm partition")
    parser.add_argument("--timeout", type=int, default=72 * 60, help="minutes (default: 3 days)")
    parser.add_argument("--use_volta32", action="store_true", help="ask for machines with the feature volta32gb")
    parser.add_argument("--comment", default="", help="comment for the job")
    parser.add_argument("--name", default="videobench", help="name of the job")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="overrides")
    args, rest = parser.parse_known_args(argv)
    if unknown := [word for word in rest + args.opts if word.startswith("--")]:
        parser.error(f"unknown option {unknown[0]}")
    args.cfg, overrides = split_files(args.cfg)
    args.overrides = overrides + rest + args.opts
    return args


def main() -> int:
    args = parse_args()

    from videobench.config import ConfigError, load_config
    from videobench.distributed.slurm_job import SlurmJob, submit
    from videobench.engine.run import run
    from videobench.exit_status import STOPPED, WRONG_INPUT

    gpus = args.gpus_per_node
    machine = ["NUM_GPUS", gpus] if gpus else ["NUM_GPUS", 0, "NUM_CPU_RANKS", args.cpu_ranks]
    files = [str(Path(file).resolve()) for file in args.cfg]
    overrides = [*args.overrides, *machine, "OUTPUT_DIR", args.job_dir]
    try:
        load_config(files, overrides)  # a mistake is told here, not when the job has waited for its turn
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    job = submit(
        SlurmJob(partial(run, files, overrides, ""), STOPPED),
        Path(args.job_dir) / "slurm",
        args.name,
        nodes=args.num_shards,
        tasks_per_node=gpus or args.cpu_ranks,
        gpus_per_node=gpus or None,
        cpus_per_task=args.cpus_per_task,
        mem_gb=args.mem_gb,
        timeout_min=args.timeout,
        slurm_partition=args.partition,
        slurm_constraint="volta32gb" if args.use_volta32 else "",
        slurm_comment=args.comment,
    )
    print(f"job {job.job_id}: output in {job.paths.folder}, results in {args.job_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
