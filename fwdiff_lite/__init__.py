"""Diffusion with forward models: sampling signals that are only ever seen through a known forward model.

The method of Tewari et al., "Diffusion with Forward Models" (NeurIPS 2023, arXiv 2306.11719), in five lines:

    signal      = denoise(context, noisy_target, t)                        Eq. 4
    observation = forward_model(signal, target_params)                     Eq. 5
    next_target ~ q(. | noisy_target, clean = observation)                 Eq. 6
    loss_target = |target - forward_model(signal, target_params)|^2        Eq. 8
    loss_novel  = |novel  - forward_model(signal, novel_params)|^2         Eq. 9
"""

from fwdiff_lite.batches import collate
from fwdiff_lite.diagnostics import check_samples
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression, Step
from fwdiff_lite.observations import Observations
from fwdiff_lite.schedule import CosineSchedule, ShiftedCosineSchedule
from fwdiff_lite.training import fit

__version__ = "0.1.0"
__all__ = [
    "CosineSchedule",
    "ForwardDiffusion",
    "ForwardRegression",
    "Observations",
    "ShiftedCosineSchedule",
    "Step",
    "check_samples",
    "collate",
    "fit",
]
