"""The trainings of 01_toy_proof that are recorded rather than run in the notebook.

    python -m fwdiff_lite.problems.projections_study [--jobs N]

trains each arm on one thread and writes checkpoints/01_toy_proof.npz:

regression, vae, oracle   what people would try instead, each trained as long as the notebook's own model
wedge_W                   the model itself, trained and examined on directions within a wedge of W degrees
finite_N_K_SEED           the model trained on N signals with K observations each, K = 0 standing for no end of both
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

from fwdiff_lite.metrics import c2st
from fwdiff_lite.pretrained import save_recorded
from fwdiff_lite.problems import projections as p
from fwdiff_lite.training import fit

NAME = "01_toy_proof"
BATCH, RATE = 1024, 6e-3  # of every training in 01_toy_proof
NETWORK = {"width": 64, "depth": 5}
STEPS, STEPS_FINITE = 10_000, 4_000
N_EXAM, EXAM_SEED = 10_000, 2026
WEDGES = (0, 5, 15, 45, 90, 180)  # degrees
SIGNALS, OBSERVATIONS, SEEDS = (300, 3000), (2, 3, 4, 8), (0, 1, 2)


def arms() -> list[str]:
    """The names of all recorded trainings."""
    finite = [f"finite_{n}_{k}_{seed}" for n in SIGNALS for k in OBSERVATIONS for seed in SEEDS]
    endless = [f"finite_0_0_{seed}" for seed in SEEDS]
    return ["regression", "vae", "oracle", *(f"wedge_{w}" for w in WEDGES), *finite, *endless]


def training_set(n: int, k: int, seed: int):
    """Batches from N signals with K observations each, or endless ones where N is 0."""
    prior = p.mixture(2)
    if n == 0:
        return p.endless(prior, BATCH)
    generator = torch.Generator().manual_seed(1000 + seed)
    return p.finite(p.observe(prior.sample(n, generator), k, generator).to(torch.float32), BATCH)


def fitted(model, batch, steps: int, seed: int = 0):
    """The model, trained as every model in 01_toy_proof is."""
    fit(model, batch, steps=steps, learning_rate=RATE, seed=seed, progress=False)
    return model


def run_arm(name: str, steps: int = STEPS, steps_finite: int = STEPS_FINITE, n_exam: int = N_EXAM) -> dict:
    """One training and its examination: arrays whose names begin with the arm's."""
    torch.set_num_threads(1)
    kind, *numbers = name.split("_")
    prior = p.mixture(2)
    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(int(numbers[-1]) if kind == "finite" else 0)
    draw, target = p.directions, None
    if kind == "wedge":
        draw = partial(p.directions, wedge=math.radians(int(numbers[0])))
    truth, context = p.exam(prior, n_exam, EXAM_SEED, draw)
    if kind == "regression":
        signal = p.answer(fitted(p.regression(2, **NETWORK), p.endless(prior, BATCH), steps), context, generator)
    elif kind == "vae":
        model = fitted(p.ForwardVAE(2, **NETWORK), p.endless(prior, BATCH), steps)
        signal = model.sample(context.to(torch.float32), generator)
    elif kind == "oracle":
        signal = p.answer(fitted(p.oracle(**NETWORK), p.revealed(prior, BATCH), steps), context, generator)
    elif kind == "wedge":
        model = fitted(p.diffusion(2, **NETWORK), p.endless(prior, BATCH, draw=draw), steps)
        target = draw(n_exam, 1, 2, generator)
        signal = p.answer(model, context, generator, target)
    else:
        n, k, seed = map(int, numbers)
        model = fitted(p.diffusion(2, **NETWORK), training_set(n, k, seed), steps_finite, seed)
        signal = p.answer(model, context, generator)
        return {name: np.float64(against_truth(prior, p.joint(signal, context), draw))}
    arrays = {name: p.joint(signal, context).numpy()}
    if kind == "wedge":
        arrays[f"{name}_seen"] = p.seen_again(signal, context, generator, draw).numpy()
    return arrays


def against_truth(prior: p.Mixture, samples, draw) -> float:
    """C2ST of joint features against those of fresh signals."""
    truth, context = p.exam(prior, len(samples), EXAM_SEED + 1, draw)
    return c2st(p.joint(truth, context), samples, torch.Generator().manual_seed(0)).accuracy


def main() -> None:
    """Train every arm and write the record."""
    parser = argparse.ArgumentParser(description="Train and record the arms of 01_toy_proof.")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--steps-finite", type=int, default=STEPS_FINITE)
    arguments = parser.parse_args()
    started = time.monotonic()
    run = partial(run_arm, steps=arguments.steps, steps_finite=arguments.steps_finite)
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(run, arms()))
    arrays = {name: array for result in results for name, array in result.items()}
    save_recorded(
        NAME,
        arrays,
        command=f"python -m fwdiff_lite.problems.projections_study --jobs {arguments.jobs}",
        hardware=f"{arguments.jobs} CPU cores, {platform.machine()}",
        minutes=round((time.monotonic() - started) / 60, 1),
        seed=0,
        steps=arguments.steps,
        steps_finite=arguments.steps_finite,
    )


if __name__ == "__main__":
    main()
