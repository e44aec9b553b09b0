"""Check videos, encode them for fast training, make list files: python tools/prepare_data.py COMMAND --help."""

import argparse
import sys
from pathlib import Path

EPILOG = (
    "Exit status: 0 all is well; 1 some files are faulty, missing or failed, and are named; 2 nothing was done because "
    "the input is wrong; 130 stopped from the keyboard. A command that was stopped goes on where it was when it is "
    "given again."
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, out: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, epilog=EPILOG)
        sub.add_argument("--separator", default=" ", help="between path and label (default: a blank)")
        sub.add_argument("--out", type=Path, required=out == "", metavar="DIR", help=out or "where to write")
        sub.add_argument("--workers", type=int, help="processes (default: one per core)")
        sub.add_argument("--patience", type=float, default=300, metavar="SECONDS", help="without progress: hanging")
        return sub

    sub = command("verify", "Read every file and name each faulty one with its cause.", "default: beside the list")
    sub.add_argument("source", type=Path, metavar="LIST", help="a list of videos, images or frame folders, or a folder")
    sub.add_argument("--prefix", default="", help="folder in front of the paths of the list")
    sub.add_argument("--template", default="", metavar="{:05d}.jpg", help="lines are 'folder frames label'")
    sub.add_argument(
        "--packets-only", action="store_true", help="do not decode where the packets tell where frames are"
    )
    sub.add_argument("--expect", metavar="NAME", help="published list that must have as many lines, such as k400-val")

    sub = command("resize", "Encode videos so that few packets must be decoded for a clip, or shrink frames.", "")
    sub.add_argument("source", type=Path, metavar="LIST", help="a list of videos or frame folders, or a folder")
    sub.add_argument("--frames", action="store_true", help="folders of frames are meant, not videos")
    sub.add_argument("--quality", type=int, default=90, help="JPEG quality of frames (default 90)")
    sub.add_argument("--prefix", default="", help="folder in front of the paths of the list")
    sub.add_argument("--short-side", type=int, default=256, help="pixels; smaller stay as they are (default 256)")
    sub.add_argument("--gop", type=int, default=32, help="frames from key frame to key frame (default 32)")
    sub.add_argument("--crf", type=float, default=20, help="x264's quality; smaller is better (default 20)")
    sub.add_argument("--preset", default="medium", help="x264's preset (default medium)")
    sub.add_argument("--fastdecode", action="store_true", help="x264's tuning: faster to decode, larger (DATASET.md)")

    for name, annotations in (
        ("kinetics", "official csv files"),
        ("ssv1", "train and validation csv"),
        ("ssv2", "train and validation json"),
        ("epic", "EPIC_100_train.csv EPIC_100_validation.csv"),
        ("ucf101", ""),
        ("hmdb51", ""),
        ("imagenet", ""),
        ("folder", ""),
    ):
        sub = command(name, f"Make list files of {name} data.", "")
        if annotations:
            sub.add_argument("annotations", type=Path, nargs="+", metavar="FILE", help=annotations)
        sub.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the videos or frames are")
        sub.add_argument("--check", choices=["none", "packets", "full"], default="packets", help="default: packets")
        sub.add_argument("--overwrite", action="store_true", help="replace files that hold something else")
        if name == "kinetics":
            sub.add_argument(
                "--classes", nargs="+", required=True, metavar="FILE", help="class order, or 'alphabetical'"
            )
        elif name != "ucf101":
            order = "LOC_synset_mapping.txt: names of classes" if name == "imagenet" else "class order"
            sub.add_argument("--classes", nargs="+", default=[], type=Path, metavar="FILE", help=order)
        if name in ("ucf101", "hmdb51"):
            sub.add_argument("splits", type=Path, metavar="SPLITS", help="folder of the official split files")
            sub.add_argument("--split", type=int, choices=[1, 2, 3], default=1, help="default: 1")
        if name in ("ssv1", "ssv2"):
            sub.add_argument("--labels", type=Path, required=True, metavar="FILE", help="official labels json or csv")
        if name == "imagenet":
            sub.add_argument("--val-labels", type=Path, metavar="CSV", help="for a flat val/: ImageId,PredictionString")
        if name == "folder":
            sub.add_argument("--val-fraction", type=float, default=0.0, help="share of every class for val.csv")
            sub.add_argument("--seed", type=int, default=0, help="of that choice")
    return parser.parse_args(argv)


def main() -> int:
    args = parse_args()

    from tqdm import tqdm

    from videobench.config import ConfigError
    from videobench.datasets.preparation.command import run
    from videobench.exit_status import INTERRUPTED, WRONG_INPUT

    # Hours of work leave a line a minute in the log of a job, not ten a second.
    pace = {} if sys.stderr.isatty() else {"mininterval": 60, "maxinterval": 60}
    with tqdm(desc=args.command, unit="file", delay=0.5, **pace) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            result, status = run(args, progress)
        except ConfigError as error:
            result, status = error, WRONG_INPUT
        except KeyboardInterrupt:
            result, status = "stopped; the same command goes on from here", INTERRUPTED
    print(result, file=sys.stderr if status in (WRONG_INPUT, INTERRUPTED) else sys.stdout)
    return status


if __name__ == "__main__":
    sys.exit(main())
