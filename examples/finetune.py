"""Train on your own clips and use the result: python examples/finetune.py FOLDER OUTPUT NETWORK.yaml [KEY VALUE ...].

FOLDER has a sub-folder per class. NETWORK.yaml is a recipe of configs/; name initial weights with
TRAIN.CHECKPOINT_FILE_PATH (tools/finetune.py has options for all of this).
"""

import sys
from pathlib import Path

import videobench
from videobench.engine.finetune import finetune


def main(folder: str, output: str, network: str, *overrides: str) -> None:
    status = finetune(folder, config_files=[network], output=output, epochs=1, overrides=list(overrides))
    if status:
        sys.exit(status)
    predictor = videobench.Predictor(output)
    for of_class in sorted(path for path in Path(folder).iterdir() if path.is_dir()):
        path = min(of_class.iterdir())
        (best, share), *_ = predictor.predict(path).top(1)
        print(f"{path}: {best} ({share:.0%})")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
