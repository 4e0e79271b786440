"""A fitted scene rebuilds held-out views, and better with the right focal length than with a wrong one."""

from dataclasses import replace

import pytest
import torch

from fwdiff_lite.datasets.clip_folder import read_folder
from fwdiff_lite.datasets.pose_check import match_frames
from fwdiff_lite.datasets.scene_depth import MatchedPoints, matched_points
from fwdiff_lite.metrics import psnr
from fwdiff_lite.problems.inverse_graphics.scene_fit import (
    GridField,
    SceneFit,
    fit_scene,
    focal_length_text,
    load_scene,
)
from fwdiff_lite.problems.inverse_graphics.synthetic_realestate10k import write_clips


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 1, 36)
    (clip,), _ = read_folder(folder, (8, 16), check_poses=False)
    return clip


@pytest.fixture(scope="module")
def points(clip):
    return matched_points(clip, match_frames(clip))


def test_held_out_views_prefer_the_right_focal_length(clip, points):
    wrong = clip.intrinsics.clone()
    wrong[:, [0, 1], [0, 1]] *= 1.5
    right_fit, wrong_fit = (fit_scene(c, points, 60, 24) for c in (clip, replace(clip, intrinsics=wrong)))
    mean_colour = right_fit.truth.mean((0, 2, 3), keepdim=True).expand_as(right_fit.truth)
    assert right_fit.psnr_held_out > psnr(mean_colour, right_fit.truth, 2) + 3
    assert right_fit.psnr_held_out > wrong_fit.psnr_held_out + 0.2
    assert right_fit.predicted.shape == right_fit.truth.shape == (9, 3, 24, 24)


def test_the_result_names_a_focal_length_that_is_clearly_better(clip):
    def text(*psnr, fitted_psnr=(30.0, 29.0, 31.0)):
        empty = torch.zeros(1, 3, 2, 2)
        fits = zip((1.0, 1.2, 1 / 1.2), fitted_psnr, psnr, strict=True)
        return focal_length_text(clip, {factor: SceneFit(x, y, empty, empty) for factor, x, y in fits})

    assert text(28.0, 26.0, 27.0).endswith("(26.0 dB at 1.20 times, 27.0 dB at 0.83 times)")
    assert text(26.0, 24.0, 28.0).endswith("2.0 dB better with 0.83 times as long a one: check the focal length")
    assert "check the focal length" not in text(26.0, 26.2, 25.0)
    assert "check the focal length" not in text(26.0, 24.0, 28.0, fitted_psnr=(30.0, 29.0, 29.5)), (
        "fitted views disagree"
    )


def test_a_clip_with_few_frames_or_matches_is_refused(clip, points):
    files = tuple(file if i < 5 else None for i, file in enumerate(clip.files))
    with pytest.raises(ValueError, match="clip00 has 5 frames, wanted 8 or more to fit a scene"):
        fit_scene(replace(clip, files=files), points, 1)
    no_points = MatchedPoints(points.points[:0], points.depths[:, :0])
    with pytest.raises(ValueError, match="clip00 has 0 matched points, wanted 50 or more to place its scene"):
        fit_scene(clip, no_points, 1)


def test_a_far_background_does_not_move_or_scale_the_scene(clip, points):
    """A fifth more points, a hundred times as far: the object keeps most cells, so a fit still sees it."""

    def camera_distance(points):
        cameras = load_scene(clip, points, 16)[1].double()
        rotation_part, translation = cameras[:, :3, :3], cameras[:, :3, 3:]
        return float((torch.linalg.inv(rotation_part) @ translation).norm(dim=1).mean())

    count = len(points.points) // 5
    far = MatchedPoints(
        torch.cat([points.points, 100 * points.points[:count]]),
        torch.cat([points.depths, 100 * points.depths[:, :count]], 1),
    )
    assert camera_distance(far) == pytest.approx(camera_distance(points), rel=0.3)


def test_a_field_is_dense_where_its_grid_says_so_and_thin_far_away():
    field = GridField((5,))
    with torch.no_grad():
        field.grids[0][0, 0] = 3.0
    density, colours = field(torch.tensor([[[0.2, 0, 0], [0.0, 0, 0.5], [10.0, 0, 0]]]))
    assert density[0, 0] == density[0, 1] > 50 * density[0, 2] > 0
    assert torch.equal(colours, torch.zeros(1, 3, 3))
