"""Write a checkpoint for the published code bases: python tools/export_weights.py CHECKPOINT --model ID -o FILE."""

import argparse
import sys


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write the weights of a checkpoint, of any published layout or our own, under the names and in the "
        "shapes of the published code bases. KEY VALUE pairs override the configuration.",
        epilog="Exit status: 0 done; 2 the checkpoint or the configuration is wrong, and nothing was written.",
    )
    parser.add_argument("checkpoint", help="the weights")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--cfg", nargs="+", metavar="FILE", help="YAML files of the network; later ones win")
    network.add_argument("--model", metavar="ID", help="id of a published network (tools/model_info.py lists them)")
    parser.add_argument("--num_classes", type=int, help="classes of the checkpoint, where --model has others")
    parser.add_argument("--layout", choices=["slowfast", "bare"], default="slowfast", help="default: %(default)s")
    parser.add_argument("--average", action="store_true", help="the averaged weights of the checkpoint (TRAIN.EMA)")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="with --cfg only")
    args = parser.parse_args()
    if args.model and args.opts:
        parser.error("KEY VALUE pairs go with --cfg")
    if args.cfg and args.num_classes is not None:
        parser.error("--num_classes goes with --model; use --opts MODEL.NUM_CLASSES")
    return args


def main() -> int:
    args = parse_args()

    import videobench
    from videobench.exit_status import WRONG_INPUT
    from videobench.models.weights import convert_weights

    try:
        if args.model:
            model = videobench.create_model(args.model, num_classes=args.num_classes)
        else:
            model = videobench.build_model(videobench.load_config(args.cfg, args.opts))
        print(convert_weights(model, args.checkpoint, args.output, args.layout, average=args.average))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
