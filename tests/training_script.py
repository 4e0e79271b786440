"""A training that tests/test_training.py runs in processes of its own: python training_script.py OUT [OPTIONS]."""

import json
import signal
import sys
import time

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from fwdiff_lite import processes
from fwdiff_lite.batches import collate
from fwdiff_lite.problems.toy import projections as p
from fwdiff_lite.protocols import RowBatchFunction
from fwdiff_lite.training import fit

STEPS = 60


def toy():
    """The toy's model, without dropout, and its batches, which are drawn whole."""
    return p.build_diffusion(2, width=16, depth=2), p.infinite_batches(p.make_prior(2), 64)


def scenes():
    """A small model of 3-D scenes and its batches, whose rows are drawn alone."""
    from fwdiff_lite.experiments.inverse_graphics import variants  # a second that the toy's trainings do not need
    from fwdiff_lite.problems.inverse_graphics import tabletop

    settings = variants.Settings(side=8)
    model = variants.build_model(settings, samples_per_ray=4, width=8, widths=(8, 8), num_attention_levels=1)
    return model, tabletop.batches(4, 1, 8, side=8, supersampling=1)


def make_loader() -> DataLoader:
    """64 examples of the toy's problem in shuffled batches of 16."""
    batch = p.infinite_batches(p.make_prior(2), 64)(torch.Generator().manual_seed(0))
    examples = [{name: x[[i]] for name, x in batch.items()} for i in range(64)]
    return DataLoader(examples, batch_size=16, shuffle=True, collate_fn=collate)


def main(out: str, options: str = "{}") -> None:
    """Train a model from a fixed seed; write its weights and its loss curve. options: those of fit, and of this file"""
    options = json.loads(options)
    pause, pace = options.pop("pause", 0), options.pop("pace", [1.0])
    interrupted_rank, interrupted_step = options.pop("interrupt", [-1, -1])
    calls = []
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, make_batch = {"toy": toy, "scenes": scenes}[options.pop("problem", "toy")]()
    loader = make_loader() if options.pop("loader", False) else None

    def count_call(*rows):
        time.sleep(pause)
        calls.append([[part.start, part.stop] for part in rows])
        if accelerator.process_index == interrupted_rank and len(calls) == interrupted_step:
            signal.raise_signal(signal.SIGINT)

    def batch(generator):
        count_call()
        return make_batch(generator)

    def draw_rows(generator, rows):
        count_call(rows)
        return make_batch.draw_rows(generator, rows)

    if isinstance(make_batch, RowBatchFunction):
        batch.batch_size, batch.draw_rows = make_batch.batch_size, draw_rows
    accelerator = Accelerator(cpu=True)
    clock, own = time.monotonic, pace[accelerator.process_index % len(pace)]
    processes.time.monotonic = lambda: own * clock()  # each process's clock goes at a pace of its own
    options = {"steps": STEPS, "warmup": 5, "seed": 3, "checkpoint_every": 7, "progress": False} | options
    done = fit(model, loader or batch, accelerator=accelerator, **options)
    if accelerator.is_main_process:
        save_file(dict(model.denoiser.state_dict()), out + ".safetensors")
        with open(out + ".json", "w") as file:
            json.dump({"curve": done.curve, "processes": accelerator.num_processes}, file)
    with open(f"{out}.{accelerator.process_index}", "w") as file:
        json.dump([done.steps, done.interrupted, calls[-1] if calls else []], file)
    if loader:
        model.denoiser.unused = torch.nn.Parameter(torch.ones(2))
        try:
            fit(model, loader, steps=2, progress=False, accelerator=accelerator)
        except ValueError as error:
            with open(f"{out}.{accelerator.process_index}.error", "w") as file:
                file.write(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
