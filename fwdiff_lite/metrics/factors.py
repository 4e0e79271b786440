"""Metrics of a discrete factor with known conditional probabilities, such as a class label or an attribute."""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from fwdiff_lite.checks import check_count, check_float, check_integers, check_shape, format_shape
from fwdiff_lite.metrics.bootstrap import Interval, bootstrap
from fwdiff_lite.metrics.checks import check_num_samples


def label_frequencies(
    labels: Int[Tensor, "c K"], categories: int, smoothing: float = 0.0
) -> Float[Tensor, "c {categories}"]:
    """The frequency of each category among the K labels of a context; `smoothing` is added to each count."""
    check_integers(labels=labels)
    check_count(categories=categories)
    if labels.ndim != 2:
        raise ValueError(f"labels has shape {format_shape(labels)}, wanted (contexts, K)")
    if labels.min() < 0 or labels.max() >= categories or not 0 <= smoothing < math.inf:
        raise ValueError(
            f"got labels {int(labels.min())}..{int(labels.max())} and smoothing {smoothing}, wanted labels"
            f" 0..{categories - 1} for {categories} categories and smoothing >= 0"
        )
    counts = torch.nn.functional.one_hot(labels.long(), categories).sum(1).double() + smoothing
    return counts / counts.sum(-1, keepdim=True)


def _check_probabilities(probabilities: Tensor) -> None:
    """ValueError unless `probabilities` (c, a) are distributions."""
    check_float(probabilities=probabilities)
    if probabilities.ndim != 2:
        raise ValueError(f"probabilities has shape {format_shape(probabilities)}, wanted (contexts, categories)")
    if probabilities.min() < 0 or (probabilities.sum(-1) - 1).abs().max() > 1e-4:
        raise ValueError("probabilities must be 0 or more and sum to 1 in each context: normalise them first")


def _check_probabilities_and_labels(probabilities: Tensor, labels: Tensor) -> None:
    """ValueError unless `probabilities` (c, a) are distributions and `labels` (c,) are categories."""
    _check_probabilities(probabilities)
    check_integers(labels=labels)
    check_shape("labels", labels, probabilities.shape[:1], probabilities=probabilities)
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(f"labels must be integers from 0 to {probabilities.shape[1] - 1}, one for each context")


def factor_tv(labels: Int[Tensor, "c K"], probabilities: Float[Tensor, "c a"], generator: Generator) -> Interval:
    """Total variation distance between the frequencies of a factor's categories in all samples and the true ones.

    labels: the factor's category in each sample; probabilities: its true distribution given each context. Both are
        averaged over contexts before they are compared.
    The metric detects a bias towards likely modes. It does not detect a sampler with one mode for each context; use
    `per_context_calibration_rms` for that. The upper end of the interval of perfect samplers with 2 to 4 categories is
    .019 to .027 on average with 256 contexts x 16 samples (.022 for two equally likely categories), and .027 to .037
    with 128 x 16.
    """
    _check_probabilities(probabilities)
    frequencies = label_frequencies(labels, probabilities.shape[1])
    check_shape("probabilities", probabilities, frequencies.shape, labels=labels)
    errors = frequencies - probabilities
    return bootstrap(lambda e: e.mean(0).abs().sum() / 2, errors, generator=generator)


def per_context_calibration_rms(
    labels: Int[Tensor, "c K"], probabilities: Float[Tensor, "c a"], generator: Generator
) -> Interval:
    """Root mean square over contexts of the error of each context's frequencies, without the noise of K samples.

    It is the root of the mean over contexts of half the sum over categories of (p_hat - p)^2 - p_hat (1 - p_hat) /
    (K - 1). The expectation of that term is half the squared distance between the sampler's probabilities and p. The
    result is 0 if the mean is negative. The upper end of the interval of perfect samplers is .046 to .052 on average
    with 256 contexts x 16 samples, and below .07 for 95%; it is .054 to .058 with 128 x 16, and below .09 for 95%.
    """
    _check_probabilities(probabilities)
    frequencies, K = label_frequencies(labels, probabilities.shape[1]), labels.shape[1]
    check_shape("probabilities", probabilities, frequencies.shape, labels=labels)
    check_num_samples(K, 2)
    variance = frequencies * (1 - frequencies) / (K - 1)
    squared_errors = ((frequencies - probabilities).square() - variance).sum(-1) / 2
    return bootstrap(lambda e: e.mean().clamp(min=0).sqrt(), squared_errors, generator=generator)


def agreement_excess(labels: Int[Tensor, "c K"], probabilities: Float[Tensor, "c a"], generator: Generator) -> Interval:
    """The share of contexts whose K labels all agree, less that of perfect samplers: the mean of sum_k p_k^K.

    The expectation is 0 for a perfect sampler, and above 0 for a sampler that prefers one category in each context,
    even where the frequencies over all contexts are right.
    """
    _check_probabilities(probabilities)
    frequencies, K = label_frequencies(labels, probabilities.shape[1]), labels.shape[1]
    check_shape("probabilities", probabilities, frequencies.shape, labels=labels)
    check_num_samples(K, 2)
    excess = (frequencies == 1).any(-1).to(frequencies) - probabilities.to(frequencies).pow(K).sum(-1)
    return bootstrap(torch.mean, excess, generator=generator)


def log_loss(probabilities: Float[Tensor, "c a"], labels: Int[Tensor, "c"]) -> Float[Tensor, "c"]:
    """The negative log probability of each context's true label, in nats."""
    _check_probabilities_and_labels(probabilities, labels)
    label_probabilities = probabilities.gather(1, labels.long()[:, None])[:, 0]
    num_zero = int((label_probabilities == 0).sum())
    if num_zero:
        raise ValueError(f"{num_zero} true labels have probability 0, wanted above 0: smooth the frequencies")
    return -label_probabilities.log()


def label_entropy(probabilities: Float[Tensor, "c a"]) -> Float[Tensor, "c"]:
    """The entropy of each context's label distribution, in nats; log(a) for a uniform distribution."""
    _check_probabilities(probabilities)
    return torch.special.entr(probabilities).sum(-1)


def calibration_error(probabilities: Float[Tensor, "c a"], labels: Int[Tensor, "c"], bins: int = 10) -> float:
    """Binned calibration error of label distributions, on the scale of a total variation distance; 0 is calibrated.

    Every pair (context, category) falls into one of `bins` equal bins by its probability. The error is half the sum
    over bins of |sum of probabilities - number of true labels|, divided by the number of contexts. The noise of K
    samples makes their frequencies look over-confident, and c contexts add more noise: compare with the same error of
    labels drawn from the probabilities.
    """
    _check_probabilities_and_labels(probabilities, labels)
    check_count(bins=bins)
    one_hot_labels = torch.nn.functional.one_hot(labels.long(), probabilities.shape[1])
    bin_index = (probabilities * bins).long().clamp(max=bins - 1).flatten()
    bin_errors = torch.zeros(bins, dtype=torch.float64, device=probabilities.device)
    bin_errors.index_add_(0, bin_index, (probabilities - one_hot_labels).double().flatten())
    return float(bin_errors.abs().sum() / (2 * len(labels)))
