"""Every data set in its real form: what is read, which frames come, and what is said about mistakes."""

import csv
import json
import pickle
import shutil
import struct

import dataset_fixtures as fixtures
import golden
import numpy as np
import pytest
import torch
from PIL import Image

import videobench
from videobench.config import ConfigError
from videobench.config.checks import DATASETS, check_config
from videobench.datasets.annotations import READERS, split_list
from videobench.datasets.augment import Augmentation
from videobench.datasets.class_folders import read_class_folders
from videobench.datasets.clips import Temporal, TrainingClips
from videobench.datasets.containers import VideoError
from videobench.datasets.decoding import decode
from videobench.datasets.epic_kitchens import NOUNS, VERBS
from videobench.datasets.loader import TrainingLoader
from videobench.datasets.picture_files import PictureFiles
from videobench.datasets.records import VideoList
from videobench.datasets.sampling import clip_indices, epic_segment
from videobench.datasets.views import VideoViews
from videobench.models.motionformer import EPIC_CLASSES


@pytest.fixture(scope="module")
def sth(tmp_path_factory):
    root = tmp_path_factory.mktemp("sth")
    fixtures.sth(root)
    return root


@pytest.fixture(scope="module")
def ssv2(tmp_path_factory):
    root = tmp_path_factory.mktemp("ssv2")
    fixtures.ssv2(root)
    return root


@pytest.fixture(scope="module")
def epic(tmp_path_factory):
    root = tmp_path_factory.mktemp("epic")
    fixtures.epic(root)
    return root


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    fixtures.imagenet(root)
    return root


def names(videos):
    return [videos.name(i) for i in range(len(videos))]


def labels(videos):
    return [videos.label(i) for i in range(len(videos))]


def shown(cfg, split, index, **view):
    """The numbers in the pictures of a clip."""
    videos = split_list(cfg, split)
    with videos.open(index) as video:
        return fixtures.numbers(video.decode(Temporal.from_config(cfg, videos).indices(video, **view)))


def test_the_names_are_those_of_the_configuration():
    assert set(READERS) == set(DATASETS)
    assert {"verb": VERBS, "noun": NOUNS} == EPIC_CLASSES


@pytest.mark.parametrize("name", ["Kinetics", "kinetics", "Sth", "Ssv2", "Epickitchens"])
def test_names_in_published_spelling(name, sth, ssv2, epic, demo_data):
    roots = {"sth": (sth, "frames"), "ssv2": (ssv2, "frames"), "epickitchens": (epic, ""), "kinetics": (demo_data, "")}
    root, prefix = roots[name.lower()]
    assert len(split_list(fixtures.config(name, root, prefix=prefix), "train")) > 1


# Kinetics.


@pytest.mark.parametrize("separator", [" ", ","])
def test_kinetics(tmp_path, separator):
    fixtures.kinetics(tmp_path, separator)
    cfg = fixtures.config("kinetics", tmp_path, "DATA.PATH_LABEL_SEPARATOR", separator)
    videos = split_list(cfg, "train")
    assert (names(videos), labels(videos)) == (["a/one.mp4", "b/two.mp4"], [0, 1])
    assert shown(cfg, "train", 0, view=0, views=2) == [0, 2, 4, 6]
    assert shown(cfg, "train", 0, view=1, views=2) == [33, 35, 37, 39]
    assert names(split_list(cfg, "test")) == names(split_list(cfg, "val")) == ["b/three.mp4"]


# Something-Something.


@pytest.mark.parametrize("template", ["{:05d}.jpg", "img_{:05d}.jpg", "{:06d}.jpg"])
def test_lists_of_frame_folders(tmp_path, template):
    fixtures.sth(tmp_path, template)
    cfg = fixtures.config("sth", tmp_path, "DATA.IMAGE_TEMPLATE", template, prefix="frames")
    videos = split_list(cfg, "train")
    assert (names(videos), labels(videos)) == (["100218", "48032"], [134, 72])
    assert videos.path(0) == str(tmp_path / "frames/100218")
    for view in range(2):
        rule = clip_indices("segments_sth", frames=9, fps=None, num_frames=4, stride=1, view=view, views=2)
        # The pictures count from 1, as the published loader does.
        assert shown(cfg, "train", 0, view=view, views=2) == [i + 1 for i in rule]
    assert names(split_list(cfg, "val")) == names(split_list(cfg, "test")) == ["85"]


def test_frames_that_the_published_loader_reads(tmp_path):
    rows = [p for p in golden.table("sampling")["tables"]["sth_test_uniformer_morphmlp"]["points"] if p["n"] == 17]
    fixtures.write_frames(tmp_path / "frames/1", "{:05d}.jpg", 17)
    (tmp_path / "somesomev1_rgb_validation_split.txt").write_text("1 17 0\n")
    assert rows
    for row in rows:
        cfg = fixtures.config("sth", tmp_path, "DATA.NUM_FRAMES", row["T"], prefix="frames")
        for view, clip in enumerate(row["clips"]):
            assert shown(cfg, "test", 0, view=view, views=row["views"]) == clip


def test_hmdb_lists(tmp_path):
    for split, folder in (("train", "run"), ("val", "walk")):
        fixtures.write_frames(tmp_path / folder, "img_{:05d}.jpg", 20)
        (tmp_path / f"{split}.txt").write_text(f"{folder} 20 3\n")
    template = ("DATA.LABEL_PATH_TEMPLATE", "{}.txt", "DATA.IMAGE_TEMPLATE", "img_{:05d}.jpg")
    cfg = fixtures.config("hmdb", tmp_path, *template)
    assert names(split_list(cfg, "val")) == ["walk"]
    assert shown(cfg, "train", 0, view=0, views=2) == [1, 3, 5, 8]


def test_official_json_and_lists_of_frames(ssv2):
    cfg = fixtures.config("ssv2", ssv2, prefix="frames")
    videos = split_list(cfg, "train")
    assert (names(videos), labels(videos)) == (["900001", "900002"], [19, 93])
    rule = clip_indices("segments_ssv2", frames=12, fps=None, num_frames=4, stride=1, view=0)
    assert shown(cfg, "train", 0, view=0) == shown(cfg, "test", 0, view=0) == [i + 1 for i in rule]
    with videos.open(1) as video:
        assert (video.frames, video.fps) == (9, 30)
        assert fixtures.numbers(video.decode([8, 0, 8])) == [9, 1, 9]


@pytest.mark.parametrize("suffix", [".webm", ".mp4"])
@pytest.mark.parametrize("name", ["ssv2", "sth"])
def test_something_something_as_video_files(sth, ssv2, tmp_path, name, suffix):
    root = {"sth": sth, "ssv2": ssv2}[name]
    cfg = fixtures.config(name, root, "DATA.STORED_AS", "videos", "DATA.PATH_PREFIX", str(tmp_path))
    fixtures.write_video(tmp_path / f"{ {'ssv2': '900001', 'sth': '100218'}[name] }{suffix}", 20)
    assert split_list(cfg, "train").path(1).endswith(suffix)
    rule = {"ssv2": "segments_ssv2", "sth": "segments_sth"}[name]
    indices = clip_indices(rule, frames=20, fps=None, num_frames=4, stride=1, view=0)
    assert shown(cfg, "train", 0, view=0) == indices


def test_official_files_of_v2_as_they_are_downloaded(ssv2, tmp_path):
    """Short names of the JSON files, videos, no lists of ours; the first video of the list is missing."""
    for name in ("labels", "train", "validation"):
        shutil.copy(ssv2 / f"something-something-v2-{name}.json", tmp_path / f"{name}.json")
    fixtures.write_video(tmp_path / "videos/900002.mp4", 20)
    cfg = fixtures.config("ssv2", tmp_path, "DATA.STORED_AS", "videos", prefix="videos")
    videos = split_list(cfg, "train")
    assert (names(videos), labels(videos)) == (["900001.mp4", "900002.mp4"], [19, 93])
    assert len(shown(cfg, "train", 1, view=0)) == 4
    change(tmp_path / "train.json", "Pushing", "Pulling")
    with pytest.raises(ConfigError, match=r"train\.json, entry 2: labels\.json has no class 'Pulling something'"):
        split_list(cfg, "train")


def test_the_golden_lists(tmp_path):
    folder = golden.require(golden.GOLDEN / "annotations")
    for version, count in (("1", 50), ("2", 50)):
        template = f"somesomev{version}_rgb_{{}}_split.txt"
        cfg = fixtures.config("sth", folder / f"sthv{version}", "DATA.LABEL_PATH_TEMPLATE", template)
        assert len(split_list(cfg, "train")) == len(split_list(cfg, "test")) == count
    cfg = fixtures.config("hmdb", folder / "hmdb51", "DATA.LABEL_PATH_TEMPLATE", "{}.txt")
    assert labels(split_list(cfg, "val"))[0] == 34
    cfg = fixtures.config("ssv2", folder / "synthetic_ssv2_official")
    assert labels(split_list(cfg, "val")) == [93, 19]
    cfg = fixtures.config("ucf101", folder / "ucf101")
    assert labels(split_list(cfg, "train"))[0] == 0
    cfg = fixtures.config("imagenet", tmp_path, "DATA.PATH_TO_PRELOAD_IMDB", str(folder / "synthetic_imagenet"))
    assert names(split_list(cfg, "test"))[1] == "val/n01443537/img_00000002.JPEG"
    cfg = fixtures.config("epickitchens", folder / "epic100")
    actions = split_list(cfg, "train")
    assert len(actions) == 300
    with (folder / "epic100/EPIC_100_train.csv").open(newline="") as stream:
        for index, row in enumerate(csv.DictReader(stream)):
            assert actions.name(index) == row["narration_id"]
            assert actions.label(index) == {"verb": int(row["verb_class"]), "noun": int(row["noun_class"])}
            first, end, fps = epic_segment(row["video_id"], row["start_timestamp"], row["stop_timestamp"])
            assert actions.spans[index].tolist() == [first, end, fps]
            with actions.open(index) as action:
                assert action.frames == end - first


BAD_LISTS = {
    "a 9\n": "line 1: expected 'folder frames label'.*got 'a 9'",
    "a 9 0\n\nb nine 0\n": "line 3: expected 'folder frames label'.*got 'b nine 0'",
    "a 0 3\n": "line 1: expected 'folder frames label' with whole numbers and at least one frame",
    "a 3000000000 0\n": "line 1: expected 'folder frames label'",
    "a 9 400\n": r"line 1: label 400 is out of range, expected 0 to 399 \(MODEL.NUM_CLASSES is 400\)",
    "\n": "train_split.txt: this list file has no videos",
}


@pytest.mark.parametrize("text", BAD_LISTS)
def test_bad_lists_of_frame_folders(tmp_path, text):
    (tmp_path / "somesomev1_rgb_train_split.txt").write_text(text)
    with pytest.raises(ConfigError, match=BAD_LISTS[text]):
        split_list(fixtures.config("sth", tmp_path), "train")
    with pytest.raises(ConfigError, match=r"validation_split.txt: cannot read .*DATA.LABEL_PATH_TEMPLATE"):
        split_list(fixtures.config("sth", tmp_path), "val")


def test_lists_that_a_spreadsheet_wrote_in_a_folder_of_any_name(tmp_path):
    folder = tmp_path / "{v2} lists"
    folder.mkdir()
    fixtures.epic(folder)
    fixtures.ssv2(folder)
    fixtures.sth(folder)
    tables = ("somesomev1_rgb_train_split.txt", "EPIC_100_train.csv", CSV, JSON)
    for table in tables:
        text = (folder / table).read_bytes().replace(b"\n", b"\r\n").replace(b"open door", "öffne".encode("latin-1"))
        (folder / table).write_bytes(b"\xef\xbb\xbf" + text)
    for name, first, frame in (("sth", "100218", 1), ("ssv2", "900001", 1), ("epickitchens", "P01_01_0", 8)):
        prefix = "" if name == "epickitchens" else "frames"
        found = split_list(fixtures.config(name, folder, prefix=prefix), "train")
        assert found.name(0) == first
        with found.open(0) as video:
            assert fixtures.numbers(video.decode([0])) == [frame]


def test_lines_of_frame_folders_that_end_with_carriage_returns(tmp_path):
    (tmp_path / "somesomev1_rgb_train_split.txt").write_bytes(b"100218 9 134\r48032 5 72\r")
    found = split_list(fixtures.config("sth", tmp_path), "train")
    assert (names(found), labels(found), found.counts.tolist()) == (["100218", "48032"], [134, 72], [9, 5])


def test_a_video_may_be_listed_twice(tmp_path):
    fixtures.ssv2(tmp_path)
    entries = json.loads((tmp_path / JSON).read_text())
    (tmp_path / JSON).write_text(json.dumps([*entries, entries[0]]))
    found = split_list(fixtures.config("ssv2", tmp_path, prefix="frames"), "train")
    assert [found.name(i) for i in range(3)] == ["900001", "900002", "900001"]
    with found.open(0) as one, found.open(2) as other:
        assert (one.frames, fixtures.numbers(other.decode([4]))) == (12, [5])


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


JSON, LABELS, CSV = "something-something-v2-train.json", "something-something-v2-labels.json", "train.csv"
BAD_OFFICIAL = [
    (JSON, '"id"', '"name"', r"train.json, entry 1: expected an object with 'id' and 'template'"),
    (JSON, "Pushing", "Pulling", r"train.json, entry 2: .*labels.json has no class 'Pulling something'"),
    (JSON, "[", "{", "train.json: not a JSON file"),
    (JSON, "900002", "900003", r"train.json, entry 2: .*train.csv has no frames of video 900003; DATA.STORED_AS"),
    (LABELS, '"93"', '"many"', "labels.json: expected class numbers by name"),
    (LABELS, '"93"', '"19"', "labels.json: class numbers must be 0 or more, each once"),
    (LABELS, '"93"', '"493"', "train.json, entry 2: label 493 is out of range"),
    (CSV, "original_vido_id", "video", "train.csv, line 1: expected the header 'original_vido_id video_id"),
    (CSV, "900002 0 3 ", "900002 0 ", "train.csv, line 5: expected five fields with one blank between them"),
    (CSV, "900002 0 3 ", "900001 0 3 ", r"train.csv, line 6: the frames of video 900002 are not together"),
    (CSV, "900001 1 11 ", "900005 1 11 ", r"train.csv: video 900005 is not in .*train.json \(1 such videos\)"),
]


@pytest.mark.parametrize(("file", "old", "new", "message"), BAD_OFFICIAL)
def test_bad_official_files(tmp_path, file, old, new, message):
    fixtures.ssv2(tmp_path)
    change(tmp_path / file, old, new)
    with pytest.raises(ConfigError, match=message):
        split_list(fixtures.config("ssv2", tmp_path), "train")


def test_a_list_of_frames_with_a_damaged_name(tmp_path):
    fixtures.ssv2(tmp_path)
    text = (tmp_path / CSV).read_bytes()
    (tmp_path / CSV).write_bytes(text.replace(b"900001 1 11 ", b"90000\xff 1 11 "))
    with pytest.raises(ConfigError, match=r"train\.csv: video 90000\udcff is not in .*train\.json \(1 such videos\)"):
        split_list(fixtures.config("ssv2", tmp_path), "train")


@pytest.mark.parametrize("file", [JSON, LABELS, CSV])
def test_missing_official_files(tmp_path, file):
    fixtures.ssv2(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ConfigError, match=rf"{file}: cannot read this .*\(No such file"):
        split_list(fixtures.config("ssv2", tmp_path), "train")


# Frame files.


def test_missing_and_broken_frames_are_named(tmp_path):
    fixtures.sth(tmp_path)
    folder = tmp_path / "frames/100218"
    videos = split_list(fixtures.config("sth", tmp_path, prefix="frames"), "train")
    whole = (folder / "00002.jpg").read_bytes()
    Image.new("RGB", (8, 8)).save(folder / "00001.jpg")
    (folder / "00003.jpg").unlink()
    (folder / "00004.jpg").write_text("no picture")
    (folder / "00005.jpg").write_bytes(whole[: len(whole) // 2])
    cases = {
        (2,): "00003.jpg: no such file",
        (3,): "00004.jpg: not a picture",
        (4,): "00005.jpg: .*[Tt]runcated",
        (1, 0): "00002.jpg is 32 x 24, but 00001.jpg is 8 x 8",
        (5, 9): "frames 5 to 9 asked for, there are 9",
    }
    for indices, cause in cases.items():
        with videos.open(0) as video, pytest.raises(VideoError, match=cause) as caught:
            video.decode(indices)
        assert caught.value.path == str(folder)
    with videos.open(0) as video:
        assert fixtures.numbers(video.decode([8, 6, 6])) == [9, 7, 7]


def test_a_picture_is_named_once(tmp_path):
    """A folder of one frame names folder and file, a picture of its own has one name."""
    (tmp_path / "somesomev1_rgb_train_split.txt").write_text("85 1 30\n")
    folder = split_list(fixtures.config("sth", tmp_path, prefix="frames"), "train")
    (tmp_path / "train.json").write_text(json.dumps([{"im_path": "n01/gone.jpg", "class": 0}]))
    keys = ("DATA.PATH_TO_PRELOAD_IMDB", str(tmp_path), "DATA.PATH_PREFIX", str(tmp_path))
    alone = split_list(fixtures.config("imagenet", tmp_path, *IMAGES, *keys), "train")
    for videos, message in ((folder, "frames/85: 00001.jpg: no such file"), (alone, "n01/gone.jpg: no such file")):
        with videos.open(0) as video, pytest.raises(VideoError) as caught:
            video.decode([0])
        assert str(caught.value) == str(tmp_path / message)


def test_a_damaged_picture_of_any_kind_is_a_broken_one(tmp_path):
    path = tmp_path / "1.tif"
    Image.new("L", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    # The offset of the pixels, tag 273, becomes a floating-point number, which Pillow does not expect.
    place = content.index(struct.pack("<HHI", 273, 4, 1))
    content[place : place + 12] = struct.pack("<HHIf", 273, 11, 1, 8.0)
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"1\.tif: .*float"):
        PictureFiles(str(path), lambda _: str(path), 1).decode([0])


def test_a_missing_frame_fails_a_training_video_and_another_takes_its_place(tmp_path):
    fixtures.sth(tmp_path)
    cfg = fixtures.config("sth", tmp_path, "DATA.MAX_FAILED_FRACTION", 0.5, prefix="frames")
    for file in (tmp_path / "frames/48032").iterdir():
        file.unlink()
    item = TrainingClips(cfg, split_list(cfg, "train"))[(0, 0)]
    other = TrainingClips(cfg, split_list(cfg, "train"))[(0, 1)]
    assert item.index == other.index == 0
    (failure,) = item.failures + other.failures
    assert failure.video == str(tmp_path / "frames/48032")
    assert failure.cause.endswith(".jpg: no such file")


def test_frames_of_official_lists_are_named(tmp_path):
    fixtures.ssv2(tmp_path)
    (tmp_path / "frames/900001/900001_000003.jpg").unlink()
    videos = split_list(fixtures.config("ssv2", tmp_path, prefix="frames"), "train")
    with videos.open(0) as video, pytest.raises(VideoError, match=r"900001/900001_000003\.jpg: no such file"):
        video.decode([2])


def test_pictures_are_read_as_they_are(tmp_path):
    """No draft mode, no other decoder: the very pixels of a plain read."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "00001.jpg", quality=80)
    (tmp_path / "somesomev1_rgb_train_split.txt").write_text(". 1 0\n")
    videos = split_list(fixtures.config("sth", tmp_path), "train")
    with videos.open(0) as video, Image.open(tmp_path / "00001.jpg") as plain:
        assert np.array_equal(video.decode([0])[0].numpy(), np.asarray(plain))


@pytest.mark.parametrize("rule", ["time", "epic", "slowfast_torchvision"])
def test_rules_that_count_time_need_a_frame_rate(sth, rule):
    cfg = fixtures.config("sth", sth, "DATA.SAMPLING_RULE", rule, "NUM_GPUS", 0, prefix="frames")
    with pytest.raises(ConfigError, match=rf"DATA.SAMPLING_RULE {rule} counts time.*TRAIN.DATASET sth.*segments_sth"):
        check_config(cfg)
    with pytest.raises(ValueError, match="counts time, and the frame rate is unknown"):
        shown(cfg, "train", 0, view=0)


# EPIC-Kitchens.


def test_actions(epic):
    actions = split_list(fixtures.config("Epickitchens", epic), "train")
    assert names(actions) == ["P01_01_0", "P04_121_0"]
    assert labels(actions) == [{"verb": 3, "noun": 3}, {"verb": 0, "noun": 2}]
    assert actions.path(1) == str(epic / "P04/rgb_frames/P04_121")
    with actions.open(0) as first, actions.open(1) as second:
        assert (first.frames, first.fps) == (36 - 8, 60)
        assert (second.frames, second.fps) == (50 - 27, 50)


@pytest.mark.parametrize("view", [{"view": 0}, {"view": 2, "views": 3}, {"draw": 0.7}])
@pytest.mark.parametrize("index", [0, 1])
def test_frame_folders_and_video_files_show_the_same(epic, index, view):
    first, fps, count = ((8, 60, 28), (27, 50, 23))[index]
    rule = clip_indices("epic", frames=count, fps=fps, num_frames=4, stride=2, use_offset=True, **view)
    frames = fixtures.config("epickitchens", epic)
    assert shown(frames, "train", index, **view) == [first + i for i in rule]
    # Frame files count from 1, frames of videos from 0.
    videos = fixtures.config("epickitchens", epic, "DATA.STORED_AS", "videos")
    assert split_list(videos, "train").path(0).endswith("P01/videos/P01_01.MP4")
    assert shown(videos, "train", index, **view) == [first + i - 1 for i in rule]


def test_actions_at_the_beginning_begin_with_the_first_frame(epic, tmp_path):
    row = fixtures.EPIC_ROWS.splitlines()[0].replace("00:00:00.14", "00:00:00.00")
    (tmp_path / "EPIC_100_train.csv").write_text(fixtures.EPIC_HEADER + row + "\n")
    for stored, number in (("frames", 1), ("videos", 0)):
        cfg = fixtures.config(
            "epickitchens", tmp_path, "DATA.STORED_AS", stored, "EPICKITCHENS.VISUAL_DATA_DIR", str(epic)
        )
        with split_list(cfg, "train").open(0) as action:
            assert fixtures.numbers(action.decode([0, 1])) == [number, number]


def test_an_action_after_the_end_of_its_video(epic, tmp_path):
    row = fixtures.EPIC_ROWS.splitlines()[0].replace("00:00:00.14,00:00:00.60", "00:00:02.00,00:00:03.00")
    (tmp_path / "EPIC_100_train.csv").write_text(fixtures.EPIC_HEADER + row + "\n")
    cfg = fixtures.config(
        "epickitchens", tmp_path, "DATA.STORED_AS", "videos", "EPICKITCHENS.VISUAL_DATA_DIR", str(epic)
    )
    with pytest.raises(VideoError, match=r"P01_01.MP4: the segment of 2 to 3 s is not in its 1.00 s"):
        split_list(cfg, "train").open(0)


def test_pickles_stand_for_the_csv_beside_them(epic, tmp_path):
    cfg = fixtures.config("epickitchens", epic, "EPICKITCHENS.TRAIN_LIST", "EPIC_100_train.pkl")
    assert len(split_list(cfg, "train")) == 2
    (tmp_path / "EPIC_100_train.pkl").write_bytes(pickle.dumps([]))
    cfg = fixtures.config("epickitchens", tmp_path, "EPICKITCHENS.TRAIN_LIST", "EPIC_100_train.pkl")
    with pytest.raises(ConfigError, match=r"train.pkl: pickles are not read.*put the official EPIC_100_train.csv"):
        split_list(cfg, "train")


BAD_ACTIONS = [
    ("verb_class", "verb_class", "take plate", '"take plate', "line 3: quotation marks that do not pair"),
    ("verb_class", "verb_class", "take plate", '"take" plate', "line 3: quotation marks that do not pair"),
    ("narration_id", '"narration_id', "take,0", "take,0", "line 1: quotation marks that do not pair"),
    ("verb_class", "verb_class", "00:00:00.60", "99:00:999999999.60", "line 2: the action .* more frames than a video"),
    ("verb_class", "verb_class", "00:00:00.14", "0:14", "line 2: time stamp '0:14' is not of the form HH:MM:SS.hh"),
    ("verb_class", "verb_class", "00:00:00.14", "00:00:00.140", "line 2: time stamp '00:00:00.140' is not of the form"),
    (
        "verb_class",
        "verb_class",
        "00:00:01.00",
        "00:00:00.54",
        "line 3: the action from 00:00:00.54 to .* has no frames",
    ),
    (
        "verb_class",
        "verb_class",
        "take,0",
        "take,97",
        r"line 3: label 97 is out of range, expected 0 to 96 \(verb_class",
    ),
    ("verb_class", "verb_class", "plate,2", "plate,two", "line 3: noun_class 'two' is not a whole number"),
    ("verb_class", "verb_class", "take,0", "take,", "line 3: an action to train on needs verb_class and noun_class"),
    ("start_timestamp", "start", "take,0", "take,0", "line 1: the columns start_timestamp are missing"),
    (
        "verb_class",
        "verb_class",
        ",00:00:00.14,00:00:00.60,8,36,open door,open,3,door,3,['door'],[3]",
        "",
        "line 2: this",
    ),
]


@pytest.mark.parametrize(("header", "new_header", "old", "new", "message"), BAD_ACTIONS)
def test_bad_actions(tmp_path, header, new_header, old, new, message):
    assert old in fixtures.EPIC_ROWS
    text = fixtures.EPIC_HEADER.replace(header, new_header) + fixtures.EPIC_ROWS.replace(old, new)
    (tmp_path / "EPIC_100_train.csv").write_text(text)
    with pytest.raises(ConfigError, match=f"EPIC_100_train.csv, {message}"):
        split_list(fixtures.config("epickitchens", tmp_path), "train")


def test_actions_without_classes_are_there_to_test(tmp_path):
    keep = ["narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp"]
    text = ",".join(keep) + "\nP01_11_0,P01,P01_11,00:00:00.00,00:00:00.00,00:00:01.89\n"
    (tmp_path / "EPIC_100_test_timestamps.csv").write_text(text)
    cfg = fixtures.config("epickitchens", tmp_path, "EPICKITCHENS.TEST_LIST", "EPIC_100_test_timestamps.csv")
    assert labels(split_list(cfg, "test")) == [{"verb": -1, "noun": -1}]


def test_an_open_quotation_mark_swallows_no_actions(tmp_path):
    """Classes may be missing in the test list, so a row that took in the rest of the file would look sound."""
    rows = fixtures.EPIC_ROWS.replace("open door", '"open door')
    (tmp_path / "EPIC_100_validation.csv").write_text(fixtures.EPIC_HEADER + rows)
    with pytest.raises(ConfigError, match=r"EPIC_100_validation\.csv, line 2: quotation marks that do not pair"):
        split_list(fixtures.config("epickitchens", tmp_path), "test")


# A folder per class.

IMAGES = ("DATA.NUM_FRAMES", 1, "MODEL.NUM_CLASSES", 1000)


def test_imagenet_folders(imagenet):
    cfg = fixtures.config("imagenet", imagenet, *IMAGES)
    pictures = split_list(cfg, "train")
    assert labels(pictures) == [0, 0, 0, 1, 1, 1]
    assert names(pictures)[0] == "n01440764/n01440764_0.JPEG"
    assert pictures.path(0) == str(imagenet / "train/n01440764/n01440764_0.JPEG")
    assert len(split_list(cfg, "val")) == len(split_list(cfg, "test")) == 2
    with pictures.open(0) as picture:
        assert fixtures.numbers(picture.decode([0])) == [10]
    for index in (1, 2):
        with pictures.open(index) as picture:
            assert picture.decode([0]).shape == (1, 30, 40, 3)


def test_pictures_are_cut_as_published(imagenet):
    cfg = fixtures.config("imagenet", imagenet, *IMAGES)
    pictures = split_list(cfg, "train")
    item = TrainingClips(cfg, pictures)[(0, 0)]
    assert item.clips.shape == (1, 1, 3, 16, 16)
    clip = VideoViews(cfg, split_list(cfg, "val"))[1].clips()
    with Image.open(imagenet / "val/n01443537/n01443537_0.JPEG") as picture:
        # torchvision's Resize(18) and CenterCrop(16).
        expected = picture.resize((24, 18), Image.Resampling.BICUBIC).crop((4, 1, 20, 17))
    difference = clip[0, 0].permute(1, 2, 0).int() - torch.from_numpy(np.array(expected)).int()
    assert difference.abs().max() <= 1
    squeezed = fixtures.config("imagenet", imagenet, *IMAGES, "DATA.VAL_CROP_RATIO", 0.0)
    assert VideoViews(squeezed, split_list(cfg, "val"))[1].clips().shape == (1, 1, 3, 16, 16)


def test_pictures_are_clips_of_one_frame(imagenet):
    cfg = fixtures.config("imagenet", imagenet, "NUM_GPUS", 0)
    with pytest.raises(ConfigError, match=r"DATA\.NUM_FRAMES is 4; the clips of TRAIN.DATASET imagenet are pictures"):
        check_config(cfg)


def test_class_folders_of_videos(tmp_path, caplog):
    for name in ("train/run/b.mp4", "train/run/a.webm", "train/jump/c.mp4", "val/run/d.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "train/run/notes.txt").touch()
    (tmp_path / "train/run/.hidden").touch()
    cfg = fixtures.config("video_folder", tmp_path)
    videos = split_list(cfg, "train")
    assert type(videos) is VideoList
    assert (names(videos), labels(videos)) == (["jump/c.mp4", "run/a.webm", "run/b.mp4"], [0, 1, 1])
    assert "left out: 1 of .txt" in caplog.text
    assert labels(split_list(cfg, "val")) == [1], "classes are numbered as in training"


BAD_FOLDERS = [
    ([], "train: cannot read this folder of classes"),
    (["train/run/a.txt"], "train: no class folders with videos in it"),
    (["train/run/a.mp4", "train/jump/b.mp4", "train/walk/c.mp4"], "3 class folders, but MODEL.NUM_CLASSES is 2"),
]


@pytest.mark.parametrize(("files", "message"), BAD_FOLDERS)
def test_bad_class_folders(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=message):
        read_class_folders(fixtures.config("video_folder", tmp_path, "MODEL.NUM_CLASSES", 2), "train", pictures=False)


def test_a_class_that_training_does_not_know(tmp_path):
    for name in ("train/run/a.mp4", "val/fly/b.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"val/fly: .*train has no such class"):
        split_list(fixtures.config("video_folder", tmp_path), "val")


BAD_PICTURE_LISTS = {
    '{"im_path": "a.jpg"}': "train.json, entry 1: expected 'im_path' and a number as 'class'",
    '[{"im_path": "a.jpg", "class": 5}, 3]': "train.json, entry 2: expected",
    '[{"im_path": 7, "class": 5}]': "train.json, entry 1: expected",
    '[{"im_path": "a.jpg", "class": true}]': "train.json, entry 1: expected",
    '[{"im_path": "a.jpg", "class": 1000}]': "train.json, entry 1: label 1000 is out of range",
    "[]": "train.json: this list file has no pictures",
    "im_path": "train.json: not a JSON file",
}


@pytest.mark.parametrize("text", BAD_PICTURE_LISTS)
def test_bad_lists_of_pictures(tmp_path, text):
    (tmp_path / "train.json").write_text(text)
    cfg = fixtures.config("imagenet", tmp_path, *IMAGES, "DATA.PATH_TO_PRELOAD_IMDB", str(tmp_path))
    with pytest.raises(ConfigError, match=BAD_PICTURE_LISTS[text]):
        split_list(cfg, "train")


def test_lists_of_pictures(imagenet, tmp_path):
    entries = [{"im_path": str(imagenet / "val/n01440764/n01440764_0.JPEG"), "class": 7}]
    (tmp_path / "val.json").write_text(json.dumps(entries))
    cfg = fixtures.config("imagenet", tmp_path, *IMAGES, "DATA.PATH_TO_PRELOAD_IMDB", str(tmp_path))
    pictures = split_list(cfg, "test")
    assert labels(pictures) == [7]
    with pictures.open(0) as picture:
        assert fixtures.numbers(picture.decode([0])) == [10]


# Every list.


def test_every_kind_of_list_survives_pickling(sth, ssv2, epic, imagenet):
    for name, root, prefix in (
        *(("sth", sth, "frames"), ("ssv2", ssv2, "frames")),
        *(("epickitchens", epic, ""), ("imagenet", imagenet, "")),
    ):
        videos = split_list(fixtures.config(name, root, prefix=prefix), "train")
        copy = pickle.loads(pickle.dumps(videos))  # noqa: S301 (our own)
        assert names(copy) == names(videos)
        assert labels(copy) == labels(videos)
        with videos.open(1) as one, copy.open(1) as other:
            assert torch.equal(one.decode([0]), other.decode([0]))


def test_video_lists_open_their_videos(demo_data):
    videos = split_list(fixtures.config("kinetics", demo_data), "val")
    with videos.open(2) as video:
        assert torch.equal(video.decode([3, 1]), decode(videos.path(2), [3, 1]))


IMAGE_NETWORKS = {
    "MorphMLP_image": {"LAYERS": [1, 1, 1, 1], "EMBED_DIMS": [8, 8, 8, 8], "SEGMENT_DIM": [4, 4, 4, 1]},
    "MViT": {
        "PATCH_2D": True,
        "PATCH_KERNEL": [7, 7],
        "PATCH_STRIDE": [4, 4],
        "PATCH_PADDING": [3, 3],
        "DEPTH": 2,
        "EMBED_DIM": 8,
        "CLS_EMBED_ON": False,
        "POOL_KVQ_KERNEL": [3, 3],
        "POOL_Q_STRIDE": [[0, 1, 1], [1, 2, 2]],
        "POOL_KV_STRIDE_ADAPTIVE": [2, 2],
        "USE_ABS_POS": False,
    },
}


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_image_networks_take_the_batches_of_pictures(imagenet, name):
    section = {"MorphMLP_image": "MORPH", "MViT": "MVIT"}[name]
    words = [w for key, value in IMAGE_NETWORKS[name].items() for w in (f"{section}.{key}", value)]
    shape = ("DATA.TRAIN_CROP_SIZE", 32, "TRAIN.BATCH_SIZE", 6, "NUM_GPUS", 0, "AUG.NUM_SAMPLE", 2)
    cfg = fixtures.config("imagenet", imagenet, *IMAGES, "MODEL.MODEL_NAME", name, *words, *shape)
    batch = next(TrainingLoader(cfg).epoch(0))
    assert batch.clips.shape == (12, 1, 3, 32, 32)
    logits = videobench.build_model(cfg)(Augmentation.from_config(cfg).finish(batch.clips, batch.keys))
    assert logits.shape == (12, 1000)
