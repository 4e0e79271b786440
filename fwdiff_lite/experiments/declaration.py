"""What an experiment declares: its variants, its assets, its test set and its evaluations.

A module declares an experiment as EXPERIMENT. An asset is another network that variants or evaluations need, such as a
generator or a classifier. fwdiff_lite/experiments/harness.py trains and evaluates what is declared.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fwdiff_lite.devices import default_device
from fwdiff_lite.experiments.measurements import Measurement, to_long
from fwdiff_lite.protocols import BatchFunction
from fwdiff_lite.training import TrainingLog, fit

if TYPE_CHECKING:
    from fwdiff_lite.experiments.harness import Session
else:
    Session = Any  # the harness imports this module


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
    least_options: the smallest values of the experiment's options with which its measures exist
    """

    run: Callable[[Session], Results]
    variant: str = ""
    baselines: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    on_request: bool = False
    read_records: Callable[[Session], list[dict]] = lambda session: []
    least_options: Mapping[str, int] = field(default_factory=dict)

    def check_options(self, name: str, options: Mapping[str, int]) -> None:
        """ValueError, before anything is computed, if an option is too small. name: of the evaluation"""
        for key, least in self.least_options.items():
            if options[key] < least:
                raise ValueError(f"--{key.replace('_', '-')} is {options[key]}: {name} needs at least {least}")


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
