"""List files from the official annotation files: right numbers, stable order, and everything left out named."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import golden
import pytest
import video_fixtures as videos
from PIL import Image

from videobench.config import ConfigError, default_config
from videobench.datasets.annotations import read_class_names, split_list
from videobench.datasets.preparation import sources
from videobench.datasets.preparation.lists import make_lists

TOOL = Path(__file__).resolve().parents[2] / "tools/prepare_data.py"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return videos.write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", 5, options=videos.X264)


def place(clip: Path, *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, path)


def frames(folder: Path, count: int, template: str = "{:05d}.jpg") -> None:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("RGB", (8, 8)).save(folder / template.format(number))


def run(capsys, monkeypatch, *words: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, words)])
    status = runpy.run_path(str(TOOL))["main"]()
    captured = capsys.readouterr()
    return status, captured.out + captured.err


KINETICS = """label,youtube_id,time_start,time_end,split,is_cc
riding a bike,aaaaaaaaaaa,5,15,{split},0
abseiling,bbbbbbbbbbb,0,10,{split},0
massaging person's head,-cc_ccccccc,120,130,{split},0
abseiling,ddddddddddd,3,13,{split},0
abseiling,eeeeeeeeeee,3,13,{split},0
"""


@pytest.fixture
def kinetics(clip, tmp_path) -> Path:
    """Every form in which files of Kinetics are named; one is missing, one broken."""
    root = tmp_path / "kinetics"
    place(
        clip,
        root / "train/riding a bike/aaaaaaaaaaa_000005_000015.mp4",
        root / "train/abseiling/bbbbbbbbbbb.mp4",
        root / "train/massaging_person's_head/-cc_ccccccc_120_130.mkv",
        # Another part of a video that is in the list.
        root / "train/abseiling/ddddddddddd_000099_000109.mp4",
        root / "train/abseiling/my video.mp4",
    )
    (root / "train/abseiling/eeeeeeeeeee_000003_000013.webm").write_text("no video")
    (tmp_path / "train.csv").write_text(KINETICS.format(split="train"))
    return root


def test_kinetics(kinetics, tmp_path, capsys, monkeypatch):
    out = tmp_path / "lists"
    command = ["kinetics", tmp_path / "train.csv", "--data", kinetics, "--out", out, "--workers", 1, "--classes"]
    status, text = run(capsys, monkeypatch, *command, "alphabetical")
    assert status == 1
    assert (out / "train.csv").read_text() == (
        "train/riding a bike/aaaaaaaaaaa_000005_000015.mp4 2\n"
        "train/abseiling/bbbbbbbbbbb.mp4 0\n"
        "train/massaging_person's_head/-cc_ccccccc_120_130.mkv 1\n"
    )
    assert (out / "train.left_out.txt").read_text() == (
        "ddddddddddd, from second 3\tnot found\n"
        "train/abseiling/eeeeeeeeeee_000003_000013.webm\tnot a video, or its header is missing\n"
    )
    assert read_class_names(out / "classes.txt") == ["abseiling", "massaging person's head", "riding a bike"]
    assert "train.csv: 3 lines, 2 left out" in text
    assert "class numbers: alphabetical" in text
    assert "1 videos are not named ID or ID_START_END, the first is train/abseiling/my video.mp4" in text
    # The reader takes what was written.
    cfg = default_config()
    cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.PATH_PREFIX, cfg.MODEL.NUM_CLASSES = str(out), str(kinetics), 3
    cfg.TRAIN.DATASET = "kinetics"
    listed = split_list(cfg, "train")
    assert [Path(listed.path(i)).exists() for i in range(3)] == [True] * 3
    # Again: nothing changes; with another order: not without being told.
    assert run(capsys, monkeypatch, *command, "alphabetical")[0] == 1
    order = tmp_path / "order.txt"
    order.write_text("massaging_persons_head 1\nriding_a_bike 0\nAbseiling 2\n")
    status, text = run(capsys, monkeypatch, *command, order)
    assert status == 2
    assert "exists already and holds something else; --overwrite replaces it" in text
    assert run(capsys, monkeypatch, *command, order, "--overwrite")[0] == 1
    assert [line.rsplit(" ", 1)[1] for line in (out / "train.csv").read_text().splitlines()] == ["0", "2", "1"]
    assert read_class_names(out / "classes.txt")[0] == "riding_a_bike"


def test_class_orders_of_kinetics_that_do_not_fit(kinetics, tmp_path):
    order = tmp_path / "order.txt"
    order.write_text("riding a bike\t0\nabseiling\t1\n")
    with pytest.raises(ConfigError, match=r"1 classes are not in .*order\.txt, the first is .massaging person's head."):
        sources.kinetics([tmp_path / "train.csv"], kinetics, [order])
    order.write_text("riding a bike\nabseiling\nriding_a_bike\n")
    with pytest.raises(ConfigError, match="occur twice"):
        sources.kinetics([tmp_path / "train.csv"], kinetics, [order])
    (tmp_path / "train.csv").write_text("youtube_id,time_start,split\naaaaaaaaaaa,0,train\n")
    with pytest.raises(ConfigError, match="no column label"):
        sources.kinetics([tmp_path / "train.csv"], kinetics, None)


def test_the_published_class_orders(kinetics, tmp_path):
    folder = golden.require(golden.GOLDEN / "annotations")
    k400 = sources.kinetics([tmp_path / "train.csv"], kinetics, [folder / "k400/kinetics_400_categroies.txt"])
    assert [row.line.rsplit(" ", 1)[1] for row in k400.lists["train.csv"]][:2] == ["0", "341"]
    assert len(k400.classes["classes.txt"]) == 400
    both = [folder / "k600/k600_common_category.list", folder / "k600/k600_special_category.list"]
    assert len(sources.kinetics([tmp_path / "train.csv"], kinetics, both).classes["classes.txt"]) == 600


def test_published_counts_are_reported(kinetics, tmp_path):
    order = golden.require(golden.GOLDEN / "annotations/k400/kinetics_400_categroies.txt")
    (tmp_path / "val.csv").write_text(KINETICS.format(split="validate"))
    plan = sources.kinetics([tmp_path / "val.csv"], kinetics, [order])
    made = make_lists(plan, tmp_path / "out", check="none")
    assert "val.csv: 4 lines, the published list of k400-val has 19787" in made.notes


SSV2 = "something-something-v2-{}.json"


def test_something_something_v2_as_videos(clip, tmp_path, capsys, monkeypatch):
    folder = golden.require(golden.GOLDEN / "annotations/synthetic_ssv2_official")
    numbers = {"Approaching something with your camera": "0", "Holding something next to something": "1"}
    labels = tmp_path / SSV2.format("labels")
    labels.write_text(json.dumps(numbers | {"Pushing something from left to right": "2"}))
    root = tmp_path / "videos"
    place(clip, *(root / f"{video}.webm" for video in (900001, 900003, 900011, 900012)))
    (root / "900003.webm").write_bytes(b"")
    annotations = [folder / SSV2.format("train"), folder / SSV2.format("validation")]
    status, text = run(
        capsys, monkeypatch, "ssv2", *annotations, "--labels", labels, "--data", root, "--out", tmp_path / "out"
    )
    assert status == 1
    assert (tmp_path / "out/ssv2_train.txt").read_text() == "900001 5 1\n"
    assert (tmp_path / "out/ssv2_validation.txt").read_text() == "900011 5 2\n900012 5 1\n"
    assert (tmp_path / "out/ssv2_train.left_out.txt").read_text() == "900002\tnot found\n900003.webm\tempty file\n"
    assert f'set DATA.LABEL_PATH_TEMPLATE "ssv2_{{}}.txt" DATA.STORED_AS videos DATA.PATH_PREFIX {root}' in text
    assert "ssv2_train.txt: 1 lines, the published list of ssv2-train has 168913" in text
    status, text = run(
        capsys, monkeypatch, "ssv2", *annotations, "--labels", labels, "--data", root, "--out", tmp_path / "out",
        "--check", "none",
    )  # fmt: skip
    assert (status, text.count("use --check packets or full")) == (2, 1)


def test_something_something_v1_as_frames(tmp_path, capsys, monkeypatch):
    (tmp_path / "labels.csv").write_text("Holding something\nClosing something\n")
    train, val = tmp_path / "something-something-v1-train.csv", tmp_path / "something-something-v1-validation.csv"
    train.write_text("12;Closing something\n7;Holding something\n3;Holding something\n9;Closing something\n")
    val.write_text("5;Holding something\n")
    frames(tmp_path / "frames/12", 4)
    frames(tmp_path / "frames/7", 3)
    frames(tmp_path / "frames/3", 3)
    (tmp_path / "frames/3/00002.jpg").unlink()
    (tmp_path / "frames/9").mkdir()
    frames(tmp_path / "frames/5", 2)
    command = ["ssv1", train, val, "--labels", tmp_path / "labels.csv", "--data", tmp_path / "frames"]
    status, text = run(capsys, monkeypatch, *command, "--out", tmp_path / "out")
    assert status == 1
    assert (tmp_path / "out/ssv1_train.txt").read_text() == "12 4 1\n7 3 0\n"
    assert (tmp_path / "out/ssv1_validation.txt").read_text() == "5 2 0\n"
    assert (tmp_path / "out/ssv1_train.left_out.txt").read_text() == "3\t2 frames, but no 00002.jpg\n9\tno frames\n"
    assert 'DATA.IMAGE_TEMPLATE "{:05d}.jpg"' in text
    train.write_text("12;Waving something\n")
    status, text = run(capsys, monkeypatch, *command, "--out", tmp_path / "out")
    assert (status, "'Waving something' is no class of" in text) == (2, True)


def test_epic_kitchens(clip, tmp_path, capsys, monkeypatch):
    source = golden.require(golden.GOLDEN / "annotations/synthetic_epic_kitchens/EPIC_100_validation.csv")
    names = golden.GOLDEN / "annotations/epic100"
    root = tmp_path / "epic"
    frames(root / "P01/rgb_frames/P01_01", 250, "frame_{:010d}.jpg")
    place(clip, root / "P04/videos/P04_121.MP4")
    status, text = run(
        capsys, monkeypatch, "epic", source, "--data", root, "--out", tmp_path / "out", "--classes",
        names / "EPIC_100_verb_classes.csv", names / "EPIC_100_noun_classes.csv",
    )  # fmt: skip
    assert status == 1
    lines = source.read_text().splitlines()
    kept = [line for line in lines if line.startswith(("narration_id", "P01_01_0,", "P04_121_0,"))]
    assert (tmp_path / "out/EPIC_100_validation.csv").read_text().splitlines() == kept
    assert (tmp_path / "out/EPIC_100_validation.left_out.txt").read_text().splitlines() == [
        "P01_01_1\tends at frame 370, P01/rgb_frames/P01_01 has 250",
        "P22_107_7\tnot found: neither P22/rgb_frames/P22_107 nor the video",
    ]
    assert len(read_class_names(tmp_path / "out/verbs.txt")) == 97
    assert len(read_class_names(tmp_path / "out/nouns.txt")) == 300
    assert "the published list of epic100-val has 9668" in text


def test_imagenet(tmp_path, capsys, monkeypatch):
    root = tmp_path / "imagenet"
    for name in ("n02/b.JPEG", "n02/a.JPEG", "n01/c.JPEG", "other/x.JPEG"):
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / "train" / name)
    (root / "val").mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (8, 8)).save(root / f"val/ILSVRC2012_val_0000000{number}.JPEG")
    (root / "val/ILSVRC2012_val_00000002.JPEG").write_bytes(b"no image")
    truth = tmp_path / "LOC_val_solution.csv"
    truth.write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n02 1 2 3 4\nILSVRC2012_val_00000002,n01\n")
    command = ["imagenet", "--data", root, "--out", tmp_path / "out", "--val-labels", truth]
    assert run(capsys, monkeypatch, *command)[0] == 1
    assert json.loads((tmp_path / "out/train.json").read_text()) == [
        {"im_path": "train/n01/c.JPEG", "class": 0},
        {"im_path": "train/n02/a.JPEG", "class": 1},
        {"im_path": "train/n02/b.JPEG", "class": 1},
    ]
    assert json.loads((tmp_path / "out/val.json").read_text()) == [
        {"im_path": "val/ILSVRC2012_val_00000001.JPEG", "class": 1}
    ]
    assert (tmp_path / "out/train.left_out.txt").read_text() == "train/other/x.JPEG\tno class other\n"
    assert (tmp_path / "out/val.left_out.txt").read_text() == (
        "val/ILSVRC2012_val_00000003.JPEG\tits class is not known\n"
        "val/ILSVRC2012_val_00000002.JPEG\tnot an image, or its header is missing\n"
    )


def test_a_folder_per_class(clip, tmp_path, capsys, monkeypatch):
    root = tmp_path / "data"
    place(clip, *(root / f"{name}/{i}.mp4" for name in ("take 2", "run") for i in range(5)))
    command = ["folder", "--data", root, "--out", tmp_path / "out", "--check", "none"]
    assert run(capsys, monkeypatch, *command, "--val-fraction", 0.4)[0] == 0
    train, val = ((tmp_path / f"out/{split}.csv").read_text().splitlines() for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 4)
    assert sorted(train + val) == sorted(f"{n}/{i}.mp4 {c}" for c, n in enumerate(("run", "take 2")) for i in range(5))
    assert read_class_names(tmp_path / "out/classes.txt") == ["run", "take 2"]
    # Splits of their own.
    other = tmp_path / "splits"
    place(clip, other / "train/b/1.mp4", other / "train/a/2.mp4", other / "val/b/3.mp4")
    made = make_lists(sources.folder(other), tmp_path / "other", check="packets", workers=1)
    assert made.complete
    assert (tmp_path / "other/train.csv").read_text() == "train/a/2.mp4 0\ntrain/b/1.mp4 1\n"
    assert (tmp_path / "other/val.csv").read_text() == "val/b/3.mp4 1\n"
    place(clip, other / "train/4.mp4")
    with pytest.raises(ConfigError, match=r"4\.mp4: lies in no folder of a class"):
        sources.folder(other)


def test_nothing_to_list(tmp_path, capsys, monkeypatch):
    (tmp_path / "train.csv").write_text(KINETICS.format(split="train"))
    (tmp_path / "empty").mkdir()
    command = ["kinetics", tmp_path / "train.csv", "--classes", "alphabetical", "--out", tmp_path / "out"]
    status, text = run(capsys, monkeypatch, *command, "--data", tmp_path / "empty")
    assert status == 2
    assert "nothing of what is annotated is here, for example aaaaaaaaaaa, from second 5: not found" in text
    assert run(capsys, monkeypatch, *command, "--data", tmp_path / "no")[0] == 2
    assert not (tmp_path / "out").exists()
