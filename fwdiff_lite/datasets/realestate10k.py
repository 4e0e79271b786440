"""Reads and writes clips as RealEstate10K's and ACID's text (Zhou et al. 2018; Liu et al. 2021).

    FOLDER/CLIP.txt             the first line is the address of the video; every other line is the camera of one frame:
                                timestamp  fx fy cx cy  k1 k2  r11 r12 r13 t1  r21 r22 r23 t2  r31 r32 r33 t3
    FOLDER/CLIP/TIMESTAMP.png   the frames (png, jpg), named by their timestamps in microseconds

fx, fy, cx and cy are in units of the frame's width and height. The distortion k1, k2 is zero. The 3 x 4 matrix maps the
world to the camera, whose axes point right, down and forward. FOLDER is one split of the data.

A frame is matched with its pose by its timestamp, which decoders of videos round differently: without a frame of the
very time, the nearest within TOLERANCE microseconds is taken, and a warning says so. A line that cannot be used still
counts as a frame, so no later frame gets another index.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.checks import abbreviate
from fwdiff_lite.datasets.clip_names import clip_file_name
from fwdiff_lite.datasets.images import encoded_suffix, image_files, list_folder
from fwdiff_lite.datasets.posed_clips import (
    Clip,
    camera_from_numbers,
    camera_numbers,
    check_on_error,
    raise_or_warn,
    read_each,
)
from fwdiff_lite.datasets.text_files import is_timestamp, parse_number, read_lines, shorten
from fwdiff_lite.storage.files import write_bytes, write_text

NUMBERS_PER_LINE = 19
TOLERANCE = 8000  # microseconds
LINE_FORM = "timestamp fx fy cx cy k1 k2, and a 3 x 4 matrix by rows"


def parse_line(line: str) -> tuple[int, Float[Tensor, "3 3"], Float[Tensor, "4 4"]]:
    """The timestamp, intrinsics and pose of one line. ValueError, without the line's number, if it is malformed."""
    words = line.split()
    if len(words) != NUMBERS_PER_LINE:
        raise ValueError(f"has {len(words)} numbers, wanted {NUMBERS_PER_LINE}: {LINE_FORM}")
    numbers = torch.tensor([parse_number(word) for word in words[1:]], dtype=torch.float64)
    if not is_timestamp(words[0]):
        raise ValueError(f"has the timestamp {shorten(words[0])}, wanted a whole number of microseconds")
    intrinsics, pose = camera_from_numbers(numbers)
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
    files, num_near = match_files(timestamps, file_of_timestamp)
    if num_near:
        warnings.append(f"{text_file}: {num_near} frames are matched by times that differ by up to 8 ms")
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


def match_files(timestamps: list[int], file_of_timestamp: dict[int, Path]) -> tuple[tuple[Path | None, ...], int]:
    """The file of each frame, or None, and the number of files whose time is not exactly that of the frame.

    A file belongs to one frame: exact matches come first, then the nearest within TOLERANCE.
    """
    files = [file_of_timestamp.get(timestamp) for timestamp in timestamps]
    exact = {timestamp for timestamp, file in zip(timestamps, files, strict=True) if file}
    left = sorted(file_of_timestamp.keys() - exact)
    num_near = 0
    for i, timestamp in enumerate(timestamps):
        if files[i] is None and timestamp >= 0 and left:
            nearest = min(left, key=lambda t: abs(t - timestamp))
            if abs(nearest - timestamp) <= TOLERANCE:
                left.remove(nearest)
                files[i] = file_of_timestamp[nearest]
                num_near += 1
    return tuple(files), num_near


def missing_frames_text(frame_folder: Path, image_paths: list[Path], timestamp: int, num_frames: int) -> str:
    """Why a clip has no frame, for an error message. timestamp: of one of its frames"""
    if not frame_folder.is_dir():
        return (
            f"{frame_folder} does not exist: extract the frames from the video whose address is line 1 of the text, "
            "or give chunks of pixelSplat, which hold the frames"
        )
    text = f"{frame_folder} holds none of its {num_frames} frames"
    if not image_paths:
        return f"{text} and no other image"
    return f"{text} but {abbreviate([path.name for path in image_paths])}: wanted names such as {timestamp}.png"


def is_split(folder: Path) -> bool:
    """Whether a folder holds text files of clips."""
    return any(is_clip_text(file) for file in folder.glob("*.txt"))


def is_clip_text(file: Path) -> bool:
    """Whether a text file is that of a clip: a folder of frames is beside it, or one of its first lines is a camera."""
    if file.with_suffix("").is_dir():
        return True
    try:
        with file.open(encoding="utf-8-sig") as lines:
            return any(len(line.split()) == NUMBERS_PER_LINE for line in islice(lines, 3))
    except (OSError, UnicodeDecodeError):
        return False


def read_split(folder: Path | str, on_error: str = "raise") -> tuple[list[Clip], list[str]]:
    """Reads the cameras of all clips of a split, without decoding an image; returns the clips and warnings.

    on_error: as in `read_clip`; also for clips without any frame, and for folders of frames without a text file
    """
    check_on_error(on_error)
    folder, warnings = Path(folder), []
    paths = list_folder(folder)
    for path in paths:
        if image_files(path) and not path.with_name(f"{path.name}.txt").exists():
            raise_or_warn(f"{path} has frames, but there is no {path.name}.txt", on_error, warnings)
    text_files = [path for path in paths if path.suffix == ".txt" and path.is_file()]
    if others := [path.name for path in text_files if not is_clip_text(path)]:
        warnings.append(f"{folder} has {len(others)} text files that are no clips: {abbreviate(others)}")
        text_files = [path for path in text_files if path.name not in others]
    return read_each(text_files, read_clip, on_error, warnings), warnings


def write_clip(folder: Path | str, clip: Clip) -> None:
    """Writes a clip as FOLDER/CLIP.txt and FOLDER/CLIP/TIMESTAMP.suffix. Images are copied byte by byte.

    Frames without an image or a camera are left out. ValueError if a lens distorts the clip or masks hide its
    background: then `convert` draws its frames first; also if the clip's name is not that of one file, or FOLDER holds
    the clip.
    """
    name = clip_file_name(clip.name)
    if (Path(folder) / f"{name}.txt").exists():
        raise ValueError(f"{folder} holds the clip {name} already: two clips have its name")
    if clip.has_distortion or clip.masks is not None:
        raise ValueError(f"{clip.name} has distortion or masks, which the text cannot hold: draw its frames first")
    folder, lines = Path(folder), ["converted"]
    for time, intrinsics, pose, file in zip(clip.timestamps, clip.intrinsics, clip.poses, clip.files, strict=True):
        if file is None:
            continue
        content = file.read_bytes()
        write_bytes(folder / name / f"{time}{encoded_suffix(content)}", content)
        lines.append(" ".join([str(time), *(f"{x:.17g}" for x in camera_numbers(intrinsics, pose).tolist())]))
    write_text(folder / f"{name}.txt", "\n".join(lines) + "\n")
