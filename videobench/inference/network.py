"""A trained network with everything that its use needs: configuration, class names, device."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videobench.config import CfgNode, ConfigError, load_config
from videobench.datasets.augment import normalise
from videobench.engine.arithmetic import channels_innermost
from videobench.engine.class_names import class_names
from videobench.engine.class_order import match_classes
from videobench.engine.sound_convolutions import avoid_unsound_convolutions
from videobench.engine.tester import weights_to_test
from videobench.models import VideoModel, WeightsError, build_model, list_models, load_weights
from videobench.models.weights import read_checkpoint
from videobench.models.zoo import zoo_row

logger = logging.getLogger(__name__)

_CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class Network:
    """A network ready for use.

    Attributes:
        model: in eval mode, on its device.
        cfg: how its clips are made: sampling, crop, normalisation, views.
        class_names: by head (``""`` where there is one only), in the order of its outputs; numbers where no names are
            known.
        weights: the file they come from.
        device: where it is.
    """

    model: VideoModel
    cfg: CfgNode
    class_names: dict[str, list[str]]
    weights: Path
    device: torch.device

    def inputs(self, clips: Tensor) -> Tensor:
        """Uint8 RGB clips [N, T, C, H, W] as the network takes them: float [N, C, T, H, W], on its device."""
        data = self.cfg.DATA
        return normalise(clips.to(self.device), data.MEAN, data.STD, reverse_channels=data.REVERSE_INPUT_CHANNEL)


def load_network(
    weights: str | Path,
    model: str | Path | None = None,
    *,
    device: str = "auto",
    settings: dict[str, Any] | None = None,
) -> Network:
    """The network of a run or of a weight file.

    Args:
        weights: the folder of a run (the checkpoint that its test takes, see TEST.CHECKPOINT), a checkpoint of a run,
            or published weights.
        model: what the weights are of, where the file does not say: the id of a published row, or a YAML file.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; ``auto`` is the first GPU, or the CPU where there is none.
        settings: keys of the configuration that are to have other values. TEST.BATCH_SIZE is 8 on a GPU and 1 on a
            CPU unless given, whatever the run had: larger batches of large networks are slower on a CPU.

    Raises:
        ConfigError: when nothing says what the weights are of, and for a configuration that cannot be used.
        WeightsError: when the weights cannot be read or do not fill the network.
        ValueError: for an unknown row, and a device that cannot be used.
    """
    weights, place = Path(weights), _device(device)
    cfg = _config(weights, model)
    cfg.defrost()
    if weights.is_dir():
        cfg.OUTPUT_DIR = str(weights)
        weights = weights_to_test(cfg)
    # One process, whatever the run had.
    alone = {"NUM_GPUS": 0, "NUM_CPU_RANKS": 1, "TEST.VIEW_SWEEP": []}
    alone["TEST.BATCH_SIZE"] = 1 if place.type == "cpu" else 8
    for key, value in (alone | (settings or {})).items():
        cfg.merge_from_list([key, value])
    names = _available_names(cfg)
    network = build_model(cfg)
    report = load_weights(network, weights, average=cfg.TEST.WEIGHTS == "ema")
    if not report.complete:
        raise WeightsError(f"{weights}: these weights do not fill the network\n{report}")
    if report.class_names:
        names = report.class_names
    elif names:
        match_classes(network, report, cfg, required=True)
    numbers = _numbers(network)
    if names and _counts(names) != _counts(numbers):
        raise WeightsError(
            f"{weights}: its class names (by head: {_counts(names)}) are not as many as its classes "
            f"({_counts(numbers)}); give the right ones, or none, as class_names in the file"
        )
    if place.type == "cpu" and cfg.TEST.PRECISION == "fp16":
        logger.warning("%s: TEST.PRECISION fp16 is for GPUs; fp32 is used", weights)
        cfg.TEST.PRECISION = "fp32"
    cfg.freeze()
    if cfg.TRAIN.CHANNELS_LAST:
        channels_innermost(network)
    network = network.to(place).eval().requires_grad_(False)
    avoid_unsound_convolutions(network, place, cfg.TEST.PRECISION)
    return Network(network, cfg, names or numbers, weights, place)


def _device(name: str) -> torch.device:
    try:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=place).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # the last two: PyTorch was built without such devices
        # Some go on for a thousand letters.
        cause = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(f"the device {name} cannot be used: {cause}") from error
    return place


def _config(weights: Path, model: str | Path | None) -> CfgNode:
    if model is not None:
        if Path(model).suffix in (".yaml", ".yml"):
            return load_config(model)
        recipe = _CONFIGS / zoo_row(str(model)).config
        if not recipe.exists():
            raise ConfigError(f"{recipe} is not there; name the recipe's YAML file instead of its id ({model})")
        return load_config(recipe)
    if weights.is_dir():
        if not (weights / "config.yaml").exists():
            raise ConfigError(f"{weights} is not the folder of a run: it has no config.yaml")
        return load_config(weights / "config.yaml")
    text = read_checkpoint(weights).get("cfg")
    if not isinstance(text, str):
        raise ConfigError(
            f"{weights} does not say what network it is of; name a published row (tools/model_info.py lists them) or a "
            f"YAML file, for example model={list_models()[0]!r}"
        )
    with tempfile.TemporaryDirectory() as folder:
        # As a file, because that is what a configuration of another code base is recognised in.
        path = Path(folder) / "cfg.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            return load_config(path)
        except ConfigError as error:
            raise ConfigError(
                f"{weights}: the configuration in it cannot be used; name the network's YAML file\n{error}"
            ) from error


def _available_names(cfg: CfgNode) -> dict[str, list[str]]:
    """The names that DATA.CLASS_NAMES gives; nothing where its files were left on another machine."""
    try:
        return class_names(cfg)
    except ConfigError as error:
        logger.warning("classes not named in the weights are shown by their numbers: %s", error)
        cfg.DATA.CLASS_NAMES = ""
        return {}


def _counts(names: dict[str, list[str]]) -> dict[str, int]:
    return {head: len(of_head) for head, of_head in names.items()}


def _numbers(model: VideoModel) -> dict[str, list[str]]:
    parameter = next(model.parameters())
    features = torch.zeros(1, model.num_features, device=parameter.device, dtype=parameter.dtype)
    with torch.inference_mode():
        logits = model.forward_head(features)
    heads = logits if isinstance(logits, dict) else {"": logits}
    return {head: [f"class {number}" for number in range(output.shape[1])] for head, output in heads.items()}
