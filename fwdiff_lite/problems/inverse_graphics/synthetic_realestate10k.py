"""Tabletop scenes as clips in RealEstate10K's format (fwdiff_lite/datasets/realestate10k.py), to try that path with."""

from __future__ import annotations

import math
from pathlib import Path

import imageio.v3 as imageio
import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.cameras import look_at, pixel_centres, rays

HEIGHT, WIDTH = 120, 160  # of a frame: not square, so that it is cut
INTRINSICS = (0.9 * HEIGHT / WIDTH, 0.9, 0.52, 0.47)  # fx fy cx cy over width and height, the axis off the middle
STEP = 33_367  # microseconds from one frame to the next


def path_around(frames: int, generator: torch.Generator) -> Float[Tensor, "t 4 4"]:
    """World-to-camera poses of a camera held by hand: no stretch of its way is like another."""
    time = torch.linspace(0, 1, frames, dtype=torch.float64)

    def wander(size: float) -> Tensor:
        phase, pace = torch.rand(2, 3, generator=generator, dtype=torch.float64)
        waves = torch.sin(2 * math.pi * (phase + torch.tensor([1.0, 2.3, 4.1]) * (0.7 + 0.6 * pace) * time[:, None]))
        return size * (waves / torch.tensor([1.0, 2.0, 4.0])).sum(-1)

    turn = 2 * math.pi * torch.rand((), generator=generator, dtype=torch.float64)
    azimuth, elevation, distance = turn + 0.6 * time + wander(0.25), 0.45 + wander(0.12), 3.1 + wander(0.3)
    flat = distance * elevation.cos()
    eye = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), distance * elevation.sin()], -1)
    at = torch.stack([wander(0.08), wander(0.08), 0.1 + wander(0.05)], -1)
    camera = look_at(eye, at, math.pi / 2)  # whose focal length is a half: what is left of it is the pose
    camera[:, :2] = 2 * (camera[:, :2] - 0.5 * camera[:, 2:3])
    return camera


def camera_of(pose: Float[Tensor, "t 4 4"]) -> Float[Tensor, "t 4 4"]:
    """This package's cameras of whole frames."""
    fx, fy, cx, cy = INTRINSICS
    lens = torch.tensor([[fx, 0, cx, 0], [0, fy, cy, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=pose.dtype)
    return lens @ pose


def draw(
    scene: tabletop.Scenes, cameras: Float[Tensor, "t 4 4"], height: int, width: int, finer: int = 2
) -> Float[Tensor, "t h w 3"]:
    """What cameras see of one scene, in [-1, 1]; a pixel is the mean of finer x finer rays."""
    uv = pixel_centres(height * finer, width * finer, cameras)
    shots = [tabletop.cast(scene, *rays(camera[None, None], uv))[0] for camera in cameras]
    return torch.cat(shots).view(-1, height, finer, width, finer, 3).mean((2, 4))


def text_of(name: str, times: list[int], poses: Float[Tensor, "t 4 4"]) -> str:
    """A clip's text file: one line of where it is from, and one for each frame; times in microseconds."""
    rows = [f"https://www.example.org/watch?v={name}"]
    for time, pose in zip(times, poses[:, :3].flatten(1).tolist(), strict=True):
        rows.append(" ".join([str(time), *(f"{x:.9f}" for x in INTRINSICS), "0.0 0.0", *(f"{x:.9f}" for x in pose)]))
    return "\n".join(rows) + "\n"


def write(
    folder: Path, clips: int, frames: int, seed: int = 0
) -> dict[str, tuple[tabletop.Scenes, Float[Tensor, "t 4 4"]]]:
    """Writes NAME.txt and NAME/TIMESTAMP.png; returns each clip's scene and poses."""
    generator, made = torch.Generator().manual_seed(seed), {}
    scenes = tabletop.draw_scenes(clips, generator)
    for i in range(clips):
        name, poses = f"clip{i:02d}", path_around(frames, generator)
        (folder / name).mkdir(parents=True)
        times = [500_000 + STEP * n for n in range(frames)]
        pictures = draw(scenes[i : i + 1], camera_of(poses).float(), HEIGHT, WIDTH)
        for time, picture in zip(times, pictures, strict=True):
            imageio.imwrite(folder / name / f"{time}.png", ((picture + 1) * 127.5).round().byte().numpy())
        (folder / f"{name}.txt").write_text(text_of(name, times, poses))
        made[name] = scenes[i : i + 1], poses
    return made
