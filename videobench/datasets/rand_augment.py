"""RandAugment and AutoAugment on whole clips: the draws of timm, one set of them for all frames of a clip."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isinf

import numpy as np
from torch import Tensor

from videobench.config import ConfigError
from videobench.datasets import pixel_ops
from videobench.datasets.geometry import INTERPOLATIONS
from videobench.datasets.pixel_ops import Sampling

# The magnitude that stands for the whole range of an operation, and the upper bound where a policy names none.
FULL = 10.0


@dataclass(frozen=True)
class Frame:
    """What an argument may hang on: the size of a frame in pixels, and the random numbers of the clip."""

    height: int
    width: int
    rng: np.random.Generator

    def signed(self, value: float) -> float:
        return -value if self.rng.random() > 0.5 else value


def _scaled(fraction: float, full: float) -> int:
    return int(fraction * full)


# Name of timm's operation -> ours, and its argument for a share of the whole range (magnitude / 10) on a frame.
_Argument = Callable[[float, Frame], float] | None
OPERATIONS: dict[str, tuple[str, _Argument]] = {
    "AutoContrast": ("auto_contrast", None),
    "Equalize": ("equalize", None),
    "Invert": ("invert", None),
    "Rotate": ("rotate", lambda share, frame: frame.signed(30 * share)),
    "Posterize": ("posterize", lambda share, _: _scaled(share, 4)),
    "PosterizeIncreasing": ("posterize", lambda share, _: 4 - _scaled(share, 4)),
    "PosterizeOriginal": ("posterize", lambda share, _: 4 + _scaled(share, 4)),
    "Solarize": ("solarize", lambda share, _: min(256, _scaled(share, 256))),
    "SolarizeIncreasing": ("solarize", lambda share, _: 256 - min(256, _scaled(share, 256))),
    "SolarizeAdd": ("solarize_add", lambda share, _: min(128, _scaled(share, 110))),
    "Desaturate": ("color", lambda share, _: 0.5 - 0.5 * min(share, 1.0)),
    "GaussianBlur": ("gaussian_blur", lambda share, _: 0.1 + 1.9 * min(share, 1.0)),
    "GaussianBlurRand": ("gaussian_blur", lambda share, frame: frame.rng.uniform(0.1, 2.0 * min(share, 1.0))),
    "ShearX": ("shear_x", lambda share, frame: frame.signed(0.3 * share)),
    "ShearY": ("shear_y", lambda share, frame: frame.signed(0.3 * share)),
    "TranslateX": ("translate_x", lambda share, frame: frame.signed(share * _limit(frame))),
    "TranslateY": ("translate_y", lambda share, frame: frame.signed(share * _limit(frame))),
    "TranslateXRel": ("translate_x", lambda share, frame: frame.signed(0.45 * share * frame.width)),
    "TranslateYRel": ("translate_y", lambda share, frame: frame.signed(0.45 * share * frame.height)),
}
for _name in ("Color", "Contrast", "Brightness", "Sharpness"):
    OPERATIONS[_name] = _name.lower(), lambda share, _: 1.8 * share + 0.1
    OPERATIONS[f"{_name}Increasing"] = _name.lower(), lambda share, frame: max(0.1, 1 + frame.signed(0.9 * share))


def _limit(frame: Frame) -> int:
    """The longest absolute translation, in pixels."""
    return int(0.45 * min(frame.height, frame.width))


@dataclass(frozen=True)
class Step:
    """One operation of a policy, with the chance that it is applied and the spread and bound of its magnitude."""

    name: str
    probability: float
    magnitude: float
    spread: float
    bound: float

    def draw(self, frame: Frame) -> tuple[str, float | None] | None:
        """Our name of the operation and its argument, or None where chance says no."""
        rng = frame.rng
        if self.probability < 1 and rng.random() > self.probability:
            return None
        magnitude = self.magnitude
        if isinf(self.spread):
            magnitude = rng.uniform(0, magnitude)
        elif self.spread > 0:
            magnitude = rng.normal(magnitude, self.spread)
        name, argument = OPERATIONS[self.name]
        share = max(0.0, min(magnitude, self.bound)) / FULL
        return name, argument(share, frame) if argument else None


@dataclass(frozen=True)
class Policy:
    """Which operations a clip meets: one of several fixed chains (AutoAugment), or a draw of single steps."""

    chains: tuple[tuple[Step, ...], ...]
    # Steps drawn per clip; None: one chain is drawn and applied as a whole.
    layers: int | None = None
    # Chances of the steps, which are then drawn without replacement.
    weights: tuple[float, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """The policy of a string in timm's grammar, read by the installed timm.

        Args:
            text: RandAugment as ``rand-m7-n4-mstd0.5-inc1`` (Cubuk et al., 2020) or AutoAugment as ``v0``,
                ``original-mstd0.5`` (Cubuk et al., 2019); see ``timm.data.auto_augment``.

        Raises:
            ConfigError: for a string that timm does not read, or draws that cannot be made.
        """
        from timm.data.auto_augment import auto_augment_transform, rand_augment_transform

        try:
            if not text.startswith("rand"):
                policy = auto_augment_transform(text, {}).policy
                return cls(tuple(tuple(map(_step, chain)) for chain in policy))
            drawn = rand_augment_transform(text, {})
        except (AssertionError, ValueError) as error:
            raise ConfigError(f"AUG.AA_TYPE is {text!r}, which timm does not read: {error}") from error
        weights = drawn.choice_weights
        if weights is not None and drawn.num_layers > len(drawn.ops):
            raise ConfigError(
                f"AUG.AA_TYPE is {text!r}: {drawn.num_layers} operations cannot be drawn from {len(drawn.ops)} without "
                "repeating one; lower -n"
            )
        steps = tuple((_step(op),) for op in drawn.ops)
        return cls(steps, drawn.num_layers, None if weights is None else tuple(map(float, weights)))

    def draw(self, frame: Frame) -> list[tuple[str, float | None]]:
        """Operations and arguments for a clip, in the order in which they are applied."""
        rng = frame.rng
        if self.layers is None:
            steps = self.chains[rng.integers(len(self.chains))]
        else:
            chosen = rng.choice(len(self.chains), self.layers, replace=self.weights is None, p=self.weights)
            steps = [self.chains[i][0] for i in chosen]
        return [drawn for step in steps if (drawn := step.draw(frame))]

    def __call__(self, clip: Tensor, rng: np.random.Generator, fill: tuple[int, ...], interpolation: str) -> Tensor:
        """A uint8 clip [T, C, H, W] augmented, all frames alike; ``random`` interpolation is drawn per operation."""
        for name, value in self.draw(Frame(*clip.shape[2:], rng)):
            drawn = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))] if interpolation == "random" else interpolation
            clip = pixel_ops.apply(name, clip, value, Sampling(fill, drawn))
        return clip


def _step(op) -> Step:
    """A step as timm's AugmentOp describes it."""
    spread = inf if isinf(op.magnitude_std) else float(op.magnitude_std)
    return Step(op.name, op.prob, op.magnitude, spread, float(op.magnitude_max or FULL))
