"""What training and sampling of 3-D scenes cost: time and memory, and beside them operations and bytes.

    python -m fwdiff_lite.experiments.inverse_graphics.benchmark --out build/inverse_graphics

Operations are those of matrix products and convolutions. Bytes are what a program moves that reads the inputs of every
operation and writes its outputs, one operation after another; a compiler that fuses operations moves less. Times are
medians after a warm-up, to be compared within one run only.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from fwdiff_lite.command_line import positive_int
from fwdiff_lite.devices import autocast_bf16, default_device
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.experiments.inverse_graphics.train import BATCH_SIZE, SIDE, compile_networks, build_model
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.storage.files import write_json
from fwdiff_lite.storage.provenance import provenance
from fwdiff_lite.training import compile_model

COMMAND = "python -m fwdiff_lite.experiments.inverse_graphics.benchmark"
SWEEPS = {  # what is changed, one at a time, from DEFAULT
    "rays": (160, 320, 640, 1280),
    "samples": (20, 40, 80),
    "views": (1, 2, 3),
    "side": (32, 64, 96),
}
SWEEP_BATCH_SIZE = 16  # scenes a step in a sweep, so that the largest values fit into any GPU's memory
DEFAULT = {"rays": 640, "samples": 40, "views": 1, "side": SIDE}  # a training that others can be compared with


class ByteCounterMode(TorchDispatchMode):
    """Counts the bytes of all tensors that go into operations and come out of them; views move nothing."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return out


def scenes_of(size: int, views: int, side: int, device: torch.device, seed: int = 0) -> Observations:
    """Images like noise by cameras around the table: what they show costs nothing."""
    generator = torch.Generator().manual_seed(seed)
    cameras = tabletop.draw_cameras(size, views, generator)
    return Observations(torch.randn(size, views, 3, side, side, generator=generator), cameras).to(device)


def training_step(
    size: int, rays: int, samples: int, views: int, side: int, device: torch.device, compile: bool = False
) -> Callable[[], None]:
    """One step of training: forward, backward and AdamW, in bfloat16 on a GPU; compiled as `fit` does."""
    model = build_model("unet", side=side, samples=samples).to(device).train()
    seen = scenes_of(size, views + 2, side, device)
    parts = {"context": seen.select(slice(views)), "target": seen.select([views]), "novel": seen.select([views + 1])}
    generator = torch.Generator().manual_seed(0)
    t, noise = (x.to(device) for x in model.sample_time_and_noise(parts["target"].to("cpu"), generator))
    pixel_indices, novel_pixel_indices = (torch.randint(side**2, (size, 1, rays), generator=generator).to(device) for _ in range(2))
    fast = device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), fused=fast)
    loss = compile_model(model) if compile else model

    def step() -> None:
        with autocast_bf16(device, fast):
            losses = loss(parts["context"], parts["target"], t, noise, parts["novel"], pixel_indices, novel_pixel_indices)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()

    return step


def sampling(model: ForwardDiffusion, size: int, steps: int, device: torch.device) -> Callable[[], None]:
    """Sampling one target for each of `size` scenes with one context."""
    seen = scenes_of(size, 2, model.forward_model.height, device)
    fast = device.type == "cuda"

    def sample() -> None:
        with autocast_bf16(device, fast):
            model.sample(seen.select([0]), seen.params[:, 1:], steps=steps, generator=torch.Generator().manual_seed(0))

    return sample


def measure(call: Callable[[], None], device: torch.device, repeats: int = 5, warmup: int = 2) -> dict[str, float]:
    """Median seconds of a call, and on a GPU the gigabytes that it needs at most."""
    cuda = device.type == "cuda"
    for _ in range(warmup):
        call()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    memory = {"gigabytes": torch.cuda.max_memory_allocated() / 1e9} if cuda else {}
    return {"seconds": statistics.median(times)} | memory


def count(call: Callable[[], None]) -> dict[str, float]:
    """Operations (a multiplication and an addition are two) and bytes of a call, both in billions."""
    with FlopCounterMode(display=False) as flops, ByteCounterMode() as moved:
        call()
    return {"gigaflop": flops.get_total_flops() / 1e9, "gigabytes_moved": moved.bytes / 1e9}


def sweep(size: int, device: torch.device, sweeps: dict[str, tuple[int, ...]] = SWEEPS) -> dict[str, dict]:
    """Of an uncompiled training step, for every value of every sweep: all that `measure` and `count` say."""
    found = {}
    for name, values in sweeps.items():
        for value in values:
            step = training_step(size, **(DEFAULT | {name: value}), device=device)
            found[f"{name}_{value}"] = measure(step, device) | count(step) | {"batch": size}
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure what training and sampling cost.")
    parser.add_argument("--out", type=Path, default=Path("build/inverse_graphics"))
    parser.add_argument("--batch", type=positive_int, default=BATCH_SIZE)
    options = parser.parse_args()
    device = default_device()
    fast, started = device.type == "cuda", time.monotonic()
    numbers: dict[str, object] = provenance(f"{COMMAND} --batch {options.batch}") | {"batch": options.batch}

    def note(name: str, value: dict) -> None:
        numbers[name] = value
        numbers["gpu_minutes"] = (time.monotonic() - started) / 60 if fast else 0.0
        write_json(options.out / "benchmark.json", numbers)
        if name != "sweep":
            print(name, value, flush=True)

    model = build_model("unet").to(device).eval()
    if fast:
        compile_networks(model)
    for size in (64, 1) if fast else (1,):
        note(f"sampling_{size}", measure(sampling(model, size, 32, device), device, 3, 1))
    note("training", measure(training_step(options.batch, **DEFAULT, device=device, compile=fast), device, 20))
    note("training_counted", count(training_step(options.batch, **DEFAULT, device=device)))
    note("sweep", sweep(min(SWEEP_BATCH_SIZE, options.batch), device))


if __name__ == "__main__":
    main()
