"""What ranks do in the tests of launching: python rank_scenarios.py SCENARIO [--init_method ...] [KEY VALUE ...]."""

import copy
import json
import os
import signal
import sys
import time
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.tiny_networks import NETWORKS, tiny
from videobench.config import ConfigError, load_config
from videobench.distributed import launch as launching
from videobench.distributed import watch
from videobench.distributed.group import barrier, rank, report_progress, sum_over_ranks, world_size
from videobench.distributed.parallel import replicate
from videobench.distributed.place import find_place, settle
from videobench.distributed.sync_batch_norm import synchronise_batch_norms
from videobench.engine.checkpoint import CheckpointWriter, epoch_path
from videobench.engine.training_state import TrainingState
from videobench.engine.training_step import TrainingStep
from videobench.models.weights import read_checkpoint
from videobench.solver.ema import ExponentialMovingAverage
from videobench.solver.optimizer import build_optimizer, freeze_layers

# Here, for the processes that are spawned read this file, too.
watch.LOOK = 0.3
if "silent" in sys.argv:
    watch.DEAD = 3.0
EMPTY = Path(__file__).with_name("empty.yaml")


def add(cfg, device):
    """The sum of all rank numbers and one, at the first rank."""
    total = int(sum_over_ranks(torch.tensor(rank() + 1)))
    if rank() == 0:
        print(f"sum {total} of {world_size()} on {device}, {cfg.NUM_SHARDS} machines", flush=True)
    return 0


def status(cfg, device):
    return 3


def fail(cfg, device):
    report_progress("at epoch 1, step 7")
    if rank() == world_size() - 1:
        raise ValueError("a mistake of the last rank")
    return add(cfg, device)


def wrong_input(cfg, device):
    if rank() == world_size() - 1:
        raise ConfigError("THE.KEY is wrong")
    return add(cfg, device)


def killed(cfg, device):
    if rank() == world_size() - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return add(cfg, device)


def first_killed(cfg, device):
    if rank() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return add(cfg, device)


def listening_to_nothing(cfg, device):
    signal.pause()


def told_to_one(cfg, device):
    if rank() == world_size() - 1:
        os.kill(os.getpid(), signal.SIGUSR1)
    return add(cfg, device)


def told_before_work_listens(cfg, device):
    barrier()
    if rank() == 0:
        os.kill(os.getppid(), signal.SIGTERM)
    signal.pause()


def told_at_the_end(cfg, device):
    launching.finish_undisturbed()
    barrier()
    for process in (os.getppid(), os.getpid()):
        os.kill(process, signal.SIGTERM)
    return 3


def silent(cfg, device):
    if rank() == world_size() - 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return add(cfg, device)


class HastyWatch(watch.Watch):
    """Loses patience in seconds, though the ranks have time to join."""

    def __init__(self, *args):
        super().__init__(*args)
        self.timeout, HastyWatch.own = 4.0, self


if "hang" in sys.argv:
    launching.Watch = HastyWatch


def waiting_in_vain(cfg, place, device):
    if place.local_rank == 0:
        os.kill(os.getppid(), signal.SIGUSR1)
    signal.pause()


told_while_joining = told_between_starts = listening_to_nothing
if "told_while_joining" in sys.argv:
    launching._join = waiting_in_vain


def roll_without_the_first(store, own, *others, call_roll=launching.call_roll):
    if own == 0:
        store.wait(["here/1"])
        os.kill(os.getpid(), signal.SIGKILL)
    return call_roll(store, own, *others)


first_killed_while_joining = listening_to_nothing
if "first_killed_while_joining" in sys.argv:
    launching.call_roll = roll_without_the_first


def start_and_signal(process, start=SpawnProcess.start):
    start(process)
    SpawnProcess.start = start
    os.kill(os.getpid(), signal.SIGUSR1)


if "told_between_starts" in sys.argv:
    SpawnProcess.start = start_and_signal


def hang(cfg, device):
    report_progress("at epoch 2, step 5")
    HastyWatch.own._say()
    barrier()  # all have said so
    if rank() == world_size() - 1:
        time.sleep(1000)
    report_progress("at epoch 2, step 6")
    return add(cfg, device)


def restarted(cfg, device):
    """Fails in the first attempt of torchrun only."""
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and rank() == 1:
        raise ValueError("the first attempt")
    return add(cfg, device)


def same_as_one(cfg, device):
    """Three steps on a share of every batch each, against three steps on the whole: the largest differences."""
    differences = {}
    for name in ("mvit_video", "motionformer", "uniformer", "morphmlp", "movinet_base"):
        alone = tiny(name).double()
        split = synchronise_batch_norms(copy.deepcopy(alone))
        generator = torch.Generator().manual_seed(0)
        clips = torch.randn(3, 4 * world_size(), *NETWORKS[name][2][1:], dtype=torch.float64, generator=generator)
        labels = torch.randint(400, (4 * world_size(),), generator=generator)
        share = slice(4 * rank(), 4 * rank() + 4)
        train_steps(alone, alone, clips, labels)
        train_steps(replicate(split, device, static_graph=True), split, clips[:, share], labels[share])
        one, several, before = alone.state_dict(), split.state_dict(), tiny(name).double().state_dict()
        assert max(float((one[key] - before[key]).abs().max()) for key in one) > 1e-4  # something was learned
        assert one.keys() == several.keys()
        differences[name] = max(float((one[key] - several[key]).abs().max()) for key in one)
    if rank() == 0:
        print(json.dumps(differences), flush=True)
    return 0


def train_steps(forward, model, clips, labels):
    """Steps without dropout and stochastic depth: batch norms alone are in training mode."""
    model.eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for batch in clips:
        model.clean_activation_buffers()
        optimizer.zero_grad()
        F.cross_entropy(forward(batch), labels).backward()
        optimizer.step()


RECIPE = [
    *("NUM_GPUS", 0, "SOLVER.BASE_LR", 1e-3, "SOLVER.FREEZE_LAYERS", 1, "TRAIN.EMA", True, "TRAIN.EMA_DECAY", 0.5),
    *("TRAIN.CHECKPOINT_PERIOD", 1, "MODEL.ACT_CHECKPOINT", True, "TEST.ENABLE", False),
]
# Clipping by norm and by value, and optimizers whose states differ; batch norms that ranks share in one of them.
CLIPPED = {
    "mvit_video": ("SOLVER.CLIP_GRAD_L2NORM", 0.1, "SOLVER.LAYER_DECAY", 0.8),
    "motionformer_epic": ("SOLVER.CLIP_GRAD_VAL", 1e-2, "SOLVER.OPTIMIZING_METHOD", "sgd", "SOLVER.BASE_LR", 0.1),
    "uniformer": ("SOLVER.CLIP_GRAD_L2NORM", 0.1, "SOLVER.OPTIMIZING_METHOD", "rmsprop"),
}


class Training:
    """Training of a tiny network in float64, put together as the trainer does."""

    def __init__(self, name, device, *, sharded, micro_batch=0, fused=False, path=None):
        words = [*RECIPE, *CLIPPED[name], "TRAIN.SHARD", sharded]
        self.cfg, self.name = load_config([str(EMPTY)], words), name
        model = synchronise_batch_norms(tiny(name, checkpoint_blocks=-1).double().train())
        freeze_layers(model, self.cfg.SOLVER.FREEZE_LAYERS)
        average = ExponentialMovingAverage.from_config(self.cfg, model)
        optimizer = build_optimizer(model, self.cfg)
        for group in optimizer.param_groups:
            group.update({"foreach": None, "fused": True} if fused else {})
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.state = TrainingState(model, optimizer, scaler, average)
        if path is not None:
            self.state.resume(path, read_checkpoint(path), self.cfg)
        if sharded:
            self.state.shard(device)
        forward = model if sharded else replicate(model, device, static_graph=not micro_batch)
        self.step = TrainingStep(self.cfg, model, forward, optimizer, scaler)
        self.step.micro_batch = micro_batch

    def run(self, steps):
        """The next steps, each with its own clips, others on every rank; the norms of their gradients."""
        norms = []
        for _ in range(steps):
            self.state.step += 1
            generator = torch.Generator().manual_seed(100 * self.state.step + rank())
            clips = torch.randn(4, *NETWORKS[self.name][2][1:], dtype=torch.float64, generator=generator)
            labels = torch.randint(90, (4,), generator=generator)
            several = {"verb": labels, "noun": labels} if self.name == "motionformer_epic" else labels
            torch.manual_seed(self.state.step)
            norms.append(float(self.step(clips, several).grad_norm))
            self.state.ema.update(self.state.model, self.state.step)
        return norms

    def save(self, folder):
        """The checkpoint as every rank reads it, and its path."""
        writer = CheckpointWriter(folder)
        writer.write([path := epoch_path(folder, 1)], self.state.content(self.cfg))
        writer.close()
        barrier()
        return path, read_checkpoint(path)


def farthest(one, other):
    """The largest difference between two nests of tensors and numbers with the same names."""
    if isinstance(one, dict):
        assert list(one) == list(other)
        return max((farthest(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list):
        assert len(one) == len(other)
        return max((farthest(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, torch.Tensor):
        assert (type(one), one.dtype, one.shape) == (type(other), other.dtype, other.shape)
        return float((one.double() - other.double()).abs().max())
    return abs(one - other) if isinstance(one, float) else float(one != other)


PARTS = ("model_state", "optimizer_state", "ema_state", "epoch", "step")


def apart(one, other):
    """How far two checkpoints are from each other."""
    return farthest({part: one[part] for part in PARTS}, {part: other[part] for part in PARTS})


def sharded_like_replicated(cfg, device):
    """Steps and checkpoints with split and with whole weights, going on from each other's: the largest differences."""
    differences = {}
    for name in CLIPPED:
        folder = Path(cfg.OUTPUT_DIR, name)
        pieces = {"micro_batch": 2, "fused": name == "mvit_video"}
        split, whole = (Training(name, device, sharded=sharded, **pieces) for sharded in (True, False))
        before = {key: p.detach().clone() for key, p in whole.state.model.named_parameters()}
        norms = [training.run(2) for training in (split, whole)]
        path, first = split.save(folder / "split")
        _, second = whole.save(folder / "whole")
        assert sorted(first) == sorted(second)
        # On from the split weights with whole ones, and from those with split ones again.
        plain = Training(name, device, sharded=False, path=path, **pieces)
        kept = apart(plain.save(folder / "kept")[1], first)
        plain.run(1)
        path, third = plain.save(folder / "plain")
        again = Training(name, device, sharded=True, path=path, **pieces)
        kept = max(kept, apart(again.save(folder / "again")[1], third))
        again.run(1)
        whole.run(2)
        differences[name] = {
            "norms": farthest(*norms),
            "checkpoints": apart(first, second),
            "kept": kept,
            "after": apart(again.save(folder / "end")[1], whole.save(folder / "whole end")[1]),
            "learned": farthest({key: second["model_state"][key] for key in before}, before),
        }
    if rank() == 0:
        print(json.dumps(differences), flush=True)
    return 0


def main() -> int:
    scenario, *words = sys.argv[1:]
    init_method = ""
    if "--init_method" in words:
        at = words.index("--init_method")
        init_method = words[at + 1]
        del words[at : at + 2]
    cfg = load_config([str(EMPTY)], ["NUM_GPUS", "0", *words])
    try:
        place = find_place(cfg, init_method)
        settle(cfg, place)
        return launching.launch(cfg, place, globals()[scenario], {ConfigError: 2})
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
