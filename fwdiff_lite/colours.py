"""Colour conversions, without a plotting library."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_uint8(pictures: Float[Tensor, "*b"], n: int = 256) -> UInt8[np.ndarray, "*b"]:
    """Pictures in [-1, 1] in n levels from 0 to 255, to be kept; what is beyond is cut off.

    With 64 levels no eye sees a difference, and they pack to nearly half.
    """
    steps = ((pictures.clamp(-1, 1) + 1) * ((n - 1) / 2)).round()
    return (steps * (255 / (n - 1))).round().byte().cpu().numpy()


def hsv_to_rgb(hue: Float[Tensor, "*b"], saturation: Tensor | float, value: Tensor | float) -> Float[Tensor, "*b 3"]:
    """Colours in [0, 1]; a hue of 0 is red, 1/3 green, 2/3 blue."""
    pure = ((hue[..., None] * 6 + hue.new_tensor([0.0, 4.0, 2.0])) % 6 - 3).abs().sub(1).clamp(0, 1)
    saturation, value = (torch.as_tensor(x).to(hue)[..., None] for x in (saturation, value))
    return value * (1 - saturation * (1 - pure))
