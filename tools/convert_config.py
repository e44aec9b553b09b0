"""Write an old YAML file in today's keys: python tools/convert_config.py OLD.yaml [-o NEW.yaml]."""

import argparse
import logging
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Write a YAML file of UniFormer, MorphMLP, Motionformer, SlowFast or mvit as the equivalent new "
        "one, with today's keys and in one piece; on stderr is what became of keys of other names or of no effect.",
        epilog="Exit status: 0 done; 2 the file cannot be loaded or written.",
    )
    parser.add_argument("old", metavar="OLD.yaml", help="the file; one of ours loses its _BASE_ files")
    parser.add_argument("-o", "--output", metavar="NEW.yaml", help="the new file (default: stdout)")
    args = parser.parse_args()

    from videobench.config import ConfigError, load_config
    from videobench.config.writing import short_yaml
    from videobench.exit_status import WRONG_INPUT

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        text = f"# {Path(args.old).name} with today's keys.\n{short_yaml(load_config(args.old))}"
        if args.output is None:
            print(text, end="")
        else:
            Path(args.output).write_text(text, encoding="utf-8")
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
