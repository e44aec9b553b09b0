"""Rules that span keys."""

import pytest

from videobench.config import ConfigError, load_config
from videobench.config.checks import SAMPLING_RULES, check_config
from videobench.datasets.sampling import RULES


@pytest.fixture
def valid(tmp_path):
    return ["NUM_GPUS", 0, "DATA.PATH_TO_DATA_DIR", str(tmp_path), "SOLVER.BASE_LR", 1e-3]


def test_a_sound_configuration_passes(valid):
    check_config(load_config([], valid))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["NUM_GPUS", 3, "TRAIN.BATCH_SIZE", 64], r"TRAIN.BATCH_SIZE is 64, which does not divide by 3 .*use 63 or 66"),
        (["TEST.NUM_SPATIAL_CROPS", 2], "TEST.NUM_SPATIAL_CROPS is 2; use 1"),
        (
            ["SOLVER.COSINE_AFTER_WARMUP", True, "SOLVER.WARMUP_EPOCHS", 1.0, "SOLVER.MAX_EPOCH", 1],
            "SOLVER.WARMUP_EPOCHS 1.0 leaves nothing of SOLVER.MAX_EPOCH 1; warm up for fewer epochs, or 0",
        ),
        (["TEST.NUM_ENSEMBLE_VIEWS", 0], "needs at least one clip"),
        (["TEST.VIEW_SWEEP", [[4, 2]]], r"TEST.VIEW_SWEEP has \[4, 2\]; use \[clips, crops\]"),
        (["TEST.VIEW_SWEEP", [4, 1]], "TEST.VIEW_SWEEP has 4; use"),
        (["TEST.SINGLE_CROP", "right"], "TEST.SINGLE_CROP is 'right'; use centre or left"),
        (
            ["DATA.MULTI_LABEL", True, "MODEL.LOSS_FUNC", "bce", "TEST.SCORES", "softmax"],
            "DATA.MULTI_LABEL wants TEST.SCORES sigmoid or logits",
        ),
        (["TEST.NUM_SPATIAL_CROPS", 1, "DATA.TEST_CROP_SIZE", 300], "TEST_CROP_SIZE 300 does not fit"),
        (["DATA.TRAIN_CROP_SIZE", 300], "TRAIN_CROP_SIZE 300 does not fit"),
        (["DATA.TRAIN_JITTER_SCALES_RELATIVE", [0.1, 1.0]], "go together"),
        (["DATA.TRAIN_JITTER_SCALES", [320, 256]], "smallest and the largest"),
        (["DATA.PATH_PREFIX", "/no/such/folder"], "DATA.PATH_PREFIX: /no/such/folder does not exist"),
        (["DATA.PATH_TO_DATA_DIR", ""], "DATA.PATH_TO_DATA_DIR is empty"),
        (["TEST.CHECKPOINT_FILE_PATH", "/no/such.pyth"], "TEST.CHECKPOINT_FILE_PATH: /no/such.pyth does not exist"),
        (["TRAIN.PRECISION", "fp16"], "fp16 needs a GPU"),
        (["TRAIN.MICRO_BATCH", "most"], r"TRAIN.MICRO_BATCH is 'most'; use 0 .*, a number of clips, or auto"),
        (["TRAIN.CHECKPOINT_STEPS", -1], "TRAIN.CHECKPOINT_STEPS is -1; use 0 or more"),
        (["TRAIN.MAX_NONFINITE_STEPS", 0], "TRAIN.MAX_NONFINITE_STEPS is 0; it must be at least 1"),
        (["TRAIN.DATASET", "imagnet"], "TRAIN.DATASET is 'imagnet'"),
        (["SOLVER.LR_POLICY", "steps_with_relative_lrs", "SOLVER.STEPS", [5]], "begins with 0"),
        (["SOLVER.COSINE_END_LR", 1.0], "must be below SOLVER.BASE_LR"),
        (["SHARD_ID", 1], "it counts machines from 0"),
        (["TEST.TOP_K", []], "TEST.TOP_K"),
        (["LOG_PERIOD", 0], "LOG_PERIOD is 0; it must be at least 1"),
        (["DATA.FLIP_LABEL_PAIRS", [[0, 1], [1, 2]]], "each class once"),
        (["DATA.FLIP_LABEL_PAIRS", [[0, 400]]], "classes are 0 to 399"),
        (["DATA.STD", [0.1, 0.1, 0.0]], "above 0"),
        (["DATA.IMAGE_TEMPLATE", "frame.jpg"], "DATA.IMAGE_TEMPLATE is 'frame.jpg'; use a place for one number"),
        (["RNG_SEED", -1], "RNG_SEED is -1; use 0 or more"),
        (["OUTPUT_DIR", ""], "OUTPUT_DIR is empty; name the folder"),
        (["UNIFORMER.HEAD_DIM", 0], "UNIFORMER.HEAD_DIM is 0; it must be at least 1"),
        (["MVIT.PATCH_STRIDE", [2, 0, 4]], r"MVIT.PATCH_STRIDE is \[2, 0, 4\]; it must be at least 1"),
        (["SOLVER.WEIGHT_DECAY", -0.1], "SOLVER.WEIGHT_DECAY is -0.1; use 0 or more"),
        (["SOLVER.WARMUP_START_LR", -1], "SOLVER.WARMUP_START_LR is -1.0; use 0 or more"),
        (["TRAIN.SHARD", True, "MODEL.MODEL_NAME", "MoViNet"], "TRAIN.SHARD cannot split the single numbers"),
        (["TRAIN.SHARD", True, "TRAIN.PRECISION", "fp16", "NUM_GPUS", 1], "no gradient scaler for TRAIN.PRECISION"),
        (["TRAIN.SHARD", True, "TRAIN.MICRO_BATCH", "auto"], "TRAIN.MICRO_BATCH auto .* use a number of clips"),
        (["TRAIN.SHARD", True, "TRAIN.CHANNELS_LAST", True], "set TRAIN.CHANNELS_LAST False"),
        (
            ["TRAIN.SHARD", True, "TRAIN.EMA", True, "TRAIN.EMA_DEVICE", "cpu"],
            "TRAIN.EMA_DEVICE cpu: .* leave it empty",
        ),
        (["TRAIN.CUDA_GRAPHS", True, "NUM_GPUS", 1], "TRAIN.CUDA_GRAPHS records .* set TRAIN.COMPILE True"),
        (["TRAIN.CUDA_GRAPHS", True, "TRAIN.COMPILE", True, "NUM_GPUS", 0], "is for runs on one GPU"),
        (["TRAIN.CUDA_GRAPHS", True, "TRAIN.COMPILE", True, "NUM_GPUS", 1, "NUM_SHARDS", 2], "is for runs on one GPU"),
        (
            ["TRAIN.CUDA_GRAPHS", True, "MODEL.MODEL_NAME", "MoViNet", "MOVINET.TRAIN_SUBCLIPS", 2],
            "forgets the past of MOVINET.TRAIN_SUBCLIPS",
        ),
    ],
)
def test_what_cannot_run_is_said_before_work_starts(valid, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_config(load_config([], [*valid, *overrides]))


def test_a_test_alone_is_not_refused_for_the_arithmetic_of_training(valid):
    check_config(load_config([], [*valid, "TRAIN.PRECISION", "fp16", "TRAIN.ENABLE", False]))


def test_all_problems_are_listed_at_once(valid):
    with pytest.raises(ConfigError) as caught:
        check_config(load_config([], [*valid, "TEST.NUM_SPATIAL_CROPS", 2, "LOG_PERIOD", 0]))
    assert "NUM_SPATIAL_CROPS" in str(caught.value)
    assert "LOG_PERIOD" in str(caught.value)


def test_the_sampling_rules_are_those_of_the_package():
    assert set(SAMPLING_RULES) == set(RULES) | {"auto"}
