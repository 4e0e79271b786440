"""Windows of digits: the crop operator, separation of training and test, the denoiser, measures with controls."""

import math

import pytest
import torch

from fwdiff_lite import ForwardDiffusion, ForwardRegression, Observations, fit, metrics
from fwdiff_lite.problems import digits


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data():
    return digits.load_digit_splits()


# --- the forward model ---


def test_the_support_is_the_window():
    forward_model = digits.CropOperator()
    for size in (3, 4, 5):
        for row in range(9 - size):
            for col in range(9 - size):
                expected = torch.zeros(8, 8)
                expected[row : row + size, col : col + size] = 1
                assert torch.equal(forward_model.support(torch.tensor([row, col, size]).float()), expected)


def test_a_window_and_its_complement_add_up_to_the_digit():
    signal = torch.randn(6, 8, 8, dtype=torch.float64, generator=generator())
    params = digits.sample_windows(6, 3, generator())
    support = digits.CropOperator().support(params)
    outside = signal[:, None] * (1 - support)
    assert torch.equal(digits.CropOperator()(signal, params) + outside, signal[:, None].expand(6, 3, 8, 8))
    assert torch.equal(support.sum((2, 3)), params[..., 2].square())


def test_the_forward_model_is_linear_and_idempotent():
    a, b = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=generator())
    params, forward_model = digits.sample_windows(4, 2, generator()), digits.CropOperator()
    assert torch.allclose(
        forward_model(2 * a - 3 * b, params), 2 * forward_model(a, params) - 3 * forward_model(b, params)
    )
    observation = forward_model(a, params[:, :1])
    assert torch.equal(forward_model(observation[:, 0], params[:, :1]), observation)


def test_a_window_of_a_rolled_digit_shows_the_pixels_of_the_original_window():
    """Digit and window are shifted alike, so the window's pixels are the same at another position."""
    images = torch.randn(200, 8, 8, generator=generator())
    shift = torch.randint(-2, 3, (200, 1, 2), generator=generator(1)).float()
    params = digits.sample_windows(200, 4, generator(2), shift)
    original_params = torch.cat([params[..., :2] - shift, params[..., 2:]], -1)  # on the canvas, or observe raises
    rolled = digits.observe(digits.roll_images(images, shift), params)
    original = digits.observe(images, original_params)
    for rolled_value, original_value, digit_shift in zip(rolled.value, original.value, shift, strict=True):
        aligned = torch.roll(rolled_value, (-digit_shift[0]).int().tolist(), (1, 2))
        assert torch.equal(aligned, original_value)


def test_windows_are_sampled_uniformly():
    params = digits.sample_windows(20_000, 1, generator())[:, 0]
    for size in (3, 4, 5):
        fraction = (params[:, 2] == size).float().mean()
        assert abs(fraction - 1 / 3) < 5 * math.sqrt(2 / 9 / 20_000)
        corners = params[params[:, 2] == size, :2]
        num_positions = (9 - size) ** 2
        counts = torch.bincount((corners[:, 0] * 8 + corners[:, 1]).long(), minlength=64)
        assert (counts > 0).sum() == num_positions
        assert (counts[counts > 0] / len(corners) * num_positions - 1).abs().max() < 0.35


def test_corner_windows_cover_the_canvas_in_random_order():
    params = digits.corner_windows(50, generator())
    assert (digits.CropOperator().support(params).sum(1) > 0).all()
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
        digits.CropOperator().support(torch.tensor(window))


def test_windows_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(row, col, size\).*got \(2, 4, 2\)"):
        digits.CropOperator()(torch.zeros(2, 8, 8), torch.zeros(2, 4, 2))
    with pytest.raises(ValueError, match="rendered in full: pixel_indices must be None"):
        digits.CropOperator()(
            torch.zeros(1, 8, 8), torch.tensor([[[0.0, 0.0, 3.0]]]), pixel_indices=torch.zeros(1, 1, 2).long()
        )


# --- the data ---


def test_the_split_is_by_digit_and_always_the_same(data):
    assert len(data.train) == 1500 and len(data.held_out) == 297
    assert torch.equal(digits.load_digit_splits().held_out, data.held_out)
    assert not torch.equal(digits.load_digit_splits(seed=1).held_out, data.held_out)
    assert data.train.min() == -1 and data.train.max() == 1
    is_duplicate = (data.held_out[:, None] == data.train[None]).flatten(2).all(-1)
    assert not is_duplicate.any()
    assert torch.bincount(data.held_out_labels, minlength=10).min() > 15


def test_training_never_uses_a_held_out_digit(data):
    """All pixels of a digit hold its index; the indices in the batches are those of the training digits."""
    indices = torch.arange(1797.0)[:, None, None].expand(-1, 8, 8)
    train = indices[torch.randperm(1797, generator=generator())[297:]]  # the split of load_digit_splits
    batch, used = digits.batches(train, 512), set()
    random = generator()
    for _ in range(20):
        for windows in batch(random).values():
            support = digits.CropOperator().support(windows.params) * windows.mask[..., None, None]
            used |= set(windows.value[support > 0].tolist())
    assert used <= set(train[:, 0, 0].tolist()) and len(used) > 1400


def test_context_target_and_novel_windows_are_of_one_digit():
    indices = torch.arange(1.0, 41)[:, None, None].expand(-1, 8, 8)
    batch = digits.batches(indices, 64, max_shift=1)(generator())
    largest = torch.stack([windows.value.amax((1, 2, 3)) for windows in batch.values() if windows.mask.all()])
    assert torch.equal(largest.amax(0), largest.amin(0))
    context = batch["context"]
    assert set(context.mask.sum(1).tolist()) == set(range(digits.MAX_CONTEXTS + 1))
    nonempty = context.mask.any(1)
    assert torch.equal(context.value[nonempty].amax((1, 2, 3)), largest[0][nonempty])
    assert (context.value[~context.mask] == 0).all()


def test_ink_is_dimmed_in_all_windows_of_a_digit_alike():
    batch = digits.batches(torch.ones(10, 8, 8), 64, max_ink_dimming=0.5)(generator())
    target, novel = batch["target"].value.amax((1, 2, 3)), batch["novel"].value.amax((1, 2, 3))
    assert torch.allclose(target, novel) and target.min() >= 0 and target.max() <= 1 and target.std() > 0.1


def test_pixel_statistics_of_windows_agree_with_those_of_complete_digits(data):
    mean, variance = digits.pixel_statistics(digits.batches(data.train), generator())
    assert (mean - data.train.mean(0)).abs().max() < 0.06
    assert (variance - data.train.var(0)).abs().max() < 0.06


# --- the denoiser ---


def denoiser_with_zero_network(context_noise_std=0.1):
    """A denoiser whose network gives zero, so that its output is the posterior mean; the prior is N(0, 0.25)."""
    denoiser = digits.DigitDenoiser(
        torch.zeros(8, 8), torch.full((8, 8), 0.25), 8, 1, context_noise_std=context_noise_std, bounded=False
    )
    for w in denoiser.network.linear_out[-1].parameters():
        torch.nn.init.zeros_(w)
    return denoiser.double()


def test_with_a_zero_network_the_signal_is_the_gaussian_posterior_mean():
    images = 0.5 * torch.randn(3, 8, 8, dtype=torch.float64, generator=generator())
    window, target = (
        torch.tensor([[[0.0, 0, 3]]]).expand(3, 1, 3),
        torch.tensor([[[2.0, 2, 5]]]).expand(3, 1, 3),
    )
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    alpha, sigma = torch.cos(t * math.pi / 2)[:, None, None], torch.sin(t * math.pi / 2)[:, None, None]
    target_support = digits.CropOperator().support(target)[:, 0]
    noisy = target_support * (
        alpha * images + sigma * torch.randn(3, 8, 8, dtype=torch.float64, generator=generator(1))
    )
    denoiser = denoiser_with_zero_network()
    signal = denoiser(denoiser.condition(digits.observe(images, window), target), noisy[:, None], t)

    for pixel, m, v, observed in (
        ((1, 1), images[:, 1, 1], 0.01, False),  # covered by the context only
        ((2, 2), images[:, 2, 2], 0.01, True),  # covered by both
        ((5, 5), 0.0, 0.25, True),  # covered by the target only
        ((0, 7), 0.0, 0.25, False),  # covered by neither
    ):
        a, s, y = alpha[:, 0, 0], sigma[:, 0, 0], noisy[:, pixel[0], pixel[1]]
        expected = (m / v + a * y / s**2) / (1 / v + a**2 / s**2) if observed else m + torch.zeros(3)
        assert torch.allclose(signal[:, pixel[0], pixel[1]], expected.to(signal), atol=1e-6), pixel


def test_the_order_of_context_windows_and_masked_windows_have_no_influence(data):
    model = digits.build_model(data.train).eval()
    context = digits.observe(data.held_out[:5], digits.sample_windows(5, 3, generator()))
    target, t = digits.sample_windows(5, 1, generator(1)), torch.full((5,), 0.5)
    noisy = torch.randn(5, 1, 8, 8, generator=generator()) * digits.CropOperator().support(target)

    def denoise(context):
        return model.denoiser(model.denoiser.condition(context, target), noisy, t)

    assert torch.allclose(denoise(context), denoise(context.select([2, 0, 1])), atol=1e-6)
    is_last = torch.tensor([[False, False, True]]).expand(5, 3)
    assert torch.equal(denoise(context.mask_out(is_last)), denoise(context.select([0, 1])))
    assert not torch.allclose(denoise(context), denoise(context.select([0, 1])))
    assert denoise(context).abs().max() <= 1


def test_a_short_training_lowers_the_loss_of_model_and_baseline(data):
    for model_class in (ForwardDiffusion, ForwardRegression):
        model = digits.build_model(data.train, model_class, width=96)
        curve = fit(
            model, digits.batches(data.train, 128), steps=60, warmup=10, progress=False, learning_rate=2e-3
        ).curve
        assert sum(curve["loss"][-10:]) < 0.9 * sum(curve["loss"][:10]), model_class.__name__


def test_samples_have_their_shape_and_range_and_depend_on_the_seed(data):
    model = digits.build_model(data.train, width=32).eval()
    context = digits.make_test_windows(data.held_out[:3], 1)
    samples = digits.sample_posterior(model, context, 4, steps=2)
    assert samples.shape == (3, 4, 8, 8) and samples.abs().max() <= 1
    assert torch.equal(samples, digits.sample_posterior(model, context, 4, steps=2))
    assert not torch.equal(samples, digits.sample_posterior(model, context, 4, steps=2, seed=1))
    empty = context.mask_out(torch.ones_like(context.mask))
    assert digits.sample_posterior(model, empty, 2, num_windows=1, steps=2).shape == (3, 2, 8, 8)


def test_a_batch_with_some_empty_contexts_is_refused(data):
    model = digits.build_model(data.train, width=32).eval()
    context = digits.make_test_windows(data.held_out[:3], 1)
    with pytest.raises(ValueError, match="context is empty for 2 of 6"):
        digits.sample_posterior(model, context.mask_out(torch.tensor([[True], [False], [False]])), 2, steps=2)


def test_nan_ink_is_refused(data):
    model = digits.build_model(data.train, width=32).eval()
    context = digits.make_test_windows(data.held_out[:2], 1)
    nan_context = Observations(context.value * float("nan"), context.params)
    with pytest.raises(ValueError, match="NaN or infinite"):
        digits.sample_posterior(model, nan_context, 2, steps=2)


# --- the measures and their controls ---


def test_the_context_error_counts_the_context_window_only(data):
    truth = data.held_out[:20]
    context = digits.make_test_windows(truth, 1)
    support = digits.composite_context(context)[1][:, None]
    samples = truth[:, None] + 0.2 * support - 7 * (1 - support)
    squared_error = digits.context_squared_error(samples.expand(20, 3, 8, 8), truth, context)
    assert abs(digits.psnr_from_squared_error(squared_error) - 20) < 1e-3  # 10 log10(4 / 0.04)
    shuffled = digits.context_squared_error(truth[:, None].roll(1, 0), truth, context)
    assert digits.psnr_from_squared_error(shuffled) < 15, "samples of other contexts must not look consistent"


def test_the_measures_separate_an_exact_sampler_from_its_controls():
    """Samples from the distribution of the truth pass; samples with half the spread or of wrong contexts fail."""
    centre = torch.randn(300, 1, 8, 8, generator=generator())
    truth = (centre + 0.5 * torch.randn(300, 1, 8, 8, generator=generator(1)))[:, 0]
    exact = centre + 0.5 * torch.randn(300, 16, 8, 8, generator=generator(2))
    narrow = (exact + exact.mean(1, keepdim=True)) / 2
    point = metrics.euclidean_error(centre[:, 0], truth)
    assert abs(metrics.spread_skill(exact, truth, generator()).value - 1) < 0.05
    assert metrics.spread_skill(narrow, truth, generator()).high < 0.6
    assert abs(metrics.energy_ratio(metrics.energy_score(exact, truth), point, generator()).value - 0.707) < 0.01
    assert metrics.energy_ratio(metrics.energy_score(exact.roll(1, 0), truth), point, generator()).low > 1


def test_the_classifier_recognises_held_out_digits(data):
    classifier = digits.train_classifier(data)
    probabilities = classifier(data.held_out)
    assert (probabilities.argmax(1) == data.held_out_labels).float().mean() > 0.95
    assert metrics.log_loss(probabilities, data.held_out_labels).mean() < 0.25
    uniform = torch.full((297, 10), 0.1)
    assert metrics.log_loss(uniform, data.held_out_labels).mean() > 2.29
    assert metrics.log_loss(probabilities, data.held_out_labels.roll(1)).mean() > 3, (
        "wrong labels must have a large log-loss"
    )


def test_a_smoothed_label_distribution_has_sum_1_and_no_zero():
    certain = torch.nn.functional.one_hot(torch.zeros(2, 16).long(), 10).float()
    distribution = digits.smoothed_label_distribution(certain)
    assert torch.allclose(distribution.sum(1), torch.ones(2))
    assert torch.allclose(distribution[:, 0], torch.tensor(16.1 / 17)) and (distribution > 0).all()
