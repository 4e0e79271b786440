"""Reads a capture in the format of nerfstudio and instant-ngp, such as that of a phone: transforms.json beside images.

    {"fl_x": 900, "fl_y": 900, "cx": 540, "cy": 960, "w": 1080, "h": 1920,
     "frames": [{"file_path": "images/1.jpg", "transform_matrix": [[...], [...], [...], [0, 0, 0, 1]]}, ...]}

The intrinsics are in pixels, of all frames or of one; `camera_angle_x`, in radians, stands for fl_x. The matrix maps
the camera to the world; the camera's axes point right, up and back, as in OpenGL. Without w and h, the intrinsics are
those of the image as it is.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.datasets.clip_names import clip_file_name
from fwdiff_lite.datasets.images import IMAGE_SUFFIXES, encoded_suffix, find_file, image_size, natural_sort_key
from fwdiff_lite.datasets.posed_clips import (
    COEFFICIENTS,
    DISTORTION,
    Clip,
    check_aspect_ratio,
    check_camera_model,
    check_on_error,
    check_pose,
    complete_capture,
    distortion_coefficients,
    folder_name,
    intrinsics_from_pixels,
    raise_or_warn,
)
from fwdiff_lite.datasets.text_files import read_json_object, shorten
from fwdiff_lite.storage.files import write_bytes, write_text

CAMERA_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE")
# A frame that has one of these entries has its own focal length: none of them is taken from the entries of all frames.
FOCAL_KEYS = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
NARROW_VIEW = 25.0  # degrees: few cameras have a smaller field of view; more often, the images were scaled down
# From OpenGL's axes, which point right, up and back, to OpenCV's, which point right, down and forward.
FLIP_Y_Z = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))


def read_transforms(path: Path | str, on_error: str = "raise") -> tuple[Clip, list[str]]:
    """Reads one capture, without decoding its images; returns it as a clip, and warnings.

    path: transforms.json, or the folder that holds it
    The frames are in the natural order of their file paths. They have no times: their timestamps are their ranks.
    on_error: "raise" raises a ValueError, "skip" skips the data and adds a warning, for a frame with an invalid camera,
        or whose image is missing. A capture without any frame or with another camera model is always a ValueError.
    """
    check_on_error(on_error)
    path, warnings = Path(path), []
    path = path / "transforms.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give transforms.json, or the folder that holds it")
    content = read_json_object(path)
    frames = content.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames) or not frames:
        raise ValueError(f"{path} has no list of frames")
    try:
        _check_camera_model(content)
        for key in ("applied_transform", "applied_scale"):
            if key in content:
                warnings.append(f"{path} has {key}: its world is that of the file, not the original one")
        frames = sorted(frames, key=lambda frame: natural_sort_key(_file_path(frame)))
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    clip, files, missing = Clip.without_cameras(folder_name(path.parent), len(frames)), [None] * len(frames), []
    narrow = []
    for i, frame in enumerate(frames):
        file = find_file(path.parent, _file_path(frame), ("", *IMAGE_SUFFIXES))  # NeRF's scenes leave out the suffix
        if file is None:
            missing.append(_file_path(frame))
            continue
        try:
            camera, size = _frame_entries(content, frame), image_size(file)
            clip.intrinsics[i], clip.poses[i], clip.distortion[i] = _frame_camera(camera, size)
            files[i] = file
            if not {"w", "h", "camera_angle_x"} & camera.keys() and _field_of_view(clip.intrinsics[i]) < NARROW_VIEW:
                narrow.append(i)
        except ValueError as error:
            raise_or_warn(f"{path}: {_file_path(frame)} {error}", on_error, warnings)
    if narrow:
        warnings.append(
            f"{path} has no w and h, so its intrinsics are for the images as they are, and {len(narrow)} frames have a "
            f"field of view of {_field_of_view(clip.intrinsics[narrow[0]]):.0f} degrees: if the images were scaled "
            "down, write the w and h of the original ones"
        )
    return complete_capture(path, replace(clip, files=tuple(files)), missing, on_error, warnings)


def write_transforms(path: Path | str, clip: Clip) -> None:
    """Writes the cameras of a clip as transforms.json. Its images stay where they are, and must be below its folder.

    ValueError if an image is elsewhere or no file of its own.
    """
    path, frames = Path(path), []
    distortion = torch.zeros(len(clip), 5) if clip.distortion is None else clip.distortion
    for file, intrinsics, pose, lens in zip(clip.files, clip.intrinsics, clip.poses, distortion, strict=True):
        if file is None:
            continue
        if not isinstance(file, Path):
            raise ValueError(f"{file} is a part of another file: use write_capture, which writes the images, too")
        if not file.absolute().is_relative_to(path.absolute().parent):
            raise ValueError(f"{file} is not below {path.parent}: write {path.name} beside the images")
        width, height = image_size(file)
        (fx, _, cx), (_, fy, cy), _ = (intrinsics * torch.tensor([[width], [height], [1.0]])).tolist()
        frames.append(
            {
                "file_path": file.absolute().relative_to(path.absolute().parent).as_posix(),
                "transform_matrix": (torch.linalg.inv(pose) @ FLIP_Y_Z).tolist(),
                **{"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": width, "h": height},
                **{key: value for key, value in zip(COEFFICIENTS, lens.tolist(), strict=True) if value},
            }
        )
    content = {"camera_model": "OPENCV" if clip.has_distortion else "PINHOLE", "frames": frames}
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_capture(folder: Path | str, clip: Clip) -> None:
    """Writes a clip as FOLDER/transforms.json and FOLDER/images. Images are copied byte by byte.

    FOLDER is named by the clip. ValueError if the name is not that of one folder, or FOLDER holds a capture.
    """
    folder, files = Path(folder), []
    if folder.name != clip_file_name(clip.name):
        raise ValueError(f"{folder} is to hold the clip {clip.name}: wanted a folder of this name")
    if (folder / "transforms.json").exists():
        raise ValueError(f"{folder} holds a capture already: two clips have the name {clip.name}")
    for i, file in enumerate(clip.files):
        content = file and file.read_bytes()
        files.append(content and folder / "images" / f"{i:06}{encoded_suffix(content)}")
        if content:
            write_bytes(files[-1], content)
    write_transforms(folder / "transforms.json", replace(clip, files=tuple(files)))


def _check_camera_model(camera: dict[str, Any]) -> None:
    """ValueError, without the file's name, if a camera has a model that is not read."""
    model = "fisheye" if camera.get("is_fisheye") else camera.get("camera_model", CAMERA_MODELS[0])
    check_camera_model(str(model), CAMERA_MODELS)


def _frame_entries(content: dict[str, Any], frame: dict[str, Any]) -> dict[str, Any]:
    """The entries of a frame, and those of all frames that it has not."""
    own_focal_length = any(key in frame for key in FOCAL_KEYS)
    return {k: v for k, v in content.items() if k != "frames" and not (own_focal_length and k in FOCAL_KEYS)} | frame


def _field_of_view(intrinsics: Float[Tensor, "3 3"]) -> float:
    """The horizontal field of view, in degrees."""
    return 2 * math.degrees(math.atan(0.5 / float(intrinsics[0, 0])))


def _focal_length(camera: dict[str, Any], axis: str, side: float) -> float | None:
    """The focal length along an axis in pixels, by itself or by the field of view along a side; None without either.

    ValueError, without the file's name, if it is no number or the angle is none.
    """
    if f"fl_{axis}" in camera:
        return _number(camera, f"fl_{axis}")
    if (key := f"camera_angle_{axis}") not in camera:
        return None
    if not 0 < (angle := _number(camera, key)) < math.pi:
        raise ValueError(f"has {key} = {angle:.4g}, wanted an angle in radians, above 0 and below pi")
    return 0.5 * side / math.tan(angle / 2)


def _frame_camera(
    camera: dict[str, Any], image_size: tuple[int, int]
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "4 4"], Float[Tensor, "5"]]:
    """The intrinsics, the pose and the distortion of one frame. ValueError, without the file's name, if one is invalid.

    camera: as of `_frame_entries`; image_size: width and height in pixels
    """
    _check_camera_model(camera)
    size = width, height = _number(camera, "w", image_size[0]), _number(camera, "h", image_size[1])
    check_aspect_ratio(size, image_size)
    fx = _focal_length(camera, "x", width)
    if fx is None:
        raise ValueError("has no focal length: wanted fl_x or camera_angle_x")
    fy = _focal_length(camera, "y", height)
    fy = fx if fy is None else fy
    center = _number(camera, "cx", width / 2), _number(camera, "cy", height / 2)
    intrinsics = intrinsics_from_pixels((fx, fy), center, size)
    try:
        camera_to_world = torch.tensor(camera.get("transform_matrix"), dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError("has a transform_matrix that is no matrix of numbers") from None
    if camera_to_world.shape != (4, 4):
        raise ValueError(f"has a transform_matrix of shape {tuple(camera_to_world.shape)}, wanted (4, 4)")
    last_row = camera_to_world[3].tolist()
    if not all(abs(x - y) < 1e-6 for x, y in zip(last_row, (0, 0, 0, 1), strict=True)):
        row = " ".join(f"{x:.4g}" for x in last_row)
        raise ValueError(f"has a transform_matrix whose last row is {row}, wanted 0 0 0 1: is it transposed?")
    check_pose(camera_to_world)
    distortion = distortion_coefficients({key: _number(camera, key, 0) for key in DISTORTION})
    return intrinsics, torch.linalg.inv(camera_to_world @ FLIP_Y_Z), distortion


def _number(camera: dict[str, Any], key: str, default: float | None = None) -> float:
    """A number of a camera. ValueError, without the file's name, if it is none."""
    value = camera.get(key, default)
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"has {key} = {shorten(str(value))}, wanted a number")
    return number


def _file_path(frame: dict[str, Any]) -> str:
    """The path of a frame's image. ValueError, without the file's name, if there is none."""
    file_path = frame.get("file_path")
    if not isinstance(file_path, str) or not file_path or "\0" in file_path:
        raise ValueError(f"has a frame with the file_path {shorten(str(file_path))}, wanted a path")
    return file_path
