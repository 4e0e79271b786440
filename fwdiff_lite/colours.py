"""Colour conversions, without a plotting library."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fwdiff_lite.checks import check_count, check_float, check_last_sizes


def to_uint8(images: Float[Tensor, "*b"], num_levels: int = 256) -> UInt8[np.ndarray, "*b"]:
    """Images in [-1, 1], quantised to so many levels from 0 to 255; values outside of [-1, 1] are clipped.

    64 levels look the same as 256, and compress to nearly half the size.
    ValueError if an image is not of a floating type, holds a NaN, or there are fewer than 2 levels.
    """
    check_count(2, num_levels=num_levels)
    if images.numel():
        check_float(images=images)
    levels = ((images.clamp(-1, 1) + 1) * ((num_levels - 1) / 2)).round()
    return (levels * (255 / (num_levels - 1))).round().byte().cpu().numpy()


def hsv_to_rgb(hue: Float[Tensor, "*b"], saturation: Tensor | float, value: Tensor | float) -> Float[Tensor, "*b 3"]:
    """RGB colours in [0, 1]; hue 0 is red, 1/3 green, 2/3 blue."""
    check_last_sizes("hue", hue)
    pure = ((hue[..., None] * 6 + hue.new_tensor([0.0, 4.0, 2.0])) % 6 - 3).abs().sub(1).clamp(0, 1)
    saturation, value = (torch.as_tensor(x).to(hue)[..., None] for x in (saturation, value))
    return value * (1 - saturation * (1 - pure))
