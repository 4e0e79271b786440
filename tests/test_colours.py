"""Colour conversions agree with matplotlib, and quantisation is exact to half a level."""

import matplotlib as mpl
import numpy as np
import torch

from fwdiff_lite.colours import hsv_to_rgb, to_uint8


def test_hues_are_those_of_matplotlib():
    hue, saturation, value = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
    expected = mpl.colors.hsv_to_rgb(torch.stack([hue, saturation, value], -1).numpy())
    assert np.allclose(hsv_to_rgb(hue, saturation, value).numpy(), expected, atol=1e-6)
    assert hsv_to_rgb(torch.tensor([0.0, 1 / 3]), 1.0, 0.5).round(decimals=6).tolist() == [[0.5, 0, 0], [0, 0.5, 0]]


def test_images_are_quantised_to_256_and_to_fewer_levels():
    image = to_uint8(torch.tensor([-2.0, -1.0, 0.0, 1.0, 1.5]))
    assert image.dtype == np.uint8 and image.tolist() == [0, 0, 128, 255, 255]
    x = torch.linspace(-1, 1, 1001)
    coarse = to_uint8(x, 64).astype(float)
    assert len(np.unique(coarse)) == 64 and coarse.min() == 0 and coarse.max() == 255
    assert np.abs(coarse / 127.5 - 1 - x.numpy()).max() < 1 / 63 + 1 / 255
