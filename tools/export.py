"""Write a network for another runtime: python tools/export.py --weights RUN|FILE --to onnx -o FILE."""

import argparse
import sys


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write a trained network as an ONNX, torch.export or TorchScript file, with class names and "
        "preprocessing inside, and compare it with the network on random clips.",
        epilog="Exit status: 0 done; 1 the network cannot be exported so, or the file computes something else; 2 the "
        "weights are wrong.",
    )
    parser.add_argument("--weights", required=True, help="folder of a run, a checkpoint, or published weights")
    parser.add_argument("--model", help="what published weights are of: an id (tools/model_info.py) or a YAML file")
    parser.add_argument("--to", required=True, choices=["onnx", "torch_export", "torchscript"])
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="usually .onnx, .pt2 or .pt")
    parser.add_argument("--stream", action="store_true", help="frame by frame, state in and out (causal MoViNet)")
    parser.add_argument("--dynamic", nargs="?", const="batch", choices=["batch"], help="any number of clips per call")
    parser.add_argument("--half", action="store_true", help="float16 weights, inputs and outputs")
    int8 = parser.add_argument_group("int8 weights, ONNX only")
    int8.add_argument("--int8", choices=["static", "dynamic"], help="static: the inputs of all layers are int8 too")
    int8.add_argument("--calibrate", metavar="LIST", help="list file of videos, for the ranges of static inputs")
    int8.add_argument("--clips", type=int, default=100, metavar="N", help="that many of them (default: %(default)s)")
    int8.add_argument("--evaluate", metavar="LIST", help="list file of videos to measure the change of accuracy on")
    args = parser.parse_args(argv)
    if args.int8 and (args.to != "onnx" or args.half):
        parser.error("--int8 goes with --to onnx, and not with --half")
    if not args.int8 and (args.calibrate or args.evaluate):
        parser.error("--calibrate and --evaluate go with --int8")
    if args.clips < 1:
        parser.error("--clips is 1 or more")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)

    from videobench.exit_status import BROKE_OFF, WRONG_INPUT
    from videobench.inference.exporting import ExportError, export
    from videobench.inference.network import load_network
    from videobench.inference.quantization import export_int8

    try:
        network = load_network(args.weights, args.model, device="cpu")
        options = {"stream": args.stream, "dynamic": args.dynamic is not None}
        if args.int8:
            lists = {"calibrate": args.calibrate, "clips": args.clips, "evaluate": args.evaluate}
            print(export_int8(network, args.output, args.int8, **options, **lists))
        else:
            print(export(network, args.output, args.to, **options, half=args.half))
    except ExportError as error:
        print(error, file=sys.stderr)
        return BROKE_OFF
    except ValueError as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
