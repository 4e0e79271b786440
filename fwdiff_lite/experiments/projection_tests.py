"""Tests of a model of 01_toy_proof against the true posterior, each applied to five negative controls, too.

The tests look at the coordinate of a sample along the line that its context leaves. The samplers:

exact                  draws from the true posterior
learnt                 the model
mean, shuffled, prior  the posterior mean; exact draws of another context; draws from the prior
x0.8, x1.2             exact draws with the variance multiplied by 0.8 or 1.2
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from fwdiff_lite import metrics
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.experiments.projections import PRIOR, c2st_accuracy
from fwdiff_lite.metrics import Interval
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.toy import projections

CONTROLS = ("mean", "shuffled", "prior", "x0.8", "x1.2")
SAMPLERS = ("exact", "learnt", *CONTROLS)
TESTS = ("C2ST accuracy", "energy gap", "spread over error", "W1 ratio", "SBC, least p", "TARP, gap")
BEYOND_POWER = {("energy gap", "x0.8"), ("energy gap", "x1.2")}
BEYOND_POWER |= {("spread over error", "prior"), ("spread over error", "x0.8")}
ENERGY_LIMIT, SBC_LIMIT = 0.03, 0.01
TARP_LIMIT = 0.043  # 1.36 / sqrt(1,000): the 95% band of an exact sampler with 1,000 contexts


def sample_exact(context: Observations, n: int, generator: Generator) -> Float[Tensor, "b n"]:
    """n draws from the true posterior for each context, as coordinates along its line."""
    return projections.nullspace_coordinate(PRIOR.posterior(context).sample(n, generator), context)


def sample_model(
    model: ForwardDiffusion, context: Observations, n: int, generator: Generator, **options
) -> Float[Tensor, "b n"]:
    """n samples of a model for each context, as coordinates along its line; options: of sample_posterior."""
    repeated = context.repeat(n)
    signal = projections.sample_posterior(model, repeated, generator, **options)
    return projections.nullspace_coordinate(signal, repeated).reshape(len(context), n)


def run_samplers(
    model: ForwardDiffusion, context: Observations, m: int, generator: Generator
) -> dict[str, Float[Tensor, "b m"]]:
    """m samples of each sampler for every context, as coordinates along its line."""
    exact, exact_redraw = sample_exact(context, m, generator), sample_exact(context, m, generator)
    mean = projections.nullspace_coordinate(PRIOR.posterior(context).mean(), context)[:, None]
    prior_samples = PRIOR.sample(len(context) * m, generator).reshape(len(context), m, 2)
    return {
        "exact": exact,
        "learnt": sample_model(model, context, m, generator),
        "mean": mean.expand_as(exact_redraw),
        "shuffled": exact_redraw.roll(1, 0),
        "prior": projections.nullspace_coordinate(prior_samples, context),
        "x0.8": mean + math.sqrt(0.8) * (exact_redraw - mean),
        "x1.2": mean + math.sqrt(1.2) * (exact_redraw - mean),
    }


def upper_limit(null: Float[np.ndarray, "n"]) -> float:
    """The limit of a score, from its values for exact draws: their mean plus 4 of their standard deviations."""
    return float(null.mean() + 4 * null.std(ddof=1))


@dataclass
class Report:
    """What the tests found.

    samples: of each sampler for many contexts; truth, mean: of these contexts, the true signals' and the posterior
        means' coordinates; exact_energy: energy scores of further exact draws
    ranks: of the truth among the samples, for four functionals; the last one is the distance to the posterior mean
    scores, rejected: of each test, by sampler
    c2st_null: mean and standard deviation of the C2ST of exact draws; c2st_limit, w1_limit: above them, a sampler is
        rejected
    context_residual: of the model, over the standard deviation of the signals
    """

    samples: dict[str, Float[Tensor, "c m"]]
    truth: Float[Tensor, "c"]
    mean: Float[Tensor, "c"]
    exact_energy: Float[Tensor, "c"]
    ranks: dict[str, Int[Tensor, "4 c"]]
    scores: dict[str, dict[str, float]]
    rejected: dict[str, dict[str, bool]]
    c2st_null: tuple[float, float]
    c2st_limit: float
    w1_limit: float
    context_residual: float

    def missed(self) -> list[str]:
        """Negative controls that a test did not reject, although it has the power to do so."""
        pairs = [(test, name) for test in TESTS for name in CONTROLS if not self.rejected[test][name]]
        return [f"{test}: {name}" for test, name in pairs if (test, name) not in BEYOND_POWER]

    def as_metrics(self) -> dict:
        """The numbers with their keys in metrics.json."""
        keys = {  # of the model; of the other samplers
            "C2ST accuracy": ("joint_c2st", "c2st"),
            "energy gap": ("energy_gap_upper", "energy_gap_upper"),
            "spread over error": ("spread_over_error", "spread_over_error"),
            "W1 ratio": ("w1_over_floor", "w1"),
            "SBC, least p": ("sbc_least_p", "sbc_p"),
            "TARP, gap": ("tarp_max_gap", "tarp"),
        }
        numbers = {
            model_key if name == "learnt" else f"{key}_{name}": self.scores[test][name]
            for test, (model_key, key) in keys.items()
            for name in SAMPLERS
        }
        return numbers | {
            "c2st_null_mean": self.c2st_null[0],
            "c2st_null_sd": self.c2st_null[1],
            "c2st_limit": self.c2st_limit,
            "w1_limit": self.w1_limit,
            "context_residual_rms": self.context_residual,
            "controls_missed": self.missed(),
        }


def run_tests(
    model: ForwardDiffusion,
    c2st_null: Float[np.ndarray, "n"],
    generator: Generator,
    *,
    fixed: int,
    contexts: int,
    samples: int,
    joint: dict[str, int],
) -> Report:
    """All tests of the model and of the other samplers.

    c2st_null: accuracies of the C2ST for exact draws
    fixed: samples for each of ten contexts (W1)
    contexts, samples: many contexts, and samples for each (energy score, spread over error, SBC, TARP)
    joint: "contexts" with one sample each (C2ST), the number of "sets" of them, and the classifier's training "steps"
    """
    w1, w1_null = _w1_ratios(model, fixed, generator)
    signal, context = projections.make_test_set(PRIOR, contexts, 4)
    v = run_samplers(model, context, samples, generator)
    truth, mean = (projections.nullspace_coordinate(x, context) for x in (signal, PRIOR.posterior(context).mean()))
    exact_energy = _energy_score(sample_exact(context, samples, generator), truth)
    gap = {name: metrics.energy_gap(_energy_score(v[name], truth), exact_energy, generator).high for name in SAMPLERS}
    ranks = _sbc_ranks(v, truth, mean, context, generator)
    sbc = {name: float(metrics.holm(metrics.sbc_pvalues(ranks[name], samples)).min()) for name in SAMPLERS}
    tarp = {
        name: float(metrics.tarp_max_gap(metrics.tarp(v[name][..., None], truth[:, None], mean[:, None])))
        for name in SAMPLERS
    }
    c2st, residual = _joint_c2st(model, generator, **joint)
    spread = {name: spread_over_error(v[name], truth) for name in SAMPLERS}
    c2st_limit, w1_limit = upper_limit(c2st_null), upper_limit(w1_null)
    scores = (c2st, gap, {name: spread[name].value for name in SAMPLERS}, w1, sbc, tarp)
    rules = (
        lambda name: c2st[name] > c2st_limit,
        lambda name: gap[name] > ENERGY_LIMIT,
        lambda name: abs(spread[name].value - 1) > 3 * _standard_error(spread[name]),
        lambda name: w1[name] > w1_limit,
        lambda name: sbc[name] < SBC_LIMIT,
        lambda name: tarp[name] > TARP_LIMIT,
    )
    rejected = {test: {name: bool(rule(name)) for name in SAMPLERS} for test, rule in zip(TESTS, rules, strict=True)}
    null = float(c2st_null.mean()), float(c2st_null.std(ddof=1))
    scores = dict(zip(TESTS, scores, strict=True))
    return Report(v, truth, mean, exact_energy, ranks, scores, rejected, null, c2st_limit, w1_limit, residual)


def spread_over_error(samples: Float[Tensor, "c m"], truth: Float[Tensor, "c"]) -> Interval:
    """The spread of samples over the error of their mean, with its 95% interval; 1 for a calibrated sampler."""
    return metrics.spread_skill(samples[..., None], truth[:, None], Generator().manual_seed(13))


def _standard_error(interval: Interval) -> float:
    """The standard error that a 95% interval of a nearly normal estimate implies."""
    return (interval.high - interval.low) / (2 * 1.96)


def _energy_score(samples: Float[Tensor, "c m"], truth: Float[Tensor, "c"]) -> Float[Tensor, "c"]:
    return metrics.energy_score(samples[..., None], truth[:, None])


def _w1_ratios(model: ForwardDiffusion, n: int, generator: Generator) -> tuple[dict[str, float], np.ndarray]:
    """Wasserstein-1 to exact draws over the sampling error, at ten contexts: of each sampler, and of 20 exact sets."""
    _, context = projections.make_test_set(PRIOR, 10, 3)
    samples = run_samplers(model, context, n, generator)
    exact, exact_redraw = sample_exact(context, n, generator), sample_exact(context, n, generator)
    sampling_error = metrics.wasserstein1(exact_redraw, exact)

    def ratio(v: Tensor) -> float:
        return float((metrics.wasserstein1(v, exact) / sampling_error).mean())

    null = np.array([ratio(sample_exact(context, n, generator)) for _ in range(20)])
    return {name: ratio(v) for name, v in samples.items()}, null


def _sbc_ranks(
    samples: dict[str, Tensor], truth: Tensor, mean: Tensor, context: Observations, generator: Generator
) -> dict[str, Int[Tensor, "4 c"]]:
    """Ranks of the truth among the samples: v, |v|, the log density given the context, the distance to the mean."""
    posterior, directions = PRIOR.posterior(context), projections.perpendicular(context.params[:, 0])
    functionals = (
        lambda v: v,
        lambda v: v.abs(),
        lambda v: posterior.projected_log_density(v[..., None] * directions[:, None], directions),
        lambda v: (v - mean[:, None]).abs(),
    )
    return {
        name: torch.stack([metrics.sbc_ranks(f(v), f(truth[:, None])[:, 0], generator) for f in functionals])
        for name, v in samples.items()
    }


def _joint_c2st(
    model: ForwardDiffusion, generator: Generator, contexts: int, sets: int, steps: int
) -> tuple[dict[str, float], float]:
    """C2ST of one sample for each context, as a mean over sets; and the residual of the model at the last set."""
    accuracy = dict.fromkeys(SAMPLERS, 0.0)
    for seed in range(1, sets + 1):
        signal, context = projections.make_test_set(PRIOR, contexts, seed)
        true_features = projections.c2st_features(signal, context)
        for name, v in run_samplers(model, context, 1, generator).items():
            features = torch.cat([context.value, context.params[:, 0], v], 1).float()
            accuracy[name] += c2st_accuracy(true_features, features, steps=steps) / sets
    samples = projections.sample_posterior(model, context, generator)
    residual = projections.project(samples, context.params) - context.value
    return accuracy, float(residual.square().mean().sqrt() / signal.std())
