"""Partial observations O of B signals, M of each, with the parameters phi of each observation (section 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Observations:
    """M observations of each of B signals.

    value:  (B, M, *obs) the observed values, in a floating type; all observations of one problem share one canvas *obs
    params: (B, M, *par) the forward model's parameters phi of each observation: a direction, a crop, a camera
    mask:   (B, M) True where an observation exists, so that contexts of several sizes share a batch; default: all True.
            An unconditional model has contexts whose mask is False everywhere

    Raises ValueError where shapes or types do not fit together.
    """

    value: Float[Tensor, "b m *obs"]
    params: Float[Tensor, "b m *par"]
    mask: Bool[Tensor, "b m"] = None  # type: ignore[assignment]

    def __post_init__(self):
        if self.value.ndim < 2 or self.params.ndim < 2:
            raise ValueError(
                f"observations need a batch and a count: value (B, M, *obs), params (B, M, *par); "
                f"got value {tuple(self.value.shape)}, params {tuple(self.params.shape)}"
            )
        if not self.value.is_floating_point():
            raise ValueError(
                f"observations need a floating type, got value of {self.value.dtype}: "
                "scale pictures to [-1, 1], as in value.float() / 127.5 - 1"
            )
        b, m = self.value.shape[:2]
        if self.params.shape[:2] != (b, m):
            raise ValueError(
                f"params are for {self.params.shape[0]} signals with {self.params.shape[1]} observations each, "
                f"value is for {b} with {m}: give one set of parameters for every observation"
            )
        if self.mask is None:
            object.__setattr__(self, "mask", torch.ones(b, m, dtype=torch.bool, device=self.value.device))
        if self.mask.shape != (b, m) or self.mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be bool of shape {(b, m)}, got {self.mask.dtype} of shape {tuple(self.mask.shape)}"
            )

    def __len__(self) -> int:
        """B, the number of signals."""
        return self.value.shape[0]

    def __getitem__(self, rows) -> Observations:
        """The observations of some of the signals; rows: a slice, an index tensor or a mask over B."""
        if isinstance(rows, int):
            row = range(len(self))[rows]  # IndexError out of range, so that iterating over the signals ends
            rows = slice(row, row + 1)
        return Observations(self.value[rows], self.params[rows], self.mask[rows])

    def select(self, index) -> Observations:
        """Some of the M observations of every signal; index: a slice or a list over M."""
        return Observations(self.value[:, index], self.params[:, index], self.mask[:, index])

    def append(self, other: Observations) -> Observations:
        """These observations and those of `other`, of the same signals."""
        for name, x, y in (("value", self.value, other.value), ("params", self.params, other.params)):
            if x.shape[:1] + x.shape[2:] != y.shape[:1] + y.shape[2:]:
                raise ValueError(
                    f"cannot append observations with {name} {tuple(y.shape)} to {tuple(x.shape)}: "
                    "all but the second size must agree"
                )
        pairs = ((self.value, other.value), (self.params, other.params), (self.mask, other.mask))
        return Observations(*(torch.cat(pair, 1) for pair in pairs))

    def mask_out(self, drop_mask: Bool[Tensor, "b m"] | Bool[Tensor, "b 1"]) -> Observations:
        """The same observations, masked where `drop_mask` is True. Their values become zero, so that none can leak."""
        mask = self.mask & ~drop_mask
        keep = mask.reshape(mask.shape + (1,) * (self.value.ndim - 2))
        return Observations(torch.where(keep, self.value, 0), self.params, mask)

    def repeat(self, k: int) -> Observations:
        """The observations of each signal k times in a row, to draw k samples for each: (B, ...) -> (B k, ...)."""
        return Observations(*(x.repeat_interleave(k, 0) for x in (self.value, self.params, self.mask)))

    def to(self, *args, **kwargs) -> Observations:
        """The same observations on another device, or with values and parameters in another floating type."""
        value = self.value.to(*args, **kwargs)
        return Observations(value, self.params.to(*args, **kwargs), self.mask.to(value.device))

    def check(self, name: str = "context", allow_empty: bool = False) -> Observations:
        """These observations. ValueError if an unmasked value or a parameter is not finite, or a signal has none.

        name: the observations' name in the message; allow_empty: allows signals without any observation
        """
        mask = self.mask.reshape(self.mask.shape + (1,) * (self.value.ndim - 2))
        bad = int((~torch.isfinite(self.value) & mask).sum())
        if bad:
            raise ValueError(f"{name} holds {bad} NaN or infinite values of {self.value.numel()}: remove or mask them")
        if not torch.isfinite(self.params).all():
            raise ValueError(f"{name} has NaN or infinite params: every observation needs finite parameters")
        empty = int((~self.mask.any(1)).sum())
        if empty and not allow_empty:
            raise ValueError(
                f"{name} is empty for {empty} of {len(self)} signals: give at least one observation each, "
                "or ask for unconditional sampling with allow_empty=True"
            )
        return self


def to_device(x, device: torch.device | str):
    """A tensor, or another object with a method `to`, on the device.

    A tensor is copied from pinned memory; otherwise the CPU would wait until the GPU has finished its earlier work.
    """
    if isinstance(x, Tensor) and x.device.type == "cpu" and torch.device(device).type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def gather_pixels(
    value: Float[Tensor, "b m c *pixels"], pixel_indices: Int[Tensor, "b m n"]
) -> Float[Tensor, "b m c n"]:
    """The values of some pixels of images; pixel_indices: indices into the flattened image."""
    flat = value.flatten(3)  # (B, M, C, *pixels) -> (B, M, C, P)
    return flat.gather(-1, pixel_indices[:, :, None].expand(-1, -1, flat.shape[2], -1))
