"""The networks: one file per family, built by name, with one contract (:class:`VideoModel`)."""

from videobench.models.layers import VideoModel
from videobench.models.registry import build_model, model_names, register_model
from videobench.models.weights import LoadReport, WeightsError, export_weights, load_weights
from videobench.models.zoo import create_model, list_models, zoo_config

__all__ = [
    "LoadReport",
    "VideoModel",
    "WeightsError",
    "build_model",
    "create_model",
    "export_weights",
    "list_models",
    "load_weights",
    "model_names",
    "register_model",
    "zoo_config",
]
