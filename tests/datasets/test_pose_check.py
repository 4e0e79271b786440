"""Poses with an offset and poses of other clips are detected; right poses pass."""

import shutil
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from clip_helpers import FRAME_GAP, NUM_FRAMES, double, frame_name, generator, offset_poses, poses_looking_at

from fwdiff_lite.datasets.clip_folder import read_folder
from fwdiff_lite.datasets.pose_check import (
    FILE_CONVENTIONS,
    MIN_MATCHES,
    FrameMatches,
    Matches,
    PoseCheck,
    Segment,
    check_poses,
    find_offset_segment,
    mismatch_text,
    other_intrinsics,
    reject_mismatched,
    select_frame_pairs,
)
from fwdiff_lite.datasets.posed_clips import Clip, intrinsics_matrix
from fwdiff_lite.datasets.realestate10k import read_clip
from fwdiff_lite.metrics import Interval
from fwdiff_lite.problems.inverse_graphics.synthetic_realestate10k import (
    FRAME_INTERVAL,
    format_clip_text,
    write_clips,
)

# --- an offset of all poses -------------------------------------------------------------------------------------------


def test_an_offset_of_all_poses_is_detected_and_right_poses_pass(clips):
    for clip in clips:
        right = check_poses(clip)
        assert not right.has_offset and not right.has_partial_offset and right.error_ratio.value > 1.1
        assert min(right.errors, key=right.errors.get) == 0
        for k in (1, -1, 2):
            wrong = check_poses(offset_poses(clip, k))
            assert wrong.has_offset and wrong.best_offset == k, (clip.name, k, wrong)
            assert wrong.errors[0] > 1.1 * right.errors[0]


def test_no_offset_is_reported_if_all_parts_of_the_path_are_alike(tmp_path, monkeypatch):
    """A camera with a constant turn: poses with an offset imply the same epipolar lines as the stated ones."""

    def constant_turn(frames, generator):
        angle = torch.linspace(0, 1.2, frames, dtype=torch.float64)
        eyes = torch.stack([2.7 * angle.cos(), 2.7 * angle.sin(), torch.full_like(angle, 1.4)], -1)
        return poses_looking_at(eyes, torch.zeros_like(eyes))

    module = "fwdiff_lite.problems.inverse_graphics.synthetic_realestate10k"
    monkeypatch.setattr(f"{module}.sample_camera_path", constant_turn)
    write_clips(tmp_path, 1, 24)
    clip, _ = read_clip(tmp_path / "clip00.txt")
    for k in (0, 1):
        check = check_poses(offset_poses(clip, k))
        assert not check.has_offset and check.error_ratio.value == pytest.approx(1, abs=1e-4)


def test_a_clip_with_an_offset_is_refused(copy):
    """Each frame has the timestamp of the next one: every timestamp has a frame, and each is wrong."""
    (copy / "clip00" / frame_name(NUM_FRAMES - 1)).unlink()
    for i in range(NUM_FRAMES - 2, -1, -1):
        (copy / "clip00" / frame_name(i)).rename(copy / "clip00" / frame_name(i + 1))
    shutil.copy(copy / "clip00" / frame_name(1), copy / "clip00" / frame_name(0))
    with pytest.raises(ValueError, match=r"clip00: poses .* moved by -1 lines explain the frames better") as error:
        read_folder(copy, FRAME_GAP)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no usable clip; the first problem: clip00: poses and frames"):
        read_folder(copy, FRAME_GAP, "skip")
    assert read_folder(copy, FRAME_GAP, check_poses=False)[1] == [], "only the images can show it"


# --- poses that explain nothing ---------------------------------------------------------------------------------------


def test_inconsistent_poses_are_refused(clips):
    """Poses of another clip, inverted, with other axes, or all the same; right poses pass."""
    other_axes = torch.tensor([1.0, -1, -1, 1]).double().diag()
    for clip, other in zip(clips[:2], clips[1:], strict=True):
        assert not check_poses(clip).is_inconsistent
        for poses in (
            other.poses,
            torch.linalg.inv(clip.poses),
            other_axes @ clip.poses,
            clip.poses[:1].expand(NUM_FRAMES, 4, 4),
        ):
            message = f"{clip.name}: (poses and frames do not belong together|the file has )"
            with pytest.raises(ValueError, match=message) as error:
                reject_mismatched(replace(clip, poses=poses))
            assert "\n" not in str(error.value)
    message = "clip00: the file has poses that are camera-to-world in place of world-to-camera: matches are then 0"
    with pytest.raises(ValueError, match=message):
        reject_mismatched(replace(clips[0], poses=torch.linalg.inv(clips[0].poses)))


# --- the mistake is named in the terms of the file --------------------------------------------------------------------

AXES = {"OpenCV": (1, 1, 1, 1), "OpenGL": (1, -1, -1, 1), "PyTorch3D": (-1, -1, 1, 1)}
WANTED = {  # title, axes, direction
    "realestate10k": ("the text of RealEstate10K", "OpenCV", "world-to-camera"),
    "transforms": ("transforms.json", "OpenGL", "camera-to-world"),
    "co3d": ("an annotation of CO3D", "PyTorch3D", "world-to-camera"),
}


@pytest.fixture(scope="module")
def exact():
    """A clip of 12 frames around 60 points, and matches that are off by a fifth of a pixel."""
    random = {"generator": generator(3), "dtype": torch.float64}
    angle = torch.linspace(0, 1.5, 12, dtype=torch.float64)
    eyes = torch.stack([3 * angle.cos(), 3 * angle.sin(), 1 + (2 * angle).sin()], -1)
    poses = poses_looking_at(eyes, 0.3 * torch.randn(12, 3, **random))
    intrinsics = intrinsics_matrix(0.9, 1.2, 0.5, 0.5).repeat(12, 1, 1)
    clip = Clip("walk", tuple(range(12)), intrinsics, poses, (Path("image.png"),) * 12)
    points = torch.randn(60, 3, **random) / 2
    image = (points @ poses[:, :3, :3].mT + poses[:, None, :3, 3]) @ intrinsics.mT
    pixels = double([240, 180]) * image[..., :2] / image[..., 2:] + 0.2 * torch.randn(12, 60, 2, **random)
    pairs = select_frame_pairs(clip)
    return clip, FrameMatches(pairs, [Matches(*pixels[pair], ((240, 180), (240, 180))) for pair in pairs])


def as_read(clip, file_format, axes, direction):
    """The clip of a file that states its poses in a convention, read as the format wants them."""
    _, wanted_axes, wanted_direction = WANTED[file_format]
    stated = double(AXES[axes]).diag() @ clip.poses
    if direction != wanted_direction:
        stated = torch.linalg.inv(stated)
    return replace(clip, poses=double(AXES[wanted_axes]).diag() @ stated, file_format=file_format)


@pytest.mark.parametrize("direction", ["world-to-camera", "camera-to-world"])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("file_format", WANTED)
def test_another_convention_is_named_in_the_terms_of_the_format(exact, file_format, axes, direction):
    clip, frame_matches = exact
    read = as_read(clip, file_format, axes, direction)
    title, wanted_axes, wanted_direction = WANTED[file_format]
    mistakes = []
    if axes != wanted_axes:
        mistakes.append(f"axes of {axes}, {title} wants those of {wanted_axes}")
    if direction != wanted_direction:
        mistakes.append(f"poses that are {direction} in place of {wanted_direction}")
    if not mistakes:
        assert reject_mismatched(read, frame_matches=frame_matches) == []
        return
    with pytest.raises(ValueError) as error:
        reject_mismatched(read, frame_matches=frame_matches)
    assert str(error.value).startswith(f"walk: the file has {'; and it has '.join(mistakes)}: matches are then 0.")


@pytest.mark.parametrize("factor, name", [(4, "1/4"), (2, "1/2"), (1 / 2, "2"), (1 / 4, "4")])
@pytest.mark.parametrize("center", [None, 0.01, 0.25])
def test_wrong_intrinsics_are_not_called_shifted_poses(exact, factor, name, center):
    """Such as those of images of another size, and a principal point in fractions that is read as pixels."""
    clip, frame_matches = exact
    intrinsics = clip.intrinsics.clone()
    intrinsics[:, [0, 1], [0, 1]] *= factor
    middle = ""
    if center:
        intrinsics[:, :2, 2] = center
        middle = " and a principal point in the middle of the frame"
    with pytest.raises(ValueError) as error:
        reject_mismatched(replace(clip, intrinsics=intrinsics), frame_matches=frame_matches)
    assert str(error.value).startswith(
        f"walk: the intrinsics are wrong, focal lengths times {name}{middle} fit better: matches are then 0."
    )


def test_the_middle_of_the_frame_is_tried_if_the_principal_point_is_elsewhere(exact):
    """Frames without a camera have no principal point."""
    clip, frame_matches = exact
    intrinsics = clip.intrinsics.clone()
    intrinsics[:, :2, 2] = 0.25
    intrinsics[0] = torch.nan
    assert not any("middle" in name for name in other_intrinsics(clip))
    assert any("middle" in name for name in other_intrinsics(replace(clip, intrinsics=intrinsics)))
    intrinsics[0] = intrinsics[1]
    message = "walk: the intrinsics are wrong, a principal point in the middle of the frame fits better: matches are"
    with pytest.raises(ValueError, match=message):
        reject_mismatched(replace(clip, intrinsics=intrinsics), frame_matches=frame_matches)


def result(offset_error=2.0, segment=None, error=1.0) -> PoseCheck:
    """A check of poses with an error in pixels, and the error of poses that are moved by 2 frames."""
    ratio = Interval(offset_error / error, offset_error / error, offset_error / error)
    return PoseCheck({0: error, 2: offset_error}, 2, ratio, segment, {}, 20, 2000, 2.56)


@pytest.mark.parametrize("file_format, title, axes, direction", [(name, *WANTED[name]) for name in WANTED])
def test_lines_and_timestamps_are_named_where_the_format_has_them(file_format, title, axes, direction):
    def text(check):
        return mismatch_text(check, FILE_CONVENTIONS[file_format])

    offset, segment = text(result(offset_error=0.5)), text(result(segment=Segment(11, 13, 1, 0.2)))
    if file_format == "realestate10k":
        assert "poses moved by +2 lines" in offset and "extract the frames again by their timestamps" in offset
        assert "about lines 13 to 15 of the text file, poses moved by +1 lines" in segment and "a line lost" in segment
    else:
        assert "poses moved by +2 frames" in offset and "timestamps" not in offset
        assert "about frames 11 to 13, poses moved by +1 frames" in segment and "a frame lost" in segment
        assert "line" not in segment
    assert f"{title} wants {direction} poses with axes of {axes}" in text(result(error=2.0))
    assert text(result()) is None


@pytest.mark.parametrize("gain, is_clear", [(0.06, False), (0.09, False), (0.15, True)])
def test_a_small_gain_of_moved_poses_is_no_evidence_against_the_poses_alone(gain, is_clear):
    for check in (result(offset_error=1 - gain), result(segment=Segment(11, 13, 1, gain))):
        text = mismatch_text(check, FILE_CONVENTIONS["transforms"])
        assert text.lower().endswith("or the intrinsics are wrong") != is_clear


# --- an offset of a segment -------------------------------------------------------------------------------------------


def offset_from(clip, k, frame):
    """The clip with poses that are offset by k frames from one frame on."""
    return replace(clip, poses=torch.cat([clip.poses[:frame], offset_poses(clip, k).poses[frame:]]))


@pytest.mark.parametrize("k, frame", [(1, 18), (2, 24), (6, 18), (-2, 27)])
def test_an_offset_from_the_middle_on_is_detected_and_its_lines_are_named(clips, k, frame):
    for clip in clips:
        check = check_poses(offset_from(clip, k, frame))
        assert check.has_partial_offset and abs(check.segment.first - frame) <= 6, (clip.name, check)
    with pytest.raises(ValueError, match=r"clip02: poses and frames .* lines \d+ to 3\d of the text file, poses moved"):
        reject_mismatched(offset_from(clip, k, frame))


def test_the_offset_segment_is_the_one_with_the_largest_error_reduction():
    """Ten frames, pairs of neighbours; the poses of frames 4 to 7 have an offset of one frame."""
    pairs = torch.stack([torch.arange(9), torch.arange(1, 10)], 1)
    wrong = ((pairs >= 4) & (pairs < 8)).long()
    error_sums = torch.full((9, 2, 2, 2), 5.0).double()
    error_sums[:, :, 0, 0] = 1.0 + 4 * (wrong.sum(1) > 0)[:, None]
    error_sums[torch.arange(9), 1, wrong[:, 0], wrong[:, 1]] = 1.0
    assert find_offset_segment(pairs, error_sums, [-1, 1]) == (4, 7, 1, pytest.approx(20 / 29))
    assert find_offset_segment(pairs, torch.full((9, 2, 2, 2), 5.0).double(), [-1, 1]) is None


# --- clips with few frames or few matches -----------------------------------------------------------------------------


@pytest.mark.parametrize("step", [2, 5])
def test_clips_with_missing_frames_are_checked(clips, step):
    clip = replace(clips[0], files=tuple(file if i % step == 0 else None for i, file in enumerate(clips[0].files)))
    assert check_poses(clip).num_matches > MIN_MATCHES and reject_mismatched(clip) == []
    with pytest.raises(ValueError, match="clip00: poses and frames do not belong together: poses moved by"):
        reject_mismatched(offset_poses(clip, 2))


def test_frames_may_have_different_sizes(clips, tmp_path):
    """Intrinsics are in units of width and height, so they do not depend on the scale."""
    files = list(clips[0].files)
    for i in range(1, NUM_FRAMES, 2):
        image = imageio.imread(files[i])
        files[i] = tmp_path / files[i].name
        imageio.imwrite(files[i], image[::2, ::2] if i % 4 == 1 else image.repeat(2, 0)[:, :, :])
    clip = replace(clips[0], files=tuple(files))
    assert len({imageio.imread(file).shape for file in files}) == 3
    assert reject_mismatched(clip) == []
    assert check_poses(offset_poses(clip, 2)).has_offset


def test_a_static_camera_has_no_offset(copy):
    for i in range(1, NUM_FRAMES):
        shutil.copy(copy / "clip00" / frame_name(0), copy / "clip00" / frame_name(i))
    clip, _ = read_clip(copy / "clip00.txt")
    static = replace(clip, poses=clip.poses[:1].expand(NUM_FRAMES, 4, 4))
    assert check_poses(static).errors[0] < 0.01 and reject_mismatched(static) == []


def test_a_clip_without_matches_is_an_error_or_a_warning(tmp_path):
    (tmp_path / "plain").mkdir()
    for i in range(24):
        imageio.imwrite(tmp_path / "plain" / frame_name(i), np.full((24, 32, 3), 200, np.uint8))
    timestamps = [500_000 + FRAME_INTERVAL * i for i in range(24)]
    poses = torch.eye(4).double().repeat(24, 1, 1)
    (tmp_path / "plain.txt").write_text(format_clip_text("plain", timestamps, poses))
    message = "plain: 0 matches between frames are too few .* read it without the check"
    with pytest.raises(ValueError, match=message) as error:
        read_folder(tmp_path, FRAME_GAP)
    assert "\n" not in str(error.value)
    (clip,), warnings = read_folder(tmp_path, FRAME_GAP, "skip")
    assert warnings == ["plain: 0 matches between frames are too few to compare poses with: not checked"]
    assert read_folder(tmp_path, FRAME_GAP, check_poses=False)[1] == []
    one_frame = replace(clip, files=clip.files[:1] + (None,) * 23)
    (warning,) = reject_mismatched(one_frame, "skip")
    assert warning == "plain: there are no two frames whose poses could be compared: not checked"
