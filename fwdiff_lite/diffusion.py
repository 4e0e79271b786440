"""Diffusion with a forward model (section 2.2): the losses of Eq. 8 and 9, the sampler of Eq. 3 to 7.

Noise is added to an observation, the *target*. The denoiser gets the noisy target and a clean observation, the
*context*, and predicts a signal S. The forward model computes the target's observation of that signal. Signals are
never given. fwdiff_lite/protocols.py says what a problem brings: a forward model and a denoiser.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from fwdiff_lite import model_file
from fwdiff_lite.checks import check_count
from fwdiff_lite.model_checks import (
    check_canvas,
    check_loss_input,
    check_noise_std,
    check_parts,
    check_sampler_input,
    check_sequence,
    checked_loss_weight,
    observe,
    raise_if_fixed_size,
)
from fwdiff_lite.observations import (
    Observations,
    apply_masks,
    downsample_to,
    expand_mask,
    gather_pixels,
    mask_correction,
    to_device,
)
from fwdiff_lite.protocols import (
    Condition,
    CroppingForwardModel,
    DeterministicDenoiser,
    ForwardModel,
    NoisyForwardModel,
    ScaledDenoiser,
    Schedule,
    ScheduledDenoiser,
    Signal,
    TrainingSchedule,
    WeightedDenoiser,
)
from fwdiff_lite.row_random import RowRandom, draw_key
from fwdiff_lite.sampling import (
    SamplerOptions,
    dynamic_threshold,
    eval_mode,
    join_chunks,
    prepare_sampling,
    reverse_step,
)
from fwdiff_lite.schedule import CosineSchedule

T_MAX = 1 - 1e-3  # sampling starts here: at t = 1 the noisy target holds nothing of the target
T_MIN = 1e-3  # training ends here: at t = 0 there is no noise


@dataclass(frozen=True)
class Step:
    """One sampling step: time t, the noisy target, the predicted signal (Eq. 4), and its observation (Eq. 5).

    noisy_target, observation: in the unit of the observations; zero for a masked target. With a NoisyForwardModel, the
        observation is the expected measurement, with its noise

    `sample` with num_samples=K has K samples of each context: noisy_target and observation (B, K, M, *obs), and signal
    (B, K, ...) if it is a tensor. Another signal has B K rows, those of one context in a row.
    """

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
    observation_scale: s, the standard deviation of the observations (see observations.observation_std). The model
        diffuses O / s, so that noise is as large as the observations. The denoiser gets contexts and noisy targets
        in units of s, and losses are in units of s^2. Signals are in the unit that the forward model takes, and
        observations have one unit wherever they go into the model or come out of it

    Raises ValueError where the denoiser lacks a method, or a number is out of range.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        forward_model: ForwardModel,
        schedule: Schedule | None = None,
        novel_weight: float = 1.0,
        target_shape: tuple[int, ...] | None = None,
        observation_scale: float = 1.0,
    ):
        super().__init__()
        check_parts(denoiser, forward_model, schedule, novel_weight, target_shape, observation_scale)
        self.denoiser = denoiser
        self.forward_model = forward_model
        scheduled = isinstance(denoiser, ScheduledDenoiser)
        self.schedule = schedule or (denoiser.schedule if scheduled else CosineSchedule())
        if scheduled:
            denoiser.schedule = self.schedule
        self.novel_weight = novel_weight
        self.target_shape = target_shape
        self.set_observation_scale(float(observation_scale))
        # decided here and not in `loss`: a compiled loss could not look
        self.crops = isinstance(forward_model, CroppingForwardModel)
        self.has_noise = isinstance(forward_model, NoisyForwardModel)
        self.weights_examples = isinstance(denoiser, WeightedDenoiser)
        self.predicts_target = isinstance(denoiser, DeterministicDenoiser)

    def set_observation_scale(self, scale: float) -> None:
        """Sets the scale of the model, and of a ScaledDenoiser."""
        self.observation_scale = scale
        if isinstance(self.denoiser, ScaledDenoiser):
            self.denoiser.observation_scale = scale

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
        n, device = batch_size or len(target), generator.device
        u = torch.arange(n, device=device) / n + torch.rand((), generator=generator, device=device)
        t = T_MIN + (T_MAX - T_MIN) * (u % 1)
        if isinstance(self.schedule, TrainingSchedule):
            t = self.schedule.training_time(t)
        if rows is None:
            noise = torch.randn(target.value.shape, generator=generator, device=device)
        else:
            t, random = t[rows], RowRandom(draw_key(generator), range(n)[rows])
            noise = random.normal(*target.value.shape[1:])
        return tuple(to_device(x.to(target.value.dtype), target.value.device) for x in (t, noise))

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

        "loss" is the weighted sum to be minimised; the other values are unweighted. All signals have the same weight,
        however many of their observations are masked.
        pixel_indices, novel_pixel_indices: the pixels of target and novel observations that count, as many of one as of
            the other; default: all pixels
        """
        views = {"target": (target, pixel_indices)}
        if novel is not None and self.novel_weight:
            views["novel"] = (novel, novel_pixel_indices)
        if novel is None and novel_pixel_indices is not None:
            raise ValueError("novel_pixel_indices are of no novel observation: give novel too")
        check_loss_input(self.denoiser, context, views, t, noise)
        views = {name: (self._scale_observations(view), pixels) for name, (view, pixels) in views.items()}
        context, target = self._scale_observations(context), views["target"][0]
        noisy_target = apply_masks(self._add_noise(target.value, noise, t), self._support(target.params), target.mask)
        condition = self.denoiser.condition(context, target.params, target.mask)
        signal = self.denoiser(condition, noisy_target, t)
        mse = self._per_example_mse(signal, views, noisy_target, t)
        check_canvas(target, context, self.target_shape)
        losses = {name: error.mean() for name, error in mse.items()}
        error = mse["target"] + self.novel_weight * mse.get("novel", 0.0)
        total = (checked_loss_weight(self.denoiser, condition, t) * error if self.weights_examples else error).mean()
        prediction = self.denoiser.deterministic_prediction(condition) if self.predicts_target else None
        if prediction is not None:
            truth = Observations(downsample_to(target.value, prediction.value.shape), target.params, target.mask)
            weight = mask_correction(truth.mask, truth.value).view(-1, *[1] * (truth.value.ndim - 1))
            losses["deterministic"] = (self._squared_error(self._divide_scale(prediction.value), truth) * weight).mean()
            total = total + losses["deterministic"]
        return {**losses, "loss": total}

    forward = loss  # a Module's forward, so that it compiles and runs on several devices

    def trajectory(
        self,
        context: Observations,
        target_params: Float[Tensor, "b m *par"],
        target_mask: Bool[Tensor, "b m"] | None = None,
        **options,
    ) -> Iterator[Step]:
        """Yields every step of sampling one signal per context, from noise to the last t > 0 (Eq. 3 to 7).

        target_mask: which of the M targets exist; default: all
        options: see SamplerOptions
        """
        sampler_options = SamplerOptions.parse("trajectory", options)
        shape = self._target_shape(context, target_params, target_mask, sampler_options)
        noise = partial(self._draw_noise, shape, context.value, sampler_options.generator)
        return self._iterate(context, target_params, target_mask, sampler_options, noise)

    def sample(
        self,
        context: Observations,
        target_params: Float[Tensor, "b m *par"],
        target_mask: Bool[Tensor, "b m"] | None = None,
        num_samples: int | None = None,
        chunk_size: int | None = None,
        progress: bool = False,
        **options,
    ) -> Step:
        """The last step of a trajectory: a signal for each context, with its observation at target_params.

        num_samples: K samples of each context, on an axis of their own (see Step); default: one, without the axis
        chunk_size: how many signals are sampled at once, to save memory; the noise does not depend on it
        progress: shows a progress bar
        target_mask, options: as of trajectory. Networks are in eval mode while they sample
        """
        sampler_options = SamplerOptions.parse("sample", options)
        shape = self._target_shape(context, target_params, target_mask, sampler_options)
        check_count(num_samples=1 if num_samples is None else num_samples)
        check_count(chunk_size=1 if chunk_size is None else chunk_size)
        if num_samples is not None:
            context, shape = context.repeat(num_samples), (num_samples * shape[0], *shape[1:])
            target_params, target_mask = (
                None if x is None else x.repeat_interleave(num_samples, 0) for x in (target_params, target_mask)
            )
        chunks = [slice(i, i + (chunk_size or shape[0])) for i in range(0, shape[0], chunk_size or shape[0])]
        state, steps = sampler_options.generator.get_state(), []
        bar = tqdm(total=len(chunks) * len(self._times(sampler_options)), disable=not progress, leave=False)
        with eval_mode(self), bar:
            for rows in chunks:
                # each chunk draws the noise of the whole batch, and takes its rows
                sampler_options.generator.set_state(state)
                noise = partial(self._draw_noise, shape, context.value, sampler_options.generator, rows)
                mask = None if target_mask is None else target_mask[rows]
                for step in self._iterate(context[rows], target_params[rows], mask, sampler_options, noise):
                    bar.set_postfix(t=f"{step.t:.2f}", refresh=False)
                    bar.update()
                steps.append((step.noisy_target, step.signal, step.observation))
        results = [join_chunks(parts) for parts in zip(*steps, strict=True)]
        if num_samples is not None:
            results = [x.unflatten(0, (-1, num_samples)) if isinstance(x, Tensor) else x for x in results]
        return Step(step.t, *results)

    def posterior_mean(
        self, context: Observations, target_params: Float[Tensor, "b m *par"], num_samples: int = 16, **options
    ) -> Float[Tensor, "b *signal"]:
        """The mean of num_samples sampled signals of each context; options: as of sample.

        ValueError for signals that are no tensors, and so have no mean.
        """
        signal = self.sample(context, target_params, num_samples=num_samples, **options).signal
        if not isinstance(signal, Tensor):
            raise ValueError(f"signals of type {type(signal).__name__} have no mean: take that of their observations")
        return signal.mean(1)

    def sample_autoregressive(
        self, context: Observations, params_sequence: Float[Tensor, "b l *par"], **options
    ) -> tuple[Step, Observations]:
        """Samples L targets one after another; each joins the context of the next. Returns the last step and context.

        A part of the signal that neither context nor target observes comes out as its mean. A later target that
        observes this part samples it (section 4.1).

        options: as of sample, but for num_samples: give context.repeat(k) and as many rows of params_sequence
        """
        check_sequence(params_sequence, options)
        first = context
        for params in params_sequence.split(1, dim=1):
            try:
                step = self.sample(context, params, **options)
            except RuntimeError as error:
                raise_if_fixed_size(error, first, context)
                raise
            context = context.append(Observations(step.observation, params))
        return step, context

    def save(self, path: str | os.PathLike) -> None:
        """Writes the denoiser's weights, with schedule and observation_scale, as a safetensors file."""
        model_file.save(self, path)

    def load(self, path: str | os.PathLike) -> ForwardDiffusion:
        """This model with the weights and the observation_scale of a file that `save` wrote; nothing is unpickled.

        ValueError, before anything is changed, for a file of another network or schedule, or a damaged one.
        """
        return model_file.load(self, path)

    def _target_shape(
        self, context: Observations, target_params: Tensor, target_mask: Tensor | None, sampler_options: SamplerOptions
    ) -> tuple[int, ...]:
        """The shape (B, M, *obs) of the targets to be sampled. ValueError where the arguments do not fit."""
        check_sampler_input(self.denoiser, context, target_params, target_mask, sampler_options.allow_empty)
        canvas = context.value.shape[2:] if self.target_shape is None else self.target_shape
        return (*target_params.shape[:2], *canvas)

    def _times(self, sampler_options: SamplerOptions) -> list[float]:
        """The times that the sampler visits."""
        return sampler_options.times(T_MAX)

    def _draw_noise(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator, rows: slice = slice(None)
    ) -> Tensor:
        """Some rows of noise of that shape, in the type of the tensor `like`."""
        return torch.randn(shape, generator=generator, device=generator.device)[rows].to(like)

    def _iterate(
        self,
        context: Observations,
        target_params: Tensor,
        target_mask: Tensor | None,
        sampler_options: SamplerOptions,
        draw_noise: Callable[[], Tensor],
    ) -> Iterator[Step]:
        """The steps of a trajectory, whose arguments are checked."""
        grad_mode = nullcontext if sampler_options.enable_grad else torch.no_grad
        times = self._times(sampler_options)
        with grad_mode():
            context, support = self._scale_observations(context), self._support(target_params)

            def noise() -> Tensor:
                return apply_masks(sampler_options.temperature * draw_noise(), support, target_mask)

            condition = self.denoiser.condition(context, target_params, target_mask)
            unconditional = None
            if sampler_options.guidance != 1.0:
                empty = context.mask_out(torch.ones_like(context.mask))
                unconditional = self.denoiser.condition(empty, target_params, target_mask)
            if len(times) > 1:
                condition, unconditional = prepare_sampling(self.denoiser, condition, unconditional)
            noisy_target = noise()
        for t, t_next in zip(times, times[1:] + [None], strict=True):
            with grad_mode():
                signal, observation = self._predict(
                    noisy_target, t, condition, unconditional, sampler_options.guidance, target_params
                )
                if self.has_noise:
                    batch_t = noisy_target.new_full(noisy_target.shape[:1], t)
                    observation = self._expected_measurement(observation, target_params, noisy_target, batch_t)
                if target_mask is not None:
                    observation = torch.where(expand_mask(target_mask, observation), observation, 0)
                if sampler_options.threshold is not None:
                    observation = dynamic_threshold(observation, sampler_options.threshold)
                step = Step(t, self._multiply_scale(noisy_target), signal, self._multiply_scale(observation))
            yield step  # outside of grad_mode: the caller has control here
            if t_next is not None:
                with grad_mode():
                    noisy_target = reverse_step(
                        self.schedule, noisy_target, observation, t, t_next, sampler_options.eta, noise
                    )
                    noisy_target = apply_masks(noisy_target, support, target_mask)

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
        """forward(S, phi) in units of the scale, or a ValueError if it has another shape than the targets."""
        return self._divide_scale(observe(self.forward_model, signal, params, shape))

    def _divide_scale(self, x: Tensor) -> Tensor:
        return x if self.observation_scale == 1 else x / self.observation_scale

    def _multiply_scale(self, x: Tensor) -> Tensor:
        return x if self.observation_scale == 1 else x * self.observation_scale

    def _scale_observations(self, observations: Observations) -> Observations:
        """The observations in units of the scale. Masked values are zero: a NaN there would spread, as 0 x NaN."""
        value = torch.where(expand_mask(observations.mask, observations.value), observations.value, 0)
        return Observations(self._divide_scale(value), observations.params, observations.mask)

    def _add_noise(self, clean: Tensor, noise: Tensor, t: Float[Tensor, "b"]) -> Tensor:
        """alpha_t clean + sigma_t noise (Eq. 1)."""
        t = t.reshape(-1, *[1] * (clean.ndim - 1))
        return self.schedule.alpha(t) * clean + self.schedule.sigma(t) * noise

    def _expected_measurement(
        self, observation: Tensor, params: Tensor, noisy_target: Tensor, t: Float[Tensor, "b"]
    ) -> Tensor:
        """E[y | S, noisy target] of a measurement y = O + noise (NoisyForwardModel), all in units of the scale.

        Measurements are diffused and sampled. The noisy target alpha y + sigma epsilon says something of the noise of
        y, too. Without that share, the loss would ask for a signal with the measurement's noise.
        """
        ones = [1] * (observation.ndim - 2)
        t = t.reshape(-1, 1, *ones)
        alpha, sigma, noise_std = self.schedule.alpha(t), self.schedule.sigma(t), self.forward_model.noise_std(params)
        check_noise_std(noise_std, params)
        variance = self._divide_scale(noise_std).square().reshape(*noise_std.shape, *ones)
        gain = alpha * variance / (alpha.square() * variance + sigma.square())
        return observation + gain * (noisy_target - alpha * observation)

    def _support(self, params: Tensor) -> Tensor | float:
        return self.forward_model.support(params) if self.crops else 1.0

    def _squared_error(self, prediction: Tensor, truth: Observations) -> Tensor:
        """The squared error of a prediction in units of the scale, zero where the truth is masked."""
        difference = prediction - truth.value
        # in this order: see _scale_observations
        return torch.where(expand_mask(truth.mask, difference), difference, 0).square()

    def _per_example_mse(
        self,
        signal: Signal,
        views: dict[str, tuple[Observations, Tensor | None]],
        noisy_target: Tensor,
        t: Float[Tensor, "b"],
    ) -> dict[str, Float[Tensor, "b"]]:
        """|O - forward(S, phi)|^2 of each view (observations and their pixels): a mean over each signal's observations.

        The forward model is called once for all views: a generator makes one image, whichever crops are taken from it.
        """
        params = torch.cat([observations.params for observations, _ in views.values()], 1)
        indices = [pixels for _, pixels in views.values() if pixels is not None]
        options = {"pixel_indices": torch.cat(indices, 1)} if indices else {}
        counts = [observations.params.shape[1] for observations, _ in views.values()]
        predictions = observe(self.forward_model, signal, params, **options).split(counts, 1)
        mse = {}
        for (name, (truth, pixels)), prediction in zip(views.items(), predictions, strict=True):
            if pixels is not None:
                truth = Observations(gather_pixels(truth.value, pixels), truth.params, truth.mask)
            given, wanted = tuple(prediction.shape), tuple(truth.value.shape)
            if given != wanted:
                raise ValueError(f"forward_model gave {given} where the observations are {wanted}")
            prediction = self._divide_scale(prediction)
            if name == "target" and self.has_noise:
                pixels_of_target = noisy_target if pixels is None else gather_pixels(noisy_target, pixels)
                prediction = self._expected_measurement(prediction, truth.params, pixels_of_target, t)
            squared_error = self._squared_error(prediction, truth) * self._support(truth.params)
            mse[name] = squared_error.flatten(1).mean(1) * mask_correction(truth.mask, truth.value)
        return mse


class ForwardRegression(ForwardDiffusion):
    """The deterministic baseline: the same network, forward model and losses, without a noisy target.

    It is the diffusion model at t = 1, with zero in place of the noisy target. One pass gives the signal whose
    observations are nearest to the conditional mean. It takes the options of the diffusion model; those of noise and
    steps have no effect, and num_samples samples are the same.
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

    def _times(self, sampler_options: SamplerOptions) -> list[float]:
        return [1.0]

    def _draw_noise(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator, rows: slice = slice(None)
    ) -> Tensor:
        return like.new_zeros(shape)[rows]
