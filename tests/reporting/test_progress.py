"""Live lines where nobody watches: logs of jobs stay readable."""

import contextlib
import fcntl
import logging
import os
import runpy
import struct
import sys
import termios
from pathlib import Path

import pytest
import tqdm

from videobench.datasets import demo
from videobench.datasets.preparation import command
from videobench.reporting.progress import ROUTINE, Progress

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("size", "live"), [((24, 80), True), ((0, 0), False), ((0, 80), False)])
def test_a_terminal_without_a_size_gets_the_log_lines(monkeypatch, size, live):
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with open(ours, "rb", buffering=0) as screen, open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        handler = logging.StreamHandler(terminal)
        monkeypatch.setattr(logging.getLogger("videobench"), "handlers", [handler])
        with Progress("epoch 1/2", 4) as line:
            line.step()
            logging.getLogger("videobench.x").warning("step 1 of 4", extra=ROUTINE)
        terminal.flush()
        shown = screen.read(4096).decode()
    assert ("epoch 1/2:" in shown) == live
    assert ("step 1 of 4" in shown) != live


@pytest.fixture
def bars(monkeypatch):
    """The live lines that tools make."""
    made = []

    class Recorded(tqdm.tqdm):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            made.append(self)

    monkeypatch.setattr(tqdm, "tqdm", Recorded)
    return made


def tool(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", list(words))
    with contextlib.suppress(SystemExit):
        runpy.run_path(str(ROOT / "tools" / words[0]), run_name="__main__")


def test_the_demo_data_leave_no_live_line_in_a_log(bars, monkeypatch, capsys):
    monkeypatch.setattr(demo, "write_demo_dataset", lambda folder, progress: progress(3, 3) or True)
    tool(monkeypatch, "make_demo_data.py", "data")
    assert [bar.disable for bar in bars] == [True]
    assert capsys.readouterr() == ("wrote the demo data set in data\n", "")


def test_preparing_data_leaves_a_line_a_minute_in_a_log(bars, monkeypatch):
    monkeypatch.setattr(command, "run", lambda args, progress: progress(3, 3) or ("all is well", 0))
    tool(monkeypatch, "prepare_data.py", "verify", "list.csv")
    assert [(bar.n, bar.total, bar.mininterval, bar.maxinterval) for bar in bars] == [(3, 3, 60, 60)]
