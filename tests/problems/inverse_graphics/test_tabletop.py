"""Tabletop scenes occlude their hidden content, it follows the stated probabilities, and rays hit what geometry says."""

import math
from dataclasses import fields, replace

import pytest
import torch

from fwdiff_lite.observations import gather_pixels
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.cameras import look_at, orbit, pixel_centres, project, rays
from fwdiff_lite.problems.inverse_graphics.volume import intersect_aabb


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def many_scenes():
    return tabletop.draw_scenes(6000, generator())


@pytest.fixture(scope="module")
def few_scenes():
    return tabletop.draw_scenes(12, generator(1))


@pytest.fixture(scope="module")
def front_cameras(few_scenes):
    return tabletop.draw_front_cameras(few_scenes, generator(2))


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def scene_with_one_solid(shape, half_extents, position=(0.0, 0.0), azimuth=0.0):
    """A table with one white solid on it, in float64."""
    scenes = tabletop.draw_scenes(1, generator())
    values = (getattr(scenes, name) for name in FIELD_NAMES)
    scenes = tabletop.Scenes(*(x.double() if x.is_floating_point() else x for x in values))
    i = tabletop.DISTRACTORS[0]
    new = {name: getattr(scenes, name).clone() for name in ("shape_index", "position", "half_extents", "azimuth")}
    new["shape_index"][:] = -1
    new["shape_index"][:, i], new["azimuth"][:, i] = tabletop.SHAPES.index(shape), azimuth
    new["position"][:, i], new["half_extents"][:, i] = double(position), double(half_extents)
    return replace(scenes, distractor_colours=torch.ones(1, 2, 3, dtype=torch.float64), **new)


FIELD_NAMES = [field.name for field in fields(tabletop.Scenes)]


def camera(eye, target, fov=0.6, up=(0.0, 0.0, 1.0)):
    return look_at(double(eye), double(target), fov, up)[None, None]


def corners(scenes):
    """The 8 corners of a box around each of the five solids: (B, 5, 8, 3)."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    x, y, z = (signs * scenes.half_extents[:, :, None]).unbind(-1)
    cos, sin = scenes.azimuth.cos()[..., None], scenes.azimuth.sin()[..., None]
    flat = torch.stack([cos * x - sin * y, sin * x + cos * y], -1) + scenes.position[:, :, None]
    return torch.cat([flat, (z + scenes.half_extents[..., 2, None])[..., None]], -1)


# --- scenes -----------------------------------------------------------------------------------------------------------


def test_scenes_are_drawn_on_the_cpu_and_the_same_for_the_same_seed(few_scenes):
    again = tabletop.draw_scenes(12, generator(1))
    for name in FIELD_NAMES:
        assert torch.equal(getattr(again, name), getattr(few_scenes, name)) and getattr(few_scenes, name).device.type == "cpu"
    assert len(few_scenes) == 12 and len(few_scenes[:5]) == 5 and len(few_scenes.repeat(3)) == 36
    assert torch.equal(few_scenes.repeat(3)[2::3].light_direction, few_scenes.light)
    assert few_scenes.to("meta").front_azimuth.device.type == "meta"


def test_all_solids_stand_on_the_table_and_inside_the_bounds(many_scenes):
    there = many_scenes.shape_index >= 0
    assert there[:, :4].all() and abs(float(there[:, 4].float().mean()) - 0.5) < 0.03
    at = corners(many_scenes)[there]
    assert at[..., :2].norm(dim=-1).max() < 1
    assert (at > torch.tensor(tabletop.LOW)).all() and (at < torch.tensor(tabletop.HIGH)).all()
    for kind in range(3):
        assert abs(float((many_scenes.shape_index[:, tabletop.HIDDEN] == kind).float().mean()) - 1 / 3) < 0.03


def test_no_two_solids_overlap(many_scenes):
    scenes = many_scenes[:1500]
    solids, there = tabletop.build_solids(scenes), scenes.shape_index >= 0
    # points of each solid, in its own units: of a box those on a grid, of a round one those of the grid inside of it
    points = torch.cartesian_prod(*[torch.linspace(-1, 1, 7)] * 2, torch.tensor([-0.9, 0.0, 0.9]))
    for i in range(5):
        x, y, z = (points * scenes.half_extents[:, i, None]).unbind(-1)
        cos, sin = scenes.azimuth[:, i, None].cos(), scenes.azimuth[:, i, None].sin()
        world = torch.stack([cos * x - sin * y, sin * x + cos * y, z], -1) + solids.centre[:, i, None]
        mine = (scenes.shape_index[:, i, None] == 0) | (points[:, :2].norm(dim=-1) < 1)
        for j in range(5):
            if i != j:
                inside = tabletop.Solids(*(v[:, j, None] for v in solids)).to_local(world - solids.centre[:, j, None]).abs() < 1
                both = inside.all(-1) & mine & (there[:, i] & there[:, j])[:, None]
                assert not both.any(), (i, j)


def test_hidden_factors_follow_the_odds_and_nothing_else(many_scenes):
    redrawn = tabletop.resample_hidden(many_scenes, generator(7))
    for scenes in (many_scenes, redrawn):
        for f in range(2):
            for cue in range(3):
                found = scenes.factor[scenes.cue[:, f] == cue, f]
                odds = tabletop.FACTOR_PROBABILITIES[f, cue]
                share = torch.bincount(found, minlength=3) / len(found)
                assert ((share - odds).abs() < 5 * (odds * (1 - odds) / len(found)).sqrt()).all(), (f, cue)
        assert torch.equal(scenes.factor_probabilities, torch.stack([tabletop.FACTOR_PROBABILITIES[f][many_scenes.cue[:, f]] for f in range(2)], 1))
    # what is drawn anew does not depend on what was there, nor one factor on the other
    for a, b in ((many_scenes.factor[:, 0], redrawn.factor[:, 0]), (many_scenes.factor[:, 0], many_scenes.factor[:, 1])):
        rows = many_scenes.cue[:, 0] == 1
        first = torch.stack([torch.bincount(b[rows & (a == k)], minlength=3) for k in range(3)]).float()
        expected = first.sum(1, keepdim=True) * first.sum(0) / first.sum()
        assert ((first - expected).square() / expected).sum() < 23.5  # chi-squared, 4 degrees of freedom: p = 1e-4
    assert (tabletop.FACTOR_PROBABILITIES.sum(-1) - 1).abs().max() < 1e-6
    assert (tabletop.FACTOR_PROBABILITIES.diff(dim=-1).abs() > 0.04).all(), "fair coins alone would hide a bias"


def test_entropy_is_that_of_the_odds(many_scenes):
    def entropy(*odds):
        return -sum(p * math.log(p) for p in odds)

    found = tabletop.entropy(many_scenes)
    torch.testing.assert_close(found[:, 1], torch.full((len(many_scenes),), entropy(0.5, 0.3, 0.2)))
    for cue, odds in enumerate(((0.15, 0.55, 0.3), (0.35, 0.2, 0.45), (0.25, 0.3, 0.45))):
        hidden = found[many_scenes.cue[:, 0] == cue, 0]
        torch.testing.assert_close(hidden, torch.full_like(hidden, entropy(*odds)))


# --- what is hidden is hidden -----------------------------------------------------------------------------------------


def test_the_front_does_not_tell_what_it_hides():
    """To the bit, from the edges of where front cameras stand; and what is hidden shows from behind."""
    scenes = tabletop.draw_scenes(60, generator(3))
    full = replace(scenes, factor=torch.ones_like(scenes.factor))
    for side, height, distance in ((-15, 20, 2.6), (-15, 32, 3.6), (15, 32, 2.6), (15, 20, 3.6), (15, 32, 3.6)):
        azimuth, far = scenes.front_azimuth[:, None] + math.radians(side), torch.full((60, 1), distance)
        cameras = orbit(azimuth, torch.full((60, 1), math.radians(height)), far, 2 * torch.atan(1 / far))
        bare = tabletop.render(replace(full, factor=torch.zeros_like(full.factor)), cameras, 64, 1)
        assert torch.equal(tabletop.render(full, cameras, 64, 1), bare), (side, height, distance)
    behind = tabletop.rotate_about_z(cameras, 180)
    changed = (tabletop.render(full, behind, 64, 1) - tabletop.render(scenes, behind, 64, 1)).abs().amax(2) > 0.1
    different = (scenes.factor != 1).any(1)
    assert (changed[different].flatten(1).sum(1) > 20).all() and not changed[~different].any()


def test_redrawing_keeps_front_views_and_changes_back_views(few_scenes, front_cameras):
    redrawn = tabletop.resample_hidden(few_scenes, generator(4))
    views = torch.cat([front_cameras, tabletop.rotate_about_z(front_cameras, 180)], 1)
    before, after = tabletop.render(few_scenes, views), tabletop.render(redrawn, views)
    assert torch.equal(before[:, 0], after[:, 0])
    moved = (before[:, 1] - after[:, 1]).abs().flatten(1).amax(1) > 0.1
    assert (moved | ((few_scenes.factor == redrawn.factor).all(1) & (few_scenes.factor[:, 0] == 0))).all() and moved.sum() > 8
    for cue in range(2):  # the control: another cue shows in the front
        other = few_scenes.cue.clone()
        other[:, cue] = (other[:, cue] + 1) % 3
        seen = tabletop.render(replace(few_scenes, cue=other), front_cameras)[:, 0] - before[:, 0]
        assert ((seen.abs().amax(1) > 0.1).flatten(1).sum(1) > 30).all()


def test_front_views_show_all_that_stands_on_the_table_but_not_always_all_of_it(many_scenes):
    cameras = tabletop.draw_front_cameras(many_scenes, generator(5))
    uv, depth = project(cameras, corners(many_scenes).flatten(1, 2)[:, None])
    there = (many_scenes.shape_index >= 0).repeat_interleave(8, 1)
    outside = ((uv[:, 0] < 0) | (uv[:, 0] > 1)).any(-1) & there
    assert depth.min() > 1 and float(outside.any(1).float().mean()) < 0.001
    angle = torch.linspace(0, 2 * math.pi, 64)
    rim = torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)
    uv, _ = project(cameras, rim[None, None])
    cut = ((uv < 0) | (uv > 1)).flatten(1).any(1).float().mean()
    assert 0.2 < cut < 0.5


def test_only_the_front_shows_the_screens_band(few_scenes, front_cameras):
    for way, least, most in ((0, 15, 200), (180, 0, 0)):
        cameras = tabletop.rotate_about_z(front_cameras, way)
        seen = tabletop.hit_record(tabletop.build_solids(few_scenes), *rays(cameras, pixel_centres(64, 64, cameras)))
        band = (tabletop.albedo(few_scenes, seen) == torch.tensor(tabletop.BAND_COLOUR)).all(-1) & (seen.solid_index == tabletop.SCREEN)
        count = band.sum((1, 2))
        assert count.min() >= least and count.max() <= most


def test_unseen_is_what_the_context_does_not_see(few_scenes, front_cameras):
    views = torch.cat([front_cameras, tabletop.rotate_about_z(front_cameras, 60), tabletop.rotate_about_z(front_cameras, 180)], 1)
    hit = tabletop.render_depth(few_scenes, views) < torch.inf
    unseen = tabletop.disocclusion_mask(few_scenes, front_cameras, views)
    assert not (unseen & ~hit).any()
    share = unseen.sum((2, 3)) / hit.sum((2, 3))
    assert share[:, 0].max() < 0.005 and share[:, 2].min() > 0.3 and (share[:, 1] < share[:, 2]).all()
    # a second camera where the target is sees it all, unless it is not there
    both = torch.cat([front_cameras, views[:, 2:]], 1)
    assert tabletop.disocclusion_mask(few_scenes, both, views[:, 2:]).float().mean() < 0.005
    there = torch.tensor([[True, False]]).expand(12, 2)
    assert torch.equal(tabletop.disocclusion_mask(few_scenes, both, views, mask=there), unseen)
    # what a hidden factor changes is unseen, from behind and from the side
    for way in (120, 180):
        camera = tabletop.rotate_about_z(front_cameras, way)
        for factor in (0, 1):
            pictures = []
            for label in (1, 2):
                labels = few_scenes.factor.clone()
                labels[:, factor] = label
                pictures.append(tabletop.render(replace(few_scenes, factor=labels), camera, 64, 1))
                hidden = tabletop.disocclusion_mask(replace(few_scenes, factor=labels), front_cameras, camera)[:, 0]
            changed = (pictures[0] - pictures[1]).abs().amax((1, 2)) > 0.05
            assert changed.any() and hidden[changed].all(), (way, factor)


def test_unseen_counts_what_a_narrow_context_leaves_out():
    scenes = scene_with_one_solid("sphere", (0.1, 0.1, 0.1), position=(0.0, 0.0))
    above = camera((0.0, 0.0, 3.0), (0.0, 0.0, 0.0), 0.2, up=(0.0, 1.0, 0.0))  # sees 0.3 either way at the table
    wide = camera((0.0, 0.0, 3.0), (0.0, 0.0, 0.0), 0.8, up=(0.0, 1.0, 0.0))
    start, away = rays(wide, pixel_centres(64, 64, wide))
    at = (start - away * (start[..., 2:] / away[..., 2:]))[0, 0].view(64, 64, 3)  # of each pixel, on the table
    outside = (at[..., :2].abs() > 3 * math.tan(0.1)).any(-1)
    expected = outside & (at[..., :2].norm(dim=-1) < 1)
    assert torch.equal(tabletop.disocclusion_mask(scenes, above, wide)[0, 0], expected)


@pytest.mark.parametrize("factor", list(tabletop.FACTORS))
def test_factors_are_read_rightly_from_true_pictures(few_scenes, front_cameras, factor):
    scenes, behind, k = few_scenes[:9], tabletop.rotate_about_z(front_cameras[:9], 180), 20  # more guesses than are rendered at once
    redrawn = tabletop.resample_hidden(scenes.repeat(k), generator(6))
    pictures = tabletop.render(redrawn, behind.repeat_interleave(k, 0), antialias=1).view(9, k, 3, 64, 64)
    guesses, mask = tabletop.render_factor_templates(scenes, behind, factor, antialias=1)
    true = redrawn.factor[:, list(tabletop.FACTORS).index(factor)].view(9, k)
    counts = confusion_matrix(tabletop.classify_nearest_template(pictures, guesses, mask).flatten(), true.flatten(), 3)
    assert counts.diagonal().sum() >= 0.99 * counts.sum() and (counts.sum(1) > 0).all()
    assert (mask.flatten(1).sum(1) > 30).all() and mask.float().mean() < 0.15
    unread = tabletop.classify_nearest_template(pictures.roll(1, 1), guesses, mask)  # the control: the next picture's factor
    assert (unread == true).float().mean() < 0.7
    blind, nothing = tabletop.render_factor_templates(scenes, front_cameras[:9], factor, places=2, antialias=1)
    assert not nothing.any(), "the front shows nothing of it"


# --- rays -------------------------------------------------------------------------------------------------------------


def test_depths_above_a_ball_and_the_table():
    """The ball's by the quadratic formula, at pixels on both sides of its outline."""
    r, eye = 0.2, double([0.1, -0.2, 3.0])
    scenes = scene_with_one_solid("sphere", (r, r, r), position=(0.1, -0.2))
    above = camera((0.1, -0.2, 3.0), (0.1, -0.2, 0.0), 0.3, up=(0.0, 1.0, 0.0))
    depth = tabletop.render_depth(scenes, above, 33)[0, 0]
    torch.testing.assert_close(depth[16, 16], eye[2] - 2 * r, rtol=0, atol=1e-12)
    away = rays(above, pixel_centres(33, 33, above))[1][0, 0]
    from_centre = eye - double([0.1, -0.2, r])
    b = away @ from_centre
    inside = b.square() - (from_centre @ from_centre - r * r)
    expected = torch.where(inside > 0, -b - inside.clamp(min=0).sqrt(), -eye[2] / away[:, 2])
    assert (inside > 0).any() and (inside < 0).any()
    torch.testing.assert_close(depth.flatten(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "kind, turn, expected",
    [
        ("box", 0.0, 3 - 0.1),
        ("box", math.pi / 2, 3 - 0.3),
        ("box", math.pi / 4, 3 - 0.1 * math.sqrt(2)),  # a face that runs away at 45 degrees
        ("cylinder", 0.4, 3 - 0.1),
    ],
)
def test_depth_from_the_side(kind, turn, expected):
    scenes = scene_with_one_solid(kind, (0.1, 0.3 if kind == "box" else 0.1, 0.25), turn=turn)
    depth = tabletop.render_depth(scenes, camera((3.0, 0.0, 0.2), (0.0, 0.0, 0.2)), 33)[0, 0]
    torch.testing.assert_close(depth[16, 16], double(expected), rtol=0, atol=1e-9)
    assert depth[0, 0] == torch.inf


@pytest.mark.parametrize("kind", tabletop.SHAPES)
def test_a_ray_that_starts_inside_a_solid_meets_it_at_once(kind):
    """Else a point in the seam of screen and table, inside by a rounding error, would see through the screen."""
    start = double([[[[0.1, 0.0, 0.2]], [[0.31, 0.0, 0.2]]]])  # inside, and just outside on the way out
    depth, which = tabletop.closest_hit(tabletop.build_solids(scene_with_one_solid(kind, (0.3, 0.3, 0.3))), start, double([[[[1.0, 0.2, 0.3]]]]))
    assert depth.flatten().tolist() == [0.0, math.inf] and which[0, 0, 0] == tabletop.DISTRACTORS[0]


def test_depth_of_tops_and_of_the_tables_rim():
    for kind in ("box", "cylinder"):
        above = camera((0.0, 0.0, 2.0), (0.0, 0.0, 0.0), up=(0.0, 1.0, 0.0))
        depth = tabletop.render_depth(scene_with_one_solid(kind, (0.1, 0.1, 0.25)), above, 33)[0, 0]
        torch.testing.assert_close(depth[16, 16], double(1.5), rtol=0, atol=1e-9)
    rim = tabletop.LOW[2] / 2
    depth = tabletop.render_depth(scene_with_one_solid("box", (0.1, 0.1, 0.2)), camera((3.0, 0.0, rim), (0.0, 0.0, rim)), 33)[0, 0]
    torch.testing.assert_close(depth[16, 16], double(2.0), rtol=0, atol=1e-9)


def test_a_ball_throws_its_shadow_where_the_light_sends_it():
    r = 0.15
    scenes = scene_with_one_solid("sphere", (r, r, r))
    scenes = replace(scenes, light=double([[0.6, 0.0, 0.8]]), tones=0.5 * torch.ones(1, 2, 3).double())
    x = torch.linspace(-0.9, 0.9, 178).double()
    down = double([0.0, 0.0, -1.0]).expand(1, 1, 178, 3)
    start = torch.stack([x, 0 * x, 0 * x + 2], -1)[None, None]
    colour, depth = tabletop.render_rays(scenes, start, down)
    # on the table, along x, the shadow reaches r / 0.8 either way from where the centre's ray of light ends
    beside = x.abs() > r + 0.01
    shadow = (x + r * 0.6 / 0.8).abs() < r / 0.8
    dark = colour[0, 0, :, 0] < colour[0, 0, -1, 0] - 0.1
    assert torch.equal(dark[beside], shadow[beside]) and (dark & beside).any()
    torch.testing.assert_close(depth[0, 0][beside], torch.full((int(beside.sum()),), 2.0).double())


def test_a_point_has_one_colour_from_wherever_it_is_seen(few_scenes):
    cameras = tabletop.draw_cameras(12, 1, generator(8))
    start, away = rays(cameras, pixel_centres(24, 24, cameras))
    colour, depth = tabletop.render_rays(few_scenes, start, away)
    hit = depth < torch.inf
    point = start + torch.where(hit, depth, 0)[..., None] * away
    eye = rays(tabletop.draw_cameras(12, 1, generator(9)), cameras.new_zeros(1, 2))[0]
    again, distance = tabletop.render_rays(few_scenes, eye, point - eye)  # away ends at the point
    seen = hit & ((distance - 1).abs() < 1e-4)
    assert seen.float().mean() > 0.2
    same = ((again - colour).abs().amax(-1) < 1e-3)[seen]
    assert same.float().mean() > 0.995  # but for points on an edge


def test_a_pixel_is_the_mean_of_its_rays(few_scenes):
    cameras = tabletop.draw_cameras(12, 2, generator(10))[:3]
    rgb, depth = tabletop.render_rgbd(few_scenes[:3], cameras, side=16, antialias=4)
    fine = tabletop.render(few_scenes[:3], cameras, side=64, antialias=1)
    torch.testing.assert_close(rgb, torch.nn.functional.avg_pool2d(fine.flatten(0, 1), 4).view(rgb.shape))
    assert rgb.shape == (3, 2, 3, 16, 16) and depth.shape == (3, 2, 16, 16)
    empty = (tabletop.render_depth(few_scenes[:3], cameras, 64).unfold(2, 4, 4).unfold(3, 4, 4) == torch.inf).all(-1).all(-1)
    assert rgb.abs().max() <= 1 and empty.sum() > 100 and (rgb.movedim(2, -1)[empty] == 1).all()
    alone = tabletop.render_rgbd(few_scenes[2:3], cameras[2:, :1], side=16, antialias=4)
    torch.testing.assert_close(alone[0][0, 0], rgb[2, 0])


# --- cameras and batches ----------------------------------------------------------------------------------------------


def test_turned_cameras_move_around_the_table(front_cameras):
    def eye(cameras):
        return rays(cameras, cameras.new_zeros(1, 2))[0][:, 0, 0]

    x, y, z = eye(front_cameras).unbind(-1)
    torch.testing.assert_close(eye(tabletop.rotate_about_z(front_cameras, 90)), torch.stack([-y, x, z], -1))
    torch.testing.assert_close(eye(tabletop.rotate_about_z(front_cameras, 180)), torch.stack([-x, -y, z], -1))
    torch.testing.assert_close(tabletop.rotate_about_z(tabletop.rotate_about_z(front_cameras, 120), -120), front_cameras)


def test_cameras_stand_where_they_should(many_scenes):
    for cameras, low, high, aside in (
        (tabletop.draw_cameras(6000, 1, generator()), 20, 32, 180),
        (tabletop.draw_front_cameras(many_scenes, generator()), 20, 32, 10),
    ):
        x, y, z = rays(cameras, cameras.new_zeros(1, 2))[0][:, 0, 0].unbind(-1)
        height = torch.rad2deg(torch.atan2(z, torch.hypot(x, y)))
        assert low - 0.01 < height.min() < low + 0.2 and high - 0.2 < height.max() < high + 0.01
        off = torch.rad2deg((torch.atan2(y, x) - many_scenes.front_azimuth + math.pi) % (2 * math.pi) - math.pi).abs()
        assert aside - 1 < off.max() < aside + 0.01


def test_batches_hold_contexts_a_target_and_a_novel_view():
    draw = tabletop.batches(6, contexts=3, pixels=10, side=16, antialias=1)
    batch = draw(generator())
    assert batch["context"].value.shape == (6, 3, 3, 16, 16) and batch["context"].params.shape == (6, 3, 4, 4)
    count = batch["context"].mask.sum(1)
    assert batch["context"].mask[:, 0].all() and count.min() >= 1 and count.unique().numel() > 1
    assert (batch["context"].value[~batch["context"].mask] == 0).all()
    for name, at in (("target", "pixel_indices"), ("novel", "novel_pixel_indices")):
        assert batch[name].value.shape == (6, 1, 3, 16, 16) and batch[name].mask.all()
        assert batch[at].shape == (6, 1, 10) and batch[at].min() >= 0 and batch[at].max() < 256
        # the pixels numbered are those whose rays `at` means
        cameras = batch[name].params
        uv = pixel_centres(16, 16, cameras)[batch[at]]
        colour, _ = tabletop.render_rays(tabletop.draw_scenes(6, generator()), *rays(cameras, uv))
        torch.testing.assert_close(gather_pixels(batch[name].value, batch[at]), colour.movedim(-1, 2))
        near, far = intersect_aabb(*rays(cameras, uv), *cameras.new_tensor([tabletop.LOW, tabletop.HIGH]))
        assert (near < far).all(), "a ray that misses the scene's box teaches nothing"
    again = draw(generator())
    assert torch.equal(again["target"].value, batch["target"].value) and torch.equal(again["pixel_indices"], batch["pixel_indices"])
    assert set(tabletop.batches(2, side=4)(generator())) == {"context", "target", "novel"}


def test_a_share_of_the_contexts_is_dropped_whole():
    def there(empty):
        return tabletop.batches(400, contexts=2, side=1, antialias=1, empty=empty)(generator())["context"].mask.any(1).float()

    assert there(0.0).all() and not there(1.0).any()
    assert there(0.25).mean() == pytest.approx(0.75, abs=0.06)


def test_bad_input_is_refused_in_one_line(few_scenes, front_cameras):
    for call, message in (
        (lambda: tabletop.render(few_scenes, front_cameras[:, :, :3]), "a camera is one 4 x 4 matrix"),
        (lambda: tabletop.render(few_scenes, front_cameras[:3]), r"cameras \(3, 1, 4, 4\) are not for 12 scenes: give \(B, M, 4, 4\)"),
        (lambda: tabletop.render_depth(few_scenes, front_cameras[:, 0]), r"cameras \(12, 4, 4\) are not for 12 scenes"),
        (lambda: tabletop.disocclusion_mask(few_scenes, front_cameras, front_cameras[:3]), "are not for 12 scenes"),
        (lambda: tabletop.render(few_scenes, front_cameras, side=0), "at least one pixel a side and one ray a pixel, got 0 and 2"),
        (lambda: tabletop.render(few_scenes, front_cameras, antialias=0), "got 64 and 0"),
        (lambda: tabletop.render_factor_templates(few_scenes, front_cameras, "colour"), "unknown factor 'colour': choose one of hidden, decal"),
        (lambda: tabletop.batches(4, contexts=0), "at least one scene, one context"),
        (lambda: tabletop.batches(4, context_dropout=1.5), "context_dropout is a share of the scenes, from 0 to 1, got 1.5"),
        (lambda: tabletop.batches(4, pixels=5000), "1 to 4096 pixels"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
