"""Keyhole digits: the window's geometry, what never leaks, a denoiser that starts well, measures that can fail."""

import math

import pytest
import torch

from fwdiff_lite import ForwardDiffusion, ForwardRegression, Observations, fit, metrics
from fwdiff_lite.problems import digits as p


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data():
    return p.digits()


# --- the forward model ---


def test_support_in_closed_form():
    forward_model = p.Keyhole()
    for size in (3, 4, 5):
        for row in range(9 - size):
            for col in range(9 - size):
                wanted = torch.zeros(8, 8)
                wanted[row : row + size, col : col + size] = 1
                assert torch.equal(forward_model.support(torch.tensor([row, col, size]).float()), wanted)


def test_a_window_and_its_complement_are_the_digit():
    signal = torch.randn(6, 8, 8, dtype=torch.float64, generator=generator())
    params = p.draw_windows(6, 3, generator())
    support = p.Keyhole().support(params)
    outside = signal[:, None] * (1 - support)
    assert torch.equal(p.Keyhole()(signal, params) + outside, signal[:, None].expand(6, 3, 8, 8))
    assert torch.equal(support.sum((2, 3)), params[..., 2].square())


def test_the_forward_model_is_linear_and_observing_twice_changes_nothing():
    a, b = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=generator())
    params, forward_model = p.draw_windows(4, 2, generator()), p.Keyhole()
    assert torch.allclose(
        forward_model(2 * a - 3 * b, params), 2 * forward_model(a, params) - 3 * forward_model(b, params)
    )
    once = forward_model(a, params[:, :1])
    assert torch.equal(forward_model(once[:, 0], params[:, :1]), once)


def test_moving_digit_and_window_together_changes_nothing():
    """Where the window stays on the canvas, its pixels are the same, only elsewhere."""
    images = torch.randn(200, 8, 8, generator=generator())
    shift = torch.randint(-2, 3, (200, 1, 2), generator=generator(1)).float()
    params = p.draw_windows(200, 4, generator(2), shift)
    before = torch.cat([params[..., :2] - shift, params[..., 2:]], -1)  # still on the canvas, or this raises
    after = p.observe(p.move(images, shift), params)
    for value, old, new, moved in zip(
        after.value, p.observe(images, before).value, params, shift, strict=True
    ):
        assert new.shape == (4, 3)
        back = torch.roll(value, (-moved[0]).int().tolist(), (1, 2))
        assert torch.equal(back, old)


def test_windows_are_drawn_evenly():
    params = p.draw_windows(20_000, 1, generator())[:, 0]
    for size in (3, 4, 5):
        share = (params[:, 2] == size).float().mean()
        assert abs(share - 1 / 3) < 5 * math.sqrt(2 / 9 / 20_000)
        corners = params[params[:, 2] == size, :2]
        places = (9 - size) ** 2
        counts = torch.bincount((corners[:, 0] * 8 + corners[:, 1]).long(), minlength=64)
        assert (counts > 0).sum() == places
        assert (counts[counts > 0] / len(corners) * places - 1).abs().max() < 0.35


def test_corner_windows_cover_the_canvas_in_any_order():
    params = p.corner_windows(50, generator())
    assert (p.Keyhole().support(params).sum(1) > 0).all()
    assert len({tuple(order.flatten().tolist()) for order in params}) > 10


@pytest.mark.parametrize(
    "window, message",
    [
        ((6, 0, 3), "row 6, col 0, size 3.*leaves the 8x8 canvas"),
        ((-1, 0, 3), "row -1.*leaves the 8x8 canvas"),
        ((0, 0, 2), "size 2.*outside 3 to 5"),
        ((0, 0, 8), "size 8.*outside 3 to 5"),
        ((0.5, 0, 3), "row 0.5.*whole pixels"),
        ((float("nan"), 0, 3), "whole pixels"),
    ],
)
def test_bad_windows_are_refused(window, message):
    with pytest.raises(ValueError, match=message):
        p.Keyhole().support(torch.tensor(window))


def test_windows_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(row, col, size\).*got \(2, 4, 2\)"):
        p.Keyhole()(torch.zeros(2, 8, 8), torch.zeros(2, 4, 2))
    with pytest.raises(ValueError, match="observed whole"):
        p.Keyhole()(torch.zeros(1, 8, 8), torch.tensor([[[0.0, 0.0, 3.0]]]), pixel_indices=torch.zeros(1, 1, 2).long())


# --- the data ---


def test_the_split_is_by_digit_and_always_the_same(data):
    assert len(data.train) == 1500 and len(data.held_out) == 297
    assert torch.equal(p.digits().held_out, data.held_out)
    assert not torch.equal(p.digits(seed=1).held_out, data.held_out)
    assert data.train.min() == -1 and data.train.max() == 1
    same = (data.held_out[:, None] == data.train[None]).flatten(2).all(-1)
    assert not same.any()
    assert torch.bincount(data.held_out_labels, minlength=10).min() > 15


def test_training_never_meets_a_held_out_digit(data):
    """Every digit carries its own number in all pixels; the numbers in the batches are the training digits'."""
    marks = torch.arange(1797.0)[:, None, None].expand(-1, 8, 8)
    train = marks[torch.randperm(1797, generator=generator())[297:]]  # as digits() splits
    batch, met = p.batches(train, 512), set()
    random = generator()
    for _ in range(20):
        for seen in batch(random).values():
            support = p.Keyhole().support(seen.params) * seen.mask[..., None, None]
            met |= set(seen.value[support > 0].tolist())
    assert met <= set(train[:, 0, 0].tolist()) and len(met) > 1400


def test_context_target_and_novel_windows_are_of_one_digit():
    marks = torch.arange(1.0, 41)[:, None, None].expand(-1, 8, 8)
    batch = p.batches(marks, 64, shift=1)(generator())
    largest = torch.stack([seen.value.amax((1, 2, 3)) for seen in batch.values() if seen.mask.all()])
    assert torch.equal(largest.amax(0), largest.amin(0))
    context = batch["context"]
    assert set(context.mask.sum(1).tolist()) == set(range(p.CONTEXTS + 1))
    filled = context.mask.any(1)
    assert torch.equal(context.value[filled].amax((1, 2, 3)), largest[0][filled])
    assert (context.value[~context.mask] == 0).all()


def test_dimming_takes_ink_from_all_windows_of_a_digit_alike():
    batch = p.batches(torch.ones(10, 8, 8), 64, dim=0.5)(generator())
    target, novel = batch["target"].value.amax((1, 2, 3)), batch["novel"].value.amax((1, 2, 3))
    assert torch.allclose(target, novel) and target.min() >= 0 and target.max() <= 1 and target.std() > 0.1


def test_statistics_come_from_windows_and_agree_with_the_digits(data):
    mean, variance = p.pixel_statistics(p.batches(data.train), generator())
    assert (mean - data.train.mean(0)).abs().max() < 0.06
    assert (variance - data.train.var(0)).abs().max() < 0.06


# --- the denoiser ---


def silent(tolerance=0.1):
    """A denoiser whose network says nothing: the guess alone, for standard normal pixels."""
    denoiser = p.KeyholeDenoiser(
        torch.zeros(8, 8), torch.full((8, 8), 0.25), 8, 1, tolerance=tolerance, bounded=False
    )
    for w in denoiser.network.linear_out[-1].parameters():
        torch.nn.init.zeros_(w)
    return denoiser.double()


def test_the_guess_is_the_gaussian_posterior_mean():
    images = 0.5 * torch.randn(3, 8, 8, dtype=torch.float64, generator=generator())
    window, target = (
        torch.tensor([[[0.0, 0, 3]]]).expand(3, 1, 3),
        torch.tensor([[[2.0, 2, 5]]]).expand(3, 1, 3),
    )
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    alpha, sigma = torch.cos(t * math.pi / 2)[:, None, None], torch.sin(t * math.pi / 2)[:, None, None]
    there = p.Keyhole().support(target)[:, 0]
    noisy = there * (
        alpha * images + sigma * torch.randn(3, 8, 8, dtype=torch.float64, generator=generator(1))
    )
    denoiser = silent()
    signal = denoiser(denoiser.condition(p.observe(images, window), target), noisy[:, None], t)

    for pixel, m, v, observed in (
        ((1, 1), images[:, 1, 1], 0.01, False),  # in the context alone
        ((2, 2), images[:, 2, 2], 0.01, True),  # in both
        ((5, 5), 0.0, 0.25, True),  # in the target alone
        ((0, 7), 0.0, 0.25, False),  # in neither
    ):
        a, s, y = alpha[:, 0, 0], sigma[:, 0, 0], noisy[:, pixel[0], pixel[1]]
        wanted = (m / v + a * y / s**2) / (1 / v + a**2 / s**2) if observed else m + torch.zeros(3)
        assert torch.allclose(signal[:, pixel[0], pixel[1]], wanted.to(signal), atol=1e-6), pixel


def test_order_of_windows_does_not_matter_and_missing_ones_leave_no_trace(data):
    model = p.untrained(data.train).eval()
    context = p.observe(data.held_out[:5], p.draw_windows(5, 3, generator()))
    target, t = p.draw_windows(5, 1, generator(1)), torch.full((5,), 0.5)
    noisy = torch.randn(5, 1, 8, 8, generator=generator()) * p.Keyhole().support(target)

    def answer(seen):
        return model.denoiser(model.denoiser.condition(seen, target), noisy, t)

    assert torch.allclose(answer(context), answer(context.select([2, 0, 1])), atol=1e-6)
    last = torch.tensor([[False, False, True]]).expand(5, 3)
    assert torch.equal(answer(context.mask_out(last)), answer(context.select([0, 1])))
    assert not torch.allclose(answer(context), answer(context.select([0, 1])))
    assert answer(context).abs().max() <= 1


def test_a_short_training_lowers_the_loss_of_model_and_baseline(data):
    for kind in (ForwardDiffusion, ForwardRegression):
        model = p.untrained(data.train, kind, width=96)
        curve = fit(model, p.batches(data.train, 128), steps=60, warmup=10, progress=False, **p.RATE).curve
        assert sum(curve["loss"][-10:]) < 0.9 * sum(curve["loss"][:10]), kind.__name__


def test_sampling_keeps_its_shape_its_range_and_its_seed(data):
    model = p.untrained(data.train, width=32).eval()
    context = p.keyholes(data.held_out[:3], 1)
    samples = p.sample_digits(model, context, 4, steps=2)
    assert samples.shape == (3, 4, 8, 8) and samples.abs().max() <= 1
    assert torch.equal(samples, p.sample_digits(model, context, 4, steps=2))
    assert not torch.equal(samples, p.sample_digits(model, context, 4, steps=2, seed=1))
    empty = context.mask_out(torch.ones_like(context.mask))
    assert p.sample_digits(model, empty, 2, windows=1, steps=2).shape == (3, 2, 8, 8)


def test_an_empty_context_among_others_is_refused(data):
    model = p.untrained(data.train, width=32).eval()
    context = p.keyholes(data.held_out[:3], 1)
    with pytest.raises(ValueError, match="context is empty for 2 of 6"):
        p.sample_digits(model, context.mask_out(torch.tensor([[True], [False], [False]])), 2, steps=2)


def test_nan_ink_is_refused(data):
    model = p.untrained(data.train, width=32).eval()
    context = p.keyholes(data.held_out[:2], 1)
    broken = Observations(context.value * float("nan"), context.params)
    with pytest.raises(ValueError, match="NaN or infinite"):
        p.sample_digits(model, broken, 2, steps=2)


# --- the measures, and what must fail them ---


def test_consistency_counts_the_window_alone(data):
    truth = data.held_out[:20]
    context = p.keyholes(truth, 1)
    seen = p.canvas(context)[1][:, None]
    samples = truth[:, None] + 0.2 * seen - 7 * (1 - seen)
    assert (
        abs(p.decibel(p.consistency(samples.expand(20, 3, 8, 8), truth, context)) - 20) < 1e-3
    )  # 10 log10(4 / 0.04)
    wrong = p.consistency(truth[:, None].roll(1, 0), truth, context)
    assert p.decibel(wrong) < 15, "samples of other keyholes must not look consistent"


def test_the_measures_tell_a_good_sampler_from_its_controls():
    """Truth and samples from one distribution pass; half the spread and the wrong contexts fail."""
    centre = torch.randn(300, 1, 8, 8, generator=generator())
    truth = (centre + 0.5 * torch.randn(300, 1, 8, 8, generator=generator(1)))[:, 0]
    good = centre + 0.5 * torch.randn(300, 16, 8, 8, generator=generator(2))
    half = (good + good.mean(1, keepdim=True)) / 2
    point = metrics.euclidean_error(centre[:, 0], truth)
    assert abs(metrics.spread_skill(good, truth, generator()).value - 1) < 0.05
    assert metrics.spread_skill(half, truth, generator()).high < 0.6
    assert (
        abs(metrics.energy_ratio(metrics.energy_score(good, truth), point, generator()).value - 0.707) < 0.01
    )
    assert metrics.energy_ratio(metrics.energy_score(good.roll(1, 0), truth), point, generator()).low > 1


def test_the_reader_reads_digits_and_doubts_what_is_none(data):
    read = p.reader(data)
    whole = read(data.held_out)
    assert (whole.argmax(1) == data.held_out_labels).float().mean() > 0.95
    assert metrics.log_loss(whole, data.held_out_labels).mean() < 0.25
    frequencies = torch.full((297, 10), 0.1)
    assert metrics.log_loss(frequencies, data.held_out_labels).mean() > 2.29
    assert metrics.log_loss(whole, data.held_out_labels.roll(1)).mean() > 3, "wrong labels must be punished"


def test_pooled_readings_are_a_distribution_that_rules_nothing_out():
    certain = torch.nn.functional.one_hot(torch.zeros(2, 16).long(), 10).float()
    pooled = p.pooled(certain)
    assert torch.allclose(pooled.sum(1), torch.ones(2))
    assert torch.allclose(pooled[:, 0], torch.tensor(16.1 / 17)) and (pooled > 0).all()
