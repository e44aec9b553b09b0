"""YAML files with ``_BASE_`` inheritance and ``KEY VALUE`` overrides, merged into the defaults.

The merge is done here rather than by yacs because an error has to name the file, the key and the nearest known keys.
"""

import ast
import copy
import difflib
import logging
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from videobench.config.code_bases import as_published, code_base, without_effect
from videobench.config.defaults import _C
from videobench.config.legacy import (
    ALTERNATIVE_TYPES,
    IGNORED,
    IGNORED_SECTIONS,
    NULLABLE,
    NUMBERS,
    OLD_SECTIONS,
    READER_RULES,
    RENAMED,
    ROWS,
    STANDS_FOR,
    UNSUPPORTED,
)

logger = logging.getLogger(__name__)

COMMAND_LINE = "the command line"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file, the key and what to do."""


def default_config() -> CfgNode:
    """A fresh, unfrozen configuration with every key at its default."""
    return _C.clone()


def load_config(
    paths: str | Path | Sequence[str | Path] = (), overrides: Sequence[Any] = (), *, strict: bool = False
) -> CfgNode:
    """Merge YAML files (in order) and ``KEY VALUE`` overrides into the defaults, check them and freeze the result.

    A file of one of the published code bases means what it meant there (see :mod:`videobench.config.code_bases`).

    Args:
        paths: one YAML file or several; later files win. A file may name one ``_BASE_`` file or a list of them,
            relative to its own folder, which are merged before it.
        overrides: alternating keys and values, as on the command line: ``["NUM_GPUS", 0, "SOLVER.BASE_LR", "1e-4"]``.
        strict: refuse what is otherwise only warned of, as keys that are ignored or have other names now.

    Raises:
        ConfigError: for a file that is missing or not YAML, an unknown key, or a value of the wrong type.
    """
    cfg = default_config()
    notes: list[str] = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        layers = [*_layers(Path(path), notes)]
        settings = _flatten(layers)
        if base := code_base(settings):
            notes.append(f"{path}: a file of {base}; what it leaves open is set as {base} has it")
            notes += [f"{path}: {key} is ignored: it did nothing in {base}" for key in without_effect(settings, base)]
            layers = [(str(path), as_published(settings, base))]
        for source, mapping in layers:
            _merge(cfg, mapping, source, notes)
    if len(overrides) % 2:
        raise ConfigError(
            f"{COMMAND_LINE}: overrides are pairs of KEY VALUE, but {len(overrides)} words were given: "
            + " ".join(map(str, overrides))
        )
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        _set(cfg, str(key), value, COMMAND_LINE, notes)
    _replace_reader(cfg, notes)
    if strict and notes:
        raise ConfigError("refused, as strict loading was asked for:\n" + "\n".join(f"  - {note}" for note in notes))
    for note in notes:
        logger.warning("%s", note)
    cfg.freeze()
    return cfg


def _replace_reader(cfg: CfgNode, notes: list[str]) -> None:
    """Libraries that read videos elsewhere chose the frames of a clip, too: the rule stays, the library does not."""
    data = cfg.DATA
    rule = READER_RULES.get(data.DECODING_BACKEND)
    if rule is None:
        return
    if data.SAMPLING_RULE == "auto" and cfg.TRAIN.DATASET.lower() in ("kinetics", "ucf101"):
        data.SAMPLING_RULE = rule
    notes.append(
        f"DATA.DECODING_BACKEND {data.DECODING_BACKEND}: pyav reads the files, and DATA.SAMPLING_RULE "
        f"{data.SAMPLING_RULE} says which frames a clip takes"
    )
    data.DECODING_BACKEND = "pyav"


def file_settings(path: str | Path) -> dict[str, Any]:
    """What a YAML file and its bases say: full names of keys and their values, as written.

    Raises:
        ConfigError: for a file that is missing or not YAML.
    """
    return _flatten(_layers(Path(path), []))


def _flatten(layers: Iterable[tuple[str, Mapping]]) -> dict[str, Any]:
    return {key: value for _, mapping in layers for key, value in _leaves(mapping)}


def _leaves(mapping: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def known_keys(node: Mapping | None = None, prefix: str = "") -> Iterator[str]:
    """The full name of every leaf key of a configuration (by default: of the defaults)."""
    for name, value in (_C if node is None else node).items():
        if isinstance(value, Mapping):
            yield from known_keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that remembers keys given twice in one mapping (PyYAML keeps the last one without a word)."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.repeated: list[str] = []


def _construct_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict:
    mapping: dict = {}
    written: set[str] = set()
    own = {id(key_node) for key_node, _ in node.value}
    loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise ConfigError(f"{loader.name}, line {key_node.start_mark.line + 1}: {key!r} is no name of a key")
        value = loader.construct_object(value_node, deep=True)
        # What comes from a merge (<<) is there to be replaced.
        if key in written and mapping[key] != value:
            loader.repeated.append(
                f"{loader.name}, line {key_node.start_mark.line + 1}: key {key} is given twice with different values "
                f"({_short(mapping[key])} and {_short(value)})"
            )
        mapping[key] = value
        if id(key_node) in own:
            written.add(key)
    return mapping


def _short(value: Any) -> str:
    return textwrap.shorten(repr(value), 60, placeholder=" ...")


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _layers(path: Path, notes: list[str], children: tuple[Path, ...] = ()) -> Iterator[tuple[str, dict]]:
    """The mappings that make up a YAML file: its bases first, then itself."""
    path = path.expanduser()
    if path.resolve() in children:
        chain = " -> ".join(str(p) for p in (*children, path.resolve()))
        raise ConfigError(f"{path}: _BASE_ files include each other in a circle: {chain}")
    try:
        with path.open(encoding="utf-8") as stream:
            loader = _UniqueKeyLoader(stream)
            mapping = loader.get_single_data()
    except OSError as error:
        wanted_by = f" (named as _BASE_ in {children[-1]})" if children else ""
        raise ConfigError(f"{path}: cannot read this configuration file{wanted_by}: {error.strerror}") from error
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # a ValueError for text that is no UTF-8 and for a date that is none
        raise ConfigError(f"{path}: not a valid YAML file: {error}") from error
    if mapping is None:
        mapping = {}
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(mapping).__name__}")
    if loader.repeated:
        # Two published files do it, and were trained with the last value.
        if code_base(_flatten([("", mapping)])) is None:
            raise ConfigError("; ".join(loader.repeated) + "; keep one")
        notes += [f"{repeated}; the last one counts" for repeated in loader.repeated]
    bases = mapping.pop("_BASE_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) and base for base in bases):
        raise ConfigError(f"{path}: _BASE_ names one YAML file or a list of them, got {bases!r}")
    for base in bases:
        yield from _layers(path.parent / Path(base).expanduser(), notes, (*children, path.resolve()))
    yield str(path), mapping


def _merge(cfg: CfgNode, mapping: Mapping, source: str, notes: list[str], prefix: str = "") -> None:
    for name, value in mapping.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            _merge(cfg, value, source, notes, f"{key}.")
        elif (value is None or value == {}) and (isinstance(_lookup(cfg, key), CfgNode) or key in OLD_SECTIONS):
            continue  # an empty section changes nothing
        else:
            _set(cfg, key, value, source, notes)


def _lookup(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key; raises KeyError only through the default marker ``_MISSING``."""
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            return _MISSING
        node = node[part]
    return node


_MISSING = object()


def _set(cfg: CfgNode, key: str, value: Any, source: str, notes: list[str]) -> None:
    if key in UNSUPPORTED:
        neutral, reason = UNSUPPORTED[key]
        if value is None or str(value).lower() == neutral or _literal(value) == _literal(neutral):
            return
        raise ConfigError(f"{source}: {key} {value!r} is not supported (only {neutral!r}): {reason}")
    sections = (reason for section, reason in IGNORED_SECTIONS.items() if key.startswith(f"{section}."))
    if reason := IGNORED.get(key) or next(sections, None):
        notes.append(f"{source}: {key} is ignored: {reason}")
        return
    if key in STANDS_FOR:
        if _coerce(value, False, key, source):
            notes.append(f"{source}: {key} stands for {STANDS_FOR[key]}")
            for new_key, meant in STANDS_FOR[key].items():
                _set(cfg, new_key, meant, source, notes)
        return
    if key in RENAMED:
        new_key, positions = RENAMED[key]
        value = positions[_coerce(value, False, key, source)] if positions else _literal(value)
        notes.append(f"{source}: {key} is now {new_key} (set to {value!r})")
        key = new_key
    default = _lookup(_C, key)
    if default is _MISSING or key == "":
        raise ConfigError(f"{source}: unknown key {key}. {_nearest(key)}")
    if isinstance(default, CfgNode):
        raise ConfigError(f"{source}: {key} is a section, not a value; its keys are " + ", ".join(sorted(default)))
    *sections, leaf = key.split(".")
    node = cfg
    for section in sections:
        node = node[section]
    node[leaf] = _coerce(value, default, key, source)


def _nearest(key: str) -> str:
    names = list(known_keys())
    by_leaf: dict[str, list[str]] = {}
    for name in names:
        by_leaf.setdefault(name.rsplit(".", 1)[-1], []).append(name)
    leaf = key.rsplit(".", 1)[-1]
    # A right name in the wrong section is the likeliest slip, then a misspelling of the whole key or of its last part.
    close = by_leaf.get(leaf, []) + difflib.get_close_matches(key.upper(), names, n=3, cutoff=0.6)
    for match in difflib.get_close_matches(leaf.upper(), by_leaf, n=2, cutoff=0.7):
        close += by_leaf[match]
    close = list(dict.fromkeys(close))[:4]
    return f"Did you mean {' or '.join(close)}?" if close else "No known key has a similar name."


def _literal(value: Any) -> Any:
    """What a word of the command line or of a YAML text means: ``1e-4`` a number, ``[1, 2]`` a list, the rest text."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last two for nested brackets
        return {"true": True, "false": False, "null": None, "none": None}.get(value.lower(), value)


def _coerce(value: Any, default: Any, key: str, source: str) -> Any:
    """The value as the type of its default; numbers may be written as text, lists as text or tuples."""
    lists = list in ALTERNATIVE_TYPES.get(key, ())
    if isinstance(default, str) and not (lists and (isinstance(value, list) or str(value).startswith("["))):
        if isinstance(value, str):
            # Quotes that a shell left over, as yacs takes them.
            bare = _literal(value) if source == COMMAND_LINE and value[:1] in ("'", '"') else value
            return bare if isinstance(bare, str) else value
        # A text key given on the command line may look like a number (a folder called 2024).
        if value is not None and not isinstance(value, bool) and source == COMMAND_LINE:
            return str(value)
    else:
        value = _literal(value)
    if isinstance(value, tuple):
        value = list(value)
    accepted = ALTERNATIVE_TYPES.get(key, ())
    if value is None and (default is None or None in accepted):
        return None
    kind = NULLABLE[key] if default is None else type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is float and not math.isfinite(value):
        raise ConfigError(f"{source}: {key} is {value}, which is no number to work with (default {default!r})")
    if type(value) is kind or type(value) in accepted:
        if isinstance(value, list):
            value = _elements(value, default, key, source)
        return copy.deepcopy(value)
    # Only whole floats stand for integers: 2.5 GPUs is a mistake, 1e1 epochs is not.
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    names = [t.__name__ if t is not None else "None" for t in (kind, *(a for a in accepted if a is not kind))]
    raise ConfigError(
        f"{source}: {key} wants {' or '.join(names)} (default {default!r}), got {type(value).__name__}: {value!r}"
    )


def _elements(value: list, default: Any, key: str, source: str) -> list:
    """The elements as numbers where the key wants them, which may be written as text; refuses any other kind."""
    kind = NUMBERS.get(key) or ROWS.get(key)
    if kind is None:
        kinds = {type(element) for element in default} if isinstance(default, list) else set()
        if not kinds or not kinds <= {int, float}:
            return value
        kind = float if float in kinds else int
    rows = value if key in ROWS else [value]
    numbers = [
        [_number(element, kind) for element in row] if isinstance(row, (list, tuple)) else [None] for row in rows
    ]
    if any(None in row for row in numbers):
        names = "a list of " + "lists of " * (key in ROWS) + "whole " * (kind is int) + "numbers"
        raise ConfigError(f"{source}: {key} wants {names} (default {default!r}), got {value!r}")
    return numbers if key in ROWS else numbers[0]


def _number(value: Any, kind: type) -> float | None:
    """A finite number of a kind; None for what is none."""
    number = _literal(value)
    if kind is int and type(number) is float and number.is_integer():
        number = int(number)
    return number if type(number) in (int, kind) and abs(number) < math.inf else None
