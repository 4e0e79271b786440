"""Reads clips in RealEstate10K's format (Zhou et al. 2018), for problems/inverse_graphics.

    FOLDER/CLIP.txt             the first line is the address of the video; every other line is the camera of one frame:
                                timestamp  fx fy cx cy  k1 k2  r11 r12 r13 t1  r21 r22 r23 t2  r31 r32 r33 t3
    FOLDER/CLIP/TIMESTAMP.png   the frames (png, jpg), named by their timestamps in microseconds

fx, fy, cx and cy are in units of the frame's width and height. The distortion k1, k2 is zero. The 3 x 4 matrix maps the
world to the camera, whose axes point right, down and forward. FOLDER is one split of the data.

    python -m fwdiff_lite.datasets.realestate10k FOLDER

reads the whole folder, and prints every problem. A frame is matched with its pose by its timestamp alone. A line that
cannot be used still counts as a frame, so no later frame gets another index. The command also compares poses with
frames (`pose_check`), which takes up to half a minute a clip: check a large data set once, then read it without. A clip
that is shorter than the distance from a context to its target is no problem: it is named and left out.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.checks import abbreviate
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.datasets.images import image_files, list_folder, read_image
from fwdiff_lite.datasets.pose_check import reject_mismatched
from fwdiff_lite.datasets.posed_clips import (
    Clip,
    check_on_error,
    check_pose,
    intrinsics_matrix,
    is_timestamp,
    parse_number,
    raise_or_warn,
    read_lines,
    shorten,
)
from fwdiff_lite.datasets.view_sampler import FRAME_GAP, check_frame_gap, context_target_pairs

NUMBERS_PER_LINE = 19
LINE_FORM = "timestamp fx fy cx cy k1 k2, and a 3 x 4 matrix by rows"


def parse_line(line: str) -> tuple[int, Float[Tensor, "3 3"], Float[Tensor, "4 4"]]:
    """The timestamp, intrinsics and pose of one line. ValueError, without the line's number, if it is malformed."""
    words = line.split()
    if len(words) != NUMBERS_PER_LINE:
        raise ValueError(f"has {len(words)} numbers, wanted {NUMBERS_PER_LINE}: {LINE_FORM}")
    numbers = torch.tensor([parse_number(word) for word in words[1:]], dtype=torch.float64)
    if not is_timestamp(words[0]):
        raise ValueError(f"has the timestamp {shorten(words[0])}, wanted a whole number of microseconds")
    if not numbers.isfinite().all():
        raise ValueError("has a NaN or an infinite number")
    fx, fy, cx, cy, *distortion = numbers[:6].tolist()
    if any(distortion):
        raise ValueError(f"has distortion {distortion}, wanted zeros: undistort the frames first")
    intrinsics, pose = intrinsics_matrix(fx, fy, cx, cy), torch.eye(4, dtype=torch.float64)
    pose[:3] = numbers[6:].view(3, 4)
    check_pose(pose)
    return int(words[0]), intrinsics, pose


def read_clip(text_file: Path | str, on_error: str = "raise") -> tuple[Clip, list[str]]:
    """Reads one clip by its text file, without reading its images; returns the clip and warnings.

    on_error: "raise" raises a ValueError, "skip" skips the data and adds a warning, for a malformed line, a timestamp
        that is not later than all earlier ones, timestamps without a frame, and frames without a timestamp. A clip
        without any frame is always a ValueError.
    """
    text_file, warnings = Path(text_file), []
    frame_folder = text_file.with_suffix("")
    check_on_error(on_error)
    timestamps, intrinsics, poses = [], [], []
    header, *lines = read_lines(text_file)
    if len(header.split()) == NUMBERS_PER_LINE:
        raise_or_warn(
            f"{text_file} line 1 is the camera of a frame: wanted the address of the video", on_error, warnings
        )
    latest, first_problem = -1, ""
    for number, line in enumerate(lines, 2):
        try:
            timestamp, line_intrinsics, pose = parse_line(line)
            if timestamp <= latest:
                raise ValueError(f"has the timestamp {timestamp}, which is not later than all earlier ones")
            latest = timestamp
        except ValueError as error:
            first_problem = first_problem or f"line {number} {error}"
            raise_or_warn(f"{text_file} line {number} {error}", on_error, warnings)
            timestamp = -1
            line_intrinsics, pose = torch.full((3, 3), torch.nan).double(), torch.full((4, 4), torch.nan).double()
        timestamps.append(timestamp)
        intrinsics.append(line_intrinsics)
        poses.append(pose)
    if latest < 0:
        raise ValueError(f"{text_file} has no camera: {first_problem or 'it ends with line 1'}")
    image_paths, file_of_timestamp = image_files(frame_folder), {}
    for file in image_paths:
        if is_timestamp(file.stem):
            file_of_timestamp.setdefault(int(file.stem), file)  # a second file of the same time is reported below
    files = tuple(file_of_timestamp.pop(timestamp, None) for timestamp in timestamps)
    if not any(files):
        raise ValueError(
            f"{text_file} has no frame: {missing_frames_text(frame_folder, image_paths, latest, len(lines))}"
        )
    without_file = [t for t, file in zip(timestamps, files, strict=True) if file is None and t >= 0]
    without_timestamp = [file.name for file in image_paths if file not in files]
    for problem, names in (
        ("timestamps without a frame", without_file),
        ("frames without a timestamp of their own", without_timestamp),
    ):
        if names:
            raise_or_warn(f"{text_file} has {len(names)} {problem}: {abbreviate(names)}", on_error, warnings)
    return Clip(text_file.stem, tuple(timestamps), torch.stack(intrinsics), torch.stack(poses), files), warnings


def missing_frames_text(frame_folder: Path, image_paths: list[Path], timestamp: int, num_frames: int) -> str:
    """Why a clip has no frame, for an error message. timestamp: of one of its frames"""
    if not frame_folder.is_dir():
        return f"{frame_folder} does not exist"
    text = f"{frame_folder} holds none of its {num_frames} frames"
    if not image_paths:
        return f"{text} and no other image"
    return f"{text} but {abbreviate([path.name for path in image_paths])}: wanted names such as {timestamp}.png"


def read_folder(
    folder: Path | str,
    frame_gap: tuple[int, int] = FRAME_GAP,
    on_error: str = "raise",
    check_poses: bool = True,
    min_side: int = 1,
) -> tuple[list[Clip], list[str]]:
    """Reads all clips of a split in the order of their names; returns the clips and warnings.

    frame_gap: the smallest and the largest number of frames from a context to its target. A clip without such a pair of
        frames is left out with a warning.
    on_error: as in `read_clip`; also for clips without any frame, and for folders of frames without a text file
    check_poses: read every image, and compare poses with frames (`reject_mismatched`). If it is off, an image that
        cannot be read or is too small raises a ValueError later, when it is loaded.
    min_side: the smallest height and width of a frame, in pixels
    """
    check_frame_gap(frame_gap)
    clips, warnings = read_all_clips(folder, on_error, check_poses, min_side)
    clips, short_clips = drop_short_clips(clips, frame_gap)
    if not clips:
        raise ValueError(f"{folder} has no clip that is long enough: {short_clips[0]}; give a smaller frame gap")
    return clips, warnings + [f"{text}: left out" for text in short_clips]


def drop_short_clips(clips: list[Clip], frame_gap: tuple[int, int]) -> tuple[list[Clip], list[str]]:
    """The clips that have a context and a target with such a gap, and a text for each of the other clips."""
    short_clips = [clip for clip in clips if not len(context_target_pairs(clip, frame_gap))]
    texts = [
        f"{clip.name} has {int(clip.has_image.sum())} frames and no two of them {frame_gap[0]} to {frame_gap[1]} apart "
        "with a frame between them"
        for clip in short_clips
    ]
    return [clip for clip in clips if clip not in short_clips], texts


def read_all_clips(
    folder: Path | str, on_error: str = "raise", check_poses: bool = True, min_side: int = 1
) -> tuple[list[Clip], list[str]]:
    """Reads all clips of a split, of any length; arguments and result as in `read_folder`."""
    folder, warnings, clips = Path(folder), [], []
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one that holds CLIP.txt and CLIP/TIMESTAMP.png")
    paths = list_folder(folder)
    text_files = [path for path in paths if path.suffix == ".txt" and path.is_file()]
    if not text_files:
        raise ValueError(f"{folder} holds no text file: wanted CLIP.txt and CLIP/TIMESTAMP.png, as in one split")
    for path in paths:
        if image_files(path) and not path.with_name(f"{path.name}.txt").exists():
            raise_or_warn(f"{path} has frames, but there is no {path.name}.txt", on_error, warnings)
    for text_file in text_files:
        try:
            clip, clip_warnings = read_clip(text_file, on_error)
            if check_poses:
                clip, image_warnings = remove_unreadable(clip, on_error, min_side)
                clip_warnings += image_warnings + reject_mismatched(clip, on_error)
        except ValueError as error:
            if on_error == "raise":
                raise
            raise_or_warn(str(error), on_error, warnings)
        else:
            clips.append(clip)
            warnings += clip_warnings
    if not clips:
        raise ValueError(f"{folder} has no usable clip; the first problem: {warnings[0]}")
    return clips, warnings


def remove_unreadable(clip: Clip, on_error: str = "raise", min_side: int = 1) -> tuple[Clip, list[str]]:
    """The clip without the images that cannot be read or are too small, and a warning for each of them."""
    files, warnings = list(clip.files), []
    for i in clip.has_image.nonzero()[:, 0].tolist():
        try:
            height, width = read_image(files[i]).shape[:2]
            if min(height, width) < min_side:
                raise ValueError(f"{files[i]} has {width} x {height} pixels: wanted at least {min_side} x {min_side}")
        except ValueError as error:
            raise_or_warn(str(error), on_error, warnings)
            files[i] = None
    return replace(clip, files=tuple(files)), warnings


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Read a folder of clips, and print every problem.")
    parser.add_argument("folder", type=Path)
    gap_help = "smallest and largest number of frames from context to target; default: 100 180"
    parser.add_argument(
        "--frame-gap", type=positive_int, nargs=2, metavar=("MIN", "MAX"), default=FRAME_GAP, help=gap_help
    )
    options = parser.parse_args()
    if options.frame_gap[0] > options.frame_gap[1]:
        parser.error("--frame-gap is the smallest and the largest number of frames: give the smaller number first")
    try:
        clips, warnings = read_all_clips(options.folder, "skip")
    except ValueError as error:
        parser.error(str(error))
    long_clips, short_clips = drop_short_clips(clips, tuple(options.frame_gap))
    num_frames = sum(int(clip.has_image.sum()) for clip in long_clips)
    print("\n".join([*warnings, *short_clips, f"{len(long_clips)} clips with {num_frames} frames"]))
    if short_clips:
        print(f"{len(short_clips)} clips are too short for this frame gap: training and evaluation leave them out")
    raise SystemExit(bool(warnings) or not long_clips)


if __name__ == "__main__":
    main()
