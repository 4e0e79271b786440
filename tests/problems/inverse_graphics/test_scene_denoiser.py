"""The pixelNeRF denoiser: its conditioning, its losses, and the scenes that it samples."""

import math
from dataclasses import replace

import pytest
import torch
from pixelnerf_helpers import ENCODER_OPTIONS, generator, noise_images, orbit_cameras, small_denoiser
from torch import nn

from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics.bilinear import bilinear_sample_uv
from fwdiff_lite.problems.inverse_graphics.cameras import look_at, orbit, perspective_divide, project_homogeneous
from fwdiff_lite.problems.inverse_graphics.pixelnerf import RadianceField, SceneDenoiser
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer


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


def test_training_sampling_and_rendering_make_no_tensor_of_python_numbers_on_a_device(monkeypatch):
    """Such a tensor is copied from the CPU, which waits until a GPU has finished its earlier work."""

    def refuse(*arguments, **options):
        raise AssertionError("a copy from the CPU")

    make = torch.tensor
    denoiser = small_denoiser()
    renderer = replace(denoiser.renderer, supersampling=2, supersample_observations=True)
    denoiser.renderer, context, target = renderer, noise_images(2, 1), noise_images(2, 1, seed=5)
    model = ForwardDiffusion(denoiser, renderer)
    time_and_noise = model.sample_time_and_noise(target, generator())
    monkeypatch.setattr(torch.Tensor, "new_tensor", refuse)
    monkeypatch.setattr(
        torch, "tensor", lambda x, device="cpu", **options: make(x, **options) if device == "cpu" else refuse()
    )
    assert model.loss(context, target, *time_and_noise)["loss"] > 0
    with torch.no_grad():
        signal = model.sample(context, target.params, steps=2, generator=generator()).signal
        assert signal.render(target.params).rgb.isfinite().all()


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
    distance = render.distance.unflatten(-1, (4, 4))
    torch.testing.assert_close(coarse[:, :, 3], (distance - 3.0) / math.sqrt(3), rtol=0, atol=1e-5)
    assert coarse[:, :, 3].abs().max() < 1 < distance.min(), "the control: distance before normalisation"
    torch.testing.assert_close(coarse[:, :, 4], render.opacity.unflatten(-1, (4, 4)))
    torch.testing.assert_close(coarse[:, :, 5:].flatten(3).mT, render.rgb_features[..., 3:])


def test_with_finer_maps_each_ray_of_a_pixel_has_features_of_its_own():
    """The colour that a target's map holds at a ray is the colour that the ray gets; the pixel is the mean."""

    class Colours(nn.Module):
        """A dense field whose colour is the first three features."""

        def forward(self, points, feature_maps, cameras, mask, with_features):
            uv, _ = perspective_divide(project_homogeneous(cameras, points[:, None]))
            features = bilinear_sample_uv(feature_maps.flatten(0, 1), uv.flatten(0, 1))
            return points.new_full(points.shape[:2], 1e4), features[..., :3]

    renderer = replace(small_denoiser().renderer, supersampling=2, supersample_observations=True)
    for upsampling in (1, 2):
        denoiser = SceneDenoiser(
            renderer, "unet", 16, num_features=4, encoder_options=ENCODER_OPTIONS["unet"], map_upsampling=upsampling
        )
        images = noise_images(1, 1)
        assert denoiser.encode_context(images).feature_maps.shape == (1, 1, 16, 8 * upsampling, 8 * upsampling)
        maps = torch.rand(1, 1, 3, 8 * upsampling, 8 * upsampling, generator=generator())
        scene = RadianceField(Colours(), renderer, maps, images.params, images.mask, False)
        pixels = nn.functional.avg_pool2d(maps[:, 0], upsampling)[:, None]
        error = (renderer(scene, images.params) - pixels)[..., 2:-2, 2:-2].abs().max()  # the corners miss the box
        assert error < 1e-4 if upsampling == 2 else error > 0.05, "the control: a coarse map is filtered"


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
    as_context = denoiser.encode_context(target).feature_maps
    without_render = replace(condition, rendered_cond=torch.zeros_like(condition.rendered_cond))
    as_target = denoiser.encode_targets(without_render, target.value, torch.zeros(2))
    assert not torch.allclose(as_target, as_context), "the encoder distinguishes targets from the context"
    other_cameras = denoiser.encode_context(Observations(target.value, context.params)).feature_maps
    assert not torch.allclose(other_cameras, as_context), "the encoder depends on the cameras"


def test_unbounded_scenes_do_not_depend_on_the_unit_of_length():
    """A scene that is ten times as large, as are near and far, has the same views: every clip has its own unit."""
    signals, rendered_conds = [], []
    for scale, near in ((1.0, 1.0), (10.0, 10.0), (10.0, 1.0)):
        torch.manual_seed(0)
        renderer = VolumeRenderer((-50.0 * near,) * 3, (50.0 * near,) * 3, 8, 8, 12, near=near)
        denoiser = SceneDenoiser(renderer, "unet", 16, num_features=4, encoder_options=ENCODER_OPTIONS["unet"])
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
    assert novel.rgb.shape == (3, 5, 3, 8, 8) and novel.distance.shape == novel.opacity.shape == (3, 5, 8, 8)
    assert novel.opacity.min() >= 0 and novel.opacity.max() <= 1 and novel.opacity.std() > 1e-3
    assert novel.rgb.abs().max() <= 1 and novel.distance.min() > 3 - math.sqrt(3) and not novel.rgb.requires_grad
    repeated = model.sample(context, target, steps=4, generator=generator())
    assert torch.equal(repeated.observation, step.observation)


@pytest.mark.parametrize(("dtype", "supersampling"), [(torch.float32, 1), (torch.float64, 2)])
def test_the_context_is_embedded_once_and_samples_are_the_same(dtype, supersampling, monkeypatch):
    """To the bit: with one or two contexts, masked contexts, guidance, and two targets."""
    denoiser = small_denoiser().eval().to(dtype)
    renderer = replace(denoiser.renderer, supersampling=supersampling, supersample_observations=True)
    denoiser.renderer = renderer
    model, target = ForwardDiffusion(denoiser, renderer), orbit_cameras(2, 2, seed=5).to(dtype)
    num_points = 2 * renderer.height * renderer.width * supersampling**2 * renderer.samples_per_ray
    embed, views = denoiser.field.embed, []

    def counted(points, feature_maps, cameras, positions=None):
        views.extend(cameras.shape[1:2] * points.shape[1])
        return embed(points, feature_maps, cameras, positions)

    monkeypatch.setattr(denoiser.field, "embed", counted)

    def sample(context, **options):
        views.clear()
        step = model.sample(context, target, steps=2, eta=1.0, generator=generator(), **options)
        return step.observation, sum(views)

    images = noise_images(2, 2)
    images = Observations(images.value.to(dtype), images.params.to(dtype), images.mask)
    one_masked = replace(images, mask=torch.tensor([[True, False], [True, True]]))
    for context, options in ((images.select([0]), {}), (one_masked, {}), (one_masked, {"guidance": 2.0})):
        num_contexts = context.value.shape[1]
        observation, count = sample(context, **options)
        with monkeypatch.context() as without:
            without.setattr(SceneDenoiser, "prepare_sampling", lambda self, condition: condition)
            plain, plain_count = sample(context, **options)
        assert torch.equal(observation, plain) if dtype == torch.float32 else (observation - plain).abs().max() < 1e-12
        # one of two steps evaluates the targets alone
        assert plain_count - count == (1 + ("guidance" in options)) * num_contexts * num_points
    with monkeypatch.context() as wrong:  # the control: the embeddings of the other scene's context
        prepare = SceneDenoiser.prepare_sampling

        def swapped(self, condition):
            scene = prepare(self, condition).context
            kept = scene.embeddings._replace(context=scene.embeddings.context.flip(0))
            return replace(condition, context=replace(scene, embeddings=kept))

        wrong.setattr(SceneDenoiser, "prepare_sampling", swapped)
        assert (sample(one_masked, guidance=2.0)[0] - plain).abs().max() > 1e-3


def test_embeddings_are_used_along_their_own_rays_alone_and_large_ones_are_not_kept(monkeypatch):
    denoiser, context, target = small_denoiser().eval(), noise_images(2, 1), orbit_cameras(2, 1, seed=5)
    renderer, noisy, t = denoiser.renderer, torch.zeros(2, 1, 3, 8, 8), torch.ones(2)
    with torch.no_grad():
        condition = denoiser.condition(context, target)
        plain, scene = (denoiser(x, noisy, t) for x in (condition, denoiser.prepare_sampling(condition)))
        assert torch.equal(renderer(scene, target), renderer(plain, target))
        kept = scene.embeddings
        for name in ("target_positions", "context"):
            wrong = replace(scene, embeddings=kept._replace(**{name: getattr(kept, name) + 1}))
            assert not torch.equal(renderer(wrong, target), renderer(plain, target)), "wrong embeddings would be seen"
        for cameras in (target.clone(), orbit_cameras(2, 1, seed=6), target.flip(0)):
            assert torch.equal(renderer(wrong, cameras), renderer(plain, cameras)), "other cameras are embedded anew"
        for other in (replace(renderer, samples_per_ray=9), replace(renderer, box_max=(1.1, 1.0, 1.0))):
            assert torch.equal(other(wrong, target), other(plain, target)), "and the rays of another renderer"
        assert torch.equal(wrong.render(target).rgb, plain.render(target).rgb), "and the rays of finished images"
        pixels = torch.tensor([[[5, 2]], [[0, 9]]])
        assert torch.equal(renderer(wrong, target, pixels), renderer(plain, target, pixels)), "and single pixels"
        assert torch.equal(renderer(wrong[:1], target[:1]), renderer(plain[:1], target[:1])), "and selected scenes"
        assert torch.equal(wrong(points := torch.rand(2, 9, 3))[1], plain(points)[1]), "and points of no ray"
        monkeypatch.setattr("fwdiff_lite.problems.inverse_graphics.pixelnerf.MAX_EMBEDDING_BYTES", 100)
        assert denoiser.prepare_sampling(condition) is condition
        monkeypatch.undo()
        in_training = denoiser.train().condition(context, target)
        assert denoiser.prepare_sampling(in_training) is in_training, "the samples of training differ from ray to ray"
    signal = denoiser(denoiser.condition(context, target), noisy, t)
    assert signal.embeddings is None, "a loss keeps nothing"


def test_no_step_compares_points(monkeypatch):
    """A GPU would wait for the answer."""
    denoiser, calls = small_denoiser().eval(), []
    monkeypatch.setattr(torch, "equal", lambda *tensors: calls.append(tensors))
    target = orbit_cameras(2, 1, seed=5)
    ForwardDiffusion(denoiser, denoiser.renderer).sample(noise_images(2, 1), target, steps=3, generator=generator())
    assert not calls


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
    assert image.rgb.shape == (2, 1, 3, 1, 16) and image.distance.shape == (2, 1, 1, 16)


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
