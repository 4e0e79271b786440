"""What rays see is what the integral says: in closed form where there is one, and nothing behind what is opaque."""

import math
from dataclasses import replace

import pytest
import torch

from fwdiff_lite.observations import gather_pixels
from fwdiff_lite.problems.inverse_graphics.cameras import look_at, orbit, pixel_centres, project, rays
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer, clip, composite, inverse_pieces, places

RED, BLUE = (1.0, -1.0, -0.5), (-1.0, -0.2, 0.8)
BOX = VolumeRenderer((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), 8, 8, samples=16, background=0.25)


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def camera(eye, view=0.3):
    return look_at(double(eye), double([0.0, 0.0, 0.0]), view)[None, None]


class Field:
    """Density and colour of points by two functions of their coordinates; keeps the points it was asked for."""

    def __init__(self, density, colour, training=False):
        self.density, self.colour, self.training, self.asked = density, colour, training, []

    def __call__(self, points):
        self.asked.append(points)
        return self.density(points), self.colour(points)


def everywhere(value):
    """The same number, or the same colour, at all points."""
    value = double(value)
    return lambda points: value.to(points).expand(*points.shape[:-1], *value.shape)


def in_front(where, first, second):
    """One number or colour where x < where, another beyond."""
    first, second = everywhere(first), everywhere(second)

    def function(points):
        a, b = first(points), second(points)
        return torch.where((points[..., 0] < where).reshape(points.shape[:-1] + (1,) * (a.ndim - 2)), a, b)

    return function


def swirl(training=False):
    """A field that is different everywhere."""
    return Field(
        lambda x: 2 + (5 * x[..., 0]).sin() + (3 * x[..., 1] * x[..., 2]).cos(),
        lambda x: (torch.stack([x.sum(-1), x[..., 0] - x[..., 1], 4 * x[..., 2]], -1)).sin(),
        training,
    )


def pieces(edges):
    """Lengths and middles of a ray's pieces between these distances."""
    edges = double(edges)
    return edges.diff(), (edges[1:] + edges[:-1]) / 2


# --- pieces -----------------------------------------------------------------------------------------------------------


def test_inverse_pieces_are_even_in_one_over_the_distance_and_fill_the_ray():
    near, far, n = double([1.0, 2.0, 3.0]), double([100.0, 5.0, 3.0]), 8
    distance, delta = inverse_pieces(near, far, double([[0.5] * n]))
    torch.testing.assert_close(delta.sum(-1), far - near)
    ends = near[:, None] + torch.cat([torch.zeros(3, 1), delta.cumsum(-1)], -1)
    assert ((distance >= ends[:, :-1]) & (distance <= ends[:, 1:])).all(), "asked inside of their pieces"
    steps = (1 / ends).diff(dim=-1)
    torch.testing.assert_close(steps, ((1 / far - 1 / near) / n)[:, None].expand(3, n))
    torch.testing.assert_close(1 / distance, (1 / ends[:, :-1] + 1 / ends[:, 1:]) / 2)


@pytest.mark.parametrize("wall", [2.0, 30.0])
def test_a_renderer_with_a_near_end_begins_there_and_sees_far(wall):
    """From within its box; what is nearer is not there, and an empty field's depth is the box's far side."""
    renderer = VolumeRenderer((-90.0,) * 3, (90.0,) * 3, 1, 1, samples=2000, near=1.0)
    eye = look_at(double([0.0, 0.0, 0.0]), double([1.0, 0.0, 0.0]), 0.3)[None, None]
    solid = Field(lambda x: torch.where(x[..., 0] > wall, 1e3, 0.0), everywhere(RED))
    seen = renderer.cast(solid, eye)
    assert float(seen.opacity) == pytest.approx(1) and float(seen.depth) == pytest.approx(wall, rel=0.02)
    near = Field(lambda x: torch.where(x[..., 0] < 0.99, 1e3, 0.0), everywhere(RED))
    seen = renderer.cast(near, eye)
    assert float(seen.opacity) == 0 and float(seen.depth) == pytest.approx(90)


# --- compositing against closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("sigma", [0.0, 1e-3, 0.9, 40.0])
def test_constant_density_lets_through_exp_of_minus_density_times_length(n, sigma):
    near, length, background = 1.5, 2.0, double([0.3, 0.3, 0.3])
    delta, distance = pieces([near + length * i / n for i in range(n + 1)])
    seen = composite(
        double([sigma] * n), double([RED] * n), delta, distance, double(near + length), background=background
    )
    through = math.exp(-sigma * length)
    exact = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(seen.opacity, double(1 - through), **exact)
    torch.testing.assert_close(seen.colour, (1 - through) * double(RED) + through * background, **exact)


def test_depth_is_the_mean_of_the_exponential_law_as_pieces_get_shorter():
    """near + (1 - exp(-sigma L)) / sigma: what passes counts at the far side. The error falls with the square."""
    near, length, sigma = 1.5, 2.0, 1.7
    expected, misses = near + (1 - math.exp(-sigma * length)) / sigma, []
    for n in (16, 32, 64, 128):
        delta, distance = pieces([near + length * i / n for i in range(n + 1)])
        seen = composite(
            double([sigma] * n), double([RED] * n), delta, distance, double(near + length), double([0.0] * 3)
        )
        misses.append(abs(float(seen.depth) - expected))
    assert misses[-1] < 5e-5
    for coarse, fine in zip(misses, misses[1:], strict=False):
        assert coarse / fine == pytest.approx(4, rel=0.05)


def test_two_slabs_in_float64():
    """Lengths 0.7 and 0.4, in pieces of different lengths, with a gap between them."""
    (a, b), (first, gap, second) = (1.3, 2.9), (0.7, 0.5, 0.4)
    edges = [2.0, 2.1, 2.5, 2.7, 3.2, 3.3, 3.6]
    delta, distance = pieces(edges)
    density = double([a, a, a, 0.0, b, b])
    colour = double([RED] * 3 + [(9.0, 9.0, 9.0)] + [BLUE] * 2)
    background = double([0.3, 0.2, 0.1])
    seen = composite(density, colour, delta, distance, double(4.0), background)
    one, two = math.exp(-a * first), math.exp(-b * second)
    expected = (1 - one) * double(RED) + one * (1 - two) * double(BLUE) + one * two * background
    torch.testing.assert_close(seen.colour, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(seen.opacity, double(1 - one * two), rtol=1e-12, atol=1e-12)
    swapped = composite(density.flip(0), colour.flip(0), delta.flip(0), distance, double(4.0), background)
    assert (swapped.colour - expected).abs().max() > 0.1, "the control: the other slab in front"
    torch.testing.assert_close(swapped.opacity, seen.opacity)
    fine = 400  # pieces a unit of length, for the mean depth: the integral of the light that is left
    inside = [2 + i / fine for i in range(int(1.6 * fine) + 1)]
    delta, distance = pieces(inside)
    density = torch.where(distance < 2.7, a, torch.where(distance > 3.2, b, 0.0))
    seen = composite(density, distance[:, None].expand(-1, 3), delta, distance, double(3.6), background)
    exact = 2 + (1 - one) / a + one * gap + one * (1 - two) / b
    assert float(seen.depth) == pytest.approx(exact, abs=1e-5)


def test_an_opaque_piece_hides_all_behind_it():
    delta, distance = pieces([1.0, 1.5, 2.0, 2.5])
    answers = []
    for sigma in (0.01, 1e4):
        for behind in (RED, BLUE):
            density, colour = double([0.0, sigma, 3.0]), double([RED, (0.5, 0.5, 0.5), behind])
            answers.append(composite(density, colour, delta, distance, double(2.5), double([1.0, 1.0, 1.0])))
    thin, other, opaque, same = answers
    assert torch.equal(opaque.colour, same.colour) and opaque.opacity == 1 and opaque.depth == 1.75
    torch.testing.assert_close(opaque.colour, double([0.5, 0.5, 0.5]))
    assert (thin.colour - other.colour).abs().max() > 0.5, "the control: through a thin one, it shows"


def test_gradients_are_those_of_the_sums():
    generator = torch.Generator().manual_seed(0)
    density, colour, distance, far = (
        torch.rand(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 5), (2, 5, 4), (2, 5), (2,))
    )
    delta, background = double([[0.3], [0.7]]), double([1.0, 0.5, -1.0, 0.0])

    def seen(*inputs):
        return composite(inputs[0], inputs[1], delta, inputs[2], inputs[3], background)

    assert torch.autograd.gradcheck(seen, (3 * density, colour, distance, far))


def test_a_rendered_colour_has_the_gradient_of_the_closed_form():
    """d/dsigma of the colour is L exp(-sigma L) (colour - background); and against finite differences."""
    sigma = double(0.8).requires_grad_()
    cameras = camera([-3.0, 0.0, 0.0])

    def colour(sigma):
        return BOX(Field(lambda x: sigma.expand(x.shape[:-1]), everywhere(RED)), cameras)[0, 0, 0, 4, 4]

    (gradient,) = torch.autograd.grad(colour(sigma), sigma)
    uv = pixel_centres(8, 8, cameras)[4 * 8 + 4]
    length = 2 * math.sqrt(1 + float(((2 * uv - 1) * math.tan(0.15)).square().sum()))
    exact = length * math.exp(-0.8 * length) * (RED[0] - BOX.background)
    step = 1e-2
    finite = (colour(sigma + step) - colour(sigma - step)) / (2 * step)
    assert float(gradient) == pytest.approx(exact, rel=1e-5)
    assert float(gradient) == pytest.approx(float(finite.detach()), rel=1e-3)


# --- rays through the box ---------------------------------------------------------------------------------------------


def test_rays_enter_and_leave_the_box_where_they_should():
    root = math.sqrt(0.5)
    table = [
        # from,               towards,            near,  far
        ((-3.0, 0.0, 0.0), (1.0, 0.0, 0.0), 2.0, 4.0),
        ((0.0, 0.0, 9.0), (0.0, 0.0, -1.0), 6.0, 12.0),
        ((-3.0, -3.0, 0.0), (root, root, 0.0), 2 / root, 4 / root),  # x enters last and leaves first
        ((-3.0, 0.4, 2.5), (0.8, 0.6, 0.0), 2.5, 1.6 / 0.6),  # y = 2 is left soon after x = -1 is entered
        ((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), 0.0, 2.0),  # from inside
        ((0.5, 0.0, 0.0), (0.6, 0.8, 0.0), 0.0, 0.5 / 0.6),
        ((0.9, 1.9, -2.9), (-0.6, 0.0, 0.8), 0.0, 1.9 / 0.6),
        ((-3.0, 1.9, 2.9), (1.0, 0.0, 0.0), 2.0, 4.0),  # parallel to four sides, just within them
        ((-3.0, 2.1, 0.0), (1.0, 0.0, 0.0), None, None),  # just outside of one
        ((-3.0, 0.0, -3.1), (0.8, 0.6, 0.0), None, None),
        ((-3.0, 0.0, 0.0), (-1.0, 0.0, 0.0), None, None),  # behind
        ((3.0, 3.0, 3.0), (root, -root, 0.0), None, None),
        ((-3.0, 0.0, 0.0), (0.6, 0.8, 0.0), None, None),  # past a corner
    ]
    start, away = (double([row[i] for row in table]) for i in (0, 1))
    high = double([1.0, 2.0, 3.0])
    for dtype, slack in ((torch.float64, 1e-8), (torch.float32, 1e-5)):
        near, far = clip(start.to(dtype), away.to(dtype), -high.to(dtype), high.to(dtype))
        for row, enters, leaves in zip(table, near.tolist(), far.tolist(), strict=True):
            if row[2] is None:
                assert enters == leaves >= 0, row
            else:
                assert enters == pytest.approx(row[2], abs=slack) and leaves == pytest.approx(row[3], abs=slack), row
    flat = clip(double([[-3.0, 0.2]]), double([[1.0, 0.0]]), double([-1.0, -1.0]), double([2.0, 1.0]))
    assert [float(x) for x in flat] == [2.0, 5.0], "on a plane too"


def test_rays_that_miss_the_box_end_near_it():
    """Not where they would cross one of its sides' planes, which lies anywhere up to infinity."""
    cameras = orbit(double([[0.3, 2.0, 4.1]]), double([[0.0, 0.3, 1.2]]), 3.0, 2.6)
    renderer = replace(BOX, height=33, width=33)  # in its middle row, and not at 0.3 or 1.2, rays are level
    image = renderer.image(Field(everywhere(0.0), everywhere(RED)), cameras)
    assert image.depth.min() >= 0 and image.depth.max() <= 3 + math.sqrt(3)
    away = double([[1.0, -1e-3, 0.0], [1.0, -1e-12, 0.0], [1.0, 0.0, 0.0], [1.0, 1e-3, 0.0]])
    near, far = clip(double([[-3.0, 1.1, 0.0]]), away, double(BOX.low), double(BOX.high))
    assert torch.equal(near, far) and near.max() <= 3 + math.sqrt(3), near


def test_every_point_between_near_and_far_is_inside_and_none_beyond():
    generator = torch.Generator().manual_seed(0)
    start, away = (torch.randn(2000, 3, generator=generator).double() for _ in range(2))
    away, high = torch.nn.functional.normalize(away, dim=-1), double([0.5, 1.0, 1.5])
    near, far = clip(start, away, -high, high)
    along = torch.linspace(0.005, 6, 601).double()
    inside = ((start[:, None] + along[:, None] * away[:, None]).abs() < high).all(-1)
    expected = (along > near[:, None]) & (along < far[:, None])
    assert (inside == expected).float().mean() > 0.9999 and inside.any(1).float().mean() > 0.3


def test_a_boxs_image_is_the_closed_form_of_each_rays_length():
    """A slab seen head on through 8 x 8 pixels, with the lengths of slanted rays; and its depth."""
    cameras, sigma = camera([-3.0, 0.0, 0.0]), 0.8
    image = replace(BOX, samples=64).image(Field(everywhere(sigma), everywhere(RED)), cameras)
    slope = (2 * pixel_centres(8, 8, cameras) - 1) * math.tan(0.15)
    slant = (1 + slope.square().sum(-1)).sqrt().view(8, 8)
    through = torch.exp(-sigma * 2 * slant)
    near = {"rtol": 0, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(image.opacity[0, 0], 1 - through, **near)
    colour = (1 - through) * double(RED)[:, None, None] + through * BOX.background
    torch.testing.assert_close(image.rgb[0, 0], colour, **near)
    torch.testing.assert_close(image.depth[0, 0], 2 * slant + (1 - through) / sigma, rtol=0, atol=2e-4)
    assert (through.max() - through.min()) > 1e-3, "rays that slant go further"


def test_what_stands_in_front_is_seen_first_from_either_side():
    """Two slabs, from the west and from the east: the order of colours is the ray's."""
    field = Field(in_front(0.0, 1.0, 3.0), in_front(0.0, RED, BLUE))
    one_pixel = replace(BOX, height=1, width=1)
    thin, thick = math.exp(-1.0), math.exp(-3.0)
    for x, first, second, a, b in ((-3.0, RED, BLUE, thin, thick), (3.0, BLUE, RED, thick, thin)):
        seen = one_pixel.cast(field, camera([x, 0.0, 0.0]))
        expected = (1 - a) * double(first) + a * (1 - b) * double(second) + a * b * BOX.background
        torch.testing.assert_close(seen.colour[0, 0, 0], expected, rtol=0, atol=1e-6, check_dtype=False)
        assert float(seen.opacity) == pytest.approx(1 - a * b, abs=1e-6)


def test_an_empty_field_shows_the_background_at_the_far_side():
    cameras = torch.cat([camera([-3.0, 0.0, 0.0]), camera([-3.0, 0.0, 2.0], 1.2)], 1)
    image = BOX.image(Field(everywhere(0.0), everywhere(RED)), cameras)
    assert (image.rgb == BOX.background).all() and (image.opacity == 0).all()
    start, away = rays(cameras, pixel_centres(8, 8, cameras))
    _, far = clip(start, away, double(BOX.low), double(BOX.high))
    torch.testing.assert_close(image.depth.flatten(2), far, rtol=0, atol=1e-6)
    assert replace(BOX, background=-1.0).image(Field(everywhere(0.0), everywhere(RED)), cameras).rgb.max() == -1


def test_rays_that_miss_the_box_see_the_background_though_all_is_opaque():
    cameras = camera([-3.0, 0.0, 0.0], 1.6)
    image = BOX.image(Field(everywhere(1e3), everywhere(RED)), cameras)
    at_front = 2 * (2 * pixel_centres(8, 8, cameras) - 1) * math.tan(0.8)  # where rays cross the plane x = -1
    hits = (at_front.abs() < 1).all(-1).view(8, 8)
    assert 0 < hits.sum() < 64
    assert ((image.opacity[0, 0] == 0) == ~hits).all() and (image.opacity[0, 0][hits] == 1).all()
    assert (image.rgb[0, 0][:, ~hits] == BOX.background).all()
    torch.testing.assert_close(image.rgb[0, 0][:, hits].T, torch.tensor([RED]).expand(int(hits.sum()), 3).double())
    inside = look_at(*double([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), 1.5)[None, None]
    from_inside = BOX.image(Field(everywhere(1e3), everywhere(RED)), inside)
    assert (from_inside.opacity == 1).all() and from_inside.depth.max() < 0.1, "a camera in the box sees no wall of it"


def test_features_come_after_colours_and_have_no_background():
    def colour(points):
        return torch.cat([everywhere(RED)(points), everywhere([5.0, 6.0])(points)], -1)

    seen = BOX.cast(Field(everywhere(0.5), colour), camera([-3.0, 0.0, 0.0]))
    assert seen.colour.shape == (1, 1, 64, 5)
    torch.testing.assert_close(seen.colour[..., 3:], seen.opacity[..., None] * double([5.0, 6.0]), rtol=1e-6, atol=1e-6)
    assert (BOX.cast(Field(everywhere(0.0), colour), camera([-3.0, 0.0, 0.0])).colour[..., 3:] == 0).all()
    assert BOX(Field(everywhere(0.5), colour), camera([-3.0, 0.0, 0.0])).shape == (1, 1, 3, 8, 8)


def test_a_field_in_half_precision_is_composited_in_full():
    cameras = camera([-3.0, 0.0, 0.0]).float()
    half = Field(lambda x: everywhere(0.75)(x).bfloat16(), lambda x: everywhere([0.5, 0.25, -1.0])(x).bfloat16())
    seen = BOX.cast(half, cameras)
    full = BOX.cast(Field(everywhere(0.75), everywhere([0.5, 0.25, -1.0])), cameras)
    for a, b in zip(seen, full, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


# --- where rays ask ---------------------------------------------------------------------------------------------------


def discrepancy(points):
    """The star discrepancy of numbers in [0, 1]: the largest gap between their share below x and x."""
    x, n = points.sort().values, len(points)
    i = torch.arange(n, dtype=x.dtype)
    return float(torch.maximum((i + 1) / n - x, x - i / n).max())


def test_places_are_middles_in_testing():
    like = torch.zeros(1).double()
    assert torch.equal(places(5, None, like), torch.full((1, 5), 0.5).double())


def test_places_in_training_fill_their_pieces_more_evenly_than_chance():
    at, like = torch.arange(1024), torch.zeros(1).double()
    within = places(40, at, like)
    assert within.shape == (1024, 40) and within.min() >= 0 and within.max() < 1
    assert torch.equal(within, places(40, at, like)), "the same every time"
    assert torch.equal(within[[7, 3]], places(40, at[[7, 3]], like)), "a ray's own, whoever is beside it"
    chance = torch.rand(1024, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    middles = places(40, None, like).expand(1024, 40)

    def worst(x):
        """Of one piece over all rays, of one ray over all pieces, of 8 neighbouring rays over 8 pieces."""
        blocks = x.unfold(0, 8, 8).unfold(1, 8, 8).flatten(0, 1).flatten(1)
        return tuple(max(discrepancy(y) for y in rows) for rows in (x.T[:8], x[:64], blocks[:64]))

    for mine, random, middle, most in zip(
        worst(within), worst(chance), worst(middles), (0.005, 0.12, 0.06), strict=True
    ):
        assert mine < most < 0.5 * random and middle == pytest.approx(0.5), (mine, random, middle)
    counts = torch.stack([torch.histc(column, 16, 0, 1) for column in within.T])
    assert counts.min() > 60 and counts.max() < 68  # of 64


def test_neighbouring_rays_ask_elsewhere():
    within = places(6, torch.arange(4096), torch.zeros(1).double())
    for away in (1, 64):  # beside, and below in an image of 64 pixels a side
        apart = (within[away:] - within[:-away]).abs()
        assert torch.minimum(apart, 1 - apart).min() > 0.1
    pieces_apart = within.diff(dim=1).abs()
    assert torch.minimum(pieces_apart, 1 - pieces_apart).min() > 0.1


def test_places_stay_below_one_in_single_precision():
    within = places(64, torch.arange(0, 65536), torch.zeros(1))
    assert within.dtype == torch.float32 and within.min() >= 0 and within.max() < 1


def test_a_field_in_training_is_asked_at_other_places_and_one_in_testing_always_at_the_same():
    cameras = camera([-3.0, 0.0, 0.0])
    asked = {}
    for training in (False, True):
        field = swirl(training)
        first, second = BOX(field, cameras), BOX(field, cameras)
        assert torch.equal(first, second)
        asked[training] = field.asked[0].view(64, 16, 3)
    # along each ray, relative to its pieces
    start, away = rays(cameras, pixel_centres(8, 8, cameras))
    near, far = clip(start, away, double(BOX.low), double(BOX.high))
    for training, points in asked.items():
        along = ((points - start[0, 0]) * away[0, 0][:, None]).sum(-1)
        torch.testing.assert_close(points, start[0, 0] + along[..., None] * away[0, 0][:, None])
        within = 16 * (along - near[0, 0, :, None]) / (far - near)[0, 0, :, None] - torch.arange(16)
        expected = places(16, torch.arange(64) if training else None, along).expand(64, 16)
        torch.testing.assert_close(within, expected, rtol=0, atol=1e-6)


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_some_pixels_are_exactly_those_of_the_whole_image(training):
    generator = torch.Generator().manual_seed(0)
    cameras = orbit(6 * torch.rand(3, 2, generator=generator), 0.4, 3.0, 0.9)
    at = torch.randint(64, (3, 2, 20), generator=generator)
    field = swirl(training)
    some, whole = BOX(field, cameras, pixel_indices=at), BOX(field, cameras)
    assert some.shape == (3, 2, 3, 20) and whole.shape == (3, 2, 3, 8, 8)
    assert torch.equal(some, gather_pixels(whole, at))
    assert not torch.allclose(some, gather_pixels(whole, (at + 1) % 64)), "the control: the pixels beside"
    assert not torch.allclose(some, gather_pixels(whole.mT, at), atol=1e-3), "the control: columns for rows"


@pytest.mark.parametrize("height, width, coarser, pixels", [(8, 8, 2, (4, 4)), (8, 16, 4, (2, 4)), (1, 16, 2, (1, 8))])
def test_coarser_images_have_rays_through_their_own_pixels_centres(height, width, coarser, pixels):
    renderer = replace(BOX, height=height, width=width)
    cameras = orbit(double([[0.4, 2.0]]), 0.3, 3.0, 0.6)
    for factor, (h, w) in ((1, (height, width)), (coarser, pixels)):
        field = swirl()
        seen = renderer.cast(field, cameras, coarser=factor)
        assert seen.colour.shape == (1, 2, h * w, 3) and seen.depth.shape == seen.opacity.shape == (1, 2, h * w)
        uv, depth = project(cameras, field.asked[0].view(1, 2, -1, 3))
        centres = pixel_centres(h, w, uv).repeat_interleave(16, 0).expand_as(uv)
        torch.testing.assert_close(uv, centres, rtol=0, atol=1e-9)
        assert (depth > 0).all()
    small = replace(renderer, height=pixels[0], width=pixels[1]).cast(swirl(), cameras)
    assert all(torch.equal(a, b) for a, b in zip(seen, small, strict=True))


def test_a_side_of_one_pixel_stays():
    seen = replace(BOX, height=1, width=2).cast(swirl(), camera([-3.0, 0.0, 0.0]), coarser=8)
    assert seen.depth.shape == (1, 1, 1)


def test_images_are_what_rays_see_in_rows():
    cameras = orbit(double([[0.4, 2.0]]), 0.3, 3.0, 0.6)
    renderer = replace(BOX, height=6, width=4)
    image, seen = renderer.image(swirl(), cameras), renderer.cast(swirl(), cameras)
    assert image.rgb.shape == (1, 2, 3, 6, 4) and image.depth.shape == image.opacity.shape == (1, 2, 6, 4)
    assert torch.equal(image.rgb, renderer(swirl(), cameras))
    assert torch.equal(image.rgb[0, 1, :, 5, 2], seen.colour[0, 1, 5 * 4 + 2])
    assert torch.equal(image.depth[0, 1, 5, 2], seen.depth[0, 1, 5 * 4 + 2])
    assert torch.equal(image.opacity[0, 0, 1], seen.opacity[0, 0, 4:8])


def test_a_pixel_is_the_mean_of_its_rays():
    cameras = orbit(double([[0.4, 2.0]]), 0.3, 3.0, 0.6)
    renderer = replace(BOX, height=6, width=4, antialias=3)
    fine = replace(renderer, height=18, width=12, antialias=1).image(swirl(), cameras)
    for one, many in zip(renderer.image(swirl(), cameras), fine, strict=True):
        torch.testing.assert_close(one, many.unflatten(-1, (4, 3)).unflatten(-3, (6, 3)).mean((-3, -1)))
    assert torch.equal(renderer(swirl(), cameras), replace(renderer, antialias=1)(swirl(), cameras))


def test_bad_cameras_are_refused_in_one_line():
    good = camera([-3.0, 0.0, 0.0])
    for cameras, message in (
        (good[..., :3, :], r"a camera is one 4 x 4 matrix.*got \(1, 1, 3, 4\)"),
        (good * math.nan, "holds NaN"),
        (good * 2, "last row must be 0 0 0 1"),
    ):
        for call in (BOX, BOX.image, BOX.cast):
            with pytest.raises(ValueError, match=message) as caught:
                call(swirl(), cameras)
            assert "\n" not in str(caught.value)
