"""Rendered rays agree with the volume rendering integral, in closed form where it has one."""

import math
from dataclasses import replace

import pytest
import torch

from fwdiff_lite.observations import gather_pixels
from fwdiff_lite.problems.inverse_graphics.cameras import look_at, orbit, pixel_centres, project, rays
from fwdiff_lite.problems.inverse_graphics.volume import (
    VolumeRenderer,
    composite,
    intersect_aabb,
    sample_linear_disparity,
    stratified_offsets,
)

RED, BLUE = (1.0, -1.0, -0.5), (-1.0, -0.2, 0.8)
BOX = VolumeRenderer((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), 8, 8, samples_per_ray=16, background=0.25)


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def camera(eye, fov=0.3):
    return look_at(double(eye), double([0.0, 0.0, 0.0]), fov)[None, None]


class Field:
    """A radiance field whose density and colour are two functions of the coordinates; records the queried points."""

    def __init__(self, density, colour, training=False):
        self.density, self.rgb_features, self.training, self.queried_points = density, colour, training, []

    def __call__(self, points):
        self.queried_points.append(points)
        return self.density(points), self.rgb_features(points)


def everywhere(value):
    """A function with the same value, a number or a colour, at all points."""
    value = double(value)
    return lambda points: value.to(points).expand(*points.shape[:-1], *value.shape)


def step_function(threshold, left, right):
    """A function with the value `left`, a number or a colour, where x < threshold, and `right` elsewhere."""
    left, right = everywhere(left), everywhere(right)

    def function(points):
        a, b = left(points), right(points)
        return torch.where((points[..., 0] < threshold).reshape(points.shape[:-1] + (1,) * (a.ndim - 2)), a, b)

    return function


def varying_field(training=False):
    """A field whose density and colour vary everywhere."""
    return Field(
        lambda x: 2 + (5 * x[..., 0]).sin() + (3 * x[..., 1] * x[..., 2]).cos(),
        lambda x: (torch.stack([x.sum(-1), x[..., 0] - x[..., 1], 4 * x[..., 2]], -1)).sin(),
        training,
    )


def segments(edges):
    """Lengths and midpoints of a ray's segments between these distances."""
    edges = double(edges)
    return edges.diff(), (edges[1:] + edges[:-1]) / 2


# --- segments ---------------------------------------------------------------------------------------------------------


def test_linear_disparity_segments_have_equal_disparity_and_fill_the_ray():
    near, far, n = double([1.0, 2.0, 3.0]), double([100.0, 5.0, 3.0]), 8
    distance, delta = sample_linear_disparity(near, far, double([[0.5] * n]))
    torch.testing.assert_close(delta.sum(-1), far - near)
    ends = near[:, None] + torch.cat([torch.zeros(3, 1), delta.cumsum(-1)], -1)
    assert ((distance >= ends[:, :-1]) & (distance <= ends[:, 1:])).all(), "samples are inside of their segments"
    steps = (1 / ends).diff(dim=-1)
    torch.testing.assert_close(steps, ((1 / far - 1 / near) / n)[:, None].expand(3, n))
    torch.testing.assert_close(1 / distance, (1 / ends[:, :-1] + 1 / ends[:, 1:]) / 2)


@pytest.mark.parametrize("wall", [2.0, 30.0])
def test_a_renderer_with_a_near_plane_starts_there_and_reaches_far(wall):
    """The camera is inside of the box. Density before the near plane is ignored; an empty ray ends at the box."""
    renderer = VolumeRenderer((-90.0,) * 3, (90.0,) * 3, 1, 1, samples_per_ray=2000, near=1.0)
    eye = look_at(double([0.0, 0.0, 0.0]), double([1.0, 0.0, 0.0]), 0.3)[None, None]
    solid = Field(lambda x: torch.where(x[..., 0] > wall, 1e3, 0.0), everywhere(RED))
    render = renderer.render_rays(solid, eye)
    assert float(render.opacity) == pytest.approx(1) and float(render.distance) == pytest.approx(wall, rel=0.02)
    before_near_plane = Field(lambda x: torch.where(x[..., 0] < 0.99, 1e3, 0.0), everywhere(RED))
    render = renderer.render_rays(before_near_plane, eye)
    assert float(render.opacity) == 0 and float(render.distance) == pytest.approx(90)


# --- compositing against closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("sigma", [0.0, 1e-3, 0.9, 40.0])
def test_transmittance_of_constant_density_is_exp_of_minus_density_times_length(n, sigma):
    near, length, background = 1.5, 2.0, double([0.3, 0.3, 0.3])
    delta, distance = segments([near + length * i / n for i in range(n + 1)])
    render = composite(
        double([sigma] * n), double([RED] * n), delta, distance, double(near + length), background=background
    )
    transmittance = math.exp(-sigma * length)
    exact = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(render.opacity, double(1 - transmittance), **exact)
    torch.testing.assert_close(
        render.rgb_features, (1 - transmittance) * double(RED) + transmittance * background, **exact
    )


def test_depth_converges_to_the_mean_of_the_exponential_distribution():
    """near + (1 - exp(-sigma L)) / sigma: transmitted light counts at the far side. The error is quadratic in delta."""
    near, length, sigma = 1.5, 2.0, 1.7
    expected, errors = near + (1 - math.exp(-sigma * length)) / sigma, []
    for n in (16, 32, 64, 128):
        delta, distance = segments([near + length * i / n for i in range(n + 1)])
        render = composite(
            double([sigma] * n), double([RED] * n), delta, distance, double(near + length), double([0.0] * 3)
        )
        errors.append(abs(float(render.distance) - expected))
    assert errors[-1] < 5e-5
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert coarse / fine == pytest.approx(4, rel=0.05)


def test_two_slabs_in_float64():
    """Slabs of lengths 0.7 and 0.4 in segments of different lengths, with a gap between them."""
    (a, b), (length_a, gap, length_b) = (1.3, 2.9), (0.7, 0.5, 0.4)
    edges = [2.0, 2.1, 2.5, 2.7, 3.2, 3.3, 3.6]
    delta, distance = segments(edges)
    density = double([a, a, a, 0.0, b, b])
    colour = double([RED] * 3 + [(9.0, 9.0, 9.0)] + [BLUE] * 2)
    background = double([0.3, 0.2, 0.1])
    render = composite(density, colour, delta, distance, double(4.0), background)
    transmittance_a, transmittance_b = math.exp(-a * length_a), math.exp(-b * length_b)
    total = transmittance_a * transmittance_b
    expected = (1 - transmittance_a) * double(RED) + transmittance_a * (1 - transmittance_b) * double(BLUE)
    expected = expected + total * background
    torch.testing.assert_close(render.rgb_features, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(render.opacity, double(1 - total), rtol=1e-12, atol=1e-12)
    swapped = composite(density.flip(0), colour.flip(0), delta.flip(0), distance, double(4.0), background)
    assert (swapped.rgb_features - expected).abs().max() > 0.1, "the control: the other slab in front"
    torch.testing.assert_close(swapped.opacity, render.opacity)
    resolution = 400  # segments per unit of length, for the expected distance, the integral of the transmittance
    delta, distance = segments([2 + i / resolution for i in range(int(1.6 * resolution) + 1)])
    density = torch.where(distance < 2.7, a, torch.where(distance > 3.2, b, 0.0))
    render = composite(density, distance[:, None].expand(-1, 3), delta, distance, double(3.6), background)
    exact = 2 + (1 - transmittance_a) / a + transmittance_a * gap + transmittance_a * (1 - transmittance_b) / b
    assert float(render.distance) == pytest.approx(exact, abs=1e-5)


def test_an_opaque_segment_hides_everything_behind_it():
    delta, distance = segments([1.0, 1.5, 2.0, 2.5])
    renders = []
    for sigma in (0.01, 1e4):
        for behind in (RED, BLUE):
            density, colour = double([0.0, sigma, 3.0]), double([RED, (0.5, 0.5, 0.5), behind])
            renders.append(composite(density, colour, delta, distance, double(2.5), double([1.0, 1.0, 1.0])))
    thin_red, thin_blue, opaque_red, opaque_blue = renders
    assert torch.equal(opaque_red.rgb_features, opaque_blue.rgb_features)
    assert opaque_red.opacity == 1 and opaque_red.distance == 1.75
    torch.testing.assert_close(opaque_red.rgb_features, double([0.5, 0.5, 0.5]))
    assert (thin_red.rgb_features - thin_blue.rgb_features).abs().max() > 0.5, (
        "the control: a thin segment hides nothing"
    )


def test_gradients_of_composite_are_exact():
    generator = torch.Generator().manual_seed(0)
    density, colour, distance, far = (
        torch.rand(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 5), (2, 5, 4), (2, 5), (2,))
    )
    delta, background = double([[0.3], [0.7]]), double([1.0, 0.5, -1.0, 0.0])

    def render(*inputs):
        return composite(inputs[0], inputs[1], delta, inputs[2], inputs[3], background)

    assert torch.autograd.gradcheck(render, (3 * density, colour, distance, far))


def test_a_rendered_colour_has_the_gradient_of_the_closed_form():
    """d/dsigma of the colour is L exp(-sigma L) (colour - background); also compared with finite differences."""
    sigma = double(0.8).requires_grad_()
    cameras = camera([-3.0, 0.0, 0.0])

    def colour(sigma):
        return BOX(Field(lambda x: sigma.expand(x.shape[:-1]), everywhere(RED)), cameras)[0, 0, 0, 4, 4]

    (gradient,) = torch.autograd.grad(colour(sigma), sigma)
    uv = pixel_centres(8, 8, cameras)[4 * 8 + 4]
    length = 2 * math.sqrt(1 + float(((2 * uv - 1) * math.tan(0.15)).square().sum()))
    exact = length * math.exp(-0.8 * length) * (RED[0] - BOX.background)
    step = 1e-2
    finite_difference = (colour(sigma + step) - colour(sigma - step)) / (2 * step)
    assert float(gradient) == pytest.approx(exact, rel=1e-5)
    assert float(gradient) == pytest.approx(float(finite_difference.detach()), rel=1e-3)


# --- rays through the box ---------------------------------------------------------------------------------------------


def test_rays_enter_and_leave_the_box_at_known_distances():
    root = math.sqrt(0.5)
    table = [
        # origin,             direction,          near,  far
        ((-3.0, 0.0, 0.0), (1.0, 0.0, 0.0), 2.0, 4.0),
        ((0.0, 0.0, 9.0), (0.0, 0.0, -1.0), 6.0, 12.0),
        ((-3.0, -3.0, 0.0), (root, root, 0.0), 2 / root, 4 / root),  # x enters last and leaves first
        ((-3.0, 0.4, 2.5), (0.8, 0.6, 0.0), 2.5, 1.6 / 0.6),  # leaves y = 2 soon after it enters x = -1
        ((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), 0.0, 2.0),  # from inside
        ((0.5, 0.0, 0.0), (0.6, 0.8, 0.0), 0.0, 0.5 / 0.6),
        ((0.9, 1.9, -2.9), (-0.6, 0.0, 0.8), 0.0, 1.9 / 0.6),
        ((-3.0, 1.9, 2.9), (1.0, 0.0, 0.0), 2.0, 4.0),  # parallel to four sides, just inside of them
        ((-3.0, 2.1, 0.0), (1.0, 0.0, 0.0), None, None),  # just outside of one side
        ((-3.0, 0.0, -3.1), (0.8, 0.6, 0.0), None, None),
        ((-3.0, 0.0, 0.0), (-1.0, 0.0, 0.0), None, None),  # behind
        ((3.0, 3.0, 3.0), (root, -root, 0.0), None, None),
        ((-3.0, 0.0, 0.0), (0.6, 0.8, 0.0), None, None),  # past a corner
    ]
    origins, directions = (double([row[i] for row in table]) for i in (0, 1))
    high = double([1.0, 2.0, 3.0])
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-5)):
        near, far = intersect_aabb(origins.to(dtype), directions.to(dtype), -high.to(dtype), high.to(dtype))
        for row, enter, leave in zip(table, near.tolist(), far.tolist(), strict=True):
            if row[2] is None:
                assert enter == leave >= 0, row
            else:
                assert enter == pytest.approx(row[2], abs=tolerance), row
                assert leave == pytest.approx(row[3], abs=tolerance), row
    planar = intersect_aabb(double([[-3.0, 0.2]]), double([[1.0, 0.0]]), double([-1.0, -1.0]), double([2.0, 1.0]))
    assert [float(x) for x in planar] == [2.0, 5.0], "in two dimensions too"


def test_rays_that_miss_the_box_end_near_it():
    """They do not end on the plane of one of its sides, which they can meet at any distance up to infinity."""
    cameras = orbit(double([[0.3, 2.0, 4.1]]), double([[0.0, 0.3, 1.2]]), 3.0, 2.6)
    renderer = replace(BOX, height=33, width=33)  # an odd height: the middle row of a level camera has level rays
    image = renderer.render_images(Field(everywhere(0.0), everywhere(RED)), cameras)
    assert image.distance.min() >= 0 and image.distance.max() <= 3 + math.sqrt(3)
    directions = double([[1.0, -1e-3, 0.0], [1.0, -1e-12, 0.0], [1.0, 0.0, 0.0], [1.0, 1e-3, 0.0]])
    near, far = intersect_aabb(double([[-3.0, 1.1, 0.0]]), directions, double(BOX.box_min), double(BOX.box_max))
    assert torch.equal(near, far) and near.max() <= 3 + math.sqrt(3), near


def test_a_ray_that_misses_ends_where_it_is_closest_to_the_centre_of_the_box():
    near, far = intersect_aabb(
        double([[0.0, 5.0, 0.0]]), double([[1.0, 0.0, 0.0]]), double([2.0, 0, 0]), double([4.0, 1, 1])
    )
    assert near.tolist() == far.tolist() == [3.0]


def test_points_are_inside_of_the_box_exactly_between_near_and_far():
    generator = torch.Generator().manual_seed(0)
    origins, directions = (torch.randn(2000, 3, generator=generator).double() for _ in range(2))
    directions, high = torch.nn.functional.normalize(directions, dim=-1), double([0.5, 1.0, 1.5])
    near, far = intersect_aabb(origins, directions, -high, high)
    distances = torch.linspace(0.005, 6, 601).double()
    inside = ((origins[:, None] + distances[:, None] * directions[:, None]).abs() < high).all(-1)
    expected = (distances > near[:, None]) & (distances < far[:, None])
    assert (inside == expected).float().mean() > 0.9999 and inside.any(1).float().mean() > 0.3


def test_the_image_of_a_constant_box_has_a_closed_form():
    """Each of 8 x 8 pixels of a box seen face on: colour, opacity and distance follow from the length of its ray."""
    cameras, sigma = camera([-3.0, 0.0, 0.0]), 0.8
    image = replace(BOX, samples_per_ray=64).render_images(Field(everywhere(sigma), everywhere(RED)), cameras)
    tangents = (2 * pixel_centres(8, 8, cameras) - 1) * math.tan(0.15)
    half_length = (1 + tangents.square().sum(-1)).sqrt().view(8, 8)
    transmittance = torch.exp(-sigma * 2 * half_length)
    tolerance = {"rtol": 0, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(image.opacity[0, 0], 1 - transmittance, **tolerance)
    colour = (1 - transmittance) * double(RED)[:, None, None] + transmittance * BOX.background
    torch.testing.assert_close(image.rgb[0, 0], colour, **tolerance)
    torch.testing.assert_close(image.distance[0, 0], 2 * half_length + (1 - transmittance) / sigma, rtol=0, atol=2e-4)
    assert (transmittance.max() - transmittance.min()) > 1e-3, "the control: oblique rays are longer"


def test_the_nearer_slab_is_in_front_from_either_side():
    """Two slabs, seen from the west and from the east: the colours are composited in the order of the ray."""
    field = Field(step_function(0.0, 1.0, 3.0), step_function(0.0, RED, BLUE))
    one_pixel = replace(BOX, height=1, width=1)
    thin, thick = math.exp(-1.0), math.exp(-3.0)
    for x, front, back, a, b in ((-3.0, RED, BLUE, thin, thick), (3.0, BLUE, RED, thick, thin)):
        render = one_pixel.render_rays(field, camera([x, 0.0, 0.0]))
        expected = (1 - a) * double(front) + a * (1 - b) * double(back) + a * b * BOX.background
        torch.testing.assert_close(render.rgb_features[0, 0, 0], expected, rtol=0, atol=1e-6, check_dtype=False)
        assert float(render.opacity) == pytest.approx(1 - a * b, abs=1e-6)


def test_an_empty_field_renders_the_background_at_the_far_side():
    cameras = torch.cat([camera([-3.0, 0.0, 0.0]), camera([-3.0, 0.0, 2.0], 1.2)], 1)
    image = BOX.render_images(Field(everywhere(0.0), everywhere(RED)), cameras)
    assert (image.rgb == BOX.background).all() and (image.opacity == 0).all()
    origins, directions = rays(cameras, pixel_centres(8, 8, cameras))
    _, far = intersect_aabb(origins, directions, double(BOX.box_min), double(BOX.box_max))
    torch.testing.assert_close(image.distance.flatten(2), far, rtol=0, atol=1e-6)
    assert replace(BOX, background=-1.0).render_images(Field(everywhere(0.0), everywhere(RED)), cameras).rgb.max() == -1


def test_rays_that_miss_the_box_render_the_background_even_if_the_field_is_opaque():
    cameras = camera([-3.0, 0.0, 0.0], 1.6)
    image = BOX.render_images(Field(everywhere(1e3), everywhere(RED)), cameras)
    face_points = 2 * (2 * pixel_centres(8, 8, cameras) - 1) * math.tan(0.8)  # where rays cross the plane x = -1
    hits = (face_points.abs() < 1).all(-1).view(8, 8)
    assert 0 < hits.sum() < 64
    assert ((image.opacity[0, 0] == 0) == ~hits).all() and (image.opacity[0, 0][hits] == 1).all()
    assert (image.rgb[0, 0][:, ~hits] == BOX.background).all()
    torch.testing.assert_close(image.rgb[0, 0][:, hits].T, torch.tensor([RED]).expand(int(hits.sum()), 3).double())
    inside = look_at(*double([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), 1.5)[None, None]
    from_inside = BOX.render_images(Field(everywhere(1e3), everywhere(RED)), inside)
    assert (from_inside.opacity == 1).all()
    assert from_inside.distance.max() < 0.1, "the box itself is invisible from inside"


def test_features_follow_the_colours_and_have_no_background():
    def colour(points):
        return torch.cat([everywhere(RED)(points), everywhere([5.0, 6.0])(points)], -1)

    render = BOX.render_rays(Field(everywhere(0.5), colour), camera([-3.0, 0.0, 0.0]))
    assert render.rgb_features.shape == (1, 1, 64, 5)
    torch.testing.assert_close(
        render.rgb_features[..., 3:], render.opacity[..., None] * double([5.0, 6.0]), rtol=1e-6, atol=1e-6
    )
    assert (BOX.render_rays(Field(everywhere(0.0), colour), camera([-3.0, 0.0, 0.0])).rgb_features[..., 3:] == 0).all()
    assert BOX(Field(everywhere(0.5), colour), camera([-3.0, 0.0, 0.0])).shape == (1, 1, 3, 8, 8)


def test_a_half_precision_field_is_composited_in_full_precision():
    cameras = camera([-3.0, 0.0, 0.0]).float()
    half = Field(lambda x: everywhere(0.75)(x).bfloat16(), lambda x: everywhere([0.5, 0.25, -1.0])(x).bfloat16())
    render = BOX.render_rays(half, cameras)
    full = BOX.render_rays(Field(everywhere(0.75), everywhere([0.5, 0.25, -1.0])), cameras)
    for a, b in zip(render, full, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


# --- samples along rays -----------------------------------------------------------------------------------------------


def discrepancy(points):
    """The star discrepancy of numbers in [0, 1]: the maximum over x of |fraction of the numbers below x - x|."""
    x, n = points.sort().values, len(points)
    i = torch.arange(n, dtype=x.dtype)
    return float(torch.maximum((i + 1) / n - x, x - i / n).max())


def test_samples_are_the_midpoints_of_segments_in_testing():
    like = torch.zeros(1).double()
    assert torch.equal(stratified_offsets(5, None, like), torch.full((1, 5), 0.5).double())


def test_offsets_in_training_cover_their_segments_more_evenly_than_random_numbers():
    ray_indices, like = torch.arange(1024), torch.zeros(1).double()
    offsets = stratified_offsets(40, ray_indices, like)
    assert offsets.shape == (1024, 40) and offsets.min() >= 0 and offsets.max() < 1
    assert torch.equal(offsets, stratified_offsets(40, ray_indices, like)), "the same every time"
    assert torch.equal(offsets[[7, 3]], stratified_offsets(40, ray_indices[[7, 3]], like)), (
        "independent of the other rays"
    )
    random = torch.rand(1024, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    midpoints = stratified_offsets(40, None, like).expand(1024, 40)

    def max_discrepancies(x):
        """Of one segment over all rays, of one ray over all segments, and of 8 neighbouring rays over 8 segments."""
        blocks = x.unfold(0, 8, 8).unfold(1, 8, 8).flatten(0, 1).flatten(1)
        return tuple(max(discrepancy(y) for y in rows) for rows in (x.T[:8], x[:64], blocks[:64]))

    for quasi_random, uniform, midpoint, limit in zip(
        *(max_discrepancies(x) for x in (offsets, random, midpoints)), (0.005, 0.12, 0.06), strict=True
    ):
        assert quasi_random < limit < 0.5 * uniform and midpoint == pytest.approx(0.5), (
            quasi_random,
            uniform,
            midpoint,
        )
    counts = torch.stack([torch.histc(column, 16, 0, 1) for column in offsets.T])
    assert counts.min() > 60 and counts.max() < 68  # of 64


def test_neighbouring_rays_have_different_offsets():
    offsets = stratified_offsets(6, torch.arange(4096), torch.zeros(1).double())
    for step in (1, 64):  # the next pixel in the row, and in the column of an image of 64 x 64 pixels
        difference = (offsets[step:] - offsets[:-step]).abs()
        assert torch.minimum(difference, 1 - difference).min() > 0.1
    difference = offsets.diff(dim=1).abs()
    assert torch.minimum(difference, 1 - difference).min() > 0.1


def test_offsets_stay_below_one_in_single_precision():
    offsets = stratified_offsets(64, torch.arange(0, 65536), torch.zeros(1))
    assert offsets.dtype == torch.float32 and offsets.min() >= 0 and offsets.max() < 1


def test_stratified_offsets_are_the_r2_sequence():
    base = 1.3
    for _ in range(60):  # the root of x^3 = x + 1
        base = (1 + base) ** (1 / 3)
    offsets = stratified_offsets(3, torch.tensor([[0, 7]]), double([0.0]))
    expected = [[(0.5 + ray / base + segment / base**2) % 1 for segment in range(3)] for ray in (0, 7)]
    torch.testing.assert_close(offsets[0], double(expected), rtol=0, atol=1e-6)  # the quotient of an index is float32


def test_training_samples_fields_at_stratified_offsets_and_testing_at_midpoints():
    cameras = camera([-3.0, 0.0, 0.0])
    queried_points = {}
    for training in (False, True):
        field = varying_field(training)
        image, repeated = BOX(field, cameras), BOX(field, cameras)
        assert torch.equal(image, repeated)
        queried_points[training] = field.queried_points[0].view(64, 16, 3)
    origins, directions = rays(cameras, pixel_centres(8, 8, cameras))
    near, far = intersect_aabb(origins, directions, double(BOX.box_min), double(BOX.box_max))
    for training, points in queried_points.items():
        distances = ((points - origins[0, 0]) * directions[0, 0][:, None]).sum(-1)
        torch.testing.assert_close(points, origins[0, 0] + distances[..., None] * directions[0, 0][:, None])
        offsets = 16 * (distances - near[0, 0, :, None]) / (far - near)[0, 0, :, None] - torch.arange(16)
        expected = stratified_offsets(16, torch.arange(64) if training else None, distances).expand(64, 16)
        torch.testing.assert_close(offsets, expected, rtol=0, atol=1e-6)


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_rendered_pixels_equal_those_of_the_whole_image(training):
    generator = torch.Generator().manual_seed(0)
    cameras = orbit(6 * torch.rand(3, 2, generator=generator), 0.4, 3.0, 0.9)
    indices = torch.randint(64, (3, 2, 20), generator=generator)
    field = varying_field(training)
    pixels, image = BOX(field, cameras, pixel_indices=indices), BOX(field, cameras)
    assert pixels.shape == (3, 2, 3, 20) and image.shape == (3, 2, 3, 8, 8)
    assert torch.equal(pixels, gather_pixels(image, indices))
    assert not torch.allclose(pixels, gather_pixels(image, (indices + 1) % 64)), "the control: neighbouring pixels"
    assert not torch.allclose(pixels, gather_pixels(image.mT, indices), atol=1e-3), "the control: transposed image"


@pytest.mark.parametrize(
    "height, width, downsample, pixels", [(8, 8, 2, (4, 4)), (8, 16, 4, (2, 4)), (1, 16, 2, (1, 8))]
)
def test_downsampled_images_have_rays_through_their_own_pixels_centres(height, width, downsample, pixels):
    renderer = replace(BOX, height=height, width=width)
    cameras = orbit(double([[0.4, 2.0]]), 0.3, 3.0, 0.6)
    for factor, (h, w) in ((1, (height, width)), (downsample, pixels)):
        field = varying_field()
        render = renderer.render_rays(field, cameras, downsample=factor)
        assert render.rgb_features.shape == (1, 2, h * w, 3) and render.distance.shape == render.opacity.shape == (
            1,
            2,
            h * w,
        )
        uv, depth = project(cameras, field.queried_points[0].view(1, 2, -1, 3))
        centres = pixel_centres(h, w, uv).repeat_interleave(16, 0).expand_as(uv)
        torch.testing.assert_close(uv, centres, rtol=0, atol=1e-9)
        assert (depth > 0).all()
    small = replace(renderer, height=pixels[0], width=pixels[1]).render_rays(varying_field(), cameras)
    assert all(torch.equal(a, b) for a, b in zip(render, small, strict=True))


def test_downsampling_leaves_at_least_one_pixel():
    render = replace(BOX, height=1, width=2).render_rays(varying_field(), camera([-3.0, 0.0, 0.0]), downsample=8)
    assert render.distance.shape == (1, 1, 1)


def test_images_are_rendered_rays_in_rows():
    cameras = orbit(double([[0.4, 2.0]]), 0.3, 3.0, 0.6)
    renderer = replace(BOX, height=6, width=4)
    image, render = renderer.render_images(varying_field(), cameras), renderer.render_rays(varying_field(), cameras)
    assert image.rgb.shape == (1, 2, 3, 6, 4) and image.distance.shape == image.opacity.shape == (1, 2, 6, 4)
    assert torch.equal(image.rgb, renderer(varying_field(), cameras))
    assert torch.equal(image.rgb[0, 1, :, 5, 2], render.rgb_features[0, 1, 5 * 4 + 2])
    assert torch.equal(image.distance[0, 1, 5, 2], render.distance[0, 1, 5 * 4 + 2])
    assert torch.equal(image.opacity[0, 0, 1], render.opacity[0, 0, 4:8])


def test_a_supersampled_pixel_is_the_mean_of_its_rays():
    cameras = orbit(double([[0.4, 2.0]]), 0.3, 3.0, 0.6)
    renderer = replace(BOX, height=6, width=4, supersampling=3)
    fine = replace(renderer, height=18, width=12, supersampling=1).render_images(varying_field(), cameras)
    for image, fine_image in zip(renderer.render_images(varying_field(), cameras), fine, strict=True):
        torch.testing.assert_close(image, fine_image.unflatten(-1, (4, 3)).unflatten(-3, (6, 3)).mean((-3, -1)))
    assert torch.equal(renderer(varying_field(), cameras), replace(renderer, supersampling=1)(varying_field(), cameras))


@pytest.mark.parametrize("training", [False, True])
def test_with_supersampled_observations_a_pixel_is_the_same_mean_of_rays_everywhere(training):
    """Those rays are the pixel centres of a finer image. Without the option, an observation is one ray a pixel."""
    cameras = orbit(double([[0.4, 2.0]]), 0.3, 3.0, 0.6)
    renderer = replace(BOX, height=6, width=4, supersampling=3, supersample_observations=True)
    pixels = torch.tensor([[[0, 13, 23], [7, 7, 1]]])
    field = varying_field(training)
    image, chosen = renderer(field, cameras), renderer(field, cameras, pixels)
    torch.testing.assert_close(chosen, gather_pixels(image, pixels))
    uv, _ = project(cameras, field.queried_points[0].view(1, 2, -1, 3))
    uv = uv.view(1, 2, 6, 4, 3, 3, 16, 2)[..., 5, :].transpose(3, 4).flatten(2, 5)
    torch.testing.assert_close(uv, pixel_centres(18, 12, uv).expand_as(uv), rtol=0, atol=1e-9)
    one_ray = replace(renderer, supersample_observations=False)(field, cameras)
    assert (one_ray - image).abs().max() > 0.01, "the control"
    if not training:  # in training, every ray has its own sample positions
        torch.testing.assert_close(image, renderer.render_images(field, cameras).rgb)


def test_invalid_cameras_raise_one_line_errors():
    valid = camera([-3.0, 0.0, 0.0])
    for cameras, message in (
        (valid[..., :3, :], r"a camera is one 4 x 4 matrix.*got \(1, 1, 3, 4\)"),
        (valid * math.nan, "holds NaN"),
        (valid * 2, "last row of a camera matrix must be 0 0 0 1"),
    ):
        for call in (BOX, BOX.render_images, BOX.render_rays):
            with pytest.raises(ValueError, match=message) as caught:
                call(varying_field(), cameras)
            assert "\n" not in str(caught.value)
