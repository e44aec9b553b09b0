"""Files of scores that a kill may cut anywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videobench.engine.scores import Layout, ScoreStore, ShardWriter, read_shard
from videobench.reporting.run_files import OutputError

LAYOUT = Layout(((2, 1), (1, 3)), (("verb", 2), ("noun", 3)))


def rows(*videos):
    return {v: v + np.arange(LAYOUT.length) / 100 for v in videos}


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("shards") / "a.scores"
    with ShardWriter(path) as writer:
        writer.append(LAYOUT, rows(3, 1), 0.5)
        writer.append(LAYOUT, rows(7), 1.5)
    return path.read_bytes()


def test_what_is_written_is_read(shard, tmp_path):
    (tmp_path / "b").write_bytes(shard)
    layout, records = read_shard(tmp_path / "b")
    assert layout == LAYOUT
    assert records["video"].tolist() == [3, 1, 7]
    assert records["seconds"].tolist() == [0.5, 0.5, 1.5]
    np.testing.assert_array_equal(records["values"], np.stack(list(rows(3, 1, 7).values())))


def test_rows_split_into_grids_and_heads():
    # Scores first, grid by grid and head by head; then the agreement of each.
    numbers = np.arange(LAYOUT.length)[None]
    first, second = LAYOUT.split(numbers)
    assert first["verb"][0].tolist() == [[0, 1]]
    assert first["noun"][0].tolist() == [[2, 3, 4]]
    assert second["noun"][0].tolist() == [[7, 8, 9]]
    assert [part[head][1].tolist() for part in (first, second) for head in ("verb", "noun")] == [[10], [11], [12], [13]]


@settings(max_examples=60)
@given(st.data())
def test_a_cut_or_damaged_file_gives_whole_records_only(shard, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "c.scores"
    cut = data.draw(st.integers(0, len(shard)))
    content = bytearray(shard[:cut])
    body = shard.index(b"\n") + 1
    size = (len(shard) - body) // 3
    damaged = data.draw(st.one_of(st.none(), st.integers(body, max(body, cut - 1))))
    whole = max(0, cut - body) // size
    if damaged is not None and damaged < len(content):
        content[damaged] ^= 0x55
        whole = min(whole, (damaged - body) // size)
    path.write_bytes(content)
    found = read_shard(path)
    if cut < body:
        assert found is None
    else:
        assert found[1]["video"].tolist() == [3, 1, 7][:whole]


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_header_costs_the_scores_and_no_more(shard, tmp_path_factory, data):
    store = ScoreStore(tmp_path_factory.mktemp("headers"), {})
    store.prepare()
    content = bytearray(shard)
    content[data.draw(st.integers(0, shard.index(b"\n")))] = data.draw(st.integers(32, 126))
    (store.folder / "attempt0001-rank0000.scores").write_bytes(content)
    (store.folder / "attempt0001-rank0001.scores").write_bytes(shard)
    assert sorted(store.read().rows) == [1, 3, 7]


def test_a_folder_with_odd_facts_is_set_aside(tmp_path):
    other = tmp_path / "test_scores/other/facts.json"
    other.parent.mkdir(parents=True)
    for content in ("", "[]", '{"weights": 1}'):
        other.write_text(content)
        assert ScoreStore(tmp_path, {"weights": "w"}).read().rows == {}


def test_attempts_and_ranks_add_up_and_never_share_a_file(tmp_path):
    store = ScoreStore(tmp_path, {"weights": "w" * 64})
    assert store.read().attempts == 0
    store.prepare()
    for attempt, rank, videos, seconds in ((1, 0, (0, 2), 3.0), (1, 1, (1,), 4.0), (2, 0, (5,), 1.0)):
        with store.writer(attempt, rank) as writer:
            writer.append(LAYOUT, rows(*videos), seconds)
    done = ScoreStore(tmp_path, {"weights": "w" * 64}).read()
    assert sorted(done.rows) == [0, 1, 2, 5]
    assert (done.layout, done.attempts, done.seconds) == (LAYOUT, 2, 5.0)
    with (
        store.writer(2, 0) as writer,
        pytest.raises(OutputError, match=r"-rank0000\.scores: another command does this test in the same OUTPUT_DIR"),
    ):
        writer.append(LAYOUT, rows(9), 0.0)
    assert ScoreStore(tmp_path, {"weights": "v" * 64}).read().rows == {}
    store.remove()
    assert not (tmp_path / "test_scores").exists()


def test_outputs_that_change_are_refused(tmp_path):
    with ShardWriter(tmp_path / "d") as writer:
        writer.append(LAYOUT, rows(1), 0.0)
        with pytest.raises(ValueError, match="changed"):
            writer.append(Layout(((1, 1),), (("", 2),)), {2: np.zeros(3)}, 0.0)
