"""Networks by name: ``MODEL.MODEL_NAME`` of a configuration, or the id of a published row."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from videobench.config import CfgNode, ConfigError
from videobench.models.layers import VideoModel

# Which file of this package registers a name; a family is imported when one of its names is asked for.
_MODULES = {
    "Uniformer": "uniformer",
    "Uniformer_light_fp32": "uniformer_light",
    "Uniformer_light_ls_fp32": "uniformer_light",
    "MorphMLP": "morphmlp",
    "MorphMLP_32": "morphmlp",
    "MorphMLP_image": "morphmlp",
    "MViT": "mvit",
    "VisionTransformer": "motionformer",
    "MoViNet": "movinet",
}


@dataclass(frozen=True)
class _Entry:
    model_class: Callable[..., VideoModel]
    arguments: Callable[[CfgNode], dict[str, Any]]


_ENTRIES: dict[str, _Entry] = {}


def register_model(name: str, model_class: Callable[..., VideoModel], arguments: Callable[[CfgNode], dict]) -> None:
    """Make a network known under ``MODEL.MODEL_NAME``.

    Args:
        name: the registered name.
        model_class: class (or function) that builds the network from plain keyword arguments.
        arguments: reads those arguments from a configuration.
    """
    _ENTRIES[name] = _Entry(model_class, arguments)


def model_names() -> list[str]:
    """Every name that ``MODEL.MODEL_NAME`` takes."""
    return sorted(set(_MODULES) | set(_ENTRIES))


def build_model(cfg: CfgNode, **overrides: Any) -> VideoModel:
    """Build the network that a configuration describes, with fresh weights, on the CPU.

    Args:
        cfg: a loaded configuration.
        overrides: constructor arguments that take the place of what the configuration says.

    Raises:
        ConfigError: when MODEL.MODEL_NAME is unknown, or the configuration describes no such network.
    """
    name = cfg.MODEL.MODEL_NAME
    if name not in _ENTRIES and name in _MODULES:
        importlib.import_module(f"videobench.models.{_MODULES[name]}")
    if name not in _ENTRIES:
        raise ConfigError(f"MODEL.MODEL_NAME {name!r} is unknown; known names: {', '.join(model_names())}")
    entry = _ENTRIES[name]
    try:
        return entry.model_class(**{**entry.arguments(cfg), **overrides})
    except ValueError as error:
        raise ConfigError(f"MODEL.MODEL_NAME {name}: {error}") from error
