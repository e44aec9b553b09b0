"""The server behind tools/serve.py: right answers under load, and nothing that an upload can do to it."""

import json
import os
import re
import stat
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hostile_reader import HostileReader
from running_server import PATIENCE, Address, reply_of, running, until
from video_fixtures import X264, cut, pictures, write_clip

import videobench
from videobench.inference.predictor import Prediction
from videobench.serving.batching import Batcher
from videobench.serving.decoders import ViewReader
from videobench.serving.limits import Limits
from videobench.serving.private_folder import private_folder
from videobench.serving.service import Service

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(
    upload_bytes=100_000, upload_seconds=PATIENCE, video_seconds=10, decode_seconds=PATIENCE, answer_seconds=PATIENCE
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    """Videos of a second, each unlike the others."""
    folder = tmp_path_factory.mktemp("videos")
    return [write_clip(folder / f"{i}.mp4", pictures(30, seed=i), options=X264) for i in range(5)]


@pytest.fixture(scope="module")
def expected(predictor, videos) -> list[list[dict]]:
    return [predictor.predict(video).listed() for video in videos]


def service(predictor, limits=LIMITS, *, hostile=False, gate=Path(), **options) -> Service:
    reader = ViewReader(predictor.cfg, predictor.grid, limits.video_seconds)
    return Service(predictor, limits, read=HostileReader(reader, str(gate)) if hostile else None, **options)


@pytest.fixture(scope="module")
def served(predictor):
    """A service and where it listens."""
    made = service(predictor)
    with running(made) as address:
        yield made, address


@pytest.fixture
def server(served) -> Address:
    return served[1]


def close(found: list[dict], wanted: list[dict]) -> bool:
    """Whether classes are the same up to rounding, which depends on what shares a batch."""
    shares, right = ({one["class"]: one["probability"] for one in each} for each in (found, wanted))
    return shares.keys() == right.keys() and all(abs(shares[name] - right[name]) < 1e-5 for name in right)


def test_answers_are_those_of_the_predictor(server, predictor, videos, expected):
    video = videos[0].read_bytes()
    for reply in (
        server.send(video),
        server.send([video[:1000], video[1000:]]),
        server.ask("PUT", "/predict", video),
        server.send_form(("other", b"x" * 100), ("file", video), name="../../outside.mp4"),
    ):
        assert reply.status == 200
        assert reply.json["classes"] == expected[0]
        assert reply.json["views"] == {"clips": 2, "crops": 1, "frames": 4}
        assert reply.json["seconds"].keys() == {"upload", "decode", "score", "total"}
    assert server.send(video, "?top=2").json["classes"] == expected[0][:2]


def test_fifty_uploads_at_once(server, videos, expected, tmp_path):
    long = write_clip(tmp_path / "long.mp4", 11, rate=1, options=X264)
    bad = {
        b"this is no video" * 50: (422, "unreadable"),
        cut(videos[0], tmp_path / "cut.mp4", 0.6).read_bytes(): (422, "unreadable"),
        b"": (422, "unreadable"),
        long.read_bytes(): (422, "too_long"),
        bytes(150_000): (413, "too_large"),
    }
    good = [video.read_bytes() for video in videos]
    sent = [*good * 5, *list(bad) * 5]
    outcomes = ["ok", *(code for _, code in bad.values())]
    before = {code: server.count("videobench_requests_total", code=code) for code in outcomes}
    with ThreadPoolExecutor(len(sent)) as threads:
        ways = [server.send, lambda video: server.send_form(("file", video)), lambda video: server.send([video])]
        replies = list(threads.map(lambda job: ways[job[0] % 3](job[1]), enumerate(sent)))
    for content, reply in zip(sent, replies, strict=True):
        if content in bad:
            assert reply.outcome == bad[content]
        else:
            assert reply.status == 200
            assert close(reply.json["classes"], expected[good.index(content)])
    after = {code: server.count("videobench_requests_total", code=code) for code in outcomes}
    assert {code: after[code] - before[code] for code in outcomes} == {
        "ok": 25,
        "unreadable": 15,
        "too_long": 5,
        "too_large": 5,
    }


def test_refusals_say_why(server, videos):
    assert server.send(bytes(150_000)).json["message"] == "the upload is larger than 0.0953674 MiB"
    assert server.send(b"text").json["message"] == "the file cannot be read: not a video, or its header is missing"
    assert server.send(b"").json["message"] == "the file cannot be read: empty file"
    assert server.send(b"", "?top=0").outcome == (422, "bad_query")
    assert server.ask("GET", "/nothing").outcome == (404, "not_found")
    assert server.ask("GET", "/predict").outcome == (405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/", "/health", "/metrics"])
def test_whoever_asks_for_the_head_gets_it(server, path):
    """As balancers of load do."""
    head, whole = (server.ask(method, path) for method in ("HEAD", "GET"))
    assert (head.status, head.headers["Content-Type"], head.body) == (200, whole.headers["Content-Type"], b"")


def test_forms_without_exactly_one_video(server, videos):
    video = videos[0].read_bytes()
    for reply, message in (
        (server.send_form(("video", video)), "no field 'file'"),
        (server.send_form(("file", video), ("file", video)), "more than one field 'file'"),
        (server.send_form(("file", video), end=b""), "ends too early"),
        (server.ask("POST", "/predict", b"text", "multipart/form-data; boundary=border"), "cannot be read"),
        (server.ask("POST", "/predict", b"text", "multipart/form-data"), "cannot be read|ends too early"),
    ):
        assert reply.outcome == (400, "bad_form")
        assert re.search(message, reply.json["message"])


def test_forms_of_anything_but_a_video(server, videos):
    video = videos[0].read_bytes()
    for fields in ([("other", bytes(70_000)), ("file", video)], [("", b"")] * 2000):
        reply = server.send_form(*fields)
        assert reply.outcome == (413, "too_large")
        assert reply.json["message"] == "the form has more than 64 KiB besides its file"
    assert server.send_form(("other", bytes(60_000)), ("file", video)).status == 200


def test_folders_of_killed_servers_are_removed(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, other = tmp_path / "videobench-serve-left", tmp_path / "videobench-new-other"
    for folder in (left, other):
        folder.mkdir()
        (folder / "upload").write_bytes(b"a video")
    (tmp_path / "videobench-serve-link").symlink_to(other)
    with private_folder() as first:
        assert not left.exists()
        assert f"{left} was left by a server that was killed" in caplog.text
        # Not those of living servers.
        with private_folder() as second:
            assert Path(first).is_dir()
            assert Path(second).is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"videobench-new-other", "videobench-serve-link"}
    assert (other / "upload").exists()


def test_files_are_private_and_do_not_stay(predictor, videos):
    made = service(predictor, decoders=1)
    with running(made) as server:
        folder = Path(made.folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with server.half_sent(videos[0].read_bytes()) as (connection, rest):
            until(lambda: server.requests() == 1, "the upload")
            (file,) = folder.iterdir()
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            connection.sendall(rest)
            assert reply_of(connection).status == 200
        server.send(b"text")
        assert not list(folder.iterdir())
        with server.half_sent(videos[0].read_bytes()):
            until(lambda: server.requests() == 1, "the upload")
        until(lambda: server.requests() == 0, "the end of an upload that broke off")
        assert not list(folder.iterdir())
        assert server.count("videobench_requests_total", code="disconnected") == 1
    assert not folder.exists()


def test_a_full_queue_sends_clients_away(predictor, videos, expected, tmp_path):
    gate = tmp_path / "gate"
    made = service(predictor, replace(LIMITS, requests=2), hostile=True, gate=gate, decoders=1)
    with running(made) as server, ThreadPoolExecutor() as threads:
        waiting = [threads.submit(server.send, b"wait" + os.fsencode(video)) for video in videos[:2]]
        until(lambda: server.requests() == 2, "the arrival of two videos")
        refused = [server.send(video.read_bytes()) for video in videos]
        gate.touch()
        assert [reply.outcome for reply in refused] == [(503, "busy")] * 5
        assert {int(reply.headers["Retry-After"]) for reply in refused} == {5}
        for reply, classes in zip(waiting, expected, strict=False):
            assert close(reply.result().json["classes"], classes)
        assert server.requests() == 0


def test_files_that_harm_their_decoder_harm_nothing_else(predictor, videos, expected):
    made = service(predictor, replace(LIMITS, decode_bytes=300 << 20), hostile=True)
    # A GIF of a few bytes that asks for a picture of a gigabyte.
    side = (16000).to_bytes(2, "little")
    bomb = b"GIF89a" + 2 * side + b"\x80\0\0" + 6 * b"\0" + b"," + 4 * b"\0" + 2 * side + b"\0\2\2D\1\0;"
    harmful = {
        b"crash": ("decoder_ended", "SIGSEGV"),
        b"exit": ("decoder_ended", "exit status 3"),
        b"raise": ("decoder_ended", "exit status 1"),
        b"write": ("decoder_ended", "exit status 1"),
        b"eat": ("out_of_memory", "more than 300 MiB"),
        bomb: ("unreadable", "allocate memory"),
    }
    with running(made) as server, ThreadPoolExecutor(12) as threads:
        sound = [threads.submit(server.send, video.read_bytes()) for video in videos]
        found = dict(zip(harmful, threads.map(server.send, harmful), strict=True))
        for content, (code, message) in harmful.items():
            assert found[content].outcome == (422, code)
            assert message in found[content].json["message"]
        # With whom a bad file shares the machine is not to be seen.
        for reply, classes in zip(sound, expected, strict=True):
            assert close(reply.result().json["classes"], classes)
        assert server.send(videos[0].read_bytes()).json["classes"] == expected[0]
        assert server.count("videobench_decoders_replaced_total", code="decoder_ended") == 4
        assert server.count("videobench_decoders_replaced_total", code="out_of_memory") == 1
        assert server.ask("GET", "/health").json["status"] == "ok"


def test_a_decoder_that_hangs_is_replaced(predictor, videos, expected):
    made = service(predictor, replace(LIMITS, decode_seconds=3), hostile=True, decoders=1)
    with running(made) as server:
        reply = server.send(b"hang")
        assert reply.outcome == (422, "decode_timeout")
        assert reply.json["message"] == "decoding the file did not end within 3 s"
        assert server.send(videos[0].read_bytes()).json["classes"] == expected[0]


def test_answers_that_come_too_late(predictor):
    made = service(predictor, replace(LIMITS, answer_seconds=0.2), hostile=True, decoders=1)
    with running(made) as server:
        # The second finds the decoder free again, or it would wait for the first.
        for number in (1, 2):
            assert server.send(b"hang").outcome == (504, "timeout")
            assert server.count("videobench_requests_total", status="504") == number
            assert server.count("videobench_decoders_replaced_total", code="abandoned") == number


def test_uploads_that_take_too_long(predictor):
    with (
        running(service(predictor, replace(LIMITS, upload_seconds=0.2))) as server,
        server.half_sent(b"a video that never comes") as (connection, _),
    ):
        assert reply_of(connection).outcome == (408, "upload_timeout")


def test_one_pass_through_the_network_serves_several_videos(predictor, videos, expected):
    sizes, batches = [], []
    hook = predictor.network.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    batcher = Batcher(predictor, 0.0, lambda: 0, batches.append)
    waiting = [batcher.submit(predictor.views(video)) for video in videos]
    waiting[1].cancel()
    with batcher:
        found = [future.result(PATIENCE).listed() for future in (waiting[0], *waiting[2:])]
    hook.remove()
    # Two views each and eight in a batch; the cancelled one was in the first.
    assert (batches, sizes) == ([3, 1], [6, 2])
    assert all(close(one, other) for one, other in zip(found, expected[:1] + expected[2:], strict=True))


def test_a_batch_of_one_waits_for_nothing(weights, videos, expected):
    batches, sizes = [], []
    alone = videobench.Predictor(weights, device="cpu")
    alone.network.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    batcher = Batcher(alone, 10 * PATIENCE, lambda: 1, batches.append)
    with batcher:
        waiting = [batcher.submit(alone.views(video)) for video in videos]
        found = [future.result(PATIENCE).listed() for future in waiting]
    assert (batches, sizes) == ([1] * 5, [1] * 10)
    assert all(close(one, other) for one, other in zip(found, expected, strict=True))


def test_decoders_stay_ahead_of_the_network(weights, videos, expected, monkeypatch):
    made = Service(videobench.Predictor(weights, device="cpu"), LIMITS, decoders=2)
    network, go, decoded, submit = made.predictor.network.model, threading.Event(), [], Batcher.submit
    monkeypatch.setattr(Batcher, "submit", lambda batcher, views: decoded.append(views) or submit(batcher, views))

    def hold(*_: object) -> None:
        go.wait(PATIENCE)

    with running(made) as server, ThreadPoolExecutor(10) as threads:
        network.register_forward_pre_hook(hold)
        waiting = [threads.submit(server.send, video.read_bytes()) for video in videos * 2]
        # One in the network, and two of every decoder; the others wait as files.
        until(lambda: len(decoded) == 5 and server.requests() == 10, "decoding ahead")
        go.set()
        for reply, classes in zip(waiting, expected * 2, strict=True):
            assert close(reply.result().json["classes"], classes)


def test_a_batch_waits_for_videos_that_are_being_decoded(predictor, videos):
    batches = []
    batcher = Batcher(predictor, PATIENCE, lambda: len(batches) == 0, batches.append)
    views = predictor.views(videos[0])
    with batcher:
        waiting = [batcher.submit(views) for _ in range(5)]
        for future in waiting:
            future.result(PATIENCE)
    assert batches == [4, 1]


def test_a_network_that_fails_answers_and_goes_on(predictor, videos, expected):
    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    made = service(predictor)
    with running(made) as server:
        hook = predictor.network.model.register_forward_pre_hook(fail)
        assert server.send(videos[0].read_bytes()).outcome == (500, "internal")
        hook.remove()
        assert server.send(videos[0].read_bytes()).json["classes"] == expected[0]
        assert server.count("videobench_requests_total", status="500") == 1


def test_several_heads_are_listed_by_name():
    shares = {head: np.array([0.25, 0.75]) for head in ("verb", "noun")}
    prediction = Prediction("", shares, shares, {"verb": ["open", "close"], "noun": ["door", "box"]})
    assert prediction.listed(1) == {
        "verb": [{"class": "close", "probability": 0.75}],
        "noun": [{"class": "box", "probability": 0.75}],
    }


def test_the_description_of_the_interface_is_true(server, videos):
    described = json.loads(server.ask("GET", "/openapi.json").body)
    predict = described["paths"]["/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "application/octet-stream"}
    assert set(predict["responses"]) == {"200", "400", "408", "413", "422", "500", "503", "504"}
    schemas = described["components"]["schemas"]
    answer = server.send(videos[0].read_bytes()).json
    assert answer.keys() == schemas["Answer"]["properties"].keys()
    assert answer["classes"][0].keys() == schemas["ClassShare"]["properties"].keys()
    assert server.send(b"").json.keys() == schemas["Error"]["properties"].keys()
    # Its pages would load scripts from elsewhere.
    assert server.ask("GET", "/docs").status == 404
