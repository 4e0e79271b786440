"""Views of posed clips: a context, a target and a novel frame, for training and for evaluation.

The target is a given number of frames away from the context, and the novel frame lies between them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from fwdiff_lite.checks import abbreviate, check_count
from fwdiff_lite.datasets.clip_names import check_clip_name
from fwdiff_lite.datasets.pixelsplat import FrameIndices
from fwdiff_lite.datasets.posed_clips import Clip
from fwdiff_lite.datasets.text_files import is_timestamp, shorten
from fwdiff_lite.observations import Observations
from fwdiff_lite.storage.files import write_text

MAX_NAME_LENGTH = 255  # of a clip: no file system has longer names
FRAME_GAP = (100, 180)  # the smallest and the largest number of frames from the context to the target


class ViewTimestamps(NamedTuple):
    """The timestamps of a clip's context, target and novel frame. The novel frame lies between the other two."""

    clip: str
    context: int
    target: int
    novel: int


def check_frame_gap(frame_gap: tuple[int, int]) -> None:
    """ValueError if the smallest and the largest number of frames from context to target are in the wrong order."""
    if not 1 <= frame_gap[0] <= frame_gap[1]:
        raise ValueError(f"frame_gap is {frame_gap}: wanted the smaller number first, both above 0")


def context_target_pairs(clip: Clip, frame_gap: tuple[int, int] = FRAME_GAP) -> Int[Tensor, "p 2"]:
    """The frame indices of all pairs (context, target) with such a gap, in either order, with a frame between them."""
    with_image = clip.has_image.nonzero()[:, 0]
    rank = torch.arange(len(with_image))
    gaps, frame_between = (with_image[:, None] - with_image).abs(), (rank[:, None] - rank).abs() > 1
    return with_image[((gaps >= frame_gap[0]) & (gaps <= frame_gap[1]) & frame_between).nonzero()]


def sample_views(clip: Clip, frame_gap: tuple[int, int], generator: torch.Generator) -> list[int]:
    """The frame indices of a random context, target and novel frame.

    All pairs of context and target are equally likely, and so are all frames between them.
    """

    def choose(x: Tensor) -> Tensor:
        return x[torch.randint(len(x), (), generator=generator)]

    pair = choose(context_target_pairs(clip, frame_gap))
    with_image = clip.has_image.nonzero()[:, 0]
    return [*pair.tolist(), int(choose(with_image[(with_image > pair.min()) & (with_image < pair.max())]))]


def sample_other_frames(clip: Clip, frame_indices: list[int], count: int, generator: torch.Generator) -> list[int]:
    """The indices of `count` random frames that are not among the given ones; repeated if there are too few."""
    others = clip.has_image.clone()
    others[frame_indices[1:]] = False  # the context may be repeated
    candidates = others.nonzero()[:, 0]
    return candidates[torch.randint(len(candidates), (count,), generator=generator)].tolist()


def evaluation_list(
    clips: list[Clip], frame_gap: tuple[int, int] = FRAME_GAP, examples_per_clip: int = 1
) -> list[ViewTimestamps]:
    """Contexts, targets and novel frames of each clip. They depend on the clip's name and frames only."""
    views = []
    for clip in clips:
        generator = torch.Generator().manual_seed(zlib.crc32(clip.name.encode()))
        for _ in range(examples_per_clip):
            frame_indices = sample_views(clip, frame_gap, generator)
            views.append(ViewTimestamps(clip.name, *(clip.timestamps[i] for i in frame_indices)))
    return views


def write_evaluation_list(path: Path | str, views: list[ViewTimestamps]) -> None:
    """Writes one line for each clip: its name and three timestamps."""
    for view in views:
        check_clip_name(view.clip)
    write_text(Path(path), "".join(" ".join(map(str, view)) + "\n" for view in views))


def read_evaluation_list(path: Path | str) -> list[ViewTimestamps]:
    """Reads a file of `write_evaluation_list`. ValueError, with the line's number, if a line has another form."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig").rstrip()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8: wanted a clip and three timestamps a line") from None
    if text.lstrip().startswith(("{", "[")):
        raise ValueError(f"{path} is JSON: read it with pixelsplat.read_evaluation_index")
    views = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, *timestamps = line.rsplit(maxsplit=3) or [""]  # a name may have spaces
        if len(timestamps) != 3 or not all(map(is_timestamp, timestamps)) or len(name) > MAX_NAME_LENGTH:
            raise ValueError(f"{path} line {number} is {shorten(line)}: wanted a clip and three timestamps")
        context, target, novel = map(int, timestamps)
        if not min(context, target) < novel < max(context, target):
            raise ValueError(
                f"{path} line {number} is {shorten(line)}: wanted the third timestamp between the other two"
            )
        views.append(ViewTimestamps(name, context, target, novel))
    if not views:
        raise ValueError(f"{path} is empty: delete it, and a new list is written")
    return views


def load_views(
    clips: list[Clip],
    views: list[ViewTimestamps],
    side: int,
    frame_gap: tuple[int, int] | None = None,
    source: Path | str = "the list",
) -> dict[str, Observations]:
    """The context, target and novel frames of an evaluation list.

    source: the list's file, for messages
    frame_gap: the smallest and the largest number of frames from context to target that the list may have; default: any
    ValueError, with the clip's name, if a clip or a frame is missing, or a gap is smaller or larger.
    """
    if not views:
        raise ValueError(f"{source} has no views: give one or more")
    clips_by_name, frames_to_load = {clip.name: clip for clip in clips}, []
    for view in views:
        if view.clip not in clips_by_name:
            raise ValueError(
                f"{source} has the clip {view.clip}, which is missing or was skipped: give the list of this folder"
            )
        clip = clips_by_name[view.clip]
        frame_of_timestamp = dict(zip(clip.timestamps, range(len(clip)), strict=True))
        timestamps = view[1:]
        missing = [t for t in timestamps if t not in frame_of_timestamp or clip.files[frame_of_timestamp[t]] is None]
        if missing:
            raise ValueError(f"{source} has frames of {view.clip} that are missing: {abbreviate(missing)}")
        frame_indices = [frame_of_timestamp[t] for t in timestamps]
        gap = abs(frame_indices[1] - frame_indices[0])
        if frame_gap and not frame_gap[0] <= gap <= frame_gap[1]:
            raise ValueError(
                f"{source} has a frame gap of {gap} in {view.clip}, not {frame_gap[0]} to {frame_gap[1]}: "
                "give the frame gap of the list, another list, or delete the list that an evaluation wrote"
            )
        frames_to_load.append((clip, frame_indices))
    return _name_views(_load_observations(frames_to_load, side, 1))


def load_indexed_views(clips: list[Clip], index: Mapping[str, FrameIndices], side: int) -> dict[str, Observations]:
    """The frames of an evaluation index, such as pixelSplat's: its contexts, its first target, and its other targets.

    The other targets are the "novel" views. A clip that the index lacks is left out.
    ValueError, with the clip's name, if a frame is missing, a clip has one target only, or two clips have different
    numbers of contexts or targets; also if the index has none of the clips.
    """
    frames_to_load, numbers = [], None
    for clip in clips:
        if clip.name not in index:
            continue
        context, target = index[clip.name]
        if missing := [i for i in (*context, *target) if i >= len(clip) or clip.files[i] is None]:
            raise ValueError(f"the index has frames of {clip.name} that are missing: {abbreviate(missing)}")
        if len(target) < 2:
            raise ValueError(f"the index has one target of {clip.name}, wanted two or more: a target and novel views")
        numbers = numbers or (len(context), len(target))
        if (len(context), len(target)) != numbers:
            raise ValueError(
                f"the index has {len(context)} contexts and {len(target)} targets of {clip.name}, but {numbers[0]} and "
                f"{numbers[1]} of {frames_to_load[0][0].name}: evaluate them one after the other"
            )
        frames_to_load.append((clip, [context[0], target[0], *target[1:], *context[1:]]))
    if not frames_to_load:
        raise ValueError(f"the index has none of the {len(clips)} clips: is it the index of another data set?")
    num_contexts, num_targets = numbers
    views = _load_observations(frames_to_load, side, 1)
    novel = list(range(2, 1 + num_targets))
    return {
        "context": views.select([0, *range(1 + num_targets, num_contexts + num_targets)]),
        "target": views.select([1]),
        "novel": views.select(novel),
    }


def _load_observations(frames_to_load: list[tuple[Clip, list[int]]], side: int, num_threads: int) -> Observations:
    """Loads the same number of frames of each example; the first one defines its world.

    Threads help, because decoding an image releases Python's lock.
    """
    with ThreadPoolExecutor(num_threads) as pool:
        examples = pool.map(
            lambda clip, frame_indices: clip.load_frames(frame_indices, side), *zip(*frames_to_load, strict=True)
        )
        images, cameras = zip(*examples, strict=True)
    return Observations(torch.stack(images), torch.stack(cameras))


def _name_views(views: Observations, num_contexts: Int[Tensor, "b"] | None = None) -> dict[str, Observations]:
    """Context, target and novel frame of each example, and more contexts behind them.

    num_contexts: how many contexts of each example count; the others are masked
    """
    named = {name: views.select([i]) for i, name in enumerate(("context", "target", "novel"))}
    if num_contexts is not None:
        contexts = views.select([0, *range(3, views.value.shape[1])])
        rank = torch.arange(contexts.mask.shape[1])
        named["context"] = contexts.mask_out(rank >= num_contexts[:, None])
    return named


def batches(
    clips: list[Clip],
    batch_size: int = 96,
    frame_gap: tuple[int, int] = FRAME_GAP,
    pixels: int | None = None,
    side: int = 64,
    num_threads: int = 1,
    max_contexts: int = 1,
) -> Callable[[torch.Generator], dict]:
    """A batch function for fit(): a context, a target and a novel frame of a random clip for each example.

    pixels: the number of random pixels of each target and novel view for the loss, whose indices are in the batch as
        "pixel_indices" and "novel_pixel_indices"; None: all pixels
    side: pixels along each side of an image
    num_threads: threads that load images. All random draws come from the generator alone, so they do not depend on the
        threads. No two batches are alike, and several processes that share a batch have different examples.
    max_contexts: each example has 1 to so many contexts, all numbers equally likely; the ones after the first are
        random other frames, and masked where they do not count
    """
    if not clips:
        raise ValueError("there are no clips: give one or more, as from clip_folder.read_folder")
    check_frame_gap(frame_gap)
    check_count(batch_size=batch_size, side=side, num_threads=num_threads, max_contexts=max_contexts)
    if pixels is not None:
        check_count(pixels=pixels)
    for clip in clips:
        if not len(context_target_pairs(clip, frame_gap)):
            raise ValueError(
                f"{clip.name} has no two frames {frame_gap[0]} to {frame_gap[1]} apart with a frame between them: "
                "leave it out"
            )

    def batch(generator: torch.Generator) -> dict:
        clip_indices = torch.randint(len(clips), (batch_size,), generator=generator).tolist()
        frames_to_load = [(clips[i], sample_views(clips[i], frame_gap, generator)) for i in clip_indices]
        num_contexts = None
        if max_contexts > 1:
            num_contexts = torch.randint(1, max_contexts + 1, (batch_size,), generator=generator)
            for clip, frame_indices in frames_to_load:
                frame_indices += sample_other_frames(clip, frame_indices, max_contexts - 1, generator)
        examples = _name_views(_load_observations(frames_to_load, side, num_threads), num_contexts)
        if pixels is not None:
            pixel_indices = torch.randint(side**2, (2, batch_size, 1, pixels), generator=generator)
            examples["pixel_indices"], examples["novel_pixel_indices"] = pixel_indices
        return examples

    return batch
