"""A posed clip: the frames of a video, with the intrinsics and the pose of the camera of each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwdiff_lite.datasets.images import center_crop_box, check_count, crop_and_resize, read_image


@dataclass(frozen=True, eq=False)
class Clip:
    """The n frames of a clip, in order of time.

    A frame keeps its index even if its camera or its image is missing, so the gap between two frames is the difference
    of their indices.
    timestamps: (n,) in microseconds; -1 if the frame has no camera
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
        check_count("side", side)
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


def camera_matrices(intrinsics: Float[Tensor, "*b 3 3"], poses: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """Intrinsics and pose as one matrix: world to (u d, v d, d, 1)."""
    return torch.cat([intrinsics @ poses[..., :3, :], poses[..., 3:, :]], -2)


def abbreviate(items: Sequence) -> str:
    """The first three items of a list, for an error message."""
    return ", ".join(map(str, items[:3])) + (", ..." if len(items) > 3 else "")


def is_timestamp(word: str) -> bool:
    """Whether a word is a whole number of microseconds, in ASCII digits."""
    return word.isascii() and word.isdecimal() and len(word) <= 18


def shorten(text: str, length: int = 60) -> str:
    """A text in quotes, on one line and of limited length, for an error message."""
    return repr(text) if len(text) <= length else f"{text[:length]!r}... ({len(text):,} characters)"
