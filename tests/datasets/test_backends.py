"""Which library decodes: torchcodec gives PyAV's frames to the bit or says why not."""

import json
import sys

import golden
import numpy as np
import pytest
import torch
import video_fixtures as videos

from videobench.config import ConfigError, load_config
from videobench.datasets.backends import VideoReader
from videobench.datasets.decoding import Video, VideoError

COUNTED = "the frames of this kind of file have to be counted"
COLOURS = "its pictures have other colours or another orientation"
# What torchcodec does not do exactly, and why.
REFUSED = {
    **dict.fromkeys(
        ["h264_interlaced", "h264_ts", "h264_raw", "h264_avi", "h264_flv", "mpeg4_avi", "mpeg4_mp4"], COUNTED
    ),
    **dict.fromkeys(["mpeg2_ps", "mpeg2_ts", "mjpeg_avi", "ffv1_mkv", "gif"], COUNTED),
    **dict.fromkeys(["h264_10bit", "h264_422_10bit", "av1_webm_10bit", "vp9_hidden_frames"], COLOURS),
    **dict.fromkeys(["h264_mirror", "h264_transpose"], COLOURS),
    "h264_intra_refresh": "the file marks frames as key frames that are none",
}  # fmt: skip
# Frames may be refused, but never wrong.
PARTLY = {"h264_open_gop"}


@pytest.fixture
def torchcodec():
    """The class, where torchcodec and the libraries it needs are there."""
    from videobench.datasets.torchcodec_backend import TorchcodecVideo, load_decoder

    try:
        load_decoder()
    except ConfigError as error:
        pytest.skip(str(error))
    return TorchcodecVideo


@pytest.mark.parametrize("kind", sorted(videos.KINDS))
def test_torchcodec_is_exact_or_says_why_not(kind, torchcodec, tmp_path):
    path = videos.KINDS[kind](tmp_path)
    with Video(path) as video:
        reference = video.decode(range(video.frames))
    last = len(reference) - 1
    picks = [list(range(last + 1)), [last], [last // 2, 0, last // 2], [last // 3, last]]
    picks += [[i] for i in range(0, last, 5)]
    refused = set()
    for indices in picks:
        with torchcodec(path) as video:
            try:
                frames = video.decode(indices)
            except VideoError as error:
                refused.add(error.cause)
            else:
                assert torch.equal(frames, reference[indices])
                assert kind not in REFUSED
    if kind in REFUSED:
        reason = f"torchcodec does not decode it exactly: {REFUSED[kind]}; use DATA.DECODING_BACKEND pyav"
        assert refused == {reason}
    elif kind not in PARTLY:
        assert not refused


def test_torchcodec_on_real_files(torchcodec):
    folder = golden.require(golden.SHARED / "videos")
    exact = 0
    for entry in json.loads((folder / "manifest.json").read_text()):
        path = folder / entry["file"]
        if path.stat().st_size > 3_000_000 or "broken" in path.name:
            continue
        with Video(path) as video, torchcodec(path) as other:
            last = video.frames - 1
            for indices in ([last, 0, last // 2], list(range(last // 3, last // 3 + min(last, 16)))):
                try:
                    frames = other.decode(indices)
                except VideoError:
                    assert not video.index.timed
                    continue
                exact += 1
                assert torch.equal(frames, video.decode(indices)), path
            assert other.fps == video.fps
    assert exact >= 10


def test_torchcodec_says_the_same_of_bad_files(torchcodec, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    damaged = videos.write_clip(tmp_path / "damaged.mp4", options=videos.X264)
    videos.damage_packet(damaged, 2)
    short = videos.write_clip(tmp_path / "a.mp4", mux_options={"movflags": "faststart"}, options=videos.X264)
    videos.cut(short, short, 0.6)
    for name, indices in (
        ("text.mp4", [0]),
        ("missing.mp4", [0]),
        ("damaged.mp4", [20]),
        ("a.mp4", [39]),
        ("a.mp4", [-1]),
    ):
        causes = []
        for backend in (Video, torchcodec):
            with pytest.raises(VideoError) as caught, backend(str(tmp_path / name)) as video:
                video.decode(indices)
            causes.append(caught.value.cause)
        # What cannot be decoded at all is found by either; damage behind that is torchcodec's to refuse.
        assert causes[0] == causes[1] or "torchcodec does not decode it exactly" in causes[1]


def test_the_library_is_chosen_by_its_key(torchcodec, tiny, tmp_path):
    cfg = load_config([], [*tiny, "DATA.DECODING_BACKEND", "torchcodec"])
    assert VideoReader.from_config(cfg, tmp_path / "train.csv").backend is torchcodec
    cfg = load_config([], tiny)
    assert VideoReader.from_config(cfg, tmp_path / "train.csv").backend is Video


def test_a_library_that_is_missing_is_named_at_once(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    cfg = load_config([], [*tiny, "DATA.DECODING_BACKEND", "torchcodec"])
    with pytest.raises(ConfigError, match=r"DATA.DECODING_BACKEND is torchcodec, which is not installed .*pip install"):
        VideoReader.from_config(cfg, tmp_path / "train.csv")


def test_a_reader_opens_files_where_they_are(tmp_path):
    path = videos.write_clip(tmp_path / "a.mp4", 8, options=videos.X264)
    with VideoReader().open(str(path)) as video:
        assert np.array_equal(video.decode([2, 5]).numpy(), videos.reference(path)[[2, 5]])
    with pytest.raises(VideoError, match="no such file"):
        VideoReader().open(str(tmp_path / "b.mp4"))


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (["DATA.DECODING_BACKEND", "decord"], "uniformer_decord"),
        (["DATA.DECODING_BACKEND", "torchvision"], "slowfast_torchvision"),
        (["DATA.DECODING_BACKEND", "decord", "DATA.SAMPLING_RULE", "time"], "time"),
        (["DATA.SAMPLING_RULE", "native", "DATA.DECODING_BACKEND", "torchvision"], "native"),
        (["DATA.DECODING_BACKEND", "decord", "TRAIN.DATASET", "sth"], "auto"),
        (["DATA.DECODING_BACKEND", "pyav"], "auto"),
    ],
)
def test_published_readers_choose_the_sampling_rule_they_came_with(overrides, rule, caplog):
    cfg = load_config([], overrides)
    assert cfg.DATA.DECODING_BACKEND == "pyav"
    chosen = cfg.DATA.SAMPLING_RULE
    assert chosen == rule
    said = f"pyav reads the files, and DATA.SAMPLING_RULE {rule} says which frames a clip takes"
    assert caplog.text.count(said) == ("pyav" not in overrides)
