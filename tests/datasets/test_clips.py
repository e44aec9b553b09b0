"""Training clips: what is drawn for them, what labels they carry, how often a video is decoded."""

import dataset_fixtures as fixtures
import numpy as np
import pytest
import torch

from videobench.config import ConfigError
from videobench.config.checks import check_config
from videobench.datasets import backends
from videobench.datasets.annotations import split_list
from videobench.datasets.clips import TrainingClips, TrainingCrop
from videobench.datasets.cropping import random_resized_box
from videobench.datasets.decoding import Video
from videobench.datasets.picture_files import PictureFiles


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinetics")
    fixtures.kinetics(folder)
    return folder


@pytest.fixture
def configure(root):
    return lambda *overrides: fixtures.config("kinetics", root, *overrides)


@pytest.fixture
def decoded(monkeypatch):
    """The frames asked of every video that was opened."""
    calls = []

    class Watched(Video):
        def decode(self, indices):
            calls.append(list(indices))
            return super().decode(indices)

    monkeypatch.setattr(backends, "Video", Watched)
    return calls


def dataset(cfg):
    return TrainingClips(cfg, split_list(cfg, "train"))


def item_of(clips, index, epoch=0):
    return clips[(epoch, int(np.flatnonzero(clips.order(epoch) == index)[0]))]


def test_a_clip_depends_on_seed_epoch_and_video_alone(configure):
    one, two = dataset(configure()), dataset(configure())
    item_of(two, 1, 3)  # whatever was loaded before
    item, again = item_of(one, 0), item_of(two, 0)
    assert torch.equal(item.clips, again.clips)
    assert (item.clips.dtype, item.clips.shape) == (torch.uint8, (1, 4, 3, 16, 16))
    assert (item.labels.tolist(), item.labels.dtype, item.index, item.failures) == ([0], torch.int64, 0, [])
    assert not torch.equal(item.clips, item_of(one, 0, 1).clips)
    assert not torch.equal(item.clips, item_of(dataset(configure("RNG_SEED", 5)), 0).clips)


def test_an_epoch_holds_every_video_once(demo_data):
    clips = dataset(fixtures.config("kinetics", demo_data))
    assert sorted(clips.order(4)) == list(range(32))
    assert not np.array_equal(clips.order(4), clips.order(5))


def test_samples_are_crops_of_the_same_frames_from_one_decode(configure, decoded):
    clips = dataset(configure("AUG.NUM_SAMPLE", 3, "DATA.SAMPLING_RATE", 3))
    item = item_of(clips, 0)
    assert len(decoded) == 1
    assert item.clips.shape == (3, 4, 3, 16, 16)
    assert item.labels.tolist() == [0, 0, 0]
    shown = [fixtures.numbers(clip) for clip in item.clips]
    assert shown == [decoded[0]] * 3
    # The first sample is what there is without the others.
    assert torch.equal(item_of(dataset(configure("DATA.SAMPLING_RATE", 3)), 0).clips, item.clips[:1])


def test_samples_of_other_frames_share_one_decode(configure, decoded):
    clips = dataset(configure("AUG.NUM_SAMPLE", 3, "AUG.RESAMPLE_FRAMES", True, "DATA.SAMPLING_RATE", 3))
    item = item_of(clips, 0)
    assert len(decoded) == 1
    shown = [fixtures.numbers(clip) for clip in item.clips]
    assert all(clip == list(range(clip[0], clip[0] + 12, 3)) for clip in shown)
    assert len({clip[0] for clip in shown}) > 1
    assert sorted({frame for clip in shown for frame in clip}) == decoded[0]


def test_every_sample_is_cropped_and_mirrored_on_its_own(demo_data):
    clips = dataset(fixtures.config("kinetics", demo_data, "AUG.NUM_SAMPLE", 8))
    item = clips[(0, 0)]
    assert len({clip.numpy().tobytes() for clip in item.clips}) == 8


def test_flips_swap_the_labels_that_depend_on_the_side(demo_data):
    pairs = ("DATA.FLIP_LABEL_PAIRS", [[0, 1], [6, 7]])
    plain = fixtures.config("kinetics", demo_data, "DATA.RANDOM_FLIP", False, *pairs)
    flipping = fixtures.config("kinetics", demo_data, *pairs)
    swapped = {0: 1, 1: 0, 6: 7, 7: 6}
    flips = 0
    one, other = dataset(plain), dataset(flipping)
    for index in range(32):
        straight, item = item_of(one, index), item_of(other, index)
        flipped = not torch.equal(item.clips, straight.clips)
        flips += flipped
        assert torch.equal(item.clips, straight.clips.flip(-1) if flipped else straight.clips)
        label = straight.labels.item()
        assert item.labels.tolist() == [swapped.get(label, label) if flipped else label]
    assert 5 < flips < 27


def test_several_labels(root, tmp_path):
    (tmp_path / "train.csv").write_text("a/one.mp4 0;3\nb/two.mp4 2\n")
    pairs = ("DATA.FLIP_LABEL_PAIRS", [[3, 4]], "AUG.NUM_SAMPLE", 8)
    several = ("DATA.MULTI_LABEL", True, "MODEL.NUM_CLASSES", 5, "DATA.PATH_TO_DATA_DIR", str(tmp_path))
    item = item_of(dataset(fixtures.config("kinetics", root, *several, *pairs)), 0)
    assert (item.labels.dtype, item.labels.shape) == (torch.float32, (8, 5))
    rows = {tuple(row) for row in item.labels.tolist()}
    assert rows == {(1, 0, 0, 1, 0), (1, 0, 0, 0, 1)}, "mirrored and not"
    item = item_of(dataset(fixtures.config("kinetics", root, *several, *pairs)), 1)
    assert {tuple(row) for row in item.labels.tolist()} == {(0, 0, 1, 0, 0)}


def test_several_labels_want_a_loss_for_them(configure):
    with pytest.raises(ConfigError, match=r"DATA\.MULTI_LABEL wants MODEL\.LOSS_FUNC bce, not cross_entropy"):
        check_config(configure("DATA.MULTI_LABEL", True))


def test_verbs_and_nouns(tmp_path):
    fixtures.epic(tmp_path)
    item = item_of(dataset(fixtures.config("epickitchens", tmp_path, "AUG.NUM_SAMPLE", 2)), 1)
    assert {head: part.tolist() for head, part in item.labels.items()} == {"verb": [0, 0], "noun": [2, 2]}
    assert item.clips.shape == (2, 4, 3, 16, 16)
    pairs = fixtures.config("epickitchens", tmp_path, "DATA.FLIP_LABEL_PAIRS", [[0, 1]])
    with pytest.raises(ConfigError, match="epickitchens has two labels a clip"):
        check_config(pairs)


def test_frame_folders_give_clips_too(tmp_path, monkeypatch):
    fixtures.sth(tmp_path)
    calls = []
    decode = PictureFiles.decode
    monkeypatch.setattr(PictureFiles, "decode", lambda self, wanted: (calls.append(wanted), decode(self, wanted))[1])
    clips = dataset(fixtures.config("sth", tmp_path, "AUG.NUM_SAMPLE", 2, prefix="frames"))
    item = item_of(clips, 0)
    assert item.labels.tolist() == [134, 134]
    assert len(calls) == 1
    first, second = (fixtures.numbers(clip) for clip in item.clips)
    assert first == second
    # One frame from each quarter of the nine; both ends belong to a quarter.
    assert all(2 * i + 1 <= number <= 2 * i + 3 for i, number in enumerate(first))


def noise(height=96, width=128):
    return torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_resizing_without_antialias(configure):
    frames = noise()
    jitter = ("DATA.TRAIN_JITTER_SCALES_RELATIVE", [0.5, 1.0], "DATA.TRAIN_JITTER_ASPECT_RELATIVE", [0.75, 1.33])
    for antialias in (True, False):
        cfg = configure("DATA.ANTIALIAS", antialias, "DATA.RANDOM_FLIP", False, *jitter)
        clip, _, flipped = TrainingCrop.from_config(cfg, split_list(cfg, "train"))(frames, np.random.default_rng(3))
        y0, x0, h, w = random_resized_box(96, 128, (0.5, 1.0), (0.75, 1.33), np.random.default_rng(3))
        cut = frames[:, y0 : y0 + h, x0 : x0 + w].permute(0, 3, 1, 2).float()
        expected = torch.nn.functional.interpolate(cut, (16, 16), mode="bilinear", antialias=antialias)
        assert not flipped
        assert (clip.float() - expected).abs().max() <= 1


def test_pictures_take_a_random_resized_crop_with_bicubic_weights(tmp_path):
    from PIL import Image

    fixtures.imagenet(tmp_path)
    frames = noise()[:1]
    cfg = fixtures.config("imagenet", tmp_path, "DATA.RANDOM_FLIP", False, "DATA.ANTIALIAS", False)
    crop = TrainingCrop.from_config(cfg, split_list(cfg, "train"))
    areas = []
    for seed in range(20):
        clip, _, _ = crop(frames, np.random.default_rng(seed))
        y0, x0, h, w = random_resized_box(96, 128, (0.08, 1.0), (3 / 4, 4 / 3), np.random.default_rng(seed))
        areas.append(h * w / (96 * 128))
        picture = Image.fromarray(frames[0].numpy()).crop((x0, y0, x0 + w, y0 + h))
        expected = np.array(picture.resize((16, 16), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(clip[0].permute(1, 2, 0).numpy() - expected).max() <= 1
    assert min(areas) < 0.3 < 0.7 < max(areas)
