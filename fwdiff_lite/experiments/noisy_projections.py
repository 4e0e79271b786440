"""The experiment of 01_toy_proof on measurements with noise.

    python -m fwdiff_lite.experiments noisy_projections train full --steps 6000
    python -m fwdiff_lite.experiments noisy_projections evaluate
    python -m fwdiff_lite.experiments noisy_projections export full

One model is trained on all noise levels. Every sampler has these measures, for each noise level as a share of the
signals' standard deviation:

c2st       accuracy of a classifier two-sample test on (y, phi, scaled residual, coordinate of S perpendicular
           to phi)
residual   root mean square of the scaled residual (y - <phi, S>) / noise_std; 1 for the posterior

`exact` draws from the posterior in closed form. The controls `ignored` and `doubled` do so, too, with a wrong standard
deviation of the noise: almost zero, and twice the true one.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.experiments.projections import PRIOR, c2st_accuracy, make_variant
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.toy import noisy_projections as noisy

SIGNAL_STD = 1.0  # of the prior, a coordinate's; to two digits
NOISE_LEVELS = (0.05, 0.2, 0.5)  # standard deviations, as shares of SIGNAL_STD
TEST_SETS, TEST_SET_SIZE, TEST_SET_SEED = 3, 10_000, 2026
NUM_TARGETS, SAMPLING_STEPS = 96, 128
ASSUMED_NOISE = {"exact": 1.0, "ignored": 1e-3, "doubled": 2.0}  # times the true standard deviation


def build_model() -> ForwardDiffusion:
    """The model, untrained."""
    return ForwardDiffusion(noisy.NoisyProjectionDenoiser(), noisy.NoisyProjection())


def draw_exact(assumed: float, context: Observations, generator: torch.Generator) -> Tensor:
    """One draw for each context from the posterior with an assumed standard deviation, in units of the true one."""
    params = torch.cat([context.params[..., :-1], assumed * context.params[..., -1:]], -1)
    posterior = noisy.exact_posterior(PRIOR, Observations(context.value, params))
    return posterior.sample(1, generator)[:, 0]


def sample_posterior(model: ForwardDiffusion, context: Observations, generator: torch.Generator) -> Tensor:
    """One signal for each context."""
    context = context.to(torch.float32)
    targets = noisy.alternating_targets(context, NUM_TARGETS)
    options = {"steps": SAMPLING_STEPS, "generator": generator, "chunk_size": 1000}  # fits a processor's cache
    return model.sample(context, targets, **options).signal.double()


def evaluate(sampler: str, session: Session) -> Results:
    """The measures at all noise levels, as means over the test sets."""
    numbers = {}
    for level in NOISE_LEVELS:
        values = []
        for i in range(TEST_SETS):
            seed, n = TEST_SET_SEED + i, session.options["contexts"]
            truth, context = noisy.make_test_set(PRIOR, n, level * SIGNAL_STD, seed)
            generator = torch.Generator().manual_seed(7 + i)
            if sampler in ASSUMED_NOISE:
                signal = draw_exact(ASSUMED_NOISE[sampler], context, generator)
            else:
                signal = sample_posterior(session.model(sampler).cpu(), context, generator)
            features = (noisy.c2st_features(x, context) for x in (truth, signal))
            residual = noisy.scaled_residual(signal, context).square().mean().sqrt()
            values.append((c2st_accuracy(*features), float(residual)))
        c2st, residual = np.mean(values, 0)
        numbers |= {f"c2st_{level:g}": float(c2st), f"residual_{level:g}": float(residual)}
        print(f"{sampler}, noise {level:g}: C2ST {c2st:.4f}, residual {residual:.3f}", flush=True)
    return Results(numbers, {})


EXPERIMENT = Experiment(
    name="noisy_projections",
    results_name="01_noisy_projections",
    variants={"full": make_variant(build_model, partial(noisy.infinite_batches, PRIOR, max_targets=NUM_TARGETS))},
    evaluations={"full": Evaluation(partial(evaluate, "full"), "full")}
    | {name: Evaluation(partial(evaluate, name)) for name in ASSUMED_NOISE},
    evaluation_options={"contexts": TEST_SET_SIZE},
    views=tuple(f"{level:g}" for level in NOISE_LEVELS),
    headline=("c2st_0.05", "c2st_0.2", "c2st_0.5"),
)
