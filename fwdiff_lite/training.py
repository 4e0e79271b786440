"""fit(): the one training loop of this repository, for diffusion models, baselines and oracles alike.

A model is a Module with three parts. `denoiser` is the Module that is trained, averaged and saved.
`sample_time_and_noise(target, generator)` returns all random numbers of a loss, for a whole batch.
`forward(context, target, *random_numbers, ...)` returns a dict of scalars, whose "loss" is minimised.

A batch comes from `batch(generator)`, see protocols.BatchFunction: Observations or tensors, one row a signal. Every
process draws the same whole batch from the same generator and selects its own rows, so any number of processes trains
on the same data as one.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
from fwdiff_lite.protocols import BatchFunction

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
    from accelerate import Accelerator

    _check_budget(steps, seconds)
    accelerator = accelerator or Accelerator(cpu=torch.backends.mps.is_available())
    original_device = next(model.denoiser.parameters()).device
    denoiser = model.denoiser.to(accelerator.device).train()
    state = _TrainingState(denoiser, seed, lr=learning_rate, weight_decay=weight_decay)
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists():
        state.load(path)
    log = state.log
    loss = accelerator.prepare(model)
    if compile:
        loss = compile_model(loss)
    clock, recent = _Clock(log.seconds, accelerator), _RecentSteps()
    hidden = not (progress and accelerator.is_main_process)
    bar = tqdm(total=steps, initial=log.steps, disable=hidden, leave=False)
    try:
        while (fraction := _budget_fraction(log, steps, seconds)) < 1:
            state.set_learning_rate(learning_rate * min(1, (log.steps + 1) / warmup), fraction)
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
                log.seconds = clock.read()
                bar.update()
                ended = _budget_fraction(log, steps, seconds) >= 1
                saves = path is not None and (ended or log.steps % checkpoint_every == 0)
                if ended or saves or not updated or len(recent) == CHECK_EVERY:
                    recent.move_to(log, accelerator)
                    bar.set_postfix(loss=f"{log.curve['loss'][-1]:.3g}")
                if saves and accelerator.is_main_process:
                    state.save(path)
    except KeyboardInterrupt:
        log.interrupted = True
        recent.move_to(log, None)
        if accelerator.is_main_process:
            if path is not None:
                state.save(path)
            resume = f"call fit again to resume from {path}" if path else "no checkpoint was named to resume from"
            print(f"interrupted after step {log.steps}: the model holds the average of its weights; {resume}")
    finally:
        bar.close()
        state.use_ema()
        denoiser.to(original_device).eval()
    return log


class _TrainingState:
    """Everything that a checkpoint holds: weights, buffers, their EMA, optimiser, random numbers and log."""

    def __init__(self, denoiser: nn.Module, seed: int, **optimizer):
        self.denoiser, self.weights = denoiser, list(denoiser.parameters())
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
        return updated

    @torch.no_grad()
    def use_ema(self) -> None:
        """Copies the EMA into the weights."""
        for w, average in zip(self.weights, self.ema, strict=True):
            w.copy_(average)

    def save(self, path: Path) -> None:
        """Writes a checkpoint, under a temporary name first: a killed process leaves the old file or the new one."""
        tensors = {f"weights.{i}": w.detach().contiguous() for i, w in enumerate(self.weights)}
        tensors |= {f"buffers.{i}": b.detach().contiguous() for i, b in enumerate(self.denoiser.buffers())}
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
        """Reads a checkpoint. ValueError if it is damaged or belongs to another network."""
        try:
            with safe_open(path, "pt") as file:
                log = json.loads(file.metadata()["fit"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"checkpoint {path} cannot be read ({error}): delete it to start anew") from None
        targets = {"weights": self.weights, "buffers": list(self.denoiser.buffers()), "average": self.ema}
        for group, target in targets.items():
            saved = [tensors[f"{group}.{i}"] for i in range(sum(name.startswith(group + ".") for name in tensors))]
            if [x.shape for x in saved] != [x.shape for x in target]:
                raise ValueError(
                    f"checkpoint {path} holds the {group} of another network: delete it or name another file"
                )
            with torch.no_grad():
                for x, y in zip(target, saved, strict=True):
                    x.copy_(y)
        state: dict[int, dict[str, Tensor]] = {}
        for name, x in tensors.items():
            group, *rest = name.split(".")
            if group == "optimizer":
                state.setdefault(int(rest[0]), {})[rest[1]] = x
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.generator.set_state(tensors["random.batch"])
        torch.set_rng_state(tensors["random.torch"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        self.random_state = self._random_state()
        self.log = TrainingLog(log["steps"], log["seconds"], log["curve"])

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

    Every process reads the main process's clock. With clocks of their own, processes would end at different steps, and
    compute different learning rates.
    """

    def __init__(self, seconds: float, accelerator: Accelerator):
        self.earlier, self.started = seconds, None
        shared = accelerator.num_processes > 1 and torch.distributed.is_initialized()
        self.group = torch.distributed.new_group(backend="gloo") if shared else None  # gloo: no GPU is waited for

    def read(self) -> float:
        """The seconds until now; all processes must call it equally often."""
        now = time.monotonic()
        if self.started is None:
            self.started = now
        seconds = torch.tensor(self.earlier + (now - self.started), dtype=torch.float64)
        if self.group is not None:
            torch.distributed.broadcast(seconds, 0, group=self.group)
        return seconds.item()


@contextmanager
def _deferred_interrupt() -> Iterator[None]:
    """Raises an interrupt that arrives in the block at the end of the block. Only the main thread gets interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts = []
    handler = signal.signal(signal.SIGINT, lambda *arguments: interrupts.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if interrupts and callable(handler):
        handler(*interrupts[0])


def _check_budget(steps: int | None, seconds: float | None) -> None:
    if steps is None and seconds is None:
        raise ValueError("fit needs a budget: give steps, seconds or both")
    for name, budget in (("steps", steps), ("seconds", seconds)):
        if budget is not None and budget <= 0:
            raise ValueError(f"{name} is {budget}: a budget is above 0")


def _budget_fraction(log: TrainingLog, steps: int | None, seconds: float | None) -> float:
    """How much of the budget is spent: 1 or more at its end."""
    return max(log.steps / steps if steps else 0.0, log.seconds / seconds if seconds else 0.0)


def _draw(
    model: nn.Module, batch: BatchFunction, state: _TrainingState, accelerator: Accelerator
) -> tuple[dict, list[Tensor]]:
    """This process's rows of a batch and of the random numbers of its loss, on this process's device."""
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
