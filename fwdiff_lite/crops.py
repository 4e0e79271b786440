"""Crops: squares of one canvas, with parameters phi = (row, col, size) of the upper left corner and side, in pixels."""

import torch
from jaxtyping import Float
from torch import Tensor


def crop_mask(params: Float[Tensor, "*b 3"], side: int) -> Float[Tensor, "*b {side} {side}"]:
    """1 inside each crop of a canvas of side x side pixels, 0 outside."""
    row, col, size = params[..., None, None].unbind(-3)  # each (*b, 1, 1)
    i = torch.arange(side, device=params.device)
    return ((i[:, None] >= row) & (i[:, None] < row + size) & (i >= col) & (i < col + size)).to(params)


def composite_crops(
    value: Float[Tensor, "b m *obs"], support: Float[Tensor, "b m *#obs"]
) -> tuple[Float[Tensor, "b *obs"], Float[Tensor, "b *#obs"]]:
    """M crops on one canvas, averaged where they overlap; and a mask, 1 where at least one crop covers the canvas."""
    count = support.sum(1)
    return (value * support).sum(1) / count.clamp(min=1), (count > 0).to(value)
