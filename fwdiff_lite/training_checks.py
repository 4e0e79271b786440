"""Checks of the models that fit() trains, of their losses and gradients, and of the scale of the targets."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fwdiff_lite.devices import widest_float
from fwdiff_lite.model_file import describe_schedule
from fwdiff_lite.observations import Observations
from fwdiff_lite.protocols import CroppingForwardModel

SCALE_STEPS = 10  # steps whose targets are measured
STD_RANGE = (0.25, 4.0)  # standard deviations of targets that the noise schedule suits


def check_model(model: nn.Module) -> None:
    """ValueError, in one line, on a model that `fit` cannot train."""
    if not isinstance(getattr(model, "denoiser", None), nn.Module) or not hasattr(model, "sample_time_and_noise"):
        raise ValueError(f"fit trains a model with a denoiser, such as ForwardDiffusion; got {type(model).__name__}")
    if not torch.is_grad_enabled():
        raise ValueError("fit was called under torch.no_grad() or torch.inference_mode(): call it outside")
    complex_weights = [name for name, w in model.denoiser.named_parameters() if w.is_complex()]
    if complex_weights:
        raise ValueError(
            f"the denoiser's {complex_weights[0]} is complex: store its real and imaginary part, as in "
            "torch.view_as_real, and make the complex weight of them in forward"
        )
    weights = [w for w in model.denoiser.parameters() if w.requires_grad]
    if not weights:
        raise ValueError("the denoiser has no parameter that requires a gradient: there is nothing to train")
    halves = {w.dtype for w in weights} & {torch.float16, torch.bfloat16}
    if halves:
        raise ValueError(f"the denoiser has weights of {halves.pop()}: train float32 weights, with bf16=True for speed")
    infinite = [name for name, w in model.denoiser.named_parameters() if not w.isfinite().all()]
    if infinite:
        raise ValueError(f"the denoiser's {infinite[0]} holds NaN or infinite numbers before the training")
    ids = {id(w) for w in model.denoiser.parameters()}
    outside = [name for name, w in model.named_parameters() if w.requires_grad and id(w) not in ids]
    if outside:
        raise ValueError(
            f"{outside[0]} requires a gradient, but fit trains the denoiser alone: freeze it, as in "
            "model.forward_model.requires_grad_(False), or make it a part of the denoiser"
        )


def describe_model(model: nn.Module) -> dict[str, str | float]:
    """What a resumed training must have: the classes of the parts, and the schedule, scale and weight of the loss."""
    parts = {"model": model, "denoiser": model.denoiser, "forward_model": getattr(model, "forward_model", None)}
    parts = {name: getattr(part, "_orig_mod", part) for name, part in parts.items()}  # of what torch.compile returned
    classes = {name: getattr(part, "__qualname__", type(part).__qualname__) for name, part in parts.items()}
    numbers = ("observation_scale", "novel_weight")
    numbers = {name: float(getattr(model, name)) for name in numbers if hasattr(model, name)}
    schedule = {"schedule": describe_schedule(model.schedule)} if hasattr(model, "schedule") else {}
    return classes | numbers | schedule


def check_losses(losses: Any) -> None:
    """ValueError unless a model's forward returned a dict of scalars, with a "loss" that has a gradient."""
    if not isinstance(losses, Mapping) or "loss" not in losses:
        given = f"keys {list(losses)}" if isinstance(losses, Mapping) else f"a {type(losses).__name__}"
        raise ValueError(f'the model\'s forward returned {given}: wanted a dict of scalars with "loss"')
    for name, x in losses.items():
        if not isinstance(x, Tensor) or x.numel() != 1 or x.ndim:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"the {name} loss is {shape}: wanted a tensor without axes, such as a mean")
    if not losses["loss"].requires_grad:
        raise ValueError("the loss does not depend on any weight that requires a gradient: was it detached?")


def check_gradients(denoiser: nn.Module) -> None:
    """ValueError if a weight got no gradient: several processes would wait for it."""
    for name, w in denoiser.named_parameters():
        if w.requires_grad and w.grad is None:
            raise ValueError(
                f"the denoiser's {name} got no gradient, and several processes train only weights that all get one: "
                "freeze it with requires_grad_(False), or use it in the loss"
            )


def warn_of_zero_gradients(first_step: int, norms: list[float]) -> None:
    """Warns that the gradient was exactly 0 at every step from that one on."""
    warnings.warn(
        f"the gradient is 0 at steps {first_step} to {first_step + len(norms) - 1}, so nothing is trained: is the "
        "forward model piecewise constant (round, argmax, sign), or does it leave out the signal?",
        stacklevel=5,
    )


@runtime_checkable
class ScaledModel(Protocol):
    """A model that divides observations by its scale."""

    observation_scale: float


class TargetScale:
    """The standard deviation of the first targets of a training, without masked values and what lies outside of a crop.

    warns: whether this process warns. The sums stay on the device until then
    """

    def __init__(self, model: nn.Module, warns: bool = True):
        self.warns = warns
        self.scale = model.observation_scale if isinstance(model, ScaledModel) else 1.0
        forward_model = getattr(model, "forward_model", None)
        self.support = forward_model.support if isinstance(forward_model, CroppingForwardModel) else None
        self.count, self.sums = 0, None

    @torch.no_grad()
    def measure(self, target: Observations) -> None:
        """Adds the values of the first SCALE_STEPS targets. ValueError if the first ones lie outside of the support."""
        if self.count == SCALE_STEPS:
            return
        value = target.value.to(widest_float(target.value.device))
        weight = target.mask.reshape(target.mask.shape + (1,) * (value.ndim - 2)).to(value)
        if self.support is not None:
            weight = weight * self.support(target.params)
        weight = weight.expand_as(value)
        value = torch.where(weight > 0, value, 0)
        sums = torch.stack([weight.sum(), (weight * value).sum(), (weight * value.square()).sum()])
        if self.count == 0 and self.support is not None and target.mask.any() and not sums[0]:
            raise ValueError("the forward model's support is 0 in all targets of the first batch: wanted 1 inside")
        self.sums = sums if self.sums is None else self.sums + sums
        self.count += 1

    def warn(self) -> None:
        """Warns once if the standard deviation does not suit the noise."""
        if not self.warns or self.sums is None:
            return
        self.warns = False
        total, first, second = self.sums.tolist()
        mean = first / max(total, 1.0)
        std = math.sqrt(max(second / max(total, 1.0) - mean**2, 0.0))
        low, high = STD_RANGE
        if total >= 2 and not low <= std / self.scale <= high:
            warnings.warn(
                f"the targets have a standard deviation of {std:.3g}, the noise has {self.scale:.3g}: samples will be "
                f"poor, unless the model is made with ForwardDiffusion(..., observation_scale={std:.3g}), with a "
                "denoiser that returns signals in the forward model's unit (see protocols.ScaledDenoiser)",
                stacklevel=4,
            )
