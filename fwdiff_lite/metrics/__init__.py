"""Metrics of a learnt conditional distribution p(S | context), and of images. The modules differ in what is known:

    posterior  the true posterior can be sampled    c2st  wasserstein1  sliced_w2  sbc_ranks  sbc_pvalues  holm  tarp
               or evaluated                         tarp_max_gap
    scores     one true value for each context      energy_score  euclidean_error  energy_gap  energy_ratio
                                                    energy_skill  spread_skill  squared_error
                                                    debiased_ensemble_mean_mse  psnr_gain
    factors    the true probabilities of a          label_frequencies  factor_tv  per_context_calibration_rms
               discrete factor, or its true label   agreement_excess  log_loss  label_entropy  calibration_error
    images     true images, or a set of real        psnr  ssim  best_of  total_variation  variance_inside_outside
               images or of their features          frechet_distance  precision_recall
                                                    with torchmetrics: lpips  fid_kid
    bootstrap  intervals of all of them             bootstrap  Interval

Throughout, `samples` is (c, K, *obs): K samples for each of c contexts; `truth` is (c, *obs). Contexts are the
independent unit, so every interval is a bootstrap over contexts. A function with one number for each context is scaled
so that its mean over contexts is the mean over all elements. Invalid input (a NaN, an empty tensor, integers such as
uint8 pictures, shapes that do not fit, K = 1 where a variance is needed) is a ValueError of one line.
"""

from fwdiff_lite.metrics.bootstrap import (
    Interval,
    bootstrap,
)
from fwdiff_lite.metrics.factors import (
    agreement_excess,
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
    psnr_gain,
    spread_skill,
    squared_error,
)

__all__ = [
    "C2ST",
    "Interval",
    "OptionalDependencyError",
    "agreement_excess",
    "best_of",
    "bootstrap",
    "c2st",
    "calibration_error",
    "debiased_ensemble_mean_mse",
    "energy_gap",
    "energy_ratio",
    "energy_score",
    "energy_skill",
    "euclidean_error",
    "factor_tv",
    "fid_kid",
    "frechet_distance",
    "holm",
    "label_entropy",
    "label_frequencies",
    "log_loss",
    "lpips",
    "per_context_calibration_rms",
    "precision_recall",
    "psnr",
    "psnr_gain",
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
