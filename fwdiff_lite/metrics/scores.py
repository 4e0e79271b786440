"""Proper scores and spread, where only held-out truths are known."""


import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from fwdiff_lite.metrics.bootstrap import Interval, bootstrap
from fwdiff_lite.metrics.checks import check_finite, check_samples, mask_like, match, pool, shape


def energy_score(samples: Float[Tensor, "c K *obs"], truth: Float[Tensor, "c *obs"]) -> Float[Tensor, "c"]:
    """Energy score of each context: mean |x - truth| - half the mean |x - x'|; lower is better.

    Euclidean norm over all of *obs, in the data's units. The second mean runs over the K (K - 1) pairs of
    different samples, so the score is unbiased at any K >= 2. A deterministic prediction has no such pairs:
    use `point_score`. Memory: at most 4M pairwise distances at a time. Source: Gneiting and Raftery 2007.
    """
    check_samples(samples, truth)
    c, K = samples.shape[:2]
    if K < 2:
        raise ValueError("got K = 1 sample a context, wanted at least 2; for a deterministic one, point_score")
    x, y = samples.reshape(c, K, -1), truth.reshape(c, 1, -1)
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}  # the other way cancels between close samples
    chunk = max(1, 2**22 // K**2)
    return torch.cat([
        torch.cdist(a, b, **exact).mean((1, 2)) - torch.cdist(a, a, **exact).sum((1, 2)) / (2 * K * (K - 1))
        for a, b in zip(x.split(chunk), y.split(chunk), strict=True)
    ])  # fmt: skip


def euclidean_error(prediction: Float[Tensor, "c *obs"], truth: Float[Tensor, "c *obs"]) -> Float[Tensor, "c"]:
    """Energy score of a deterministic prediction, a point mass: its distance to the truth."""
    check_finite(prediction=prediction, truth=truth)
    match("truth", truth, prediction.shape, f"prediction {shape(prediction)}")
    return (prediction - truth).reshape(len(truth), -1).norm(dim=-1)


def energy_gap(model: Float[Tensor, "c"], exact: Float[Tensor, "c"], generator: Generator) -> Interval:
    """How much worse the model scores than the exact posterior, paired over contexts, over the exact score.

    0 is perfect; `.high` is the upper end of the interval of the difference over the score. Also compares two
    samplers. It cannot see a variance wrong by a fifth.
    """
    check_finite(model=model, exact=exact)
    match("exact", exact, model.shape, f"model {shape(model)}")
    scale = float(exact.mean())
    if scale <= 0:
        raise ValueError(f"the exact score is {scale:.3g} on average, wanted above 0")
    return Interval(*(end / scale for end in bootstrap(torch.mean, model - exact, generator=generator)))


def energy_ratio(model: Float[Tensor, "c"], baseline: Float[Tensor, "c"], generator: Generator) -> Interval:
    """Mean energy score of the samples over that of the deterministic baseline; below 1 the samples win.

    A perfect sampler against the perfect mean: .707 for Gaussians and for many independent unknowns; .64
    for one unknown hue; .50, .60, .65, .67 for 1, 2, 3, 4 fair signs. Much lower means a weak baseline.
    """
    return bootstrap(lambda m, b: m.mean() / b.mean(), model, baseline, generator=generator)


def energy_skill(
    model: Float[Tensor, "c"], baseline: Float[Tensor, "c"], exact: Float[Tensor, "c"], generator: Generator
) -> Interval:
    """Share of the way from the deterministic baseline's score to that of true draws; 1 is perfect.

    For a Gaussian unknown, 0.8 is half the right spread or a bias of 0.4 sigma.
    """
    gain = lambda m, b, e: (b - m).mean() / (b - e).mean()  # noqa: E731
    skill = bootstrap(gain, model, baseline, exact, generator=generator)
    if float((baseline - exact).mean()) <= 0:
        raise ValueError("the baseline scores no worse than exact draws, wanted a gap to measure: check both")
    return skill


def squared_error(
    prediction: Float[Tensor, "c *obs"],
    truth: Float[Tensor, "c *obs"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "c"]:
    """Squared error of each context; the mean over contexts is the MSE pooled over all scored elements."""
    check_finite(prediction=prediction, truth=truth)
    match("truth", truth, prediction.shape, f"prediction {shape(prediction)}")
    return pool((prediction - truth).square(), mask_like(mask, truth))


def debiased_ensemble_mean_mse(
    samples: Float[Tensor, "c K *obs"],
    truth: Float[Tensor, "c *obs"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "c"]:
    """Squared error of the mean of infinitely many samples, estimated from K, for each context.

    It is that of the mean of K less (unbiased sample variance) / K, so it compares with a deterministic
    baseline's `squared_error`, which estimates the same thing. One context's value may be negative; the mean
    over contexts is the pooled estimate.
    """
    check_samples(samples, truth, least=2)
    error = (samples.mean(1) - truth).square() - samples.var(1) / samples.shape[1]
    return pool(error, mask_like(mask, truth))


def spread_skill(
    samples: Float[Tensor, "c K *obs"],
    truth: Float[Tensor, "c *obs"],
    generator: Generator,
    mask: Bool[Tensor, "..."] | None = None,
) -> Interval:
    """Spread over skill: sqrt(mean sample variance (K + 1) / K) over the RMSE of the mean of K samples.

    1 for a calibrated sampler, below 1 when over-confident or biased. Variance (unbiased) and squared error
    are each pooled over every scored element and context before the root and the division. Score the elements
    that the context does not see (`mask` True). The prior passes it: never use it alone.
    Source: Fortin et al. 2014.
    """
    check_samples(samples, truth, least=2)
    scored, K = mask_like(mask, truth), samples.shape[1]
    spread = pool(samples.var(1), scored) * (K + 1) / K
    error = pool((samples.mean(1) - truth).square(), scored)
    return bootstrap(lambda s, e: (s.mean() / e.mean()).sqrt(), spread, error, generator=generator)
