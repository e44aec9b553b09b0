"""Multiply-adds of a network; see :mod:`videobench.models.flops`."""

from videobench.models.flops import giga_macs

__all__ = ["giga_macs"]
