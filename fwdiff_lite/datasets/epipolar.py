"""The epipolar geometry of two cameras (Hartley and Zisserman 2004, Chapter 9)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

# Two cameras that are closer have no translation between them: in the clip's unit, and as a part of their distance to
# the world's origin, by which single precision rounds the poses of a camera that only rotates.
MIN_TRANSLATION, ROUNDING = 1e-6, 2e-7

Sizes = tuple[tuple[int, int], tuple[int, int]]


def pixel_intrinsics(intrinsics: Float[Tensor, "*b 2 3 3"], sizes: Sizes) -> Float[Tensor, "*b 2 3 3"]:
    """The intrinsics of two frames in pixels, if the frames have these widths and heights."""
    return torch.tensor([[*size, 1.0] for size in sizes], dtype=torch.float64).diag_embed() @ intrinsics


def has_translation(poses: Float[Tensor, "*b 2 4 4"]) -> Bool[Tensor, "*b"]:
    """Whether the centres of two cameras differ. A camera that only rotates has no epipolar lines."""
    translation = relative_pose(poses)[..., :3, 3].norm(dim=-1)
    return translation >= MIN_TRANSLATION + ROUNDING * poses[..., :3, 3].norm(dim=-1).amax(-1)


def relative_pose(poses: Float[Tensor, "*b 2 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """The pose that maps the axes of the first camera to those of the second one."""
    return poses[..., 1, :, :] @ torch.linalg.inv(poses[..., 0, :, :])


def fundamental_matrix(
    intrinsics: Float[Tensor, "*b 2 3 3"], poses: Float[Tensor, "*b 2 4 4"]
) -> Float[Tensor, "*b 3 3"]:
    """The matrix F with x2^T F x1 = 0 for the images x1, x2 of a point: F x1 is the epipolar line of x1 in image 2.

    F = K2^-T [t]x R K1^-1 (Hartley and Zisserman 2004, Eq. 9.1), with the unit translation t.
    ValueError if a camera has only rotated: then there are no epipolar lines.
    """
    if not has_translation(poses).all():
        raise ValueError("the two cameras are at one place: a camera that only rotates has no epipolar lines")
    relative = relative_pose(poses)
    translation = normalize(relative[..., :3, 3], dim=-1)
    axes = torch.eye(3).to(translation).expand(*translation.shape, 3)
    translation_cross = torch.linalg.cross(translation[..., None, :], axes).mT
    inverse1, inverse2 = torch.linalg.inv(intrinsics).unbind(-3)
    return inverse2.mT @ translation_cross @ relative[..., :3, :3] @ inverse1


def rotated_points(
    intrinsics: Float[Tensor, "*b 2 3 3"], poses: Float[Tensor, "*b 2 4 4"], points1: Float[Tensor, "k 2"]
) -> Float[Tensor, "*b k 2"]:
    """Where a camera that only rotates shows points (x, y) of the first image in the second one."""
    intrinsics1, intrinsics2 = intrinsics.unbind(-3)
    homography = intrinsics2 @ relative_pose(poses)[..., :3, :3] @ torch.linalg.inv(intrinsics1)
    rotated = _homogeneous(points1) @ homography.mT
    return rotated[..., :2] / rotated[..., 2:]


def sampson_distance(
    intrinsics: Float[Tensor, "*b 2 3 3"],
    poses: Float[Tensor, "*b 2 4 4"],
    points1: Float[Tensor, "k 2"],
    points2: Float[Tensor, "k 2"],
) -> Float[Tensor, "*b k"]:
    """Sampson's distance of matched points (x, y) to the epipolar lines of two cameras, in the units of the intrinsics.

    To first order, it is the distance that a match must be moved to satisfy x2^T F x1 = 0, with F the fundamental
    matrix (Hartley and Zisserman 2004, Eq. 11.9). If the camera has only rotated, the distance is that of points2 to
    the points1 that the rotation has moved.
    """
    moves = has_translation(poses)
    distance = points1.new_empty(*moves.shape, len(points1))
    distance[~moves] = (rotated_points(intrinsics[~moves], poses[~moves], points1) - points2).norm(dim=-1)
    fundamental = fundamental_matrix(intrinsics[moves], poses[moves])
    points1, points2 = _homogeneous(points1), _homogeneous(points2)
    lines2, lines1 = points1 @ fundamental.mT, points2 @ fundamental
    squared_gradient = lines2[..., :2].square().sum(-1) + lines1[..., :2].square().sum(-1)
    distance[moves] = (points2 * lines2).sum(-1).abs() / squared_gradient.sqrt().clamp(min=1e-12)
    return distance


def epipolar_lines(fundamental: Float[Tensor, "3 3"], points1: Float[Tensor, "k 2"]) -> Float[Tensor, "k 3"]:
    """The lines a x + b y + c = 0 in the second image of points (x, y) in the first one."""
    return _homogeneous(points1) @ fundamental.T


def _homogeneous(points: Float[Tensor, "k 2"]) -> Float[Tensor, "k 3"]:
    return torch.cat([points, torch.ones_like(points[:, :1])], 1)
