"""What ranks do in the tests of launching: python rank_scenarios.py SCENARIO [--init_method ...] [KEY VALUE ...]."""

import copy
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.tiny_networks import NETWORKS, tiny
from videobench.config import ConfigError, load_config
from videobench.distributed import watch
from videobench.distributed.group import rank, report_progress, sum_over_ranks, world_size
from videobench.distributed.launch import launch
from videobench.distributed.place import find_place, settle
from videobench.distributed.sync_batch_norm import synchronise_batch_norms

# Here, for the processes that are spawned read this file, too.
watch.LOOK, watch.DEAD = 0.3, 3.0
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
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    return add(cfg, device)


def silent(cfg, device):
    if rank() == world_size() - 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return add(cfg, device)


def hang(cfg, device):
    report_progress("at epoch 2, step 5")
    if rank() == world_size() - 1:
        time.sleep(100)
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
        clips = torch.randn(3, 8, *NETWORKS[name][2][1:], dtype=torch.float64, generator=generator)
        labels = torch.randint(400, (8,), generator=generator)
        share = slice(rank() * 8 // world_size(), (rank() + 1) * 8 // world_size())
        train_steps(alone, alone, clips, labels)
        train_steps(DistributedDataParallel(split), split, clips[:, share], labels[share])
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
        return launch(cfg, place, globals()[scenario], {ConfigError: 2})
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
