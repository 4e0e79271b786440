"""Scores of samples against one true value for each context, where the true posterior is not known."""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from fwdiff_lite.checks import check_distance_types, check_float, check_shape
from fwdiff_lite.metrics.bootstrap import Interval, bootstrap
from fwdiff_lite.metrics.checks import broadcast_mask, check_sample_shapes, check_scores, pool_per_context


def energy_score(samples: Float[Tensor, "c K *obs"], truth: Float[Tensor, "c *obs"]) -> Float[Tensor, "c"]:
    """Energy score of each context: mean |x - truth| - half the mean |x - x'|; lower is better.

    |.| is the Euclidean norm over all of *obs, in the data's units. The second mean is over the K (K - 1) pairs of
    different samples, so the score is unbiased for every K >= 2. A deterministic prediction has no such pair: use
    `euclidean_error` for it. Memory: at most 4M pairwise distances at a time. Source: Gneiting and Raftery 2007.
    """
    check_sample_shapes(samples, truth)
    c, K = samples.shape[:2]
    if K < 2:
        raise ValueError("got K = 1 sample for each context, wanted at least 2; for a prediction, use euclidean_error")
    check_distance_types(samples=samples, truth=truth)
    x, y = samples.reshape(c, K, -1), truth.reshape(c, 1, -1)
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}  # a matrix product has cancellation for close samples
    chunk = max(1, 2**22 // K**2)
    return torch.cat([
        torch.cdist(a, b, **exact).mean((1, 2)) - torch.cdist(a, a, **exact).sum((1, 2)) / (2 * K * (K - 1))
        for a, b in zip(x.split(chunk), y.split(chunk), strict=True)
    ])  # fmt: skip


def euclidean_error(prediction: Float[Tensor, "c *obs"], truth: Float[Tensor, "c *obs"]) -> Float[Tensor, "c"]:
    """Euclidean distance of a deterministic prediction to the truth: the energy score of a point mass."""
    check_float(prediction=prediction, truth=truth)
    check_shape("truth", truth, prediction.shape, prediction=prediction)
    return (prediction - truth).reshape(len(truth), -1).norm(dim=-1)


def energy_gap(model: Float[Tensor, "c"], exact: Float[Tensor, "c"], generator: Generator) -> Interval:
    """Mean difference of the model's energy score to that of exact posterior samples, divided by the latter's mean.

    The difference is paired over contexts; 0 is perfect. It does not detect a variance that is wrong by a fifth. The
    same function compares two samplers.
    """
    check_scores(model=model, exact=exact)
    mean_exact = float(exact.mean())
    if mean_exact <= 0:
        raise ValueError(f"the exact score is {mean_exact:.3g} on average, wanted above 0")
    return Interval(*(end / mean_exact for end in bootstrap(torch.mean, model - exact, generator=generator)))


def energy_ratio(model: Float[Tensor, "c"], baseline: Float[Tensor, "c"], generator: Generator) -> Interval:
    """Mean energy score of the samples divided by that of the deterministic baseline; below 1, the samples are better.

    The ratio of a perfect sampler to the posterior mean is .707 for Gaussians and for many independent unknowns, .64
    for one unknown hue, and .50, .60, .65, .67 for 1, 2, 3, 4 signs of equal probability. A much lower ratio means a
    weak baseline.
    """
    check_scores(model=model, baseline=baseline)
    mean_baseline = float(baseline.mean())
    if mean_baseline <= 0:
        raise ValueError(f"the baseline's score is {mean_baseline:.3g} on average, wanted above 0: check the baseline")
    return bootstrap(lambda m, b: m.mean() / b.mean(), model, baseline, generator=generator)


def energy_skill(
    model: Float[Tensor, "c"], baseline: Float[Tensor, "c"], exact: Float[Tensor, "c"], generator: Generator
) -> Interval:
    """Skill score: 0 for the energy score of the deterministic baseline, 1 for that of exact posterior samples.

    For a Gaussian unknown, half the right standard deviation and a bias of 0.4 sigma both have a skill of 0.8.
    """
    check_scores(model=model, baseline=baseline, exact=exact)
    if float((baseline - exact).mean()) <= 0:
        raise ValueError("the baseline scores no worse than exact samples, wanted a difference: check both")
    return bootstrap(lambda m, b, e: (b - m).mean() / (b - e).mean(), model, baseline, exact, generator=generator)


def squared_error(
    prediction: Float[Tensor, "c *obs"],
    truth: Float[Tensor, "c *obs"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "c"]:
    """Squared error of each context; its mean over contexts is the mean squared error over all scored elements."""
    check_float(prediction=prediction, truth=truth)
    check_shape("truth", truth, prediction.shape, prediction=prediction)
    return pool_per_context((prediction - truth).square(), broadcast_mask(mask, truth))


def debiased_ensemble_mean_mse(
    samples: Float[Tensor, "c K *obs"],
    truth: Float[Tensor, "c *obs"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "c"]:
    """Squared error of each context of the mean of infinitely many samples, estimated from K samples.

    It is the squared error of the mean of K samples, minus (unbiased sample variance) / K. So it is comparable with the
    `squared_error` of a deterministic baseline. The value of one context may be negative; the mean over contexts is the
    estimate over all scored elements.
    """
    check_sample_shapes(samples, truth, min_samples=2)
    error = (samples.mean(1) - truth).square() - samples.var(1) / samples.shape[1]
    return pool_per_context(error, broadcast_mask(mask, truth))


def psnr_gain(errors: Float[Tensor, "c"], baseline: Float[Tensor, "c"], generator: Generator) -> Interval:
    """PSNR less that of a baseline, in dB, paired over contexts; above 0, the baseline is worse.

    errors, baseline: mean squared errors of each context, from `squared_error` or `debiased_ensemble_mean_mse`. The
    range of the data cancels. ValueError if a mean over resampled contexts is not above 0.
    """
    check_scores(errors=errors, baseline=baseline)
    return bootstrap(lambda e, b: 10 * (b.mean() / e.mean()).log10(), errors, baseline, generator=generator)


def spread_skill(
    samples: Float[Tensor, "c K *obs"],
    truth: Float[Tensor, "c *obs"],
    generator: Generator,
    mask: Bool[Tensor, "..."] | None = None,
) -> Interval:
    """Spread-skill ratio: sqrt(mean sample variance (K + 1) / K) divided by the RMSE of the mean of K samples.

    It is 1 for a calibrated sampler, and below 1 for an over-confident or biased one. The unbiased variance and the
    squared error are each averaged over all scored elements and contexts, before the root and the division. Set `mask`
    to True for the elements that the context does not show. Samples of the prior have a ratio of 1 too, so never use it
    alone. Source: Fortin et al. 2014.
    """
    check_sample_shapes(samples, truth, min_samples=2)
    mask, K = broadcast_mask(mask, truth), samples.shape[1]
    variance = pool_per_context(samples.var(1), mask) * (K + 1) / K
    error = pool_per_context((samples.mean(1) - truth).square(), mask)
    return bootstrap(lambda v, e: (v.mean() / e.mean()).sqrt(), variance, error, generator=generator)
