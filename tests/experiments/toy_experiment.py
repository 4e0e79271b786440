"""A small experiment, TOY, for the tests of the harness, of its command line and of the export."""

from functools import partial

import numpy as np
import torch

from fwdiff_lite import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results, Variant
from fwdiff_lite.problems.toy import projections


def build_toy_model(model_class, seed, width=8):
    torch.manual_seed(seed)
    model = projections.build_diffusion(2, width=width, depth=1)
    return model_class(model.denoiser, model.forward_model, model.schedule)


def make_toy_variant(model_class=ForwardDiffusion, **options):
    return Variant(
        build=partial(build_toy_model, model_class),
        batches=lambda device, batch_size: projections.infinite_batches(projections.make_prior(2), batch_size),
        batch_size=4,
        fit_options={"learning_rate": 1e-2},
        options={"model_class": model_class.__name__},
        **options,
    )


def evaluate_toy_sampler(session):
    weights = session.model("full").denoiser.state_dict()
    total = float(sum(w.abs().sum() for w in weights.values()))
    numbers = {"energy_60": total, "energy_60_low": total - 1, "energy_60_high": total + 1, "count": len(weights)}
    return Results(numbers, {"full_sizes": np.array([session.test_set, session.predict("baseline")])})


TOY = Experiment(
    name="toy",
    results_name="90_toy",
    variants={
        "full": make_toy_variant(),
        "reseeded": make_toy_variant(seed=1),
        "baseline": make_toy_variant(ForwardRegression),
    },
    evaluations={
        "full_eta_0": Evaluation(evaluate_toy_sampler, "full", ("baseline",)),
        "exact": Evaluation(lambda session: Results({"energy_60": 0.0}, {})),
    },
    make_test_set=lambda device, options: options["scenes"],
    predict=lambda model, test_set: 10 * test_set,
    evaluation_options={"scenes": 3},
    views=("60",),
    headline=("energy_60", "count"),
)
