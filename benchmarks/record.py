"""What is written of a measurement: the machine it ran on, and a JSON file."""

import json
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch


def facts(device: torch.device | None = None) -> dict[str, Any]:
    """Date, torch version and device (the CPU without one): they stand beside every result."""
    return {
        "date": date.today().isoformat(),
        "torch": str(torch.__version__),
        "device": device_description(device or torch.device("cpu")),
    }


def as_line(found: dict[str, Any]) -> str:
    """Facts to print above the figures."""
    return ", ".join(f"{key} {value}" for key, value in found.items())


def device_description(device: torch.device) -> str:
    """The model of a GPU, or that of the processor with its cores and the threads of torch."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.machine()
    return f"{processor}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads"


def read_results(path: Path) -> dict[str, Any]:
    """The results of earlier runs, of which a run replaces some; none where there is no file."""
    return json.loads(path.read_text()) if path.exists() else {}


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write the file anew, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
