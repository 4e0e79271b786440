"""Points look up what views show of them and of nothing else; and what is to be learnt is reached by gradients."""

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
    contract,
    bilinear_by_gather,
    plucker_coordinates,
    bilinear_sample,
)
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer

OPTIONS = {
    "unet": {"widths": (16, 16), "blocks": 1, "attention": 1},
    "dit": {"width": 16, "depth": 1, "heads": 2, "patch": 2},
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small(encoder="unet", side=8, samples_per_ray=6, randomized=True, width=16):
    """A small denoiser; shaken: with weights at random everywhere, since a new one's encoder answers zero."""
    torch.manual_seed(0)
    renderer = VolumeRenderer((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), side, side, samples_per_ray)
    denoiser = SceneDenoiser(renderer, encoder, width, num_features=4, encoder_channels=16, options=OPTIONS[encoder])
    if randomized:
        for w in denoiser.parameters():
            w.data += 0.2 * torch.randn(w.shape, generator=generator(w.numel()))
    return denoiser


def orbit_cameras(b, m, seed=0, dtype=torch.float32):
    """Cameras that see the whole box."""
    azimuth = 6 * torch.rand(b, m, generator=generator(seed), dtype=dtype)
    return orbit(azimuth, 0.2 + torch.rand(b, m, generator=generator(seed + 1), dtype=dtype), 3.0, 0.9)


def noise_images(b, m, side=8, seed=0, dtype=torch.float32):
    """Observations of nothing: every pixel at random."""
    value = torch.rand(b, m, 3, side, side, generator=generator(seed), dtype=dtype)
    return Observations(2 * value - 1, orbit_cameras(b, m, seed, dtype))


# --- features of points -----------------------------------------------------------------------------------------------


def test_features_are_those_of_pixels_at_their_centres_and_between_them_in_between():
    maps = torch.randn(2, 5, 3, 4, generator=generator(), dtype=torch.float64)
    uv = pixel_centres(3, 4, maps).expand(2, 12, 2)
    torch.testing.assert_close(bilinear_sample(maps, uv), maps.flatten(2).mT)
    off = bilinear_sample(maps, uv + torch.tensor([0.5 / 4, 0.0]).double())
    torch.testing.assert_close(off.mT.unflatten(2, (3, 4))[..., :3], (maps[..., 1:] + maps[..., :-1]) / 2)
    corner = bilinear_sample(maps, torch.tensor([0.01, 0.01]).double().expand(2, 1, 2))
    torch.testing.assert_close(corner[:, 0], maps[:, :, 0, 0])


@pytest.mark.parametrize("size", [(5, 7), (1, 7), (5, 1)])
def test_features_gathered_by_hand_are_the_same(size):
    """Inside and outside of the image, with their gradients."""
    maps = torch.randn(3, 4, *size, generator=generator(), dtype=torch.float64, requires_grad=True)
    uv = 1.4 * torch.rand(3, 50, 2, generator=generator(1), dtype=torch.float64) - 0.2
    torch.testing.assert_close(bilinear_by_gather(maps, uv), bilinear_sample(maps, uv))
    weight = torch.randn(3, 50, 4, generator=generator(2), dtype=torch.float64)
    slopes = [torch.autograd.grad((look(maps, uv) * weight).sum(), maps)[0] for look in (bilinear_by_gather, bilinear_sample)]
    torch.testing.assert_close(*slopes)


def test_a_field_is_the_same_however_many_points_are_asked_at_once(monkeypatch):
    denoiser, seen = small(), noise_images(2, 2)
    points = 2 * torch.rand(2, 37, 3, generator=generator()) - 1
    with torch.no_grad():
        field = denoiser.condition(seen.select([0]), seen.params[:, 1:]).context
        whole = field(points)
        monkeypatch.setattr(pixelnerf, "CPU_CHUNK_POINTS", 10)
        for part, wanted in zip(field(points), whole, strict=True):
            torch.testing.assert_close(part, wanted)


def test_features_projected_before_sampling_are_those_projected_after_to_rounding():
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        layer = nn.Conv2d(5, 7, 1).to(dtype)
        maps = torch.randn(2, 5, 6, 6, generator=generator(), dtype=dtype)
        uv = torch.rand(2, 50, 2, generator=generator(1), dtype=dtype)
        depth_ahead = bilinear_sample(layer(maps), uv)
        after = bilinear_sample(maps, uv) @ layer.weight[:, :, 0, 0].T + layer.bias
        torch.testing.assert_close(depth_ahead, after, rtol=0, atol=tolerance)
        bent = bilinear_sample(layer(maps).relu(), uv) - after.relu()
        assert bent.abs().max() > 0.01, "the control: what is not linear may not come before"
    model = small().double()
    assert isinstance(model.project, nn.Conv2d) and model.project.kernel_size == (1, 1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return FieldNetwork(16, 4).double()


def looked_up(network, point, cameras, seed):
    maps = torch.randn(1, cameras.shape[1], 16, 8, 8, generator=generator(seed), dtype=torch.float64)
    return network(point, maps, cameras, torch.ones(1, cameras.shape[1], dtype=torch.bool))


def test_points_behind_a_camera_or_off_its_image_get_no_feature_and_those_inside_do(network):
    """The mirror image of a point through the camera projects to the same pixel: it must not pick its feature."""
    eye = torch.tensor([3.0, 0.0, 1.0], dtype=torch.float64)
    cameras = look_at(eye, 0 * eye, 0.6)[None, None]
    inside = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)
    uv = torch.tensor([[0.99, 0.01], [1.01, 0.5], [0.5, -0.01]], dtype=torch.float64)
    origins, directions = rays(cameras[0, 0], uv)
    for point, there in (
        (inside, True),
        (2 * eye - inside, False),
        *zip(origins + 3 * directions, (True, False, False), strict=True),
    ):
        first, second = (looked_up(network, point[None, None], cameras, seed) for seed in (0, 1))
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b) != there, point
    (mirrored, true), (behind, depth_ahead) = project(cameras[0, 0], torch.stack([2 * eye - inside, inside]))
    torch.testing.assert_close(mirrored, true)
    assert behind < 0 < depth_ahead and ((true > 0) & (true < 1)).all(), "the control: depth alone tells them apart"


def test_a_point_that_one_view_has_behind_it_is_still_looked_up_in_the_other(network):
    cameras = torch.stack([look_at(torch.tensor([x, 0.0, 0.0]).double(), torch.zeros(3).double(), 0.6) for x in (3, 6)])
    point = torch.tensor([[[4.0, 0.1, 0.1]]], dtype=torch.float64)  # between them: behind the first
    mask, maps = torch.ones(1, 2, dtype=torch.bool), torch.randn(1, 2, 16, 8, 8, generator=generator()).double()

    def answer(maps):
        return torch.cat([x.flatten() for x in network(point, maps, cameras[None], mask)])

    for view, changes in ((0, False), (1, True)):
        other = maps.clone()
        other[:, view] += 1
        assert torch.equal(answer(maps), answer(other)) != changes


def test_a_point_far_off_and_without_features_has_a_finite_answer(network):
    cameras = orbit_cameras(1, 2, dtype=torch.float64)
    eye = rays(cameras, torch.tensor([[0.5, 0.5]]).double())[0][0, 0]
    for point in (eye[None], torch.full((1, 1, 3), 1e4).double()):
        density, colour = looked_up(network, point, cameras, 0)
        assert torch.isfinite(density).all() and torch.isfinite(colour).all()
        assert density.min() >= 0 and colour[..., :3].abs().max() <= 1


def test_the_order_of_views_does_not_matter_and_their_cameras_do(network):
    cameras, mask = orbit_cameras(2, 3, dtype=torch.float64), torch.tensor([[True, True, True], [True, False, True]])
    points = torch.rand(2, 40, 3, generator=generator(), dtype=torch.float64) - 0.5
    maps = torch.randn(2, 3, 16, 8, 8, generator=generator(1), dtype=torch.float64)
    order = [2, 0, 1]
    one = network(points, maps, cameras, mask)
    for a, b in zip(one, network(points, maps[:, order], cameras[:, order], mask[:, order]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    for a, b in zip(one, network(points, maps[:, order], cameras, mask), strict=True):
        assert (a - b).abs().max() > 1e-3, "the control: images beside one another's cameras"


def test_a_view_that_is_not_there_changes_nothing(network):
    cameras, points = orbit_cameras(1, 3, dtype=torch.float64), torch.rand(1, 40, 3, generator=generator()).double() - 0.5
    maps = torch.randn(1, 3, 16, 8, 8, generator=generator(1)).double()
    mask = torch.tensor([[True, False, True]])
    answers = []
    for value in (0.0, 1.0, 1e6):
        changed, moved = maps.clone(), cameras.clone()
        changed[:, 1], moved[:, 1] = value, orbit_cameras(1, 1, int(value) % 7, torch.float64)[:, 0]
        answers.append(network(points, changed, moved, mask))
    answers.append(network(points, maps[:, [0, 2]], cameras[:, [0, 2]], mask[:, [0, 2]]))
    for other in answers[1:]:
        for a, b in zip(answers[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    none = torch.zeros_like(mask)
    for a, b in zip(network(points, maps, cameras, none), network(points, 5 * maps, moved, none), strict=True):
        assert torch.equal(a, b), "without any view, a point is asked of nobody"
    there = network(points, maps, cameras, torch.ones_like(mask))
    assert (there[0] - answers[0][0]).abs().max() > 1e-3, "the control: a view that is there changes something"


# --- the denoiser -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 50.0, math.nan])
def test_a_dropped_image_changes_no_loss_and_no_sample_whatever_it_holds(value):
    seen, target = noise_images(2, 2), noise_images(2, 1, seed=5)
    model = ForwardDiffusion(small().eval(), small().renderer)
    time_and_noise = model.sample_time_and_noise(target, generator())
    there = torch.tensor([[True, False], [True, False]])
    image = seen.value.clone()
    image[:, 1] = value
    dropped = Observations(image, seen.params, there)
    for context in (seen.select([0]), dropped):
        context.check("context")
    alone, beside = (model.loss(context, target, *time_and_noise) for context in (seen.select([0]), dropped))
    for name in alone:
        torch.testing.assert_close(alone[name], beside[name], rtol=1e-5, atol=1e-6)
    samples_per_ray = [
        model.sample(context, target.params, steps=3, generator=generator(1)).observation
        for context in (seen.select([0]), dropped, seen)
    ]
    torch.testing.assert_close(samples_per_ray[0], samples_per_ray[1], rtol=0, atol=1e-4)
    assert (samples_per_ray[0] - samples_per_ray[2]).abs().max() > 1e-2, "the control: a second image that is there"


def test_what_a_target_is_told_of_the_context_is_in_known_units():
    """Figure 2: the render's colours, depth about the box's middle in units of its size, opacity, and features."""
    denoiser, seen = small().eval(), noise_images(2, 2)
    target = orbit(torch.tensor([[0.1, 2.0, 4.0]]).expand(2, 3), 0.5, 3.0, 0.4)  # all of whose rays meet the box
    condition = denoiser.condition(seen, target)
    assert condition.rendered_cond.shape == (2, 3, 3 + 2 + 4, 8, 8) and condition.deterministic_prediction.value.shape == (2, 3, 3, 4, 4)
    coarse = condition.rendered_cond[..., ::2, ::2]
    assert all(torch.equal(condition.rendered_cond[..., i::2, j::2], coarse) for i in (0, 1) for j in (0, 1))
    assert torch.equal(coarse[:, :, :3], condition.deterministic_prediction.value)
    raw = denoiser.renderer.render_rays(condition.context, target, downsample=2)
    depth = raw.depth.unflatten(-1, (4, 4))
    torch.testing.assert_close(coarse[:, :, 3], (depth - 3.0) / math.sqrt(3), rtol=0, atol=1e-5)
    assert coarse[:, :, 3].abs().max() < 1 < depth.min(), "the control: raw depth"
    torch.testing.assert_close(coarse[:, :, 4], raw.opacity.unflatten(-1, (4, 4)))
    torch.testing.assert_close(coarse[:, :, 5:].flatten(3).mT, raw.rgb_features[..., 3:])


def test_what_a_target_is_not_told_of_the_context_is_zero():
    """And the rest is as it was; without any of it there is no render, and its weights have nothing to answer for."""
    target = orbit(torch.tensor([[0.1, 2.0]]).expand(2, 2), 0.5, 3.0, 0.4)
    parts, seen, conditions = {"colour": [0, 1, 2], "depth": [3, 4], "features": [5, 6, 7, 8]}, noise_images(2, 2), {}
    for told in (tuple(parts), ("colour", "depth"), ("colour", "features"), ()):
        denoiser = small().eval()
        denoiser.conditioning = told
        conditions[told] = denoiser.condition(seen, target)
    whole = conditions[tuple(parts)]
    for told, condition in conditions.items():
        for name, encoder_channels in parts.items():
            found = condition.rendered_cond[:, :, encoder_channels]
            assert torch.equal(found, whole.rendered_cond[:, :, encoder_channels] if name in told else torch.zeros_like(found)), told
        if told:
            assert torch.equal(condition.deterministic_prediction.value, whole.deterministic_prediction.value)
    assert conditions[()].deterministic_prediction is None
    with torch.no_grad():
        signal = denoiser(conditions[()], torch.zeros(2, 2, 3, 8, 8), torch.ones(2))
    assert signal.render(target).rgb.isfinite().all()


def test_an_untrained_encoder_shows_nothing_and_the_field_is_the_same_for_all():
    denoiser = small(randomized=False).eval()
    points = torch.rand(2, 30, 3, generator=generator()) - 0.5
    cameras = orbit_cameras(2, 1)
    answers = [
        denoiser.condition(Observations(noise_images(2, 1, seed=seed).value, cameras), cameras).context(points)
        for seed in (0, 1)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


@pytest.mark.parametrize("encoder", ["unet", "dit"])
def test_time_and_noise_reach_the_scene_but_not_the_context(encoder):
    denoiser, seen, target = small(encoder).eval(), noise_images(2, 1), noise_images(2, 1, seed=5)
    condition = denoiser.condition(seen, target.params)
    scenes = [
        denoiser(condition, value, torch.full((2,), t))
        for value, t in ((target.value, 0.1), (target.value, 0.9), (target.value + 0.5, 0.1))
    ]
    for other in scenes[1:]:
        assert torch.equal(scenes[0].feature_maps[:, 0], other.feature_maps[:, 0])
        assert (scenes[0].feature_maps[:, 1] - other.feature_maps[:, 1]).abs().max() > 1e-2
    assert torch.equal(scenes[0].cameras, torch.cat([seen.params, target.params], 1))
    assert torch.equal(scenes[0].feature_maps[:, 0], condition.context.feature_maps[:, 0])
    told = target.value, target.params
    flag = denoiser.encode(*told, torch.zeros_like(condition.rendered_cond), torch.zeros(2))
    assert not torch.allclose(flag, denoiser.encode(*told, None, torch.zeros(2))), "a target is flagged as one"
    elsewhere = denoiser.encode(target.value, seen.params, None, torch.zeros(2))
    assert not torch.allclose(elsewhere, denoiser.encode(*told, None, torch.zeros(2))), "an encoder knows its camera"


def test_contracted_space_is_a_ball_of_radius_two_and_what_is_near_stays():
    """In float64; a step away from the origin is as much longer as is said."""
    directions = nn.functional.normalize(torch.randn(20, 3, generator=generator(), dtype=torch.float64), dim=-1)
    distance = torch.logspace(-1, 4, 20, dtype=torch.float64).requires_grad_()
    near, stretch = contract(distance[:, None] * directions, 3.0)
    radius = (near * directions).sum(-1)
    torch.testing.assert_close(near, radius[:, None] * directions)
    expected = torch.where(distance < 3, distance / 3, 2 - 3 / distance)
    torch.testing.assert_close(radius, expected)
    torch.testing.assert_close(torch.autograd.grad(radius.sum(), distance)[0], 1 / stretch)
    assert radius.max() < 2


def test_scenes_all_around_do_not_depend_on_the_unit_of_length():
    """The same views of a scene ten times as large, with near and far so, show the same: a clip's unit is its own."""
    signals, rendered_conds = [], []
    for scale, near in ((1.0, 1.0), (10.0, 10.0), (10.0, 1.0)):
        torch.manual_seed(0)
        renderer = VolumeRenderer((-50.0 * near,) * 3, (50.0 * near,) * 3, 8, 8, 12, near=near)
        denoiser = SceneDenoiser(renderer, "unet", 16, num_features=4, encoder_channels=16, options=OPTIONS["unet"])
        for w in denoiser.parameters():
            w.data += 0.2 * torch.randn(w.shape, generator=generator(w.numel()))
        eyes = torch.tensor([[[0.0, 0, 0], [0.5, 0.2, 0.1]]])
        cameras = look_at(scale * eyes, scale * torch.tensor([[[3.0, 1, 0], [3, 0, 0]]]), 0.9)
        images = noise_images(1, 2).value
        condition = denoiser.condition(Observations(images[:, :1], cameras[:, :1]), cameras[:, 1:])
        scene = denoiser(condition, images[:, 1:], torch.tensor([0.5]))
        signals.append(scene.render(cameras).rgb)
        rendered_conds.append(condition.rendered_cond)
    for (one, ten, other), close in ((signals, 1e-3), (rendered_conds, 1e-3)):
        assert (one - ten).abs().max() < close
        assert (one - other).abs().max() > 0.03, "the control: another near and far"
    assert rendered_conds[0][:, :, 3].min() >= 0 and rendered_conds[0][:, :, 3].max() <= 1, "depth, from near to far"


def test_plucker_coordinates_are_those_of_the_ray_wherever_on_it_they_are_taken():
    cameras = orbit_cameras(2, 3).double()
    d, moment = plucker_coordinates(cameras, 4, 6).flatten(-2).mT.split(3, -1)  # (B, M, P, 3) twice
    origins, directions = rays(cameras, pixel_centres(4, 6, cameras))
    torch.testing.assert_close(d, directions)
    torch.testing.assert_close(moment, torch.linalg.cross(origins + 1.7 * directions, directions))
    assert (d * moment).sum(-1).abs().max() < 1e-12


@pytest.mark.parametrize("model", [ForwardDiffusion, ForwardRegression])
def test_a_loss_has_no_randomness_and_trains_the_estimate(model):
    denoiser = small()
    model, seen, target, novel = model(denoiser, denoiser.renderer), *(noise_images(2, 1, seed=s) for s in (0, 5, 7))
    at, time_and_noise = torch.randint(64, (2, 1, 20), generator=generator()), model.sample_time_and_noise(target, generator())
    losses = [model.loss(seen, target, *time_and_noise, novel, at, at) for _ in range(2)]
    assert set(losses[0]) == {"target", "novel", "deterministic", "loss"}
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    total = losses[0]["target"] + losses[0]["novel"] + losses[0]["deterministic"]
    torch.testing.assert_close(losses[0]["loss"], total)
    estimate = denoiser.condition(seen, target.params).deterministic_prediction
    averages = nn.functional.avg_pool2d(target.value[:, 0], 2)
    torch.testing.assert_close(losses[0]["deterministic"], (estimate.value[:, 0] - averages).square().mean())
    if isinstance(model, ForwardRegression):
        step = model.sample(seen, target.params)
        other = Observations(target.value + 1, target.params)
        blind = model(seen, other, *model.sample_time_and_noise(other, generator()))
        assert step.t == 1 and step.observation.shape == target.value.shape
        assert not torch.equal(blind["target"], losses[0]["target"])


def test_in_half_precision_losses_are_nearly_the_same():
    denoiser = small(side=16)
    model, seen, target = ForwardDiffusion(denoiser, denoiser.renderer), *(noise_images(4, 1, 16, s) for s in (0, 5))
    time_and_noise = model.sample_time_and_noise(target, generator())
    full = model.loss(seen, target, *time_and_noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.loss(seen, target, *time_and_noise)
    for name in full:
        assert half[name].dtype == torch.float32 and not torch.equal(half[name], full[name])
        torch.testing.assert_close(half[name], full[name], rtol=0.02, atol=0)


# --- what is to be learnt is reached ----------------------------------------------------------------------------------


def dead(model, steps=6):
    """Parameters that no gradient but rounding reaches, in a few steps of training in float64: one row is enough."""
    model.double().train()
    seen, target, novel = (noise_images(3, m, seed=s, dtype=torch.float64) for m, s in ((2, 0), (1, 5), (1, 7)))
    seen = seen.mask_out(torch.tensor([[False, False], [False, True], [False, False]]))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    largest = {}
    for step in range(steps):
        optimizer.zero_grad()
        model.loss(seen, target, *model.sample_time_and_noise(target, generator(step)), novel)["loss"].backward()
        for name, w in model.named_parameters():
            size = torch.zeros_like(w) if w.grad is None else w.grad.abs()
            assert torch.isfinite(size).all(), name
            size = size.flatten(1).amax(1) if w.ndim > 1 else size.amax(0, keepdim=True)  # each output's weights
            largest[name] = torch.maximum(largest.get(name, size), size)
        optimizer.step()
    return [name for name, size in largest.items() if size.min() < 1e-10]


@pytest.mark.parametrize("encoder", ["unet", "dit"])
def test_every_parameter_has_a_gradient(encoder):
    denoiser = small(encoder, randomized=False)
    assert dead(ForwardDiffusion(denoiser, denoiser.renderer)) == []


def test_parameters_that_have_no_gradient_are_found():
    """The control: an encoder cut off, and a layer that nobody asks."""

    class CutOff(SceneDenoiser):
        def encode(self, *told):
            return super().encode(*told).detach()

    denoiser = small(randomized=False)
    cut = CutOff(denoiser.renderer, width=16, num_features=4, encoder_channels=16, options=OPTIONS["unet"])
    found = dead(ForwardDiffusion(cut, cut.renderer))
    assert {name.split(".")[1] for name in found} >= {"encoder", "project"}
    assert {f"denoiser.encoder.{name}" for name, _ in cut.encoder.named_parameters()} <= set(found)
    assert "denoiser.field.per_view_mlp.layers.1.weight" not in found
    denoiser.spare = nn.Linear(3, 3)
    assert {"denoiser.spare.weight", "denoiser.spare.bias"} <= set(dead(ForwardDiffusion(denoiser, denoiser.renderer)))

    class Unread(SceneDenoiser):
        def condition(self, context, target_params):
            found = super().condition(context, target_params)
            return replace(found, rendered_conds=torch.cat([found.rendered_cond[:, :, :5], found.rendered_cond[:, :, 5:].detach()], 2))

    unread = Unread(denoiser.renderer, width=16, num_features=4, encoder_channels=16, options=OPTIONS["unet"])
    found = dead(ForwardDiffusion(unread, unread.renderer))
    assert "denoiser.field.answer.weight" in found, "features that are rendered for nobody"


def balls(cameras, side):
    """A red ball and a blue one in front of white, traced: (M, 4, 4) -> (M, 3, side, side), one ray a pixel."""
    origins, directions = rays(cameras, pixel_centres(side, side, cameras))
    image, nearest = cameras.new_ones(len(cameras), side * side, 3), cameras.new_full((len(cameras), side * side), 99)
    red, blue = ((0.3, 0.3, 0.0), 0.45, (0.8, -0.8, -0.8)), ((-0.4, -0.3, 0.1), 0.4, (-0.8, -0.6, 0.8))
    for centre, radius, colour in (red, blue):
        from_centre = origins - cameras.new_tensor(centre)
        b = (directions * from_centre).sum(-1)
        inside = b.square() - from_centre.square().sum(-1) + radius**2
        depth = -b - inside.clamp(min=0).sqrt()
        first = (inside > 0) & (depth < nearest)
        image[first], nearest = cameras.new_tensor(colour), torch.where(first, depth, nearest)
    return image.mT.unflatten(2, (side, side))


def test_two_views_of_one_scene_are_overfitted():
    """A pixelNeRF (Eq. 10) of two views shows both, and a third view, to within a small share of their variance."""
    denoiser = small(side=16, samples_per_ray=16, randomized=False, width=32)
    cameras = orbit(torch.tensor([0.2, 1.4, 0.8]), torch.tensor([0.3, 0.5, 0.4]), 3.0, 0.8)
    images = balls(cameras, 16)[None]
    seen = Observations(images, cameras[None])
    pair = seen.select([0, 1])
    optimizer, at = torch.optim.Adam(denoiser.parameters(), 5e-3), torch.arange(256).view(1, 1, -1)
    for step in range(200):
        optimizer.zero_grad()
        here = at[..., torch.randperm(256, generator=generator(step))[:96]].expand(1, 3, -1)
        scene = denoiser.condition(pair, seen.params[:, :1]).context
        predicted = denoiser.renderer(scene, seen.params, pixel_indices=here)
        loss = (predicted - seen.value.flatten(3).gather(-1, here[:, :, None].expand(-1, -1, 3, -1))).square().mean()
        loss.backward()
        optimizer.step()
    denoiser.eval()

    def relative_mse(pair):
        scene = denoiser.condition(pair, seen.params[:, :1]).context
        return (scene.render(seen.params).rgb - images).square().mean(dim=(0, 2, 3, 4)) / images.var()

    assert relative_mse(pair).max() < 0.05
    swapped = relative_mse(Observations(pair.value.flip(1), pair.params))
    assert swapped.min() > 0.2, "the control: each image beside the other's camera"


# --- end to end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["unet", "dit"])
def test_a_sampled_scene_renders_from_any_camera(encoder):
    denoiser = small(encoder).eval()
    model, seen, target = ForwardDiffusion(denoiser, denoiser.renderer), noise_images(3, 2), orbit_cameras(3, 2, seed=5)
    calls = []
    hook = denoiser.encoder.register_forward_hook(lambda *_: calls.append(1))
    step = model.sample(seen, target, steps=4, generator=generator())
    hook.remove()
    assert len(calls) == 1 + 4, "the context is encoded once a sample"
    assert step.observation.shape == (3, 2, 3, 8, 8) and torch.isfinite(step.observation).all()
    image = step.signal.render(target)
    torch.testing.assert_close(image.rgb, step.observation, rtol=0, atol=1e-6)
    other = step.signal.render(orbit_cameras(3, 5, seed=9))
    assert other.rgb.shape == (3, 5, 3, 8, 8) and other.depth.shape == other.opacity.shape == (3, 5, 8, 8)
    assert other.opacity.min() >= 0 and other.opacity.max() <= 1 and other.opacity.std() > 1e-3
    assert other.rgb.abs().max() <= 1 and other.depth.min() > 3 - math.sqrt(3) and not other.rgb.requires_grad
    again = model.sample(seen, target, steps=4, generator=generator())
    assert torch.equal(again.observation, step.observation)


@pytest.mark.parametrize("encoder", ["unet", "dit"])
def test_rows_of_pixels_are_images_too(encoder):
    renderer = VolumeRenderer((-1.0, -1.0, -0.1), (1.0, 1.0, 0.1), 1, 16, 6)
    options = {**OPTIONS[encoder], "row": True}
    model = ForwardDiffusion(SceneDenoiser(renderer, encoder, 16, 4, 16, options=options).eval(), renderer)
    flat = orbit(torch.tensor([[0.3, 2.0], [1.0, 4.0]]), 0.0, 3.0, 0.8)
    seen = Observations(torch.rand(2, 2, 3, 1, 16, generator=generator()), flat)
    losses = model.loss(seen, seen, *model.sample_time_and_noise(seen, generator()))
    assert all(torch.isfinite(x) for x in losses.values())
    assert model.denoiser.condition(seen, flat).deterministic_prediction.value.shape == (2, 2, 3, 1, 8)
    image = model.sample(seen, flat, steps=2, generator=generator()).signal.render(flat[:, :1])
    assert image.rgb.shape == (2, 1, 3, 1, 16) and image.depth.shape == (2, 1, 1, 16)


@pytest.mark.parametrize("rows", [slice(1, 3), [2, 0], torch.tensor([1]), torch.tensor([True, False, True])])
def test_some_scenes_are_picked_by_their_rows(rows):
    denoiser = small().eval()
    scenes = denoiser.condition(noise_images(3, 2), orbit_cameras(3, 1)).context
    cameras = orbit_cameras(3, 2, seed=9)
    whole, some = scenes.render(cameras), scenes[rows].render(cameras[rows])
    for a, b in zip(whole, some, strict=True):
        torch.testing.assert_close(a[rows], b, rtol=0, atol=1e-5)
    torch.testing.assert_close(scenes[1].render(cameras[1:2]).rgb, whole.rgb[1:2], rtol=0, atol=1e-5)
    assert (whole.rgb[0] - whole.rgb[2]).abs().max() > 1e-3


def test_sampled_images_join_the_context():
    denoiser = small().eval()
    model, seen, path = ForwardDiffusion(denoiser, denoiser.renderer), noise_images(2, 1), orbit_cameras(2, 3, seed=5)
    step, context = model.sample_autoregressive(seen, path, steps=2, generator=generator())
    assert context.value.shape == (2, 4, 3, 8, 8) and torch.equal(context.params[:, 1:], path)
    assert step.signal.feature_maps.shape[1] == 4 and torch.equal(context.value[:, 3:], step.observation)


def test_rendering_is_the_same_every_time_in_testing_and_asks_elsewhere_in_training():
    denoiser, seen, target = small(), noise_images(2, 1), orbit_cameras(2, 1, seed=5)
    images = {}
    for training in (True, False):
        denoiser.train(training)
        scene = denoiser.condition(seen, target).context
        images[training] = scene.render(target).rgb
        assert scene.training is training and torch.equal(images[training], scene.render(target).rgb)
    assert (images[True] - images[False]).abs().max() > 1e-4
    for samples_per_ray in (50, 200):  # both are the same integral
        denoiser.renderer = replace(denoiser.renderer, samples_per_ray=samples_per_ray)
        both = [denoiser.train(x).condition(seen, target).context.render(target).rgb for x in (True, False)]
        difference = (both[0] - both[1]).abs().max()
        assert difference < (images[True] - images[False]).abs().max() * 12 / samples_per_ray


def test_without_any_context_a_scene_is_sampled_where_that_is_asked_for():
    denoiser = small().eval()
    model, seen, target = ForwardDiffusion(denoiser, denoiser.renderer), noise_images(2, 2), orbit_cameras(2, 1, seed=5)
    empty = seen.mask_out(torch.ones(2, 2, dtype=torch.bool))
    step = model.sample(empty, target, steps=2, generator=generator(), allow_empty=True)
    assert torch.isfinite(step.observation).all()
    with pytest.raises(ValueError, match="context is empty for 2 of 2 signals.*allow_empty=True") as caught:
        model.sample(empty, target, steps=2)
    assert "\n" not in str(caught.value)
    other = Observations(seen.value + 1, seen.params, empty.mask)
    same = model.sample(other, target, steps=2, generator=generator(), allow_empty=True)
    torch.testing.assert_close(same.observation, step.observation, rtol=0, atol=1e-5)
    rendered_conds = model.sample(seen, target, steps=2, generator=generator())
    assert (rendered_conds.observation - step.observation).abs().max() > 1e-2, "the control: a context that is there"


def test_bad_input_is_refused_in_one_line():
    denoiser = small().eval()
    model, seen, target = ForwardDiffusion(denoiser, denoiser.renderer), noise_images(2, 1), noise_images(2, 1, seed=5)
    large = noise_images(2, 1, side=16)
    time_and_noise = model.sample_time_and_noise(target, generator())
    mirror = target.params.clone()
    mirror[..., 0, :] = mirror[..., 1, :]
    scenes = denoiser.condition(seen, target.params).context
    for call, message in (
        (lambda: model.sample(large, target.params), "images of 16x16 pixels, but this model's have 8x8"),
        (lambda: model.loss(large, target, *time_and_noise), "images of 16x16 pixels, but this model's have 8x8"),
        (lambda: model.loss(seen, large, *model.sample_time_and_noise(large, generator())), "images of 16x16 pixels, but this"),
        (
            lambda: SceneDenoiser(denoiser.renderer, told=("depth", "smell")),
            "a render has no smell: choose what is told",
        ),
        (lambda: SceneDenoiser(denoiser.renderer, "vit"), "unknown encoder 'vit': choose one of unet, dit"),
        (lambda: model.sample(seen, mirror), "a camera is not invertible"),
        (lambda: model.sample(Observations(seen.value, mirror), target.params), "a camera is not invertible"),
        (lambda: model.sample(Observations(seen.value, seen.params * 2), target.params), "last row must be 0 0 0 1"),
        (lambda: model.sample(Observations(seen.value * math.nan, seen.params), target.params), "NaN or infinite"),
        (lambda: model.sample(seen, target.params[:1]), "are not for the 2 signals of the context"),
        (lambda: scenes.render(mirror), "a camera is not invertible"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_cameras_of_other_scenes_are_refused_in_one_line():
    scenes = small().eval().condition(noise_images(2, 1), orbit_cameras(2, 1)).context
    for cameras, message in (
        (orbit_cameras(3, 1), r"cameras \(3, 1, 4, 4\) are not for 2 scenes: give \(B, M, 4, 4\)"),
        (orbit_cameras(1, 5), r"cameras \(1, 5, 4, 4\) are not for 2 scenes"),
        (orbit_cameras(2, 1)[:, 0], r"cameras \(2, 4, 4\) are not for 2 scenes"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            scenes.render(cameras)
        assert "\n" not in str(caught.value)
