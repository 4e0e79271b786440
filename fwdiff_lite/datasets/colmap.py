"""Reads a reconstruction of COLMAP (Schoenberger and Frahm 2016), in its text or its binary format.

    cameras.txt     CAMERA_ID MODEL WIDTH HEIGHT PARAMS...                    intrinsics in pixels, from the corner
    images.txt      IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME              and a line of points, which may be empty

Quaternion and translation map the world to the camera, whose axes point right, down and forward. Both files lie in
FOLDER, FOLDER/sparse or FOLDER/sparse/0; the images lie in FOLDER/images, or beside the files. The binary files,
cameras.bin and images.bin, are read by pycolmap, an optional dependency, where there are no text files.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.datasets.images import find_file, first_line, image_size, natural_sort_key
from fwdiff_lite.datasets.posed_clips import (
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
from fwdiff_lite.datasets.text_files import parse_number, read_lines, shorten

# The parameters of a camera model, in their order. A single f is the focal length along both axes.
CAMERA_MODELS = {
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fx fy cx cy",
    "SIMPLE_RADIAL": "f cx cy k1",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fx fy cx cy k1 k2 p1 p2",
    "FULL_OPENCV": "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6",
}
SPARSE_FOLDERS = ("", "sparse", "sparse/0")
TWO_LINES = "an image and its points take two lines"
BINARY_ERRORS = (ValueError, RuntimeError, IndexError, MemoryError)  # of pycolmap, for files that are damaged


class ImageEntry(NamedTuple):
    """An image of a reconstruction.

    place: for messages; words: identifier, quaternion, translation and camera, as in images.txt; name: of its file
    """

    place: str
    words: list[str]
    name: str


class Camera(NamedTuple):
    """A camera's width and height in pixels, its intrinsics over them, and its distortion k1, k2, p1, p2, k3."""

    size: tuple[float, float]
    intrinsics: Float[Tensor, "3 3"]
    distortion: Float[Tensor, "5"]


def read_colmap(folder: Path | str, on_error: str = "raise") -> tuple[Clip, list[str]]:
    """Reads one reconstruction, without decoding its images; returns it as a clip, and warnings.

    The frames are in the natural order of their names. They have no times: their timestamps are their ranks.
    on_error: "raise" raises a ValueError, "skip" skips the data and adds a warning, for an image with an invalid pose,
        of another aspect ratio than its camera, or that is missing. Invalid cameras are always a ValueError.
    """
    check_on_error(on_error)
    folder, warnings = Path(folder), []
    sparse = find_sparse_folder(folder)
    cameras, entries = read_text(sparse) if is_text(sparse) else read_binary(sparse)
    entries = sorted(entries, key=lambda entry: natural_sort_key(entry.name))
    image_folder = folder / "images" if (folder / "images").is_dir() else folder
    clip, files, missing = Clip.without_cameras(folder_name(folder), len(entries)), [None] * len(entries), []
    for i, (place, words, name) in enumerate(entries):
        file = find_file(image_folder, name)
        if file is None:
            missing.append(name)
            continue
        try:
            pose, camera_id = parse_pose(words), words[8]
            if camera_id not in cameras:
                raise ValueError(f"has the camera {shorten(camera_id)}, which the list of cameras lacks")
            camera = cameras[camera_id]
            check_aspect_ratio(camera.size, image_size(file))
            clip.intrinsics[i], clip.poses[i], clip.distortion[i] = camera.intrinsics, pose, camera.distortion
            files[i] = file
        except ValueError as error:
            raise_or_warn(f"{place} ({name}) {error}", on_error, warnings)
    return complete_capture(sparse, replace(clip, files=tuple(files)), missing, on_error, warnings)


def is_reconstruction(folder: Path) -> bool:
    """Whether a folder holds a reconstruction, in text or in binary format."""
    return any((folder / name / f"cameras.{suffix}").is_file() for name in SPARSE_FOLDERS for suffix in ("txt", "bin"))


def find_sparse_folder(folder: Path) -> Path:
    """The folder of cameras and images. ValueError if there is none."""
    for sparse in (folder / name for name in SPARSE_FOLDERS):
        if is_text(sparse) or (sparse / "cameras.bin").is_file():
            return sparse
    raise ValueError(f"{folder} holds no cameras.txt with images.txt: wanted them in it, in sparse or in sparse/0")


def is_text(sparse: Path) -> bool:
    """Whether a reconstruction is in text format."""
    return (sparse / "cameras.txt").is_file() and (sparse / "images.txt").is_file()


def read_text(sparse: Path) -> tuple[dict[str, Camera], list[ImageEntry]]:
    """The cameras by their identifiers, and the images. ValueError if a camera or a line is invalid."""
    return read_cameras(sparse / "cameras.txt"), read_image_lines(sparse / "images.txt")


def read_binary(sparse: Path) -> tuple[dict[str, Camera], list[ImageEntry]]:
    """The cameras by their identifiers, and the images that have a pose. ValueError as in `read_text`.

    Also a ValueError if pycolmap is not installed.
    """
    try:
        import pycolmap
    except ImportError:
        raise ValueError(
            f"{sparse} is in COLMAP's binary format: install its reader, `pip install fwdiff-lite[colmap]`, or "
            "write text, `colmap model_converter --input_path DIR --output_path DIR --output_type TXT`"
        ) from None
    try:
        reconstruction = pycolmap.Reconstruction(str(sparse))
    except BINARY_ERRORS as error:
        raise ValueError(f"{sparse} cannot be read as COLMAP's binary format: {first_line(error)}") from None
    cameras, entries = {}, []
    for camera_id, camera in reconstruction.cameras.items():
        words = [camera_id, camera.model.name, camera.width, camera.height, *camera.params]
        try:
            cameras[str(camera_id)] = parse_camera([str(word) for word in words])
        except ValueError as error:
            raise ValueError(f"{sparse / 'cameras.bin'} camera {camera_id} {error}") from None
    for image_id, image in reconstruction.images.items():
        if image.has_pose:
            pose = image.cam_from_world()
            x, y, z, w = pose.rotation.quat
            words = [str(word) for word in (image_id, w, x, y, z, *pose.translation, image.camera_id)]
            entries.append(ImageEntry(f"{sparse / 'images.bin'} image {image_id}", words, image.name))
    return cameras, entries


def read_cameras(path: Path) -> dict[str, Camera]:
    """The cameras by their identifiers. ValueError if one is invalid."""
    cameras = {}
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            if words[0] in cameras:
                raise ValueError(f"has the camera {shorten(words[0])} a second time")
            cameras[words[0]] = parse_camera(words)
        except ValueError as error:
            raise ValueError(f"{path} line {number} {error}") from None
    return cameras


def parse_camera(words: list[str]) -> Camera:
    """The camera of a line. ValueError, without the line's number, if it is invalid."""
    if len(words) < 4:
        raise ValueError(f"has {len(words)} words, wanted an identifier, a camera model, width, height and parameters")
    model, (width, height, *values) = words[1], map(parse_number, words[2:])
    check_camera_model(model, CAMERA_MODELS)
    names = CAMERA_MODELS[model].split()
    if len(values) != len(names):
        raise ValueError(f"has {len(values)} parameters, wanted {len(names)} of {model}")
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ValueError(f"has the size {width:g} x {height:g}, wanted numbers above 0")
    parameters = dict(zip(names, values, strict=True))
    fx, fy = parameters.get("fx", parameters.get("f")), parameters.get("fy", parameters.get("f"))
    intrinsics = intrinsics_from_pixels((fx, fy), (parameters["cx"], parameters["cy"]), (width, height))
    return Camera((width, height), intrinsics, distortion_coefficients(parameters))


def read_image_lines(path: Path) -> list[ImageEntry]:
    """The images. ValueError if a line is malformed.

    The line behind an image holds its points, X Y POINT3D_ID, and is left out. Blank lines before an image are, too.
    """
    images, lines = [], enumerate(read_lines(path), 1)
    for number, line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        *words, name = line.split(maxsplit=9)  # a name may have spaces
        if len(words) != 9:
            raise ValueError(f"{path} line {number} has {len(words) + 1} words, wanted 10: {TWO_LINES}")
        images.append(ImageEntry(f"{path} line {number}", words, name.strip()))
        next_number, points = next(lines, (number + 1, ""))
        count = len(points.split())
        if count % 3 or (count and not is_number(points.rsplit(maxsplit=1)[-1])):
            raise ValueError(
                f"{path} line {next_number} has {count} words, wanted points, three numbers each: {TWO_LINES}"
            )
    return images


def is_number(word: str) -> bool:
    """Whether a word is a decimal number."""
    try:
        parse_number(word)
    except ValueError:
        return False
    return True


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
