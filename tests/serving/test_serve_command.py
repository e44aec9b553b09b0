"""tools/serve.py: the commands of the README, and an end without losses."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from running_server import PATIENCE, Address, reply_of, until
from starlette.applications import Starlette
from video_fixtures import X264, write_clip

import videobench
from videobench.serving import command

ROOT = Path(__file__).resolve().parents[2]
SECTION = re.search(r"\n## Serve\n.*?```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
COMMANDS = [line for line in SECTION.splitlines() if line]
SERVER = next(line for line in COMMANDS if "tools/serve.py" in line)


def main(argv: list) -> int:
    spec = importlib.util.spec_from_file_location("serve_tool", ROOT / "tools/serve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main([str(word) for word in argv])


@pytest.fixture(scope="module")
def predictor(weights) -> videobench.Predictor:
    """As the command makes it on a machine without GPUs."""
    return videobench.Predictor(weights, device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("video") / "video.mp4", 30, options=X264)


@pytest.fixture(scope="module")
def temporary(tmp_path_factory) -> Path:
    """Where the server puts temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def started(weights, temporary) -> Iterator[tuple[subprocess.Popen, Address]]:
    """The server of the README on a free port, in a process group of its own."""
    words = shlex.split(SERVER.replace(".venv/bin/python", sys.executable).replace("output/mine", str(weights)))
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*words, "--port", "0"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        # Loopback, because nothing else was asked for.
        if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
            break
    else:
        pytest.fail("the server did not start:\n" + "".join(lines))
    yield process, Address(int(found[1]))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    process.stderr.close()


def alive(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold anything.
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("curl")])
def test_the_readme_s_requests(started, predictor, video, line):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    _, server = started
    line = line.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(shlex.split(line), cwd=video.parent, capture_output=True, timeout=PATIENCE, check=True)
    if "/predict" in line:
        top = int((re.search(r"top=(\d+)", line) or ["", 5])[1])
        assert json.loads(done.stdout)["classes"] == predictor.predict(video).listed(top)
    elif "/health" in line:
        assert json.loads(done.stdout)["status"] == "ok"
    else:
        assert b"videobench_requests_total" in done.stdout


def test_sigterm_ends_it_after_what_had_begun(started, predictor, video, temporary):
    process, server = started
    with server.half_sent(video.read_bytes()) as (connection, rest):
        until(lambda: server.requests() == 1, "the upload")
        # As service managers do: to the decoders and their server process as well.
        os.killpg(process.pid, signal.SIGTERM)
        connection.sendall(rest)
        reply = reply_of(connection)
    assert reply.status == 200
    assert reply.json["classes"] == predictor.predict(video).listed()
    assert process.wait(PATIENCE) == 0
    assert not list(temporary.glob("videobench-*"))
    until(lambda: not alive(process.pid), "the end of all its processes")


@pytest.fixture
def serve(monkeypatch):
    """`command.serve` of nothing, which leaves this process as it was."""
    monkeypatch.setattr(command, "make_app", lambda service: Starlette())
    # Other tests have their own.
    monkeypatch.setattr(command.multiprocessing, "set_forkserver_preload", lambda names: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield partial(command.serve, nullcontext())
    for number, handler in before.items():
        signal.signal(number, handler)


def test_other_addresses_come_with_a_warning(serve, monkeypatch, caplog):
    hosts = []
    monkeypatch.setattr(command.uvicorn, "run", lambda app, host, **_: hosts.append(host))
    for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org"):  # noqa: S104 (what the warning is about)
        caplog.clear()
        serve(host, 8000)
        assert ("anyone who reaches" in caplog.text) == (len(hosts) > 3)
    assert len(hosts) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_ends_it(serve, number):
    class Starting:
        def __enter__(self) -> None:
            signal.raise_signal(number)

        def __exit__(self, *_: object) -> None:
            """Never begun."""

    with pytest.raises(SystemExit, match="0"):
        command.serve(Starting(), "127.0.0.1", 0)


def test_a_port_that_is_taken_ends_with_status_1(serve):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit, match="1"):
        serve("127.0.0.1", taken.getsockname()[1])


def test_mistakes_end_with_status_2(tmp_path, monkeypatch, capsys):
    assert main(["--weights", tmp_path / "nothing.pyth"]) == 2
    assert "nothing.pyth" in capsys.readouterr().err
    for wrong in (("--queue", "0"), ("--max-size", "inf"), ("--timeout", "nan"), ("--port", "65536"), ("--port", "-1")):
        with pytest.raises(SystemExit, match="2"):
            main(["--weights", "any", *wrong])
        assert f"{wrong[0]}: " in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "videobench.serving.command")
    monkeypatch.delitem(sys.modules, "videobench.serving.app")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["--weights", "any"]) == 2
    assert "the server needs fastapi: pip install 'videobench[serve]'" in capsys.readouterr().err
