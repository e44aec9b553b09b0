"""Write the embedded demo data set: python tools/make_demo_data.py FOLDER."""

import argparse
import sys


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="where the videos, lists and class names go")
    folder = parser.parse_args().folder

    from tqdm import tqdm

    from videobench.config import ConfigError
    from videobench.datasets.demo import SPLITS, write_demo_dataset
    from videobench.exit_status import WRONG_INPUT

    try:
        with tqdm(total=sum(SPLITS.values()), desc="demo videos", unit="video", delay=0.5, disable=None) as bar:
            written = write_demo_dataset(folder, progress=lambda done, total: bar.update(done - bar.n))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    print(f"{'wrote' if written else 'found'} the demo data set in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
