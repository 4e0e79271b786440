"""Checks whether the camera poses of a clip belong to its frames, by epipolar geometry.

In a static scene, a point that two frames show must lie on the epipolar lines that the two poses imply (Hartley and
Zisserman 2004, Chapter 9). SIFT matches between frames show whether it does: with the stated poses, and with the
alternatives that arise from common mistakes. These are poses that are offset by some frames, as if a line of the text
file were lost or doubled, cameras in another convention, and focal lengths that are a multiple of the right ones.

Epipolar lines depend weakly on the intrinsics. A clip is accepted with focal lengths that are wrong by a third. A
principal point that is wrong by a tenth of the width is seen only if the right one is in the middle of the frame.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from skimage.color import rgb2gray
from skimage.feature import SIFT, match_descriptors
from torch import Tensor

from fwdiff_lite.datasets.epipolar import Sizes, pixel_intrinsics, sampson_distance
from fwdiff_lite.datasets.posed_clips import Clip
from fwdiff_lite.metrics import Interval, bootstrap

MAX_OFFSET = 6  # the largest offset of poses that is tried, in frames
MAX_FRAMES = 64  # the number of frames of a clip that are compared, at most
GAP_DIVISORS = (14, 7, 4)  # the two frames of a pair are 1/14, 1/7 or 1/4 of the clip apart
MAX_IMAGE_SIDE = 256  # pixels along a frame's longer side: larger frames are downsampled before SIFT
TRUNCATION = 0.01  # of the longer side: a larger epipolar distance counts as this much; the match may be false
MIN_MATCHES = 40  # in all pairs together: fewer are too few for a result
# A mean error above this part of the truncation is inconsistent. Measured: .27 to .63 for right poses, .66 to .99 for
# wrong ones at one gap.
INCONSISTENT_ERROR = 2 / 3
# The error with another offset or other cameras over the stated error must be below this, and the interval of the ratio
# below 1. Measured with other focal lengths (FOCAL_FACTORS): 2.1 to 6.9 for four right clips of photographs.
MAX_ERROR_RATIO = 0.95
# The error reduction that the offset of one segment must exceed is MIN_ERROR_REDUCTION over the square root of the
# number of matches, which counts up to MAX_COUNTED_MATCHES, because poses are estimates. Measured, times that root: up
# to .47 for right poses; .7 to 5 for poses with an offset from the middle on.
MIN_ERROR_REDUCTION, MAX_COUNTED_MATCHES = 0.6, 1600
MIN_SEGMENT_PAIRS = 4  # pairs with a frame in the segment
# A match that moves less, in pixels, stands still, like a caption. It does not count if MIN_MOVING of all matches move.
STATIC_DISTANCE, MIN_MOVING = 0.5, 0.1
IMPRECISE_ERROR = 0.55  # above this part of the truncation, poses are right but imprecise, as from a depth sensor
ERROR_EPSILON = 0.01  # pixels, added to every distance: a static camera has no error, whatever the offset
CLEAR_GAIN = 0.1  # of the clip's error: wrong intrinsics explain what an offset removes up to this part
FOCAL_FACTORS = {"1/4": 1 / 4, "1/2": 1 / 2, "2": 2.0, "4": 4.0}  # of the alternatives, by their names

OFF_CENTRE = 0.05  # of the width or height, of the principal point from the middle of the frame

# The directions of a camera's three axes over those of OpenCV, which are right, down and forward.
AXES = {"OpenCV": (1, 1, 1), "OpenGL": (1, -1, -1), "PyTorch3D": (-1, -1, 1)}
DIRECTIONS = {True: "world-to-camera", False: "camera-to-world"}


class FileConvention(NamedTuple):
    """How the files of a format state a pose, for messages in their terms.

    title: the file; axes: a key of AXES; to_camera: whether a pose maps the world to the camera, or the reverse
    has_lines: whether each frame has a line in a text file and a timestamp
    """

    title: str
    axes: str
    to_camera: bool
    has_lines: bool = False


# by `Clip.file_format`; a clip without a file is in the convention of `Clip`
FILE_CONVENTIONS = {
    "": FileConvention("a Clip", "OpenCV", True),
    "realestate10k": FileConvention("the text of RealEstate10K", "OpenCV", True, has_lines=True),
    "pixelsplat": FileConvention("a chunk of pixelSplat", "OpenCV", True),
    "colmap": FileConvention("a reconstruction of COLMAP", "OpenCV", True),
    "transforms": FileConvention("transforms.json", "OpenGL", False),
    "co3d": FileConvention("an annotation of CO3D", "PyTorch3D", True),
}


class Features(NamedTuple):
    """The SIFT features of a frame: keypoints (x, y) in pixels, their descriptors, and the frame's (width, height)."""

    keypoints: Float[Tensor, "k 2"]
    descriptors: Tensor
    size: tuple[int, int]


class Matches(NamedTuple):
    """Matched points (x, y) of two frames, in pixels of each frame, and the (width, height) of both frames."""

    points1: Float[Tensor, "k 2"]
    points2: Float[Tensor, "k 2"]
    sizes: Sizes

    @property
    def truncation(self) -> float:
        """The largest distance that a match counts for, in pixels."""
        return TRUNCATION * max(map(max, self.sizes))


class FrameMatches(NamedTuple):
    """The matches between some frames of a clip: frame indices of P pairs, and the matched points of each pair."""

    pairs: Int[Tensor, "p 2"]
    matches: list[Matches]


class Segment(NamedTuple):
    """A part of a clip whose frames fit other poses better.

    first, last: its frames, counted from 0
    offset: the offset of the poses, in frames, that fits better
    error_reduction: the part of the whole clip's error that the offset removes
    """

    first: int
    last: int
    offset: int
    error_reduction: float


class PoseCheck(NamedTuple):
    """How well the poses of a clip explain its frames.

    errors: mean epipolar distance of the matches, in pixels, for each offset of all poses; each distance is truncated
        at `truncation`. Offset 0 is the stated poses. With an offset, some pairs have no poses: the error is then the
        stated error of the clip times the ratio of errors over the other pairs.
    best_offset: the offset other than 0 with the smallest error
    error_ratio: the error with that offset over the stated error, with an interval
    segment: the segment whose error is reduced most if it alone has an offset; None if nothing reduces the error
    alternatives: error ratios as above, for other cameras by their descriptions (`other_cameras`)
    num_pairs, num_matches: pairs of frames, and matches in all pairs. With too few, `errors` is empty and `error_ratio`
        is None.
    """

    errors: dict[int, float]
    best_offset: int
    error_ratio: Interval | None
    segment: Segment | None
    alternatives: dict[str, Interval]
    num_pairs: int
    num_matches: int
    truncation: float

    @property
    def has_offset(self) -> bool:
        """Whether another offset of all poses explains the frames clearly better, and better than other cameras."""
        if self.error_ratio is None or not _is_clearly_better(self.error_ratio):
            return False
        return not self.better_cameras or self.error_ratio.value < self.alternatives[self.better_cameras].value

    @property
    def better_cameras(self) -> str | None:
        """The description of the other cameras that explain the frames best, if clearly better; else None."""
        name = min(self.alternatives, key=lambda name: self.alternatives[name].value, default=None)
        return name if name and _is_clearly_better(self.alternatives[name]) else None

    @property
    def is_imprecise(self) -> bool:
        """Whether the stated poses explain the frames, but not well."""
        return self.error_ratio is not None and self.errors[0] > IMPRECISE_ERROR * self.truncation

    @property
    def has_partial_offset(self) -> bool:
        """Whether the poses of a segment have an offset: its error reduction is larger than by chance."""
        if self.segment is None:
            return False
        return self.segment.error_reduction > MIN_ERROR_REDUCTION / math.sqrt(
            min(self.num_matches, MAX_COUNTED_MATCHES)
        )

    @property
    def is_inconsistent(self) -> bool:
        """Whether the stated poses explain nothing of the frames."""
        return self.error_ratio is not None and self.errors[0] > INCONSISTENT_ERROR * self.truncation


def _is_clearly_better(error_ratio: Interval) -> bool:
    return error_ratio.high < 1 and error_ratio.value < MAX_ERROR_RATIO


def other_cameras(clip: Clip) -> dict[str, Clip]:
    """The clip as it would be with other cameras, by a description of the mistake that was made."""
    return other_conventions(clip) | other_intrinsics(clip)


def other_conventions(clip: Clip) -> dict[str, Clip]:
    """The clip as it would be if its file stated poses in another convention than its format wants."""
    wanted, clips = FILE_CONVENTIONS[clip.file_format], {}
    stated = _axes_matrix(wanted.axes) @ clip.poses  # world to camera, with the axes of the format
    for to_camera in (wanted.to_camera, not wanted.to_camera):
        for axes in AXES:
            mistakes = []
            if axes != wanted.axes:
                mistakes.append(f"axes of {axes}, {wanted.title} wants those of {wanted.axes}")
            if to_camera != wanted.to_camera:
                mistakes.append(f"poses that are {DIRECTIONS[to_camera]} in place of {DIRECTIONS[wanted.to_camera]}")
            if mistakes:
                poses = stated if to_camera == wanted.to_camera else torch.linalg.inv(stated)
                description = "the file has " + "; and it has ".join(mistakes)
                clips[description] = replace(clip, poses=_axes_matrix(axes) @ poses)
    return clips


def other_intrinsics(clip: Clip) -> dict[str, Clip]:
    """The clip with other focal lengths and, if its principal point is OFF_CENTRE, with the middle of the frame."""
    exchanged, centred = clip.intrinsics.clone(), clip.intrinsics.clone()
    exchanged[:, 0, 0], exchanged[:, 1, 1] = clip.intrinsics[:, 1, 1], clip.intrinsics[:, 0, 0]
    centred[:, :2, 2] = 0.5
    middle = "a principal point in the middle of the frame"
    is_off_centre = bool(((clip.intrinsics - centred).abs() > OFF_CENTRE).any())
    intrinsics = {"exchanged focal lengths fx and fy fit": exchanged}
    if is_off_centre:
        intrinsics[f"{middle} fits"] = centred
    for name, factor in FOCAL_FACTORS.items():
        scale = torch.tensor([[factor, 1, 1], [1, factor, 1], [1, 1, 1]], dtype=torch.float64)
        intrinsics[f"focal lengths times {name} fit"] = scale * clip.intrinsics
        if is_off_centre:
            intrinsics[f"focal lengths times {name} and {middle} fit"] = scale * centred
    return {
        f"the intrinsics are wrong, {name} better": replace(clip, intrinsics=changed)
        for name, changed in intrinsics.items()
    }


def _axes_matrix(axes: str) -> Float[Tensor, "4 4"]:
    """The matrix that exchanges the axes of OpenCV for those of another convention, or back."""
    return torch.tensor([*AXES[axes], 1.0], dtype=torch.float64).diag()


def check_poses(clip: Clip, frame_matches: FrameMatches | None = None) -> PoseCheck:
    """Compares the frames of a clip with their stated cameras, and with alternatives.

    The alternatives are the poses of earlier and later frames, and other cameras (`other_cameras`).
    frame_matches: those of the clip, which depend on its images only; None: they are computed

    Pairs of at most MAX_FRAMES frames are matched by SIFT. The matches' distances to their epipolar lines are
    measured with the stated poses, and with poses that are offset by up to MAX_OFFSET frames: the poses of all
    frames, and those of one segment alone, as behind a lost line. If the camera's motion repeats itself exactly, poses
    with an offset imply the same epipolar lines as the stated ones; such an offset is not detected, and does no harm.
    The thresholds were measured on rendered clips, whose poses may be off by .1 degrees and a tenth of the motion
    between two frames. An offset of few frames can stay undetected.
    """
    pairs, matches = frame_matches or match_frames(clip)
    matches_per_pair = torch.tensor([len(pair_matches.points1) for pair_matches in matches], dtype=torch.long)
    num_matches = int(matches_per_pair.sum())
    if num_matches < MIN_MATCHES or (matches_per_pair > 0).sum() < 2:
        return PoseCheck({}, 0, None, None, {}, len(pairs), num_matches, 0.0)
    offsets = [k for k in range(-MAX_OFFSET, MAX_OFFSET + 1) if k]
    error_sums = [
        _offset_error_sums(clip, pair, pair_matches, torch.tensor(offsets))
        for pair, pair_matches in zip(pairs, matches, strict=True)
    ]
    error_sums = torch.stack(error_sums) + ERROR_EPSILON * matches_per_pair[:, None, None, None]
    stated, both_offset = error_sums[:, 0, 0, 0], error_sums[:, :, 1, 1]
    stated_error, has_poses = float(stated.sum()) / num_matches - ERROR_EPSILON, both_offset.isfinite()
    ratios = both_offset.nansum(0) / (has_poses * stated[:, None]).sum(0)
    # with a large offset, few pairs have poses; they do not represent all pairs
    representative = (2 * has_poses.sum(0) >= len(pairs)) & (has_poses.sum(0) > 1)
    errors = {0: stated_error}
    errors |= {k: stated_error * float(r) for k, r, valid in zip(offsets, ratios, representative, strict=True) if valid}
    best_offset = min((k for k in errors if k), key=errors.__getitem__, default=0)
    error_ratio = None
    if best_offset:
        m = offsets.index(best_offset)
        error_ratio = _ratio(both_offset[:, m][has_poses[:, m]], stated[has_poses[:, m]])
    others = other_cameras(clip)
    intrinsics, poses = (torch.stack([getattr(x, name) for x in others.values()]) for name in ("intrinsics", "poses"))
    other_error_sums = [
        _error_sums(intrinsics[:, pair], poses[:, pair], pair_matches)
        for pair, pair_matches in zip(pairs, matches, strict=True)
    ]
    other_error_sums = torch.stack(other_error_sums, 1) + ERROR_EPSILON * matches_per_pair  # (cameras, pairs)
    alternatives = {name: _ratio(sums, stated) for name, sums in zip(others, other_error_sums, strict=True)}
    truncation = sum(pair_matches.truncation * len(pair_matches.points1) for pair_matches in matches) / num_matches
    segment = find_offset_segment(pairs, error_sums, offsets)
    return PoseCheck(errors, best_offset, error_ratio, segment, alternatives, len(pairs), num_matches, truncation)


def _ratio(errors: Float[Tensor, "p"], stated: Float[Tensor, "p"]) -> Interval:
    """The sum of errors over all pairs, over that of the stated errors, with its interval."""
    generator = torch.Generator().manual_seed(0)
    return bootstrap(
        lambda error, stated: error.sum() / stated.sum(), errors, stated, generator=generator, resamples=500
    )


def match_frames(clip: Clip) -> FrameMatches:
    """The matches between frames of a clip, without those that stand still in a clip that moves.

    Masks are ignored: the background shows most of the camera's motion.
    """
    clip, pairs = replace(clip, masks=None), select_frame_pairs(clip)
    features = {i: _sift_features(clip, i) for i in pairs.unique().tolist()}
    matches = [_match_features(features[i], features[j]) for i, j in pairs.tolist()]
    moving = [(pair_matches.points1 - pair_matches.points2).norm(dim=1) >= STATIC_DISTANCE for pair_matches in matches]
    if matches and torch.cat(moving).double().mean() >= MIN_MOVING:
        matches = [
            pair_matches._replace(points1=pair_matches.points1[moves], points2=pair_matches.points2[moves])
            for pair_matches, moves in zip(matches, moving, strict=True)
        ]
    return FrameMatches(pairs, matches)


def select_frame_pairs(clip: Clip) -> Int[Tensor, "p 2"]:
    """The frame indices of pairs to match, among at most MAX_FRAMES frames with an image and a pose.

    The two frames are about 1/14, 1/7 or 1/4 of the clip apart (GAP_DIVISORS).
    """
    frames = (clip.has_image & clip.poses.isfinite().all((1, 2))).nonzero()[:, 0]
    frames = frames[torch.linspace(0, len(frames) - 1, min(MAX_FRAMES, len(frames))).round().long()]
    pairs = [torch.zeros(0, 2, dtype=torch.long)]
    for gap in (max(1, len(clip) // divisor) for divisor in GAP_DIVISORS):
        partner = torch.searchsorted(frames, frames + gap)  # the first frame at that gap or behind it
        pairs.append(torch.stack([frames[partner < len(frames)], frames[partner[partner < len(frames)]]], 1))
    return torch.cat(pairs).unique(dim=0)


def find_offset_segment(
    pairs: Int[Tensor, "p 2"], error_sums: Float[Tensor, "p offsets 2 2"], offsets: list[int]
) -> Segment | None:
    """The segment with the largest error reduction if its poses alone have an offset; None if nothing is reduced.

    error_sums: the result of `_offset_error_sums` for each pair. The last two axes are whether the first and the second
        frame's pose have the offset.
    """
    edges = torch.cat([pairs.unique(), pairs.max()[None] + 1])
    first, end = torch.combinations(edges).T  # segments are first, ..., end - 1
    inside = (pairs >= first[:, None, None]) & (pairs < end[:, None, None])  # (segments, pairs, 2)
    first_offset, second_offset = inside.long().unbind(-1)
    best, stated, pair = None, error_sums[:, 0, 0, 0], torch.arange(len(pairs))
    for m, offset in enumerate(offsets):
        segment_errors = error_sums[pair, m, first_offset, second_offset]  # (segments, pairs)
        counted = inside.any(-1) & segment_errors.isfinite()
        reduction = torch.where(counted, stated - segment_errors, 0).sum(1) / stated.sum()
        reduction[counted.sum(1) < MIN_SEGMENT_PAIRS] = 0
        s = int(reduction.argmax())
        if reduction[s] > (best.error_reduction if best else 0):
            best = Segment(int(first[s]), int(end[s]) - 1, offset, float(reduction[s]))
    return best


def reject_mismatched(clip: Clip, on_error: str = "raise", frame_matches: FrameMatches | None = None) -> list[str]:
    """Raises a ValueError if the poses of a clip have an offset or explain nothing; else returns warnings.

    on_error: for a clip that cannot be checked: "raise" raises a ValueError, "skip" returns a warning
    frame_matches: as in `check_poses`
    """
    check = check_poses(clip, frame_matches)
    if problem := mismatch_text(check, FILE_CONVENTIONS[clip.file_format]):
        raise ValueError(f"{clip.name}: {problem}")
    if check.is_imprecise:
        return [
            f"{clip.name}: the poses are imprecise: matches are {check.errors[0]:.2f} pixels off their epipolar lines, "
            f"at a width of {MAX_IMAGE_SIDE}"
        ]
    if check.error_ratio is not None:
        return []
    too_few = f"{check.num_matches} matches between frames are too few to compare poses with"
    reason = too_few if check.num_pairs else "there are no two frames whose poses could be compared"
    if on_error == "raise":
        raise ValueError(
            f"{clip.name}: {reason}: look at the clip, and read it without the check "
            "(check_poses=False, --skip-pose-check)"
        )
    return [f"{clip.name}: {reason}: not checked"]


def mismatch_text(check: PoseCheck, convention: FileConvention) -> str | None:
    """What is wrong with cameras that do not belong to their frames, in the terms of their file; else None."""
    mismatch = "poses and frames do not belong together"
    unit = "lines" if convention.has_lines else "frames"
    if check.has_offset:
        remedy = (
            "extract the frames again by their timestamps" if convention.has_lines else "is their order another one?"
        )
        is_clear = check.error_ratio.value < 1 - CLEAR_GAIN
        return (
            f"{mismatch}: poses moved by {check.best_offset:+d} {unit} explain the frames better "
            f"({check.errors[check.best_offset]:.2f} against {check.errors[0]:.2f} pixels off epipolar lines): "
            + (remedy if is_clear else f"{remedy}; or the intrinsics are wrong")
        )
    if name := check.better_cameras:
        return (
            f"{name}: matches are then {check.alternatives[name].value:.2f} times as far off their epipolar lines as "
            f"now ({check.errors[0]:.2f} pixels)"
        )
    if check.is_inconsistent:
        return (
            f"{mismatch}: matches are {check.errors[0]:.2f} pixels off their epipolar lines, of {check.truncation:.2f} "
            f"at most; {convention.title} wants {DIRECTIONS[convention.to_camera]} poses with axes of "
            f"{convention.axes}: are the poses those of another clip, or the intrinsics wrong?"
        )
    if check.has_partial_offset:
        first, last, offset, reduction = check.segment
        place = (
            f"lines {first + 2} to {last + 2} of the text file" if convention.has_lines else f"frames {first} to {last}"
        )
        question = "is a line lost or doubled there?" if convention.has_lines else "is a frame lost or doubled there?"
        return (
            f"{mismatch}: about {place}, poses moved by {offset:+d} {unit} explain the frames better (by "
            f"{reduction:.0%} of the clip's error): "
            + (question if reduction > CLEAR_GAIN else f"{question} Or the intrinsics are wrong")
        )
    return None


def _sift_features(clip: Clip, i: int) -> Features:
    """The SIFT features of a frame, downsampled to at most MAX_IMAGE_SIDE pixels along its longer side."""
    image = torch.from_numpy(rgb2gray(clip.read_frame(i)))
    height, width = image.shape
    scale = min(1.0, MAX_IMAGE_SIDE / max(height, width))
    height, width = round(scale * height), round(scale * width)
    image = torch.nn.functional.interpolate(image[None, None], (height, width), mode="bilinear", antialias=True)[0, 0]
    sift = SIFT()
    try:
        sift.detect_and_extract(image.numpy())
    except RuntimeError:  # SIFT raises it if there is no feature
        return Features(torch.zeros(0, 2).double(), torch.zeros(0, 128), (width, height))
    keypoints = torch.from_numpy(sift.keypoints[:, ::-1] + 0.5)  # (row, column) to (x, y)
    return Features(keypoints, torch.from_numpy(sift.descriptors), (width, height))


def _match_features(features1: Features, features2: Features) -> Matches:
    """Nearest neighbours in both directions that pass the ratio test."""
    points1, points2, sizes = features1.keypoints, features2.keypoints, (features1.size, features2.size)
    if min(len(points1), len(points2)) < 2:
        return Matches(points1[:0], points2[:0], sizes)
    descriptors1, descriptors2 = features1.descriptors.numpy(), features2.descriptors.numpy()
    indices = match_descriptors(descriptors1, descriptors2, max_ratio=0.75, cross_check=True)
    return Matches(points1[indices[:, 0]], points2[indices[:, 1]], sizes)


def _offset_error_sums(
    clip: Clip, pair: Int[Tensor, "2"], matches: Matches, offsets: Int[Tensor, "offsets"]
) -> Float[Tensor, "offsets 2 2"]:
    """The error sum of a pair's matches for each offset of the two poses.

    The last two axes are: first frame's pose (0: as stated, 1: with the offset), second frame's pose (0, 1).
    NaN if there is no pose at that offset.
    """
    has_offset = torch.cartesian_prod(torch.arange(2), torch.arange(2)).view(2, 2, 2)
    frames = pair + offsets[:, None, None, None] * has_offset  # (offsets, 2, 2, first and second frame)
    is_frame, frames = (frames >= 0) & (frames < len(clip)), frames.clamp(0, len(clip) - 1)
    poses = torch.where(is_frame[..., None, None], clip.poses[frames], math.nan)
    return _error_sums(clip.intrinsics[frames], poses, matches)


def _error_sums(
    intrinsics: Float[Tensor, "*b 2 3 3"], poses: Float[Tensor, "*b 2 4 4"], matches: Matches
) -> Float[Tensor, "*b"]:
    """The sums of truncated epipolar distances of matches if these cameras took the frames; NaN without a pose."""
    has_poses = poses.isfinite().all((-3, -2, -1))
    intrinsics = pixel_intrinsics(intrinsics[has_poses], matches.sizes)
    distances = sampson_distance(intrinsics, poses[has_poses], matches.points1, matches.points2)
    error_sums = torch.full(has_poses.shape, math.nan, dtype=torch.float64)
    error_sums[has_poses] = distances.clamp(max=matches.truncation).sum(-1)
    return error_sums
