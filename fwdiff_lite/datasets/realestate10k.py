"""RealEstate10K in its own format, or whatever else is kept so: for problems/inverse_graphics.

    FOLDER/CLIP.txt             the first line says where the video is; every other line is one frame's camera:
                                timestamp  fx fy cx cy  k1 k2  r11 r12 r13 t1  r21 r22 r23 t2  r31 r32 r33 t3
    FOLDER/CLIP/TIMESTAMP.png   the frames (png, jpg), named by their timestamps in microseconds

fx fy cx cy are over the frame's width and height, the distortion k1 k2 is zero, and the 3 x 4 matrix takes the world
to the camera, whose axes point to the right, down and ahead (Zhou et al. 2018). FOLDER is one split of the data.

    python -m fwdiff_lite.datasets.realestate10k FOLDER

reads all of it, and says what is wrong. A frame finds its pose by its timestamp alone, and a line that cannot be used
keeps its place, so nothing ever moves up. Whether timestamps are right can be seen too, see `check_poses`; that takes
up to half a minute a clip, so a large set is checked once, and then read without.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from skimage.color import rgb2gray
from skimage.feature import SIFT, match_descriptors
from torch import Tensor

from fwdiff_lite.command_line import positive_int
from fwdiff_lite.datasets.videos import centre_square, crop_and_resize, image_files, read_frames
from fwdiff_lite.metrics import Interval, bootstrap
from fwdiff_lite.observations import Observations

DISTANCE = (100, 180)  # frames from the context to the target, at least and at most
NUMBERS = 19  # on a line
BAD = ("refuse", "skip")  # what may be done with what is bad

# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Clip:
    """n lines of a text file, with their frames; how far two frames are apart is told by their lines.

    times: (n,) in microseconds; -1 where the line is malformed
    lenses: (n, 3, 3) intrinsics, over the frame's width and height; poses: (n, 4, 4) world to camera; both in double
        precision, NaN where the line is malformed
    files: (n,) None where there is no frame to be used
    """

    name: str
    times: tuple[int, ...]
    lenses: Float[Tensor, "n 3 3"]
    poses: Float[Tensor, "n 4 4"]
    files: tuple[Path | None, ...]

    def __len__(self) -> int:
        return len(self.times)

    @property
    def there(self) -> Bool[Tensor, "n"]:
        """Which lines have a frame."""
        return torch.tensor([file is not None for file in self.files])

    def look(self, rows: list[int], side: int) -> tuple[Float[Tensor, "m 3 s s"], Float[Tensor, "m 4 4"]]:
        """Frames, cut to the square in their middle and brought to s = `side` pixels, and the cameras that see so much.

        A camera is one matrix, world to (u d, v d, d, 1), u and v in [0, 1] over the square. Every clip has a world of
        its own, so here the first frame's camera is the world: it stands at the origin and looks along z.
        ValueError, with the file's name, where a frame cannot be read.
        """
        shown, lenses = [], []
        for row in rows:
            frame = read_frames(self.files[row], True)[0]
            shown.append(crop_and_resize(frame[None], side, self.files[row]))
            lenses.append(cut(self.lenses[row], *frame.shape[:2]))
        poses = self.poses[rows] @ torch.linalg.inv(self.poses[rows[0]])
        return torch.cat(shown), cameras(torch.stack(lenses), poses).float()


def cut(lens: Float[Tensor, "3 3"], height: int, width: int) -> Float[Tensor, "3 3"]:
    """A frame's intrinsics after it was cut to the square in its middle. Over its sides, resizing leaves them alone."""
    top, left, side = centre_square(height, width)
    smaller = [[width / side, 0, -left / side], [0, height / side, -top / side], [0, 0, 1]]
    return torch.tensor(smaller, dtype=lens.dtype) @ lens


def cameras(lenses: Float[Tensor, "*b 3 3"], poses: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """Pose and intrinsics in one: world to (u d, v d, d, 1)."""
    return torch.cat([lenses @ poses[..., :3, :], poses[..., 3:, :]], -2)


def read_line(line: str) -> tuple[int, Float[Tensor, "3 3"], Float[Tensor, "4 4"]]:
    """Timestamp, intrinsics and pose of one line. ValueError, which says what is wrong with it."""
    words = line.split()
    if len(words) != NUMBERS:
        raise ValueError(f"has {len(words)} numbers, wanted {NUMBERS}")
    try:
        time, numbers = int(words[0]), torch.tensor([float(word) for word in words[1:]], dtype=torch.float64)
    except ValueError:
        raise ValueError("holds what is no number, or a timestamp that is not whole") from None
    fx, fy, cx, cy, *distortion = numbers[:6].tolist()
    if time < 0 or not numbers.isfinite().all():
        raise ValueError("holds NaN, an infinite number or a timestamp below zero")
    if any(distortion):
        raise ValueError(f"has distortion {distortion}, wanted zeros: undistort the frames first")
    if min(fx, fy) <= 0:
        raise ValueError(f"has focal lengths {fx:.3g} and {fy:.3g}, wanted both above zero")
    if not (0 <= cx <= 1 and 0 <= cy <= 1):
        raise ValueError(f"has the middle {cx:.3g} {cy:.3g}, wanted it in the frame: over width and height, in [0, 1]")
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3] = numbers[6:].view(3, 4)
    turn = pose[:3, :3]
    if (turn @ turn.T - torch.eye(3)).abs().max() > 1e-3 or torch.linalg.det(turn) < 0:
        raise ValueError("has a pose whose first three columns are no rotation")
    return time, torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64), pose


def complain(what: str, bad: str, told: list[str]) -> None:
    """Refuses what is bad with a ValueError, or adds to what is `told` that it was skipped."""
    if bad == "refuse":
        raise ValueError(f"{what}; mend it, or ask to skip what is bad")
    told.append(f"{what}: skipped")


def read_clip(text: Path | str, bad: str = "refuse") -> tuple[Clip, list[str]]:
    """One clip by its text file, without looking into its frames, and what was skipped of it.

    bad: "refuse" raises a ValueError, "skip" goes on without: a malformed line, a timestamp that is not later than all
        before it, timestamps without a frame, frames without a timestamp. No frame at all is always refused.
    """
    text, told = Path(text), []
    if bad not in BAD:
        raise ValueError(f"bad={bad!r} is unknown: choose one of {', '.join(BAD)}")
    times, lenses, poses = [], [], []
    try:
        first, *lines = text.read_text(encoding="utf-8").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{text} cannot be read: {str(error).splitlines()[0]}") from None
    if len(first.split()) == NUMBERS:
        complain(f"{text} line 1 is a frame's camera: wanted where the video is", bad, told)
    for number, line in enumerate(lines, 2):
        try:
            time, lens, pose = read_line(line)
            if time <= max(times, default=-1):
                raise ValueError(f"has the timestamp {time}, which is not later than all before it")
        except ValueError as error:
            complain(f"{text} line {number} {error}", bad, told)
            time, lens, pose = -1, torch.full((3, 3), torch.nan).double(), torch.full((4, 4), torch.nan).double()
        times.append(time), lenses.append(lens), poses.append(pose)
    found, frames = image_files(text.with_suffix("")), {}
    for file in found:
        if file.stem.isascii() and file.stem.isdigit():
            frames.setdefault(int(file.stem), file)  # a second one of the same time is told of below
    files = tuple(frames.pop(time, None) for time in times)
    if not any(files):
        why = "is not there" if not text.with_suffix("").is_dir() else f"holds none of its {len(times)} frames"
        raise ValueError(f"{text} has no frame: {text.with_suffix('')} {why}")
    lost = [time for time, file in zip(times, files, strict=True) if file is None and time >= 0]
    other = [file.name for file in found if file not in files]
    for what, names in (("timestamps without a frame", lost), ("frames without a timestamp of their own", other)):
        if names:
            complain(f"{text} has {len(names)} {what}: {_some(names)}", bad, told)
    return Clip(text.stem, tuple(times), torch.stack(lenses), torch.stack(poses), files), told


def _some(names: list) -> str:
    """The first few."""
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def read_folder(
    folder: Path | str, distance: tuple[int, int] = DISTANCE, bad: str = "refuse", look: bool = True, side: int = 1
) -> tuple[list[Clip], list[str]]:
    """All clips of a split in the order of their names, and what was skipped of it.

    distance: frames from a context to its target, at least and at most, that each clip must have
    bad: as in `read_clip`, and for clips without any frame or with none so far apart, and folders of frames without a
        text file
    look: reads every frame, and compares poses with frames (`check_poses`). Where that is off, a frame that cannot be
        read, or is too small, is refused when it is asked for.
    side: pixels that frames must have along both sides
    """
    folder, told, clips = Path(folder), [], []
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one that holds CLIP.txt and CLIP/TIMESTAMP.png")
    texts = sorted(folder.glob("*.txt"))
    if not texts:
        raise ValueError(f"{folder} holds no text file: wanted CLIP.txt and CLIP/TIMESTAMP.png, as in one split")
    for found in sorted(folder.iterdir()):
        if image_files(found) and not found.with_name(f"{found.name}.txt").exists():
            complain(f"{found} has frames, but there is no {found.name}.txt", bad, told)
    for text in texts:
        try:
            clip, skipped = read_clip(text, bad)
            if look:
                clip, unread = readable(clip, bad, side)
                skipped += unread + refuse_foreign(clip, bad)
            if not len(pairs(clip, distance)):
                raise ValueError(f"{text} has no two frames {distance[0]} to {distance[1]} apart, one between them")
        except ValueError as error:
            if bad == "refuse":
                raise
            complain(str(error), bad, told)
        else:
            clips.append(clip)
            told += skipped
    if not clips:
        raise ValueError(f"{folder} has no clip that can be used; the first that is wrong: {told[0]}")
    return clips, told


def readable(clip: Clip, bad: str = "refuse", side: int = 1) -> tuple[Clip, list[str]]:
    """The clip with those frames only that can be read and are large enough, and what is wrong with others."""
    files, told = list(clip.files), []
    for row in clip.there.nonzero()[:, 0].tolist():
        try:
            height, width = read_frames(files[row], True)[0].shape[:2]
            if min(height, width) < side:
                raise ValueError(f"{files[row]} has {width} x {height} pixels: wanted at least {side} x {side}")
        except ValueError as error:
            complain(str(error), bad, told)
            files[row] = None
    return replace(clip, files=tuple(files)), told


# --- whether poses and frames belong together -------------------------------------------------------------------------

SHIFTS, FRAMES = 6, 64  # lines that poses are moved by, at most; frames of a clip that are looked at
GAPS = (14, 7, 4)  # these parts of a clip are two frames of a pair apart
LONGEST = 256  # pixels along a frame's longer side, where it is looked for features
CAP = 0.01  # of the longer side: a match that is so far off its epipolar line may be no match at all
STILL = 1e-6  # in the clip's unit: cameras that are nearer to each other are in one place
MATCHES = 40  # in all pairs, with less of which nothing is said
LOST = 2 / 3  # of CAP: above, poses explain nothing. Right ones: .27 to .63; wrong ones, at one gap: .66 to .99
CLEARLY = 0.95  # of the stated error is what another shift's must stay below, beside being surely less
# The part of the error that moving a stretch must save, over the root of the matches, up to MANY: poses are estimates.
# Measured: right poses to .47, those moved from the middle on .7 to 5.
SAVED, MANY = 0.6, 1600
FEWEST = 4  # pairs that must tell of a stretch
FLOOR = 0.01  # pixels, added to every error: where the camera stands still there is none, however poses are moved


class Stretch(NamedTuple):
    """Lines `first` to `last` of a text file explain frames better when they are moved `by` lines.

    saved: the part of the whole clip's error that this saves
    """

    first: int
    last: int
    by: int
    saved: float


class PoseCheck(NamedTuple):
    """How far, in pixels, matches of frames lie off the epipolar lines of poses that were moved by some lines.

    errors: by the shift, mean distance, each at most `cap`; 0 is as it is stated. Not all pairs have poses when moved:
        what these have of their stated error counts for all.
    best: the other shift with the least error; gain: its error over the stated one, with an interval
    part: the stretch that saves most when it alone is moved, if any saves something
    pairs, matches: how many; with too few, errors are empty and gain is None
    """

    errors: dict[int, float]
    best: int
    gain: Interval | None
    part: Stretch | None
    pairs: int
    matches: int
    cap: float

    @property
    def shifted(self) -> bool:
        """Whether the other shift explains the frames clearly better."""
        return self.gain is not None and self.gain.high < 1 and self.gain.value < CLEARLY

    @property
    def torn(self) -> bool:
        """Whether poses are shifted over a part of the clip: more is saved than by chance."""
        return self.part is not None and self.part.saved > SAVED / math.sqrt(min(self.matches, MANY))

    @property
    def lost(self) -> bool:
        """Whether the stated poses explain nothing of the frames."""
        return self.gain is not None and self.errors[0] > LOST * self.cap


def check_poses(clip: Clip, shifts: int = SHIFTS, count: int = FRAMES) -> PoseCheck:
    """Compares frames with their own poses, and with those of lines before and after.

    Of a scene that stands still, what two frames both show must lie on the epipolar lines that their poses imply
    (Hartley and Zisserman 2004, Chapter 9). Pairs of `count` frames are matched by SIFT, and the matches' distances to
    those lines measured for the poses as they are stated, and moved by up to `shifts` lines: all of them, and those of
    a stretch alone, as behind a lost line. Where the camera's motion repeats itself exactly, moved poses say the same
    as stated ones: then a shift of all is not seen, and does no harm. What is clear enough was measured on rendered
    clips, whose poses may be off by .1 degrees and a tenth of a step; a shift of few frames can go unseen.
    """
    rows = partners(clip, count)
    features = {row: _features(clip.files[row]) for row in rows.unique().tolist()}
    matched = [_matches(features[i], features[j]) for i, j in rows.tolist()]
    sizes = torch.tensor([len(found.a) for found in matched], dtype=torch.long)
    matches = int(sizes.sum())
    if matches < MATCHES or (sizes > 0).sum() < 2:
        return PoseCheck({}, 0, None, None, len(rows), matches, 0.0)
    moves = [k for k in range(-shifts, shifts + 1) if k]
    sums = torch.stack([_misfits(clip, row, one, moves) for row, one in zip(rows.tolist(), matched, strict=True)])
    sums = sums + FLOOR * sizes[:, None, None]
    stated, everywhere = sums[:, 0, 0], sums[:, :, 3]
    error, fit = float(stated.sum()) / matches - FLOOR, everywhere.isfinite()
    ratios = everywhere.nansum(0) / (fit * stated[:, None]).sum(0)
    speak = (2 * fit.sum(0) >= len(rows)) & (fit.sum(0) > 1)  # moved far, few have poses, and do not speak for all
    errors = {0: error} | {k: error * float(x) for k, x, all_of in zip(moves, ratios, speak, strict=True) if all_of}
    best, gain = min((k for k in errors if k), key=errors.__getitem__, default=0), None
    if best:
        other, which = everywhere[:, moves.index(best)], fit[:, moves.index(best)]
        generator = torch.Generator().manual_seed(0)
        gain = bootstrap(_share, other[which], stated[which], generator=generator, resamples=500)
    cap = sum(found.cap * len(found.a) for found in matched) / matches
    return PoseCheck(errors, best, gain, worst_stretch(rows, sums, moves), len(rows), matches, cap)


def partners(clip: Clip, count: int = FRAMES) -> Int[Tensor, "p 2"]:
    """Pairs of lines, each with a frame and a pose, about a GAPS-th of the clip apart: among `count` in all."""
    rows = (clip.there & clip.poses.isfinite().all((1, 2))).nonzero()[:, 0]
    rows = rows[torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()]
    found = [torch.zeros(0, 2, dtype=torch.long)]
    for gap in (max(1, len(clip) // part) for part in GAPS):
        later = torch.searchsorted(rows, rows + gap)  # the first that is there, however thinned out they are
        found.append(torch.stack([rows[later < len(rows)], rows[later[later < len(rows)]]], 1))
    return torch.cat(found).unique(dim=0)


def worst_stretch(rows: Int[Tensor, "p 2"], sums: Float[Tensor, "p moves 4"], moves: list[int]) -> Stretch | None:
    """The stretch that saves most of the stated error when its poses alone are moved; sums: as of `_misfits`."""
    edges = torch.cat([rows.unique(), rows.max()[None] + 1])
    first, end = torch.combinations(edges).T
    inside = (rows >= first[:, None, None]) & (rows < end[:, None, None])
    best, stated, pair = None, sums[:, 0, 0], torch.arange(len(rows))
    which = inside[..., 0] + 2 * inside[..., 1].long()  # (stretches, pairs): as of the last axis of sums
    for m, by in enumerate(moves):
        moved = sums[pair, m, which]
        told = (which > 0) & moved.isfinite()
        saved = torch.where(told, stated - moved, 0).sum(1) / stated.sum()
        saved[told.sum(1) < FEWEST] = 0
        s = int(saved.argmax())
        if saved[s] > (best.saved if best else 0):
            best = Stretch(int(first[s]) + 2, int(end[s]) + 1, by, float(saved[s]))  # the text's first line is no frame
    return best


def _share(other: Tensor, stated: Tensor) -> Tensor:
    return other.sum() / stated.sum()


def refuse_foreign(clip: Clip, bad: str = "refuse") -> list[str]:
    """A ValueError where poses are shifted or explain nothing; else what is to be told of the clip, if anything.

    bad: "refuse" also refuses a clip that cannot be checked, "skip" tells of it
    """
    found = check_poses(clip)
    wrong = f"{clip.name}: poses and frames do not belong together"
    if found.shifted:
        raise ValueError(
            f"{wrong}: poses moved by {found.best:+d} lines explain the frames better ({found.errors[found.best]:.2f} "
            f"against {found.errors[0]:.2f} pixels off epipolar lines): extract the frames again by their timestamps"
        )
    if found.lost:
        raise ValueError(
            f"{wrong}: matches are {found.errors[0]:.2f} pixels off their epipolar lines, of {found.cap:.2f} at most: "
            "is it another clip's text? A pose is world to camera; its axes point right, down and ahead"
        )
    if found.torn:
        raise ValueError(
            f"{wrong}: about lines {found.part.first} to {found.part.last} of the text, poses moved by "
            f"{found.part.by:+d} lines explain the frames better (by {found.part.saved:.0%} of the clip's error): "
            "is a line lost or doubled there?"
        )
    if found.gain is not None:
        return []
    few = f"{found.matches} matches between frames are too few to compare poses with"
    why = few if found.pairs else "no two frames are there, whose poses could be compared"
    if bad == "refuse":
        raise ValueError(f"{clip.name}: {why}: look at it, and read it unchecked (look=False, --unchecked)")
    return [f"{clip.name}: {why}: not checked"]


def _features(file: Path) -> tuple[Float[Tensor, "k 2"], Tensor, tuple[int, int]]:
    """SIFT keypoints (x, y) of a frame, their descriptors, and its width and height, brought to at most LONGEST."""
    frame = torch.from_numpy(rgb2gray(read_frames(file, True)[0]))
    height, width = frame.shape
    smaller = min(1.0, LONGEST / max(height, width))
    height, width = round(smaller * height), round(smaller * width)
    frame = torch.nn.functional.interpolate(frame[None, None], (height, width), mode="bilinear", antialias=True)[0, 0]
    sift = SIFT()
    try:
        sift.detect_and_extract(frame.numpy())
    except RuntimeError:  # so it says that there is none
        return torch.zeros(0, 2).double(), torch.zeros(0, 128), (width, height)
    return torch.from_numpy(sift.keypoints[:, ::-1] + 0.5), torch.from_numpy(sift.descriptors), (width, height)


class Matches(NamedTuple):
    """Where two frames show the same, (x, y) in pixels of each, and the frames' widths and heights."""

    a: Float[Tensor, "k 2"]
    b: Float[Tensor, "k 2"]
    sizes: tuple[tuple[int, int], tuple[int, int]]

    @property
    def cap(self) -> float:
        """The most that a match counts for, in pixels."""
        return CAP * max(map(max, self.sizes))


def _matches(one: tuple, other: tuple) -> Matches:
    (a, a_words, a_size), (b, b_words, b_size) = one, other
    if min(len(a), len(b)) < 2:
        return Matches(a[:0], b[:0], (a_size, b_size))
    found = match_descriptors(a_words.numpy(), b_words.numpy(), max_ratio=0.75, cross_check=True)
    return Matches(a[found[:, 0]], b[found[:, 1]], (a_size, b_size))


def _misfits(clip: Clip, rows: list[int], found: Matches, moves: list[int]) -> Float[Tensor, "moves 4"]:
    """What matches are off in all: as stated, with the first frame's pose moved, with the second's, with both.

    NaN where there is no pose to be moved to.
    """
    size = torch.tensor([[*size, 1.0] for size in found.sizes]).double().diag_embed()
    known = clip.poses.isfinite().all((1, 2)).tolist()

    def off(i: int, j: int) -> float:
        if min(i, j) < 0 or max(i, j) >= len(clip) or not (known[i] and known[j]):
            return math.nan
        return float(
            misfit(size @ clip.lenses[[i, j]], clip.poses[[i, j]], found.a, found.b).clamp(max=found.cap).sum()
        )

    (i, j), stated = rows, off(*rows)
    return torch.tensor([[stated, off(i + k, j), off(i, j + k), off(i + k, j + k)] for k in moves]).double()


def misfit(
    lenses: Float[Tensor, "2 3 3"], poses: Float[Tensor, "2 4 4"], a: Float[Tensor, "k 2"], b: Float[Tensor, "k 2"]
) -> Float[Tensor, "k"]:
    """How far matches (x, y) are from what two cameras allow, in the units of the intrinsics.

    To first order, how far they must be moved to be on each other's epipolar lines, b F a = 0 (Sampson's distance;
    Hartley and Zisserman 2004, Eq. 11.9). Where the camera has not moved there are no such lines: it has only turned,
    and b is where that takes a.
    """
    step = poses[1] @ torch.linalg.inv(poses[0])
    a, b = (torch.cat([x, torch.ones_like(x[:, :1])], 1) for x in (a, b))
    x, y, z = step[:3, 3].tolist()
    first, turned = torch.linalg.inv(lenses[0]), step[:3, :3]
    if math.hypot(x, y, z) < STILL:
        there = a @ (lenses[1] @ turned @ first).T
        return (there[:, :2] / there[:, 2:] - b[:, :2]).norm(dim=1)
    across = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=step.dtype) / math.hypot(x, y, z)
    line = torch.linalg.inv(lenses[1]).T @ across @ turned @ first
    there, back = a @ line.T, b @ line
    square = there[:, :2].square().sum(1) + back[:, :2].square().sum(1)
    return (b * there).sum(1).abs() / square.sqrt().clamp(min=1e-12)


# --- contexts, targets and novel views --------------------------------------------------------------------------------


class Views(NamedTuple):
    """Timestamps of a clip's context, target and novel frame, the last one between the others."""

    clip: str
    context: int
    target: int
    novel: int


def pairs(clip: Clip, distance: tuple[int, int] = DISTANCE) -> Int[Tensor, "p 2"]:
    """All lines of (context, target) at such a distance, in either order, that have a frame between them."""
    rows = clip.there.nonzero()[:, 0]
    place = torch.arange(len(rows))
    apart, between = (rows[:, None] - rows).abs(), (place[:, None] - place).abs() > 1
    return rows[((apart >= distance[0]) & (apart <= distance[1]) & between).nonzero()]


def draw_views(clip: Clip, distance: tuple[int, int], generator: torch.Generator) -> list[int]:
    """Lines of a context, a target and a novel frame: all pairs are equally likely, and all frames between them."""

    def pick(x: Tensor) -> Tensor:
        return x[torch.randint(len(x), (), generator=generator)]

    pair = pick(pairs(clip, distance))
    rows = clip.there.nonzero()[:, 0]
    return [*pair.tolist(), int(pick(rows[(rows > pair.min()) & (rows < pair.max())]))]


def evaluation_list(clips: list[Clip], distance: tuple[int, int] = DISTANCE) -> list[Views]:
    """One context, target and novel frame of each clip; they depend on the clip's name and frames, on no other clip."""
    views = []
    for clip in clips:
        generator = torch.Generator().manual_seed(zlib.crc32(clip.name.encode()))
        views.append(Views(clip.name, *(clip.times[row] for row in draw_views(clip, distance, generator))))
    return views


def write_list(path: Path | str, views: list[Views]) -> None:
    """A line for each: the clip's name and three timestamps."""
    Path(path).write_text("".join(" ".join(map(str, view)) + "\n" for view in views), encoding="utf-8")


def read_list(path: Path | str) -> list[Views]:
    """What `write_list` wrote. ValueError, with the line's number, where it cannot be that."""
    views = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").rstrip().splitlines(), 1):
        name, *times = line.rsplit(maxsplit=3) or [""]  # a name may have spaces
        if len(times) != 3 or not all(time.isdigit() for time in times):
            raise ValueError(f"{path} line {number} is {line!r}: wanted a clip and three timestamps")
        context, target, novel = map(int, times)
        if not min(context, target) < novel < max(context, target):
            raise ValueError(f"{path} line {number} is {line!r}: wanted the third time between the two before")
        views.append(Views(name, context, target, novel))
    if not views:
        raise ValueError(f"{path} is empty: delete it, and one is written anew")
    return views


def observe(
    clips: list[Clip], views: list[Views], side: int, distance: tuple[int, int] | None = None
) -> dict[str, Observations]:
    """The context, target and novel frames of a list.

    distance: of contexts and targets, in frames, where that is asked for
    ValueError, by name, where a clip or a frame is not there, or two are nearer or farther.
    """
    named, rows = {clip.name: clip for clip in clips}, []
    for view in views:
        if view.clip not in named:
            raise ValueError(
                f"the list asks for the clip {view.clip}, which is not there or was skipped: give this folder's own"
            )
        clip = named[view.clip]
        lines = dict(zip(clip.times, range(len(clip)), strict=True))
        gone = [time for time in view[1:] if time not in lines or clip.files[lines[time]] is None]
        if gone:
            raise ValueError(f"the list asks for frames of {view.clip} that are not there: {_some(gone)}")
        row = [lines[time] for time in view[1:]]
        apart = abs(row[1] - row[0])
        if distance and not distance[0] <= apart <= distance[1]:
            raise ValueError(
                f"the list has frames of {view.clip} that are {apart} apart, not {distance[0]} to {distance[1]}: "
                "give its distance, or another list"
            )
        rows.append((clip, row))
    return _observe(rows, side, 1)


def _observe(chosen: list[tuple[Clip, list[int]]], side: int, workers: int) -> dict[str, Observations]:
    """Frames are read by several threads: their decoding does not hold Python up."""
    with ThreadPoolExecutor(workers) as pool:
        looks = list(pool.map(lambda one: one[0].look(one[1], side), chosen))
    seen = Observations(*(torch.stack(part) for part in zip(*looks, strict=True)))
    return {name: seen.select([i]) for i, name in enumerate(("context", "target", "novel"))}


def batches(
    clips: list[Clip],
    size: int = 96,
    distance: tuple[int, int] = DISTANCE,
    pixels: int | None = None,
    side: int = 64,
    workers: int = 1,
) -> Callable[[torch.Generator], dict]:
    """For fit(): a context, a target and a novel frame of each of `size` clips.

    pixels: draws the numbers of so many pixels of each target and novel view, "at" and "novel_at", for the loss
    workers: threads that read frames. What is drawn comes from the generator alone, whoever reads it: no two batches
        are alike, and several processes that share a batch have rows of their own.
    """
    for clip in clips:
        if not len(pairs(clip, distance)):
            raise ValueError(
                f"{clip.name} has no two frames {distance[0]} to {distance[1]} apart, one between them: leave it out"
            )

    def batch(generator: torch.Generator) -> dict:
        which = torch.randint(len(clips), (size,), generator=generator).tolist()
        parts = _observe([(clips[i], draw_views(clips[i], distance, generator)) for i in which], side, workers)
        if pixels is not None:
            parts["pixel_indices"], parts["novel_pixel_indices"] = torch.randint(side**2, (2, size, 1, pixels), generator=generator)
        return parts

    return batch


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Read a folder of clips, and say what is wrong with it.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--distance", type=positive_int, nargs=2, default=DISTANCE, help="of context and target, in frames")
    options = parser.parse_args()
    try:
        clips, told = read_folder(options.folder, tuple(options.distance), "skip")
    except ValueError as error:
        parser.error(str(error))
    print("\n".join(told + [f"{len(clips)} clips with {sum(int(clip.there.sum()) for clip in clips)} frames"]))
    raise SystemExit(bool(told))


if __name__ == "__main__":
    main()
