"""The rate of a training on one GPU or on several: what each process runs, and how the processes are started.

    python -m fwdiff_lite.experiments.inverse_graphics.training_rate FILE --variant unet --batch-size 128 --steps 120

One process runs alone. Several processes are started with the variables of torchrun (RANK, WORLD_SIZE, ...). Each
process sees one GPU only, so all of them share one cache of compiled code. The main process writes the file.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from fwdiff_lite.command_line import positive_int
from fwdiff_lite.devices import default_device, is_main_process, num_processes
from fwdiff_lite.experiments.declaration import Training, Variant
from fwdiff_lite.experiments.inverse_graphics import variants
from fwdiff_lite.experiments.inverse_graphics.benchmark import measure
from fwdiff_lite.experiments.timing import StepTimer, train_timed
from fwdiff_lite.storage.files import write_json

MEASURED_VARIANTS = {name: variants.VARIANTS[name] for name in ("unet",)} | {
    name: variants.SUPERSAMPLED_VARIANTS[name] for name in ("supersampled_maps",)
}
WINDOWS = 5  # parts of a training whose rates are measured, after one such part as a warm-up
LIMIT_SECONDS = 480  # of all processes of one training: longer is a process that waits for another one


def resize_variant(variant: Variant, side: int) -> Variant:
    """The variant with images of another size. Its losses use at most a quarter of their pixels."""
    if side == variants.SIDE:
        return variant
    (settings,) = variant.build.args
    settings = replace(settings, side=side, pixels=settings.pixels and min(settings.pixels, side**2 // 4))
    build = partial(variants.build_model, settings, **variant.build.keywords)
    return replace(
        variant, build=build, batches=partial(variants.tabletop_batches, settings, **variant.batches.keywords)
    )


# --- one process ------------------------------------------------------------------------------------------------------


def matrix_product_rate(device: torch.device, size: int = 8192) -> float:
    """The operations a second of a product of two square matrices, in billions; in bfloat16 on a GPU."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    return 2 * size**3 / measure(lambda: a @ b, device, repeats=20)["seconds"] / 1e9


def all_reduce_seconds(count: int, device: torch.device) -> float:
    """The median seconds of one sum of `count` numbers over all processes."""
    numbers = torch.zeros(count, device=device)
    return measure(lambda: torch.distributed.all_reduce(numbers), device, repeats=20)["seconds"]


def measure_training(variant: Variant, batch_size: int, steps: int, device: torch.device) -> dict:
    """The rate and the memory of a training on this process's device and on those of all other processes.

    batch_size: scenes a step on each device; steps: at least 6, of which the last five sixths are measured

    rate: scenes a second over all processes, and in `window_rates` of each fifth of the measured steps
    first_step_seconds: of the first step, which compiles on a GPU
    gigabytes: peak memory of one GPU
    batch_seconds: of one process's rows of a batch, alone; all_reduce_seconds: of one sum of all gradients
    """
    window, total_batch_size = max(1, steps // (WINDOWS + 1)), batch_size * num_processes()
    on_gpu = device.type == "cuda"
    torch.backends.cudnn.benchmark = on_gpu
    model, batches = variant.build_model(), variant.batches(device, total_batch_size)
    timer = StepTimer(device, window, warmup=window)
    training = Training((WINDOWS + 1) * window + 1, None, total_batch_size, variant.seed, None, device, {})
    log = train_timed(variant, model, batches, training, timer)
    measures = timer.measures(total_batch_size)
    memory = {"gigabytes": measures["gigabytes_allocated"]} if on_gpu else {}
    rates = measures["signals_a_second_of_windows"]
    generator, weights = torch.Generator().manual_seed(0), sum(w.numel() for w in model.denoiser.parameters())
    costs = {
        "batch_seconds": measure(lambda: batches.draw_rows(generator, slice(batch_size)), device)["seconds"],
        "matrix_product_gigaflop_a_second": matrix_product_rate(device, 8192 if on_gpu else 256),
    }
    if torch.distributed.is_initialized():
        costs["all_reduce_seconds"] = all_reduce_seconds(weights, device)
    return costs | memory | {
        "processes": num_processes(),
        "batch": batch_size,
        "steps": log.steps,
        "weights": weights,
        "rate": statistics.harmonic_mean(rates),
        "window_rates": rates,
        "first_step_seconds": measures["first_step_seconds"],
        "loss": log.curve["loss"][-1],
        "device": torch.cuda.get_device_name(device) if on_gpu else "CPU",
    }  # fmt: skip


# --- all processes ----------------------------------------------------------------------------------------------------


def process_environments(count: int, cache_folder: Path) -> list[Mapping[str, str]]:
    """The environment variables of each of `count` processes on this host; each of them sees one GPU.

    cache_folder: of compiled code
    """
    launcher_keys = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    shared = {key: value for key, value in os.environ.items() if key not in launcher_keys}
    shared |= {"TORCHINDUCTOR_CACHE_DIR": str(cache_folder.resolve())}
    if count > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "LOCAL_RANK": "0"}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if not torch.cuda.is_available():
        shared |= {"ACCELERATE_USE_CPU": "true"}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = visible if visible[0] else [str(i) for i in range(torch.cuda.device_count())]
    environments = []
    for rank in range(count):
        own = {"RANK": str(rank)} if count > 1 else {}
        environments.append(shared | own | ({"CUDA_VISIBLE_DEVICES": gpus[rank]} if gpus else {}))
    return environments


def run_processes(arguments: list[str], environments: list[Mapping[str, str]], log_name: Path) -> None:
    """Runs this module with these arguments in one process for each environment; the output of each goes to a file.

    ValueError if a process fails or all of them take more than LIMIT_SECONDS. Then, and after an interrupt, all end.
    """
    log_name.parent.mkdir(parents=True, exist_ok=True)
    logs = [log_name.with_name(f"{log_name.name}_{rank}.log") for rank in range(len(environments))]
    command, processes = [sys.executable, "-m", __spec__.name, *arguments], []
    end = time.monotonic() + LIMIT_SECONDS
    try:
        for log, environment in zip(logs, environments, strict=True):
            with log.open("w") as output:
                processes.append(subprocess.Popen(command, stdout=output, stderr=output, env=environment))
        while any(process.poll() is None for process in processes):
            for log, process in zip(logs, processes, strict=True):
                if process.poll():
                    raise ValueError(f"a training ended with status {process.returncode}: {log} says why")
            if time.monotonic() > end:
                raise ValueError(f"a training took more than {LIMIT_SECONDS} seconds: {logs[0]} says how far it came")
            time.sleep(0.1)
        if failed := [(p.returncode, log) for p, log in zip(processes, logs, strict=True) if p.returncode]:
            raise ValueError(f"a training ended with status {failed[0][0]}: {failed[0][1]} says why")
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def main() -> None:
    """The command line of one process."""
    parser = argparse.ArgumentParser(prog=__spec__.name, description="Measure the rate of a training.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--variant", choices=list(MEASURED_VARIANTS), required=True)
    parser.add_argument("--side", type=positive_int, default=variants.SIDE)
    parser.add_argument("--batch-size", type=positive_int, required=True)
    parser.add_argument("--steps", type=positive_int, required=True)
    options = parser.parse_args()
    variant = resize_variant(MEASURED_VARIANTS[options.variant], options.side)
    record = measure_training(variant, options.batch_size, options.steps, default_device())
    if is_main_process():
        write_json(options.file, record)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
