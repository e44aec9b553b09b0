"""Write report.html for a run again: python tools/report.py OUTPUT_DIR."""

import argparse
import sys


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Write report.html, one page on a training or a test, from what it left in its OUTPUT_DIR.",
        epilog="Exit status: 0 done, 2 there is no run in the folder, a file of it is damaged, or it cannot be written "
        "to.",
    )
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="folder of a run")
    args = parser.parse_args()

    from videobench.engine.report import write_report
    from videobench.exit_status import WRONG_INPUT
    from videobench.reporting.run_files import OutputError, RunFileError

    try:
        print(write_report(args.output_dir))
    except (OutputError, RunFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
