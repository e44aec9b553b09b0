"""Classifiers whose classes are numbered otherwise than the labels."""

from collections.abc import Sequence

import torch

from videobench.models.layers import VideoModel
from videobench.models.weights import WeightsError

# The lists of one data set differ in them: "massaging person's head" and massaging_persons_head.
_MARKS = str.maketrans("", "", "\"'()[]")


def reorder_classes(model: VideoModel, have: Sequence[str], want: Sequence[str]) -> int:
    """Renumber the classes of a network with one classifier, in place, by their names.

    Names are the same whatever their case, underscores, quotes and brackets: ``curling_sport`` is ``Curling (sport)``.

    Args:
        model: the network.
        have: names of its classes, in the order of its outputs.
        want: the same names in the order that the outputs are to have.

    Returns:
        How many classes have another number now.

    Raises:
        WeightsError: when the names are not the same, or are not one per output; the network is then unchanged.
    """
    numbers = {_plain(name): number for number, name in enumerate(have)}
    wanted = [_plain(name) for name in want]
    if len(numbers) != len(have) or set(numbers) != set(wanted) or len(wanted) != len(have):
        others = sorted(set(numbers) ^ set(wanted))[:4] or ["a name given twice"]
        raise WeightsError(
            f"the weights know {len(have)} classes and the labels (DATA.CLASS_NAMES) {len(want)}, and their names are "
            f"not the same: {', '.join(others)}"
        )
    order = torch.tensor([numbers[name] for name in wanted])
    heads = {name: tensor for name, tensor in model.state_dict().items() if model.is_head(name)}
    # A classifier ends in a layer with one row per class; what is before it in the head has other sizes.
    last = {name: tensor for name, tensor in heads.items() if tensor.dim() and len(tensor) == len(order)}
    if not last:
        raise WeightsError(f"the network has no classifier of {len(order)} classes")
    for tensor in last.values():
        tensor.copy_(tensor[order.to(tensor.device)])
    return int((order != torch.arange(len(order))).sum())


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").translate(_MARKS).lower().split())
