"""Measures of a learnt conditional distribution p(S | context), and of images.

Four kinds, by what is known:

    the true posterior can be sampled  c2st  wasserstein1  sliced_w2  energy_gap  sbc_*  tarp*
    only held-out truths are known     energy_score  energy_ratio  energy_skill  spread_skill  mean_mse
    there is a known discrete factor   factor_*  calibration_error  log_loss  label_entropy
    pictures, or sets of pictures      psnr  ssim  best_of  total_variation  variance_inside_outside  mmd
      by networks that others trained  lpips  fid_kid

Throughout, `samples` is (c, K, *obs): K samples for each of c contexts; `truth` is (c, *obs). Contexts are
the independent unit, so every interval is a bootstrap over contexts. A function that returns one number per
context is built so that its mean over contexts is the pooled value. Bad input (a NaN, an empty tensor, shapes
that do not fit, K = 1 where a variance is needed) is a ValueError of one line.
"""

import importlib
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import kstest
from skimage.metrics import structural_similarity
from torch import Generator, Tensor
from torch.nn.functional import softplus

# --- what every measure shares -------------------------------------------------------------------------


class Interval(NamedTuple):
    """A statistic and the two ends of its bootstrap interval."""

    value: float
    low: float
    high: float

    def named(self, name: str) -> dict[str, float]:
        """As in metrics.json: name, name_low, name_high."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))


def _check(**tensors: Tensor) -> None:
    """One-line ValueError for a tensor that is empty or not finite."""
    for name, x in tensors.items():
        if x.numel() == 0:
            raise ValueError(f"{name} is empty (shape {_shape(x)}): give at least one value")
        bad = int((~torch.isfinite(x)).sum()) if x.is_floating_point() else 0
        if bad:
            raise ValueError(f"{name} holds {bad} NaN or infinite values: find where they come from first")


def _match(name: str, x: Tensor, shape: tuple[int, ...], why: str) -> None:
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {_shape(x)}, wanted {tuple(shape)} to fit {why}")


def _check_samples(samples: Tensor, truth: Tensor | None = None, least: int = 1) -> None:
    """`samples` (c, K, *obs) must hold at least `least` samples a context and fit `truth` (c, *obs)."""
    _check(samples=samples)
    if samples.ndim < 2:
        raise ValueError(f"samples has shape {_shape(samples)}, wanted (contexts, K, ...)")
    if truth is not None:
        _check(truth=truth)
        _match("truth", truth, (len(samples), *samples.shape[2:]), f"samples {_shape(samples)}")
    _at_least(samples.shape[1], least)


def _at_least(K: int, least: int) -> None:
    if K < least:
        raise ValueError(f"got K = {K} sample a context, wanted at least {least}: one has no spread")


def _mask_like(mask: Tensor | None, truth: Tensor) -> Tensor:
    """`mask` broadcast to `truth` (True is scored); everything when it is None."""
    if mask is None:
        return torch.ones_like(truth, dtype=torch.bool)
    try:
        mask = mask.broadcast_to(truth.shape)
    except RuntimeError:
        raise ValueError(
            f"mask has shape {_shape(mask)}, wanted one that broadcasts to {_shape(truth)}: add axes"
        ) from None
    if not mask.any():
        raise ValueError("mask selects no element at all: nothing is left to score")
    return mask


def _pool(x: Tensor, mask: Tensor) -> Tensor:
    """(c, *obs) -> (c,): sums over scored elements, scaled so that their mean is the pooled mean."""
    x, mask = x.reshape(len(x), -1), mask.reshape(len(x), -1)
    return (x * mask).sum(-1) / (mask.sum() / len(x))


def _randn(shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device).to(device)


def bootstrap(
    statistic: Callable[..., Tensor | float],
    *arrays: Tensor,
    generator: Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of `statistic(*arrays)` over contexts, the first axis that all arrays share.

    The arrays are resampled with the same rows, so a statistic of paired values stays paired. A statistic
    that cannot be negative (a distance) keeps its upward bias, and its upper end is on the safe side.
    ValueError: fewer than two contexts, arrays of different lengths, a statistic that is not finite.
    """
    if not arrays:
        raise ValueError("bootstrap got no array: pass at least one, with contexts as its first axis")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"got {resamples} resamples at level {level}, wanted 1 or more and a level in (0, 1)")
    _check(**{f"array {i}": a for i, a in enumerate(arrays)})
    lengths = {len(a) for a in arrays}
    if len(lengths) > 1:
        raise ValueError(f"arrays have {sorted(lengths)} contexts, wanted the same number in each")
    c = lengths.pop()
    if c < 2:
        raise ValueError(f"got {c} context, wanted at least 2: a bootstrap over one context says nothing")
    rows = torch.randint(c, (resamples, c), generator=generator, device=generator.device).to(arrays[0].device)
    value = float(statistic(*arrays))
    draws = torch.tensor([float(statistic(*(a[r] for a in arrays))) for r in rows], dtype=torch.float64)
    if not (math.isfinite(value) and draws.isfinite().all()):
        raise ValueError(f"the statistic is not finite (value {value:.3g}): does it divide by zero?")
    low, high = draws.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Interval(value, low, high)


# --- against a known posterior: two sets of samples -----------------------------------------------------


class C2ST(NamedTuple):
    """Held-out accuracy of a classifier that tells two sets apart (0.5: it cannot), and that of each fold."""

    accuracy: float
    folds: Float[Tensor, "folds"]


@torch.enable_grad()
def _heldout_accuracy(real: Tensor, fake: Tensor, generator: Generator, folds: int) -> Tensor:
    """(n, d), (n, d) -> (folds,): one network a fold, all trained at once by batched matrix products."""
    width, batch, steps, peak_lr = 64, 250, 640, 1e-2
    (n, d), hold, device = real.shape, len(real) // folds, real.device

    x = torch.stack([real, fake], 1).detach().double()  # (n, 2, d): row i of both sets is on the same side
    order = torch.randperm(n, generator=generator, device=generator.device).to(device)
    test = order[: hold * folds].view(folds, hold)
    train = torch.stack([torch.cat([order[: j * hold], order[(j + 1) * hold :]]) for j in range(folds)])
    mean = torch.stack([x[rows].mean((0, 1)) for rows in train])[:, None, None]  # (folds, 1, 1, d)
    std = torch.stack([x[rows].std((0, 1)) for rows in train])[:, None, None]
    std = torch.where(std > 0, std, 1.0)  # a constant column stays constant

    w1 = _randn((folds, d, 2 * width), generator, device) * 1.4 / d**0.5
    b1 = _randn((folds, 1, 2 * width), generator, device) / 2
    w2 = _randn((folds, width, width), generator, device) * 1.4 / width**0.5
    b2 = torch.zeros(folds, 1, width, device=device)
    w3 = _randn((folds, width, 1), generator, device) / width**0.5
    b3 = torch.zeros(folds, 1, 1, device=device)
    weights = [w.requires_grad_() for w in (w1, b1, w2, b2, w3, b3)]

    def logit_is_fake(rows: Tensor) -> Tensor:  # (folds, rows) -> (folds, real or fake, rows)
        z = ((x[rows] - mean) / std).float().transpose(1, 2).flatten(1, 2)  # (folds, 2 * rows, d)
        a, b = torch.baddbmm(b1, z, w1).chunk(2, -1)
        h = torch.relu(torch.baddbmm(b2, a * b, w2))
        return torch.baddbmm(b3, h, w3).view(folds, 2, -1)

    optimiser = torch.optim.AdamW(weights, lr=peak_lr, weight_decay=0.1, betas=(0.9, 0.99))
    wrong = torch.tensor([[1.0], [-1.0]], device=device)  # the logit's sign where it is mistaken
    passes = range(-(-steps * batch // (n - hold)))
    stream = torch.cat([torch.randperm(n - hold, generator=generator, device=generator.device) for _ in passes])
    for step, rows in enumerate(stream[: steps * batch].view(steps, batch).to(device)):
        warm_up = min(1.0, (step + 1) / (0.05 * steps))
        optimiser.param_groups[0]["lr"] = peak_lr * warm_up * (1 + math.cos(math.pi * step / steps)) / 2
        loss = softplus(wrong * logit_is_fake(train[:, rows])).sum() / (2 * batch)  # folds do not mix
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        logits = logit_is_fake(test)
    return ((logits[:, 0] < 0).double() + (logits[:, 1] >= 0).double()).mean(-1) / 2


def c2st(real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"], generator: Generator, folds: int = 5) -> C2ST:
    """Classifier two-sample test: cross-validated accuracy of a small network on real against fake rows.

    Angles come as sine and cosine. Row i of both sets is held out together, so the two may (and should) share
    their context: chance differences between two sets of contexts are then no noise for the classifier. On the
    four components of the toy proof (d = 4, n = 10,000) that raises "variance x 0.8" from .531 to .538 and
    lowers the standard deviation of exact redraws from .005 to .0035. The n % folds rows left over are only
    trained on.
    The network: 64 products of two linear maps (a wrong variance is a wrong second moment), 64 ReLUs, AdamW
    with a cosine to zero, 640 steps of 250 rows of each kind: 2 to 3 s on one CPU thread at d = 4, whatever n.
    Among what was tried, more or larger or averaged networks gained nothing on a wrong variance; plain ReLU
    layers lose up to .005 there and .02 on the deterministic mean, half the width .003; three times the steps
    gain .03 on the mean alone. Source: Lopez-Paz and Oquab 2017.
    """
    _check(real=real, fake=fake)
    if real.ndim != 2:
        raise ValueError(f"real has shape {_shape(real)}, wanted (n, d): one row a draw")
    _match("fake", fake, real.shape, f"real {_shape(real)}")
    if not 2 <= folds <= len(real) // 2:
        raise ValueError(f"got {len(real)} rows and {folds} folds, wanted 2 folds or more with 2 rows each")
    accuracies = _heldout_accuracy(real, fake, generator, folds).cpu()
    return C2ST(float(accuracies.mean()), accuracies)


def c2st_many(
    real: Float[Tensor, "p n d"], fake: Float[Tensor, "p n d"], generator: Generator, folds: int = 5
) -> list[C2ST]:
    """`c2st` of p problems, such as twenty exact redraws (the null) or five negative controls.

    One after another: the matrix products of one problem already fill a core, and p at once spill its cache.
    """
    _check(real=real)
    _match("fake", fake, real.shape, f"real {_shape(real)}")
    return [c2st(r, f, generator, folds) for r, f in zip(real, fake, strict=True)]


def wasserstein1(x: Float[Tensor, "*batch n"], y: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Exact Wasserstein-1 distance of two sets of n numbers, in their units: sort both and compare.

    The floor is the distance of two exact sets, so report wasserstein1(model, exact) / wasserstein1(other
    exact set, exact), averaged over contexts: 1 is perfect.
    """
    _check(x=x, y=y)
    _match("y", y, x.shape, f"x {_shape(x)}")
    return (x.sort(-1).values - y.sort(-1).values).abs().mean(-1)


def _check_sets(x: Tensor, y: Tensor, least: int = 1) -> None:
    _check(x=x, y=y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"got x {_shape(x)} and y {_shape(y)}, wanted (n, d) and (m, d) with the same d")
    if min(len(x), len(y)) < least:
        raise ValueError(f"got {len(x)} and {len(y)} rows, wanted at least {least} in each set")


def sliced_w2(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], generator: Generator, projections: int = 256) -> float:
    """Sliced Wasserstein-2 distance: root mean square of the exact 1-D W2 over random unit directions.

    In the data's units; for two sets a shift s apart it is s / sqrt(d). n and m may differ: each 1-D distance
    integrates the squared difference of the two quantile functions. Source: Rabin et al. 2011.
    """
    _check_sets(x, y)
    if projections < 1:
        raise ValueError(f"got projections = {projections}, wanted at least 1")
    n, m = len(x), len(y)
    directions = _randn((x.shape[1], projections), generator, x.device).to(x.dtype)
    directions = directions / directions.norm(dim=0)
    # both quantile functions are constant between the levels i/n and j/m; in units of 1/(n m) these are whole
    levels = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique().to(x.device)
    share = torch.diff(levels, prepend=levels.new_zeros(1)).to(x) / (n * m)
    x_quantiles = (x @ directions).sort(0).values[(levels - 1) // m]
    y_quantiles = (y @ directions).sort(0).values[(levels - 1) // n]
    return float((share @ (x_quantiles - y_quantiles).square()).mean().sqrt())


def mmd(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    generator: Generator,
    features: int = 512,
    bandwidth: float | None = None,
) -> float:
    """Squared maximum mean discrepancy of two sets, through random Fourier features of a Gaussian kernel.

    Unbiased over the sets, so it may fall below 0 when they agree. `bandwidth` (data's units) defaults to the
    median distance within the first 500 rows of x: put the real set first, and every model is judged by one
    kernel. It is blunt: at that bandwidth it sees a deterministic mean, but not answers that belong to another
    context; at a fifth of it, both. State the bandwidth beside the number, and the value of two real sets.
    Sources: Gretton et al. 2012; Rahimi and Recht 2007.
    """
    _check_sets(x, y, least=2)
    if bandwidth is None:
        bandwidth = float(torch.pdist(x[:500]).median())
    if not bandwidth > 0 or features < 1:
        raise ValueError(f"got bandwidth {bandwidth:.3g} and {features} features, wanted both above 0")
    frequencies = _randn((x.shape[1], features), generator, x.device).to(x.dtype)

    def mean_feature(z: Tensor) -> Tensor:
        angle = z @ frequencies / bandwidth
        return torch.cat([angle.cos().mean(0), angle.sin().mean(0)]).double() / features**0.5

    def within(mean: Tensor, n: int) -> Tensor:  # every feature vector has norm 1: take out the n equal pairs
        return (mean @ mean * n - 1) / (n - 1)

    a, b = mean_feature(x), mean_feature(y)
    return float(within(a, len(x)) + within(b, len(y)) - 2 * a @ b)


def frechet_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Squared distance of two sets as if they were normal: |mx - my|^2 + tr(Cx + Cy - 2 (Cx Cy)^(1/2)).

    In the features' units, squared; two halves of one set of n rows are about d / n times their variance apart, so
    state that beside it. With features of another network than Inception's it is no FID. Source: Heusel et al. 2017.
    """
    _check_sets(x, y, least=2)
    x, y = x.double(), y.double()
    means, (a, b) = (z.mean(0) for z in (x, y)), (torch.cov(z.T).reshape(x.shape[1], -1) for z in (x, y))
    mx, my = means
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # the trace of (Cx Cy)^(1/2) is that of (Cx^(1/2) Cy Cx^(1/2))^(1/2), which is symmetric
    mixed = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return float((mx - my).square().sum() + a.trace() + b.trace() - 2 * mixed)


def precision_recall(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = 3) -> tuple[float, float]:
    """The share of fakes within the real set's manifold, and of real ones within the fakes' (precision, recall).

    A set's manifold is the union of balls around its points, each reaching to the k-th nearest other point.
    Source: Kynkäänniemi et al. 2019.
    """
    _check_sets(real, fake, least=k + 1)

    def inside(points: Tensor, manifold: Tensor) -> float:
        # distances to a thousand points at a time, for memory; the nearest of a set's points is the point itself
        near = (torch.cdist(lot, manifold).topk(k + 1, largest=False).values for lot in manifold.split(1000))
        radii = torch.cat([distances[:, -1] for distances in near])
        within = [(torch.cdist(lot, manifold) <= radii).any(1) for lot in points.split(1000)]
        return float(torch.cat(within).double().mean())

    return inside(fake, real), inside(real, fake)


# --- against a known posterior: calibration of ranks and of regions -------------------------------------


def sbc_ranks(samples: Float[Tensor, "c L"], truth: Float[Tensor, "c"], generator: Generator) -> Int[Tensor, "c"]:
    """Ranks 0..L of a true functional among its L posterior samples, ties broken at random.

    The functional is a number computed from S, or better from S and its context: log p(S | o), the distance
    to the posterior's mean. Uniform if the samples follow the posterior. Source: Talts et al. 2018.
    """
    _check(samples=samples, truth=truth)
    _match("truth", truth, samples.shape[:1], f"samples {_shape(samples)}")
    below, ties = (samples < truth[:, None]).sum(-1), (samples == truth[:, None]).sum(-1)
    chance = torch.rand(len(truth), generator=generator, device=generator.device, dtype=torch.float64)
    return below + (chance.to(truth.device) * (ties + 1)).long()


def sbc_pvalues(ranks: Int[Tensor, "f c"], L: int) -> Float[Tensor, "f"]:
    """Kolmogorov-Smirnov p-value of each functional's c ranks against the uniform distribution on 0..L.

    Correct them with `holm`. Necessary, never sufficient: the prior passes on functionals of S alone.
    """
    _check(ranks=ranks)
    if ranks.ndim != 2:
        raise ValueError(f"ranks has shape {_shape(ranks)}, wanted (functionals, contexts)")
    if ranks.min() < 0 or ranks.max() > L:
        raise ValueError(f"ranks run from {int(ranks.min())} to {int(ranks.max())}, wanted 0 to L = {L}")
    uniform = ((ranks.double() + 0.5) / (L + 1)).cpu().numpy()
    return torch.tensor([kstest(row, "uniform").pvalue for row in uniform], dtype=torch.float64)


def holm(pvalues: Float[Tensor, "f"]) -> Float[Tensor, "f"]:
    """Holm's step-down correction: adjusted p-values, in the order given. Source: Holm 1979."""
    _check(pvalues=pvalues)
    if pvalues.ndim != 1 or pvalues.min() < 0 or pvalues.max() > 1:
        raise ValueError(f"pvalues of shape {_shape(pvalues)} must be a list of numbers between 0 and 1")
    ordered, order = pvalues.sort()
    factor = torch.arange(len(pvalues), 0, -1, device=pvalues.device)
    adjusted = (factor * ordered).cummax(0).values.clamp(max=1)
    return torch.empty_like(pvalues).index_copy_(0, order, adjusted)


def tarp(
    samples: Float[Tensor, "c L d"], truth: Float[Tensor, "c d"], references: Float[Tensor, "c d"]
) -> Float[Tensor, "c"]:
    """Coverage of each context: the share of its samples nearer to its reference than the truth is.

    Uniform on [0, 1] if the samples follow the posterior. References must depend on the context (a noisy
    function of it), or the prior passes; scale the d coordinates alike. Source: Lemos et al. 2023.
    """
    _check_samples(samples, truth)
    _check(references=references)
    _match("references", references, truth.shape, f"truth {_shape(truth)}")
    distance = (samples - references[:, None]).norm(dim=-1)  # (c, L)
    return (distance < (truth - references).norm(dim=-1)[:, None]).double().mean(-1)


def tarp_max_gap(coverage: Float[Tensor, "c"]) -> float:
    """Largest |expected coverage - level| over all levels: the Kolmogorov-Smirnov statistic of raw coverages.

    At most 1.36 / sqrt(c) for 95% of perfect samplers: .043 at c = 1,000.
    """
    _check(coverage=coverage)
    if coverage.ndim != 1 or coverage.min() < 0 or coverage.max() > 1:
        raise ValueError(f"coverage of shape {_shape(coverage)} must be a list of numbers between 0 and 1")
    return float(kstest(coverage.double().cpu().numpy(), "uniform").statistic)


# --- proper scores and spread, where only held-out truths are known -------------------------------------


def energy_score(samples: Float[Tensor, "c K *obs"], truth: Float[Tensor, "c *obs"]) -> Float[Tensor, "c"]:
    """Energy score of each context: mean |x - truth| - half the mean |x - x'|; lower is better.

    Euclidean norm over all of *obs, in the data's units. The second mean runs over the K (K - 1) pairs of
    different samples, so the score is unbiased at any K >= 2. A deterministic prediction has no such pairs:
    use `point_score`. Memory: at most 4M pairwise distances at a time. Source: Gneiting and Raftery 2007.
    """
    _check_samples(samples, truth)
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


def point_score(prediction: Float[Tensor, "c *obs"], truth: Float[Tensor, "c *obs"]) -> Float[Tensor, "c"]:
    """Energy score of a deterministic prediction, a point mass: its distance to the truth."""
    _check(prediction=prediction, truth=truth)
    _match("truth", truth, prediction.shape, f"prediction {_shape(prediction)}")
    return (prediction - truth).reshape(len(truth), -1).norm(dim=-1)


def energy_gap(model: Float[Tensor, "c"], exact: Float[Tensor, "c"], generator: Generator) -> Interval:
    """How much worse the model scores than the exact posterior, paired over contexts, over the exact score.

    0 is perfect; `.high` is the upper end of the interval of the difference over the score. Also compares two
    samplers. It cannot see a variance wrong by a fifth.
    """
    _check(model=model, exact=exact)
    _match("exact", exact, model.shape, f"model {_shape(model)}")
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
    _check(prediction=prediction, truth=truth)
    _match("truth", truth, prediction.shape, f"prediction {_shape(prediction)}")
    return _pool((prediction - truth).square(), _mask_like(mask, truth))


def mean_mse(
    samples: Float[Tensor, "c K *obs"],
    truth: Float[Tensor, "c *obs"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "c"]:
    """Squared error of the mean of infinitely many samples, estimated from K, for each context.

    It is that of the mean of K less (unbiased sample variance) / K, so it compares with a deterministic
    baseline's `squared_error`, which estimates the same thing. One context's value may be negative; the mean
    over contexts is the pooled estimate.
    """
    _check_samples(samples, truth, least=2)
    error = (samples.mean(1) - truth).square() - samples.var(1) / samples.shape[1]
    return _pool(error, _mask_like(mask, truth))


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
    _check_samples(samples, truth, least=2)
    scored, K = _mask_like(mask, truth), samples.shape[1]
    spread = _pool(samples.var(1), scored) * (K + 1) / K
    error = _pool((samples.mean(1) - truth).square(), scored)
    return bootstrap(lambda s, e: (s.mean() / e.mean()).sqrt(), spread, error, generator=generator)


# --- known discrete factors -------------------------------------------------------------------------------


def label_frequencies(
    labels: Int[Tensor, "c K"], categories: int, smoothing: float = 0.0
) -> Float[Tensor, "c {categories}"]:
    """Frequency of each category among the K labels of a context, `smoothing` counts added to each."""
    _check(labels=labels)
    if labels.ndim != 2 or labels.is_floating_point():
        raise ValueError(f"labels has shape {_shape(labels)}, {labels.dtype}, wanted whole numbers (contexts, K)")
    if labels.min() < 0 or labels.max() >= categories or smoothing < 0:
        raise ValueError(
            f"got labels {int(labels.min())}..{int(labels.max())} and smoothing {smoothing}, wanted labels"
            f" 0..{categories - 1} for {categories} categories and smoothing >= 0"
        )
    counts = torch.nn.functional.one_hot(labels.long(), categories).sum(1).double() + smoothing
    return counts / counts.sum(-1, keepdim=True)


def _check_probabilities(probabilities: Tensor) -> None:
    _check(probabilities=probabilities)
    if probabilities.ndim != 2:
        raise ValueError(f"probabilities has shape {_shape(probabilities)}, wanted (contexts, categories)")
    if probabilities.min() < 0 or (probabilities.sum(-1) - 1).abs().max() > 1e-4:
        raise ValueError("probabilities must be 0 or more and sum to 1 in each context: normalise them first")


def _check_truths(probabilities: Tensor, labels: Tensor) -> None:
    _check_probabilities(probabilities)
    _check(labels=labels)
    _match("labels", labels, probabilities.shape[:1], f"probabilities {_shape(probabilities)}")
    if labels.is_floating_point() or labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(f"labels must be whole numbers from 0 to {probabilities.shape[1] - 1}, one a context")


def factor_tv(labels: Int[Tensor, "c K"], probabilities: Float[Tensor, "c a"], generator: Generator) -> Interval:
    """Total variation between pooled sample frequencies of a factor and its pooled true conditional ones.

    `labels` is the factor as read from each sample, `probabilities` its true distribution given each context.
    Sees a bias towards likely modes; blind to a sampler that gives each scene one mode (`factor_scene_rms`).
    The upper end of perfect samplers of 2 to 4 categories: .019 to .027 on average at 256 scenes x 16 samples
    (.022 for two even ones), .027 to .037 at 128 x 16.
    """
    _check_probabilities(probabilities)
    frequencies = label_frequencies(labels, probabilities.shape[1])
    _match("probabilities", probabilities, frequencies.shape, f"labels {_shape(labels)}")
    excess = frequencies - probabilities
    return bootstrap(lambda e: e.mean(0).abs().sum() / 2, excess, generator=generator)


def factor_scene_rms(labels: Int[Tensor, "c K"], probabilities: Float[Tensor, "c a"], generator: Generator) -> Interval:
    """Root mean square over scenes of the error of a scene's own frequencies, free of the noise of K samples.

    The root of the mean over scenes of half the sum over categories of (p_hat - p)^2 - p_hat (1 - p_hat) /
    (K - 1), whose expectation is half the squared distance of the sampler's own frequencies to p; 0 where the
    mean is negative. The upper end of perfect samplers: .046 to .052 on average at 256 scenes x 16 samples, 95%
    below .07; .054 to .058 at 128 x 16, 95% below .09.
    """
    _check_probabilities(probabilities)
    frequencies, K = label_frequencies(labels, probabilities.shape[1]), labels.shape[1]
    _match("probabilities", probabilities, frequencies.shape, f"labels {_shape(labels)}")
    _at_least(K, 2)
    noise = frequencies * (1 - frequencies) / (K - 1)
    scene = ((frequencies - probabilities).square() - noise).sum(-1) / 2
    return bootstrap(lambda s: s.mean().clamp(min=0).sqrt(), scene, generator=generator)


def confusion_matrix(read: Int[Tensor, "n"], true: Int[Tensor, "n"], categories: int) -> Int[Tensor, "a a"]:
    """Counts of (true category, category read), rows true: how far a factor can be read from a picture."""
    _check(read=read, true=true)
    _match("true", true, read.shape, f"read {_shape(read)}")
    both = torch.stack([read, true])
    if both.min() < 0 or both.max() >= categories:
        raise ValueError(f"labels run from {int(both.min())} to {int(both.max())}, wanted 0 to {categories - 1}")
    return torch.bincount(true * categories + read, minlength=categories**2).view(categories, categories)


def log_loss(probabilities: Float[Tensor, "c a"], labels: Int[Tensor, "c"]) -> Float[Tensor, "c"]:
    """- log probability of each context's true label, in nats."""
    _check_truths(probabilities, labels)
    chosen = probabilities.gather(1, labels.long()[:, None])[:, 0]
    zero = int((chosen == 0).sum())
    if zero:
        raise ValueError(f"{zero} true labels have probability 0, wanted above 0: smooth the frequencies")
    return -chosen.log()


def label_entropy(probabilities: Float[Tensor, "c a"]) -> Float[Tensor, "c"]:
    """Entropy of each context's label distribution, in nats; log(a) when nothing is known."""
    _check_probabilities(probabilities)
    return torch.special.entr(probabilities).sum(-1)


def calibration_error(probabilities: Float[Tensor, "c a"], labels: Int[Tensor, "c"], bins: int = 10) -> float:
    """Binned calibration error of label distributions, on the scale of a total variation: 0 is calibrated.

    Every (context, category) pair falls into one of `bins` equal bins by its probability; half the sum over
    bins of |summed probability - number of hits|, over contexts. Frequencies of K samples look over-confident
    by their own noise, and c contexts add more: compare with the same number under true draws.
    """
    _check_truths(probabilities, labels)
    if bins < 1:
        raise ValueError(f"got bins = {bins}, wanted at least 1")
    hits = torch.nn.functional.one_hot(labels.long(), probabilities.shape[1])
    which = (probabilities * bins).long().clamp(max=bins - 1).flatten()
    gaps = torch.zeros(bins, dtype=torch.float64, device=probabilities.device)
    gaps.index_add_(0, which, (probabilities - hits).double().flatten())
    return float(gaps.abs().sum() / (2 * len(labels)))


# --- pictures -----------------------------------------------------------------------------------------------


def psnr(
    prediction: Float[Tensor, "c *obs"],
    truth: Float[Tensor, "c *obs"],
    peak: float,
    mask: Bool[Tensor, "..."] | None = None,
) -> float:
    """Peak signal-to-noise ratio in dB of the squared error pooled over all scored elements and contexts.

    `peak` is the range of the data: 1 for [0, 1], 2 for [-1, 1]. A perfect posterior sample lies 3 dB BELOW
    the perfect mean. For an interval, bootstrap 10 log10(peak^2 / mean) over `squared_error`.
    """
    if peak <= 0:
        raise ValueError(f"got peak = {peak}, wanted the data's range, above 0")
    error = float(squared_error(prediction, truth, mask).mean())
    return 10 * math.log10(peak**2 / error) if error > 0 else math.inf


def best_of(samples: Float[Tensor, "c K *obs"], truth: Float[Tensor, "c *obs"]) -> Float[Tensor, "c *obs"]:
    """The sample of each context with the smallest squared error: always say which K it is the best of."""
    _check_samples(samples, truth)
    error = (samples - truth[:, None]).reshape(*samples.shape[:2], -1).square().sum(-1)
    return samples[torch.arange(len(samples), device=samples.device), error.argmin(1)]


def ssim(
    prediction: Float[Tensor, "c channels h w"], truth: Float[Tensor, "c channels h w"], peak: float
) -> Float[Tensor, "c"]:
    """Structural similarity of each picture, Gaussian window of sigma 1.5 (11 x 11), mean over channels.

    `peak` is the range of the data. Pictures smaller than 11 x 11 are refused. Source: Wang et al. 2004.
    """
    _check(prediction=prediction, truth=truth)
    _match("truth", truth, prediction.shape, f"prediction {_shape(prediction)}")
    if prediction.ndim != 4 or min(prediction.shape[-2:]) < 11:
        raise ValueError(f"prediction has shape {_shape(prediction)}, wanted (c, channels, h >= 11, w >= 11)")
    if peak <= 0:
        raise ValueError(f"got peak = {peak}, wanted the data's range, above 0")
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(prediction.double().cpu().numpy(), truth.double().cpu().numpy(), strict=True)
    values = [structural_similarity(p, t, data_range=peak, channel_axis=0, **window) for p, t in pairs]
    return torch.tensor(values)


def total_variation(images: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch"]:
    """Mean absolute difference between neighbouring pixels, down and across; h = 1 is a one-row picture.

    Sharpness is total_variation(samples).mean() over that of real observations: 1 is right, below is blurred.
    """
    _check(images=images)
    if images.ndim < 2 or images.shape[-2] * images.shape[-1] < 2:
        raise ValueError(f"images has shape {_shape(images)}, wanted (..., h, w) with two pixels or more")
    down, across = images.diff(dim=-2).abs(), images.diff(dim=-1).abs()
    pairs = down.shape[-2] * down.shape[-1] + across.shape[-2] * across.shape[-1]
    return (down.sum((-2, -1)) + across.sum((-2, -1))) / pairs


def variance_inside_outside(samples: Float[Tensor, "c K *obs"], mask: Bool[Tensor, "..."]) -> tuple[float, float]:
    """Pooled sample variance (unbiased) where `mask` is True, say what the context sees, and where it is not.

    `mask` broadcasts to (c, *obs).
    """
    _check_samples(samples, least=2)
    variance = samples.var(1)
    inside, outside = _mask_like(mask, variance), _mask_like(~mask, variance)
    return float(variance[inside].mean()), float(variance[outside].mean())


# --- pictures, by networks that others trained ----------------------------------------------------------


class Unavailable(RuntimeError):
    """A measure that needs a package or weights which are not here and cannot be had."""


def _torchmetric(module: str, name: str, **options):
    """A measure of torchmetrics, which fetches its network's weights where it does not have them."""
    try:
        return getattr(importlib.import_module(f"torchmetrics.image.{module}"), name)(**options)
    except (ImportError, OSError, RuntimeError) as error:  # what is missing is a package, or the weights
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Unavailable(
            f"{name} cannot be had ({reason}): pip install 'torchmetrics[image]', and let it fetch its weights once"
        ) from None


def lpips(prediction: Float[Tensor, "c 3 h w"], truth: Float[Tensor, "c 3 h w"]) -> float:
    """Learned perceptual distance of pictures in [-1, 1], by AlexNet, mean over them; 0 is the same. Zhang et al. 2018.

    Unavailable without torchmetrics, torchvision and weights.
    """
    _check(prediction=prediction, truth=truth)
    _match("truth", truth, prediction.shape, f"prediction {_shape(prediction)}")
    measure = _torchmetric("lpip", "LearnedPerceptualImagePatchSimilarity", net_type="alex").to(truth.device)
    with torch.no_grad():
        return float(measure(prediction.float().clamp(-1, 1), truth.float()))


def fid_kid(fake: Float[Tensor, "n 3 h w"], real: Float[Tensor, "m 3 h w"]) -> tuple[float, float]:
    """Fréchet and kernel distance of Inception's features of two sets of pictures in [-1, 1]: FID and KID.

    FID falls as sets grow: compare it at one size only. Heusel et al. 2017; Bińkowski et al. 2018. Unavailable without
    torchmetrics, torch-fidelity and weights.
    """
    _check(fake=fake, real=real)
    if min(len(fake), len(real)) < 3:
        raise ValueError(f"got {len(fake)} and {len(real)} pictures, wanted at least 3 in each set")
    subset = min(1000, len(fake) - 1, len(real) - 1)
    fid = _torchmetric("fid", "FrechetInceptionDistance", normalize=True).to(real.device)
    kid = _torchmetric("kid", "KernelInceptionDistance", normalize=True, subset_size=subset).to(real.device)
    for pictures, are_real in ((real, True), (fake, False)):
        for lot in pictures.float().clamp(-1, 1).add(1).div(2).split(64):
            fid.update(lot, real=are_real)
            kid.update(lot, real=are_real)
    return float(fid.compute()), float(kid.compute()[0])
