"""Points take the features of their own projections only, and gradients reach every parameter."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics import pixelnerf
from fwdiff_lite.problems.inverse_graphics.cameras import look_at, orbit, pixel_centres, project, rays
from fwdiff_lite.problems.inverse_graphics.pixelnerf import (
    FieldNetwork,
    SceneDenoiser,
    bilinear_by_gather,
    bilinear_sample,
    contract,
    plucker_coordinates,
)
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer

ENCODER_OPTIONS = {
    "unet": {"widths": (16, 16), "num_blocks": 1, "num_attention_levels": 1},
    "dit": {"width": 16, "depth": 1, "heads": 2, "patch": 2},
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_denoiser(encoder="unet", side=8, samples_per_ray=6, randomized=True, width=16):
    """A small denoiser; randomized: with random weights everywhere, since an untrained encoder's output is zero."""
    torch.manual_seed(0)
    renderer = VolumeRenderer((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), side, side, samples_per_ray)
    denoiser = SceneDenoiser(
        renderer, encoder, width, num_features=4, encoder_channels=16, encoder_options=ENCODER_OPTIONS[encoder]
    )
    if randomized:
        for w in denoiser.parameters():
            w.data += 0.2 * torch.randn(w.shape, generator=generator(w.numel()))
    return denoiser


def orbit_cameras(b, m, seed=0, dtype=torch.float32):
    """Cameras that see the whole box."""
    azimuth = 6 * torch.rand(b, m, generator=generator(seed), dtype=dtype)
    return orbit(azimuth, 0.2 + torch.rand(b, m, generator=generator(seed + 1), dtype=dtype), 3.0, 0.9)


def noise_images(b, m, side=8, seed=0, dtype=torch.float32):
    """Observations with random pixels."""
    value = torch.rand(b, m, 3, side, side, generator=generator(seed), dtype=dtype)
    return Observations(2 * value - 1, orbit_cameras(b, m, seed, dtype))


# --- features of points -----------------------------------------------------------------------------------------------


def test_bilinear_sampling_is_exact_at_pixel_centres_and_linear_between_them():
    maps = torch.randn(2, 5, 3, 4, generator=generator(), dtype=torch.float64)
    uv = pixel_centres(3, 4, maps).expand(2, 12, 2)
    torch.testing.assert_close(bilinear_sample(maps, uv), maps.flatten(2).mT)
    between = bilinear_sample(maps, uv + torch.tensor([0.5 / 4, 0.0]).double())
    torch.testing.assert_close(between.mT.unflatten(2, (3, 4))[..., :3], (maps[..., 1:] + maps[..., :-1]) / 2)
    corner = bilinear_sample(maps, torch.tensor([0.01, 0.01]).double().expand(2, 1, 2))
    torch.testing.assert_close(corner[:, 0], maps[:, :, 0, 0])


@pytest.mark.parametrize("size", [(5, 7), (1, 7), (5, 1)])
def test_bilinear_sampling_by_gather_is_the_same(size):
    """Inside and outside of the image, and the gradients, too."""
    maps = torch.randn(3, 4, *size, generator=generator(), dtype=torch.float64, requires_grad=True)
    uv = 1.4 * torch.rand(3, 50, 2, generator=generator(1), dtype=torch.float64) - 0.2
    torch.testing.assert_close(bilinear_by_gather(maps, uv), bilinear_sample(maps, uv))
    weight = torch.randn(3, 50, 4, generator=generator(2), dtype=torch.float64)
    functions = (bilinear_by_gather, bilinear_sample)
    gradients = [torch.autograd.grad((sample(maps, uv) * weight).sum(), maps)[0] for sample in functions]
    torch.testing.assert_close(*gradients)


def test_a_field_does_not_depend_on_the_size_of_chunks(monkeypatch):
    denoiser, context = small_denoiser(), noise_images(2, 2)
    points = 2 * torch.rand(2, 37, 3, generator=generator()) - 1
    with torch.no_grad():
        field = denoiser.condition(context.select([0]), context.params[:, 1:]).context
        unchunked = field(points)
        monkeypatch.setattr(pixelnerf, "CPU_CHUNK_POINTS", 10)
        for chunked, expected in zip(field(points), unchunked, strict=True):
            torch.testing.assert_close(chunked, expected)


def test_projection_before_and_after_bilinear_sampling_is_the_same_up_to_rounding():
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        layer = nn.Conv2d(5, 7, 1).to(dtype)
        maps = torch.randn(2, 5, 6, 6, generator=generator(), dtype=dtype)
        uv = torch.rand(2, 50, 2, generator=generator(1), dtype=dtype)
        before = bilinear_sample(layer(maps), uv)
        after = bilinear_sample(maps, uv) @ layer.weight[:, :, 0, 0].T + layer.bias
        torch.testing.assert_close(before, after, rtol=0, atol=tolerance)
        difference = bilinear_sample(layer(maps).relu(), uv) - after.relu()
        assert difference.abs().max() > 0.01, "the control: a nonlinear layer does not commute"
    model = small_denoiser().double()
    assert isinstance(model.project, nn.Conv2d) and model.project.kernel_size == (1, 1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return FieldNetwork(16, 4).double()


def query(network, point, cameras, seed):
    maps = torch.randn(1, cameras.shape[1], 16, 8, 8, generator=generator(seed), dtype=torch.float64)
    return network(point, maps, cameras, torch.ones(1, cameras.shape[1], dtype=torch.bool))


def test_points_behind_a_camera_or_outside_of_its_image_take_no_feature(network):
    """The point's reflection through the camera centre projects to the same pixel: it must not take the feature."""
    eye = torch.tensor([3.0, 0.0, 1.0], dtype=torch.float64)
    cameras = look_at(eye, 0 * eye, 0.6)[None, None]
    inside = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)
    uv = torch.tensor([[0.99, 0.01], [1.01, 0.5], [0.5, -0.01]], dtype=torch.float64)
    origins, directions = rays(cameras[0, 0], uv)
    for point, visible in (
        (inside, True),
        (2 * eye - inside, False),
        *zip(origins + 3 * directions, (True, False, False), strict=True),
    ):
        outputs = (query(network, point[None, None], cameras, seed) for seed in (0, 1))
        for a, b in zip(*outputs, strict=True):
            assert torch.equal(a, b) != visible, point
    (reflected_uv, uv), (reflected_depth, depth) = project(cameras[0, 0], torch.stack([2 * eye - inside, inside]))
    torch.testing.assert_close(reflected_uv, uv)
    assert reflected_depth < 0 < depth and ((uv > 0) & (uv < 1)).all(), "the control: only their depths differ"


def test_a_point_behind_one_camera_takes_the_feature_of_the_other_view(network):
    cameras = torch.stack([look_at(torch.tensor([x, 0.0, 0.0]).double(), torch.zeros(3).double(), 0.6) for x in (3, 6)])
    point = torch.tensor([[[4.0, 0.1, 0.1]]], dtype=torch.float64)  # between the cameras: behind the first
    mask, maps = torch.ones(1, 2, dtype=torch.bool), torch.randn(1, 2, 16, 8, 8, generator=generator()).double()

    def output(maps):
        return torch.cat([x.flatten() for x in network(point, maps, cameras[None], mask)])

    for view, changes in ((0, False), (1, True)):
        changed = maps.clone()
        changed[:, view] += 1
        assert torch.equal(output(maps), output(changed)) != changes


def test_the_output_is_finite_at_the_camera_centre_and_far_away(network):
    cameras = orbit_cameras(1, 2, dtype=torch.float64)
    eye = rays(cameras, torch.tensor([[0.5, 0.5]]).double())[0][0, 0]
    for point in (eye[None], torch.full((1, 1, 3), 1e4).double()):
        density, colour = query(network, point, cameras, 0)
        assert torch.isfinite(density).all() and torch.isfinite(colour).all()
        assert density.min() >= 0 and colour[..., :3].abs().max() <= 1


def test_the_order_of_views_does_not_matter_and_their_cameras_do(network):
    cameras, mask = orbit_cameras(2, 3, dtype=torch.float64), torch.tensor([[True, True, True], [True, False, True]])
    points = torch.rand(2, 40, 3, generator=generator(), dtype=torch.float64) - 0.5
    maps = torch.randn(2, 3, 16, 8, 8, generator=generator(1), dtype=torch.float64)
    order = [2, 0, 1]
    expected = network(points, maps, cameras, mask)
    for a, b in zip(expected, network(points, maps[:, order], cameras[:, order], mask[:, order]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    for a, b in zip(expected, network(points, maps[:, order], cameras, mask), strict=True):
        assert (a - b).abs().max() > 1e-3, "the control: images with the cameras of others"


def test_a_masked_view_changes_nothing(network):
    cameras, points = (
        orbit_cameras(1, 3, dtype=torch.float64),
        torch.rand(1, 40, 3, generator=generator()).double() - 0.5,
    )
    maps = torch.randn(1, 3, 16, 8, 8, generator=generator(1)).double()
    mask = torch.tensor([[True, False, True]])
    outputs = []
    for value in (0.0, 1.0, 1e6):
        other_maps, other_cameras = maps.clone(), cameras.clone()
        other_maps[:, 1], other_cameras[:, 1] = value, orbit_cameras(1, 1, int(value) % 7, torch.float64)[:, 0]
        outputs.append(network(points, other_maps, other_cameras, mask))
    outputs.append(network(points, maps[:, [0, 2]], cameras[:, [0, 2]], mask[:, [0, 2]]))
    for other in outputs[1:]:
        for a, b in zip(outputs[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    empty = torch.zeros_like(mask)
    without_views = network(points, maps, cameras, empty), network(points, 5 * maps, other_cameras, empty)
    for a, b in zip(*without_views, strict=True):
        assert torch.equal(a, b), "with all views masked, the output depends on no view"
    density, _ = network(points, maps, cameras, torch.ones_like(mask))
    assert (density - outputs[0][0]).abs().max() > 1e-3, "the control: an unmasked view changes the output"


# --- the denoiser -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 50.0, math.nan])
def test_a_masked_image_changes_no_loss_and_no_sample_for_any_value(value):
    observations, target = noise_images(2, 2), noise_images(2, 1, seed=5)
    model = ForwardDiffusion(small_denoiser().eval(), small_denoiser().renderer)
    time_and_noise = model.sample_time_and_noise(target, generator())
    images = observations.value.clone()
    images[:, 1] = value
    masked = Observations(images, observations.params, torch.tensor([[True, False], [True, False]]))
    single = observations.select([0])
    for context in (single, masked):
        context.check("context")
    losses, masked_losses = (model.loss(context, target, *time_and_noise) for context in (single, masked))
    for name in losses:
        torch.testing.assert_close(losses[name], masked_losses[name], rtol=1e-5, atol=1e-6)
    samples = [
        model.sample(context, target.params, steps=3, generator=generator(1)).observation
        for context in (single, masked, observations)
    ]
    torch.testing.assert_close(samples[0], samples[1], rtol=0, atol=1e-4)
    assert (samples[0] - samples[2]).abs().max() > 1e-2, "the control: a second image that is not masked"


def test_the_rendered_conditioning_is_normalised():
    """Figure 2: the render's colours, depth relative to the box's centre in units of its size, opacity, features."""
    denoiser, context = small_denoiser().eval(), noise_images(2, 2)
    target = orbit(torch.tensor([[0.1, 2.0, 4.0]]).expand(2, 3), 0.5, 3.0, 0.4)  # all rays meet the box
    condition = denoiser.condition(context, target)
    assert condition.rendered_cond.shape == (2, 3, 3 + 2 + 4, 8, 8)
    assert condition.deterministic_prediction.value.shape == (2, 3, 3, 4, 4)
    coarse = condition.rendered_cond[..., ::2, ::2]
    assert all(torch.equal(condition.rendered_cond[..., i::2, j::2], coarse) for i in (0, 1) for j in (0, 1))
    assert torch.equal(coarse[:, :, :3], condition.deterministic_prediction.value)
    render = denoiser.renderer.render_rays(condition.context, target, downsample=2)
    depth = render.depth.unflatten(-1, (4, 4))
    torch.testing.assert_close(coarse[:, :, 3], (depth - 3.0) / math.sqrt(3), rtol=0, atol=1e-5)
    assert coarse[:, :, 3].abs().max() < 1 < depth.min(), "the control: depth before normalisation"
    torch.testing.assert_close(coarse[:, :, 4], render.opacity.unflatten(-1, (4, 4)))
    torch.testing.assert_close(coarse[:, :, 5:].flatten(3).mT, render.rgb_features[..., 3:])


def test_channels_that_are_no_conditioning_are_zero():
    """The other channels do not change; with no conditioning at all there is no deterministic prediction."""
    target = orbit(torch.tensor([[0.1, 2.0]]).expand(2, 2), 0.5, 3.0, 0.4)
    channel_indices = {"colour": [0, 1, 2], "depth": [3, 4], "features": [5, 6, 7, 8]}
    context, conditions = noise_images(2, 2), {}
    for conditioning in (tuple(channel_indices), ("colour", "depth"), ("colour", "features"), ()):
        denoiser = small_denoiser().eval()
        denoiser.conditioning = conditioning
        conditions[conditioning] = denoiser.condition(context, target)
    full = conditions[tuple(channel_indices)]
    for conditioning, condition in conditions.items():
        for name, channels in channel_indices.items():
            rendered = condition.rendered_cond[:, :, channels]
            expected = full.rendered_cond[:, :, channels] if name in conditioning else torch.zeros_like(rendered)
            assert torch.equal(rendered, expected), conditioning
        if conditioning:
            assert torch.equal(condition.deterministic_prediction.value, full.deterministic_prediction.value)
    assert conditions[()].deterministic_prediction is None
    with torch.no_grad():
        signal = denoiser(conditions[()], torch.zeros(2, 2, 3, 8, 8), torch.ones(2))
    assert signal.render(target).rgb.isfinite().all()


def test_with_an_untrained_encoder_the_field_does_not_depend_on_the_images():
    denoiser = small_denoiser(randomized=False).eval()
    points = torch.rand(2, 30, 3, generator=generator()) - 0.5
    cameras = orbit_cameras(2, 1)
    outputs = [
        denoiser.condition(Observations(noise_images(2, 1, seed=seed).value, cameras), cameras).context(points)
        for seed in (0, 1)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


@pytest.mark.parametrize("encoder", ["unet", "dit"])
def test_time_and_noise_reach_the_scene_but_not_the_context(encoder):
    denoiser, context, target = small_denoiser(encoder).eval(), noise_images(2, 1), noise_images(2, 1, seed=5)
    condition = denoiser.condition(context, target.params)
    scenes = [
        denoiser(condition, value, torch.full((2,), t))
        for value, t in ((target.value, 0.1), (target.value, 0.9), (target.value + 0.5, 0.1))
    ]
    for other in scenes[1:]:
        assert torch.equal(scenes[0].feature_maps[:, 0], other.feature_maps[:, 0])
        assert (scenes[0].feature_maps[:, 1] - other.feature_maps[:, 1]).abs().max() > 1e-2
    assert torch.equal(scenes[0].cameras, torch.cat([context.params, target.params], 1))
    assert torch.equal(scenes[0].feature_maps[:, 0], condition.context.feature_maps[:, 0])
    as_context = denoiser.encode(target.value, target.params, None, torch.zeros(2))
    as_target = denoiser.encode(target.value, target.params, torch.zeros_like(condition.rendered_cond), torch.zeros(2))
    assert not torch.allclose(as_target, as_context), "the encoder distinguishes targets from the context"
    other_cameras = denoiser.encode(target.value, context.params, None, torch.zeros(2))
    assert not torch.allclose(other_cameras, as_context), "the encoder depends on the cameras"


def test_contraction_maps_space_to_a_ball_of_radius_two_and_keeps_near_points():
    """In float64. The stretch is the inverse of the radial derivative."""
    directions = nn.functional.normalize(torch.randn(20, 3, generator=generator(), dtype=torch.float64), dim=-1)
    distance = torch.logspace(-1, 4, 20, dtype=torch.float64).requires_grad_()
    contracted, stretch = contract(distance[:, None] * directions, 3.0)
    radius = (contracted * directions).sum(-1)
    torch.testing.assert_close(contracted, radius[:, None] * directions)
    expected = torch.where(distance < 3, distance / 3, 2 - 3 / distance)
    torch.testing.assert_close(radius, expected)
    torch.testing.assert_close(torch.autograd.grad(radius.sum(), distance)[0], 1 / stretch)
    assert radius.max() < 2


def test_unbounded_scenes_do_not_depend_on_the_unit_of_length():
    """A scene that is ten times as large, as are near and far, has the same views: every clip has its own unit."""
    signals, rendered_conds = [], []
    for scale, near in ((1.0, 1.0), (10.0, 10.0), (10.0, 1.0)):
        torch.manual_seed(0)
        renderer = VolumeRenderer((-50.0 * near,) * 3, (50.0 * near,) * 3, 8, 8, 12, near=near)
        denoiser = SceneDenoiser(
            renderer, "unet", 16, num_features=4, encoder_channels=16, encoder_options=ENCODER_OPTIONS["unet"]
        )
        for w in denoiser.parameters():
            w.data += 0.2 * torch.randn(w.shape, generator=generator(w.numel()))
        eyes = torch.tensor([[[0.0, 0, 0], [0.5, 0.2, 0.1]]])
        cameras = look_at(scale * eyes, scale * torch.tensor([[[3.0, 1, 0], [3, 0, 0]]]), 0.9)
        images = noise_images(1, 2).value
        condition = denoiser.condition(Observations(images[:, :1], cameras[:, :1]), cameras[:, 1:])
        scene = denoiser(condition, images[:, 1:], torch.tensor([0.5]))
        signals.append(scene.render(cameras).rgb)
        rendered_conds.append(condition.rendered_cond)
    for unscaled, scaled, other in (signals, rendered_conds):
        assert (unscaled - scaled).abs().max() < 1e-3
        assert (unscaled - other).abs().max() > 0.03, "the control: another near and far"
    assert rendered_conds[0][:, :, 3].min() >= 0 and rendered_conds[0][:, :, 3].max() <= 1, "depth, from near to far"


def test_plucker_coordinates_do_not_depend_on_the_point_of_the_ray():
    cameras = orbit_cameras(2, 3).double()
    ray_directions, moments = plucker_coordinates(cameras, 4, 6).flatten(-2).mT.split(3, -1)  # (B, M, P, 3) twice
    origins, directions = rays(cameras, pixel_centres(4, 6, cameras))
    torch.testing.assert_close(ray_directions, directions)
    torch.testing.assert_close(moments, torch.linalg.cross(origins + 1.7 * directions, directions))
    assert (ray_directions * moments).sum(-1).abs().max() < 1e-12


@pytest.mark.parametrize("model", [ForwardDiffusion, ForwardRegression])
def test_the_loss_has_no_randomness_and_trains_the_deterministic_prediction(model):
    denoiser = small_denoiser()
    model, context, target, novel = model(denoiser, denoiser.renderer), *(noise_images(2, 1, seed=s) for s in (0, 5, 7))
    pixel_indices = torch.randint(64, (2, 1, 20), generator=generator())
    time_and_noise = model.sample_time_and_noise(target, generator())
    losses = [model.loss(context, target, *time_and_noise, novel, pixel_indices, pixel_indices) for _ in range(2)]
    assert set(losses[0]) == {"target", "novel", "deterministic", "loss"}
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    total = losses[0]["target"] + losses[0]["novel"] + losses[0]["deterministic"]
    torch.testing.assert_close(losses[0]["loss"], total)
    prediction = denoiser.condition(context, target.params).deterministic_prediction
    averages = nn.functional.avg_pool2d(target.value[:, 0], 2)
    torch.testing.assert_close(losses[0]["deterministic"], (prediction.value[:, 0] - averages).square().mean())
    if isinstance(model, ForwardRegression):
        step = model.sample(context, target.params)
        other = Observations(target.value + 1, target.params)
        other_losses = model(context, other, *model.sample_time_and_noise(other, generator()))
        assert step.t == 1 and step.observation.shape == target.value.shape
        assert not torch.equal(other_losses["target"], losses[0]["target"])


def test_losses_in_half_precision_are_nearly_the_same():
    denoiser = small_denoiser(side=16)
    model, context, target = ForwardDiffusion(denoiser, denoiser.renderer), *(noise_images(4, 1, 16, s) for s in (0, 5))
    time_and_noise = model.sample_time_and_noise(target, generator())
    full = model.loss(context, target, *time_and_noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.loss(context, target, *time_and_noise)
    for name in full:
        assert half[name].dtype == torch.float32 and not torch.equal(half[name], full[name])
        torch.testing.assert_close(half[name], full[name], rtol=0.02, atol=0)


# --- gradients --------------------------------------------------------------------------------------------------------


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
        def encode(self, *inputs):
            return super().encode(*inputs).detach()

    denoiser = small_denoiser(randomized=False)
    options = {"width": 16, "num_features": 4, "encoder_channels": 16, "encoder_options": ENCODER_OPTIONS["unet"]}
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


# --- end to end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["unet", "dit"])
def test_a_sampled_scene_renders_from_any_camera(encoder):
    denoiser = small_denoiser(encoder).eval()
    model, context, target = (
        ForwardDiffusion(denoiser, denoiser.renderer),
        noise_images(3, 2),
        orbit_cameras(3, 2, seed=5),
    )
    calls = []
    hook = denoiser.encoder.register_forward_hook(lambda *_: calls.append(1))
    step = model.sample(context, target, steps=4, generator=generator())
    hook.remove()
    assert len(calls) == 1 + 4, "the context is encoded once for all steps"
    assert step.observation.shape == (3, 2, 3, 8, 8) and torch.isfinite(step.observation).all()
    image = step.signal.render(target)
    torch.testing.assert_close(image.rgb, step.observation, rtol=0, atol=1e-6)
    novel = step.signal.render(orbit_cameras(3, 5, seed=9))
    assert novel.rgb.shape == (3, 5, 3, 8, 8) and novel.depth.shape == novel.opacity.shape == (3, 5, 8, 8)
    assert novel.opacity.min() >= 0 and novel.opacity.max() <= 1 and novel.opacity.std() > 1e-3
    assert novel.rgb.abs().max() <= 1 and novel.depth.min() > 3 - math.sqrt(3) and not novel.rgb.requires_grad
    repeated = model.sample(context, target, steps=4, generator=generator())
    assert torch.equal(repeated.observation, step.observation)


@pytest.mark.parametrize("encoder", ["unet", "dit"])
def test_images_can_be_single_rows_of_pixels(encoder):
    renderer = VolumeRenderer((-1.0, -1.0, -0.1), (1.0, 1.0, 0.1), 1, 16, 6)
    options = {**ENCODER_OPTIONS[encoder], "dims": 1}
    model = ForwardDiffusion(SceneDenoiser(renderer, encoder, 16, 4, 16, encoder_options=options).eval(), renderer)
    cameras = orbit(torch.tensor([[0.3, 2.0], [1.0, 4.0]]), 0.0, 3.0, 0.8)
    context = Observations(torch.rand(2, 2, 3, 1, 16, generator=generator()), cameras)
    losses = model.loss(context, context, *model.sample_time_and_noise(context, generator()))
    assert all(torch.isfinite(x) for x in losses.values())
    assert model.denoiser.condition(context, cameras).deterministic_prediction.value.shape == (2, 2, 3, 1, 8)
    image = model.sample(context, cameras, steps=2, generator=generator()).signal.render(cameras[:, :1])
    assert image.rgb.shape == (2, 1, 3, 1, 16) and image.depth.shape == (2, 1, 1, 16)


@pytest.mark.parametrize("rows", [slice(1, 3), [2, 0], torch.tensor([1]), torch.tensor([True, False, True])])
def test_scenes_are_selected_by_their_rows(rows):
    denoiser = small_denoiser().eval()
    scenes = denoiser.condition(noise_images(3, 2), orbit_cameras(3, 1)).context
    cameras = orbit_cameras(3, 2, seed=9)
    all_images, selected_images = scenes.render(cameras), scenes[rows].render(cameras[rows])
    for a, b in zip(all_images, selected_images, strict=True):
        torch.testing.assert_close(a[rows], b, rtol=0, atol=1e-5)
    torch.testing.assert_close(scenes[1].render(cameras[1:2]).rgb, all_images.rgb[1:2], rtol=0, atol=1e-5)
    assert (all_images.rgb[0] - all_images.rgb[2]).abs().max() > 1e-3


def test_sampled_images_join_the_context():
    denoiser = small_denoiser().eval()
    model, context, path = (
        ForwardDiffusion(denoiser, denoiser.renderer),
        noise_images(2, 1),
        orbit_cameras(2, 3, seed=5),
    )
    step, context = model.sample_autoregressive(context, path, steps=2, generator=generator())
    assert context.value.shape == (2, 4, 3, 8, 8) and torch.equal(context.params[:, 1:], path)
    assert step.signal.feature_maps.shape[1] == 4 and torch.equal(context.value[:, 3:], step.observation)


def test_rendering_is_deterministic_and_samples_other_points_in_training():
    denoiser, context, target = small_denoiser(), noise_images(2, 1), orbit_cameras(2, 1, seed=5)
    images = {}
    for training in (True, False):
        denoiser.train(training)
        scene = denoiser.condition(context, target).context
        images[training] = scene.render(target).rgb
        assert scene.training is training and torch.equal(images[training], scene.render(target).rgb)
    assert (images[True] - images[False]).abs().max() > 1e-4
    for samples_per_ray in (50, 200):  # both approximate the same integral
        denoiser.renderer = replace(denoiser.renderer, samples_per_ray=samples_per_ray)
        renders = [denoiser.train(x).condition(context, target).context.render(target).rgb for x in (True, False)]
        difference = (renders[0] - renders[1]).abs().max()
        assert difference < (images[True] - images[False]).abs().max() * 12 / samples_per_ray


def test_sampling_without_context_needs_allow_empty():
    denoiser = small_denoiser().eval()
    model, context, target = (
        ForwardDiffusion(denoiser, denoiser.renderer),
        noise_images(2, 2),
        orbit_cameras(2, 1, seed=5),
    )
    empty = context.mask_out(torch.ones(2, 2, dtype=torch.bool))
    step = model.sample(empty, target, steps=2, generator=generator(), allow_empty=True)
    assert torch.isfinite(step.observation).all()
    with pytest.raises(ValueError, match="context is empty for 2 of 2 signals.*allow_empty=True") as caught:
        model.sample(empty, target, steps=2)
    assert "\n" not in str(caught.value)
    other = Observations(context.value + 1, context.params, empty.mask)
    other_step = model.sample(other, target, steps=2, generator=generator(), allow_empty=True)
    torch.testing.assert_close(other_step.observation, step.observation, rtol=0, atol=1e-5)
    conditional = model.sample(context, target, steps=2, generator=generator())
    assert (conditional.observation - step.observation).abs().max() > 1e-2, "the control: a context that is not empty"


def test_invalid_input_raises_one_line_errors():
    denoiser = small_denoiser().eval()
    model, context, target = (
        ForwardDiffusion(denoiser, denoiser.renderer),
        noise_images(2, 1),
        noise_images(2, 1, seed=5),
    )
    large = noise_images(2, 1, side=16)
    time_and_noise = model.sample_time_and_noise(target, generator())
    singular = target.params.clone()
    singular[..., 0, :] = singular[..., 1, :]
    scenes = denoiser.condition(context, target.params).context
    for call, message in (
        (lambda: model.sample(large, target.params), "images of 16x16 pixels, but this model's have 8x8"),
        (lambda: model.loss(large, target, *time_and_noise), "images of 16x16 pixels, but this model's have 8x8"),
        (
            lambda: model.loss(context, large, *model.sample_time_and_noise(large, generator())),
            "images of 16x16 pixels, but this",
        ),
        (
            lambda: SceneDenoiser(denoiser.renderer, conditioning=("depth", "smell")),
            "unknown conditioning smell: choose from colour, depth, features",
        ),
        (lambda: SceneDenoiser(denoiser.renderer, "vit"), "unknown encoder 'vit': choose one of unet, dit"),
        (lambda: model.sample(context, singular), "a camera matrix is not invertible"),
        (
            lambda: model.sample(Observations(context.value, singular), target.params),
            "a camera matrix is not invertible",
        ),
        (
            lambda: model.sample(Observations(context.value, context.params * 2), target.params),
            "last row of a camera matrix must be 0 0 0 1",
        ),
        (
            lambda: model.sample(Observations(context.value * math.nan, context.params), target.params),
            "NaN or infinite",
        ),
        (lambda: model.sample(context, target.params[:1]), "are not for the 2 signals of the context"),
        (lambda: scenes.render(singular), "a camera matrix is not invertible"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_cameras_for_another_number_of_scenes_raise_one_line_errors():
    scenes = small_denoiser().eval().condition(noise_images(2, 1), orbit_cameras(2, 1)).context
    for cameras, message in (
        (orbit_cameras(3, 1), r"cameras \(3, 1, 4, 4\) are not for 2 scenes: give \(B, M, 4, 4\)"),
        (orbit_cameras(1, 5), r"cameras \(1, 5, 4, 4\) are not for 2 scenes"),
        (orbit_cameras(2, 1)[:, 0], r"cameras \(2, 4, 4\) are not for 2 scenes"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            scenes.render(cameras)
        assert "\n" not in str(caught.value)
