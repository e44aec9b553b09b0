"""List files from the official annotation files: right numbers, stable order, and everything left out named."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import dataset_fixtures
import golden
import pytest
import video_fixtures as videos
from PIL import Image

from videobench.config import ConfigError, load_config
from videobench.datasets.annotations import read_class_names, split_list
from videobench.datasets.preparation import verify as verify_module
from videobench.datasets.preparation.class_folders import folder, imagenet
from videobench.datasets.preparation.encoding import Encoding
from videobench.datasets.preparation.epic_kitchens import epic
from videobench.datasets.preparation.files import find_files
from videobench.datasets.preparation.kinetics import kinetics as kinetics_plan
from videobench.datasets.preparation.lists import make_lists
from videobench.datasets.preparation.resize import resize
from videobench.datasets.preparation.something_something import something_something
from videobench.datasets.preparation.ucf_hmdb import hmdb51, ucf101
from videobench.datasets.records import VideoList

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


# Recipes say how lists are read, too, but not how these are.
RECIPE = """
DATA: {PATH_LABEL_SEPARATOR: ",", STORED_AS: videos, IMAGE_TEMPLATE: "{}.png", LABEL_PATH_TEMPLATE: "other_{}.txt"}
"""


def read(folder: Path, split: str) -> VideoList:
    """What the reader makes of the lists in a folder, told only what was written with them."""
    (folder / "recipe.yaml").write_text(RECIPE)
    return split_list(load_config([folder / "recipe.yaml", folder / "data.yaml"]), split)


def read_all(videos: VideoList) -> list[int]:
    """Number of frames of every video; decodes the first and the last of each."""
    counts = []
    for index in range(len(videos)):
        with videos.open(index) as video:
            video.decode([0, video.frames - 1])
            counts.append(video.frames)
    return counts


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
    # The reader takes what was written, with the keys beside it.
    assert read_all(read(out, "train")) == [5, 5, 5]


def test_other_lists_are_replaced_only_when_told(kinetics, tmp_path):
    out, table = tmp_path / "lists", [tmp_path / "train.csv"]
    make_lists(kinetics_plan(table, kinetics, None), out, check="none")
    make_lists(kinetics_plan(table, kinetics, None), out, check="none")
    order = tmp_path / "order.txt"
    order.write_text("massaging_persons_head 1\nriding_a_bike 0\nAbseiling 2\n")
    plan = kinetics_plan(table, kinetics, [order])
    with pytest.raises(ConfigError, match="exists already and holds something else; --overwrite replaces it"):
        make_lists(plan, out, check="none")
    make_lists(plan, out, check="none", overwrite=True)
    assert [line.rsplit(" ", 1)[1] for line in (out / "train.csv").read_text().splitlines()] == ["0", "2", "1", "2"]
    assert read_class_names(out / "classes.txt")[0] == "riding_a_bike"


def test_class_orders_of_kinetics_that_do_not_fit(kinetics, tmp_path):
    order = tmp_path / "order.txt"
    order.write_text("riding a bike\t0\nabseiling\t1\n")
    with pytest.raises(ConfigError, match=r"1 classes are not in .*order\.txt, the first is .massaging person's head."):
        kinetics_plan([tmp_path / "train.csv"], kinetics, [order])
    order.write_text("riding a bike\nabseiling\nriding_a_bike\n")
    with pytest.raises(ConfigError, match="occur twice"):
        kinetics_plan([tmp_path / "train.csv"], kinetics, [order])
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\naaaaaaaaaaa,0,10,test\n")
    with pytest.raises(ConfigError, match=r"test\.csv: no column label; where labels are held out .*, leave the file"):
        kinetics_plan([tmp_path / "test.csv"], kinetics, None)


def test_the_published_class_orders(kinetics, tmp_path):
    folder = golden.require(golden.GOLDEN / "annotations")
    k400 = kinetics_plan([tmp_path / "train.csv"], kinetics, [folder / "k400/kinetics_400_categroies.txt"])
    assert [row.line.rsplit(" ", 1)[1] for row in k400.lists["train.csv"]][:2] == ["0", "341"]
    assert len(k400.classes["classes.txt"]) == 400
    both = [folder / "k600/k600_common_category.list", folder / "k600/k600_special_category.list"]
    assert len(kinetics_plan([tmp_path / "train.csv"], kinetics, both).classes["classes.txt"]) == 600


def test_published_counts_are_reported(kinetics, tmp_path):
    order = golden.require(golden.GOLDEN / "annotations/k400/kinetics_400_categroies.txt")
    (tmp_path / "val.csv").write_text(KINETICS.format(split="validate"))
    plan = kinetics_plan([tmp_path / "val.csv"], kinetics, [order])
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
    assert f"class numbers: as in {labels}" in text
    assert read_all(read(tmp_path / "out", "val")) == [5, 5]
    assert "ssv2_train.txt: 1 lines, the published list of ssv2-train has 168913" in text
    status, text = run(
        capsys, monkeypatch, "ssv2", *annotations, "--labels", labels, "--data", root, "--out", tmp_path / "out",
        "--check", "none",
    )  # fmt: skip
    assert (status, text.count("use --check packets or full")) == (2, 1)


def test_a_template_that_is_no_text(tmp_path):
    (tmp_path / "labels.json").write_text('{"Holding something": "0"}')
    (tmp_path / "train.json").write_text('[{"id": "1", "template": null}]')
    with pytest.raises(ConfigError, match=r"train\.json: expected .* a text as 'template'"):
        something_something("ssv2", {"train": tmp_path / "train.json"}, tmp_path / "labels.json", tmp_path)


def test_something_something_v1_as_frames(tmp_path):
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
    splits, root = {"train": train, "validation": val}, tmp_path / "frames"
    plan = something_something("ssv1", splits, tmp_path / "labels.csv", root)
    made = make_lists(plan, tmp_path / "out", check="none")
    # Numbered alphabetically, as in the published lists, not as in the file of labels.
    assert (tmp_path / "out/ssv1_train.txt").read_text() == "12 4 0\n7 3 1\n"
    assert (tmp_path / "out/ssv1_validation.txt").read_text() == "5 2 1\n"
    assert (tmp_path / "out/ssv1_train.left_out.txt").read_text() == "3\t2 frames, but no 00002.jpg\n9\tno frames\n"
    assert "class numbers: alphabetical" in made.notes
    assert read_all(read(tmp_path / "out", "train")) == [4, 3]
    train.write_text("12;Waving something\n")
    with pytest.raises(ConfigError, match=r"'Waving something' is no class of .*labels\.csv"):
        something_something("ssv1", splits, tmp_path / "labels.csv", root)
    frames(tmp_path / "frames/8", 2, "img_{:04d}.jpg")
    train.write_text("8;Holding something\n")
    with pytest.raises(ConfigError, match=r"named in different ways: img_\{:04d\}\.jpg, \{:05d\}\.jpg"):
        something_something("ssv1", splits, tmp_path / "labels.csv", root)


EPIC = "annotations/synthetic_epic_kitchens/EPIC_100_validation.csv"


def test_epic_kitchens(clip, tmp_path, capsys, monkeypatch):
    source = golden.require(golden.GOLDEN / EPIC)
    names = golden.GOLDEN / "annotations/epic100"
    root = tmp_path / "epic"
    frames(root / "P01/rgb_frames/P01_01", 250, "frame_{:010d}.jpg")
    frames(root / "P22/rgb_frames/P22_107", 2, "frame_{:010d}.jpg")
    place(clip, root / "P04/videos/P04_121.MP4")
    status, text = run(
        capsys, monkeypatch, "epic", source, "--data", root, "--out", tmp_path / "out", "--classes",
        names / "EPIC_100_noun_classes.csv", names / "EPIC_100_verb_classes.csv",
    )  # fmt: skip
    assert status == 1
    lines = source.read_text().splitlines()
    kept = [line for line in lines if line.startswith(("narration_id", "P01_01_0,"))]
    assert (tmp_path / "out/EPIC_100_validation.csv").read_text().splitlines() == kept
    assert (tmp_path / "out/EPIC_100_validation.left_out.txt").read_text().splitlines() == [
        "P01_01_1\tends at frame 369, P01/rgb_frames/P01_01 has 250",
        "P04_121_0\tonly as a video, P04/videos/P04_121.MP4; most others are frames",
        "P22_107_7\tends at frame 33274, P22/rgb_frames/P22_107 has 2",
    ]
    assert len(read_class_names(tmp_path / "out/verbs.txt")) == 97
    assert len(read_class_names(tmp_path / "out/nouns.txt")) == 300
    assert "the published list of epic100-val has 9668" in text
    cfg = load_config(tmp_path / "out/data.yaml")
    names = [str(tmp_path / f"out/{kind}.txt") for kind in ("verbs", "nouns")]
    assert names == cfg.DATA.CLASS_NAMES
    assert read_all(split_list(cfg, "val")) == [202 - 8]


LAYOUTS = ["{p}/{kind}/{v}", "{p}/{v}", "{kind}/{p}/{v}", "{kind}/{v}", "{v}"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stored", ["frames", "videos"])
def test_epic_kitchens_as_users_have_it(clip, tmp_path, layout, stored):
    """The maker of lists and the reader find the same files, wherever these are."""
    kind, file = {"frames": ("rgb_frames", ""), "videos": ("videos", ".MP4")}[stored]
    for video in ("P01_01", "P04_121"):
        path = tmp_path / "epic" / (layout.format(p=video[:3], kind=kind, v=video) + file)
        if stored == "frames":
            frames(path, 60, "frame_{:010d}.jpg")
        else:
            place(clip, path)
    (tmp_path / "EPIC_100_train.csv").write_text(dataset_fixtures.EPIC_HEADER + dataset_fixtures.EPIC_ROWS)
    made = make_lists(epic([tmp_path / "EPIC_100_train.csv"], tmp_path / "epic"), tmp_path / "out", check="none")
    assert made.complete
    actions = read(tmp_path / "out", "train")
    for index in range(2):
        assert Path(actions.path(index)).exists()
    if stored == "frames":
        assert read_all(actions) == [36 - 8, 50 - 27]


def test_actions_of_a_broken_video_are_all_named(tmp_path):
    table = tmp_path / "EPIC_100_train.csv"
    table.write_text(dataset_fixtures.EPIC_HEADER + dataset_fixtures.EPIC_ROWS.splitlines(keepends=True)[0] * 2)
    frames(tmp_path / "epic/P01_01", 60, "frame_{:010d}.jpg")
    (tmp_path / "epic/P01_01/frame_0000000050.jpg").unlink()
    (tmp_path / "epic/P01_01/frame_0000000051.jpg").rename(tmp_path / "epic/P01_01/frame_0000000061.jpg")
    made = make_lists(epic([table], tmp_path / "epic"), tmp_path / "out", workers=1)
    cause = "P01_01: 2 of 59 frames are missing, the first is frame_0000000050.jpg"
    assert made.left_out[table.name] == [("P01_01_0", cause)] * 2
    assert made.lists[table.name] == 0


def test_epic_kitchens_missing_or_packed(tmp_path):
    table = tmp_path / "EPIC_100_train.csv"
    table.write_text(dataset_fixtures.EPIC_HEADER + dataset_fixtures.EPIC_ROWS)
    frames(tmp_path / "epic/P03/rgb_frames/P03_01", 1, "frame_{:010d}.jpg")
    (tmp_path / "epic/P01/rgb_frames").mkdir(parents=True)
    (tmp_path / "epic/P01/rgb_frames/P01_01.tar").touch()
    assert epic([table], tmp_path / "epic").left_out[table.name] == [
        ("P01_01_0", "not found: P01/rgb_frames/P01_01.tar has to be unpacked into a folder P01/rgb_frames/P01_01"),
        ("P04_121_0", "not found: neither frames nor a video of P04_121"),
    ]
    rows = dataset_fixtures.EPIC_ROWS.replace(",P04_121,", ",/P04_121,")
    table.write_text(dataset_fixtures.EPIC_HEADER + rows)
    cause = "not found: neither frames nor a video of /P04_121"
    assert epic([table], tmp_path / "epic").left_out[table.name][1] == ("P04_121_0", cause)
    table.write_text(dataset_fixtures.EPIC_HEADER + dataset_fixtures.EPIC_ROWS.replace("00:00:00.54", "0:54"))
    frames(tmp_path / "epic/P04_121", 1, "frame_{:010d}.jpg")
    with pytest.raises(ConfigError, match=r"train\.csv: P04_121_0: time stamp '0:54' is not of the form"):
        epic([table], tmp_path / "epic")


UCF = {
    "classInd.txt": "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n",
    "trainlist01.txt": (
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\nHandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\n"
    ),
    "testlist01.txt": (
        "HandstandPushups/v_HandStandPushups_g01_c01.avi\r\nApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\n"
    ),
}


def write_all(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, newline="")
    return folder


def test_ucf101(clip, tmp_path, capsys, monkeypatch):
    splits = write_all(tmp_path / "ucfTrainTestlist", UCF)
    root = tmp_path / "UCF-101"
    place(
        clip,
        root / "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        # Another spelling and another suffix, as in copies that were encoded again.
        root / "HandstandPushups/v_HandstandPushups_g08_c01.mp4",
        root / "HandstandPushups/v_HandStandPushups_g01_c01.avi",
    )
    (root / "HandstandPushups/v_HandStandPushups_g01_c01.avi").write_text("no video")
    status, text = run(capsys, monkeypatch, "ucf101", splits, "--data", root, "--out", tmp_path / "out", "--workers", 1)
    assert (status, "nothing" in text) == (1, False)
    assert (tmp_path / "out/train.csv").read_text() == (
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 0\nHandstandPushups/v_HandstandPushups_g08_c01.mp4 1\n"
    )
    assert (tmp_path / "out/val.left_out.txt").read_text() == (
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\tnot found\n"
        "HandstandPushups/v_HandStandPushups_g01_c01.avi\tnot a video, or its header is missing\n"
    )
    assert read_class_names(tmp_path / "out/classes.txt") == ["ApplyEyeMakeup", "HandstandPushups"]
    assert "train.csv: 2 lines, the published list of ucf101-train has 9537" in text
    assert read_all(read(tmp_path / "out", "train")) == [5, 5]


def test_split_files_of_ucf101_that_do_not_fit(tmp_path):
    splits = write_all(tmp_path / "ucfTrainTestlist", UCF | {"trainlist01.txt": "Archery/v_Archery_g08_c01.avi 3\n"})
    with pytest.raises(ConfigError, match=r"trainlist01\.txt: Archery/v_.*: its folder is no class of classInd\.txt"):
        ucf101(splits, 1, tmp_path)
    with pytest.raises(ConfigError, match=r"trainlist02\.txt: cannot read this"):
        ucf101(splits, 2, tmp_path)


HMDB = {
    "brush_hair_test_split1.txt": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \n(Rad)_brush_hair_1.avi 2 \nx.avi 0 \n",
    "wave_test_split1.txt": "a!_wave_f_cm_0.avi 1 \nb_wave.avi 2 \n",
    "wave_test_split2.txt": "a!_wave_f_cm_0.avi 2 \n",
}


@pytest.mark.parametrize("stored", ["frames", "videos"])
def test_hmdb51(clip, tmp_path, stored):
    splits = write_all(tmp_path / "testTrainMulti_7030_splits", HMDB)
    for name in (
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0",
        "brush_hair/(Rad)_brush_hair_1",
        "wave/a!_wave_f_cm_0",
    ):
        if stored == "frames":
            frames(tmp_path / "data" / name, 5, "img_{:05d}.jpg")
        else:
            place(clip, tmp_path / "data" / f"{name}.avi")
    made = make_lists(hmdb51(splits, 1, tmp_path / "data"), tmp_path / "out", workers=1)
    assert (tmp_path / "out/train.txt").read_text() == (
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0 5 0\nwave/a!_wave_f_cm_0 5 1\n"
    )
    assert (tmp_path / "out/val.txt").read_text() == "brush_hair/(Rad)_brush_hair_1 5 0\n"
    assert made.left_out == {"train.txt": [], "val.txt": [("wave/b_wave", "not found")]}
    assert read_all(read(tmp_path / "out", "train")) == [5, 5]
    assert read_class_names(tmp_path / "out/classes.txt") == ["brush_hair", "wave"]


def test_split_files_of_hmdb51_that_do_not_fit(clip, tmp_path):
    splits = write_all(tmp_path / "splits", HMDB | {"wave_test_split1.txt": "a.avi train\n"})
    with pytest.raises(
        ConfigError, match=r"wave_test_split1\.txt: lines are 'video\.avi 0', 1 or 2; got 'a\.avi train'"
    ):
        hmdb51(splits, 1, tmp_path)
    with pytest.raises(ConfigError, match=r"splits: no files of split 3 \(brush_hair_test_split3\.txt\)"):
        hmdb51(splits, 3, tmp_path)


def test_files_of_two_kinds(clip, tmp_path):
    splits = write_all(tmp_path / "splits", HMDB)
    names = ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "a!_wave_f_cm_0.avi", "b_wave.mp4")
    place(clip, *(tmp_path / "data" / name for name in names))
    left_out = hmdb51(splits, 1, tmp_path / "data").left_out["val.txt"]
    assert ("wave/b_wave", "is a .mp4 file, and most are .avi; a list has files of one kind") in left_out


def test_imagenet_as_downloaded(tmp_path, capsys, monkeypatch):
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
    names = tmp_path / "LOC_synset_mapping.txt"
    names.write_text("n01 tench, Tinca tinca\nn02 goldfish\n")
    command = ["imagenet", "--data", root, "--out", tmp_path / "out", "--val-labels", truth, "--classes", names]
    assert run(capsys, monkeypatch, *command)[0] == 1
    assert read_class_names(tmp_path / "out/classes.txt") == ["n01 tench, Tinca tinca", "n02 goldfish"]
    assert read_all(read(tmp_path / "out", "train")) == [1, 1, 1]
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
        "val/ILSVRC2012_val_00000002.JPEG\tnot a picture, or its header is missing\n"
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
    made = make_lists(folder(other), tmp_path / "other", check="packets", workers=1)
    assert made.complete
    assert (tmp_path / "other/train.csv").read_text() == "train/a/2.mp4 0\ntrain/b/1.mp4 1\n"
    assert (tmp_path / "other/val.csv").read_text() == "val/b/3.mp4 1\n"
    place(clip, other / "train/4.mp4")
    with pytest.raises(ConfigError, match=r"4\.mp4: lies in no folder of a class"):
        folder(other)


def test_nothing_to_list(tmp_path, capsys, monkeypatch):
    (tmp_path / "train.csv").write_text(KINETICS.format(split="train"))
    (tmp_path / "empty").mkdir()
    command = ["kinetics", tmp_path / "train.csv", "--classes", "alphabetical", "--out", tmp_path / "out"]
    status, text = run(capsys, monkeypatch, *command, "--data", tmp_path / "empty")
    assert status == 2
    assert "nothing of what is annotated is here, for example aaaaaaaaaaa, from second 5: not found" in text
    assert run(capsys, monkeypatch, *command, "--data", tmp_path / "no")[0] == 2
    assert not (tmp_path / "out").exists()


def test_a_stopped_command_does_not_read_again_what_it_knows(clip, tmp_path, monkeypatch):
    root, out = tmp_path / "data", tmp_path / "out"
    place(clip, *(root / f"{name}/{i}.mp4" for name in "ab" for i in range(3)))
    (root / "b/broken.mp4").write_text("no video")

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        make_lists(folder(root), out, workers=1, progress=stop)
    assert not (out / "train.csv").exists()
    read = []
    monkeypatch.setattr(verify_module, "run_jobs", lambda work, items, **_: read_by(read, work, items))
    made = make_lists(folder(root), out)
    assert len(read) == 4
    assert made.left_out == {"train.csv": [("b/broken.mp4", "not a video, or its header is missing")]}
    # Afterwards only what is faulty, has changed or was not looked at in the same way.
    read.clear()
    place(clip, root / "a/1.mp4")
    make_lists(folder(root), out)
    assert sorted(Path(check.path).name for check in read) == ["1.mp4", "broken.mp4"]
    read.clear()
    make_lists(folder(root), out, check="full")
    assert len(read) == 7


def read_by(read, work, items):
    for number, item in enumerate(items):
        read.append(item)
        yield number, work(item, lambda: None)


def test_names_that_a_list_cannot_hold(clip, tmp_path):
    root = tmp_path / "data"
    place(clip, *(root / name for name in ("a/1.mp4", "a/2\n.mp4", " b/3.mp4", "c/ 4.mp4")))
    made = make_lists(folder(root), tmp_path / "out", check="none")
    assert (tmp_path / "out/train.csv").read_text() == "a/1.mp4 1\nc/ 4.mp4 2\n"
    assert (tmp_path / "out/train.left_out.txt").read_text() == (
        " b/3.mp4\ta list cannot hold a blank at its beginning\na/2 .mp4\ta list cannot hold a line break in its name\n"
    )
    assert not made.complete
    for work in (verify_module.verify, lambda source, **_: resize(source, tmp_path / "small", Encoding())):
        with pytest.raises(ConfigError, match=r"' b/3\.mp4' has a blank at its beginning, which a list cannot hold"):
            work(root, workers=1)


def test_a_split_of_folders_leaves_nothing_out_in_silence(clip, tmp_path):
    place(clip, tmp_path / "train/x/1.mp4", tmp_path / "val/x/2.mp4", tmp_path / "bus/3.mp4", tmp_path / "car/4.mp4")
    assert "left out, beside train and val: 2 videos, the first is bus/3.mp4" in folder(tmp_path).notes
    with pytest.raises(ConfigError, match=r"--val-fraction: .* has a split of its own \(train, val\)"):
        folder(tmp_path, val_fraction=0.2)
    for share in (1, -0.1):
        with pytest.raises(ConfigError, match=r"--val-fraction is .* from 0 to below 1"):
            folder(tmp_path / "train", val_fraction=share)


def test_links_are_followed_but_not_in_circles(clip, tmp_path):
    place(clip, tmp_path / "store/deep/1.mp4", tmp_path / "store/deep/2.mp4")
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / name).symlink_to(tmp_path / "store/deep")
    (tmp_path / "store/deep/up").symlink_to(tmp_path / "store")
    (tmp_path / "store/deep/over").symlink_to(tmp_path / "data")
    found = list(find_files(tmp_path / "data", [".mp4"]))
    assert set(found) >= {"a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4"}
    assert max(name.count("/") for name in found) < 6


KINETICS_HEADER = "label,youtube_id,time_start,time_end,split\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("run,aaaaaaaaaaa,1,2,val\nrun,bbbbbbbbbbb\n", r"val\.csv, line 3: this line ends too early"),
        ("run,aaaaaaaaaaa,,,val\n", "aaaaaaaaaaa: time_start '' is no number"),
        ("run,aaaaaaaaaaa,inf,,val\n", "aaaaaaaaaaa: time_start 'inf' is no number"),
        ("run,aaaaaaaaaaa,1,2,val\n,bbbbbbbbbbb,1,2,val\n", r"val\.csv: bbbbbbbbbbb has no label"),
        ("run,aaaaaaaaaaa,1,2,dev\n", "unknown split 'dev'"),
        ('run,a,1,2,val\nrun,b,1,2,"val\nrun,c,1,2,val\n', r"val\.csv, line 3: quotation marks that do not pair"),
        ("", "no rows"),
    ],
)
def test_damaged_tables_of_kinetics(tmp_path, rows, message):
    (tmp_path / "val.csv").write_text(KINETICS_HEADER + rows)
    with pytest.raises(ConfigError, match=message):
        kinetics_plan([tmp_path / "val.csv"], tmp_path, None)


def test_a_table_that_begins_with_an_empty_line(tmp_path):
    (tmp_path / "val.csv").write_text(f"\n{KINETICS_HEADER}run,aaaaaaaaaaa,1,2,val\n")
    with pytest.raises(ConfigError, match=r"val\.csv: no column youtube_id"):
        kinetics_plan([tmp_path / "val.csv"], tmp_path, None)


def test_tables_as_a_spreadsheet_writes_them(clip, tmp_path):
    place(clip, tmp_path / "data/aaaaaaaaaaa.mp4", tmp_path / "data/P01/videos/P01_01.MP4")
    rows = "run,aaaaaaaaaaa,1,2,train\n\n   \n"
    (tmp_path / "train.csv").write_bytes(f"\ufeff{KINETICS_HEADER}{rows}".replace("\n", "\r\n").encode())
    plan = kinetics_plan([tmp_path / "train.csv"], tmp_path / "data", None)
    assert [row.line for row in plan.lists["train.csv"]] == ["aaaaaaaaaaa.mp4 0"]
    head, row = dataset_fixtures.EPIC_HEADER, dataset_fixtures.EPIC_ROWS.splitlines()[0]
    table = tmp_path / "EPIC_100_train.csv"
    table.write_bytes(f"\ufeff{head}{row}\n  \n".replace("\n", "\r\n").encode())
    plan = epic([table], tmp_path / "data")
    assert [row.line for row in plan.lists[table.name]] == [row]
    for wrong, message in ((f"{row}\nP01_01_1,P01\n", "line 3: this line ends too early"),
                           (row.replace("open door", '"open\ndoor"'), "a row goes over several lines")):  # fmt: skip
        table.write_text(head + wrong)
        with pytest.raises(ConfigError, match=message):
            epic([table], tmp_path / "data")


def test_a_picture_without_a_known_class_is_left_out(tmp_path):
    frames(tmp_path / "train/n01440764", 1)
    frames(tmp_path / "val", 2, "{:d}.jpg")
    (tmp_path / "labels.csv").write_text("ImageId,PredictionString\n1,n01440764 1 2 3 4\n2,\n")
    plan = imagenet(tmp_path, tmp_path / "labels.csv")
    assert [row.file for row in plan.lists["val.json"]] == ["val/1.jpg"]
    assert plan.left_out["val.json"] == [("val/2.jpg", "its class is not known")]


def test_hidden_pictures_are_no_frames(tmp_path):
    # Nor is every character that ends lines elsewhere the end of a line.
    (tmp_path / "train.json").write_text('[{"id": "7", "label": "a\u2028b", "template": "Pushing [something]"}]')
    (tmp_path / "labels.json").write_text('{"Pushing something": "0"}')
    frames(tmp_path / "frames/7", 3, "a{{b}}_{:03d}.jpg")
    for number in (1, 2, 3):
        (tmp_path / f"frames/7/._a{{b}}_{number:03d}.jpg").touch()
    splits, root = {"train": tmp_path / "train.json"}, tmp_path / "frames"
    plan = something_something("ssv2", splits, tmp_path / "labels.json", root)
    assert make_lists(plan, tmp_path / "out").complete
    assert (tmp_path / "out/ssv2_train.txt").read_text() == "7 3 0\n"
    assert read_all(read(tmp_path / "out", "train")) == [3]


def test_names_of_any_bytes(clip, tmp_path):
    root = tmp_path / os.fsdecode(b"data \xff")
    place(clip, *(root / os.fsdecode(name) for name in (b"caf\xe9/\xfe.mp4", "größe/1.mp4".encode())))
    make_lists(folder(root), tmp_path / "out", workers=1)
    made = read(tmp_path / "out", "train")
    assert read_all(made) == [5, 5]
    assert read_class_names(tmp_path / "out/classes.txt") == ["caf\\xe9", "größe"]


def test_two_files_for_one_list_are_refused(tmp_path, capsys, monkeypatch):
    (tmp_path / "more").mkdir()
    common = ["--data", tmp_path, "--out", tmp_path / "out"]
    twice = ["ssv1", tmp_path / "train.csv", tmp_path / "more-train.csv", "--labels", tmp_path / "labels.csv"]
    for words in (twice, ["epic", tmp_path / "EPIC_100_train.csv", tmp_path / "more/EPIC_100_train.csv"]):
        status, text = run(capsys, monkeypatch, *words, *common)
        assert (status, "would become one list" in text) == (2, True), text
