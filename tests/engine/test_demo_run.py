"""The demo recipe learns the motions, and needs the order of the frames to do so."""

import json

import numpy as np
import pytest
from processes import RECIPE

from videobench.datasets.demo import write_demo_dataset
from videobench.engine.run import DONE, run


@pytest.mark.slow
def test_the_demo_learns_motion_and_shuffled_frames_destroy_it(tmp_path):
    data, output = tmp_path / "data", tmp_path / "run"
    write_demo_dataset(data)
    paths = ["DATA.PATH_TO_DATA_DIR", data, "DATA.PATH_PREFIX", data, "DATA.CLASS_NAMES", data / "classes.txt"]
    overrides = [*map(str, paths), "OUTPUT_DIR", str(output)]
    assert run([RECIPE], overrides, "") == DONE
    results = json.loads((output / "test_results.json").read_text())
    assert results["videos"] == 120
    assert results["top1"] >= 90.0
    # A set of frames without order can tell what changes (place, size, angle) but not which way: opposite motions
    # (classes 2n and 2n + 1) have the same sets of frames, so nothing that ignores the order gets above 50 %.
    assert run([RECIPE], [*overrides, "TRAIN.ENABLE", "False", "TEST.SHUFFLE_FRAMES", "True"], "") == DONE
    assert json.loads((output / "test_results.json").read_text())["top1"] <= 60.0
    predictions = np.load(output / "predictions.npz")
    predicted, labels = predictions["scores"].argmax(1), predictions["label"]
    right_pair = predicted // 2 == labels // 2
    assert 0.33 <= np.mean(predicted[right_pair] == labels[right_pair]) <= 0.67
