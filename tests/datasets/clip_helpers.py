"""Helpers of the tests of posed clips."""

from dataclasses import replace

import torch

from fwdiff_lite.datasets.posed_clips import Clip
from fwdiff_lite.problems.inverse_graphics.cameras import look_at
from fwdiff_lite.problems.inverse_graphics.synthetic_realestate10k import FRAME_INTERVAL

NUM_FRAMES, FRAME_GAP = 36, (8, 16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def frame_name(i: int) -> str:
    """The file name of a synthetic clip's frame."""
    return f"{500_000 + FRAME_INTERVAL * i}.png"


def edit_lines(text_file, change) -> None:
    lines = text_file.read_text().split("\n")
    change(lines)
    text_file.write_text("\n".join(lines))


def offset_poses(clip: Clip, k: int) -> Clip:
    """The clip with the pose of every frame taken from k frames before."""
    poses = clip.poses.roll(k, 0)
    poses[:k] = torch.nan if k > 0 else poses[:k]
    poses[k:] = torch.nan if k < 0 else poses[k:]
    return replace(clip, poses=poses)


def poses_looking_at(eyes, targets):
    """World-to-camera poses without intrinsics."""
    poses = look_at(eyes, targets, torch.pi / 2)
    poses[:, :2] = 2 * (poses[:, :2] - 0.5 * poses[:, 2:3])
    return poses
