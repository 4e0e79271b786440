"""fit(): the one training loop of this repository, for diffusion models, baselines and oracles alike.

A model is a Module with three parts. `denoiser` is the Module that is trained, averaged and saved.
`sample_time_and_noise(target, generator)` returns all random numbers of a loss, for a whole batch.
`forward(context, target, *random_numbers, ...)` returns a dict of scalars, whose "loss" is minimised.

Every process draws the same whole batch and the same random numbers, and selects its own rows; a
protocols.RowBatchFunction draws these rows only. So any number of processes trains on the same data as one.
fwdiff_lite/batches.py says where batches come from, fwdiff_lite/processes.py has what the processes share, and
fwdiff_lite/training_state.py has the state of a training and its checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from fwdiff_lite.batches import (
    DrawAhead,
    EpochBatches,
    check_batch,
    check_batch_keys,
    check_targets,
    check_values,
    describe_batch,
    to_batch_function,
)
from fwdiff_lite.checks import check_count, check_positive
from fwdiff_lite.devices import autocast_bf16
from fwdiff_lite.interrupts import collected_interrupts, deferred_interrupt, raise_interrupt, sigterm_as_interrupt
from fwdiff_lite.observations import Observations, to_device
from fwdiff_lite.processes import ProcessSync, make_accelerator, process_rows
from fwdiff_lite.protocols import BatchFunction, RowBatchFunction
from fwdiff_lite.storage.files import UnwritableError
from fwdiff_lite.training_checks import (
    SCALE_STEPS,
    TargetScale,
    check_gradients,
    check_losses,
    check_model,
    describe_model,
    warn_of_zero_gradients,
)
from fwdiff_lite.training_state import Checkpointing, Optimization, RecentSteps, TrainingLog, TrainingState
from fwdiff_lite.validation import Validation

if TYPE_CHECKING:
    from accelerate import Accelerator
else:
    Accelerator = Any  # see processes.py

INTERRUPTED = 130  # exit status of a command whose training was interrupted; shells use it for Ctrl-C
CHECK_EVERY = 50  # steps between two checks of the losses: each check makes a GPU wait


def compile_model(model: nn.Module) -> nn.Module:
    """The model, compiled as `fit` compiles it."""
    # channels last: otherwise a GPU's convolutions transpose every image twice, for a sixth of a step's time
    return torch.compile(model, options={"force_layout_optimization": True})


def fit(
    model: nn.Module,
    batches: BatchFunction | Iterable[Mapping],
    *,
    steps: int | None = None,
    seconds: float | None = None,
    learning_rate: float = 1e-3,
    muon_learning_rate: float | None = None,
    weight_decay: float = 0.0,
    warmup: int = 100,
    clip: float = 1.0,
    ema: float = 0.999,
    seed: int = 0,
    bf16: bool = False,
    compile: bool = False,
    draw_ahead: bool = False,
    validate: Callable[[nn.Module], float | Mapping[str, float]] | None = None,
    validate_every: int = 1000,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 1000,
    checkpoint_minutes: float | None = None,
    resume: str = "check",
    progress: bool | None = True,
    accelerator: Accelerator | None = None,
) -> TrainingLog:
    """Trains model.denoiser with AdamW and Muon; it ends with the exponential moving average (EMA) of its weights.

    batches: a function batch(generator), see protocols.BatchFunction, or an iterable of batches, such as a DataLoader,
        which is iterated over again and again. On several processes, each of them gets the same whole batches, and
        trains on its rows: give the DataLoader no DistributedSampler
    steps, seconds: the budget, whichever ends first; the learning rate rises over `warmup` steps (fewer never reach its
        peak) and falls to zero along a half cosine over the budget. The first step of every call compiles, and
        its seconds do not count
    muon_learning_rate: trains the hidden matrices (muon.hidden_matrices) with Muon at this rate, and the other weights
        with AdamW at `learning_rate`; None: AdamW trains all weights
    clip: the largest norm of the gradient; larger gradients are scaled down
    ema: the decay of the EMA, smaller at the start (at step n at most (1 + n) / (10 + n))
    seed: of the generator of batches, times and noise, and of the order of a DataLoader without its own generator
    bf16: forward and backward pass in bfloat16 where that is safe (autocast); weights and EMA stay in float32
    draw_ahead: draws each batch of a function, with its times and noise, in a thread while the device computes the step
        before. A GPU then need not wait for the CPU's draws. The numbers stay the same if a batch depends on the
        function's generator alone and is made of new tensors at every call. The thread uses the caller's CUDA stream;
        its other contexts, such as torch.device and torch.autocast, do not reach the thread. The batches of an iterable
        are not drawn ahead: a DataLoader has workers for that
    validate: validate(model) returns a number or a dict of numbers for log.validation; it is called every
        `validate_every` steps and at the end, with the EMA as weights, on every process; validation.validation_loss
        makes one for a data set. It changes nothing in the training, but its seconds count
    checkpoint: a file that is written every `checkpoint_every` steps, after `checkpoint_minutes` without a save, and at
        the end, and resumed from if it exists; on one process the result is that of an uninterrupted training, bit for
        bit (a budget in seconds aside), if a batch function draws from its generator or, without draw_ahead, from
        torch's global random numbers: those of numpy and of Python are not in the file. A resumed epoch of an iterable
        begins again, and the batches that were trained on are read and left out: the order must follow from torch's
        global random numbers (that of a DataLoader with a generator of its own or with persistent_workers does not)
    resume: "check" refuses a checkpoint of another seed, learning rate or other option of the optimiser, of other
        shapes of batches, of other classes of model, denoiser or forward model, or of another schedule,
        observation_scale or novel_weight; "ignore" resumes with the options of this call
    progress: whether to show a bar on the standard error; None: where that is a terminal
    accelerator: an accelerate.Accelerator, for several devices. By default one is made here, on the device that
        accelerate finds, but on the CPU in place of Apple's MPS: ask for MPS with accelerator=Accelerator()

    A KeyboardInterrupt (Ctrl-C, a notebook's stop button) ends the training early: the state is written to the
    checkpoint, one line says so, and the log is returned with `interrupted` set. SIGTERM (kill, a cluster's time limit)
    does the same; then it is sent again, which by default ends the process. Python sends signals to the main thread
    only: a training in another thread goes on. In a cell that uses `await`, Jupyter cancels the cell instead, after the
    training.

    Raises ValueError without a budget above 0, on wrong batches, on an unusable checkpoint, and if a loss or a gradient
    is not finite. Such a step never changes the weights. Raises storage.files.UnwritableError, a ValueError and an
    OSError, if the disk takes no checkpoint. However a training ends, the model holds the EMA and is in
    eval mode, on the device where it was. Warns if the targets have a standard deviation outside .25 to 4, or if the
    first gradients are all 0.
    """
    budget = _Budget(steps, seconds)
    optimization = Optimization(learning_rate, weight_decay, warmup, clip, ema, seed, muon_learning_rate)
    checkpointing = Checkpointing(checkpoint, checkpoint_every, checkpoint_minutes, resume)
    validation = Validation(validate, validate_every)
    batch = to_batch_function(batches, seed)
    check_model(model)
    interrupts: list = []
    with sigterm_as_interrupt(interrupts), _original_devices(model):
        with collected_interrupts(interrupts):  # imports that are cut off leave torch unusable
            accelerator = make_accelerator(accelerator)
            state = TrainingState(model.denoiser.to(accelerator.device), optimization)
            training = _Training(model, batch, state, budget, validation, checkpointing, accelerator)
            training.prepare(compile, bf16, draw_ahead)
        training.run(interrupts, progress)
    return state.log


@dataclass(frozen=True)
class _Budget:
    """Steps and seconds of a training, whichever ends first. ValueError if both are None, or one is not above 0."""

    steps: int | None
    seconds: float | None

    def __post_init__(self):
        if self.steps is None and self.seconds is None:
            raise ValueError("fit needs a budget: give steps, seconds or both")
        if self.steps is not None:
            check_count(steps=self.steps)
        if self.seconds is not None:
            check_positive(seconds=self.seconds)

    def fraction(self, log: TrainingLog) -> float:
        """How much of the budget is spent: 1 or more at its end."""
        by_steps = log.steps / self.steps if self.steps else 0.0
        return max(by_steps, log.seconds / self.seconds if self.seconds else 0.0)


class _Training:
    """The loop of `fit`."""

    def __init__(
        self,
        model: nn.Module,
        batch: BatchFunction,
        state: TrainingState,
        budget: _Budget,
        validation: Validation,
        checkpointing: Checkpointing,
        accelerator: Accelerator,
    ):
        self.model, self.batch, self.state, self.log = model, batch, state, state.log
        self.budget, self.validation, self.checkpointing = budget, validation, checkpointing
        self.accelerator, self.sync, self.recent = accelerator, ProcessSync(accelerator), RecentSteps()
        self.scale = TargetScale(model, accelerator.is_main_process)
        self.earlier_settings: dict[str, Any] = {}  # of the checkpoint that is resumed from
        self.seconds_at_save = 0.0

    def prepare(self, compile: bool, bf16: bool, draw_ahead: bool) -> None:
        """Resumes from the checkpoint if there is one, and makes the loss on this process's device."""
        self.state.settings |= describe_model(self.model)
        if self.checkpointing.path is not None:
            self._resume()
        self.bf16, self.compiles, self.first_step = bf16, compile, self.log.steps
        self.draws = DrawAhead(self._draw_whole, self.state.generator, self.accelerator.device)
        self.draws_ahead = draw_ahead and not isinstance(self.batch, EpochBatches)
        # without a wrapper around the model, one process and several have the same compiled graph
        self.loss = self.accelerator.prepare_model(self.model, evaluation_mode=True)
        self.sync.copy_from_main_process([*self.state.weights, *self.state.ema])
        if compile:
            self.loss = compile_model(self.loss)

    def _resume(self) -> None:
        """Loads the checkpoint if it exists. ValueError if not all processes find the same."""
        state, path = self.state, self.checkpointing.path
        self.accelerator.wait_for_everyone()
        if path.exists():
            self.earlier_settings = state.load(self.checkpointing)
        if not self.sync.is_equal(torch.tensor(float(state.log.steps))):
            raise ValueError(f"processes resume {path} at different steps: every host needs the same file")
        state.settings = self.earlier_settings | state.settings
        self.log = state.log
        self.sync.earlier_seconds = self.seconds_at_save = state.log.seconds
        if not self._has_ended():  # a complete training is read from a folder that cannot be written, too
            self.checkpointing.check_writable()
        if isinstance(self.batch, EpochBatches):
            self.batch.position = state.position

    def run(self, interrupts: list, progress: bool | None) -> None:
        """Trains until the budget is spent or an interrupt ends the training; then the denoiser holds the EMA."""
        hidden = None if progress is None else not progress  # with None, tqdm shows the bar on a terminal alone
        bar = tqdm(
            total=self.budget.steps,
            initial=self.log.steps,
            desc="the first step compiles the model, which takes minutes" if self.compiles else None,
            disable=hidden if self.accelerator.is_main_process else True,
            leave=False,
        )
        # several processes must end at the same step, so all of them learn of one's interrupt
        handling = collected_interrupts(interrupts) if self.sync.group is not None else nullcontext()
        try:
            with handling:
                raise_interrupt(bool(interrupts))
                if self._has_ended() and self.accelerator.is_main_process:
                    path = self.checkpointing.path
                    print(f"{path} has spent the budget, at step {self.log.steps}: nothing was trained")
                self.state.denoiser.train()
                while not self._has_ended():
                    self._step(interrupts, bar)
                    if self.log.steps == self.first_step + 1:
                        bar.set_description()
                    if self.scale.count == SCALE_STEPS:
                        self.scale.warn()
        except KeyboardInterrupt:
            self._end_early()
        finally:
            try:
                self.draws.close()  # waits for a draw; an interrupt ends the wait
            finally:
                with deferred_interrupt():
                    bar.close()
                    self.state.finish()
        self.scale.warn()

    def _has_ended(self) -> bool:
        return self.budget.fraction(self.log) >= 1

    def _step(self, interrupts: list, bar: tqdm) -> None:
        """One step of the optimiser; then, where they are due, a check of the losses, a validation and a checkpoint."""
        losses, norm = self._compute_gradient()
        with deferred_interrupt():  # weights, EMA, log and file are always those of one step
            position = self.batch.position if isinstance(self.batch, EpochBatches) else (0, 0)
            updated = self.state.update(norm, position)
            self.recent.append(losses, norm)
            self.log.seconds, interrupted = self.sync.read(bool(interrupts))
            bar.update()
            ended = self._has_ended()
            is_due = self.checkpointing.is_due(self.log, self.seconds_at_save)
            saves = is_due or (ended and self.checkpointing.path is not None)
            if ended or saves or not updated or len(self.recent) == CHECK_EVERY:
                if not updated and self.sync.group is None:  # other processes would wait for one that raises here
                    check_values(*self.latest_batch)
                first = self.log.steps - len(self.recent)
                norms = self.recent.move_to(self.log, self.accelerator)
                if first == self.first_step and not any(norms) and self.accelerator.is_main_process:
                    warn_of_zero_gradients(first, norms)
                bar.set_postfix(loss=f"{self.log.curve['loss'][-1]:.3g}")
        if ended or self.log.steps % self.validation.every == 0:
            self.validation.run(self.model, self.state)
        with deferred_interrupt():
            if saves:
                self._save()
            if ended:
                self.accelerator.wait_for_everyone()  # the file is complete before a process reads it again
            raise_interrupt(interrupted and not ended)

    def _compute_gradient(self) -> tuple[dict[str, Tensor], Tensor]:
        """The losses of the next batch, and the norm of their gradient before it is clipped."""
        state = self.state
        state.set_learning_rate(self.budget.fraction(self.log))
        batch, random_numbers = self._draw()
        with autocast_bf16(self.accelerator.device, self.bf16):
            losses = self.loss(batch.pop("context"), batch.pop("target"), *random_numbers, **batch)
        if self.log.steps == self.first_step:
            check_losses(losses)
        state.zero_grad()
        # The factor is 1, or NaN if the loss is not finite: then every gradient is NaN, on every process.
        self.accelerator.backward(losses["loss"] * (1 + 0 * losses["loss"].detach()))
        if self.accelerator.num_processes > 1:
            check_gradients(state.denoiser)
            self.sync.average([w.grad for w in state.weights if w.requires_grad])
            self.sync.copy_from_main_process(list(state.denoiser.buffers()))
        return losses, nn.utils.clip_grad_norm_(state.weights, state.optimization.clip)

    def _draw(self) -> tuple[dict, list[Tensor]]:
        """This process's rows of a batch and of the random numbers of its loss, on this process's device."""
        step, device = self.log.steps, self.accelerator.device
        examples, random_numbers, rows = self.draws.take(step)
        self.latest_batch = examples, self._batch_name(step)
        batch = {name: to_device(x[rows], device) for name, x in examples.items()}
        random_numbers = [to_device(x[rows], device) for x in random_numbers]
        self.scale.measure(batch["target"])
        # not in the first step: while it compiles, torch.compiler.is_compiling() holds in all threads
        if self.draws_ahead and step > self.first_step and step + 1 != self.budget.steps:
            self.draws.start(step + 1)
        return batch, random_numbers

    def _draw_whole(self, generator: torch.Generator, step: int) -> tuple[dict, Sequence[Tensor], slice]:
        """A whole batch, with the random numbers of its loss and the rows of both that are this process's.

        A RowBatchFunction draws this process's rows alone, so they are all rows of the result.
        """
        if isinstance(self.batch, RowBatchFunction):
            size, own = self.batch.batch_size, slice(None)
            rows = process_rows(size, self.accelerator)
            batch = self._draw_batch(generator, step, rows)
            random_numbers = self.model.sample_time_and_noise(batch["target"], generator, rows, size)
        else:
            batch = self._draw_batch(generator, step)
            random_numbers = self.model.sample_time_and_noise(batch["target"], generator)
            own = process_rows(len(batch["target"]), self.accelerator)
        check_batch_keys(batch, type(self.model), len(random_numbers), self._batch_name(step))
        return batch, random_numbers, own

    def _draw_batch(
        self, generator: torch.Generator, step: int, rows: slice | None = None
    ) -> dict[str, Observations | Tensor]:
        """A whole batch or rows of it, which fit the model; the first batch of a call also fits the checkpoint."""
        try:
            batch = self.batch(generator) if rows is None else self.batch.draw_rows(generator, rows)
        except StopIteration:
            raise ValueError(f"{self._batch_name(step)} is missing: the batch function raised StopIteration") from None
        name = self._batch_name(step)  # an iterable has now begun a new epoch if it must
        check_batch(batch, name, None if self.bf16 else self.state.weights[0].dtype)
        if step == self.first_step:
            check_values(batch, name)
            settings = describe_batch(batch) | {"batches": "from a function"}
            if rows is not None:
                settings["batch_size"] = self.batch.batch_size
            if len(batch["target"]) == settings["batch_size"]:  # other rows of the batch may have targets
                check_targets(batch["target"], name)
            if isinstance(self.batch, EpochBatches):
                settings["batches"] = "from an iterable"
                settings["batch_size"] = self.batch.first_batch_size  # the last batch of an epoch may be smaller
                if not self.sync.is_equal(batch["target"].value.double().nansum()):
                    raise ValueError(f"{name} differs between processes: all need the same whole batches")
            elif rows is None and not self.sync.is_equal(torch.tensor(float(len(batch["target"])))):
                raise ValueError(f"{name} has another size on another process: all need the same")
            self.checkpointing.check_settings(self.earlier_settings, settings)
            self.state.settings |= settings
        return batch

    def _batch_name(self, step: int) -> str:
        """The batch of this step in an error message."""
        if not isinstance(self.batch, EpochBatches):
            return f"the batch at step {step}"
        epoch, count = self.batch.position
        return f"the batch at step {step} (number {count - 1} of epoch {epoch})"

    def _save(self) -> None:
        self.seconds_at_save = self.log.seconds
        if not self.accelerator.is_main_process:
            return
        try:
            self.state.save(self.checkpointing.path)
        except UnwritableError as error:
            raise UnwritableError(
                f"{error}; the model holds the EMA of its weights at step {self.log.steps}: free space, or write it to "
                "another disk by model.save"
            ) from None

    def _end_early(self) -> None:
        """Keeps an interrupted training: its losses, its state, and one line that says so."""
        with deferred_interrupt():
            self.log.interrupted = not self._has_ended()
            self.recent.move_to(self.log, None)
            path = self.checkpointing.path
            if path is not None:
                self._save()
            if self.accelerator.is_main_process and self.log.interrupted:
                resume = f"call fit again to resume from {path}" if path else "no checkpoint was named to resume from"
                said = f"interrupted after step {self.log.steps}: the model holds the EMA of its weights; {resume}"
                print(said, flush=True)  # SIGTERM may end the process without flushing


@contextmanager
def _original_devices(model: nn.Module) -> Iterator[None]:
    """At the end of the block every part of the model is on its device again, and the denoiser is in eval mode."""
    parts = {part: next(chain(part.parameters(), part.buffers()), None) for part in (model, *model.children())}
    devices = {part: x.device for part, x in parts.items() if x is not None}  # the model itself comes first
    try:
        yield
    finally:
        with deferred_interrupt():
            for part, device in devices.items():
                part.to(device)
            model.denoiser.eval()
