"""Crops: squares of one canvas, with parameters phi = (row, col, size) of the upper left corner and side, in pixels."""

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.checks import check_count, check_last_sizes, check_values_on_cpu, format_shape


def crop_mask(params: Float[Tensor, "*b 3"], side: int) -> Float[Tensor, "*b {side} {side}"]:
    """1 inside each crop of a canvas of side x side pixels, 0 outside. ValueError if a crop is not three numbers."""
    check_last_sizes("params", params, 3)
    check_count(side=side)
    check_values_on_cpu(lambda: ~torch.isfinite(params), "params hold NaN or infinite values, wanted (row, col, size)")
    row, col, size = params[..., None, None].unbind(-3)  # each (*b, 1, 1)
    i = torch.arange(side, device=params.device)
    return ((i[:, None] >= row) & (i[:, None] < row + size) & (i >= col) & (i < col + size)).to(params)


def composite_crops(
    value: Float[Tensor, "b m *obs"], support: Float[Tensor, "b m *#obs"]
) -> tuple[Float[Tensor, "b *obs"], Float[Tensor, "b *#obs"]]:
    """M crops on one canvas, averaged where they overlap; and a mask, 1 where at least one crop covers the canvas.

    ValueError if the support does not have B, M and the canvas of the values.
    """
    sizes = zip(reversed(support.shape), reversed(value.shape), strict=False)
    if value.ndim != support.ndim or not all(size in (1, wanted) for size, wanted in sizes):
        raise ValueError(f"support has shape {format_shape(support)}, wanted that of value, {format_shape(value)}")
    count = support.sum(1)
    return (value * support).sum(1) / count.clamp(min=1), (count > 0).to(value)
