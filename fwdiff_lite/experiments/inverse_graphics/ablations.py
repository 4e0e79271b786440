"""The experiment of 07_ablations: evaluates baselines, ablations and options of the sampler on one test set.

    python -m fwdiff_lite.experiments ablations train unet deterministic no_depth guided --minutes 9
    python -m fwdiff_lite.experiments ablations evaluate
    python -m fwdiff_lite.experiments ablations export

An evaluation draws the samples of a sampled variant for the same held-out scenes. It computes the metrics of the module
evaluation and the consistency between views. `orbit` renders one scene from all around. Variants with the suffix _128
have images of 128 pixels a side; their models start from the weights of the full model of 64 pixels.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.devices import synchronize
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results
from fwdiff_lite.experiments.harness import RecordedResults, Session
from fwdiff_lite.experiments.inverse_graphics import evaluation, held_out
from fwdiff_lite.experiments.inverse_graphics.evaluation import BACK_ANGLES
from fwdiff_lite.experiments.inverse_graphics.factors import classify_factors
from fwdiff_lite.experiments.inverse_graphics.held_out import TARGET_ANGLES, TestSet
from fwdiff_lite.experiments.inverse_graphics.posterior_samples import (
    STEPS,
    Sampling,
    autocast,
    load_compiled_model,
    render_views,
    repeat_and_map,
    sample_posterior,
)
from fwdiff_lite.experiments.inverse_graphics.variants import (
    BASELINE,
    FULL_MODEL,
    LARGE_SIDE,
    SETTINGS,
    SIDE,
    VARIANTS,
    make_variant,
)
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.consistency import (
    CovisiblePoints,
    covisible_points,
    inconsistency,
    psnr_interval,
)
from fwdiff_lite.problems.inverse_graphics.viewspace import distil

COUNT, K = 128, 8  # scenes of the test set; samples of each
ORBIT_TARGETS = (120, 240)  # angles of the autoregressive targets; each sampled target joins the context
ORBIT_ANGLES = tuple(range(10, 360, 30))  # of the views that are distilled into one scene; none is a test view
BATCH_SIZE = 32  # scenes a step, so that two trainings fit on a GPU at once
GUIDANCE_VARIANT = "guided"  # the variant for the sampler's options: it was trained with context dropout
SAMPLER_OPTIONS = {
    "plain": {},
    **{f"guidance_{weight:g}": {"guidance": weight} for weight in (1.5, 2.0, 3.0)},
    **{f"temperature_{scale:g}": {"temperature": scale} for scale in (0.85, 0.7)},
    # with guidance, since only guidance moves a render out of [-1, 1], where thresholding has an effect
    **{f"threshold_{quantile:g}": {"guidance": 2.0, "threshold": quantile} for quantile in (0.995, 0.95, 0.9)},
}

Samples = Float[Tensor, "c k d v 3 h w"]  # v: the views of the target camera and of the novel camera


# --- samplers ---------------------------------------------------------------------------------------------------------


def without_context(test_set: TestSet) -> TestSet:
    """The test set with all contexts masked out."""
    return replace(test_set, context=test_set.context.mask_out(torch.ones_like(test_set.context.mask)))


def with_second_context(test_set: TestSet, seed: int = 7) -> TestSet:
    """The test set with a second context image of each front, which hides the same parts of the scene."""
    side = test_set.truth.shape[-1]
    cameras = tabletop.sample_front_cameras(test_set.scenes, torch.Generator().manual_seed(seed))
    second = Observations(tabletop.render(test_set.scenes, cameras, side), cameras)
    return replace(test_set, context=test_set.context.append(second))


def sample_deterministic(
    model: ForwardRegression, test_set: TestSet, sampling: Sampling
) -> Float[Tensor, "c 1 d v 3 h w"]:
    """Predicts one scene for each target, and renders it at the target and at the novel camera."""

    def predict_views(contexts: Observations, cameras: Tensor) -> Tensor:
        return render_views(model.sample(contexts, cameras[:, :1]).signal, cameras)

    sampling = replace(sampling, k=1)
    views = [repeat_and_map(predict_views, test_set.context, c, sampling) for c in test_set.cameras.unbind(1)]
    return torch.stack(views, 2)


def sample_with_options(
    model: ForwardDiffusion, test_set: TestSet, sampling: Sampling, **options
) -> Float[Tensor, "c k 1 3 3 h w"]:
    """Samples scenes with options of `model.sample`, and renders them from behind. The third view is the sampled image.

    With guidance the sampled image differs from the scene's render: guidance changes the image in each step, and the
    scene is the model's output for the last noisy image.
    """
    options |= {"steps": sampling.steps, "eta": sampling.eta, "generator": sampling.generator()}

    def draw_views(contexts: Observations, cameras: Tensor) -> Tensor:
        step = model.sample(contexts, cameras[:, :1], **options)
        return torch.cat([render_views(step.signal, cameras), step.observation], 1)

    return repeat_and_map(draw_views, test_set.context, back_cameras(test_set), sampling)[:, :, None]


def sample_unconditional(model: ForwardDiffusion, test_set: TestSet, sampling: Sampling) -> Samples:
    """Samples scenes without context, and renders them at the test cameras."""
    return sample_posterior(model, without_context(test_set), sampling, allow_empty=True)


def sample_two_contexts(model: ForwardDiffusion, test_set: TestSet, sampling: Sampling) -> Samples:
    """Samples scenes with two context images, and renders them at the test cameras."""
    return sample_posterior(model, with_second_context(test_set), sampling)


def sample_view_space(model: ForwardDiffusion, test_set: TestSet, sampling: Sampling) -> Samples:
    """Samples images with a view-space model, which has no scene: each view separately, clamped to [-1, 1]."""
    options = {"steps": sampling.steps, "eta": sampling.eta, "generator": sampling.generator()}

    def draw_views(contexts: Observations, cameras: Tensor) -> Tensor:
        return model.sample(contexts, cameras, **options).observation.clamp(-1, 1)

    return draw_all_views(draw_views, test_set, sampling, math.prod(test_set.cameras.shape[1:3]))


def sample_distilled(model: ForwardDiffusion, test_set: TestSet, sampling: Sampling, **options) -> Samples:
    """Samples images at ORBIT_ANGLES with a view-space model, and distils those of each sample into one scene.

    options: of `distil`
    """
    generator = sampling.generator()

    def draw_views(contexts: Observations, cameras: Tensor) -> Tensor:
        orbit_cameras = rotate_to_angles(contexts.params, ORBIT_ANGLES)
        scene, _ = distil(model, contexts, orbit_cameras, generator, sampling.steps, sampling.eta, **options)
        return render_views(scene, cameras)

    return draw_all_views(draw_views, test_set, sampling, len(ORBIT_ANGLES))


def sample_through_targets(
    model: ForwardDiffusion, test_set: TestSet, sampling: Sampling, targets: tuple[int, ...]
) -> Samples:
    """Samples scenes autoregressively through targets at the given angles, and renders them from behind.

    Each sampled target joins the context of the next one.
    """
    options = {"steps": sampling.steps, "eta": sampling.eta, "generator": sampling.generator()}

    def draw_views(contexts: Observations, cameras: Tensor) -> Tensor:
        step, _ = model.sample_autoregressive(contexts, rotate_to_angles(contexts.params, targets), **options)
        return render_views(step.signal, cameras)

    return repeat_and_map(draw_views, test_set.context, back_cameras(test_set), sampling)[:, :, None]


def sample_prior(test_set: TestSet, k: int, seed: int) -> Samples:
    """Draws k true scenes from the prior for each scene of the test set, and renders them at the test cameras."""
    side, cameras = test_set.truth.shape[-1], test_set.cameras.flatten(1, 2).repeat_interleave(k, 0)
    scenes = tabletop.sample_scenes(len(cameras), torch.Generator().manual_seed(seed)).to(cameras.device)
    views = held_out.render_views_of(scenes, cameras, side, test_set.supersampling)
    return views.unflatten(0, (-1, k)).unflatten(2, test_set.cameras.shape[1:3])


def draw_all_views(
    draw_views: Callable[[Observations, Tensor], Tensor], test_set: TestSet, sampling: Sampling, images_per_sample: int
) -> Samples:
    """The views at all test cameras that `draw_views` returns, in chunks of so many images as a chunk has scenes."""
    sampling = replace(sampling, chunk_size=max(1, sampling.chunk_size // images_per_sample))
    views = repeat_and_map(draw_views, test_set.context, test_set.cameras.flatten(1, 2), sampling)
    return views.unflatten(2, test_set.cameras.shape[1:3])


def back_cameras(test_set: TestSet) -> Float[Tensor, "c v 4 4"]:
    """The target camera and the novel camera of the view from behind."""
    return test_set.cameras[:, TARGET_ANGLES.index(180)]


def rotate_to_angles(cameras: Float[Tensor, "b 1 4 4"], angles: tuple[int, ...]) -> Float[Tensor, "b a 4 4"]:
    """Each camera rotated about the table by each of the angles, in degrees."""
    return torch.cat([tabletop.rotate_about_z(cameras, angle) for angle in angles], 1)


def shuffle_views(samples: Samples) -> Samples:
    """Pairs the target view of each sample with the novel view of another one: correct marginals, wrong joint."""
    target, novel = samples.unbind(3)
    return torch.stack([target, novel.roll(1, 1)], 3)


@dataclass(frozen=True)
class SampledVariant:
    """A trained variant and a way to sample it.

    variant: without a variant there is no model, and the sampler returns true draws
    sampler: takes model, test_set and sampling, and returns the views of the samples
    target_angles: the subset of TARGET_ANGLES that the sampler returns
    unconditional: whether samples follow the prior, not the posterior; then sample_prior gives the true draws
    num_samples, eta: of sampling
    num_examples: number of scenes, and of samples of each, whose images are stored; example_views: indices of the views
    side: pixels along each side of an image
    """

    variant: str | None
    sampler: Callable[..., Samples] = sample_posterior
    target_angles: tuple[int, ...] = TARGET_ANGLES
    unconditional: bool = False
    num_samples: int = K
    eta: float = 1.0
    num_examples: tuple[int, int] = (3, 1)
    example_views: tuple[int, int] = (0, 1)
    side: int = SIDE

    @property
    def baseline(self) -> str:
        """The variant of the deterministic predictions that it is compared with."""
        return BASELINE if self.side == SIDE else f"{BASELINE}_{self.side}"


SAMPLED_VARIANTS = {
    **{variant: SampledVariant(variant) for variant in VARIANTS if variant != GUIDANCE_VARIANT},
    "deterministic": SampledVariant(BASELINE, sample_deterministic),
    "around_two": SampledVariant("around", sample_two_contexts),
    "one_shot": SampledVariant("around", partial(sample_through_targets, targets=ORBIT_TARGETS[:1]), BACK_ANGLES),
    "autoregressive": SampledVariant("around", partial(sample_through_targets, targets=ORBIT_TARGETS), BACK_ANGLES),
    "view_space": SampledVariant("view_space", sample_view_space),
    "distilled": SampledVariant("view_space", sample_distilled, num_samples=2),  # each sample needs an optimisation
    "unconditional": SampledVariant("unconditional", sample_unconditional, unconditional=True),
    "redrawn": SampledVariant(None, lambda _, test_set, sampling: test_set.posterior_draws[:, : sampling.k]),
    "mixed": SampledVariant(
        None, lambda _, test_set, sampling: shuffle_views(test_set.posterior_draws[:, : sampling.k])
    ),
    "prior": SampledVariant(
        None, lambda _, test_set, sampling: sample_prior(test_set, sampling.k, seed=1), unconditional=True
    ),
    **{
        name: SampledVariant(
            GUIDANCE_VARIANT,
            partial(sample_with_options, **options),
            BACK_ANGLES,
            eta=0.0,
            num_examples=(1, 4),
            example_views=(0, 2),
        )
        for name, options in SAMPLER_OPTIONS.items()
    },
}
SAMPLED_VARIANTS |= {
    f"{name}_{LARGE_SIDE}": replace(SAMPLED_VARIANTS[name], variant=variant, side=LARGE_SIDE)
    for name, variant in {
        FULL_MODEL: f"{FULL_MODEL}_{LARGE_SIDE}",
        BASELINE: f"{BASELINE}_{LARGE_SIDE}",
        "redrawn": None,
    }.items()
}

# --- metrics ----------------------------------------------------------------------------------------------------------


def consistency_points(
    test_set: TestSet, target_angles: tuple[int, ...] = TARGET_ANGLES, draws: int = held_out.MASK_DRAWS
) -> list[CovisiblePoints]:
    """The points, for each angle, that the target and the novel camera see and the context camera does not see.

    draws: posterior draws in which a point must be at the same place as in the true scene
    """
    generator, side = torch.Generator().manual_seed(0), test_set.truth.shape[-1]
    scenes = [test_set.scenes, *(tabletop.resample_hidden(test_set.scenes, generator) for _ in range(draws))]
    points_by_angle = []
    for d in map(TARGET_ANGLES.index, target_angles):
        points = covisible_points(scenes, test_set.cameras[:, d, :1], test_set.cameras[:, d, 1:], side)
        points_by_angle.append(points._replace(mask=points.mask & test_set.disocclusion_mask[:, d, 0]))
    return points_by_angle


def mode_bias(labels: Int[Tensor, "c f k"], scenes: tabletop.Scenes, generator: torch.Generator) -> metrics.Interval:
    """How often samples have the mode, the most probable category of their scene, minus the mode's true probability.

    Above 0, samples are biased towards the mode.
    """
    probability, mode = scenes.factor_probabilities.double().cpu().max(-1)  # (c, f)
    frequency = (labels.cpu() == mode[..., None]).double().mean(-1)
    return metrics.bootstrap(torch.mean, (frequency - probability).mean(1), generator=generator)


def relative_sliced_w2(
    samples: Float[Tensor, "c k 3 h w"], draws_a: Float[Tensor, "c k 3 h w"], draws_b: Float[Tensor, "c k 3 h w"]
) -> float:
    """The sliced W2 distance of samples from true draws over the distance of two sets of true draws: 1 is perfect.

    The distance is that of sets of whole images. The numerator is the mean over both sets of true draws.
    """
    samples, draws_a, draws_b = (x.flatten(0, 1).flatten(1).cpu() for x in (samples, draws_a, draws_b))
    pairs = (samples, draws_a), (samples, draws_b), (draws_a, draws_b)
    to_a, to_b, between = (metrics.sliced_w2(*pair, torch.Generator().manual_seed(0)) for pair in pairs)
    return (to_a + to_b) / (2 * between)


def evaluate_sampled_variant(
    test_set: TestSet,
    samples: Samples,
    baseline: Float[Tensor, "c 1 all two 3 h w"],
    sampled_variant: SampledVariant,
    points: list[CovisiblePoints],
    seed: int = 0,
) -> dict[str, dict]:
    """The metrics of samples: "numbers" holds means over scenes with intervals, "each" the scores of every scene.

    energy_ANGLE, novel_energy_ANGLE: the energy score; of a single prediction its Euclidean error. Also for each scene
    consistency_ANGLE: in dB; for each scene the mean squared difference of its two views
    lean: the value of mode_bias
    picture_energy_180, picture_lean: of the third view, the sampled image, if there is one. Without guidance it differs
        from the scene's render too, because a sampled image has only one ray a pixel
    All further numbers are those of evaluation.evaluate.
    An unconditional variant samples other scenes. It has only its energy scores, set_distance_ANGLE and
    novel_set_distance_ANGLE (the value of relative_sliced_w2), and sharpness_ratio_ANGLE relative to true draws.
    """
    generator, k = torch.Generator().manual_seed(seed), samples.shape[1]
    numbers, per_scene = {}, {}
    prior_draws = [sample_prior(test_set, k, seed=seed) for seed in (2, 3)] if sampled_variant.unconditional else []

    for i, angle in enumerate(sampled_variant.target_angles):
        d = TARGET_ANGLES.index(angle)
        for v, prefix in enumerate(("", "novel_")):
            views, name = samples[:, :, i, v].cpu(), f"{prefix}{{}}_{angle}".format
            per_scene[name("energy")] = _energy_scores(views, test_set.truth[:, d, v].cpu())
            if prior_draws:
                draws_a, draws_b = (draws[:, :, d, v].cpu() for draws in prior_draws)
                numbers[name("set_distance")] = relative_sliced_w2(views, draws_a, draws_b)
                tv_ratio = metrics.total_variation(views).mean() / metrics.total_variation(draws_a).mean()
                numbers[name("sharpness_ratio")] = float(tv_ratio)
        if not sampled_variant.unconditional:
            error = inconsistency(samples[:, :, i, 0], samples[:, :, i, 1], points[d]).cpu()
            per_scene[f"consistency_{angle}"] = error
            numbers |= psnr_interval(error, generator).as_metrics(f"consistency_{angle}")
    numbers |= {name: float(energy.mean()) for name, energy in per_scene.items() if "energy" in name}
    if k > 1 and not sampled_variant.unconditional:
        numbers |= evaluation.evaluate(test_set, samples[:, :, :, :2], baseline, sampled_variant.target_angles)
        back_views = samples[:, :, sampled_variant.target_angles.index(180)]
        labels = classify_factors(back_views[:, :, 0], test_set)
        numbers |= mode_bias(labels, test_set.scenes, generator).as_metrics("lean")
        if back_views.shape[2] == 3:
            images = back_views[:, :, 2]
            labels = classify_factors(images, test_set)
            numbers |= mode_bias(labels, test_set.scenes, generator).as_metrics("picture_lean")
            truth = test_set.truth[:, TARGET_ANGLES.index(180), 0]
            numbers["picture_energy_180"] = float(_energy_scores(images.cpu(), truth.cpu()).mean())
    per_scene = {name: [float(f"{value:.6g}") for value in values.tolist()] for name, values in per_scene.items()}
    numbers = {name: value for name, value in numbers.items() if not math.isinf(value)}  # the PSNR of no error
    return {"numbers": numbers, "each": per_scene}


def _energy_scores(views: Float[Tensor, "c k 3 h w"], truth: Float[Tensor, "c 3 h w"]) -> Float[Tensor, "c"]:
    return metrics.energy_score(views, truth) if views.shape[1] > 1 else metrics.euclidean_error(views[:, 0], truth)


def paired_gains(
    ours: dict[str, list[float]], theirs: dict[str, list[float]], seed: int = 0
) -> dict[str, metrics.Interval]:
    """The gain of one sampled variant (ours) over another (theirs), paired over scenes, for each score that both have.

    Of an energy score: (theirs - ours) / ours; "energies": the same of the sum of all energy scores. Of consistency:
    ours - theirs in dB.
    """
    generator, gains = torch.Generator().manual_seed(seed), {}
    pairs = {
        name: [torch.tensor(scores[name], dtype=torch.float64) for scores in (ours, theirs)]
        for name in ours
        if name in theirs
    }
    energy_pairs = [pair for name, pair in pairs.items() if "energy" in name]
    pairs["energies"] = [sum(scores) for scores in zip(*energy_pairs, strict=True)]
    for name, (our_scores, their_scores) in pairs.items():
        if name.startswith("consistency"):
            gains[name] = metrics.psnr_gain(our_scores, their_scores, generator)
        else:
            gains[name] = metrics.energy_gap(their_scores, our_scores, generator)
    return gains


# --- the experiment ---------------------------------------------------------------------------------------------------


class Inputs(NamedTuple):
    """Shared by all variants with images of one size: test set, predictions, points of the consistency measure."""

    test_set: TestSet
    baseline: Float[Tensor, "c 1 all two 3 h w"]
    points: list[CovisiblePoints]


def make_inputs(sampled_variant: SampledVariant, chunk_size: int, session: Session) -> Inputs:
    """The inputs of the evaluation of a sampled variant; chunk_size: how many scenes are predicted at once."""
    test_set = session.test_set
    if sampled_variant.side != SIDE:
        count = session.options["scenes"]
        test_set = held_out.make_test_set(count, K, side=sampled_variant.side, device=session.device)
    with autocast(session.device):
        model = load_compiled_model(session, sampled_variant.baseline)
        baseline = sample_posterior(model, test_set, Sampling(chunk_size=chunk_size))
    return Inputs(test_set, baseline, consistency_points(test_set))


def run_sampled_variant(name: str, session: Session) -> Results:
    """The metrics of a sampled variant, the scores of every scene as one JSON text, and the images of its examples."""
    sampled_variant, options = SAMPLED_VARIANTS[name], session.options
    chunk_size = max(1, options["chunk_size"] * SIDE**2 // sampled_variant.side**2)
    inputs = session.cached(("inputs", sampled_variant.side), lambda: make_inputs(sampled_variant, chunk_size, session))
    model = load_compiled_model(session, sampled_variant.variant) if sampled_variant.variant else None
    with autocast(session.device):
        sampling = Sampling(sampled_variant.num_samples, options["steps"], sampled_variant.eta, chunk_size)
        samples = sampled_variant.sampler(model, inputs.test_set, sampling).float()
    scenes, num_samples = sampled_variant.num_examples
    images = to_uint8(samples[:scenes, :num_samples, -1, list(sampled_variant.example_views)], 64)
    results = evaluate_sampled_variant(inputs.test_set, samples, inputs.baseline, sampled_variant, inputs.points)
    scores = np.array(json.dumps(results["each"]))
    return Results(results["numbers"], {f"{name}_images": images, f"{name}_scores": scores})


def render_orbit_views(session: Session) -> Results:
    """One scene at ORBIT_ANGLES: predicted by view-space diffusion, distilled from these views, and sampled.

    The number is the seconds that view-space sampling and distillation took.
    """
    steps, test_set = session.options["steps"], held_out.make_test_set(1, 1, device=session.device)
    view_model, model = session.model("view_space"), session.model(FULL_MODEL)
    generator = torch.Generator().manual_seed(0)
    cameras = rotate_to_angles(test_set.context.params, ORBIT_ANGLES)
    with autocast(session.device):
        start_time = time.monotonic()
        distilled_scene, predicted_views = distil(view_model, test_set.context, cameras, generator, steps, eta=1.0)
        synchronize(session.device)
        seconds = time.monotonic() - start_time
        back_camera = test_set.cameras[:, TARGET_ANGLES.index(180), :1]
        step = model.sample(test_set.context, back_camera, steps=steps, eta=1.0, generator=generator)
        sampled, distilled = (render_views(scene, cameras) for scene in (step.signal, distilled_scene))
    views = {"painted": predicted_views.clamp(-1, 1), "distilled": distilled, FULL_MODEL: sampled}
    return Results({"seconds": seconds}, {f"orbit_{name}": to_uint8(view, 64) for name, view in views.items()})


def scene_scores(results: RecordedResults) -> dict[str, dict[str, list[float]]]:
    """The scores of every scene, by sampled variant and measure."""
    suffix = "_scores"
    return {key.removesuffix(suffix): json.loads(str(x)) for key, x in results.arrays.items() if key.endswith(suffix)}


# --init-from takes the weights of the full model, which fit images of any side
LARGE_VARIANTS = {
    f"{name}_{LARGE_SIDE}": replace(make_variant(replace(SETTINGS[name], side=LARGE_SIDE)), batch_size=BATCH_SIZE // 2)
    for name in (FULL_MODEL, BASELINE)
}
EXPERIMENT = Experiment(
    name="ablations",
    results_name="07_ablations",
    variants={name: replace(variant, batch_size=BATCH_SIZE) for name, variant in VARIANTS.items()} | LARGE_VARIANTS,
    evaluations={
        name: Evaluation(partial(run_sampled_variant, name), sampled_variant.variant or "", (sampled_variant.baseline,))
        for name, sampled_variant in SAMPLED_VARIANTS.items()
    }
    | {"orbit": Evaluation(render_orbit_views, "view_space", (FULL_MODEL,))},
    make_test_set=lambda device, options: held_out.make_test_set(options["scenes"], K, device=device),
    evaluation_options={"scenes": COUNT, "steps": STEPS, "chunk_size": 64},
    views=tuple(map(str, TARGET_ANGLES)),
    headline=("energy_skill_180",),
)
