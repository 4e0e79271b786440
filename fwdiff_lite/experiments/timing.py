"""Times the training of a variant as `fit` runs it, on one device or on several: rate, memory, share of a GPU's peak.

    python -m fwdiff_lite.experiments paper_size time dit
    torchrun --nproc_per_node 4 -m fwdiff_lite.experiments paper_size time dit --batch-size 32

Operations are those of matrix products, convolutions and attention, with the formulas of torch.utils.flop_counter: a
multiplication and an addition are two. They are counted for one signal, without compiling. On a CPU and on a GPU the
forward pass has the same number of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fwdiff_lite.devices import autocast_bf16, default_device, is_main_process, num_processes
from fwdiff_lite.experiments.declaration import Experiment, Training, Variant
from fwdiff_lite.experiments.harness import load_model
from fwdiff_lite.experiments.records import command_line, gpu_minutes
from fwdiff_lite.protocols import BatchFunction, RowBatchFunction
from fwdiff_lite.storage.files import write_json
from fwdiff_lite.storage.provenance import provenance
from fwdiff_lite.training import TrainingLog

# operations a second of an H100 SXM and of an H200, dense (NVIDIA's data sheets), in units of 10^12
PEAK_TERAFLOPS = {"bf16": 989.4, "tf32": 494.7, "fp32": 66.9}
FORMULAS = flop_registry | {  # torch has no formulas for attention on a CPU
    getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention_for_cpu{end}"): flop_registry[
        getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention{end}")
    ]
    for end in ("", "_backward")
}
WARMUP_STEPS = 5  # compile, choose convolutions, make the state of the optimiser


class StepTimer:
    """Notes the time at the start of each step.

    window: at the end of the warm-up and after every such number of steps, the GPU is waited for
    warmup: steps that are not measured; the record of the peak memory begins after them
    """

    def __init__(self, device: torch.device, window: int, warmup: int = WARMUP_STEPS):
        self.device, self.window, self.warmup = device, window, warmup
        self.starts: list[float] = []
        self.created = time.perf_counter()

    def start_step(self) -> None:
        """Is called at the start of each step."""
        measured = len(self.starts) - self.warmup
        if self.device.type == "cuda" and measured >= 0 and measured % self.window == 0:
            torch.cuda.synchronize(self.device)
            if measured == 0:
                torch.cuda.reset_peak_memory_stats(self.device)
        self.starts.append(time.perf_counter())

    def measures(self, batch_size: int) -> dict[str, Any]:
        """The seconds of the warm-up and of the first step, which compiles on a GPU; the signals a second (median over
        windows); on a GPU the peak memory."""
        marks = self.starts[self.warmup :: self.window]
        rates = [self.window * batch_size / (b - a) for a, b in zip(marks, marks[1:], strict=False)]
        measures = {
            "warmup_seconds": marks[0] - self.created,
            "first_step_seconds": self.starts[1] - self.starts[0],
            "signals_a_second": statistics.median(rates),
            "signals_a_second_of_windows": rates,
        }
        if self.device.type == "cuda":
            measures["gigabytes_allocated"] = torch.cuda.max_memory_allocated(self.device) / 1e9
            measures["gigabytes_reserved"] = torch.cuda.max_memory_reserved(self.device) / 1e9
        return measures


def timed_batches(batches: BatchFunction, start_step: Callable[[], None]) -> BatchFunction:
    """The same batches; start_step() is called before each is drawn, which is the first thing in a step of `fit`."""

    def draw(generator: torch.Generator) -> dict:
        start_step()
        return batches(generator)

    def draw_rows(generator: torch.Generator, rows: slice) -> dict:
        start_step()
        return batches.draw_rows(generator, rows)

    if isinstance(batches, RowBatchFunction):
        draw.batch_size, draw.draw_rows = batches.batch_size, draw_rows
    return draw


def train_timed(
    variant: Variant, model: nn.Module, batches: BatchFunction, training: Training, timer: StepTimer
) -> TrainingLog:
    """Trains the model of a variant on these batches; the timer notes each step."""
    timed = replace(variant, batches=lambda device, batch_size: timed_batches(batches, timer.start_step))
    return timed.train(model, training)


class OperationCounterMode(TorchDispatchMode):
    """Counts operations. Torch's FlopCounterMode would keep the activations that checkpointing computes again."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if formula := FORMULAS.get(func.overloadpacket):
            self.operations += formula(*args, **(kwargs or {}), out_val=out)
        return out


def count_teraflops(
    model: nn.Module, batches: BatchFunction, rows: slice, device: torch.device, bf16: bool
) -> dict[str, float]:
    """The operations of the loss of one signal, in units of 10^12: of the forward pass, and with the backward pass.

    With activation checkpointing, the backward pass contains a second forward pass.
    rows: of a batch, as many as the training draws in this process, so that drawing is compiled once
    """
    generator = torch.Generator().manual_seed(0)
    by_rows = isinstance(batches, RowBatchFunction)
    examples = batches.draw_rows(generator, rows) if by_rows else batches(generator)
    random_numbers = model.sample_time_and_noise(examples["target"], generator)
    batch = {name: x[:1].to(device) for name, x in examples.items()}
    model.to(device).train()
    with OperationCounterMode() as forward_counter, autocast_bf16(device, bf16):
        losses = model(batch.pop("context"), batch.pop("target"), *(x[:1].to(device) for x in random_numbers), **batch)
    with OperationCounterMode() as backward_counter:
        losses["loss"].backward()
    model.zero_grad()
    forward, backward = (counter.operations / 1e12 for counter in (forward_counter, backward_counter))
    return {"teraflop_forward": forward, "teraflop_step": forward + backward}


def share_of_peak(record: dict[str, Any], device: torch.device) -> dict[str, float]:
    """The peak of an H100 or H200, and which share of it a training reaches; nothing for another device.

    model_share: of a step without activation checkpointing, whose backward pass has twice the forward's operations
    hardware_share: of all operations that are computed
    """
    if device.type != "cuda" or not any(name in torch.cuda.get_device_name(device) for name in ("H100", "H200")):
        return {}
    peak = PEAK_TERAFLOPS[record["precision"]]
    rate = record["signals_a_second"] / record["processes"]
    return {
        "peak_teraflops": peak,
        "model_share": rate * 3 * record["teraflop_forward"] / peak,
        "hardware_share": rate * record["teraflop_step"] / peak,
    }


def time_training(
    experiment: Experiment,
    name: str,
    folder: Path,
    batch_size: int | None = None,
    precision: str | None = None,
    eager: bool = False,
    windows: int = 5,
    window: int = 10,
) -> dict[str, Any]:
    """Trains a variant for some steps, and writes what they cost to time_NAME_....json in the folder.

    batch_size: over all processes; None: that of the variant, in each process
    precision: a key of PEAK_TERAFLOPS; None: bf16 on a GPU, fp32 on a CPU
    eager: whether nothing is compiled
    windows, window: the rate is the median over so many windows of so many steps each
    ValueError unless the processes can share a batch evenly.
    """
    variant, device, processes = experiment.variant(name), default_device(), num_processes()
    on_gpu = device.type == "cuda"
    batch_size, precision = batch_size or variant.batch_size * processes, precision or ("bf16" if on_gpu else "fp32")
    if batch_size % processes:
        wanted = f"wanted a multiple of {processes}, one share for each process"
        raise ValueError(f"--batch-size {batch_size}: {wanted}")
    torch.backends.cudnn.benchmark = on_gpu
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    assets = {need: load_model(experiment, need, folder, device) for need in variant.contained_assets}
    model, batches = variant.build_model(**assets), variant.batches(device, batch_size)
    options = {"bf16": precision == "bf16", "compile": on_gpu and not eager}
    counts = count_teraflops(model, batches, slice(batch_size // processes), device, options["bf16"])
    timer = StepTimer(device, window)
    variant = replace(variant, fit_options=dict(variant.fit_options) | options)
    steps = WARMUP_STEPS + windows * window + 1  # the last window ends where the last step starts
    training = Training(steps, None, batch_size, variant.seed, None, device, assets)
    log = train_timed(variant, model, batches, training, timer)
    arguments = {"batch_size": batch_size, "precision": precision, "windows": windows, "window": window}
    record = provenance(command_line(experiment.name, "time", name, arguments) + " --eager" * eager) | {
        "parameters": sum(w.numel() for w in model.parameters()),
        "batch": batch_size,
        "processes": processes,
        "precision": precision,
        "compiled": options["compile"],
        **counts,
        **timer.measures(batch_size),
        "gpu_minutes": gpu_minutes(log.seconds, device),
        "losses": log.curve["loss"],
    }
    record |= share_of_peak(record, device)
    if is_main_process():
        file_name = f"time_{name}_{processes}_batch_{batch_size}_{precision}{'_eager' * eager}.json"
        write_json(folder / file_name, record)
    return record
