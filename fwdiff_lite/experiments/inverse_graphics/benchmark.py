"""Measures the cost of training and sampling of 3-D scenes: time and memory; counts operations and bytes.

Operations are those of matrix products and convolutions. Bytes are the traffic of a program that reads the inputs and
writes the outputs of every operation, one operation after another; a compiler that fuses operations moves less. Times
are medians after a warm-up. Compare times within one run only.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from fwdiff_lite.devices import autocast_bf16
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.experiments.harness import Results, Session
from fwdiff_lite.experiments.inverse_graphics.variants import (
    BATCH_SIZE,
    FULL_MODEL,
    SETTINGS,
    SIDE,
    build_model,
    compile_networks,
)
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.storage.files import write_json
from fwdiff_lite.training import compile_model

SWEEPS = {  # setting -> its values; all other settings are those of DEFAULT
    "rays": (160, 320, 640, 1280),
    "samples": (20, 40, 80),
    "views": (1, 2, 3),
    "side": (32, 64, 96),
}
SWEEP_BATCH_SIZE = 16  # scenes in a step of a sweep: the largest settings must fit into a GPU's memory
# rays: of each target and novel image; samples: along each ray; views: context images; side: pixels
DEFAULT = {"rays": 640, "samples": 40, "views": 1, "side": SIDE}


class ByteCounterMode(TorchDispatchMode):
    """Counts the bytes of the inputs and outputs of all operations; a view of a tensor moves nothing."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return out


def noise_images(batch_size: int, views: int, side: int, device: torch.device, seed: int = 0) -> Observations:
    """Images of noise at random cameras around the table: the cost does not depend on the content."""
    generator = torch.Generator().manual_seed(seed)
    cameras = tabletop.sample_cameras(batch_size, views, generator)
    return Observations(torch.randn(batch_size, views, 3, side, side, generator=generator), cameras).to(device)


def training_step(
    batch_size: int, rays: int, samples: int, views: int, side: int, device: torch.device, compile: bool = False
) -> Callable[[], None]:
    """A function that makes one training step: forward, backward and AdamW, in bfloat16 on a GPU.

    compile: whether the model is compiled as in `fit`
    """
    model = build_model(replace(SETTINGS[FULL_MODEL], side=side), samples_per_ray=samples).to(device).train()
    images = noise_images(batch_size, views + 2, side, device)
    context, target, novel = images.select(slice(views)), images.select([views]), images.select([views + 1])
    generator = torch.Generator().manual_seed(0)
    t, noise = (x.to(device) for x in model.sample_time_and_noise(target.to("cpu"), generator))
    pixel_indices, novel_pixel_indices = (
        torch.randint(side**2, (batch_size, 1, rays), generator=generator).to(device) for _ in range(2)
    )
    on_gpu = device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), fused=on_gpu)
    loss = compile_model(model) if compile else model

    def step() -> None:
        with autocast_bf16(device, on_gpu):
            losses = loss(context, target, t, noise, novel, pixel_indices, novel_pixel_indices)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()

    return step


def sampling_call(model: ForwardDiffusion, batch_size: int, steps: int, device: torch.device) -> Callable[[], None]:
    """A function that samples one target for each of `batch_size` scenes with one context image."""
    images = noise_images(batch_size, 2, model.forward_model.height, device)
    on_gpu = device.type == "cuda"

    def sample() -> None:
        generator = torch.Generator().manual_seed(0)
        with autocast_bf16(device, on_gpu):
            model.sample(images.select([0]), images.params[:, 1:], steps=steps, generator=generator)

    return sample


def measure(call: Callable[[], None], device: torch.device, repeats: int = 5, warmup: int = 2) -> dict[str, float]:
    """The median seconds of a call, and on a GPU its peak memory in gigabytes."""
    on_gpu = device.type == "cuda"
    for _ in range(warmup):
        call()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        start_time = time.perf_counter()
        call()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start_time)
    memory = {"gigabytes": torch.cuda.max_memory_allocated() / 1e9} if on_gpu else {}
    return {"seconds": statistics.median(times)} | memory


def count_operations(call: Callable[[], None]) -> dict[str, float]:
    """The operations (a multiplication and an addition are two) and the bytes of a call, both in billions."""
    with FlopCounterMode(display=False) as flop_counter, ByteCounterMode() as byte_counter:
        call()
    return {"gigaflop": flop_counter.get_total_flops() / 1e9, "gigabytes_moved": byte_counter.bytes / 1e9}


def sweep(batch_size: int, device: torch.device, sweeps: dict[str, tuple[int, ...]]) -> Iterator[dict[str, dict]]:
    """Yields the costs of an uncompiled training step so far, after each value of each sweep."""
    results = {}
    for name, values in sweeps.items():
        for value in values:
            step = training_step(batch_size, **(DEFAULT | {name: value}), device=device)
            results[f"{name}_{value}"] = measure(step, device) | count_operations(step) | {"batch": batch_size}
            yield results


def measure_cost(session: Session) -> Results:
    """The cost of sampling and of training, and of training steps with other settings, as one JSON text.

    Each part is written to cost.json in the session's folder as soon as it is measured.
    """
    device = session.device
    on_gpu = device.type == "cuda"
    model = build_model(SETTINGS[FULL_MODEL]).to(device).eval()
    if on_gpu:
        compile_networks(model)
    costs = {"batch": BATCH_SIZE}

    def record(name: str, cost: dict) -> None:
        costs[name] = cost
        write_json(session.folder / "cost.json", costs)

    for batch_size in (64, 1) if on_gpu else (1,):
        record(f"sampling_{batch_size}", measure(sampling_call(model, batch_size, 32, device), device, 3, 1))
    record("training", measure(training_step(BATCH_SIZE, **DEFAULT, device=device, compile=on_gpu), device, 20))
    record("training_counted", count_operations(training_step(BATCH_SIZE, **DEFAULT, device=device)))
    for sweep_costs in sweep(min(SWEEP_BATCH_SIZE, BATCH_SIZE), device, SWEEPS):
        record("sweep", sweep_costs)
    return Results({}, {"benchmark": np.array(json.dumps(costs))})
