"""The configuration: keys and defaults, YAML files with inheritance, command-line overrides, cross-key checks."""

from videobench.config.loading import CfgNode, ConfigError, default_config, load_config

__all__ = ["CfgNode", "ConfigError", "default_config", "load_config"]
