"""Tests of samples against a known posterior: two-sample tests, distances, and simulation-based calibration."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import softplus

from fwdiff_lite.checks import (
    check_count,
    check_distance_types,
    check_float,
    check_generator,
    check_integers,
    check_shape,
    format_shape,
)
from fwdiff_lite.metrics.checks import check_sample_shapes, check_sets, randn

RANKS_PER_SQRT_CONTEXTS = 4  # the fewest ranks, L + 1, over sqrt(c), that a test takes as continuous


class C2ST(NamedTuple):
    """Held-out accuracy of a classifier of real against fake samples, and that of each fold; 0.5 for equal sets."""

    accuracy: float
    folds: Float[Tensor, "folds"]


@torch.enable_grad()
def _heldout_accuracy(real: Tensor, fake: Tensor, generator: Generator, folds: int, steps: int) -> Tensor:
    """(n, d), (n, d) -> (folds,): one network a fold, all trained at once by batched matrix products."""
    width, batch_size, peak_lr = 64, 250, 1e-2
    (n, d), num_test, device = real.shape, len(real) // folds, real.device

    x = torch.stack([real, fake], 1).detach().double()  # (n, 2, d): row i of both sets is in the same fold
    order = torch.randperm(n, generator=generator, device=generator.device).to(device)
    test = order[: num_test * folds].view(folds, num_test)
    train = torch.stack([torch.cat([order[: j * num_test], order[(j + 1) * num_test :]]) for j in range(folds)])
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

    # the normalised rows of each fold, (folds, real or fake, n, d)
    inputs = torch.stack([((x - m) / s).float().transpose(0, 1) for m, s in zip(mean, std, strict=True)])
    fold, label = torch.arange(folds, device=device)[:, None, None], torch.arange(2, device=device)[:, None]

    def fake_logits(rows: Tensor) -> Tensor:  # (folds, rows) -> (folds, real or fake, rows)
        z = inputs[fold, label, rows[:, None]].flatten(1, 2)  # (folds, 2 * rows, d)
        a, b = torch.baddbmm(b1, z, w1).chunk(2, -1)
        h = torch.relu(torch.baddbmm(b2, a * b, w2))
        return torch.baddbmm(b3, h, w3).view(folds, 2, -1)

    optimiser = torch.optim.AdamW(weights, lr=peak_lr, weight_decay=0.1, betas=(0.9, 0.99), foreach=True)
    wrong_sign = torch.tensor([[1.0], [-1.0]], device=device)  # the sign of a wrong logit: real, fake
    epochs = range(-(-steps * batch_size // (n - num_test)))
    row_order = torch.cat([torch.randperm(n - num_test, generator=generator, device=generator.device) for _ in epochs])
    for step, rows in enumerate(row_order[: steps * batch_size].view(steps, batch_size).to(device)):
        warmup = min(1.0, (step + 1) / (0.05 * steps))
        optimiser.param_groups[0]["lr"] = peak_lr * warmup * (1 + math.cos(math.pi * step / steps)) / 2
        loss = softplus(wrong_sign * fake_logits(train[:, rows])).sum() / (2 * batch_size)  # sum: folds are independent
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        logits = fake_logits(test)
    return ((logits[:, 0] < 0).double() + (logits[:, 1] >= 0).double()).mean(-1) / 2


def c2st(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"], generator: Generator, folds: int = 5, steps: int = 640
) -> C2ST:
    """Classifier two-sample test (C2ST): cross-validated accuracy of a small network on real against fake rows.

    Give an angle as sine and cosine. Row i of both sets is in the same fold, so the two rows may, and should, share
    their context: then chance differences between two sets of contexts are no noise for the classifier. For the four
    components of 01_toy_proof (d = 4, n = 10,000), shared contexts raise the accuracy for a variance x 0.8 from .531 to
    .538, and lower the standard deviation of the accuracy for exact samples from .005 to .0035. The remaining n % folds
    rows are in no test fold, only in the training sets.
    The network has 64 products of two linear maps (they detect a wrong second moment, that is, a wrong variance) and 64
    ReLUs. AdamW trains it with a learning rate that falls as a cosine to zero, for `steps` steps of 250 real and 250
    fake rows: 2 to 3 s on one CPU thread with d = 4, for every n. Alternatives: more, larger or averaged networks gain
    nothing for a wrong variance; plain ReLU layers lose up to .005 for it and .02 for the deterministic mean; half the
    width loses .003; three times the steps gain .03 for the mean only. Source: Lopez-Paz and Oquab 2017.
    """
    check_float(real=real, fake=fake)
    check_count(folds=folds, steps=steps)
    check_generator(generator)
    if real.ndim != 2:
        raise ValueError(f"real has shape {format_shape(real)}, wanted (n, d): one row for each sample")
    check_shape("fake", fake, real.shape, real=real)
    if not 2 <= folds <= len(real) // 2:
        raise ValueError(f"got {len(real)} rows and {folds} folds, wanted 2 folds or more with 2 rows each")
    accuracies = _heldout_accuracy(real, fake, generator, folds, steps).cpu()
    return C2ST(float(accuracies.mean()), accuracies)


def wasserstein1(x: Float[Tensor, "*batch n"], y: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Exact Wasserstein-1 distance of two sets of n numbers, in their unit: the mean difference of the sorted numbers.

    Two sets of exact samples have a distance above 0. So report the ratio wasserstein1(model, exact) /
    wasserstein1(other exact set, exact), averaged over contexts: 1 is perfect.
    """
    check_float(x=x, y=y)
    check_shape("y", y, x.shape, x=x)
    return (x.sort(-1).values - y.sort(-1).values).abs().mean(-1)


def sliced_w2(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], generator: Generator, projections: int = 256) -> float:
    """Sliced Wasserstein-2 distance: root mean square of the exact 1-D W2 over random unit directions.

    It has the data's unit. If one set is the other one shifted by s, it is s / sqrt(d). n and m may differ: each 1-D
    distance integrates the squared difference of the two quantile functions. Source: Rabin et al. 2011.
    """
    check_sets(x, y)
    check_distance_types(x=x, y=y)
    check_count(projections=projections)
    check_generator(generator)
    n, m = len(x), len(y)
    directions = randn((x.shape[1], projections), generator, x.device).to(x.dtype)
    directions = directions / directions.norm(dim=0)
    # both quantile functions are constant between the levels i/n and j/m; in units of 1/(n m), levels are integers
    levels = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique().to(x.device)
    weights = torch.diff(levels, prepend=levels.new_zeros(1)).to(x) / (n * m)
    x_quantiles = (x @ directions).sort(0).values[(levels - 1) // m]
    y_quantiles = (y @ directions).sort(0).values[(levels - 1) // n]
    return float((weights @ (x_quantiles - y_quantiles).square()).mean().sqrt())


def _uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform numbers between 0 and 1 in float64, on the CPU."""
    check_generator(generator)
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).cpu()


def sbc_ranks(samples: Float[Tensor, "c L"], truth: Float[Tensor, "c"], generator: Generator) -> Int[Tensor, "c"]:
    """Simulation-based calibration: the rank 0..L of the truth's functional among those of L posterior samples.

    A functional is a number computed from the signal S, or better from S and its context, for example log p(S | o) or
    the distance to the posterior mean. Ties are broken at random. The ranks are uniform if the samples follow the
    posterior. Source: Talts et al. 2018.
    """
    check_float(samples=samples, truth=truth)
    if samples.ndim != 2:
        raise ValueError(f"samples has shape {format_shape(samples)}, wanted (contexts, L): numbers, not signals")
    check_shape("truth", truth, samples.shape[:1], samples=samples)
    below, ties = (samples < truth[:, None]).sum(-1), (samples == truth[:, None]).sum(-1)
    return below + (_uniform(truth.shape, generator).to(truth.device) * (ties + 1)).long()


def _check_resolution(L: int, c: int) -> None:
    """ValueError if steps of 1 / (L + 1) are too coarse for a test of c contexts that takes ranks as continuous."""
    if L + 1 < RANKS_PER_SQRT_CONTEXTS * math.sqrt(c):
        raise ValueError(
            f"got L = {L} samples for each of {c} contexts, wanted at least {RANKS_PER_SQRT_CONTEXTS} sqrt(contexts): "
            "with fewer, perfect samplers are rejected; pass a generator, which makes the test exact for every L"
        )


def sbc_pvalues(ranks: Int[Tensor, "f c"], L: int, generator: Generator | None = None) -> Float[Tensor, "f"]:
    """Kolmogorov-Smirnov p-value of each functional's c ranks against the uniform distribution on 0..L.

    Correct the p-values with `holm`. Uniform ranks are necessary, not sufficient: with functionals of S alone, samples
    of the prior have uniform ranks too.

    generator: spreads each rank uniformly over its step of 1 / (L + 1), so that the p-values are exact for every L and
        c. None: a rank counts as the middle of its step. A test at 5% then rejects 5 to 8% of perfect samplers if
        L + 1 is at least 4 sqrt(c), the smallest L that is allowed, and up to 7% if it is at least 6 sqrt(c)
    ValueError if a rank is not in 0..L, or if L is too small for c contexts and no generator is given.
    """
    check_integers(ranks=ranks)
    check_count(L=L)
    if ranks.ndim != 2:
        raise ValueError(f"ranks has shape {format_shape(ranks)}, wanted (functionals, contexts)")
    if ranks.min() < 0 or ranks.max() > L:
        raise ValueError(f"ranks run from {int(ranks.min())} to {int(ranks.max())}, wanted 0 to L = {L}")
    if generator is None:
        _check_resolution(L, ranks.shape[1])
        place = 0.5
    else:
        place = _uniform(ranks.shape, generator)
    normalised = ((ranks.double().cpu() + place) / (L + 1)).numpy()
    from scipy.stats import kstest  # its import takes half a second, which training and sampling do not need

    return torch.tensor([kstest(row, "uniform").pvalue for row in normalised], dtype=torch.float64)


def holm(pvalues: Float[Tensor, "f"]) -> Float[Tensor, "f"]:
    """Holm's step-down correction for multiple tests: adjusted p-values, in the given order. Source: Holm 1979."""
    check_float(pvalues=pvalues)
    if pvalues.ndim != 1 or pvalues.min() < 0 or pvalues.max() > 1:
        raise ValueError(f"pvalues of shape {format_shape(pvalues)} must be a list of numbers between 0 and 1")
    ordered, order = pvalues.sort()
    factor = torch.arange(len(pvalues), 0, -1, device=pvalues.device)
    adjusted = (factor * ordered).cummax(0).values.clamp(max=1)
    return torch.empty_like(pvalues).index_copy_(0, order, adjusted)


def tarp(
    samples: Float[Tensor, "c L d"],
    truth: Float[Tensor, "c d"],
    references: Float[Tensor, "c d"],
    generator: Generator | None = None,
) -> Float[Tensor, "c"]:
    """TARP coverage of each context: the fraction of samples that are closer to its reference point than the truth.

    The coverages are uniform on [0, 1] if the samples follow the posterior. The references must depend on the context,
    as a noisy function of it; otherwise samples of the prior have uniform coverages too. The d coordinates should have
    similar scales. Source: Lemos et al. 2023.

    generator: breaks ties at random and spreads each coverage uniformly over its step of 1 / (L + 1), so that the
        coverages are exactly uniform for every L. None: the plain fraction
    ValueError without a generator if in more than 1% of contexts a sample is exactly as far from the reference as the
    truth, as happens with discrete signals, or if L + 1 is below 4 sqrt(c).
    """
    check_sample_shapes(samples, truth)
    check_float(references=references)
    check_shape("references", references, truth.shape, truth=truth)
    distance = (samples - references[:, None]).norm(dim=-1)  # (c, L)
    true_distance = (truth - references).norm(dim=-1)[:, None]
    closer, (c, L) = distance < true_distance, distance.shape
    ties = (distance == true_distance).sum(-1)
    if generator is not None:
        return (closer.sum(-1) + _uniform((c,), generator).to(truth.device) * (ties + 1)) / (L + 1)
    _check_resolution(L, c)
    num_ties = int((ties > 0).sum())
    if num_ties > c / 100:
        raise ValueError(f"{num_ties} contexts have samples exactly as far as the truth: pass a generator for the ties")
    return closer.double().mean(-1)


def tarp_max_gap(coverage: Float[Tensor, "c"]) -> float:
    """Largest |expected coverage - level| over all levels: the Kolmogorov-Smirnov statistic of the coverages.

    It is at most 1.36 / sqrt(c) for 95% of perfect samplers, .043 for c = 1,000, if `tarp` got a generator. Without
    one it is so for 92 to 95%, since coverages are multiples of 1 / L.
    """
    check_float(coverage=coverage)
    if coverage.ndim != 1 or coverage.min() < 0 or coverage.max() > 1:
        raise ValueError(f"coverage of shape {format_shape(coverage)} must be a list of numbers between 0 and 1")
    from scipy.stats import kstest

    return float(kstest(coverage.double().cpu().numpy(), "uniform").statistic)
