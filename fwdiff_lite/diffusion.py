"""Diffusion with a forward model (section 2.2): the losses of Eq. 8 and 9, the sampler of Eq. 3 to 7.

Noise is added to an observation, the *target*. The denoiser gets the noisy target and a clean observation, the
*context*, and predicts a signal S. The forward model computes the target's observation of that signal. Signals are
never given. fwdiff_lite/protocols.py says what a problem brings: a forward model and a denoiser.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fwdiff_lite.observations import Observations, gather_pixels, to_device
from fwdiff_lite.protocols import (
    Condition,
    CroppingForwardModel,
    Denoiser,
    DeterministicDenoiser,
    ForwardModel,
    NoisyForwardModel,
    Schedule,
    ScheduledDenoiser,
    Signal,
    WeightedDenoiser,
)
from fwdiff_lite.row_random import RowRandom, draw_key
from fwdiff_lite.schedule import CosineSchedule, check_time

T_MAX = 1 - 1e-3  # sampling starts here: at t = 1 the noisy target holds nothing of the target
T_MIN = 1e-3  # training ends here: at t = 0 there is no noise


@dataclass(frozen=True)
class Step:
    """One step of sampling: at time t, from the noisy target, the signal (Eq. 4) and its observation (Eq. 5)."""

    t: float
    noisy_target: Float[Tensor, "b m *obs"]
    signal: Signal
    observation: Float[Tensor, "b m *obs"]


class ForwardDiffusion(nn.Module):
    """A conditional diffusion model of signals that are only observed through a forward model.

    denoiser, forward_model: see fwdiff_lite/protocols.py
    schedule: the noise schedule, which the denoiser shares; default: the denoiser's own, or else the cosine schedule
    novel_weight: weight of Eq. 9 beside Eq. 8; at 0, novel observations are ignored
    target_shape: shape of one target observation, where it differs from the context's

    Raises ValueError where the denoiser lacks a method, or the forward model states noise.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        forward_model: ForwardModel,
        schedule: Schedule | None = None,
        novel_weight: float = 1.0,
        target_shape: tuple[int, ...] | None = None,
    ):
        super().__init__()
        if not isinstance(denoiser, Denoiser):
            raise ValueError(
                f"{type(denoiser).__name__} is no denoiser: it needs condition(context, target_params, target_mask) "
                "and forward(condition, noisy_target, t)"
            )
        if isinstance(forward_model, NoisyForwardModel):
            raise ValueError("the forward model states noise_std, but only noiseless observations are modelled yet")
        self.denoiser = denoiser
        self.forward_model = forward_model
        scheduled = isinstance(denoiser, ScheduledDenoiser)
        self.schedule = schedule or (denoiser.schedule if scheduled else CosineSchedule())
        if scheduled:
            denoiser.schedule = self.schedule
        self.novel_weight = novel_weight
        self.target_shape = target_shape
        # decided here and not in `loss`: a compiled loss could not look
        self.crops = isinstance(forward_model, CroppingForwardModel)
        self.weights_examples = isinstance(denoiser, WeightedDenoiser)
        self.predicts_target = isinstance(denoiser, DeterministicDenoiser)

    def sample_time_and_noise(
        self,
        target: Observations,
        generator: torch.Generator,
        rows: slice | None = None,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All random numbers of a loss: times t (B,), spread evenly over the batch, and noise like the target.

        rows, batch_size: the target holds these rows of a batch of this size; the noise is drawn row by row. None: the
            target is the whole batch
        """
        n = batch_size or len(target)
        offset = torch.rand((), generator=generator, device=generator.device)
        t = (torch.arange(n, device=generator.device) / n + offset) % 1
        if rows is None:
            noise = torch.randn(target.value.shape, generator=generator, device=generator.device)
        else:
            t, random = t[rows], RowRandom(draw_key(generator), range(n)[rows])
            noise = random.normal(*target.value.shape[1:])
        t = T_MIN + (T_MAX - T_MIN) * t
        device, dtype = target.value.device, target.value.dtype
        return to_device(t.to(dtype), device), to_device(noise.to(dtype), device)

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
        """Eq. 8 and 9 as means over the batch: {"target"[, "novel"][, "deterministic"], "loss"}. Nothing is random.

        "loss" is the weighted sum to be minimised; the other values are unweighted.
        pixel_indices, novel_pixel_indices: the pixels of target and novel observations that count, as many of one as of
            the other; default: all pixels
        """
        check_time(t)
        if noise.shape != target.value.shape or t.shape != target.value.shape[:1]:
            raise ValueError(
                f"t {tuple(t.shape)} and noise {tuple(noise.shape)} do not fit a target of {tuple(target.value.shape)}"
            )
        views = {"target": (target, pixel_indices)}
        if novel is not None and self.novel_weight:
            if (pixel_indices is None) != (novel_pixel_indices is None):
                raise ValueError(
                    "pixels of target or novel observation only: give pixel_indices and novel_pixel_indices, or neither"
                )
            views["novel"] = (novel, novel_pixel_indices)
        clean = torch.where(_expand(target.mask, target.value), target.value, 0)  # a masked NaN would spread
        noisy_target = self._add_noise(clean, noise, t) * self._support(target.params)
        condition = self.denoiser.condition(context, target.params, target.mask)
        signal = self.denoiser(condition, noisy_target, t)
        mse = self._per_example_mse(signal, views)
        losses = {name: error.mean() for name, error in mse.items()}
        error = mse["target"] + self.novel_weight * mse.get("novel", 0.0)
        total = (self.denoiser.loss_weight(condition, t) * error if self.weights_examples else error).mean()
        prediction = self.denoiser.deterministic_prediction(condition) if self.predicts_target else None
        if prediction is not None:
            squared_error = (prediction.value - _downsample_to(target.value, prediction.value.shape)).square()
            losses["deterministic"] = torch.where(_expand(target.mask, target.value), squared_error, 0).mean()
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
        """Yields every step of sampling one signal per context, from noise to the smallest t > 0 (Eq. 3 to 7).

        steps: how many times t the sampler visits, evenly spaced from T_MAX down
        eta: 0 is DDIM (deterministic given the first noise), 1 is ancestral sampling (Song et al. 2021, Eq. 16)
        generator: of all noise; default: torch's global one
        allow_empty: allows contexts without any observation, for an unconditional model
        enable_grad: keeps the graph of gradients back to the context, through all earlier steps, where the caller has
            gradients enabled; default: no graph. Between two steps, the caller's own setting holds

        Three options bias the samples, and are off by default. guidance > 1 extrapolates away from the unconditional
        prediction: of the signal if it is a tensor, else of the observation. temperature < 1 scales all noise.
        threshold, a quantile such as 0.995, scales each predicted observation into [-1, 1] (Saharia et al. 2022).
        """
        shape = self._target_shape(context, target_params, allow_empty)
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        grad_mode = nullcontext if enable_grad else torch.no_grad

        def iterate() -> Iterator[Step]:
            with grad_mode():
                support = self._support(target_params)

                def noise():
                    z = torch.randn(shape, generator=generator, device=generator.device if generator else None)
                    return temperature * z.to(context.value) * support

                condition = self.denoiser.condition(context, target_params)
                unconditional = None
                if guidance != 1.0:
                    empty = context.mask_out(torch.ones_like(context.mask))
                    unconditional = self.denoiser.condition(empty, target_params)
                noisy_target = noise()
            times = torch.linspace(T_MAX, 0, steps + 1, dtype=torch.float64)[:-1].tolist()
            for t, t_next in zip(times, times[1:] + [None], strict=True):
                with grad_mode():
                    signal, observation = self._predict(
                        noisy_target, t, condition, unconditional, guidance, target_params
                    )
                    if threshold is not None:
                        observation = _dynamic_threshold(observation, threshold)
                yield Step(t, noisy_target, signal, observation)  # outside of grad_mode: the caller has control here
                if t_next is not None:
                    with grad_mode():
                        noisy_target = self._reverse_step(noisy_target, observation, t, t_next, eta, noise) * support

        return iterate()

    def sample(self, context: Observations, target_params: Float[Tensor, "b m *par"], **options) -> Step:
        """The last step of a trajectory: one signal for each context, with its observation at target_params."""
        return deque(self.trajectory(context, target_params, **options), maxlen=1).pop()

    def sample_autoregressive(
        self, context: Observations, params_sequence: Float[Tensor, "b l *par"], **options
    ) -> tuple[Step, Observations]:
        """Samples L targets one after another; each joins the context of the next. Returns the last step and context.

        A part of the signal that neither context nor target observes comes out as its mean. A later target that
        observes this part samples it (section 4.1).
        """
        if params_sequence.ndim < 2 or params_sequence.shape[1] < 1:
            raise ValueError(f"params_sequence must be (B, L, *par) with L >= 1, got {tuple(params_sequence.shape)}")
        for params in params_sequence.split(1, dim=1):
            step = self.sample(context, params, **options)
            context = context.append(Observations(step.observation, params))
            options["allow_empty"] = False
        return step, context

    def _target_shape(self, context: Observations, target_params: Tensor, allow_empty: bool) -> tuple[int, ...]:
        """The shape (B, M, *obs) of the targets to be sampled. ValueError where context and parameters do not fit."""
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
        self,
        noisy_target: Tensor,
        t: float,
        condition: Condition,
        unconditional: Condition | None,
        guidance: float,
        target_params: Tensor,
    ) -> tuple[Signal, Tensor]:
        """The signal at time t and its observation (Eq. 4 and 5), guided away from the unconditional prediction."""
        batch_t = noisy_target.new_full(noisy_target.shape[:1], t)
        signal = self.denoiser(condition, noisy_target, batch_t)
        if unconditional is None:
            return signal, self._observe(signal, target_params, noisy_target.shape)
        unguided = self.denoiser(unconditional, noisy_target, batch_t)
        if isinstance(signal, Tensor):
            signal = unguided + guidance * (signal - unguided)
            return signal, self._observe(signal, target_params, noisy_target.shape)
        unguided, observation = (self._observe(x, target_params, noisy_target.shape) for x in (unguided, signal))
        return signal, unguided + guidance * (observation - unguided)

    def _observe(self, signal: Signal, params: Tensor, shape: torch.Size) -> Tensor:
        """forward(S, phi), or a ValueError if it has another shape than the targets."""
        observation = self.forward_model(signal, params)
        if observation.shape != shape:
            raise ValueError(f"forward_model gave {tuple(observation.shape)} where the targets are {tuple(shape)}")
        return observation

    def _add_noise(self, clean: Tensor, noise: Tensor, t: Float[Tensor, "b"]) -> Tensor:
        """alpha_t clean + sigma_t noise (Eq. 1)."""
        t = t.reshape(-1, *[1] * (clean.ndim - 1))
        return self.schedule.alpha(t) * clean + self.schedule.sigma(t) * noise

    def _support(self, params: Tensor) -> Tensor | float:
        return self.forward_model.support(params) if self.crops else 1.0

    def _per_example_mse(
        self, signal: Signal, views: dict[str, tuple[Observations, Tensor | None]]
    ) -> dict[str, Float[Tensor, "b"]]:
        """|O - forward(S, phi)|^2 of each view (observations and their pixels): a mean over each signal's observations.

        What is masked counts as zero. The forward model is called once for all views: a generator makes one image,
        whichever crops are taken from it.
        """
        params = torch.cat([observations.params for observations, _ in views.values()], 1)
        indices = [pixels for _, pixels in views.values() if pixels is not None]
        options = {"pixel_indices": torch.cat(indices, 1)} if indices else {}
        counts = [observations.params.shape[1] for observations, _ in views.values()]
        predictions = self.forward_model(signal, params, **options).split(counts, 1)
        mse = {}
        for (name, (truth, pixels)), prediction in zip(views.items(), predictions, strict=True):
            value = truth.value if pixels is None else gather_pixels(truth.value, pixels)
            if prediction.shape != value.shape:
                raise ValueError(
                    f"forward_model gave {tuple(prediction.shape)} where the observations are {tuple(value.shape)}"
                )
            squared_error = torch.where(_expand(truth.mask, value), (prediction - value).square(), 0)
            mse[name] = (squared_error * self._support(truth.params)).flatten(1).mean(1)
        return mse

    def _reverse_step(self, noisy_target, observation, t: float, t_next: float, eta: float, noise) -> Tensor:
        """One draw of the target at t_next < t, given it at t and its clean prediction (Eq. 6; DDIM Eq. 12 and 16)."""
        alpha, sigma, alpha_next, sigma_next = (
            float(f(torch.tensor(x, dtype=torch.float64)))
            for x in (t, t_next)
            for f in (self.schedule.alpha, self.schedule.sigma)
        )
        epsilon = (noisy_target - alpha * observation) / sigma
        sigma_eta = eta * sigma_next / sigma * max(0.0, 1 - (alpha / alpha_next) ** 2) ** 0.5  # of the fresh noise
        sigma_dir = (sigma_next**2 - sigma_eta**2) ** 0.5  # of the direction that points to the present noise
        mean = alpha_next * observation + sigma_dir * epsilon
        return mean + sigma_eta * noise() if sigma_eta else mean


class ForwardRegression(ForwardDiffusion):
    """The deterministic baseline: the same network, forward model and losses, without a noisy target.

    It is the diffusion model at t = 1, with zero in place of the noisy target. One pass gives the signal whose
    observations are nearest to the conditional mean.
    """

    def sample_time_and_noise(
        self,
        target: Observations,
        generator: torch.Generator,
        rows: slice | None = None,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """t = 1 and no noise."""
        return target.value.new_ones(len(target)), torch.zeros_like(target.value)

    def _add_noise(self, clean: Tensor, noise: Tensor, t: Float[Tensor, "b"]) -> Tensor:
        return torch.zeros_like(clean)

    def trajectory(
        self, context, target_params, allow_empty: bool = False, enable_grad: bool = False
    ) -> Iterator[Step]:
        """One step, at t = 1: nothing is iterated. enable_grad: see ForwardDiffusion.trajectory."""
        zeros = context.value.new_zeros(self._target_shape(context, target_params, allow_empty))

        def iterate() -> Iterator[Step]:
            with nullcontext() if enable_grad else torch.no_grad():
                condition = self.denoiser.condition(context, target_params)
                signal = self.denoiser(condition, zeros, zeros.new_ones(len(context)))
                step = Step(1.0, zeros, signal, self._observe(signal, target_params, zeros.shape))
            yield step

        return iterate()


def _expand(mask: Bool[Tensor, "b m"], value: Float[Tensor, "b m *obs"]) -> Bool[Tensor, "b m *one"]:
    """The mask with as many axes as the value."""
    return mask.reshape(mask.shape + (1,) * (value.ndim - 2))


def _downsample_to(value: Float[Tensor, "b m *obs"], shape: torch.Size) -> Float[Tensor, "b m *small"]:
    """The value itself, or images averaged down to the resolution of `shape`."""
    if value.shape == shape:
        return value
    return nn.functional.adaptive_avg_pool2d(value.flatten(0, 1), shape[-2:]).view(shape)


def _dynamic_threshold(observation: Float[Tensor, "b m *obs"], quantile: float) -> Float[Tensor, "b m *obs"]:
    """Dynamic thresholding: clip at the larger of 1 and the quantile of |observation|, and divide by it."""
    magnitudes = observation.abs().reshape(*observation.shape[:2], -1).float()  # quantile knows no half precision
    size = magnitudes.quantile(quantile, dim=2).clamp(min=1).to(observation)
    size = size.reshape(size.shape + (1,) * (observation.ndim - 2))
    return observation.clamp(-size, size) / size
