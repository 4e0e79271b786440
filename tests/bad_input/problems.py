"""Bad input to the problems: projections, unreachable mean, motion, digits."""

import math

import torch

from fwdiff_lite.observations import Observations
from fwdiff_lite.problems import digits
from fwdiff_lite.problems.motion import scenes, warping
from fwdiff_lite.problems.toy import projections, unreachable_mean


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# toy
SIGNAL, PHI = torch.zeros(4, 2), torch.tensor([1.0, 0.0]).expand(4, 1, 2)
PRIOR = projections.make_prior(2)
MIXTURE = PRIOR.to(torch.float32)
CONTEXT = Observations(torch.zeros(4, 1), PHI)
CONTEXT_3D = Observations(torch.zeros(4, 1), torch.ones(4, 1, 3))
DENOISER = projections.ProjectionDenoiser(2, width=8, depth=1)

TOY = [
    ("project dimensions", lambda: projections.project(torch.zeros(4, 3), PHI), r"signal has shape \(4, 3\), wanted"),
    ("project batch", lambda: projections.project(SIGNAL[:2], PHI), "signal has shape"),
    ("project no count", lambda: projections.project(SIGNAL, PHI[:, 0]), "signal has shape"),
    ("sample_directions none", lambda: projections.sample_directions(0, 1, 2, seed()), "got n = 0"),
    ("sample_directions dims", lambda: projections.sample_directions(4, 1, 0, seed()), "got dims = 0"),
    (
        "sample_directions wedge",
        lambda: projections.sample_directions(4, 1, 2, seed(), wedge=-1.0),
        "wedge = -1.0, wanted a number from 0 to 6.28",
    ),
    ("sample_directions 3D", lambda: projections.sample_directions(4, 1, 3, seed(), wedge=1.0), "for signals in R"),
    ("sample_directions nan", lambda: projections.sample_directions(4, 1, 2, seed(), wedge=math.nan), "wedge = nan"),
    ("perpendicular", lambda: projections.perpendicular(torch.zeros(4, 3)), "phi has shape"),
    ("make_prior", lambda: projections.make_prior(4), "got dims=4"),
    ("assign_roles few", lambda: projections.assign_roles(CONTEXT, 1), "needs 1 contexts and a target, got 1"),
    ("assign_roles none", lambda: projections.assign_roles(CONTEXT, 0), "got max_contexts = 0"),
    ("infinite_batches", lambda: projections.infinite_batches(PRIOR, 0), "got batch_size = 0"),
    ("dataset_batches none", lambda: projections.dataset_batches(CONTEXT[:0], 8), "got signals = 0"),
    ("dataset_batches size", lambda: projections.dataset_batches(CONTEXT, 0), "got batch_size = 0"),
    ("dataset_batches one", lambda: projections.dataset_batches(CONTEXT, 8)(seed()), "needs 1 contexts and a target"),
    ("denoiser dims", lambda: projections.ProjectionDenoiser(0), "got dims = 0"),
    ("denoiser contexts", lambda: projections.ProjectionDenoiser(2, 0), "got max_contexts = 0"),
    ("denoiser context", lambda: DENOISER.condition(CONTEXT_3D, PHI), "context.params has shape"),
    (
        "denoiser many",
        lambda: DENOISER.condition(CONTEXT.append(CONTEXT), PHI),
        "takes up to 1 observations as context",
    ),
    ("nullspace dims", lambda: projections.nullspace_coordinate(torch.zeros(4, 3), CONTEXT), "signal has shape"),
    ("nullspace batch", lambda: projections.nullspace_coordinate(SIGNAL[:2], CONTEXT), "signal has shape"),
    ("mixture sample", lambda: PRIOR.sample(0, seed()), "got n = 0"),
    ("mixture direction", lambda: MIXTURE.projected_moments(torch.zeros(4, 3)), "phi has shape"),
    (
        "mixture value",
        lambda: MIXTURE.condition_on(PHI[:, 0], torch.zeros(3)),
        r"value has shape \(3,\), wanted \(4,\)",
    ),
    (
        "mixture noise",
        lambda: MIXTURE.condition_on(PHI[:, 0], torch.zeros(4), -1.0),
        "noise_variance must be 0 or more",
    ),
    (
        "mixture noise nan",
        lambda: MIXTURE.condition_on(PHI[:, 0], torch.zeros(4), math.nan),
        "noise_variance must be 0",
    ),
    ("mixture density", lambda: MIXTURE.projected_log_density(torch.zeros(4, 1, 3), PHI[:, 0]), "signal has shape"),
    ("ideal context", lambda: projections.IdealDenoiser(MIXTURE).condition(CONTEXT_3D, PHI), "phi has shape"),
    ("power_forward", lambda: unreachable_mean.power_forward(SIGNAL, PHI[..., 0]), r"wanted \(B,\) and \(B, M\)"),
    ("binary weight", lambda: unreachable_mean.optimal_binary_signal(torch.zeros(3), -1.0), "got novel_weight = -1.0"),
    ("binary p", lambda: unreachable_mean.IdealBinaryDenoiser(1.0, 0.0), "strictly between 0 and 1"),
    ("binary p nan", lambda: unreachable_mean.IdealBinaryDenoiser(math.nan, 0.0), "strictly between 0 and 1"),
    ("binary weight nan", lambda: unreachable_mean.IdealBinaryDenoiser(0.5, math.nan), "got novel_weight = nan"),
    ("bump p", lambda: unreachable_mean.IdealBumpDenoiser(0.0), "strictly between 0 and 1"),
    ("bump scale", lambda: unreachable_mean.IdealBumpDenoiser(0.5, scale=0.0), "got scale = 0.0"),
    ("bump pixels", lambda: unreachable_mean.bump_images(1), "got num_pixels = 1"),
    ("bump width", lambda: unreachable_mean.bump_images(width=0.0), "got width = 0.0"),
    ("empty_context", lambda: unreachable_mean.empty_context(0), "got n = 0"),
    ("plus_fraction", lambda: unreachable_mean.plus_fraction(0.5, 0.0, 0, seed()), "got n = 0"),
]

# motion
SCENES = scenes.sample_scenes(2, 3, seed())
AMPLITUDES, TAU = scenes.sample_amplitudes(SCENES, seed()), torch.zeros(2, 1)
TEXTURES = torch.zeros(3, 3, 64, 64)
SOURCE, FLOW, POSITION = torch.zeros(2, 3, 4, 4), torch.zeros(2, 2, 4, 4), torch.zeros(2, 5)
MOTION = warping.single_flow_signal(SOURCE, FLOW)
TIMES = torch.zeros(2, 1, 1)

MOTION_CASES = [
    ("load_photograph", lambda: scenes.load_photograph("missing.png"), "unknown photograph 'missing.png'"),
    ("make_textures no names", lambda: scenes.make_textures([], 4), "got no name of a photograph"),
    ("make_textures none", lambda: scenes.make_textures(["coins.png"], 0), "got count = 0"),
    ("sample_scenes none", lambda: scenes.sample_scenes(0, 3, seed()), "got count = 0"),
    ("sample_scenes textures", lambda: scenes.sample_scenes(2, 0, seed()), "got num_textures = 0"),
    ("concatenate_scenes", lambda: scenes.concatenate_scenes([]), "got no scenes"),
    ("render tau", lambda: scenes.render(SCENES, AMPLITUDES, TAU[:1], TEXTURES), r"wanted \(2, M\)"),
    ("render amplitudes", lambda: scenes.render(SCENES, AMPLITUDES[:1], TAU, TEXTURES), "amplitudes has shape"),
    ("render textures", lambda: scenes.render(SCENES, AMPLITUDES, TAU, TEXTURES[..., :32]), "textures has shape"),
    ("render few", lambda: scenes.render(SCENES, AMPLITUDES, TAU, TEXTURES[:1]), "more than the 1 textures given"),
    ("motion batches size", lambda: scenes.batches(TEXTURES, 0), "got batch_size = 0"),
    ("motion batches tau", lambda: scenes.batches(TEXTURES, 2, min_tau=1.5), "got min_tau = 1.5"),
    ("motion batches tau nan", lambda: scenes.batches(TEXTURES, 2, min_tau=math.nan), "got min_tau = nan"),
    ("motion batches bytes", lambda: scenes.batches(TEXTURES.byte()), "textures has the type torch.uint8"),
    ("bilinear_sample_xy y", lambda: warping.bilinear_sample_xy(SOURCE, POSITION, POSITION[:, :3]), "y has shape"),
    (
        "bilinear_sample_xy batch",
        lambda: warping.bilinear_sample_xy(SOURCE[:1], POSITION, POSITION),
        "wanted .*B, C, h, w",
    ),
    ("splat flow", lambda: warping.splat(SOURCE, FLOW[:, :1]), r"flow has shape \(2, 1, 4, 4\), wanted \(2, 2, 4, 4\)"),
    ("splat rank", lambda: warping.splat(SOURCE[0], FLOW[0]), r"wanted \(B, C, h, w\)"),
    ("single_flow_signal", lambda: warping.single_flow_signal(SOURCE, FLOW[..., :2]), "flow has shape"),
    ("warp times", lambda: warping.BackwardWarp()(MOTION, TIMES[..., 0]), "params must be the times"),
    ("warp pixels", lambda: warping.BackwardWarp()(MOTION, TIMES, TIMES.long()), "pixel_indices must be None"),
    ("splat coverage", lambda: warping.SoftmaxSplat(min_coverage=0.0), "got min_coverage = 0.0"),
    ("motion flows", lambda: warping.MotionDenoiser(0), "got num_flows = 0"),
    (
        "motion model",
        lambda: warping.build_model("rotate"),
        "unknown forward model 'rotate': choose one of warp, splat",
    ),
]

# digits
DIGITS, WINDOW = torch.zeros(2, 8, 8), torch.tensor([[[1.0, 2.0, 3.0]]] * 2)
CROP = digits.CropOperator()
PROBABILITIES = torch.full((2, 3, 10), 0.1)

DIGIT_CASES = [
    ("crop canvas", lambda: CROP(DIGITS[..., :7], WINDOW), "images has shape"),
    ("crop rank", lambda: CROP(DIGITS[0], WINDOW), r"images have shape \(8, 8\)"),
    ("crop batch", lambda: CROP(DIGITS[:1], WINDOW), r"params have shape \(2, 1, 3\), wanted \(1, M, 3\)"),
    ("crop pixels", lambda: CROP(DIGITS, WINDOW, WINDOW.long()), "pixel_indices must be None"),
    ("window two numbers", lambda: CROP.support(WINDOW[..., :2]), r"a window is \(row, col, size\)"),
    ("window half a pixel", lambda: CROP.support(WINDOW + 0.5), "is not in whole pixels"),
    ("window nan", lambda: CROP.support(WINDOW * math.nan), "is not in whole pixels"),
    ("window size", lambda: CROP.support(WINDOW + torch.tensor([0.0, 0.0, 5.0])), "has a size outside 3 to 5"),
    ("window outside", lambda: CROP.support(WINDOW + torch.tensor([5.0, 0.0, 0.0])), "leaves the 8x8 canvas"),
    ("sample_windows none", lambda: digits.sample_windows(0, 1, seed()), "got n = 0"),
    ("roll_images shift", lambda: digits.roll_images(DIGITS, torch.zeros(1, 1, 2)), "shift has shape"),
    ("digit batches empty", lambda: digits.batches(DIGITS[:0]), "with at least one digit"),
    ("digit batches bytes", lambda: digits.batches(DIGITS.byte()), "images has the type torch.uint8"),
    ("digit batches size", lambda: digits.batches(DIGITS, 0), "got batch_size = 0"),
    ("digit batches novel", lambda: digits.batches(DIGITS, 2, num_novel=0), "got num_novel = 0"),
    (
        "digit batches shift",
        lambda: digits.batches(DIGITS, 2, max_shift=4),
        "got max_shift = 4, wanted a number from 0 to 3",
    ),
    ("digit batches ink", lambda: digits.batches(DIGITS, 2, max_ink_dimming=1.5), "got max_ink_dimming = 1.5"),
    ("corner_windows", lambda: digits.corner_windows(0, seed()), "got n = 0"),
    ("digit statistics", lambda: digits.pixel_statistics(None, seed(), 0), "got num_batches = 0"),
    ("digit denoiser mean", lambda: digits.DigitDenoiser(DIGITS, DIGITS[0]), "mean has shape"),
    ("digit denoiser nan", lambda: digits.DigitDenoiser(DIGITS[0], DIGITS[0] * math.nan), "variance holds 64 NaN"),
    (
        "digit denoiser noise",
        lambda: digits.DigitDenoiser(DIGITS[0], DIGITS[0], context_noise_std=0.0),
        "got context_noise_std = 0.0",
    ),
    ("digit samples", lambda: digits.sample_posterior(None, digits.observe(DIGITS, WINDOW), 0), "got num_samples = 0"),
    ("digit windows", lambda: digits.sample_posterior(None, digits.observe(DIGITS, WINDOW), 1, 5), "num_windows = 5"),
    ("smoothed labels", lambda: digits.smoothed_label_distribution(PROBABILITIES[0]), r"wanted \(B, k, 10\)"),
    ("smoothed none", lambda: digits.smoothed_label_distribution(PROBABILITIES[:, :0]), r"wanted \(B, k, 10\)"),
]

CASES = [*TOY, *MOTION_CASES, *DIGIT_CASES]
