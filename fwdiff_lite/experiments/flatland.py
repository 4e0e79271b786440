"""The test set of the notebook 05_flatland, and the recorded baseline and ablation that it loads.

    python -m fwdiff_lite.experiments.flatland

trains the deterministic baseline and a model without the novel loss, and writes their samples into checkpoints/.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics.flatland import (
    MAX_AZIMUTH_OFFSET,
    NUM_ROOMS,
    Scenes,
    batches,
    build_model,
    camera_facing,
    classify_hidden_rooms,
    draw_scenes,
    field_top_down_view,
    observe,
    orbit_cameras,
    render_views,
    repeat_scenes,
    resample_rooms,
    wall_azimuths,
)
from fwdiff_lite.problems.inverse_graphics.pixelnerf import RadianceField, cat
from fwdiff_lite.storage.checkpoints import save_recorded
from fwdiff_lite.training import TrainingLog, fit

STEPS = 1500  # training steps of every variant
FIT_OPTIONS = {"learning_rate": 1.2e-2, "ema": 0.995}
NAME = "05_flatland"
HIDDEN_ROOMS = torch.tensor([False] + [True] * (NUM_ROOMS - 1))  # mask: the context camera faces the first room
COUNT, K = 64, 8  # scenes of the test set, samples of each
CHUNK_SIZE = 8  # scenes that are sampled together


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
    scenes = draw_scenes(count, generator)
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
        "spread_skill": spread.value,
        "spread_skill_low": spread.low,
        "spread_skill_high": spread.high,
    }
    for name, rooms in (("", slice(None)), ("_first", slice(0, 1)), ("_second", slice(1, 2))):
        room_labels, p = labels[:, rooms].flatten(0, 1), probabilities[:, rooms].flatten(0, 1)
        tv = metrics.factor_tv(room_labels, p, generator)
        rms = metrics.per_context_calibration_rms(room_labels, p, generator)
        results |= {f"factor_tv{name}": tv.value, f"factor_tv{name}_low": tv.low, f"factor_tv{name}_high": tv.high}
        results |= {f"factor_scene_rms{name}": rms.value, f"factor_scene_rms{name}_high": rms.high}
    return {name: float(value) for name, value in results.items()}


VARIANTS = {"deterministic": {"model_class": ForwardRegression}, "no_novel": {"novel_weight": 0.0}}
EXAMPLES = 4  # scenes whose images from above are recorded


def train(steps: int = STEPS, seed: int = 0, **options) -> tuple[ForwardDiffusion, TrainingLog]:
    """A trained model and its log, with the training of the notebook; options: those of `build_model`."""
    model = build_model(**options)
    return model, fit(model, batches(), steps=steps, seed=seed, progress=False, **FIT_OPTIONS)


def headline_metrics(test_set: TestSet, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """The deterministic baseline's energy score, and the energy skill without the novel loss, of recorded samples."""
    images = {name: torch.from_numpy(arrays[f"{name}_views"]).float() for name in VARIANTS}
    baseline = images["deterministic"][:, 0]
    energy = metrics.euclidean_error(baseline, test_set.truth).mean()
    skill = evaluate(test_set, images["no_novel"], baseline)["energy_skill"]
    return {"deterministic_energy": round(float(energy), 4), "no_novel_energy_skill": round(skill, 4)}


def main() -> None:
    """Trains every variant, samples the test set with it, and records the samples and the headline metrics."""
    parser = argparse.ArgumentParser(description="Record the baseline and the ablation that 05_flatland loads.")
    parser.add_argument("--steps", type=positive_int, default=STEPS, help="training steps of each variant")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start_time, test_set, arrays = time.process_time(), make_test_set(), {}
    for name, variant in VARIANTS.items():
        model, log = train(options.steps, **variant)
        samples = sample_posterior(model, test_set)[-1]
        k = samples.images.shape[1]
        arrays[f"{name}_views"] = samples.images.half().numpy()
        first_samples = samples.field[torch.arange(EXAMPLES) * k]
        arrays[f"{name}_above"] = to_uint8(field_top_down_view(first_samples))
        print(f"{name}: {log.steps} steps, {log.seconds:.0f} s, losses", log.curve["loss"][-1], flush=True)
    save_recorded(
        NAME,
        arrays,
        metrics=headline_metrics(test_set, arrays),
        command="python -m fwdiff_lite.experiments.flatland",
        seed=0,
        hardware="2-core CPU, one thread",
        minutes=round((time.process_time() - start_time) / 60, 1),
        gpu_minutes=0.0,
        steps=options.steps,
    )


if __name__ == "__main__":
    main()
