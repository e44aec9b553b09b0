"""Sizes and published figures of the networks of the zoo, as a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from videobench.models.flops import giga_macs
from videobench.models.registry import build_model
from videobench.models.zoo import list_models, zoo_config, zoo_row

# Headings and widths of the columns; EPIC-Kitchens rows report actions and nouns in the place of top-1 and top-5.
_COLUMNS = {
    "parameters": 11,
    "GFLOPs/view": 11,
    "input": 10,
    "views": 5,
    "top-1": 11,
    "top-5": 9,
    "published GFLOPs/view": 21,
}


@dataclass(frozen=True)
class ModelInfo:
    """What a network of the zoo costs, counted, and what its authors report.

    Attributes:
        parameters: numbers to learn, those that no forward pass reads included.
        giga_macs: multiply-adds in 1e9 of one view, as this code does them.
        input: TxHxW of a view, HxW of an image.
        views: clips x crops of the published test.
        published: see :class:`videobench.models.zoo.ZooRow`.
    """

    name: str
    parameters: int
    giga_macs: float
    input: str
    views: str
    published: dict[str, float]


def model_info(name: str) -> ModelInfo:
    """Count a network of the zoo; it is built without data, so that size does not matter.

    Raises:
        ValueError: when no row has this id.
    """
    row, cfg = zoo_row(name), zoo_config(name)
    with torch.device("meta"):
        model = build_model(cfg)
    is_image = cfg.MODEL.MODEL_NAME == "MViT" and len(cfg.MVIT.PATCH_KERNEL) == 2
    size = cfg.DATA.TEST_CROP_SIZE
    shape = (size, size) if is_image else (cfg.DATA.NUM_FRAMES, size, size)
    return ModelInfo(
        name=name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        giga_macs=giga_macs(model, 1, cfg.DATA.INPUT_CHANNEL_NUM[0], *shape),
        input="x".join(map(str, shape)),
        views=f"{cfg.TEST.NUM_ENSEMBLE_VIEWS}x{cfg.TEST.NUM_SPATIAL_CROPS}",
        published=row.published,
    )


def info_table(patterns: Sequence[str] = ("*",)) -> Iterator[str]:
    """Lines of a table of the networks whose ids match one of the patterns, each as soon as it is counted.

    Raises:
        ValueError: when a pattern matches nothing; the message names the nearest ids.
    """
    names = {}
    for pattern in patterns:
        matches = list_models(pattern) or [zoo_row(pattern).name]
        names |= dict.fromkeys(matches)
    widths = [max(map(len, names)), *_COLUMNS.values()]
    yield _line(["name", *_COLUMNS], widths)
    yield _line(["-" * width for width in widths], widths)
    for name in names:
        info = model_info(name)
        cells = [name, f"{info.parameters:,}", f"{info.giga_macs:.2f}", info.input, info.views]
        yield _line([*cells, *_published_cells(info.published)], widths)


def _published_cells(published: dict[str, float]) -> list[str]:
    gflops = f"{published['gflops']:.4g}" if "gflops" in published else "-"
    if "action_top1" in published:
        return [f"action {published['action_top1']}", f"noun {published['noun_top1']}", gflops]
    return [str(published.get("top1", "-")), str(published.get("top5", "-")), gflops]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = cells
    return "  ".join([first.ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(others, widths[1:], strict=True))])
