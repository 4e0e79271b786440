"""The commands for folders of posed clips, in any format of clip_folder.py.

    python -m fwdiff_lite.datasets check FOLDER               what the folder is, and what is wrong with it
    python -m fwdiff_lite.datasets convert FROM TO --to FORMAT
    python -m fwdiff_lite.datasets benchmark FOLDER --workers 8  how many clips a second are read for training

`check` reads every image and compares the poses with the frames, which takes up to half a minute a clip: check a large
data set once, then read it without. It estimates the near and far plane. With --sheet, it draws a contact sheet with
epipolar lines of the first clip; with --fit, it fits the clip's scene and says how well held-out views are rebuilt.
A clip that is shorter than the distance from a context to its target is no problem: it is named and left out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from fwdiff_lite.command_line import positive_int
from fwdiff_lite.datasets import co3d, pixelsplat, realestate10k, transforms_json
from fwdiff_lite.datasets.clip_folder import (
    check_clips,
    detect_format,
    drop_short_clips,
    no_clip_text,
    read_all_clips,
    read_folder,
    read_unchecked,
)
from fwdiff_lite.datasets.clip_loader import make_loader, measure_reading_rate
from fwdiff_lite.datasets.contact_sheet import contact_sheet
from fwdiff_lite.datasets.pose_check import FrameMatches, match_frames
from fwdiff_lite.datasets.posed_clips import ON_ERROR, SKIPPED, Clip, without_distortion
from fwdiff_lite.datasets.scene_depth import MatchedPoints, estimate_near_far, matched_points
from fwdiff_lite.datasets.view_sampler import FRAME_GAP

TARGETS = ("pixelsplat", "realestate10k", "transforms")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 if data was skipped, or no clip can be used."""
    parser = argparse.ArgumentParser(prog="python -m fwdiff_lite.datasets", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="what a folder is, and what is wrong with it")
    check.add_argument("folder", type=Path)
    clips_help = "check the first N clips only; default: all"
    check.add_argument("--clips", type=positive_int, metavar="N", help=clips_help)
    check.add_argument("--sheet", type=Path, metavar="FILE.png", help="draw a contact sheet of the first clip")
    fit_help = "fit the first clip's scene, with the stated focal length and with others: minutes on a CPU"
    check.add_argument("--fit", action="store_true", help=fit_help)
    convert = commands.add_parser("convert", help="write the clips of a folder in another format")
    convert.add_argument("source", type=Path, metavar="FROM")
    convert.add_argument("target", type=Path, metavar="TO")
    convert.add_argument("--to", choices=TARGETS, required=True)
    convert.add_argument("--on-error", choices=ON_ERROR, default=ON_ERROR[0])
    convert.add_argument("--skip-pose-check", action="store_true", help="do not compare poses with frames")
    benchmark = add_benchmark(commands)
    for command in (check, convert, benchmark):
        co3d.add_arguments(command)
    gap_help = "smallest and largest number of frames from context to target; default: 100 180"
    for command in (check, benchmark):
        command.add_argument(
            "--frame-gap", type=positive_int, nargs=2, metavar=("MIN", "MAX"), default=FRAME_GAP, help=gap_help
        )
    options = parser.parse_args(arguments)
    if options.command != "convert" and options.frame_gap[0] > options.frame_gap[1]:
        parser.error("--frame-gap is the smallest and the largest number of frames: give the smaller number first")
    try:
        problem = {"check": check_folder, "convert": convert_folder, "benchmark": measure}[options.command](options)
    except ValueError as error:
        parser.error(str(error))
    raise SystemExit(bool(problem))


def add_benchmark(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds the command that measures how fast a folder is read."""
    benchmark = commands.add_parser("benchmark", help="how many clips a second are read for training")
    benchmark.add_argument("folder", type=Path)
    workers_help = "processes that decode images, several numbers to compare; default: none, this process decodes"
    benchmark.add_argument("--workers", type=positive_int, nargs="+", metavar="N", default=[0], help=workers_help)
    for name, default in (("--batch-size", 96), ("--side", 64), ("--batches", 20)):
        benchmark.add_argument(name, type=positive_int, default=default, help="default: %(default)s")
    return benchmark


def measure(options: argparse.Namespace) -> bool:
    """Prints how many clips a second a DataLoader reads from a folder, a line for each number of workers."""
    clips, warnings = read_folder(
        options.folder, tuple(options.frame_gap), "skip", check_poses=False, selection=co3d.selection_from(options)
    )
    print("\n".join([*warnings, f"{options.folder}: {len(clips)} clips"]), flush=True)
    for num_workers in options.workers:
        warmup = 2 * num_workers + 1
        loader = make_loader(
            clips,
            options.batch_size,
            tuple(options.frame_gap),
            num_workers,
            options.batches + warmup,
            side=options.side,
        )
        rate = measure_reading_rate(loader, options.batches)
        print(
            f"{num_workers} workers: {rate.clips:.1f} clips/s, {rate.frames:.0f} frames/s at {options.side} x "
            f"{options.side}; the first batch after {rate.first_batch:.1f} s",
            flush=True,
        )
    return False


def check_folder(options: argparse.Namespace) -> bool:
    """Prints what a folder is and every problem; returns whether there is one."""
    print(f"{options.folder}: {detect_format(options.folder).title}", flush=True)
    unchecked, warnings = read_unchecked(options.folder, "skip", co3d.selection_from(options))
    clips, points, first_matches = [], [], None
    unchecked = unchecked[: options.clips]
    for clip, frame_matches in check_clips(unchecked, warnings, "skip"):
        clips.append(clip)
        points.append(matched_points(clip, frame_matches))
        first_matches = first_matches or frame_matches
    if not clips:
        if options.sheet and unchecked:  # a picture shows best how poses and frames disagree
            draw_sheet(unchecked[0], None, options.sheet)
        raise ValueError(no_clip_text(options.folder, warnings))
    long_clips, short_clips = drop_short_clips(clips, tuple(options.frame_gap))
    num_frames = sum(int(clip.has_image.sum()) for clip in long_clips)
    print("\n".join([*warnings, *short_clips, f"{len(long_clips)} clips with {num_frames} frames"]))
    if short_clips:
        print(short_clips_text(short_clips, max(int(clip.has_image.sum()) for clip in clips)))
    problems = [text for text in warnings if text.endswith(SKIPPED)]
    print(f"{len(problems)} problems" if problems else "no problem: poses and frames of these clips agree")
    print(near_far_text(estimate_near_far(points)), flush=True)
    if options.sheet:
        draw_sheet(clips[0], first_matches, options.sheet)
    if options.fit:
        print(fit_text(clips[0], points[0]))
    return bool(problems) or not long_clips


def short_clips_text(short_clips: list[str], most_frames: int) -> str:
    """What becomes of clips that are too short, and a frame gap that would fit the longest clip."""
    smallest, largest = max(2, most_frames // 8), max(2, most_frames // 2)
    return (
        f"{len(short_clips)} clips are too short for this frame gap: training and evaluation leave them out; "
        f"the longest clip has {most_frames} frames, so try --frame-gap {smallest} {largest}"
    )


def near_far_text(planes: tuple[float, float] | None) -> str:
    """The estimated near and far plane in words."""
    if planes is None:
        return "near and far cannot be estimated: too few matches show a depth, as where a camera only rotates"
    return "near and far, estimated from matches: --near-far {:.3g} {:.3g}".format(*planes)


def draw_sheet(clip: Clip, frame_matches: FrameMatches | None, path: Path) -> None:
    """Draws the contact sheet of a clip, and says so or why there is none. None: its frames are not matched yet."""
    try:
        contact_sheet(clip, frame_matches or match_frames(clip)).savefig(path)
    except ValueError as error:
        print(f"no contact sheet: {error}")
    else:
        print(f"the contact sheet of {clip.name}: {path}")


def fit_text(clip: Clip, points: MatchedPoints) -> str:
    """The result of fits with several focal lengths in words, or why there is none."""
    from fwdiff_lite.problems.inverse_graphics import scene_fit  # takes seconds to import, and is seldom needed

    try:
        return scene_fit.focal_length_text(clip, scene_fit.compare_focal_lengths(clip, points))
    except ValueError as error:
        return f"no fit: {error}"


def convert_folder(options: argparse.Namespace) -> bool:
    """Writes the clips of a folder in another format; returns whether data was skipped."""
    if options.target.exists() and not (options.target.is_dir() and not any(options.target.iterdir())):
        raise ValueError(f"{options.target} is not empty: name a new folder")
    clips, warnings = read_all_clips(
        options.source, options.on_error, not options.skip_pose_check, selection=co3d.selection_from(options)
    )
    partial = options.target.with_name(f"{options.target.name}.partial")  # a failure leaves no half of a folder
    shutil.rmtree(partial, ignore_errors=True)
    try:
        warnings += write_clips(partial, [without_distortion(clip) for clip in clips], options.to)
        partial.replace(options.target)
    except OSError as error:
        raise ValueError(f"{options.target} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print("\n".join([*warnings, f"{options.target}: {len(clips)} clips as {options.to}"]))
    return any(text.endswith(SKIPPED) for text in warnings)


def write_clips(folder: Path, clips: Sequence[Clip], name: str) -> list[str]:
    """Writes clips in one of the TARGETS, without distortion and masks; returns warnings."""
    if name == "pixelsplat":
        return pixelsplat.write_chunks(folder, clips)
    for clip in clips:
        if name == "realestate10k":
            realestate10k.write_clip(folder, clip)
        else:
            transforms_json.write_capture(folder / clip.name, clip)
    return []


if __name__ == "__main__":
    main(sys.argv[1:])
