"""Partial observations O of B signals, M of each, with the parameters phi of each observation (section 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwdiff_lite.checks import check_count


@dataclass(frozen=True, eq=False)
class Observations:
    """M observations of each of B signals.

    value:  (B, M, *obs) the observed values, in a floating type; all observations of one problem share one canvas *obs
            (but for targets of another shape, ForwardDiffusion(target_shape=...)).
            Values should have a standard deviation near 1, as noise has; for values in other units, tell the model
            with ForwardDiffusion(observation_scale=...), see `observation_std`
    params: (B, M, *par) the forward model's parameters phi of each observation: a direction, a crop, a camera
    mask:   (B, M) True where an observation exists, so that contexts of several sizes share a batch; default: all True.
            An unconditional model has contexts whose mask is False everywhere

    Raises ValueError where shapes or types do not fit together.
    """

    value: Float[Tensor, "b m *obs"]
    params: Float[Tensor, "b m *par"]
    mask: Bool[Tensor, "b m"] = None  # type: ignore[assignment]

    def __post_init__(self):
        for name, x in (("value", self.value), ("params", self.params), ("mask", self.mask)):
            if not isinstance(x, Tensor) and not (name == "mask" and x is None):
                raise ValueError(f"{name} is of type {type(x).__name__}: observations hold torch tensors")
        if self.value.ndim < 2 or self.params.ndim < 2:
            raise ValueError(
                f"observations need a batch and a count: value (B, M, *obs), params (B, M, *par); "
                f"got value {tuple(self.value.shape)}, params {tuple(self.params.shape)}"
            )
        if not self.value.is_floating_point():
            remedy = "scale pictures to [-1, 1], as in value.float() / 127.5 - 1"
            if self.value.is_complex():
                remedy = "give real and imaginary part as an axis of two, as in torch.view_as_real(value)"
            raise ValueError(f"observations need a floating type, got value of {self.value.dtype}: {remedy}")
        if not self.params.is_floating_point():
            raise ValueError(f"params need a floating type, got {self.params.dtype}: give params.float()")
        b, m = self.value.shape[:2]
        if self.params.shape[:2] != (b, m):
            raise ValueError(
                f"params are for {self.params.shape[0]} signals with {self.params.shape[1]} observations each, "
                f"value is for {b} with {m}: give one set of parameters for every observation; a single signal has "
                "an axis B, too: value[None], params[None]"
            )
        if self.mask is None:
            object.__setattr__(self, "mask", torch.ones(b, m, dtype=torch.bool, device=self.value.device))
        if self.mask.shape != (b, m) or self.mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be bool of shape {(b, m)}, got {self.mask.dtype} of shape {tuple(self.mask.shape)}"
            )
        if not self.value.device == self.params.device == self.mask.device:
            devices = f"{self.value.device}, {self.params.device} and {self.mask.device}"
            raise ValueError(f"value, params and mask lie on {devices}: move them to one device")

    def __len__(self) -> int:
        """B, the number of signals."""
        return self.value.shape[0]

    def __getitem__(self, rows) -> Observations:
        """The observations of some of the signals; rows: a number, a slice, or a list, index tensor or mask over B.

        IndexError out of range; as everywhere in Python, a slice may reach beyond the end.
        """
        rows = _index(rows, len(self))
        return Observations(self.value[rows], self.params[rows], self.mask[rows])

    def select(self, index) -> Observations:
        """Some of the M observations of every signal; index: as for the signals, over M."""
        index = _index(index, self.mask.shape[1])
        return Observations(self.value[:, index], self.params[:, index], self.mask[:, index])

    def append(self, other: Observations) -> Observations:
        """These observations and those of `other`, of the same signals."""
        check_observations(other=other)
        for name, x, y in (("value", self.value, other.value), ("params", self.params, other.params)):
            if x.shape[:1] + x.shape[2:] != y.shape[:1] + y.shape[2:]:
                raise ValueError(
                    f"cannot append observations with {name} {tuple(y.shape)} to {tuple(x.shape)}: "
                    "all but the second size must agree"
                )
            if x.dtype != y.dtype or x.device != y.device:
                raise ValueError(
                    f"cannot append observations of {y.dtype} on {y.device} to {x.dtype} on {x.device}: convert one"
                )
        pairs = ((self.value, other.value), (self.params, other.params), (self.mask, other.mask))
        return Observations(*(torch.cat(pair, 1) for pair in pairs))

    def mask_out(self, drop_mask: Bool[Tensor, "b m"] | Bool[Tensor, "b 1"]) -> Observations:
        """The same observations, masked where `drop_mask` is True. Their values become zero, so that none can leak."""
        b, m = self.mask.shape
        if not isinstance(drop_mask, Tensor) or drop_mask.dtype != torch.bool:
            raise ValueError(f"drop_mask is {describe(drop_mask)}: wanted a bool tensor, True where nothing remains")
        if drop_mask.shape not in ((b, m), (b, 1)):
            raise ValueError(f"drop_mask has shape {tuple(drop_mask.shape)}: wanted {(b, m)} or {(b, 1)}")
        mask = self.mask & ~drop_mask
        return Observations(torch.where(expand_mask(mask, self.value), self.value, 0), self.params, mask)

    def repeat(self, k: int) -> Observations:
        """The observations of each signal k times in a row, to draw k samples for each: (B, ...) -> (B k, ...)."""
        check_count(k=k)
        return Observations(*(x.repeat_interleave(k, 0) for x in (self.value, self.params, self.mask)))

    def to(self, *args, **kwargs) -> Observations:
        """The same observations on another device, or with values and parameters in another floating type."""
        value = self.value.to(*args, **kwargs)
        return Observations(value, self.params.to(*args, **kwargs), self.mask.to(value.device))

    def check(self, name: str = "context", allow_empty: bool = False) -> Observations:
        """These observations. ValueError if an unmasked value or a parameter is not finite, or a signal has none.

        name: the observations' name in the message; allow_empty: allows signals without any observation
        """
        mask = expand_mask(self.mask, self.value)
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


def expand_mask(mask: Bool[Tensor, "b m"], value: Float[Tensor, "b m *obs"]) -> Bool[Tensor, "b m *one"]:
    """The mask with as many axes as the value."""
    return mask.reshape(mask.shape + (1,) * (value.ndim - 2))


def observation_std(observations: Observations, support: Float[Tensor, "b m *#obs"] | None = None) -> float:
    """The standard deviation of all values that exist: the scale for ForwardDiffusion(observation_scale=...).

    support: forward_model.support(observations.params) of a CroppingForwardModel; what lies outside does not count

    ValueError if no observation exists, a value is not finite, or the support has another shape.
    """
    check_observations(observations=observations)
    value = observations.check("observations", allow_empty=True).value
    counts = expand_mask(observations.mask, value).expand_as(value)
    values = value[counts if support is None else counts & (check_support(support, value.shape) > 0)]
    if not values.numel():
        raise ValueError("observations are all masked: a standard deviation needs values")
    return float(values.double().std(correction=0))


def check_support(support: Tensor, shape: torch.Size) -> Tensor:
    """The support of observations of this shape (B, M, *obs). ValueError unless it broadcasts to this shape."""
    fits = isinstance(support, Tensor) and support.ndim <= len(shape)
    if not fits or any(n not in (1, size) for n, size in zip(reversed(support.shape), reversed(shape), strict=False)):
        raise ValueError(
            f"support is {describe(support)} for observations {tuple(shape)}: wanted this shape, or 1 for some sizes"
        )
    return support


def check_observations(**arguments: Observations) -> None:
    """ValueError, with the argument's name, for another type than Observations."""
    for name, x in arguments.items():
        if not isinstance(x, Observations):
            raise ValueError(f"{name} is {describe(x)}: wanted Observations(value, params)")


def check_single_target(target_params: Tensor, target_mask: Tensor | None = None) -> None:
    """ValueError unless each signal has one target, which exists: for denoisers that take no other number.

    Under torch.compile the mask is not looked at.
    """
    if target_params.shape[1] != 1:
        raise ValueError(f"this denoiser takes one target for each signal, got {target_params.shape[1]}")
    if target_mask is not None and not torch.compiler.is_compiling() and not target_mask.all():
        raise ValueError(f"this denoiser takes no masked target, got {int((~target_mask).sum())}: leave them out")


def _index(index, n: int) -> slice | Tensor:
    """An index that keeps the indexed axis of size n: a number becomes a slice. IndexError out of range."""
    if isinstance(index, slice):
        return index
    try:
        indices = torch.as_tensor(index)
    except (TypeError, ValueError, RuntimeError):
        indices = torch.zeros((), dtype=torch.bool)  # no number either
    is_bool = indices.dtype == torch.bool
    if indices.ndim == 1 and (is_bool or not indices.dtype.is_floating_point or not indices.numel()):
        return indices if is_bool else indices.long()
    if indices.ndim or is_bool or indices.dtype.is_floating_point:
        raise ValueError(f"{describe(index)} is no index: wanted a number, a slice, or a list, index tensor or mask")
    i = int(indices)
    if not -n <= i < n:  # an IndexError, so that iterating over the signals ends
        raise IndexError(f"index {i} is out of range: there are {n}")
    return slice(i % n, i % n + 1)


def describe(x) -> str:
    """An argument in an error message: its type, of a tensor its dtype and shape."""
    return f"a tensor of {x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else f"of type {type(x).__name__}"


def to_device(x, device: torch.device | str):
    """A tensor, or another object with a method `to`, on the device; otherwise ValueError.

    A tensor is copied from pinned memory; otherwise the CPU would wait until the GPU has finished its earlier work.
    """
    if not hasattr(x, "to"):
        raise ValueError(f"an argument {describe(x)} cannot be moved to {device}: wanted a tensor or Observations")
    if isinstance(x, Tensor) and x.device.type == "cpu" and torch.device(device).type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def gather_pixels(
    value: Float[Tensor, "b m c *pixels"], pixel_indices: Int[Tensor, "b m n"]
) -> Float[Tensor, "b m c n"]:
    """The values of some pixels of images; pixel_indices: indices into the flattened image.

    ValueError where the indices do not fit the images; their range is looked at on the CPU alone: a GPU
    would have to be waited for.
    """
    if value.ndim < 4:
        raise ValueError(f"pixels are of images (B, M, C, *pixels), got values {tuple(value.shape)}")
    flat = value.flatten(3)  # (B, M, C, *pixels) -> (B, M, C, P)
    if pixel_indices.dtype != torch.long or pixel_indices.ndim != 3 or pixel_indices.shape[:2] != value.shape[:2]:
        raise ValueError(
            f"pixel_indices is {describe(pixel_indices)}: wanted torch.int64 (B, M, n) for images {tuple(value.shape)}"
        )
    if pixel_indices.device.type == "cpu" and not torch.compiler.is_compiling() and pixel_indices.numel():
        low, high = int(pixel_indices.min()), int(pixel_indices.max())
        if low < 0 or high >= flat.shape[3]:
            raise ValueError(f"pixel_indices run from {low} to {high}: wanted 0 to {flat.shape[3] - 1}")
    return flat.gather(-1, pixel_indices[:, :, None].expand(-1, -1, flat.shape[2], -1))


def downsample_to(value: Float[Tensor, "b m *obs"], shape: torch.Size) -> Float[Tensor, "b m *small"]:
    """The value itself, or images averaged down to the resolution of `shape`."""
    if value.shape == shape:
        return value
    return torch.nn.functional.adaptive_avg_pool2d(value.flatten(0, 1), shape[-2:]).view(shape)


def apply_masks(x: Tensor, support: Tensor | float, mask: Bool[Tensor, "b m"] | None) -> Tensor:
    """A noisy target where it covers the canvas and exists, zero elsewhere."""
    x = x * (check_support(support, x.shape) if isinstance(support, Tensor) else support)
    return x if mask is None else torch.where(expand_mask(mask, x), x, 0)


def mask_correction(mask: Bool[Tensor, "b m"], like: Tensor) -> Float[Tensor, "b"]:
    """M over the number of a signal's observations that exist: a mean over M, times this, is one over those that exist.

    It is exactly 1 if all exist, and so changes no bit of a mean.
    """
    return mask.shape[1] / mask.sum(1).clamp(min=1).to(like)
