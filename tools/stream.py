"""Say what a stream shows while it comes in: python tools/stream.py SOURCE --weights RUN|FILE."""

import argparse
import logging
import os
import signal
import sys


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Print the running classes of a file, a camera or a network stream. A causal MoViNet takes every "
        "picture once and keeps its state; other networks take a sliding window. Live sources lose pictures that come "
        "too late, and are opened again when they break off or stall.",
        epilog="Exit status: 0 the source ended or was stopped (Ctrl-C, SIGTERM); 1 it broke or was given up; 2 the "
        "weights or the file to write are wrong.",
    )
    parser.add_argument(
        "source",
        help="a file, a camera number (0, 1, ...), a URL (rtsp, http, ...), - for stdin, or a "
        "device of FFmpeg as FORMAT:NAME (v4l2:/dev/video0)",
    )
    parser.add_argument("--weights", required=True, help="folder of a run, a checkpoint, or published weights")
    parser.add_argument("--model", help="what published weights are of: an id (tools/model_info.py) or a YAML file")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="classes to print (default: %(default)s)")
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between lines (default: 1)")
    parser.add_argument("--hop", type=int, help="pictures between predictions of a window (default: a quarter of it)")
    parser.add_argument(
        "--restart",
        type=float,
        metavar="S",
        help="a causal network begins anew after so long (default: 10 live, else 0)",
    )
    parser.add_argument("--retries", type=int, help="attempts in a row to open a live source again (default: no limit)")
    parser.add_argument("--patience", type=float, default=10, metavar="S", help="a stall is this long (default: 10)")
    parser.add_argument("--show", metavar="OUT.mp4", help="write the stream with its running classes over it")
    args = parser.parse_args(argv)
    if args.top < 1 or (args.hop is not None and args.hop < 1):
        parser.error("--top and --hop are 1 or more")
    if args.patience <= 0 or (args.restart or 0) < 0 or (args.retries or 0) < 0:
        parser.error("--patience is more than 0, --restart and --retries are 0 or more")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # services are stopped so; also finish the video then

    from videobench.datasets.containers import VideoError, cause_of
    from videobench.exit_status import BROKE_OFF, WRONG_INPUT
    from videobench.inference.network import load_network
    from videobench.inference.overlay import check_target
    from videobench.inference.sources import PictureSource
    from videobench.inference.streaming import RunningClasses, follow

    try:
        if args.show:
            check_target(args.show, [args.source])
        classes = RunningClasses(load_network(args.weights, args.model, device=args.device), args.hop)
    except ValueError as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    source = PictureSource(args.source, patience=args.patience, retries=args.retries)
    try:
        follow(source, classes, top=args.top, every=args.every, restart=args.restart, show=args.show)
    except VideoError as error:
        print(error, file=sys.stderr)
        return BROKE_OFF
    except BrokenPipeError:  # whoever reads has enough, as `head` does; nothing is left to be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"{args.show}: cannot be written: {cause_of(error)}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        source.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
