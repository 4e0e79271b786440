"""The experiment of 02_keyhole_digits: the model, its deterministic baseline, and a sweep over remedies.

    python -m fwdiff_lite.experiments digits train full deterministic --steps 2400
    python -m fwdiff_lite.experiments digits train sweep_network_alone sweep_no_dropout --steps 1500
    python -m fwdiff_lite.experiments digits evaluate
    python -m fwdiff_lite.experiments digits export

A variant of the sweep is trained on some of the training digits and evaluated on the others.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results, Variant
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems import digits

STEPS, SWEEP_STEPS = 2400, 1500  # training steps of the model and its baseline; of a variant of the sweep
BATCH_SIZE, LEARNING_RATE = 256, 2e-3
SWEEP_TRAINING_DIGITS = 1200  # the other training digits evaluate the sweep
OptionSets = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]  # of the denoiser, of the batches, of fit
NO_OPTIONS: OptionSets = ({}, {}, {})
SWEEP: dict[str, OptionSets] = {
    "as in the notebook": NO_OPTIONS,
    "network alone": ({"gaussian_posterior": False, "bounded": False}, {}, {}),
    "not kept in range": ({"bounded": False}, {}, {}),
    "context learnt": ({"context_noise_std": None}, {}, {}),
    "no dropout": ({"dropout": 0.0}, {}, {}),
    "dropout 0.3": ({"dropout": 0.3}, {}, {}),
    "weight decay 0.1": ({}, {}, {"weight_decay": 0.1}),
    "shifts by 1": ({}, {"max_shift": 1}, {}),
    "ink dimmed to 0.7": ({}, {"max_ink_dimming": 0.3}, {}),
}
SWEEP_VARIANTS = {label: f"sweep_{label.replace(' ', '_')}" for label in SWEEP}
SAMPLERS = {"": 4, "_one_shot": 1}  # suffix of the measures: number of sampled windows
NUM_WINDOWS = 4  # of each test digit, at most, as the context


class TestSet(NamedTuple):
    """Complete digits, and windows of each."""

    truth: Float[Tensor, "n 8 8"]
    windows: Observations


load_digit_splits = cache(digits.load_digit_splits)


def build_model(
    num_digits: int | None, model_class: type[ForwardDiffusion], seed: int, **denoiser_options
) -> ForwardDiffusion:
    """A model with initial weights. num_digits: training digits whose windows give pixel statistics; None: all."""
    return digits.build_model(load_digit_splits().train[:num_digits], model_class, seed, **denoiser_options)


def make_variant(
    model_class: type[ForwardDiffusion] = ForwardDiffusion,
    num_digits: int | None = None,
    options: OptionSets = NO_OPTIONS,
) -> Variant:
    """A variant that is trained on the first `num_digits` training digits; None: on all."""
    denoiser_options, batch_options, fit_options = options
    return Variant(
        build=partial(build_model, num_digits, model_class, **denoiser_options),
        batches=lambda device, batch_size: digits.batches(
            load_digit_splits().train[:num_digits], batch_size, **batch_options
        ),
        batch_size=BATCH_SIZE,
        fit_options={"learning_rate": LEARNING_RATE, "bf16": False, "compile": False} | fit_options,  # a tiny network
        options={"model_class": model_class.__name__, "num_digits": num_digits}
        | denoiser_options
        | batch_options
        | fit_options,
    )


def make_test_set(images: Float[Tensor, "n 8 8"], num_windows: int, count: int) -> TestSet:
    """The first `count` digits with their windows, which are the same for every count."""
    return TestSet(images[:count], digits.make_test_windows(images, num_windows)[:count])


def evaluate_variant(name: str, session: Session) -> Results:
    """The measures of samples for one window as the context, sampled autoregressively and one-shot."""
    options, test_set = session.options, session.test_set
    if name in SWEEP_VARIANTS.values():
        test_set = make_test_set(load_digit_splits().train[SWEEP_TRAINING_DIGITS:], 1, options["digits"])
    truth, context, model = test_set.truth, test_set.windows.select([0]), session.model(name).cpu()
    hidden_mask, numbers = digits.composite_context(context)[1] == 0, {}
    for suffix, num_windows in SAMPLERS.items():
        samples = digits.sample_posterior(model, context, options["samples"], num_windows, steps=options["steps"])
        generator = torch.Generator().manual_seed(0)
        numbers |= {
            f"energy{suffix}": metrics.energy_score(samples, truth).mean(),
            f"spread_skill{suffix}": metrics.spread_skill(samples, truth, generator, hidden_mask).value,
            f"psnr{suffix}": digits.psnr_from_squared_error(digits.context_squared_error(samples, truth, context)),
        }
    return Results({key: float(value) for key, value in numbers.items()}, {})


def evaluate_baseline(session: Session) -> Results:
    """The deterministic digits for contexts of 0 to NUM_WINDOWS windows; the number is the error for one window."""
    truth, windows = session.test_set
    model = session.model("deterministic").cpu()
    images = [
        digits.predict_deterministic(model, windows.mask_out(torch.arange(NUM_WINDOWS).expand(len(truth), -1) >= count))
        for count in range(NUM_WINDOWS + 1)
    ]
    arrays = {f"baseline_{count}": x.numpy().astype(np.float16) for count, x in enumerate(images)}
    arrays["windows"] = windows.params.numpy().astype(np.uint8)
    return Results({"energy": float(metrics.euclidean_error(images[1], truth).mean())}, arrays)


EXPERIMENT = Experiment(
    name="digits",
    results_name="02_keyhole_digits",
    variants={
        "full": make_variant(),
        "deterministic": make_variant(ForwardRegression),
        **{
            SWEEP_VARIANTS[label]: make_variant(num_digits=SWEEP_TRAINING_DIGITS, options=options)
            for label, options in SWEEP.items()
        },
    },
    evaluations={"deterministic": Evaluation(evaluate_baseline, "deterministic")}
    | {
        name: Evaluation(partial(evaluate_variant, name), name, least_options={"digits": 2, "samples": 2})
        for name in ("full", *SWEEP_VARIANTS.values())
    },
    make_test_set=lambda device, options: make_test_set(load_digit_splits().held_out, NUM_WINDOWS, options["digits"]),
    evaluation_options={"digits": 300, "samples": 16, "steps": 16},
    headline=("energy", "spread_skill", "psnr"),
)
