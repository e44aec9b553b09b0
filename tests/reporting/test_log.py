"""The log of a run, on disks and under names of any kind."""

import errno
import os
import subprocess
import sys

import pytest
from full_disk import full_disk

from videobench.reporting.curves import read_history, write_history
from videobench.reporting.run_files import OutputError
from videobench.reporting.tensorboard import Scalars

LINES = """
import logging, resource, sys
from videobench.reporting.log import setup_logging
setup_logging(sys.argv[1])
logger = logging.getLogger("videobench.of.a.test")
logger.error("unreadable: bad\\udcff name, \\u6f22\\u5b57")
"""
FULL_DISK = f"""{LINES}
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
logger.info("on stdout alone")
logger.info("the end")
"""


def run(program: str, folder, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", program, str(folder)]
    # Byte code that is cut off by the limit on files would be left for every later import.
    environment = {**os.environ, **environment, "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, env=environment, timeout=300)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_are_no_text_are_logged(tmp_path, encoding):
    done = run(LINES, tmp_path, PYTHONIOENCODING=encoding)
    assert done.stderr == b""
    assert rb"unreadable: bad\udcff name, " in done.stdout
    assert r"unreadable: bad\udcff name, 漢字" in (tmp_path / "stdout.log").read_text(encoding="utf-8")


def test_a_log_that_a_full_disk_does_not_take_is_told_of_once(tmp_path):
    done = run(FULL_DISK, tmp_path)
    assert done.returncode == 0
    assert done.stderr.decode().splitlines() == [
        f"{tmp_path / 'stdout.log'}: cannot be written: File too large; further lines are on stdout alone"
    ]
    assert done.stdout.endswith(b"the end\n")


def test_scalars_on_a_full_disk_are_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    scalars = Scalars(tmp_path / "tensorboard")
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    with pytest.raises(OutputError, match=rf"^{tmp_path}/tensorboard: cannot be written: No space .*: make room"):
        scalars.add({"loss": 1.0}, 1)
    scalars.close()


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(tmp_path):
    history = [{"epoch": 1, "lr": 0.1}]
    write_history(tmp_path, history)
    (tmp_path / "file").write_text("")
    for folder, reason in ((tmp_path / "file", "Not a directory"), (tmp_path / "none", "No such file or directory")):
        with pytest.raises(OutputError, match=rf"^{folder}/history.csv: cannot be written: {reason}; mend that and"):
            write_history(folder, history)
    with full_disk(), pytest.raises(OutputError, match=r"File too large; [\d.]+ MB are free there .*: make room and"):
        write_history(tmp_path, 2 * history)
    assert read_history(tmp_path) == history
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "history.csv"]
