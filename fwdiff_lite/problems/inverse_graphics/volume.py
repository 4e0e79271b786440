"""Volume rendering: the image of a radiance field in a camera, which is the forward model of section 4.1 (Eq. 12).

A ray is split into n segments of length delta_i, each with constant density sigma_i and colour c_i. Its colour is

    alpha_i = 1 - exp(-sigma_i delta_i),  w_i = alpha_i prod_{j < i} (1 - alpha_j),  C = sum_i w_i c_i + T background,

where T = prod_i (1 - alpha_i) is the transmittance of the whole ray (Max 1995; Mildenhall et al. 2020). The scene is
empty outside of a known axis-aligned box.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fwdiff_lite.checks import check_count, check_values_on_cpu, format_shape
from fwdiff_lite.devices import vector_like, widest_float
from fwdiff_lite.problems.inverse_graphics.cameras import check_cameras, pixel_centres, rays

# The R2 sequence (Roberts 2018) fills the unit square evenly with multiples of 1 / g and 1 / g^2. Its base g is the
# plastic number, the root of x^3 = x + 1.
R2_SEQUENCE_BASE = 1.324717957244746


class RenderedRays(NamedTuple):
    """The result of rendering rays.

    rgb_features: (*b, p, c) colours, followed by the field's features if it has any
    distance:     (*b, p) expected distance from the camera, along the ray; the transmitted light counts at the far side
                  of the box
    opacity:      (*b, p) one minus the transmittance
    """

    rgb_features: Float[Tensor, "*b p c"]
    distance: Float[Tensor, "*b p"]
    opacity: Float[Tensor, "*b p"]


class RenderedImages(NamedTuple):
    """Images of a scene from M cameras.

    rgb:               (B, M, 3, H, W) colours in [-1, 1]
    distance, opacity: (B, M, H, W) as in RenderedRays
    """

    rgb: Float[Tensor, "b m 3 h w"]
    distance: Float[Tensor, "b m h w"]
    opacity: Float[Tensor, "b m h w"]


def intersect_aabb(
    origins: Float[Tensor, "*b #p d"], directions: Float[Tensor, "*b p d"], box_min: Tensor, box_max: Tensor
) -> tuple[Float[Tensor, "*b p"], Float[Tensor, "*b p"]]:
    """Distances at which rays enter and leave the axis-aligned box between the corners box_min and box_max (d,).

    Where a ray misses the box, both are the distance of the ray's closest point to the box's centre.
    """
    tiny = torch.where(directions < 0, -1e-9, 1e-9)
    inverse_directions = 1 / torch.where(directions.abs() < 1e-9, tiny, directions)
    t_min, t_max = (box_min - origins) * inverse_directions, (box_max - origins) * inverse_directions
    near = torch.minimum(t_min, t_max).amax(-1).clamp(min=0)
    far = torch.maximum(t_min, t_max).amin(-1)
    closest = (((box_min + box_max) / 2 - origins) * directions).sum(-1).clamp(min=0)
    return torch.where(near < far, near, closest), torch.where(near < far, far, closest)


def stratified_offsets(n: int, ray_indices: Int[Tensor, "*b p"] | None, like: Tensor) -> Float[Tensor, "*#b #p n"]:
    """Positions of the n samples of a ray inside of their segments, from 0 to 1.

    ray_indices: None for testing: every sample is the middle of its segment. For training, the indices of the rays:
        a quasi-random sequence over rays and segments covers the segments more evenly than random numbers would.
        It depends on the indices only, so the loss has no randomness.
    like: a tensor that gives the device and the type
    """
    if ray_indices is None:
        return like.new_full((1, n), 0.5)
    i = torch.arange(n, device=like.device, dtype=widest_float(like.device))
    return ((0.5 + ray_indices[..., None] / R2_SEQUENCE_BASE + i / R2_SEQUENCE_BASE**2) % 1).to(like)


def sample_uniform(
    near: Float[Tensor, "*b p"], far: Float[Tensor, "*b p"], offsets: Float[Tensor, "*#b #p n"]
) -> tuple[Float[Tensor, "*b p n"], Float[Tensor, "*b p 1"]]:
    """Distances of one sample in each of n segments of equal length between near and far, and that length."""
    n = offsets.shape[-1]
    delta = ((far - near) / n)[..., None]
    return near[..., None] + (torch.arange(n, device=near.device) + offsets) * delta, delta


def sample_linear_disparity(
    near: Float[Tensor, "*b p"], far: Float[Tensor, "*b p"], offsets: Float[Tensor, "*#b #p n"]
) -> tuple[Float[Tensor, "*b p n"], Float[Tensor, "*b p n"]]:
    """Distances of one sample in each of n segments of equal disparity (1 / distance), and the segments' lengths."""
    n = offsets.shape[-1]
    near_disparity, far_disparity = 1 / near[..., None], 1 / far[..., None]
    edges = 1 / (near_disparity + (far_disparity - near_disparity) * torch.arange(n + 1, device=near.device) / n)
    fraction = (torch.arange(n, device=near.device) + offsets) / n
    return 1 / (near_disparity + (far_disparity - near_disparity) * fraction), edges.diff(dim=-1)


def composite(
    density: Float[Tensor, "*b n"],
    rgb_features: Float[Tensor, "*b n c"],
    delta: Float[Tensor, "*b #n"],
    distance: Float[Tensor, "*b n"],
    far: Float[Tensor, "*b"],
    background: Float[Tensor, "c"],
) -> RenderedRays:
    """Colour (and features), distance and opacity of rays from their n segments: the sums above.

    density: per unit of length, the unit of delta
    delta, distance: length of each segment, and distance of its sample from the camera
    """
    segment_optical_depth = density * delta
    optical_depth = torch.cumsum(segment_optical_depth, -1)
    weights = torch.exp(segment_optical_depth - optical_depth) - torch.exp(-optical_depth)  # T_i - T_(i + 1)
    transmittance = torch.exp(-optical_depth[..., -1])
    rendered = (weights[..., None] * rgb_features).sum(-2) + transmittance[..., None] * background
    return RenderedRays(rendered, (weights * distance).sum(-1) + transmittance * far, 1 - transmittance)


def _check_views(cameras: Tensor) -> None:
    """ValueError unless the cameras are valid, M for each of B scenes."""
    check_cameras(cameras)
    if cameras.ndim != 4:
        raise ValueError(f"cameras have shape {format_shape(cameras)}, wanted (B, M, 4, 4)")


def _check_pixel_indices(pixel_indices: Tensor, views: tuple[int, int], num_pixels: int) -> None:
    """ValueError unless the indices are integers (B, M, n), of pixels that an image has."""
    if pixel_indices.shape[:-1] != views or pixel_indices.dtype not in (torch.int64, torch.int32):
        given = f"pixel_indices of {pixel_indices.dtype} have shape {format_shape(pixel_indices)}"
        raise ValueError(f"{given}, wanted integers ({views[0]}, {views[1]}, n)")
    outside = f"pixel_indices must be from 0 to {num_pixels - 1}, for the {num_pixels} pixels of an image"
    check_values_on_cpu(lambda: (pixel_indices < 0) | (pixel_indices >= num_pixels), outside)


def _evaluate(signal: Callable, points: Float[Tensor, "b p 3"]) -> tuple[Float[Tensor, "b p"], Float[Tensor, "b p c"]]:
    """Density and colours of a field. ValueError if their shapes are wrong, or a density is negative."""
    result = signal(points)
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(f"a field returns density (B, P) and colours (B, P, C), got a {type(result).__name__}")
    density, rgb_features = result
    wrong_shape = density.shape != points.shape[:2] or rgb_features.shape[:-1] != points.shape[:2]
    if wrong_shape or rgb_features.shape[-1] < 3:
        given = f"{format_shape(density)} and {format_shape(rgb_features)}"
        raise ValueError(f"a field returns density {tuple(points.shape[:2])} and at least three colours, got {given}")
    check_values_on_cpu(lambda: density < 0, "a density is negative: apply softplus or relu to the field's output")
    return density, rgb_features


@dataclass(frozen=True)
class VolumeRenderer:
    """The forward model (Eq. 12): cameras (B, M, 4, 4) -> images (B, M, 3, H, W), or pixels (B, M, 3, n) of them.

    A radiance field is a callable: points (B, P, 3) -> density (B, P), colours and features (B, P, C). A field that
    keeps a part of its values at the points of an observation has a method `along_rays(renderer, cameras)`: it returns
    the callable for all rays of these cameras, see pixelnerf.RadianceField.

    box_min, box_max: corners of the axis-aligned box that holds the scene
    height, width: pixels of an image
    samples_per_ray: segments of a ray inside of the box
    background: colour behind the box, the same in all three channels; features have none
    supersampling: in `render_images`, each pixel is the mean of supersampling x supersampling rays
    supersample_observations: whether these rays define a pixel everywhere: in training and sampling, too. Otherwise, a
        pixel is the one ray through its centre there, which is cheaper. In training the field is evaluated on pixel
        centres only, and `render_images` evaluates it at other points
    near: 0 divides a ray into segments of equal length. A positive number is the distance of the near plane: segments
        begin there and have equal disparity. This is for scenes that surround the camera, whose box is large
    points_per_chunk: None renders all rays at once. A number renders one chunk of rays after another, each with at most
        so many points of a scene, or one ray of each camera. With gradients, the backward pass computes each chunk
        again, so the memory hardly grows with the number of rays (activation checkpointing)

    ValueError if a number is out of range, if cameras or pixel indices do not fit, or if a field's density is negative.
    The values of indices and densities are checked on the CPU only, since a GPU would have to wait.
    """

    box_min: tuple[float, float, float]
    box_max: tuple[float, float, float]
    height: int
    width: int
    samples_per_ray: int
    background: float = 1.0
    supersampling: int = 1
    near: float = 0.0
    supersample_observations: bool = False
    points_per_chunk: int | None = None

    def __post_init__(self):
        check_count(height=self.height, width=self.width, samples_per_ray=self.samples_per_ray)
        check_count(supersampling=self.supersampling)
        check_count(points_per_chunk=1 if self.points_per_chunk is None else self.points_per_chunk)
        corners = (self.box_min, self.box_max)
        if any(len(corner) != 3 for corner in corners) or not all(a < b for a, b in zip(*corners, strict=True)):
            raise ValueError(f"box_min {self.box_min} must be below box_max {self.box_max}, three numbers each")
        if not 0 <= self.near < math.inf:
            raise ValueError(f"got near = {self.near}, wanted a finite distance of at least 0")

    def __call__(
        self, signal: Callable, params: Float[Tensor, "b m 4 4"], pixel_indices: Int[Tensor, "b m n"] | None = None
    ) -> Float[Tensor, "b m 3 *pixels"]:
        """Eq. 12: the colours that the cameras `params` see, of all pixels or of those with the given indices."""
        supersampling = self.supersampling if self.supersample_observations else 1
        if pixel_indices is None and hasattr(signal, "along_rays"):
            signal = signal.along_rays(self, params)
        render = self.render_rays(signal, params, pixel_indices, num_channels=3, supersampling=supersampling)
        rgb = render.rgb_features.transpose(-1, -2)
        return rgb if pixel_indices is not None else rgb.unflatten(-1, (self.height, self.width))

    def render_images(self, signal: Callable, cameras: Float[Tensor, "b m 4 4"]) -> RenderedImages:
        """Colours, distance and opacity of whole images."""
        _check_views(cameras)
        offsets = [(i + 0.5) / self.supersampling - 0.5 for i in range(self.supersampling)]
        renders = [
            self._render_pixels(signal, cameras, num_channels=3, pixel_offset=(x, y)) for y in offsets for x in offsets
        ]
        rgb, distance, opacity = (sum(values) / len(renders) for values in zip(*renders, strict=True))
        images = rgb.transpose(-1, -2), distance, opacity
        return RenderedImages(*(x.unflatten(-1, (self.height, self.width)) for x in images))

    def render_rays(
        self,
        signal: Callable,
        cameras: Float[Tensor, "b m 4 4"],
        pixel_indices: Int[Tensor, "b m n"] | None = None,
        downsample: int = 1,
        num_channels: int | None = None,
        supersampling: int = 1,
    ) -> RenderedRays:
        """Renders the pixels of M cameras, or the pixels with the given indices.

        downsample: divides the image's height and width; neither becomes less than 1
        num_channels: how many of the field's channels are rendered, from the first; 3 are the colours, None is all
        supersampling: a pixel is the mean of supersampling x supersampling rays, evenly spaced in the pixel
        """
        _check_views(cameras)
        check_count(downsample=downsample)
        return self._render_pixels(signal, cameras, pixel_indices, downsample, num_channels, supersampling)

    def _render_pixels(
        self,
        signal: Callable,
        cameras: Float[Tensor, "b m 4 4"],
        pixel_indices: Int[Tensor, "b m n"] | None = None,
        downsample: int = 1,
        num_channels: int | None = None,
        supersampling: int = 1,
        pixel_offset: tuple[float, float] = (0.0, 0.0),
    ) -> RenderedRays:
        """The same as `render_rays`, for cameras that were checked.

        pixel_offset: where the rays pass, in pixels to the right of and below the pixels' centres
        """
        b, m = cameras.shape[:2]
        h, w = (max(1, n // downsample) for n in (self.height, self.width))
        uv = pixel_centres(h, w, cameras, pixel_offset)
        if pixel_indices is not None:
            _check_pixel_indices(pixel_indices, (b, m), len(uv))
        ray_indices = (
            torch.arange(len(uv), device=uv.device).expand(b, m, -1) if pixel_indices is None else pixel_indices
        )
        uv, rays_per_pixel = uv[ray_indices], supersampling**2  # (B, M, n, 2)
        if supersampling > 1:
            offsets = (pixel_centres(supersampling, supersampling, uv) - 0.5) / vector_like((w, h), uv)
            uv = (uv[..., None, :] + offsets).flatten(2, 3)
            ray_indices = ray_indices[..., None] * rays_per_pixel + torch.arange(rays_per_pixel, device=uv.device)
            ray_indices = ray_indices.flatten(2)
        origins, directions = rays(cameras, uv)  # (B, M, 1, 3), (B, M, n, 3)
        render = self._render_in_chunks(signal, origins, directions, ray_indices, num_channels)
        if supersampling == 1:
            return render
        return RenderedRays(*(x.unflatten(2, (-1, rays_per_pixel)).mean(3) for x in render))

    def _render_in_chunks(
        self,
        signal: Callable,
        origins: Float[Tensor, "b m 1 3"],
        directions: Float[Tensor, "b m n 3"],
        ray_indices: Int[Tensor, "b m n"],
        num_channels: int | None,
    ) -> RenderedRays:
        """Renders all rays, at once or in chunks; see points_per_chunk."""
        if self.points_per_chunk is None:
            return self._render_chunk(signal, num_channels, origins, directions, ray_indices)
        render = partial(self._render_chunk, signal, num_channels)
        if torch.is_grad_enabled():
            render = partial(checkpoint, render, use_reentrant=False)
        size = max(1, self.points_per_chunk // (directions.shape[1] * self.samples_per_ray))
        chunks = zip(directions.split(size, 2), ray_indices.split(size, 2), strict=True)
        renders = [render(origins, *chunk) for chunk in chunks]
        return RenderedRays(*(torch.cat(parts, 2) for parts in zip(*renders, strict=True)))

    def _render_chunk(
        self,
        signal: Callable,
        num_channels: int | None,
        origins: Float[Tensor, "b m 1 3"],
        directions: Float[Tensor, "b m n 3"],
        ray_indices: Int[Tensor, "b m n"],
    ) -> RenderedRays:
        """Renders these rays at once."""
        like = directions
        box_min, box_max = (vector_like(corner, like) for corner in (self.box_min, self.box_max))
        near, far = intersect_aabb(origins, directions, box_min, box_max)
        training = getattr(signal, "training", False)
        offsets = stratified_offsets(self.samples_per_ray, ray_indices if training else None, like)
        if self.near:
            bounds = (near.clamp(min=self.near), far.clamp(min=self.near))
            distance, delta = sample_linear_disparity(*bounds, offsets)
        else:
            distance, delta = sample_uniform(near, far, offsets)  # (B, M, n, S), (B, M, n, 1 or S)
        points = origins[..., None, :] + distance[..., None] * directions[..., None, :]  # (B, M, n, S, 3)
        density, rgb_features = _evaluate(signal, points.reshape(len(points), -1, 3))
        shape = distance.shape
        density = density.to(distance).view(shape)
        rgb_features = rgb_features[..., :num_channels].to(distance).unflatten(1, shape[1:])
        background = torch.zeros_like(rgb_features[0, 0, 0, 0])
        background[:3] = self.background
        return composite(density, rgb_features, delta, distance, far, background)
