"""Synthetic clips in RealEstate10K's format: tabletop scenes filmed by a moving camera.

They test the reader of that format, fwdiff_lite/datasets/realestate10k.py.
"""

from __future__ import annotations

import math
from pathlib import Path

import imageio.v3 as imageio
import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.cameras import look_at, pixel_centres, rays

HEIGHT, WIDTH = 120, 160  # of a frame: not square, so that the reader has to crop it
INTRINSICS = (0.9 * HEIGHT / WIDTH, 0.9, 0.52, 0.47)  # fx, fy, cx, cy in units of width and height; off-centre
FRAME_INTERVAL = 33_367  # microseconds


def sample_camera_path(num_frames: int, generator: torch.Generator) -> Float[Tensor, "t 4 4"]:
    """World-to-camera poses of a random hand-held camera: no two segments of its path have the same motion."""
    time = torch.linspace(0, 1, num_frames, dtype=torch.float64)

    def smooth_noise(scale: float) -> Tensor:
        phase, speed = torch.rand(2, 3, generator=generator, dtype=torch.float64)
        frequency = torch.tensor([1.0, 2.3, 4.1]) * (0.7 + 0.6 * speed)
        sines = torch.sin(2 * math.pi * (phase + frequency * time[:, None]))
        return scale * (sines / torch.tensor([1.0, 2.0, 4.0])).sum(-1)

    first_azimuth = 2 * math.pi * torch.rand((), generator=generator, dtype=torch.float64)
    azimuth = first_azimuth + 0.6 * time + smooth_noise(0.25)
    elevation, distance = 0.45 + smooth_noise(0.12), 3.1 + smooth_noise(0.3)
    horizontal = distance * elevation.cos()
    eye = torch.stack([horizontal * azimuth.cos(), horizontal * azimuth.sin(), distance * elevation.sin()], -1)
    target = torch.stack([smooth_noise(0.08), smooth_noise(0.08), 0.1 + smooth_noise(0.05)], -1)
    poses = look_at(eye, target, math.pi / 2)  # a camera matrix with a focal length of 1/2 and its axis at 1/2
    poses[:, :2] = 2 * (poses[:, :2] - 0.5 * poses[:, 2:3])  # without its intrinsics it is the pose
    return poses


def cameras_from_poses(poses: Float[Tensor, "t 4 4"]) -> Float[Tensor, "t 4 4"]:
    """The camera matrices of whole frames, as fwdiff_lite defines them: intrinsics times pose."""
    fx, fy, cx, cy = INTRINSICS
    intrinsics = torch.tensor([[fx, 0, cx, 0], [0, fy, cy, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=poses.dtype)
    return intrinsics @ poses


def render_frames(
    scene: tabletop.Scenes, cameras: Float[Tensor, "t 4 4"], height: int, width: int, supersampling: int = 2
) -> Float[Tensor, "t h w 3"]:
    """The images of one scene by T cameras, in [-1, 1]; a pixel is the mean of supersampling x supersampling rays."""
    uv = pixel_centres(height * supersampling, width * supersampling, cameras)
    colours = [tabletop.render_rays(scene, *rays(camera[None, None], uv))[0] for camera in cameras]
    return torch.cat(colours).view(-1, height, supersampling, width, supersampling, 3).mean((2, 4))


def format_clip_text(name: str, times: list[int], poses: Float[Tensor, "t 4 4"]) -> str:
    """The content of a clip's text file: one line with its address, and one for each frame; times in microseconds."""
    rows = [f"https://www.example.org/watch?v={name}"]
    for time, pose in zip(times, poses[:, :3].flatten(1).tolist(), strict=True):
        rows.append(" ".join([str(time), *(f"{x:.9f}" for x in INTRINSICS), "0.0 0.0", *(f"{x:.9f}" for x in pose)]))
    return "\n".join(rows) + "\n"


def write_clips(
    folder: Path, num_clips: int, num_frames: int, seed: int = 0
) -> dict[str, tuple[tabletop.Scenes, Float[Tensor, "t 4 4"]]]:
    """Writes NAME.txt and NAME/TIMESTAMP.png for each clip; returns each clip's scene and poses by its name."""
    generator, clips = torch.Generator().manual_seed(seed), {}
    scenes = tabletop.sample_scenes(num_clips, generator)
    for i in range(num_clips):
        name, poses = f"clip{i:02d}", sample_camera_path(num_frames, generator)
        (folder / name).mkdir(parents=True)
        times = [500_000 + FRAME_INTERVAL * n for n in range(num_frames)]
        frames = render_frames(scenes[i : i + 1], cameras_from_poses(poses).float(), HEIGHT, WIDTH)
        for time, frame in zip(times, frames, strict=True):
            imageio.imwrite(folder / name / f"{time}.png", ((frame + 1) * 127.5).round().byte().numpy())
        (folder / f"{name}.txt").write_text(format_clip_text(name, times, poses))
        clips[name] = scenes[i : i + 1], poses
    return clips
