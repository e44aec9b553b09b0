"""The page of published networks (MODEL_ZOO.md) from the facts of the zoo and the sizes as counted."""

from collections.abc import Mapping

from videobench.models.info import ModelInfo
from videobench.models.zoo import ZooRow, list_models, zoo_row

_INTRODUCTION = """\
# Model zoo

Every network that the published tables of five families list, as its authors trained and tested it. A row's name is
what `videobench.create_model` and `tools/model_info.py` take; its recipe is what `tools/run_net.py --cfg` takes, for
training and for the published test alike (where only the test is published, it has `TRAIN.ENABLE` False). Accuracies
are the authors', in percent, of their weights; this repository holds no weights.

Parameters and GFLOPs (1e9 multiply-adds of one view) are counted in the networks as built here; the printed GFLOPs are
the authors', also of one view. Views are clips x crops per video.

This page is written by `tools/make_model_zoo.py`; change `videobench/models/zoo.yaml` and the recipes instead.
"""

_DATA = {
    "K400": "Kinetics-400",
    "K600": "Kinetics-600",
    "SSv1": "Something-Something V1",
    "SSv2": "Something-Something V2",
    "EPIC-Kitchens-100": "EPIC-Kitchens-100",
    "ImageNet-1K": "ImageNet-1K",
    "ImageNet-21K": "ImageNet-21K",
}

_HEADER = """\
| name | parameters | GFLOPs | printed | input | views | {first} | {second} | recipe | published in |
|---|---|---|---|---|---|---|---|---|---|"""

# Differences of more than this share are explained, by what they are of.
TOLERANCE = 0.01

_CLASSIFIER = "the published weights have 19168 classes; the printed number is that with 1000"

#: Why a count differs from the printed number: (row, "parameters" or "GFLOPs") -> reason.
EXPLANATIONS: dict[tuple[str, str], str] = {
    (
        "morphmlp_ssv2_mlp_s32",
        "GFLOPs",
    ): "printed 405 for three views; the same network on Kinetics-400 is printed with 133 a view",
    ("mvitv2_b_in1k", "parameters"): "51.5 million, printed as 52",
    ("mvitv2_l_in1k", "GFLOPs"): "printed is the cost with MVIT.DIM_MUL_IN_ATT True (42.2); the published file has it "
    "False, which gives the printed parameters",
    ("mvitv2_b_in21k", "parameters"): _CLASSIFIER,
    ("mvitv2_l_in21k", "parameters"): f"{_CLASSIFIER}, of the ImageNet-1K network, which grows in other layers (here "
    "MVIT.DIM_MUL_IN_ATT is True, as in the published weights)",
    ("mvitv2_h_in21k", "parameters"): _CLASSIFIER,
    ("mvitv2_l_k400_40x3", "parameters"): "the published file gives 213.4 and exactly the printed GFLOPs; its twin on "
    "Something-Something V2 is printed with 213.1",
}


def model_zoo_page(infos: Mapping[str, ModelInfo]) -> str:
    """The page as Markdown.

    Args:
        infos: the size of every row.

    Raises:
        ValueError: when a count differs from the printed number by more than 1 % and nothing says why.
    """
    rows = [zoo_row(name) for name in list_models()]
    parts = [_INTRODUCTION]
    for data, title in _DATA.items():
        epic = data.startswith("EPIC")
        header = _HEADER.format(first="action top-1" if epic else "top-1", second="noun top-1" if epic else "top-5")
        lines = [_line(row, infos[row.name]) for row in rows if row.data == data]
        parts.append("\n".join([f"## {title}", "", header, *lines, ""]))
    parts.append(_differences(rows, infos))
    return "\n".join(parts)


def differences(row: ZooRow, info: ModelInfo) -> dict[str, tuple[float, float]]:
    """What differs from the printed number by more than 1 %: counted and printed."""
    found = {}
    printed = row.published
    for what, count, key in (("parameters", info.parameters / 1e6, "params"), ("GFLOPs", info.giga_macs, "gflops")):
        if key in printed and abs(count / printed[key] - 1) > TOLERANCE:
            found[what] = (count, printed[key])
    return found


def _line(row: ZooRow, info: ModelInfo) -> str:
    published = row.published
    first, second = ("action_top1", "noun_top1") if "action_top1" in published else ("top1", "top5")
    cells = [
        row.name,
        f"{info.parameters:,}",
        f"{info.giga_macs:.4g}",
        f"{published['gflops']:.4g}" if "gflops" in published else "",
        info.input,
        info.views,
        *(str(float(published[key])) if key in published else "" for key in (first, second)),
        f"[{row.config}](configs/{row.config})",
        f"[{row.source.rsplit('/', 1)[1]}]({row.source})",
    ]
    return f"| {' | '.join(cells)} |"


def _differences(rows: list[ZooRow], infos: Mapping[str, ModelInfo]) -> str:
    lines = [
        "## Where a count is not the printed number",
        "",
        "Rows whose parameters or GFLOPs differ from the printed number by more than 1 %.",
        "",
        "| name | of | counted | printed | why |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        for what, (count, printed) in differences(row, infos[row.name]).items():
            if (row.name, what) not in EXPLANATIONS:
                raise ValueError(f"{row.name}: {what} are {count:.4g}, printed {printed:.4g}; say why in EXPLANATIONS")
            why = EXPLANATIONS[row.name, what]
            lines.append(f"| {row.name} | {what} | {count:.4g} | {printed:.4g} | {why} |")
    return "\n".join([*lines, ""])
