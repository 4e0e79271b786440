"""The validation of a model while fit() trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from fwdiff_lite.batches import check_batch, check_batch_keys, check_values
from fwdiff_lite.checks import check_count
from fwdiff_lite.observations import Observations, to_device
from fwdiff_lite.training_state import TrainingState, check_option


@dataclass(frozen=True)
class Validation:
    """A function of the model, and the number of steps between its calls.

    ValueError if `function` is neither callable nor None, or `every` is not a whole number of 1 or more.
    """

    function: Callable[[nn.Module], float | Mapping[str, float]] | None
    every: int

    def __post_init__(self):
        callable_or_none = self.function is None or callable(self.function)
        check_option("validate", repr(self.function), callable_or_none, "a function of the model")
        check_count(validate_every=self.every)

    def run(self, model: nn.Module, state: TrainingState) -> None:
        """Calls the function with the EMA as weights, and appends its numbers to the log."""
        if self.function is None:
            return
        with state.averaged():
            result = self.function(model)
        numbers = result if isinstance(result, Mapping) else {"loss": result}
        validation, names = state.log.validation, ["steps", *numbers]
        if not all(_is_number(x) for x in numbers.values()) or "steps" in numbers:
            raise ValueError(f'validate returned {result}: wanted a number, or a dict of numbers without "steps"')
        if validation and list(validation) != names:
            raise ValueError(
                f"validate returned {names[1:]}, and earlier {list(validation)[1:]}: wanted the same names"
            )
        for name, x in zip(names, [state.log.steps, *numbers.values()], strict=True):
            validation.setdefault(name, []).append(x if name == "steps" else float(x))


@torch.no_grad()
def validation_loss(
    model: nn.Module, batches: Iterable[Mapping[str, Observations | Tensor]], seed: int = 0
) -> dict[str, float]:
    """The losses of a model, as means over the signals of all batches: fit(..., validate=...) calls it for a data set.

    seed: of the times and the noise, which are the same at every call. ValueError on batches that do not fit

        fit(model, batches, steps=10_000, validate=lambda model: validation_loss(model, loader))
    """
    device = next(model.denoiser.parameters()).device
    generator, sums, count = torch.Generator().manual_seed(seed), {}, 0
    for i, batch in enumerate(batches):
        check_batch(batch, f"validation batch {i}")
        random_numbers = model.sample_time_and_noise(batch["target"], generator)
        check_batch_keys(batch, type(model), len(random_numbers), f"validation batch {i}")
        check_values(batch, f"validation batch {i}")
        options = {name: to_device(x, device) for name, x in batch.items()}
        random_numbers = [to_device(x, device) for x in random_numbers]
        losses = model(options.pop("context"), options.pop("target"), *random_numbers, **options)
        count += len(batch["target"])
        for name, x in losses.items():
            sums[name] = sums.get(name, 0.0) + float(x) * len(batch["target"])
    if not count:
        raise ValueError("there is no validation batch: an iterator can be read only once, give a DataLoader or a list")
    return {name: x / count for name, x in sums.items()}


def _is_number(x: Any) -> bool:
    return isinstance(x, Real) or (isinstance(x, Tensor) and x.numel() == 1)
