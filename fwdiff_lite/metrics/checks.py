"""Helpers of all metrics: checks of samples, sets and masks, and the pooling of masked elements."""

import torch
from torch import Generator, Tensor

from fwdiff_lite.checks import check_float, check_shape, format_shape


def check_sample_shapes(samples: Tensor, truth: Tensor | None = None, min_samples: int = 1) -> None:
    """ValueError unless `samples` (c, K, *obs) has K >= min_samples and fits `truth` (c, *obs)."""
    check_float(samples=samples)
    if samples.ndim < 2:
        raise ValueError(f"samples has shape {format_shape(samples)}, wanted (contexts, K, ...)")
    if truth is not None:
        check_float(truth=truth)
        check_shape("truth", truth, (len(samples), *samples.shape[2:]), samples=samples)
    check_num_samples(samples.shape[1], min_samples)


def check_num_samples(K: int, min_samples: int) -> None:
    """ValueError if there are fewer than `min_samples` samples for each context."""
    if K < min_samples:
        raise ValueError(
            f"got K = {K} sample for each context, wanted at least {min_samples}: one sample has no variance"
        )


def check_sets(x: Tensor, y: Tensor, min_rows: int = 1) -> None:
    """ValueError unless two sets (n, d) and (m, d) have vectors of the same size, and at least `min_rows` each."""
    check_float(x=x, y=y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"got x {format_shape(x)} and y {format_shape(y)}, wanted (n, d) and (m, d) with the same d")
    if min(len(x), len(y)) < min_rows:
        raise ValueError(f"got {len(x)} and {len(y)} rows, wanted at least {min_rows} in each set")


def check_scores(**scores: Tensor) -> None:
    """ValueError unless all scores are (c,), one finite number for each of the same contexts."""
    check_float(**scores)
    first, *others = scores
    if scores[first].ndim != 1:
        raise ValueError(f"{first} has shape {format_shape(scores[first])}, wanted (contexts,): one score for each")
    for name in others:
        check_shape(name, scores[name], scores[first].shape, **{first: scores[first]})


def broadcast_mask(mask: Tensor | None, truth: Tensor) -> Tensor:
    """`mask` broadcast to the shape of `truth` (True: the element is scored); all True if it is None.

    ValueError if the mask is not of bool, does not broadcast, or selects no element.
    """
    if mask is None:
        return torch.ones_like(truth, dtype=torch.bool)
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has the type {mask.dtype}, wanted torch.bool: compare it with a number, as in mask > 0")
    try:
        mask = mask.broadcast_to(truth.shape)
    except RuntimeError:
        raise ValueError(
            f"mask has shape {format_shape(mask)}, wanted one that broadcasts to {format_shape(truth)}: add axes"
        ) from None
    if not mask.any():
        raise ValueError("mask selects no element: give at least one element to score")
    return mask


def pool_per_context(x: Tensor, mask: Tensor) -> Tensor:
    """(c, *obs) -> (c,): the sum over each context's scored elements, divided by the mean number of scored elements.

    So the mean over contexts is the mean over all scored elements.
    """
    x, mask = x.reshape(len(x), -1), mask.reshape(len(x), -1)
    return (x * mask).sum(-1) / (mask.sum() / len(x))


def randn(shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
    """Normal noise, drawn on the generator's device and moved to `device`."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device)
