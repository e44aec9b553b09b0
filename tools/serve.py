"""Say over HTTP what videos show: python tools/serve.py --weights RUN|FILE."""

import argparse
import logging
import sys


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Answer videos that are sent over HTTP with their classes; / is a page to drop them on. Needs "
        "pip install 'videobench[serve]'.",
        epilog="Exit status: 0 ended by SIGTERM or Ctrl-C, after what was waiting; 1 the address cannot be had; 2 the "
        "weights are wrong.",
    )
    parser.add_argument("--weights", required=True, help="folder of a run, a checkpoint, or published weights")
    parser.add_argument("--model", help="what published weights are of: an id (tools/model_info.py) or a YAML file")
    parser.add_argument("--views", metavar="4x1", help="clips x crops per video (default: those of the network's test)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for a free one (default: 8000)")
    several = "(default: %(default)s)"
    parser.add_argument("--batch", type=int, help="views at a time, of any requests (default: 8 on a GPU, 1 on a CPU)")
    parser.add_argument("--wait", type=float, default=20, metavar="MS", help=f"wait for a fuller batch {several}")
    parser.add_argument("--decoders", type=int, default=2, help=f"processes that decode {several}")
    parser.add_argument("--queue", type=int, default=64, help=f"requests at a time; others get 503 {several}")
    parser.add_argument("--max-size", type=float, default=100, metavar="MIB", help=f"of a file {several}")
    parser.add_argument("--max-duration", type=float, default=120, metavar="S", help=f"of a video {several}")
    parser.add_argument("--upload-timeout", type=float, default=60, metavar="S", help=f"for an upload {several}")
    parser.add_argument("--decode-timeout", type=float, default=30, metavar="S", help=f"for decoding {several}")
    parser.add_argument("--decode-memory", type=float, default=2048, metavar="MIB", help=f"for decoding {several}")
    parser.add_argument("--timeout", type=float, default=60, metavar="S", help=f"from upload to answer {several}")
    args = parser.parse_args(argv)
    positive = ("batch", "decoders", "queue", "max_size", "max_duration", "decode_memory")
    positive += ("upload_timeout", "decode_timeout", "timeout")
    given = {name: getattr(args, name) for name in positive if getattr(args, name) is not None}
    if wrong := [name for name, value in given.items() if not 0 < value < float("inf")]:
        parser.error(", ".join(f"--{name.replace('_', '-')}" for name in wrong) + ": more than 0, please")
    if not 0 <= args.port < 1 << 16:
        parser.error("--port: 0 to 65535, please")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)

    from videobench import Predictor
    from videobench.exit_status import WRONG_INPUT

    try:
        from videobench.serving.command import serve
        from videobench.serving.limits import MIB, Limits
        from videobench.serving.service import Service
    except ModuleNotFoundError as error:
        print(f"the server needs {error.name}: pip install 'videobench[serve]'", file=sys.stderr)
        return WRONG_INPUT
    limits = Limits(
        upload_bytes=int(args.max_size * MIB),
        upload_seconds=args.upload_timeout,
        video_seconds=args.max_duration,
        decode_seconds=args.decode_timeout,
        decode_bytes=int(args.decode_memory * MIB),
        answer_seconds=args.timeout,
        requests=args.queue,
    )
    try:
        predictor = Predictor(args.weights, args.model, args.views, args.device, batch_size=args.batch)
    except ValueError as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    serve(Service(predictor, limits, decoders=args.decoders, wait=args.wait / 1000), args.host, args.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
