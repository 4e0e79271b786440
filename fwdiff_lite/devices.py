"""Which device a process computes on, and what that device can do.

A command asks `default_device` once, so that every process of `accelerate launch` or torchrun uses a GPU of its own.
"""

import os
from contextlib import AbstractContextManager, nullcontext

import torch


def default_device() -> torch.device:
    """The CUDA GPU of this process, else the CPU.

    Launchers number the processes of a host in LOCAL_RANK; `accelerate launch --cpu` sets ACCELERATE_USE_CPU.
    Apple's MPS is never chosen: it has no float64. A caller may still ask for it.
    """
    if not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))


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
