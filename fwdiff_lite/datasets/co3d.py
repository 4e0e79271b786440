"""Reads CO3D, version 2 (Reizenstein et al. 2021): turntable videos of objects, with cameras and masks.

    FOLDER/frame_annotations.jgz    a list of frames: sequence_name, frame_number, image {path, size: height width},
                                    mask {path}, viewpoint {R, T, focal_length, principal_point, intrinsics_format}
    FOLDER/set_lists/NAME.json      {"train": [[sequence, frame number, path], ...], "val": ..., "test": ...}

FOLDER is one category; paths are relative to its parent, or to FOLDER itself. The cameras are PyTorch3D's: a point is a
row vector, X R + T, in axes that point left, up and forward. Focal length and principal point are in normalized device
coordinates, which run to the left and up: over [-1, 1] along each side (ndc_norm_image_bounds), or along the shorter
side (ndc_isotropic).
"""

from __future__ import annotations

import gzip
import json
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.checks import abbreviate
from fwdiff_lite.datasets.clip_names import is_clip_name
from fwdiff_lite.datasets.images import find_file, first_line, image_size
from fwdiff_lite.datasets.posed_clips import (
    Clip,
    check_aspect_ratio,
    check_on_error,
    check_pose,
    intrinsics_matrix,
    no_data_text,
    raise_or_warn,
)
from fwdiff_lite.datasets.text_files import MAX_TEXT_BYTES, is_timestamp, read_json_object, shorten
from fwdiff_lite.storage.files import DAMAGE_ERRORS

ANNOTATIONS = "frame_annotations.jgz"
FORMATS = ("ndc_norm_image_bounds", "ndc_isotropic")  # of intrinsics; without one, the first
LEFT_UP = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)  # from PyTorch3D's axes to OpenCV's


class Selection(NamedTuple):
    """The frames of CO3D that are read, and how.

    subset, set_list: only the frames of a subset of FOLDER/set_lists/SET_LIST.json, such as "train" and
        "set_lists_fewview_dev"; None: all frames
    masks: show the background white
    """

    subset: str | None = None
    set_list: str | None = None
    masks: bool = False


ALL_FRAMES = Selection()


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments that select frames of CO3D."""
    parser.add_argument("--subset", metavar="NAME", help="of CO3D: the frames of a subset only, such as train")
    list_help = "of CO3D: the file in set_lists, without .json, that has the subset"
    parser.add_argument("--set-list", metavar="NAME", help=list_help)
    parser.add_argument("--masks", action="store_true", help="of CO3D: show the background of the object white")


def selection_from(options: Namespace) -> Selection:
    """The selection of parsed arguments (`add_arguments`). ValueError if one of the two names is missing."""
    if (options.subset is None) != (options.set_list is None):
        raise ValueError("--subset and --set-list belong together: give both, such as train and set_lists_fewview_dev")
    return Selection(options.subset, options.set_list, options.masks)


def is_category(folder: Path) -> bool:
    """Whether a folder holds one category."""
    return (folder / ANNOTATIONS).is_file()


def read_category(
    folder: Path | str, on_error: str = "raise", selection: Selection = ALL_FRAMES
) -> tuple[list[Clip], list[str]]:
    """Reads one category, without decoding its images; returns its sequences as clips by name, and warnings.

    The frames of a clip are in the order of their frame numbers, which are its timestamps.
    on_error: "raise" raises a ValueError, "skip" skips the data and adds a warning, for a frame with an invalid or a
        left-handed camera, and for images or masks that are missing
    ValueError if there is no frame, or the category lacks the set list or the subset.
    """
    check_on_error(on_error)
    folder, warnings = Path(folder), []
    subset, set_list, use_masks = selection
    selected = None if subset is None else _read_set_list(folder, set_list, subset)
    sequences = defaultdict(list)
    for number, frame in enumerate(_read_annotations(folder / ANNOTATIONS)):
        try:
            name, frame_number = _frame_key(frame)
        except ValueError as error:
            raise_or_warn(f"{folder / ANNOTATIONS} frame {number} {error}", on_error, warnings)
            continue
        if selected is None or (name, frame_number) in selected:
            sequences[name].append((frame_number, frame))
    clips = []
    for name in sorted(sequences):
        clip = _read_sequence(folder, name, sequences[name], use_masks, on_error, warnings)
        if any(clip.files):
            clips.append(clip)
    if not clips:
        reason = f"the subset {subset} has no frame" if subset else "it lists no frame"
        raise ValueError(no_data_text(folder, "usable sequence", warnings, reason))
    return clips, warnings


def camera_from_viewpoint(
    viewpoint: Mapping[str, Any], height: int, width: int
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "4 4"]]:
    """The intrinsics, over width and height, and the pose of a PyTorch3D camera.

    ValueError, without the frame's name, if the camera is invalid.
    """
    intrinsics_format = viewpoint.get("intrinsics_format") or FORMATS[0]
    if intrinsics_format not in FORMATS:
        name = shorten(str(intrinsics_format))
        raise ValueError(f"has the intrinsics_format {name}, wanted one of {', '.join(FORMATS)}")
    focal, center = (_vector(viewpoint, key, 2) for key in ("focal_length", "principal_point"))
    rotation, translation = _vector(viewpoint, "R", 9).view(3, 3), _vector(viewpoint, "T", 3)
    if torch.linalg.det(rotation) < 0:
        raise ValueError("has a left-handed camera: the determinant of its R is negative")
    size = torch.tensor([width, height], dtype=torch.float64)
    unit = size if intrinsics_format == FORMATS[0] else size.min()  # pixels of the interval [-1, 1]
    fx, fy = (focal * unit / size / 2).tolist()
    cx, cy = (0.5 - center * unit / size / 2).tolist()
    intrinsics, pose = intrinsics_matrix(fx, fy, cx, cy), torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = (rotation * LEFT_UP).T, translation * LEFT_UP
    check_pose(pose)
    return intrinsics, pose


def _read_sequence(
    folder: Path, name: str, frames: list[tuple[int, dict]], use_masks: bool, on_error: str, warnings: list[str]
) -> Clip:
    """One sequence as a clip. Frames that are not usable keep their indices."""
    frames = sorted(frames, key=lambda frame: frame[0])
    clip, n = Clip.without_cameras(name, len(frames)), len(frames)
    timestamps, files, masks, missing, checked_sizes = [-1] * n, [None] * n, [None] * n, [], set()
    for i, (frame_number, frame) in enumerate(frames):
        try:
            if i and frame_number == frames[i - 1][0]:
                raise ValueError("is listed a second time")
            file, mask = _find(folder, frame, "image"), _find(folder, frame, "mask") if use_masks else None
            absent = [str(frame[key]["path"]) for key, path in (("image", file), ("mask", mask)) if path is False]
            if absent:
                missing += absent
                continue
            height, width = _vector(frame["image"], "size", 2).tolist()
            if not isinstance(viewpoint := frame.get("viewpoint"), dict) or min(height, width) < 1:
                raise ValueError("has no viewpoint or no size")
            if (width, height) not in checked_sizes:  # the first image of a size: to open all takes minutes
                check_aspect_ratio((width, height), image_size(file))
                checked_sizes.add((width, height))
            clip.intrinsics[i], clip.poses[i] = camera_from_viewpoint(viewpoint, int(height), int(width))
            timestamps[i], files[i], masks[i] = frame_number, file, mask
        except ValueError as error:
            raise_or_warn(f"{folder.name} {name} frame {frame_number} {error}", on_error, warnings)
    if missing:
        text = f"{folder.name} {name} lists {len(missing)} files that are missing: {abbreviate(missing)}"
        raise_or_warn(text, on_error, warnings)
    return replace(
        clip,
        timestamps=tuple(timestamps),
        files=tuple(files),
        masks=tuple(masks) if use_masks else None,
        distortion=None,
    )


def _read_annotations(path: Path) -> list[Any]:
    """The list of a gzip file of JSON. ValueError if it is damaged, too large or no list."""
    try:
        with gzip.open(path) as file:
            content = file.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise ValueError(f"it has more than {MAX_TEXT_BYTES // 10**6} MB, unpacked")
        frames = json.loads(content)
        if not isinstance(frames, list):
            raise ValueError(f"it holds a {type(frames).__name__}, wanted a list of frames")
    except DAMAGE_ERRORS as error:
        raise ValueError(f"{path} cannot be read: {first_line(error)}") from None
    return frames


def _read_set_list(folder: Path, set_list: str | None, subset: str) -> set[tuple[str, int]]:
    """The sequences and frame numbers of a subset. ValueError if there is none, or it has another form."""
    path = folder / "set_lists" / f"{set_list}.json"
    if set_list is None or not path.is_file():
        names = sorted(file.stem for file in (folder / "set_lists").glob("*.json"))
        raise ValueError(f"{folder} has no set list {set_list}: choose one of {', '.join(names) or 'none'}")
    subsets = read_json_object(path)
    if subset not in subsets:
        raise ValueError(f"{path} has no subset {subset!r}: choose one of {', '.join(subsets)}")
    try:
        return {(str(name), int(number)) for name, number, *_ in subsets[subset]}
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{path} {subset} is no list of [sequence, frame number, path]") from None


def _frame_key(frame: Any) -> tuple[str, int]:
    """The sequence and the number of a frame. ValueError, without its name, if it has none."""
    name, number = (frame.get(key) for key in ("sequence_name", "frame_number")) if isinstance(frame, dict) else (0, 0)
    if not is_clip_name(name) or type(number) is not int or not is_timestamp(str(number)):
        raise ValueError(f"has the sequence_name {shorten(str(name))} and frame_number {shorten(str(number))}")
    return name, number


def _vector(entries: Mapping[str, Any], key: str, count: int) -> Float[Tensor, "count"]:
    """The numbers of an entry, flat. ValueError, without the frame's name, if it has others."""
    try:
        vector = torch.tensor(entries.get(key), dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        vector = torch.zeros(0)
    if len(vector) != count or not vector.isfinite().all():
        raise ValueError(f"has {key} = {shorten(str(entries.get(key)))}, wanted {count} numbers")
    return vector


def _find(folder: Path, frame: dict[str, Any], key: str) -> Path | bool:
    """The file of a frame's image or mask; False if it is missing. ValueError if the frame names none."""
    entry = frame.get(key)
    path = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(path, str) or not path or "\0" in path or Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"has no path of its {key} in the data set")
    return find_file(folder.parent, path) or find_file(folder, path) or False
