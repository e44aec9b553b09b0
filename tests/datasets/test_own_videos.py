"""Classes and splits of somebody's own folder or table."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videobench.config import ConfigError
from videobench.datasets.annotations import read_class_names, read_list
from videobench.datasets.own_videos import own_videos, stratified_split
from videobench.datasets.preparation.files import read_entries


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def many(label: str, count: int) -> list[str]:
    return [f"{label}/{number}.mp4" for number in range(count)]


def test_sub_folders_are_classes(tmp_path):
    root = make(tmp_path / "mine", *many("jump high", 5), *many("run", 10), "run/deeper/x.avi", "run/.hidden.mp4")
    found = own_videos(root, val_share=0.2)
    assert found.root == root.resolve()
    assert found.classes == ["jump high", "run"]
    assert (len(found.train), len(found.val)) == (4 + 9, 1 + 2)
    assert {name for name, _ in found.train + found.val} == {
        *many("jump high", 5),
        *many("run", 10),
        "run/deeper/x.avi",
    }
    assert all(label == (not name.startswith("jump")) for name, label in found.train + found.val)
    assert not set(found.train) & set(found.val)


def test_the_lists_are_read_as_they_were_meant(tmp_path):
    names = ["take 0/a b.mp4", "take 0/c.mp4", "take 1/d.mp4", "take 1/é.MOV"]
    found = own_videos(make(tmp_path / "mine", *names))
    found.write_lists(tmp_path / "lists")
    # Names that end in a number stay whole.
    assert read_class_names(tmp_path / "lists/classes.txt") == ["take 0", "take 1"]
    for split, videos in (("train", found.train), ("val", found.val)):
        listed = read_list(tmp_path / f"lists/{split}.csv", prefix=str(found.root), num_classes=2)
        assert [(listed.name(i), int(listed.labels[i])) for i in range(len(listed))] == videos
        assert all(Path(listed.path(i)).exists() for i in range(len(listed)))


def test_what_is_left_out_is_said(tmp_path):
    root = make(tmp_path, *many("a", 2), *many("b", 2), "loose.mp4", "a/notes.txt", "empty/readme")
    notes = "\n".join(own_videos(root).notes)
    for text in ("in no sub-folder of a class: loose.mp4", "no video is in them: empty", ".txt", "drawn with seed 0"):
        assert text in notes


def test_a_split_of_folders_is_kept(tmp_path):
    root = make(tmp_path, *(f"train/{n}" for n in many("a", 3) + many("b", 2)), "val/b/9.mp4", "val/a/9.mp4")
    found = own_videos(root)
    assert found.classes == ["a", "b"]
    assert (len(found.train), found.val) == (5, [("val/a/9.mp4", 0), ("val/b/9.mp4", 1)])


@pytest.mark.parametrize(
    "text", ["{0},{1}", "{0}\t{1}", "{0} {1}", 'label,path\n{1},"{0}"', "File,fps,Class\n{0},25,{1}"]
)
def test_tables_of_names(tmp_path, text):
    videos = [("x/1.mp4", "walk"), ("x/2.mp4", "run"), ("y/3.mp4", "walk"), ("y/4.mp4", "run")]
    make(tmp_path, *(name for name, _ in videos))
    head, _, line = text.rpartition("\n")
    table = tmp_path / "mine.csv"
    table.write_text("\n".join([head, *(line.format(*video) for video in videos), ""]), encoding="utf-8-sig")
    found = own_videos(table)
    assert found.classes == ["run", "walk"]
    assert sorted(found.train + found.val) == [(name, int(label == "walk")) for name, label in videos]


def test_lines_may_end_with_carriage_returns(tmp_path):
    make(tmp_path, *many("x", 4))
    (tmp_path / "mine.csv").write_bytes(b"x/0.mp4,a\rx/1.mp4,b\rx/2.mp4,a\rx/3.mp4,b\r")
    found = own_videos(tmp_path / "mine.csv")
    assert (found.classes, sorted(found.train + found.val)) == (["a", "b"], [(f"x/{i}.mp4", i % 2) for i in range(4)])
    (tmp_path / "list.csv").write_bytes(b"x/0.mp4 0\rx/1.mp4 1\r")
    assert [(entry.name, entry.rest) for entry in read_entries(tmp_path / "list.csv")] == [
        ("x/0.mp4", " 0"),
        ("x/1.mp4", " 1"),
    ]


def test_numbers_are_named_by_the_file_beside_them(tmp_path):
    make(tmp_path, *many("x", 8))
    lines = [f"x/{number}.mp4 {number % 2 * 2}" for number in range(8)]
    (tmp_path / "train.csv").write_text("\n".join(lines[:6]))
    (tmp_path / "val.csv").write_text("\n".join(lines[6:]))
    assert own_videos(tmp_path).classes == ["0", "2"]
    (tmp_path / "classes.txt").write_text("up\ndown\nstill\n")
    found = own_videos(tmp_path)
    assert found.classes == ["up", "down", "still"]
    assert found.val == [("x/6.mp4", 0), ("x/7.mp4", 2)]
    assert any("cannot be learned: down" in note for note in found.notes)
    (tmp_path / "classes.txt").write_text("up\ndown\n")
    with pytest.raises(ConfigError, match="has 2 classes, but there is a label 2; labels are 0 to 1"):
        own_videos(tmp_path)
    (tmp_path / "val.csv").write_text("x/6.mp4 00\nx/7.mp4 01\n")
    (tmp_path / "train.csv").write_text("x/0.mp4 00\nx/1.mp4 01\n")
    with pytest.raises(ConfigError, match="has 2 classes, but there is a label 01"):
        own_videos(tmp_path)


def test_paths_of_a_table_can_be_relative_to_another_folder(tmp_path):
    make(tmp_path / "videos", *many("a", 2), *many("b", 2))
    (tmp_path / "mine.csv").write_text("a/0.mp4,a\na/1.mp4,a\nb/0.mp4,b\nb/1.mp4,b\n")
    with pytest.raises(ConfigError, match=r"4 of 4 videos do not exist: a/0\.mp4.*DATA\.PATH_PREFIX"):
        own_videos(tmp_path / "mine.csv")
    assert own_videos(tmp_path / "mine.csv", root=tmp_path / "videos").root == (tmp_path / "videos").resolve()


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
)
def test_every_class_has_videos_on_both_sides_where_it_has_two(sizes, share, seed):
    videos = [(f"{label}/{number}", label) for label, size in enumerate(sizes) for number in range(size)]
    held = stratified_split(videos, share, seed)
    assert held == stratified_split(videos[::-1], share, seed)
    for label, size in enumerate(sizes):
        count = sum(1 for _, number in held if number == label)
        if size == 1:
            assert count == 0
        else:
            assert 1 <= count <= size - 1
            assert count == min(max(1, round(share * size)), size - 1)


def test_another_seed_draws_another_split_and_a_new_video_moves_few():
    videos = [(f"a/{number}.mp4", 0) for number in range(40)]
    first = stratified_split(videos, 0.25, 0)
    assert first != stratified_split(videos, 0.25, 1)
    assert len(first ^ stratified_split([*videos, ("a/new.mp4", 0)], 0.25, 0)) <= 2


def test_a_class_with_one_video_is_said(tmp_path):
    found = own_videos(make(tmp_path, *many("a", 3), "rare/0.mp4"))
    assert ("rare/0.mp4", 1) in found.train
    assert any("want of a second video: rare" in note for note in found.notes)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (many("a", 3), r"3 videos of 1 class\(es\): a; a classifier needs two"),
        (["a.mp4", "b.mp4"], r"0 videos of 0 class\(es\)"),
        (["a/0.mp4", "b/0.mp4"], "no video is left for the val split"),
        (["a/0.mp4", "a/1.mp4", "b\nc/0.mp4"], "line break or tab"),
        (["a/0.mp4", "a/1.mp4", " b/0.mp4"], "begins with a blank: ' b'"),
    ],
)
def test_folders_that_make_no_classifier(tmp_path, files, message):
    with pytest.raises(ConfigError, match=message):
        own_videos(make(tmp_path / "mine", *files))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a/0.mp4,walk\na/1.mp4,\n", r"mine\.csv, line 2: expected a path and a class"),
        ("\n\na/0.mp4\n", r"mine\.csv, line 3: expected a path and a class"),
        ('a/0.mp4,walk\n"a/1.mp4,run\n', r"mine\.csv, line 2: expected a path and a class"),
        ("path,label\na/0.mp4,walk\na/1.mp4\n", r"mine\.csv, line 3: expected a path and a class.*got 'a/1\.mp4'"),
        ("a/0.mp4,walk\na/0.mp4,run\n", r"a/0\.mp4 is listed as walk and as run"),
        ("", "0 videos"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path, table, message):
    make(tmp_path, *many("a", 2))
    (tmp_path / "mine.csv").write_text(table)
    with pytest.raises(ConfigError, match=message):
        own_videos(tmp_path / "mine.csv")


def test_a_video_in_both_splits_is_refused(tmp_path):
    make(tmp_path, *many("a", 2), *many("b", 2))
    (tmp_path / "train.csv").write_text("a/0.mp4 a\na/1.mp4 a\nb/0.mp4 b\n")
    (tmp_path / "val.csv").write_text("a/1.mp4 a\nb/1.mp4 b\n")
    with pytest.raises(ConfigError, match=r"in both splits: a/1\.mp4"):
        own_videos(tmp_path)


def test_what_does_not_exist_and_shares_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        own_videos(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"share is 1\.0"):
        own_videos(tmp_path, val_share=1.0)
