"""The trainings of 01_toy_proof that are recorded, not run in the notebook.

    python -m fwdiff_lite.experiments.projections [--jobs N]

trains each variant on one thread and writes checkpoints/01_toy_proof.npz:

regression, vae, oracle   the baselines, each trained as long as the notebook's own model: C2ST features of samples
wedge_W                   the model itself, trained and evaluated on directions within a wedge of W degrees: C2ST of
                          the signals, C2ST of further observations, and for some wedges C2ST features of samples
finite_N_K_SEED           the model trained on a data set of N signals with K observations each: C2ST; finite_0_0_SEED
                          is trained on an infinite stream of signals
null                      C2ST of exact posterior draws against exact posterior draws, 20 times
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fwdiff_lite.command_line import positive_int
from fwdiff_lite.metrics import c2st
from fwdiff_lite.problems.toy import projections
from fwdiff_lite.problems.toy.mixture import GaussianMixture
from fwdiff_lite.storage.checkpoints import save_recorded
from fwdiff_lite.training import fit

NAME = "01_toy_proof"
BATCH_SIZE, LEARNING_RATE = 1024, 6e-3  # of every training in 01_toy_proof
NETWORK_OPTIONS = {"width": 64, "depth": 5}
STEPS, DATASET_STEPS = 12_000, 4_000  # of the notebook's model and the baselines; of training on a data set
STEPS_3D, LEARNING_RATE_3D = 6_000, 4e-3  # of the model in R^3
TEST_SET_SIZE, TEST_SET_SEED = 10_000, 2026
WEDGES, WEDGE_EXAMPLES = (0, 5, 15, 45, 90, 180), (0, 15, 180)  # degrees; samples of the examples are recorded
SIGNAL_COUNTS, OBSERVATION_COUNTS, SEEDS = (300, 3000), (2, 3, 4, 8), (0, 1, 2)  # of the data sets


def variant_names() -> list[str]:
    """The names of all recorded variants, the longest trainings first."""
    finite = [f"finite_{n}_{k}_{seed}" for n in SIGNAL_COUNTS for k in OBSERVATION_COUNTS for seed in SEEDS]
    infinite = [f"finite_0_0_{seed}" for seed in SEEDS]
    return ["regression", "vae", "oracle", *(f"wedge_{w}" for w in WEDGES), "null", *finite, *infinite]


def training_batches(num_signals: int, num_observations: int, seed: int) -> Callable:
    """Batches from a data set, or from an infinite stream of signals if num_signals is 0."""
    prior = projections.make_prior(2)
    if num_signals == 0:
        return projections.infinite_batches(prior, BATCH_SIZE)
    generator = torch.Generator().manual_seed(1000 + seed)
    observations = projections.sample_observations(prior.sample(num_signals, generator), num_observations, generator)
    return projections.dataset_batches(observations.to(torch.float32), BATCH_SIZE)


def wedge_sampler(degrees: int) -> Callable:
    """A direction sampler that is confined to a wedge."""
    return partial(projections.sample_directions, wedge=math.radians(degrees))


def build_baselines(prior: GaussianMixture) -> dict[str, tuple]:
    """The baselines, untrained: name -> (model, its batches)."""
    return {
        "regression": (
            projections.build_regression(2, **NETWORK_OPTIONS),
            projections.infinite_batches(prior, BATCH_SIZE),
        ),
        "vae": (projections.ForwardVAE(2, **NETWORK_OPTIONS), projections.infinite_batches(prior, BATCH_SIZE)),
        "oracle": (projections.build_oracle(**NETWORK_OPTIONS), projections.oracle_batches(prior, BATCH_SIZE)),
    }


def train(model, batch: Callable, steps: int, seed: int = 0):
    """Train the model with the settings of every model in 01_toy_proof, and return it."""
    fit(model, batch, steps=steps, learning_rate=LEARNING_RATE, seed=seed, progress=False)
    return model


def c2st_accuracy(truth: Tensor, samples: Tensor) -> float:
    """Accuracy of the classifier two-sample test. Row i of both has the same context, which makes the test sharper."""
    return float(c2st(truth, samples, torch.Generator().manual_seed(0)).accuracy)


def run_variant(name: str, steps: int, dataset_steps: int, n: int) -> dict[str, np.ndarray]:
    """Train and evaluate one variant on n test contexts. The names of the arrays begin with the variant's name."""
    torch.set_num_threads(1)
    group, *numbers = name.split("_")
    prior = projections.make_prior(2)
    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(int(numbers[-1]) if group == "finite" else 0)
    if group == "null":
        return {name: np.array([null_c2st(prior, n, i) for i in range(20)])}
    if group == "wedge":
        return run_wedge_variant(int(numbers[0]), prior, steps, n, generator)
    truth, context = projections.make_test_set(prior, n, TEST_SET_SEED)
    if group == "finite":
        num_signals, num_observations, seed = map(int, numbers)
        model = projections.build_diffusion(2, **NETWORK_OPTIONS)
        model = train(model, training_batches(num_signals, num_observations, seed), dataset_steps, seed)
        signal = projections.sample_posterior(model, context, generator)
        features = (projections.c2st_features(x, context) for x in (truth, signal))
        return {name: np.array(c2st_accuracy(*features))}
    model = train(*build_baselines(prior)[name], steps)
    if name == "vae":
        signal = model.sample(context.to(torch.float32), generator)
    else:
        signal = projections.sample_posterior(model, context, generator)
    return {name: projections.c2st_features(signal, context).numpy()}


def run_wedge_variant(
    degrees: int, prior: GaussianMixture, steps: int, n: int, generator: torch.Generator
) -> dict[str, np.ndarray]:
    """Train and evaluate the model with all directions, in training and at test, in a wedge."""
    name, direction_sampler = f"wedge_{degrees}", wedge_sampler(degrees)
    model = projections.build_diffusion(2, **NETWORK_OPTIONS)
    batch = projections.infinite_batches(prior, BATCH_SIZE, direction_sampler=direction_sampler)
    model = train(model, batch, steps)
    truth, context = projections.make_test_set(prior, n, TEST_SET_SEED, direction_sampler)
    target_params = direction_sampler(n, 1, 2, generator)
    signal = projections.sample_posterior(model, context, generator, target_params=target_params)
    novel_params = direction_sampler(n, 1, 2, generator, truth.dtype)
    signal_features = [projections.c2st_features(x, context) for x in (truth, signal)]
    observation_features = [
        torch.cat([features[:, :3], projections.project(x, novel_params), novel_params[:, 0]], 1).float()
        for features, x in zip(signal_features, (truth, signal), strict=True)
    ]
    arrays = {
        f"{name}_signal": np.array(c2st_accuracy(*signal_features)),
        f"{name}_observation": np.array(c2st_accuracy(*observation_features)),
    }
    return arrays | ({name: signal_features[1].numpy()} if degrees in WEDGE_EXAMPLES else {})


def null_c2st(prior: GaussianMixture, n: int, i: int) -> float:
    """C2ST accuracy of exact posterior draws against exact posterior draws: chance alone."""
    truth, context = projections.make_test_set(prior, n, 10_000 + i)
    draws = prior.posterior(context).sample(1, torch.Generator().manual_seed(20_000 + i))[:, 0]
    return c2st_accuracy(projections.c2st_features(truth, context), projections.c2st_features(draws, context))


HEADLINE_METRICS = ("wedge_0_signal", "finite_3000_8_0", "null")  # the arrays whose means the manifest quotes


def main() -> None:
    """Train and evaluate every variant, and write checkpoints/01_toy_proof.npz."""
    parser = argparse.ArgumentParser(description="Train and record the variants of 01_toy_proof.")
    parser.add_argument("--jobs", type=positive_int, default=2, help="number of parallel trainings, one thread each")
    parser.add_argument(
        "--steps", type=positive_int, default=STEPS, help="training steps of the baselines and of the wedges"
    )
    parser.add_argument(
        "--dataset-steps", type=positive_int, default=DATASET_STEPS, help="training steps of the finite data sets"
    )
    parser.add_argument(
        "--test-set-size", type=positive_int, default=TEST_SET_SIZE, help="number of contexts in each test set"
    )
    arguments = parser.parse_args()
    start_time = time.monotonic()
    run = partial(run_variant, steps=arguments.steps, dataset_steps=arguments.dataset_steps, n=arguments.test_set_size)
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(run, variant_names()))
    arrays = {name: array for result in results for name, array in result.items()}
    save_recorded(
        NAME,
        arrays,
        command=f"python -m fwdiff_lite.experiments.projections --jobs {arguments.jobs}",
        hardware=f"{arguments.jobs} CPU cores, {platform.machine()}",
        minutes=round((time.monotonic() - start_time) / 60, 1),
        gpu_minutes=0.0,
        seed=0,
        steps=arguments.steps,
        steps_finite=arguments.dataset_steps,
        metrics={name: round(float(np.mean(arrays[name])), 4) for name in HEADLINE_METRICS},
    )


if __name__ == "__main__":
    main()
