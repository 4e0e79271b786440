"""Samples against a known posterior: two-sample tests and calibration."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.stats import kstest
from torch import Generator, Tensor
from torch.nn.functional import softplus

from fwdiff_lite.metrics.checks import check_finite, check_samples, check_sets, match, randn, shape


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

    w1 = randn((folds, d, 2 * width), generator, device) * 1.4 / d**0.5
    b1 = randn((folds, 1, 2 * width), generator, device) / 2
    w2 = randn((folds, width, width), generator, device) * 1.4 / width**0.5
    b2 = torch.zeros(folds, 1, width, device=device)
    w3 = randn((folds, width, 1), generator, device) / width**0.5
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
    check_finite(real=real, fake=fake)
    if real.ndim != 2:
        raise ValueError(f"real has shape {shape(real)}, wanted (n, d): one row a draw")
    match("fake", fake, real.shape, f"real {shape(real)}")
    if not 2 <= folds <= len(real) // 2:
        raise ValueError(f"got {len(real)} rows and {folds} folds, wanted 2 folds or more with 2 rows each")
    accuracies = _heldout_accuracy(real, fake, generator, folds).cpu()
    return C2ST(float(accuracies.mean()), accuracies)


def wasserstein1(x: Float[Tensor, "*batch n"], y: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Exact Wasserstein-1 distance of two sets of n numbers, in their units: sort both and compare.

    The floor is the distance of two exact sets, so report wasserstein1(model, exact) / wasserstein1(other
    exact set, exact), averaged over contexts: 1 is perfect.
    """
    check_finite(x=x, y=y)
    match("y", y, x.shape, f"x {shape(x)}")
    return (x.sort(-1).values - y.sort(-1).values).abs().mean(-1)


def sliced_w2(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], generator: Generator, projections: int = 256) -> float:
    """Sliced Wasserstein-2 distance: root mean square of the exact 1-D W2 over random unit directions.

    In the data's units; for two sets a shift s apart it is s / sqrt(d). n and m may differ: each 1-D distance
    integrates the squared difference of the two quantile functions. Source: Rabin et al. 2011.
    """
    check_sets(x, y)
    if projections < 1:
        raise ValueError(f"got projections = {projections}, wanted at least 1")
    n, m = len(x), len(y)
    directions = randn((x.shape[1], projections), generator, x.device).to(x.dtype)
    directions = directions / directions.norm(dim=0)
    # both quantile functions are constant between the levels i/n and j/m; in units of 1/(n m) these are whole
    levels = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique().to(x.device)
    share = torch.diff(levels, prepend=levels.new_zeros(1)).to(x) / (n * m)
    x_quantiles = (x @ directions).sort(0).values[(levels - 1) // m]
    y_quantiles = (y @ directions).sort(0).values[(levels - 1) // n]
    return float((share @ (x_quantiles - y_quantiles).square()).mean().sqrt())


def sbc_ranks(samples: Float[Tensor, "c L"], truth: Float[Tensor, "c"], generator: Generator) -> Int[Tensor, "c"]:
    """Ranks 0..L of a true functional among its L posterior samples, ties broken at random.

    The functional is a number computed from S, or better from S and its context: log p(S | o), the distance
    to the posterior's mean. Uniform if the samples follow the posterior. Source: Talts et al. 2018.
    """
    check_finite(samples=samples, truth=truth)
    match("truth", truth, samples.shape[:1], f"samples {shape(samples)}")
    below, ties = (samples < truth[:, None]).sum(-1), (samples == truth[:, None]).sum(-1)
    chance = torch.rand(len(truth), generator=generator, device=generator.device, dtype=torch.float64)
    return below + (chance.to(truth.device) * (ties + 1)).long()


def sbc_pvalues(ranks: Int[Tensor, "f c"], L: int) -> Float[Tensor, "f"]:
    """Kolmogorov-Smirnov p-value of each functional's c ranks against the uniform distribution on 0..L.

    Correct them with `holm`. Necessary, never sufficient: the prior passes on functionals of S alone.
    """
    check_finite(ranks=ranks)
    if ranks.ndim != 2:
        raise ValueError(f"ranks has shape {shape(ranks)}, wanted (functionals, contexts)")
    if ranks.min() < 0 or ranks.max() > L:
        raise ValueError(f"ranks run from {int(ranks.min())} to {int(ranks.max())}, wanted 0 to L = {L}")
    uniform = ((ranks.double() + 0.5) / (L + 1)).cpu().numpy()
    return torch.tensor([kstest(row, "uniform").pvalue for row in uniform], dtype=torch.float64)


def holm(pvalues: Float[Tensor, "f"]) -> Float[Tensor, "f"]:
    """Holm's step-down correction: adjusted p-values, in the order given. Source: Holm 1979."""
    check_finite(pvalues=pvalues)
    if pvalues.ndim != 1 or pvalues.min() < 0 or pvalues.max() > 1:
        raise ValueError(f"pvalues of shape {shape(pvalues)} must be a list of numbers between 0 and 1")
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
    check_samples(samples, truth)
    check_finite(references=references)
    match("references", references, truth.shape, f"truth {shape(truth)}")
    distance = (samples - references[:, None]).norm(dim=-1)  # (c, L)
    return (distance < (truth - references).norm(dim=-1)[:, None]).double().mean(-1)


def tarp_max_gap(coverage: Float[Tensor, "c"]) -> float:
    """Largest |expected coverage - level| over all levels: the Kolmogorov-Smirnov statistic of raw coverages.

    At most 1.36 / sqrt(c) for 95% of perfect samplers: .043 at c = 1,000.
    """
    check_finite(coverage=coverage)
    if coverage.ndim != 1 or coverage.min() < 0 or coverage.max() > 1:
        raise ValueError(f"coverage of shape {shape(coverage)} must be a list of numbers between 0 and 1")
    return float(kstest(coverage.double().cpu().numpy(), "uniform").statistic)
