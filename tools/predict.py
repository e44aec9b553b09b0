"""Say what videos show: python tools/predict.py VIDEO|FOLDER|PATTERN|- --weights RUN|FILE."""

import argparse
import logging
import os
import sys


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Print the classes that a trained network sees in videos, or in pictures.",
        epilog="Exit status: 0 done; 1 some files could not be read (they are named at the end); 2 the weights, the "
        "input or the files to write are wrong; 130 interrupted.",
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="files, folders, patterns, or - for standard input")
    parser.add_argument("--weights", required=True, help="folder of a run, a checkpoint, or published weights")
    parser.add_argument("--model", help="what published weights are of: an id (tools/model_info.py) or a YAML file")
    parser.add_argument("--views", metavar="4x1", help="clips x crops per video (default: those of the network's test)")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes per video (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument("--batch", type=int, help="views at a time (default: 8 on a GPU, 1 on a CPU)")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode ahead (default: %(default)s)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", help="an object per line and video")
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="a line per video and class")
    parser.add_argument("--show", metavar="OUT.mp4", help="write the (one) video with its classes over it")
    parser.add_argument(
        "--heatmap", metavar="OUT.mp4", help="write its clips with the places that the score depends on"
    )
    args = parser.parse_args(argv)
    if args.top < 1 or (args.batch is not None and args.batch < 1) or args.workers < 0:
        parser.error("--top and --batch are 1 or more, --workers 0 or more")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)

    from videobench import Predictor
    from videobench.exit_status import DONE, INTERRUPTED, WRONG_INPUT
    from videobench.inference.command import predict_files

    try:
        predictor = Predictor(
            args.weights, args.model, args.views, args.device, batch_size=args.batch, workers=args.workers
        )
    except ValueError as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    options = {"form": args.form or "table", "top": args.top, "show": args.show, "heatmap": args.heatmap}
    try:
        return predict_files(args.videos, predictor, **options)
    except BrokenPipeError:  # whoever reads has enough, as `head` does; nothing is left to be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
