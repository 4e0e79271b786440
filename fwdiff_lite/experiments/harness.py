"""The harness of all experiments: declare them, train a variant, evaluate it, and load exported results.

A module declares an experiment as EXPERIMENT: its variants, its assets, its test set and its evaluations. An asset is
another network that variants or evaluations need, such as a generator or a classifier. Every command works in one
folder; NAME is that of a variant, an asset or an evaluation:

    NAME.state                the state of a training, from which the same command resumes
    NAME.config.json          the settings that a resumed training must share
    NAME.safetensors          the trained weights, in half precision
    NAME.json                 the record of the training: seed, options, command, commit, hardware, losses
    evaluation_NAME.json      the record of an evaluation: its measures in long form, and what they depend on
    evaluation_NAME.npz       its arrays
    evaluation_NAME.part_0_of_4.json, .npz    the same of one part of its contexts (fwdiff_lite/experiments/split.py)

Measures are recorded in the long form of fwdiff_lite/experiments/measurements.py.
"""

from __future__ import annotations

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
from safetensors.torch import load_file
from torch import nn

from fwdiff_lite.devices import default_device, is_main_process, num_processes
from fwdiff_lite.experiments import records
from fwdiff_lite.experiments.early_results import convert_early_results
from fwdiff_lite.experiments.measurements import Measurement, to_long
from fwdiff_lite.experiments.split import ALL_CONTEXTS, Part, check_split, pending_records, read_parts, record_lock
from fwdiff_lite.experiments.training_lock import training_lock
from fwdiff_lite.experiments.weights import initial_weights, save_weights, weights_path
from fwdiff_lite.protocols import BatchFunction
from fwdiff_lite.storage.checkpoints import load_pretrained, load_recorded, load_weights
from fwdiff_lite.storage.files import file_sha256
from fwdiff_lite.storage.provenance import provenance
from fwdiff_lite.training import TrainingLog, fit

RESULT_KEYS = ("measures", "trainings", "evaluations")  # exported arrays that hold JSON


# --- what an experiment declares --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """One call of a training: its budget, as in `fit`, and what it works with.

    checkpoint: the file of the state, from which the same call resumes; None: no file
    assets: the trained networks that it needs, by name, on the device
    """

    steps: int | None
    seconds: float | None
    batch_size: int
    seed: int
    checkpoint: Path | None
    device: torch.device
    assets: Mapping[str, nn.Module]


@dataclass(frozen=True)
class Variant:
    """A model and its training, complete in itself.

    build: makes the model with initial weights; it is called with `seed`, with the assets that it contains, by their
        names, and in tests with options of a toy size. The model is a ForwardDiffusion, or any other one that
        `fit` can train
    batches: makes the batch function of a device and a batch size
    fit_options: arguments of `fit`, such as the learning rate; budget, seed and checkpoint come from the harness
    options: JSON values that set the variant apart; they are recorded, and a resumed training must have the same
    seed: of the initial weights and of all random draws of the training
    parent: the name in checkpoints/ of the initial weights
    contained_assets: the assets that the model contains
    """

    build: Callable[..., nn.Module]
    batches: Callable[[torch.device, int], BatchFunction]
    batch_size: int
    fit_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    parent: str | None = None
    contained_assets: tuple[str, ...] = ()

    def build_model(self, **options) -> nn.Module:
        """The model with initial weights, which its seed alone decides."""
        return self.build(seed=self.seed, **options)

    def trained_part(self, model: nn.Module) -> nn.Module:
        """The part of the model that is trained and saved."""
        return model.denoiser

    def train_in_memory(self, model: nn.Module, steps: int, **options) -> TrainingLog:
        """Trains a model of this variant in memory and writes nothing; options: of `fit`, in place of `fit_options`."""
        options = {"progress": False, "seed": self.seed} | dict(self.fit_options) | options
        return fit(model, self.batches(default_device(), self.batch_size), steps=steps, **options)

    def train(self, model: nn.Module, training: Training) -> TrainingLog:
        """Trains the model in place."""
        on_gpu = training.device.type == "cuda"
        return fit(
            model,
            self.batches(training.device, training.batch_size),
            steps=training.steps,
            seconds=training.seconds,
            seed=training.seed,
            checkpoint=training.checkpoint,
            **({**dict.fromkeys(("bf16", "compile", "draw_ahead"), on_gpu), "progress": None} | dict(self.fit_options)),
        )


@dataclass(frozen=True)
class Asset:
    """A network that variants or evaluations need, and its training, which runs in one process.

    build: makes the network with initial weights; it is called with `seed`, and in tests with options of a toy size
    train: trains the network in place
    weights_name: the name of its weights in checkpoints/
    training_assets: the assets that its training uses
    batch_size, options, seed, parent: as those of a Variant
    """

    build: Callable[..., nn.Module]
    train: Callable[[nn.Module, Training], TrainingLog]
    weights_name: str
    batch_size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    parent: str | None = None
    training_assets: tuple[str, ...] = ()

    def build_model(self, **options) -> nn.Module:
        """The network with initial weights, which its seed alone decides."""
        return self.build(seed=self.seed, **options)

    def trained_part(self, network: nn.Module) -> nn.Module:
        """The whole network."""
        return network


class Results(NamedTuple):
    """What an evaluation measures, in flat form, and the arrays that figures need."""

    numbers: dict[str, float]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """One sampler's evaluation.

    run: computes the results; a PerContext can be split over processes
    variant: the variant or the asset that is evaluated; empty if it needs no weights
    baselines: further variants whose weights it uses
    assets: further assets whose weights it uses, beside those that the variants contain
    on_request: whether it runs only if the command names it
    read_records: the records of earlier commands, if the evaluation only reads what they measured
    """

    run: Callable[[Session], Results]
    variant: str = ""
    baselines: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    on_request: bool = False
    read_records: Callable[[Session], list[dict]] = lambda session: []


def needed_assets(declaration: Variant | Asset) -> tuple[str, ...]:
    """The assets that must be trained before a variant or an asset can be trained."""
    return declaration.contained_assets if isinstance(declaration, Variant) else declaration.training_assets


@dataclass(frozen=True)
class Experiment:
    """The declaration of an experiment.

    name: in the command line
    results_name: the name of the results in checkpoints/
    weights_name_template: the name of a variant's weights in checkpoints/, from {results_name} and {variant}
    variants, assets, evaluations: by their names
    make_test_set: the test set on a device, from that device and the options of the evaluation, for Session.test_set
    predict: the predictions of a deterministic baseline, from its model and the test set, for Session.predict
    evaluation_options: their defaults, such as {"scenes": 256}; each is an argument of `evaluate`
    views: suffixes of measures that name a view, such as "180" in energy_skill_180
    headline: the measures in the manifest entry of exported weights; the first one stands in that of the results
    exported_arrays: selects the arrays to export, from the exported variant and all arrays
    seed: of the draws of evaluations without a training; exported results state it, or else that of the last training
    add_arguments, configure: for an experiment on the user's own data: they add arguments to the commands "train" and
        "evaluate", and make the experiment from a command's arguments
    arguments, settings: of a configured experiment: arguments for the recorded commands, and JSON values that
        evaluations depend on
    """

    name: str
    results_name: str
    variants: Mapping[str, Variant]
    evaluations: Mapping[str, Evaluation]
    make_test_set: Callable[[torch.device, Mapping[str, int]], Any] | None = None
    predict: Callable[[nn.Module, Any], Any] | None = None
    assets: Mapping[str, Asset] = field(default_factory=dict)
    evaluation_options: Mapping[str, int] = field(default_factory=dict)
    views: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    exported_arrays: Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda variant, arrays: arrays
    weights_name_template: str = "{results_name}"
    seed: int | None = None
    add_arguments: Callable[[str, ArgumentParser], None] = lambda action, parser: None
    configure: Callable[[Experiment, Namespace], Experiment] = lambda experiment, options: experiment
    arguments: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        names = [name for x in self.evaluations.values() for name in filter(None, (x.variant, *x.baselines, *x.assets))]
        for declaration in (*self.variants.values(), *self.assets.values()):
            names += needed_assets(declaration)
        if unknown := [name for name in names if name not in self.variants and name not in self.assets]:
            declared = ", ".join([*self.variants, *self.assets])
            raise ValueError(f"{self.name} names {unknown[0]!r} but does not declare it: it declares {declared}")

    def variant(self, name: str) -> Variant:
        """The variant of that name. ValueError if there is none."""
        if name not in self.variants:
            names = ", ".join([*self.variants, *self.assets])
            raise ValueError(f"unknown variant {name!r} of {self.name}: choose one of {names}")
        return self.variants[name]

    def declaration(self, name: str) -> Variant | Asset:
        """The variant or the asset of that name. ValueError if there is none."""
        return self.assets[name] if name in self.assets else self.variant(name)

    def contained_assets(self, name: str) -> tuple[str, ...]:
        """The assets that the model of a variant contains; an asset contains no other."""
        return self.variants[name].contained_assets if name in self.variants else ()

    def needed_weights(self, evaluation: Evaluation) -> list[str]:
        """All variants and assets whose weights an evaluation uses."""
        names = [*filter(None, [evaluation.variant]), *evaluation.baselines]
        contained = [asset for name in names for asset in self.contained_assets(name)]
        return list(dict.fromkeys([*names, *evaluation.assets, *contained]))

    def weights_name(self, name: str) -> str:
        """The name in checkpoints/ of the weights of a variant or an asset."""
        if name in self.assets:
            return self.assets[name].weights_name
        return self.weights_name_template.format(results_name=self.results_name, variant=name)

    def measurements(self, sampler: str, numbers: Mapping[str, float]) -> list[Measurement]:
        """The long form of one sampler's measures."""
        evaluation = self.evaluations.get(sampler)
        return to_long(self.name, evaluation.variant if evaluation else "", sampler, numbers, self.views)


class Session:
    """What the evaluations of one call share: device, options, test set, models, predictions. Each is made once.

    part: the contexts that a PerContext measures
    """

    def __init__(self, experiment: Experiment, folder: Path, options: Mapping[str, int], part: Part = ALL_CONTEXTS):
        self.experiment, self.folder, self.options, self.device = experiment, folder, options, default_device()
        self.part, self._cache, self._part_cache = part, {}, {}

    def of_part(self, part: Part) -> Session:
        """The session for a part of the contexts; both share what either keeps in its cache, but for that of a part."""
        if part == self.part:
            return self
        session = Session(self.experiment, self.folder, self.options, part)
        session._cache = self._cache
        return session

    def cached(self, key: Any, make: Callable[[], Any], part_only: bool = False) -> Any:
        """The value of `make()`, which is called once for a key. part_only: it is of this part and ends with it."""
        cache = self._part_cache if part_only else self._cache
        if key not in cache:
            cache[key] = make()
        return cache[key]

    @property
    def test_set(self) -> Any:
        """The test set, on the device."""
        return self.cached("test set", lambda: self.experiment.make_test_set(self.device, self.options))

    def model(self, name: str) -> nn.Module:
        """The trained model of a variant, or the trained asset, on the device."""
        return self.cached(("model", name), lambda: load_model(self.experiment, name, self.folder, self.device))

    def predict(self, name: str) -> Any:
        """The predictions of a deterministic baseline for the test set."""
        return self.cached(("prediction", name), lambda: self.experiment.predict(self.model(name), self.test_set))


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
    """Trains a variant or an asset, and writes its weights and its record to the folder.

    minutes, steps: the budget, whichever ends first, earlier calls included: the same call resumes a training
    batch_size: None: that of the variant
    jobs_per_gpu: trainings that share a GPU at the same time; they divide the GPU minutes
    init_from: a file of initial weights, in place of the variant's parent

    An interrupted training has only its state written. ValueError if the folder's state has other settings, the folder
    lacks the weights of an asset that the training needs, or another process trains there under the same name.
    """
    check_trainings(experiment, [name], folder)
    declaration, device, path = experiment.declaration(name), default_device(), folder / f"{name}.safetensors"
    torch.backends.cudnn.benchmark = device.type == "cuda"  # images of one size: worth finding the fastest convolution
    assets = {need: load_model(experiment, need, folder, device) for need in needed_assets(declaration)}
    model, parent = declaration.build_model(**{need: assets[need] for need in experiment.contained_assets(name)}), {}
    if init_from or declaration.parent:
        weights, parent = initial_weights(declaration.parent, init_from)
        source = str(init_from or f"the checkpoint {declaration.parent}")
        load_weights(declaration.trained_part(model), weights, source)
    needs = {need: file_sha256(weights_path(need, folder)) for need in assets}
    source = str(init_from.resolve()) if init_from else declaration.parent
    settings = {"options": dict(declaration.options), "seed": declaration.seed, "needs": needs}
    with training_lock(path):
        records.check_settings(path, settings | {"init_from": source})
        training = Training(
            steps=steps,
            seconds=None if minutes is None else 60 * minutes,
            batch_size=batch_size or declaration.batch_size,
            seed=declaration.seed,
            checkpoint=path.with_suffix(".state"),
            device=device,
            assets=assets,
        )
        log = declaration.train(model, training)
        if log.interrupted or not is_main_process():
            return log
        save_weights(declaration.trained_part(model), path)
        arguments = dict(experiment.arguments) | {"minutes": minutes, "steps": steps, "batch_size": training.batch_size}
        arguments |= {"init_from": init_from and init_from.name}
        record = provenance(records.command_line(experiment.name, "train", name, arguments, jobs_per_gpu)) | settings
        record |= {
            "experiment": experiment.name,
            "variant": name,
            "batch": training.batch_size,
            "parent": parent,
            "gpu_minutes": records.gpu_minutes(log.seconds, device, jobs_per_gpu),
        }
        records.write_training_record(path, record, log)
        return log


def check_trainings(experiment: Experiment, names: Iterable[str], folder: Path) -> None:
    """ValueError if trainings, one after another, cannot start: a name is unknown, a needed asset is not trained, or an
    asset would be trained in several processes."""
    trained: set[str] = set()
    for name in names:
        needs = needed_assets(experiment.declaration(name))
        if name in experiment.assets and num_processes() > 1:
            raise ValueError(f"{name} runs in one process: start it without `accelerate launch`")
        for need in (need for need in needs if need not in trained):
            weights_path(need, folder)
        trained.add(name)


# --- weights ----------------------------------------------------------------------------------------------------------


def load_model(experiment: Experiment, name: str, folder: Path | None, device: torch.device) -> nn.Module:
    """A variant or an asset with its trained weights, on the device; an asset is frozen.

    folder: that `train` wrote to; None: checkpoints/. ValueError if there are no weights
    """
    declaration = experiment.declaration(name)
    assets = {need: load_model(experiment, need, folder, device) for need in experiment.contained_assets(name)}
    model = declaration.build_model(**assets)
    if folder is None:
        source = f"the checkpoint {experiment.weights_name(name)}"
        weights = load_pretrained(experiment.weights_name(name))
    else:
        source = str(weights_path(name, folder))
        weights = load_file(source)
    load_weights(declaration.trained_part(model), weights, source)
    if name in experiment.assets:
        model.requires_grad_(False)
    return model.eval().to(device)


# --- evaluation -------------------------------------------------------------------------------------------------------


def evaluate(
    experiment: Experiment,
    names: Iterable[str],
    folder: Path,
    options: Mapping[str, int] | None = None,
    jobs_per_gpu: int = 1,
    parts: int = 1,
) -> None:
    """Runs evaluations and writes each record as soon as it exists, unless the folder holds it for the same weights.

    names: of evaluations, or of variants for all of their evaluations; none: all whose weights are in the folder
    options: replace those of the experiment
    parts: the contexts are measured in so many parts, each with a record of its own
    Several processes with the same arguments, such as one for each GPU, share the work: each takes an evaluation, or a
    part of one, that no other has begun; the last process joins the parts. A measure that is not finite, such as the
    PSNR of no error, is left out: JSON has no number for it.
    ValueError on an unknown name, if weights are missing, or if an evaluation cannot be split.
    """
    session = Session(experiment, folder, dict(experiment.evaluation_options) | dict(options or {}))
    selected = {name: experiment.evaluations[name] for name in select_evaluations(experiment, names, folder)}
    check_split({name: evaluation.run for name, evaluation in selected.items()}, parts)
    digests = {
        name: {key: file_sha256(weights_path(key, folder)) for key in experiment.needed_weights(evaluation)}
        for name, evaluation in selected.items()
    }
    for name in selected:
        cache_key = {"weights": digests[name], "options": session.options | dict(experiment.settings)}
        for path, part, key in pending_records(folder / f"evaluation_{name}.json", parts, cache_key):
            with record_lock(path, key) as is_pending:
                if is_pending:
                    _evaluate_one(session.of_part(part), name, path, key, parts, jobs_per_gpu)


def _evaluate_one(
    session: Session, name: str, path: Path, cache_key: dict[str, Any], parts: int, jobs_per_gpu: int
) -> None:
    """Runs one evaluation, or the session's part of it, or joins its parts; writes PATH.npz and PATH.json."""
    experiment, start_time, part_records = session.experiment, time.monotonic(), []
    evaluation = experiment.evaluations[name]
    if session.part != ALL_CONTEXTS:
        results = Results({}, evaluation.run.measure(session))
    elif parts > 1:
        part_records, arrays = read_parts(path, parts)
        results = evaluation.run.summarise(session, arrays)
    else:
        results = evaluation.run(session)
    minutes = records.gpu_minutes(time.monotonic() - start_time, session.device, jobs_per_gpu)
    arguments = dict(experiment.arguments) | dict(session.options) | {"parts": parts if parts > 1 else None}
    own = provenance(records.command_line(experiment.name, "evaluate", name, arguments, jobs_per_gpu))
    numbers = {key: value for key, value in results.numbers.items() if math.isfinite(value)}
    rows = [row._asdict() for row in experiment.measurements(name, numbers)]
    source = records.evaluation_source(own | {"gpu_minutes": minutes}, part_records, evaluation.read_records(session))
    records.write_evaluation_record(path, source | cache_key | {"measures": rows}, results.arrays)
    shown = name if session.part == ALL_CONTEXTS else path.stem
    print(shown, json.dumps({key: round(value, 3) for key, value in numbers.items()}), flush=True)


def select_evaluations(experiment: Experiment, names: Iterable[str], folder: Path) -> list[str]:
    """The names of the evaluations that `names` stand for, as in `evaluate`."""
    names, evaluations = list(names), experiment.evaluations
    for name in names:
        if name not in evaluations and name not in {x.variant for x in evaluations.values()}:
            raise ValueError(f"{experiment.name} has no evaluation {name!r}: choose from {', '.join(evaluations)}")
    if names:
        return [key for key, x in evaluations.items() if key in names or x.variant in names and not x.on_request]
    available = {path.stem for path in folder.glob("*.safetensors")}
    default = [key for key, x in evaluations.items() if not x.on_request]
    if selected := [key for key in default if available.issuperset(experiment.needed_weights(evaluations[key]))]:
        return selected
    needed = ", ".join(experiment.needed_weights(next(iter(evaluations.values()))))
    raise ValueError(f"{folder} holds the weights of no evaluation: train {needed}, or others, first")


# --- exported results -------------------------------------------------------------------------------------------------


class RecordedResults(NamedTuple):
    """Exported results: measures in long form; records of trainings and of evaluations, by name; arrays."""

    rows: list[Measurement]
    trainings: dict[str, dict]
    evaluations: dict[str, dict]
    arrays: dict[str, np.ndarray]


def load_results(experiment: Experiment) -> RecordedResults:
    """The exported results of an experiment, from checkpoints/."""
    arrays = load_recorded(experiment.results_name)
    if "measures" not in arrays:
        numbers, *results = convert_early_results(arrays)
        return RecordedResults(
            [row for sampler, measures in numbers.items() for row in experiment.measurements(sampler, measures)],
            *results,
        )
    measures, trainings, evaluations = (json.loads(str(arrays.pop(key))) for key in RESULT_KEYS)
    return RecordedResults([Measurement(**row) for row in measures], trainings, evaluations, arrays)
