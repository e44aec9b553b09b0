"""Train a network on your own videos: python tools/finetune.py FOLDER --model ID --weights FILE [KEY VALUE ...]."""

import argparse
import sys


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a network on your own videos: a folder with a sub-folder per class, or a table of paths and "
        "classes. A part of every class is held back, and the result on it is reported.",
        epilog="KEY VALUE pairs override the recipe, for example: NUM_GPUS 0 SOLVER.BASE_LR 1e-4 SOLVER.FREEZE_LAYERS "
        "-1. Exit status: that of tools/run_net.py.",
    )
    parser.add_argument("data", metavar="FOLDER", help="a sub-folder per class, train.csv and val.csv, or a table")
    parser.add_argument("--model", metavar="ID", help="id of a published network (tools/model_info.py lists them)")
    parser.add_argument("--cfg", action="append", default=[], metavar="FILE", help="a YAML file of a network instead")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint to begin with (default: from scratch)")
    parser.add_argument("--output", metavar="DIR", help="folder of the run (default: output/finetune/FOLDER's name)")
    parser.add_argument("--epochs", type=int, help="default: 20, from scratch 60")
    parser.add_argument(
        "--val-share", type=float, default=0.2, metavar="SHARE", help="held back (default: %(default)s)"
    )
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY VALUE", help="keys of the configuration")
    return parser.parse_intermixed_args(argv)


def main() -> int:
    args = parse_args()

    from videobench.engine.finetune import finetune

    return finetune(
        args.data,
        model=args.model,
        config_files=args.cfg,
        weights=args.weights,
        output=args.output,
        epochs=args.epochs,
        val_share=args.val_share,
        overrides=args.overrides,
    )


if __name__ == "__main__":
    status = main()
    from videobench.distributed.launch import finish_undisturbed

    finish_undisturbed()  # what is left is the end of Python, which takes a second
    sys.exit(status)
