"""Reads a folder of posed clips in any of the formats that are known, and finds out which one it is.

    clips, warnings = read_folder("FOLDER")

| format          | a folder holds                                        | reader              |
|-----------------|-------------------------------------------------------|---------------------|
| pixelsplat      | 000000.torch ... and index.json                       | pixelsplat.py       |
| co3d            | frame_annotations.jgz, or categories that do          | co3d.py             |
| transforms      | transforms.json and images, or captures that do       | transforms_json.py  |
| colmap          | cameras and images, .txt or .bin, or captures that do | colmap.py           |
| realestate10k   | CLIP.txt and CLIP/TIMESTAMP.png                       | realestate10k.py    |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from fwdiff_lite.checks import abbreviate
from fwdiff_lite.datasets import co3d, colmap, pixelsplat, realestate10k, transforms_json
from fwdiff_lite.datasets.co3d import ALL_FRAMES, Selection
from fwdiff_lite.datasets.images import list_folder
from fwdiff_lite.datasets.pose_check import FrameMatches, match_frames, reject_mismatched
from fwdiff_lite.datasets.posed_clips import (
    MAX_FOCAL_RATIO,
    Clip,
    check_on_error,
    focal_ratios,
    no_data_text,
    other_shapes,
    raise_or_warn,
    read_each,
)
from fwdiff_lite.datasets.view_sampler import FRAME_GAP, check_frame_gap, context_target_pairs

Clips = tuple[list[Clip], list[str]]  # clips, and warnings
# Where COLMAP's reconstructions lie that are not read: other models than the first, and those of distorted images
COLMAP_PATTERNS = ("sparse/*/cameras.*", "*/sparse/cameras.*", "*/sparse/*/cameras.*")


class ClipFormat(NamedTuple):
    """A format of posed clips.

    name: for the command line; title: for people
    matches: whether a folder has the format; read: reads the clips of a folder, given what to do with invalid data
    unit_matches: whether a folder is one unit of the format, such as a capture; None: a unit is no folder
    """

    name: str
    title: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, str], Clips]
    unit_matches: Callable[[Path], bool] | None = None


def subfolders_with(matches: Callable[[Path], bool], folder: Path) -> list[Path]:
    """The folder itself if it matches, else its sub-folders that match."""
    if matches(folder):
        return [folder]
    return [path for path in list_folder(folder) if path.is_dir() and matches(path)]


def read_captures(matches: Callable, read: Callable, folder: Path, on_error: str) -> Clips:
    """Reads a folder of captures, each a clip of its own."""
    warnings: list[str] = []
    return read_each(subfolders_with(matches, folder), read, on_error, warnings), warnings


def read_categories(folder: Path, on_error: str, selection: Selection = ALL_FRAMES) -> Clips:
    """Reads a category of CO3D, or a folder of categories that all have the selected set list."""
    clips, warnings = [], []
    for path in subfolders_with(co3d.is_category, folder):
        category_clips, category_warnings = co3d.read_category(path, on_error, selection)
        clips += category_clips
        warnings += category_warnings
    return clips, warnings


def capture_format(name: str, title: str, matches: Callable[[Path], bool], read: Callable) -> ClipFormat:
    """The format of captures that are one clip a folder."""
    return ClipFormat(
        name,
        title,
        lambda folder: bool(subfolders_with(matches, folder)),
        lambda folder, on_error: read_captures(matches, read, folder, on_error),
        matches,
    )


FORMATS = (
    ClipFormat("pixelsplat", "chunks of pixelSplat", pixelsplat.is_chunk_folder, pixelsplat.read_chunks),
    ClipFormat(
        "co3d",
        "CO3D",
        lambda folder: bool(subfolders_with(co3d.is_category, folder)),
        read_categories,
        co3d.is_category,
    ),
    capture_format(
        "transforms",
        "transforms.json of nerfstudio or instant-ngp",
        lambda folder: (folder / "transforms.json").is_file(),
        transforms_json.read_transforms,
    ),
    capture_format("colmap", "a reconstruction of COLMAP", colmap.is_reconstruction, colmap.read_colmap),
    ClipFormat("realestate10k", "RealEstate10K's text", realestate10k.is_split, realestate10k.read_split),
)


def detect_format(folder: Path | str) -> ClipFormat:
    """The format of a folder. ValueError, with the known formats, if it has none of them."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one that holds posed clips")
    for clip_format in FORMATS:
        if clip_format.matches(folder):
            return clip_format
    raise ValueError(f"{folder} holds no posed clips: {near_miss_text(folder) or WANTED_TEXT}")


WANTED_TEXT = (
    f"wanted {', '.join(f.title for f in FORMATS[:-1])}, or CLIP.txt and CLIP/TIMESTAMP.png as in RealEstate10K"
)


def near_miss_text(folder: Path) -> str:
    """A way forward for a folder of no format that holds posed clips elsewhere; an empty text if there is none."""
    subfolders = [path for path in list_folder(folder) if path.is_dir()]
    if others := sorted(file.name for file in folder.glob("transforms*.json")):
        return f"it has {abbreviate(others)}: name the one that is to be read transforms.json"
    for pattern in COLMAP_PATTERNS:
        if cameras := sorted(folder.glob(pattern)):
            place = cameras[0].parent.relative_to(folder)
            return f"it has a reconstruction of COLMAP in {place}: wanted it in sparse/0, so move it or copy it there"
    for path in subfolders:
        if other := next((f for f in FORMATS if f.matches(path)), None):
            return f"its folder {path.name} is {other.title}: give that folder"
    return ""


def left_out_text(folder: Path, clip_format: ClipFormat) -> str:
    """A text that names what a folder of a format holds beside it; empty if there is nothing.

    A capture of nerfstudio often has the reconstruction that it was made of beside it, so this is no second format.
    """
    texts = [
        f"{other.title}, in the folder itself"
        for other in FORMATS
        if other is not clip_format
        and {other.name, clip_format.name} != {"transforms", "colmap"}
        and (other.unit_matches or other.matches)(folder)
    ]
    if clip_format.unit_matches and not clip_format.unit_matches(folder):
        for path in list_folder(folder):
            if path.is_dir() and not clip_format.unit_matches(path):
                other = next((f.title for f in FORMATS if f.matches(path)), f"no {clip_format.title}")
                texts.append(f"{path.name}, which is {other}")
    if not texts:
        return ""
    return f"{folder} is read as {clip_format.title}, without {abbreviate(texts)}"


def read_folder(
    folder: Path | str,
    frame_gap: tuple[int, int] = FRAME_GAP,
    on_error: str = "raise",
    check_poses: bool = True,
    min_side: int = 1,
    selection: Selection = ALL_FRAMES,
) -> Clips:
    """Reads all clips of a folder in the order of their names; returns the clips and warnings.

    frame_gap: the smallest and the largest number of frames from a context to its target. A clip without such a pair of
        frames is left out with a warning.
    on_error: as in the reader of the format; also for clips without any frame
    check_poses: read every image, and compare poses with frames (`reject_mismatched`). If it is off, an image that
        cannot be read or is too small raises a ValueError later, when it is loaded.
    min_side: the smallest height and width of a frame, in pixels
    selection: the frames of CO3D to read; a ValueError for another format
    """
    check_frame_gap(frame_gap)
    clips, warnings = read_all_clips(folder, on_error, check_poses, min_side, selection)
    clips, short_clips = drop_short_clips(clips, frame_gap)
    if not clips:
        raise ValueError(f"{folder} has no clip that is long enough: {short_clips[0]}; give a smaller frame gap")
    return clips, warnings + [f"{text}: left out" for text in short_clips]


def drop_short_clips(clips: list[Clip], frame_gap: tuple[int, int]) -> Clips:
    """The clips that have a context and a target with such a gap, and a text for each of the other clips."""
    short_clips = [clip for clip in clips if not len(context_target_pairs(clip, frame_gap))]
    texts = [
        f"{clip.name} has {int(clip.has_image.sum())} frames and no two of them {frame_gap[0]} to {frame_gap[1]} apart "
        "with a frame between them"
        for clip in short_clips
    ]
    return [clip for clip in clips if clip not in short_clips], texts


def read_all_clips(
    folder: Path | str,
    on_error: str = "raise",
    check_poses: bool = True,
    min_side: int = 1,
    selection: Selection = ALL_FRAMES,
) -> Clips:
    """Reads all clips of a folder, of any length; arguments and result as in `read_folder`."""
    clips, warnings = read_unchecked(folder, on_error, selection)
    if check_poses:
        clips = [clip for clip, _ in check_clips(clips, warnings, on_error, min_side)]
    if not clips:
        raise ValueError(no_clip_text(folder, warnings))
    return clips, warnings


def no_clip_text(folder: Path | str, warnings: list[str]) -> str:
    """An error message for a folder all of whose clips were skipped."""
    return no_data_text(folder, "usable clip", warnings, "it holds none")


def read_unchecked(folder: Path | str, on_error: str = "raise", selection: Selection = ALL_FRAMES) -> Clips:
    """Reads the cameras of all clips of a folder, without decoding an image. ValueError as in `read_folder`."""
    check_on_error(on_error)
    clip_format = detect_format(folder)
    if any(selection) and clip_format.name != "co3d":
        raise ValueError(f"{folder} is {clip_format.title}: subsets, set lists and masks are read of CO3D only")
    left_out = left_out_text(Path(folder), clip_format)
    read = partial(read_categories, selection=selection) if any(selection) else clip_format.read
    clips, warnings = read(Path(folder), on_error)
    clips = [replace(clip, file_format=clip_format.name) for clip in clips]
    return clips, [left_out] * bool(left_out) + warnings


def check_clips(
    clips: Iterable[Clip], warnings: list[str], on_error: str = "raise", min_side: int = 1
) -> Iterator[tuple[Clip, FrameMatches]]:
    """Yields the clips whose images can be read and whose poses explain them, each with its matches; adds warnings.

    The matches take most of the time of a check, so they are computed once. A terminal shows a progress bar.
    """
    for clip in tqdm(clips, "checking clips", leave=False, disable=None):
        try:
            clip, image_warnings = remove_unreadable(clip, on_error, min_side)
            if not any(clip.files):
                raise ValueError(no_data_text(clip.name, "usable image", image_warnings, "it lists none"))
            frame_matches = match_frames(clip)
            warnings += image_warnings + reject_mismatched(clip, on_error, frame_matches)
        except ValueError as error:
            if on_error == "raise":
                raise
            raise_or_warn(str(error), on_error, warnings)
        else:
            yield clip, frame_matches


def remove_unreadable(clip: Clip, on_error: str = "raise", min_side: int = 1) -> tuple[Clip, list[str]]:
    """The clip without the images that cannot be read, are too small or have a shape that does not fit their camera.

    Returns a warning for each of them, and one if the pixels of the clip are not square.
    """
    files, warnings, sizes = list(clip.files), [], {}
    for i in clip.has_image.nonzero()[:, 0].tolist():
        try:
            height, width = clip.read_frame(i).shape[:2]
            if min(height, width) < min_side:
                raise ValueError(f"{files[i]} has {width} x {height} pixels: wanted at least {min_side} x {min_side}")
        except ValueError as error:
            raise_or_warn(str(error), on_error, warnings)
            files[i] = None
        else:
            sizes[i] = (width, height)
    if sizes:
        for i, problem in other_shapes(clip, list(sizes), list(sizes.values())).items():
            raise_or_warn(problem, on_error, warnings)
            files[i] = None
        ratio = float(focal_ratios(clip.intrinsics[list(sizes)], list(sizes.values())).median())
        if not 1 / MAX_FOCAL_RATIO <= ratio <= MAX_FOCAL_RATIO:
            warnings.append(
                f"{clip.name}: the focal lengths along x and y, in pixels, have the ratio {ratio:.3g}, which is 1 for "
                "square pixels: were the frames turned or cropped after the cameras were made?"
            )
    return replace(clip, files=tuple(files)), warnings
