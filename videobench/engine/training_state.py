"""What a training run is, between two steps: what a checkpoint holds, and how a run goes on from it.

There is no state of random generators in it, because none lives longer than a step: clips are drawn from (seed, epoch,
video), mixing and dropout from (seed, epoch, step, rank).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videobench.config import CfgNode
from videobench.distributed.parallel import shard
from videobench.engine.checkpoint import changed_keys, versions
from videobench.engine.class_names import class_names
from videobench.engine.class_order import match_classes
from videobench.engine.continuation import CONTINUED, batch_kept, checkpoint_to_continue, finished_steps
from videobench.models import VideoModel, WeightsError, load_weights
from videobench.reporting.curves import with_present_names
from videobench.solver.ema import ExponentialMovingAverage

logger = logging.getLogger(__name__)

_OTHER_NETWORK = "this checkpoint is of another network than the configuration describes"
_ADVICE = (
    "use another OUTPUT_DIR, and to begin with these weights name this file in TRAIN.CHECKPOINT_FILE_PATH with "
    "TRAIN.CHECKPOINT_EPOCH_RESET True"
)


@dataclass
class TrainingState:
    """Everything that the next step depends on.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the next one.
        sums: of the metrics over the unfinished epoch, of all ranks.
        failed: number, name and cause of its unreadable videos.
        history: one record per finished epoch.
        best: the best validation `score` so far; -1 before the first.
    """

    model: VideoModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: ExponentialMovingAverage | None
    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    failed: list[tuple[int, str, str]] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    best: float = -1.0

    def score(self, record: Mapping[str, float]) -> float:
        """What the best checkpoint has most of, in percent, of a record of an epoch; -1 without a validation.

        Mean average precision where videos have several labels, else top-1 accuracy; of the average where there is one.
        """
        prefix = "val_clip_" if self.ema is None else "val_clip_ema_"
        return record.get(f"{prefix}map", 100.0 - record.get(f"{prefix}top1_err", 101.0))

    def shard(self, device: torch.device) -> None:
        """Split weights, average and moments among the ranks; a checkpoint is the same as without."""
        shard(self.model, self.optimizer, device)
        if self.ema is not None:
            shard(self.ema.module, None, device)

    def content(self, cfg: CfgNode) -> dict[str, Any]:
        """The state as a checkpoint holds it: tensors and plain data, in the published layout and a little more."""
        content = {
            "epoch": self.epoch - 1,
            "step": self.step,
            "model_state": self.model.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "cfg": cfg.dump(),
            "class_names": _names(cfg),
            "sums": dict(self.sums),
            "failed": list(self.failed),
            "history": list(self.history),
            "best": self.best,
            "versions": versions(),
        }
        if self.ema is not None:
            content["ema_state"] = self.ema.state_dict()
        if self.scaler.is_enabled():
            content["scaler_state"] = self.scaler.state_dict()
        return content

    def start(self, cfg: CfgNode) -> Path | None:
        """Continue the run of OUTPUT_DIR, or begin from TRAIN.CHECKPOINT_FILE_PATH, or from fresh weights.

        Returns:
            The checkpoint that the run goes on from, or None when it begins.

        Raises:
            WeightsError: when a checkpoint cannot be read, or is of another network or optimizer.
        """
        if (found := checkpoint_to_continue(cfg)) is not None:
            self.resume(*found, cfg)
            return found[0]
        if cfg.TRAIN.CHECKPOINT_FILE_PATH:
            report = load_weights(self.model, cfg.TRAIN.CHECKPOINT_FILE_PATH, inflation=cfg.TRAIN.CHECKPOINT_INFLATION)
            logger.info("%s", report)
            match_classes(self.model, report, cfg, required=False)
            self._start_average()
        return None

    def resume(self, path: Path, content: dict[str, Any], cfg: CfgNode) -> None:
        """Restore everything, and say which keys of the configuration are others than before.

        Args:
            path: the checkpoint, for messages.
            content: what it holds: one of this package, or of a SlowFast-like code base.
            cfg: the configuration of the run that goes on.

        Raises:
            WeightsError: when it is of another network or optimizer.
        """
        if absent := [name for name in CONTINUED if name not in content]:
            raise WeightsError(f"{path}: training cannot go on from it without its {', '.join(absent)}; {_ADVICE}")
        try:
            report = load_weights(self.model, {"model_state": content["model_state"]})
        except WeightsError as error:
            raise WeightsError(f"{path}: {_OTHER_NETWORK}; {_ADVICE}\n{error}") from error
        if not report.complete or report.unexpected:
            raise WeightsError(f"{path}: {_OTHER_NETWORK}; {_ADVICE}\n{report}")
        self._restore_optimizer(path, content["optimizer_state"])
        if changed := changed_keys(content.get("cfg", ""), cfg):
            logger.warning("going on with other settings than %s was made with: %s", path, "; ".join(changed))
        if (names := content.get("class_names")) and (now := _names(cfg)) and names != now:
            logger.warning("going on with other class names (DATA.CLASS_NAMES) than %s has; numbers stay", path)
        if said := batch_kept(content.get("cfg", ""), cfg):
            logger.info("%s", said)
        scaler = content.get("scaler_state") or content.get("scaler")
        if self.scaler.is_enabled() and scaler:
            self.scaler.load_state_dict(scaler)
        if self.ema is not None and "ema_state" in content:
            self.ema.load_state_dict(content["ema_state"])
        else:
            self._start_average()
        self.epoch = content["epoch"] + 1
        self.step = finished_steps(content.get("step", 0), content.get("cfg", ""), cfg)
        self.sums, self.failed = dict(content.get("sums", {})), list(content.get("failed", []))
        self.history = [with_present_names(record) for record in content.get("history", [])]
        # From the history, because what it is judged by changes when TRAIN.EMA is switched.
        self.best = max(map(self.score, self.history), default=-1.0)
        steps = f" and {self.step} steps of the next" if self.step else ""
        logger.info("resuming after epoch %d%s from %s", self.epoch, steps, path)

    def _start_average(self) -> None:
        if self.ema is not None:
            logger.info("the average of the weights (TRAIN.EMA) begins with these weights")
            self.ema.load_state_dict(self.model.state_dict())

    def _restore_optimizer(self, path: Path, state: dict[str, Any]) -> None:
        # The moments come from the file, the options (weight decay, betas) from the configuration.
        own = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            state = _of_trained(state, [parameter.requires_grad for parameter in self.model.parameters()])
            groups = state["param_groups"]
            if list(map(_method, groups)) != list(map(_method, own)):
                raise ValueError("it is of another SOLVER.OPTIMIZING_METHOD or has other parameter groups")
            groups = [{**options, "params": group["params"]} for options, group in zip(own, groups, strict=True)]
            self.optimizer.load_state_dict({**state, "param_groups": groups})
            for parameter, values in self.optimizer.state.items():
                # Moments are assigned by position, which torch does not check.
                if any(v.dim() and v.shape != parameter.shape for v in values.values() if isinstance(v, Tensor)):
                    raise ValueError("its tensors are in another order than this network's parameters")
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{path}: the optimizer state does not fit ({error}); {_ADVICE}") from error


def _names(cfg: CfgNode) -> list[str] | dict[str, list[str]]:
    """Class names as a checkpoint holds them: a list, or one by head where there are several."""
    names = class_names(cfg)
    return names.get("", names)


def _of_trained(state: dict[str, Any], trained: list[bool]) -> dict[str, Any]:
    """An optimizer's state without empty groups and, where its one group has all parameters, those not trained here.

    Motionformer's has a group for batch norms, of which there are none, and parameters that no forward pass reads.
    """
    groups = [group for group in state["param_groups"] if group["params"]]
    if len(groups) == 1 and len(groups[0]["params"]) == len(trained):
        kept = [number for number, wanted in zip(groups[0]["params"], trained, strict=True) if wanted]
        groups = [{**groups[0], "params": kept}]
        state = {**state, "state": {number: state["state"][number] for number in kept if number in state["state"]}}
    return {**state, "param_groups": groups}


def _method(group: Mapping[str, Any]) -> str:
    """Which optimizers the moments of a parameter group are for: only Adam's have betas, only RMSProp's an alpha."""
    return next((option for option in ("betas", "alpha") if option in group), "momentum")
