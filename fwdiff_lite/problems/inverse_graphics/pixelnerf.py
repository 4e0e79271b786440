"""A pixelNeRF as the denoiser of a diffusion model: the 3-D structured denoiser of section 4.1 (figure 2).

A scene S is a radiance field that is conditioned on views of the scene (Eq. 10). A 3-D point is projected into each
view and takes the feature of the view's feature map there. A small network maps the features and the point's camera
coordinates in all views to density, colour and further features. The views are the context and the noisy target
(Eq. 11, 14),

    S = S(. | enc(O_ctxt; 0), enc(O_trgt_t, O_det; t)),

where O_det is a deterministic render of the target view from the context alone: its colour, distance and features give
the target's encoder the information of the context. Context and target share one encoder. Each pixel's ray is a
further input of the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fwdiff_lite.backbones import DiT, UNet
from fwdiff_lite.devices import vector_like
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics.bilinear import bilinear_sample_uv, fastest_layout
from fwdiff_lite.problems.inverse_graphics.cameras import (
    check_cameras,
    invert_projection,
    perspective_divide,
    pixel_centres,
    project_homogeneous,
    rays,
)
from fwdiff_lite.problems.inverse_graphics.volume import RenderedImages, RenderedRays, VolumeRenderer

CPU_CHUNK_POINTS = 2**13  # points x views in one call of the field's network on the CPU: they fit a core's cache
# Larger embeddings of a context are computed in each step.
MAX_EMBEDDING_BYTES, MAX_EMBEDDING_BYTES_CUDA = 2**29, 2**34
DENSITY_SCALE = 10.0  # density per unit of length = DENSITY_SCALE x softplus of the network's output


class PointEmbeddings(NamedTuple):
    """The embeddings (`FieldNetwork.embed`) that some views of B scenes have along rays, kept while other views change.

    renderer, cameras: the P points are those of all observed rays of M cameras (B, M, 4, 4) by this renderer
    values: (B, V, P, W) of the first V views of a RadianceField
    """

    renderer: VolumeRenderer
    cameras: Float[Tensor, "b m 4 4"]
    values: Float[Tensor, "b v p w"]


@dataclass(frozen=True, eq=False)
class RadianceField:
    """The signal: B scenes, each conditioned on V encoded views of it.

    feature_maps: (B, V, C, H, W) the encoding of each view, already projected to the width of the field's network
    cameras:      (B, V, 4, 4) of the views
    mask:         (B, V) True where there is a view
    training: whether renderers sample each ray at stratified offsets, as in training, or in the middle of its segments
    embeddings: of the first views, along rays that are rendered again and again; None: of no view
    """

    network: FieldNetwork
    renderer: VolumeRenderer
    feature_maps: Float[Tensor, "b v c h w"]
    cameras: Float[Tensor, "b v 4 4"]
    mask: Bool[Tensor, "b v"]
    training: bool = False
    embeddings: PointEmbeddings | None = None

    def __call__(self, points: Float[Tensor, "b p 3"]) -> tuple[Float[Tensor, "b p"], Float[Tensor, "b p o"]]:
        """Density, and colours followed by features, at world points (Eq. 10)."""
        return self._evaluate(points)

    def along_rays(self, renderer: VolumeRenderer, cameras: Float[Tensor, "b m 4 4"]) -> Callable:
        """The same field, for the points of all observed rays of these cameras alone: with its embeddings of them.

        The embeddings are used for the very tensor of cameras that they were computed for: a comparison of values would
        make a GPU wait. Other cameras, even with the same values, get the field itself.
        """
        kept = self.embeddings
        if kept is None or kept.cameras is not cameras or kept.renderer != renderer:
            return self
        return partial(self._evaluate, first_embeddings=kept.values)

    def _evaluate(
        self, points: Float[Tensor, "b p 3"], first_embeddings: Float[Tensor, "b f p w"] | None = None
    ) -> tuple[Float[Tensor, "b p"], Float[Tensor, "b p o"]]:
        """The field at points, at which the first F views may have been embedded before."""
        first, inputs = 0, (points,)
        if first_embeddings is not None:
            first, inputs = first_embeddings.shape[1], (points, first_embeddings)
        views = self._maps(first), self.cameras[:, first:], self.mask
        chunks = zip(*(self._chunks(x) for x in inputs), strict=True)
        density, rgb_features = zip(*(self.network(p, *views, *values) for p, *values in chunks), strict=True)
        if len(density) == 1:
            return density[0], rgb_features[0]
        return torch.cat(density, 1), torch.cat(rgb_features, 1)

    def embed(self, points: Float[Tensor, "b p 3"]) -> Float[Tensor, "b v p w"]:
        """The embeddings of all views at these points."""
        maps = self._maps()
        return torch.cat([self.network.embed(chunk, maps, self.cameras) for chunk in self._chunks(points)], 2)

    def _chunks(self, x: Float[Tensor, "*b p n"]) -> tuple[Tensor, ...]:
        """Values of points in several chunks, which are small on the CPU; all at once where gradients are wanted."""
        if x.is_cuda or torch.is_grad_enabled():
            return (x,)
        return x.split(max(1, CPU_CHUNK_POINTS // self.mask.numel()), -2)

    def _maps(self, first: int = 0) -> Float[Tensor, "b v c h w"]:
        """The feature maps from view `first` on, with the layout that all chunks of points share."""
        return fastest_layout(self.feature_maps[:, first:] if first else self.feature_maps)

    def __getitem__(self, rows) -> RadianceField:
        """Some of the scenes: `rows` is an index of a tensor's first axis. An int selects a batch of one scene."""
        if isinstance(rows, int):
            rows = slice(rows, rows + 1 or None)
        views = {"feature_maps": self.feature_maps[rows], "cameras": self.cameras[rows], "mask": self.mask[rows]}
        return replace(self, **views, embeddings=None)

    def render(self, cameras: Float[Tensor, "b m 4 4"]) -> RenderedImages:
        """Renders the scenes for M cameras each: colours, distance and opacity, without gradients."""
        b = len(self.feature_maps)
        if cameras.ndim != 4 or len(cameras) != b:
            raise ValueError(f"cameras {tuple(cameras.shape)} are not for {b} scenes: give (B, M, 4, 4)")
        with torch.no_grad():
            return self.renderer.render_images(self, cameras)


def cat(fields: list[RadianceField], dim: int = 0) -> RadianceField:
    """torch.cat for radiance fields: dim 0 joins batches of scenes, dim 1 joins views of the same scenes."""
    # the network reads all channels of a pixel at once, so the channels are contiguous in memory
    feature_maps = torch.cat([f.feature_maps.movedim(2, -1) for f in fields], dim).movedim(-1, 2)
    cameras, mask = (torch.cat(parts, dim) for parts in zip(*((f.cameras, f.mask) for f in fields), strict=True))
    return replace(fields[0], feature_maps=feature_maps, cameras=cameras, mask=mask, embeddings=None)


def positional_encoding(x: Float[Tensor, "*b d"], num_freqs: int) -> Float[Tensor, "*b e"]:
    """x, and the sines and cosines of pi / 2 x times 1, 2, 4, ...: e = d (1 + 2 num_freqs)."""
    # Python numbers, not the power of a tensor: compiled code would compute the power again for every point
    angles = torch.stack([x * (math.pi / 2 * 2**i) for i in range(num_freqs)], -1).flatten(-2)
    return torch.cat([x, angles.sin(), angles.cos()], -1)


def contract(points: Float[Tensor, "*b 3"], radius: float) -> tuple[Float[Tensor, "*b 3"], Float[Tensor, "*b"]]:
    """Contracts unbounded space to a ball of radius 2 (Barron et al. 2022, Eq. 10); also returns the stretch.

    Points are divided by `radius`. A point at a distance r > 1 from the origin then moves to the distance 2 - 1 / r, so
    far away, equal steps of the result are equal steps of disparity (1 / r). Nearer points stay.
    The stretch (*b,) is the length of a short radial step before division and contraction, over its length after them.
    """
    points = points / radius
    distance = points.norm(dim=-1, keepdim=True).clamp(min=1)
    return (2 - 1 / distance) * points / distance, radius * distance[..., 0].square()


def plucker_coordinates(
    cameras: Float[Tensor, "*b 4 4"], h: int, w: int, length_unit: float = 1.0
) -> Float[Tensor, "*b 6 h w"]:
    """Plücker coordinates of each pixel's ray: its direction d, and its moment o x d with o in units of length_unit.

    They do not depend on which point o of the ray is taken (Sitzmann et al. 2021, Section 3.1).
    """
    origins, directions = rays(cameras, pixel_centres(h, w, cameras))
    moments = torch.linalg.cross(origins.expand_as(directions), directions) / length_unit
    return torch.cat([directions, moments], -1).transpose(-1, -2).unflatten(-1, (h, w))


class _ResidualBlock(nn.Module):
    """Adds the output of two layers to x."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Float[Tensor, "*b w"]) -> Float[Tensor, "*b w"]:
        return x + self.layers(x)


class FieldNetwork(nn.Module):
    """Eq. 10: maps the features of a 3-D point in V views to the point's density, colour and features.

    An MLP embeds the point for each view. A weighted mean fuses the embeddings, with weights that the network predicts
    from them, and a second MLP maps the mean to the output. Where a point is outside of a view's image or behind its
    camera, the view contributes the point's camera coordinates and no image feature. The camera coordinates are those
    of `project_homogeneous`, with x and y multiplied by the focal length. Beside these coordinates of Eq. 10, the
    network takes world coordinates, because our scenes share one coordinate frame, that of their box.

    width: of all hidden layers, and of the feature maps
    num_features: channels of the field beside the colours
    num_freqs: frequencies of the positional encoding of coordinates
    contraction_radius: 0 for a bounded scene; otherwise the coordinates are contracted to a ball (`contract`, with this
        radius), and the network predicts density per unit of contracted length
    """

    outer_layers = ("camera_proj", "world_proj", "head")  # see muon.hidden_matrices

    def __init__(self, width: int, num_features: int, num_freqs: int = 4, contraction_radius: float = 0.0):
        super().__init__()
        self.width, self.num_freqs, self.contraction_radius = width, num_freqs, contraction_radius
        self.camera_proj = nn.Linear(3 * (1 + 2 * num_freqs) + 1, width)
        self.world_proj = nn.Linear(3 * (1 + 2 * num_freqs), width)
        self.per_view_mlp = _ResidualBlock(width)
        self.weight = nn.Linear(width, 1, bias=False)
        self.fusion_mlp = nn.Sequential(*(_ResidualBlock(width) for _ in range(2)), nn.SiLU())
        self.head = nn.Linear(width, 1 + 3 + num_features)

    def forward(
        self,
        points: Float[Tensor, "b p 3"],
        feature_maps: Float[Tensor, "b v c h w"],
        cameras: Float[Tensor, "b v 4 4"],
        mask: Bool[Tensor, "b u"],
        first_embeddings: Float[Tensor, "b f p c"] | None = None,
    ) -> tuple[Float[Tensor, "b p"], Float[Tensor, "b p o"]]:
        """Density per unit of length, and colours in [-1, 1] followed by features.

        first_embeddings: of F views that come before the V views whose maps and cameras are given
        mask: (B, F + V) of all views
        """
        h = self.embed(points, feature_maps, cameras)
        if first_embeddings is not None:
            h = torch.cat([first_embeddings, h], 1)
        view_mask = mask[:, :, None, None]
        weight = self.weight(h).masked_fill(~view_mask, -1e4).softmax(1) * view_mask  # all zero where there is no view
        output = self.head(self.fusion_mlp((weight * h).sum(1)))
        density = DENSITY_SCALE * nn.functional.softplus(output[..., 0])
        if self.contraction_radius:
            _, stretch = contract(points, self.contraction_radius)
            density = density / stretch
        return density, torch.cat([output[..., 1:4].tanh(), output[..., 4:]], -1)

    def embed(
        self,
        points: Float[Tensor, "b p 3"],
        feature_maps: Float[Tensor, "b v c h w"],
        cameras: Float[Tensor, "b v 4 4"],
    ) -> Float[Tensor, "b v p c"]:
        """The embeddings of points for each view, which the second MLP fuses."""
        b, v = cameras.shape[:2]
        homogeneous = project_homogeneous(cameras, points[:, None])  # (B, V, P, 3)
        uv, depth = perspective_divide(homogeneous)  # (B, V, P, 2), (B, V, P)
        inside = (depth > 0) & ((uv - 0.5).abs() <= 0.5).all(-1)
        uv = torch.where(inside[..., None], uv, 0.5)
        features = bilinear_sample_uv(feature_maps.flatten(0, 1), uv.flatten(0, 1)).unflatten(0, (b, v))  # (B, V, P, C)
        inside = inside[..., None].to(points.dtype)
        if self.contraction_radius:
            homogeneous, _ = contract(homogeneous, self.contraction_radius)
            points, _ = contract(points, self.contraction_radius)
        camera_encoding, world_encoding = (positional_encoding(x, self.num_freqs) for x in (homogeneous, points))
        h = self.camera_proj(torch.cat([camera_encoding, inside], -1)) + inside * features
        h = h + self.world_proj(world_encoding)[:, None]
        return self.per_view_mlp(h)


@dataclass(frozen=True, eq=False)
class Condition:
    """The part of the denoiser's input that does not depend on the noise.

    context: the scene that is conditioned on the context alone, with the context's feature maps and cameras
    rendered_cond: (B, M, C, H, W) the render of that scene by the targets' cameras: colour, distance, opacity, features
    cameras: (B, M, 4, 4) of the targets
    target_mask: (B, M) True where there is a target; None: everywhere
    deterministic_prediction: the colours of the render (O_det), at its own resolution; None where the denoiser is not
        conditioned on the render
    """

    context: RadianceField
    rendered_cond: Float[Tensor, "b m c h w"]
    cameras: Float[Tensor, "b m 4 4"]
    target_mask: Bool[Tensor, "b m"] | None
    deterministic_prediction: Observations | None


BACKBONES = {"unet": UNet, "dit": DiT}
COND_CHANNELS = ("colour", "depth", "features")  # of the deterministic render; "depth": the distance, and the opacity


class SceneDenoiser(nn.Module):
    """Eq. 14: predicts a scene from context images and noisy target images, with their cameras.

    encoder: a name in BACKBONES
    width: hidden width of the field's network, and output channels of the encoder
    num_features: channels of the field beside the colours, rendered as an input of the target's encoder (figure 2)
    num_freqs: frequencies of the field's positional encoding of coordinates
    render_downsample: divides height and width of the deterministic render
    render_samples: samples along each ray of the deterministic render; None: as many as the renderer has
    encoder_options: keyword arguments of the encoder beside its input and output channels
    map_upsampling: feature maps have so many times the images' pixels along each side. With the supersampling of a
        renderer, each ray of a pixel has features of its own (Shi et al. 2016)
    conditioning: which of COND_CHANNELS are inputs of the target's encoder. The others are zero; if there are none, the
        context is not rendered at all
    """

    def __init__(
        self,
        renderer: VolumeRenderer,
        encoder: str = "unet",
        width: int = 64,
        num_features: int = 16,
        num_freqs: int = 4,
        render_downsample: int = 2,
        encoder_options: dict | None = None,
        conditioning: tuple[str, ...] = COND_CHANNELS,
        map_upsampling: int = 1,
        render_samples: int | None = None,
    ):
        super().__init__()
        if encoder not in BACKBONES:
            raise ValueError(f"unknown encoder {encoder!r}: choose one of {', '.join(BACKBONES)}")
        if unknown := [name for name in conditioning if name not in COND_CHANNELS]:
            raise ValueError(f"unknown conditioning {', '.join(unknown)}: choose from {', '.join(COND_CHANNELS)}")
        self.renderer, self.render_downsample, self.render_samples = renderer, render_downsample, render_samples
        self.num_features, self.conditioning = num_features, conditioning
        in_channels = 3 + (3 + 2 + num_features) + 6 + 1  # images, rendered_cond, ray_embedding, is_target
        self.upsample = nn.PixelShuffle(map_upsampling) if map_upsampling > 1 else nn.Identity()
        self.encoder = BACKBONES[encoder](in_channels, width * map_upsampling**2, **(encoder_options or {}))
        # applied to each pixel of the map, not to each point: it is linear, so it commutes with bilinear sampling
        self.project = nn.Conv2d(width, width, 1)
        self.field = FieldNetwork(width, num_features, num_freqs, contraction_radius=renderer.near)

    def condition(self, context: Observations, target_params: Float[Tensor, "b m 4 4"], target_mask=None) -> Condition:
        """Encodes the context, and renders the scene that it gives by the targets' cameras."""
        check_cameras(context.params)
        scene = self.encode_context(context)
        if not self.conditioning:
            empty_render = self._empty_render(context.value, target_params.shape[1])
            return Condition(scene, empty_render, target_params, target_mask, None)
        render = self.render_context(scene, target_params)
        prediction = Observations(self._to_images(render.rgb_features[..., :3]), target_params)
        return Condition(scene, self.assemble_conditioning(render), target_params, target_mask, prediction)

    def prepare_sampling(self, condition: Condition) -> Condition:
        """The condition with the context's embeddings at all points of the targets' rays (protocols.PreparingDenoiser).

        The points are the same in each step. Nothing is kept where the renderer evaluates the points in several calls,
        where its samples are those of training, or the embeddings have more than MAX_EMBEDDING_BYTES.
        """
        if condition.context.training:
            return condition
        calls: list[Tensor] = []

        def record(points: Tensor) -> tuple[Tensor, Tensor]:
            calls.append(points)
            return torch.zeros_like(points[..., 0]), torch.zeros_like(points)

        self.renderer(record, condition.cameras)
        points, *others = calls
        num_bytes = points[..., 0].numel() * condition.context.mask.shape[1] * self.field.width * points.itemsize
        if others or num_bytes > (MAX_EMBEDDING_BYTES_CUDA if points.is_cuda else MAX_EMBEDDING_BYTES):
            return condition
        embeddings = PointEmbeddings(self.renderer, condition.cameras, condition.context.embed(points))
        return replace(condition, context=replace(condition.context, embeddings=embeddings))

    def encode_context(self, context: Observations) -> RadianceField:
        """The scene that is conditioned on the context alone, S(. | enc(O_ctxt; 0))."""
        images = torch.where(context.mask[:, :, None, None, None], context.value, 0)
        rendered_cond, t = self._empty_render(images, images.shape[1]), images.new_zeros(len(images))
        maps = self.encode(images, context.params, rendered_cond, t, is_target=False)
        feature_maps = fastest_layout(maps)  # here, and not again for each chunk of rays
        return RadianceField(self.field, self.renderer, feature_maps, context.params, context.mask, self.training)

    def render_context(self, scene: RadianceField, cameras: Float[Tensor, "b m 4 4"]) -> RenderedRays:
        """The deterministic render by the targets' cameras: colours and features, normalised distance, opacity.

        One ray is rendered for each of the P pixels of an image whose sides are divided by render_downsample:
        rgb_features (B, M, P, 3 + num_features), distance and opacity (B, M, P).
        """
        renderer = self.renderer
        if self.render_samples is not None:
            renderer = replace(renderer, samples_per_ray=self.render_samples)
        render = renderer.render_rays(scene, cameras, downsample=self.render_downsample)
        return render._replace(distance=self._normalize_distance(render.distance, cameras))

    def assemble_conditioning(self, render: RenderedRays) -> Float[Tensor, "b m c h w"]:
        """The render as an input of the encoder, at the size of its images: colour, distance, opacity, features.

        The channels of COND_CHANNELS that are not in `conditioning` are zero.
        """
        channels = {
            "colour": render.rgb_features[..., :3],
            "depth": torch.stack([render.distance, render.opacity], -1),
            "features": render.rgb_features[..., 3:],
        }
        inputs = [x if name in self.conditioning else torch.zeros_like(x) for name, x in channels.items()]
        rendered_cond = self._to_images(torch.cat(inputs, -1))
        size = (self.renderer.height, self.renderer.width)
        upsampled = nn.functional.interpolate(rendered_cond.flatten(0, 1), size)
        return upsampled.unflatten(0, rendered_cond.shape[:2])

    def encode_targets(
        self, condition: Condition, noisy_target: Float[Tensor, "b m 3 h w"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b m f h2 w2"]:
        """Feature maps of the noisy target, enc(O_trgt_t, O_det; t)."""
        return self.encode(noisy_target, condition.cameras, condition.rendered_cond, t, is_target=True)

    def encode(
        self,
        images: Float[Tensor, "b v 3 h w"],
        cameras: Float[Tensor, "b v 4 4"],
        rendered_cond: Float[Tensor, "b v c h w"],
        t: Float[Tensor, "b"],
        is_target: bool,
    ) -> Float[Tensor, "b v f h2 w2"]:
        """enc(O, phi; t): feature maps at the width of the field's network, with map_upsampling times the pixels.

        rendered_cond: as in Condition; zeros for context images
        is_target: a further input of the encoder, which distinguishes targets from context images
        """
        b, v, _, h, w = images.shape
        if (h, w) != (self.renderer.height, self.renderer.width):
            raise ValueError(
                f"images of {h}x{w} pixels, but this model's have {self.renderer.height}x{self.renderer.width}"
            )
        is_target_channel = images.new_full((b, v, 1, h, w), float(is_target))
        ray_embedding = plucker_coordinates(cameras, h, w, self.renderer.near or 1.0).to(images)
        inputs = torch.cat([images, rendered_cond, ray_embedding, is_target_channel], 2).flatten(0, 1)
        feature_maps = self.project(self.upsample(self.encoder(inputs, t.repeat_interleave(v))))
        # in the cameras' precision, even where networks run in a lower one: interpolation needs maps and positions of
        # one type, and half precision would move a position by a fifth of a pixel
        return feature_maps.to(cameras).unflatten(0, (b, v))

    def _empty_render(self, images: Float[Tensor, "b v 3 h w"], m: int) -> Float[Tensor, "b {m} c h2 w2"]:
        """The conditioning of M views that have no render: zeros, of the images' type."""
        return images.new_zeros(len(images), m, 5 + self.num_features, self.renderer.height, self.renderer.width)

    def _to_images(self, values: Float[Tensor, "b m p c"]) -> Float[Tensor, "b m c h w"]:
        """The values of all pixels of the deterministic render, as images."""
        h, w = (max(1, n // self.render_downsample) for n in (self.renderer.height, self.renderer.width))
        return values.transpose(-1, -2).unflatten(-1, (h, w))

    def _normalize_distance(
        self, distance: Float[Tensor, "b m p"], cameras: Float[Tensor, "b m 4 4"]
    ) -> Float[Tensor, "b m p"]:
        """Distance minus that of the box's centre, in units of half the box's diagonal.

        With a near plane: 1 - near / distance, from 0 at the near plane to 1 at infinity.
        """
        if self.renderer.near:
            return 1 - self.renderer.near / distance.clamp(min=self.renderer.near)
        corners = [vector_like(corner, cameras) for corner in (self.renderer.box_min, self.renderer.box_max)]
        box_centre = torch.stack(corners).mean(0)
        centre_distance = (invert_projection(cameras)[1] - box_centre).norm(dim=-1, keepdim=True)
        return (distance - centre_distance) / (0.5 * math.dist(self.renderer.box_min, self.renderer.box_max))

    def deterministic_prediction(self, condition: Condition) -> Observations | None:
        """The targets predicted from the context alone (protocols.DeterministicDenoiser)."""
        return condition.deterministic_prediction

    def forward(
        self, condition: Condition, noisy_target: Float[Tensor, "b m 3 h w"], t: Float[Tensor, "b"]
    ) -> RadianceField:
        """Eq. 14: the signal, a scene that is conditioned on the context and the noisy target."""
        context = condition.context
        feature_maps = self.encode_targets(condition, noisy_target, t)
        mask = condition.target_mask
        if mask is None:
            mask = torch.ones(feature_maps.shape[:2], dtype=torch.bool, device=feature_maps.device)
        target = replace(context, feature_maps=feature_maps, cameras=condition.cameras, mask=mask)
        return replace(cat([context, target], 1), embeddings=context.embeddings)
