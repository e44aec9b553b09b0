"""A configuration as a short YAML file: what is not at its default."""

from typing import Any

import yaml

from videobench.config.loading import CfgNode, default_config


class _Dumper(yaml.SafeDumper):
    """Sections in lines, lists in one."""


_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def changed_settings(cfg: CfgNode) -> dict[str, Any]:
    """The sections and keys that differ from the defaults, in the order of their declaration."""
    return _changed(cfg, default_config())


def short_yaml(cfg: CfgNode) -> str:
    """A YAML text that loads to the same configuration."""
    return yaml.dump(changed_settings(cfg), Dumper=_Dumper, sort_keys=False, width=118)


def _changed(cfg: CfgNode, defaults: CfgNode) -> dict[str, Any]:
    changed = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            if inner := _changed(value, defaults[key]):
                changed[key] = inner
        elif value != defaults[key]:
            changed[key] = value
    return changed
