"""Block tables of MoViNet-A0 to A5 (Kondratyuk et al., "MoViNets: Mobile Video Networks", 2021, appendix)."""

from dataclasses import dataclass

#: Kernels (time, height, width) of the depthwise convolutions by their letter in the tables below.
KERNELS = {"a": (1, 3, 3), "b": (1, 5, 5), "c": (3, 3, 3), "d": (5, 3, 3)}


@dataclass(frozen=True)
class Stage:
    """A run of blocks with one output width.

    Attributes:
        channels: output channels of every block.
        kernels: one letter of ``KERNELS`` per block.
        expanded: channels inside each block.
        stride: spatial stride of the first block.
        first_padding: spatial padding of the first block without TensorFlow's rule; None means (kernel - 1) / 2.
        first_pool_padding: the same for the pool of that block's shortcut.
    """

    channels: int
    kernels: str
    expanded: tuple[int, ...]
    stride: int
    first_padding: int | None = None
    first_pool_padding: int = 1


@dataclass(frozen=True)
class Variant:
    """A network: channels of the stem, the stages, channels of the last convolution, hidden classifier width."""

    stem: int
    stages: tuple[Stage, ...]
    head: int
    hidden: int = 2048


VARIANTS = {
    "A0": Variant(
        stem=8,
        stages=(
            Stage(8, "b", (24,), 2),
            Stage(32, "ccc", (80, 80, 80), 2, first_padding=0, first_pool_padding=0),
            Stage(56, "dcc", (184, 112, 184), 2, first_padding=0, first_pool_padding=0),
            Stage(56, "dccc", (184, 184, 184, 184), 1),
            Stage(104, "dbbb", (384, 280, 280, 344), 2),
        ),
        head=480,
    ),
    "A1": Variant(
        stem=16,
        stages=(
            Stage(16, "bc", (40, 40), 2),
            Stage(40, "cccc", (96, 120, 96, 96), 2, first_padding=0, first_pool_padding=0),
            Stage(64, "dcccc", (216, 128, 216, 168, 216), 2, first_padding=0, first_pool_padding=0),
            Stage(64, "dcccbc", (216, 216, 216, 128, 128, 216), 1),
            Stage(136, "dbbbbca", (456, 360, 360, 360, 456, 456, 544), 2),
        ),
        head=600,
    ),
    "A2": Variant(
        stem=16,
        stages=(
            Stage(16, "bcc", (40, 40, 64), 2),
            Stage(40, "ccccc", (96, 120, 96, 96, 120), 2),
            Stage(72, "dcccc", (240, 160, 240, 192, 240), 2),
            Stage(72, "dcccbc", (240, 240, 240, 240, 144, 240), 1),
            Stage(144, "dbbbbca", (480, 384, 384, 480, 480, 480, 576), 2),
        ),
        head=640,
    ),
    "A3": Variant(
        stem=16,
        stages=(
            Stage(16, "bccc", (40, 40, 64, 40), 2),
            Stage(48, "cccbcc", (112, 144, 112, 112, 144, 144), 2),
            Stage(80, "dcccc", (240, 152, 240, 192, 240), 2),
            Stage(88, "dcccbccc", (264, 264, 264, 264, 160, 264, 264, 264), 1),
            Stage(168, "dbbbbcbbca", (560, 448, 448, 560, 560, 560, 448, 448, 560, 672), 2),
        ),
        head=744,
    ),
    "A4": Variant(
        stem=24,
        stages=(
            Stage(24, "bccccc", (64, 64, 96, 64, 96, 64), 2, first_padding=1, first_pool_padding=0),
            Stage(56, "cccccccbc", (168, 168, 136, 136, 168, 168, 168, 136, 136), 2),
            Stage(96, "dcccccccc", (320, 160, 320, 192, 320, 160, 320, 256, 320), 2),
            Stage(96, "dcccbccccc", (320, 320, 320, 320, 192, 320, 320, 192, 320, 320), 1),
            Stage(192, "dbbbbcbbbbbcc", (640, 512, 512, 640, 640, 640, 512, 512, 640, 768, 640, 640, 768), 2),
        ),
        head=856,
    ),
    "A5": Variant(
        stem=24,
        stages=(
            Stage(24, "bbcccc", (64, 64, 96, 64, 96, 64), 2),
            Stage(64, "dcccccccccc", (192, 152, 152, 152, 192, 192, 192, 152, 152, 192, 192), 2),
            Stage(112, "dcccccccccccc", (376, 224, 376, 376, 296, 376, 224, 376, 376, 296, 376, 376, 376), 2),
            Stage(120, "dcccbcccccc", (376, 376, 376, 376, 224, 376, 376, 224, 376, 376, 376), 1),
            Stage(
                224,
                "dcbbbbcbbbbbcbbbbc",
                (744, 744, 600, 600, 744, 744, 744, 896, 600, 600, 896, 744, 744, 896, 600, 600, 744, 744),
                2,
            ),
        ),
        head=992,
    ),
}
