"""The harness of all experiments: train a variant, evaluate it, export it to checkpoints/, and load the results.

A module declares an experiment as EXPERIMENT: its variants, its test set and its evaluations. Every command works in
one folder:

    VARIANT.state             the state of a training, from which the same command resumes
    VARIANT.config.json       the settings that a resumed training must share
    VARIANT.safetensors       the trained weights, in half precision
    VARIANT.json              the record of the training: seed, options, command, commit, hardware, losses
    evaluation_NAME.json      the record of an evaluation: its measures in long form, and what they depend on
    evaluation_NAME.npz       its arrays

Measures are recorded in the long form of fwdiff_lite/experiments/measurements.py.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fwdiff_lite.devices import default_device, is_main_process, num_processes
from fwdiff_lite.experiments.early_results import convert_early_results
from fwdiff_lite.experiments.measurements import Measurement, to_flat, to_long
from fwdiff_lite.protocols import BatchFunction
from fwdiff_lite.storage.checkpoints import (
    load_pretrained,
    load_recorded,
    load_weights,
    read_manifest,
    save_pretrained,
    save_recorded,
)
from fwdiff_lite.storage.files import atomic_write, read_json, write_json, write_tensors
from fwdiff_lite.storage.provenance import merge_provenance, provenance
from fwdiff_lite.training import TrainingLog, fit

COMMAND = "python -m fwdiff_lite.experiments"
CURVE_LENGTH = 500  # values of a recorded loss curve, at most
RESULT_KEYS = ("measures", "trainings", "evaluations")  # exported arrays that hold JSON


# --- what an experiment declares --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """A model and its training, complete in itself.

    build: makes the model with initial weights; it is called with `seed`, and in tests with options of a toy size.
        The model is a ForwardDiffusion, or any other one that `fit` can train
    batches: makes the batch function of a device and a batch size
    fit_options: arguments of `fit`, such as the learning rate; budget, seed and checkpoint come from the harness
    options: JSON values that set the variant apart; they are recorded, and a resumed training must have the same
    seed: of the initial weights and of all random draws of the training
    parent: the name of the checkpoint in checkpoints/ whose weights are the initial weights
    """

    build: Callable[..., nn.Module]
    batches: Callable[[torch.device, int], BatchFunction]
    batch_size: int
    fit_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    parent: str | None = None

    def build_model(self, **options) -> nn.Module:
        """The model with initial weights, which its seed alone decides."""
        return self.build(seed=self.seed, **options)

    def fit(self, model: nn.Module, steps: int, **options) -> TrainingLog:
        """Trains a model of this variant in memory and writes nothing; options: of `fit`, in place of `fit_options`."""
        options = {"progress": False} | dict(self.fit_options) | options
        return fit(model, self.batches(default_device(), self.batch_size), steps=steps, seed=self.seed, **options)


class Results(NamedTuple):
    """What an evaluation measures, in flat form, and the arrays that figures need."""

    numbers: dict[str, float]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """One sampler's evaluation.

    run: computes the results
    variant: the variant that is evaluated; empty if it needs no weights
    baselines: further variants whose weights it uses
    on_request: whether it runs only if the command names it
    """

    run: Callable[[Session], Results]
    variant: str = ""
    baselines: tuple[str, ...] = ()
    on_request: bool = False

    @property
    def weights(self) -> tuple[str, ...]:
        """All variants whose weights the evaluation uses."""
        return ((self.variant,) if self.variant else ()) + self.baselines


@dataclass(frozen=True)
class Experiment:
    """The declaration of an experiment.

    name: in the command line
    checkpoint: the name of the results in checkpoints/; weights_name: that of a variant's weights
    variants, evaluations: by their names
    make_test_set: the test set on a device, from that device and the options of the evaluation
    sample: sample_posterior(model, test_set), which makes one prediction of a deterministic baseline
    evaluation_options: their defaults, such as {"scenes": 256}; each is an argument of `evaluate`
    views: suffixes of measures that name a view, such as "180" in energy_skill_180
    headline: the measures in the manifest entry of exported weights; the first one stands in that of the results
    exported_arrays: selects the arrays to export, from the exported variant and all arrays
    add_arguments, configure: for an experiment on the user's own data: they add arguments to the commands "train" and
        "evaluate", and make the experiment from a command's arguments
    arguments, settings: of a configured experiment: arguments for the recorded commands, and JSON values that
        evaluations depend on
    """

    name: str
    checkpoint: str
    variants: Mapping[str, Variant]
    evaluations: Mapping[str, Evaluation]
    make_test_set: Callable[[torch.device, Mapping[str, int]], Any]
    sample: Callable[[nn.Module, Any], Any]
    evaluation_options: Mapping[str, int] = field(default_factory=dict)
    views: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    exported_arrays: Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda variant, arrays: arrays
    weights_name: str = "{checkpoint}"
    add_arguments: Callable[[str, ArgumentParser], None] = lambda action, parser: None
    configure: Callable[[Experiment, Namespace], Experiment] = lambda experiment, options: experiment
    arguments: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def variant(self, name: str) -> Variant:
        """The variant of that name. ValueError if there is none."""
        if name not in self.variants:
            raise ValueError(f"unknown variant {name!r} of {self.name}: choose one of {', '.join(self.variants)}")
        return self.variants[name]


class Session:
    """What the evaluations of one call share: device, options, test set, models, predictions. Each is made once."""

    def __init__(self, experiment: Experiment, folder: Path, options: Mapping[str, int]):
        self.experiment, self.folder, self.options, self.device = experiment, folder, options, default_device()
        self._cache: dict[Any, Any] = {}

    def share(self, key: Any, make: Callable[[], Any]) -> Any:
        """The value of `make()`, which is called once for a key."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    @property
    def test_set(self) -> Any:
        """The test set, on the device."""
        return self.share("test set", lambda: self.experiment.make_test_set(self.device, self.options))

    def model(self, name: str) -> nn.Module:
        """The trained model of a variant, on the device."""
        return self.share(("model", name), lambda: load_model(self.experiment, name, self.folder, self.device))

    def predict(self, name: str) -> Any:
        """The predictions of a deterministic baseline for the test set."""
        return self.share(("prediction", name), lambda: self.experiment.sample(self.model(name), self.test_set))


# --- training ---------------------------------------------------------------------------------------------------------


def train(
    experiment: Experiment,
    name: str,
    folder: Path,
    minutes: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    jobs_per_gpu: int = 1,
    init_from: Path | None = None,
) -> TrainingLog:
    """Trains a variant, and writes its weights and its record to the folder.

    minutes, steps: the budget, whichever ends first, earlier calls included: the same call resumes a training
    batch_size: None: that of the variant
    jobs_per_gpu: trainings that share a GPU at the same time; they divide the GPU minutes
    init_from: a file of initial weights, in place of the variant's parent

    An interrupted training has only its state written. ValueError if the folder's state has other settings.
    """
    variant = experiment.variant(name)
    batch_size, device = batch_size or variant.batch_size, default_device()
    on_gpu = device.type == "cuda"
    torch.backends.cudnn.benchmark = on_gpu  # all images have one size: worth searching for the fastest convolution
    model, parent = variant.build_model(), {}
    if init_from or variant.parent:
        weights, parent = _initial_weights(variant, init_from)
        set_weights(model, weights)
    _check_settings(folder / name, variant, init_from)
    log = fit(
        model,
        variant.batches(device, batch_size),
        steps=steps,
        seconds=None if minutes is None else 60 * minutes,
        seed=variant.seed,
        checkpoint=folder / f"{name}.state",
        **({"bf16": on_gpu, "compile": on_gpu, "progress": False} | dict(variant.fit_options)),
    )
    if log.interrupted or not is_main_process():
        return log
    save_weights(model.denoiser, folder / f"{name}.safetensors")
    arguments = {
        "minutes": minutes, "steps": steps, "batch_size": batch_size, "init_from": init_from and init_from.name
    }  # fmt: skip
    record = provenance(command_line(experiment, "train", name, arguments, jobs_per_gpu)) | {
        "experiment": experiment.name,
        "variant": name,
        "options": dict(variant.options),
        "seed": variant.seed,
        "batch": batch_size,
        "steps": log.steps,
        "minutes": log.seconds / 60,
        "gpu_minutes": log.seconds / 60 * num_processes() / jobs_per_gpu,
        "parent": parent,
        "curve": {key: downsample_curve(values) for key, values in log.curve.items()},
    }
    write_json(folder / f"{name}.json", record)
    losses = ", ".join(f"{key} {values[-1]:.4g}" for key, values in record["curve"].items())
    print(f"{name}: {log.steps} steps of {batch_size} in {log.seconds / 60:.1f} minutes, {losses}", flush=True)
    return log


def command_line(
    experiment: Experiment, action: str, name: str, arguments: Mapping[str, Any], jobs_per_gpu: int = 1
) -> str:
    """The command that a record states. Arguments that are None are left out."""
    words = [COMMAND, experiment.name, action, name]
    jobs = {"jobs_per_gpu": jobs_per_gpu if jobs_per_gpu > 1 else None}
    for key, value in (dict(experiment.arguments) | dict(arguments) | jobs).items():
        if value is not None:
            values = value if isinstance(value, tuple) else (value,)
            texts = [f"{x:g}" if isinstance(x, float) else str(x) for x in values]
            words += [f"--{key.replace('_', '-')}", *texts]
    return " ".join(words)


def measurements(experiment: Experiment, sampler: str, numbers: Mapping[str, float]) -> list[Measurement]:
    """The long form of one sampler's measures."""
    evaluation = experiment.evaluations.get(sampler)
    return to_long(experiment.name, evaluation.variant if evaluation else "", sampler, numbers, experiment.views)


def downsample_curve(values: list[float], count: int = CURVE_LENGTH) -> list[float]:
    """At most `count` values: the means of successive values."""
    size = -(-len(values) // count)
    return [round(sum(values[i : i + size]) / len(values[i : i + size]), 6) for i in range(0, len(values), size)]


def _initial_weights(variant: Variant, init_from: Path | None) -> tuple[dict[str, Tensor], dict]:
    """The weights that a training starts from, and the manifest entry of their file if they are in the manifest."""
    manifest = read_manifest()
    if init_from is None:
        return load_pretrained(variant.parent), manifest[f"{variant.parent}.safetensors"]
    if not init_from.is_file():
        raise ValueError(f"there is no file {init_from} of initial weights")
    try:
        return load_file(init_from), manifest.get(init_from.name, {})
    except SafetensorError as error:
        raise ValueError(f"{init_from} cannot be read: {error}") from None


def _check_settings(path: Path, variant: Variant, init_from: Path | None) -> None:
    """Writes the settings of a training beside its state; ValueError if the state has others."""
    settings = {
        "options": dict(variant.options),
        "seed": variant.seed,
        "init_from": str(init_from.resolve()) if init_from else variant.parent,
    }
    config_path, state_path = path.with_name(f"{path.name}.config.json"), path.with_name(f"{path.name}.state")
    settings = json.loads(json.dumps(settings, sort_keys=True))  # as in the file: no tuples
    if state_path.exists() and (previous := read_json(config_path)) != settings:
        raise ValueError(
            f"{state_path} was trained with {previous}, not with {settings}: delete it, or name another --out"
        )
    if is_main_process():
        write_json(config_path, settings)


# --- weights ----------------------------------------------------------------------------------------------------------


def weights_path(name: str, folder: Path) -> Path:
    """The path of a variant's weights in the folder. ValueError if there are none."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(f"there is no {path}: train it first")
    return path


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes the weights of a network in half precision."""
    write_tensors(path, {key: value.half().cpu() for key, value in network.state_dict().items()})


def set_weights(model: nn.Module, weights: Mapping[str, Shaped[Tensor, "..."]]) -> nn.Module:
    """The model with the weights of its denoiser, which may be of any precision, in eval mode."""
    load_weights(model.denoiser, weights, "the checkpoint")
    return model.eval()


def load_model(experiment: Experiment, name: str, folder: Path, device: torch.device) -> nn.Module:
    """A variant with the weights that `train` wrote to the folder. ValueError if there are none."""
    weights = load_file(weights_path(name, folder))
    return set_weights(experiment.variant(name).build_model(), weights).to(device)


# --- evaluation -------------------------------------------------------------------------------------------------------


def evaluate(
    experiment: Experiment,
    names: Iterable[str],
    folder: Path,
    options: Mapping[str, int] | None = None,
    jobs_per_gpu: int = 1,
) -> None:
    """Runs evaluations and writes each record as soon as it exists, unless the folder holds it for the same weights.

    names: of evaluations, or of variants for all of their evaluations; none: all whose weights are in the folder
    options: replace those of the experiment
    A measure that is not finite, such as the PSNR of no error, is left out: JSON has no number for it.
    ValueError on an unknown name, and if weights are missing.
    """
    options, session = dict(experiment.evaluation_options) | dict(options or {}), None
    for name in select_evaluations(experiment, names, folder):
        evaluation, path = experiment.evaluations[name], folder / f"evaluation_{name}.json"
        weights = {variant: sha256(weights_path(variant, folder)) for variant in evaluation.weights}
        cache_key = {"weights": weights, "options": options | dict(experiment.settings)}
        if cache_key.items() <= read_json(path).items() and path.with_suffix(".npz").exists():
            print(f"{name}: evaluated already; delete {path} to evaluate it again", flush=True)
            continue
        start_time, session = time.monotonic(), session or Session(experiment, folder, options)
        results = evaluation.run(session)
        minutes = (time.monotonic() - start_time) / 60 / jobs_per_gpu if session.device.type == "cuda" else 0.0
        path.unlink(missing_ok=True)  # a record never stands beside arrays of another evaluation
        with atomic_write(path.with_suffix(".npz")) as temporary:
            np.savez_compressed(temporary, **results.arrays)
        record = provenance(command_line(experiment, "evaluate", name, options, jobs_per_gpu)) | cache_key
        numbers = {key: value for key, value in results.numbers.items() if math.isfinite(value)}
        rows = [row._asdict() for row in measurements(experiment, name, numbers)]
        write_json(path, record | {"seed": 0, "gpu_minutes": minutes, "measures": rows})
        print(name, json.dumps({key: round(value, 3) for key, value in numbers.items()}), flush=True)


def select_evaluations(experiment: Experiment, names: Iterable[str], folder: Path) -> list[str]:
    """The names of the evaluations that `names` stand for, as in `evaluate`."""
    names, evaluations = list(names), experiment.evaluations
    for name in names:
        if name not in evaluations and name not in {x.variant for x in evaluations.values()}:
            raise ValueError(f"{experiment.name} has no evaluation {name!r}: choose from {', '.join(evaluations)}")
    if names:
        return [key for key, x in evaluations.items() if key in names or x.variant in names and not x.on_request]
    available = {path.stem for path in folder.glob("*.safetensors")}
    return [key for key, x in evaluations.items() if available.issuperset(x.weights) and not x.on_request]


def sha256(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- export -----------------------------------------------------------------------------------------------------------


def read_records(experiment: Experiment, folder: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    """The records of all trainings and of all evaluations in the folder, by name.

    ValueError if an evaluation used other weights than those that are in the folder now.
    """
    trainings = {name: record for name in experiment.variants if (record := read_json(folder / f"{name}.json"))}
    evaluations = {
        name: record for name in experiment.evaluations if (record := read_json(folder / f"evaluation_{name}.json"))
    }
    for name, record in evaluations.items():
        for variant, digest in record["weights"].items():
            if sha256(weights_path(variant, folder)) != digest:
                raise ValueError(f"evaluation {name} used other weights of {variant}: evaluate it again")
    return trainings, evaluations


def export_weights(experiment: Experiment, name: str, folder: Path) -> None:
    """Writes a variant's weights to checkpoints/, with their provenance and the measures of its first evaluation.

    ValueError if the variant is not trained.
    """
    experiment.variant(name)
    weights = load_file(weights_path(name, folder))
    trainings, evaluations = read_records(experiment, folder)
    record = trainings[name]
    numbers = to_flat(Measurement(**row) for part in evaluations.values() for row in part["measures"])
    main_sampler = next((key for key, x in experiment.evaluations.items() if x.variant == name), None)
    measures = numbers.get(main_sampler, {})
    parts = [part for part in (record["parent"], record) if part]
    save_pretrained(
        experiment.weights_name.format(checkpoint=experiment.checkpoint, variant=name),
        weights,
        variant=name,
        steps=sum(part["steps"] for part in parts),
        metrics={key: round(measures[key], 4) for key in experiment.headline if key in measures},
        **merge_provenance(parts) | {"seed": record["seed"]},
    )


def export_results(experiment: Experiment, name: str, folder: Path) -> None:
    """Writes the results of the whole folder to checkpoints/; name: the variant that `exported_arrays` selects by.

    ValueError if the folder holds no evaluation, or one of other weights.
    """
    trainings, evaluations = read_records(experiment, folder)
    if not evaluations:
        raise ValueError(f"{folder} holds no evaluation: evaluate some variant first")
    rows, arrays = [row for record in evaluations.values() for row in record.pop("measures")], {}
    for evaluation in evaluations:
        with np.load(folder / f"evaluation_{evaluation}.npz") as saved_arrays:
            arrays |= dict(saved_arrays)
    arrays = experiment.exported_arrays(name, arrays)
    arrays |= {key: np.array(json.dumps(x)) for key, x in zip(RESULT_KEYS, (rows, trainings, evaluations), strict=True)}
    numbers = to_flat(Measurement(**row) for row in rows)
    headline = {
        sampler: round(measures[key], 4)
        for sampler, measures in numbers.items()
        for key in experiment.headline[:1]
        if key in measures
    }
    parents = [record["parent"] for record in trainings.values() if record["parent"]]
    parts = [*parents, *trainings.values(), *evaluations.values()]
    save_recorded(experiment.checkpoint, arrays, metrics=headline, **merge_provenance(parts))


class RecordedResults(NamedTuple):
    """Exported results: measures in long form; records of trainings and of evaluations, by name; arrays."""

    rows: list[Measurement]
    trainings: dict[str, dict]
    evaluations: dict[str, dict]
    arrays: dict[str, np.ndarray]


def load_results(experiment: Experiment) -> RecordedResults:
    """The exported results of an experiment, from checkpoints/."""
    arrays = load_recorded(experiment.checkpoint)
    if "measures" not in arrays:
        numbers, *results = convert_early_results(arrays)
        return RecordedResults(
            [row for sampler, measures in numbers.items() for row in measurements(experiment, sampler, measures)],
            *results,
        )
    measures, trainings, evaluations = (json.loads(str(arrays.pop(key))) for key in RESULT_KEYS)
    return RecordedResults([Measurement(**row) for row in measures], trainings, evaluations, arrays)
