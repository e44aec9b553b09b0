"""List files and class names, and what is said about mistakes in them."""

import json
import os
import pickle
import tracemalloc
from functools import partial
from pathlib import Path

import dataset_fixtures
import golden
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videobench.config import ConfigError
from videobench.datasets.annotations import read_class_names, read_kinetics, read_list
from videobench.datasets.something_something import read_folder_list


def write(path, text):
    path.write_text(text)
    return path


def test_paths_labels_and_prefix(tmp_path):
    videos = read_list(write(tmp_path / "train.csv", "a/b.mp4 3\n\nwith blank.mp4 0\n"), prefix="/data")
    assert len(videos) == 2
    assert [videos.name(i) for i in range(2)] == ["a/b.mp4", "with blank.mp4"]
    assert videos.path(1) == "/data/with blank.mp4"
    assert videos.labels.tolist() == [3, 0]


@given(
    st.lists(
        st.tuples(st.text(st.characters(blacklist_categories=["C", "Z"]), min_size=1), st.integers(0, 9)), min_size=1
    )
)
def test_any_names_come_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("list") / "train.csv"
    path.write_text("".join(f"{name},{label}\n" for name, label in rows), encoding="utf-8")
    videos = read_list(path, separator=",", num_classes=10)
    assert [(videos.name(i), int(videos.labels[i])) for i in range(len(videos))] == rows


def column_bytes(value):
    """Bytes of the arrays of a list, those of its columns too."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else vars(value).values() if hasattr(value, "__dict__") else ()
    return sum(column_bytes(part) for part in parts)


LISTS = {
    "kinetics": ("train.csv", "folder/{:07d}.mp4 7\n", read_kinetics),
    "multi-label": ("train.csv", "folder/{:07d}.mp4 7;9\n", read_kinetics),
    "sth": ("somesomev1_rgb_train_split.txt", "{:07d} 44 7\n", partial(read_folder_list, rule="segments_sth")),
}


@pytest.mark.parametrize("kind", LISTS)
def test_lines_become_columns(tmp_path, kind):
    file, line, read = LISTS[kind]
    count = 5_000
    (tmp_path / file).write_text("".join(map(line.format, range(count))))
    cfg = dataset_fixtures.config("kinetics", tmp_path, "DATA.MULTI_LABEL", kind == "multi-label")
    tracemalloc.start()
    try:
        videos = read(cfg, "train")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(videos) == count
    assert videos.name(count - 1).endswith("0004999" + ".mp4" * (kind != "sth"))
    # Text once, where it ends, the label (and the frames, or where the labels end): nothing else.
    assert column_bytes(videos) < (len(line.format(0)) + 28) * count
    assert held < 1.2 * column_bytes(videos) + 100_000
    assert peak < 2.5 * column_bytes(videos) + 100_000
    assert len(pickle.dumps(videos, protocol=5)) < 1.01 * column_bytes(videos) + 2000


def test_a_million_lines(tmp_path):
    path, count = tmp_path / "list.csv", 1_000_000
    path.write_text("".join(f"folder/{i:07d}.mp4 {i % 400}\n" for i in range(count)))
    before = private_bytes()
    videos = read_list(path)
    # A string and a number as Python objects would take twice what the process grows by, and five times the columns.
    assert private_bytes() - before < 100 * count
    assert column_bytes(videos) < 35 * count
    assert (videos.name(765_432), videos.label(765_432)) == ("folder/0765432.mp4", 765_432 % 400)


def test_forked_readers_share_the_columns(tmp_path):
    count = 50_000
    (tmp_path / "list.csv").write_text("".join(f"folder/{i:07d}.mp4 7\n" for i in range(count)))
    videos = read_list(tmp_path / "list.csv")
    columns = [videos.labels, videos.names.text, videos.names.ends]
    reader, writer = os.pipe()
    if not (child := os.fork()):
        # Reading every record copies no page: reference counts stand outside the arrays.
        before = private_bytes()
        for i in range(count):
            videos.name(i), videos.label(i)
        os.write(writer, str(private_bytes() - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reader, 100)) < sum(column.nbytes for column in columns) / 4


def private_bytes():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) * 1024


def test_several_labels(tmp_path):
    path = write(tmp_path / "list.csv", "a.mp4 3\nb b.mp4 0;4,2\n")
    videos = read_list(path, num_classes=5, multi_label=True)
    assert [videos.name(i) for i in range(2)] == ["a.mp4", "b b.mp4"]
    assert videos.label(0).tolist() == [0, 0, 0, 1, 0]
    assert videos.label(1).tolist() == [1, 0, 1, 0, 1]
    assert videos.labels[np.array([1, 0])].tolist() == [[1, 0, 1, 0, 1], [0, 0, 0, 1, 0]]
    assert videos.labels[np.array([], int)].shape == (0, 5)
    commas = read_list(write(tmp_path / "commas.csv", "a.mp4,1;4\n"), separator=",", num_classes=5, multi_label=True)
    assert commas.label(0).tolist() == [0, 1, 0, 0, 1]
    for text, message in (
        ("a.mp4 1;5\n", r"line 1: label 5 is out of range, expected 0 to 4"),
        ("a.mp4 1;\n", r"line 1: expected 'path label\[;label...\]' .*got 'a.mp4 1;'"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_list(write(tmp_path / "bad.csv", text), num_classes=5, multi_label=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\nb.mp4\n", r"list\.csv, line 2: expected 'path label'.*got 'b\.mp4'"),
        ("a.mp4,0\n", r"line 1: expected 'path label'.*DATA\.PATH_LABEL_SEPARATOR is ' '"),
        ("a.mp4 zero\n", "line 1: expected"),
        ("a.mp4 0\n\nb.mp4 5\n", r"line 3: label 5 is out of range, expected 0 to 4 \(MODEL\.NUM_CLASSES is 5\)"),
        ("a.mp4 -1\n", "label -1 is out of range"),
        ("\n\n", r"list\.csv: this list file has no videos"),
    ],
)
def test_bad_lists_name_file_and_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_list(write(tmp_path / "list.csv", text), num_classes=5)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_and_names_that_a_spreadsheet_wrote(tmp_path, mark, end):
    lists = write(tmp_path / "list.csv", f"{mark}a/één b.mp4 0{end}c.mp4 1{end}")
    found = read_list(lists, num_classes=2)
    assert ([found.name(i) for i in range(2)], found.labels.tolist()) == (["a/één b.mp4", "c.mp4"], [0, 1])
    assert read_class_names(write(tmp_path / "names.txt", f"{mark}jump{end}run{end}")) == ["jump", "run"]
    assert read_class_names(write(tmp_path / "verbs.csv", f"{mark}id,key{end}1,put{end}0,take{end}")) == ["take", "put"]
    assert read_class_names(write(tmp_path / "signs.txt", f"{mark}a ²{end}b ³{end}")) == ["a ²", "b ³"]


def test_a_missing_list_names_the_key(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.csv: cannot read this list file.*DATA\.PATH_TO_DATA_DIR"):
        read_list(tmp_path / "gone.csv")


def test_class_names_by_line_or_number(tmp_path):
    assert read_class_names(write(tmp_path / "a.txt", "riding a bike\nzumba\n")) == ["riding a bike", "zumba"]
    assert read_class_names(write(tmp_path / "b.txt", "zumba\t1\nriding a bike\t0\n")) == ["riding a bike", "zumba"]
    with pytest.raises(ConfigError, match="class numbers must be 0 to 1, each once"):
        read_class_names(write(tmp_path / "c.txt", "zumba 1\nbike 1\n"))
    with pytest.raises(ConfigError, match="empty"):
        read_class_names(write(tmp_path / "d.txt", "\n"))
    with pytest.raises(ConfigError, match="cannot read the class names"):
        read_class_names(tmp_path / "gone.txt")


def test_other_forms_of_class_names(tmp_path):
    assert read_class_names(write(tmp_path / "ucf.txt", "1 ApplyEyeMakeup\n2 Archery\n")) == [
        "ApplyEyeMakeup",
        "Archery",
    ]
    assert read_class_names(write(tmp_path / "zero.txt", "0 a b\n1 c\n")) == ["a b", "c"]
    assert read_class_names(write(tmp_path / "names.txt", "1 thing\nno number\n")) == ["1 thing", "no number"]
    epic = "id,key,instances,category\n1,put,\"['a', 'b']\",x\n0,take,[],y\n"
    assert read_class_names(write(tmp_path / "epic.csv", epic)) == ["take", "put"]
    labels = write(tmp_path / "labels.json", json.dumps({"Pushing": "1", "Holding": "0"}))
    assert read_class_names(labels) == ["Holding", "Pushing"]
    parts = [write(tmp_path / "common.list", "b 1\nd 3\n"), write(tmp_path / "special.list", "a 0\nc 2\n")]
    assert read_class_names(parts) == ["a", "b", "c", "d"]
    with pytest.raises(ConfigError, match=r"common\.list: class numbers must be 0 to 1, each once"):
        read_class_names(parts[0])
    with pytest.raises(ConfigError, match=r"labels\.json: class numbers must be 0 to 0"):
        read_class_names(write(tmp_path / "labels.json", '{"Pushing": "1"}'))
    with pytest.raises(ConfigError, match=r"bad\.csv: expected a number and a name in the columns id and key"):
        read_class_names(write(tmp_path / "bad.csv", "id,key\none,two\n"))


def test_real_class_names():
    folder = golden.require(golden.GOLDEN / "annotations")
    for file, count, first in (
        ("k400/kinetics_400_categroies.txt", 400, "riding a bike"),
        ("sthv1/category.txt", 174, "Approaching something with your camera"),
        ("sthv2/category.txt", 174, "Approaching [something] with your camera"),
        ("epic100/EPIC_100_verb_classes.csv", 97, "take"),
        ("epic100/EPIC_100_noun_classes.csv", 300, "tap"),
        ("epic100/EPIC_100_noun_classes_v2.csv", None, "tap"),
    ):
        names = read_class_names(folder / file)
        assert names[0] == first
        assert count in (None, len(names))
    both = read_class_names([folder / f"k600/k600_{part}_category.list" for part in ("common", "special")])
    assert (len(both), both[0]) == (600, "feeding_fish")


def test_class_names_that_come_along():
    # Brackets come before letters, as in the official table and in MoViNet's list of labels.
    assert read_class_names("kinetics600")[122:124] == ["curling (sport)", "curling hair"]
    folder = golden.require(golden.GOLDEN / "annotations")
    names = read_class_names("something_something")
    assert names == read_class_names(folder / "sthv1/category.txt")
    assert len(names) == 174
    # The official numbers of V2 are these, and so are those of its published lists, whatever the file beside them says.
    brackets = str.maketrans("", "", "[]")
    assert names == sorted(name.translate(brackets) for name in read_class_names(folder / "sthv2/category.txt"))
    official = {"42326": "Spreading something onto something", "78687": "Holding something next to something"}
    listed = dict(line.split(" ")[::2] for line in (folder / "sthv2/somesomev2_rgb_train_split.txt").open())
    assert {video: names[int(listed[video])] for video in official} == official


def test_real_list_files():
    folder = golden.require(golden.GOLDEN / "annotations")
    videos = read_list(folder / "k400/val.csv", separator=",", num_classes=400)
    assert len(videos) == 50
    names = read_class_names(folder / "k400/kinetics_400_categroies.txt")
    assert (len(names), names[0]) == (400, "riding a bike")
    assert len(read_list(folder / "ucf101/train.csv", num_classes=101)) == 50
