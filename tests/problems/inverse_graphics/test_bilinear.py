"""Bilinear interpolation: exact between pixels, and the same in every way of computing it."""

import pytest
import torch
from pixelnerf_helpers import generator

from fwdiff_lite.problems.inverse_graphics.bilinear import (
    bilinear_by_gather,
    bilinear_by_weighted_sum,
    bilinear_sample_uv,
    channels_last,
    is_channels_last,
)
from fwdiff_lite.problems.inverse_graphics.cameras import pixel_centres


def test_bilinear_sampling_is_exact_at_pixel_centres_and_linear_between_them():
    maps = torch.randn(2, 5, 3, 4, generator=generator(), dtype=torch.float64)
    uv = pixel_centres(3, 4, maps).expand(2, 12, 2)
    torch.testing.assert_close(bilinear_sample_uv(maps, uv), maps.flatten(2).mT)
    between = bilinear_sample_uv(maps, uv + torch.tensor([0.5 / 4, 0.0]).double())
    torch.testing.assert_close(between.mT.unflatten(2, (3, 4))[..., :3], (maps[..., 1:] + maps[..., :-1]) / 2)
    corner = bilinear_sample_uv(maps, torch.tensor([0.01, 0.01]).double().expand(2, 1, 2))
    torch.testing.assert_close(corner[:, 0], maps[:, :, 0, 0])


@pytest.mark.parametrize("size", [(5, 7), (1, 7), (5, 1)])
def test_bilinear_sampling_by_gather_is_the_same(size):
    """Inside and outside of the image, and the gradients, too."""
    maps = torch.randn(3, 4, *size, generator=generator(), dtype=torch.float64, requires_grad=True)
    uv = 1.4 * torch.rand(3, 50, 2, generator=generator(1), dtype=torch.float64) - 0.2
    torch.testing.assert_close(bilinear_by_gather(maps, uv), bilinear_sample_uv(maps, uv))
    weight = torch.randn(3, 50, 4, generator=generator(2), dtype=torch.float64)
    functions = (bilinear_by_gather, bilinear_sample_uv)
    gradients = [torch.autograd.grad((sample(maps, uv) * weight).sum(), maps)[0] for sample in functions]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("size", [(5, 7), (1, 7), (5, 1)])
@pytest.mark.parametrize("is_copied", [True, False])
def test_bilinear_sampling_by_a_weighted_sum_is_that_of_grid_sample(size, is_copied):
    """Inside and outside of the image, far away, and where a projection is not a number."""
    maps = torch.randn(3, 4, *size, generator=generator(), dtype=torch.float64)
    if not is_copied:
        maps = channels_last(maps)
        assert is_channels_last(maps)
    uv = 1.4 * torch.rand(3, 50, 2, generator=generator(1), dtype=torch.float64) - 0.2
    uv[0, :4, 0] = torch.tensor([float("nan"), float("inf"), float("-inf"), 1e30])
    expected = bilinear_sample_uv(maps, uv)  # by grid_sample, since gradients are on
    torch.testing.assert_close(bilinear_by_weighted_sum(maps, uv), expected, rtol=0, atol=1e-14)
    with torch.no_grad():
        chosen = expected if is_copied else bilinear_by_weighted_sum(maps, uv)
        assert torch.equal(bilinear_sample_uv(maps, uv), chosen)
    assert not torch.allclose(bilinear_by_weighted_sum(maps, uv.roll(1, 1)), expected)


def test_a_weighted_sum_takes_the_border_in_half_precision_and_as_many_images_as_points():
    ones = torch.ones(1, 1, 260, 260, dtype=torch.bfloat16)  # 259 is no number of this type: it is rounded to 260
    assert bilinear_by_weighted_sum(ones, torch.ones(1, 1, 2).bfloat16()) == 1
    with pytest.raises(ValueError, match="uv"):
        bilinear_by_weighted_sum(torch.zeros(1, 3, 4, 4), torch.rand(2, 5, 2))
