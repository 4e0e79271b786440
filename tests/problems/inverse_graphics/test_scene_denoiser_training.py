"""Gradients reach every parameter of the pixelNeRF denoiser, and it can fit the views of a scene."""

from dataclasses import replace

import pytest
import torch
from pixelnerf_helpers import ENCODER_OPTIONS, generator, noise_images, small_denoiser
from torch import nn

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics.cameras import orbit, pixel_centres, rays
from fwdiff_lite.problems.inverse_graphics.pixelnerf import SceneDenoiser


def parameters_without_gradient(model, steps=6):
    """Parameters with at least one output row whose gradient is zero up to rounding in all steps, in float64."""
    model.double().train()
    context, target, novel = (noise_images(3, m, seed=s, dtype=torch.float64) for m, s in ((2, 0), (1, 5), (1, 7)))
    context = context.mask_out(torch.tensor([[False, False], [False, True], [False, False]]))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    max_gradients = {}
    for step in range(steps):
        optimizer.zero_grad()
        model.loss(context, target, *model.sample_time_and_noise(target, generator(step)), novel)["loss"].backward()
        for name, w in model.named_parameters():
            gradient = torch.zeros_like(w) if w.grad is None else w.grad.abs()
            assert torch.isfinite(gradient).all(), name
            gradient = gradient.flatten(1).amax(1) if w.ndim > 1 else gradient.amax(0, keepdim=True)  # of each output
            max_gradients[name] = torch.maximum(max_gradients.get(name, gradient), gradient)
        optimizer.step()
    return [name for name, gradient in max_gradients.items() if gradient.min() < 1e-10]


@pytest.mark.parametrize("encoder", ["unet", "dit"])
def test_every_parameter_has_a_gradient(encoder):
    denoiser = small_denoiser(encoder, randomized=False)
    assert parameters_without_gradient(ForwardDiffusion(denoiser, denoiser.renderer)) == []


def test_parameters_without_gradient_are_detected():
    """The control: a detached encoder, an unused layer, and rendered features that are detached."""

    class DetachedEncoder(SceneDenoiser):
        def encode(self, *inputs, is_target):
            return super().encode(*inputs, is_target).detach()

    denoiser = small_denoiser(randomized=False)
    options = {"width": 16, "num_features": 4, "encoder_options": ENCODER_OPTIONS["unet"]}
    detached_encoder = DetachedEncoder(denoiser.renderer, **options)
    names = parameters_without_gradient(ForwardDiffusion(detached_encoder, detached_encoder.renderer))
    assert {name.split(".")[1] for name in names} >= {"encoder", "project"}
    assert {f"denoiser.encoder.{name}" for name, _ in detached_encoder.encoder.named_parameters()} <= set(names)
    assert "denoiser.field.per_view_mlp.layers.1.weight" not in names
    denoiser.unused = nn.Linear(3, 3)
    names = parameters_without_gradient(ForwardDiffusion(denoiser, denoiser.renderer))
    assert {"denoiser.unused.weight", "denoiser.unused.bias"} <= set(names)

    class DetachedFeatures(SceneDenoiser):
        def condition(self, context, target_params, target_mask=None):
            condition = super().condition(context, target_params, target_mask)
            colour_and_depth, features = condition.rendered_cond[:, :, :5], condition.rendered_cond[:, :, 5:]
            return replace(condition, rendered_cond=torch.cat([colour_and_depth, features.detach()], 2))

    detached_features = DetachedFeatures(denoiser.renderer, **options)
    names = parameters_without_gradient(ForwardDiffusion(detached_features, detached_features.renderer))
    assert "denoiser.field.head.weight" in names, "features that no loss depends on"


def balls(cameras, side):
    """Ray-traced images of a red and a blue ball on white: (M, 4, 4) -> (M, 3, side, side), one ray per pixel."""
    origins, directions = rays(cameras, pixel_centres(side, side, cameras))
    image, nearest = cameras.new_ones(len(cameras), side * side, 3), cameras.new_full((len(cameras), side * side), 99)
    red, blue = ((0.3, 0.3, 0.0), 0.45, (0.8, -0.8, -0.8)), ((-0.4, -0.3, 0.1), 0.4, (-0.8, -0.6, 0.8))
    for centre, radius, colour in (red, blue):
        from_centre = origins - cameras.new_tensor(centre)
        b = (directions * from_centre).sum(-1)
        discriminant = b.square() - from_centre.square().sum(-1) + radius**2
        depth = -b - discriminant.clamp(min=0).sqrt()
        hit = (discriminant > 0) & (depth < nearest)
        image[hit], nearest = cameras.new_tensor(colour), torch.where(hit, depth, nearest)
    return image.mT.unflatten(2, (side, side))


def test_the_field_can_overfit_the_views_of_one_scene():
    """A pixelNeRF (Eq. 10) of two views renders them and a third view with an error far below the images' variance."""
    denoiser = small_denoiser(side=16, samples_per_ray=16, randomized=False, width=32)
    cameras = orbit(torch.tensor([0.2, 1.4, 0.8]), torch.tensor([0.3, 0.5, 0.4]), 3.0, 0.8)
    images = balls(cameras, 16)[None]
    views = Observations(images, cameras[None])
    context = views.select([0, 1])
    optimizer, all_indices = torch.optim.Adam(denoiser.parameters(), 5e-3), torch.arange(256).view(1, 1, -1)
    for step in range(200):
        optimizer.zero_grad()
        pixel_indices = all_indices[..., torch.randperm(256, generator=generator(step))[:96]].expand(1, 3, -1)
        scene = denoiser.condition(context, views.params[:, :1]).context
        predicted = denoiser.renderer(scene, views.params, pixel_indices=pixel_indices)
        expected = views.value.flatten(3).gather(-1, pixel_indices[:, :, None].expand(-1, -1, 3, -1))
        loss = (predicted - expected).square().mean()
        loss.backward()
        optimizer.step()
    denoiser.eval()

    def relative_mse(context):
        scene = denoiser.condition(context, views.params[:, :1]).context
        return (scene.render(views.params).rgb - images).square().mean(dim=(0, 2, 3, 4)) / images.var()

    assert relative_mse(context).max() < 0.05
    swapped = relative_mse(Observations(context.value.flip(1), context.params))
    assert swapped.min() > 0.2, "the control: each image with the camera of the other"
