"""Fixtures that several test files share."""

import os
import shutil
from pathlib import Path

# Tests that run side by side share the cores; set before torch is imported, and inherited by what the tests start.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))

import pytest
from hypothesis import HealthCheck, settings

from videobench.datasets.demo import write_demo_dataset

ROOT = Path(__file__).resolve().parents[1]

# The same examples every time and no limit on their time: a slow machine is no failure.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory) -> Path:
    """A small copy of the demo data set: 32 training and 10 validation videos."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo_dataset(folder, splits={"train": 32, "val": 10}, workers=1)
    return folder


@pytest.fixture(scope="session")
def tiny(demo_data) -> list:
    """Overrides of the demo recipe for a network and clips that take seconds."""
    return [
        *("DATA.PATH_TO_DATA_DIR", str(demo_data), "DATA.PATH_PREFIX", str(demo_data)),
        *("DATA.CLASS_NAMES", str(demo_data / "classes.txt")),
        *("UNIFORMER.EMBED_DIM", [8, 8, 16, 16], "UNIFORMER.DEPTH", [1, 1, 1, 1], "UNIFORMER.HEAD_DIM", 8),
        *("DATA.NUM_FRAMES", 4, "DATA.TRAIN_CROP_SIZE", 32, "DATA.TEST_CROP_SIZE", 32),
        *("DATA.TRAIN_JITTER_SCALES", [32, 36], "TRAIN.BATCH_SIZE", 8, "SOLVER.MAX_EPOCH", 2),
        *("SOLVER.WARMUP_EPOCHS", 0.0, "TRAIN.EVAL_PERIOD", 1, "TRAIN.CHECKPOINT_PERIOD", 1),
        *("DATA_LOADER.NUM_WORKERS", 0, "LOG_PERIOD", 1, "TEST.NUM_ENSEMBLE_VIEWS", 3),
    ]


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A checkpoint of a tiny UniFormer that says everything about itself."""
    from tiny_checkpoints import checkpoint, tiny_config  # with it come all networks, which most tests do without

    return checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pyth", tiny_config())


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; tests that need it are skipped where it is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install '.[test]')")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("needs Chromium (on Debian: apt install chromium), and none is installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program)
        yield browser
        browser.close()
