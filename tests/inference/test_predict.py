"""Predictions of files, through videobench.Predictor and tools/predict.py."""

import csv
import importlib.util
import io
import json
import os
import resource
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tiny_checkpoints import checkpoint, network, tiny_config
from tiny_networks import NETWORKS, lively
from tiny_runs import EPIC
from video_fixtures import KINDS, X264, cut, damage_packet, pictures, write_clip

import videobench
from videobench.config import ConfigError, load_config
from videobench.datasets.containers import VideoError
from videobench.datasets.decoding import decode, probe
from videobench.datasets.demo import CLASSES
from videobench.engine.run import run
from videobench.engine.training_state import TrainingState
from videobench.inference.overlay import VideoWriter, heat
from videobench.models import WeightsError

ROOT = Path(__file__).resolve().parents[2]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def predictor(weights):
    return videobench.Predictor(weights, device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("video") / "a.mp4")


@pytest.mark.parametrize(
    ("views", "more"),
    [
        ("2x1", {}),
        ("1x3", {"DATA__SAMPLING_RULE": "segments_sth", "TEST__SCORES": "logits"}),
        ("3x1", {"DATA__REVERSE_INPUT_CHANNEL": True, "DATA__ENSEMBLE_METHOD": "max"}),
    ],
)
def test_scores_are_those_of_the_test_to_the_last_bit(demo_data, tmp_path, views, more):
    clips, crops = map(int, views.split("x"))
    cfg = tiny_config(**more)
    weights = checkpoint(tmp_path / "a.pyth", cfg)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(cfg.dump())
    settings = {
        "TRAIN.ENABLE": False,
        "TEST.BATCH_SIZE": 4,
        "TEST.NUM_ENSEMBLE_VIEWS": clips,
        "TEST.NUM_SPATIAL_CROPS": crops,
        "TEST.CHECKPOINT_FILE_PATH": weights,
        "DATA.PATH_TO_DATA_DIR": demo_data,
        "DATA.PATH_PREFIX": demo_data,
        "DATA.CLASS_NAMES": demo_data / "classes.txt",
        "OUTPUT_DIR": tmp_path / "out",
    }
    assert run([str(recipe)], [str(word) for setting in settings.items() for word in setting], "") == 0
    expected = np.load(tmp_path / "out/predictions.npz")
    predictor = videobench.Predictor(weights, views=views, device="cpu", batch_size=4)
    found = predictor.predict([str(path) for path in expected["video"]])
    np.testing.assert_array_equal([prediction.scores[""] for prediction in found], expected["scores"])
    if cfg.DATA.ENSEMBLE_METHOD == "sum":
        assert all(one.probabilities[""].sum() == pytest.approx(1, abs=1e-5) for one in found)


def test_paths_bytes_tensors_and_arrays_give_the_same(predictor, video):
    frames = decode(video, range(probe(video).frames))
    expected = predictor.predict(video).scores[""]
    turned = frames.numpy()[..., ::-1].copy()[..., ::-1]
    for source in (str(video), video.read_bytes(), frames, frames.numpy(), turned):
        np.testing.assert_array_equal(predictor.predict(source).scores[""], expected)


@pytest.mark.parametrize(
    ("device", "batch"),
    [
        ("cpu", 1),
        pytest.param("cuda", 8, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    ],
)
def test_views_share_batches_on_gpus_and_not_on_cpus(tmp_path, video, device, batch):
    # Whatever the network was tested with.
    weights = checkpoint(tmp_path / "a.pyth", tiny_config(TEST__BATCH_SIZE=64))
    for asked, sizes in ((None, [batch] * (8 // batch)), (4, [4, 4])):
        predictor, seen = videobench.Predictor(weights, views="8x1", device=device, batch_size=asked), []
        predictor.network.model.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(len(inputs[0])))
        predictor.predict(video)
        assert seen == sizes


def test_of_no_videos_there_are_no_predictions(predictor):
    assert predictor.predict([]) == []


def test_names_come_best_first(predictor, video):
    found = predictor.predict(video)
    names, shares = zip(*found.top(8), strict=True)
    assert set(names) == set(CLASSES)
    assert list(shares) == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    assert names[0] == CLASSES[int(found.scores[""].argmax())]


def test_the_folder_of_a_run_is_its_last_checkpoint(predictor, run_folder, video):
    found = videobench.Predictor(run_folder, device="cpu").predict(video)
    np.testing.assert_array_equal(found.scores[""], predictor.predict(video).scores[""])


def test_workers_and_batches_change_nothing_but_rounding(weights, predictor, tmp_path):
    files = [write_clip(tmp_path / f"{i}.mp4", pictures(12, seed=i)) for i in range(5)]
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    files.insert(2, tmp_path / "broken.mp4")
    files.append(tmp_path / "missing.mp4")
    several = videobench.Predictor(weights, device="cpu", batch_size=3, workers=2)
    for one, other in zip(several.predict_each(files), (next(predictor.predict_each([f])) for f in files), strict=True):
        if isinstance(other, VideoError):
            assert str(one) == str(other)
        else:
            assert one.source == other.source
            np.testing.assert_allclose(one.scores[""], other.scores[""], atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        *("h264", "h264_vfr", "h264_10bit", "h264_rotate90", "h264_mkv_sound", "h264_avi", "h264_one_frame", "hevc"),
        *("vp9_hidden_frames", "av1", "av1_webm_10bit", "mpeg4_avi", "gif"),
    ],
)
def test_every_encoding_is_predicted(predictor, tmp_path, kind):
    path = KINDS[kind](tmp_path)
    scores = predictor.predict(path).scores[""]
    frames = decode(path, range(probe(path).frames))
    if kind in ("h264", "h264_rotate90", "h264_one_frame", "av1"):
        np.testing.assert_array_equal(scores, predictor.predict(frames, fps=float(probe(path).fps)).scores[""])
    assert np.isfinite(scores).all()


def test_a_portrait_is_no_landscape(predictor, tmp_path):
    upright = write_clip(tmp_path / "upright.mp4", pictures(20, 48, 80))
    turned = write_clip(tmp_path / "turned.mp4", pictures(20, 48, 80).swapaxes(1, 2))
    assert np.abs(predictor.predict(upright).scores[""] - predictor.predict(turned).scores[""]).max() > 1e-3


def test_errors_say_what_to_do(predictor, weights, tmp_path):
    with pytest.raises(ValueError, match=r"uint8 RGB \[T, H, W, 3\], got torch.float32"):
        predictor.predict(torch.zeros(4, 32, 32, 3))
    with pytest.raises(VideoError, match="no such file"):
        predictor.predict(tmp_path / "nothing.mp4")
    bare = tmp_path / "bare.pth"
    torch.save(torch.load(weights)["model_state"], bare)
    with pytest.raises(ConfigError, match="does not say what network it is of"):
        videobench.Predictor(bare)
    with pytest.raises(ConfigError, match=r"no config\.yaml"):
        videobench.Predictor(tmp_path)
    with pytest.raises(ValueError, match="Did you mean uniformer_s16x4_k400"):
        videobench.Predictor(bare, model="uniformer_s16x4_k40")
    with pytest.raises(WeightsError):
        videobench.Predictor(bare, model="movinet_a0_base_k600")
    for device in ("cuda:77", "meta", "any", "hpu"):
        with pytest.raises(ValueError, match=f"the device {device} cannot be used"):
            videobench.Predictor(weights, device=device)
    for views in ("4", "0x1", "4x2", "\N{SUPERSCRIPT TWO}x1"):
        with pytest.raises(ValueError, match="CLIPSxCROPS"):
            videobench.Predictor(weights, views=views)


def test_published_weights_take_the_recipe_of_their_row(tmp_path, video):
    model = videobench.create_model("movinet_a0_stream_k600")
    path = tmp_path / "published.pth"
    torch.save(model.state_dict(), path)
    predictor = videobench.Predictor(path, "movinet_a0_stream_k600", device="cpu")
    recipe = load_config(ROOT / "configs/K600/movinet_a0_stream_k600.yaml")
    assert predictor.cfg.DATA == recipe.DATA
    assert len(predictor.class_names[""]) == 600
    yaml_too = videobench.Predictor(path, ROOT / "configs/K600/movinet_a0_stream_k600.yaml", device="cpu")
    assert yaml_too.class_names == predictor.class_names


def test_names_are_as_many_as_classes(tmp_path):
    for names in (["one", "two"], [f"class-{i}" for i in range(20)]):
        path = checkpoint(tmp_path / "a.pyth", tiny_config(), class_names=names)
        with pytest.raises(WeightsError, match=f"'': {len(names)}}}.*'': 8}}.*class_names"):
            videobench.Predictor(path, device="cpu")


def test_classes_without_names_are_numbers(tmp_path, video):
    path = checkpoint(tmp_path / "a.pyth", tiny_config(), class_names=[])
    (name, _), *_ = videobench.Predictor(path, device="cpu").predict(video).top(1)
    assert name.startswith("class ")


def test_actions_have_two_heads(tmp_path, video):
    settings = {"MODEL.NUM_CLASSES": 97, **EPIC}
    for head, count in (("verb", 97), ("noun", 300)):
        (tmp_path / f"{head}s.txt").write_text("".join(f"{head}-{i}\n" for i in range(count)))
    files = [str(tmp_path / "verbs.txt"), str(tmp_path / "nouns.txt")]
    cfg = tiny_config(settings, DATA__CLASS_NAMES=files)
    model = lively(videobench.build_model(cfg))
    state = TrainingState(model, torch.optim.SGD(model.parameters()), torch.amp.GradScaler("cpu", enabled=False), None)
    torch.save(state.content(cfg), tmp_path / "a.pyth")
    for file in files:
        Path(file).unlink()  # the names are in the checkpoint
    found = videobench.Predictor(tmp_path / "a.pyth", device="cpu").predict(video)
    assert {head: len(scores) for head, scores in found.scores.items()} == {"verb": 97, "noun": 300}
    assert found.top(1, "noun")[0][0] == f"noun-{found.scores['noun'].argmax()}"
    with pytest.raises(ValueError, match="heads of this network are 'verb', 'noun', not ''"):
        found.top(1)
    unnamed = videobench.Predictor(checkpoint(tmp_path / "b.pyth", tiny_config(settings), []), device="cpu")
    assert unnamed.class_names["verb"][96] == "class 96"


def test_pictures_for_networks_of_pictures(tmp_path):
    from PIL import Image

    growth = [[1, 2.0], [2, 2.0]]
    settings = {
        "MODEL.MODEL_NAME": "MViT",
        "MVIT.PATCH_2D": True,
        "MVIT.PATCH_KERNEL": [7, 7],
        "MVIT.PATCH_STRIDE": [4, 4],
        "MVIT.PATCH_PADDING": [3, 3],
        "MVIT.EMBED_DIM": 8,
        "MVIT.NUM_HEADS": 1,
        "MVIT.DEPTH": 3,
        "MVIT.DIM_MUL": growth,
        "MVIT.HEAD_MUL": growth,
        "MVIT.POOL_Q_STRIDE": [[0, 1, 1], [1, 2, 2], [2, 2, 2]],
        "TRAIN.DATASET": "image_folder",
        "TEST.DATASET": "image_folder",
        "DATA.NUM_FRAMES": 1,
        "TEST.NUM_ENSEMBLE_VIEWS": 1,
    }
    predictor = videobench.Predictor(checkpoint(tmp_path / "a.pyth", tiny_config(settings)), device="cpu")
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    found = predictor.predict(tmp_path / "a.png").scores[""]
    np.testing.assert_array_equal(found, predictor.predict((tmp_path / "a.png").read_bytes()).scores[""])
    np.testing.assert_array_equal(found, predictor.predict(pictures(1)).scores[""])
    command = [str(tmp_path / "a.png"), "--weights", str(tmp_path / "a.pyth"), "--show", str(tmp_path / "show.mp4")]
    assert tool("predict")(command) == 0
    assert probe(tmp_path / "show.mp4").frames == 1


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_the_command_prints_every_form(weights, predictor, video, capsys, form):
    options = [] if form == "table" else [f"--{form}"]
    assert tool("predict")([str(video), "--weights", str(weights), "--device", "cpu", "--top", "2", *options]) == 0
    out = capsys.readouterr().out
    best = predictor.predict(video).top(2)
    if form == "json":
        line = json.loads(out)
        assert line["video"] == str(video)
        assert [entry["class"] for entry in line["classes"]] == [name for name, _ in best]
    elif form == "csv":
        rows = list(csv.reader(io.StringIO(out)))
        assert [row[3] for row in rows[1:]] == [name for name, _ in best]
        assert float(rows[1][4]) == pytest.approx(best[0][1], abs=1e-5)
    else:
        assert out == f"{video}\n" + "".join(f"  {share:7.2%}  {name}\n" for name, share in best)


def test_a_folder_names_its_unreadable_files_at_the_end(weights, tmp_path, monkeypatch, capsys):
    (tmp_path / "below").mkdir()
    good = write_clip(tmp_path / "below/good.mp4", 8)
    cut(good, tmp_path / "cut.mp4", 0.6)
    write_clip(tmp_path / "more.mkv", 8)
    (tmp_path / "notes.txt").write_text("no video")
    command = ["--weights", str(weights), "--device", "cpu", "--json", "--workers", "2"]
    assert tool("predict")([str(tmp_path), *command]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["video"] for line in out.splitlines()] == [str(good), str(tmp_path / "more.mkv")]
    assert f"unreadable: {tmp_path / 'cut.mp4'}: " in err
    assert err.rstrip().endswith("1 of 3 files could not be read")
    assert tool("predict")([str(tmp_path / "*.mkv"), *command]) == 0
    assert tool("predict")([str(tmp_path / "*.webm"), *command]) == 2
    monkeypatch.chdir(tmp_path)
    assert tool("predict")(["", *command]) == 1  # not everything in this folder
    assert "unreadable: : no such file" in capsys.readouterr().err
    assert tool("predict")([str(good), "--weights", str(tmp_path / "nothing.pyth")]) == 2


def test_standard_input(weights, predictor, video, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(video.read_bytes())))
    assert tool("predict")(["-", "--weights", str(weights), "--json", "--device", "cpu"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["classes"][0]["class"] == predictor.predict(video).top(1)[0][0]
    assert tool("predict")(["-", str(video), "--weights", str(weights), "--device", "cpu"]) == 2
    assert "- (standard input) stands alone" in capsys.readouterr().err


def test_readers_who_have_enough_and_ctrl_c_are_no_errors(weights, video, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    command = [str(video), "--weights", str(weights), "--device", "cpu", "--json"]
    with os.fdopen(writing, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert tool("predict")(command) == 0

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("videobench.inference.command.predict_files", interrupted)
    assert tool("predict")(command) == 130


def test_videos_are_written_over_nothing_that_is_read(weights, video, tmp_path, capsys):
    mine, content = tmp_path / "mine.mp4", video.read_bytes()
    mine.write_bytes(content)
    (tmp_path / "link.mp4").symlink_to(mine)
    command = [str(mine), "--weights", str(weights), "--device", "cpu"]
    both = ["--heatmap", str(tmp_path / "new.mp4"), "--show", str(tmp_path / "new.mp4")]
    for options, message in (
        (["--show", str(tmp_path / "link.mp4")], "is read or written already"),
        (["--heatmap", str(mine)], "is read or written already"),
        (both, "is read or written already"),
        (["--show", str(tmp_path)], "is a folder"),
        (["--show", str(mine / "below.mp4")], "cannot be written"),
    ):
        assert tool("predict")([*command, *options]) == 2
        out, err = capsys.readouterr()
        assert not out  # nothing is computed before that
        assert message in err
    assert mine.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.mp4", "mine.mp4"]


def test_a_full_disk_is_an_error_and_no_crash(weights, video, tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            VideoWriter(tmp_path / "a.mp4", 30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(VideoWriter, "write", full)
        command = [str(video), "--weights", str(weights), "--device", "cpu", "--show", str(tmp_path / "b.mp4")]
        assert tool("predict")(command) == 2
    assert "cannot be written: No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize(("size", "height"), [((9, 900), 4096), ((2, 17000), 16384)])
def test_narrow_videos_are_shown(weights, tmp_path, size, height):
    path = write_clip(tmp_path / "a.mkv", 2, size=size, codec="ffv1", pix_fmt="yuv444p")
    command = [str(path), "--weights", str(weights), "--device", "cpu", "--show", str(tmp_path / "show.mp4")]
    assert tool("predict")(command) == 0
    assert probe(tmp_path / "show.mp4").height == height


def test_show_and_heatmap_are_videos(weights, video, tmp_path, capsys):
    show, heatmap = tmp_path / "show.mp4", tmp_path / "heat.mp4"
    command = [str(video), "--weights", str(weights), "--device", "cpu"]
    assert tool("predict")([*command, "--show", str(show), "--heatmap", str(heatmap)]) == 0
    info = probe(show)
    assert (info.frames, info.codec, min(info.width, info.height)) == (40, "h264", 224)
    assert probe(heatmap).frames == 8  # two views of four frames
    # The labels lie on the left, so the right half is the video.
    with av.open(str(show)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    plain = np.asarray(decode(video, [0]).permute(0, 3, 1, 2).float())
    plain = torch.nn.functional.interpolate(torch.from_numpy(plain), picture.shape[:2], mode="bicubic")[0]
    right = slice(picture.shape[1] * 4 // 5, None)
    assert np.abs(plain.permute(1, 2, 0).numpy()[:, right] - picture[:, right]).mean() < 12


def test_a_damaged_part_that_no_view_has_ends_the_shown_video(weights, tmp_path, capsys):
    path = write_clip(tmp_path / "a.mp4", 60, options=X264 | {"g": "12", "bf": "0"})
    damage_packet(path, 55)
    show = tmp_path / "new/folder/show.mp4"
    command = [str(path), "--weights", str(weights), "--device", "cpu", "--views", "1x1", "--show", str(show)]
    assert tool("predict")(command) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{path}\n")
    assert f"unreadable: {path}: " in err
    assert 48 <= probe(show).frames <= 55


def test_heat_is_where_the_class_depends_on(tmp_path):
    # A network that sees the top left quarter only.
    predictor = videobench.Predictor(checkpoint(tmp_path / "a.pyth", tiny_config()), device="cpu")
    forward = predictor.network.model.forward
    predictor.network.model.forward = lambda clip: forward(torch.nn.functional.pad(clip[..., :16, :16], (0, 16, 0, 16)))
    strength = heat(predictor.network, predictor.views(pictures(20)).clips(0, 1), 3)
    assert strength.shape == (4, 32, 32)
    assert strength.min() >= 0
    assert strength.max() == 1
    assert strength[:, :16, :16].mean() > 0.1
    assert strength[:, 20:, 20:].max() == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_every_family_has_heat(name):
    net, (height, width) = network(name), NETWORKS[name][2][-2:]
    frames = net.cfg.DATA.NUM_FRAMES
    clip = torch.from_numpy(pictures(frames, width, height)).permute(0, 3, 1, 2)[None]
    strength = heat(net, clip, 5, next(iter(net.class_names)))
    assert strength.shape == (frames, height, width)
    assert strength.max() == 1
    assert strength.std() > 0.01
