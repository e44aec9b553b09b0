"""Print sizes and published figures of networks: python tools/model_info.py [ID or pattern ...]."""

import argparse
import sys


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Parameters and multiply-adds of the published networks as built here, beside what their authors "
        "report. GFLOPs are 1e9 multiply-adds of one view; views are clips x crops per video; accuracies are percent."
    )
    parser.add_argument("names", nargs="*", default=["*"], metavar="ID", help="ids or patterns such as 'movinet_*'")
    args = parser.parse_args()

    from videobench.exit_status import WRONG_INPUT
    from videobench.models.info import info_table

    try:
        for line in info_table(args.names):
            print(line, flush=True)
    except ValueError as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
