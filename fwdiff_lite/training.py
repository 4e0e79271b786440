"""fit(): the one training loop of this repository, for diffusion models, baselines and oracles alike.

A model is a Module with a `denoiser` (what is trained, averaged and saved) and two methods:
`draw(target, generator)` gives all the randomness of a loss for a whole batch, `forward(context, target, *draw, ...)`
gives a dict of scalars whose "loss" is minimised.

A batch comes from `batch(generator) -> {"context": ..., "target": ..., "novel": ...}` (Observations or tensors, one
row a signal). Every process draws the same whole batch from the same generator and keeps its own rows, so any number
of processes sees the data that one would.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from fwdiff_lite.devices import autocast_bf16
from fwdiff_lite.observations import Observations, to_device

INTERRUPTED = 130  # exit status of a command whose training was interrupted, as of every program that Ctrl-C ends
CHECK_EVERY = 50  # steps between looks at the loss: each look makes a GPU wait


@dataclass
class TrainingLog:
    """What a training did: steps and seconds (all resumed parts together) and the losses at every step.

    interrupted: True where a KeyboardInterrupt ended it before its budget was spent
    """

    steps: int = 0
    seconds: float = 0.0
    curve: dict[str, list[float]] = field(default_factory=dict)
    interrupted: bool = False


def compile_model(model: nn.Module) -> nn.Module:
    """A model as `fit` compiles it."""
    # channels last: a GPU's convolutions would turn every image around and back, for a sixth of a step's time
    return torch.compile(model, options={"force_layout_optimization": True})


def fit(
    model: nn.Module,
    batch: Callable[[torch.Generator], dict],
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
    """Train model.denoiser with AdamW; it ends with the exponential moving average of its weights, where it was.

    steps, seconds: the budget, whichever ends first; the learning rate rises over `warmup` steps and falls to zero
        along a half cosine over the budget. The first step of every call, in which all is compiled, takes no seconds
    ema: the average's decay, shorter at the start (at step n at most (1 + n) / (10 + n))
    seed: of the generator that batches, times and noise come from
    checkpoint: a file that is written every `checkpoint_every` steps and at the end, and resumed from if it is there;
        on one process the result is that of an uninterrupted training, bit for bit (a budget in seconds aside)
    bf16: forward and backward pass in bfloat16 where that is safe (autocast); weights and average stay in float32
    accelerator: for several devices (`accelerate launch`). Where it is None, one is made here, on the device that
        accelerate finds, but on the CPU where that is Apple's MPS: ask for MPS with accelerator=Accelerator()

    A KeyboardInterrupt (Ctrl-C, a notebook's stop button) ends the training early: the state is written to the
    checkpoint, one line says so, and the log is returned with `interrupted` set.

    Raises ValueError without a budget above 0, on an unusable checkpoint, and where a loss or a gradient is not finite.
    Such a step never changes the weights. However a training ends, the model holds the average and is in eval mode.
    """
    if steps is None and seconds is None:
        raise ValueError("fit needs a budget: give steps, seconds or both")
    for name, budget in (("steps", steps), ("seconds", seconds)):
        if budget is not None and budget <= 0:
            raise ValueError(f"{name} is {budget}: a budget is above 0")
    accelerator = accelerator or Accelerator(cpu=torch.backends.mps.is_available())
    generator = torch.Generator().manual_seed(seed)
    home = next(model.denoiser.parameters()).device
    denoiser = model.denoiser.to(accelerator.device).train()
    weights = list(denoiser.parameters())
    optimizer = torch.optim.AdamW(
        weights, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99), fused=accelerator.device.type == "cuda"
    )
    average = [w.detach().clone() for w in weights]
    done = TrainingLog()
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists():
        done = _resume(path, denoiser, average, optimizer, generator)
    trained = accelerator.prepare(model)
    if compile:
        trained = compile_model(trained)

    clock, random = _Clock(done.seconds, accelerator), _random_state(generator)
    recent: list[dict[str, Tensor]] = []  # losses that are still on the device
    norms: list[Tensor] = []  # of the gradients of the same steps
    bar = tqdm(total=steps, initial=done.steps, disable=not (progress and accelerator.is_main_process), leave=False)
    try:
        while (share := _share(done, steps, seconds)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(1, (done.steps + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * share))
            whole = batch(generator)
            if done.steps == 0:
                _check_batch(whole)
            draw = model.sample_time_and_noise(whole["target"], generator)
            mine = _rows(len(whole["target"]), accelerator)
            part = {name: to_device(x[mine], accelerator.device) for name, x in whole.items()}
            draw = [to_device(x[mine], accelerator.device) for x in draw]
            with autocast_bf16(accelerator.device, bf16):
                losses = trained(part.pop("context"), part.pop("target"), *draw, **part)
            optimizer.zero_grad()
            # The factor is 1, or NaN where the loss is not finite: then every gradient is NaN, on every process.
            accelerator.backward(losses["loss"] * (1 + 0 * losses["loss"].detach()))
            norms.append(nn.utils.clip_grad_norm_(weights, clip))
            with _deferred_interrupt():  # an interrupt meets weights, average, log and file of one and the same step
                updated = _update(optimizer, norms[-1])
                decay = min(ema, (1 + done.steps) / (10 + done.steps))
                torch._foreach_lerp_(average, [w.detach() for w in weights], 1 - decay)
                recent.append({name: x.detach() for name, x in losses.items()})
                done.steps += 1
                done.seconds = clock.read()
                random = _random_state(generator)
                bar.update()
                ended = _share(done, steps, seconds) >= 1
                saving = path is not None and (ended or done.steps % checkpoint_every == 0)
                if ended or saving or not updated or len(recent) == CHECK_EVERY:
                    _record(done, recent, norms, accelerator)
                    bar.set_postfix(loss=f"{done.curve['loss'][-1]:.3g}")
                if saving and accelerator.is_main_process:
                    _save(path, denoiser, average, optimizer, random, done)
    except KeyboardInterrupt:
        done.interrupted = True
        if recent:
            _record(done, recent, norms[: len(recent)], None)
        if accelerator.is_main_process:
            if path is not None:
                _save(path, denoiser, average, optimizer, random, done)
            resume = f"call fit again to resume from {path}" if path else "no checkpoint was named to resume from"
            print(f"interrupted after step {done.steps}: the model holds the average of its weights; {resume}")
    finally:
        bar.close()
        with torch.no_grad():
            for w, a in zip(weights, average, strict=True):
                w.copy_(a)
        denoiser.to(home).eval()
    return done


class _Clock:
    """Seconds of training: earlier calls' and this one's, without its first step, in which all is compiled.

    Every process reads the main one's. Each with its own would end, and set its learning rate, at steps of its own.
    """

    def __init__(self, seconds: float, accelerator: Accelerator):
        self.earlier, self.started = seconds, None
        shared = accelerator.num_processes > 1 and torch.distributed.is_initialized()
        self.group = torch.distributed.new_group(backend="gloo") if shared else None  # a GPU is not waited for

    def read(self) -> float:
        """The seconds until now; every process must call it as often as the others."""
        now = time.monotonic()
        if self.started is None:
            self.started = now
        seconds = torch.tensor(self.earlier + (now - self.started), dtype=torch.float64)
        if self.group is not None:
            torch.distributed.broadcast(seconds, 0, group=self.group)
        return seconds.item()


@contextmanager
def _deferred_interrupt() -> Iterator[None]:
    """An interrupt that arrives in the block is raised at its end. Only the main thread gets interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived = []
    handler = signal.signal(signal.SIGINT, lambda *call: arrived.append(call))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if arrived and callable(handler):
        handler(*arrived[0])


def _update(optimizer: torch.optim.Optimizer, norm: Tensor) -> bool:
    """A step of the optimizer unless the gradient's norm is not finite; False where it is known that there was none.

    On a GPU that number would have to be waited for. A fused optimizer looks at it there, as it does for GradScaler.
    """
    if optimizer.defaults["fused"]:
        optimizer.found_inf = (~norm.isfinite()).float()
    elif not norm.isfinite():
        return False
    optimizer.step()
    return True


def _share(done: TrainingLog, steps: int | None, seconds: float | None) -> float:
    """How much of the budget is spent."""
    return max(done.steps / steps if steps else 0.0, done.seconds / seconds if seconds else 0.0)


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


def _record(done: TrainingLog, recent: list[dict[str, Tensor]], norms: list[Tensor], accelerator: Accelerator | None) -> None:
    """Move the recent losses, averaged over processes unless the accelerator is None, into the curve.

    ValueError where one of them, or a gradient's norm, is not finite.
    """
    first = done.steps - len(recent)
    for name in recent[0]:
        losses = torch.stack([x[name] for x in recent])
        values = (accelerator.reduce(losses, reduction="mean") if accelerator else losses).tolist()
        for step, value in enumerate(values, first):
            if not math.isfinite(value):
                raise ValueError(
                    f"the {name} loss is {value} at step {step}: look for NaN observations, or lower the learning rate"
                )
        done.curve.setdefault(name, []).extend(values)
    for step, norm in enumerate(torch.stack(norms).tolist(), first):
        if not math.isfinite(norm):
            raise ValueError(
                f"the gradient's norm is {norm} at step {step}, with a finite loss: look for a square root or a "
                "quotient at 0 in the forward model or the denoiser, or lower the learning rate"
            )
    recent.clear()
    norms.clear()


def _random_state(generator: torch.Generator) -> dict[str, Tensor]:
    """The state of all random numbers that a step may draw."""
    state = {"random.batch": generator.get_state(), "random.torch": torch.get_rng_state()}
    return state | ({"random.cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _save(path: Path, denoiser, average, optimizer, random: dict[str, Tensor], done: TrainingLog) -> None:
    """Write everything that resuming needs, under a temporary name first: a kill leaves the old file or the new."""
    tensors = {f"weights.{i}": w.detach().contiguous() for i, w in enumerate(denoiser.parameters())}
    tensors |= {f"buffers.{i}": b.detach().contiguous() for i, b in enumerate(denoiser.buffers())}
    tensors |= {f"average.{i}": a for i, a in enumerate(average)}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": x.contiguous() for name, x in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    meta = {"steps": done.steps, "seconds": done.seconds, "curve": done.curve}
    save_file({k: v.clone() for k, v in (tensors | random).items()}, temporary, metadata={"fit": json.dumps(meta)})
    os.replace(temporary, path)


def _resume(path: Path, denoiser, average, optimizer, generator) -> TrainingLog:
    """Read a checkpoint into the objects given; a ValueError where it is damaged or of another model."""
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads(file.metadata()["fit"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {path} cannot be read ({error}): delete it to start anew") from None
    homes = {"weights": list(denoiser.parameters()), "buffers": list(denoiser.buffers()), "average": average}
    for kind, home in homes.items():
        saved = [tensors[f"{kind}.{i}"] for i in range(sum(k.startswith(kind + ".") for k in tensors))]
        if [x.shape for x in saved] != [x.shape for x in home]:
            raise ValueError(f"checkpoint {path} holds the {kind} of another network: delete it or name another file")
        with torch.no_grad():
            for x, y in zip(home, saved, strict=True):
                x.copy_(y)
    state: dict[int, dict[str, Tensor]] = {}
    for name, x in tensors.items():
        kind, *rest = name.split(".")
        if kind == "optimizer":
            state.setdefault(int(rest[0]), {})[rest[1]] = x
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    generator.set_state(tensors["random.batch"])
    torch.set_rng_state(tensors["random.torch"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return TrainingLog(meta["steps"], meta["seconds"], meta["curve"])
