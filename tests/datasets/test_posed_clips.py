"""Frames and cameras of a clip belong together, also after a crop."""

from dataclasses import replace

import pytest
import torch
from clip_helpers import double, generator

from fwdiff_lite.datasets.posed_clips import camera_matrices, crop_intrinsics
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.cameras import check_cameras, look_at, project
from fwdiff_lite.problems.inverse_graphics.synthetic_realestate10k import (
    HEIGHT,
    WIDTH,
    cameras_from_poses,
    render_frames,
)


def test_loaded_frames_are_what_the_renderer_shows_through_the_loaded_cameras(written, clips):
    for clip in clips:
        scene, poses = written[1][clip.name]
        frame_indices = [3, 30, 14]  # as text, the names of later frames come first
        frames, cameras = clip.load_frames(frame_indices, 48)
        check_cameras(cameras)
        assert frames.shape == (3, 3, 48, 48) and cameras.shape == (3, 4, 4)
        cameras = cameras.double() @ poses[frame_indices[0]]
        rendered = tabletop.render(scene, cameras.float()[None], 48, 4)[0]
        assert (rendered - frames).square().mean() < 2e-3
        uncropped = render_frames(scene, cameras_from_poses(poses[frame_indices]).float(), 48, 48).movedim(-1, 1)
        for wrong in (uncropped, rendered.roll(1, 0), rendered.flip(-1)):  # uncropped, of other frames, mirrored
            assert (wrong - frames).square().mean() > 5e-3


def test_the_camera_of_the_first_loaded_frame_defines_the_world(clips):
    clip = clips[1]
    _, cameras = clip.load_frames([5, 9], 32)
    intrinsics = torch.eye(4)
    intrinsics[:3, :3] = crop_intrinsics(clip.intrinsics[5], HEIGHT, WIDTH).float()
    torch.testing.assert_close(cameras[0], intrinsics)
    other_world = look_at(double([3, 1, 2]), double([0, 0, 0]), 1.0)
    clip = replace(clip, poses=clip.poses @ other_world)
    torch.testing.assert_close(clip.load_frames([5, 9], 32)[1], cameras, msg="for every world of the clip")


@pytest.mark.parametrize("height, width", [(96, 128), (128, 95), (64, 64)])
def test_a_pixel_shows_the_same_point_after_a_crop(height, width):
    """In float64: pixel (x, y) of the frame is pixel (x - left, y - top) of the square."""
    intrinsics = double([[0.7, 0, 0.52], [0, 0.9, 0.47], [0, 0, 1]])
    poses = torch.eye(4).double()[None]
    points = torch.randn(9, 3, generator=generator(), dtype=torch.float64) + double([0, 0, 5])
    frame_uv, frame_depth = project(camera_matrices(intrinsics[None], poses), points)
    square_uv, square_depth = project(camera_matrices(crop_intrinsics(intrinsics, height, width)[None], poses), points)
    side = min(height, width)
    corner = double([(width - side) // 2, (height - side) // 2])
    torch.testing.assert_close(square_uv * side, frame_uv * double([width, height]) - corner, rtol=0, atol=1e-9)
    assert torch.equal(frame_depth, square_depth)
