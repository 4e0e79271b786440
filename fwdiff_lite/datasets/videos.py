"""A folder of short videos, as training data for problems/motion.

A video is a file (gif, mp4, or another format that a plugin of imageio can read) or a folder of images (png, jpg),
which are ordered by their names. Frames are cropped to the square at their centre, resized to one size, and scaled to
[-1, 1].
"""

from collections.abc import Callable
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.observations import Observations

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".gif", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


def read_videos(folder: Path | str, size: int = 64) -> dict[str, Float[Tensor, "t 3 size size"]]:
    """Reads all videos of a folder, by name: video files, and folders of images.

    Raises ValueError if there is no video, and as `read_video` for each of them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one that holds videos, or folders of images")
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES or image_files(path)]
    if not paths:
        raise ValueError(f"{folder} holds no video: wanted files ({', '.join(VIDEO_SUFFIXES)}) or folders of images")
    return {path.name: read_video(path, size) for path in paths}


def read_video(path: Path | str, size: int = 64) -> Float[Tensor, "t 3 size size"]:
    """Reads one video of t >= 2 frames, in [-1, 1].

    Raises ValueError, with the file's name, if the video cannot be read, has only one frame, has frames of several
    sizes or smaller than `size`, or has more than 8 bits a channel.
    """
    path = Path(path)
    frames = [frame for file in (image_files(path) or [path]) for frame in read_frames(file, path.is_dir())]
    if len(frames) < 2:
        raise ValueError(f"{path} has {len(frames)} frame: a video needs two or more")
    sizes = sorted({frame.shape[:2] for frame in frames})
    if len(sizes) > 1:
        raise ValueError(f"{path} has frames of several sizes (height, width), {sizes}: resize them to one")
    return crop_and_resize(np.stack(frames), size, path)


def crop_and_resize(frames: np.ndarray, size: int, path: Path) -> Float[Tensor, "t 3 size size"]:
    """Crops frames (t, h, w, 3) of 8 bits to the square at their centre, resizes it to `size`, and scales to [-1, 1].

    Raises ValueError, with the file's name, if the frames are smaller than `size`.
    """
    height, width = frames.shape[1:3]
    top, left, side = center_crop_box(height, width)
    if side < size:
        raise ValueError(f"{path} has frames of {height}x{width} pixels: wanted at least {size}x{size}")
    crop = torch.from_numpy(frames[:, top : top + side, left : left + side]).permute(0, 3, 1, 2).float()
    crop = torch.nn.functional.interpolate(crop, (size, size), mode="bilinear", antialias=True)
    return (crop / 127.5 - 1).clamp(-1, 1)


def center_crop_box(height: int, width: int) -> tuple[int, int, int]:
    """Top, left and side of the largest square at the centre of a frame."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def image_files(path: Path) -> list[Path]:
    """The image files of a folder in the order of their names; an empty list if the path is not a folder."""
    return sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else []


def read_frames(file: Path, single_image: bool) -> list[np.ndarray]:
    """The frames of a file, (h, w, 3) of 8 bits. single_image: the file is an image and not a video.

    Raises ValueError, with the file's name, if it cannot be read or is not RGB or grey of 8 bits.
    """
    try:
        frames = imageio.imread(file)[None] if single_image else np.stack(list(imageio.imiter(file)))
    except FileNotFoundError:
        raise ValueError(f"{file} does not exist") from None
    except Exception as error:  # every plugin of imageio has its own errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        video = file.suffix.lower() not in (*IMAGE_SUFFIXES, ".gif")
        hint = " (videos need a plugin: pip install imageio[pyav])" if video else ""
        raise ValueError(f"{file} cannot be read: {reason}{hint}") from None
    if frames.dtype != np.uint8:
        raise ValueError(f"{file} has pixels of type {frames.dtype}: wanted 8 bits a channel")
    if frames.ndim == 3:
        frames = np.repeat(frames[..., None], 3, -1)  # grey
    if single_image and frames.shape[-1] == 4 and imageio.immeta(file).get("mode") == "CMYK":
        raise ValueError(f"{file} has CMYK colours: wanted RGB")
    if frames.ndim != 4 or frames.shape[-1] not in (3, 4):
        raise ValueError(f"{file} has frames of shape {frames.shape[1:]}: wanted (height, width, 3)")
    return list(frames[..., :3])


def batches(
    videos: dict[str, Float[Tensor, "t 3 h w"]], batch_size: int = 32, max_frame_gap: int | None = None
) -> Callable[[torch.Generator], dict[str, Observations]]:
    """A batch function for fit(): a random frame of a video as source image, and two later frames as target and novel.

    max_frame_gap: the largest number of frames between the source image and a later frame, which is tau = 1; default:
        one less than the length of the shortest video

    Raises ValueError if the gap does not fit the shortest video.
    """
    shortest = min(len(video) for video in videos.values())
    max_frame_gap = shortest - 1 if max_frame_gap is None else max_frame_gap
    if not 1 <= max_frame_gap < shortest:
        raise ValueError(
            f"a gap of {max_frame_gap} frames does not fit the shortest video, which has {shortest}: "
            f"give max_frame_gap from 1 to {shortest - 1}"
        )
    all_frames = torch.cat(list(videos.values()))
    lengths = torch.tensor([len(video) for video in videos.values()])
    video_offsets = lengths.cumsum(0) - lengths

    def batch(generator: torch.Generator) -> dict[str, Observations]:
        video_index = torch.randint(len(lengths), (batch_size,), generator=generator)
        source_index = torch.rand(batch_size, generator=generator) * (lengths[video_index] - max_frame_gap)
        source_index = video_offsets[video_index] + source_index.long()
        gaps = torch.randint(1, max_frame_gap + 1, (batch_size, 2), generator=generator)
        gaps = torch.cat([torch.zeros(batch_size, 1, dtype=torch.long), gaps], 1)  # (B, 3)
        views = Observations(all_frames[source_index[:, None] + gaps], gaps[..., None] / max_frame_gap)
        return {"context": views.select([0]), "target": views.select([1]), "novel": views.select([2])}

    return batch
