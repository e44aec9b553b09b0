"""Frame numbers: the published tables point by point, and the properties of the plain rule."""

from fractions import Fraction

import golden
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videobench.datasets.sampling import RULES, clip_indices, epic_segment

# Table -> (rule, what the table's numbers count from).
TABLES = {
    "kinetics_decord_uniformer": ("uniformer_decord", 0),
    "kinetics_train_decord_uniformer": ("native", 0),
    "kinetics_torchvision_slowfast": ("slowfast_torchvision", 0),
    "kinetics_train_torchvision_slowfast": ("slowfast_torchvision", 0),
    "kinetics_torchvision_morphmlp": ("morphmlp_torchvision", 0),
    "kinetics_pyav_motionformer": ("motionformer_pyav", 0),
    "kinetics_train_pyav_motionformer": ("motionformer_pyav", 0),
    "kinetics_pyav_uniformer": ("uniformer_pyav", 0),
    "sth_test_uniformer_morphmlp": ("segments_sth", 1),
    "sth_train_uniformer_morphmlp": ("segments_sth", 1),
    "ssv2_test_slowfast": ("segments_ssv2", 0),
    "ssv2_test_motionformer": ("segments_ssv2", 0),
    "ssv2_train_slowfast_motionformer": ("segments_ssv2", 0),
    "epic_test_motionformer": ("epic", 0),
    "epic_train_motionformer": ("epic", 0),
}


@pytest.mark.parametrize("table", TABLES)
def test_published_rules_give_the_published_frames(table):
    rule, base = TABLES[table]
    for point in golden.table("sampling")["tables"][table]["points"]:
        shape = {
            "frames": point.get("num_frames", point.get("n")),
            "fps": Fraction(30000, 1001) if point.get("fps") == "29.97" else Fraction(point.get("fps", 30)),
            "num_frames": point["T"],
            "stride": point.get("rate", 1),
            "use_offset": point.get("use_offset", False),
        }
        first = point.get("start_frame", base)
        for k, clip in enumerate(point["clips"]):
            if point["mode"] == "train":
                expected, place = clip["idx"], {"draw": clip["u"]}
            else:
                expected, place = clip, {"view": k, "views": point.get("views", len(point["clips"]))}
            assert [first + i for i in clip_indices(rule, **shape, **place)] == expected, (point, place)


def test_a_frame_rate_given_as_a_float_is_the_same_frame_rate():
    shape = {"frames": 300, "num_frames": 16, "stride": 4, "view": 2, "views": 4}
    for rule in RULES:
        assert clip_indices(rule, fps=30000 / 1001, **shape) == clip_indices(rule, fps=Fraction(30000, 1001), **shape)


@pytest.mark.parametrize("rule", ["slowfast_torchvision", "morphmlp_torchvision"])
def test_frames_are_counted_from_the_duration_as_published(rule):
    """30.0 * (247 / 30) is a little less than 247, so that the last of two clips is published to start at 118."""
    last = clip_indices(rule, frames=247, fps=30, num_frames=32, stride=4, view=1, views=2)
    assert (last[0], last[-1]) == (118, 245)
    last = clip_indices(rule, frames=243, fps=30, num_frames=32, stride=4, view=1, views=2)
    assert (last[0], last[-1]) == (115, 242)


@pytest.mark.parametrize("table", ["sth_train_uniformer_morphmlp", "ssv2_train_slowfast_motionformer"])
def test_segments_draw_from_the_whole_published_interval_one_by_one(table):
    rule, base = TABLES[table]
    for point in golden.table("sampling")["tables"][table]["points"][:20]:
        rng = np.random.default_rng(0)
        shape = {"frames": point["n"], "fps": 30, "num_frames": point["T"], "stride": 1}
        drawn = np.array([clip_indices(rule, **shape, draw=rng) for _ in range(400)]) + base
        intervals = np.array(point[f"intervals_{base}based"])
        assert (drawn >= intervals[:, 0]).all()
        assert (drawn <= intervals[:, 1]).all()
        if (intervals[:, 1] - intervals[:, 0]).max() < 20:
            assert (drawn.min(0) == intervals[:, 0]).all()
            assert (drawn.max(0) == intervals[:, 1]).all()


@pytest.mark.parametrize("table", ["epic_test_motionformer", "epic_train_motionformer"])
def test_epic_time_stamps_become_the_published_frame_numbers(table):
    for point in golden.table("sampling")["tables"][table]["points"]:
        segment = epic_segment(point["video_id"], point["start_timestamp"], point["stop_timestamp"])
        assert segment == (point["start_frame"], point["end_frame"], point["fps"])


def test_a_third_digit_of_an_epic_time_stamp_is_read_as_published():
    assert epic_segment("P01_101", "00:00:01.089", "01:02:03.50") == (round(1.89 * 50), round(3723.5 * 50), 50)
    with pytest.raises(ValueError, match=r"'1:02' is not of the form HH:MM:SS\.hh"):
        epic_segment("P01_01", "1:02", "00:00:03.00")


def plain(**changes) -> list[int]:
    return clip_indices("time", **{"frames": 300, "fps": 30, "num_frames": 16, "stride": 4} | changes)


def test_plain_rule_in_numbers():
    assert plain(view=0) == [119 + 4 * i for i in range(16)]
    assert plain(view=0, views=3) == [4 * i for i in range(16)]
    assert plain(view=2, views=3) == [239 + 4 * i for i in range(16)]
    assert plain(fps=60, view=0, views=2) == [8 * i for i in range(16)]
    assert plain(fps=15, view=0, views=2) == [2 * i for i in range(16)]
    assert plain(fps=25, target_fps=25, draw=0.0) == [4 * i for i in range(16)]
    assert plain(draw=1 - 2**-53)[-1] == 299
    assert plain(frames=30, draw=0.7) == [0, 4, 8, 12, 16, 20, 24, 28, 29, 29, 29, 29, 29, 29, 29, 29]
    assert plain(frames=301, num_frames=1, view=0) == [150]


@given(
    frames=st.integers(1, 2000),
    fps=st.sampled_from([Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60), 14.985]),
    num_frames=st.integers(1, 64),
    stride=st.integers(1, 12),
    views=st.integers(1, 10),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_plain_rule_spreads_views_from_first_to_last_and_keeps_the_stride(frames, fps, num_frames, stride, views, draw):
    shape = {"frames": frames, "fps": fps, "num_frames": num_frames, "stride": stride}
    clips = [clip_indices("time", **shape, view=k, views=views) for k in range(views)]
    step = float(stride * fps / 30)
    fits = (num_frames - 1) * step + 1 <= frames
    for clip in [*clips, clip_indices("time", **shape, draw=draw)]:
        assert len(clip) == num_frames
        assert min(clip) >= 0
        assert max(clip) < frames
        if fits:
            assert all(abs(clip[i] - clip[0] - i * step) < 1 + 1e-6 for i in range(num_frames))
    if fits and views > 1:
        assert clips[0][0] == 0
        assert clips[-1][-1] == frames - 1
        starts = np.array([clip[0] for clip in clips])
        assert np.abs(np.diff(starts, 2)).max(initial=0) <= 2
    elif fits:
        assert abs(clips[0][0] - (frames - 1 - clips[0][-1])) <= 1


@given(
    rule=st.sampled_from(sorted(RULES)),
    frames=st.integers(1, 700),
    fps=st.sampled_from([12.0, 24.0, 25.0, Fraction(30000, 1001), 30.0, 50.0, 59.94, 120.0]),
    num_frames=st.integers(1, 40),
    stride=st.integers(1, 9),
    views=st.integers(1, 10),
    use_offset=st.booleans(),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_every_rule_stays_inside_the_video_and_never_runs_backwards(
    rule, frames, fps, num_frames, stride, views, use_offset, draw
):
    shape = {
        "frames": frames, "fps": fps, "num_frames": num_frames, "stride": stride, "use_offset": use_offset
    }  # fmt: skip
    clips = [clip_indices(rule, **shape, view=k, views=views) for k in range(views)]
    for clip in [*clips, clip_indices(rule, **shape, draw=draw)]:
        assert len(clip) == num_frames
        assert all(type(i) is int for i in clip)
        assert clip == sorted(clip)
        assert clip[0] >= 0
        assert clip[-1] < frames


def test_a_generator_draws_the_same_clip_again():
    for rule in RULES:
        shape = {"frames": 200, "fps": 30, "num_frames": 8, "stride": 4}
        clips = [clip_indices(rule, **shape, draw=np.random.default_rng([7, 3, seed])) for seed in (1, 1, 2)]
        assert clips[0] == clips[1] != clips[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "fast"}, "no sampling rule 'fast'; there are time, native"),
        ({"frames": 0}, "frames=0"),
        ({"fps": 0}, "fps=0"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"stride": 0}, "stride=0"),
        ({"view": 3, "views": 3}, "view 3 is not one of the 3 views"),
        ({"view": None}, "either a test view"),
        ({"draw": 0.5}, "either a test view"),
        ({"view": None, "draw": 1.0}, r"draw=1\.0 must lie in"),
    ],
)
def test_arguments_that_make_no_clip(changes, message):
    arguments = {"rule": "time", "frames": 10, "fps": 30, "num_frames": 4, "stride": 2, "view": 0} | changes
    with pytest.raises(ValueError, match=message):
        clip_indices(arguments.pop("rule"), **arguments)
