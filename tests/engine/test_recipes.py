"""Every family on every data set that it was published on: a step of training and a test of several views."""

import json

import pytest
import tiny_runs

# Recipe, network, data, views of the published test (clips, crops).
PAIRS = [
    ("K400/uniformer_s16x4_k400.yaml", "Uniformer", "kinetics_commas", 4),
    ("K600/uniformer_b16x8_k600.yaml", "Uniformer", "kinetics_commas", 4),
    ("SSV1/uniformer_s16_sthv1_prek400.yaml", "Uniformer", "ssv1", 3),
    ("SSV2/uniformer_b16_sthv2_prek600.yaml", "Uniformer", "ssv2_uniformer", 3),
    ("K400/K400_MLP_S16x4.yaml", "MorphMLP", "kinetics_commas", 4),
    ("SSV1/SSV1_MLP_B32.yaml", "MorphMLP", "ssv1", 3),
    ("SSV2/SSV2_MLP_B16.yaml", "MorphMLP", "ssv2_morphmlp", 3),
    ("K400/motionformer_224_16x4.yaml", "VisionTransformer", "kinetics", 30),
    ("K600/motionformer_224_32x3.yaml", "VisionTransformer", "kinetics", 30),
    ("SSV2/joint_224_16x4.yaml", "VisionTransformer", "ssv2", 3),
    ("EK/motionformer_224_16x4.yaml", "VisionTransformer", "epic", 30),
    ("IN1K/MVITv2_T.yaml", "MViT image", "imagenet", 1),
    pytest.param("IN21K/MVITv2_B.yaml", "MViT image", "imagenet", 1, marks=pytest.mark.slow),
    ("K400/MVITv2_S_16x4.yaml", "MViT", "kinetics", 5),
    ("SSV2/MVITv2_L_40x3.yaml", "MViT", "ssv2", 3),
    ("K600/movinet_a0_base_k600.yaml", "MoViNet", "kinetics", 1),
    pytest.param("K600/movinet_a0_stream_k600.yaml", "MoViNet", "kinetics", 1, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("recipe", "network", "data", "views"), PAIRS)
def test_a_recipe_trains_and_tests(recipe, network, data, views, tmp_path):
    (tmp_path / "data").mkdir()
    where = tiny_runs.write_data_set(data, tmp_path / "data")
    output = tmp_path / "output"
    settings = tiny_runs.overrides(network, output, **where, **{"TRAIN.ENABLE": True})
    assert tiny_runs.train_and_test(recipe, settings) == 0
    results = json.loads((output / "test_results.json").read_text())
    assert results["views"] == views
    assert results["failed"] == []
    assert list((output / "checkpoints").glob("*.pyth"))
