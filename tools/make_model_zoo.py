"""Write MODEL_ZOO.md from the facts of the zoo: python tools/make_model_zoo.py [-o FILE]."""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description="Count every published network (minutes) and write MODEL_ZOO.md.")
    parser.add_argument("-o", "--output", default=Path(__file__).resolve().parents[1] / "MODEL_ZOO.md", metavar="FILE")
    output = parser.parse_args().output

    from tqdm import tqdm

    from videobench.models.info import model_info
    from videobench.models.zoo import list_models
    from videobench.models.zoo_page import model_zoo_page

    infos = {name: model_info(name) for name in tqdm(list_models(), desc="networks", disable=None)}
    Path(output).write_text(model_zoo_page(infos), encoding="utf-8")


if __name__ == "__main__":
    main()
