"""A posed clip: the frames of a video, with the intrinsics and the pose of the camera of each frame.

All readers of posed images give clips, whatever the format. Cameras are in OpenCV's convention: a pose maps the world
to the camera, whose axes point right, down and forward.
"""

from __future__ import annotations

import io
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
    first_line,
    read_image,
)

MAX_FOCAL_LENGTH = 100  # over the width or height of the frame: a field of view of half a degree
MAX_ASPECT_ERROR = 0.01  # of width over height
MAX_TEXT_BYTES = 500_000_000
MAX_TRANSLATION = 1e9  # in the clip's unit: larger numbers lose their meaning in single precision
COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3")  # of distortion, in OpenCV's order
DISTORTION = (*COEFFICIENTS, "k4", "k5", "k6")  # the last three mean different things in different programs
MAX_DISTORTION = 100.0
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

        ValueError, with the file's name, if the image or the mask cannot be read or they differ in size.
        """
        frame = read_image(self.files[i])
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
        ValueError, with the file's name, if an image cannot be read; also if a frame has no image.
        """
        check_count(side=side)
        if not frame_indices or not all(0 <= i < len(self) and self.files[i] for i in frame_indices):
            raise ValueError(f"frame_indices is {frame_indices}, wanted indices of frames with an image, at least one")
        images, intrinsics = [], []
        for i in frame_indices:
            frame = self.read_frame(i)
            images.append(crop_and_resize(frame[None], side, self.files[i]))
            intrinsics.append(crop_intrinsics(self.intrinsics[i], *frame.shape[:2]))
        poses = self.poses[frame_indices] @ torch.linalg.inv(self.poses[frame_indices[0]])
        return torch.cat(images), camera_matrices(torch.stack(intrinsics), poses).float()


def distortion_coefficients(parameters: Mapping[str, float]) -> Float[Tensor, "5"]:
    """The distortion of a camera by the names of its parameters; those that are missing are 0.

    ValueError, whose message lacks the file's name, if a coefficient is not undone.
    """
    if others := [key for key in DISTORTION if key not in COEFFICIENTS and parameters.get(key)]:
        raise ValueError(f"has distortion ({', '.join(others)}) that is not undone: undistort the images first")
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
    if not (0 < fx <= MAX_FOCAL_LENGTH and 0 < fy <= MAX_FOCAL_LENGTH):
        raise ValueError(
            f"has focal lengths {fx:.3g} and {fy:.3g}, wanted both above 0 and at most {MAX_FOCAL_LENGTH}: over width "
            "and height, not in pixels"
        )
    if not (0 <= cx <= 1 and 0 <= cy <= 1):
        raise ValueError(
            f"has the principal point {cx:.3g} {cy:.3g}, wanted it in the frame: over width and height, in [0, 1]"
        )
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


def check_pose(pose: Float[Tensor, "4 4"]) -> None:
    """ValueError, whose message lacks the file's name, if a pose is not a rotation and a translation."""
    rotation, translation = pose[:3, :3], pose[:3, 3]
    if not (
        (rotation @ rotation.T - torch.eye(3, dtype=pose.dtype)).abs().max() < 1e-3 and torch.linalg.det(rotation) > 0
    ):
        raise ValueError("has a pose whose first three columns are not a rotation matrix")
    if not translation.abs().max() <= MAX_TRANSLATION:
        raise ValueError(f"has a translation of {translation.abs().max():.3g}, wanted at most {MAX_TRANSLATION:.0e}")


def check_on_error(on_error: str) -> None:
    """ValueError if a reader does not know what to do with invalid data."""
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error={on_error!r} is unknown: choose one of {', '.join(ON_ERROR)}")


def raise_or_warn(problem: str, on_error: str, warnings: list[str]) -> None:
    """Raises a ValueError with the problem if on_error is "raise"; else adds a warning that the data was skipped."""
    if on_error == "raise":
        raise ValueError(f"{problem}; fix it, or skip it (on_error='skip', --on-error skip)")
    warnings.append(f"{problem}: skipped")


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
    if not any(clip.files):
        raise ValueError(f"{source} has no frame; the first problem: {(warnings or ['it lists no image'])[0]}")
    return replace(clip, timestamps=tuple(i if file else -1 for i, file in enumerate(clip.files))), warnings


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


def is_timestamp(word: str) -> bool:
    """Whether a word is a whole number of microseconds, in ASCII digits."""
    return word.isascii() and word.isdecimal() and len(word) <= 18


def shorten(text: str, length: int = 60) -> str:
    """A text in quotes, on one line and of limited length, for an error message."""
    return repr(text) if len(text) <= length else f"{text[:length]!r}... ({len(text):,} characters)"


def parse_number(word: str) -> float:
    """The value of a decimal number in ASCII.

    ValueError, whose message lacks the file's name, if the word is not such a number.
    """
    try:
        if word.isascii() and "_" not in word:  # Python reads 1_000 and digits of other scripts too
            return float(word)
    except ValueError:
        pass
    raise ValueError(f"has {shorten(word)}, which is not a number")


def read_lines(text_file: Path) -> list[str]:
    """The lines of a text file. ValueError, with the file's name, if it cannot be read."""
    try:
        if (size := text_file.stat().st_size) > MAX_TEXT_BYTES:
            raise ValueError(f"it has {size / 1e6:.0f} MB, wanted at most {MAX_TEXT_BYTES // 1_000_000}")
        return text_file.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except OSError as error:
        raise ValueError(f"{text_file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{text_file} cannot be read: {first_line(error)}") from None


def check_aspect_ratio(camera_size: tuple[float, float], image_size: tuple[int, int]) -> None:
    """ValueError, whose message lacks the file's name, if an image has another aspect ratio than its camera.

    Sizes are (width, height). An image of another resolution has the same aspect ratio, one of another crop has not.
    """
    (width, height), (image_width, image_height) = camera_size, image_size
    if min(width, height) <= 0 or abs(width / height * image_height / image_width - 1) > MAX_ASPECT_ERROR:
        raise ValueError(
            f"has {image_width} x {image_height} pixels, but its camera {width:g} x {height:g}: wanted one aspect ratio"
        )
