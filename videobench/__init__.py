"""videobench: train and test video-recognition networks from one YAML file.

The names below are loaded when they are first used, so that ``import videobench`` costs next to nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "ConfigError": "videobench.config",
    "load_config": "videobench.config",
    "Predictor": "videobench.inference.predictor",
    "VideoError": "videobench.datasets.containers",
    "build_model": "videobench.models",
    "create_model": "videobench.models",
    "list_models": "videobench.models",
    "load_weights": "videobench.models",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'videobench' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
