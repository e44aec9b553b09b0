"""The networks: one file per family, built by name, with one contract (:class:`VideoModel`)."""

from videobench.models.layers import VideoModel
from videobench.models.registry import build_model, model_names, register_model

__all__ = ["VideoModel", "build_model", "model_names", "register_model"]
