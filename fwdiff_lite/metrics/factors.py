"""Known discrete factors: sampled frequencies against true probabilities."""


import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from fwdiff_lite.metrics.bootstrap import Interval, bootstrap
from fwdiff_lite.metrics.checks import at_least, check_finite, match, shape


def label_frequencies(
    labels: Int[Tensor, "c K"], categories: int, smoothing: float = 0.0
) -> Float[Tensor, "c {categories}"]:
    """Frequency of each category among the K labels of a context, `smoothing` counts added to each."""
    check_finite(labels=labels)
    if labels.ndim != 2 or labels.is_floating_point():
        raise ValueError(f"labels has shape {shape(labels)}, {labels.dtype}, wanted whole numbers (contexts, K)")
    if labels.min() < 0 or labels.max() >= categories or smoothing < 0:
        raise ValueError(
            f"got labels {int(labels.min())}..{int(labels.max())} and smoothing {smoothing}, wanted labels"
            f" 0..{categories - 1} for {categories} categories and smoothing >= 0"
        )
    counts = torch.nn.functional.one_hot(labels.long(), categories).sum(1).double() + smoothing
    return counts / counts.sum(-1, keepdim=True)


def _check_probabilities(probabilities: Tensor) -> None:
    check_finite(probabilities=probabilities)
    if probabilities.ndim != 2:
        raise ValueError(f"probabilities has shape {shape(probabilities)}, wanted (contexts, categories)")
    if probabilities.min() < 0 or (probabilities.sum(-1) - 1).abs().max() > 1e-4:
        raise ValueError("probabilities must be 0 or more and sum to 1 in each context: normalise them first")


def _check_truths(probabilities: Tensor, labels: Tensor) -> None:
    _check_probabilities(probabilities)
    check_finite(labels=labels)
    match("labels", labels, probabilities.shape[:1], f"probabilities {shape(probabilities)}")
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
    match("probabilities", probabilities, frequencies.shape, f"labels {shape(labels)}")
    excess = frequencies - probabilities
    return bootstrap(lambda e: e.mean(0).abs().sum() / 2, excess, generator=generator)


def per_context_calibration_rms(labels: Int[Tensor, "c K"], probabilities: Float[Tensor, "c a"], generator: Generator) -> Interval:
    """Root mean square over scenes of the error of a scene's own frequencies, free of the noise of K samples.

    The root of the mean over scenes of half the sum over categories of (p_hat - p)^2 - p_hat (1 - p_hat) /
    (K - 1), whose expectation is half the squared distance of the sampler's own frequencies to p; 0 where the
    mean is negative. The upper end of perfect samplers: .046 to .052 on average at 256 scenes x 16 samples, 95%
    below .07; .054 to .058 at 128 x 16, 95% below .09.
    """
    _check_probabilities(probabilities)
    frequencies, K = label_frequencies(labels, probabilities.shape[1]), labels.shape[1]
    match("probabilities", probabilities, frequencies.shape, f"labels {shape(labels)}")
    at_least(K, 2)
    noise = frequencies * (1 - frequencies) / (K - 1)
    scene = ((frequencies - probabilities).square() - noise).sum(-1) / 2
    return bootstrap(lambda s: s.mean().clamp(min=0).sqrt(), scene, generator=generator)


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
