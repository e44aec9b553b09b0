"""A causal MoViNet fed frame by frame: python examples/stream.py VIDEO [RUN|FILE [MODEL]].

Without weights the network is fresh and its classes mean nothing; the loop is what there is to see.
"""

import sys

import torch

import videobench
from videobench.datasets.augment import normalise
from videobench.datasets.cropping import test_crops
from videobench.datasets.decoding import Video
from videobench.inference.network import load_network

MODEL = "movinet_a0_stream_k600"


@torch.inference_mode()
def main(path: str, weights: str = "", model: str = MODEL) -> torch.Tensor:
    """Print the best class after every frame; returns the last logits."""
    network = load_network(weights, model, device="cpu").model if weights else videobench.create_model(model).eval()
    state = network.stream_state(1)  # before the first frame of one video
    with Video(path) as video:
        for number in range(video.frames):
            frame = video.decode([number])  # uint8 [1, H, W, 3]
            crop = test_crops(frame, 172, 172, 1)[0]  # uint8 [1, 3, 172, 172]
            clip = normalise(crop[None], [0, 0, 0], [1, 1, 1])  # float [1, 3, 1, 172, 172]
            logits, state = network.stream(clip, state)
            probability, best = logits[0].softmax(0).max(0)
            print(f"frame {number}: class {best} ({probability:.0%})")
    return logits


if __name__ == "__main__":
    main(*sys.argv[1:])
