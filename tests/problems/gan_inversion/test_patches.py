"""Patches of generated images: crops and their gradient, the denoiser, the reference set, optimisation."""

from functools import partial

import pytest
import torch
from torch.distributions import Normal
from torch.nn.functional import pixel_shuffle

from fwdiff_lite.crops import composite_crops
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.gan_inversion import patches
from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator
from fwdiff_lite.schedule import CosineSchedule

SIDE = 16


def make_generator(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


@pytest.fixture(scope="module")
def forward_model() -> patches.CroppedGenerator:
    torch.manual_seed(0)
    G = Generator(SIDE, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, channel_max=8)
    G.mapping.w_avg.copy_(patches.sample_w(G, 500, make_generator()).mean(0))
    return patches.CroppedGenerator(G)


def crop_params(*crops: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(crops, dtype=torch.float32)


def make_denoiser(forward_model: patches.CroppedGenerator, space: str, refinements: int = 0) -> patches.PatchDenoiser:
    std = patches.w_std(forward_model.G, 500)
    return patches.PatchDenoiser(forward_model, std, space, num_refinements=refinements, widths=(8, 8), hidden=16)


def test_a_patch_is_the_image_inside_of_its_crop(forward_model):
    w = patches.sample_w(forward_model.G, 2, make_generator(1))
    image = forward_model.G.synthesis(w)
    params = crop_params((0, 0, SIDE), (3, 5, 4)).expand(2, -1, -1)
    full_crop, small_crop = forward_model(w, params).unbind(1)
    assert torch.equal(full_crop, image)
    assert torch.equal(small_crop[:, :, 3:7, 5:9], image[:, :, 3:7, 5:9]) and small_crop.ne(0).sum() == 2 * 3 * 16
    assert torch.equal(patches.observe(image, params).value, forward_model(w, params))


def test_the_gradient_of_a_patch_is_that_of_its_pixels(forward_model):
    w = patches.sample_w(forward_model.G, 1, make_generator(2)).double().requires_grad_()
    G = forward_model.G.double()
    try:
        params = crop_params((2, 3, 5))[None].double()
        assert torch.autograd.gradcheck(lambda x: forward_model(x, params)[..., 2:7, 3:8], (w,))
        gradient = torch.autograd.grad(forward_model(w, params).square().sum(), w)[0]
        expected = torch.autograd.grad(G.synthesis(w)[..., 2:7, 3:8].square().sum(), w)[0]
        assert torch.allclose(gradient, expected)
    finally:
        forward_model.G.float()


@pytest.mark.parametrize("crop", [(-1, 0, 4), (0, 13, 4), (0.5, 0, 4), (0, 0, 0)])
def test_invalid_crops_are_refused(forward_model, crop):
    with pytest.raises(ValueError, match=r"does not fit a 16x16 image: give whole pixels, 0 <= row, col <= 16 - size"):
        forward_model.support(crop_params(crop))
    with pytest.raises(ValueError, match=r"params must be \(\.\.\., 3\)"):
        forward_model.support(torch.zeros(2, 4))


def test_sampled_crops_fit_and_cover_the_image():
    params = patches.sample_crops(4000, 2, make_generator(), patches.CONTEXT_SIZES)
    corner, size = params[..., :2], params[..., 2]
    assert size.min() == 16 and size.max() == 24 and (corner >= 0).all() and (corner + size[..., None] <= 64).all()
    assert corner.min() == 0 and (corner + size[..., None]).max() == 64

    def sample_images(n, generator, side=64):
        return torch.rand(n, 3, side, side, generator=generator) + 1

    batch = patches.batches(sample_images, 8, 3)(make_generator())
    num_patches = batch["context"].mask.sum(1)
    assert batch["context"].value.shape == (8, 3, 3, 64, 64)
    assert num_patches.min() >= 1 and num_patches.unique().numel() > 1
    assert batch["target"].params.shape == batch["novel"].params.shape == (8, 1, 3)
    large_batch = patches.batches(partial(sample_images, side=128), 64)(make_generator())
    assert all((x.params[..., :2] > 64).any() for x in large_batch.values()), "crops cover large images too"


def test_composite_crops_averages_where_patches_overlap():
    params = crop_params((0, 0, 4), (2, 0, 4))[None]
    support = patches.patch_mask(params, 8)
    value = torch.stack([torch.full((3, 8, 8), 1.0), torch.full((3, 8, 8), 3.0)])[None] * support
    image, mask = composite_crops(value, support)
    assert image[0, 0, :, 0].tolist() == [1, 1, 2, 2, 3, 3, 0, 0] and mask[0, 0, :, 0].tolist() == [1] * 6 + [0] * 2


@pytest.mark.parametrize("space, shape, refinements", [("w", (8,), 0), ("w+", (6, 8), 0), ("w+", (6, 8), 1)])
def test_samples_and_losses_in_both_spaces(forward_model, space, shape, refinements):
    network = make_denoiser(forward_model, space, refinements)
    images = forward_model.G.synthesis(patches.sample_w(forward_model.G, 3, make_generator(3)))
    context = patches.observe(images, patches.sample_crops(3, 2, make_generator(4), (4, 8), SIDE))
    target = patches.sample_crops(3, 1, make_generator(5), (4, 8), SIDE)
    model = ForwardDiffusion(network, forward_model, CosineSchedule())
    step = model.sample(context, target, steps=2, generator=make_generator(6))
    assert step.signal.shape == (3, *shape) and step.observation.shape == (3, 1, 3, SIDE, SIDE)
    assert torch.equal(step.observation != 0, forward_model.support(target).bool().expand_as(step.observation))
    regression = ForwardRegression(network, forward_model, CosineSchedule())
    assert regression.sample(context, target).signal.shape == (3, *shape)
    observations = patches.observe(images, target)
    time_and_noise = model.sample_time_and_noise(observations, make_generator(7))
    losses = model.loss(context, observations, *time_and_noise, observations)
    losses["loss"].backward()
    assert set(losses) == {"loss", "target", "novel", "deterministic"}
    assert network.encoder.head[-1].weight.grad.abs().max() > 0
    assert all(w.grad is None for w in forward_model.G.parameters()), "the generator is frozen"
    _, observations = model.sample_autoregressive(
        context, target.expand(-1, 2, -1), steps=1, generator=make_generator(8)
    )
    assert observations.value.shape[1] == 4


def test_an_initial_denoiser_predicts_the_mean_and_unknown_spaces_are_refused(forward_model):
    network = make_denoiser(forward_model, "w+")
    empty = Observations(torch.zeros(1, 1, 3, SIDE, SIDE), crop_params((0, 0, 4))[None])
    signal = network(network.condition(empty, empty.params), empty.value, torch.ones(1))
    assert torch.equal(signal, forward_model.G.mapping.w_avg.expand(1, 6, 8))
    with pytest.raises(ValueError, match=r"unknown space 'z': choose w or w\+"):
        patches.PatchDenoiser(forward_model, torch.ones(8), "z")


def test_where_context_patches_overlap_the_first_one_counts(forward_model):
    network = make_denoiser(forward_model, "w+")
    params = crop_params((0, 0, 4), (2, 0, 4))[None]
    values = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1) * patches.patch_mask(params, SIDE)
    condition = network.condition(Observations(values.expand(-1, -1, 3, -1, -1), params), params)
    assert condition.context_image[0, 0, :7, 0].tolist() == [1, 1, 1, 1, 3, 3, 0]
    assert condition.context_mask[0, 0, :7, 0].tolist() == [1] * 6 + [0]


def test_the_network_is_conditioned_on_the_deterministic_prediction(forward_model):
    network = make_denoiser(forward_model, "w+")
    image = forward_model.G.synthesis(patches.sample_w(forward_model.G, 1, make_generator(3)))
    context, target = patches.observe(image, crop_params((0, 0, 6))[None]), crop_params((8, 8, 6), (4, 4, 8))[None]
    torch.nn.init.normal_(network.encoder.head[-1].weight, generator=make_generator(4))
    network_inputs, blank = [], torch.zeros(1, 2, 3, SIDE, SIDE)
    network.encoder.register_forward_pre_hook(
        lambda _, arguments: network_inputs.append(pixel_shuffle(arguments[0], 2))
    )
    condition = network.condition(context, target)
    network(condition, blank, torch.ones(1))
    synthesis, mask = forward_model.G.synthesis, patches.patch_mask(crop_params((0, 0, 6)), SIDE)
    assert torch.equal(condition.deterministic_prediction.value, forward_model(condition.deterministic_signal, target))
    signals = network.w_mean.expand(1, 6, 8), condition.deterministic_signal
    for network_input, signal in zip(network_inputs, signals, strict=True):
        assert torch.equal(network_input[:, :4], torch.cat([context.value[:, 0], mask], 1))
        assert torch.equal(network_input[:, 4:7], synthesis(signal))
        assert torch.equal(network_input[:, 7:10], (image - synthesis(signal)) * mask)
    assert torch.equal(network_inputs[0][:, 10:], torch.zeros(1, 4, SIDE, SIDE)), "the first pass has no target"
    assert torch.equal(network_inputs[1][:, 13:], composite_crops(blank, condition.target_masks)[1])
    assert not torch.equal(condition.deterministic_signal, network.w_mean.expand(1, 6, 8))
    keys = network.state_dict()
    assert not any(key.startswith("forward_model") for key in keys), "the generator is no part of the denoiser"


def test_a_refinement_corrects_the_signal_by_its_own_image(forward_model):
    network, G = make_denoiser(forward_model, "w+", refinements=2), forward_model.G
    ForwardDiffusion(network, forward_model, patches.schedule_of_side(64, 1 / 8))
    torch.nn.init.normal_(network.encoder.head[-1].weight, std=0.1, generator=make_generator(4))
    images = G.synthesis(patches.sample_w(G, 2, make_generator(3)))
    context = patches.observe(images, crop_params((0, 0, 6)).expand(2, -1, -1))
    target = crop_params((8, 8, 6), (4, 4, 8)).expand(2, -1, -1)
    condition = network.condition(context, target)
    passes = []
    network.encoder.register_forward_hook(lambda _, arguments, offset: passes.append((*arguments, offset)))
    t, noisy = torch.tensor([0.3, 0.6]), torch.randn(2, 2, 3, SIDE, SIDE, generator=make_generator(5))
    result, signal = network(condition, noisy, t), condition.deterministic_signal
    target_image, target_mask = composite_crops(noisy, condition.target_masks)
    assert len(passes) == 3
    for network_input, time, offset in passes:
        x, image = pixel_shuffle(network_input, 2), G.synthesis(signal)
        assert torch.equal(time, t) and torch.equal(x[:, 4:7], image)
        assert torch.equal(x[:, 7:10], (context.value[:, 0] - image) * condition.context_mask)
        noise = (target_image - network.schedule.alpha(t).view(2, 1, 1, 1) * image) * target_mask
        torch.testing.assert_close(x[:, 14:], noise)
        signal = signal + network.w_std * offset.view(2, 6, 8)
    torch.testing.assert_close(result, signal)
    result.square().sum().backward()
    assert all(x.grad is not None for x in network.encoder.parameters())
    with pytest.raises(ValueError, match="got num_refinements = -1, wanted a whole number of at least 0"):
        make_denoiser(forward_model, "w+", refinements=-1)


def test_a_refinement_finds_the_code_that_one_pass_misses(forward_model):
    """The network is one Gauss-Newton step for clean targets: each further pass brings the image nearer to them."""
    G, full = forward_model.G, crop_params((0, 0, SIDE))[None]
    truth = patches.sample_w(G, 1, make_generator(3))

    class GaussNewton(torch.nn.Module):
        def forward(self, x, t):
            residual = pixel_shuffle(x, 2)[:, 14:].flatten()
            jacobian = torch.autograd.functional.jacobian(lambda w: G.synthesis(w).flatten(), self.signal)[:, 0]
            offset = torch.linalg.lstsq(jacobian, residual).solution
            self.signal = self.signal + offset
            return (offset / self.w_std)[None]

    errors = []
    for refinements in range(1, 5):
        network = make_denoiser(forward_model, "w", refinements)
        network.schedule = CosineSchedule()
        context = patches.observe(G.synthesis(truth), full)
        with torch.no_grad():
            condition = network.condition(context.mask_out(torch.ones(1, 1, dtype=torch.bool)), full)
        network.encoder = GaussNewton()
        network.encoder.signal, network.encoder.w_std = condition.deterministic_signal, network.w_std
        signal = network(condition, context.value, torch.zeros(1))
        errors.append(float((G.synthesis(signal) - context.value).square().mean()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01 * errors[0]


def test_masked_context_patches_have_no_effect(forward_model):
    network = make_denoiser(forward_model, "w")
    value = torch.randn(1, 2, 3, SIDE, SIDE, generator=make_generator())
    params = crop_params((0, 0, 6), (8, 8, 6))[None]
    context = Observations(value * patches.patch_mask(params, SIDE), params)
    masked = network.condition(context.mask_out(torch.tensor([[False, True]])), params[:, :1])
    selected = network.condition(context.select([0]), params[:, :1])
    assert torch.equal(masked.context_image, selected.context_image)
    assert torch.equal(masked.context_mask, selected.context_mask)


def test_importance_weights_by_hand():
    references = torch.zeros(4, 3, 8, 8)
    references[:, 0, 0, 0] = torch.tensor([0.0, 1.0, 2.0, 5.0])
    references[:, 0, 7, 7] = torch.tensor([9.0, 0.0, 9.0, 0.0])  # outside of the crop
    context = patches.observe(torch.zeros(1, 3, 8, 8), crop_params((0, 0, 2))[None])
    distances = patches.reference_distances(references, context, chunk_size=3)
    assert distances.tolist() == [[0, 1, 4, 25]]
    weights, s, size = patches.importance_weights(distances, min_effective_size=2)
    assert size.item() == pytest.approx(2, abs=1e-6)
    expected = torch.exp(-distances.double() / (2 * s[:, None] ** 2))
    assert torch.allclose(weights, expected / expected.sum()) and weights.argmax() == 0
    with pytest.raises(ValueError, match="a reference set of 4 images has no effective sample size of 50"):
        patches.importance_weights(distances)


def test_importance_weights_estimate_a_known_posterior():
    """Constant images x ~ N(0, 1), observed with noise of standard deviation s: the posterior mean is known."""
    x = torch.randn(200_000, generator=make_generator())
    references = x.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    context = patches.observe(torch.full((1, 3, 2, 2), 0.8), crop_params((0, 0, 2))[None])
    distances = patches.reference_distances(references, context, chunk_size=50_000)
    weights, s, _ = patches.importance_weights(distances, min_effective_size=20_000)
    precision = 12 / s**2  # of twelve pixel values, each with noise of standard deviation s
    assert (weights @ x.double()).item() == pytest.approx((precision * 0.8 / (1 + precision)).item(), abs=0.02)


def test_the_exact_denoiser_is_bayes_rule_and_its_observation_the_posterior_mean():
    generator, schedule = make_generator(1), CosineSchedule()
    references = torch.randn(5, 3, 8, 8, generator=generator, dtype=torch.float64)
    context = patches.observe(references[:2], crop_params((0, 0, 3)).expand(2, -1, -1).double())
    params = torch.tensor([[[2, 2, 4], [4, 0, 3]], [[0, 5, 3], [1, 1, 2]]], dtype=torch.float64)
    support, t = patches.patch_mask(params, 8), torch.tensor([0.9, 0.5], dtype=torch.float64)
    y = support * torch.randn(2, 2, 3, 8, 8, generator=generator, dtype=torch.float64)
    network = patches.ReferenceSetDenoiser(references, schedule, context_std=2.0)
    signal = network(network.condition(context, params), y, t)
    log_likelihoods = torch.ones(2, 5, dtype=torch.float64)
    for i in range(2):
        alpha, sigma = schedule.alpha(t[i]), schedule.sigma(t[i])
        for j, x in enumerate(references):
            log_likelihood = Normal(x[:, :3, :3], 2.0).log_prob(context.value[i, 0, :, :3, :3]).sum()
            for m in range(2):
                inside = support[i, m].expand_as(x) > 0
                log_likelihood = log_likelihood + Normal(alpha * x[inside], sigma).log_prob(y[i, m][inside]).sum()
            log_likelihoods[i, j] = log_likelihood
    torch.testing.assert_close(signal, log_likelihoods.softmax(1))
    observation = patches.ReferenceSet(references)(signal, params)
    torch.testing.assert_close(observation, torch.einsum("bn,nchw->bchw", signal, references)[:, None] * support)


class LouderNoise(CosineSchedule):
    """What a denoiser assumes that takes the noise to be twice as strong as it is."""

    def sigma(self, t):
        return 2 * super().sigma(t)


def test_a_temperature_makes_up_for_a_denoiser_that_assumes_too_much_noise():
    """It then makes too little of the noisy target and follows the likelier image. With twice the noise it is exact."""
    pair = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.5)])
    references = pair[[0] * 3 + [1] * 7]  # so the first image has a probability of 0.3
    params = crop_params((0, 0, 4)).expand(2000, -1, -1)
    empty = patches.observe(pair[:1].expand(2000, -1, -1, -1), params)
    empty = empty.mask_out(torch.ones_like(empty.mask))

    def share_of_the_first(schedule, temperature):
        denoiser = patches.ReferenceSetDenoiser(references, CosineSchedule())
        model = ForwardDiffusion(denoiser, patches.ReferenceSet(references), CosineSchedule())
        denoiser.schedule = schedule  # ForwardDiffusion has given it the true one
        options = {
            "steps": 64,
            "eta": 1.0,
            "temperature": temperature,
            "generator": make_generator(),
            "allow_empty": True,
        }
        return (model.sample(empty, params, **options).signal[:, :3].sum(1) > 0.5).float().mean().item()

    assert share_of_the_first(CosineSchedule(), 1.0) == pytest.approx(0.3, abs=0.04)
    assert share_of_the_first(LouderNoise(), 2.0) == pytest.approx(0.3, abs=0.04)
    assert share_of_the_first(LouderNoise(), 1.0) < 0.2
    assert share_of_the_first(CosineSchedule(), 2.0) > 0.35, "the control: an exact denoiser has no use for it"


def test_optimisation_finds_latents_that_agree_with_the_context(forward_model):
    w = patches.sample_w(forward_model.G, 4, make_generator(9))
    params = crop_params((2, 2, 10)).expand(4, 1, 3)
    context = Observations(forward_model(w, params), params)
    initial_latents = patches.sample_w(forward_model.G, 4, make_generator(10))
    latents = patches.optimise_latents(forward_model, context, initial_latents, steps=150)
    initial_error, error = (
        (forward_model(x, params) - context.value).square().mean() for x in (initial_latents, latents)
    )
    assert error < 0.1 * initial_error

    def optimise(rows, **options):
        return patches.optimise_latents(forward_model, context[rows], initial_latents[rows], steps=3, **options)

    all_rows, halves = slice(None), (slice(0, 2), slice(2, 4))
    scale = initial_latents.std(0)
    with_scale = torch.cat([optimise(rows, scale=scale) for rows in halves])
    torch.testing.assert_close(with_scale, optimise(all_rows), atol=1e-5, rtol=1e-4)
    without = torch.cat([optimise(rows) for rows in halves])
    assert (without - with_scale).abs().max() > 0.01, "the control: a scale of each batch"


def test_styles_of_w_plus_are_mixed_with_their_probability():
    G = Generator(16, z_dim=4, w_dim=4, mapping_layers=1, channel_base=64, channel_max=4)
    unmixed = patches.sample_wplus(G, 50, torch.Generator().manual_seed(0), 0.0)
    assert unmixed.shape == (50, G.synthesis.num_layers, 4) and (unmixed == unmixed[:, :1]).all()
    mixed = patches.sample_wplus(G, 400, torch.Generator().manual_seed(0), 0.5)
    is_mixed = (mixed[:, 0] != mixed[:, -1]).any(1)
    assert is_mixed.float().mean() == pytest.approx(0.5, abs=0.1)
    changes = (mixed[:, 1:] != mixed[:, :-1]).any(-1).sum(1)
    assert torch.equal(changes, is_mixed.long()), "one style before a layer, another from there on"


def test_the_weight_of_a_loss_rises_at_low_noise_by_hand():
    forward_model = patches.CroppedGenerator(Generator(16, 4, 4, 1, channel_base=64, channel_max=4))
    options = {"w_std": torch.ones(4), "widths": (8, 8), "hidden": 8}
    denoiser = patches.PatchDenoiser(forward_model, **options, low_noise_weight=4.0)
    ForwardDiffusion(denoiser, forward_model, patches.schedule_of_side(64, 1 / 8))
    t = torch.tensor([denoiser.schedule.time_of_ratio(ratio) for ratio in (1e-4, 0.3, 30.0)])
    crops = patches.sample_crops(3, 1, make_generator(), sizes=(4, 8), side=16)
    condition = denoiser.condition(patches.observe(torch.zeros(3, 3, 16, 16), crops), crops)
    assert torch.allclose(denoiser.loss_weight(condition, t), torch.tensor([1.0, 3.0, 5.0]), atol=1e-2)
    plain = patches.PatchDenoiser(forward_model, **options)
    assert torch.equal(plain.loss_weight(condition, t), torch.ones(3)) and plain.schedule == patches.SCHEDULE
