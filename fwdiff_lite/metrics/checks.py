"""Checks of the arguments of measures, and pooling, that all modules here share."""


import torch
from torch import Generator, Tensor


def shape(x: Tensor) -> str:
    return str(tuple(x.shape))


def check_finite(**tensors: Tensor) -> None:
    """One-line ValueError for a tensor that is empty or not finite."""
    for name, x in tensors.items():
        if x.numel() == 0:
            raise ValueError(f"{name} is empty (shape {shape(x)}): give at least one value")
        bad = int((~torch.isfinite(x)).sum()) if x.is_floating_point() else 0
        if bad:
            raise ValueError(f"{name} holds {bad} NaN or infinite values: find where they come from first")


def match(name: str, x: Tensor, shape: tuple[int, ...], why: str) -> None:
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {shape(x)}, wanted {tuple(shape)} to fit {why}")


def check_samples(samples: Tensor, truth: Tensor | None = None, least: int = 1) -> None:
    """`samples` (c, K, *obs) must hold at least `least` samples a context and fit `truth` (c, *obs)."""
    check_finite(samples=samples)
    if samples.ndim < 2:
        raise ValueError(f"samples has shape {shape(samples)}, wanted (contexts, K, ...)")
    if truth is not None:
        check_finite(truth=truth)
        match("truth", truth, (len(samples), *samples.shape[2:]), f"samples {shape(samples)}")
    at_least(samples.shape[1], least)


def at_least(K: int, least: int) -> None:
    if K < least:
        raise ValueError(f"got K = {K} sample a context, wanted at least {least}: one has no spread")


def mask_like(mask: Tensor | None, truth: Tensor) -> Tensor:
    """`mask` broadcast to `truth` (True is scored); everything when it is None."""
    if mask is None:
        return torch.ones_like(truth, dtype=torch.bool)
    try:
        mask = mask.broadcast_to(truth.shape)
    except RuntimeError:
        raise ValueError(
            f"mask has shape {shape(mask)}, wanted one that broadcasts to {shape(truth)}: add axes"
        ) from None
    if not mask.any():
        raise ValueError("mask selects no element at all: nothing is left to score")
    return mask


def pool(x: Tensor, mask: Tensor) -> Tensor:
    """(c, *obs) -> (c,): sums over scored elements, scaled so that their mean is the pooled mean."""
    x, mask = x.reshape(len(x), -1), mask.reshape(len(x), -1)
    return (x * mask).sum(-1) / (mask.sum() / len(x))


def randn(shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device).to(device)


def check_sets(x: Tensor, y: Tensor, least: int = 1) -> None:
    check_finite(x=x, y=y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"got x {shape(x)} and y {shape(y)}, wanted (n, d) and (m, d) with the same d")
    if min(len(x), len(y)) < least:
        raise ValueError(f"got {len(x)} and {len(y)} rows, wanted at least {least} in each set")
