"""Bilinear interpolation of images and feature maps at image coordinates, in the fastest way on each device."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fwdiff_lite.checks import check_shape


def channels_last(images: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
    """The same images. In memory, the channels of a pixel follow one another, and the images have no gaps."""
    return images if is_channels_last(images) else images.movedim(-3, -1).contiguous().movedim(-1, -3)


def is_channels_last(images: Float[Tensor, "*b c h w"]) -> bool:
    """Whether images have the layout of `channels_last`."""
    return images.movedim(-3, -1).is_contiguous()


def fastest_layout(images: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
    """The same images; `channels_last` where `bilinear_sample_uv` is faster for it. Convert once, then sample often."""
    return channels_last(images) if _sums_pixels(images) else images


def _sums_pixels(images: Tensor) -> bool:
    """Whether `bilinear_by_weighted_sum` is the fastest way for channels-last images: on a CPU, without gradients."""
    return images.device.type == "cpu" and not torch.is_grad_enabled()


def bilinear_sample_uv(images: Float[Tensor, "n c h w"], uv: Float[Tensor, "n p 2"]) -> Float[Tensor, "n p c"]:
    """Bilinear interpolation of images or feature maps at the image coordinates `uv`.

    Pixel centres are at u = (j + 0.5) / w, v = (i + 0.5) / h. Outside of the image, the border is repeated.
    """
    if torch.compiler.is_compiling():  # the compiler makes a much faster backward pass from gathers, on a GPU
        return bilinear_by_gather(images, uv)
    if _sums_pixels(images) and is_channels_last(images) and images.dtype == uv.dtype:
        return bilinear_by_weighted_sum(images, uv)
    sampled = nn.functional.grid_sample(images, (2 * uv - 1)[:, None], padding_mode="border", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)


def bilinear_by_weighted_sum(images: Float[Tensor, "n c h w"], uv: Float[Tensor, "n p 2"]) -> Float[Tensor, "n p c"]:
    """The same as `grid_sample`, and faster on a CPU. The channels of a point are contiguous in memory, as layers want.

    Each point is a weighted sum of the four pixels around it. Images that are not channels-last are copied.
    ValueError if there are not as many images as sets of points.
    """
    check_shape("uv", uv, (len(images), *uv.shape[1:]), images=images)
    h, w = images.shape[2:]
    pixels = channels_last(images).movedim(1, -1).flatten(0, 2)
    rows = h * torch.arange(len(images), device=uv.device)[:, None]
    # the arithmetic of `grid_sample`, for the same rounding; NaN is 0
    x, y = (
        ((2 * u - 1 + 1) * (n / 2) - 0.5).nan_to_num(0).clamp(0, n - 1)
        for u, n in zip(uv.unbind(-1), (w, h), strict=True)
    )
    j, i = x.long().clamp(max=w - 1), y.long().clamp(max=h - 1)  # in half precision, n - 1 may be rounded to n
    right, down = x - j, y - i
    next_j, upper, lower = (j + 1).clamp(max=w - 1), w * (rows + i), w * (rows + (i + 1).clamp(max=h - 1))
    indices = torch.stack([upper + j, upper + next_j, lower + j, lower + next_j], -1)
    left, up = 1 - right, 1 - down
    weights = torch.stack([left * up, right * up, left * down, right * down], -1)
    sums = nn.functional.embedding_bag(
        indices.flatten(0, 1), pixels, per_sample_weights=weights.flatten(0, 1), mode="sum"
    )
    return sums.unflatten(0, uv.shape[:2])


def bilinear_by_gather(images: Float[Tensor, "n c h w"], uv: Float[Tensor, "n p 2"]) -> Float[Tensor, "n p c"]:
    """The same as `bilinear_sample_uv`, from the four pixels around each point."""
    h, w = images.shape[2:]
    # indexed by image, row and column: with one flat index, compiled code would divide it again for every channel
    pixels, n = images.permute(0, 2, 3, 1), torch.arange(len(images), device=uv.device)[:, None]
    position = torch.minimum((uv * uv.new_tensor([w, h]) - 0.5).clamp(min=0), uv.new_tensor([w - 1, h - 1]))
    top_left = position.floor()
    right, down = (position - top_left)[..., None].unbind(-2)
    j, i = top_left.long().unbind(-1)
    columns, rows = (j, (j + 1).clamp(max=w - 1)), (i, (i + 1).clamp(max=h - 1))
    top, bottom = (pixels[n, y, columns[0]] * (1 - right) + pixels[n, y, columns[1]] * right for y in rows)
    return top * (1 - down) + bottom * down
