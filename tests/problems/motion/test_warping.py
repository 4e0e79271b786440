"""Warping and splatting in closed form, and the inputs and outputs of the denoiser of motion."""

import pytest
import torch

from fwdiff_lite import ForwardRegression, Observations, fit
from fwdiff_lite.problems.motion import scenes
from fwdiff_lite.problems.motion import warping as p

BOTH_MODELS = pytest.mark.parametrize("name", p.FORWARD_MODELS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_sources(b=2, n=12, dtype=torch.float64):
    return torch.rand(b, 3, n, n, dtype=dtype, generator=generator()) * 2 - 1


def constant_flow(like, x, y):
    return torch.tensor([x, y], dtype=like.dtype)[None, :, None, None].expand(len(like), 2, *like.shape[2:])


def times(b, *tau, dtype=torch.float64):
    return torch.tensor(tau, dtype=dtype)[None, :, None].expand(b, -1, 1)


# --- the forward models ---


def bilinear_formula(image, x, y):
    """Each pixel's value times (1 - |x - j|) (1 - |y - i|) where both are positive, summed: (B, C, P)."""
    x, y = (position.clamp(0, n - 1) for position, n in ((x, image.shape[3]), (y, image.shape[2])))
    column, row = (
        (1 - (position[..., None] - torch.arange(n)).abs()).clamp(min=0)
        for position, n in ((x, image.shape[3]), (y, image.shape[2]))
    )
    return torch.einsum("bchw,bph,bpw->bcp", image, row, column)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("h, w", [(8, 8), (9, 13)])
def test_bilinear_sample_and_its_gradients_are_the_formula_inside_and_outside_the_image(h, w, dtype, tolerance):
    g = generator(8)
    image = torch.rand(2, 3, h, w, dtype=torch.float64, generator=g) * 2 - 1
    x, y = (2 * n * torch.rand(2, 400, dtype=torch.float64, generator=g) - n / 2 for n in (w, h))
    weights = torch.randn(2, 3, 400, dtype=torch.float64, generator=g)
    results = []
    for sample, type_ in ((p.bilinear_sample_xy, dtype), (bilinear_formula, torch.float64)):
        inputs = [tensor.to(type_).requires_grad_() for tensor in (image, x, y)]
        sampled = sample(*inputs)
        gradients = torch.autograd.grad((sampled * weights.to(type_)).sum(), inputs)
        results.append([sampled, *gradients])
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    outside = (x < 0) | (x > w - 1)
    assert 100 < outside.sum() < 700 and not results[0][2][outside].any(), "the border continues without a slope"


def test_bilinear_sample_takes_positions_of_any_shape():
    image, positions = random_sources(n=8), torch.rand(2, 4, 5, 6, dtype=torch.float64, generator=generator(9)) * 7
    sampled = p.bilinear_sample_xy(image, positions, positions)
    assert sampled.shape == (2, 3, 4, 5, 6)
    assert torch.equal(sampled.flatten(2), p.bilinear_sample_xy(image, positions.flatten(1), positions.flatten(1)))


@BOTH_MODELS
def test_no_flow_and_no_time_are_the_identity(name):
    source, flow = random_sources(), torch.randn(2, 2, 12, 12, dtype=torch.float64, generator=generator(1))
    importance = torch.randn(2, 1, 12, 12, dtype=torch.float64, generator=generator(2))
    frame = p.FORWARD_MODELS[name](p.single_flow_signal(source, 0 * flow, importance), times(2, 0.3, 1.0))
    torch.testing.assert_close(frame, source[:, None].expand(2, 2, -1, -1, -1), rtol=0, atol=1e-14)
    frame = p.FORWARD_MODELS[name](p.single_flow_signal(source, flow, importance), times(2, 0.0))
    torch.testing.assert_close(frame, source[:, None], rtol=0, atol=1e-14)


@BOTH_MODELS
def test_whole_pixels_move_exactly(name):
    source = random_sources(n=16)  # a power of two: no position is rounded
    signal = p.single_flow_signal(source, constant_flow(source, 4.0, -2.0))
    frames = p.FORWARD_MODELS[name](signal, times(2, 0.5, 1.0))
    assert torch.equal(frames[:, 0, :, :-1, 2:], source[:, :, 1:, :-2])
    assert torch.equal(frames[:, 1, :, :-2, 4:], source[:, :, 2:, :-4])
    reversed_frames = p.FORWARD_MODELS[name](signal, times(2, -1.0))
    assert not torch.equal(frames[:, 1], reversed_frames[:, 0]), "time has a direction"


def test_half_a_pixel_is_the_average_of_two():
    source = random_sources()
    average = (source[..., 1:-1] + source[..., :-2]) / 2
    for forward_model in p.FORWARD_MODELS.values():
        frame = forward_model(p.single_flow_signal(source, constant_flow(source, 0.5, 0.0)), times(2, 1.0))[:, 0]
        torch.testing.assert_close(frame[..., 1:-1], average)


def test_splatting_a_permutation_moves_the_pixels_exactly():
    source, n = random_sources(1, 8), 8
    target_index = torch.randperm(n * n, generator=generator(3))
    source_index = torch.arange(n * n)
    flow = torch.stack([target_index % n - source_index % n, target_index // n - source_index // n])
    flow = flow.double().view(1, 2, n, n)
    importance = torch.randn(1, 1, n, n, dtype=torch.float64, generator=generator(4))
    model = p.SoftmaxSplat()
    frame = model(p.single_flow_signal(source, flow, importance), times(1, 1.0))[0, 0].flatten(1)
    torch.testing.assert_close(frame[:, target_index], source[0].flatten(1), rtol=0, atol=1e-12)
    assert not model.hole_mask(p.single_flow_signal(source, flow), times(1, 1.0)).any()


def test_the_important_pixel_covers_the_other_and_leaves_a_hole():
    source = torch.zeros(1, 3, 9, 9, dtype=torch.float64)
    source[..., 4, 2] = 1.0  # a bright pixel moves four to the right, onto a dark one
    flow, importance = torch.zeros(1, 2, 9, 9, dtype=torch.float64), torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    flow[0, 0, 4, 2], importance[0, 0, 4, 2] = 4.0, 20.0
    model = p.SoftmaxSplat()
    frame = model(p.single_flow_signal(source, flow, importance), times(1, 1.0))[0, 0, 0]
    assert frame[4, 6] == pytest.approx(1.0, abs=1e-6)
    assert abs(float(frame[4, 2])) < 1e-6, "the hole is filled with unimportant pixels"
    hole_mask = model.hole_mask(p.single_flow_signal(source, flow, importance), times(1, 0.0, 1.0))[0]
    assert not hole_mask[0].any() and hole_mask[1].nonzero().tolist() == [[4, 2]]
    frame = model(p.single_flow_signal(source, flow, -importance), times(1, 1.0))[0, 0, 0]
    assert abs(float(frame[4, 6])) < 1e-6, "of two pixels the less important is hidden"


def test_backward_warping_ignores_importance():
    source, flow = random_sources(), torch.randn(2, 2, 12, 12, dtype=torch.float64, generator=generator(1))
    importance = torch.randn(2, 1, 12, 12, dtype=torch.float64, generator=generator(2))
    for forward_model, ignored in ((p.BackwardWarp(), True), (p.SoftmaxSplat(), False)):
        uniform, weighted = (
            forward_model(p.single_flow_signal(source, flow, x), times(2, 1.0)) for x in (None, importance)
        )
        assert torch.equal(uniform, weighted) is ignored


@BOTH_MODELS
def test_gradients_agree_with_finite_differences(name):
    source = random_sources(1, 6)
    flows = torch.randn(1, 2, 2, 6, 6, dtype=torch.float64, generator=generator(5)).requires_grad_()
    blend_weights = torch.rand(1, 2, 6, 6, dtype=torch.float64, generator=generator(6)).requires_grad_()
    importance = torch.randn(1, 1, 6, 6, dtype=torch.float64, generator=generator(7)).requires_grad_()

    def frames(flows, blend_weights, importance):
        return p.FORWARD_MODELS[name](p.MotionSignal(source, flows, blend_weights, importance), times(1, 0.7, 1.0))

    assert torch.autograd.gradcheck(frames, (flows, blend_weights, importance))


@BOTH_MODELS
def test_two_flows_reach_the_mean_of_two_motions_and_one_does_not(name):
    """The remedy for the unreachable mean: blend weights p and 1 - p give the mean of two motions at every tau."""
    source, tau = random_sources(), times(2, 0.4, 1.0)
    forward_model = p.FORWARD_MODELS[name]
    right, left = constant_flow(source, 3.0, 1.0), constant_flow(source, -3.0, -1.0)
    frames = [forward_model(p.single_flow_signal(source, flow), tau) for flow in (right, left)]
    flows = torch.stack([right, left], 1)
    blend_weights = torch.tensor([0.7, 0.3], dtype=torch.float64)[None, :, None, None].expand(2, 2, 12, 12)
    blend = forward_model(p.MotionSignal(source, flows, blend_weights, source.new_zeros(2, 1, 12, 12)), tau)
    torch.testing.assert_close(blend, 0.7 * frames[0] + 0.3 * frames[1])
    single_flow_frames = forward_model(p.single_flow_signal(source, 0.4 * right), tau)
    assert (single_flow_frames - blend).square().mean() > 0.01


@BOTH_MODELS
def test_a_constant_flow_is_the_displacement(name):
    source = random_sources()
    flow = constant_flow(source, 3.0, -2.0)
    displacement = p.FORWARD_MODELS[name].displacement(p.single_flow_signal(source, flow))
    torch.testing.assert_close(displacement, flow, rtol=0, atol=1e-12)


@BOTH_MODELS
def test_displacement_is_that_of_the_visible_flow(name):
    """Two pixels change places by one flow; another flow, which is visible nowhere, does not count."""
    source = random_sources(1, 8)
    swap = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    swap[0, 0, 3, 2], swap[0, 0, 3, 5] = 3.0, -3.0
    forward_model = p.FORWARD_MODELS[name]
    flow = swap if name == "splat" else -swap  # of the source's pixels, or of the frame's
    other_flow = torch.full_like(flow, 1.7)
    blend_weights = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    blend_weights[:, 0] = 1.0
    flows = torch.stack([flow, other_flow], 1)
    signal = p.MotionSignal(source, flows, blend_weights, source.new_zeros(1, 1, 8, 8))
    torch.testing.assert_close(forward_model.displacement(signal), swap, rtol=0, atol=1e-2)
    frame = forward_model(signal, times(1, 1.0))[0, 0]
    torch.testing.assert_close(frame[:, 3, [2, 5]], source[0, :, 3, [5, 2]])


def test_bad_arguments_are_refused():
    source = random_sources()
    signal = p.single_flow_signal(source, constant_flow(source, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"times tau of the frames of 2 source images, \(B, M, 1\); got \(3, 1, 1\)"):
        p.BackwardWarp()(signal, times(3, 1.0))
    with pytest.raises(ValueError, match="for all pixels at once: pixel_indices must be None"):
        p.BackwardWarp()(signal, times(2, 1.0), pixel_indices=torch.zeros(2, 1, 1).long())
    with pytest.raises(ValueError, match="unknown forward model 'blur': choose one of warp, splat"):
        p.build_model("blur")


# --- the denoiser ---


def source_and_frame(b=2, n=16):
    value = torch.rand(b, 2, 3, n, n, generator=generator()) * 2 - 1
    return Observations(value, torch.tensor([0.0, 1.0])[None, :, None].expand(b, 2, 1))


@BOTH_MODELS
@pytest.mark.parametrize("num_flows", [1, 2])
def test_a_denoiser_predicts_a_motion_signal(name, num_flows):
    model, views = p.build_model(name, num_flows, widths=(8, 8, 8, 16)), source_and_frame()
    step = model.sample(views.select([0]), views.select([1]).params, steps=2, generator=generator())
    assert step.signal.flows.shape == (2, num_flows, 2, 16, 16) and step.observation.shape == (2, 1, 3, 16, 16)
    torch.testing.assert_close(step.signal.blend_weights.sum(1), torch.ones(2, 16, 16))
    assert torch.equal(step.signal.source, views.value[:, 0])
    same_step = model.sample(views.select([0]), views.select([1]).params, steps=2, generator=generator())
    assert torch.equal(step.observation, same_step.observation)


def test_two_flows_differ_at_initialisation():
    model, views = p.build_model("warp", 2, widths=(8, 8, 8, 16)), source_and_frame()
    signal = model.sample(views.select([0]), views.select([1]).params, steps=1, generator=generator()).signal
    assert (signal.flows[:, 0] - signal.flows[:, 1]).abs().mean() > 1e-3


def test_examples_weigh_more_where_less_error_is_expected():
    t = torch.linspace(0.01, 0.99, 50)
    condition = p.Condition(torch.zeros(50, 3, 8, 8), torch.ones(50))
    weight = p.build_model("warp", widths=(8,)).denoiser.loss_weight(condition, t)
    assert (weight.diff() < 0).all() and 9 < weight[0] <= 10 and 1 <= weight[-1] < 1.1


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda o: o.select([0, 0]), "one source image and one target frame, got 2"),
        (lambda o: o.select([1]), "the context must be the source image, at tau = 0; got tau = 1"),
        (
            lambda o: Observations(127 + 127 * o.value, o.params).select([0]),
            r"source images must be in \[-1, 1\], got values from",
        ),
        (lambda o: Observations(o.value[..., :15], o.params).select([0]), "images of 16x15 pixels: both sides"),
        (lambda o: Observations(o.value * float("nan"), o.params).select([0]), "NaN or infinite"),
    ],
)
def test_bad_contexts_are_refused(change, message):
    model, views = p.build_model("warp", widths=(8, 8, 8, 16)), source_and_frame()
    with pytest.raises(ValueError, match=message):
        model.sample(change(views), views.select([1]).params, steps=1)


@BOTH_MODELS
def test_a_model_overfits_one_batch(name):
    batch = scenes.batches(scenes.make_textures(["brick.png"], 4), 4)(generator())
    for options in ({"num_flows": 2}, {"model_class": ForwardRegression}):
        model = p.build_model(name, widths=(8, 8, 8, 16), **options)
        curve = fit(model, lambda g: dict(batch), steps=60, learning_rate=5e-3, warmup=5, progress=False).curve
        assert sum(curve["target"][-10:]) < 0.8 * sum(curve["target"][:10]), options
