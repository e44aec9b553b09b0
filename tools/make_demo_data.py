"""Write the embedded demo data set: python tools/make_demo_data.py FOLDER."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="where the videos, lists and class names go")
    folder = parser.parse_args().folder

    from tqdm import tqdm

    from videobench.datasets.demo import SPLITS, write_demo_dataset

    with tqdm(total=sum(SPLITS.values()), desc="demo videos", unit="video", delay=0.5) as bar:
        written = write_demo_dataset(folder, progress=lambda done, total: bar.update(done - bar.n))
    print(f"{'wrote' if written else 'found'} the demo data set in {folder}")


if __name__ == "__main__":
    main()
