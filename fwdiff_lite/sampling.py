"""The options of a sampler, with their checks, and the parts of sampling that know no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fwdiff_lite.checks import check_count, check_interval
from fwdiff_lite.observations import describe
from fwdiff_lite.protocols import Condition, PreparingDenoiser, Schedule, Signal


@dataclass(frozen=True)
class SamplerOptions:
    """The options of ForwardDiffusion.trajectory, sample and sample_autoregressive, by keyword.

    steps: how many times t the sampler visits, evenly spaced from T_MAX down
    eta: 0 is DDIM (deterministic given the first noise), 1 is ancestral sampling (Song et al. 2021, Eq. 16)
    generator: of all noise; default: torch's global one
    guidance: > 1 extrapolates away from the unconditional prediction: of the signal if it is a tensor, else of the
        observation
    temperature: the factor of all noise, of the first one and of that of later steps; 0: no noise. Below 1 samples are
        more alike; above 1 they differ more
    threshold: a quantile such as 0.995 scales each predicted observation, in units of the model's observation_scale,
        into [-1, 1] (Saharia et al. 2022)
    last_time: sampling ends at the first time t that is at most this, from 0 to 1; default: at the smallest time
    allow_empty: allows contexts without any observation, for an unconditional model
    enable_grad: keeps the graph of gradients back to the context, through all earlier steps, where the caller has
        gradients enabled; default: no graph. Between two steps, the caller's own setting holds

    Guidance, temperature and threshold bias the samples, and are off by default. A ForwardRegression takes all options;
    steps, eta, temperature and generator have no effect on it, since it makes one step and draws nothing.

    Raises ValueError for a value out of range.
    """

    steps: int = 64
    eta: float = 0.0
    generator: torch.Generator | None = None
    guidance: float = 1.0
    temperature: float = 1.0
    threshold: float | None = None
    last_time: float = 0.0
    allow_empty: bool = False
    enable_grad: bool = False

    def __post_init__(self):
        check_count(steps=self.steps)
        check_interval(0, 1, eta=self.eta, last_time=self.last_time)
        check_interval(0, math.inf, guidance=self.guidance, temperature=self.temperature)
        if self.threshold is not None:
            check_interval(0, 1, threshold=self.threshold)
        for name in ("eta", "guidance", "temperature", "threshold", "last_time"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))  # no tensor can be multiplied by a Fraction
        if not isinstance(self.generator, torch.Generator | None):
            raise ValueError(f"generator is {describe(self.generator)}: wanted torch.Generator().manual_seed(0)")
        if self.generator is None:
            object.__setattr__(self, "generator", torch.default_generator)

    def times(self, first: float) -> list[float]:
        """Evenly spaced times from `first` down, to the first one that is at most last_time, or to the smallest."""
        times = torch.linspace(first, 0, self.steps + 1, dtype=torch.float64)[:-1].tolist()
        return [t for i, t in enumerate(times) if not i or times[i - 1] > self.last_time]

    @classmethod
    def parse(cls, function: str, options: dict[str, Any]) -> SamplerOptions:
        """The options of a call of that function. TypeError, which names the function, for an unknown one."""
        names = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in names]:
            raise TypeError(f"{function}() has no option {unknown[0]!r}: it takes {', '.join(names)}")
        return cls(**options)


def reverse_step(
    schedule: Schedule,
    noisy_target: Float[Tensor, "*b"],
    observation: Float[Tensor, "*b"],
    t: float,
    t_next: float,
    eta: float,
    draw_noise: Callable[[], Tensor] | None,
) -> Float[Tensor, "*b"]:
    """One draw of the target at t_next < t, given it at t and its clean prediction (Eq. 6; DDIM Eq. 12 and 16).

    draw_noise: the fresh noise, which eta = 0 does not need
    """
    alpha, sigma, alpha_next, sigma_next = (
        float(f(torch.tensor(x, dtype=torch.float64))) for x in (t, t_next) for f in (schedule.alpha, schedule.sigma)
    )
    epsilon = (noisy_target - alpha * observation) / sigma
    sigma_eta = eta * sigma_next / sigma * max(0.0, 1 - (alpha / alpha_next) ** 2) ** 0.5  # of the fresh noise
    sigma_dir = (sigma_next**2 - sigma_eta**2) ** 0.5  # of the direction that points to the present noise
    mean = alpha_next * observation + sigma_dir * epsilon
    return mean + sigma_eta * draw_noise() if sigma_eta else mean


def dynamic_threshold(observation: Float[Tensor, "b m *obs"], quantile: float) -> Float[Tensor, "b m *obs"]:
    """Dynamic thresholding: clip at the larger of 1 and the quantile of |observation|, and divide by it."""
    magnitudes = observation.abs().reshape(*observation.shape[:2], -1).float()  # quantile knows no half precision
    size = magnitudes.quantile(quantile, dim=2).clamp(min=1).to(observation)
    size = size.reshape(size.shape + (1,) * (observation.ndim - 2))
    return observation.clamp(-size, size) / size


def prepare_sampling(denoiser: nn.Module, *conditions: Condition | None) -> list[Condition | None]:
    """The conditions for several steps, of a PreparingDenoiser where there are no gradients; else as they are."""
    if torch.is_grad_enabled() or not isinstance(denoiser, PreparingDenoiser):
        return list(conditions)
    return [None if condition is None else denoiser.prepare_sampling(condition) for condition in conditions]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """The module in eval mode within the block; then each of its parts is in the mode in which it was."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def join_chunks(chunks: Sequence[Signal]) -> Signal:
    """The signals of several chunks as one: tensors, and tuples, dicts and dataclasses of tensors, joined along B.

    Other parts, such as a network, are those of the first chunk. ValueError for a signal of another type.
    """
    first = chunks[0]
    if len(chunks) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(chunks)
    if isinstance(first, dict):
        return {name: join_chunks([chunk[name] for chunk in chunks]) for name in first}
    if isinstance(first, tuple | list):
        parts = [join_chunks(part) for part in zip(*chunks, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if is_dataclass(first):
        parts = {field.name: [getattr(chunk, field.name) for chunk in chunks] for field in fields(first)}
        return replace(first, **{name: join_chunks(x) for name, x in parts.items() if isinstance(x[0], Tensor)})
    raise ValueError(f"signals of type {type(first).__name__} cannot be joined: sample them without chunk_size")
