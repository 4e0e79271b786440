"""A posed clip: the frames of a video, with the intrinsics and the pose of the camera of each frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwdiff_lite.checks import check_count
from fwdiff_lite.datasets.images import center_crop_box, crop_and_resize, first_line, read_image

MAX_FOCAL_LENGTH = 100  # over the width or height of the frame: a field of view of half a degree
MAX_ASPECT_ERROR = 0.01  # of width over height
MAX_TEXT_BYTES = 500_000_000
MAX_TRANSLATION = 1e9  # in the clip's unit: larger numbers lose their meaning in single precision
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
    """

    name: str
    timestamps: tuple[int, ...]
    intrinsics: Float[Tensor, "n 3 3"]
    poses: Float[Tensor, "n 4 4"]
    files: tuple[Path | None, ...]

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def has_image(self) -> Bool[Tensor, "n"]:
        """Which frames have an image."""
        return torch.tensor([file is not None for file in self.files])

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
            frame = read_image(self.files[i])
            images.append(crop_and_resize(frame[None], side, self.files[i]))
            intrinsics.append(crop_intrinsics(self.intrinsics[i], *frame.shape[:2]))
        poses = self.poses[frame_indices] @ torch.linalg.inv(self.poses[frame_indices[0]])
        return torch.cat(images), camera_matrices(torch.stack(intrinsics), poses).float()


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
