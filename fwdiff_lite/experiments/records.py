"""Records of trainings and of evaluations: the command, the minutes of a GPU, losses, settings, provenance."""

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fwdiff_lite.devices import is_main_process, num_processes
from fwdiff_lite.storage.files import atomic_write, read_json, write_json
from fwdiff_lite.storage.provenance import merge_provenance
from fwdiff_lite.training import TrainingLog

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


def write_training_record(path: Path, record: dict[str, Any], log: TrainingLog) -> None:
    """Writes the record of a training beside its weights, and prints a line. path: of the weights."""
    curve = {key: downsample_curve(values) for key, values in log.curve.items()}
    minutes = log.seconds / 60
    write_json(path.with_suffix(".json"), record | {"steps": log.steps, "minutes": minutes, "curve": curve})
    losses = ", ".join(f"{key} {values[-1]:.4g}" for key, values in curve.items())
    print(f"{path.stem}: {log.steps} steps of {record['batch']} in {minutes:.1f} minutes, {losses}", flush=True)


def evaluation_source(own: dict[str, Any], parts: list[dict], measurements: list[dict]) -> dict[str, Any]:
    """The provenance of an evaluation.

    own: of its command, with gpu_minutes
    parts: the records of the parts that it joins, which the same command measured
    measurements: the records of the commands whose measurements it reads. Their commits and hardware are those of the
        evaluation: where and when it read them decides nothing
    """
    if measurements:
        source = merge_provenance(measurements)
        return source | {"command": f"{source['command']}; {own['command']}"}
    return merge_provenance([*parts, own]) | {"command": own["command"]} if parts else own


def digest_of(records: list[dict]) -> str:
    """The sha256 of records: it differs as soon as one of them does, or one is added."""
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


def write_evaluation_record(path: Path, record: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the record of an evaluation, and its arrays beside it: PATH.json and PATH.npz."""
    path.unlink(missing_ok=True)  # a record never stands beside arrays of another evaluation
    with atomic_write(path.with_suffix(".npz")) as temporary:
        np.savez_compressed(temporary, **arrays)
    write_json(path, record)


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings of a training beside its state; ValueError if the state has others. path: of the weights"""
    config_path, state_path = path.with_suffix(".config.json"), path.with_suffix(".state")
    settings = json.loads(json.dumps(settings, sort_keys=True))  # as in the file: no tuples
    if state_path.exists() and (previous := read_json(config_path)) != settings:
        changed = changed_settings(*(_flat_settings(x) for x in (previous, settings)))
        raise ValueError(f"{state_path} was trained with {changed}: delete it, or name another --out")
    if is_main_process():
        write_json(config_path, settings)


def _flat_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a training and its options, by their names."""
    return {key: value for key, value in settings.items() if key != "options"} | settings.get("options", {})
