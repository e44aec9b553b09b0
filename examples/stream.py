"""A causal MoViNet fed frame by frame: python examples/stream.py VIDEO RUN|FILE [MODEL].

MODEL names what published weights are of, for example movinet_a0_stream_k600. tools/stream.py does more: cameras,
network streams, frames that come too late.
"""

import sys

import torch

from videobench.datasets.decoding import Video
from videobench.inference.network import load_network
from videobench.inference.streaming import FrameCrop


@torch.inference_mode()
def main(path: str, weights: str, model: str | None = None) -> torch.Tensor:
    """Print the best class after every frame; returns the last logits."""
    network = load_network(weights, model)
    names, crop = network.class_names[""], FrameCrop(network.cfg)
    state = network.model.stream_state(1, network.device)  # before the first frame of one video
    with Video(path) as video:
        for number in range(video.frames):
            frame = video.decode([number])[0].numpy()  # uint8 [H, W, 3]
            clip = network.inputs(crop(frame)[None, None])  # float [1, 3, 1, size, size]
            logits, state = network.model.stream(clip, state)
            probability, best = logits[0].softmax(0).max(0)
            print(f"frame {number}: {names[best]} ({probability:.0%})")
    return logits


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
