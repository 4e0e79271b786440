"""Signals S ~ N(0, std^2 I) in R^2, observed through projections <phi, S>; the ideal denoiser is a linear map."""

import torch
from torch import nn

from fwdiff_lite.observations import Observations
from fwdiff_lite.schedule import CosineSchedule


def project(signal, params):
    return torch.einsum("bd,bmd->bm", signal, params)


def observe(n, m, std=1.0, seed=0):
    """n signals in float64, each with m projections on directions that are 180 / m degrees apart."""
    generator = torch.Generator().manual_seed(seed)
    signal = std * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    angle = torch.pi * (torch.rand(n, 1, generator=generator, dtype=torch.float64) + torch.arange(m) / m)
    params = torch.stack([angle.cos(), angle.sin()], -1)
    return signal, Observations(project(signal, params), params)


class GaussianDenoiser(nn.Module):
    """E[S | context, noisy targets] in closed form, where masked contexts and targets give no information.

    scale: the model's observation_scale, in units of which contexts and noisy targets are
    """

    def __init__(self, std=1.0, scale=1.0):
        super().__init__()
        self.std, self.scale, self.schedule = std, scale, CosineSchedule()

    def condition(self, context, target_params, target_mask=None):
        mask = torch.ones(target_params.shape[:2], dtype=torch.bool) if target_mask is None else target_mask
        return context, target_params * mask[..., None]

    def forward(self, condition, noisy_target, t):
        context, target_params = condition
        alpha, sigma = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None]
        rows = torch.cat([context.params * context.mask[..., None], alpha[..., None] * target_params], 1)
        value = torch.cat([context.value, noisy_target], 1)
        noise = torch.cat([1e-10 * torch.ones_like(context.value), sigma.square().expand(noisy_target.shape)], 1)
        prior = (self.std / self.scale) ** 2
        solved = torch.linalg.solve(prior * rows @ rows.mT + torch.diag_embed(noise), value)
        return self.scale * prior * torch.einsum("bmd,bm->bd", rows, solved)
