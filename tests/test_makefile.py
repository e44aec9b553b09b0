"""What `make` says when the set-up fails; a Python of ours plays the one that is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Makes a virtual environment whose python cannot do anything but say what pip would.
WORKING_VENV = """#!/bin/sh
case "$*" in
    "-m venv "*)
        mkdir -p "$3/bin"
        printf '#!/bin/sh\\necho "no matching distribution" >&2\\nexit 1\\n' > "$3/bin/python"
        chmod +x "$3/bin/python";;
esac
"""
NO_VENV = """#!/bin/sh
case "$*" in "-m venv "*) mkdir -p "$3"; exit 1;; esac
"""
TOO_OLD = """#!/bin/sh
case "$*" in *version_info*) exit 1;; esac
"""


def make(folder: Path, target: str, python: str) -> subprocess.CompletedProcess:
    """Run make in a folder that holds nothing but the Makefile and setup.py."""
    for name in ("Makefile", "setup.py"):
        shutil.copy(ROOT / name, folder)
    fake = folder / "python"
    fake.write_text(python)
    fake.chmod(0o755)
    command = ["make", target, f"PYTHON={fake}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("target", ["demo", "test"])
def test_a_failing_pip_is_said_and_leaves_nothing_half_done(tmp_path, target):
    for _ in range(2):  # the second time is no better: the failed installation does not count as done
        done = make(tmp_path, target, WORKING_VENV)
        assert done.returncode == 2
        assert "no matching distribution" in done.stderr
        assert "pip could not install the packages named in setup.py" in done.stderr
        assert "Run the same make command again" in done.stderr
        assert not (tmp_path / ".venv/.installed").exists()


def test_a_python_without_venv_is_told_what_to_install(tmp_path):
    done = make(tmp_path, "demo", NO_VENV)
    assert done.returncode == 2
    assert "apt install python3-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_old_python_is_refused(tmp_path):
    done = make(tmp_path, "demo", TOO_OLD)
    assert done.returncode == 2
    assert "needs Python 3.10 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()
