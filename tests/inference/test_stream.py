"""Running classes of files, pipes and network streams that break."""

import gc
import http.server
import importlib.util
import io
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from tiny_checkpoints import tiny_config
from tiny_networks import MOVINET, scramble
from video_fixtures import X264, pictures, write_clip

import videobench
from videobench.datasets.augment import normalise
from videobench.datasets.containers import VideoError
from videobench.datasets.cropping import test_crops as crops_of
from videobench.datasets.decoding import decode, probe
from videobench.datasets.demo import CLASSES
from videobench.inference.captures import open_capture
from videobench.inference.network import Network, load_network
from videobench.inference.sources import Picture, PictureSource
from videobench.inference.streaming import FrameCrop, RunningClasses, follow
from videobench.models import VideoModel
from videobench.models.movinet_variants import Stage, Variant

ROOT = Path(__file__).resolve().parents[2]
STREAM = {"MODEL.MODEL_NAME": "MoViNet", "MOVINET.CAUSAL": True, "MOVINET.CONV_TYPE": "2plus1d"}


def streaming(variant: Variant) -> VideoModel:
    """A streaming MoViNet with random weights, whose scores differ from clip to clip."""
    model = videobench.create_model("movinet_a0_stream_k600", num_classes=len(CLASSES), variant=variant)
    scramble(model).eval()
    last = model.classifier[3].conv_1.conv
    with torch.no_grad():
        clips = np.stack([pictures(4, 32, 32, seed=seed) for seed in range(8)])
        clips = normalise(torch.from_numpy(clips).permute(0, 1, 4, 2, 3), [0.45] * 3, [0.225] * 3)
        logits = model.forward_head(model.forward_features(clips))
        scale = 2 / logits.std(0).mean()
        last.weight *= scale
        last.bias.copy_(scale * (last.bias - logits.mean(0)))
    return model


@pytest.fixture(scope="module")
def causal() -> Network:
    """A tiny streaming MoViNet that takes 30 pictures per second."""
    cfg = tiny_config(STREAM, DATA__SAMPLING_RATE=1)
    return Network(streaming(MOVINET), cfg, {"": list(CLASSES)}, Path("tiny"), torch.device("cpu"))


@pytest.fixture(scope="module")
def window(weights) -> Network:
    return load_network(weights, device="cpu")


def clip_of(network: Network, path: Path, frames) -> torch.Tensor:
    """Frames of a file as the network takes them."""
    data = network.cfg.DATA
    cut = crops_of(decode(path, frames), data.TRAIN_JITTER_SCALES[0], data.TEST_CROP_SIZE, 1)[0]
    return normalise(cut[None], data.MEAN, data.STD)


class Held(PictureSource):
    """A source of pictures that are there already."""

    def __init__(self, held: Iterable[Picture], fps: int = 30, live: bool = False) -> None:
        super().__init__("held", live=live)
        self.held, self.fps = held, Fraction(fps)

    def __iter__(self) -> Iterator[Picture]:
        return iter(self.held)


def as_pictures(frames: np.ndarray, fps: int = 30) -> Held:
    return Held([Picture(p, i / fps, time.perf_counter(), i == 0) for i, p in enumerate(frames)], fps)


def test_a_causal_network_takes_every_picture_once(causal, tmp_path, capsys):
    path = write_clip(tmp_path / "a.mp4", 40)
    report = follow(PictureSource(str(path)), RunningClasses(causal), every=0.5)
    state = causal.model.stream_state(1)
    with torch.inference_mode():
        for frame in clip_of(causal, path, range(40)).split(1, dim=2):
            logits, state = causal.model.stream(frame, state)
    np.testing.assert_allclose(report.shares[""], logits[0].double().softmax(0), atol=1e-6)
    assert (report.pictures, report.taken, report.dropped) == (40, 40, 0)
    assert 0 < report.latency < report.seconds
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" s ")[0].strip() for line in lines] == ["0.00", "0.50", "1.00", "1.30"]
    assert re.search(r"\d+% [a-z -]+  .*\(\d+\.\d predictions/s, latency \d+\.\d ms\)", lines[-1])
    assert CLASSES[int(report.shares[""].argmax())] in lines[-1]


def test_a_window_slides(window, tmp_path, capsys):
    path = write_clip(tmp_path / "a.mp4", 40)
    classes = RunningClasses(window, hop=2)
    report = follow(PictureSource(str(path)), classes)
    # Every third picture of 40: fourteen, so windows end at the pictures number 4, 6, ... 14 of them.
    assert (report.pictures, report.taken) == (40, 6)
    with torch.inference_mode():
        expected = window.model(clip_of(window, path, [30, 33, 36, 39]))[0].softmax(0)
    np.testing.assert_allclose(report.shares[""], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "window"])
def test_streams_are_computed_in_the_precision_of_tests(kind, request):
    network, frames = request.getfixturevalue(kind), pictures(4)
    cfg = network.cfg.clone()
    cfg.defrost()
    cfg.TEST.PRECISION = "bf16"
    classes = RunningClasses(replace(network, cfg=cfg))
    shares = [classes.push(frame) for frame in frames][-1][""]
    clip = network.inputs(torch.stack([FrameCrop(cfg)(frame) for frame in frames])[None])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        if kind == "causal":
            state = network.model.stream_state(1)
            for frame in clip.split(1, dim=2):
                logits, state = network.model.stream(frame, state)
        else:
            logits = network.model(clip)
    np.testing.assert_array_equal(shares, logits[0].double().softmax(0))
    with torch.inference_mode():
        network.model.clean_activation_buffers()
        single = network.model(clip)[0].double().softmax(0).numpy()
    assert np.abs(shares - single).max() > 0


def test_a_stream_shorter_than_a_window_is_predicted(window, tmp_path, capsys):
    path = write_clip(tmp_path / "a.mp4", 1)
    report = follow(PictureSource(str(path)), RunningClasses(window))
    with torch.inference_mode():
        expected = window.model(clip_of(window, path, [0, 0, 0, 0]))[0].softmax(0)
    np.testing.assert_allclose(report.shares[""], expected, atol=1e-5)
    assert capsys.readouterr().out.startswith("    0.00 s")


def test_the_state_begins_anew_after_a_while(causal, capsys):
    frames = pictures(30)
    whole = follow(as_pictures(frames[20:]), RunningClasses(causal)).shares[""]
    again = follow(as_pictures(frames), RunningClasses(causal), restart=20 / 30).shares[""]
    np.testing.assert_allclose(again, whole, atol=1e-5)
    assert np.abs(follow(as_pictures(frames), RunningClasses(causal)).shares[""] - whole).max() > 1e-4


def test_slow_consumers_of_live_sources_get_the_newest_pictures(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 60)
    source = PictureSource(str(path), live=True, room=2, retries=0)
    coming = iter(source)
    taken = [next(coming)]
    while source.dropped < 57:  # all but the one taken and two that wait
        time.sleep(0.01)
    with pytest.raises(VideoError, match="it ended; given up after 0 attempts"):
        taken.extend(coming)
    assert [round(p.time * 30) for p in taken[1:]] == [58, 59]
    assert source.dropped == 57
    whole = PictureSource(str(path), room=2)
    assert [round(p.time * 30) for p in whole] == list(range(60))
    assert whole.dropped == 0


def test_recordings_that_are_joined_are_followed_to_the_end(causal, tmp_path):
    """Each begins at zero on its own clock."""
    one = write_clip(tmp_path / "a.ts", 40, options=X264 | {"bf": "0"}).read_bytes()
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one * 2)
    found = list(PictureSource(str(joined)))
    assert [number for number, picture in enumerate(found) if picture.first] == [0, 40]
    assert len(found) == 80
    # The network takes all, and does not wait for the time that the first one ended at.
    assert follow(Held(found), RunningClasses(causal), out=io.StringIO()).taken == 80


def test_time_stamps_that_tremble_lose_no_picture(tmp_path, monkeypatch):
    class Trembling:
        """A file, as it says."""

        live, fps = False, Fraction(30)

        def __init__(self, *_: object) -> None:
            """Opened."""

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            """Closed."""

        def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
            return iter([(at, np.zeros((4, 4, 3), np.uint8)) for at in (-2.0, 0.0, 0.1, 0.1, 0.0, 0.2)])

    monkeypatch.setattr("videobench.inference.sources.open_capture", Trembling)
    found = list(PictureSource("any"))
    assert [picture.time for picture in found] == [-2.0, 0.0, 0.1, 0.1, 0.0, 0.2]
    assert [picture.first for picture in found] == [True] + [False] * 5


def test_a_cover_picture_is_not_the_video(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 20, cover=pictures(1, 20, 20)[0])
    content = path.read_bytes()
    # The metadata with the cover before the track, so that it is the first stream.
    track, data = content.index(b"trak") - 4, content.index(b"udta") - 4
    end = data + int.from_bytes(content[data : data + 4], "big")
    path.write_bytes(content[:track] + content[data:end] + content[track:data] + content[end:])
    with av.open(str(path)) as container:
        assert container.streams[0].codec_context.name == "mjpeg"
    assert {picture.pixels.shape for picture in PictureSource(str(path))} == {(48, 64, 3)}


def test_urls_of_files_lose_nothing_and_end(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 40)
    source = PictureSource(path.as_uri(), room=1)
    assert len(list(source)) == 40
    assert not source.live
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(VideoError, match="Invalid data"):
        next(iter(PictureSource(path.as_uri())))


@pytest.mark.parametrize("live", [True, False])
def test_closing_a_source_ends_its_pictures(tmp_path, live):
    path = write_clip(tmp_path / "a.mp4", 40)
    source = PictureSource(str(path), live=live, room=1)
    coming = iter(source)
    next(coming)
    source.close()
    rest = threading.Thread(target=lambda: list(coming), daemon=True)
    rest.start()
    rest.join(60)
    assert not rest.is_alive()
    assert list(source) == []


class Broadcast(http.server.BaseHTTPRequestHandler):
    """Sends streams of unknown length; ``server.plan`` has (bytes, seconds to stall then) for every request."""

    def do_GET(self) -> None:
        try:
            content, stall = self.server.plan.pop(0)
        except IndexError:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        self.server.stopped.wait(stall)

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def broadcast():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broadcast)
    server.stopped = threading.Event()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()


def test_a_live_source_that_breaks_is_opened_again(broadcast, causal, tmp_path, capsys):
    content = write_clip(tmp_path / "a.ts", 40, options=X264 | {"g": "10", "bf": "0"}).read_bytes()
    # It ends, it ends once more, it refuses (404), for good.
    broadcast.plan = [(content, 0), (content, 0)]
    said = []
    url = f"http://127.0.0.1:{broadcast.server_port}/live.ts"
    source = PictureSource(url, patience=60, retries=2, room=100, first_wait=0.01, say=said.append)
    restarts = []
    classes = RunningClasses(causal)
    restart = classes.restart
    classes.restart = lambda: (restarts.append(1), restart())
    with pytest.raises(VideoError, match="given up after 2 attempts"):
        follow(source, classes)
    assert len(restarts) == 2
    assert source.reopened == 3
    assert [line.rsplit(" in ", 1)[1] for line in said] == ["0.01 s", "0.01 s", "0.02 s"]
    assert all(line.startswith(url) and "opening it again" in line for line in said)


def test_a_live_source_that_stalls_is_opened_again(broadcast, tmp_path):
    content = write_clip(tmp_path / "a.ts", 10, options=X264 | {"bf": "0"}).read_bytes()
    broadcast.plan = [(content, 1000)] * 20
    said = []
    url = f"http://127.0.0.1:{broadcast.server_port}/live.ts"
    # The time-out holds for answers too, which a busy machine gives late.
    source = PictureSource(url, patience=3, room=100, first_wait=0.01, say=said.append)
    beginnings = 0
    for picture in source:
        beginnings += picture.first
        if beginnings == 2:
            break
    assert source.reopened >= 1
    assert all("opening it again" in line for line in said)


def test_a_camera_that_breaks_is_opened_again(monkeypatch):
    frames = pictures(3)
    opened = []

    class Camera:
        """OpenCV's face: pictures in BGR, then nothing; there the first two times."""

        def __init__(self, number: int) -> None:
            opened.append(number)
            self.left = iter(frames[..., ::-1])

        def isOpened(self) -> bool:
            return len(opened) <= 2

        def get(self, _: int) -> float:
            return 29.97

        def read(self):
            picture = next(self.left, None)
            return picture is not None, picture

        def release(self) -> None:
            self.left = iter(())

    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=Camera, CAP_PROP_FPS=5))
    source = PictureSource("1", room=10, retries=1, first_wait=0.0, say=lambda _: None)
    found = []
    with pytest.raises(VideoError, match=r"no such camera.*given up after 1 attempts"):
        found.extend(source)
    assert set(opened) == {1}
    assert source.live
    assert [picture.first for picture in found] == [True, False, False] * 2
    np.testing.assert_array_equal([picture.pixels for picture in found], [*frames, *frames])
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(VideoError, match=r"pip install 'videobench\[camera\]'"):
        next(iter(PictureSource("0")))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_camera_that_does_not_know_its_rate(monkeypatch, rate):
    camera = SimpleNamespace(isOpened=lambda: True, get=lambda _: rate, release=lambda: None)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=lambda _: camera, CAP_PROP_FPS=5))
    with open_capture("0", patience=60) as capture:
        assert capture.fps == 30


@pytest.mark.skipif("lavfi" not in av.formats_available, reason="this build of FFmpeg has no lavfi")
def test_a_device_of_ffmpeg_is_live(monkeypatch):
    source = PictureSource("lavfi:testsrc=size=64x48:rate=30:duration=0.5", room=20, retries=0, first_wait=0.0)
    found = []
    with pytest.raises(VideoError, match="it ended; given up"):
        found.extend(source)
    assert (source.live, source.fps, len(found)) == (True, 30, 15)
    assert found[-1].time == pytest.approx(14 / 30)
    assert found[0].pixels.shape == (48, 64, 3)
    monkeypatch.setattr(av, "formats_available", set())
    with pytest.raises(VideoError, match="this build of FFmpeg has no v4l2 devices"):
        next(iter(PictureSource("v4l2:/dev/video0")))


def test_a_source_that_never_gave_a_picture_is_given_up_at_once(broadcast, tmp_path):
    broadcast.plan = []
    with pytest.raises(VideoError, match=r"(?i)404|not found"):
        next(iter(PictureSource(f"http://127.0.0.1:{broadcast.server_port}/live.ts")))
    with pytest.raises(VideoError, match="no such file"):
        next(iter(PictureSource(str(tmp_path / "nothing.mp4"))))
    with pytest.raises(VideoError):
        next(iter(PictureSource("97")))  # a camera that is not there


def resident() -> int:
    """Bytes of main memory that this process takes."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow(count):
    variant = Variant(stem=4, stages=(Stage(4, "b", (8,), 2, 1, 0),), head=8, hidden=8)
    cfg = tiny_config(STREAM, DATA__SAMPLING_RATE=1, DATA__TEST_CROP_SIZE=16, DATA__TRAIN_JITTER_SCALES=[16, 16])
    tiny = Network(streaming(variant), cfg, {"": list(CLASSES)}, Path("tiny"), torch.device("cpu"))
    frames = pictures(50, 24, 20)
    readings = []

    def endless():
        for number in range(count):
            if number in (count // 5, count - 1):
                gc.collect()
                readings.append(resident())
            yield Picture(frames[number % 50], number / 30, time.perf_counter(), number == 0)

    report = follow(Held(endless()), RunningClasses(tiny), every=100.0, out=io.StringIO())
    assert (report.pictures, report.taken) == (count, count)
    # The pictures that came between the two readings, had they been kept, take more.
    assert readings[1] - readings[0] < 0.8 * count * frames[0].nbytes
    assert np.isfinite(report.shares[""]).all()


def test_a_live_recording_stays_readable_when_the_process_is_killed(causal, tmp_path):
    """A copy is what would be left then."""
    show, left = tmp_path / "show.mp4", tmp_path / "left.mp4"

    def camera() -> Iterator[Picture]:
        for number, frame in enumerate(pictures(200, 64, 64)):
            yield Picture(frame, number / 25, time.perf_counter(), number == 0)
        left.write_bytes(show.read_bytes())

    follow(Held(camera(), fps=25, live=True), RunningClasses(causal), show=show, out=io.StringIO())
    assert probe(show).frames == 200
    with av.open(str(left)) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 100


def test_the_command_reads_files_and_pipes(weights, tmp_path, monkeypatch, capsys):
    path = write_clip(tmp_path / "a.mkv", 20)
    show = tmp_path / "show.mp4"
    spec = importlib.util.spec_from_file_location("stream", ROOT / "tools/stream.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main([str(path), "--weights", str(weights), "--device", "cpu", "--show", str(show)]) == 0
    assert probe(show).frames == 20
    assert module.main([str(tmp_path / "none.mp4"), "--weights", str(weights)]) == 1
    assert module.main([str(path), "--weights", str(path)]) == 2
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert module.main(["-", "--weights", str(weights), "--device", "cpu"]) == 0
    assert "predictions/s" in capsys.readouterr().out


def test_mistakes_are_said_before_anything_is_written(weights, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("stream", ROOT / "tools/stream.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = write_clip(tmp_path / "a.mp4", 20)
    before, command = path.read_bytes(), [str(path), "--weights", str(weights), "--device", "cpu"]
    for place, message in ((path, "is read or written already"), (tmp_path, "is a folder")):
        assert module.main([*command, "--show", str(place)]) == 2
        assert message in capsys.readouterr().err
    assert path.read_bytes() == before
    for wrong in (("--top", "0"), ("--hop", "0"), ("--patience", "0"), ("--retries", "-1"), ("--restart", "-1")):
        with pytest.raises(SystemExit, match="2"):
            module.main([*command, *wrong])
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert module.main(command) == 0  # as after `| head -1`


def test_pictures_are_spaced_as_the_network_was_trained(window):
    # 60 pictures per second; the network takes one in three at 30: one in six.
    taken = []
    classes = RunningClasses(window, hop=1)
    push = classes.push
    classes.push = lambda picture: (taken.append(int(picture[0, 0, 0])), push(picture))[1]
    frames = np.zeros((60, 40, 40, 3), np.uint8)
    frames[:] = np.arange(60, dtype=np.uint8)[:, None, None, None]
    follow(as_pictures(frames, 60), classes, every=10.0)
    assert taken == list(range(0, 60, 6))
