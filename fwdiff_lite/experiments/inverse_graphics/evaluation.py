"""Evaluates models of 3-D tabletop scenes on one test set, and exports the results for 06_inverse_graphics.

    python -m fwdiff_lite.experiments.inverse_graphics.evaluation evaluate unet --out build/inverse_graphics
    python -m fwdiff_lite.experiments.inverse_graphics.evaluation orbit around --out build/inverse_graphics
    python -m fwdiff_lite.experiments.inverse_graphics.evaluation reference unet --out build/inverse_graphics
    python -m fwdiff_lite.experiments.inverse_graphics.evaluation export unet --out build/inverse_graphics

Each command takes a variant, whose weights `train` wrote to the folder.
`evaluate` draws samples for held-out scenes. It compares them with the truth, with true posterior draws of the hidden
parts and with the deterministic baseline, and writes all metrics with examples to evaluation_VARIANT.npz.
`orbit` samples scenes and renders them from all around, to orbit_VARIANT.npz.
`reference` computes the reference outputs of a golden test on the CPU, to reference_VARIANT.npz.
`export` writes the weights and all of these results to checkpoints/.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.devices import autocast_bf16, default_device
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.inverse_graphics.train import SIDE, VARIANTS, compile_networks, load_state, run_name
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.volume import RenderedImages
from fwdiff_lite.storage.checkpoints import (
    load_pretrained,
    load_recorded,
    read_manifest,
    save_pretrained,
    save_recorded,
)
from fwdiff_lite.storage.files import read_json
from fwdiff_lite.storage.provenance import merge_provenance, provenance

NAME = "06_inverse_graphics"
COMMAND = "python -m fwdiff_lite.experiments.inverse_graphics.evaluation"
BASELINE = "deterministic"  # the variant that skill and ratios compare with
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
HEADLINE_METRICS = tuple(f"energy_skill_{angle}" for angle in TARGET_ANGLES) + ("factor_tv", "factor_scene_rms")
JSON_KEYS = ("numbers", "records", "curves", "parts", "benchmark")  # of the exported arrays that hold JSON
REFERENCE = {"count": 2, "k": 2, "steps": 16}  # size of the golden test
PART_KEYS = {"evaluation": "examination", "reference": "live"}  # prefix of a file -> of its key in the exported "parts"

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
    scenes = tabletop.draw_scenes(COUNT, generator)
    return scenes, tabletop.draw_front_cameras(scenes, generator), generator


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
        disocclusion_mask |= tabletop.disocclusion_mask(
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


def sample_posterior(
    model: ForwardDiffusion,
    test_set: TestSet,
    k: int = K,
    steps: int = STEPS,
    eta: float = 0.0,
    seed: int = 0,
    target_angles: tuple[int, ...] = TARGET_ANGLES,
    chunk_size: int = 64,
    **options,
) -> Float[Tensor, "c k d v 3 h w"]:
    """Samples k scenes for each context and each target, and renders them at the target and at the novel camera.

    A ForwardRegression predicts every view separately; then k is 1.
    chunk_size: how many scenes are sampled at once; options: of `model.sample`
    """
    if isinstance(model, ForwardRegression):
        views = predict_deterministic(model, test_set.context, test_set.cameras.flatten(1, 2), chunk_size)
        return views.unflatten(2, test_set.cameras.shape[1:3])
    generator, views = torch.Generator().manual_seed(seed), []
    for d in map(TARGET_ANGLES.index, target_angles):
        cameras = test_set.cameras[:, d]
        views.append(
            sample_and_render(model, test_set.context, cameras, generator, k, steps, eta, chunk_size, **options)
        )
    return torch.stack(views, 2)


def sample_and_render(
    model: ForwardDiffusion,
    context: Observations,
    cameras: Float[Tensor, "c v 4 4"],
    generator: torch.Generator,
    k: int = K,
    steps: int = STEPS,
    eta: float = 0.0,
    chunk_size: int = 64,
    **options,
) -> Float[Tensor, "c k v 3 h w"]:
    """Samples k scenes for each context, with the first camera as the target, and renders them at all V cameras.

    options: of `model.sample`
    """
    contexts, cameras, views = context.repeat(k), cameras.repeat_interleave(k, 0), []
    for rows in torch.arange(len(contexts), device=cameras.device).split(chunk_size):
        step = model.sample(contexts[rows], cameras[rows, :1], steps=steps, eta=eta, generator=generator, **options)
        views.append(render_views(step.signal, cameras[rows]))
    return torch.cat(views).unflatten(0, (-1, k))


def render_views(scenes: Any, cameras: Float[Tensor, "b m 4 4"]) -> Float[Tensor, "b m 3 h w"]:
    """The images of scenes (objects with a method `render`) at M cameras, one camera after another to save memory."""
    return torch.cat([scenes.render(camera).rgb for camera in cameras.split(1, 1)], 1)


def predict_deterministic(
    model: ForwardRegression, context: Observations, cameras: Float[Tensor, "c v 4 4"], chunk_size: int = 64
) -> Float[Tensor, "c 1 v 3 h w"]:
    """The predictions of the deterministic model. Each view is the target of its own prediction, as in training."""
    views = [
        torch.cat([render_views(model.sample(context[rows], c).signal, c) for c in cameras[rows].split(1, 1)], 1)
        for rows in torch.arange(len(cameras), device=cameras.device).split(chunk_size)
    ]
    return torch.cat(views)[:, None]


# --- metrics ----------------------------------------------------------------------------------------------------------


def classify_factors(views: Float[Tensor, "c k 3 h w"], test_set: TestSet) -> Int[Tensor, "c f k"]:
    """The category of each hidden factor that the views from behind (180 degrees) show."""
    camera, side = test_set.cameras[:, TARGET_ANGLES.index(180), :1], views.shape[-1]
    labels = []
    for name in tabletop.FACTORS:
        templates, mask = tabletop.render_factor_templates(test_set.scenes, camera, name, side=side)
        labels.append(tabletop.classify_nearest_template(views, templates, mask))
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
    back_views = samples[:, :, target_angles.index(180), 0].to(test_set.truth)
    back_views = torch.cat([test_set.truth[:, None, TARGET_ANGLES.index(180), 0], back_views], 1)
    true_labels, labels = classify_factors(back_views, test_set).cpu().split([1, samples.shape[1]], 2)
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
    numbers["readings_right"] = (true_labels[..., 0] == test_set.scenes.factor.cpu()).double().mean()
    return {name: float(value) for name, value in numbers.items()}


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
    """The rendered depth where opacity is above one half; inf elsewhere."""
    return torch.where(image.opacity > 0.5, image.depth, torch.inf)


# --- the commands -----------------------------------------------------------------------------------------------------


def weights_path(variant: str, folder: Path, side: int = SIDE) -> Path:
    """The path of the weights that `train` wrote for a variant. ValueError if there are none."""
    path = folder / f"{run_name(variant, side)}.safetensors"
    if not path.is_file():
        raise ValueError(f"there is no {path}: train it first")
    return path


def load_model(
    variant: str, folder: Path, device: torch.device, side: int = SIDE, compile: bool = False
) -> ForwardDiffusion:
    """The model of a variant with the weights that `train` wrote to the folder. ValueError if there are none.

    compile: whether to compile the networks if the device is a GPU, which pays off for many samples
    """
    model = load_state(variant, load_file(weights_path(variant, folder, side)), side=side).to(device)
    if compile and device.type == "cuda":
        compile_networks(model)
    return model


def load_pretrained_model(variant: str = "unet") -> ForwardDiffusion:
    """The model of a variant with its weights in checkpoints/."""
    return load_state(variant, load_pretrained(f"{NAME}_{variant}"))


def run_evaluation(folder: Path, variant: str, count: int = COUNT, k: int = K, steps: int = STEPS) -> None:
    """Evaluates a variant beside the baseline, both with weights in the folder; writes metrics and examples there."""
    start_time = time.monotonic()
    device, autocast = sampling_device()
    model, baseline_model = (load_model(name, folder, device, compile=True) for name in (variant, BASELINE))
    test_set, samples_by_eta = make_test_set(count, k, device=device), {}
    for eta, target_angles in ETAS[variant].items():
        sampling_start = time.monotonic()
        with autocast:
            samples = sample_posterior(model, test_set, k, steps, eta, target_angles=target_angles)
        seconds = (time.monotonic() - sampling_start) / (count * k * len(target_angles))
        samples_by_eta[eta] = samples, seconds
        print(f"{variant}, eta {eta}: {seconds:.3f} seconds a sample", flush=True)
    with autocast:
        baseline = sample_posterior(baseline_model, test_set)
    examples, numbers = slice(min(EXAMPLES, count)), {}
    arrays = {
        "context": to_uint8(test_set.context.value[examples, 0]),
        "truth": to_uint8(test_set.truth[examples]),
        "deterministic": to_uint8(baseline[examples, 0], 64),
    }
    for eta, (samples, seconds) in samples_by_eta.items():
        target_angles, name = ETAS[variant][eta], f"{variant}_eta_{eta}"
        numbers[name] = evaluate(test_set, samples, baseline, target_angles) | {"seconds_a_sample": seconds}
        print(name, json.dumps({key: round(value, 3) for key, value in numbers[name].items()}), flush=True)
        if name == sampler_name("unet"):  # of all other samplers only metrics and labels are stored
            arrays[name] = to_uint8(samples[examples, :4], 64)
            arrays[f"{name}_deviation"] = _quantize(samples[examples].std(1).mean(-3), 1 / 128)
        labels = classify_factors(samples[:, :, target_angles.index(180), 0], test_set)
        arrays[f"{name}_labels"] = labels.byte().cpu().numpy()
        command = f"{COMMAND} evaluate {variant} --count {count} --samples {k} --steps {steps}"
        _save_arrays(folder / f"evaluation_{variant}.npz", arrays, command, start_time, numbers)


def _quantize(x: Float[Tensor, "*shape"], step: float) -> np.ndarray:
    """x rounded to multiples of a step, in half precision: compresses well, and is precise enough for a figure."""
    return ((x / step).round() * step).half().cpu().numpy()


def save_orbit(folder: Path, variant: str, steps: int = STEPS) -> None:
    """Renders orbits around sampled scenes and writes their images and depths to the folder."""
    start_time = time.monotonic()
    device, autocast = sampling_device()
    with autocast:
        model, test_set = load_model(variant, folder, device), make_test_set(ORBIT_SCENES, device=device)
        images = render_orbit(model, test_set, steps=steps)
    arrays = {"orbit": to_uint8(images.rgb, 64), "orbit_depth": _quantize(surface_depth(images), 1 / 64)}
    _save_arrays(folder / f"orbit_{variant}.npz", arrays, f"{COMMAND} orbit {variant} --steps {steps}", start_time)


def save_reference_outputs(folder: Path, variant: str) -> None:
    """Writes the reference outputs of a golden test to the folder: the first target's view, in single precision."""
    start_time = time.monotonic()
    device, _ = sampling_device()
    test_set = make_test_set(REFERENCE["count"], REFERENCE["k"], device=device)
    model = load_model(variant, folder, device)
    samples = sample_posterior(model, test_set, REFERENCE["k"], REFERENCE["steps"], target_angles=TARGET_ANGLES[:1])
    arrays = {"live": samples[:, :, :, :1].half().cpu().numpy()}
    _save_arrays(folder / f"reference_{variant}.npz", arrays, f"{COMMAND} reference {variant}", start_time)


def sampling_device() -> tuple[torch.device, AbstractContextManager]:
    """The device for sampling, and the context for it: bfloat16 autocast on a GPU, nothing on a CPU."""
    device = default_device()
    return device, autocast_bf16(device, device.type == "cuda")


def _save_arrays(
    path: Path, arrays: dict[str, np.ndarray], command: str, start_time: float, numbers: dict | None = None
) -> None:
    """Writes arrays together with metrics and provenance for `export`; start_time: from time.monotonic()."""
    minutes = (time.monotonic() - start_time) / 60 if torch.cuda.is_available() else 0.0
    record = provenance(command) | {"gpu_minutes": minutes, "numbers": numbers or {}}
    np.savez_compressed(path, record=np.array(json.dumps(record)), **arrays)


def sampler_name(variant: str) -> str:
    """The key of a variant's metrics with its main eta."""
    return f"{variant}_eta_{next(iter(ETAS[variant]))}"


def export_checkpoint(folder: Path, variant: str) -> None:
    """Writes a variant's weights, all metrics and the examples to checkpoints/, with their provenance.

    Results that are in checkpoints/ and not in the folder stay there, for example the metrics of other variants.
    """
    arrays = load_recorded(NAME) if f"{NAME}.npz" in read_manifest() else {}
    texts = {key: json.loads(str(arrays.get(key, "{}"))) for key in JSON_KEYS}
    for name in VARIANTS:
        if (path := folder / f"{name}.json").exists():
            record = read_json(path)
            texts["curves"][name], texts["records"][name] = record.pop("curve"), record
    for path in sorted(folder.glob("*_*.npz")):
        with np.load(path) as saved_arrays:
            arrays |= dict(saved_arrays)
        prefix, _, name = path.stem.partition("_")
        record = json.loads(str(arrays.pop("record")))
        texts["numbers"] |= record.pop("numbers")
        texts["parts"][f"{PART_KEYS.get(prefix, prefix)}_{name}"] = record
    if cost := read_json(folder / "benchmark.json"):
        texts["parts"]["benchmark"] = {key: cost.pop(key) for key in ("command", "commit", "hardware", "gpu_minutes")}
        texts["benchmark"] = cost
    records, numbers = texts["records"], texts["numbers"]
    trainings = {name: [part for part in (record["before"], record) if part] for name, record in records.items()}
    headline = {key: value for key, value in numbers[sampler_name(variant)].items() if key in HEADLINE_METRICS}
    save_pretrained(
        f"{NAME}_{variant}",
        load_file(weights_path(variant, folder)),
        metrics={key: round(value, 4) for key, value in headline.items()},
        steps=sum(part["steps"] for part in trainings[variant]),
        **merge_provenance(trainings[variant]),
    )
    arrays |= {key: np.array(json.dumps(text)) for key, text in texts.items()}
    factor_tvs = {name: round(sampler_metrics["factor_tv"], 4) for name, sampler_metrics in numbers.items()}
    parts = [*sum(trainings.values(), []), *texts["parts"].values()]
    save_recorded(NAME, arrays, metrics=factor_tvs, **merge_provenance(parts))


def load_results() -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """The results in checkpoints/: the metrics of every sampler (VARIANT_eta_ETA), and all arrays with the examples."""
    arrays = load_recorded(NAME)
    return json.loads(str(arrays["numbers"])), arrays


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Evaluate the models of 06_inverse_graphics, and export one.")
    parser.add_argument("command", choices=("evaluate", "orbit", "reference", "export"))
    parser.add_argument("variant", choices=tuple(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("build/inverse_graphics"), help="the folder of the training")
    parser.add_argument("--count", type=positive_int, default=COUNT, help="scenes of the test set")
    parser.add_argument("--samples", type=positive_int, default=K, help="samples for each scene")
    parser.add_argument("--steps", type=positive_int, default=STEPS, help="sampling steps")
    options = parser.parse_args()
    if options.command == "evaluate" and options.variant not in ETAS:
        parser.error(f"{options.variant} has no evaluation here: choose one of {', '.join(ETAS)}")
    try:
        if options.command == "evaluate":
            run_evaluation(options.out, options.variant, options.count, options.samples, options.steps)
        elif options.command == "orbit":
            save_orbit(options.out, options.variant, options.steps)
        elif options.command == "reference":
            save_reference_outputs(options.out, options.variant)
        else:
            export_checkpoint(options.out, options.variant)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
