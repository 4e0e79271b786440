"""A folder of short videos, as training data for problems/motion.

A video is a file (gif, or mp4 and others with the package av) or a folder of images, in the natural order of their
names: 1, 2, 10. Frames are cropped to the square at their centre, resized to one size, and scaled to [-1, 1].
"""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.checks import check_count
from fwdiff_lite.datasets.images import (
    BACKGROUND,
    DECODER_ERRORS,
    IMAGE_SUFFIXES,
    Location,
    check_depth,
    check_options,
    check_video_size,
    crop_and_resize,
    first_line,
    image_files,
    list_folder,
    open_folder,
    read_gif,
    read_image,
)
from fwdiff_lite.observations import Observations

VIDEO_SUFFIXES = (".gif", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


def read_videos(
    folder: Path | str, size: int = 64, background: tuple[int, int, int] = BACKGROUND
) -> dict[str, Float[Tensor, "t 3 size size"]]:
    """Reads all videos of a folder and of its sub-folders, by name: video files, and folders of images.

    folder: a folder, or a zip archive. The name of a video in a sub-folder starts with that of the sub-folder.
    Raises ValueError if there is no video, and as `read_video` for each of them.
    """
    check_options(size, background)
    paths = find_videos(open_folder(folder, "videos, or folders of images"))
    if not paths:
        raise ValueError(f"{folder} holds no video: wanted files ({', '.join(VIDEO_SUFFIXES)}) or folders of images")
    return {name: _read_video(path, size, background) for name, path in paths.items()}


def find_videos(folder: Location, prefix: str = "", depth: int = 0) -> dict[str, Location]:
    """The video files and the folders of images in a folder, by name, in natural order."""
    check_depth(folder, depth)
    paths = {}
    for path in list_folder(folder):
        if path.is_dir() and not image_files(path):
            paths |= find_videos(path, f"{prefix}{path.name}/", depth + 1)
        elif path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES:
            paths[f"{prefix}{path.name}"] = path
    return paths


def read_video(
    path: Path | str, size: int = 64, background: tuple[int, int, int] = BACKGROUND
) -> Float[Tensor, "t 3 size size"]:
    """Reads one video of t >= 2 frames, in [-1, 1].

    background: the colour behind transparent pixels, 0 to 255
    Raises ValueError, with the file's name, if the video cannot be read, has only one frame, has frames of several
    sizes or smaller than `size`, or is too large (`images.check_video_size`).
    """
    check_options(size, background)
    return _read_video(Path(path), size, background)


def _read_video(path: Location, size: int, background: tuple[int, int, int]) -> Float[Tensor, "t 3 size size"]:
    frames, shape, num_pixels = [], None, 0
    for frame in _decode_frames(path, background):
        shape = shape or frame.shape[:2]
        if frame.shape[:2] != shape:
            raise ValueError(
                f"{path} has frames of several sizes (height, width), {[shape, frame.shape[:2]]}: resize them to one"
            )
        num_pixels += shape[0] * shape[1]
        check_video_size(path, len(frames) + 1, num_pixels)
        frames.append(crop_and_resize(frame[None], size, path))
    if len(frames) < 2:
        raise ValueError(f"{path} has {len(frames)} frame: a video needs two or more")
    return torch.cat(frames)


def _decode_frames(path: Location, background: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """The frames of a video file or of a folder of images, one by one: (h, w, 3) of 8 bits."""
    if path.is_dir():
        files = image_files(path)
        check_video_size(path, len(files), 0)
        return (read_image(file, background) for file in files)
    if path.suffix.lower() == ".gif":
        return read_gif(path, background)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return iter([read_image(path, background)])
    return _decode_video(path)


def _decode_video(path: Location) -> Iterator[np.ndarray]:
    """The frames of a video file that is not a GIF, by the package av alone: no other decoder tries the file."""
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{path} is not a video: wanted a file ({', '.join(VIDEO_SUFFIXES)}) or a folder of images")
    if importlib.util.find_spec("av") is None:
        raise ValueError(f"{path} cannot be read: the package av is missing (pip install imageio[pyav])")
    if not isinstance(path, Path):
        raise ValueError(f"{path} is a video in an archive, which is not read: unpack the archive")
    try:
        yield from imageio.imiter(path, plugin="pyav", format="rgb24")
    except DECODER_ERRORS as error:
        raise ValueError(f"{path} cannot be read: {first_line(error)}") from None


def batches(
    videos: dict[str, Float[Tensor, "t 3 h w"]], batch_size: int = 32, max_frame_gap: int | None = None
) -> Callable[[torch.Generator], dict[str, Observations]]:
    """A batch function for fit(): a random frame of a video as source image, and two later frames as target and novel.

    max_frame_gap: the largest number of frames between the source image and a later frame, which is tau = 1; default:
        one less than the length of the shortest video

    Raises ValueError if the gap does not fit the shortest video, or the videos have several sizes.
    """
    if not videos:
        raise ValueError("there are no videos: give one or more, as from read_videos")
    check_count(batch_size=batch_size)
    first_name, first_video = next(iter(videos.items()))
    for name, video in videos.items():
        if video.shape[1:] != first_video.shape[1:]:
            raise ValueError(
                f"{name} has frames of shape {tuple(video.shape[1:])}: wanted {tuple(first_video.shape[1:])} as in "
                f"{first_name}"
            )
    shortest = min(len(video) for video in videos.values())
    max_frame_gap = shortest - 1 if max_frame_gap is None else max_frame_gap
    if not isinstance(max_frame_gap, int):
        raise ValueError(f"max_frame_gap is {max_frame_gap!r}: wanted a whole number")
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
