"""Train and test a network: python tools/run_net.py --cfg FILE [FILE ...] [KEY VALUE ...]."""

import argparse
import sys


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train and test a video-recognition network.",
        epilog="KEY VALUE pairs override the configuration, with or without --opts in front of them, for example: "
        "NUM_GPUS 0 SOLVER.BASE_LR 1e-4. Exit status: 0 done; 1 the run broke off; 2 the configuration or the input is "
        "wrong; 3 the test met more unreadable videos than TEST.ALLOW_FAILED; 75 training or test was stopped by "
        "SIGTERM or SIGUSR1 and saved: the same command goes on; 130 interrupted.",
    )
    parser.add_argument(
        "--cfg", nargs="+", action="append", default=[], metavar="FILE", help="YAML files; later ones win"
    )
    parser.add_argument("--shard_id", type=int, help="index of this machine (SHARD_ID)")
    parser.add_argument("--num_shards", type=int, help="number of machines (NUM_SHARDS)")
    parser.add_argument(
        "--init_method",
        default="",
        help="where the processes of several machines meet: tcp://HOST:PORT (torchrun and srun say it themselves)",
    )
    parser.add_argument("--strict", action="store_true", help="refuse old keys instead of warning of them")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="overrides")
    args, rest = parser.parse_known_args(argv)
    if unknown := [word for word in rest if word.startswith("--")]:
        parser.error(f"unknown option {unknown[0]}")
    if options := [
        word for word in args.opts if word in ("--cfg", "--shard_id", "--num_shards", "--init_method", "--strict")
    ]:
        parser.error(f"{options[0]} stands behind --opts, which takes KEY VALUE pairs to the end; put it before --opts")
    args.cfg, overrides = split_files(args.cfg)
    args.overrides = overrides + rest + args.opts
    if args.shard_id is not None:
        args.overrides += ["SHARD_ID", args.shard_id]
    if args.num_shards is not None:
        args.overrides += ["NUM_SHARDS", args.num_shards]
    return args


def split_files(cfg: list[list[str]]) -> tuple[list[str], list[str]]:
    """Files and overrides: in ``--cfg A.yaml KEY VALUE`` the first word that is no YAML file begins the overrides."""
    files, overrides = [], []
    for words in cfg:
        is_file = [index == 0 or word.endswith((".yaml", ".yml")) for index, word in enumerate(words)]
        count = is_file.index(False) if False in is_file else len(is_file)
        files += words[:count]
        overrides += words[count:]
    return files, overrides


def main() -> int:
    args = parse_args()

    from videobench.engine.run import run

    return run(args.cfg, args.overrides, args.init_method, strict=args.strict)


if __name__ == "__main__":
    status = main()
    from videobench.distributed.launch import finish_undisturbed

    finish_undisturbed()  # what is left is the end of Python, which takes a second
    sys.exit(status)
