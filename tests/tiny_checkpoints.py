"""Checkpoints of tiny networks as training writes them."""

from pathlib import Path

import torch
from tiny_networks import NETWORKS, lively, tiny

import videobench
from videobench.config import CfgNode, load_config
from videobench.datasets.demo import CLASSES
from videobench.inference.network import Network

_COMMON = {
    "NUM_GPUS": 0,
    "MODEL.NUM_CLASSES": len(CLASSES),
    "DATA.NUM_FRAMES": 4,
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TEST_CROP_SIZE": 32,
    "DATA.TRAIN_JITTER_SCALES": [36, 40],
    "DATA_LOADER.NUM_WORKERS": 0,
    "DATA.SAMPLING_RATE": 3,
    "TEST.NUM_ENSEMBLE_VIEWS": 2,
    "TEST.NUM_SPATIAL_CROPS": 1,
    "TEST.SCORES": "softmax",
    "TENSORBOARD.ENABLE": False,
}
UNIFORMER = {
    "MODEL.MODEL_NAME": "Uniformer",
    "UNIFORMER.EMBED_DIM": [8, 8, 16, 16],
    "UNIFORMER.DEPTH": [1, 1, 1, 1],
    "UNIFORMER.HEAD_DIM": 8,
}


def tiny_config(settings: dict = UNIFORMER, **more) -> CfgNode:
    """The configuration of a tiny network."""
    settings = {**_COMMON, **settings, **{key.replace("__", "."): value for key, value in more.items()}}
    return load_config([], [word for setting in settings.items() for word in setting])


def checkpoint(path: Path, cfg: CfgNode, class_names: list[str] | None = None) -> Path:
    """A file as training writes it, with random weights that tell videos from each other."""
    frames, side = cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE
    model = lively(videobench.build_model(cfg), (3, frames, side, side))
    names = list(CLASSES) if class_names is None else class_names
    torch.save({"model_state": model.state_dict(), "cfg": cfg.dump(), "class_names": names}, path)
    return path


def network(name: str) -> Network:
    """A network of ``NETWORKS`` with the configuration that its clips need."""
    model, shape = tiny(name), NETWORKS[name][2]
    cfg = tiny_config(DATA__NUM_FRAMES=shape[2] if len(shape) == 5 else 1)
    heads = {"verb": 97, "noun": 300} if name.endswith("epic") else {"": 1000 if "image" in name else 400}
    if name.startswith("movinet"):
        heads = {"": 600}
    names = {head: [f"class {i}" for i in range(count)] for head, count in heads.items()}
    return Network(model, cfg, names, Path(name), torch.device("cpu"))
