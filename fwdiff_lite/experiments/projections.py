"""The trainings of 01_toy_proof that are recorded rather than run in the notebook.

    python -m fwdiff_lite.experiments.projections [--jobs N]

trains each arm on one thread and writes checkpoints/01_toy_proof.npz:

regression, vae, oracle   what people would try instead, each trained as long as the notebook's own model: samples
wedge_W                   the model itself, trained and examined on directions within a wedge of W degrees: C2ST in
                          the space of signals and of observations, and the samples of some
finite_N_K_SEED           the model trained on N signals with K observations each (both without end for 0_0): C2ST
null                      C2ST of exact draws against exact draws, 20 times
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fwdiff_lite.command_line import positive_int
from fwdiff_lite.metrics import c2st
from fwdiff_lite.problems import projections as p
from fwdiff_lite.storage.checkpoints import save_recorded
from fwdiff_lite.training import fit

NAME = "01_toy_proof"
BATCH, RATE = 1024, 6e-3  # of every training in 01_toy_proof
NETWORK = {"width": 64, "depth": 5}
STEPS, STEPS_FINITE = 12_000, 4_000
STEPS_SPACE, RATE_SPACE = 6_000, 4e-3  # of the model in R^3
N_EXAM, EXAM_SEED = 10_000, 2026
WEDGES, WEDGES_SHOWN = (0, 5, 15, 45, 90, 180), (0, 15, 180)  # degrees
SIGNALS, OBSERVATIONS, SEEDS = (300, 3000), (2, 3, 4, 8), (0, 1, 2)


def arms() -> list[str]:
    """The names of all recorded runs, the longest first."""
    finite = [f"finite_{n}_{k}_{seed}" for n in SIGNALS for k in OBSERVATIONS for seed in SEEDS]
    endless = [f"finite_0_0_{seed}" for seed in SEEDS]
    return ["regression", "vae", "oracle", *(f"wedge_{w}" for w in WEDGES), "null", *finite, *endless]


def training_set(n: int, k: int, seed: int):
    """Batches from N signals with K observations each, or endless ones where N is 0."""
    prior = p.mixture(2)
    if n == 0:
        return p.endless(prior, BATCH)
    generator = torch.Generator().manual_seed(1000 + seed)
    return p.finite(p.observe(prior.sample(n, generator), k, generator).to(torch.float32), BATCH)


def wedge(degrees: int):
    """How directions are drawn from a wedge."""
    return partial(p.directions, wedge=math.radians(degrees))


def baselines(prior: p.Mixture) -> dict:
    """What people would try instead: name -> (model, its batches)."""
    return {
        "regression": (p.regression(2, **NETWORK), p.endless(prior, BATCH)),
        "vae": (p.ForwardVAE(2, **NETWORK), p.endless(prior, BATCH)),
        "oracle": (p.oracle(**NETWORK), p.revealed(prior, BATCH)),
    }


def fitted(model, batch, steps: int, seed: int = 0):
    """The model, trained as every model in 01_toy_proof is."""
    fit(model, batch, steps=steps, learning_rate=RATE, seed=seed, progress=False)
    return model


def told_apart(truth: Tensor, samples: Tensor) -> float:
    """C2ST accuracy; rows share their context, which makes the test sharper."""
    return float(c2st(truth, samples, torch.Generator().manual_seed(0)).accuracy)


def run_arm(name: str, steps: int, steps_finite: int, n: int) -> dict[str, np.ndarray]:
    """One recorded run: arrays whose names begin with the arm's."""
    torch.set_num_threads(1)
    kind, *numbers = name.split("_")
    prior = p.mixture(2)
    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(int(numbers[-1]) if kind == "finite" else 0)
    if kind == "null":
        return {name: np.array([null_c2st(prior, n, i) for i in range(20)])}
    if kind == "wedge":
        return wedge_arm(int(numbers[0]), prior, steps, n, generator)
    truth, context = p.exam(prior, n, EXAM_SEED)
    if kind == "finite":
        *of, seed = map(int, numbers)
        model = fitted(p.diffusion(2, **NETWORK), training_set(*of, seed), steps_finite, seed)
        signal = p.answer(model, context, generator)
        return {name: np.array(told_apart(p.joint(truth, context), p.joint(signal, context)))}
    model = fitted(*baselines(prior)[name], steps)
    if name == "vae":
        signal = model.sample(context.to(torch.float32), generator)
    else:
        signal = p.answer(model, context, generator)
    return {name: p.joint(signal, context).numpy()}


def wedge_arm(degrees: int, prior: p.Mixture, steps: int, n: int, generator) -> dict[str, np.ndarray]:
    """The model where all directions, in training and at test, lie in a wedge."""
    name, draw = f"wedge_{degrees}", wedge(degrees)
    model = fitted(p.diffusion(2, **NETWORK), p.endless(prior, BATCH, draw=draw), steps)
    truth, context = p.exam(prior, n, EXAM_SEED, draw)
    signal = p.answer(model, context, generator, target=draw(n, 1, 2, generator))
    again = draw(n, 1, 2, generator, truth.dtype)
    seen = [
        torch.cat([p.joint(s, context)[:, :3], p.project(s, again), again[:, 0]], 1).float() for s in (truth, signal)
    ]
    arrays = {
        f"{name}_signal": np.array(told_apart(p.joint(truth, context), p.joint(signal, context))),
        f"{name}_observation": np.array(told_apart(*seen)),
    }
    return arrays | ({name: p.joint(signal, context).numpy()} if degrees in WEDGES_SHOWN else {})


def null_c2st(prior: p.Mixture, n: int, i: int) -> float:
    """What the two-sample test says of two sets of true draws."""
    truth, context = p.exam(prior, n, 10_000 + i)
    again = prior.given(context).sample(1, torch.Generator().manual_seed(20_000 + i))[:, 0]
    return told_apart(p.joint(truth, context), p.joint(again, context))


HEADLINES = ("wedge_0_signal", "finite_3000_8_0", "null")  # what the manifest quotes


def main() -> None:
    """Train every arm and write the record."""
    parser = argparse.ArgumentParser(description="Train and record the arms of 01_toy_proof.")
    parser.add_argument("--jobs", type=positive_int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--steps", type=positive_int, default=STEPS)
    parser.add_argument("--steps-finite", type=positive_int, default=STEPS_FINITE)
    parser.add_argument("--exam", type=positive_int, default=N_EXAM, help="questions in each examination")
    arguments = parser.parse_args()
    started = time.monotonic()
    run = partial(run_arm, steps=arguments.steps, steps_finite=arguments.steps_finite, n=arguments.exam)
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(run, arms()))
    arrays = {name: array for result in results for name, array in result.items()}
    save_recorded(
        NAME,
        arrays,
        command=f"python -m fwdiff_lite.experiments.projections --jobs {arguments.jobs}",
        hardware=f"{arguments.jobs} CPU cores, {platform.machine()}",
        minutes=round((time.monotonic() - started) / 60, 1),
        gpu_minutes=0.0,
        seed=0,
        steps=arguments.steps,
        steps_finite=arguments.steps_finite,
        metrics={name: round(float(np.mean(arrays[name])), 4) for name in HEADLINES},
    )


if __name__ == "__main__":
    main()
