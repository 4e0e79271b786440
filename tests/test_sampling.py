"""Sampling in other units, of several signals a context, in chunks, with masked targets; and the sampler's options."""

import dataclasses
from fractions import Fraction
from typing import NamedTuple

import pytest
import torch
from gaussian_problem import GaussianDenoiser, observe, project
from torch import Tensor, nn

from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations, observation_std
from fwdiff_lite.sampling import SamplerOptions, eval_mode, join_chunks
from fwdiff_lite.schedule import ShiftedCosineSchedule

MODELS = [ForwardDiffusion, ForwardRegression]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(model_class=ForwardDiffusion, **options):
    _, seen = observe(6, 3)
    return model_class(GaussianDenoiser(), project, **options), seen.select([0]), seen.select([1, 2])


# --- units ---


@pytest.mark.parametrize("factor", [5.0, 0.02])
@pytest.mark.parametrize("model_class", MODELS)
def test_samples_in_another_unit_are_the_same_samples(model_class, factor):
    """The problem in units `factor` times as small, with the scale: everything that is sampled is larger by it."""
    model, context, target = problem(model_class)
    options = {"steps": 5, "eta": 0.7, "threshold": 0.9, "num_samples": 2}
    wanted = model.sample(context, target.params, generator=seeded(), **options)
    denoiser = GaussianDenoiser(std=factor, scale=factor)
    scaled_model = model_class(denoiser, project, observation_scale=factor)
    larger, larger_target = (Observations(factor * x.value, x.params) for x in (context, target))
    step = scaled_model.sample(larger, target.params, generator=seeded(), **options)
    for name in ("signal", "observation", "noisy_target"):
        torch.testing.assert_close(getattr(step, name), factor * getattr(wanted, name), rtol=1e-9, atol=1e-12)
    random_numbers = model.sample_time_and_noise(target, seeded())
    losses = model.loss(context, target, *random_numbers, target)
    scaled_losses = scaled_model.loss(larger, larger_target, *random_numbers, larger_target)
    for name in losses:
        torch.testing.assert_close(scaled_losses[name], losses[name], rtol=1e-9, atol=1e-12)
    if model_class is ForwardDiffusion:
        control = ForwardDiffusion(GaussianDenoiser(std=factor), project).sample(larger, target.params, steps=5)
        assert (control.signal / factor - wanted.signal[:, 0]).abs().max() > 0.1, "without the scale they are others"
    steps = zip(
        scaled_model.trajectory(larger, target.params, generator=seeded(), steps=3),
        model.trajectory(context, target.params, generator=seeded(), steps=3),
        strict=True,
    )
    assert all(torch.allclose(x.noisy_target, factor * y.noisy_target) for x, y in steps)
    _, extended = scaled_model.sample_autoregressive(larger, target.params, steps=2, generator=seeded())
    _, wanted = model.sample_autoregressive(context, target.params, steps=2, generator=seeded())
    torch.testing.assert_close(extended.value, factor * wanted.value)


def test_a_forward_model_with_a_gain_keeps_the_signals():
    model, context, target = problem()
    loud = ForwardDiffusion(GaussianDenoiser(), lambda s, p: 5 * project(s, p), observation_scale=5.0)
    signals = [
        m.sample(Observations(gain * context.value, context.params), target.params, steps=4, generator=seeded()).signal
        for m, gain in ((model, 1), (loud, 5))
    ]
    torch.testing.assert_close(*signals)


def test_the_deterministic_loss_is_in_units_of_the_scale():
    class Predicting(GaussianDenoiser):
        def deterministic_prediction(self, condition):
            return Observations(target.value + 3.0, target.params)

    _, context, target = problem()
    for scale in (1.0, 2.0):
        model = ForwardDiffusion(Predicting(scale=scale), project, observation_scale=scale)
        losses = model.loss(context, target, *model.sample_time_and_noise(target, seeded()))
        assert float(losses["deterministic"]) == pytest.approx((3 / scale) ** 2)


def test_the_scale_of_observations_is_measured_without_masked_values():
    value = torch.tensor([[1.0, 3.0], [5.0, torch.nan]])
    mask = torch.tensor([[True, True], [True, False]])
    assert observation_std(Observations(value, torch.ones(2, 2, 1), mask)) == pytest.approx((8 / 3) ** 0.5)


# --- several samples, in chunks ---


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("chunk_size", [1, 5, 12, 100])
def test_the_noise_does_not_depend_on_chunks(eta, chunk_size):
    model, context, target = problem()
    options = {"num_samples": 3, "steps": 4, "eta": eta}
    generators = [seeded(), seeded()]
    unchunked = model.sample(context, target.params, generator=generators[0], **options)
    parts = model.sample(context, target.params, generator=generators[1], chunk_size=chunk_size, **options)
    assert unchunked.signal.shape == (6, 3, 2) and unchunked.observation.shape == unchunked.noisy_target.shape == (
        6,
        3,
        2,
    )
    for name in ("signal", "observation", "noisy_target"):
        torch.testing.assert_close(getattr(parts, name), getattr(unchunked, name), rtol=1e-10, atol=1e-12)
    assert torch.equal(generators[0].get_state(), generators[1].get_state()), "and what is drawn later neither"
    repeated = model.sample(
        context.repeat(3), target.params.repeat_interleave(3, 0), generator=seeded(), steps=4, eta=eta
    )
    assert torch.equal(repeated.signal.unflatten(0, (6, 3)), unchunked.signal), "rows are those of Observations.repeat"
    assert unchunked.signal.std(1).min() > 0, "samples of one context differ"


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_the_global_generator_is_used_where_none_is_given(chunk_size):
    model, context, target = problem()
    torch.manual_seed(3)
    wanted = model.sample(context, target.params, steps=3, eta=1.0, generator=torch.default_generator)
    torch.manual_seed(3)
    step = model.sample(context, target.params, steps=3, eta=1.0, chunk_size=chunk_size)
    torch.testing.assert_close(step.signal, wanted.signal)


def test_a_regression_takes_the_same_options_and_draws_nothing():
    model, context, target = problem(ForwardRegression)
    state = torch.get_rng_state()
    plain = model.sample(context, target.params)
    step = model.sample(context, target.params, num_samples=4, steps=9, eta=1.0, temperature=2.0, chunk_size=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert step.t == 1 and step.signal.shape == (6, 4, 2) and step.noisy_target.abs().max() == 0
    torch.testing.assert_close(step.signal, plain.signal[:, None].expand(-1, 4, -1))
    assert len(list(model.trajectory(context, target.params, steps=9))) == 1


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0, 1.6])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_noise_of_every_step_has_the_temperature_as_its_standard_deviation(eta, temperature):
    """In a noisy target alpha O + sigma noise; of two targets, one is masked. The first step has noise alone."""
    model, context, target = problem()
    context, params = context.repeat(500), target.params.repeat_interleave(500, 0)
    mask = torch.tensor([True, False]).expand(len(params), -1)
    options = {"eta": eta, "temperature": temperature, "steps": 12, "last_time": 0.3, "generator": seeded()}
    known = context.value.new_ones(len(params), 2)
    model.denoiser.forward = lambda condition, noisy_target, t: known
    times = []
    for step in model.trajectory(context, params, mask, **options):
        alpha, sigma = (
            f(torch.tensor(step.t, dtype=torch.float64)) for f in (model.schedule.alpha, model.schedule.sigma)
        )
        noise = (step.noisy_target - alpha * step.observation) / sigma
        assert noise[:, 0].std() == pytest.approx(temperature, rel=0.06, abs=2e-3) and noise[:, 1].abs().max() == 0
        times.append(step.t)
    assert times[-1] <= 0.3 < times[-2]


@pytest.mark.usefixtures("no_shape_checks")
def test_options_may_be_any_real_numbers():
    model, context, target = problem()
    names = ("eta", "guidance", "temperature", "threshold", "last_time")
    fractions, floats = (
        model.sample(context, target.params, steps=3, generator=seeded(), **dict.fromkeys(names, x)).signal
        for x in (Fraction(3, 4), 0.75)
    )
    assert torch.equal(fractions, floats)


def test_the_mean_of_samples_is_the_posterior_mean():
    model, context, target = problem()
    mean = model.posterior_mean(context, target.params, 400, steps=32, generator=seeded())
    wanted = torch.einsum("bm,bmd->bd", context.value, context.params)
    assert (mean - wanted).abs().max() < 5 / 400**0.5
    draws = model.sample(context, target.params, num_samples=400, steps=32, generator=seeded()).signal
    assert torch.equal(mean, draws.mean(1))


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclasses.dataclass
class Boxed:
    x: Tensor
    network: nn.Module


class Wrapped(GaussianDenoiser):
    """Signals of another type."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, condition, noisy_target, t):
        return self.wrap(super().forward(condition, noisy_target, t))


@pytest.mark.parametrize(
    "wrap, unwrap",
    [
        (lambda x: Pair(x, -x), lambda s: s.x),
        (lambda x: (x, -x), lambda s: s[0]),
        (lambda x: {"x": x}, lambda s: s["x"]),
        (lambda x: Boxed(x, nn.Identity()), lambda s: s.x),
    ],
)
def test_signals_of_other_types_keep_their_rows_and_are_joined(wrap, unwrap):
    plain, context, target = problem()
    model = ForwardDiffusion(Wrapped(wrap), lambda s, p: project(unwrap(s), p))
    options = {"num_samples": 2, "steps": 3}
    wanted = plain.sample(context, target.params, generator=seeded(), **options)
    for chunk_size in (None, 5):
        step = model.sample(context, target.params, generator=seeded(), chunk_size=chunk_size, **options)
        torch.testing.assert_close(unwrap(step.signal), wanted.signal.flatten(0, 1))
        torch.testing.assert_close(step.observation, wanted.observation)
    assert type(step.signal) is type(wrap(torch.zeros(1)))
    with pytest.raises(ValueError, match="have no mean: take that of their observations"):
        model.posterior_mean(context, target.params, 2, steps=1)


def test_what_cannot_be_joined_is_said():
    with pytest.raises(ValueError, match="signals of type object cannot be joined: sample them without chunk_size"):
        join_chunks([object(), object()])


def test_progress_is_shown_on_request_only(capsys):
    model, context, target = problem()
    model.sample(context, target.params, steps=2)
    assert capsys.readouterr().err == ""
    model.sample(context, target.params, steps=2, num_samples=2, chunk_size=4, progress=True)
    assert "/6" in capsys.readouterr().err, "3 chunks of 2 steps"


# --- eval mode ---


def test_networks_sample_in_eval_mode_and_each_returns_to_its_own():
    class Dropping(GaussianDenoiser):
        def __init__(self):
            super().__init__()
            self.dropout, self.frozen = nn.Dropout(), nn.Dropout()

        def forward(self, condition, noisy_target, t):
            modes.append((self.training, self.dropout.training))
            return self.dropout(super().forward(condition, noisy_target, t))

    modes = []
    model = ForwardDiffusion(Dropping(), project).train()
    model.denoiser.frozen.eval()
    _, context, target = problem()
    model.sample(context, target.params, steps=2)
    model.sample_autoregressive(context, target.params, steps=1)
    assert set(modes) == {(False, False)}
    assert model.training and model.denoiser.dropout.training and not model.denoiser.frozen.training
    next(model.trajectory(context, target.params))
    assert modes[-1] == (True, True), "a trajectory leaves the mode to its caller"
    with pytest.raises(KeyError), eval_mode(model):
        raise KeyError
    assert model.training, "after an error too"


# --- masked targets ---


class FixedNoise(ForwardDiffusion):
    """Draws the columns of one noise, so that padded targets and those without padding get the same."""

    def _draw_noise(self, shape, like, generator, rows=slice(None)):
        self.draws += 1
        full = torch.randn(shape[0], 3, generator=seeded(self.draws), dtype=torch.float64)
        return full[:, : shape[1]][rows]


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_masked_targets_do_not_change_the_samples(guidance):
    """Signals with one or two targets in one padded batch: the same samples as of each number alone."""
    _, seen = observe(6, 4)
    context, params = seen.select([0]), seen.params[:, 1:].clone()
    counts = torch.tensor([1, 2, 3, 1, 2, 3])
    mask = torch.arange(3) < counts[:, None]
    model = FixedNoise(GaussianDenoiser(), project)
    options = {"steps": 4, "eta": 1.0, "guidance": guidance}
    model.draws = 0
    padded = model.sample(context, params, mask, **options)
    for i, count in enumerate(counts):
        model.draws = 0
        alone = model.sample(context, params[:, :count], **options)
        torch.testing.assert_close(padded.signal[i], alone.signal[i])
        torch.testing.assert_close(padded.noisy_target[i, :count], alone.noisy_target[i])
    assert padded.noisy_target[~mask].abs().max() == 0 and padded.observation[~mask].abs().max() == 0
    model.draws = 0
    unmasked = model.sample(context, params, **options)
    assert (unmasked.signal - padded.signal)[counts < 3].abs().max() > 0.01, "the control: without the mask"


def test_several_samples_and_chunks_take_the_rows_of_the_mask():
    _, seen = observe(5, 3)
    mask = torch.tensor([[True, False]] * 2 + [[True, True]] * 3)
    model, context, params = ForwardDiffusion(GaussianDenoiser(), project), seen.select([0]), seen.params[:, 1:]
    unchunked = model.sample(context, params, mask, num_samples=3, steps=3, generator=seeded())
    parts = model.sample(context, params, mask, num_samples=3, chunk_size=4, steps=3, generator=seeded())
    torch.testing.assert_close(parts.signal, unchunked.signal)
    assert unchunked.observation[:2, :, 1].abs().max() == 0 and unchunked.observation[2:, :, 1].abs().min() > 0


class Spy(GaussianDenoiser):
    def condition(self, context, target_params, target_mask=None):
        self.seen = [context.value, target_mask]
        return super().condition(context, target_params, target_mask)

    def forward(self, condition, noisy_target, t):
        self.seen.append(noisy_target)
        return super().forward(condition, noisy_target, t)


def test_the_loss_weighs_signals_evenly_and_hides_masked_targets():
    """A signal with one target of two, and one with both: the loss is the mean of what each costs alone."""
    _, seen = observe(2, 4)
    context, target, novel = seen.select([0]), seen.select([1, 2]), seen.select([2, 3])
    mask = torch.tensor([[True, False], [True, True]])
    spoilt = torch.where(mask, target.value, torch.nan)
    model = ForwardDiffusion(Spy(), project)
    t, noise = model.sample_time_and_noise(target, seeded())
    masked_novel = Observations(torch.where(mask, novel.value, torch.nan), novel.params, mask)
    losses = model.loss(context, Observations(spoilt, target.params, mask), t, noise, masked_novel)
    _, given_mask, noisy_target = model.denoiser.seen
    assert torch.equal(given_mask, mask) and noisy_target[0, 1] == 0 and noisy_target[mask].abs().min() > 0
    alone = [
        model.loss(
            context[i], target[i].select(slice(m)), t[i : i + 1], noise[i : i + 1, :m], novel[i].select(slice(m))
        )
        for i, m in enumerate((1, 2))
    ]
    for name in ("target", "novel", "loss"):
        torch.testing.assert_close(losses[name], sum(x[name] for x in alone) / 2)


def test_the_deterministic_loss_weighs_signals_evenly():
    class Predicting(GaussianDenoiser):
        def deterministic_prediction(self, condition):
            return Observations(target.value + torch.tensor([[1.0, 100.0], [2.0, 3.0]]), target.params)

    _, seen = observe(2, 3)
    target, mask = seen.select([1, 2]), torch.tensor([[True, False], [True, True]])
    model = ForwardDiffusion(Predicting(), project)
    losses = model.loss(
        seen.select([0]),
        Observations(target.value, target.params, mask),
        *model.sample_time_and_noise(target, seeded()),
    )
    assert float(losses["deterministic"]) == pytest.approx((1 + (4 + 9) / 2) / 2)


def test_a_masked_nan_has_no_gradient_and_reaches_no_denoiser():
    """0 x NaN is NaN: in the gradient of a square too."""
    _, seen = observe(3, 4)
    mask = torch.tensor([[True, False], [True, True], [False, True]])

    class Learner(Spy):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, condition, noisy_target, t):
            return self.weight * super().forward(condition, noisy_target, t)

        def deterministic_prediction(self, condition):
            return Observations(self.weight * torch.ones_like(seen.params[:, 2:, 0]), seen.params[:, 2:])

    gradients = []
    for filler in (torch.nan, 0.0):
        context, target, novel = (
            Observations(torch.where(mask, x.value, filler), x.params, mask)
            for x in (seen.select([0, 1]), seen.select([2, 3]), seen.select([1, 2]))
        )
        model = ForwardDiffusion(Learner(), project)
        model.loss(context, target, *model.sample_time_and_noise(target, seeded()), novel)["loss"].backward()
        gradients.append(model.denoiser.weight.grad)
        step = model.sample(context, target.params, mask, steps=2)
        assert all(x.isfinite().all() for x in (*model.denoiser.seen, step.signal))
    assert gradients[0].isfinite() and gradients[0] == gradients[1]


# --- options ---


def test_unknown_options_are_named_with_the_function_that_was_called():
    model, context, target = problem()
    for function in (model.sample, model.trajectory, problem(ForwardRegression)[0].sample):
        with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) has no option 'etaa': it takes steps, eta,"):
            function(context, target.params, etaa=1.0)
    assert SamplerOptions().generator is torch.default_generator


def test_sampling_ends_at_the_first_time_that_is_at_most_the_last_time():
    model, context, target = problem()
    options = {"steps": 8, "eta": 1.0}
    all_steps = list(model.trajectory(context, target.params, generator=seeded(), **options))
    for last_time, steps in ((0.0, 8), (all_steps[5].t, 6), (all_steps[5].t - 1e-6, 7), (1.0, 1)):
        step = model.sample(context, target.params, generator=seeded(), last_time=last_time, **options)
        assert step.t == all_steps[steps - 1].t
        torch.testing.assert_close(step.signal, all_steps[steps - 1].signal)
    with pytest.raises(ValueError, match="got last_time = 2, wanted a number from 0 to 1"):
        model.sample(context, target.params, last_time=2)


def test_a_denoiser_shares_the_models_schedule():
    denoiser, schedule = GaussianDenoiser(), ShiftedCosineSchedule(0.5)
    assert ForwardDiffusion(denoiser, project).schedule is denoiser.schedule
    assert ForwardDiffusion(denoiser, project, schedule).schedule is schedule is denoiser.schedule


# --- autoregressive sampling ---


def test_a_denoiser_of_fixed_size_is_told_to_take_larger_contexts():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 2, dtype=torch.float64)

        def condition(self, context, target_params, target_mask=None):
            return context.value

        def forward(self, condition, noisy_target, t):
            return self.linear(condition)

    _, context, target = problem()
    model = ForwardDiffusion(Fixed(), project)
    model.sample_autoregressive(context, target.params[:, :1], steps=1)
    with pytest.raises(ValueError, match="took a context of 1 observations and fails at 2 .*contexts of any size"):
        model.sample_autoregressive(context, target.params, steps=1)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model.sample_autoregressive(context.append(context), target.params, steps=1)


def test_autoregressive_sampling_starts_from_nothing_on_request_only():
    model, context, target = problem()
    empty = context.mask_out(torch.ones_like(context.mask))
    with pytest.raises(ValueError, match="context is empty for 6 of 6"):
        model.sample_autoregressive(empty, target.params, steps=2)
    step, extended = model.sample_autoregressive(empty, target.params, steps=2, allow_empty=True, generator=seeded())
    assert extended.mask.tolist() == [[False, True, True]] * 6
    torch.testing.assert_close(project(step.signal, target.params)[:, :1], extended.value[:, 1:2], rtol=1e-6, atol=1e-6)
