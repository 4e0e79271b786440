"""The experiment of 06_inverse_graphics: test set, measures, evaluations of the models of 3-D tabletop scenes.

    python -m fwdiff_lite.experiments inverse_graphics train supersampled_maps supersampled_deterministic --minutes 54
    python -m fwdiff_lite.experiments inverse_graphics evaluate
    python -m fwdiff_lite.experiments inverse_graphics export supersampled_maps

The evaluations of the modules angles and ceilings draw samples for held-out scenes, and compare them with the truth
and with true posterior draws of the hidden parts. `orbit` samples scenes and renders them from all around, and
`reference` computes the reference outputs of a golden test.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results
from fwdiff_lite.experiments.harness import RecordedResults, Session
from fwdiff_lite.experiments.inverse_graphics import angles, ceilings
from fwdiff_lite.experiments.inverse_graphics.factors import classify_factors, summarise_factors
from fwdiff_lite.experiments.inverse_graphics.held_out import MAX_COUNT, TARGET_ANGLES, K, TestSet, make_test_set
from fwdiff_lite.experiments.inverse_graphics.posterior_samples import STEPS, Sampling, autocast, sample_posterior
from fwdiff_lite.experiments.inverse_graphics.variants import (
    MAIN_BASELINE,
    MAIN_MODEL,
    SUPERSAMPLED_VARIANTS,
    VARIANTS,
)
from fwdiff_lite.experiments.measurements import to_flat
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.volume import RenderedImages

BACK_ANGLES = TARGET_ANGLES[2:]  # the view from behind, which shows the hidden factors
ORBIT_SCENES, ORBIT_FRAMES = 4, 18  # scenes of which orbits are rendered; frames of an orbit
REFERENCE = {"count": 2, "k": 2, "steps": 8}  # size of the golden test
SUPERSAMPLING = 4  # a pixel of the images is the mean of SUPERSAMPLING x SUPERSAMPLING rays
MAIN_SAMPLER = f"{MAIN_MODEL}_angles_eta_1"

# --- metrics ----------------------------------------------------------------------------------------------------------


def evaluate(
    test_set: TestSet,
    samples: Float[Tensor, "c k d v 3 h w"],
    baseline: Float[Tensor, "c 1 all v 3 h w"] | None = None,
    target_angles: tuple[int, ...] = TARGET_ANGLES,
    seed: int = 0,
) -> dict[str, float]:
    """All metrics of a sampler, with the names of metrics.json. Some compare with the deterministic baseline.

    energy_skill, energy_ratio: the energy score relative to the baseline and to exact posterior draws
    spread_skill: spread over error on the pixels of the disocclusion mask; psnr_seen: on all other pixels
    sharpness_ratio: total variation of the samples over that of the truth
    factor_tv: the larger one of the two factors' values; factor_scene_rms: of both factors together
    readings_right: how often the factors of the true views are classified correctly

    samples: views at `target_angles`, a subset of TARGET_ANGLES that includes 180
    baseline: deterministic predictions at all of TARGET_ANGLES; without it, comparisons with it are left out
    """
    generator, numbers = torch.Generator().manual_seed(seed), {}

    for i, angle in enumerate(target_angles):
        d = test_set.angles.index(angle)
        for v, prefix in enumerate(("", "novel_")):
            name = f"{prefix}{{}}_{angle}".format
            views, truth = samples[:, :, i, v].cpu(), test_set.truth[:, d, v].cpu()
            mask = test_set.disocclusion_mask[:, d, v, None].expand_as(truth).cpu()
            numbers |= metrics.spread_skill(views, truth, generator, mask).as_metrics(name("spread_skill"))
            tv_ratio = metrics.total_variation(views).mean() / metrics.total_variation(truth).mean()
            visible_variance, hidden_variance = metrics.variance_inside_outside(views, ~mask)
            # a few exact draws may all be equal on the visible pixels
            variance_ratio = hidden_variance / visible_variance if visible_variance else math.inf
            numbers |= {name("sharpness_ratio"): tv_ratio, name("variance_unseen_over_seen"): variance_ratio}
            images = {"sample": views[:, 0], "mean": views.mean(1), "best": metrics.best_of(views, truth)}
            images["redrawn"] = test_set.posterior_draws[:, 0, d, v].cpu()
            if baseline is not None:
                images["deterministic"] = prediction = baseline[:, 0, d, v].cpu()
                scores = metrics.energy_score(views, truth), metrics.euclidean_error(prediction, truth)
                optimal_score = metrics.energy_score(test_set.posterior_draws[:, :, d, v].cpu(), truth)
                numbers |= metrics.energy_ratio(*scores, generator).as_metrics(name("energy_ratio"))
                numbers |= metrics.energy_skill(*scores, optimal_score, generator).as_metrics(name("energy_skill"))
                errors = metrics.debiased_ensemble_mean_mse(views, truth), metrics.squared_error(prediction, truth)
                gain = metrics.psnr_gain(*errors, generator)
                numbers |= gain.as_metrics(name("psnr_mean_over_deterministic"))
            numbers |= {name(f"psnr_{key}"): metrics.psnr(image, truth, 2) for key, image in images.items()}
            numbers[name("psnr_seen")] = metrics.psnr(views[:, 0], truth, 2, ~mask)
    numbers |= evaluate_factors(test_set, samples[:, :, target_angles.index(180), 0], generator)
    return {name: float(value) for name, value in numbers.items()}


def evaluate_factors(
    test_set: TestSet, back_views: Float[Tensor, "c k 3 h w"], generator: torch.Generator
) -> dict[str, float | Tensor]:
    """The measures of the hidden factors, from sampled views from behind."""
    all_views = torch.cat([test_set.truth[:, None, test_set.angles.index(180), 0], back_views.to(test_set.truth)], 1)
    true_labels, labels = classify_factors(all_views, test_set).cpu().split([1, back_views.shape[1]], 2)
    numbers = summarise_factors(labels, test_set.scenes.factor_probabilities.double().cpu(), generator)
    return numbers | {"readings_right": (true_labels[..., 0] == test_set.scenes.factor.cpu()).double().mean()}


# --- an orbit ---------------------------------------------------------------------------------------------------------


def render_orbit(
    model: ForwardDiffusion,
    test_set: TestSet,
    k: int = 2,
    steps: int = STEPS,
    frames: int = ORBIT_FRAMES,
    seed: int = 0,
    **options,
) -> RenderedImages:
    """Samples k scenes for each context, with the target from behind, and renders F `frames` around them.

    The images (c k, F, ...) begin at the context camera. options: of `model.sample`
    """
    cameras = test_set.context.params.repeat_interleave(k, 0)
    options |= {"steps": steps, "generator": torch.Generator().manual_seed(seed)}
    step = model.sample(test_set.context.repeat(k), tabletop.rotate_about_z(cameras, 180), **options)
    images = [step.signal.render(tabletop.rotate_about_z(cameras, 360 * i / frames)) for i in range(frames)]
    return RenderedImages(*(torch.cat(part, 1) for part in zip(*images, strict=True)))


def surface_depth(image: RenderedImages) -> Float[Tensor, "b m h w"]:
    """The rendered distance where opacity is above one half; inf elsewhere."""
    return torch.where(image.opacity > 0.5, image.distance, torch.inf)


# --- the experiment ---------------------------------------------------------------------------------------------------


def evaluate_orbit(session: Session) -> Results:
    """The images and depths of orbits around sampled scenes."""
    test_set = make_test_set(ORBIT_SCENES, device=session.device, supersampling=session.options["supersampling"])
    with autocast(session.device):
        images = render_orbit(session.model(MAIN_MODEL), test_set, steps=session.options["steps"], eta=1.0)
    arrays = {"orbit": to_uint8(images.rgb, 64), "orbit_depth": angles.quantize(surface_depth(images), 1 / 64)}
    return Results({}, arrays)


def reference_outputs(session: Session) -> Results:
    """The reference outputs of a golden test: the first target's view, in single precision."""
    sizes = REFERENCE["count"], REFERENCE["k"]
    test_set = make_test_set(*sizes, device=session.device, supersampling=session.options["supersampling"])
    sampling = Sampling(REFERENCE["k"], REFERENCE["steps"])
    samples = sample_posterior(session.model(MAIN_MODEL), test_set, sampling, TARGET_ANGLES[:1])
    return Results({}, {"live": samples[:, :, :, :1].half().cpu().numpy()})


def exported_arrays(variant: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All arrays, but the images of two models alone: the main sampler and the deterministic baseline."""
    kept = MAIN_SAMPLER, MAIN_BASELINE
    return {
        name: x
        for name, x in arrays.items()
        if not name.endswith(("_images", "_deviation")) or name.rpartition("_")[0] in kept
    }


def numbers_of(results: RecordedResults, sampler: str = MAIN_SAMPLER) -> dict[str, float]:
    """The measures of a sampler at five angles, with those that compare it with the deterministic baseline."""
    scores = {key: results.arrays[f"{sampler}_{key}"] for key in ("energy", "energy_true", "mean_mse")}
    baseline = {key: results.arrays[f"{MAIN_BASELINE}_{key}"] for key in ("energy", "mse")}
    return to_flat(results.rows)[sampler] | angles.add_baseline(scores, baseline)


EXPERIMENT = Experiment(
    name="inverse_graphics",
    results_name="06_inverse_graphics",
    weights_name_template="{results_name}_{variant}",
    variants=VARIANTS | SUPERSAMPLED_VARIANTS,
    evaluations=angles.EVALUATIONS
    | ceilings.EVALUATIONS
    | {"orbit": Evaluation(evaluate_orbit, MAIN_MODEL), "reference": Evaluation(reference_outputs, MAIN_MODEL)},
    exported_arrays=exported_arrays,
    evaluation_options={"scenes": MAX_COUNT, "samples": K, "steps": STEPS, "supersampling": SUPERSAMPLING},
    views=tuple(map(str, sorted({*TARGET_ANGLES, *angles.ANGLES}))),
    headline=("factor_tv", *(f"energy_over_true_{angle}" for angle in angles.ANGLES), "factor_scene_rms"),
)
