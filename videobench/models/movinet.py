"""MoViNet: mobile video networks for whole clips (base) and for frames as they come (stream).

Kondratyuk et al., "MoViNets: Mobile Video Networks for Efficient Video Recognition", CVPR 2021. Parameter names are
those of the published PyTorch weights.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from videobench.config import CfgNode
from videobench.models.layers import (
    VideoModel,
    check_clip,
    checkpoint_counts,
    checkpointed_blocks,
    group_parameters,
    run_block,
)
from videobench.models.movinet_convolution import memory_order
from videobench.models.movinet_frames import FrameStep
from videobench.models.movinet_layers import (
    Block,
    ConvLayer,
    Piece,
    RunningPool,
    State,
    Style,
    Unit,
    frame_vectors,
)
from videobench.models.movinet_variants import KERNELS, VARIANTS, Variant
from videobench.models.registry import register_model


class _PureBlock:
    """A block as a function of frames and past with nothing written outside, which recomputation needs."""

    def __init__(self, block: Block) -> None:
        self.block = block

    def modules(self):
        return self.block.modules()

    def __call__(self, x: Tensor, past: State | None, positions: Tensor | None) -> tuple[Tensor, State]:
        if past is None:
            return self.block(x), {}
        piece = Piece(past, positions)
        return self.block(x, piece), piece.left


class MoViNet(VideoModel):
    """MoViNet-A0 to A5, base and stream.

    A causal network is a stream: :meth:`stream` continues from a state that the caller holds, and calling the network
    continues, as in the published code, from where its last call ended until :meth:`clean_activation_buffers`.
    :meth:`forward_features` always takes its clip as a whole video. However a video is cut into pieces, the logits
    after its last frame are the same.

    Args:
        variant: size, ``A0`` to ``A5``, or a table of one's own.
        causal: no layer looks ahead.
        conv_type: ``3d``, or ``2plus1d`` (spatial, then temporal convolutions; hard activations).
        tf_like: TensorFlow's asymmetric padding, which the published weights want.
        num_classes: classifier outputs.
        in_channels: channels of the clip.
        dropout: rate before the last layer, in training.
        positional_encoding: add the frames' positions to the squeezed vectors (causal networks; the published A3 to
            A5 streams). Its learned scale starts at zero.
        checkpoint_blocks: leading blocks to recompute in the backward pass, one number or one per stage; -1 means all.

    Raises:
        ValueError: for an unknown variant or convolution type, or a positional encoding without causality.
    """

    def __init__(
        self,
        variant: str | Variant = "A0",
        *,
        causal: bool = False,
        conv_type: str = "3d",
        tf_like: bool = True,
        num_classes: int = 600,
        in_channels: int = 3,
        dropout: float = 0.2,
        positional_encoding: bool = False,
        checkpoint_blocks: int | Sequence[int] = 0,
    ) -> None:
        super().__init__()
        if isinstance(variant, str):
            if variant not in VARIANTS:
                raise ValueError(f"MOVINET.VARIANT {variant!r} is unknown; known: {', '.join(VARIANTS)}")
            variant = VARIANTS[variant]
        if conv_type not in ("3d", "2plus1d"):
            raise ValueError(f"MOVINET.CONV_TYPE is 3d or 2plus1d, not {conv_type!r}")
        if positional_encoding and not causal:
            raise ValueError("MOVINET.POSITIONAL_ENCODING needs MOVINET.CAUSAL: only streams have positions")
        style = Style(causal, conv_type == "2plus1d", tf_like)
        self.style = style
        self.in_channels = in_channels
        self.num_features = variant.head
        recomputed = checkpointed_blocks(checkpoint_blocks, [len(stage.kernels) for stage in variant.stages])
        self._recomputed: list[bool] = []

        self.conv1 = ConvLayer(in_channels, variant.stem, style, kernel=(1, 3, 3), stride=2)
        self.blocks = nn.ModuleDict()
        width = variant.stem
        for s, stage in enumerate(variant.stages):
            for b, (letter, expanded) in enumerate(zip(stage.kernels, stage.expanded, strict=True)):
                first = b == 0
                self.blocks[f"b{s}_l{b}"] = Block(
                    width,
                    expanded,
                    stage.channels,
                    KERNELS[letter],
                    style,
                    stride=stage.stride if first else 1,
                    padding=stage.first_padding if first else None,
                    pool_padding=stage.first_pool_padding,
                    key=f"b{s}_l{b}",
                    positional_encoding=positional_encoding,
                )
                self._recomputed.append(b < recomputed[s])
                width = stage.channels
        self.conv7 = ConvLayer(width, variant.head, style)
        self.cgap = RunningPool("head") if causal else None
        self.classifier = nn.Sequential(
            ConvLayer(variant.head, variant.hidden, style, norm=False, activation=False),
            nn.SiLU(),
            nn.Dropout(dropout),
            ConvLayer(variant.hidden, num_classes, style, norm=False, activation=False),
        )
        self.reset_head(num_classes)
        self.min_size = next(size for size in count(1) if min(self._sizes(size)) >= 1)
        self._activations: State | None = None
        self._frame_step: FrameStep | None = None
        # What every entry of a state has beyond videos and places: channels, and frames that are kept.
        self._state_layout = {key: kept.shape[1:3] for key, kept in self.stream_state(1, "meta").items()}

    def forward(self, clip: Tensor) -> Tensor:
        """Logits [N, num_classes] of a clip [N, C, T, H, W].

        A causal network takes the clip as the next frames of its running stream, and its logits are those after the
        last frame; see :meth:`clean_activation_buffers`.

        Raises:
            ValueError: for frames the network cannot take, or of another batch or frame size than the running stream.
        """
        if not self.style.causal:
            return super().forward(clip)
        state = self._activations
        if state is None:
            state = self.stream_state(clip.shape[0], clip.device)
        logits, self._activations = self.stream(clip, state)
        return logits

    def clean_activation_buffers(self) -> None:
        """Forget the running stream: the next call begins a new video."""
        self._activations = None

    def stream(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits after the next frames of a stream, and the state to hand in with the frames after those.

        Weights are read when a stream begins or all of them are replaced; after changing some, take a new state.

        Args:
            frames: [N, C, T, H, W], any T from 1.
            state: from :meth:`stream_state` or the last call; it is not changed, and what comes back is detached.

        Returns:
            Logits [N, num_classes] of the stream up to its last frame, and its new state.

        Raises:
            ValueError: when the network is not causal, the state another network's, or the frames do not continue it.
        """
        if not self.style.causal:
            raise ValueError("only a causal network streams: build it with MOVINET.CAUSAL True")
        if not torch.compiler.is_compiling():
            self._check_state(state)
        if frames.shape[0] != state["frames"].shape[0]:
            raise ValueError(
                f"the stream began with {len(state['frames'])} videos, got {len(frames)}: take a new stream_state, or "
                "call clean_activation_buffers()"
            )
        check_clip(frames, self.in_channels, min_size=self.min_size)
        if (step := self._step_for(frames, state)) is not None:
            logits, left = step(frames, state)
        else:
            features, left = self._pooled(frames, state)
            logits = self.forward_head(features)
        return logits, {key: left[key] for key in state}

    def _check_state(self, state: State) -> None:
        layout = {key: kept.shape[1:3] for key, kept in state.items()} if isinstance(state, dict) else {}
        if layout != self._state_layout:
            names = {**self._state_layout, **layout}
            other = next(key for key in names if layout.get(key) != self._state_layout.get(key))
            raise ValueError(f"this is no state of this network (see its {other}): take one of its own stream_state()")

    def _step_for(self, frames: Tensor, state: State) -> FrameStep | None:
        """The short way through the network, if it may be taken for these frames."""
        if not FrameStep.serves(self, frames, state):
            return None
        step = self._frame_step  # read once: a stream that begins in another thread forgets it
        if step is None or not step.is_current(self):
            step = self._frame_step = FrameStep(self)
        return None if step.is_observed() else step

    def stream_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        size: int | tuple[int, int] | None = None,
    ) -> State:
        """State before the first frame of ``batch`` videos.

        Every tensor has the videos first, so rows of states may be taken, replaced and joined. Entries are the frame
        count, the last frames before each temporal convolution, and sums (float32 or better) of the running means.

        Args:
            batch: videos that run side by side.
            device: where the network is unless given.
            dtype: of the kept frames; that of the parameters unless given.
            size: side, or height and width, of the frames to come. Without it the first call finds out, and returns
                a state of other shapes than it got; give it when shapes must not change (export, compilation).
        """
        self._frame_step = None  # a stream begins with the weights as they are now
        parameter = self.conv7.conv_1.conv.weight
        device = parameter.device if device is None else torch.device(device)
        dtype = parameter.dtype if dtype is None else dtype
        totals = torch.promote_types(dtype, torch.float32)
        sides = (size, size) if isinstance(size, int) else size
        axes = [self._sizes(side) for side in sides] if sides else []
        state = {"frames": torch.zeros(batch, dtype=torch.int64, device=device)}
        for index, (name, block) in enumerate(self.blocks.items()):
            width = block.deep.conv_1.conv.full_shape[0]
            if block.deep.earlier_frames:
                # (2+1)D keeps frames after the spatial convolution, 3D before it.
                kept = [axis[index + self.style.two_plus_one] for axis in axes] or [1, 1]
                before = torch.zeros(batch, width, block.deep.earlier_frames, *kept, dtype=dtype, device=device)
                state[f"{name}.deep"] = before.contiguous(memory_format=memory_order(device))
            state[f"{name}.se"] = torch.zeros(batch, width, dtype=totals, device=device)
        state["head"] = torch.zeros(batch, self.num_features, dtype=totals, device=device)
        return state

    def _sizes(self, size: int) -> list[int]:
        """Extent of one spatial axis after the stem and after every block."""
        sizes = [self.conv1.conv_1.conv.output_size(size)]
        for block in self.blocks.values():
            sizes.append(block.deep.conv_1.conv.output_size(sizes[-1]))
        return sizes

    def forward_features(self, clip: Tensor) -> Tensor:
        """Pooled features [N, num_features] of a whole video; the running stream stays as it is."""
        state = self.stream_state(clip.shape[0], clip.device) if self.style.causal else None
        return self._pooled(clip, state)[0]

    def _pooled(self, clip: Tensor, past: State | None) -> tuple[Tensor, State]:
        check_clip(clip, self.in_channels, min_size=self.min_size)
        clip = clip.contiguous(memory_format=memory_order(clip.device))
        positions = None
        left: State = {}
        if past is not None:
            seen = past["frames"]
            positions = seen[:, None] + torch.arange(clip.shape[2], device=seen.device)
            left["frames"] = seen + clip.shape[2]
        x = self.conv1(clip)
        for block, recompute in zip(self.blocks.values(), self._recomputed, strict=True):
            x, kept = run_block(_PureBlock(block), x, past, positions, recompute=recompute)
            left.update(kept)
        x = self.conv7(x)
        if past is None:
            return frame_vectors(x).mean(1), left
        piece = Piece(past, positions)
        features = self.cgap(x, piece)[:, :, -1, 0, 0]
        return features, {**left, **piece.left}

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits of pooled features [N, num_features]."""
        return self.classifier(features[..., None, None, None]).flatten(1)

    def reset_head(self, num_classes: int) -> None:
        """Put a new last layer with ``num_classes`` outputs in place of the present one."""
        old = next(self.classifier[3].parameters())
        head = ConvLayer(old.shape[1], num_classes, self.style, norm=False, activation=False)
        nn.init.trunc_normal_(head.conv_1.conv.weight, std=0.02)
        self.classifier[3] = head.to(old)

    def is_head(self, name: str) -> bool:
        """Whether a parameter belongs to the last layer."""
        return name.startswith("classifier.3.")

    def adapt_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The last layer renamed where fine-tuning put a plain convolution in its place, as the published code does.

        Raises:
            ValueError: for weights of the other type of convolutions: norms would fit, but no filter.
        """
        mine, others = ("2plus1d", "3d") if self.style.two_plus_one else ("3d", "2plus1d")
        if any(f".conv{others[0]}d." in name for name in state):
            raise ValueError(
                f"these are weights of a MoViNet with MOVINET.CONV_TYPE {others}, as published for "
                f"{'base' if others == '3d' else 'stream'} networks; the network has {mine}"
            )
        own = {f"classifier.3.{name.rsplit('.', 1)[1]}": name for name in self.state_dict() if self.is_head(name)}
        return {own.get(name, name): tensor for name, tensor in state.items()}

    def fold_norms(self) -> None:
        """Fold every batch norm into its convolution, in place: the same logits in eval mode with less work.

        The network can no longer be trained, and its state dict no longer has the published names.
        """
        self.eval()
        for unit in self.modules():
            if isinstance(unit, Unit):
                unit.fold_norm()

    def no_weight_decay(self) -> set[str]:
        """The learned scales of branches and positions."""
        return {name for name, _ in self.named_parameters() if name.endswith(("alpha", "position_scale"))}

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from the input to the classifier."""
        layers = ["conv1", *(f"blocks.{name}" for name in self.blocks), "conv7", "classifier.0", "classifier.3"]
        return group_parameters(
            self, lambda name: next(i for i, layer in enumerate(layers) if name.startswith(f"{layer}."))
        )

    def train(self, mode: bool = True) -> "MoViNet":
        """Switch between training and evaluation, see :meth:`torch.nn.Module.train`."""
        self._frame_step = None
        return super().train(mode)

    def _apply(self, *args, **kwargs) -> "MoViNet":
        self._frame_step = None  # other devices and types
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles begin a stream of their own.
        return {**self.__dict__, "_activations": None, "_frame_step": None}


def movinet_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Constructor arguments of a configuration."""
    return {
        "variant": cfg.MOVINET.VARIANT,
        "causal": cfg.MOVINET.CAUSAL,
        "conv_type": cfg.MOVINET.CONV_TYPE,
        "tf_like": cfg.MOVINET.TF_LIKE,
        "positional_encoding": cfg.MOVINET.POSITIONAL_ENCODING,
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "in_channels": cfg.DATA.INPUT_CHANNEL_NUM[0],
        "dropout": cfg.MODEL.DROPOUT_RATE,
        "checkpoint_blocks": checkpoint_counts(cfg),
    }


register_model("MoViNet", MoViNet, movinet_arguments)
