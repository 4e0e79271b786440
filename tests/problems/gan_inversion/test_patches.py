"""Patches of a generator's images: crops and their gradient, the denoiser, the weighted bank, optimisation."""

import pytest
import torch
from torch.nn.functional import pixel_shuffle

from fwdiff_lite.crops import composite_crops
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.gan_inversion import patches as gi
from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator
from fwdiff_lite.schedule import CosineSchedule

SIDE = 16


def seed(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


@pytest.fixture(scope="module")
def forward_model() -> gi.Patch:
    torch.manual_seed(0)
    G = Generator(SIDE, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, channel_max=8)
    G.mapping.w_avg.copy_(gi.styles(G, 500, seed()).mean(0))
    return gi.Patch(G)


def crops(*rows: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def denoiser(forward_model: gi.Patch, space: str) -> gi.PatchDenoiser:
    G = forward_model.generator
    return gi.PatchDenoiser(forward_model, gi.w_std(G, 500), space, widths=(8, 8), hidden=16)


def test_a_patch_is_the_image_inside_of_its_crop(forward_model):
    w = gi.styles(forward_model.generator, 2, seed(1))
    image = forward_model.generator.synthesis(w)
    params = crops((0, 0, SIDE), (3, 5, 4)).expand(2, -1, -1)
    whole, part = forward_model(w, params).unbind(1)
    assert torch.equal(whole, image)
    assert torch.equal(part[:, :, 3:7, 5:9], image[:, :, 3:7, 5:9]) and part.ne(0).sum() == 2 * 3 * 16
    assert torch.equal(gi.observe(image, params).value, forward_model(w, params))


def test_the_gradient_of_a_patch_is_that_of_its_pixels(forward_model):
    w = gi.styles(forward_model.generator, 1, seed(2)).double().requires_grad_()
    G = forward_model.generator.double()
    try:
        params = crops((2, 3, 5))[None].double()
        assert torch.autograd.gradcheck(lambda x: forward_model(x, params)[..., 2:7, 3:8], (w,))
        inside = torch.autograd.grad(forward_model(w, params).square().sum(), w)[0]
        direct = torch.autograd.grad(G.synthesis(w)[..., 2:7, 3:8].square().sum(), w)[0]
        assert torch.allclose(inside, direct)
    finally:
        forward_model.generator.float()


@pytest.mark.parametrize("row", [(-1, 0, 4), (0, 13, 4), (0.5, 0, 4), (0, 0, 0)])
def test_crops_that_are_none_are_refused(forward_model, row):
    with pytest.raises(ValueError, match=r"is not one of a 16x16 image: whole pixels, 0 <= row, col <= 16 - size"):
        forward_model.support(crops(row))
    with pytest.raises(ValueError, match=r"params must be \(\.\.\., 3\)"):
        forward_model.support(torch.zeros(2, 4))


def test_drawn_crops_fit_and_reach_everywhere():
    params = gi.draw_crops(4000, 2, seed(), gi.CONTEXT)
    corner, size = params[..., :2], params[..., 2]
    assert size.min() == 16 and size.max() == 24 and (corner >= 0).all() and (corner + size[..., None] <= 64).all()
    assert corner.min() == 0 and (corner + size[..., None]).max() == 64
    batch = gi.batches(lambda n, random: torch.rand(n, 3, 64, 64, generator=random) + 1, 8, 3)(seed())
    many = batch["context"].mask.sum(1)
    assert batch["context"].value.shape == (8, 3, 3, 64, 64) and many.min() >= 1 and many.unique().numel() > 1
    assert batch["target"].params.shape == batch["novel"].params.shape == (8, 1, 3)
    large = gi.batches(lambda n, random: torch.rand(n, 3, 128, 128, generator=random), 64)(seed())
    assert all((each.params[..., :2] > 64).any() for each in large.values()), "crops of large pictures reach far"


def test_patches_merge_where_they_overlap():
    params = crops((0, 0, 4), (2, 0, 4))[None]
    support = gi.patch_mask(params, 8)
    value = torch.stack([torch.full((3, 8, 8), 1.0), torch.full((3, 8, 8), 3.0)])[None] * support
    picture, seen = composite_crops(value, support)
    assert picture[0, 0, :, 0].tolist() == [1, 1, 2, 2, 3, 3, 0, 0] and seen[0, 0, :, 0].tolist() == [1] * 6 + [0] * 2


@pytest.mark.parametrize("space, shape", [("w", (8,)), ("w+", (6, 8))])
def test_samples_and_losses_in_either_space(forward_model, space, shape):
    network = denoiser(forward_model, space)
    pictures = forward_model.generator.synthesis(gi.styles(forward_model.generator, 3, seed(3)))
    context = gi.observe(pictures, gi.draw_crops(3, 2, seed(4), (4, 8), SIDE))
    target = gi.draw_crops(3, 1, seed(5), (4, 8), SIDE)
    model = ForwardDiffusion(network, forward_model, CosineSchedule())
    step = model.sample(context, target, steps=2, generator=seed(6))
    assert step.signal.shape == (3, *shape) and step.observation.shape == (3, 1, 3, SIDE, SIDE)
    assert torch.equal(step.observation != 0, forward_model.support(target).bool().expand_as(step.observation))
    assert ForwardRegression(network, forward_model, CosineSchedule()).sample(context, target).signal.shape == (
        3,
        *shape,
    )
    seen = gi.observe(pictures, target)
    losses = model.loss(context, seen, *model.sample_time_and_noise(seen, seed(7)), seen)
    losses["loss"].backward()
    assert set(losses) == {"loss", "target", "novel", "deterministic"}
    assert network.encoder.last[-1].weight.grad.abs().max() > 0
    assert all(w.grad is None for w in forward_model.generator.parameters()), "the generator is frozen"
    _, around = model.sample_autoregressive(context, target.expand(-1, 2, -1), steps=1, generator=seed(8))
    assert around.value.shape[1] == 4


def test_an_untrained_denoiser_answers_the_mean_and_unknown_spaces_are_refused(forward_model):
    network = denoiser(forward_model, "w+")
    empty = Observations(torch.zeros(1, 1, 3, SIDE, SIDE), crops((0, 0, 4))[None])
    signal = network(network.condition(empty, empty.params), empty.value, torch.ones(1))
    assert torch.equal(signal, forward_model.generator.mapping.w_avg.expand(1, 6, 8))
    with pytest.raises(ValueError, match=r"unknown space 'z': choose w or w\+"):
        gi.PatchDenoiser(forward_model, torch.ones(8), "z")


def test_where_patches_of_a_context_overlap_the_first_is_believed(forward_model):
    network = denoiser(forward_model, "w+")
    params = crops((0, 0, 4), (2, 0, 4))[None]
    values = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1) * gi.patch_mask(params, SIDE)
    condition = network.condition(Observations(values.expand(-1, -1, 3, -1, -1), params), params)
    assert condition.picture[0, 0, :7, 0].tolist() == [1, 1, 1, 1, 3, 3, 0]
    assert condition.seen[0, 0, :7, 0].tolist() == [1] * 6 + [0]


def test_the_network_is_shown_what_the_context_alone_suggests(forward_model):
    network = denoiser(forward_model, "w+")
    picture = forward_model.generator.synthesis(gi.styles(forward_model.generator, 1, seed(3)))
    context, target = gi.observe(picture, crops((0, 0, 6))[None]), crops((8, 8, 6), (4, 4, 8))[None]
    torch.nn.init.normal_(network.encoder.last[-1].weight, generator=seed(4))
    shown, blank = [], torch.zeros(1, 2, 3, SIDE, SIDE)
    network.encoder.register_forward_pre_hook(lambda _, given: shown.append(pixel_shuffle(given[0], 2)))
    condition = network.condition(context, target)
    network(condition, blank, torch.ones(1))
    draw, inside = forward_model.generator.synthesis, gi.patch_mask(crops((0, 0, 6)), SIDE)
    assert torch.equal(condition.deterministic_prediction.value, forward_model(condition.guess, target))
    for given, code in zip(shown, (network.mean.expand(1, 6, 8), condition.guess), strict=True):
        assert torch.equal(given[:, :4], torch.cat([context.value[:, 0], inside], 1))
        assert torch.equal(given[:, 4:7], draw(code)) and torch.equal(given[:, 7:10], (picture - draw(code)) * inside)
    assert torch.equal(shown[0][:, 10:], torch.zeros(1, 4, SIDE, SIDE)), "the guess is made before there is a target"
    assert torch.equal(shown[1][:, 13:], gi.merge(blank, condition.support)[1])
    assert not torch.equal(condition.guess, network.mean.expand(1, 6, 8))
    assert not any(key.startswith("forward_model") for key in network.state_dict()), "the generator is not its own"


def test_what_a_context_drops_it_does_not_tell(forward_model):
    network = denoiser(forward_model, "w")
    value = torch.randn(1, 2, 3, SIDE, SIDE, generator=seed())
    params = crops((0, 0, 6), (8, 8, 6))[None]
    both = Observations(value * gi.patch_mask(params, SIDE), params)
    one = network.condition(both.mask_out(torch.tensor([[False, True]])), params[:, :1])
    alone = network.condition(both.select([0]), params[:, :1])
    assert torch.equal(one.picture, alone.picture) and torch.equal(one.seen, alone.seen)


def test_a_bank_is_weighted_as_by_hand():
    bank = torch.zeros(4, 3, 8, 8)
    bank[:, 0, 0, 0] = torch.tensor([0.0, 1.0, 2.0, 5.0])
    bank[:, 0, 7, 7] = torch.tensor([9.0, 0.0, 9.0, 0.0])  # outside of the crop
    context = gi.observe(torch.zeros(1, 3, 8, 8), crops((0, 0, 2))[None])
    distances = gi.bank_distances(bank, context, lot=3)
    assert distances.tolist() == [[0, 1, 4, 25]]
    weights, s, size = gi.bank_weights(distances, least=2)
    assert size.item() == pytest.approx(2, abs=1e-6)
    expected = torch.exp(-distances.double() / (2 * s[:, None] ** 2))
    assert torch.allclose(weights, expected / expected.sum()) and weights.argmax() == 0
    with pytest.raises(ValueError, match="a bank of 4 pictures has no effective sample size of 50"):
        gi.bank_weights(distances)


def test_a_weighted_bank_finds_a_known_posterior():
    """Pictures of one number x ~ N(0, 1) seen with noise of a given size: the posterior's mean is known."""
    x = torch.randn(200_000, generator=seed())
    bank = x.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    context = gi.observe(torch.full((1, 3, 2, 2), 0.8), crops((0, 0, 2))[None])
    weights, s, _ = gi.bank_weights(gi.bank_distances(bank, context, lot=50_000), least=20_000)
    precise = 12 / s**2  # twelve numbers, each of which tells x up to s
    assert (weights @ x.double()).item() == pytest.approx((precise * 0.8 / (1 + precise)).item(), abs=0.02)


def test_the_best_denoiser_is_bayes_rule_and_its_observation_the_posterior_mean():
    random, schedule = seed(1), CosineSchedule()
    bank = torch.randn(5, 3, 8, 8, generator=random, dtype=torch.float64)
    context = gi.observe(bank[:2], crops((0, 0, 3)).expand(2, -1, -1).double())
    params = torch.tensor([[[2, 2, 4], [4, 0, 3]], [[0, 5, 3], [1, 1, 2]]], dtype=torch.float64)
    support, t = gi.patch_mask(params, 8), torch.tensor([0.9, 0.5], dtype=torch.float64)
    y = support * torch.randn(2, 2, 3, 8, 8, generator=random, dtype=torch.float64)
    network = gi.BankDenoiser(bank, schedule, s=2.0)
    signal = network(network.condition(context, params), y, t)
    likelihood = torch.ones(2, 5, dtype=torch.float64)
    for i in range(2):
        alpha, sigma = schedule.alpha(t[i]), schedule.sigma(t[i])
        for j, x in enumerate(bank):
            told = torch.distributions.Normal(x[:, :3, :3], 2.0).log_prob(context.value[i, 0, :, :3, :3]).sum()
            for m in range(2):
                inside = support[i, m].expand_as(x) > 0
                told = told + torch.distributions.Normal(alpha * x[inside], sigma).log_prob(y[i, m][inside]).sum()
            likelihood[i, j] = told
    torch.testing.assert_close(signal, likelihood.softmax(1))
    observation = gi.Bank(bank)(signal, params)
    torch.testing.assert_close(observation, torch.einsum("bn,nchw->bchw", signal, bank)[:, None] * support)


def test_optimisation_finds_codes_that_agree(forward_model):
    w = gi.styles(forward_model.generator, 4, seed(9))
    params = crops((2, 2, 10)).expand(4, 1, 3)
    context = Observations(forward_model(w, params), params)
    start = gi.styles(forward_model.generator, 4, seed(10))
    found = gi.optimise(forward_model, context, start, steps=150)
    before, after = ((forward_model(x, params) - context.value).square().mean() for x in (start, found))
    assert after < 0.1 * before
