"""Weights that number their classes otherwise than the labels."""

import pytest
import torch
from tiny_networks import sample, tiny

from videobench.config import load_config
from videobench.datasets.annotations import read_class_names
from videobench.engine.class_order import match_classes
from videobench.models import WeightsError, load_weights

NAMES = ["abseiling", "playing chess", "riding a bike"]


def loaded(content):
    model = tiny("uniformer", num_classes=3)
    return model, load_weights(model, content)


def names_file(folder, names) -> str:
    path = folder / "classes.txt"
    path.write_text("\n".join(names) + "\n")
    return str(path)


def test_our_own_weights_say_their_order(tmp_path, caplog):
    state = tiny("uniformer", num_classes=3).state_dict()
    model, report = loaded({"model_state": state, "class_names": NAMES})
    before = model(sample("uniformer"))
    cfg = load_config([], ["MODEL.NUM_CLASSES", 3, "DATA.CLASS_NAMES", names_file(tmp_path, NAMES[::-1])])
    with caplog.at_level("WARNING", logger="videobench"):
        match_classes(model, report, cfg, required=True)
    assert torch.equal(model(sample("uniformer")), before.flip(1))
    assert "2 of its 3 classes are numbered otherwise than in DATA.CLASS_NAMES" in caplog.text


def test_the_order_of_published_weights_is_configured(tmp_path):
    model, report = loaded(tiny("uniformer", num_classes=3).state_dict())
    before = model(sample("uniformer"))
    labels = names_file(tmp_path, NAMES)
    match_classes(model, report, load_config([], ["MODEL.NUM_CLASSES", 3, "DATA.CLASS_NAMES", labels]), required=True)
    assert torch.equal(model(sample("uniformer")), before)
    order = tmp_path / "order.txt"
    order.write_text("\n".join([NAMES[1], NAMES[0], NAMES[2]]) + "\n")
    cfg = load_config([], ["MODEL.NUM_CLASSES", 3, "DATA.CLASS_NAMES", labels, "MODEL.CHECKPOINT_CLASSES", str(order)])
    match_classes(model, report, cfg, required=True)
    assert torch.equal(model(sample("uniformer")), before[:, [1, 0, 2]])


def test_other_classes_stop_a_test_but_not_the_start_of_training(tmp_path):
    state = tiny("uniformer", num_classes=3).state_dict()
    model, report = loaded({"model_state": state, "class_names": ["a", "b", "c"]})
    cfg = load_config([], ["MODEL.NUM_CLASSES", 3, "DATA.CLASS_NAMES", names_file(tmp_path, NAMES)])
    with pytest.raises(WeightsError, match="names are not the same"):
        match_classes(model, report, cfg, required=True)
    match_classes(model, report, cfg, required=False)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("dataset", "first"), [("kinetics400", "riding a bike"), ("kinetics600", "feeding fish")])
def test_the_two_orders_of_kinetics_name_the_same_classes(dataset, first):
    alphabetical, uniformer = read_class_names(dataset), read_class_names(f"{dataset}_uniformer")
    assert alphabetical == sorted(alphabetical)
    # UniFormer's file of Kinetics-600 leaves brackets and quotes out, which moves four classes of the sorted list.
    marks = str.maketrans("", "", "'()")
    plain = [sorted(name.translate(marks).lower() for name in names) for names in (uniformer, alphabetical)]
    assert plain[0] == plain[1]
    assert len(set(uniformer)) == len(uniformer) == int(dataset[-3:])
    assert (alphabetical[0], uniformer[0]) == ("abseiling", first)
