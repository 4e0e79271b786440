"""The experiment of 06_inverse_graphics: test set, measures, evaluations of the models of 3-D tabletop scenes.

    python -m fwdiff_lite.experiments inverse_graphics train unet deterministic --minutes 13
    python -m fwdiff_lite.experiments inverse_graphics evaluate
    python -m fwdiff_lite.experiments inverse_graphics export unet

An evaluation draws samples for held-out scenes. It compares them with the truth, with true posterior draws of the
hidden parts and with the deterministic baseline. `orbit` samples scenes and renders them from all around, and
`reference` computes the reference outputs of a golden test. The modules angles and ceilings declare evaluations that
can be split over devices.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.devices import synchronize
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.experiments.inverse_graphics import angles, ceilings
from fwdiff_lite.experiments.inverse_graphics.factors import classify_factors, summarise_factors
from fwdiff_lite.experiments.inverse_graphics.held_out import (
    COUNT,
    SUPERSAMPLING,
    TARGET_ANGLES,
    K,
    TestSet,
    make_test_set,
)
from fwdiff_lite.experiments.inverse_graphics.posterior_samples import (
    STEPS,
    Sampling,
    autocast,
    load_compiled_model,
    sample_posterior,
)
from fwdiff_lite.experiments.inverse_graphics.variants import (
    BASELINE,
    FULL_MODEL,
    PRETRAINED,
    SUPERSAMPLED_VARIANTS,
    VARIANTS,
)
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.volume import RenderedImages

BACK_ANGLES = TARGET_ANGLES[2:]  # the view from behind, which shows the hidden factors
ETAS = {  # variant -> the values of eta that it is evaluated with, the main one first -> the angles of their targets
    "unet": {1: TARGET_ANGLES, 0: BACK_ANGLES},
    "dit": {0: TARGET_ANGLES, 1: BACK_ANGLES},
    "no_novel": {0: BACK_ANGLES, 1: BACK_ANGLES},
}
EXAMPLES, ORBIT_SCENES = 6, 4  # scenes whose images are stored; scenes of which orbits are rendered
REFERENCE = {"count": 2, "k": 2, "steps": 16}  # size of the golden test
MAIN_SAMPLER = f"{FULL_MODEL}_eta_{next(iter(ETAS[FULL_MODEL]))}"

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

ORBIT_TARGETS = (120, 240)  # angles of the autoregressive targets; each sampled target joins the context
ORBIT_FRAMES = 18


def render_orbit(
    model: ForwardDiffusion,
    test_set: TestSet,
    k: int = 2,
    steps: int = STEPS,
    frames: int = ORBIT_FRAMES,
    seed: int = 0,
    **options,
) -> RenderedImages:
    """Samples k scenes for each context autoregressively, through ORBIT_TARGETS, and renders F `frames` around them.

    The images (c k, F, ...) begin at the context camera. options: of `model.sample_autoregressive`
    """
    context_cameras = test_set.context.params.repeat_interleave(k, 0)
    targets = torch.cat([tabletop.rotate_about_z(context_cameras, angle) for angle in ORBIT_TARGETS], 1)
    generator = torch.Generator().manual_seed(seed)
    step, _ = model.sample_autoregressive(
        test_set.context.repeat(k), targets, steps=steps, generator=generator, **options
    )
    images = [step.signal.render(tabletop.rotate_about_z(context_cameras, 360 * i / frames)) for i in range(frames)]
    return RenderedImages(*(torch.cat(part, 1) for part in zip(*images, strict=True)))


def surface_depth(image: RenderedImages) -> Float[Tensor, "b m h w"]:
    """The rendered distance where opacity is above one half; inf elsewhere."""
    return torch.where(image.opacity > 0.5, image.distance, torch.inf)


# --- the experiment ---------------------------------------------------------------------------------------------------


def predict(model: ForwardRegression, test_set: TestSet) -> Float[Tensor, "c 1 d v 3 h w"]:
    """The deterministic predictions for a test set."""
    with autocast(test_set.truth.device):
        return sample_posterior(model, test_set)


def evaluate_sampler(variant: str, eta: int, session: Session) -> Results:
    """The measures and the labels of a variant's samples beside the baseline, and images for the main sampler."""
    test_set, options, target_angles = session.test_set, session.options, ETAS[variant][eta]
    baseline, model = session.predict(BASELINE), load_compiled_model(session, variant)
    start_time = time.monotonic()
    with autocast(session.device):
        samples = sample_posterior(model, test_set, Sampling(options["samples"], options["steps"], eta), target_angles)
    synchronize(session.device)
    seconds = (time.monotonic() - start_time) / (len(samples) * samples.shape[1] * len(target_angles))
    numbers = evaluate(test_set, samples, baseline, target_angles) | {"seconds_a_sample": seconds}
    labels = classify_factors(samples[:, :, target_angles.index(180), 0], test_set)
    name, arrays = f"{variant}_eta_{eta}", {f"{variant}_eta_{eta}_labels": labels.byte().cpu().numpy()}
    if name == MAIN_SAMPLER:  # of all other samplers only metrics and labels are stored
        examples = slice(EXAMPLES)
        arrays |= {
            "context": to_uint8(test_set.context.value[examples, 0]),
            "truth": to_uint8(test_set.truth[examples]),
            "deterministic": to_uint8(baseline[examples, 0], 64),
            name: to_uint8(samples[examples, :4], 64),
            f"{name}_deviation": angles.quantize(samples[examples].std(1).mean(-3), 1 / 128),
        }
    return Results(numbers, arrays)


def evaluate_orbit(session: Session) -> Results:
    """The images and depths of orbits around sampled scenes."""
    test_set = make_test_set(ORBIT_SCENES, device=session.device)
    with autocast(session.device):
        images = render_orbit(session.model("around"), test_set, steps=session.options["steps"])
    arrays = {"orbit": to_uint8(images.rgb, 64), "orbit_depth": angles.quantize(surface_depth(images), 1 / 64)}
    return Results({}, arrays)


def reference_outputs(session: Session) -> Results:
    """The reference outputs of a golden test: the first target's view, in single precision."""
    test_set = make_test_set(REFERENCE["count"], REFERENCE["k"], device=session.device)
    sampling = Sampling(REFERENCE["k"], REFERENCE["steps"])
    samples = sample_posterior(session.model(FULL_MODEL), test_set, sampling, TARGET_ANGLES[:1])
    return Results({}, {"live": samples[:, :, :, :1].half().cpu().numpy()})


EXPERIMENT = Experiment(
    name="inverse_graphics",
    results_name="06_inverse_graphics",
    weights_name_template="{results_name}_{variant}",
    variants=VARIANTS | {"around": replace(VARIANTS["around"], parent=PRETRAINED)} | SUPERSAMPLED_VARIANTS,
    evaluations={
        f"{variant}_eta_{eta}": Evaluation(
            partial(evaluate_sampler, variant, eta), variant, (BASELINE,), least_options=angles.LEAST_OPTIONS
        )
        for variant, etas in ETAS.items()
        for eta in etas
    }
    | {
        "orbit": Evaluation(evaluate_orbit, "around"),
        "reference": Evaluation(reference_outputs, FULL_MODEL),
    }
    | angles.EVALUATIONS
    | ceilings.EVALUATIONS,
    make_test_set=lambda device, options: make_test_set(
        options["scenes"], options["samples"], device=device, supersampling=options["supersampling"]
    ),
    predict=predict,
    evaluation_options={"scenes": COUNT, "samples": K, "steps": STEPS, "supersampling": SUPERSAMPLING},
    views=tuple(map(str, sorted({*TARGET_ANGLES, *angles.ANGLES}))),
    headline=("factor_tv", *(f"energy_skill_{angle}" for angle in TARGET_ANGLES), "factor_scene_rms"),
)
