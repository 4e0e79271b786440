"""Diffusion with a forward model inside (section 2.2): the losses of Eq. 8 and 9, the sampler of Eq. 3 to 7.

Noise is added to an observation, the *target*; the network looks at it beside a clean observation, the *context*,
and answers with a signal S; the forward model says what that signal would look like from the target's place.
Signals are never given. What a problem brings:

forward_model(signal, params, at=None) -> value
    Any differentiable callable. `signal` is whatever it takes; params (B, M, *par) -> value (B, M, *obs), or only
    the places `at` (B, M, n) of it, (B, M, C, n). Where an observation covers a part of the canvas only, the
    forward model has a method `support(params)`, broadcastable to value: 1 where it observes, 0 elsewhere; what lies
    outside is kept free of noise and loss.

denoiser: a torch Module with two methods, because sampling calls the second many times
    condition(context, target_params) -> condition    once a sample: whatever does not depend on the noise;
        its attribute `estimate`, where it has one, is a deterministic guess at the target, trained beside the rest;
        images may be guessed with fewer pixels
    forward(condition, noisy_target, t) -> signal     Eq. 4; noisy_target (B, M, *obs), t (B,)
  and, where it likes, a third
    loss_weight(condition, t) -> (B,)                 how much an example counts in the losses. Any function of
        these leaves their minimiser where it is; the inverse of the error that is to be expected lets small errors
        at small t be learnt beside large ones at large t (Karras et al. 2022, Section 5)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fwdiff_lite.observations import Observations, gather_pixels
from fwdiff_lite.schedule import CosineSchedule, check_time

T_MAX = 1 - 1e-3  # where sampling starts: at t = 1 nothing is left of the target
T_MIN = 1e-3  # where training ends: at t = 0 there is nothing to denoise


@dataclass(frozen=True)
class Step:
    """One step of sampling: at time t, from the noisy target, the signal (Eq. 4) and its observation (Eq. 5)."""

    t: float
    noisy_target: Float[Tensor, "b m *obs"]
    signal: Any
    observation: Float[Tensor, "b m *obs"]


class ForwardDiffusion(nn.Module):
    """A conditional diffusion model over signals that are only observed through a forward model.

    novel_weight: weight of Eq. 9 beside Eq. 8; at 0, novel observations are not looked at
    target_shape: shape of one target observation, where it is not the context's
    """

    def __init__(
        self,
        denoiser: nn.Module,
        forward_model,
        schedule: CosineSchedule | None = None,
        novel_weight: float = 1.0,
        target_shape: tuple[int, ...] | None = None,
    ):
        super().__init__()
        self.denoiser = denoiser
        self.forward_model = forward_model
        self.schedule = schedule or CosineSchedule()
        self.novel_weight = novel_weight
        self.target_shape = target_shape

    def sample_time_and_noise(self, target: Observations, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Times t (B,), spread evenly over the batch, and noise like the target: all the randomness of a loss."""
        n = len(target)
        offset = torch.rand((), generator=generator, device=generator.device)
        t = (torch.arange(n, device=generator.device) / n + offset) % 1
        noise = torch.randn(target.value.shape, generator=generator, device=generator.device)
        t = T_MIN + (T_MAX - T_MIN) * t
        return t.to(target.value), noise.to(target.value)

    def loss(
        self,
        context: Observations,
        target: Observations,
        t: Float[Tensor, "b"],
        noise: Float[Tensor, "b m *obs"],
        novel: Observations | None = None,
        pixel_indices: Int[Tensor, "b m n"] | None = None,
        novel_pixel_indices: Int[Tensor, "b k n"] | None = None,
    ) -> dict[str, Tensor]:
        """Eq. 8 and 9 as means over the batch, without randomness: {"target"[, "novel"][, "estimate"], "loss"}.

        "loss" is their sum to be minimised, each example weighted as the denoiser asks; the others are unweighted.
        at, novel_at: the places to look at, as many of the target as of the novel observation; all without them
        """
        check_time(t)
        if noise.shape != target.value.shape or t.shape != target.value.shape[:1]:
            raise ValueError(
                f"t {tuple(t.shape)} and noise {tuple(noise.shape)} do not fit a target of {tuple(target.value.shape)}"
            )
        noisy_target = self._noisy(target.value, noise, t) * self._support(target.params)
        condition = self.denoiser.condition(context, target.params)
        signal = self.denoiser(condition, noisy_target, t)
        seen, places = {"target": target}, [pixel_indices]
        if novel is not None and self.novel_weight:
            if (pixel_indices is None) != (novel_pixel_indices is None):
                raise ValueError("places of one of target and novel observation: give at and novel_at, or neither")
            seen, places = seen | {"novel": novel}, [pixel_indices, novel_pixel_indices]
        misfits = dict(zip(seen, self._misfits(signal, list(seen.values()), places), strict=True))
        weigh = getattr(self.denoiser, "loss_weight", lambda condition, t: torch.ones_like(t))
        total = (weigh(condition, t) * (misfits["target"] + self.novel_weight * misfits.get("novel", 0.0))).mean()
        losses = {name: misfit.mean() for name, misfit in misfits.items()}
        estimate = getattr(condition, "deterministic_prediction", None)
        if estimate is not None:
            there = target.mask.reshape(target.mask.shape + (1,) * (target.value.ndim - 2))
            misfit = (estimate.value - _coarser(target.value, estimate.value.shape)).square()
            losses["deterministic"] = (there * misfit).mean()
            total = total + losses["deterministic"]
        return {**losses, "loss": total}

    forward = loss  # a Module's forward, so that it compiles and runs on several devices

    def trajectory(
        self,
        context: Observations,
        target_params: Float[Tensor, "b m *par"],
        steps: int = 64,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        guidance: float = 1.0,
        temperature: float = 1.0,
        threshold: float | None = None,
        allow_empty: bool = False,
        enable_grad: bool = False,
    ) -> Iterator[Step]:
        """Every step of sampling one signal per context, from noise to the smallest t > 0 (Eq. 3 to 7).

        eta: 0 is DDIM (deterministic given the first noise), 1 is ancestral sampling (Song et al. 2021, Eq. 16)
        enable_grad: a step keeps its graph back to the context, all steps before it included, wherever the caller
            has gradients on; without it the sampler keeps none. Between two steps gradients are the caller's own

        Three options bias the sampler, and are off: guidance > 1 extrapolates away from the model without context
        (a tensor signal is guided itself, of any other only the observation); temperature < 1 shrinks all noise;
        threshold, a quantile such as 0.995, shrinks each predicted observation into [-1, 1] (Saharia et al. 2022).
        """
        shape = self._check(context, target_params, allow_empty)
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        grad_mode = nullcontext if enable_grad else torch.no_grad
        support = self._support(target_params)

        def noise():
            z = torch.randn(shape, generator=generator, device=generator.device if generator else None)
            return temperature * z.to(context.value) * support

        def iterate() -> Iterator[Step]:
            with grad_mode():
                condition = self.denoiser.condition(context, target_params)
                without = None
                if guidance != 1.0:
                    without = self.denoiser.condition(context.mask_out(torch.ones_like(context.mask)), target_params)
            times = torch.linspace(T_MAX, 0, steps + 1, dtype=torch.float64)[:-1].tolist()
            noisy_target = noise()
            for t, t_next in zip(times, times[1:] + [None], strict=True):
                with grad_mode():
                    signal, observation = self._predict(noisy_target, t, condition, without, guidance, target_params)
                    if threshold is not None:
                        observation = _threshold(observation, threshold)
                yield Step(t, noisy_target, signal, observation)  # outside of grad_mode: the caller has control here
                if t_next is not None:
                    with grad_mode():
                        noisy_target = self._reverse(noisy_target, observation, t, t_next, eta, noise) * support

        return iterate()

    def sample(self, context: Observations, target_params: Float[Tensor, "b m *par"], **options) -> Step:
        """The end of a trajectory: one signal for each context, with its observation at the target's place."""
        return deque(self.trajectory(context, target_params, **options), maxlen=1).pop()

    def sample_autoregressive(
        self, context: Observations, params_sequence: Float[Tensor, "b l *par"], **options
    ) -> tuple[Step, Observations]:
        """Sample L targets one after another, each joining the context of the next; the last step and that context.

        What neither context nor target sees comes out as a mean; the next target samples it (section 4.1).
        """
        if params_sequence.ndim < 2 or params_sequence.shape[1] < 1:
            raise ValueError(f"params_sequence must be (B, L, *par) with L >= 1, got {tuple(params_sequence.shape)}")
        for params in params_sequence.split(1, dim=1):
            step = self.sample(context, params, **options)
            context = context.append(Observations(step.observation, params))
            options["allow_empty"] = False
        return step, context

    def _check(self, context: Observations, target_params: Tensor, allow_empty: bool) -> tuple[int, ...]:
        """The shape (B, M, *obs) of the targets to be sampled, or a ValueError."""
        context.check("context", allow_empty=allow_empty)
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
        return (*target_params.shape[:2], *(self.target_shape or context.value.shape[2:]))

    def _predict(
        self, noisy_target: Tensor, t: float, condition, without, guidance: float, target_params: Tensor
    ) -> tuple[Any, Tensor]:
        """The signal at time t and its observation (Eq. 4 and 5), guided away from the condition `without` context."""
        batch_t = noisy_target.new_full(noisy_target.shape[:1], t)
        signal = self.denoiser(condition, noisy_target, batch_t)
        if without is None:
            return signal, self.forward_model(signal, target_params)
        plain = self.denoiser(without, noisy_target, batch_t)
        if isinstance(signal, Tensor):
            signal = plain + guidance * (signal - plain)
            return signal, self.forward_model(signal, target_params)
        plain, observation = (self.forward_model(x, target_params) for x in (plain, signal))
        return signal, plain + guidance * (observation - plain)

    def _noisy(self, clean: Tensor, noise: Tensor, t: Float[Tensor, "b"]) -> Tensor:
        t = t.reshape(-1, *[1] * (clean.ndim - 1))
        return self.schedule.alpha(t) * clean + self.schedule.sigma(t) * noise

    def _support(self, params: Tensor) -> Tensor | float:
        support = getattr(self.forward_model, "support", None)
        return 1.0 if support is None else support(params)

    def _misfits(self, signal, seen: list[Observations], places: list[Tensor | None]) -> list[Float[Tensor, "b"]]:
        """|O - forward(S, phi)|^2 of each signal, a mean for each of `seen`; what is not observed counts as zero.

        The forward model is called once for all of them: a generator makes one picture, whatever is cut out of it.
        """
        params = torch.cat([truth.params for truth in seen], 1)
        pixel_indices = {} if places[0] is None else {"pixel_indices": torch.cat(places, 1)}
        predicted = self.forward_model(signal, params, **pixel_indices).split([truth.params.shape[1] for truth in seen], 1)
        misfits = []
        for answer, truth, where in zip(predicted, seen, places, strict=True):
            value = truth.value if where is None else gather_pixels(truth.value, where)
            if answer.shape != value.shape:
                raise ValueError(
                    f"forward_model gave {tuple(answer.shape)} where the observations are {tuple(value.shape)}"
                )
            there = truth.mask.reshape(truth.mask.shape + (1,) * (value.ndim - 2)) * self._support(truth.params)
            misfits.append((there * (answer - value).square()).flatten(1).mean(1))
        return misfits

    def _reverse(self, noisy_target, observation, t: float, t_next: float, eta: float, noise) -> Tensor:
        """One draw of the target at t_next < t, given it at t and its clean estimate (Eq. 6)."""
        alpha, sigma, alpha_next, sigma_next = (
            float(f(torch.tensor(x, dtype=torch.float64)))
            for x in (t, t_next)
            for f in (self.schedule.alpha, self.schedule.sigma)
        )
        epsilon = (noisy_target - alpha * observation) / sigma
        fresh = eta * sigma_next / sigma * max(0.0, 1 - (alpha / alpha_next) ** 2) ** 0.5
        kept = (sigma_next**2 - fresh**2) ** 0.5
        mean = alpha_next * observation + kept * epsilon
        return mean + fresh * noise() if fresh else mean


class ForwardRegression(ForwardDiffusion):
    """The deterministic baseline: the same network, forward model and losses, and never a noisy target.

    It is the diffusion model held at t = 1, where the noisy target is replaced by zero: one pass gives the signal
    whose observations are nearest to the conditional mean.
    """

    def sample_time_and_noise(self, target: Observations, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """t = 1 and no noise."""
        return target.value.new_ones(len(target)), torch.zeros_like(target.value)

    def _noisy(self, clean: Tensor, noise: Tensor, t: Float[Tensor, "b"]) -> Tensor:
        return torch.zeros_like(clean)

    def trajectory(
        self, context, target_params, allow_empty: bool = False, enable_grad: bool = False
    ) -> Iterator[Step]:
        """One step, at t = 1: there is nothing to iterate. enable_grad: as of ForwardDiffusion.trajectory."""
        nothing = context.value.new_zeros(self._check(context, target_params, allow_empty))
        with nullcontext() if enable_grad else torch.no_grad():
            condition = self.denoiser.condition(context, target_params)
            signal = self.denoiser(condition, nothing, nothing.new_ones(len(context)))
            step = Step(1.0, nothing, signal, self.forward_model(signal, target_params))
        return iter([step])


def _coarser(value: Float[Tensor, "b m *obs"], shape: torch.Size) -> Float[Tensor, "b m *small"]:
    """The value itself, or images averaged down to the resolution of `shape`."""
    if value.shape == shape:
        return value
    return nn.functional.adaptive_avg_pool2d(value.flatten(0, 1), shape[-2:]).view(shape)


def _threshold(observation: Float[Tensor, "b m *obs"], quantile: float) -> Float[Tensor, "b m *obs"]:
    """Dynamic thresholding: clip at the larger of 1 and the quantile of |observation|, and divide by it."""
    size = observation.abs().flatten(2).quantile(quantile, dim=2).clamp(min=1)
    size = size.reshape(size.shape + (1,) * (observation.ndim - 2))
    return observation.clamp(-size, size) / size
