"""Warping and splatting in closed form, and what a denoiser of motion takes and gives."""

import pytest
import torch

from fwdiff_lite import ForwardRegression, Observations, fit
from fwdiff_lite.problems.motion import scenes
from fwdiff_lite.problems.motion import warping as p

KINDS = pytest.mark.parametrize("kind", p.FORWARD_MODELS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stills(b=2, n=12, dtype=torch.float64):
    return torch.rand(b, 3, n, n, dtype=dtype, generator=generator()) * 2 - 1


def constant(like, x, y):
    return torch.tensor([x, y], dtype=like.dtype)[None, :, None, None].expand(len(like), 2, *like.shape[2:])


def times(b, *tau, dtype=torch.float64):
    return torch.tensor(tau, dtype=dtype)[None, :, None].expand(b, -1, 1)


# --- the forward models ---


@KINDS
def test_no_motion_and_no_time_are_the_identity(kind):
    still, field = stills(), torch.randn(2, 2, 12, 12, dtype=torch.float64, generator=generator(1))
    importance = torch.randn(2, 1, 12, 12, dtype=torch.float64, generator=generator(2))
    frame = p.FORWARD_MODELS[kind](p.motion(still, 0 * field, importance), times(2, 0.3, 1.0))
    torch.testing.assert_close(frame, still[:, None].expand(2, 2, -1, -1, -1), rtol=0, atol=1e-14)
    frame = p.FORWARD_MODELS[kind](p.motion(still, field, importance), times(2, 0.0))
    torch.testing.assert_close(frame, still[:, None], rtol=0, atol=1e-14)


@KINDS
def test_whole_pixels_move_exactly(kind):
    still = stills()
    frames = p.FORWARD_MODELS[kind](p.motion(still, constant(still, 4.0, -2.0)), times(2, 0.5, 1.0))
    assert torch.equal(frames[:, 0, :, :-1, 2:], still[:, :, 1:, :-2])
    assert torch.equal(frames[:, 1, :, :-2, 4:], still[:, :, 2:, :-4])
    back = p.FORWARD_MODELS[kind](p.motion(still, constant(still, 4.0, -2.0)), times(2, -1.0))
    assert not torch.equal(frames[:, 1], back[:, 0]), "time has a direction"


def test_half_a_pixel_is_the_average_of_two():
    still = stills()
    half = (still[..., 1:-1] + still[..., :-2]) / 2
    for forward_model in p.FORWARD_MODELS.values():
        frame = forward_model(p.motion(still, constant(still, 0.5, 0.0)), times(2, 1.0))[:, 0]
        torch.testing.assert_close(frame[..., 1:-1], half)


def test_splatting_a_permutation_moves_the_pixels_exactly():
    still, n = stills(1, 8), 8
    goes = torch.randperm(n * n, generator=generator(3))
    here, there = torch.arange(n * n), goes
    field = torch.stack([there % n - here % n, there // n - here // n]).double().view(1, 2, n, n)
    importance = torch.randn(1, 1, n, n, dtype=torch.float64, generator=generator(4))
    model = p.SoftmaxSplat()
    frame = model(p.motion(still, field, importance), times(1, 1.0))[0, 0].flatten(1)
    torch.testing.assert_close(frame[:, goes], still[0].flatten(1), rtol=0, atol=1e-12)
    assert not model.holes(p.motion(still, field), times(1, 1.0)).any()


def test_the_important_pixel_covers_the_other_and_leaves_a_hole():
    still = torch.zeros(1, 3, 9, 9, dtype=torch.float64)
    still[..., 4, 2] = 1.0  # a bright pixel jumps four to the right, over a dark one
    field, importance = torch.zeros(1, 2, 9, 9, dtype=torch.float64), torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    field[0, 0, 4, 2], importance[0, 0, 4, 2] = 4.0, 20.0
    model = p.SoftmaxSplat()
    frame = model(p.motion(still, field, importance), times(1, 1.0))[0, 0, 0]
    assert frame[4, 6] == pytest.approx(1.0, abs=1e-6)
    assert abs(float(frame[4, 2])) < 1e-6, "the hole is filled from what is unimportant"
    holes = model.holes(p.motion(still, field, importance), times(1, 0.0, 1.0))[0]
    assert not holes[0].any() and holes[1].nonzero().tolist() == [[4, 2]]
    below = model(p.motion(still, field, -importance), times(1, 1.0))[0, 0, 0]
    assert abs(float(below[4, 6])) < 1e-6, "of two pixels the less important is hidden"


def test_importance_means_nothing_to_backward_warping():
    still, field = stills(), torch.randn(2, 2, 12, 12, dtype=torch.float64, generator=generator(1))
    importance = torch.randn(2, 1, 12, 12, dtype=torch.float64, generator=generator(2))
    for forward_model, same in ((p.BackwardWarp(), True), (p.SoftmaxSplat(), False)):
        plain, weighed = (forward_model(p.motion(still, field, z), times(2, 1.0)) for z in (None, importance))
        assert torch.equal(plain, weighed) is same


@KINDS
def test_gradients_agree_with_finite_differences(kind):
    still = stills(1, 6)
    field = torch.randn(1, 2, 2, 6, 6, dtype=torch.float64, generator=generator(5)).requires_grad_()
    share = torch.rand(1, 2, 6, 6, dtype=torch.float64, generator=generator(6)).requires_grad_()
    importance = torch.randn(1, 1, 6, 6, dtype=torch.float64, generator=generator(7)).requires_grad_()

    def frames(field, share, importance):
        return p.FORWARD_MODELS[kind](p.Motion(still, field, share, importance), times(1, 0.7, 1.0))

    assert torch.autograd.gradcheck(frames, (field, share, importance))


@KINDS
def test_two_fields_reach_the_mean_of_two_motions_and_one_does_not(kind):
    """The remedy for the unreachable mean: share p of one motion and 1 - p of the other is the mean at every tau."""
    still, tau = stills(), times(2, 0.4, 1.0)
    forward_model = p.FORWARD_MODELS[kind]
    right, left = constant(still, 3.0, 1.0), constant(still, -3.0, -1.0)
    frames = [forward_model(p.motion(still, field), tau) for field in (right, left)]
    fields = torch.stack([right, left], 1)
    share = torch.tensor([0.7, 0.3], dtype=torch.float64)[None, :, None, None].expand(2, 2, 12, 12)
    blended = forward_model(p.Motion(still, fields, share, still.new_zeros(2, 1, 12, 12)), tau)
    torch.testing.assert_close(blended, 0.7 * frames[0] + 0.3 * frames[1])
    between = forward_model(p.motion(still, 0.4 * right), tau)
    assert (between - blended).square().mean() > 0.01


@KINDS
def test_a_still_that_moves_as_one_has_that_displacement(kind):
    still = stills()
    field = constant(still, 3.0, -2.0)
    found = p.FORWARD_MODELS[kind].displacement(p.motion(still, field))
    torch.testing.assert_close(found, field, rtol=0, atol=1e-12)


@KINDS
def test_displacement_is_that_of_what_shows(kind):
    """Two pixels change places by one field; another field, which shows nowhere else, does not count."""
    still = stills(1, 8)
    swap = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    swap[0, 0, 3, 2], swap[0, 0, 3, 5] = 3.0, -3.0
    forward_model = p.FORWARD_MODELS[kind]
    field = swap if kind == "splat" else -swap  # a pixel says where it goes, or a place says where it looks
    other = torch.full_like(field, 1.7)
    share = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    share[:, 0] = 1.0
    signal = p.Motion(still, torch.stack([field, other], 1), share, still.new_zeros(1, 1, 8, 8))
    torch.testing.assert_close(forward_model.displacement(signal), swap, rtol=0, atol=1e-2)
    frame = forward_model(signal, times(1, 1.0))[0, 0]
    torch.testing.assert_close(frame[:, 3, [2, 5]], still[0, :, 3, [5, 2]])


def test_wrong_times_are_refused():
    still = stills()
    with pytest.raises(ValueError, match=r"times tau of frames of 2 stills, \(B, M, 1\); got \(3, 1, 1\)"):
        p.BackwardWarp()(p.motion(still, constant(still, 0.0, 0.0)), times(3, 1.0))
    with pytest.raises(ValueError, match="computed whole"):
        p.BackwardWarp()(p.motion(still, constant(still, 0.0, 0.0)), times(2, 1.0), pixel_indices=torch.zeros(2, 1, 1).long())
    with pytest.raises(ValueError, match="unknown forward model 'blur': choose one of warp, splat"):
        p.untrained("blur")


# --- the denoiser ---


def seen(b=2, n=16):
    value = torch.rand(b, 2, 3, n, n, generator=generator()) * 2 - 1
    return Observations(value, torch.tensor([0.0, 1.0])[None, :, None].expand(b, 2, 1))


@KINDS
@pytest.mark.parametrize("fields", [1, 2])
def test_a_denoiser_answers_with_a_motion(kind, fields):
    model, both = p.untrained(kind, fields, widths=(8, 8, 8, 16)), seen()
    step = model.sample(both.select([0]), both.select([1]).params, steps=2, generator=generator())
    assert step.signal.fields.shape == (2, fields, 2, 16, 16) and step.observation.shape == (2, 1, 3, 16, 16)
    torch.testing.assert_close(step.signal.share.sum(1), torch.ones(2, 16, 16))
    assert torch.equal(step.signal.still, both.value[:, 0])
    again = model.sample(both.select([0]), both.select([1]).params, steps=2, generator=generator())
    assert torch.equal(step.observation, again.observation)


def test_two_fields_are_not_alike_from_the_start():
    model, both = p.untrained("warp", 2, widths=(8, 8, 8, 16)), seen()
    signal = model.sample(both.select([0]), both.select([1]).params, steps=1, generator=generator()).signal
    assert (signal.fields[:, 0] - signal.fields[:, 1]).abs().mean() > 1e-3


def test_examples_count_more_where_less_error_is_to_be_expected():
    t = torch.linspace(0.01, 0.99, 50)
    condition = p.Condition(torch.zeros(50, 3, 8, 8), torch.ones(50))
    weight = p.untrained("warp", widths=(8,)).denoiser.loss_weight(condition, t)
    assert (weight.diff() < 0).all() and 9 < weight[0] <= 10 and 1 <= weight[-1] < 1.1


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda o: o.select([0, 0]), "one still and one target frame, got 2"),
        (lambda o: o.select([1]), "the context is the still, at tau = 0; got tau = 1"),
        (lambda o: Observations(127 + 127 * o.value, o.params).select([0]), r"stills are in \[-1, 1\], got values from"),
        (lambda o: Observations(o.value[..., :15], o.params).select([0]), "images of 16x15 pixels: both sides"),
        (lambda o: Observations(o.value * float("nan"), o.params).select([0]), "NaN or infinite"),
    ],
)
def test_bad_contexts_are_refused(change, message):
    model, both = p.untrained("warp", widths=(8, 8, 8, 16)), seen()
    with pytest.raises(ValueError, match=message):
        model.sample(change(both), both.select([1]).params, steps=1)


@KINDS
def test_one_batch_is_learnt_by_heart(kind):
    batch = scenes.batches(scenes.textures(["brick.png"], 4), 4)(generator())
    for options in ({"fields": 2}, {"model": ForwardRegression}):
        model = p.untrained(kind, widths=(8, 8, 8, 16), **options)
        curve = fit(model, lambda g: dict(batch), steps=60, learning_rate=5e-3, warmup=5, progress=False).curve
        assert sum(curve["target"][-10:]) < 0.8 * sum(curve["target"][:10]), options
