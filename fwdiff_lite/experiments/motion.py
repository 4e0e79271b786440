"""The experiment of 03_motion_warping: variants, test set, measures.

    python -m fwdiff_lite.experiments motion train warp_2 warp_2_mean --minutes 8
    python -m fwdiff_lite.experiments motion evaluate
    python -m fwdiff_lite.experiments motion export warp_2

A variant is a forward model with a number of flows; the suffix `_mean` marks the deterministic baseline of the same
size. An evaluation draws samples for held-out scenes from a variant, and compares them with its baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results, Variant
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.motion import scenes as motion_scenes
from fwdiff_lite.problems.motion.warping import (
    FORWARD_MODELS,
    MotionSignal,
    build_model,
    select_signals,
    single_flow_signal,
)
from fwdiff_lite.protocols import BatchFunction

BATCH_SIZE, LEARNING_RATE = 64, 6e-4
NUM_SCENES, NUM_SAMPLES = 256, 16  # of the test set; for each of its scenes
TEST_TIMES = (0.5, 1.0)  # tau of the test frames; the last one is the target's
NUM_EXAMPLES = 6  # scenes of which images are recorded
TEMPLATE_AMPLITUDES = (-1.0, -0.75, -0.5, 0.5, 0.75, 1.0)  # of the template frames that `classify_frames` compares with
RECORDED_PARTS = {"flows": "fields", "blend_weights": "share", "importance": "importance"}  # field of MotionSignal: key


# --- the test set -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TestSet:
    """C held-out scenes of S sprites with their ground truth; T frames at TEST_TIMES.

    amplitudes:         (C, S) the true signed amplitudes
    context:            the source images
    frames:             (C, T, 3, H, W) the true frames
    posterior_draws:    (C, K, T, 3, H, W) frames of other motions, drawn from the true posterior
    templates:          (C, S, G, 3, H, W) frames at tau = 1 in which one sprite alone moves, by TEMPLATE_AMPLITUDES
    displacement:       (C, 2, H, W) the true displacement of the source's pixels
    unit_motion_fields: (C, S, 2, H, W) each sprite's displacement at amplitude 1 in the direction of its mode sign;
        zero outside of the sprite
    influence_mask:     (C, S, H, W) the pixels that a sprite's motion can change
    textures:           those of the scenes
    """

    scenes: motion_scenes.Scenes
    amplitudes: Float[Tensor, "c s"]
    context: Observations
    frames: Float[Tensor, "c t 3 h w"]
    posterior_draws: Float[Tensor, "c k t 3 h w"]
    templates: Float[Tensor, "c s g 3 h w"]
    displacement: Float[Tensor, "c 2 h w"]
    unit_motion_fields: Float[Tensor, "c s 2 h w"]
    influence_mask: Bool[Tensor, "c s h w"]
    textures: Float[Tensor, "n 3 64 64"]

    @property
    def moving_mask(self) -> Bool[Tensor, "c h w"]:
        """The pixels of the source image that move: those of the sprites."""
        return (self.unit_motion_fields != 0).any(2).any(1)


def make_test_set(
    textures: Float[Tensor, "n 3 64 64"], num_scenes: int = NUM_SCENES, num_draws: int = NUM_SAMPLES, seed: int = 2026
) -> TestSet:
    """The test set, on the device of the textures. A small test set holds the first scenes of a larger one.

    num_draws: K, the number of draws from each scene's true posterior
    """
    scenes, generators = make_test_scenes(num_scenes, len(textures), seed)
    amplitudes = sample_test_amplitudes(scenes, generators, num_draws)
    scenes, amplitudes = scenes.to(textures.device), amplitudes.to(textures.device)
    true_amplitudes, s = amplitudes[:, 0], amplitudes.shape[2]
    tau = torch.tensor([0.0, *TEST_TIMES], device=textures.device)

    def render(scenes: motion_scenes.Scenes, amplitudes: Tensor, times: Tensor) -> Tensor:
        chunks = [slice(i, i + 128) for i in range(0, len(amplitudes), 128)]
        return torch.cat([
            motion_scenes.render(scenes[chunk], amplitudes[chunk], times.expand(len(amplitudes[chunk]), -1), textures)
            for chunk in chunks
        ])  # fmt: skip

    def repeat_scenes(n: int) -> motion_scenes.Scenes:
        return scenes[torch.arange(num_scenes, device=textures.device).repeat_interleave(n)]

    frames = render(scenes, true_amplitudes, tau)
    posterior_draws = render(repeat_scenes(num_draws), amplitudes[:, 1:].flatten(0, 1), tau[1:])
    posterior_draws = posterior_draws.unflatten(0, (num_scenes, num_draws))
    selectors = torch.eye(s, device=textures.device)  # each row selects one sprite
    template_amplitudes = torch.tensor(TEMPLATE_AMPLITUDES, device=textures.device)[:, None, None] * selectors
    template_amplitudes = template_amplitudes.transpose(0, 1).flatten(0, 1).repeat(num_scenes, 1)  # (C S G, S)
    g = len(TEMPLATE_AMPLITUDES)
    templates = render(repeat_scenes(s * g), template_amplitudes, tau[-1:])[:, 0].unflatten(0, (num_scenes, s, g))
    templates = torch.where(scenes.present_mask[:, :, None, None, None, None], templates, frames[:, None, :1])
    influence_mask = (templates - frames[:, None, :1]).abs().amax((2, 3)) > 0.02
    influence_mask = influence_mask & scenes.present_mask[..., None, None]
    mode_signs = scenes.mode_sign * scenes.present_mask
    unit_motion_fields = [motion_scenes.true_displacement(scenes, mode_signs * selector) for selector in selectors]
    return TestSet(
        scenes=scenes,
        amplitudes=true_amplitudes,
        context=Observations(frames[:, :1], tau[:1].expand(num_scenes, 1)[..., None]),
        frames=frames[:, 1:],
        posterior_draws=posterior_draws,
        templates=templates,
        displacement=motion_scenes.true_displacement(scenes, true_amplitudes),
        unit_motion_fields=torch.stack(unit_motion_fields, 1),
        influence_mask=influence_mask,
        textures=textures,
    )


def make_test_scenes(
    num_scenes: int, num_textures: int, seed: int = 2026
) -> tuple[motion_scenes.Scenes, list[torch.Generator]]:
    """The scenes of a test set, and the generator of each scene, which draws the scene's amplitudes next."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(num_scenes)]
    scenes = [motion_scenes.sample_scenes(1, num_textures, generator) for generator in generators]
    return motion_scenes.concatenate_scenes(scenes), generators


def sample_test_amplitudes(
    scenes: motion_scenes.Scenes, generators: list[torch.Generator], num_draws: int
) -> Float[Tensor, "c n s"]:
    """n = 1 + num_draws amplitudes of each scene of a test set: the true ones, then draws from its posterior."""
    return torch.stack([
        torch.cat([motion_scenes.sample_amplitudes(scenes[[i]], generator) for _ in range(1 + num_draws)])
        for i, generator in enumerate(generators)
    ])  # fmt: skip


# --- samples and their measures ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """K samples for each of C scenes.

    signal:       C K signals, the K of a scene one after another
    displacement: (C, K, 2, H, W) the signals' displacement of the source's pixels
    frames:       (C, K, T, 3, H, W) the signals' frames at TEST_TIMES
    """

    signal: MotionSignal
    displacement: Float[Tensor, "c k 2 h w"]
    frames: Float[Tensor, "c k t 3 h w"]


def sample_posterior(
    model: ForwardDiffusion,
    test_set: TestSet,
    num_samples: int = NUM_SAMPLES,
    steps: int = 32,
    eta: float = 0.0,
    seed: int = 0,
    chunk_size: int = 512,
) -> Samples:
    """Samples for each scene; of a ForwardRegression its one prediction.

    They are drawn on the model's device, `chunk_size` at a time. With eta = 0 they do not depend on the chunk size, and
    a smaller test set gets the first of a larger one's samples.
    """
    deterministic = isinstance(model, ForwardRegression)
    output_device, device = test_set.frames.device, next(model.parameters()).device
    num_samples = 1 if deterministic else num_samples
    generator, tau = torch.Generator().manual_seed(seed), torch.tensor(TEST_TIMES)[None, :, None]
    options = {} if deterministic else {"steps": steps, "eta": eta, "generator": generator}
    contexts, chunks = test_set.context.repeat(num_samples), []
    for i in range(0, len(contexts), chunk_size):
        context = contexts[slice(i, i + chunk_size)].to(device)
        times = tau.to(device).expand(len(context), -1, -1)
        signal = model.sample(context, times[:, -1:], **options).signal
        outputs = model.forward_model.displacement(signal), model.forward_model(signal, times)
        chunks.append([part.to(output_device) for part in (*signal, *outputs)])
    *signal, displacement, frames = (torch.cat(part) for part in zip(*chunks, strict=True))
    displacement, frames = (x.unflatten(0, (-1, num_samples)) for x in (displacement, frames))
    return Samples(MotionSignal(*signal), displacement, frames)


def classify_displacement(displacement: Float[Tensor, "c k 2 h w"], test_set: TestSet) -> Int[Tensor, "c s k"]:
    """1 where a sampled displacement moves a sprite in the direction of its mode sign, else 0.

    The class is the sign of the displacement's projection on the sprite's unit motion field.
    """
    return (torch.einsum("ckdhw,csdhw->csk", displacement, test_set.unit_motion_fields) > 0).long()


def classify_frames(frames: Float[Tensor, "c k 3 h w"], test_set: TestSet) -> Int[Tensor, "c s k"]:
    """The same classes from frames at tau = 1: the sign of the nearest template in the sprite's influence mask."""
    influence_mask = test_set.influence_mask[:, None]
    nearest = torch.stack([
        ((frames[:, :, None] - template[:, None]).square().sum(3) * influence_mask).sum((-1, -2)).transpose(1, 2)
        for template in test_set.templates.unbind(2)
    ]).argmin(0)  # (C, S, K)  # fmt: skip
    sign = torch.tensor(TEMPLATE_AMPLITUDES, device=frames.device)[nearest].sign()
    return (sign == test_set.scenes.mode_sign[..., None]).long()


def mode_frequency(labels: Int[Tensor, "c s k"], scenes: motion_scenes.Scenes) -> dict[int, tuple[float, float]]:
    """The frequency of the mode sign among samples: {its true probability in per cent: (frequency, half-width)}.

    The half-width belongs to a 95 % interval over sprites.
    """
    frequencies = {}
    for probability in sorted({max(p, 1 - p) for p in motion_scenes.CUE_PROBABILITIES.values()}):
        selected = scenes.present_mask & ((scenes.mode_probability - probability).abs() < 1e-3)
        frequency = labels[selected].double().mean(1)  # of each sprite
        half_width = 1.96 * frequency.std() / len(frequency) ** 0.5 if len(frequency) > 1 else torch.tensor(1.0)
        frequencies[round(100 * probability)] = float(frequency.mean()), float(half_width)
    return frequencies


def endpoint_error(displacement: Float[Tensor, "c k 2 h w"], test_set: TestSet) -> Float[Tensor, "c k"]:
    """Mean distance in pixels between sampled and true displacement, over the source pixels of the sprites."""
    moving_mask = test_set.moving_mask[:, None]
    distance = (displacement - test_set.displacement[:, None]).norm(dim=2)
    return (distance * moving_mask).sum((-1, -2)) / moving_mask.sum((-1, -2))


def mode_coverage(
    labels: Int[Tensor, "c s k"], scenes: motion_scenes.Scenes
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """The share of modes that a scene's K samples hit, and its expectation for K draws from the true posterior.

    A mode is a combination of the signs of all sprites. Only scenes with one or two sprites count.
    """
    selected = scenes.present_mask.sum(1) <= 2
    k, present_mask = labels.shape[2], scenes.present_mask[selected][:, :2]
    probability = scenes.mode_probability[selected][:, :2]
    bits = torch.tensor([[1], [2]], device=labels.device)
    mode = (labels[selected][:, :2] * present_mask[..., None] * bits).sum(1)  # (n, K)
    hit = (mode[..., None] == torch.arange(4, device=labels.device)).any(1)  # (n, 4)
    first, second = torch.stack([1 - probability, probability], -1).unbind(1)  # (n, 2): each sprite's classes
    second = torch.where(present_mask[:, 1:], second, second.new_tensor([1.0, 0.0]))
    p = (second[:, :, None] * first[:, None]).flatten(1)  # (n, 4), in the order of `mode`
    possible = p > 0
    weight = possible / possible.sum(1, keepdim=True)
    return (hit * weight).sum(1), ((1 - (1 - p) ** k) * weight).sum(1)


def ratios_to_posterior_draws(samples: Samples, test_set: TestSet) -> dict[str, float]:
    """Two ratios of the samples' frames to the true posterior's draws; they explain a spread-skill ratio other than 1.

    One is the ratio of the variances, the other is the ratio of the squared errors of the means. Both are sums over the
    pixels that can change. For exact samples both are 1, up to chance.
    """
    influence_mask = test_set.influence_mask.any(1)[:, None, None]

    def variance_and_mean_error(frames: Float[Tensor, "c k t 3 h w"]) -> Float[Tensor, "2"]:
        parts = frames.var(1), (frames.mean(1) - test_set.frames).square()
        return torch.stack([(part * influence_mask).sum() for part in parts])

    ratio = variance_and_mean_error(samples.frames) / variance_and_mean_error(test_set.posterior_draws)
    return {"variance_over_true": float(ratio[0]), "mean_error_over_true": float(ratio[1])}


def displacement_and_frame_errors(test_set: TestSet, samples: Samples, baseline: Samples) -> dict[str, Tensor | float]:
    """Endpoint errors of the displacements, in pixels, and PSNR of the last frames, in dB."""
    epe, baseline_epe, zero_epe = (
        endpoint_error(displacement, test_set)
        for displacement in (samples.displacement, baseline.displacement, torch.zeros_like(baseline.displacement))
    )
    frames, truth = samples.frames[:, :, -1], test_set.frames[:, -1]
    images = {
        "best": metrics.best_of(frames, truth),
        "deterministic": baseline.frames[:, 0, -1],
        "sample": frames[:, 0],
        "mean_of_samples": frames.mean(1),
    }
    return {
        "epe_zero": zero_epe.mean(),
        "epe_deterministic": baseline_epe.mean(),
        "epe_sample": epe.mean(),
        f"epe_best_of_{epe.shape[1]}": epe.amin(1).mean(),
        **{f"psnr_{name}": metrics.psnr(image, truth, 2) for name, image in images.items()},
    }


def evaluate(test_set: TestSet, samples: Samples, baseline: Samples, seed: int = 0) -> dict[str, float]:
    """All measures of a sampler, by their names in metrics.json. baseline: the deterministic model's predictions."""
    generator = torch.Generator().manual_seed(seed)
    scenes, present_mask = test_set.scenes, test_set.scenes.present_mask
    labels = classify_displacement(samples.displacement, test_set)
    probabilities = torch.stack([1 - scenes.mode_probability, scenes.mode_probability], -1)[present_mask].double().cpu()
    present_labels = labels[present_mask].cpu()
    tv = metrics.factor_tv(present_labels, probabilities, generator)
    rms = metrics.per_context_calibration_rms(present_labels, probabilities, generator)
    frame_labels = classify_frames(samples.frames[:, :, -1], test_set)
    true_frame_labels = classify_frames(test_set.frames[:, None, -1], test_set)[..., 0]
    coverage, exact_coverage = mode_coverage(labels, scenes)
    truth = test_set.frames
    scores = {
        "samples": metrics.energy_score(samples.frames, truth),
        "baseline": metrics.euclidean_error(baseline.frames[:, 0], truth),
        "posterior": metrics.energy_score(test_set.posterior_draws, truth),
    }
    scores = {name: score.cpu() for name, score in scores.items()}
    ratio = metrics.energy_ratio(scores["samples"], scores["baseline"], generator)
    skill = metrics.energy_skill(scores["samples"], scores["baseline"], scores["posterior"], generator)
    influence_mask = test_set.influence_mask.any(1)
    spread = metrics.spread_skill(samples.frames.cpu(), truth.cpu(), generator, influence_mask[:, None, None].cpu())
    static_mask = ~influence_mask[:, None].expand(-1, samples.displacement.shape[1], -1, -1)
    true_labels = test_set.amplitudes.sign() == scenes.mode_sign
    numbers = {
        "factor_tv": tv.value,
        "factor_tv_high": tv.high,
        "factor_scene_rms": rms.value,
        "factor_scene_rms_high": rms.high,
        **{f"likelier_sign_{p}": frequency for p, (frequency, _) in mode_frequency(labels, scenes).items()},
        "readings_agree": (frame_labels == labels)[present_mask].double().mean(),
        "readings_right": (true_frame_labels == true_labels)[present_mask].double().mean(),
        "mode_coverage": coverage.mean(),
        "mode_coverage_of_exact_draws": exact_coverage.mean(),
        "energy_ratio": ratio.value,
        "energy_ratio_high": ratio.high,
        "energy_skill": skill.value,
        "energy_skill_low": skill.low,
        "spread_skill": spread.value,
        "spread_skill_low": spread.low,
        "spread_skill_high": spread.high,
        "static_pixels_move": samples.displacement.norm(dim=2)[static_mask].mean(),
        **displacement_and_frame_errors(test_set, samples, baseline),
        **ratios_to_posterior_draws(samples, test_set),
    }
    return {name: float(value) for name, value in numbers.items()}


def evaluate_exact_draws(
    num_textures: int, num_scenes: int = NUM_SCENES, num_draws: int = NUM_SAMPLES, seed: int = 2026
) -> dict[str, float]:
    """Endpoint errors and factor_tv of the test set's own draws from the true posterior. No frame is rendered.

    num_textures: of the test set
    """
    scenes, generators = make_test_scenes(num_scenes, num_textures, seed)
    amplitudes = sample_test_amplitudes(scenes, generators, num_draws)
    errors = []
    for i, mask in enumerate(motion_scenes.sprite_masks(scenes)):
        sprite, y, x = mask.nonzero(as_tuple=True)  # of every pixel that moves
        anchor, A, velocity = motion_scenes.affine_velocity(scenes[[i]], amplitudes[i])
        offset = torch.stack([x, y], -1) - anchor[0, sprite]
        displacement = torch.einsum("kpij,pj->kpi", A[:, sprite], offset) + velocity[:, sprite]
        errors.append((displacement[1:] - displacement[:1]).norm(dim=-1).mean(1))
    epe = torch.stack(errors)  # (C, K)
    labels = (amplitudes[:, 1:].transpose(1, 2).sign() == scenes.mode_sign[..., None])[scenes.present_mask].long()
    probability = scenes.mode_probability[scenes.present_mask].double()
    probabilities = torch.stack([1 - probability, probability], -1)
    tv = metrics.factor_tv(labels, probabilities, torch.Generator().manual_seed(0))
    numbers = {"epe": epe.mean(), f"epe_best_of_{num_draws}": epe.amin(1).mean(), **tv.as_metrics("factor_tv")}
    return {name: float(value) for name, value in numbers.items()}


def representation_error(test_set: TestSet, forward_model_name: str, fit_steps: int = 300) -> dict[str, float]:
    """The error of a forward model itself: squared errors of frames at four times, per pixel and colour channel.

    floor_still:        of the source image, without motion
    floor_true_field:   of the true displacement as the flow; the sprites are more important than the background
    floor_best_fit:     of the flow and importance that fit the true frames best; `fit_steps` steps of Adam find them,
        from the true displacement
    floor_best_fit_epe: endpoint error of the best fit
    """
    forward_model, source = FORWARD_MODELS[forward_model_name], test_set.context.value[:, 0]
    flow = test_set.displacement
    tau = torch.linspace(0.25, 1, 4, device=flow.device).expand(len(flow), 4)
    truth = motion_scenes.render(test_set.scenes, test_set.amplitudes, tau, test_set.textures)
    importance = 5.0 * test_set.moving_mask[:, None]

    def error(flow: Tensor, importance: Tensor) -> Tensor:
        return (forward_model(single_flow_signal(source, flow, importance), tau[..., None]) - truth).square().mean()

    best_fit = [flow.clone().requires_grad_(), importance.clone().requires_grad_()]
    optimizer = torch.optim.Adam(best_fit, lr=0.1)
    for _ in range(fit_steps):
        optimizer.zero_grad()
        error(*best_fit).backward()
        optimizer.step()
    with torch.no_grad():
        displacement = forward_model.displacement(single_flow_signal(source, *best_fit))
        numbers = {
            "still": (source[:, None] - truth).square().mean(),
            "true_field": error(flow, importance),
            "best_fit": error(*best_fit),
            "best_fit_epe": endpoint_error(displacement[:, None], test_set).mean(),
        }
    return {f"floor_{name}": float(value) for name, value in numbers.items()}


# --- the experiment ---------------------------------------------------------------------------------------------------


def make_variant(forward_model: str, num_flows: int, model_class: type[ForwardDiffusion]) -> Variant:
    """A forward model with a number of flows; with ForwardRegression, the deterministic baseline of the same size."""
    return Variant(
        build=partial(build_model, forward_model, num_flows, model_class),
        batches=training_batches,
        batch_size=BATCH_SIZE,
        fit_options={"learning_rate": LEARNING_RATE, "checkpoint_every": 100},
        options={"forward_model": forward_model, "num_flows": num_flows, "model_class": model_class.__name__},
    )


def training_batches(device: torch.device, batch_size: int) -> BatchFunction:
    """Batches of scenes with the textures of the training photographs, rendered on the device."""
    textures = motion_scenes.make_textures(motion_scenes.TRAIN_PHOTOGRAPHS).to(device)
    return motion_scenes.batches(textures, batch_size)


def evaluate_sampler(name: str, eta: int, session: Session) -> Results:
    """The measures of a variant's samples, and for all samples the labels and endpoint errors.

    With eta = 0 also frames of the first scenes, and the baseline's frames and signals.
    """
    test_set, baseline = session.test_set, session.predict(f"{name}_mean")
    num_samples, steps = session.options["samples"], session.options["steps"]
    samples = sample_posterior(session.model(name), test_set, num_samples, steps, eta)
    arrays = {
        f"{name}_eta_{eta}_labels": classify_displacement(samples.displacement, test_set).byte().cpu().numpy(),
        f"{name}_eta_{eta}_epe": endpoint_error(samples.displacement, test_set).half().cpu().numpy(),
    }
    if eta == 0:
        signal = select_signals(baseline.signal, slice(NUM_EXAMPLES))
        arrays |= {f"{name}_frames": last_frames(samples), f"{name}_mean_frames": last_frames(baseline)}
        arrays |= {
            f"{name}_mean_{key}": getattr(signal, part).half().cpu().numpy() for part, key in RECORDED_PARTS.items()
        }
    return Results(evaluate(test_set, samples, baseline), arrays)


def last_frames(samples: Samples, count: int = 3) -> np.ndarray:
    """The last frames of up to `count` samples of the first scenes, in 64 levels."""
    return to_uint8(samples.frames[:NUM_EXAMPLES, :count, -1], 64)


def exported_arrays(variant: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All arrays but the signals of other baselines than the variant's, which no figure shows."""
    suffixes = tuple(f"_{key}" for key in RECORDED_PARTS.values())
    return {key: x for key, x in arrays.items() if not key.endswith(suffixes) or key.startswith(f"{variant}_mean_")}


DIFFUSION_VARIANTS = tuple(f"{forward_model}_{num_flows}" for num_flows in (1, 2) for forward_model in FORWARD_MODELS)
EXPERIMENT = Experiment(
    name="motion",
    results_name="03_motion_warping",
    variants={
        f"{forward_model}_{num_flows}{suffix}": make_variant(forward_model, num_flows, model_class)
        for suffix, model_class in (("", ForwardDiffusion), ("_mean", ForwardRegression))
        for num_flows in (1, 2)
        for forward_model in FORWARD_MODELS
    },
    evaluations={
        f"{name}_eta_{eta}": Evaluation(
            partial(evaluate_sampler, name, eta),
            name,
            (f"{name}_mean",),
            least_options={"scenes": 2, "samples": 2},
        )
        for name in DIFFUSION_VARIANTS
        for eta in (0, 1)
    }
    | {
        name: Evaluation(lambda session, name=name: Results(representation_error(session.test_set, name), {}))
        for name in FORWARD_MODELS
    },
    make_test_set=lambda device, options: make_test_set(
        motion_scenes.make_textures(motion_scenes.TEST_PHOTOGRAPHS).to(device), options["scenes"], options["samples"]
    ),
    predict=sample_posterior,
    evaluation_options={"scenes": NUM_SCENES, "samples": NUM_SAMPLES, "steps": 32},
    headline=(
        "energy_skill", "factor_tv", "factor_scene_rms", "mode_coverage", f"epe_best_of_{NUM_SAMPLES}", "spread_skill"
    ),
)  # fmt: skip
