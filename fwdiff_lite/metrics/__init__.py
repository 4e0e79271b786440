"""Measures of a learnt conditional distribution p(S | context), and of images.

Four kinds, by what is known:

    the true posterior can be sampled  c2st  wasserstein1  sliced_w2  energy_gap  sbc_*  tarp*
    only held-out truths are known     energy_score  energy_ratio  energy_skill  spread_skill  debiased_ensemble_mean_mse
    there is a known discrete factor   factor_*  calibration_error  log_loss  label_entropy
    pictures, or sets of pictures      psnr  ssim  best_of  total_variation  variance_inside_outside  mmd
      by networks that others trained  lpips  fid_kid

Throughout, `samples` is (c, K, *obs): K samples for each of c contexts; `truth` is (c, *obs). Contexts are
the independent unit, so every interval is a bootstrap over contexts. A function that returns one number per
context is built so that its mean over contexts is the pooled value. Bad input (a NaN, an empty tensor, shapes
that do not fit, K = 1 where a variance is needed) is a ValueError of one line.
"""

from fwdiff_lite.metrics.bootstrap import (
    Interval,
    bootstrap,
)
from fwdiff_lite.metrics.factors import (
    calibration_error,
    factor_tv,
    label_entropy,
    label_frequencies,
    log_loss,
    per_context_calibration_rms,
)
from fwdiff_lite.metrics.images import (
    OptionalDependencyError,
    best_of,
    fid_kid,
    frechet_distance,
    lpips,
    precision_recall,
    psnr,
    ssim,
    total_variation,
    variance_inside_outside,
)
from fwdiff_lite.metrics.posterior import (
    C2ST,
    c2st,
    holm,
    sbc_pvalues,
    sbc_ranks,
    sliced_w2,
    tarp,
    tarp_max_gap,
    wasserstein1,
)
from fwdiff_lite.metrics.scores import (
    debiased_ensemble_mean_mse,
    energy_gap,
    energy_ratio,
    energy_score,
    energy_skill,
    euclidean_error,
    spread_skill,
    squared_error,
)

__all__ = [
    "C2ST",
    "Interval",
    "OptionalDependencyError",
    "best_of",
    "bootstrap",
    "c2st",
    "calibration_error",
    "energy_gap",
    "energy_ratio",
    "energy_score",
    "energy_skill",
    "per_context_calibration_rms",
    "factor_tv",
    "fid_kid",
    "frechet_distance",
    "holm",
    "label_entropy",
    "label_frequencies",
    "log_loss",
    "lpips",
    "debiased_ensemble_mean_mse",
    "euclidean_error",
    "precision_recall",
    "psnr",
    "sbc_pvalues",
    "sbc_ranks",
    "sliced_w2",
    "spread_skill",
    "squared_error",
    "ssim",
    "tarp",
    "tarp_max_gap",
    "total_variation",
    "variance_inside_outside",
    "wasserstein1",
]
