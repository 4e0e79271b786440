"""The experiment of 06_inverse_graphics: test set, measures, evaluations of the models of 3-D tabletop scenes.

    python -m fwdiff_lite.experiments inverse_graphics train unet deterministic --minutes 13
    python -m fwdiff_lite.experiments inverse_graphics evaluate
    python -m fwdiff_lite.experiments inverse_graphics export unet

An evaluation draws samples for held-out scenes. It compares them with the truth, with true posterior draws of the
hidden parts and with the deterministic baseline. `orbit` samples scenes and renders them from all around, and
`reference` computes the reference outputs of a golden test.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.devices import autocast_bf16
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.harness import Evaluation, Experiment, Results, Session, load_model
from fwdiff_lite.experiments.inverse_graphics.variants import (
    BASELINE,
    FULL_MODEL,
    PRETRAINED,
    SUPERSAMPLED_VARIANTS,
    VARIANTS,
    compile_networks,
)
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics import disocclusion, tabletop
from fwdiff_lite.problems.inverse_graphics.volume import RenderedImages

TARGET_ANGLES = (60, 120, 180)  # azimuth of the target cameras, in degrees around the table from the context camera
NOVEL_ANGLE_RATIO = 0.75  # azimuth of the novel camera over that of the target camera
COUNT, K, STEPS = 128, 16, 32  # scenes of the test set; samples of each; sampling steps
BACK_ANGLES = TARGET_ANGLES[2:]  # the view from behind, which shows the hidden factors
ETAS = {  # variant -> the values of eta that it is evaluated with, the main one first -> the angles of their targets
    "unet": {1: TARGET_ANGLES, 0: BACK_ANGLES},
    "dit": {0: TARGET_ANGLES, 1: BACK_ANGLES},
    "no_novel": {0: BACK_ANGLES, 1: BACK_ANGLES},
}
MASK_DRAWS = 8  # posterior draws that contribute to a disocclusion mask
EXAMPLES, ORBIT_SCENES = 6, 4  # scenes whose images are stored; scenes of which orbits are rendered
REFERENCE = {"count": 2, "k": 2, "steps": 16}  # size of the golden test
MAIN_SAMPLER = f"{FULL_MODEL}_eta_{next(iter(ETAS[FULL_MODEL]))}"

# --- the test set -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TestSet:
    """c held-out scenes. For each of D = len(TARGET_ANGLES) angles there are V = 2 views: the target, the novel view.

    scenes:  the true scenes; context: (c, 1) observations from the front
    cameras: (c, D, V, 4, 4)
    truth:   (c, D, V, 3, H, W) the views of the true scenes
    posterior_draws:   (c, K, D, V, 3, H, W) the views of K exact draws from the posterior given the context
    disocclusion_mask: (c, D, V, H, W) pixels that show, or could show, a point that the context camera does not see
    """

    scenes: tabletop.Scenes
    context: Observations
    cameras: Float[Tensor, "c d v 4 4"]
    truth: Float[Tensor, "c d v 3 h w"]
    posterior_draws: Float[Tensor, "c k d v 3 h w"]
    disocclusion_mask: Bool[Tensor, "c d v h w"]


def held_out_scenes(seed: int = 2026) -> tuple[tabletop.Scenes, Float[Tensor, "c 1 4 4"], torch.Generator]:
    """All COUNT held-out scenes, a front camera of each, and the generator for all later draws of the test set."""
    generator = torch.Generator().manual_seed(seed)
    scenes = tabletop.sample_scenes(COUNT, generator)
    return scenes, tabletop.sample_front_cameras(scenes, generator), generator


def make_test_set(
    count: int = COUNT, k: int = K, seed: int = 2026, side: int = 64, device: str | torch.device = "cpu"
) -> TestSet:
    """The first `count` held-out scenes with k posterior draws of each. ValueError if count is above COUNT."""
    if not 1 <= count <= COUNT:
        raise ValueError(f"the test set has {COUNT} scenes, got count = {count}")
    scenes, context_cameras, generator = held_out_scenes(seed)
    scenes, context_cameras = scenes[:count].to(device), context_cameras[:count].to(device)
    cameras = torch.stack(
        [
            torch.cat([tabletop.rotate_about_z(context_cameras, angle * ratio) for ratio in (1, NOVEL_ANGLE_RATIO)], 1)
            for angle in TARGET_ANGLES
        ],
        1,
    )
    flat_cameras = cameras.flatten(1, 2)  # (c, D V, 4, 4)
    drawn_scenes = tabletop.resample_hidden(scenes.repeat(k), generator)
    repeated_cameras = flat_cameras.repeat_interleave(k, 0)
    posterior_draws = [
        tabletop.render(drawn_scenes[rows], repeated_cameras[rows], side)
        for rows in torch.arange(count * k, device=device).split(16)
    ]
    disocclusion_mask = torch.zeros((*flat_cameras.shape[:2], side, side), dtype=torch.bool, device=device)
    for _ in range(MASK_DRAWS):
        disocclusion_mask |= disocclusion.disocclusion_mask(
            tabletop.resample_hidden(scenes, generator), context_cameras, flat_cameras, side
        )
    return TestSet(
        scenes,
        Observations(tabletop.render(scenes, context_cameras, side), context_cameras),
        cameras,
        tabletop.render(scenes, flat_cameras, side).unflatten(1, cameras.shape[1:3]),
        torch.cat(posterior_draws).unflatten(0, (count, k)).unflatten(2, cameras.shape[1:3]),
        disocclusion_mask.unflatten(1, cameras.shape[1:3]),
    )


@dataclass(frozen=True)
class Sampling:
    """How scenes are sampled.

    k: the number of samples of each context
    steps, eta: of `model.sample`
    chunk_size: how many scenes are sampled at once
    seed: of the noise
    """

    k: int = K
    steps: int = STEPS
    eta: float = 0.0
    chunk_size: int = 64
    seed: int = 0

    def generator(self) -> torch.Generator:
        """A new generator of noise."""
        return torch.Generator().manual_seed(self.seed)


def sample_posterior(
    model: ForwardDiffusion,
    test_set: TestSet,
    sampling: Sampling = Sampling(),
    target_angles: tuple[int, ...] = TARGET_ANGLES,
    **options,
) -> Float[Tensor, "c k d v 3 h w"]:
    """Samples k scenes for each context and each target, and renders them at the target and at the novel camera.

    A ForwardRegression predicts every view separately; then k is 1. options: of `model.sample`
    """
    if isinstance(model, ForwardRegression):
        views = predict_deterministic(model, test_set.context, test_set.cameras.flatten(1, 2), sampling.chunk_size)
        return views.unflatten(2, test_set.cameras.shape[1:3])
    generator, cameras = sampling.generator(), test_set.cameras
    views = [
        sample_and_render(model, test_set.context, cameras[:, d], sampling, generator, **options)
        for d in map(TARGET_ANGLES.index, target_angles)
    ]
    return torch.stack(views, 2)


def sample_and_render(
    model: ForwardDiffusion,
    context: Observations,
    cameras: Float[Tensor, "c v 4 4"],
    sampling: Sampling,
    generator: torch.Generator,
    **options,
) -> Float[Tensor, "c k v 3 h w"]:
    """Samples k scenes for each context, with the first camera as the target, and renders them at all V cameras.

    options: of `model.sample`
    """
    options |= {"steps": sampling.steps, "eta": sampling.eta, "generator": generator}

    def draw_views(contexts: Observations, cameras: Tensor) -> Tensor:
        return render_views(model.sample(contexts, cameras[:, :1], **options).signal, cameras)

    return repeat_and_map(draw_views, context, cameras, sampling)


def repeat_and_map(
    draw_views: Callable[[Observations, Tensor], Tensor],
    context: Observations,
    cameras: Float[Tensor, "c v 4 4"],
    sampling: Sampling,
) -> Float[Tensor, "c k n 3 h w"]:
    """The N views that `draw_views(contexts, cameras)` returns, for each of k copies of each context.

    draw_views: is called with one chunk of contexts and their cameras after another
    """
    contexts, cameras = context.repeat(sampling.k), cameras.repeat_interleave(sampling.k, 0)
    chunks = torch.arange(len(cameras), device=cameras.device).split(sampling.chunk_size)
    return torch.cat([draw_views(contexts[rows], cameras[rows]) for rows in chunks]).unflatten(0, (-1, sampling.k))


def render_views(scenes: Any, cameras: Float[Tensor, "b m 4 4"]) -> Float[Tensor, "b m 3 h w"]:
    """The images of scenes (objects with a method `render`) at M cameras, one camera after another to save memory."""
    return torch.cat([scenes.render(camera).rgb for camera in cameras.split(1, 1)], 1)


def predict_deterministic(
    model: ForwardRegression, context: Observations, cameras: Float[Tensor, "c v 4 4"], chunk_size: int = 64
) -> Float[Tensor, "c 1 v 3 h w"]:
    """The predictions of the deterministic model. Each view is the target of its own prediction, as in training."""

    def predict_views(contexts: Observations, cameras: Tensor) -> Tensor:
        return torch.cat([render_views(model.sample(contexts, c).signal, c) for c in cameras.split(1, 1)], 1)

    return repeat_and_map(predict_views, context, cameras, Sampling(k=1, chunk_size=chunk_size))


# --- metrics ----------------------------------------------------------------------------------------------------------


def classify_factors(views: Float[Tensor, "c k 3 h w"], test_set: TestSet) -> Int[Tensor, "c f k"]:
    """The category of each hidden factor that the views from behind (180 degrees) show."""
    camera, side = test_set.cameras[:, TARGET_ANGLES.index(180), :1], views.shape[-1]
    labels = []
    for name in tabletop.FACTORS:
        templates, mask = disocclusion.render_factor_templates(test_set.scenes, camera, name, side=side)
        labels.append(disocclusion.classify_nearest_template(views, templates, mask))
    return torch.stack(labels, 1)


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
        d = TARGET_ANGLES.index(angle)
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
                gain = metrics.bootstrap(lambda m, b: 10 * (b.mean() / m.mean()).log10(), *errors, generator=generator)
                numbers |= gain.as_metrics(name("psnr_mean_over_deterministic"))
            numbers |= {name(f"psnr_{key}"): metrics.psnr(image, truth, 2) for key, image in images.items()}
            numbers[name("psnr_seen")] = metrics.psnr(views[:, 0], truth, 2, ~mask)
    numbers |= evaluate_factors(test_set, samples[:, :, target_angles.index(180), 0], generator)
    return {name: float(value) for name, value in numbers.items()}


def evaluate_factors(
    test_set: TestSet, back_views: Float[Tensor, "c k 3 h w"], generator: torch.Generator
) -> dict[str, float | Tensor]:
    """The measures of the hidden factors, from sampled views from behind."""
    numbers = {}
    all_views = torch.cat([test_set.truth[:, None, TARGET_ANGLES.index(180), 0], back_views.to(test_set.truth)], 1)
    true_labels, labels = classify_factors(all_views, test_set).cpu().split([1, back_views.shape[1]], 2)
    probabilities = test_set.scenes.factor_probabilities.double().cpu()
    for i, name in enumerate(tabletop.FACTORS):
        numbers |= metrics.factor_tv(labels[:, i], probabilities[:, i], generator).as_metrics(f"{name}_factor_tv")
        numbers |= metrics.per_context_calibration_rms(labels[:, i], probabilities[:, i], generator).as_metrics(
            f"{name}_factor_scene_rms"
        )
    # not pooled over factors: their categories have nothing in common but an index, so opposite errors would cancel
    worst = max(tabletop.FACTORS, key=lambda name: numbers[f"{name}_factor_tv"])
    numbers |= {f"factor_tv{end}": numbers[f"{worst}_factor_tv{end}"] for end in ("", "_low", "_high")}
    pooled_rms = metrics.per_context_calibration_rms(labels.flatten(0, 1), probabilities.flatten(0, 1), generator)
    numbers |= pooled_rms.as_metrics("factor_scene_rms")
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


def autocast(device: torch.device) -> AbstractContextManager:
    """The context for sampling: bfloat16 autocast on a GPU, nothing on a CPU."""
    return autocast_bf16(device, device.type == "cuda")


def load_compiled_model(session: Session, name: str) -> ForwardDiffusion:
    """The trained model of a variant; on a GPU its networks are compiled, which pays off for many samples."""

    def load() -> ForwardDiffusion:
        model = load_model(session.experiment, name, session.folder, session.device)
        if session.device.type == "cuda":
            compile_networks(model)
        return model

    return session.cached(("compiled model", name), load)


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
            f"{name}_deviation": _quantize(samples[examples].std(1).mean(-3), 1 / 128),
        }
    return Results(numbers, arrays)


def _quantize(x: Float[Tensor, "*shape"], step: float) -> np.ndarray:
    """x rounded to multiples of a step, in half precision: compresses well, and is precise enough for a figure."""
    return ((x / step).round() * step).half().cpu().numpy()


def evaluate_orbit(session: Session) -> Results:
    """The images and depths of orbits around sampled scenes."""
    test_set = make_test_set(ORBIT_SCENES, device=session.device)
    with autocast(session.device):
        images = render_orbit(session.model("around"), test_set, steps=session.options["steps"])
    arrays = {"orbit": to_uint8(images.rgb, 64), "orbit_depth": _quantize(surface_depth(images), 1 / 64)}
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
        f"{variant}_eta_{eta}": Evaluation(partial(evaluate_sampler, variant, eta), variant, (BASELINE,))
        for variant, etas in ETAS.items()
        for eta in etas
    }
    | {
        "orbit": Evaluation(evaluate_orbit, "around"),
        "reference": Evaluation(reference_outputs, FULL_MODEL),
    },
    make_test_set=lambda device, options: make_test_set(options["scenes"], options["samples"], device=device),
    predict=predict,
    evaluation_options={"scenes": COUNT, "samples": K, "steps": STEPS},
    views=tuple(map(str, TARGET_ANGLES)),
    headline=("factor_tv", *(f"energy_skill_{angle}" for angle in TARGET_ANGLES), "factor_scene_rms"),
)
