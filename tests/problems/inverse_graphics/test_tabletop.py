"""Tabletop scenes hide their hidden content, which has the stated probabilities, in all images of the front."""

import math
from dataclasses import replace

import pytest
import torch
from tabletop_helpers import FIELD_NAMES, corners, double, generator, render_distance, scene_with_one_solid

from fwdiff_lite.observations import gather_pixels
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.cameras import orbit, pixel_centres, project, rays
from fwdiff_lite.problems.inverse_graphics.ray_tracing import Solids, hit_record
from fwdiff_lite.problems.inverse_graphics.volume import intersect_aabb
from fwdiff_lite.row_random import RowRandom, draw_key


@pytest.fixture(scope="module")
def many_scenes():
    return tabletop.sample_scenes(6000, generator())


# --- scenes -----------------------------------------------------------------------------------------------------------


def test_scenes_are_drawn_on_the_cpu_and_the_same_for_the_same_seed(few_scenes):
    again = tabletop.sample_scenes(12, generator(1))
    for name in FIELD_NAMES:
        value = getattr(few_scenes, name)
        assert torch.equal(getattr(again, name), value) and value.device.type == "cpu"
    assert len(few_scenes) == 12 and len(few_scenes[:5]) == 5 and len(few_scenes.repeat(3)) == 36
    assert torch.equal(few_scenes.repeat(3)[2::3].light_direction, few_scenes.light_direction)
    assert few_scenes.to("meta").front_azimuth.device.type == "meta"


def test_all_solids_stand_on_the_table_and_inside_the_bounds(many_scenes):
    has_shape = many_scenes.shape_index >= 0
    assert has_shape[:, :4].all() and abs(float(has_shape[:, 4].float().mean()) - 0.5) < 0.03
    points = corners(many_scenes)[has_shape]
    assert points[..., :2].norm(dim=-1).max() < 1
    assert (points > torch.tensor(tabletop.LOW)).all() and (points < torch.tensor(tabletop.HIGH)).all()
    for shape_index in range(3):
        frequency = (many_scenes.shape_index[:, tabletop.HIDDEN] == shape_index).float().mean()
        assert abs(float(frequency) - 1 / 3) < 0.03


def test_no_two_solids_overlap(many_scenes):
    scenes = many_scenes[:1500]
    solids, has_shape = tabletop.build_solids(scenes), scenes.shape_index >= 0
    # a grid of points in the local coordinates of each solid: all of it in a box, the points inside in a round solid
    points = torch.cartesian_prod(*[torch.linspace(-1, 1, 7)] * 2, torch.tensor([-0.9, 0.0, 0.9]))
    for i in range(5):
        x, y, z = (points * scenes.half_extents[:, i, None]).unbind(-1)
        cos, sin = scenes.azimuth[:, i, None].cos(), scenes.azimuth[:, i, None].sin()
        world = torch.stack([cos * x - sin * y, sin * x + cos * y, z], -1) + solids.centre[:, i, None]
        in_first = (scenes.shape_index[:, i, None] == 0) | (points[:, :2].norm(dim=-1) < 1)
        for j in range(5):
            if i != j:
                second = Solids(*(v[:, j, None] for v in solids))
                in_second = (second.to_local(world - solids.centre[:, j, None]).abs() < 1).all(-1)
                overlap = in_second & in_first & (has_shape[:, i] & has_shape[:, j])[:, None]
                assert not overlap.any(), (i, j)


def test_hidden_factors_follow_their_probabilities_and_nothing_else(many_scenes):
    resampled = tabletop.resample_hidden(many_scenes, generator(7))
    for scenes in (many_scenes, resampled):
        for f in range(2):
            for cue in range(3):
                labels = scenes.factor[scenes.cue[:, f] == cue, f]
                p = tabletop.FACTOR_PROBABILITIES[f, cue]
                frequency = torch.bincount(labels, minlength=3) / len(labels)
                assert ((frequency - p).abs() < 5 * (p * (1 - p) / len(labels)).sqrt()).all(), (f, cue)
        expected = [tabletop.FACTOR_PROBABILITIES[f][many_scenes.cue[:, f]] for f in range(2)]
        assert torch.equal(scenes.factor_probabilities, torch.stack(expected, 1))
    # the resampled content is independent of the original one, and one factor of the other
    body, decal = many_scenes.factor.unbind(1)
    for a, b in ((body, resampled.factor[:, 0]), (body, decal)):
        rows = many_scenes.cue[:, 0] == 1
        counts = torch.stack([torch.bincount(b[rows & (a == k)], minlength=3) for k in range(3)]).float()
        expected = counts.sum(1, keepdim=True) * counts.sum(0) / counts.sum()
        assert ((counts - expected).square() / expected).sum() < 23.5  # chi-squared, 4 degrees of freedom: p = 1e-4
    assert (tabletop.FACTOR_PROBABILITIES.sum(-1) - 1).abs().max() < 1e-6
    assert (tabletop.FACTOR_PROBABILITIES.diff(dim=-1).abs() > 0.04).all(), "equal probabilities would hide a bias"


def test_the_cue_determines_the_probabilities_of_its_factor(many_scenes):
    for cue, probabilities in enumerate(((0.15, 0.55, 0.3), (0.35, 0.2, 0.45), (0.25, 0.3, 0.45))):
        hidden = many_scenes.factor_probabilities[many_scenes.cue[:, 0] == cue, 0]
        assert len(hidden) and (hidden == torch.tensor(probabilities)).all()


# --- hidden content is hidden -----------------------------------------------------------------------------------------


def test_a_front_view_does_not_depend_on_the_hidden_content():
    """Bit for bit, from the extreme front cameras; and a view from behind depends on it."""
    scenes = tabletop.sample_scenes(60, generator(3))
    filled = replace(scenes, factor=torch.ones_like(scenes.factor))
    for degrees, elevation, distance in ((-15, 20, 2.6), (-15, 32, 3.6), (15, 32, 2.6), (15, 20, 3.6), (15, 32, 3.6)):
        azimuth, distances = scenes.front_azimuth[:, None] + math.radians(degrees), torch.full((60, 1), distance)
        elevations, fov = torch.full((60, 1), math.radians(elevation)), 2 * torch.atan(1 / distances)
        cameras = orbit(azimuth, elevations, distances, fov)
        without_body = tabletop.render(replace(filled, factor=torch.zeros_like(filled.factor)), cameras, 64, 1)
        assert torch.equal(tabletop.render(filled, cameras, 64, 1), without_body), (degrees, elevation, distance)
    behind = tabletop.rotate_about_z(cameras, 180)
    changed = (tabletop.render(filled, behind, 64, 1) - tabletop.render(scenes, behind, 64, 1)).abs().amax(2) > 0.1
    different = (scenes.factor != 1).any(1)
    assert (changed[different].flatten(1).sum(1) > 20).all() and not changed[~different].any()


def test_resampling_keeps_front_views_and_changes_back_views(few_scenes, front_cameras):
    resampled = tabletop.resample_hidden(few_scenes, generator(4))
    cameras = torch.cat([front_cameras, tabletop.rotate_about_z(front_cameras, 180)], 1)
    images, new_images = tabletop.render(few_scenes, cameras), tabletop.render(resampled, cameras)
    assert torch.equal(images[:, 0], new_images[:, 0])
    changed = (images[:, 1] - new_images[:, 1]).abs().flatten(1).amax(1) > 0.1
    same_without_body = (few_scenes.factor == resampled.factor).all(1) & (few_scenes.factor[:, 0] == 0)
    assert (changed | same_without_body).all() and changed.sum() > 8
    for cue in range(2):  # negative control: another cue changes the front view
        new_cue = few_scenes.cue.clone()
        new_cue[:, cue] = (new_cue[:, cue] + 1) % 3
        difference = tabletop.render(replace(few_scenes, cue=new_cue), front_cameras)[:, 0] - images[:, 0]
        assert ((difference.abs().amax(1) > 0.1).flatten(1).sum(1) > 30).all()


def test_front_views_contain_all_solids_but_not_always_the_whole_table(many_scenes):
    cameras = tabletop.sample_front_cameras(many_scenes, generator(5))
    uv, depth = project(cameras, corners(many_scenes).flatten(1, 2)[:, None])
    has_shape = (many_scenes.shape_index >= 0).repeat_interleave(8, 1)
    outside = ((uv[:, 0] < 0) | (uv[:, 0] > 1)).any(-1) & has_shape
    assert depth.min() > 1 and float(outside.any(1).float().mean()) < 0.001
    angle = torch.linspace(0, 2 * math.pi, 64)
    rim = torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)
    uv, _ = project(cameras, rim[None, None])
    cropped = ((uv < 0) | (uv > 1)).flatten(1).any(1).float().mean()
    assert 0.2 < cropped < 0.5


def test_only_the_front_shows_the_screens_band(few_scenes, front_cameras):
    for degrees, low, high in ((0, 15, 200), (180, 0, 0)):
        cameras = tabletop.rotate_about_z(front_cameras, degrees)
        hits = hit_record(tabletop.build_solids(few_scenes), *rays(cameras, pixel_centres(64, 64, cameras)))
        white = (tabletop.albedo(few_scenes, hits) == torch.tensor(tabletop.BAND_COLOUR)).all(-1)
        count = (white & (hits.solid_index == tabletop.SCREEN)).sum((1, 2))
        assert count.min() >= low and count.max() <= high


# --- images -----------------------------------------------------------------------------------------------------------


def test_a_sphere_casts_its_shadow_opposite_the_light():
    r = 0.15
    scenes = scene_with_one_solid("sphere", (r, r, r))
    grey = 0.5 * torch.ones(1, 2, 3).double()
    scenes = replace(scenes, light_direction=double([[0.6, 0.0, 0.8]]), table_colours=grey)
    x = torch.linspace(-0.9, 0.9, 178).double()
    directions = double([0.0, 0.0, -1.0]).expand(1, 1, 178, 3)
    origins = torch.stack([x, 0 * x, 0 * x + 2], -1)[None, None]
    colour, distance = tabletop.render_rays(scenes, origins, directions)
    # on the table, along x, the shadow extends r / 0.8 to both sides of the projection of the centre
    on_table = x.abs() > r + 0.01
    in_shadow = (x + r * 0.6 / 0.8).abs() < r / 0.8
    dark = colour[0, 0, :, 0] < colour[0, 0, -1, 0] - 0.1
    assert torch.equal(dark[on_table], in_shadow[on_table]) and (dark & on_table).any()
    torch.testing.assert_close(distance[0, 0][on_table], torch.full((int(on_table.sum()),), 2.0).double())


def test_the_colour_of_a_point_does_not_depend_on_the_viewing_direction(few_scenes):
    cameras = tabletop.sample_cameras(12, 1, generator(8))
    origins, directions = rays(cameras, pixel_centres(24, 24, cameras))
    colour, distance = tabletop.render_rays(few_scenes, origins, directions)
    hit = distance < torch.inf
    point = origins + torch.where(hit, distance, 0)[..., None] * directions
    eye = rays(tabletop.sample_cameras(12, 1, generator(9)), cameras.new_zeros(1, 2))[0]
    second_colour, distance = tabletop.render_rays(few_scenes, eye, point - eye)  # a direction ends at the point
    visible = hit & ((distance - 1).abs() < 1e-4)
    assert visible.float().mean() > 0.2
    same = ((second_colour - colour).abs().amax(-1) < 1e-3)[visible]
    assert same.float().mean() > 0.995  # all but points on an edge


def test_a_pixel_is_the_mean_of_its_rays(few_scenes):
    scenes, cameras = few_scenes[:3], tabletop.sample_cameras(12, 2, generator(10))[:3]
    rgb = tabletop.render(scenes, cameras, side=16, supersampling=4)
    fine = tabletop.render(scenes, cameras, side=64, supersampling=1)
    torch.testing.assert_close(rgb, torch.nn.functional.avg_pool2d(fine.flatten(0, 1), 4).view(rgb.shape))
    assert rgb.shape == (3, 2, 3, 16, 16)
    fine_distance = render_distance(scenes, cameras, 64).unfold(2, 4, 4).unfold(3, 4, 4)
    background = (fine_distance == torch.inf).all(-1).all(-1)
    assert rgb.abs().max() <= 1 and background.sum() > 100 and (rgb.movedim(2, -1)[background] == 1).all()
    single_rgb = tabletop.render(scenes[2:3], cameras[2:, :1], side=16, supersampling=4)
    torch.testing.assert_close(single_rgb[0, 0], rgb[2, 0])


# --- cameras and batches ----------------------------------------------------------------------------------------------


def camera_positions(cameras):
    return rays(cameras, cameras.new_zeros(1, 2))[0][:, 0, 0]


def test_rotated_cameras_move_around_the_table(front_cameras):
    def rotated(degrees):
        return tabletop.rotate_about_z(front_cameras, degrees)

    x, y, z = camera_positions(front_cameras).unbind(-1)
    torch.testing.assert_close(camera_positions(rotated(90)), torch.stack([-y, x, z], -1))
    torch.testing.assert_close(camera_positions(rotated(180)), torch.stack([-x, -y, z], -1))
    torch.testing.assert_close(tabletop.rotate_about_z(rotated(120), -120), front_cameras)


def test_cameras_have_the_stated_elevations_and_azimuths(many_scenes):
    for cameras, low, high, max_offset in (
        (tabletop.sample_cameras(6000, 1, generator()), 20, 32, 180),
        (tabletop.sample_front_cameras(many_scenes, generator()), 20, 32, 10),
    ):
        x, y, z = camera_positions(cameras).unbind(-1)
        elevation = torch.rad2deg(torch.atan2(z, torch.hypot(x, y)))
        assert low - 0.01 < elevation.min() < low + 0.2 and high - 0.2 < elevation.max() < high + 0.01
        offset = (torch.atan2(y, x) - many_scenes.front_azimuth + math.pi) % (2 * math.pi) - math.pi
        assert max_offset - 1 < torch.rad2deg(offset).abs().max() < max_offset + 0.01


def test_batches_hold_contexts_a_target_and_a_novel_view():
    make_batch = tabletop.batches(6, max_contexts=3, num_pixels=10, side=16, supersampling=1)
    batch = make_batch(generator())
    context = batch["context"]
    assert context.value.shape == (6, 3, 3, 16, 16) and context.params.shape == (6, 3, 4, 4)
    count = context.mask.sum(1)
    assert context.mask[:, 0].all() and count.min() >= 1 and count.unique().numel() > 1
    assert (context.value[~context.mask] == 0).all()
    for view, pixel_indices in (
        (batch["target"], batch["pixel_indices"]),
        (batch["novel"], batch["novel_pixel_indices"]),
    ):
        assert view.value.shape == (6, 1, 3, 16, 16) and view.mask.all()
        assert pixel_indices.shape == (6, 1, 10) and pixel_indices.min() >= 0 and pixel_indices.max() < 256
        uv = pixel_centres(16, 16, view.params)[pixel_indices]
        scenes = tabletop.sample_scenes(6, RowRandom(draw_key(generator()), range(6)))
        colour, _ = tabletop.render_rays(scenes, *rays(view.params, uv))
        torch.testing.assert_close(gather_pixels(view.value, pixel_indices), colour.movedim(-1, 2))
        near, far = intersect_aabb(*rays(view.params, uv), *view.params.new_tensor([tabletop.LOW, tabletop.HIGH]))
        assert (near < far).all(), "a ray that misses the scene's box always shows background"
    again = make_batch(generator())
    assert torch.equal(again["target"].value, batch["target"].value)
    assert torch.equal(again["pixel_indices"], batch["pixel_indices"])
    assert set(tabletop.batches(2, side=4)(generator())) == {"context", "target", "novel"}


def test_rows_of_a_batch_do_not_depend_on_the_other_rows():
    make_batch = tabletop.batches(5, max_contexts=2, num_pixels=10, side=8, context_dropout=0.3)
    full_generator, full_batch = generator(), None
    for _ in range(2):  # two batches in a row: the generator ends in one state, whichever rows are drawn
        part_generators = [generator(), generator()]
        for part in part_generators:
            part.set_state(full_generator.get_state())
        previous, full_batch = full_batch, make_batch(full_generator)
        parts = [
            make_batch.draw_rows(g, rows) for g, rows in zip(part_generators, (slice(2), slice(2, 5)), strict=True)
        ]
        assert all(torch.equal(part.get_state(), full_generator.get_state()) for part in part_generators)
        for name in ("context", "target", "novel"):
            for key in ("value", "params", "mask"):
                joined = torch.cat([getattr(part[name], key) for part in parts])
                torch.testing.assert_close(joined, getattr(full_batch[name], key))
        for name in ("pixel_indices", "novel_pixel_indices"):
            assert torch.equal(torch.cat([part[name] for part in parts]), full_batch[name])
    assert not torch.equal(previous["target"].params, full_batch["target"].params)
    assert not torch.equal(full_batch["target"].params[:2], full_batch["target"].params[2:4]), "no two rows are alike"


def test_context_dropout_masks_the_whole_context_of_a_fraction_of_the_scenes():
    def has_context(context_dropout):
        make_batch = tabletop.batches(400, max_contexts=2, side=1, supersampling=1, context_dropout=context_dropout)
        return make_batch(generator())["context"].mask.any(1).float()

    assert has_context(0.0).all() and not has_context(1.0).any()
    assert has_context(0.25).mean() == pytest.approx(0.75, abs=0.06)


def test_bad_input_is_refused_in_one_line(few_scenes, front_cameras):
    render, batches = tabletop.render, tabletop.batches
    for call, message in (
        (lambda: render(few_scenes, front_cameras[:, :, :3]), "a camera is one 4 x 4 matrix"),
        (
            lambda: render(few_scenes, front_cameras[:3]),
            r"cameras \(3, 1, 4, 4\) do not match 12 scenes: give \(B, M, 4, 4\)",
        ),
        (
            lambda: render(few_scenes, front_cameras[:, 0]),
            r"cameras \(12, 4, 4\) do not match 12 scenes",
        ),
        (
            lambda: render(few_scenes, front_cameras, side=0),
            "got side = 0, wanted a whole number of at least 1",
        ),
        (lambda: render(few_scenes, front_cameras, supersampling=0), "got supersampling = 0"),
        (lambda: batches(4, max_contexts=0), "got max_contexts = 0"),
        (lambda: batches(4, context_dropout=1.5), "context_dropout is a fraction of the scenes, from 0 to 1, got 1.5"),
        (lambda: batches(4, num_pixels=5000), "1 to 4096 pixels"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
