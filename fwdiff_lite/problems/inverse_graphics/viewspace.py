"""View-space diffusion, the baseline without a scene, in the manner of SparseFusion (Zhou and Tulsiani 2023).

First, a diffusion model of pictures. Its signal is the target picture itself, and its forward model is the identity.
It is told what our denoiser is told, a deterministic render of the context at the target's camera, and its encoder is
the same; but then it paints. What it paints at two cameras need not be of one scene.

Then, `distil` fits one scene to what is painted all around. That takes an optimisation for every scene. SparseFusion's
second stage begins with deterministic renders and denoises in many steps, ours with samples and in one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations, gather_pixels
from fwdiff_lite.problems.inverse_graphics.pixelnerf import DENSITY_SCALE, Condition, SceneDenoiser
from fwdiff_lite.problems.inverse_graphics.volume import Image, VolumeRenderer


def identity(
    signal: Float[Tensor, "b m 3 h w"], params: Float[Tensor, "b m 4 4"], pixel_indices: Int[Tensor, "b m n"] | None = None
) -> Float[Tensor, "b m 3 *places"]:
    """The forward model of pictures that are their own observation."""
    return signal if pixel_indices is None else gather_pixels(signal, pixel_indices)


class ViewDenoiser(SceneDenoiser):
    """The M target pictures, each by itself, instead of a scene: one convolution more on what the encoder says."""

    def __init__(self, renderer: VolumeRenderer, encoder: str = "unet", width: int = 64, **options):
        super().__init__(renderer, encoder, width, **options)
        self.rgb_head = nn.Conv2d(width, 3, 1)

    def forward(
        self, condition: Condition, noisy_target: Float[Tensor, "b m 3 h w"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b m 3 h w"]:
        """The signal."""
        maps = self.encode(noisy_target, condition.cameras, condition.known, t)
        return self.rgb_head(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])


# --- from pictures to a scene -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Grid:
    """B radiance fields as numbers on a grid over the renderer's box: raw density and colours (B, 4, Z, Y, X)."""

    values: Float[Tensor, "b 4 z y x"]
    renderer: VolumeRenderer

    def __call__(self, points: Float[Tensor, "b p 3"]) -> tuple[Float[Tensor, "b p"], Float[Tensor, "b p 3"]]:
        """Density in one over the unit of length, and colours in [-1, 1]; linear in between, before both are bent."""
        low, high = (points.new_tensor(corner) for corner in (self.renderer.low, self.renderer.high))
        place = (2 * (points - low) / (high - low) - 1)[:, :, None, None]  # (B, P, 1, 1, 3)
        raw = nn.functional.grid_sample(self.values, place, padding_mode="border", align_corners=True)
        raw = raw[..., 0, 0].transpose(1, 2)  # (B, 4, P, 1, 1) -> (B, P, 4)
        return DENSITY_SCALE * nn.functional.softplus(raw[..., 0]), raw[..., 1:].tanh()

    def render(self, cameras: Float[Tensor, "b m 4 4"]) -> Image:
        """What M cameras would see: colours, depth and opacity."""
        with torch.no_grad():
            return self.renderer.image(self, cameras)


def roughness(values: Float[Tensor, "b c z y x"]) -> Float[Tensor, ""]:
    """Mean absolute difference of neighbours along the three axes, added: the total variation of B grids."""
    return sum(values.diff(dim=axis).abs().mean() for axis in (2, 3, 4))


def distil(
    model: ForwardDiffusion,
    context: Observations,
    cameras: Float[Tensor, "b m 4 4"],
    generator: torch.Generator,
    steps: int = 32,
    eta: float = 0.0,
    rounds: int = 8,
    updates: int = 150,
    rays: int = 256,
    cells: int = 64,
    smooth: float = 1e-2,
    rate: float = 0.1,
) -> tuple[Grid, Float[Tensor, "b m 3 h w"]]:
    """One scene for each context that looks, from M cameras, as the model of pictures wants; and what it painted first.

    First the scene is fitted to pictures that the model samples at every camera by itself. Then, in rounds of less and
    less noise, its own renders are noised, the model denoises them in one step, and the scene follows: score
    distillation (Poole et al. 2023) with x0 in place of the score. The context's pictures are fitted all the while.

    steps, eta: of sampling; rounds: of painting, the first included; updates: by Adam in each, at a learning `rate`
    rays: of each camera in an update
    cells: of the grid, along its longest side; smooth: weight of its total variation
    """
    renderer, paint = model.denoiser.renderer, model.denoiser
    with torch.no_grad():
        condition = paint.condition(context, cameras)
        painted = model.sample(context, cameras, steps=steps, eta=eta, generator=generator).signal
    everywhere = torch.cat([context.params, cameras], 1)
    grid = Grid(empty_grid(len(context), renderer, cells).to(cameras).requires_grad_(), renderer)
    optimizer = torch.optim.Adam([grid.values], lr=rate)
    pictures, first = torch.cat([context.value, painted], 1), painted
    shape = (*everywhere.shape[:2], rays)
    for t in torch.linspace(1, 0, rounds + 1)[:-1]:
        if t < 1:
            seen = grid.render(cameras).rgb
            noise = torch.randn(seen.shape, generator=generator, device=generator.device).to(seen)
            noisy = model.schedule.alpha(t) * seen + model.schedule.sigma(t) * noise
            with torch.no_grad():
                painted = paint(condition, noisy, t.to(seen).expand(len(seen)))
            pictures = torch.cat([context.value, painted], 1)
        for _ in range(updates):
            pixel_indices = torch.randint(renderer.height * renderer.width, shape, generator=generator, device=generator.device)
            pixel_indices = pixel_indices.to(cameras.device)
            misfit = (renderer(grid, everywhere, pixel_indices) - gather_pixels(pictures, pixel_indices)).square().mean()
            optimizer.zero_grad()
            (misfit + smooth * roughness(grid.values)).backward()  # a mean over scenes: Adam does not mind its scale
            optimizer.step()
    return Grid(grid.values.detach(), renderer), first


def empty_grid(n: int, renderer: VolumeRenderer, cells: int) -> Float[Tensor, "n 4 z y x"]:
    """n grids of a thin grey fog, with cubic cells, `cells` of them along the box's longest side."""
    sides = [high - low for low, high in zip(renderer.low, renderer.high, strict=True)]
    x, y, z = (max(2, round(cells * side / max(sides))) for side in sides)
    values = torch.zeros(n, 4, z, y, x)
    values[:, 0] = -4.0
    return values
