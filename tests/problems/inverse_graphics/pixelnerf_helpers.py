"""Helpers of the tests of the pixelNeRF denoiser: small models, cameras and images."""

import torch

from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics.cameras import orbit
from fwdiff_lite.problems.inverse_graphics.pixelnerf import SceneDenoiser
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer

ENCODER_OPTIONS = {
    "unet": {"widths": (16, 16), "num_blocks": 1, "num_attention_levels": 1},
    "dit": {"width": 16, "depth": 1, "heads": 2, "patch": 2},
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_denoiser(encoder="unet", side=8, samples_per_ray=6, randomized=True, width=16):
    """A small denoiser; randomized: with random weights everywhere, since an untrained encoder's output is zero."""
    torch.manual_seed(0)
    renderer = VolumeRenderer((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), side, side, samples_per_ray)
    denoiser = SceneDenoiser(renderer, encoder, width, num_features=4, encoder_options=ENCODER_OPTIONS[encoder])
    if randomized:
        for w in denoiser.parameters():
            w.data += 0.2 * torch.randn(w.shape, generator=generator(w.numel()))
    return denoiser


def orbit_cameras(b, m, seed=0, dtype=torch.float32):
    """Cameras that see the whole box."""
    azimuth = 6 * torch.rand(b, m, generator=generator(seed), dtype=dtype)
    return orbit(azimuth, 0.2 + torch.rand(b, m, generator=generator(seed + 1), dtype=dtype), 3.0, 0.9)


def noise_images(b, m, side=8, seed=0, dtype=torch.float32):
    """Observations with random pixels."""
    value = torch.rand(b, m, 3, side, side, generator=generator(seed), dtype=dtype)
    return Observations(2 * value - 1, orbit_cameras(b, m, seed, dtype))
