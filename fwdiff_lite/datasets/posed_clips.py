"""A posed clip: the frames of a video, with the intrinsics and the pose of the camera of each frame.

All readers of posed images give clips, whatever the format. Cameras are in OpenCV's convention: a pose maps the world
to the camera, whose axes point right, down and forward.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from fwdiff_lite.checks import abbreviate, check_count
from fwdiff_lite.datasets.images import (
    EncodedImage,
    ImageFile,
    center_crop_box,
    crop_and_resize,
    read_image,
)
from fwdiff_lite.datasets.text_files import shorten

# Over the width or height of the frame: fields of view of 157 degrees and of half a degree
MIN_FOCAL_LENGTH, MAX_FOCAL_LENGTH = 0.1, 100
MAX_ASPECT_ERROR = 0.01  # of width over height
MAX_FOCAL_RATIO = 1.1  # between frames of one clip, in pixels; a crop from 5:4 to a square changes more
MAX_TRANSLATION = 1e9  # in the clip's unit: larger numbers lose their meaning in single precision
COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3")  # of distortion, in OpenCV's order
DISTORTION = (*COEFFICIENTS, "k4", "k5", "k6")  # the last three mean different things in different programs
UNDISTORT = "undistort the images first, as `colmap image_undistorter` does"
MAX_DISTORTION = 100.0
SKIPPED = ": skipped"  # the end of a warning of data that is left out
ON_ERROR = ("raise", "skip")  # what a reader does with invalid data


@dataclass(frozen=True, eq=False)
class Clip:
    """The n frames of a clip, in order of time.

    A frame keeps its index even if its camera or its image is missing, so the gap between two frames is the difference
    of their indices.
    timestamps: (n,) in microseconds, or ranks if the frames have no times; -1 if the frame has no camera
    intrinsics: (n, 3, 3) in units of the frame's width and height; poses: (n, 4, 4) world to camera. Both are in double
        precision; NaN if the frame has no camera.
    files: (n,) image files; None if the frame has no usable image
    distortion: (n, 5) the coefficients k1, k2, p1, p2, k3 of the lens (Brown 1966), as in OpenCV; None for a pinhole.
        `read_frame` undoes it.
    masks: (n,) image files that are white where the object is; None if there are none
    file_format: the name of the format of its file (`clip_folder.FORMATS`), for messages; empty if it has no file
    """

    name: str
    timestamps: tuple[int, ...]
    intrinsics: Float[Tensor, "n 3 3"]
    poses: Float[Tensor, "n 4 4"]
    files: tuple[ImageFile | None, ...]
    distortion: Float[Tensor, "n 5"] | None = None
    masks: tuple[ImageFile | None, ...] | None = None
    file_format: str = ""

    @staticmethod
    def without_cameras(name: str, n: int) -> Clip:
        """A clip of n frames to be filled: all cameras NaN, no image, and no distortion."""
        nan = torch.full((n, 4, 4), torch.nan, dtype=torch.float64)
        return Clip(name, (-1,) * n, nan[:, :3, :3].clone(), nan.clone(), (None,) * n, nan.new_zeros(n, 5))

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def has_image(self) -> Bool[Tensor, "n"]:
        """Which frames have an image."""
        return torch.tensor([file is not None for file in self.files])

    @property
    def has_distortion(self) -> bool:
        """Whether a frame has to be undistorted."""
        return self.distortion is not None and bool(self.distortion.any())

    def read_frame(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes frame i, undoes the distortion of its lens, and shows its background white if it has a mask.

        ValueError, with the file's name, if the image or the mask cannot be read or they differ in size, or the image
        has an EXIF orientation.
        """
        frame = read_image(self.files[i], has_camera=True)
        if self.masks is not None and self.masks[i] is not None:
            mask = read_image(self.masks[i])
            if mask.shape != frame.shape:
                raise ValueError(
                    f"{self.masks[i]} has {mask.shape[1]} x {mask.shape[0]} pixels, its image {frame.shape[1]} x "
                    f"{frame.shape[0]}: wanted the same"
                )
            frame = np.where(mask > 127, frame, np.uint8(255))
        if self.distortion is not None and self.distortion[i].any():
            frame = undistort(frame, self.intrinsics[i], self.distortion[i])
        return frame

    def load_frames(
        self, frame_indices: list[int], side: int
    ) -> tuple[Float[Tensor, "m 3 side side"], Float[Tensor, "m 4 4"]]:
        """Loads m frames: images, cropped to the square at their centre and resized to `side` pixels, and cameras.

        A camera is one matrix, world to (u d, v d, d, 1), with u and v in [0, 1] over the square. Every clip has its
        own world. Here, the camera of the first of the m frames defines the world: it is at the origin and looks along
        the z axis.
        ValueError, with the file's name, if an image cannot be read or its shape does not fit its intrinsics; also if a
        frame has no image.
        """
        check_count(side=side)
        if not frame_indices or not all(0 <= i < len(self) and self.files[i] for i in frame_indices):
            raise ValueError(f"frame_indices is {frame_indices}, wanted indices of frames with an image, at least one")
        images, intrinsics, sizes = [], [], []
        for i in frame_indices:
            frame = self.read_frame(i)
            sizes.append((frame.shape[1], frame.shape[0]))
            images.append(crop_and_resize(frame[None], side, self.files[i]))
            intrinsics.append(crop_intrinsics(self.intrinsics[i], *frame.shape[:2]))
        for problem in other_shapes(self, frame_indices, sizes).values():
            raise ValueError(problem)
        poses = self.poses[frame_indices] @ torch.linalg.inv(self.poses[frame_indices[0]])
        return torch.cat(images), camera_matrices(torch.stack(intrinsics), poses).float()


def distortion_coefficients(parameters: Mapping[str, float]) -> Float[Tensor, "5"]:
    """The distortion of a camera by the names of its parameters; those that are missing are 0.

    ValueError, whose message lacks the file's name, if a coefficient is not undone.
    """
    if others := [key for key in DISTORTION if key not in COEFFICIENTS and parameters.get(key)]:
        raise ValueError(f"has distortion ({', '.join(others)}) that is not undone: {UNDISTORT}")
    coefficients = torch.tensor([parameters.get(key, 0.0) for key in COEFFICIENTS], dtype=torch.float64)
    if not coefficients.abs().max() <= MAX_DISTORTION:
        raise ValueError(f"has distortion {coefficients.tolist()}, wanted coefficients of at most {MAX_DISTORTION}")
    return coefficients


def distort(points: Float[Tensor, "*b 2"], distortion: Float[Tensor, "5"]) -> Float[Tensor, "*b 2"]:
    """Where a lens with coefficients k1, k2, p1, p2, k3 shows the point (x / z, y / z)."""
    k1, k2, p1, p2, k3 = distortion.to(points.dtype)
    x, y = points.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return torch.stack(
        [x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], -1
    )


def undistort(
    frame: UInt8[np.ndarray, "h w 3"], intrinsics: Float[Tensor, "3 3"], distortion: Float[Tensor, "5"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The frame that a pinhole camera with the same intrinsics would show. Beyond the edge, the edge is repeated."""
    height, width = frame.shape[:2]
    v, u = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    focal, center = intrinsics.diagonal()[:2].float(), intrinsics[:2, 2].float()
    source = distort((torch.stack([u, v], -1) - center) / focal, distortion) * focal + center
    image = torch.from_numpy(frame).movedim(-1, 0)[None].float()
    image = torch.nn.functional.grid_sample(image, 2 * source[None] - 1, padding_mode="border", align_corners=False)
    return image[0].movedim(0, -1).round().to(torch.uint8).numpy()


def without_distortion(clip: Clip) -> Clip:
    """The clip with frames that are drawn without distortion and masks, as PNG, when they are read.

    A clip without either is returned as it is.
    """
    if not clip.has_distortion and clip.masks is None:
        return clip
    files = [
        file and EncodedImage(f"{file}, undistorted", partial(_encode_frame, clip, i))
        for i, file in enumerate(clip.files)
    ]
    return replace(clip, files=tuple(files), distortion=None, masks=None)


def _encode_frame(clip: Clip, i: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(clip.read_frame(i)).save(stream, "png")
    return stream.getvalue()


def crop_intrinsics(intrinsics: Float[Tensor, "3 3"], height: int, width: int) -> Float[Tensor, "3 3"]:
    """The intrinsics of a frame after a crop to the square at its centre, in units of the square's side.

    Resizing the square does not change them.
    """
    top, left, side = center_crop_box(height, width)
    crop = [[width / side, 0, -left / side], [0, height / side, -top / side], [0, 0, 1]]
    return torch.tensor(crop, dtype=intrinsics.dtype) @ intrinsics


def intrinsics_matrix(fx: float, fy: float, cx: float, cy: float) -> Float[Tensor, "3 3"]:
    """The intrinsics of a frame, in units of its width and height.

    ValueError, whose message lacks the file's name, if the values are invalid.
    """
    if not all(MIN_FOCAL_LENGTH <= focal <= MAX_FOCAL_LENGTH for focal in (fx, fy)):
        raise ValueError(
            f"has focal lengths {fx:.3g} and {fy:.3g}, wanted both from {MIN_FOCAL_LENGTH} to {MAX_FOCAL_LENGTH}: over "
            "width and height, not in pixels"
        )
    if not (0 <= cx <= 1 and 0 <= cy <= 1):
        raise ValueError(
            f"has the principal point {cx:.3g} {cy:.3g}, wanted it in the frame: over width and height, in [0, 1]"
        )
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


def intrinsics_from_pixels(
    focal: tuple[float, float], center: tuple[float, float], size: tuple[float, float]
) -> Float[Tensor, "3 3"]:
    """The intrinsics of a frame, in units of its width and height, from pixels.

    focal: lengths along both axes; center: the principal point; size: width and height, above 0
    ValueError, whose message lacks the file's name, if the values are invalid, or seem to be in other units.
    """
    (fx, fy), (cx, cy), (width, height) = focal, center, size
    if not (MIN_FOCAL_LENGTH <= fx / width <= MAX_FOCAL_LENGTH and MIN_FOCAL_LENGTH <= fy / height <= MAX_FOCAL_LENGTH):
        raise ValueError(
            f"has focal lengths {fx:.3g} and {fy:.3g}, wanted pixels: {MIN_FOCAL_LENGTH} to {MAX_FOCAL_LENGTH} times "
            f"{width:g} x {height:g}"
        )
    if not (0 <= cx <= width and 0 <= cy <= height) or (max(cx, cy) <= 1 < min(size) / 2):
        raise ValueError(
            f"has the principal point {cx:.3g} {cy:.3g}, wanted pixels: a point in the frame of {width:g} x {height:g}"
        )
    return intrinsics_matrix(fx / width, fy / height, cx / width, cy / height)


def check_pose(pose: Float[Tensor, "4 4"]) -> None:
    """ValueError, whose message lacks the file's name, if a pose is not a rotation and a translation."""
    rotation, translation = pose[:3, :3], pose[:3, 3]
    if (problem := _rotation_problem(rotation)) is not None:
        raise ValueError(f"has a pose whose first three columns are not a rotation matrix{problem}")
    if not translation.abs().max() <= MAX_TRANSLATION:
        raise ValueError(f"has a translation of {translation.abs().max():.3g}, wanted at most {MAX_TRANSLATION:.0e}")


def _rotation_problem(matrix: Float[Tensor, "3 3"]) -> str | None:
    """Why a matrix is no rotation, for the end of a sentence; None if it is one."""
    if not matrix.isfinite().all():
        return ": they have a NaN or an infinite number"
    gram, identity, determinant = matrix @ matrix.T, torch.eye(3, dtype=matrix.dtype), float(torch.linalg.det(matrix))
    if (gram - identity).abs().max() < 1e-3:
        return ": they are mirrored, with the determinant -1" if determinant < 0 else None
    square = float(gram.diagonal().mean())
    if 0 < square < math.inf and (gram / square - identity).abs().max() < 1e-3:
        return f": they are one that is scaled by {math.copysign(math.sqrt(square), determinant):.4g}"
    return ""


def check_on_error(on_error: str) -> None:
    """ValueError if a reader does not know what to do with invalid data."""
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error={on_error!r} is unknown: choose one of {', '.join(ON_ERROR)}")


def raise_or_warn(problem: str, on_error: str, warnings: list[str]) -> None:
    """Raises a ValueError with the problem if on_error is "raise"; else adds a warning that the data was skipped."""
    if on_error == "raise":
        raise ValueError(f"{problem}; fix it, or skip it (on_error='skip', --on-error skip)")
    warnings.append(f"{problem}{SKIPPED}")


def no_data_text(source: Path | str, wanted: str, warnings: list[str], otherwise: str) -> str:
    """An error message for a source all of whose data was skipped. otherwise: the reason if there is no warning"""
    return f"{source} has no {wanted}; the first problem: {(warnings or [otherwise])[0].removesuffix(SKIPPED)}"


def read_each(
    paths: Iterable[Path], read: Callable[[Path, str], tuple[Clip, list[str]]], on_error: str, warnings: list[str]
) -> list[Clip]:
    """The clips that a reader of one clip gives for some paths; adds its warnings, and skips clips as on_error says."""
    clips = []
    for path in paths:
        try:
            clip, clip_warnings = read(path, on_error)
        except ValueError as error:
            if on_error == "raise":
                raise
            raise_or_warn(str(error), on_error, warnings)
        else:
            clips.append(clip)
            warnings += clip_warnings
    return clips


def folder_name(folder: Path) -> str:
    """The name of a folder, also of one that is given as `..` or `.`."""
    return os.path.basename(os.path.abspath(folder))


def complete_capture(
    source: Path, clip: Clip, missing: list[str], on_error: str, warnings: list[str]
) -> tuple[Clip, list[str]]:
    """The result of a reader of photographs, whose timestamps are the ranks of the frames.

    source: for messages; missing: the names of images that are listed and not there
    ValueError if there is no frame.
    """
    if missing:
        raise_or_warn(
            f"{source} lists {len(missing)} images that are missing: {abbreviate(missing)}", on_error, warnings
        )
    paths, repeated, files = set(), [], list(clip.files)
    for i, file in enumerate(files):
        if file is not None and (path := os.path.normpath(file)) in paths:
            repeated.append(file.name)
            files[i] = None
        elif file is not None:
            paths.add(path)
    if repeated:
        raise_or_warn(f"{source} lists {len(repeated)} images again: {abbreviate(repeated)}", on_error, warnings)
    if not any(files):
        raise ValueError(no_data_text(source, "frame", warnings, "it lists no image"))
    timestamps = tuple(i if file else -1 for i, file in enumerate(files))
    return replace(clip, files=tuple(files), timestamps=timestamps), warnings


def camera_from_numbers(numbers: Float[Tensor, "18"]) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "4 4"]]:
    """Intrinsics and pose of a frame's numbers in RealEstate10K's order: fx fy cx cy, k1 k2, a 3 x 4 matrix by rows.

    ValueError, whose message lacks the file's name, if they are invalid.
    """
    if not numbers.isfinite().all():
        raise ValueError("has a NaN or an infinite number")
    fx, fy, cx, cy, *distortion = numbers[:6].tolist()
    if any(distortion):
        raise ValueError(f"has distortion {distortion}, wanted zeros: undistort the frames first")
    intrinsics, pose = intrinsics_matrix(fx, fy, cx, cy), torch.eye(4, dtype=torch.float64)
    pose[:3] = numbers[6:].view(3, 4)
    check_pose(pose)
    return intrinsics, pose


def camera_numbers(intrinsics: Float[Tensor, "3 3"], pose: Float[Tensor, "4 4"]) -> Float[Tensor, "18"]:
    """The inverse of `camera_from_numbers`."""
    (fx, _, cx), (_, fy, cy), _ = intrinsics.tolist()
    return torch.cat([torch.tensor([fx, fy, cx, cy, 0, 0], dtype=torch.float64), pose[:3].flatten()])


def camera_matrices(intrinsics: Float[Tensor, "*b 3 3"], poses: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """Intrinsics and pose as one matrix: world to (u d, v d, d, 1)."""
    return torch.cat([intrinsics @ poses[..., :3, :], poses[..., 3:, :]], -2)


def check_aspect_ratio(camera_size: tuple[float, float], image_size: tuple[int, int]) -> None:
    """ValueError, whose message lacks the file's name, if an image has another aspect ratio than its camera.

    Sizes are (width, height). An image of another resolution has the same aspect ratio, one of another crop has not.
    """
    (width, height), (image_width, image_height) = camera_size, image_size
    if min(width, height) <= 0 or abs(width / height * image_height / image_width - 1) > MAX_ASPECT_ERROR:
        raise ValueError(
            f"has {image_width} x {image_height} pixels, but its camera {width:g} x {height:g}: wanted one aspect ratio"
        )


def other_shapes(clip: Clip, frame_indices: list[int], sizes: list[tuple[int, int]]) -> dict[int, str]:
    """The frames whose shape does not fit their intrinsics as that of other frames does, with an error message each.

    sizes: width and height of each frame, in pixels. The ratio of the two focal lengths, in pixels, is that of the
    pixels' sides, which is 1 for most cameras. A turned or cropped frame changes the ratio.
    """
    ratios = focal_ratios(clip.intrinsics[frame_indices], sizes)
    median = ratios.median()
    others = ((ratios / median).log().abs() > math.log(MAX_FOCAL_RATIO)).nonzero()[:, 0].tolist()
    return {
        frame_indices[k]: f"{clip.files[frame_indices[k]]} has {sizes[k][0]} x {sizes[k][1]} pixels, and focal lengths "
        f"whose ratio is {ratios[k]:.3g}, in other frames {median:.3g}: was it turned or cropped?"
        for k in others
    }


def focal_ratios(intrinsics: Float[Tensor, "n 3 3"], sizes: list[tuple[int, int]]) -> Float[Tensor, "n"]:
    """The focal length along x over that along y, in pixels, of frames of some widths and heights."""
    width, height = torch.tensor(sizes, dtype=intrinsics.dtype).unbind(1)
    return intrinsics[:, 0, 0] * width / (intrinsics[:, 1, 1] * height)


def check_camera_model(model: str, known: Iterable[str]) -> None:
    """ValueError, whose message lacks the file's name, if a camera has a model that is not read."""
    if model not in known:
        raise ValueError(f"has the camera model {shorten(model)}, wanted one of {', '.join(known)}: {UNDISTORT}")
