"""Measures the cost of training and sampling of 3-D scenes: time and memory; counts operations and bytes.

Operations are those of matrix products and convolutions. Bytes are the traffic of a program that reads the inputs and
writes the outputs of every operation, one operation after another; a compiler that fuses operations moves less. Times
are medians after a warm-up. Compare times within one run only.
"""

from __future__ import annotations

import gc
import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from fwdiff_lite.devices import autocast_bf16, synchronize
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.experiments.inverse_graphics.variants import (
    BATCH_SIZE,
    FULL_MODEL,
    SETTINGS,
    SIDE,
    build_model,
    compile_networks,
)
from fwdiff_lite.experiments.timing import PEAK_TERAFLOPS, OperationCounterMode
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics import tabletop
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
# by the data sheets: operations a second of dense matrix products in bfloat16, in billions, and bytes a second, in GB
PEAK_GIGABYTES_A_SECOND = {"NVIDIA H100 80GB HBM3": 3_350, "NVIDIA H200": 4_800}
PEAK_GIGAFLOP_A_SECOND = {name: round(1e3 * PEAK_TERAFLOPS["bf16"]) for name in PEAK_GIGABYTES_A_SECOND}


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


class MemoryCounterMode(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make and that are still alive, and their peak.

    Tensors that existed before are not counted; a view has the memory of its base.
    """

    def __init__(self):
        super().__init__()
        self.bytes = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor):
                self._known.setdefault(x.untyped_storage(), 0)
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (storage := x.untyped_storage()) not in self._known:
                self._known[storage] = storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
                self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        return out

    def _free(self, count: int) -> None:
        self.bytes -= count


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
    synchronize(device)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        start_time = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start_time)
    memory = {"gigabytes": torch.cuda.max_memory_allocated() / 1e9} if on_gpu else {}
    return {"seconds": statistics.median(times)} | memory


def count_operations(call: Callable[[], None]) -> dict[str, float]:
    """The operations (a multiplication and an addition are two) and the bytes of a call, both in billions."""
    with OperationCounterMode() as operation_counter, ByteCounterMode() as byte_counter:
        call()
    return {"gigaflop": operation_counter.operations / 1e9, "gigabytes_moved": byte_counter.bytes / 1e9}


def count_memory(call: Callable[[], object]) -> dict[str, float]:
    """The peak of the memory that a call takes, and what it leaves while its result is kept, both in megabytes.

    With gradients, what is left holds the activations that the backward pass needs.
    """
    gc.collect()
    with MemoryCounterMode() as counter:
        result = call()
        left = counter.bytes
    del result
    return {"peak_megabytes": counter.peak / 1e6, "left_megabytes": left / 1e6}


def sweep_steps() -> dict[str, dict[str, int]]:
    """The settings of a training step for each value of each sweep, by "setting_value"."""
    return {f"{name}_{value}": DEFAULT | {name: value} for name, values in SWEEPS.items() for value in values}


def measure_cost(device: torch.device, measure_part: Callable[[str, Callable[[], dict]], dict]) -> dict:
    """The cost of sampling and of training, and of uncompiled training steps with other settings.

    measure_part: is called with the name of each part and the function that measures it
    """
    on_gpu = device.type == "cuda"
    model = build_model(SETTINGS[FULL_MODEL]).to(device).eval()
    if on_gpu:
        compile_networks(model)

    def sampling(batch_size: int) -> dict[str, float]:
        return measure(sampling_call(model, batch_size, 32, device), device, 3, 1)

    def training() -> dict[str, float]:
        return measure(training_step(BATCH_SIZE, **DEFAULT, device=device, compile=on_gpu), device, 20)

    def swept_step(settings: dict[str, int]) -> dict[str, float]:
        batch_size = min(SWEEP_BATCH_SIZE, BATCH_SIZE)
        step = training_step(batch_size, **settings, device=device)
        return measure(step, device) | count_operations(step) | {"batch": batch_size}

    calls = {f"sampling_{n}": partial(sampling, n) for n in ((64, 1) if on_gpu else (1,))}
    calls |= {"training": training}
    calls |= {"training_counted": lambda: count_operations(training_step(BATCH_SIZE, **DEFAULT, device=device))}
    costs = {name: measure_part(name, call) for name, call in calls.items()}
    swept = {name: measure_part(name, partial(swept_step, settings)) for name, settings in sweep_steps().items()}
    return {"batch": BATCH_SIZE, "sweep": swept} | costs
