"""Helpers of all metrics: checks of arguments, with errors of one line, and the pooling of masked elements."""

import torch
from torch import Generator, Tensor


def format_shape(x: Tensor) -> str:
    """The shape of a tensor, for an error message."""
    return str(tuple(x.shape))


def check_finite(**tensors: Tensor) -> None:
    """ValueError, with the argument's name, if a tensor is empty or has a value that is not finite."""
    for name, x in tensors.items():
        if x.numel() == 0:
            raise ValueError(f"{name} is empty (shape {format_shape(x)}): give at least one value")
        num_invalid = int((~torch.isfinite(x)).sum()) if x.is_floating_point() else 0
        if num_invalid:
            raise ValueError(f"{name} holds {num_invalid} NaN or infinite values: find where they come from first")


def check_shape(name: str, x: Tensor, shape: tuple[int, ...], other: str) -> None:
    """ValueError if `x` does not have that shape, which follows from another argument; other: its name and shape."""
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {format_shape(x)}, wanted {tuple(shape)} to fit {other}")


def check_samples(samples: Tensor, truth: Tensor | None = None, min_samples: int = 1) -> None:
    """ValueError unless `samples` (c, K, *obs) has K >= min_samples and fits `truth` (c, *obs)."""
    check_finite(samples=samples)
    if samples.ndim < 2:
        raise ValueError(f"samples has shape {format_shape(samples)}, wanted (contexts, K, ...)")
    if truth is not None:
        check_finite(truth=truth)
        check_shape("truth", truth, (len(samples), *samples.shape[2:]), f"samples {format_shape(samples)}")
    check_num_samples(samples.shape[1], min_samples)


def check_num_samples(K: int, min_samples: int) -> None:
    """ValueError if there are fewer than `min_samples` samples for each context."""
    if K < min_samples:
        raise ValueError(
            f"got K = {K} sample for each context, wanted at least {min_samples}: one sample has no variance"
        )


def check_sets(x: Tensor, y: Tensor, min_rows: int = 1) -> None:
    """ValueError unless two sets (n, d) and (m, d) have vectors of the same size, and at least `min_rows` each."""
    check_finite(x=x, y=y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"got x {format_shape(x)} and y {format_shape(y)}, wanted (n, d) and (m, d) with the same d")
    if min(len(x), len(y)) < min_rows:
        raise ValueError(f"got {len(x)} and {len(y)} rows, wanted at least {min_rows} in each set")


def broadcast_mask(mask: Tensor | None, truth: Tensor) -> Tensor:
    """`mask` broadcast to the shape of `truth` (True: the element is scored); all True if it is None.

    ValueError if the mask does not broadcast, or selects no element.
    """
    if mask is None:
        return torch.ones_like(truth, dtype=torch.bool)
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
