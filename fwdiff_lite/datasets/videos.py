"""A folder of short video clips, as frames of moments: for problems/motion, where readers bring their own.

A clip is a file (gif, mp4 and whatever else imageio's plugins can read) or a folder of pictures (png, jpg), whose
order is that of their names. Frames are cut to a square in the middle, brought to one size, and scaled to [-1, 1].
"""

from collections.abc import Callable
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.observations import Observations

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
CLIPS = (".gif", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


def read_clips(folder: Path | str, size: int = 64) -> dict[str, Float[Tensor, "t 3 size size"]]:
    """All clips of a folder, by name: files, and folders of pictures. ValueError where there is none, or one is bad."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one that holds clips, or folders of pictures")
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in CLIPS or pictures(path)]
    if not found:
        raise ValueError(f"{folder} holds no clip: wanted files ({', '.join(CLIPS)}) or folders of pictures")
    return {path.name: read_clip(path, size) for path in found}


def read_clip(path: Path | str, size: int = 64) -> Float[Tensor, "t 3 size size"]:
    """One clip, t >= 2 frames in [-1, 1].

    ValueError, with the file's name, where it cannot be read, has one frame, frames of several sizes or smaller than
    `size`, or pixels of more than 8 bits.
    """
    path = Path(path)
    frames = [frame for file in (pictures(path) or [path]) for frame in read_frames(file, path.is_dir())]
    if len(frames) < 2:
        raise ValueError(f"{path} has {len(frames)} frame: a clip needs two or more")
    sizes = sorted({frame.shape[:2] for frame in frames})
    if len(sizes) > 1:
        raise ValueError(f"{path} has frames of several sizes (height, width), {sizes}: bring them to one")
    return squares(np.stack(frames), size, path)


def squares(frames: np.ndarray, size: int, path: Path) -> Float[Tensor, "t 3 size size"]:
    """Frames (t, h, w, 3) of 8 bits, cut to a square in the middle, `size` pixels a side, in [-1, 1].

    ValueError, with the file's name, where they are smaller.
    """
    height, width = frames.shape[1:3]
    top, left, side = middle(height, width)
    if side < size:
        raise ValueError(f"{path} has frames of {height}x{width} pixels: wanted at least {size}x{size}")
    cut = torch.from_numpy(frames[:, top : top + side, left : left + side]).permute(0, 3, 1, 2).float()
    cut = torch.nn.functional.interpolate(cut, (size, size), mode="bilinear", antialias=True)
    return (cut / 127.5 - 1).clamp(-1, 1)


def middle(height: int, width: int) -> tuple[int, int, int]:
    """Top, left and side of the square in the middle of a frame."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def pictures(path: Path) -> list[Path]:
    """The pictures in a folder in the order of their names; none if it is not a folder."""
    return sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES) if path.is_dir() else []


def read_frames(file: Path, alone: bool) -> list[np.ndarray]:
    """The frames of a file, (h, w, 3) in 8 bits; `alone`: it is a picture, and there is one."""
    try:
        frames = imageio.imread(file)[None] if alone else np.stack(list(imageio.imiter(file)))
    except FileNotFoundError:
        raise ValueError(f"{file} does not exist") from None
    except Exception as error:  # every plugin has errors of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        video = file.suffix.lower() not in (*PICTURES, ".gif")
        hint = " (videos need a plugin: pip install imageio[pyav])" if video else ""
        raise ValueError(f"{file} cannot be read: {reason}{hint}") from None
    if frames.dtype != np.uint8:
        raise ValueError(f"{file} has pixels of type {frames.dtype}: wanted 8 bits a channel")
    if frames.ndim == 3:
        frames = np.repeat(frames[..., None], 3, -1)  # grey
    if alone and frames.shape[-1] == 4 and imageio.immeta(file).get("mode") == "CMYK":
        raise ValueError(f"{file} has the colours of print (CMYK): wanted RGB")
    if frames.ndim != 4 or frames.shape[-1] not in (3, 4):
        raise ValueError(f"{file} has frames of shape {frames.shape[1:]}: wanted (height, width, 3)")
    return list(frames[..., :3])


def batches(
    clips: dict[str, Float[Tensor, "t 3 h w"]], size: int = 32, span: int | None = None
) -> Callable[[torch.Generator], dict[str, Observations]]:
    """For fit(): a still from somewhere in a clip, and two later frames of it, one the target and one novel.

    span: so many frames later is tau = 1; later frames come from within them. Default: all of the shortest clip
    """
    shortest = min(len(clip) for clip in clips.values())
    span = shortest - 1 if span is None else span
    if not 1 <= span < shortest:
        raise ValueError(f"a span of {span} frames does not fit the shortest clip, which has {shortest}: take less")
    all_frames = torch.cat(list(clips.values()))
    lengths = torch.tensor([len(clip) for clip in clips.values()])
    firsts = lengths.cumsum(0) - lengths

    def batch(generator: torch.Generator) -> dict[str, Observations]:
        which = torch.randint(len(lengths), (size,), generator=generator)
        start = (torch.rand(size, generator=generator) * (lengths[which] - span)).long()
        later = torch.randint(1, span + 1, (size, 2), generator=generator)
        steps = torch.cat([torch.zeros(size, 1, dtype=torch.long), later], 1)  # (B, 3)
        frames = all_frames[(firsts[which] + start)[:, None] + steps]
        seen = Observations(frames, steps[..., None] / span)
        return {"context": seen.select([0]), "target": seen.select([1]), "novel": seen.select([2])}

    return batch
