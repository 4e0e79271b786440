"""What a record states: the command, the minutes of a GPU, and the losses of a training."""

import shlex
from collections.abc import Mapping
from typing import Any

import torch

from fwdiff_lite.devices import num_processes

COMMAND = "python -m fwdiff_lite.experiments"
CURVE_LENGTH = 500  # values of a recorded loss curve, at most


def command_line(experiment: str, action: str, name: str, arguments: Mapping[str, Any], jobs_per_gpu: int = 1) -> str:
    """The command that a record states. Arguments that are None are left out."""
    words = [COMMAND, experiment, action, name]
    jobs = {"jobs_per_gpu": jobs_per_gpu if jobs_per_gpu > 1 else None}
    for key, value in (dict(arguments) | jobs).items():
        if value is not None:
            values = value if isinstance(value, tuple) else (value,)
            texts = [f"{x:g}" if isinstance(x, float) else str(x) for x in values]
            words += [f"--{key.replace('_', '-')}", *map(shlex.quote, texts)]
    return " ".join(words)


def gpu_minutes(seconds: float, device: torch.device, jobs_per_gpu: int = 1) -> float:
    """The GPU minutes of a command, over all its processes; 0 on a CPU."""
    return seconds / 60 * num_processes() / jobs_per_gpu if device.type == "cuda" else 0.0


def changed_settings(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that differ, such as "side 32, not 64"; empty if none does."""
    keys = [key for key in dict.fromkeys([*was, *now]) if was.get(key) != now.get(key)]
    return "; ".join(f"{key} {was.get(key)}, not {now.get(key)}" for key in keys)


def downsample_curve(values: list[float], count: int = CURVE_LENGTH) -> list[float]:
    """At most `count` values: the means of successive values."""
    size = -(-len(values) // count)
    return [round(sum(values[i : i + size]) / len(values[i : i + size]), 6) for i in range(0, len(values), size)]
