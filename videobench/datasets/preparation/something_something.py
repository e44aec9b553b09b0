"""Lists of Something-Something V1 and V2 from the official files."""

from collections.abc import Sequence
from pathlib import Path

from videobench.config import ConfigError
from videobench.datasets.annotations import read_class_names
from videobench.datasets.preparation.annotation_files import SPLITS, class_numbers, plain, read_json, read_lines
from videobench.datasets.preparation.lists import Plan, Row
from videobench.datasets.preparation.named_videos import NamedVideos


def something_something(
    version: str,
    splits: dict[str, Path],
    labels: Path,
    root: Path,
    classes: Sequence[Path] | None = None,
) -> Plan:
    """VERSION_train.txt and VERSION_validation.txt (``folder frames label``) from the official files.

    Args:
        version: ``ssv1`` or ``ssv2``.
        splits: ``train``, ``validation`` -> json (a list with ``id`` and ``template``) or csv (``id;template``).
        labels: json (template -> number), whose numbers count, or the csv of V1 with a template per line in no order
            that is used anywhere: the published lists number its classes alphabetically.
        root: folder of the videos (ID.webm, ID.mp4), or of a folder of frames per video.
        classes: another order of the classes, see `annotations.read_class_names`.

    Raises:
        ConfigError: for annotations of another form, and templates that are no class.
    """
    order = read_class_names(classes or labels)
    if not classes and labels.suffix != ".json":
        order = sorted(order)
    number = class_numbers(order, (), classes)
    plan = Plan(root, {}, dataset="sth", classes={"classes.txt": order})
    rows = {split: _rows(path) for split, path in splits.items()}
    videos = NamedVideos(root, {name: [name] for listed in rows.values() for name, _ in listed})
    for split, path in splits.items():
        name = f"{version}_{split}.txt"
        plan.published[name] = f"{version}-{SPLITS[split]}"
        plan.lists[name] = []
        plan.left_out[name] = []
        for video, template in rows[split]:
            label = number.get(plain(template))
            if label is None:
                raise ConfigError(f"{path}: video {video}: {template!r} is no class of {labels}")
            row = videos.row(video, label)
            if isinstance(row, Row):
                plan.lists[name].append(row)
            else:
                plan.left_out[name].append((video, row))
    videos.describe(plan)
    plan.keys["DATA.LABEL_PATH_TEMPLATE"] = f"{version}_{{}}.txt"
    numbers = ", ".join(map(str, classes)) if classes else str(labels) if labels.suffix == ".json" else ""
    plan.notes.append(f"class numbers: {f'as in {numbers}' if numbers else 'alphabetical'}")
    return plan


def _rows(path: Path) -> list[tuple[str, str]]:
    """(id, template) of a split."""
    if path.suffix == ".json":
        content = read_json(path)
        if not isinstance(content, list) or not all(
            isinstance(r, dict) and "id" in r and isinstance(r.get("template"), str) for r in content
        ):
            raise ConfigError(f"{path}: expected a list of objects with 'id' and a text as 'template'")
        return [(str(row["id"]), row["template"]) for row in content]
    rows = [line.split(";", 1) for line in read_lines(path) if line.strip()]
    if any(len(row) != 2 for row in rows):
        raise ConfigError(f"{path}: lines are 'id;template'")
    return [(row[0].strip(), row[1]) for row in rows]
