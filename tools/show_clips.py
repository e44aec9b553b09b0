"""Show what the network gets: python tools/show_clips.py --cfg FILE [--split train] [--num 8] [KEY VALUE ...]."""

import argparse
import json
import sys


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="A contact sheet of clips exactly as the network gets them: frames after augmentation with their "
        "numbers, and the crop in the original. With --video, a list of frames and crops instead.",
        epilog="KEY VALUE pairs override the configuration. Exit status: 0 done, 2 the input is wrong.",
    )
    parser.add_argument("--cfg", action="append", default=[], metavar="FILE", help="YAML file; later ones win")
    parser.add_argument("--split", choices=("train", "val", "test"), help="default: train; with --video: test")
    parser.add_argument("--num", type=int, default=8, help="videos to show (default: %(default)s)")
    parser.add_argument("--epoch", type=int, default=0, help="of the training clips, from 0 (default: %(default)s)")
    parser.add_argument("--video", metavar="FILE", help="list the views of this video: frame numbers and crop box")
    parser.add_argument("--json", action="store_true", help="the list as JSON")
    parser.add_argument("--output", metavar="PNG", help="the contact sheet (default: clips.png; with --video: none)")
    parser.add_argument("--size", type=int, default=128, help="pixels of a frame's side, 0: as it is (default: 128)")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY VALUE", help="keys of the configuration")
    return parser.parse_intermixed_args(argv)


def main() -> int:
    args = parse_args()

    from videobench.config import ConfigError, load_config
    from videobench.datasets.containers import VideoError
    from videobench.engine.show_clips import shown_videos
    from videobench.exit_status import WRONG_INPUT
    from videobench.reporting.contact_sheet import contact_sheet

    if args.size and args.size < 16:
        print(f"error: --size is {args.size}; use 16 or more, or 0", file=sys.stderr)
        return WRONG_INPUT
    split = args.split or ("test" if args.video else "train")
    try:
        cfg = load_config(args.cfg, args.overrides)
        videos = list(shown_videos(cfg, split, num=args.num, epoch=args.epoch, video=args.video))
    except (ConfigError, VideoError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    if args.json:
        print(json.dumps([video.as_dict() for video in videos], indent=1))
    elif args.video:
        print("\n".join(video.as_text() for video in videos))
    if not videos:
        print("error: none of these videos can be read", file=sys.stderr)
        return WRONG_INPUT
    output = args.output or ("" if args.video else "clips.png")
    if output:
        sheet = contact_sheet([row for video in videos for row in video.sheet_rows()], args.size)
        try:
            sheet.save(output)
        # Pillow's for an ending that it does not know.
        except (OSError, ValueError) as error:
            print(f"error: {output} cannot be written: {error}", file=sys.stderr)
            return WRONG_INPUT
        mixed = (
            "; mixup and cutmix (MIXUP.ENABLE) come later and are not shown"
            if cfg.MIXUP.ENABLE and split == "train"
            else ""
        )
        print(f"{output}{mixed}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
