"""The experiment of 05_flatland: the model, its deterministic baseline, and the model without the novel loss.

python -m fwdiff_lite.experiments flatland train full deterministic no_novel --steps 1500
python -m fwdiff_lite.experiments flatland evaluate
python -m fwdiff_lite.experiments flatland export
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results, Variant
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.metrics import Interval
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics.flatland import (
    CONTENT_PROBABILITIES,
    CONTENTS,
    MAX_AZIMUTH_OFFSET,
    NUM_ROOMS,
    Scenes,
    batches,
    build_model,
    camera_facing,
    classify_hidden_rooms,
    field_top_down_view,
    observe,
    orbit_cameras,
    render_views,
    repeat_scenes,
    resample_rooms,
    sample_scenes,
    wall_azimuths,
)
from fwdiff_lite.problems.inverse_graphics.pixelnerf import RadianceField, cat

STEPS = 1500  # training steps of every variant
HIDDEN_ROOMS = torch.tensor([False] + [True] * (NUM_ROOMS - 1))  # mask: the context camera faces the first room
COUNT, K = 64, 8  # scenes of the test set, samples of each
CHUNK_SIZE = 8  # scenes that are sampled together
NUM_EXAMPLES = 4  # scenes whose images from above are recorded


@dataclass(frozen=True)
class TestSet:
    """C test scenes; the context of each is one image by a camera that faces the first room.

    targets: (c, 2, 4, 4) cameras that face the other rooms
    views: (c, v, 4, 4) the cameras of the evaluation: the targets, and cameras between the rooms
    truth: (c, v, 3, 1, w) the true images of these views
    posterior_draws: (c, K, v, 3, 1, w) images of K draws from the true posterior
    """

    scenes: Scenes
    context: Observations
    targets: Float[Tensor, "c r 4 4"]
    views: Float[Tensor, "c v 4 4"]
    truth: Float[Tensor, "c v 3 1 w"]
    posterior_draws: Float[Tensor, "c k v 3 1 w"]


class Samples(NamedTuple):
    """(c K) sampled scenes, and their images by the cameras of the test set's views."""

    field: RadianceField
    images: Float[Tensor, "c k v 3 1 w"]


def make_test_set(count: int = COUNT, k: int = K, seed: int = 2026) -> TestSet:
    """A test set of `count` scenes with k posterior draws each; the same arguments give the same test set."""
    generator = torch.Generator().manual_seed(seed)
    scenes = sample_scenes(count, generator)
    azimuth_offset = MAX_AZIMUTH_OFFSET * (2 * torch.rand(count, generator=generator) - 1)
    targets = torch.cat([camera_facing(scenes, room) for room in range(1, NUM_ROOMS)], 1)
    between_rooms = orbit_cameras(wall_azimuths(scenes))  # along the walls; each camera sees two rooms
    views = torch.cat([targets, between_rooms], 1)
    posterior_scenes = resample_rooms(repeat_scenes(scenes, k), HIDDEN_ROOMS, generator)
    posterior_draws = render_views(posterior_scenes, views.repeat_interleave(k, 0)).unflatten(0, (count, k))
    context = observe(scenes, camera_facing(scenes, 0, azimuth_offset))
    return TestSet(scenes, context, targets, views, render_views(scenes, views), posterior_draws)


def sample_posterior(
    model: ForwardDiffusion, test_set: TestSet, k: int = K, steps: int = 24, eta: float = 0.0, seed: int = 0
) -> list[Samples]:
    """k samples of each test scene by autoregressive sampling: the samples after the first target, and after both.

    The targets face the rooms that the context does not show; each sampled target is appended to the context of the
    next. A ForwardRegression predicts one scene from the context alone.
    """
    if isinstance(model, ForwardRegression):
        field = model.sample(test_set.context, test_set.targets[:, :1]).signal
        return [Samples(field, field.render(test_set.views).rgb[:, None])]
    generator, chunks = torch.Generator().manual_seed(seed), []
    for rows in torch.arange(len(test_set.scenes)).split(CHUNK_SIZE):
        context, views = test_set.context[rows].repeat(k), test_set.views[rows].repeat_interleave(k, 0)
        chunk = []
        for target in test_set.targets[rows].repeat_interleave(k, 0).split(1, 1):
            step, context = model.sample_autoregressive(context, target, steps=steps, eta=eta, generator=generator)
            chunk.append(Samples(step.signal, step.signal.render(views).rgb.unflatten(0, (-1, k))))
        chunks.append(chunk)
    return [
        Samples(cat([chunk.field for chunk in samples]), torch.cat([chunk.images for chunk in samples]))
        for samples in zip(*chunks, strict=True)
    ]


def evaluate(
    test_set: TestSet, images: Float[Tensor, "c k v 3 1 w"], baseline: Float[Tensor, "c v 3 1 w"], seed: int = 0
) -> dict[str, float]:
    """All measures of a sampler, with their names in metrics.json.

    images: of the sampler's K scenes, by the cameras of the views; baseline: of the deterministic model's scenes
    _first, _second: the measure of the room that the first, or the second, target faces
    """
    generator = torch.Generator().manual_seed(seed)
    labels = classify_hidden_rooms(images, test_set.scenes)
    probabilities = test_set.scenes.content_probabilities[:, None].expand(-1, NUM_ROOMS - 1, -1).double()
    scores = metrics.energy_score(images, test_set.truth), metrics.euclidean_error(baseline, test_set.truth)
    best_score = metrics.energy_score(test_set.posterior_draws, test_set.truth)
    ratio, skill = metrics.energy_ratio(*scores, generator), metrics.energy_skill(*scores, best_score, generator)
    spread = metrics.spread_skill(images, test_set.truth, generator)
    results = {
        "energy_ratio": ratio.value,
        "energy_ratio_high": ratio.high,
        "energy_skill": skill.value,
        "energy_skill_low": skill.low,
        **spread.as_metrics("spread_skill"),
    }
    for name, rooms in (("", slice(None)), ("_first", slice(0, 1)), ("_second", slice(1, 2))):
        room_labels, p = labels[:, rooms].flatten(0, 1), probabilities[:, rooms].flatten(0, 1)
        tv = metrics.factor_tv(room_labels, p, generator)
        rms = metrics.per_context_calibration_rms(room_labels, p, generator)
        results |= tv.as_metrics(f"factor_tv{name}")
        results |= {f"factor_scene_rms{name}": rms.value, f"factor_scene_rms{name}_high": rms.high}
    return {name: float(value) for name, value in results.items()}


def content_frequencies(labels: Int[Tensor, "c r k"], scenes: Scenes, seed: int = 0) -> dict[str, list[list[Interval]]]:
    """The frequency of each content in each hidden room, by the colour of the walls, with an interval over scenes.

    labels: of classify_hidden_rooms. The interval of fewer than two scenes is NaN.
    """
    frequencies = {}
    for colour, name in enumerate(CONTENT_PROBABILITIES):
        generator, rooms = torch.Generator().manual_seed(seed), []
        for room_labels in labels[scenes.wall_colour == colour].unbind(1):
            shares = [(room_labels == content).double().mean(1) for content in range(len(CONTENTS))]
            enough = len(room_labels) > 1
            unknown = Interval(math.nan, math.nan, math.nan)
            rooms.append([metrics.bootstrap(torch.mean, x, generator=generator) if enough else unknown for x in shares])
        frequencies[name] = rooms
    return frequencies


# --- the experiment ---------------------------------------------------------------------------------------------------


def make_variant(model_class: type[ForwardDiffusion] = ForwardDiffusion, novel_weight: float = 1.0) -> Variant:
    """The training of the notebook, for a class of model and a weight of the novel loss."""
    return Variant(
        build=partial(build_model, model_class, novel_weight),
        batches=lambda device, batch_size: batches(batch_size),
        batch_size=16,
        fit_options={"learning_rate": 1.2e-2, "ema": 0.995, "bf16": False, "compile": False},  # a small network
        options={"model_class": model_class.__name__, "novel_weight": novel_weight},
    )


def predict(model: ForwardRegression, test_set: TestSet) -> Samples:
    """The deterministic prediction for each test scene, computed on the CPU."""
    (prediction,) = sample_posterior(model.cpu(), test_set)
    return prediction


def recorded_images(name: str, samples: Samples) -> dict[str, np.ndarray]:
    """The images of all samples, and of the first samples of some scenes from above."""
    first_samples = samples.field[torch.arange(min(NUM_EXAMPLES, len(samples.images))) * samples.images.shape[1]]
    return {
        f"{name}_views": samples.images.half().numpy(),
        f"{name}_above": to_uint8(field_top_down_view(first_samples)),
    }


def evaluate_baseline(session: Session) -> Results:
    """The energy score of the deterministic predictions, and their images."""
    prediction = session.predict("deterministic")
    energy = metrics.euclidean_error(prediction.images[:, 0], session.test_set.truth).mean()
    return Results({"energy": float(energy)}, recorded_images("deterministic", prediction))


def evaluate_sampler(variant: str, num_targets: int, session: Session) -> Results:
    """The measures of the samples after one or two targets; of the ablation also their images."""
    k, steps = session.options["samples"], session.options["steps"]
    samples = session.cached(
        ("samples", variant), lambda: sample_posterior(session.model(variant).cpu(), session.test_set, k, steps)
    )[num_targets - 1]
    numbers = evaluate(session.test_set, samples.images, session.predict("deterministic").images[:, 0])
    return Results(numbers, recorded_images(variant, samples) if variant == "no_novel" else {})


EXPERIMENT = Experiment(
    name="flatland",
    results_name="05_flatland",
    variants={
        "full": make_variant(),
        "deterministic": make_variant(ForwardRegression),
        "no_novel": make_variant(novel_weight=0.0),
    },
    evaluations={
        "deterministic": Evaluation(evaluate_baseline, "deterministic"),
    }
    | {
        name: Evaluation(
            partial(evaluate_sampler, variant, num_targets),
            variant,
            ("deterministic",),
            least_options={"scenes": 2, "samples": 2},
        )
        for name, variant, num_targets in (
            ("full", "full", 2),
            ("full_one_target", "full", 1),
            ("no_novel", "no_novel", 2),
        )
    },
    make_test_set=lambda device, options: make_test_set(options["scenes"], options["samples"]),
    predict=predict,
    evaluation_options={"scenes": COUNT, "samples": K, "steps": 24},
    headline=("energy_skill", "factor_tv", "factor_scene_rms", "spread_skill"),
)
