"""The networks as their papers and tables read, without any rewrite: what ``benchmarks/model.py`` compares with.

Stock convolutions in stock layouts, attention matrices written out, norms where they stand. A plain form takes its
sizes and its weights, whose names are the same, from one of our networks, and gives the same logits. It has no dropout
and no stochastic depth.
"""

from torch import nn

from videobench.models import VideoModel

from .morphmlp import PlainMorphMLP
from .motionformer import PlainMotionformer
from .movinet import PlainMoViNet
from .mvit import PlainMViT
from .uniformer import PlainUniformer

FORMS: dict[str, type[nn.Module]] = {
    "Motionformer": PlainMotionformer,
    "MViT": PlainMViT,
    "MorphMLP": PlainMorphMLP,
    "Uniformer": PlainUniformer,
    "MoViNet": PlainMoViNet,
}


def plain_form(model: VideoModel) -> nn.Module:
    """The plain form of a network, with copies of its weights, in the same mode and on the same device.

    Raises:
        ValueError: for a network, or a form of one, that has none.
    """
    name = type(model).__name__
    if name not in FORMS:
        raise ValueError(f"{name} has no plain form; there are {', '.join(FORMS)}")
    plain = FORMS[name](model).to(next(model.parameters()))
    plain.load_state_dict(model.state_dict())
    for name, parameter in model.named_parameters():
        plain.get_parameter(name).requires_grad_(parameter.requires_grad)
    return plain.train(model.training)
