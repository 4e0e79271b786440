"""The mask of what a context does not show, and the classification of hidden factors by templates."""

import math
from dataclasses import replace

import pytest
import torch
from tabletop_helpers import camera, generator, render_distance, scene_with_one_solid

from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.cameras import pixel_centres, rays
from fwdiff_lite.problems.inverse_graphics.disocclusion import (
    classify_nearest_template,
    disocclusion_mask,
    render_factor_templates,
)


def test_the_disocclusion_mask_holds_the_pixels_that_the_context_does_not_see(few_scenes, front_cameras):
    side_cameras, back_cameras = (tabletop.rotate_about_z(front_cameras, degrees) for degrees in (60, 180))
    targets = torch.cat([front_cameras, side_cameras, back_cameras], 1)
    hit = render_distance(few_scenes, targets) < torch.inf
    mask = disocclusion_mask(few_scenes, front_cameras, targets)
    assert not (mask & ~hit).any()
    fraction = mask.sum((2, 3)) / hit.sum((2, 3))
    assert fraction[:, 0].max() < 0.005 and fraction[:, 2].min() > 0.3 and (fraction[:, 1] < fraction[:, 2]).all()
    # a second context camera at the target sees every pixel of it, unless it is masked out
    contexts = torch.cat([front_cameras, back_cameras], 1)
    assert disocclusion_mask(few_scenes, contexts, back_cameras).float().mean() < 0.005
    context_mask = torch.tensor([[True, False]]).expand(12, 2)
    assert torch.equal(disocclusion_mask(few_scenes, contexts, targets, context_mask=context_mask), mask)
    # a hidden factor changes only pixels of the mask, from behind and from the side
    for degrees in (120, 180):
        cameras = tabletop.rotate_about_z(front_cameras, degrees)
        for factor in (0, 1):
            images = []
            for label in (1, 2):
                labels = few_scenes.factor.clone()
                labels[:, factor] = label
                images.append(tabletop.render(replace(few_scenes, factor=labels), cameras, 64, 1))
                mask = disocclusion_mask(replace(few_scenes, factor=labels), front_cameras, cameras)[:, 0]
            changed = (images[0] - images[1]).abs().amax((1, 2)) > 0.05
            assert changed.any() and mask[changed].all(), (degrees, factor)


def test_the_disocclusion_mask_includes_points_outside_of_a_narrow_context():
    scenes = scene_with_one_solid("sphere", (0.1, 0.1, 0.1))
    context = camera((0.0, 0.0, 3.0), (0.0, 0.0, 0.0), 0.2, up=(0.0, 1.0, 0.0))  # sees |x|, |y| < 0.3 on the table
    target = camera((0.0, 0.0, 3.0), (0.0, 0.0, 0.0), 0.8, up=(0.0, 1.0, 0.0))
    origins, directions = rays(target, pixel_centres(64, 64, target))
    table_points = (origins - directions * (origins[..., 2:] / directions[..., 2:]))[0, 0].view(64, 64, 3)
    outside = (table_points[..., :2].abs() > 3 * math.tan(0.1)).any(-1)
    expected = outside & (table_points[..., :2].norm(dim=-1) < 1)
    assert torch.equal(disocclusion_mask(scenes, context, target)[0, 0], expected)


@pytest.mark.parametrize("factor", list(tabletop.FACTORS))
def test_the_nearest_template_of_a_true_image_has_the_right_category(few_scenes, front_cameras, factor):
    scenes, front_cameras = few_scenes[:9], front_cameras[:9]
    back_cameras, k = tabletop.rotate_about_z(front_cameras, 180), 20
    resampled = tabletop.resample_hidden(scenes.repeat(k), generator(6))
    images = tabletop.render(resampled, back_cameras.repeat_interleave(k, 0), supersampling=1).view(9, k, 3, 64, 64)
    templates, mask = render_factor_templates(scenes, back_cameras, factor, supersampling=1)  # in two chunks
    true_labels = resampled.factor[:, list(tabletop.FACTORS).index(factor)].view(9, k)
    labels = classify_nearest_template(images, templates, mask)
    assert (labels == true_labels).float().mean() >= 0.99 and len(labels.unique()) == 3
    assert (mask.flatten(1).sum(1) > 30).all() and mask.float().mean() < 0.15
    wrong_labels = classify_nearest_template(images.roll(1, 1), templates, mask)  # control: the next image
    assert (wrong_labels == true_labels).float().mean() < 0.7
    _, front_mask = render_factor_templates(scenes, front_cameras, factor, num_draws=2, supersampling=1)
    assert not front_mask.any(), "no pixel of a front view depends on the factor"


def test_bad_input_is_refused_in_one_line(few_scenes, front_cameras):
    for call, message in (
        (lambda: disocclusion_mask(few_scenes, front_cameras, front_cameras[:3]), "do not match 12 scenes"),
        (
            lambda: render_factor_templates(few_scenes, front_cameras, "colour"),
            "unknown factor 'colour': choose one of hidden, decal",
        ),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
