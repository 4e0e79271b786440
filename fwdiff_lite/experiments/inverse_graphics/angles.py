"""Samplers at five angles, measured scene by scene, so that several devices share an evaluation.

    python -m fwdiff_lite.experiments inverse_graphics evaluate supersampled_angles_eta_1 --scenes 256 --supersampling 4

The samples of a scene depend on the scene's index alone, not on the other scenes of a part (`PerContext`). Sampling
ends at LAST_TIME. `add_baseline` compares a sampler's recorded scores with those of the deterministic model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.devices import synchronize
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.experiments.declaration import Evaluation, Results
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.experiments.inverse_graphics.factors import classify_factors, summarise_factors
from fwdiff_lite.experiments.inverse_graphics.held_out import TestSet, make_test_set
from fwdiff_lite.experiments.inverse_graphics.posterior_samples import (
    Sampling,
    autocast,
    load_compiled_model,
    predict_deterministic,
    sample_and_render,
)
from fwdiff_lite.experiments.inverse_graphics.variants import (
    MAIN_BASELINE,
    MAIN_MODEL,
    SIDE,
    SUPERSAMPLED_VARIANTS,
    VARIANTS,
)
from fwdiff_lite.experiments.split import PerContext

ANGLES = (60, 90, 120, 150, 180)  # azimuth of the target cameras, in degrees; each has its novel camera
# Later steps change visible pixels more than hidden ones, and add an error of their own. On 32 validation scenes, the
# energy scores from 0.03 to 0.5 are equal within their intervals, and sharpness is nearest to 1 at 0.5.
LAST_TIME = 0.5
ETAS = (1, 0)
PIXELS_AT_ONCE = 40 * SIDE**2  # of the samples drawn and rendered at once: bounds the memory, and halves 5 x 16 samples
LEAST_OPTIONS = {"scenes": 2, "samples": 2}  # scores compare samples, and intervals resample scenes
NUM_EXAMPLES, EXAMPLE_SAMPLES = 6, 4  # scenes and samples of each whose images are recorded

Scores = Mapping[str, np.ndarray]  # arrays with a row for each scene


# --- one scene --------------------------------------------------------------------------------------------------------


def session_test_set(session: Session, side: int = SIDE) -> TestSet:
    """The scenes of the session's part, with their views at ANGLES; side: of the images, in pixels."""
    options = session.options
    test_set = partial(make_test_set, side=side, device=session.device, angles=ANGLES, rows=session.part.rows)
    return session.cached(
        ("test set at angles", side),
        lambda: test_set(options["scenes"], options["samples"], supersampling=options["supersampling"]),
        part_only=True,  # those of all parts may not fit in the memory of a device
    )


def scene_generator(scene: int, seed: int = 0) -> torch.Generator:
    """The generator of the noise of one scene's samples."""
    return torch.Generator().manual_seed(seed * 100_003 + scene)


def sample_scene(
    model: ForwardDiffusion, test_set: TestSet, sampling: Sampling, generator: torch.Generator
) -> Float[Tensor, "1 k d v 3 h w"]:
    """K samples of a single scene for each angle, rendered at the target camera and at the novel camera.

    Several angles are sampled at once: a GPU would wait for Python if it sampled one angle after another.
    """
    (cameras,) = test_set.cameras  # (D, V, 4, 4)
    contexts = test_set.context.repeat(len(cameras))
    views = sample_and_render(model, contexts, cameras, sampling, generator, last_time=LAST_TIME)
    return views.transpose(0, 1)[None]


def sample_scene_views(
    model: ForwardDiffusion, test_set: TestSet, sampling: Sampling, generator: torch.Generator
) -> Float[Tensor, "1 k d v 3 h w"]:
    """K samples of each view of a single scene by a view-space model, each view by itself, clamped to [-1, 1]."""
    context, cameras = test_set.context.repeat(sampling.k), test_set.cameras.flatten(1, 2)
    options = {"steps": sampling.steps, "eta": sampling.eta, "generator": generator}
    views = model.sample(context, cameras.expand(sampling.k, -1, -1, -1), **options).observation.clamp(-1, 1)
    return views.unflatten(1, test_set.cameras.shape[1:3])[None]


def energy_scores(
    samples: Float[Tensor, "c k d v 3 h w"], truth: Float[Tensor, "c d v 3 h w"]
) -> Float[Tensor, "c d v"]:
    """The energy score of the samples of each scene and view."""
    pairs = zip(samples.flatten(2, 3).unbind(2), truth.flatten(1, 2).unbind(1), strict=True)
    scores = [metrics.energy_score(views, true_view) for views, true_view in pairs]
    return torch.stack(scores, 1).unflatten(1, truth.shape[1:3])


def measure_views(test_set: TestSet, samples: Float[Tensor, "c k d v 3 h w"]) -> dict[str, Tensor]:
    """What the summary needs of each scene; (c, D, V) where nothing else is said.

    energy, energy_true:  the energy scores of the samples and of the test set's true draws
    variance, squared_error, hidden_pixels: sums over the pixels of the disocclusion mask: of the samples' variance, of
        the squared error of their mean, and their number
    visible_variance, visible_squared_error, visible_pixels: the same of all other pixels, but the mean over samples of
        the squared error
    sample_mse, true_draw_mse, mean_mse: mean squared error of a sample, of a true draw, and of the mean of infinitely
        many samples, over all pixels
    tv, true_tv: total variation of samples and of the truth
    labels (c, F, K), true_labels (c, F, 1), factors (c, F), probabilities (c, F, A): of the hidden factors, as the
        samples and the true view show them, as they are, and their distribution given the context
    """
    rows: dict[str, list[Tensor]] = {}
    for d in range(samples.shape[2]):
        for v in range(samples.shape[3]):
            views, truth, draws = samples[:, :, d, v], test_set.truth[:, d, v], test_set.posterior_draws[:, :, d, v]
            hidden = test_set.disocclusion_mask[:, d, v, None].expand_as(truth)
            variance, squared_error = views.var(1), (views - truth[:, None]).square()
            values = {
                "variance": (variance * hidden).flatten(1).sum(1),
                "squared_error": ((views.mean(1) - truth).square() * hidden).flatten(1).sum(1),
                "hidden_pixels": hidden.flatten(1).sum(1),
                "visible_variance": (variance * ~hidden).flatten(1).sum(1),
                "visible_squared_error": (squared_error.mean(1) * ~hidden).flatten(1).sum(1),
                "visible_pixels": (~hidden).flatten(1).sum(1),
                "sample_mse": squared_error.flatten(1).mean(1),
                "true_draw_mse": (draws - truth[:, None]).square().flatten(1).mean(1),
                "mean_mse": metrics.debiased_ensemble_mean_mse(views, truth),
                "tv": metrics.total_variation(views).flatten(1).mean(1),
                "true_tv": metrics.total_variation(truth).flatten(1).mean(1),
            }
            for name, value in values.items():
                rows.setdefault(name, []).append(value)
    shape = samples.shape[2:4]
    measures = {name: torch.stack(values, 1).unflatten(1, shape) for name, values in rows.items()}
    for name, views in (("energy", samples), ("energy_true", test_set.posterior_draws)):
        measures[name] = energy_scores(views, test_set.truth)
    back = test_set.angles.index(180)
    labels = classify_factors(torch.cat([test_set.truth[:, None, back, 0], samples[:, :, back, 0]], 1), test_set)
    scenes = test_set.scenes
    factors = {"factors": scenes.factor, "probabilities": scenes.factor_probabilities.double()}
    return measures | factors | {"labels": labels[..., 1:], "true_labels": labels[..., :1]}


# --- evaluations ------------------------------------------------------------------------------------------------------


def variant_side(variant: str) -> int:
    """The pixels along each side of a variant's images."""
    return (VARIANTS | SUPERSAMPLED_VARIANTS)[variant].options["side"]


def measure_sampler(variant: str, eta: int, session: Session) -> dict[str, np.ndarray]:
    """The measures of a variant's samples, for each scene of the session's part; the seconds of sampling; the images
    and the deviation of the first NUM_EXAMPLES scenes."""
    side = variant_side(variant)
    test_set, options = session_test_set(session, side), session.options
    model, rows = load_compiled_model(session, variant), []
    sampling = Sampling(options["samples"], options["steps"], eta, chunk_size=max(1, PIXELS_AT_ONCE // side**2))
    sample = sample_scene_views if variant.endswith("view_space") else sample_scene
    for i, scene in enumerate(range(options["scenes"])[session.part.rows]):
        one = test_set[i : i + 1]
        start_time = time.monotonic()
        with autocast(session.device):
            samples = sample(model, one, sampling, scene_generator(scene)).float()
        synchronize(session.device)
        seconds = time.monotonic() - start_time
        row = {name: value.cpu().numpy() for name, value in measure_views(one, samples).items()}
        is_example = scene < NUM_EXAMPLES  # a part has a row for each scene; rows of zeros compress well
        row["images"] = to_uint8(samples[:, :EXAMPLE_SAMPLES], 64) * is_example
        row["deviation"] = quantize(samples.std(1).mean(-3), 1 / 128) * is_example
        rows.append(row | {"seconds": np.array([seconds])})
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def quantize(x: Float[Tensor, "*shape"], step: float) -> Float16[np.ndarray, "*shape"]:
    """x rounded to multiples of a step, in half precision: compresses well, and is precise enough for a figure."""
    return ((x / step).round() * step).half().cpu().numpy()


def measure_deterministic(variant: str, session: Session) -> dict[str, np.ndarray]:
    """The errors of each view of a deterministic model, whose target is that view: "energy" is the Euclidean error."""
    test_set = session_test_set(session, variant_side(variant))
    with autocast(session.device):  # one scene at a time: the rounding errors of a batch depend on its size
        cameras = test_set.cameras.flatten(1, 2)
        views = predict_deterministic(session.model(variant), test_set.context, cameras, chunk_size=1)
    truth = test_set.truth.flatten(1, 2)
    pairs = [(views[:, 0, i].float(), truth[:, i]) for i in range(truth.shape[1])]
    shape = test_set.cameras.shape[1:3]
    errors = {"energy": metrics.euclidean_error, "mse": metrics.squared_error}
    scores = {key: torch.stack([error(*pair) for pair in pairs], 1) for key, error in errors.items()}
    arrays = {key: x.unflatten(1, shape).cpu().numpy() for key, x in scores.items()}
    return arrays | {"images": to_uint8(views[:, 0].unflatten(1, shape), 64)}


def summarise_deterministic(variant: str, session: Session, arrays: dict[str, np.ndarray]) -> Results:
    """The mean Euclidean error of each view, and both errors of each scene, for `add_baseline`."""
    errors, names = torch.from_numpy(arrays["energy"]).double(), view_names("energy", ANGLES)
    numbers = {name: float(errors[:, d, v].mean()) for (d, v), name in names.items()}
    recorded = {f"{variant}_{key}": arrays[key] for key in ("energy", "mse")}
    return Results(numbers, recorded | {f"{variant}_images": arrays["images"][:NUM_EXAMPLES]})


def summarise_sampler(name: str, session: Session, arrays: dict[str, np.ndarray], seed: int = 0) -> Results:
    """All measures, with the names of metrics.json, and for figures the scores and labels of each scene.

    energy_over_true, novel_energy_over_true: the energy score of samples over that of true draws
    spread_skill: spread over error on the pixels of the disocclusion mask
    sharpness_ratio: total variation of samples over that of the truth
    hidden_over_visible_variance: the variance of samples on these pixels over that on all others
    visible_rms: the root mean squared error of a sample on all other pixels
    psnr_sample, psnr_true_draw: of one sample and of one true draw, over all pixels
    HIDDEN_factor_tv, HIDDEN_factor_scene_rms: of each hidden factor; factor_tv is the larger one
    seconds_a_sample: of one target and its novel view
    """
    numbers = summarise_views({key: torch.from_numpy(x) for key, x in arrays.items()}, arrays["labels"].shape[2], seed)
    numbers["seconds_a_sample"] = float(arrays["seconds"].mean()) / (arrays["labels"].shape[2] * len(ANGLES))
    recorded = {f"{name}_{key}": arrays[key] for key in ("energy", "energy_true", "mean_mse")}
    recorded |= {f"{name}_{key}": arrays[key][:NUM_EXAMPLES] for key in ("images", "deviation")}
    return Results(numbers, recorded | {f"{name}_labels": arrays["labels"].astype(np.uint8)})


def summarise_views(arrays: Mapping[str, Tensor], k: int, seed: int = 0) -> dict[str, float]:
    """The measures of samples, k of each scene, from the arrays of `measure_views`."""
    generator = torch.Generator().manual_seed(seed)
    x = {key: arrays[key].double() for key in ("energy", "energy_true", "variance", "squared_error", "tv", "true_tv")}
    numbers = energies_over(x["energy"], x["energy_true"], view_names("energy_over_true", ANGLES), generator)
    numbers |= energies_over(x["tv"], x["true_tv"], view_names("sharpness_ratio", ANGLES), generator)
    for (d, v), key in view_names("spread_skill", ANGLES).items():
        variance, error = x["variance"][:, d, v] * (k + 1) / k, x["squared_error"][:, d, v]
        ratio = metrics.bootstrap(lambda a, b: (a.mean() / b.mean()).sqrt(), variance, error, generator=generator)
        numbers |= ratio.as_metrics(key)

    def mean_over_pixels(measure: str, pixels: str) -> Float[Tensor, "d v"]:
        return torch.div(*(arrays[key].double().sum(0) for key in (measure, pixels)))

    variances = [mean_over_pixels("variance", "hidden_pixels"), mean_over_pixels("visible_variance", "visible_pixels")]
    measures = {
        "hidden_over_visible_variance": torch.div(*variances),
        "visible_rms": mean_over_pixels("visible_squared_error", "visible_pixels").sqrt(),
        "psnr_sample": peak_signal_to_noise(arrays["sample_mse"]),
        "psnr_true_draw": peak_signal_to_noise(arrays["true_draw_mse"]),
    }
    for measure, values in measures.items():
        numbers |= {key: values[view] for view, key in view_names(measure, ANGLES).items()}
    numbers |= summarise_factors(arrays["labels"].long(), arrays["probabilities"], generator)
    numbers["readings_right"] = (arrays["true_labels"][..., 0] == arrays["factors"]).double().mean()
    return {key: float(value) for key, value in numbers.items()}


def peak_signal_to_noise(mse: Float[Tensor, "c *d"]) -> Float[Tensor, "*d"]:
    """PSNR in dB of mean squared errors of c images, whose colours are in [-1, 1]."""
    return 10 * (4 / mse.double().mean(0)).log10()


def add_baseline(sampler: Scores, deterministic: Scores, seed: int = 0) -> dict[str, float]:
    """A sampler beside the deterministic model, for each view; all but the last have intervals.

    energy_skill, energy_ratio; true_over_deterministic, deterministic_over_true: of energy scores
    psnr_mean_over_deterministic: PSNR of the mean of infinitely many samples, less that of the deterministic model
    psnr_deterministic

    sampler: "energy", "energy_true", "mean_mse" (c, D, V); deterministic: "energy", "mse" of the same scenes
    """
    generator, numbers = torch.Generator().manual_seed(seed), {}
    arrays = sampler["energy"], sampler["energy_true"], deterministic["energy"]
    own, true, baseline = (torch.from_numpy(x).double() for x in arrays)
    for (d, v), key in view_names("energy_skill", ANGLES).items():
        scores = own[:, d, v], baseline[:, d, v], true[:, d, v]
        numbers |= metrics.energy_skill(*scores, generator).as_metrics(key)
    for measure, pair in {
        "energy_ratio": (own, baseline),
        "true_over_deterministic": (true, baseline),
        "deterministic_over_true": (baseline, true),
    }.items():
        numbers |= energies_over(*pair, view_names(measure, ANGLES), generator)
    own_mse, baseline_mse = (torch.from_numpy(x).double() for x in (sampler["mean_mse"], deterministic["mse"]))
    for (d, v), key in view_names("psnr_mean_over_deterministic", ANGLES).items():
        numbers |= metrics.psnr_gain(own_mse[:, d, v], baseline_mse[:, d, v], generator).as_metrics(key)
    psnr = peak_signal_to_noise(baseline_mse)
    return numbers | {key: float(psnr[view]) for view, key in view_names("psnr_deterministic", ANGLES).items()}


def view_names(measure: str, angles: tuple[int, ...]) -> dict[tuple[int, int], str]:
    """The name in metrics.json of a measure of each view: of the target (v = 0) and of the novel view (v = 1)."""
    prefixes = enumerate(("", "novel_"))
    return {(d, v): f"{prefix}{measure}_{angle}" for v, prefix in prefixes for d, angle in enumerate(angles)}


def energies_over(
    scores: Float[Tensor, "c d v"],
    reference: Float[Tensor, "c d v"],
    names: Mapping[tuple[int, int], str],
    generator: torch.Generator,
) -> dict[str, float]:
    """The mean score over the mean of the reference for each view, with an interval that is paired over scenes."""
    numbers = {}
    for (d, v), name in names.items():
        pair = scores[:, d, v], reference[:, d, v]
        numbers |= metrics.bootstrap(lambda a, b: a.mean() / b.mean(), *pair, generator=generator).as_metrics(name)
    return numbers


MAIN_SAMPLERS = {f"{MAIN_MODEL}_angles_eta_{eta}" for eta in ETAS} | {"supersampled_view_space_angles_eta_1"}
EVALUATIONS = {
    name: Evaluation(
        PerContext(partial(measure_sampler, variant, eta), partial(summarise_sampler, name)),
        variant,
        on_request=name not in MAIN_SAMPLERS,
        least_options=LEAST_OPTIONS,
    )
    for variant in SUPERSAMPLED_VARIANTS
    if not variant.endswith("deterministic")
    for eta in ETAS
    for name in (f"{variant}_angles_eta_{eta}",)
} | {
    f"{MAIN_BASELINE}_angles": Evaluation(
        PerContext(partial(measure_deterministic, MAIN_BASELINE), partial(summarise_deterministic, MAIN_BASELINE)),
        MAIN_BASELINE,
    )
}
