"""Reads a reconstruction of COLMAP (Schoenberger and Frahm 2016) in its text format.

    cameras.txt     CAMERA_ID MODEL WIDTH HEIGHT PARAMS...                    intrinsics in pixels, from the corner
    images.txt      IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME              and a line of points, which may be empty

Quaternion and translation map the world to the camera, whose axes point right, down and forward. Both files lie in
FOLDER, FOLDER/sparse or FOLDER/sparse/0; the images lie in FOLDER/images, or beside the files.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.checks import abbreviate
from fwdiff_lite.datasets.images import image_size, natural_sort_key
from fwdiff_lite.datasets.posed_clips import (
    Clip,
    check_aspect_ratio,
    check_on_error,
    check_pose,
    intrinsics_matrix,
    parse_number,
    raise_or_warn,
    read_lines,
    shorten,
)

# The indices of fx, fy, cx and cy among the parameters of a camera model. The other parameters are distortion.
CAMERA_MODELS = {
    "SIMPLE_PINHOLE": (0, 0, 1, 2),
    "PINHOLE": (0, 1, 2, 3),
    "SIMPLE_RADIAL": (0, 0, 1, 2),
    "RADIAL": (0, 0, 1, 2),
    "OPENCV": (0, 1, 2, 3),
    "FULL_OPENCV": (0, 1, 2, 3),
}
NUM_PARAMETERS = {
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "FULL_OPENCV": 12,
}
SPARSE_FOLDERS = ("", "sparse", "sparse/0")


def read_colmap(folder: Path | str, on_error: str = "raise") -> tuple[Clip, list[str]]:
    """Reads one reconstruction, without decoding its images; returns it as a clip, and warnings.

    The frames are in the natural order of their names. They have no times: their timestamps are their ranks.
    on_error: "raise" raises a ValueError, "skip" skips the data and adds a warning, for an image with an invalid pose,
        of another aspect ratio than its camera, or that is missing. Invalid cameras are always a ValueError.
    """
    check_on_error(on_error)
    folder, warnings = Path(folder), []
    sparse = find_sparse_folder(folder)
    cameras = read_cameras(sparse / "cameras.txt")
    entries = sorted(read_image_lines(sparse / "images.txt"), key=lambda entry: natural_sort_key(entry[2]))
    image_folder = folder / "images" if (folder / "images").is_dir() else folder
    intrinsics = torch.full((len(entries), 3, 3), torch.nan, dtype=torch.float64)
    poses, files, missing = torch.full((len(entries), 4, 4), torch.nan, dtype=torch.float64), [], []
    for i, (number, words, name) in enumerate(entries):
        file = image_folder / name
        files.append(None)
        if not file.is_file():
            missing.append(name)
            continue
        try:
            pose, camera_id = parse_pose(words), words[8]
            if camera_id not in cameras:
                raise ValueError(f"has the camera {shorten(camera_id)}, which cameras.txt lacks")
            size, camera = cameras[camera_id]
            check_aspect_ratio(size, image_size(file))
            intrinsics[i], poses[i], files[i] = camera, pose, file
        except ValueError as error:
            raise_or_warn(f"{sparse / 'images.txt'} line {number} ({name}) {error}", on_error, warnings)
    if missing:
        raise_or_warn(f"{sparse} has {len(missing)} images that are missing: {abbreviate(missing)}", on_error, warnings)
    if not any(files):
        raise ValueError(f"{sparse} has no image; the first problem: {(warnings or ['images.txt is empty'])[0]}")
    timestamps = tuple(i if file else -1 for i, file in enumerate(files))
    return Clip(folder.absolute().name, timestamps, intrinsics, poses, tuple(files)), warnings


def find_sparse_folder(folder: Path) -> Path:
    """The folder of cameras.txt and images.txt. ValueError if there is none."""
    for sparse in (folder / name for name in SPARSE_FOLDERS):
        if (sparse / "cameras.txt").is_file() and (sparse / "images.txt").is_file():
            return sparse
        if (sparse / "cameras.bin").is_file():
            raise ValueError(
                f"{sparse} is in COLMAP's binary format: write text with "
                "`colmap model_converter --input_path DIR --output_path DIR --output_type TXT`"
            )
    raise ValueError(f"{folder} holds no cameras.txt with images.txt: wanted them in it, in sparse or in sparse/0")


def read_cameras(path: Path) -> dict[str, tuple[tuple[float, float], Float[Tensor, "3 3"]]]:
    """The size in pixels and the intrinsics of each camera, by its identifier. ValueError if one is invalid."""
    cameras = {}
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            cameras[words[0]] = parse_camera(words)
        except ValueError as error:
            raise ValueError(f"{path} line {number} {error}") from None
    return cameras


def parse_camera(words: list[str]) -> tuple[tuple[float, float], Float[Tensor, "3 3"]]:
    """The size in pixels and the intrinsics of a camera. ValueError, without the line's number, if it is invalid."""
    if len(words) < 4:
        raise ValueError(f"has {len(words)} words, wanted an identifier, a camera model, width, height and parameters")
    model, (width, height, *parameters) = words[1], map(parse_number, words[2:])
    if model not in CAMERA_MODELS:
        raise ValueError(f"has the camera model {shorten(model)}, wanted one of {', '.join(CAMERA_MODELS)}")
    if len(parameters) != NUM_PARAMETERS[model]:
        raise ValueError(f"has {len(parameters)} parameters, wanted {NUM_PARAMETERS[model]} of {model}")
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ValueError(f"has the size {width:g} x {height:g}, wanted numbers above 0")
    indices = CAMERA_MODELS[model]
    distortion = [value for i, value in enumerate(parameters) if i not in indices]
    if any(distortion):
        raise ValueError(f"has distortion {distortion}: undistort the images first (`colmap image_undistorter`)")
    fx, fy, cx, cy = (parameters[i] for i in indices)
    return (width, height), intrinsics_matrix(fx / width, fy / height, cx / width, cy / height)


def read_image_lines(path: Path) -> list[tuple[int, list[str], str]]:
    """The line's number, the words and the name of each image. ValueError if a line is malformed.

    Every second line holds the points of an image and is left out.
    """
    lines = [(number, line) for number, line in enumerate(read_lines(path), 1) if not line.startswith("#")]
    images = []
    for number, line in lines[::2]:
        *words, name = line.split(maxsplit=9)  # a name may have spaces
        if len(words) != 9:
            raise ValueError(
                f"{path} line {number} has {len(words) + 1} words, wanted 10: an image and its points take two lines"
            )
        images.append((number, words, name.strip()))
    return images


def parse_pose(words: list[str]) -> Float[Tensor, "4 4"]:
    """The pose of an image line. ValueError, without the line's number, if it is none."""
    w, x, y, z, *translation = (parse_number(word) for word in words[1:8])
    quaternion = torch.tensor([w, x, y, z], dtype=torch.float64)
    if not (quaternion.norm() - 1).abs() < 1e-3:
        raise ValueError(f"has a quaternion of norm {quaternion.norm():.3g}, wanted 1")
    w, x, y, z = (quaternion / quaternion.norm()).tolist()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
    pose[:3, 3] = torch.tensor(translation, dtype=torch.float64)
    check_pose(pose)
    return pose
