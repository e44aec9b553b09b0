"""Compare two tests on the same videos: python tools/compare.py RUN_A RUN_B [--json]."""

import argparse
import dataclasses
import json
import sys


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Compare two tests on the same videos: the difference in accuracy with its 95 % interval, classes "
        "gained and lost, videos that changed.",
        epilog="Exit status: 0 done, 2 the runs cannot be compared.",
    )
    parser.add_argument("run_a", help="OUTPUT_DIR of a test")
    parser.add_argument("run_b", help="OUTPUT_DIR of another test of the same list")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    args = parser.parse_args()

    from videobench.engine.compare import CompareError, compare, comparison_text
    from videobench.exit_status import WRONG_INPUT

    try:
        found = compare(args.run_a, args.run_b)
    except CompareError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    print(json.dumps(dataclasses.asdict(found), indent=1) if args.json else comparison_text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
