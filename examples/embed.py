"""Features of videos as a NumPy file: python examples/embed.py RUN|FILE OUT.npy VIDEO [VIDEO ...]."""

import sys

import numpy as np
import torch

import videobench
from videobench.datasets.augment import normalise


@torch.inference_mode()
def embed(predictor: videobench.Predictor, path: str) -> np.ndarray:
    """The features [num_features] of a video: the mean over its views."""
    data, model = predictor.cfg.DATA, predictor.network.model
    clips = predictor.views(path).clips()  # uint8 [views, T, 3, H, W]
    clips = normalise(
        clips.to(predictor.network.device), data.MEAN, data.STD, reverse_channels=data.REVERSE_INPUT_CHANNEL
    )
    return model.forward_features(clips).float().mean(0).cpu().numpy()


def main(weights: str, output: str, *videos: str) -> None:
    predictor = videobench.Predictor(weights)
    features = np.stack([embed(predictor, path) for path in videos])
    np.save(output, features)
    print(f"{output}: {features.shape[0]} videos, {features.shape[1]} numbers each")


if __name__ == "__main__":
    main(*sys.argv[1:])
