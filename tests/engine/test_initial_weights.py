"""What training begins with: image weights made into video weights, classes in another order."""

import pytest
import torch
from tiny_networks import tiny

from videobench.config import load_config
from videobench.engine.training_state import TrainingState

NAMES = ["abseiling", "playing chess", "riding a bike"]


def start(model, folder, *overrides) -> None:
    cfg = load_config([], ["OUTPUT_DIR", str(folder), "TRAIN.CHECKPOINT_FILE_PATH", str(folder / "c.pyth"), *overrides])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    TrainingState(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), None).start(cfg)


@pytest.mark.parametrize(("inflation", "share"), [("mean", 1 / 3), ("repeat", 1.0)])
def test_image_kernels_are_spread_over_time_as_configured(inflation, share, tmp_path):
    model = tiny("uniformer", num_classes=3)
    name = next(key for key, tensor in model.state_dict().items() if tensor.dim() == 5 and tensor.shape[2] == 3)
    image = {key: tensor[:, :, :1] if key == name else tensor for key, tensor in model.state_dict().items()}
    image = {key: tensor.clone() for key, tensor in image.items()}
    torch.save({"model": image}, tmp_path / "c.pyth")
    start(model, tmp_path, "TRAIN.CHECKPOINT_INFLATION", inflation)
    assert torch.allclose(model.state_dict()[name], image[name].expand(-1, -1, 3, -1, -1) * share)


def test_a_classifier_of_another_order_is_renumbered_before_training(tmp_path):
    trained = tiny("uniformer", num_classes=3).state_dict()
    torch.save({"model_state": trained, "class_names": NAMES}, tmp_path / "c.pyth")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES[::-1]) + "\n")
    model = tiny("uniformer", num_classes=3)
    start(model, tmp_path, "MODEL.NUM_CLASSES", 3, "DATA.CLASS_NAMES", str(tmp_path / "classes.txt"))
    for name in ("head.weight", "head.bias"):
        assert torch.equal(model.state_dict()[name], trained[name].flip(0))
