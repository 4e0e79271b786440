"""fit(): the one training loop of this repository, for diffusion models, baselines and oracles alike.

A model is a Module with three parts. `denoiser` is the Module that is trained, averaged and saved.
`sample_time_and_noise(target, generator)` returns all random numbers of a loss, for a whole batch.
`forward(context, target, *random_numbers, ...)` returns a dict of scalars, whose "loss" is minimised.

A batch comes from `batch(generator)`, see protocols.BatchFunction: Observations or tensors, one row a signal. Every
process draws the same whole batch from the same generator and selects its own rows; a protocols.RowBatchFunction draws
these rows only. So any number of processes trains on the same data as one.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from fwdiff_lite.devices import autocast_bf16
from fwdiff_lite.observations import Observations, to_device
from fwdiff_lite.protocols import BatchFunction, RowBatchFunction

if TYPE_CHECKING:
    from accelerate import Accelerator
else:
    Accelerator = Any  # `fit` imports it: that takes a second, which sampling does not need

INTERRUPTED = 130  # exit status of a command whose training was interrupted; shells use it for Ctrl-C
CHECK_EVERY = 50  # steps between two checks of the losses: each check makes a GPU wait


@dataclass
class TrainingLog:
    """Steps and seconds of a training, those before a resume included, and the losses at every step.

    interrupted: True if a KeyboardInterrupt ended the training before its budget was spent
    """

    steps: int = 0
    seconds: float = 0.0
    curve: dict[str, list[float]] = field(default_factory=dict)
    interrupted: bool = False


def compile_model(model: nn.Module) -> nn.Module:
    """The model, compiled as `fit` compiles it."""
    # channels last: otherwise a GPU's convolutions transpose every image twice, for a sixth of a step's time
    return torch.compile(model, options={"force_layout_optimization": True})


def fit(
    model: nn.Module,
    batch: BatchFunction,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    warmup: int = 100,
    clip: float = 1.0,
    ema: float = 0.999,
    seed: int = 0,
    bf16: bool = False,
    compile: bool = False,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 1000,
    progress: bool = True,
    accelerator: Accelerator | None = None,
) -> TrainingLog:
    """Trains model.denoiser with AdamW; at the end it holds the exponential moving average (EMA) of its weights.

    steps, seconds: the budget, whichever ends first; the learning rate rises over `warmup` steps and falls to zero
        along a half cosine over the budget. The first step of every call compiles, and its seconds do not count
    clip: the largest norm of the gradient; larger gradients are scaled down
    ema: the decay of the EMA, smaller at the start (at step n at most (1 + n) / (10 + n))
    seed: of the generator of batches, times and noise
    checkpoint: a file that is written every `checkpoint_every` steps and at the end, and resumed from if it exists;
        on one process the result is that of an uninterrupted training, bit for bit (a budget in seconds aside)
    bf16: forward and backward pass in bfloat16 where that is safe (autocast); weights and EMA stay in float32
    accelerator: an accelerate.Accelerator, for several devices. By default one is made here, on the device that
        accelerate finds, but on the CPU in place of Apple's MPS: ask for MPS with accelerator=Accelerator()

    A KeyboardInterrupt (Ctrl-C, a notebook's stop button) ends the training early: the state is written to the
    checkpoint, one line says so, and the log is returned with `interrupted` set.

    Raises ValueError without a budget above 0, on an unusable checkpoint, and if a loss or a gradient is not finite.
    Such a step never changes the weights. However a training ends, the model holds the EMA and is in eval mode, on the
    device where it was.
    """
    _check_options(model, steps, seconds, warmup, clip, ema, checkpoint_every)
    path = Path(checkpoint) if checkpoint is not None else None
    original_device = next(model.denoiser.parameters()).device
    interrupts: list = []
    try:
        with _collected_interrupts(interrupts):  # imports that are cut off leave torch unusable
            from accelerate import Accelerator

            if accelerator is None:
                accelerator = Accelerator(cpu=torch.backends.mps.is_available(), mixed_precision="no")
            denoiser = model.denoiser.to(accelerator.device)
            state = _TrainingState(denoiser, seed, lr=learning_rate, weight_decay=weight_decay)
            clock = _Clock(accelerator)
            if path is not None:
                clock.resume(state, path)
            loss = accelerator.prepare(model)
            if compile:
                loss = compile_model(loss)
    except BaseException:
        model.denoiser.to(original_device).eval()
        raise
    log, recent = state.log, _RecentSteps()
    hidden = not (progress and accelerator.is_main_process)
    bar = tqdm(total=steps, initial=log.steps, disable=hidden, leave=False)
    # several processes must end at the same step: the clock tells all of them of one's interrupt
    handling = _collected_interrupts(interrupts) if clock.group is not None else nullcontext()
    try:
        with handling:
            _raise_interrupt(bool(interrupts))
            denoiser.train()
            while (fraction := _budget_fraction(log, steps, seconds)) < 1:
                state.set_learning_rate(learning_rate * min(1, (log.steps + 1) / max(warmup, 1)), fraction)
                local_batch, random_numbers = _draw(model, batch, state, accelerator)
                with autocast_bf16(accelerator.device, bf16):
                    losses = loss(local_batch.pop("context"), local_batch.pop("target"), *random_numbers, **local_batch)
                state.optimizer.zero_grad()
                # The factor is 1, or NaN if the loss is not finite: then every gradient is NaN, on every process.
                accelerator.backward(losses["loss"] * (1 + 0 * losses["loss"].detach()))
                norm = nn.utils.clip_grad_norm_(state.weights, clip)
                with _deferred_interrupt():  # weights, EMA, log and file are always those of one step
                    updated = state.update(norm, ema)
                    recent.append(losses, norm)
                    log.seconds, interrupted = clock.read(bool(interrupts))
                    bar.update()
                    ended = _budget_fraction(log, steps, seconds) >= 1
                    saves = path is not None and (ended or log.steps % checkpoint_every == 0)
                    if ended or saves or not updated or len(recent) == CHECK_EVERY:
                        recent.move_to(log, accelerator)
                        bar.set_postfix(loss=f"{log.curve['loss'][-1]:.3g}")
                    if saves and accelerator.is_main_process:
                        state.save(path)
                    if ended:
                        accelerator.wait_for_everyone()  # the file is complete before a process reads it again
                    _raise_interrupt(interrupted and not ended)
    except KeyboardInterrupt:
        with _deferred_interrupt():
            log.interrupted = _budget_fraction(log, steps, seconds) < 1
            recent.move_to(log, None)
            if accelerator.is_main_process and log.interrupted:
                if path is not None:
                    state.save(path)
                resume = f"call fit again to resume from {path}" if path else "no checkpoint was named to resume from"
                print(f"interrupted after step {log.steps}: the model holds the average of its weights; {resume}")
    finally:
        with _deferred_interrupt():
            bar.close()
            state.finish()
            model.to(original_device)
            denoiser.eval()
    return log


class _TrainingState:
    """Everything that a checkpoint holds: weights, buffers, EMA of the weights, optimiser, random numbers and log.

    buffers, random_state: as they were after the last step that was finite; a step that is cut off has no effect
    """

    def __init__(self, denoiser: nn.Module, seed: int, **optimizer):
        self.denoiser = denoiser
        self.weights = [w for w in denoiser.parameters() if w.is_floating_point()]
        self.buffers = [b.clone() for b in denoiser.buffers()]
        fused = self.weights[0].device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.weights, betas=(0.9, 0.99), fused=fused, **optimizer)
        self.ema = [w.detach().clone() for w in self.weights]
        self.generator = torch.Generator().manual_seed(seed)
        self.log = TrainingLog()
        self.random_state = self._random_state()

    def set_learning_rate(self, largest: float, fraction: float) -> None:
        """A half cosine from `largest` to 0 over the budget, of which that fraction is spent."""
        for group in self.optimizer.param_groups:
            group["lr"] = largest * 0.5 * (1 + math.cos(math.pi * fraction))

    def update(self, norm: Tensor, decay: float) -> bool:
        """One step of optimiser, EMA and count. Returns False if it is known that the gradient was not finite.

        norm: the norm of the gradient; if it is not finite, the weights stay as they are. A GPU would have to be waited
            for to know that, so a fused optimiser looks at the norm on the device, as it does for torch's GradScaler
        """
        fused = self.optimizer.defaults["fused"]
        if fused:
            self.optimizer.found_inf = (~norm.isfinite()).float()
        updated = fused or bool(norm.isfinite())
        if updated:
            self.optimizer.step()
        decay = min(decay, (1 + self.log.steps) / (10 + self.log.steps))
        torch._foreach_lerp_(self.ema, [w.detach() for w in self.weights], 1 - decay)
        self.log.steps += 1
        self.random_state = self._random_state()
        for buffer, present in zip(self.buffers, self.denoiser.buffers(), strict=True):
            buffer.copy_(torch.where(norm.isfinite(), present, buffer))
        return updated

    @torch.no_grad()
    def finish(self) -> None:
        """Copies the EMA into the weights, and the buffers of the last finite step into the denoiser."""
        for w, average in zip(self.weights, self.ema, strict=True):
            w.copy_(average)
        for buffer, kept in zip(self.denoiser.buffers(), self.buffers, strict=True):
            buffer.copy_(kept)
        self.optimizer.zero_grad()

    def save(self, path: Path) -> None:
        """Writes a checkpoint, under a temporary name first: a killed process leaves the old file or the new one."""
        tensors = {f"weights.{i}": w.detach().contiguous() for i, w in enumerate(self.weights)}
        tensors |= {f"buffers.{i}": b.contiguous() for i, b in enumerate(self.buffers)}
        tensors |= {f"average.{i}": average for i, average in enumerate(self.ema)}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": x.contiguous() for name, x in state.items()}
        tensors |= self.random_state
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        log = {"steps": self.log.steps, "seconds": self.log.seconds, "curve": self.log.curve}
        save_file({name: x.clone() for name, x in tensors.items()}, temporary, metadata={"fit": json.dumps(log)})
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Reads a checkpoint. ValueError, before anything is changed, if it is damaged or of another network."""
        try:
            with safe_open(path, "pt") as file:
                log = TrainingLog(**json.loads(file.metadata()["fit"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            groups: dict[str, dict[int, Any]] = {"weights": {}, "buffers": {}, "average": {}, "optimizer": {}}
            for name, x in tensors.items():
                group, *rest = name.split(".")
                if group == "optimizer":
                    groups[group].setdefault(int(rest[0]), {})[rest[1]] = x
                elif group != "random":
                    groups[group][int(rest[0])] = x
            batch_state, torch_state = tensors["random.batch"], tensors["random.torch"]
        except (SafetensorError, OSError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"checkpoint {path} cannot be read ({error}): delete it to start anew") from None
        pairs = {"weights": self.weights, "buffers": list(self.denoiser.buffers()), "average": self.ema}
        for group, target in pairs.items():
            shapes = {i: x.shape for i, x in groups[group].items()}
            if shapes != {i: x.shape for i, x in enumerate(target)}:
                raise ValueError(
                    f"checkpoint {path} holds the {group} of another network: delete it or name another file"
                )
        with torch.no_grad():
            for group, target in pairs.items():
                for i, x in enumerate(target):
                    x.copy_(groups[group][i])
        groups_of_parameters = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": groups["optimizer"], "param_groups": groups_of_parameters})
        self.generator.set_state(batch_state)
        torch.set_rng_state(torch_state)
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        self.random_state, self.log = self._random_state(), log
        self.buffers = [b.clone() for b in self.denoiser.buffers()]

    def _random_state(self) -> dict[str, Tensor]:
        """The state of all random numbers that the next step may draw."""
        state = {"random.batch": self.generator.get_state(), "random.torch": torch.get_rng_state()}
        return state | ({"random.cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


class _RecentSteps:
    """Losses and gradient norms of the latest steps, still on the device."""

    def __init__(self):
        self.losses: list[dict[str, Tensor]] = []
        self.norms: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.losses)

    def append(self, losses: dict[str, Tensor], norm: Tensor) -> None:
        """Keeps one step's losses and the norm of its gradient."""
        self.losses.append({name: x.detach() for name, x in losses.items()})
        self.norms.append(norm)

    def move_to(self, log: TrainingLog, accelerator: Accelerator | None) -> None:
        """Moves the losses into the log's curve, averaged over processes unless the accelerator is None.

        ValueError if a loss or a norm is not finite.
        """
        first = log.steps - len(self)
        for name in self.losses[0] if self.losses else ():
            losses = torch.stack([step[name] for step in self.losses])
            values = (accelerator.reduce(losses, reduction="mean") if accelerator else losses).tolist()
            for step, value in enumerate(values, first):
                if not math.isfinite(value):
                    raise ValueError(
                        f"the {name} loss is {value} at step {step}: look for NaN observations, "
                        "or lower the learning rate"
                    )
            log.curve.setdefault(name, []).extend(values)
        norms = torch.stack(self.norms).tolist() if self.norms else []
        for step, norm in enumerate(norms, first):
            if not math.isfinite(norm):
                raise ValueError(
                    f"the gradient's norm is {norm} at step {step}, with a finite loss: look for a square root "
                    "or a quotient at 0 in the forward model or the denoiser, or lower the learning rate"
                )
        self.losses.clear()
        self.norms.clear()


class _Clock:
    """Seconds of training, earlier calls included. This call's first step, which compiles, does not count.

    Every process reads the main process's clock, and learns of an interrupt of any other. Otherwise they would end at
    different steps, and compute different learning rates.
    """

    def __init__(self, accelerator: Accelerator):
        self.earlier, self.started, self.is_main = 0.0, None, accelerator.is_main_process
        self.accelerator = accelerator
        shared = accelerator.num_processes > 1 and torch.distributed.is_initialized()
        self.group = torch.distributed.new_group(backend="gloo") if shared else None  # gloo: no GPU is waited for

    def resume(self, state: _TrainingState, path: Path) -> None:
        """Loads the checkpoint if it exists. ValueError if some processes find it and others do not."""
        self.accelerator.wait_for_everyone()
        if path.exists():
            state.load(path)
        self.earlier = state.log.seconds
        steps = torch.tensor([state.log.steps, -state.log.steps])
        if self.group is not None:
            torch.distributed.all_reduce(steps, torch.distributed.ReduceOp.MAX, group=self.group)
        if steps.sum():
            raise ValueError(f"processes resume {path} at different steps: every host needs the same file")

    def read(self, interrupted: bool = False) -> tuple[float, bool]:
        """The seconds until now, and whether a process was interrupted; all processes must call it equally often."""
        now = time.monotonic()
        if self.started is None:
            self.started = now
        seconds = self.earlier + (now - self.started) if self.is_main else 0.0
        values = torch.tensor([seconds, float(interrupted)], dtype=torch.float64)
        if self.group is not None:
            torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, group=self.group)
        return values[0].item(), bool(values[1])


@contextmanager
def _collected_interrupts(interrupts: list) -> Iterator[None]:
    """Appends interrupts that arrive in the block to the list. Only the main thread gets interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, lambda *arguments: interrupts.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if handler is None else handler)


@contextmanager
def _deferred_interrupt() -> Iterator[None]:
    """Sends interrupts that arrive in the block again at its end."""
    interrupts: list = []
    with _collected_interrupts(interrupts):
        yield
    for _ in interrupts:
        signal.raise_signal(signal.SIGINT)


def _raise_interrupt(interrupted: bool) -> None:
    if interrupted:
        raise KeyboardInterrupt


def _check_options(
    model: nn.Module,
    steps: int | None,
    seconds: float | None,
    warmup: int,
    clip: float,
    ema: float,
    checkpoint_every: int,
) -> None:
    """ValueError, in one line, on options of `fit` that cannot be meant."""
    if steps is None and seconds is None:
        raise ValueError("fit needs a budget: give steps, seconds or both")
    for name, budget in (("steps", steps), ("seconds", seconds)):
        if budget is not None and not budget > 0:
            raise ValueError(f"{name} is {budget}: a budget is above 0")
    wanted = {
        "warmup": (warmup, warmup >= 0, "0 or more"),
        "clip": (clip, clip is not None and clip > 0, "above 0; math.inf clips nothing"),
        "ema": (ema, 0 <= ema < 1, "from 0 to below 1"),
        "checkpoint_every": (checkpoint_every, checkpoint_every >= 1, "1 or more"),
    }
    for name, (value, fits, text) in wanted.items():
        if not fits:
            raise ValueError(f"{name} is {value}: wanted {text}")
    if not isinstance(getattr(model, "denoiser", None), nn.Module):
        raise ValueError(f"fit trains a model with a denoiser, such as ForwardDiffusion; got {type(model).__name__}")
    weights = [w for w in model.denoiser.parameters() if w.requires_grad]
    if not weights:
        raise ValueError("the denoiser has no parameter that requires a gradient: there is nothing to train")
    halves = {w.dtype for w in weights} & {torch.float16, torch.bfloat16}
    if halves:
        raise ValueError(f"the denoiser has weights of {halves.pop()}: train float32 weights, with bf16=True for speed")


def _budget_fraction(log: TrainingLog, steps: int | None, seconds: float | None) -> float:
    """How much of the budget is spent: 1 or more at its end."""
    return max(log.steps / steps if steps else 0.0, log.seconds / seconds if seconds else 0.0)


def _draw(
    model: nn.Module, batch: BatchFunction, state: _TrainingState, accelerator: Accelerator
) -> tuple[dict, list[Tensor]]:
    """This process's rows of a batch and of the random numbers of its loss, on this process's device."""
    if isinstance(batch, RowBatchFunction):
        rows = _rows(batch.batch_size, accelerator)
        local_batch = {name: to_device(x, accelerator.device) for name, x in batch(state.generator, rows).items()}
        if state.log.steps == 0:
            _check_batch(local_batch)
        random_numbers = model.sample_time_and_noise(local_batch["target"], state.generator, rows, batch.batch_size)
        return local_batch, [to_device(x, accelerator.device) for x in random_numbers]
    full_batch = batch(state.generator)
    if state.log.steps == 0:
        _check_batch(full_batch)
    random_numbers = model.sample_time_and_noise(full_batch["target"], state.generator)
    rows = _rows(len(full_batch["target"]), accelerator)
    local_batch = {name: to_device(x[rows], accelerator.device) for name, x in full_batch.items()}
    return local_batch, [to_device(x[rows], accelerator.device) for x in random_numbers]


def _rows(n: int, accelerator: Accelerator) -> slice:
    """This process's rows of a batch of n."""
    parts = accelerator.num_processes
    if n % parts:
        raise ValueError(f"a batch of {n} cannot be shared evenly by {parts} processes: make it a multiple")
    return slice(accelerator.process_index * n // parts, (accelerator.process_index + 1) * n // parts)


def _check_batch(batch: dict) -> None:
    for name, x in batch.items():
        if isinstance(x, Observations):
            x.check(name, allow_empty=True)
