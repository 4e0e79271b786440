"""The table of 07_ablations: evaluates baselines, ablations and options of the sampler on one test set.

    python -m fwdiff_lite.experiments.inverse_graphics.ablations evaluate unet no_depth view_space --out build/ablations
    python -m fwdiff_lite.experiments.inverse_graphics.ablations orbit --out build/ablations
    python -m fwdiff_lite.experiments.inverse_graphics.ablations export --out build/ablations

The folder holds the models that `train` wrote, with the deterministic baseline among them.
`evaluate` draws the samples of each ablation for the same held-out scenes. It computes the metrics of the module
evaluation and the consistency between views, and writes ablation_NAME.json. It skips an ablation if this file
comes from the same command and the same weights.
`orbit` renders one scene from all around, to orbit_views.json.
Both commands also write images, to an .npz of the same name. `export` writes all of these results to checkpoints/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.inverse_graphics import evaluation
from fwdiff_lite.experiments.inverse_graphics.evaluation import (
    BACK_ANGLES,
    BASELINE,
    ORBIT_TARGETS,
    STEPS,
    TARGET_ANGLES,
    TestSet,
)
from fwdiff_lite.experiments.inverse_graphics.train import SIDE, VARIANTS, run_name
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.consistency import (
    CovisiblePoints,
    covisible_points,
    inconsistency,
    psnr_interval,
)
from fwdiff_lite.problems.inverse_graphics.viewspace import distil
from fwdiff_lite.storage.checkpoints import load_recorded, save_recorded
from fwdiff_lite.storage.files import read_json, write_json
from fwdiff_lite.storage.provenance import merge_provenance, provenance

NAME = "07_ablations"
COMMAND = "python -m fwdiff_lite.experiments.inverse_graphics.ablations"
COUNT, K = 128, 8  # scenes of the test set; samples of each
ORBIT_ANGLES = tuple(range(10, 360, 30))  # of the views that are distilled into one scene; none is a test view
FULL_MODEL = "unet"  # the ablation that others are compared with
SECTIONS = ("training", "row", "ring")  # keys of the exported JSON: records of trainings, ablations, the orbit
FILE_SECTIONS = {"ablation": "row", "orbit": "ring"}  # prefix of a file in the folder -> the section of its record
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
    cameras = tabletop.draw_front_cameras(test_set.scenes, torch.Generator().manual_seed(seed))
    second = Observations(tabletop.render(test_set.scenes, cameras, side), cameras)
    return replace(test_set, context=test_set.context.append(second))


def sample_deterministic(
    model: ForwardRegression, test_set: TestSet, k: int, steps: int, eta: float, chunk_size: int
) -> Float[Tensor, "c 1 d v 3 h w"]:
    """Predicts one scene for each target, and renders it at the target and at the novel camera."""
    views = []
    for cameras in test_set.cameras.unbind(1):
        chunks = torch.arange(len(cameras), device=cameras.device).split(chunk_size)
        scenes = [model.sample(test_set.context[rows], cameras[rows, :1]).signal for rows in chunks]
        rendered = [evaluation.render_views(scene, cameras[rows]) for scene, rows in zip(scenes, chunks, strict=True)]
        views.append(torch.cat(rendered))
    return torch.stack(views, 1)[:, None]


def sample_with_options(
    model: ForwardDiffusion, test_set: TestSet, k: int, steps: int, eta: float, chunk_size: int, **options
) -> Float[Tensor, "c k 1 3 3 h w"]:
    """Samples scenes with options of `model.sample`, and renders them from behind. The third view is the sampled image.

    With guidance the sampled image differs from the scene's render: guidance changes the image in each step, and the
    scene is the model's output for the last noisy image.
    """
    generator, contexts, views = torch.Generator().manual_seed(0), test_set.context.repeat(k), []
    cameras = test_set.cameras[:, TARGET_ANGLES.index(180)].repeat_interleave(k, 0)
    for rows in torch.arange(len(cameras), device=cameras.device).split(chunk_size):
        step = model.sample(contexts[rows], cameras[rows, :1], steps=steps, eta=eta, generator=generator, **options)
        views.append(torch.cat([evaluation.render_views(step.signal, cameras[rows]), step.observation], 1))
    return torch.cat(views).unflatten(0, (-1, k))[:, :, None]


def sample_unconditional(
    model: ForwardDiffusion, test_set: TestSet, k: int, steps: int, eta: float, chunk_size: int
) -> Samples:
    """Samples scenes without context, and renders them at the test cameras."""
    return evaluation.sample_posterior(
        model, without_context(test_set), k, steps, eta, chunk_size=chunk_size, allow_empty=True
    )


def sample_two_contexts(
    model: ForwardDiffusion, test_set: TestSet, k: int, steps: int, eta: float, chunk_size: int
) -> Samples:
    """Samples scenes with two context images, and renders them at the test cameras."""
    return evaluation.sample_posterior(model, with_second_context(test_set), k, steps, eta, chunk_size=chunk_size)


def sample_view_space(
    model: ForwardDiffusion, test_set: TestSet, k: int, steps: int, eta: float, chunk_size: int
) -> Samples:
    """Samples images with a view-space model, which has no scene: each view separately, clamped to [-1, 1]."""
    generator, cameras = torch.Generator().manual_seed(0), test_set.cameras.flatten(1, 2).repeat_interleave(k, 0)
    contexts = test_set.context.repeat(k)
    options = {"steps": steps, "eta": eta, "generator": generator}
    chunks = torch.arange(len(cameras), device=cameras.device).split(max(1, chunk_size // cameras.shape[1]))
    views = torch.cat([model.sample(contexts[rows], cameras[rows], **options).observation for rows in chunks])
    return views.clamp(-1, 1).unflatten(0, (-1, k)).unflatten(2, test_set.cameras.shape[1:3])


def sample_distilled(
    model: ForwardDiffusion, test_set: TestSet, k: int, steps: int, eta: float, chunk_size: int, **options
) -> Samples:
    """Samples images at ORBIT_ANGLES with a view-space model, and distils those of each sample into one scene.

    options: of `distil`
    """
    generator, cameras = torch.Generator().manual_seed(0), test_set.cameras.flatten(1, 2).repeat_interleave(k, 0)
    contexts, views = test_set.context.repeat(k), []
    orbit_cameras = torch.cat([tabletop.rotate_about_z(contexts.params, angle) for angle in ORBIT_ANGLES], 1)
    for rows in torch.arange(len(cameras), device=cameras.device).split(max(1, chunk_size // len(ORBIT_ANGLES))):
        scene, _ = distil(model, contexts[rows], orbit_cameras[rows], generator, steps, eta, **options)
        views.append(evaluation.render_views(scene, cameras[rows]))
    return torch.cat(views).unflatten(0, (-1, k)).unflatten(2, test_set.cameras.shape[1:3])


def sample_through_targets(
    model: ForwardDiffusion,
    test_set: TestSet,
    k: int,
    steps: int,
    eta: float,
    chunk_size: int,
    targets: tuple[int, ...],
) -> Samples:
    """Samples scenes autoregressively through targets at the given angles, and renders them from behind.

    Each sampled target joins the context of the next one.
    """
    generator, contexts, views = torch.Generator().manual_seed(0), test_set.context.repeat(k), []
    cameras = test_set.cameras[:, TARGET_ANGLES.index(180)].repeat_interleave(k, 0)
    target_cameras = torch.cat([tabletop.rotate_about_z(contexts.params, angle) for angle in targets], 1)
    for rows in torch.arange(len(target_cameras), device=target_cameras.device).split(chunk_size):
        options = {"steps": steps, "eta": eta, "generator": generator}
        step, _ = model.sample_autoregressive(contexts[rows], target_cameras[rows], **options)
        views.append(evaluation.render_views(step.signal, cameras[rows]))
    return torch.cat(views).unflatten(0, (-1, k))[:, :, None]


def sample_prior(test_set: TestSet, k: int, seed: int) -> Samples:
    """Draws k true scenes from the prior for each scene of the test set, and renders them at the test cameras."""
    side, cameras = test_set.truth.shape[-1], test_set.cameras.flatten(1, 2).repeat_interleave(k, 0)
    scenes = tabletop.draw_scenes(len(cameras), torch.Generator().manual_seed(seed)).to(cameras.device)
    chunks = torch.arange(len(cameras), device=cameras.device).split(16)
    views = torch.cat([tabletop.render(scenes[rows], cameras[rows], side) for rows in chunks])
    return views.unflatten(0, (-1, k)).unflatten(2, test_set.cameras.shape[1:3])


def shuffle_views(samples: Samples) -> Samples:
    """Pairs the target view of each sample with the novel view of another one: correct marginals, wrong joint."""
    target, novel = samples.unbind(3)
    return torch.stack([target, novel.roll(1, 1)], 3)


@dataclass(frozen=True)
class Ablation:
    """One row of the table: a trained variant and a way to sample it.

    variant: without a variant there is no model; the sampler returns true draws, as a perfect sampler would
    sampler: takes model, test_set, k, steps, eta, chunk_size, and returns the views of the samples
    target_angles: the subset of TARGET_ANGLES that the sampler returns
    unconditional: whether samples follow the prior, not the posterior; then sample_prior gives the true draws
    num_samples, eta: of sampling
    num_examples: number of scenes, and of samples of each, whose images are stored; example_views: indices of the views
    """

    variant: str | None
    sampler: Callable[..., Samples] = evaluation.sample_posterior
    target_angles: tuple[int, ...] = TARGET_ANGLES
    unconditional: bool = False
    num_samples: int = K
    eta: float = 1.0
    num_examples: tuple[int, int] = (3, 1)
    example_views: tuple[int, int] = (0, 1)


ABLATIONS = {
    **{variant: Ablation(variant) for variant in VARIANTS if variant != GUIDANCE_VARIANT},
    "deterministic": Ablation(BASELINE, sample_deterministic),
    "around_two": Ablation("around", sample_two_contexts),
    "one_shot": Ablation("around", partial(sample_through_targets, targets=ORBIT_TARGETS[:1]), BACK_ANGLES),
    "autoregressive": Ablation("around", partial(sample_through_targets, targets=ORBIT_TARGETS), BACK_ANGLES),
    "view_space": Ablation("view_space", sample_view_space),
    "distilled": Ablation("view_space", sample_distilled, num_samples=2),  # each sample needs an optimisation
    "unconditional": Ablation("unconditional", sample_unconditional, unconditional=True),
    "redrawn": Ablation(None, lambda _, test_set, k, *rest, **more: test_set.posterior_draws[:, :k]),
    "mixed": Ablation(None, lambda _, test_set, k, *rest, **more: shuffle_views(test_set.posterior_draws[:, :k])),
    "prior": Ablation(
        None, lambda _, test_set, k, *rest, **more: sample_prior(test_set, k, seed=1), unconditional=True
    ),
    **{
        name: Ablation(
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

# --- metrics ----------------------------------------------------------------------------------------------------------


def consistency_points(
    test_set: TestSet, target_angles: tuple[int, ...] = TARGET_ANGLES, draws: int = evaluation.MASK_DRAWS
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


def evaluate_ablation(
    test_set: TestSet,
    samples: Samples,
    baseline: Float[Tensor, "c 1 all two 3 h w"],
    ablation: Ablation,
    points: list[CovisiblePoints],
    seed: int = 0,
) -> dict[str, dict]:
    """The metrics of an ablation: "numbers" holds means over scenes with intervals, "each" the scores of every scene.

    energy_ANGLE, novel_energy_ANGLE: the energy score; of a single prediction its Euclidean error. Also for each scene
    consistency_ANGLE: in dB; for each scene the mean squared difference of its two views
    lean: the value of mode_bias
    picture_energy_180, picture_lean: of the third view, the sampled image, if there is one. Without guidance it differs
        from the scene's render too, because a sampled image has only one ray a pixel
    All further numbers are those of evaluation.evaluate.
    An unconditional ablation samples other scenes. It has only its energy scores, set_distance_ANGLE and
    novel_set_distance_ANGLE (the value of relative_sliced_w2), and sharpness_ratio_ANGLE relative to true draws.
    """
    generator, k = torch.Generator().manual_seed(seed), samples.shape[1]
    numbers, per_scene = {}, {}
    prior_draws = [sample_prior(test_set, k, seed=seed) for seed in (2, 3)] if ablation.unconditional else []

    for i, angle in enumerate(ablation.target_angles):
        d = TARGET_ANGLES.index(angle)
        for v, prefix in enumerate(("", "novel_")):
            views, name = samples[:, :, i, v].cpu(), f"{prefix}{{}}_{angle}".format
            per_scene[name("energy")] = _energy_scores(views, test_set.truth[:, d, v].cpu())
            if prior_draws:
                draws_a, draws_b = (draws[:, :, d, v].cpu() for draws in prior_draws)
                numbers[name("set_distance")] = relative_sliced_w2(views, draws_a, draws_b)
                tv_ratio = metrics.total_variation(views).mean() / metrics.total_variation(draws_a).mean()
                numbers[name("sharpness_ratio")] = float(tv_ratio)
        if not ablation.unconditional:
            error = inconsistency(samples[:, :, i, 0], samples[:, :, i, 1], points[d]).cpu()
            per_scene[f"consistency_{angle}"] = error
            numbers |= psnr_interval(error, generator).as_metrics(f"consistency_{angle}")
    numbers |= {name: float(energy.mean()) for name, energy in per_scene.items() if "energy" in name}
    if k > 1 and not ablation.unconditional:
        numbers |= evaluation.evaluate(test_set, samples[:, :, :, :2], baseline, ablation.target_angles)
        back_views = samples[:, :, ablation.target_angles.index(180)]
        labels = evaluation.classify_factors(back_views[:, :, 0], test_set)
        numbers |= mode_bias(labels, test_set.scenes, generator).as_metrics("lean")
        if back_views.shape[2] == 3:
            images = back_views[:, :, 2]
            labels = evaluation.classify_factors(images, test_set)
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
    """The gain of one ablation (ours) over another (theirs), paired over scenes, for each score that both have.

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
            gain = lambda a, b: 10 * (b.mean() / a.mean()).log10()  # noqa: E731
            gains[name] = metrics.bootstrap(gain, our_scores, their_scores, generator=generator)
        else:
            gains[name] = metrics.energy_gap(their_scores, our_scores, generator)
    return gains


# --- the commands -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvalConfig:
    """The size of an evaluation: scenes of the test set, sampling steps, side of images, samples at once.

    jobs_per_gpu: the number of such commands that share the device, for the record
    """

    count: int = COUNT
    steps: int = STEPS
    side: int = SIDE
    chunk_size: int = 64
    jobs_per_gpu: int = 1

    def __str__(self) -> str:
        side = f" --side {self.side}" if self.side != SIDE else ""
        return f"--count {self.count} --steps {self.steps}{side} --chunk-size {self.chunk_size}"


class Evaluator:
    """The test set, the deterministic predictions and the points of the consistency measure, for all ablations."""

    def __init__(self, folder: Path, config: EvalConfig):
        self.folder, self.config = folder, config
        self.device, self.autocast = evaluation.sampling_device()
        self.test_set = evaluation.make_test_set(config.count, K, side=config.side, device=self.device)
        with self.autocast:
            model = evaluation.load_model(BASELINE, folder, self.device, config.side)
            self.baseline = evaluation.sample_posterior(model, self.test_set, chunk_size=config.chunk_size)
        self.points = consistency_points(self.test_set)

    def run(self, ablation: Ablation) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
        """The metrics of an ablation, and the images of its examples."""
        config, model = self.config, None
        if ablation.variant:
            model = evaluation.load_model(ablation.variant, self.folder, self.device, config.side, compile=True)
        with self.autocast:
            samples = ablation.sampler(
                model, self.test_set, ablation.num_samples, config.steps, ablation.eta, chunk_size=config.chunk_size
            ).float()
        scenes, num_samples = ablation.num_examples
        images = to_uint8(samples[:scenes, :num_samples, -1, list(ablation.example_views)], 64)
        return evaluate_ablation(self.test_set, samples, self.baseline, ablation, self.points), {"pictures": images}


def run_evaluation(names: Iterable[str], folder: Path, config: EvalConfig) -> None:
    """Evaluates ablations; writes ablation_NAME.json and ablation_NAME.npz for each."""
    evaluator = None
    for name in names:
        path = folder / f"ablation_{run_name(name, config.side)}.json"
        variants = [variant for variant in (ABLATIONS[name].variant, BASELINE) if variant]
        weights_paths = [evaluation.weights_path(variant, folder, config.side) for variant in variants]
        cache_key = {
            "command": f"{COMMAND} evaluate {name} {config}",
            "weights": {weights_path.stem: _sha256(weights_path) for weights_path in weights_paths},
        }
        if cache_key.items() <= read_json(path).items():
            print(f"{name}: evaluated already; delete {path} to evaluate it again", flush=True)
            continue
        start_time, evaluator = time.monotonic(), evaluator or Evaluator(folder, config)
        results, images = evaluator.run(ABLATIONS[name])
        np.savez_compressed(path.with_suffix(".npz"), **images)
        write_json(path, _record(cache_key["command"], start_time, config) | cache_key | results)
        keys = ("energy_180", "energy_skill_180", "spread_skill_180", "consistency_180", "set_distance_180", "lean")
        summary = {key: round(results["numbers"][key], 3) for key in keys if key in results["numbers"]}
        print(name, json.dumps(summary), flush=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def save_orbit_views(folder: Path, config: EvalConfig) -> None:
    """Renders one scene at ORBIT_ANGLES: predicted by view-space diffusion, distilled from these views, and sampled.

    Writes orbit_views.json, with the seconds that view-space sampling and distillation took, and orbit_views.npz.
    """
    start_time, (device, autocast) = time.monotonic(), evaluation.sampling_device()
    view_model, model = (
        evaluation.load_model(variant, folder, device, config.side) for variant in ("view_space", FULL_MODEL)
    )
    test_set = evaluation.make_test_set(1, 1, side=config.side, device=device)
    generator = torch.Generator().manual_seed(0)
    cameras = torch.cat([tabletop.rotate_about_z(test_set.context.params, angle) for angle in ORBIT_ANGLES], 1)
    with autocast:
        distil_start = time.monotonic()
        distilled_scene, predicted_views = distil(
            view_model, test_set.context, cameras, generator, config.steps, eta=1.0
        )
        seconds = time.monotonic() - distil_start
        back_camera = test_set.cameras[:, TARGET_ANGLES.index(180), :1]
        step = model.sample(test_set.context, back_camera, steps=config.steps, eta=1.0, generator=generator)
        sampled, distilled = (evaluation.render_views(scene, cameras) for scene in (step.signal, distilled_scene))
    views = {"painted": predicted_views.clamp(-1, 1), "distilled": distilled, FULL_MODEL: sampled}
    path, command = folder / "orbit_views.json", f"{COMMAND} orbit --steps {config.steps}"
    np.savez_compressed(path.with_suffix(".npz"), **{name: to_uint8(view, 64) for name, view in views.items()})
    write_json(path, _record(command, start_time, config) | {"seconds": seconds})


def _record(command: str, start_time: float, config: EvalConfig) -> dict:
    minutes = (time.monotonic() - start_time) / 60 / config.jobs_per_gpu if torch.cuda.is_available() else 0.0
    return provenance(command) | {"gpu_minutes": minutes, "seed": 0}


def export_checkpoint(folder: Path) -> None:
    """Writes the results of `train`, `evaluate` and `orbit` in the folder to checkpoints/07_ablations.npz.

    The loss curves of trainings are left out. ValueError if there is no ablation, or if two ablations used different
    weights of one variant.
    """
    texts, arrays, weights = {section: {} for section in SECTIONS}, {}, {}
    for path in sorted(folder.glob("*.json")):
        prefix, _, name = path.stem.partition("_")
        record = read_json(path)
        for variant, digest in record.get("weights", {}).items():
            if weights.setdefault(variant, digest) != digest:
                raise ValueError(
                    f"{path} used other weights of {variant} than earlier ablations: evaluate all of them again"
                )
        if section := FILE_SECTIONS.get(prefix):
            texts[section][name] = record
            with np.load(path.with_suffix(".npz")) as images:
                arrays |= {f"{section}_{name}_{key}": value for key, value in images.items()}
        elif "curve" in record:
            texts["training"][path.stem] = {key: value for key, value in record.items() if key != "curve"}
    if not texts["row"]:
        raise ValueError(f"{folder} holds no ablation: evaluate some first")
    parts = [record for section in texts.values() for record in section.values()]
    arrays |= {key: np.array(json.dumps(text)) for key, text in texts.items()}
    numbers_by_name = {name: record["numbers"] for name, record in texts["row"].items()}
    skills = {
        name: round(numbers["energy_skill_180"], 4)
        for name, numbers in numbers_by_name.items()
        if "energy_skill_180" in numbers
    }
    save_recorded(NAME, arrays, metrics=skills, **merge_provenance(parts))


def load_results() -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """The results in checkpoints/: for each of SECTIONS its records by name, and the arrays of images."""
    arrays = load_recorded(NAME)
    return {section: json.loads(str(arrays.pop(section))) for section in SECTIONS}, arrays


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Evaluate baselines, ablations and options of the sampler.")
    parser.add_argument("command", choices=("evaluate", "orbit", "export"))
    parser.add_argument("ablations", nargs="*", help="to be evaluated; default: all")
    parser.add_argument("--out", type=Path, default=Path("build/ablations"), help="the folder of the trainings")
    parser.add_argument("--count", type=positive_int, default=COUNT, help="scenes of the test set")
    parser.add_argument("--steps", type=positive_int, default=STEPS, help="sampling steps")
    parser.add_argument("--side", type=positive_int, default=SIDE, help="pixels along each side of an image")
    parser.add_argument("--chunk-size", type=positive_int, default=64, help="samples at once")
    parser.add_argument("--jobs-per-gpu", type=positive_int, default=1, help="such commands that share the device")
    options = vars(parser.parse_args())
    command, names, folder = (options.pop(key) for key in ("command", "ablations", "out"))
    if unknown := [name for name in names if name not in ABLATIONS]:
        parser.error(f"unknown ablation {', '.join(unknown)}: choose from {', '.join(ABLATIONS)}")
    if names and command != "evaluate":
        parser.error(f"{command} takes no ablations")
    if not 2 <= options["count"] <= COUNT:
        parser.error(f"the test set has {COUNT} scenes, and intervals need two: --count is {options['count']}")
    try:
        if command == "evaluate":
            run_evaluation(names or ABLATIONS, folder, EvalConfig(**options))
        elif command == "orbit":
            save_orbit_views(folder, EvalConfig(**options))
        else:
            export_checkpoint(folder)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
