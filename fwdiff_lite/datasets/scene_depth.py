"""The depth of a clip's scene, estimated from matches between its frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fwdiff_lite.datasets.epipolar import pixel_intrinsics, sampson_distance
from fwdiff_lite.datasets.pose_check import FrameMatches, Matches
from fwdiff_lite.datasets.posed_clips import Clip

MAX_DISTANCE = 1.0  # pixels: a match that is farther off its epipolar line is no match
MIN_PARALLAX = 2.0  # degrees between the two rays to a point: with less, its depth is a guess
MIN_POINTS = 50  # in all clips
QUANTILES = (0.02, 0.98)  # of the depths; near and far leave MARGIN around them
MARGIN = 1.5


class MatchedPoints(NamedTuple):
    """Points of a scene that two frames share and the stated poses explain.

    points: (k, 3) in the clip's world; depths: (2, k) along the optical axes of the two cameras of each
    """

    points: Float[Tensor, "k 3"]
    depths: Float[Tensor, "2 k"]


def estimate_near_far(points: Iterable[MatchedPoints]) -> tuple[float, float] | None:
    """The near and far plane that enclose nearly all matched points of some clips; None if there are too few.

    They are in the clips' own unit. The planes are those of depth along the optical axis. A camera that only rotates
    gives no points.
    """
    depths = torch.cat([torch.zeros(0).double(), *(part.depths.flatten() for part in points)])
    if len(depths) < MIN_POINTS:
        return None
    near, far = depths.quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
    return near / MARGIN, far * MARGIN


def matched_points(clip: Clip, frame_matches: FrameMatches) -> MatchedPoints:
    """The points of all pairs of frames with matches (`pose_check.match_frames`)."""
    empty = MatchedPoints(torch.zeros(0, 3).double(), torch.zeros(2, 0).double())
    parts = [empty, *(_points_of_pair(clip, *of_pair) for of_pair in zip(*frame_matches, strict=True))]
    return MatchedPoints(torch.cat([part.points for part in parts]), torch.cat([part.depths for part in parts], 1))


def _points_of_pair(clip: Clip, pair: Int[Tensor, "2"], matches: Matches) -> MatchedPoints:
    intrinsics, poses = pixel_intrinsics(clip.intrinsics[pair], matches.sizes), clip.poses[pair]
    fits = sampson_distance(intrinsics, poses, matches.points1, matches.points2) < MAX_DISTANCE
    image_points = torch.stack([matches.points1[fits], matches.points2[fits]])
    depths, parallax = triangulate(intrinsics, poses, image_points)
    valid = (parallax > MIN_PARALLAX) & (depths > 0).all(0)
    homogeneous = torch.cat([image_points[0], torch.ones_like(image_points[0, :, :1])], -1)
    in_camera = depths[0, :, None] * (homogeneous @ torch.linalg.inv(intrinsics[0]).T)
    points = (in_camera - poses[0, :3, 3]) @ poses[0, :3, :3]
    return MatchedPoints(points[valid], depths[:, valid])


def triangulate(
    intrinsics: Float[Tensor, "2 3 3"], poses: Float[Tensor, "2 4 4"], points: Float[Tensor, "2 k 2"]
) -> tuple[Float[Tensor, "2 k"], Float[Tensor, "k"]]:
    """The depths at two cameras of the points where two rays come closest, and the angle between the rays in degrees.

    points: in the units of the intrinsics
    """
    camera_to_world = torch.linalg.inv(poses)
    directions = torch.cat([points, torch.ones_like(points[..., :1])], -1) @ torch.linalg.inv(intrinsics).mT
    r1, r2 = (directions @ camera_to_world[:, :3, :3].mT).unbind(0)  # of depth 1
    offset = camera_to_world[1, :3, 3] - camera_to_world[0, :3, 3]
    # minimise |depth1 r1 - depth2 r2 - offset|^2 over both depths
    a, b, c = (r1 * r1).sum(-1), (r1 * r2).sum(-1), (r2 * r2).sum(-1)
    determinant = (a * c - b * b).clamp(min=1e-12)
    d1, d2 = r1 @ offset, r2 @ offset
    depths = torch.stack([c * d1 - b * d2, b * d1 - a * d2]) / determinant
    parallax = torch.acos((b / (a * c).sqrt()).clamp(-1, 1)).rad2deg()
    return depths, parallax
