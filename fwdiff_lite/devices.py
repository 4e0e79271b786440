"""Which device a process computes on, and what that device can do.

A command asks `default_device` once, so that every process of `accelerate launch` or torchrun uses a GPU of its own.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor


def default_device() -> torch.device:
    """The CUDA GPU of this process, else the CPU.

    Launchers number the processes of a host in LOCAL_RANK; `accelerate launch --cpu` sets ACCELERATE_USE_CPU.
    Apple's MPS is never chosen: it has no float64. A caller may still ask for it.
    """
    if not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on"):
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device()))
    return torch.device(
        "cuda", max(index, 0) % torch.cuda.device_count()
    )  # a launcher may show one GPU to each process


def num_processes() -> int:
    """How many processes a launcher started for this run, on all hosts."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Whether this process is the one that writes files and prints: launchers number all processes in RANK."""
    return int(os.environ.get("RANK", 0)) == 0


def widest_float(device: torch.device) -> torch.dtype:
    """The most precise floating type of a device: float64, but float32 on Apple's MPS."""
    return torch.float32 if device.type == "mps" else torch.float64


def autocast_bf16(device: torch.device, enabled: bool) -> AbstractContextManager:
    """torch.autocast to bfloat16. Where it is off, nothing is asked of the device: torch 2.4 has none for MPS."""
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()


def vector_like(values: Sequence[float], like: Tensor) -> Float[Tensor, "n"]:
    """Python numbers as a tensor with the type and on the device of `like`.

    It is made there: for a copy, the CPU would wait until a GPU has finished its earlier work.
    """
    return torch.stack([like.new_full((), value) for value in values])


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has computed all that it was asked for, as a measurement of time must."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class CUDAGraphCallable:
    """A function of one tensor, captured as a CUDA graph after a few calls and replayed from then on.

    A GPU gets the whole graph at once; otherwise it would wait for each of a small network's thousand kernels. The
    function must do the same at every call, must not read a number from the GPU, and must change lasting tensors in
    place; it returns a dict of tensors. On a CPU the function itself is called.

    generator: the generator that the function draws from, on the tensor's device
    """

    WARMUP = 3  # calls before the capture: libraries choose their kernels and optimisers create their state

    def __init__(self, function: Callable[[Tensor, torch.Generator], dict[str, Tensor]], generator: torch.Generator):
        self.function, self.generator, self.calls, self.graph = function, generator, 0, None

    def __call__(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        if generator is not self.generator:
            raise ValueError("a captured function draws from the generator that it was captured with: give that one")
        self.calls += 1
        if not x.is_cuda:
            return self.function(x, generator)
        if self.calls <= self.WARMUP:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                outputs = self.function(x, generator)
            torch.cuda.current_stream().wait_stream(stream)
            return outputs
        if self.graph is None:
            self.x, self.graph = x.clone(), torch.cuda.CUDAGraph()
            self.graph.register_generator_state(generator)
            with torch.cuda.graph(self.graph):
                self.outputs = self.function(self.x, generator)
        self.x.copy_(x)
        self.graph.replay()
        return {name: value.clone() for name, value in self.outputs.items()}
