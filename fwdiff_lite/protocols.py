"""The contract of a problem, in types: what its forward model and its denoiser must have, and what they may have.

    B  signals of a batch               M  observations of each signal
    *obs  shape of one observation      *par  shape of the parameters phi of one observation

A problem brings a `ForwardModel` and a `Denoiser`. Nothing has to inherit from these classes: an object fits a protocol
when it has its methods. The other protocols are optional. `ForwardDiffusion` looks once, when it is made, which of them
its two parts fit.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwdiff_lite.observations import Observations

Signal = Any  # whatever the forward model takes: a tensor, a source image with its flow, a radiance field
Condition = Any  # whatever `Denoiser.condition` returns; only the denoiser itself looks into it


@runtime_checkable
class Schedule(Protocol):
    """How much of the clean observation and how much noise a noisy observation holds at time t in [0, 1] (Eq. 1)."""

    def alpha(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The factor of the clean observation: 1 at t = 0, falling to 0 at t = 1."""

    def sigma(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The standard deviation of the noise; alpha^2 + sigma^2 = 1."""


@runtime_checkable
class TrainingSchedule(Protocol):
    """A schedule that chooses the times of training itself. Those of other schedules are uniform."""

    def training_time(self, u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Times t in [0, 1], from uniform numbers u in (0, 1)."""


@runtime_checkable
class ForwardModel(Protocol):
    """A differentiable map from a signal and parameters to observations (Eq. 5). A plain function will do."""

    def __call__(
        self, signal: Signal, params: Float[Tensor, "b m *par"], pixel_indices: Int[Tensor, "b m n"] | None = None
    ) -> Float[Tensor, "b m *obs"]:
        """The M observations of each signal.

        pixel_indices: of each image only these n pixels, as (B, M, C, n); indices into the flattened image. `loss` asks
            for pixels only where a batch holds "pixel_indices", so a forward model without them may leave this out
        """


@runtime_checkable
class CroppingForwardModel(Protocol):
    """A forward model whose observation covers a part of the canvas, such as a crop."""

    def support(self, params: Float[Tensor, "b m *par"]) -> Float[Tensor, "b m *#obs"]:
        """1 where an observation covers the canvas, 0 elsewhere; noise and loss are masked by it."""


@runtime_checkable
class NoisyForwardModel(Protocol):
    """A forward model whose observations are measurements: y = forward(S, phi) + noise_std n, with n ~ N(0, I).

    Targets are diffused and sampled as measurements, with their noise. Contexts are measurements, too, so a denoiser
    must not make the signal agree with them exactly. Signals come out without noise. A sampled signal is the mean of
    the signals that the context and the sampled targets leave possible: where M sampled values measure one number, the
    variance of the signals is too small by about noise_std**2 / M.
    """

    def noise_std(self, params: Float[Tensor, "b m *par"]) -> Float[Tensor, "b m"]:
        """The known standard deviation of each observation's noise, in the unit of the observation."""


@runtime_checkable
class Denoiser(Protocol):
    """A torch Module that predicts a signal (Eq. 4), in two methods: sampling calls the second one many times.

    Contexts and noisy targets come in units of the model's observation_scale, and are zero where they are masked.
    """

    def condition(
        self,
        context: Observations,
        target_params: Float[Tensor, "b m *par"],
        target_mask: Bool[Tensor, "b m"] | None = None,
    ) -> Condition:
        """Everything that does not depend on the noise; computed once per sample.

        target_mask: which of the M targets exist; None: all of them. A denoiser that cannot take masked targets refuses
            them, see observations.check_single_target
        """

    def forward(self, condition: Condition, noisy_target: Float[Tensor, "b m *obs"], t: Float[Tensor, "b"]) -> Signal:
        """The signal, given the noisy target at time t."""


@runtime_checkable
class ScheduledDenoiser(Protocol):
    """A denoiser that uses the noise schedule itself. The model has one schedule, and sets it here."""

    schedule: Schedule


@runtime_checkable
class ScaledDenoiser(Protocol):
    """A denoiser that uses the scale of the observations. The model has one scale, and sets it here.

    Contexts and noisy targets come in units of the scale. So a denoiser whose signals have the observations' unit
    returns observation_scale times its network's output, and known noise is noise_std / observation_scale there.
    """

    observation_scale: float


@runtime_checkable
class WeightedDenoiser(Protocol):
    """A denoiser that weighs the examples of a batch.

    A positive weight that depends on the condition and on t leaves the minimiser of the loss where it is. The inverse
    of the expected error lets small errors at small t count beside large errors at large t (Karras et al. 2022,
    Section 5).
    """

    def loss_weight(self, condition: Condition, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The factor of each example's loss."""


@runtime_checkable
class DeterministicDenoiser(Protocol):
    """A denoiser that also predicts the target from the context alone (O_det). The loss trains this prediction too."""

    def deterministic_prediction(self, condition: Condition) -> Observations | None:
        """The predicted targets (B, M, *obs), in the forward model's unit; images may have fewer pixels.

        None: no prediction is trained.
        """


@runtime_checkable
class PreparingDenoiser(Protocol):
    """A denoiser that computes, before the first of several steps, a part of each step that does not change."""

    def prepare_sampling(self, condition: Condition) -> Condition:
        """The condition for several steps without gradients. With it, `forward` predicts the same signals faster."""


@runtime_checkable
class BatchFunction(Protocol):
    """What `fit` draws its batches from: every process calls it with a generator in the same state."""

    def __call__(self, generator: torch.Generator) -> dict[str, Observations | Tensor]:
        """A batch: "context", "target", and optionally "novel", "pixel_indices" and "novel_pixel_indices".

        All random numbers must come from the generator, whose state is a part of a checkpoint: those of numpy and of
        Python's random are not. Every process draws the whole batch, and `fit` selects its rows.
        """


@runtime_checkable
class RowBatchFunction(Protocol):
    """A batch function that draws some rows of a batch without the others, such as row_random.RowBatches.

    batch_size: rows of a batch, over all processes
    """

    batch_size: int

    def __call__(self, generator: torch.Generator) -> dict[str, Observations | Tensor]:
        """The whole batch."""

    def draw_rows(self, generator: torch.Generator, rows: slice) -> dict[str, Observations | Tensor]:
        """These rows of the batch.

        The generator ends in the same state whichever rows are drawn, and the rows do not depend on the others.
        """
