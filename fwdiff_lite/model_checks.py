"""Checks of what is given to a model: each raises a ValueError of one line."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fwdiff_lite.checks import check_count, check_interval, check_values_on_cpu
from fwdiff_lite.observations import Observations, check_observations, describe
from fwdiff_lite.protocols import Condition, Denoiser, ForwardModel, Schedule, Signal, WeightedDenoiser
from fwdiff_lite.schedule import check_schedule, check_time

Views = dict[str, tuple[Observations, Tensor | None]]  # observations in the loss, with the pixels that count


def check_parts(
    denoiser: nn.Module,
    forward_model: Callable,
    schedule: Schedule | None,
    novel_weight: float,
    target_shape: tuple[int, ...] | None,
    observation_scale: float,
) -> None:
    """The arguments of a model."""
    name = getattr(denoiser, "__name__", type(denoiser).__name__)
    wanted = {"condition": "context, target_params, target_mask", "forward": "condition, noisy_target, t"}
    signatures = " and ".join(f"{method}({arguments})" for method, arguments in wanted.items())
    if not isinstance(denoiser, nn.Module):
        raise ValueError(f"{name} is no denoiser: it needs to be a torch.nn.Module with {signatures}")
    own_forward = type(denoiser).forward is not nn.Module.forward or "forward" in vars(denoiser)
    if not isinstance(denoiser, Denoiser) or not own_forward:
        raise ValueError(f"{name} is no denoiser: it needs {signatures}")
    for method, arguments in wanted.items():
        if not _accepts(getattr(denoiser, method), 3):
            raise ValueError(f"{name}.{method} does not take three arguments: it needs {method}({arguments})")
    if not callable(forward_model):
        raise ValueError(f"forward_model is {describe(forward_model)}: wanted a function of signal and params")
    if schedule is not None and (not isinstance(schedule, Schedule) or isinstance(schedule, type)):
        raise ValueError(f"schedule is {describe(schedule)}: it needs alpha(t) and sigma(t), as CosineSchedule()")
    if schedule is not None:
        check_schedule(schedule)
    if not callable(getattr(forward_model, "noise_std", check_noise_std)):
        raise ValueError("the forward model's noise_std is no method: wanted noise_std(params) -> (B, M)")
    check_interval(0, math.inf, novel_weight=novel_weight, observation_scale=observation_scale)
    if observation_scale == 0:
        raise ValueError("observation_scale is 0: wanted the standard deviation of the observations, above 0")
    if target_shape is not None:
        if not isinstance(target_shape, tuple | list):
            raise ValueError(
                f"target_shape is {describe(target_shape)}: wanted the sizes of one target, as (3, 64, 64)"
            )
        for size in target_shape:
            check_count(target_shape=size)
    _check_signature(forward_model)


def check_noise_std(noise_std: Tensor, params: Tensor) -> None:
    """The result of NoisyForwardModel.noise_std."""
    if not isinstance(noise_std, Tensor):
        raise ValueError(
            f"noise_std gave {describe(noise_std)}: wanted a tensor {tuple(params.shape[:2])}, one number for each "
            "observation"
        )
    if noise_std.shape != params.shape[:2]:
        raise ValueError(
            f"noise_std gave {tuple(noise_std.shape)} for params {tuple(params.shape)}: wanted one number for each "
            f"observation, {tuple(params.shape[:2])}"
        )
    check_values_on_cpu(lambda: noise_std < 0, "noise_std gave a negative number: wanted a standard deviation")


def observe(
    forward_model: ForwardModel, signal: Signal, params: Tensor, shape: torch.Size | None = None, **options
) -> Tensor:
    """The observations of a signal (Eq. 5), checked but under torch.compile; options: of the forward model.

    ValueError unless they are floating numbers (B, M, *obs) for params (B, M, *par), no wider than these, and have the
    shape of targets, if it is given.
    """
    if torch.compiler.is_compiling():
        return forward_model(signal, params, **options)
    try:
        observation = forward_model(signal, params, **options)
    except (AttributeError, TypeError) as error:
        if type(signal) not in (tuple, list):
            raise
        raise ValueError(
            f"the denoiser returned a {type(signal).__name__}, which forward_model does not take ({error}): return the "
            "signal alone"
        ) from error
    wanted = f"wanted a tensor of {params.dtype} {tuple(params.shape[:2])} and the axes of one observation"
    if not isinstance(observation, Tensor) or not observation.is_floating_point():
        raise ValueError(f"the observation by forward_model is {describe(observation)}: {wanted}")
    if observation.shape[:2] != params.shape[:2]:
        raise ValueError(f"forward_model gave {tuple(observation.shape)} for params {tuple(params.shape)}: {wanted}")
    if shape not in (None, observation.shape):
        raise ValueError(f"forward_model gave {tuple(observation.shape)} where the targets are {tuple(shape)}")
    widens = torch.promote_types(observation.dtype, params.dtype) != params.dtype
    if widens and not torch.is_autocast_enabled(params.device.type):
        source = f" from a signal of {signal.dtype}" if isinstance(signal, Tensor) else ""
        raise ValueError(f"forward_model gave {observation.dtype}{source}: {wanted}")
    return observation


def check_loss_input(denoiser: nn.Module, context: Observations, views: Views, t: Tensor, noise: Tensor) -> None:
    """The arguments of a loss; shapes are checked under torch.compile too, values are not."""
    check_observations(context=context, **{name: observations for name, (observations, _) in views.items()})
    target = views["target"][0]
    _check_tensors(t=t, noise=noise)
    if noise.shape != target.value.shape or t.shape != target.value.shape[:1]:
        raise ValueError(
            f"t {tuple(t.shape)} and noise {tuple(noise.shape)} do not fit a target of {tuple(target.value.shape)}"
        )
    check_time(t)
    for name, (observations, _) in views.items():
        if len(observations) != len(context):
            raise ValueError(f"{name} has {len(observations)} signals, context {len(context)}: give those of one batch")
        if observations.params.shape[2:] != context.params.shape[2:]:
            raise ValueError(
                f"{name} has params {tuple(observations.params.shape[2:])} an observation, the context's are "
                f"{tuple(context.params.shape[2:])}"
            )
    for name, (observations, _) in views.items():
        if 0 in observations.mask.shape:
            b, m = observations.mask.shape
            raise ValueError(f"{name} has {b} signals with {m} observations: it is empty")
    pixels = [indices for _, indices in views.values()]
    if any(x is None for x in pixels) and any(x is not None for x in pixels):
        raise ValueError(
            "pixels of target or novel observation only: give pixel_indices and novel_pixel_indices, or neither"
        )
    if pixels[0] is not None:
        for name, (observations, indices) in views.items():
            shape = observations.mask.shape
            if not isinstance(indices, Tensor) or indices.ndim != 3 or indices.shape[:2] != shape:
                raise ValueError(
                    f"pixel indices of {name} is {describe(indices)}: wanted (B, M, n) with (B, M) = {tuple(shape)}"
                )
        if len({x.shape[-1] for x in pixels}) > 1:
            raise ValueError(
                f"pixel_indices are {pixels[0].shape[-1]} an image, novel_pixel_indices {pixels[1].shape[-1]}: "
                "give as many of one as of the other"
            )
    if not torch.compiler.is_compiling():
        _check_type(denoiser, context)
        _check_same_type(context, "context", params=context.params)
        for name, (observations, _) in views.items():
            _check_same_type(context, name, value=observations.value, params=observations.params)


def check_canvas(target: Observations, context: Observations, target_shape: tuple[int, ...] | None) -> None:
    """The target of a loss has the shape that a sampled target has: target_shape, or the context's.

    The last check of a loss: a denoiser or a forward model that refuses one of the shapes knows more.
    """
    given, wanted = tuple(target.value.shape[2:]), target_shape
    if wanted is None:
        wanted = context.value.shape[2:]
    if given != tuple(wanted):
        name = "the context's" if target_shape is None else "the model's target_shape"
        raise ValueError(
            f"one observation of target is {given}, {name} is {tuple(wanted)}: make the model with "
            f"ForwardDiffusion(..., target_shape={given})"
        )


def checked_loss_weight(denoiser: WeightedDenoiser, condition: Condition, t: Tensor) -> Tensor:
    """The weights of the examples. ValueError for another shape than t's, and on a CPU for weights below 0."""
    weight = denoiser.loss_weight(condition, t)
    if not isinstance(weight, Tensor) or weight.shape != t.shape:
        raise ValueError(f"loss_weight is {describe(weight)} for t {tuple(t.shape)}: wanted one number a signal")
    check_values_on_cpu(
        lambda: weight < 0, "loss_weight gave a negative weight, which maximises errors: wanted 0 or more"
    )
    return weight


def check_sampler_input(
    denoiser: nn.Module, context: Observations, target_params: Tensor, target_mask: Tensor | None, allow_empty: bool
) -> None:
    """The context and the targets of a sampler."""
    check_observations(context=context)
    if not len(context):
        raise ValueError("context holds no signals: give at least one")
    context.check("context", allow_empty=allow_empty)
    _check_type(denoiser, context)
    if isinstance(target_params, Observations):
        raise ValueError(f"target_params is {describe(target_params)}: wanted their parameters, as target.params")
    _check_tensors(target_params=target_params)
    if target_params.ndim < 2 or target_params.shape[0] != len(context):
        raise ValueError(
            f"target_params {tuple(target_params.shape)} are not for the {len(context)} signals of the context: "
            "give (B, M, *par)"
        )
    if target_params.shape[2:] != context.params.shape[2:]:
        raise ValueError(
            f"target_params are {tuple(target_params.shape[2:])} an observation, the context's are "
            f"{tuple(context.params.shape[2:])}"
        )
    if not target_params.shape[1]:
        raise ValueError(
            f"target_params {tuple(target_params.shape)} name no target: give at least one for each signal"
        )
    if target_params.device != context.value.device:
        raise ValueError(f"target_params lie on {target_params.device}, context on {context.value.device}: move one")
    if not target_params.is_floating_point() or not torch.isfinite(target_params).all():
        raise ValueError(f"target_params is {describe(target_params)} or holds NaN: wanted finite floating numbers")
    _check_same_type(context, "context", params=context.params)
    _check_same_type(context, "target", params=target_params)
    if target_mask is None:
        return
    shape = target_params.shape[:2]
    if not isinstance(target_mask, Tensor) or target_mask.dtype != torch.bool or target_mask.shape != shape:
        raise ValueError(
            f"target_mask is {describe(target_mask)}: wanted a bool tensor {tuple(shape)}, True where a target exists"
        )


def check_sequence(params_sequence: Tensor, options: dict[str, Any]) -> None:
    """The parameters and options of autoregressive sampling."""
    _check_tensors(params_sequence=params_sequence)
    if params_sequence.ndim < 2 or params_sequence.shape[1] < 1:
        raise ValueError(f"params_sequence must be (B, L, *par) with L >= 1, got {tuple(params_sequence.shape)}")
    for name, remedy in {
        "num_samples": "give context.repeat(k) and as many rows of params_sequence",
        "target_mask": "leave a target out of params_sequence",
    }.items():
        if options.get(name) is not None:
            raise ValueError(f"sample_autoregressive takes no {name}: {remedy}")


def raise_if_fixed_size(error: RuntimeError, first: Observations, context: Observations) -> None:
    """ValueError if a denoiser that sampled from the first context failed on a larger one: its inputs have one size."""
    m, larger = first.mask.shape[1], context.mask.shape[1]
    if larger > m and not isinstance(error, torch.cuda.OutOfMemoryError):
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the denoiser took a context of {m} observations and fails at {larger} ({reason}): sampled targets join "
            "the context, so it must take contexts of any size, as with a padded and masked input"
        ) from error


def _check_signature(forward_model: Callable) -> None:
    """A forward model takes a signal and params."""
    if isinstance(forward_model, type):
        raise ValueError(f"forward_model is the class {forward_model.__name__}: wanted an object of it, or a function")
    function = forward_model
    if isinstance(forward_model, nn.Module):
        function = forward_model.forward
    elif not inspect.isroutine(forward_model):
        function = forward_model.__call__  # inspect takes a static method for one with self
    if not _accepts(function, 2):
        name = getattr(forward_model, "__name__", type(forward_model).__name__)
        raise ValueError(f"forward_model {name} does not take two arguments: wanted a function of signal and params")


def _accepts(function: Callable, num_arguments: int) -> bool:
    """Whether a function takes that many arguments; True for a function of C, whose signature is not known."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return True
    try:
        signature.bind(*[None] * num_arguments)
    except TypeError:
        return False
    return True


def _check_same_type(context: Observations, name: str, **parts: Tensor) -> None:
    """Values and parameters have the floating type of the context's values, unless autocast converts them."""
    wanted = context.value.dtype
    autocast = torch.is_autocast_enabled(context.value.device.type)
    for part, x in parts.items():
        if x.dtype != wanted and not (autocast and x.dtype != torch.float64):
            raise ValueError(
                f"{name} has {part} of {x.dtype}, the context's values are {wanted}: convert with {part}.to({wanted})"
            )


def _check_tensors(**arguments: Tensor) -> None:
    for name, x in arguments.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{name} is {describe(x)}: wanted a torch tensor")


def _check_type(denoiser: nn.Module, context: Observations) -> None:
    """The values have the floating type of the denoiser's weights, unless autocast converts them (not float64)."""
    types, dtype = {w.dtype for w in denoiser.parameters() if w.is_floating_point()}, context.value.dtype
    autocast = torch.is_autocast_enabled(context.value.device.type) and dtype != torch.float64
    if types and dtype not in types and not autocast:
        wanted = " or ".join(sorted(map(str, types)))
        raise ValueError(
            f"context has values of {context.value.dtype}, the denoiser's weights are {wanted}: "
            f"use context.to({wanted.split(' ')[0]})"
        )
