"""List files and class names, and what is said about mistakes in them."""

import golden
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videobench.config import ConfigError
from videobench.datasets.annotations import read_class_names, read_list


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


def test_columns_not_objects(tmp_path):
    count = 20_000
    videos = read_list(write(tmp_path / "long.csv", "".join(f"folder/{i:06d}.mp4 {i % 400}\n" for i in range(count))))
    assert videos.name(count - 1) == f"folder/{count - 1:06d}.mp4"
    columns = [value for value in vars(videos).values() if isinstance(value, np.ndarray)]
    assert sum(c.nbytes for c in columns) < 40 * count


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


def test_real_list_files():
    folder = golden.require(golden.GOLDEN / "annotations")
    videos = read_list(folder / "k400/val.csv", separator=",", num_classes=400)
    assert len(videos) == 50
    names = read_class_names(folder / "k400/kinetics_400_categroies.txt")
    assert (len(names), names[0]) == (400, "riding a bike")
    assert len(read_list(folder / "ucf101/train.csv", num_classes=101)) == 50
