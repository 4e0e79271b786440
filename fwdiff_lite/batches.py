"""Batches for fit(): from a function or from an iterable of batches, such as a DataLoader, with padding and checks.

A batch is a dict of Observations and tensors with one row a signal, see protocols.BatchFunction.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from fwdiff_lite.observations import Observations
from fwdiff_lite.protocols import BatchFunction

Drawn = TypeVar("Drawn")

BATCH_FORMAT = 'a dict with Observations as "context" and "target"'


class EpochBatches:
    """A batch function that goes through an iterable of batches, again and again: one pass is an epoch.

    batches: a DataLoader, a list, or another object that can be iterated over more than once
    seed: torch's global random numbers, by which a DataLoader shuffles, are seeded with seed + epoch while an epoch
        begins. So every process gets the same batches, and the epoch can be begun again when a training is resumed

    position: the epoch, and how many of its batches were given
    first_batch_size: signals in the first batch of the epoch
    """

    def __init__(self, batches: Iterable[Mapping], seed: int):
        if isinstance(getattr(batches, "sampler", None), DistributedSampler):
            raise ValueError(
                "the DataLoader has a DistributedSampler: fit needs the same whole batches on every process and "
                "selects each process's rows, so leave the sampler out"
            )
        self.batches, self.seed, self.position, self.first_batch_size = batches, seed, (0, 0), None
        self.iterator: Iterator[Mapping] | None = None

    def __call__(self, generator: torch.Generator) -> Mapping:
        """The next batch. ValueError if the iterable has none."""
        epoch, count = self.position
        batch = next(self.iterator, None) if self.iterator is not None else self._begin(epoch, count)
        if batch is None:  # the end of an epoch
            epoch, count = epoch + 1, 0
            batch = self._begin(epoch, count)
        if batch is None:
            raise ValueError(
                f"the {type(self.batches).__name__} of batches is empty, or can be read only once: give a DataLoader, "
                "a list or a function batch(generator)"
            )
        self.position = (epoch, count + 1)
        return batch

    def _begin(self, epoch: int, count: int) -> Mapping | None:
        """Begins an epoch and leaves out its first `count` batches. None if it has no batch after them."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + epoch)
            self.iterator = iter(self.batches)
            first_batches = [next(self.iterator, None) for _ in range(max(count, 1))]
        first = first_batches[0]
        self.first_batch_size = len(first["target"]) if isinstance(first, Mapping) and "target" in first else None
        return next(self.iterator, None) if count else first


class DrawAhead:
    """Calls draw(generator, step) for the next step in a thread, while the device computes this step.

    The thread draws from a copy of the generator. The generator itself has the state before that draw until `take`
    returns it, so a checkpoint that is written in between goes on with the same batch.

    device: if it is a GPU, the thread uses it, or without an index the GPU that the caller uses, and the caller's
        stream: by itself, a thread uses the first GPU and its default stream, which does not wait for other streams
    """

    def __init__(self, draw: Callable[[torch.Generator, int], Drawn], generator: torch.Generator, device: torch.device):
        self.draw, self.generator, self.pending = draw, generator, None
        choose_stream = None
        if device.type == "cuda":
            choose_stream = partial(torch.cuda.set_stream, torch.cuda.current_stream(device))  # with its device
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="draw ahead", initializer=choose_stream)

    def start(self, step: int) -> None:
        """Starts the draw of this step."""
        copy = torch.Generator(self.generator.device)
        copy.set_state(self.generator.get_state())
        self.pending = copy, self.pool.submit(self.draw, copy, step)

    def take(self, step: int) -> Drawn:
        """The draw of this step: the one that was started, or one that is made now."""
        if self.pending is None:
            return self.draw(self.generator, step)
        (copy, future), self.pending = self.pending, None
        result = future.result()
        self.generator.set_state(copy.get_state())
        return result

    def close(self) -> None:
        """Waits for a draw that was started, and drops it."""
        self.pool.shutdown(cancel_futures=True)


def to_batch_function(batches: BatchFunction | Iterable[Mapping], seed: int) -> BatchFunction:
    """A function as it is, or the batches of an iterable. ValueError if it is neither."""
    if not callable(batches):
        if isinstance(batches, Mapping | Tensor | Observations | str) or not hasattr(type(batches), "__iter__"):
            raise ValueError(
                f"fit got a {type(batches).__name__} as batches: give a function batch(generator), a DataLoader, or a "
                "list of batches, such as [batch]"
            )
        return EpochBatches(batches, seed)
    try:
        signature = inspect.signature(batches)
    except ValueError:  # of a function in C, which has none
        return batches
    try:
        signature.bind(None)
    except TypeError:
        raise ValueError(f"the batch function takes {signature}: fit calls batch(generator)") from None
    return batches


def collate(examples: Sequence[Mapping[str, Observations | Tensor]]) -> dict[str, Observations | Tensor]:
    """The batch of some examples, each a dict of Observations or tensors of one signal (B = 1 or more).

    Give it to a DataLoader: DataLoader(dataset, batch_size=8, shuffle=True, collate_fn=collate). Observations of fewer
    than the most observations of a signal are padded: values are 0, parameters repeat those of another observation, and
    the mask is False. ValueError without examples, or where they have other keys, or other shapes of an observation.
    """
    if not len(examples):
        raise ValueError("collate got no examples: give at least one")
    keys = list(examples[0]) if isinstance(examples[0], Mapping) else []
    for i, example in enumerate(examples):
        if not isinstance(example, Mapping):
            raise ValueError(f"example {i} of a batch is a {type(example).__name__}: wanted {BATCH_FORMAT}")
        if set(example) != set(keys):
            raise ValueError(f"example {i} of a batch has {sorted(example)}, example 0 has {sorted(keys)}")
    return {key: _concatenate(key, [example[key] for example in examples]) for key in keys}


def _concatenate(key: str, parts: list) -> Observations | Tensor:
    """The rows of all parts; Observations are padded to one count."""
    for i, part in enumerate(parts):
        if _row_shape(part) != _row_shape(parts[0]):
            raise ValueError(
                f'"{key}" of example {i} of a batch has rows of {_row_shape(part)}, that of example 0 of '
                f"{_row_shape(parts[0])}: all examples need the same"
            )
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    count = max(part.params.shape[1] for part in parts)
    params = next((part.params[:1, :1] for part in parts if part.params.shape[1]), None)
    padded = [part if part.params.shape[1] == count else _pad(part, count, params) for part in parts]
    return Observations(*(torch.cat([getattr(part, name) for part in padded]) for name in ("value", "params", "mask")))


def _row_shape(x: Any) -> tuple:
    """Everything that rows of one batch have in common: for Observations, the shape of one observation and of phi."""
    if isinstance(x, Observations):
        return tuple(x.value.shape[2:]), tuple(x.params.shape[2:])
    if isinstance(x, Tensor) and x.ndim:
        return tuple(x.shape[1:])
    raise ValueError(f"an example holds a {type(x).__name__}: wanted Observations or tensors with one row a signal")


def _pad(observations: Observations, count: int, params: Tensor) -> Observations:
    """The observations and masked ones, `count` in all; params: of a masked observation, where there is no other."""
    b, m = observations.mask.shape
    value, mask = observations.value, observations.mask
    params = observations.params[:, :1] if m else params.expand(b, *params.shape[1:])
    padding = [1] * (params.ndim - 2)
    return Observations(
        torch.cat([value, value.new_zeros(b, count - m, *value.shape[2:])], 1),
        torch.cat([observations.params, params.repeat(1, count - m, *padding)], 1),
        torch.cat([mask, mask.new_zeros(b, count - m)], 1),
    )


def check_batch(batch: Any, name: str, dtype: torch.dtype | None = None) -> None:
    """ValueError, in one line, unless a batch has all that `fit` needs, in shapes that fit together.

    name: of the batch in the message; dtype: of the weights; None: any type of values will do
    """
    if not isinstance(batch, Mapping):
        raise ValueError(f"{name} is a {type(batch).__name__}: wanted {BATCH_FORMAT}")
    for key in ("context", "target"):
        if key not in batch:
            raise ValueError(
                f'{name} has no "{key}", but {", ".join(map(repr, batch)) or "nothing"}: wanted {BATCH_FORMAT}'
            )
    for key, x in batch.items():
        wanted = Observations if key in ("context", "target", "novel") else Observations | Tensor
        if not isinstance(x, wanted) or (isinstance(x, Tensor) and not x.ndim):
            shape = " without an axis" if isinstance(x, Tensor) and not x.ndim else ""
            raise ValueError(
                f'{name} has a {type(x).__name__}{shape} as "{key}": wanted Observations'
                + ("" if wanted is Observations else " or a tensor with one row a signal")
            )
        if len(x) != len(batch["target"]) or not len(x):
            raise ValueError(
                f'{name} has {len(x)} signals in "{key}" and {len(batch["target"])} in "target": '
                "wanted one row a signal, and at least one"
            )
        if isinstance(x, Observations) and dtype not in (None, x.value.dtype):
            raise ValueError(
                f'{name} has {x.value.dtype} values in "{key}", the denoiser has weights of {dtype}: convert one, '
                f"as in observations.to({dtype})"
            )
    _check_params(batch, name)
    _check_pixel_indices(batch, name)


def _check_params(batch: Mapping, name: str) -> None:
    """ValueError unless the parameters of all observations have one shape, and those of target and novel one canvas."""
    target = batch["target"]
    for key in ("context", "novel"):
        if key in batch and batch[key].params.shape[2:] != target.params.shape[2:]:
            raise ValueError(
                f'{name} has params of shape {tuple(batch[key].params.shape[2:])} in "{key}" and '
                f'{tuple(target.params.shape[2:])} in "target": a problem has one shape'
            )
    if "novel" in batch and batch["novel"].value.shape[2:] != target.value.shape[2:]:
        raise ValueError(
            f'{name} has observations of shape {tuple(batch["novel"].value.shape[2:])} in "novel" and '
            f'{tuple(target.value.shape[2:])} in "target": both are made by one forward model'
        )


def _check_pixel_indices(batch: Mapping, name: str) -> None:
    """ValueError unless pixel indices are integers (B, M, n) for the M observations that they belong to."""
    for key, views in (("pixel_indices", "target"), ("novel_pixel_indices", "novel")):
        if key not in batch:
            continue
        if views not in batch:
            raise ValueError(f'{name} has "{key}" without "{views}"')
        indices, wanted = batch[key], tuple(batch[views].mask.shape)
        integer = isinstance(indices, Tensor) and indices.dtype in (torch.int64, torch.int32)
        if not integer or indices.ndim != 3 or tuple(indices.shape[:2]) != wanted:
            shape = f"{indices.dtype} {tuple(indices.shape)}" if isinstance(indices, Tensor) else type(indices).__name__
            raise ValueError(f'{name} has {shape} as "{key}": wanted integers ({wanted[0]}, {wanted[1]}, n)')


def check_values(batch: Mapping, name: str) -> None:
    """ValueError if observations are not finite, or if an index is out of range. A GPU is waited for."""
    for key, x in batch.items():
        if isinstance(x, Observations):
            x.check(f"{name}: {key}", allow_empty=True)
    for key, views in (("pixel_indices", "target"), ("novel_pixel_indices", "novel")):
        if key in batch and batch[key].numel():
            low, high = (int(x) for x in batch[key].aminmax())
            count = batch[views].value.flatten(3).shape[-1] if batch[views].value.ndim > 3 else 0
            if low < 0 or high >= count:
                raise ValueError(
                    f'{name} has "{key}" from {low} to {high}: the observations in "{views}" have {count} pixels'
                )


def check_targets(target: Observations, name: str) -> None:
    """ValueError if all targets of a batch are masked: its loss would be 0. A GPU is waited for."""
    if not target.mask.any():
        raise ValueError(f"{name}: no target exists, all are masked; is the mask inverted? True is what exists")


def check_batch_keys(batch: Mapping, model_class: type, num_random: int, name: str) -> None:
    """ValueError if a batch has keys that the model's forward has no argument for, or lacks one that it needs.

    num_random: how many random numbers `forward` gets between the target and the options of the batch
    """
    parameters = _parameters(model_class)
    if any(str(x).startswith("*") for x in parameters):  # it takes every option
        return
    options = parameters[3 + num_random :]  # after self, context and target
    names = [x.name for x in options]
    for key in batch:
        if key not in ("context", "target", *names):
            raise ValueError(
                f'{name} has an unknown key "{key}": the model takes {", ".join(["context", "target", *names])}'
            )
    for option in options:
        if option.default is option.empty and option.name not in batch:
            raise ValueError(f'{name} has no "{option.name}", which the model needs')


@cache
def _parameters(model_class: type) -> list[inspect.Parameter]:
    return list(inspect.signature(model_class.forward).parameters.values())


def describe_batch(batch: Mapping) -> dict[str, Any]:
    """What a resumed training must have in common with the earlier one: the number of signals, and the shapes."""
    shapes = {key: _row_shape(x) for key, x in sorted(batch.items()) if isinstance(x, Observations)}
    shapes = {key: {"value": list(value), "params": list(params)} for key, (value, params) in shapes.items()}
    return {"batch_size": len(batch["target"]), "shapes": shapes}
