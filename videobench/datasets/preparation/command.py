"""One command of tools/prepare_data.py from its parsed arguments."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from videobench.config import ConfigError
from videobench.datasets.preparation.class_folders import folder, imagenet
from videobench.datasets.preparation.encoding import Encoding
from videobench.datasets.preparation.epic_kitchens import epic
from videobench.datasets.preparation.frame_folders import FrameEncoding
from videobench.datasets.preparation.kinetics import kinetics
from videobench.datasets.preparation.lists import MadeLists, Plan, make_lists
from videobench.datasets.preparation.resize import Resized, resize
from videobench.datasets.preparation.something_something import something_something
from videobench.datasets.preparation.ucf_hmdb import hmdb51, ucf101
from videobench.datasets.preparation.verify import PUBLISHED, Verification, verify

Progress = Callable[[int, int], None]


def run(args: Namespace, progress: Progress | None = None) -> tuple[Verification | Resized | MadeLists, int]:
    """What a command did, and its exit status: 0, or 1 when something is faulty, missing or failed.

    Raises:
        ConfigError: for input that is wrong.
    """
    common = {"workers": args.workers, "patience": args.patience, "progress": progress}
    if args.workers is not None and args.workers < 1:
        raise ConfigError("--workers is at least 1")
    if args.command == "verify":
        if args.expect not in (None, *PUBLISHED):
            raise ConfigError(f"--expect {args.expect}: known are {', '.join(PUBLISHED)}")
        found = verify(
            args.source,
            prefix=args.prefix,
            separator=args.separator,
            template=args.template,
            full=not args.packets_only,
            expect=args.expect,
            out=args.out,
            **common,
        )
        return found, 0 if found.sound else 1
    if args.command == "resize":
        videos = Encoding(args.short_side, args.gop, args.crf, args.preset, args.fastdecode)
        encoding = FrameEncoding(args.short_side, args.quality) if args.frames else videos
        done = resize(args.source, args.out, encoding, prefix=args.prefix, separator=args.separator, **common)
        return done, 1 if done.failures else 0
    made = make_lists(_plan(args), args.out, check=args.check, overwrite=args.overwrite, **common)
    return made, 0 if made.complete else 1


def _plan(args: Namespace) -> Plan:
    if not args.data.is_dir():
        raise ConfigError(f"{args.data}: no such folder")
    if args.command == "kinetics":
        alphabetical = args.classes == ["alphabetical"]
        order = None if alphabetical else [Path(name) for name in args.classes]
        return kinetics(args.annotations, args.data, order, args.separator)
    if args.command in ("ssv1", "ssv2"):
        splits = {_split_of(path): path for path in args.annotations}
        if len(splits) < len(args.annotations):
            raise ConfigError(f"two files for one split would become one list: {', '.join(map(str, args.annotations))}")
        return something_something(args.command, splits, args.labels, args.data, args.classes)
    if args.command == "ucf101":
        return ucf101(args.splits, args.split, args.data, args.separator)
    if args.command == "hmdb51":
        return hmdb51(args.splits, args.split, args.data, args.classes)
    if args.command == "epic":
        return epic(args.annotations, args.data, args.classes)
    if args.command == "imagenet":
        return imagenet(args.data, args.val_labels, args.classes)
    return folder(args.data, args.classes, args.val_fraction, args.seed, args.separator)


def _split_of(path: Path) -> str:
    found = [split for split in ("train", "validation") if split in path.name]
    if len(found) != 1:
        raise ConfigError(f"{path}: the name must say whether this is 'train' or 'validation'")
    return found[0]
