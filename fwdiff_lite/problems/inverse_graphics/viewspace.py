"""View-space diffusion, a baseline that has no 3-D scene, in the manner of SparseFusion (Zhou and Tulsiani 2023).

The first part is a diffusion model of images. Its signal is the target image itself, and its forward model is the
identity. It has the conditioning and the encoder of our 3-D denoiser: a deterministic render of the context by the
target's camera. A convolution on the encoder's output then predicts the target image. Images that it predicts for two
cameras need not show the same scene.

The second part, `distil`, fits one scene to images that the model predicts for cameras all around. It needs an
optimisation for every scene. SparseFusion's second stage starts from deterministic renders and denoises in many steps;
ours starts from samples and denoises in one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fwdiff_lite.checks import check_count, check_positive
from fwdiff_lite.devices import vector_like
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations, gather_pixels
from fwdiff_lite.problems.inverse_graphics.pixelnerf import DENSITY_SCALE, Condition, SceneDenoiser
from fwdiff_lite.problems.inverse_graphics.volume import RenderedImages, VolumeRenderer


def identity_forward(
    signal: Float[Tensor, "b m 3 h w"],
    params: Float[Tensor, "b m 4 4"],
    pixel_indices: Int[Tensor, "b m n"] | None = None,
) -> Float[Tensor, "b m 3 *pixels"]:
    """The forward model of a diffusion model of images: the observation is the signal."""
    return signal if pixel_indices is None else gather_pixels(signal, pixel_indices)


class ViewDenoiser(SceneDenoiser):
    """Predicts the M target images independently of each other, not a scene, by a 1 x 1 convolution after the encoder.

    Arguments as of SceneDenoiser.
    """

    def __init__(self, renderer: VolumeRenderer, encoder: str = "unet", width: int = 64, **options):
        super().__init__(renderer, encoder, width, **options)
        self.rgb_head = nn.Conv2d(width, 3, 1)

    def prepare_sampling(self, condition: Condition) -> Condition:
        """The condition: no step evaluates a field."""
        return condition

    def forward(
        self, condition: Condition, noisy_target: Float[Tensor, "b m 3 h w"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b m 3 h w"]:
        """The signal: the predicted target images."""
        feature_maps = self.encode_targets(condition, noisy_target, t)
        return self.rgb_head(feature_maps.flatten(0, 1)).unflatten(0, feature_maps.shape[:2])


# --- from images to a scene -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class VoxelGrid:
    """B radiance fields, each a grid of values over the renderer's box.

    values: (B, 4, Z, Y, X) density before the softplus, and colours before the tanh
    """

    values: Float[Tensor, "b 4 z y x"]
    renderer: VolumeRenderer

    def __post_init__(self):
        if self.values.ndim != 5 or self.values.shape[1] != 4:
            raise ValueError(f"values have shape {tuple(self.values.shape)}, wanted (B, 4, Z, Y, X)")

    def __call__(self, points: Float[Tensor, "b p 3"]) -> tuple[Float[Tensor, "b p"], Float[Tensor, "b p 3"]]:
        """Density per unit of length, and colours in [-1, 1].

        The values are interpolated trilinearly, before softplus and tanh.
        """
        box_min, box_max = (vector_like(corner, points) for corner in (self.renderer.box_min, self.renderer.box_max))
        grid_points = (2 * (points - box_min) / (box_max - box_min) - 1)[:, :, None, None]  # (B, P, 1, 1, 3)
        values = nn.functional.grid_sample(self.values, grid_points, padding_mode="border", align_corners=True)
        values = values[..., 0, 0].transpose(1, 2)  # (B, 4, P, 1, 1) -> (B, P, 4)
        return DENSITY_SCALE * nn.functional.softplus(values[..., 0]), values[..., 1:].tanh()

    def render(self, cameras: Float[Tensor, "b m 4 4"]) -> RenderedImages:
        """Renders the scenes for M cameras each: colours, distance and opacity, without gradients."""
        with torch.no_grad():
            return self.renderer.render_images(self, cameras)


def total_variation(values: Float[Tensor, "b c z y x"]) -> Float[Tensor, ""]:
    """Mean absolute difference of neighbouring values along each of the three axes, summed over the axes."""
    if values.ndim != 5 or min(values.shape[2:]) < 2:
        raise ValueError(f"values have shape {tuple(values.shape)}, wanted (B, C, Z, Y, X) with at least two voxels")
    return sum(values.diff(dim=axis).abs().mean() for axis in (2, 3, 4))


@dataclass(frozen=True)
class DistillationConfig:
    """How `distil` fits a scene.

    num_rounds: with the first, which fits sampled images
    updates_per_round: steps of Adam in each round
    rays_per_camera: in an update
    resolution: voxels along the longest side of the grid
    tv_weight: weight of the grid's total variation
    learning_rate: of Adam

    ValueError if a count is below 1, or a number is out of range.
    """

    num_rounds: int = 8
    updates_per_round: int = 150
    rays_per_camera: int = 256
    resolution: int = 64
    tv_weight: float = 1e-2
    learning_rate: float = 0.1

    def __post_init__(self):
        check_count(num_rounds=self.num_rounds, updates_per_round=self.updates_per_round)
        check_count(rays_per_camera=self.rays_per_camera, resolution=self.resolution)
        check_positive(learning_rate=self.learning_rate)
        if not self.tv_weight >= 0:
            raise ValueError(f"got tv_weight = {self.tv_weight}, wanted 0 or more")


def distil(
    model: ForwardDiffusion,
    context: Observations,
    cameras: Float[Tensor, "b m 4 4"],
    generator: torch.Generator,
    steps: int = 32,
    eta: float = 0.0,
    config: DistillationConfig = DistillationConfig(),
) -> tuple[VoxelGrid, Float[Tensor, "b m 3 h w"]]:
    """Fits one scene to each context, whose renders by M cameras agree with a view-space diffusion model.

    Returns the scenes, and the images that the model sampled first.

    First the scene is fitted to images that the model samples for every camera independently. Then follow rounds with
    less and less noise: noise is added to renders of the scene, the model denoises them in one step, and the scene is
    fitted to the result. This is score distillation (Poole et al. 2023) with x0 in place of the score. The context's
    images are fitted in all rounds.

    steps, eta: of sampling
    """
    view_model, renderer = model.denoiser, model.denoiser.renderer
    with torch.no_grad():
        condition = view_model.condition(context, cameras)
        sampled_views = model.sample(context, cameras, steps=steps, eta=eta, generator=generator).signal
    grid = VoxelGrid(initial_grid(len(context), renderer, config.resolution).to(cameras).requires_grad_(), renderer)
    optimizer = torch.optim.Adam([grid.values], lr=config.learning_rate)
    all_cameras, views = torch.cat([context.params, cameras], 1), sampled_views
    for t in torch.linspace(1, 0, config.num_rounds + 1)[:-1]:
        if t < 1:
            renders = grid.render(cameras).rgb
            noise = torch.randn(renders.shape, generator=generator, device=generator.device).to(renders)
            noisy = model.schedule.alpha(t) * renders + model.schedule.sigma(t) * noise
            with torch.no_grad():
                views = view_model(condition, noisy, t.to(renders).expand(len(renders)))
        images = Observations(torch.cat([context.value, views], 1), all_cameras)
        fit_grid(grid, images, optimizer, generator, config)
    return VoxelGrid(grid.values.detach(), renderer), sampled_views


def fit_grid(
    grid: VoxelGrid,
    images: Observations,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    config: DistillationConfig,
) -> None:
    """One round of updates of the grid's values, each on random pixels of all images."""
    num_pixels = grid.renderer.height * grid.renderer.width
    shape = (*images.params.shape[:2], config.rays_per_camera)
    for _ in range(config.updates_per_round):
        pixel_indices = torch.randint(num_pixels, shape, generator=generator, device=generator.device)
        pixel_indices = pixel_indices.to(images.params.device)
        predicted = grid.renderer(grid, images.params, pixel_indices)
        mse = (predicted - gather_pixels(images.value, pixel_indices)).square().mean()
        optimizer.zero_grad()
        # a mean over scenes, not a sum: Adam is invariant to the scale of the loss
        (mse + config.tv_weight * total_variation(grid.values)).backward()
        optimizer.step()


def initial_grid(n: int, renderer: VolumeRenderer, resolution: int) -> Float[Tensor, "n 4 z y x"]:
    """Values of n grids of low density and grey colour. The voxels are cubes, `resolution` along the longest side."""
    check_count(n=n, resolution=resolution)
    sides = [high - low for low, high in zip(renderer.box_min, renderer.box_max, strict=True)]
    x, y, z = (max(2, round(resolution * side / max(sides))) for side in sides)
    values = torch.zeros(n, 4, z, y, x)
    values[:, 0] = -4.0
    return values
