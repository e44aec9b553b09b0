"""The networks: one file per family, built by name, with one contract (:class:`VideoModel`)."""

from videobench.models.layers import VideoModel
from videobench.models.registry import build_model, model_names, register_model
from videobench.models.weights import LoadReport, WeightsError, load_weights

__all__ = ["LoadReport", "VideoModel", "WeightsError", "build_model", "load_weights", "model_names", "register_model"]
