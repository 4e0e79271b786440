"""The harness of all experiments: train a declared variant, evaluate it, and load exported results.

fwdiff_lite/experiments/declaration.py has what an experiment declares. Every command works in one folder; NAME is that
of a variant, an asset or an evaluation:

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
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from fwdiff_lite.devices import default_device, is_main_process, num_processes
from fwdiff_lite.experiments import records
from fwdiff_lite.experiments.declaration import Experiment, Results, Training, needed_assets
from fwdiff_lite.experiments.early_results import convert_early_results
from fwdiff_lite.experiments.measurements import Measurement
from fwdiff_lite.experiments.split import ALL_CONTEXTS, Part, check_split, pending_records, read_parts, record_lock
from fwdiff_lite.experiments.training_lock import training_lock
from fwdiff_lite.experiments.weights import initial_weights, save_weights, weights_path
from fwdiff_lite.storage.checkpoints import load_pretrained, load_recorded, load_weights
from fwdiff_lite.storage.files import file_sha256
from fwdiff_lite.storage.provenance import provenance
from fwdiff_lite.training import TrainingLog

RESULT_KEYS = ("measures", "trainings", "evaluations")  # exported arrays that hold JSON


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
    ValueError on an unknown name, if weights are missing, if an option is too small for an evaluation, or if an
    evaluation cannot be split.
    """
    session = Session(experiment, folder, dict(experiment.evaluation_options) | dict(options or {}))
    selected = {name: experiment.evaluations[name] for name in select_evaluations(experiment, names, folder)}
    for name, evaluation in selected.items():
        evaluation.check_options(name, session.options)
    check_split({name: evaluation.run for name, evaluation in selected.items()}, parts)
    digests = {
        name: {key: file_sha256(weights_path(key, folder)) for key in experiment.needed_weights(evaluation)}
        for name, evaluation in selected.items()
    }
    for name, evaluation in selected.items():
        cache_key = {"weights": digests[name], "options": session.options | dict(experiment.settings)}
        if measurements := evaluation.read_records(session):
            cache_key["measurements"] = records.digest_of(measurements)
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
