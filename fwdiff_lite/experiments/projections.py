"""The experiment of 01_toy_proof: the model, its baselines, and the model where an assumption does not hold.

    python -m fwdiff_lite.experiments projections train regression vae oracle wedge_{0,5,15,45,90,180} --steps 12000
    python -m fwdiff_lite.experiments projections train finite_{300,3000}_{2,3,4,8}_{0,1,2} --steps 4000
    python -m fwdiff_lite.experiments projections train finite_0_0_{0,1,2} --steps 4000
    python -m fwdiff_lite.experiments projections evaluate
    python -m fwdiff_lite.experiments projections export

The variants:

full                      the model of the notebook
regression, vae, oracle   the baselines
wedge_W                   the model, with all directions within a wedge of W degrees, in training and in the test
finite_N_K_SEED           the model, trained on a data set of N signals with K observations each; finite_0_0_SEED is
                          trained on an infinite stream of signals
space                     the model of signals in R^3

Every sampler has one measure, the accuracy of a classifier two-sample test (C2ST). `null` tests exact posterior draws
against exact posterior draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results, Variant
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.metrics import c2st
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.toy import baselines, projections
from fwdiff_lite.protocols import BatchFunction

BATCH_SIZE, LEARNING_RATE, LEARNING_RATE_3D = 1024, 6e-3, 4e-3
NETWORK_OPTIONS = {"width": 64, "depth": 5}  # in R^2
STEPS, DATASET_STEPS, STEPS_3D = 12_000, 4_000, 6_000  # of the model and its baselines; with a data set; in R^3
TEST_SET_SIZE, TEST_SET_SEED = 10_000, 2026
WEDGES, WEDGE_EXAMPLES = (0, 5, 15, 45, 90, 180), (0, 15, 180)  # degrees; samples of the examples are recorded
SIGNAL_COUNTS, OBSERVATION_COUNTS, SEEDS = (300, 3000), (2, 3, 4, 8), (0, 1, 2)  # of the data sets
BASELINES = ("regression", "vae", "oracle")
NULL_TESTS = 20
PRIOR, PRIOR_3D = projections.make_prior(2), projections.make_prior(3)

# --- variants ---------------------------------------------------------------------------------------------------------


def build_model(constructor: Callable[..., nn.Module], seed: int, **network_options) -> nn.Module:
    """The model that the constructor makes, with initial weights that the seed decides."""
    torch.manual_seed(seed)
    return constructor(**network_options)


def make_variant(
    constructor: Callable[..., nn.Module],
    batches: Callable[[int], BatchFunction],
    seed: int = 0,
    learning_rate: float = LEARNING_RATE,
    **options,
) -> Variant:
    """A variant from the constructor of its model and the batch function of a batch size; options: of `Variant`."""
    return Variant(
        build=partial(build_model, constructor),
        batches=lambda device, batch_size: batches(batch_size),
        batch_size=BATCH_SIZE,
        fit_options={"learning_rate": learning_rate, "bf16": False, "compile": False},  # the networks are tiny
        options=options,
        seed=seed,
    )


def dataset_batches(num_signals: int, num_observations: int, seed: int, batch_size: int) -> BatchFunction:
    """Batches from a data set of signals with a number of observations each."""
    generator = torch.Generator().manual_seed(1000 + seed)
    observations = projections.sample_observations(PRIOR.sample(num_signals, generator), num_observations, generator)
    return projections.dataset_batches(observations.to(torch.float32), batch_size)


def wedge_sampler(degrees: int) -> Callable:
    """A direction sampler that is confined to a wedge."""
    return partial(projections.sample_directions, wedge=math.radians(degrees))


MODEL = partial(projections.build_diffusion, 2, **NETWORK_OPTIONS)
STREAM = partial(projections.infinite_batches, PRIOR)
VARIANTS = {
    "full": make_variant(MODEL, STREAM),
    "regression": make_variant(partial(projections.build_regression, 2, **NETWORK_OPTIONS), STREAM, model="regression"),
    "vae": make_variant(partial(baselines.ForwardVAE, 2, **NETWORK_OPTIONS), STREAM, model="vae"),
    "oracle": make_variant(
        partial(baselines.build_oracle, **NETWORK_OPTIONS), partial(baselines.oracle_batches, PRIOR), model="oracle"
    ),
    **{
        f"wedge_{degrees}": make_variant(
            MODEL, partial(STREAM, direction_sampler=wedge_sampler(degrees)), wedge=degrees
        )
        for degrees in WEDGES
    },
    **{
        f"finite_{n}_{k}_{seed}": make_variant(
            MODEL, partial(dataset_batches, n, k, seed), seed, num_signals=n, num_observations=k
        )
        for n in SIGNAL_COUNTS
        for k in OBSERVATION_COUNTS
        for seed in SEEDS
    },
    **{f"finite_0_0_{seed}": make_variant(MODEL, STREAM, seed, num_signals=0) for seed in SEEDS},
    "space": make_variant(
        partial(projections.build_diffusion, 3, max_contexts=2),
        partial(
            projections.infinite_batches,
            PRIOR_3D,
            max_contexts=2,
            direction_sampler=projections.sample_axis_directions,
        ),
        learning_rate=LEARNING_RATE_3D,
        dims=3,
    ),
}

# --- evaluations ------------------------------------------------------------------------------------------------------


def c2st_accuracy(truth: Tensor, samples: Tensor, **options) -> float:
    """Accuracy of the classifier two-sample test. Row i of both has the same context, which makes the test sharper.

    options: folds and steps of metrics.c2st
    """
    return float(c2st(truth, samples, torch.Generator().manual_seed(0), **options).accuracy)


def evaluate_variant(name: str, session: Session) -> Results:
    """C2ST of one sample for each context; of a baseline also the features of the samples."""
    (truth, context), model = session.test_set, session.model(name).cpu()
    generator = torch.Generator().manual_seed(7)
    if isinstance(model, baselines.ForwardVAE):
        signal = model.sample(context.to(torch.float32), generator)
    else:
        signal = projections.sample_posterior(model, context, generator)
    true_features, features = (projections.c2st_features(x, context) for x in (truth, signal))
    arrays = {name: features.numpy()} if name in BASELINES else {}
    return Results({"c2st": c2st_accuracy(true_features, features)}, arrays)


def wedge_features(degrees: int, session: Session) -> dict[str, tuple[Tensor, Tensor]]:
    """Features of the truth and of samples with all directions in a wedge: of signals, and of further observations."""
    direction_sampler, n = wedge_sampler(degrees), session.options["contexts"]
    generator = torch.Generator().manual_seed(7)
    truth, context = projections.make_test_set(PRIOR, n, TEST_SET_SEED, direction_sampler)
    model, target_params = session.model(f"wedge_{degrees}").cpu(), direction_sampler(n, 1, 2, generator)
    signal = projections.sample_posterior(model, context, generator, target_params=target_params)
    novel_params = direction_sampler(n, 1, 2, generator, truth.dtype)
    signal_features = tuple(projections.c2st_features(x, context) for x in (truth, signal))
    observation_features = tuple(
        torch.cat([features[:, :3], projections.project(x, novel_params), novel_params[:, 0]], 1).float()
        for features, x in zip(signal_features, (truth, signal), strict=True)
    )
    return {"signal": signal_features, "observation": observation_features}


def evaluate_wedge(degrees: int, space: str, session: Session) -> Results:
    """C2ST of signals or of further observations in a wedge; for some wedges also the features of the samples."""
    features = session.cached(("wedge", degrees), lambda: wedge_features(degrees, session))[space]
    is_example = space == "signal" and degrees in WEDGE_EXAMPLES
    return Results({"c2st": c2st_accuracy(*features)}, {f"wedge_{degrees}": features[1].numpy()} if is_example else {})


def evaluate_null(session: Session) -> Results:
    """C2ST of exact posterior draws against exact posterior draws, by chance alone: the mean, and all accuracies."""
    accuracies = []
    for i in range(NULL_TESTS):
        truth, context = projections.make_test_set(PRIOR, session.options["contexts"], 10_000 + i)
        draws = PRIOR.posterior(context).sample(1, torch.Generator().manual_seed(20_000 + i))[:, 0]
        accuracies.append(c2st_accuracy(*(projections.c2st_features(x, context) for x in (truth, draws))))
    return Results({"c2st": float(np.mean(accuracies))}, {"null": np.array(accuracies)})


def make_test_set_3d(n: int, generator: torch.Generator) -> tuple[Tensor, Observations, Tensor]:
    """n signals in R^3, their projections on the first axis as contexts, and the other axes as targets (n, 2, 3)."""
    signal = PRIOR_3D.sample(n, generator)
    axes = torch.eye(3, dtype=torch.float64).expand(n, 3, 3)
    return signal, Observations(projections.project(signal, axes[:, :1]), axes[:, :1]), axes[:, 1:]


def evaluate_space(session: Session) -> Results:
    """C2ST of signals in R^3 that are sampled autoregressively over two targets."""
    generator = torch.Generator().manual_seed(31)
    truth, context, targets = make_test_set_3d(session.options["contexts"], generator)
    step, _ = session.model("space").cpu().sample_autoregressive(
        context.to(torch.float32), targets.float(), steps=128, generator=generator
    )  # fmt: skip
    return Results({"c2st": c2st_accuracy(truth.float(), step.signal)}, {})


EXPERIMENT = Experiment(
    name="projections",
    results_name="01_toy_proof",
    variants=VARIANTS,
    evaluations={
        name: Evaluation(partial(evaluate_variant, name), name)
        for name in VARIANTS
        if name != "space" and not name.startswith("wedge")
    }
    | {
        f"wedge_{degrees}_{space}": Evaluation(partial(evaluate_wedge, degrees, space), f"wedge_{degrees}")
        for degrees in WEDGES
        for space in ("signal", "observation")
    }
    | {"null": Evaluation(evaluate_null), "space": Evaluation(evaluate_space, "space")},
    make_test_set=lambda device, options: projections.make_test_set(PRIOR, options["contexts"], TEST_SET_SEED),
    evaluation_options={"contexts": TEST_SET_SIZE},
    headline=("c2st",),
)
