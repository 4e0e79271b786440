"""Epipolar lines and distances have their closed forms; a camera that only rotates has no lines, and is no fault."""

from dataclasses import replace

import pytest
import torch
from clip_helpers import NUM_FRAMES, double, generator, poses_looking_at

from fwdiff_lite.datasets.contact_sheet import contact_sheet
from fwdiff_lite.datasets.epipolar import (
    epipolar_lines,
    fundamental_matrix,
    has_translation,
    rotated_points,
    sampson_distance,
)
from fwdiff_lite.datasets.pose_check import FrameMatches, Matches, reject_mismatched, select_frame_pairs
from fwdiff_lite.datasets.posed_clips import camera_matrices, intrinsics_matrix
from fwdiff_lite.datasets.scene_depth import estimate_near_far, matched_points
from fwdiff_lite.problems.inverse_graphics.cameras import project


def test_the_fundamental_matrix_of_a_sideways_step_is_that_of_rows():
    """K = I and a step along x: the line of a point is its row, and the epipole is at infinity."""
    poses = torch.eye(4).double().repeat(2, 1, 1)
    poses[1, 0, 3] = -7.0
    fundamental = fundamental_matrix(torch.eye(3).double().expand(2, 3, 3), poses)
    torch.testing.assert_close(fundamental, double([[0, 0, 0], [0, 0, 1], [0, -1, 0]]))
    (line,) = epipolar_lines(fundamental, double([[0.3, 0.4]])).tolist()
    assert line == pytest.approx([0, 1, -0.4])


def test_the_epipole_is_the_image_of_the_other_camera_and_lies_on_all_lines():
    """In float64, for two cameras with different intrinsics."""
    intrinsics = double([[[90, 0, 50], [0, 80, 40], [0, 0, 1]], [[110, 0, 60], [0, 90, 30], [0, 0, 1]]])
    poses = poses_looking_at(double([[4, 1, 1], [3, 2, 0.5]]), torch.zeros(2, 3).double())
    fundamental = fundamental_matrix(intrinsics, poses)
    centre = torch.linalg.inv(poses[0])[:3, 3]
    epipole = project(camera_matrices(intrinsics, poses)[1:], centre[None])[0].flatten()
    lines = epipolar_lines(fundamental, 100 * torch.rand(20, 2, generator=generator(), dtype=torch.float64))
    distances = (lines @ torch.cat([epipole, torch.ones(1).double()])).abs() / lines[:, :2].norm(dim=1)
    assert distances.max() < 1e-9 and abs(float(torch.linalg.det(fundamental))) < 1e-12


def test_matches_lie_on_their_epipolar_lines():
    """In float64, for any two cameras; not with a wrong camera; and a moved match has the distance of its move."""
    points = torch.randn(50, 3, generator=generator(), dtype=torch.float64)
    intrinsics = double([[[90, 0, 50], [0, 80, 40], [0, 0, 1]], [[110, 0, 60], [0, 90, 30], [0, 0, 1]]])
    poses = poses_looking_at(double([[4, 1, 1], [3, 2, 0.5], [3, -2, 0.5]]), torch.zeros(3, 3).double())
    points1, points2 = project(camera_matrices(intrinsics, poses[:2]), points)[0]
    assert sampson_distance(intrinsics, poses[:2], points1, points2).max() < 1e-9
    assert sampson_distance(intrinsics, poses[[0, 2]], points1, points2).mean() > 1
    sideways = torch.eye(4).double().repeat(2, 1, 1)
    sideways[1, 0, 3] = 1.0  # epipolar lines are rows; half of an error of 2 is corrected in each frame
    distances = sampson_distance(intrinsics[[0, 0]], sideways, points1, points1 + double([7, 2]))
    torch.testing.assert_close(distances, torch.full_like(distances, 2**0.5))


def test_without_translation_the_distance_is_to_the_rotated_points():
    points = torch.randn(50, 3, generator=generator(), dtype=torch.float64) + double([9, 0, 0])
    intrinsics = double([[90, 0, 50], [0, 80, 40], [0, 0, 1]]).expand(2, 3, 3)
    poses = poses_looking_at(torch.zeros(2, 3).double(), double([[9, 0, 0], [9, 1, 0.5]]))
    points1, points2 = project(camera_matrices(intrinsics, poses), points)[0]
    assert sampson_distance(intrinsics, poses, points1, points2).max() < 1e-9
    distances = sampson_distance(intrinsics, poses, points1, points2 + double([3, 4]))
    torch.testing.assert_close(distances, torch.full_like(distances, 5.0))
    assert sampson_distance(intrinsics, poses[[0, 0]], points1, points2).min() > 1, "the camera has rotated"


# --- a camera that only rotates ---------------------------------------------------------------------------------------


def test_a_camera_that_only_rotates_has_no_epipolar_lines_in_single_precision_too():
    poses = poses_looking_at(double([[3, -2, 1.5]]).expand(2, 3), double([[9, 0, 0], [9, 1, 0.5]]))
    for rotating in (poses, poses.float().double()):
        assert not has_translation(rotating)
        with pytest.raises(ValueError, match="at one place: a camera that only rotates has no epipolar lines"):
            fundamental_matrix(torch.eye(3).double().expand(2, 3, 3), rotating)
    poses[1, :3, 3] += 1e-4
    assert has_translation(poses)


@pytest.fixture
def rotating(clips):
    """A clip whose camera only rotates, and exact matches of far points."""
    centre = torch.linalg.inv(clips[0].poses[0])[:3, 3]
    yaw = torch.linspace(-0.5, 0.5, NUM_FRAMES).double()
    targets = centre + torch.stack([yaw.cos(), yaw.sin(), 0.3 * (3 * yaw).sin()], -1)
    poses = poses_looking_at(centre.expand(NUM_FRAMES, 3), targets)
    clip = replace(clips[0], poses=poses, intrinsics=intrinsics_matrix(0.9, 1.2, 0.5, 0.5).repeat(NUM_FRAMES, 1, 1))
    pairs, sizes = select_frame_pairs(clip), ((160, 120), (160, 120))
    pixels = clip.intrinsics[:2] * double([[160], [120], [1]])
    points1 = double([160, 120]) * torch.rand(20, 2, generator=generator(), dtype=torch.float64)
    matches = [Matches(points1, rotated_points(pixels, poses[pair], points1), sizes) for pair in pairs]
    return clip, FrameMatches(pairs, matches)


def test_a_camera_that_only_rotates_is_checked_and_drawn_without_lines(rotating):
    clip, frame_matches = rotating
    assert reject_mismatched(clip, frame_matches=frame_matches) == []
    assert estimate_near_far([matched_points(clip, frame_matches)]) is None
    left, right = contact_sheet(clip, frame_matches).axes[-2:]
    assert right.get_title().endswith("matches (the camera only rotates)")
    assert all(line.get_marker() == "o" for line in [*left.lines, *right.lines]) and len(right.lines) == 8


def test_a_pair_whose_cameras_differ_in_place_is_preferred_for_the_lines(rotating):
    """It is drawn although it has fewer matches than the pairs without translation."""
    clip, (pairs, matches) = rotating
    moved = replace(clip, poses=clip.poses.clone())
    moved.poses[int(pairs[-1, 1]), 0, 3] += 0.2
    last = matches[-1]._replace(points1=matches[-1].points1[:9], points2=matches[-1].points2[:9])
    right = contact_sheet(moved, FrameMatches(pairs[[0, -1]], [matches[0], last])).axes[-1]
    assert right.get_title() == f"frame {int(pairs[-1, 1])}: their epipolar lines, and the matches"
    assert sum(line.get_marker() != "o" for line in right.lines) == 8
    empty = [part._replace(points1=part.points1[:0], points2=part.points2[:0]) for part in matches]
    with pytest.raises(ValueError, match="clip00 has no two frames that share matches: there are no epipolar lines"):
        contact_sheet(clip, FrameMatches(pairs, empty))
