"""Features of videos as a NumPy file: python examples/embed.py RUN|FILE OUT.npy VIDEO [VIDEO ...].

Row i of OUT.npy belongs to the i-th video. Videos that show similar things have features of high cosine similarity.
"""

import sys

import numpy as np
import torch

import videobench


@torch.inference_mode()
def embed(predictor: videobench.Predictor, path: str) -> np.ndarray:
    """The features [num_features] of a video: the mean over its views."""
    clips = predictor.views(path).clips()  # uint8 [views, T, 3, H, W]
    features = predictor.network.model.forward_features(predictor.network.inputs(clips))  # float [views, num_features]
    return features.mean(0).cpu().numpy()


def main(weights: str, output: str, *videos: str) -> None:
    predictor = videobench.Predictor(weights)
    features = np.stack([embed(predictor, path) for path in videos])
    np.save(output, features)
    print(f"{output}: {features.shape[0]} videos, {features.shape[1]} numbers each")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
