"""The losses are Eq. 8 and 9, the sampler is Eq. 3 to 7, and both say what does not fit."""

import math

import pytest
import torch
from torch import nn

from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations, downsample_to
from fwdiff_lite.sampling import dynamic_threshold, reverse_step


def scale(signal, params):
    """O = phi S, elementwise: signal (B, d), params (B, M) -> (B, M, d)."""
    return params[..., None] * signal[:, None]


class Scalers(nn.Module):
    """A denoiser that answers with weight * (mean of the context / its phi) + trust * noisy target / phi."""

    def __init__(self, weight=0.3, trust=0.0):
        super().__init__()
        self.weight, self.trust = nn.Parameter(torch.tensor(weight, dtype=torch.float64)), trust
        self.conditions = 0

    def condition(self, context, target_params, target_mask=None):
        self.conditions += 1
        mask = context.mask[..., None]
        return (mask * context.value / context.params[..., None]).sum(1), target_params

    def forward(self, condition, noisy_target, t):
        known, phi = condition
        return self.weight * known + self.trust * noisy_target[:, 0] / phi


class Known(nn.Module):
    """A denoiser that knows the answer."""

    def __init__(self, signal):
        super().__init__()
        self.signal = signal

    def condition(self, context, target_params, target_mask=None):
        return None

    def forward(self, condition, noisy_target, t):
        return self.signal


def observed(b=6, m=1, d=3, seed=0, signal=None):
    generator = torch.Generator().manual_seed(seed)
    if signal is None:
        signal = torch.randn(b, d, generator=generator, dtype=torch.float64)
    phi = 0.5 + torch.rand(len(signal), m, generator=generator, dtype=torch.float64)
    return signal, Observations(scale(signal, phi), phi)


def test_loss_is_eq_8_plus_eq_9_computed_by_hand():
    signal, seen = observed(m=4)
    context, target, novel = seen.select([0]), seen.select([1]), seen.select([2, 3])
    model = ForwardDiffusion(Scalers(0.3, 0.2), scale, novel_weight=0.7)
    t, noise = model.sample_time_and_noise(target, torch.Generator().manual_seed(1))
    losses = model.loss(context, target, t, noise, novel)
    angle = t * math.pi / 2
    noisy = angle.cos()[:, None, None] * target.value + angle.sin()[:, None, None] * noise
    estimate = 0.3 * signal + 0.2 * noisy[:, 0] / target.params
    eq8 = (target.value[:, 0] - target.params * estimate).square().mean()
    eq9 = (novel.value - novel.params[..., None] * estimate[:, None]).square().mean()
    torch.testing.assert_close(losses["target"], eq8)
    torch.testing.assert_close(losses["novel"], eq9)
    torch.testing.assert_close(losses["loss"], eq8 + 0.7 * eq9)


def test_a_denoiser_may_weigh_its_examples():
    signal, seen = observed(m=3)

    class Weighing(Scalers):
        def loss_weight(self, condition, t):
            return 1 / t

    plain, weighing = (ForwardDiffusion(model_class(0.3), scale) for model_class in (Scalers, Weighing))
    t, noise = plain.sample_time_and_noise(seen.select([1]), torch.Generator())
    each = [
        plain.loss(x.select([0]), x.select([1]), t[i : i + 1], noise[i : i + 1], x.select([2]))["loss"].detach().item()
        for i in range(6)
        for x in [seen[i]]
    ]
    losses = weighing.loss(seen.select([0]), seen.select([1]), t, noise, seen.select([2]))
    losses = {name: x.detach().item() for name, x in losses.items()}
    assert losses["loss"] == pytest.approx(float((torch.tensor(each) / t).mean()))
    assert losses["target"] + losses["novel"] == pytest.approx(sum(each) / 6), "reported without weights"


def test_a_signal_that_is_right_costs_nothing_and_a_wrong_one_does():
    signal, seen = observed(m=2)
    model = ForwardDiffusion(Known(signal), scale)
    draw = model.sample_time_and_noise(seen.select([1]), torch.Generator())
    assert model.loss(seen.select([0]), seen.select([1]), *draw)["loss"] == 0
    model = ForwardDiffusion(Known(signal + 0.1), scale)
    assert model.loss(seen.select([0]), seen.select([1]), *draw)["loss"] > 0.001


def test_masked_and_unsupported_parts_of_the_target_count_for_nothing():
    signal, seen = observed(m=3)

    class Half:
        """Sees the first two of three numbers only."""

        def support(self, params):
            return torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)

        def __call__(self, signal, params):
            return scale(signal, params) * self.support(params)

    half = Half()
    target = Observations(half(signal, seen.params), seen.params)
    seen_noise = []

    class Spy(Known):
        def forward(self, condition, noisy_target, t):
            seen_noise.append(noisy_target)
            return self.signal

    wrong = signal + torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64)
    model = ForwardDiffusion(Spy(wrong), half)
    draw = model.sample_time_and_noise(target, torch.Generator())
    assert model.loss(target.select([0]), target, *draw)["loss"] == 0
    assert seen_noise[0][..., 2].abs().max() == 0 and seen_noise[0][..., :2].abs().min() > 0
    all(seen_noise.append(step.noisy_target) for step in model.trajectory(target, target.params, steps=3, eta=1.0))
    assert max(float(x[..., 2].abs().max()) for x in seen_noise) == 0
    bad = signal.clone()
    bad[0] += 9
    drop_mask = torch.zeros(6, 3, dtype=torch.bool)
    drop_mask[0] = True
    model = ForwardDiffusion(Known(bad), half)
    assert model.loss(target.select([0]), target.mask_out(drop_mask), *draw)["loss"] == 0


def test_times_cover_the_unit_interval_evenly():
    _, seen = observed(b=1000)
    t, noise = ForwardDiffusion(Scalers(), scale).sample_time_and_noise(seen, torch.Generator().manual_seed(3))
    assert noise.shape == seen.value.shape and 0 < t.min() and t.max() < 1
    assert (t.sort().values - (torch.arange(1000) + 0.5) / 1000).abs().max() < 2e-3


def test_ancestral_step_is_the_posterior_of_the_forward_process():
    """q(O_s | O_t, O) by conditioning the joint Gaussian of (O_s, O_t) given O."""
    model, t, s, clean, noisy = ForwardDiffusion(Scalers(), scale), 0.7, 0.4, 0.3, -0.8
    a_t, s_t, a_s, s_s = (f(x * math.pi / 2) for x in (t, s) for f in (math.cos, math.sin))
    ratio = a_t / a_s  # O_t = ratio O_s + noise of variance s_t^2 - ratio^2 s_s^2
    gain = ratio * s_s**2 / s_t**2
    mean = a_s * clean + gain * (noisy - a_t * clean)
    variance = s_s**2 - gain * ratio * s_s**2
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    noisy, clean = one * noisy, one * clean
    step = [float(reverse_step(model.schedule, noisy, clean, t, s, 1.0, lambda z=z: z)) for z in (zero, one)]
    assert step[0] == pytest.approx(mean, abs=1e-12)
    assert (step[1] - step[0]) ** 2 == pytest.approx(variance, abs=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_gaussian_signals_are_sampled_with_their_mean_and_variance(eta):
    """S ~ N(m, v) without context: the ideal denoiser is linear, and samples must have mean m and variance v."""
    m, v, n = 0.7, 0.25, 40_000

    class Ideal(nn.Module):
        def condition(self, context, target_params, target_mask=None):
            return target_params

        def forward(self, phi, noisy, t):
            a, s = torch.cos(t * math.pi / 2)[:, None], torch.sin(t * math.pi / 2)[:, None]
            gain = a * v * phi / (a**2 * phi**2 * v + s**2)
            return m + gain * (noisy[:, 0] - a * phi * m)

    phi = torch.full((n, 1), 1.3, dtype=torch.float64)
    empty = Observations(torch.zeros(n, 1, 1, dtype=torch.float64), phi, torch.zeros(n, 1, dtype=torch.bool))
    model = ForwardDiffusion(Ideal(), scale)
    generator = torch.Generator().manual_seed(0)
    x = model.sample(empty, phi, steps=400, eta=eta, generator=generator, allow_empty=True).signal
    assert float(x.mean()) == pytest.approx(m, abs=4 * math.sqrt(v / n))
    assert float(x.var()) == pytest.approx(v, rel=0.03)


def test_a_trajectory_conditions_once_and_ends_above_zero():
    _, seen = observed(m=2)
    denoiser = Scalers(0.9, 0.1)
    model = ForwardDiffusion(denoiser, scale)
    steps = list(model.trajectory(seen.select([0]), seen.params[:, 1:], steps=10, generator=torch.Generator()))
    assert denoiser.conditions == 1 and len(steps) == 10
    times = [step.t for step in steps]
    assert times[0] == 1 - 1e-3 and times == sorted(times, reverse=True) and times[-1] == pytest.approx(0.0999)
    torch.testing.assert_close(steps[-1].observation, scale(steps[-1].signal, seen.params[:, 1:]))
    last = model.sample(seen.select([0]), seen.params[:, 1:], steps=10, generator=torch.Generator())
    assert torch.equal(last.signal, steps[-1].signal), "sample is the trajectory's end, and seeds repeat"


def test_sampled_observations_join_the_context():
    _, seen = observed(m=3)
    model = ForwardDiffusion(Scalers(0.5, 0.1), scale)
    step, context = model.sample_autoregressive(seen.select([0]), seen.params[:, 1:], steps=4)
    assert context.value.shape == (6, 3, 3) and torch.equal(context.params, seen.params)
    assert torch.equal(context.value[:, 2:], step.observation)
    assert torch.equal(context.value[:, 0], seen.value[:, 0])


def test_guidance_extrapolates_and_one_is_none():
    _, seen = observed(m=2)
    model = ForwardDiffusion(Scalers(0.8), scale)
    context, phi = seen.select([0]), seen.params[:, 1:]
    plain = model.sample(context, phi, steps=1).signal
    torch.testing.assert_close(model.sample(context, phi, steps=1, guidance=2.0).signal, 2 * plain)
    assert torch.equal(model.sample(context, phi, steps=1, guidance=1.0).signal, plain)


def test_guiding_a_signal_that_is_no_tensor_guides_its_observation():
    _, seen = observed(m=2)

    class Boxed(Scalers):
        def forward(self, condition, noisy_target, t):
            return {"field": super().forward(condition, noisy_target, t)}

    model = ForwardDiffusion(Boxed(0.8), lambda signal, params: scale(signal["field"], params))
    context, phi = seen.select([0]), seen.params[:, 1:]
    plain, guided = (model.sample(context, phi, steps=1, guidance=g) for g in (1.0, 2.0))
    assert torch.equal(guided.signal["field"], plain.signal["field"]), "the signal itself is an unguided pass"
    torch.testing.assert_close(guided.observation, 2 * plain.observation)


def test_temperature_zero_takes_all_noise_away_and_thresholds_bound():
    _, seen = observed(m=2)
    model = ForwardDiffusion(Scalers(0.0, 1.0), scale)
    cold = next(model.trajectory(seen.select([0]), seen.params[:, 1:], temperature=0.0))
    assert cold.noisy_target.abs().max() == 0
    x = torch.linspace(-3, 3, 200).reshape(1, 1, 200)
    assert dynamic_threshold(x, 0.9).abs().max() == 1 and torch.equal(dynamic_threshold(x / 4, 0.9), x / 4)


def test_regression_never_sees_its_target():
    _, seen = observed(m=2)
    model = ForwardRegression(Scalers(0.5, 1.0), scale)
    context, target = seen.select([0]), seen.select([1])
    t, noise = model.sample_time_and_noise(target, torch.Generator())
    assert (t == 1).all() and noise.abs().max() == 0
    noisy_targets = []
    for value in (target.value, target.value + 7):
        other = Observations(value, target.params)
        noisy_targets.append(model._add_noise(other.value, noise, t))
    assert torch.equal(*noisy_targets)
    steps = list(model.trajectory(context, target.params))
    assert len(steps) == 1 and torch.equal(steps[0].signal, 0.5 * context.value[:, 0] / context.params)


def test_a_deterministic_prediction_of_the_denoiser_is_trained():
    signal, seen = observed(m=2)

    class Predicting(Known):
        def deterministic_prediction(self, condition):
            return Observations(seen.value[:, 1:] + 0.5, seen.params[:, 1:])

    model = ForwardDiffusion(Predicting(signal), scale)
    losses = model.loss(
        seen.select([0]), seen.select([1]), *model.sample_time_and_noise(seen.select([1]), torch.Generator())
    )
    assert float(losses["deterministic"]) == pytest.approx(0.25) and losses["loss"] == losses["deterministic"]


def test_a_prediction_in_fewer_pixels_is_compared_with_the_targets_averages():
    """Averages of 2 x 2 pixels by hand; the loss is the mean squared error of the prediction."""
    picture = torch.tensor([[1.0, 2.0, 5.0, 5.0], [3.0, 6.0, 5.0, 9.0]]).expand(6, 1, 1, 2, 4)
    target, averages = Observations(picture, torch.ones(6, 1)), torch.tensor([[3.0, 6.0]]).expand(6, 1, 1, 1, 2)

    class Predicting(Known):
        def deterministic_prediction(self, condition):
            return Observations(self.prediction, target.params)

    model = ForwardDiffusion(Predicting(picture), lambda signal, params: signal)
    draw = model.sample_time_and_noise(target, torch.Generator())

    def loss(prediction):
        model.denoiser.prediction = prediction
        losses = model.loss(target, target, *draw)
        assert losses["target"] == 0 and losses["loss"] == losses["deterministic"]
        return float(losses["deterministic"])

    assert loss(averages) == 0
    assert loss(averages + torch.tensor([[1.0, 2.0]])) == pytest.approx((1 + 4) / 2)
    assert loss(picture[..., :1, ::2]) > 0.1, "the control: every other pixel"
    assert loss(picture) == 0 and loss(picture + 0.5) == pytest.approx(0.25), "in as many pixels, as they are"
    assert loss(picture.mean((3, 4), keepdim=True)) == 0, "in one pixel, the mean"


def test_the_prediction_of_a_masked_target_costs_nothing():
    _, seen = observed(m=2)
    drop_mask = torch.zeros(6, 1, dtype=torch.bool)
    drop_mask[2:] = True

    class Predicting(Known):
        def deterministic_prediction(self, condition):
            return Observations(seen.value[:, 1:] + error, seen.params[:, 1:])

    model, target = ForwardDiffusion(Predicting(None), lambda signal, params: seen.value[:, 1:]), seen.select([1])
    draw = model.sample_time_and_noise(target, torch.Generator())
    error = torch.full((6, 1, 3), 3.0, dtype=torch.float64)
    error[:2] = 0
    assert model.loss(seen.select([0]), target.mask_out(drop_mask), *draw)["deterministic"] == 0
    assert model.loss(seen.select([0]), target, *draw)["deterministic"] == 9 * 4 / 6, "the control: all are mask"


def test_downsample_to_images_keep_each_channel_and_each_observation_apart():
    value = torch.arange(2 * 3 * 2 * 4 * 6).double().view(2, 3, 2, 4, 6)
    assert downsample_to(value, value.shape) is value
    coarse = downsample_to(value, torch.Size((2, 3, 2, 2, 2)))
    for place in ((0, 0, 0, 0, 0), (1, 2, 1, 1, 1), (0, 1, 1, 1, 0)):
        *which, row, column = place
        block = value[tuple(which)][2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
        assert float(coarse[place]) == pytest.approx(float(block.mean()))
    row = downsample_to(value[..., :1, :], torch.Size((2, 3, 2, 1, 3)))
    torch.testing.assert_close(row, (value[..., :1, ::2] + value[..., :1, 1::2]) / 2)


def test_bad_input_is_named():
    _, seen = observed(m=2)
    context, target = seen.select([0]), seen.select([1])
    model = ForwardDiffusion(Scalers(), scale)
    t, noise = model.sample_time_and_noise(target, torch.Generator())
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        model.loss(context, target, t + 1, noise)
    with pytest.raises(ValueError, match=r"noise \(6, 1, 2\) do not fit a target of \(6, 1, 3\)"):
        model.loss(context, target, t, noise[..., :2])
    with pytest.raises(ValueError, match="give pixel_indices and novel_pixel_indices, or neither"):
        model.loss(context, target, t, noise, target, pixel_indices=torch.zeros(6, 1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="NaN or infinite"):
        model.sample(Observations(context.value * torch.nan, context.params), target.params)
    with pytest.raises(ValueError, match="context is empty for 6 of 6"):
        model.sample(context.mask_out(torch.ones(6, 1, dtype=torch.bool)), target.params)
    with pytest.raises(ValueError, match=r"target_params \(5, 1\) are not for the 6 signals"):
        model.sample(context, target.params[:5])
    with pytest.raises(ValueError, match="an observation, the context's are"):
        model.sample(context, target.params[..., None])
    with pytest.raises(ValueError, match="got steps = 0, wanted a whole number of at least 1"):
        model.sample(context, target.params, steps=0)
    with pytest.raises(ValueError, match="L >= 1"):
        model.sample_autoregressive(context, target.params[:, :0])
    with pytest.raises(ValueError, match=r"forward_model gave \(6, 1, 2\) where the observations are \(6, 1, 3\)"):
        ForwardDiffusion(Scalers(), lambda s, p: scale(s, p)[..., :2]).loss(context, target, t, noise)


# --- gradients are the caller's ---


def learner():
    _, seen = observed(m=2)
    return ForwardDiffusion(Scalers(trust=0.5), scale), seen.select([0]), seen.params[:, 1:]


@pytest.mark.parametrize("model_class", [ForwardDiffusion, ForwardRegression])
def test_a_model_trains_between_two_steps_of_a_trajectory(model_class):
    diffusion, context, params = learner()
    model = model_class(diffusion.denoiser, scale)
    target = Observations(context.value, params)
    for _ in zip(model.trajectory(context, params), model.trajectory(context, params), strict=True):
        assert torch.is_grad_enabled()
        t, noise = model.sample_time_and_noise(target, torch.Generator().manual_seed(0))
        model.zero_grad()
        model.loss(context, target, t, noise)["loss"].backward()
        assert model.denoiser.weight.grad.abs() > 0
    next(model.trajectory(context, params))  # and never resumed
    assert torch.is_grad_enabled()


def test_a_caller_without_gradients_stays_without_them():
    model, context, params = learner()
    with torch.no_grad():
        steps = model.trajectory(context, params, steps=3, enable_grad=True)
        assert not next(steps).observation.requires_grad and not torch.is_grad_enabled()
        assert not next(steps).observation.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_gradients_through_sampling_are_those_of_finite_differences(eta):
    model, context, params = learner()

    def end(value):
        generator = torch.Generator().manual_seed(0)
        seen = Observations(value, context.params)
        return model.sample(seen, params, steps=4, eta=eta, generator=generator, enable_grad=True).observation

    value = context.value.clone().requires_grad_()
    assert torch.autograd.gradcheck(end, value)
    assert not model.sample(Observations(value, context.params), params, steps=2).observation.requires_grad
    baseline = ForwardRegression(model.denoiser, scale)
    assert baseline.sample(context, params, enable_grad=True).observation.requires_grad
    assert not baseline.sample(context, params).observation.requires_grad


def test_wrong_arguments_of_a_trajectory_are_refused_at_once():
    model, context, params = learner()
    with pytest.raises(ValueError, match="got steps = 0, wanted a whole number of at least 1"):
        model.trajectory(context, params, steps=0)
    with pytest.raises(ValueError, match="target_params"):
        model.trajectory(context, params[:2])


class Covering:
    """A forward model whose support depends on its parameters, smoothly."""

    def __call__(self, signal, params):
        return scale(signal, params) * self.support(params)

    def support(self, params):
        return torch.sigmoid(5 * params)[..., None]


@pytest.mark.parametrize("model_class", [ForwardDiffusion, ForwardRegression])
def test_the_mode_of_gradients_is_that_of_the_iteration(model_class):
    """A trajectory may be made under no_grad and iterated outside: all of its gradients count."""
    denoiser, context, params = learner()[0].denoiser, *learner()[1:]
    model = model_class(denoiser, Covering())
    options = {} if model_class is ForwardRegression else {"steps": 3}

    def gradient(mode):
        phi = params.clone().requires_grad_()
        with mode:
            generator = {} if not options else {"generator": torch.Generator().manual_seed(0)}
            steps = model.trajectory(context, phi, enable_grad=True, **options, **generator)
        *_, last = steps
        return torch.autograd.grad(last.observation.square().sum(), phi)[0]

    torch.testing.assert_close(gradient(torch.no_grad()), gradient(torch.enable_grad()))
    phi = params.clone().requires_grad_()
    assert not next(model.trajectory(context, phi, **options)).noisy_target.requires_grad


def test_thresholding_takes_scalars_and_half_precision():
    signal = 3 * torch.ones(2, 1)
    for dtype in (torch.float32, torch.bfloat16):
        observation = dynamic_threshold((signal * torch.ones(2, 4)).to(dtype), 0.9)
        assert observation.dtype == dtype and observation.abs().max() <= 1


def test_a_masked_nan_reaches_neither_loss_nor_gradient():
    signal, seen = observed(m=3)
    model = ForwardDiffusion(Scalers(trust=0.5), scale)
    target = seen.select([1])
    mask = torch.ones(6, 1, dtype=torch.bool)
    mask[0, 0] = False
    spoilt_value = torch.where(mask[..., None], target.value, torch.nan)
    t, noise = model.sample_time_and_noise(target, torch.Generator().manual_seed(0))
    losses = [
        model.loss(seen.select([0]), Observations(value, target.params, mask), t, noise)["loss"]
        for value in (spoilt_value, torch.where(mask[..., None], target.value, 0))
    ]
    assert losses[0].isfinite() and losses[0] == losses[1]


def test_observations_of_another_shape_are_refused_in_sampling_too():
    model, context, params = learner()
    wrong = ForwardDiffusion(model.denoiser, lambda signal, params: signal[:, None, :1])
    with pytest.raises(ValueError, match="forward_model gave .* where the targets are"):
        wrong.sample(context, params, steps=2)


def test_a_noisy_target_is_zero_where_its_crop_does_not_reach():
    """Of a forward model that fills the whole canvas: after every reverse step, and in the loss."""

    class Careless(Covering):
        def __call__(self, signal, params):
            return scale(signal, params)

        def support(self, params):
            return torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)

    diffusion, context, params = learner()
    model = ForwardDiffusion(diffusion.denoiser, Careless())
    steps = list(model.trajectory(context, params, steps=3, eta=0.5))
    assert all(step.noisy_target[..., 2].abs().max() == 0 for step in steps)
    assert all(step.noisy_target[..., :2].abs().min() > 0 for step in steps)


@pytest.mark.parametrize("seed", range(5))
def test_training_has_no_time_outside_of_the_samplers(seed):
    _, seen = observed(b=1000)
    t, _ = ForwardDiffusion(Scalers(), scale).sample_time_and_noise(seen, torch.Generator().manual_seed(seed))
    assert t.min() >= 1e-3 and t.max() <= 1 - 1e-3 and t.max() - t.min() > 0.99
