"""The state of a training: weights, their EMA, optimiser, random numbers, log; and the checkpoint that holds it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fwdiff_lite.checks import check_count, check_interval
from fwdiff_lite.interrupts import deferred_interrupt
from fwdiff_lite.model_file import KEY as MODEL_KEY
from fwdiff_lite.muon import Muon, hidden_matrices
from fwdiff_lite.storage.files import write_tensors

if TYPE_CHECKING:
    from accelerate import Accelerator
else:
    Accelerator = Any  # see processes.py


@dataclass
class TrainingLog:
    """Steps and seconds of a training, those before a resume included, and the losses at every step.

    validation: the numbers of `validate`, each a list, with their "steps"
    interrupted: True if a KeyboardInterrupt ended the training before its budget was spent
    """

    steps: int = 0
    seconds: float = 0.0
    curve: dict[str, list[float]] = field(default_factory=dict)
    validation: dict[str, list[float]] = field(default_factory=dict)
    interrupted: bool = False


class RecentSteps:
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

    def move_to(self, log: TrainingLog, accelerator: Accelerator | None) -> list[float]:
        """Moves the losses into the log's curve, averaged over processes unless the accelerator is None.

        Returns the norms of the gradients.
        ValueError if a loss or a norm is not finite.
        """
        first = log.steps - len(self)
        for name in self.losses[0] if self.losses else ():
            losses = torch.stack([step[name] for step in self.losses])
            values = (accelerator.reduce(losses, reduction="mean") if accelerator else losses).tolist()
            for step, value in enumerate(values, first):
                if not math.isfinite(value):
                    raise ValueError(
                        f"the {name} loss is {value} at step {step}: look for NaN observations, params or noise_std, "
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
        return norms


@dataclass(frozen=True)
class Optimization:
    """The options of AdamW and Muon, of their learning rates and of the EMA of the weights; see `fit`."""

    learning_rate: float
    weight_decay: float
    warmup: int
    clip: float
    ema: float
    seed: int
    muon_learning_rate: float | None = None

    def __post_init__(self):
        clip_fits = isinstance(self.clip, int | float) and self.clip > 0  # math.inf is allowed
        check_option("learning_rate", self.learning_rate, is_finite(self.learning_rate, above=0), "above 0")
        muon_fits = self.muon_learning_rate is None or is_finite(self.muon_learning_rate, above=0)
        check_option("muon_learning_rate", self.muon_learning_rate, muon_fits, "above 0, or None")
        check_option("weight_decay", self.weight_decay, is_finite(self.weight_decay, least=0), "0 or more")
        check_count(0, warmup=self.warmup)
        check_option("clip", self.clip, clip_fits, "above 0; math.inf clips nothing")
        check_option("ema", self.ema, is_finite(self.ema, least=0) and self.ema < 1, "from 0 to below 1")
        check_count(-(2**63), seed=self.seed)

    def learning_rate_at(self, step: int, fraction: float, peak: float) -> float:
        """A rise to the peak over the warm-up, times a half cosine to 0; a fraction of the budget is spent."""
        largest = peak * min(1, (step + 1) / max(self.warmup, 1))
        return largest * 0.5 * (1 + math.cos(math.pi * fraction))

    def ema_decay_at(self, step: int) -> float:
        """The decay of the EMA: at first it has few weights to average over."""
        return min(self.ema, (1 + step) / (10 + step))


class TrainingState:
    """Everything that a checkpoint holds: weights, buffers, EMA of the weights, optimisers, random numbers and log.

    optimizers: AdamW; with a muon_learning_rate also Muon, which has the hidden matrices
    settings: what a resumed training must have in common with this one
    position: of an iterable of batches: the epoch, and how many of its batches were given
    buffers, random_state, position: as they were after the last step that was finite; a step that is cut off has no
        effect
    """

    def __init__(self, denoiser: nn.Module, optimization: Optimization):
        self.denoiser, self.optimization = denoiser, optimization
        self.weights = [w for w in denoiser.parameters() if w.is_floating_point()]
        self.buffers = [b.clone() for b in denoiser.buffers()]
        self.optimizers = self._make_optimizers()
        self.ema = [w.detach().clone() for w in self.weights]
        self.generator = torch.Generator().manual_seed(optimization.seed)
        self.log = TrainingLog()
        settings = asdict(optimization)
        self.settings = {name: x.item() if hasattr(x, "item") else x for name, x in settings.items()}  # JSON values
        self.position = (0, 0)
        self.random_state = self._random_state()

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW of all weights, or of those that are no hidden matrices; then Muon of these."""
        options, fused = self.optimization, self.weights[0].device.type == "cuda"
        muon = options.muon_learning_rate
        matrices = [] if muon is None else hidden_matrices(self.denoiser)
        others = [w for w in self.weights if not any(w is matrix for matrix in matrices)]
        settings = {"lr": options.learning_rate, "weight_decay": options.weight_decay}
        settings |= {"fused": fused, "foreach": not fused}  # on CPUs, torch's default makes more calls, for equal bits
        optimizers = [torch.optim.AdamW(others, betas=(0.9, 0.99), **settings)] if others else []
        return optimizers + ([Muon(matrices, muon, weight_decay=options.weight_decay)] if matrices else [])

    def set_learning_rate(self, fraction: float) -> None:
        """The learning rates of the next step, where that fraction of the budget is spent."""
        for optimizer in self.optimizers:
            peak = optimizer.defaults["lr"]
            for group in optimizer.param_groups:
                group["lr"] = self.optimization.learning_rate_at(self.log.steps, fraction, peak)

    def update(self, norm: Tensor, position: tuple[int, int]) -> bool:
        """One step of optimisers, EMA and count. Returns False if it is known that the gradient was not finite.

        norm: the norm of the gradient; if it is not finite, the weights stay as they are. A GPU would have to be waited
            for to know that, so a fused optimiser looks at the norm on the device, as it does for torch's GradScaler
        """
        fused = self.optimizers[0].defaults["fused"]
        updated = fused or bool(norm.isfinite())
        for optimizer in self.optimizers if updated else ():
            if fused:
                optimizer.found_inf = (~norm.isfinite()).float()
            optimizer.step()
        decay = self.optimization.ema_decay_at(self.log.steps)
        torch._foreach_lerp_(self.ema, [w.detach() for w in self.weights], 1 - decay)
        self.log.steps += 1
        self.random_state, self.position = self._random_state(), position
        if self.buffers:  # a search for buffers through all modules takes longer than this step's other bookkeeping
            for buffer, present in zip(self.buffers, self.denoiser.buffers(), strict=True):
                buffer.copy_(torch.where(norm.isfinite(), present, buffer))
        return updated

    @torch.no_grad()
    def finish(self) -> None:
        """Copies the EMA into the weights, and the buffers of the last finite step into the denoiser."""
        _copy(self.ema, self.weights)
        _copy(self.buffers, list(self.denoiser.buffers()))
        self.zero_grad()

    def zero_grad(self) -> None:
        """Frees all gradients."""
        for w in self.weights:
            w.grad = None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """In the block the denoiser holds the EMA and is in eval mode, and torch's random numbers are a copy."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            raw = [w.detach().clone() for w in self.weights]
            try:
                _copy(self.ema, self.weights)
                self.denoiser.eval()
                yield
            finally:
                with deferred_interrupt():
                    _copy(raw, self.weights)
                    self.denoiser.train()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of a checkpoint by their names. A weight without an optimiser step has moments of 0."""
        tensors = {f"weights.{i}": w.detach() for i, w in enumerate(self.weights)}
        tensors |= {f"buffers.{i}": b for i, b in enumerate(self.buffers)}
        tensors |= {f"average.{i}": x for i, x in enumerate(self.ema)}  # the key of the EMA in files
        for optimizer in self.optimizers:
            for i, w in self._trained_weights(optimizer).values():
                zeros = torch.zeros_like(w, requires_grad=False)
                moments = {name: torch.zeros(()) if name == "step" else zeros for name in _moment_names(optimizer)}
                moments |= optimizer.state.get(w, {})
                tensors |= {f"optimizer.{i}.{name}": x for name, x in moments.items()}
        return tensors | self.random_state

    def save(self, path: Path) -> None:
        """Writes a checkpoint: a killed process leaves the old file or the new one."""
        log = {name: value for name, value in vars(self.log).items() if name != "interrupted"}
        record = json.dumps({"log": log, "settings": self.settings, "position": self.position})
        write_tensors(path, {name: x.contiguous().clone() for name, x in self.tensors().items()}, {"fit": record})

    def load(self, checkpointing: Checkpointing) -> dict[str, Any]:
        """Reads the checkpoint; returns its settings. ValueError, before anything is changed, if it does not fit."""
        tensors, log, settings, position = _read(checkpointing.path)
        _check_tensors(checkpointing.path, tensors, self.tensors())
        checkpointing.check_settings(settings, self.settings)
        names = {"weights": self.weights, "buffers": list(self.denoiser.buffers()), "average": self.ema}
        with torch.no_grad():
            for group, present in names.items():
                _copy([tensors[f"{group}.{i}"] for i in range(len(present))], present)
        for optimizer in self.optimizers:
            moments = {
                position: {name: tensors[f"optimizer.{i}.{name}"] for name in _moment_names(optimizer)}
                for position, (i, _) in self._trained_weights(optimizer).items()
            }
            optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        self.generator.set_state(tensors["random.batch"])
        torch.set_rng_state(tensors["random.torch"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        self.random_state, self.log, self.position = self._random_state(), log, position
        self.buffers = [b.clone() for b in self.denoiser.buffers()]
        return settings

    def _trained_weights(self, optimizer: torch.optim.Optimizer) -> dict[int, tuple[int, Tensor]]:
        """The weights of an optimiser that require a gradient, with their indices, by their positions there."""
        indices = {id(w): i for i, w in enumerate(self.weights)}
        (group,) = optimizer.param_groups
        return {k: (indices[id(w)], w) for k, w in enumerate(group["params"]) if w.requires_grad}

    def _random_state(self) -> dict[str, Tensor]:
        """The state of all random numbers that the next step may draw."""
        state = {"random.batch": self.generator.get_state(), "random.torch": torch.get_rng_state()}
        return state | ({"random.cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _moment_names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """The tensors that an optimiser keeps for each weight."""
    return ("momentum_buffer",) if isinstance(optimizer, Muon) else ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Checkpointing:
    """Which file the state is written to, and when; see `fit`. ValueError where that cannot be.

    path: kept as a Path
    """

    path: str | os.PathLike | None
    every: int
    minutes: float | None
    resume: str

    def __post_init__(self):
        path, minutes, resume = self.path, self.minutes, self.resume
        check_count(checkpoint_every=self.every)
        minutes_fit = minutes is None or is_finite(minutes, above=0)
        check_option("checkpoint_minutes", minutes, minutes_fit, "above 0, or None")
        check_option("resume", repr(resume), resume in ("check", "ignore"), '"check" or "ignore"')
        check_option("checkpoint", repr(path), path is None or isinstance(path, str | os.PathLike), "a path, or None")
        if path is not None:
            object.__setattr__(self, "path", Path(path))
            if self.path.is_dir():
                raise ValueError(f"checkpoint {path} is a folder: name a file in it")

    def check_writable(self) -> None:
        """ValueError if the file lies in a folder that cannot be made or written to."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"checkpoint {self.path} cannot be written ({error.strerror}): name another file"
            ) from None
        if not os.access(self.path.parent, os.W_OK):
            raise ValueError(
                f"checkpoint {self.path} cannot be written (no permission in its folder): name another file"
            )

    def is_due(self, log: TrainingLog, seconds_at_save: float) -> bool:
        """Whether a checkpoint is due at this log's steps and seconds; seconds_at_save: of the latest checkpoint."""
        late = self.minutes is not None and log.seconds - seconds_at_save >= 60 * self.minutes
        return self.path is not None and (log.steps % self.every == 0 or late)

    def check_settings(self, earlier: Mapping[str, Any], present: Mapping[str, Any]) -> None:
        """ValueError if a training is resumed with settings that are not the earlier ones, unless they are ignored."""
        changed = [name for name in present if name in earlier and earlier[name] != present[name]]
        if changed and self.resume == "check":
            was, given = (", ".join(f"{x} {values.get(x)}" for x in changed) for values in (earlier, present))
            raise ValueError(
                f"checkpoint {self.path} was trained with {was}; this call has {given}: give the same, name another "
                'file, or allow the change with resume="ignore"'
            )


def check_option(name: str, value: Any, fits: bool, wanted: str) -> None:
    """ValueError, in one line, unless an option of `fit` fits."""
    if not fits:
        raise ValueError(f"{name} is {value}: wanted {wanted}")


def is_finite(value: Any, above: float = -math.inf, least: float = -math.inf) -> bool:
    """Whether a value is a finite number in that range."""
    return hasattr(value, "__float__") and above < value < math.inf and value >= least


@torch.no_grad()
def _copy(sources: list[Tensor], destinations: list[Tensor]) -> None:
    for source, destination in zip(sources, destinations, strict=True):
        destination.copy_(source)


def _read(path: Path) -> tuple[dict[str, Tensor], TrainingLog, dict[str, Any], tuple[int, int]]:
    """Tensors, log, settings and position of a checkpoint. ValueError if one is missing or impossible."""
    metadata, tensors = _read_safetensors(path)
    try:
        record = json.loads(metadata["fit"])
        log, settings, position = TrainingLog(**record["log"]), record["settings"], record["position"]
        _check_log(log)
        epoch, count = position
        check_count(0, epoch=epoch, position=count)
        if not isinstance(settings, dict):
            raise ValueError(f"settings {settings}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {path} cannot be read ({_first_line(error)}): delete it to start anew") from None
    return tensors, log, settings, (epoch, count)


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a checkpoint. ValueError for any other file, which may hold somebody's work."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        reason = _first_line(error)
        raise ValueError(
            f"checkpoint {path} cannot be read ({reason}): it is damaged or no checkpoint of fit; name another file"
        ) from None
    if MODEL_KEY in metadata:
        raise ValueError(f"checkpoint {path} is a model that model.save wrote: name another file")
    if "fit" not in metadata:
        raise ValueError(f"checkpoint {path} is no checkpoint of fit: name another file")
    return metadata, tensors


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _check_log(log: TrainingLog) -> None:
    """ValueError if a log is not that of a training."""
    check_count(0, steps=log.steps)
    check_interval(0, math.inf, seconds=log.seconds)
    if not isinstance(log.curve, dict) or not isinstance(log.validation, dict):
        raise ValueError("the curve or the validation is no dict")
    if len(log.curve.get("loss", ())) != log.steps:
        raise ValueError(f"{len(log.curve.get('loss', ()))} losses of {log.steps} steps")
    for name, values in (log.curve | log.validation).items():
        if not isinstance(values, list) or not all(isinstance(x, int | float) for x in values):
            raise ValueError(f"{name} is no list of numbers")


def _check_tensors(path: Path, tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """ValueError unless a checkpoint has the wanted names, shapes and types, and finite weights and moments."""
    for name in sorted((tensors.keys() | wanted.keys()) - {"random.cuda"}):  # a file may move to a host without a GPU
        present, expected = ("nothing" if x is None else _describe(x) for x in (tensors.get(name), wanted.get(name)))
        if present != expected and name.startswith("optimizer."):
            raise ValueError(
                f"checkpoint {path} is of a training of other weights: it has {present} as {name}, wanted {expected}; "
                "freeze the same weights and give the same muon_learning_rate, or name another file"
            )
        if present != expected:
            raise ValueError(
                f"checkpoint {path} is of another network: it has {present} as {name}, wanted {expected}; delete it or "
                "name another file"
            )
    for name, x in tensors.items():
        if name.split(".")[0] in ("weights", "average", "optimizer"):
            least = 0 if name.endswith((".step", ".exp_avg_sq")) else -math.inf
            if not x.isfinite().all() or (x < least).any():
                raise ValueError(f"checkpoint {path} has impossible numbers in {name}: delete it to start anew")
    for name in ("random.batch", "random.torch"):
        try:
            torch.Generator().set_state(tensors[name])
        except RuntimeError:
            raise ValueError(f"checkpoint {path} has no state of a generator in {name}: delete it") from None


def _describe(x: Tensor) -> str:
    return f"{x.dtype} {tuple(x.shape)}"
