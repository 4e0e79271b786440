"""A first look at a model's samples, which says in words what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from fwdiff_lite.checks import check_count
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.metrics.bootstrap import Interval, bootstrap
from fwdiff_lite.metrics.scores import energy_score
from fwdiff_lite.observations import Observations, check_observations, check_support, expand_mask
from fwdiff_lite.protocols import Signal

SMALL_SPREAD, LARGE_SPREAD = 0.6, 1.6  # bounds of the spread-skill ratio, which is 1 for a calibrated sampler
NEGLIGIBLE_ERROR = 0.05  # rms error over the targets' standard deviation: below it, nothing is left to be spread
CONTEXT_ERROR = 0.2  # rms error at the context over its standard deviation: above it, samples contradict the context
OTHER_UNIT = 5.0  # ratio of standard deviations of samples and targets: above it, or below its inverse, units differ
PRIOR_ERROR = 0.7  # rms error at the context over that at the context of another signal: above it, they ignore it


class SampleStatistics(NamedTuple):
    """Root mean squares over all observations that exist, of a CroppingForwardModel within its support.

    error: of the mean of K samples at the targets; spread: the samples' standard deviation there, times
        sqrt((K + 1) / K), so that both are equal for a calibrated sampler
    target_std, context_std, sample_std: standard deviations of targets, of contexts and of the samples at the targets
    context_error, other_context_error: of each sample at its own context, and at that of the next signal
    The three values of contexts are NaN without contexts, and where contexts have another shape than targets
    """

    error: float
    spread: float
    target_std: float
    context_std: float
    sample_std: float
    context_error: float
    other_context_error: float


def check_samples(
    model: ForwardDiffusion, batch: dict[str, Observations], num_samples: int = 8, **options
) -> list[str]:
    """One sentence for each fault of a model's samples; an empty list if none was found.

    It finds samples that are all alike (collapsed), vary too much, ignore the context (prior-like) or contradict it,
    with a batch of, say, 64 signals. It finds no small fault: for that, see fwdiff_lite.metrics. The noise that
    the forward model states is subtracted from the errors at contexts. Contexts of another shape than the targets'
    (target_shape) are not compared with samples. A ForwardRegression, whose samples are all the same, counts as
    collapsed.

    batch: as for `fit`, with "context" and "target"; better one that the model was not trained on
    options: of model.sample, such as generator and steps
    """
    context, target = _check_batch(batch, num_samples)
    s = measure_samples(model, context, target, num_samples, **options)
    faults = []
    if not all(x < float("inf") for x in s[:3]):
        return [
            "The samples hold NaN or infinite values: train with a lower learning rate, or look for a quotient at 0."
        ]
    has_scale = model.observation_scale != 1
    if has_scale and not 1 / OTHER_UNIT < s.sample_std / max(s.target_std, 1e-12) < OTHER_UNIT:
        return [
            f"The samples have another unit than the targets: their standard deviation is {s.sample_std:.2g}, that of "
            f"the targets {s.target_std:.2g}. With observation_scale=s, a denoiser whose signals have the "
            "observations' unit returns s times its network's output (see protocols.ScaledDenoiser)."
        ]
    if s.error > NEGLIGIBLE_ERROR * s.target_std and s.spread < SMALL_SPREAD * s.error:
        faults.append(
            f"The samples have collapsed: those of one context are alike. Their spread is {s.spread:.2g}, the error of "
            f"their mean {s.error:.2g}; a calibrated sampler has equal ones. Train longer, or check that the "
            "denoiser uses the noisy target, and that the forward model is that of the data."
        )
    if s.spread > NEGLIGIBLE_ERROR * s.target_std and s.spread > LARGE_SPREAD * s.error:
        faults.append(
            f"The samples vary too much: their spread is {s.spread:.2g}, the error of their mean {s.error:.2g}; a "
            "calibrated sampler has equal ones. Take more steps, train longer, or check the noise_std that the forward "
            "model states."
        )
    if s.context_error > PRIOR_ERROR * s.other_context_error and s.context_error > CONTEXT_ERROR * s.context_std:
        faults.append(
            "The samples are prior-like: they fit their own context no better than that of another signal, with errors "
            f"of {s.context_error:.2g} and {s.other_context_error:.2g}. Check that the denoiser uses the context."
        )
    elif s.context_error > CONTEXT_ERROR * s.context_std:
        faults.append(
            f"The samples are inconsistent with their context: their error there is {s.context_error:.2g}, the "
            f"standard deviation of contexts {s.context_std:.2g}. Check the params, or train longer."
        )
    return faults


def measure_samples(
    model: ForwardDiffusion, context: Observations, target: Observations, num_samples: int, **options
) -> SampleStatistics:
    """The statistics of num_samples samples of each context."""
    k = num_samples
    own, other = context.repeat(k), context[_next(len(context))].repeat(k)
    counts = _counts(model, target)
    options = {"allow_empty": True} | options
    step = model.sample(own, target.params.repeat_interleave(k, 0), target.mask.repeat_interleave(k, 0), **options)
    samples = step.observation.unflatten(0, (-1, k)).double()  # (B, K, M, *obs)
    mean, variance = samples.mean(1), samples.var(1) * (k + 1) / k
    comparable = context.value.shape[2:] == target.value.shape[2:]  # the forward model's result has the targets' shape
    return SampleStatistics(
        error=_root_mean((mean - target.value).square(), counts),
        spread=_root_mean(variance, counts),
        target_std=_std(target.value, counts),
        context_std=_std(context.value, _counts(model, context)) if comparable else torch.nan,
        sample_std=_std(samples, counts[:, None]),
        context_error=_error_at(model, step.signal, own) if comparable else torch.nan,
        other_context_error=_error_at(model, step.signal, other) if comparable else torch.nan,
    )


@torch.no_grad()
def _error_at(model: ForwardDiffusion, signal: Signal, observations: Observations) -> float:
    """The rms error of signals at measurements of them, without the noise that the forward model states."""
    squared_error = (model.forward_model(signal, observations.params) - observations.value).square()
    if model.has_noise:
        noise_variance = model.forward_model.noise_std(observations.params).square()
        squared_error = squared_error - noise_variance.reshape(noise_variance.shape + (1,) * (squared_error.ndim - 2))
    return _root_mean(squared_error, _counts(model, observations))


def live_gain(
    model: ForwardDiffusion, batch: dict[str, Observations], num_samples: int = 8, *, generator: Generator, **options
) -> Interval:
    """How much samples gain from their context: 1 - (energy score) / (energy score with another signal's context).

    The energy scores are those of the sampled targets, averaged over contexts; the interval is a bootstrap over them. A
    model that ignores its context has a gain of 0. A posterior as narrow as a point, sampled exactly, has a gain of 1.

    batch: as for `fit`, with "context" and "target", from signals that the model was not trained on
    num_samples: for each context, 2 or more
    options: of model.sample, such as steps and eta
    """
    context, target = _check_batch(batch, num_samples)
    rows = target.repeat(num_samples)
    scores = []
    for given in (context, context[_next(len(context))]):
        step = model.sample(
            given.repeat(num_samples), rows.params, rows.mask, generator=generator, **{"allow_empty": True} | options
        )
        mask = rows.mask.reshape(rows.mask.shape + (1,) * (rows.value.ndim - 2))
        samples = step.observation.where(mask, 0.0).unflatten(0, (-1, num_samples))  # (B, K, M, *obs)
        scores.append(energy_score(samples, rows.value.where(mask, 0.0)[::num_samples]).cpu())
    return bootstrap(lambda own, other: 1 - own.mean() / other.mean(), *scores, generator=Generator().manual_seed(0))


def _check_batch(batch: dict[str, Observations], num_samples: int) -> tuple[Observations, Observations]:
    """Contexts and targets of a batch that can be sampled. ValueError if there are too few of them."""
    check_count(num_samples=num_samples)
    if num_samples < 2:
        raise ValueError(f"num_samples is {num_samples}: wanted 2 or more, since one sample has no spread")
    if not isinstance(batch, Mapping):
        raise ValueError(f"batch is of type {type(batch).__name__}: give a dict with 'context' and 'target'")
    if missing := [name for name in ("context", "target") if name not in batch]:
        raise ValueError(f"batch has no {missing[0]!r}: give a dict with Observations as 'context' and 'target'")
    context, target = batch["context"], batch["target"]
    check_observations(context=context, target=target)
    if len(target) != len(context) or len(context) < 2:
        raise ValueError(f"batch has {len(context)} contexts and {len(target)} targets: give two or more of each")
    target.check("target", allow_empty=True)
    return context, target


def _next(n: int) -> Tensor:
    return torch.arange(n).roll(-1)


def _counts(model: ForwardDiffusion, observations: Observations) -> Bool[Tensor, "b m *obs"]:
    """True for the values that count: those of an observation that exists, within the support of the forward model."""
    exists = expand_mask(observations.mask, observations.value).expand_as(observations.value)
    if not model.crops:
        return exists
    return exists & (check_support(model.forward_model.support(observations.params), observations.value.shape) > 0)


def _root_mean(squared_error: Float[Tensor, "b m *obs"], counts: Bool[Tensor, "b m *obs"]) -> float:
    """The root of the mean over all values that count; NaN if there are none."""
    return float(squared_error[counts].double().mean().clamp(min=0).sqrt())


def _std(value: Float[Tensor, "*n"], counts: Bool[Tensor, "*#n"]) -> float:
    values = value[counts.expand_as(value)].double()
    return float(values.std(correction=0)) if values.numel() else float("nan")
