"""Training in several processes: the accelerator, what all processes must agree on, and each one's rows of a batch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fwdiff_lite.devices import num_processes

if TYPE_CHECKING:
    from accelerate import Accelerator
else:
    Accelerator = Any  # `make_accelerator` imports it: that takes a second, which sampling does not need


class ProcessSync:
    """What all processes must agree on: gradients, seconds of training, an interrupt, and the steps of a checkpoint.

    Every process reads the main process's clock, and learns of an interrupt of any other. Otherwise they would end at
    different steps, and compute different learning rates. This call's first step, which compiles, does not count.

    earlier_seconds: of training before this call
    """

    def __init__(self, accelerator: Accelerator):
        self.earlier_seconds, self.started, self.is_main = 0.0, None, accelerator.is_main_process
        shared = accelerator.num_processes > 1 and torch.distributed.is_initialized()
        self.group = torch.distributed.new_group(backend="gloo") if shared else None  # gloo: no GPU is waited for

    def is_equal(self, x: Tensor) -> bool:
        """Whether all processes have the same number."""
        extremes = torch.stack([x, -x]).double().cpu()
        if self.group is not None:
            torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX, group=self.group)
        return not extremes.sum()

    def average(self, gradients: list[Tensor]) -> None:
        """Replaces gradients by their means over all processes, with one message for all of them."""
        flat = torch.cat([x.flatten() for x in gradients])
        torch.distributed.all_reduce(flat)
        means = (flat / torch.distributed.get_world_size()).split([x.numel() for x in gradients])
        torch._foreach_copy_(gradients, [mean.view_as(x) for mean, x in zip(means, gradients, strict=True)])

    @torch.no_grad()
    def copy_from_main_process(self, tensors: list[Tensor]) -> None:
        """Replaces tensors by those of the main process."""
        for x in tensors if self.group is not None else ():
            torch.distributed.broadcast(x, 0)

    def read(self, interrupted: bool = False) -> tuple[float, bool]:
        """The seconds until now, and whether a process was interrupted; all processes must call it equally often."""
        now = time.monotonic()
        if self.started is None:
            self.started = now
        seconds = self.earlier_seconds + (now - self.started) if self.is_main else 0.0
        values = torch.tensor([seconds, float(interrupted)], dtype=torch.float64)
        if self.group is not None:
            torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, group=self.group)
        return values[0].item(), bool(values[1])


def make_accelerator(accelerator: Accelerator | None) -> Accelerator:
    """The accelerator, or one on the device that accelerate finds, but never MPS.

    ValueError for another object, and if a launcher started processes that would train apart from each other.
    """
    from accelerate import Accelerator

    if accelerator is None:
        accelerator = Accelerator(cpu=torch.backends.mps.is_available(), mixed_precision="no")
    if not isinstance(accelerator, Accelerator):
        raise ValueError(f"accelerator is {accelerator!r}: wanted an accelerate.Accelerator, or None")
    if (started := num_processes()) > (connected := accelerator.num_processes):
        raise ValueError(
            f"a launcher started {started} processes, and accelerate connects {connected} of them: to train on CPUs, "
            "set ACCELERATE_USE_CPU=true"
        )
    return accelerator


def process_rows(n: int, accelerator: Accelerator) -> slice:
    """This process's rows of a batch of n."""
    parts = accelerator.num_processes
    if n % parts:
        raise ValueError(
            f"a batch of {n} cannot be shared evenly by {parts} processes: make it a multiple, and leave out a smaller "
            "last batch, as DataLoader(drop_last=True) does"
        )
    return slice(accelerator.process_index * n // parts, (accelerator.process_index + 1) * n // parts)
