"""Any format is detected, converted and checked; the pictures and estimates of a check have their closed forms."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from clip_helpers import NUM_FRAMES, double, edit_lines, frame_name, generator

from fwdiff_lite.datasets import __main__ as command
from fwdiff_lite.datasets import clip_folder, pose_check
from fwdiff_lite.datasets.clip_folder import detect_format, read_all_clips
from fwdiff_lite.datasets.contact_sheet import contact_sheet
from fwdiff_lite.datasets.epipolar import epipolar_lines, fundamental_matrix, pixel_intrinsics
from fwdiff_lite.datasets.pose_check import match_frames, other_cameras, other_conventions, reject_mismatched
from fwdiff_lite.datasets.posed_clips import intrinsics_matrix
from fwdiff_lite.datasets.realestate10k import read_clip
from fwdiff_lite.datasets.scene_depth import estimate_near_far, matched_points, triangulate
from fwdiff_lite.problems.inverse_graphics.scene_fit import compare_focal_lengths


def run(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        command.main([str(word) for word in words])
    return (int(stop.value.code), *capsys.readouterr())


@pytest.mark.parametrize("name", command.TARGETS)
def test_a_converted_folder_has_the_same_cameras_and_the_same_bytes(written, clips, tmp_path, capsys, name):
    words = ("convert", written[0], tmp_path / "out", "--to", name, "--skip-pose-check")
    code, output, _ = run(capsys, *words)
    assert code == 0 and f"3 clips as {name}" in output
    assert detect_format(tmp_path / "out").name == name
    converted, warnings = read_all_clips(tmp_path / "out", check_poses=False)
    assert warnings == []
    for clip, expected in zip(converted, clips, strict=True):
        torch.testing.assert_close(clip.poses, expected.poses, rtol=0, atol=1e-6)
        torch.testing.assert_close(clip.intrinsics, expected.intrinsics, rtol=0, atol=1e-6)
        assert [file.read_bytes() for file in clip.files] == [file.read_bytes() for file in expected.files]
        assert clip.name == expected.name and clip.file_format == name
    code, _, errors = run(capsys, *words)
    assert code == 2 and "out is not empty: name a new folder" in errors


def test_a_distorted_capture_is_converted_without_distortion(written, clips, tmp_path, capsys):
    lens = torch.zeros(NUM_FRAMES, 5).double()
    lens[:, 0] = 0.1
    command.write_clips(tmp_path / "bent", [replace(clips[0], distortion=lens)], "transforms")
    code, *_ = run(capsys, "convert", tmp_path / "bent", tmp_path / "out", "--to", "pixelsplat", "--skip-pose-check")
    (bent,), _ = read_all_clips(tmp_path / "bent", check_poses=False)
    (straight,), _ = read_all_clips(tmp_path / "out", check_poses=False)
    assert code == 0 and bent.has_distortion and not straight.has_distortion
    np.testing.assert_array_equal(straight.read_frame(3), bent.read_frame(3))
    assert (straight.read_frame(3) != clips[0].read_frame(3)).any()


def test_a_folder_of_no_format_is_refused_with_all_formats(tmp_path):
    with pytest.raises(ValueError, match="holds no posed clips: wanted chunks of pixelSplat, CO3D, transforms.json of"):
        detect_format(tmp_path)
    with pytest.raises(ValueError, match="none is not a folder"):
        detect_format(tmp_path / "none")


def test_times_may_differ_by_8_milliseconds(copy):
    expected, _ = read_clip(copy / "clip00.txt")
    for i, shift in ((3, 8000), (4, -700)):
        file = copy / "clip00" / frame_name(i)
        file.rename(file.with_name(f"{int(file.stem) + shift}.png"))
    clip, (warning,) = read_clip(copy / "clip00.txt")
    assert "2 frames are matched by times that differ by up to 8 ms" in warning
    assert clip.timestamps == expected.timestamps and clip.has_image.all()
    file = clip.files[3]
    file.rename(file.with_name(f"{int(file.stem) + 1}.png"))
    with pytest.raises(ValueError, match="has 1 timestamps without a frame"):
        read_clip(copy / "clip00.txt")


def test_check_says_what_a_folder_is_and_draws_it(copy, tmp_path, capsys, monkeypatch):
    """The matches of its clip are computed once, for the poses, near and far, the contact sheet and the fit."""
    calls, fit = [], "fwdiff_lite.problems.inverse_graphics.scene_fit"
    monkeypatch.setattr(clip_folder, "match_frames", lambda clip: calls.append(clip.name) or match_frames(clip))
    monkeypatch.setattr(pose_check, "match_frames", None)
    monkeypatch.setattr(f"{fit}.compare_focal_lengths", partial(compare_focal_lengths, steps=1, side=8))
    code, output, _ = run(capsys, "check", copy, "--frame-gap", 8, 16, "--sheet", tmp_path / "sheet.png", "--fit")
    assert code == 0 and "RealEstate10K's text" in output and f"1 clips with {NUM_FRAMES} frames" in output
    assert "near and far, estimated from matches: --near-far " in output and (tmp_path / "sheet.png").exists()
    assert "clip00: held-out views are rebuilt at " in output and calls == ["clip00"]
    edit_lines(copy / "clip00.txt", lambda lines: lines.__setitem__(5, "5 5"))
    code, output, _ = run(capsys, "check", copy, "--frame-gap", 8, 16)
    assert code == 1 and "clip00.txt line 6 has 2 numbers, wanted 19" in output


def test_check_of_a_clip_without_depths_says_so_and_ends(copy, tmp_path, capsys, monkeypatch):
    """As of a camera that only rotates: no near and far, no fit; and no contact sheet where no frames match."""
    monkeypatch.setattr(clip_folder, "reject_mismatched", lambda clip, on_error, frame_matches: [])
    empty = pose_check.FrameMatches(torch.zeros(0, 2, dtype=torch.long), [])
    monkeypatch.setattr(clip_folder, "match_frames", lambda clip: empty)
    code, output, _ = run(capsys, "check", copy, "--frame-gap", 8, 16, "--sheet", tmp_path / "sheet.png", "--fit")
    assert code == 0 and "near and far cannot be estimated: too few matches show a depth" in output
    assert "no fit: clip00 has 0 matched points, wanted 50 or more to place its scene" in output
    assert "no contact sheet: clip00 has no two frames that share matches" in output


def test_a_failed_conversion_leaves_nothing(written, tmp_path, capsys, monkeypatch):
    def fail(folder, clips, name):
        folder.mkdir()
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_clips", fail)
    words = ("convert", written[0], tmp_path / "out", "--to", "transforms", "--skip-pose-check")
    code, _, errors = run(capsys, *words)
    assert code == 2 and "out cannot be written: No space left on device" in errors
    assert not list(tmp_path.iterdir())


def test_a_check_ends_with_what_it_found(copy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fwdiff_lite.datasets.clip_folder.reject_mismatched", lambda *_: [])
    code, output, _ = run(capsys, "check", copy, "--clips", "1", "--frame-gap", "8", "16")
    assert code == 0 and "1 clips with" in output and "no problem: poses and frames of these clips agree" in output
    code, output, _ = run(capsys, "check", copy, "--clips", "1", "--frame-gap", "100", "180")
    assert code == 1 and f"the longest clip has {NUM_FRAMES} frames, so try --frame-gap " in output
    (copy / "clip00" / frame_name(3)).write_bytes(b"damaged")
    code, output, _ = run(capsys, "check", copy, "--clips", "1", "--frame-gap", "8", "16")
    assert code == 1 and "1 problems" in output and "no problem" not in output


def test_a_refused_clip_is_drawn(copy, tmp_path, capsys, monkeypatch):
    def refuse(clip, *_):
        raise ValueError(f"{clip.name} has other poses")

    monkeypatch.setattr("fwdiff_lite.datasets.clip_folder.reject_mismatched", refuse)
    code, output, errors = run(capsys, "check", copy, "--clips", "1", "--sheet", tmp_path / "sheet.png")
    assert code == 2 and "clip00 has other poses" in errors and (tmp_path / "sheet.png").stat().st_size > 1000


def test_matched_points_lie_on_the_lines_of_right_cameras_only(clips):
    pairs, matches = match_frames(clips[0])
    (i, j), pair_matches = pairs[0].tolist(), matches[0]

    def distance(clip):
        intrinsics = pixel_intrinsics(clip.intrinsics[[i, j]], pair_matches.sizes)
        lines = epipolar_lines(fundamental_matrix(intrinsics, clip.poses[[i, j]]), pair_matches.points1)
        points = torch.cat([pair_matches.points2, torch.ones(len(pair_matches.points2), 1)], 1)
        return ((lines * points).sum(1).abs() / lines[:, :2].norm(dim=1)).median()

    assert distance(clips[0]) < 1
    for name, other in other_conventions(clips[0]).items():
        assert distance(other) > 1.5 * distance(clips[0]), name


def test_a_contact_sheet_shows_points_and_lines_in_the_colours_of_each_other(clips):
    sheet = contact_sheet(clips[0], match_frames(clips[0]))
    left, right = sheet.axes[-2:]
    points = [line for line in left.lines if line.get_marker() == "o"]
    lines = [line for line in right.lines if line.get_marker() != "o"]
    assert len(points) == len(lines) == 8 and len(sheet.axes) == 10
    assert [p.get_color() for p in points] == [line.get_color() for line in lines]


def test_a_triangulated_point_has_its_depths():
    turn = double([[math.cos(0.5), 0, math.sin(0.5)], [0, 1, 0], [-math.sin(0.5), 0, math.cos(0.5)]])
    poses = torch.eye(4).double().repeat(2, 1, 1)
    poses[1, :3, :3] = turn
    poses[:, :3, 3] = double([[0, 0, 4], [0.3, -0.2, 5]])
    intrinsics = torch.stack([intrinsics_matrix(1.2, 0.9, 0.5, 0.4)] * 2)
    points = torch.randn(20, 3, generator=generator(1), dtype=torch.float64) / 2
    in_camera = points @ poses[:, :3, :3].mT + poses[:, None, :3, 3]
    image = in_camera @ intrinsics.mT
    depths, parallax = triangulate(intrinsics, poses, image[..., :2] / image[..., 2:])
    torch.testing.assert_close(depths, in_camera[..., 2])
    to_cameras = [torch.linalg.inv(pose)[:3, 3] - points for pose in poses]
    cosine = torch.nn.functional.cosine_similarity(*to_cameras, dim=-1)
    torch.testing.assert_close(parallax, cosine.acos() * 180 / math.pi)


def test_near_and_far_enclose_the_scene(clips):
    frame_matches = match_frames(clips[0])

    def planes(clip):
        return estimate_near_far([matched_points(clip, frame_matches)])

    near, far = planes(clips[0])
    assert 0 < near < far
    scaled = replace(clips[0], poses=clips[0].poses.clone())
    scaled.poses[:, :3, 3] *= 7
    torch.testing.assert_close(double(planes(scaled)), 7 * double([near, far]), rtol=1e-6, atol=0)
    assert planes(replace(clips[0], poses=clips[0].poses[:1].expand(NUM_FRAMES, 4, 4))) is None


@pytest.mark.parametrize("mistake", range(6))
def test_cameras_in_another_convention_are_refused_and_the_convention_is_named(clips, mistake):
    """Every mistake is undone by itself, but for a camera-to-world pose with other axes."""
    names = list(other_cameras(clips[0]))
    wrong = list(other_cameras(clips[0]).values())[mistake]
    with pytest.raises(ValueError, match="the file has |the intrinsics are wrong|poses moved by ") as error:
        reject_mismatched(wrong)
    if "poses moved" not in str(error.value):
        assert any(name in str(error.value) for name in names)
        assert names[mistake] in str(error.value) or "camera-to-world" in names[mistake]


def test_a_caption_that_stands_still_does_not_count(clips, monkeypatch):
    right = pose_check.check_poses(clips[0])
    compute = pose_check._match_features

    def with_caption(features1, features2):
        pair_matches = compute(features1, features2)
        caption = 40 + 20 * torch.rand(60, 2, generator=generator(0), dtype=torch.float64)
        return pair_matches._replace(
            points1=torch.cat([pair_matches.points1, caption]), points2=torch.cat([pair_matches.points2, caption + 0.1])
        )

    monkeypatch.setattr(pose_check, "_match_features", with_caption)
    with_captions = pose_check.check_poses(clips[0])
    assert with_captions.num_matches == right.num_matches and with_captions.errors == right.errors
