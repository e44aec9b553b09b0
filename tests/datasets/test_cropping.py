"""Crop boxes and values against the published tables, and the cut against resizing whole frames."""

import math
import random
from collections import Counter

import golden
import numpy as np
import pytest
import torch
import video_fixtures as videos
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional as F

from videobench.datasets import cropping
from videobench.datasets.augment import normalise
from videobench.datasets.cropping import Box, crop_resize, random_resized_box, random_short_side_box, resized_size
from videobench.datasets.decoding import decode

KINETICS = (0.08, 1.0), (3 / 4, 4 / 3)


class PythonRandom:
    """Python's generator under the names of NumPy's: the published code draws from it."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        return self._random.randint(low, high if endpoint else high - 1)


class TorchRandom:
    """PyTorch's generator under the names of NumPy's: Motionformer draws from it."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        return torch.empty(1).uniform_(low, high, generator=self._generator).item()

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        return torch.randint(low, high + endpoint, (1,), generator=self._generator).item()


def rows(table: str) -> list[dict]:
    return golden.table("transforms")["tables"][table]["rows"]


def test_test_windows_are_the_published_ones():
    for row in rows("three_crop"):
        for position, box in row["boxes"].items():
            size, windows = cropping.test_windows(*row["hw"], row["short_side"], row["crop"], 3)
            assert list(size) == row["resized_hw"]
            assert list(windows[int(position)]) == box, row
        centre, left = (
            cropping.test_windows(*row["hw"], row["short_side"], row["crop"], 1, single)[1]
            for single in ("centre", "left")
        )
        assert [list(centre[0]), list(left[0])] == [row["boxes"]["1"], row["boxes"]["0"]]


def test_image_windows_are_the_published_ones():
    for row in rows("image_test_crop"):
        size, box = cropping.image_test_window(*row["hw"], 224)
        assert (list(size), list(box)) == (row["resized_hw"], row["box"])
        assert row["resize"] == 256


def test_normalised_values_are_the_published_ones():
    for row in rows("normalise"):
        levels = torch.tensor(row["uint8"], dtype=torch.uint8)
        frame = levels.expand(1, 1, 3, 1, -1)
        for channel, values in enumerate(normalise(frame, row["mean"], row["std"])[0, :, 0, 0]):
            assert values.tolist() == pytest.approx(row[f"out_c{channel}"], abs=1e-6)


def test_random_resized_boxes_are_the_published_ones():
    for row in rows("random_resized_crop"):
        assert list(random_resized_box(*row["hw"], *KINETICS, PythonRandom(row["seed"]))) == row["box_yxhw"]
    for row in rows("random_resized_crop_motionformer"):
        box = random_resized_box(*row["hw"], tuple(row["scale"]), KINETICS[1], TorchRandom(row["seed"]))
        assert list(box) == row["box_yxhw"]


def test_resize_without_antialias_is_the_published_one():
    for row in rows("resize_numeric"):
        frame = torch.tensor(row["in"])[None, :, :, None].expand(-1, -1, -1, 3)
        size = resized_size(*frame.shape[1:3], row["short_side"])
        resized = crop_resize(frame, Box(0, 0, *frame.shape[1:3]), size, antialias=False)
        assert torch.allclose(resized[0, 0], torch.tensor(row["out"]), atol=1e-5)


@given(st.integers(32, 400), st.integers(32, 400), st.integers(0, 2**32))
def test_random_resized_boxes_lie_in_the_frame(height, width, seed):
    box = random_resized_box(height, width, *KINETICS, np.random.default_rng(seed))
    assert box.y0 >= 0 <= box.x0
    assert 0 < box.height <= height - box.y0
    assert 0 < box.width <= width - box.x0
    assert all(type(value) is int for value in box)


@pytest.mark.parametrize(("size", "expected"), [((100, 400), (0, 133, 100, 133)), ((400, 100), (133, 0, 133, 100))])
def test_a_frame_too_long_for_any_try_gives_its_centre(size, expected):
    assert random_resized_box(*size, (0.9, 1.0), KINETICS[1], np.random.default_rng(0)) == expected


def test_every_position_of_a_window_is_drawn_equally_often():
    """The published code draws y0 from 0 to H - crop - 1: the last position never comes."""
    rng = np.random.default_rng(0)
    places = Counter()
    for _ in range(4000):
        box = random_short_side_box(12, 14, (12, 12), 8, rng)
        places[box.y0, box.x0] += 1
    assert set(places) == {(y, x) for y in range(5) for x in range(7)}
    assert min(places.values()) > 0.5 * 4000 / 35
    published = {(y, x) for y in range(4) for x in range(6)}
    assert published < set(places)


def test_the_whole_frame_is_a_window_too():
    rng = np.random.default_rng(0)
    assert random_short_side_box(224, 224, (224, 224), 224, rng) == (0, 0, 224, 224)


@pytest.mark.parametrize("inverse", [False, True])
def test_short_sides_follow_their_law(inverse):
    rng = np.random.default_rng(1)
    sides = np.array(
        [224 / random_short_side_box(256, 320, (256, 512), 224, rng, inverse=inverse).height * 256 for _ in range(4000)]
    )
    assert sides.min() == pytest.approx(256, abs=1)
    assert sides.max() == pytest.approx(512, abs=1)
    # Means of the uniform law in size, and in 1 / size: 384, and log 2 / (1/256 - 1/512).
    assert sides.mean() == pytest.approx(math.log(2) * 512 if inverse else 384, rel=0.01)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
@example(2, 1, 0).via("a box narrower than a pixel, between two of them")
def test_jittered_boxes_lie_in_the_frame(height, width, seed):
    box = random_short_side_box(height, width, (64, 96), 64, np.random.default_rng(seed))
    assert -1e-6 < box.y0 <= height - box.height + 1e-6
    assert -1e-6 < box.x0 <= width - box.width + 1e-6
    crop_resize(torch.zeros(1, height, width, 3, dtype=torch.uint8), box, 8)


def test_cut_is_the_resize_of_the_part_in_both_layouts():
    frames = torch.from_numpy(videos.pictures(3, 90, 70))
    box = Box(5, 11, 50, 64)
    part = frames[:, 5:55, 11:75].permute(0, 3, 1, 2).float()
    for antialias in (True, False):
        expected = F.interpolate(part, (32, 40), mode="bilinear", align_corners=False, antialias=antialias)
        cut = crop_resize(frames, box, (32, 40), antialias=antialias)
        assert cut.dtype == torch.uint8
        assert cut.shape == (3, 3, 32, 40)
        # Weights of 16 bits, then rounding to whole levels.
        assert (cut.float() - expected).abs().max() <= 1.01
        assert torch.equal(crop_resize(frames, box, (32, 40), flip=True, antialias=antialias), cut.flip(-1))


def test_a_box_of_the_wanted_size_is_only_cut():
    frames = torch.from_numpy(videos.pictures(2, 64, 48))
    assert torch.equal(crop_resize(frames, Box(3, 9, 32, 32), 32), frames[:, 3:35, 9:41].permute(0, 3, 1, 2))


@pytest.mark.parametrize("box", [(-1, 0, 10, 10), (0, 0, 49, 10), (0, 60, 10, 5), (5, 5, 0, 9), (40, 0, 9.6, 9)])
def test_boxes_outside_the_frame_are_refused(box):
    with pytest.raises(ValueError, match="is no part of a frame of 48 x 64"):
        crop_resize(torch.zeros(1, 48, 64, 3, dtype=torch.uint8), Box(*box), 8)


def test_impossible_crops_are_refused():
    with pytest.raises(ValueError, match="a crop of 224 x 224 does not fit into 200 x 300"):
        cropping.test_windows(200, 300, 200, 224, 3)
    with pytest.raises(ValueError, match="does not fit into 200 x 266"):
        random_short_side_box(300, 400, (200, 200), 224, np.random.default_rng(0))
    with pytest.raises(ValueError, match="2 crops"):
        cropping.test_windows(240, 320, 224, 224, 2)
    with pytest.raises(ValueError, match="'middle'"):
        cropping.test_windows(240, 320, 224, 224, 1, "middle")
    with pytest.raises(ValueError, match="position 3"):
        cropping.window(240, 320, 224, 3)


def real_frames() -> torch.Tensor:
    return decode(golden.require(golden.SHARED / "videos" / "armwrestling_h264.mp4"), range(0, 280, 40))


def test_test_crops_are_windows_of_the_resized_frame():
    frames = real_frames()
    images = frames.permute(0, 3, 1, 2)
    for antialias in (True, False):
        whole = F.interpolate(images, (224, 297), mode="bilinear", align_corners=False, antialias=antialias)
        crops = cropping.test_crops(frames, 224, 224, 3, antialias=antialias)
        for crop, x0 in zip(crops, (0, 37, 73), strict=True):
            assert torch.equal(crop, whole[:, :, :, x0 : x0 + 224])
        (centre,) = cropping.test_crops(frames, 224, 224, 1, antialias=antialias)
        assert torch.equal(centre, crops[1])


def test_deviations_between_the_ways_to_cut_are_what_the_documentation_says():
    frames = real_frames()
    exact = cropping.test_crops(frames, 224, 224, 3)
    height_width = tuple(frames.shape[1:3])
    size, windows = cropping.test_windows(*height_width, 224, 224, 3)
    one_pass = [crop_resize(frames, cropping.in_original(box, size, height_width), 224) for box in windows]
    mean = [(a.float() - b.float()).abs().mean().item() for a, b in zip(exact, one_pass, strict=True)]
    assert max(mean) < 1.2, "one pass against the exact way"
    published = cropping.test_crops(frames, 224, 224, 3, antialias=False)
    assert (exact[1].float() - published[1].float()).abs().mean() < 0.5, "antialias against none"
    as_float = cropping.test_crops(frames.float(), 224, 224, 3, antialias=False)
    assert (published[1].float() - as_float[1]).abs().max() <= 1.01, "uint8 against floating point"
