"""Clips are read as they were written; a problem is named, and never gives a later frame another index."""

import re
import shutil
import sys

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from clip_helpers import FRAME_GAP, edit_lines, frame_name

from fwdiff_lite.datasets import __main__ as command
from fwdiff_lite.datasets import clip_folder
from fwdiff_lite.datasets.clip_folder import read_folder
from fwdiff_lite.datasets.realestate10k import read_clip
from fwdiff_lite.datasets.view_sampler import (
    context_target_pairs,
    evaluation_list,
    read_evaluation_list,
    write_evaluation_list,
)


def test_poses_are_those_that_were_written(written):
    clips, warnings = read_folder(written[0], FRAME_GAP, check_poses=False)
    assert [clip.name for clip in clips] == list(written[1]) and warnings == []
    for clip in clips:
        torch.testing.assert_close(clip.poses, written[1][clip.name][1], rtol=0, atol=1e-8)


def test_a_missing_frame_is_named_and_changes_no_other_frame(copy):
    (copy / "clip00" / frame_name(7)).unlink()
    poses = read_clip(copy / "clip00.txt", "skip")[0].poses
    message = f"clip00.txt has 1 timestamps without a frame: {frame_name(7)[:-4]}; fix it, or skip it"
    with pytest.raises(ValueError, match=message) as error:
        read_folder(copy, FRAME_GAP)
    assert "\n" not in str(error.value)
    (clip,), warnings = read_folder(copy, FRAME_GAP, "skip", check_poses=False)
    assert len(warnings) == 1 and frame_name(7)[:-4] in warnings[0] and warnings[0].endswith("skipped")
    assert clip.has_image.logical_not().nonzero().tolist() == [[7]] and clip.files[8].name == frame_name(8)
    assert torch.equal(clip.poses, poses) and not (context_target_pairs(clip, FRAME_GAP) == 7).any()
    gaps = context_target_pairs(clip, FRAME_GAP).diff(dim=1).abs()
    assert gaps.min() == FRAME_GAP[0] and gaps.max() == FRAME_GAP[1], "a missing frame counts"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda words: words[:-1], "line 6 has 18 numbers, wanted 19"),
        (lambda words: [*words[:3], "x", *words[4:]], "line 6 has 'x', which is not a number"),
        (lambda words: ["1.5", *words[1:]], "line 6 has the timestamp '1.5', wanted a whole number of microseconds"),
        (lambda words: [*words[:-1], "nan"], "line 6 has a NaN"),
        (lambda words: [*words[:5], "0.1", *words[6:]], r"line 6 has distortion \[0.1, 0.0\], wanted zeros"),
        (lambda words: [words[0], "0", *words[2:]], "line 6 has focal lengths 0 and 0.9"),
        (lambda words: [*words[:3], "1.2", *words[4:]], "line 6 has the principal point 1.2 0.47, wanted it in the"),
        (lambda words: [*words[:7], "2", *words[8:]], "line 6 has a pose whose first three columns are not a rotation"),
        (lambda words: ["500000", *words[1:]], "line 6 has the timestamp 500000, which is not later than all earlier"),
    ],
)
def test_a_malformed_line_is_named_and_keeps_its_index(copy, change, message):
    text_file = copy / "clip00.txt"
    intact, _ = read_clip(text_file)

    def damage(lines):
        lines[5] = " ".join(change(lines[5].split()))

    edit_lines(text_file, damage)
    with pytest.raises(ValueError, match="clip00.txt " + message) as error:
        read_clip(text_file)
    assert "\n" not in str(error.value)
    clip, warnings = read_clip(text_file, "skip")
    assert message.split()[1] in warnings[0] and "1 frames without a timestamp" in warnings[1]
    assert len(clip) == len(intact) and clip.files[4] is None and clip.poses[4].isnan().all()
    other_frames = torch.arange(len(clip)) != 4
    assert torch.equal(clip.has_image, other_frames)
    assert torch.equal(clip.poses[other_frames], intact.poses[other_frames])
    assert clip.files[5:] == intact.files[5:]


def test_a_text_file_without_an_address_is_refused(copy):
    edit_lines(copy / "clip00.txt", lambda lines: lines.pop(0))
    message = "clip00.txt line 1 is the camera of a frame: wanted the address of the video"
    with pytest.raises(ValueError, match=message):
        read_clip(copy / "clip00.txt")
    clip, warnings = read_clip(copy / "clip00.txt", "skip")
    assert "line 1" in warnings[0] and "1 frames without a timestamp" in warnings[1]
    assert clip.files[0].name == frame_name(1)


def test_an_unreadable_frame_is_named(copy):
    file = copy / "clip00" / frame_name(9)
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match=f"{frame_name(9)} cannot be read"):
        read_folder(copy, FRAME_GAP)
    (clip,), warnings = read_folder(copy, FRAME_GAP, "skip")
    assert len(warnings) == 1 and frame_name(9) in warnings[0]
    assert clip.has_image.logical_not().nonzero().tolist() == [[9]]
    (clip,), warnings = read_folder(copy, FRAME_GAP, check_poses=False)
    with pytest.raises(ValueError, match=f"{frame_name(9)} cannot be read"):
        clip.load_frames([8, 9], 32)


def test_an_invalid_folder_is_refused(copy):
    with pytest.raises(ValueError, match="nowhere is not a folder: give one that holds posed clips"):
        read_folder(copy / "nowhere")
    with pytest.raises(ValueError, match="clip00 holds no posed clips: wanted .* or CLIP.txt and CLIP/TIMESTAMP.png"):
        read_folder(copy / "clip00")
    with pytest.raises(ValueError, match="on_error='ignore' is unknown: choose one of raise, skip"):
        read_folder(copy, FRAME_GAP, "ignore")
    message = "has no clip that is long enough: clip00 has 36 frames and no two of them 100 to 180 apart"
    for on_error in ("raise", "skip"):
        with pytest.raises(ValueError, match=message):
            read_folder(copy, on_error=on_error, check_poses=False)


def test_a_short_clip_is_named_and_left_out(written, tmp_path):
    """Nothing has to be skipped for it, so other problems still raise."""
    for name in ("clip00", "clip01"):
        shutil.copytree(written[0] / name, tmp_path / name)
        shutil.copy(written[0] / f"{name}.txt", tmp_path)
    edit_lines(tmp_path / "clip01.txt", lambda lines: lines.__delitem__(slice(7, None)))
    for i in range(6, 36):
        (tmp_path / "clip01" / frame_name(i)).unlink()
    clips, warnings = read_folder(tmp_path, FRAME_GAP, check_poses=False)
    assert [clip.name for clip in clips] == ["clip00"]
    text = "clip01 has 6 frames and no two of them 8 to 16 apart with a frame between them: left out"
    assert warnings == [text]
    (tmp_path / "clip01" / frame_name(2)).unlink()
    with pytest.raises(ValueError, match="clip01.txt has 1 timestamps without a frame"):
        read_folder(tmp_path, FRAME_GAP, check_poses=False)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda w: [w[0], "96", "108", "80", "56", *w[5:]], "line 2 has focal lengths 96 and 108, .* not in pixels"),
        (lambda w: [w[0], "70", "80", "80", "56", *w[5:]], "line 2 has the principal point 80 56, wanted it in the fr"),
        (lambda w: [*w[:5], "0.1", "0", *w[7:]], r"line 2 has distortion \[0.1, 0.0\], wanted zeros"),
        (lambda w: [w[0] + ".0", *w[1:]], "line 2 has the timestamp '500000.0', wanted a whole number"),
        (lambda w: w[:16], "line 2 has 16 numbers, wanted 19: timestamp fx fy cx cy k1 k2, and a 3 x 4 matrix"),
    ],
    ids=["focal length in pixels", "centre in pixels", "distortion", "timestamp", "16 columns"],
)
def test_the_reason_of_the_first_bad_line_is_told(copy, change, reason, capsys, monkeypatch):
    """All lines are bad. The message was: holds none of its 36 frames."""

    def damage(lines):
        lines[1:] = [" ".join(change(line.split())) for line in lines[1:] if line]

    edit_lines(copy / "clip00.txt", damage)
    monkeypatch.setattr("sys.argv", ["datasets", "check", str(copy), "--frame-gap", "8", "16"])
    with pytest.raises(SystemExit):
        command.main(sys.argv[1:])
    (line,) = [line for line in capsys.readouterr().err.split("\n") if "error" in line]
    assert re.search("the first problem: .*clip00.txt has no camera: " + reason, line)


def test_a_text_file_without_frames_and_frames_without_a_text_file_are_named(copy):
    (copy / "alone.txt").write_text((copy / "clip00.txt").read_text())
    with pytest.raises(ValueError, match="alone.txt has no frame: .*alone does not exist"):
        read_folder(copy, FRAME_GAP)
    (copy / "alone").mkdir()
    imageio.imwrite(copy / "alone" / "5.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="alone.txt has no frame: .*alone holds none of its 36 frames"):
        read_folder(copy, FRAME_GAP)
    (copy / "alone.txt").unlink()
    with pytest.raises(ValueError, match="alone has frames, but there is no alone.txt"):
        read_folder(copy, FRAME_GAP)
    imageio.imwrite(copy / "clip00" / "cover.png", np.zeros((9, 9, 3), np.uint8))
    (clip,), warnings = read_folder(copy, FRAME_GAP, "skip", check_poses=False)
    assert len(warnings) == 2 and "no alone.txt" in warnings[0]
    assert "1 frames without a timestamp of their own: cover.png" in warnings[1]


def test_two_frames_with_one_timestamp_are_refused(copy):
    file = sorted((copy / "clip00").glob("*.png"))[5]
    shutil.copy(file, file.with_suffix(".jpg"))
    with pytest.raises(ValueError, match="1 frames without a timestamp of their own: "):
        read_folder(copy, FRAME_GAP, check_poses=False)


def test_names_may_have_spaces_and_dots(copy):
    (copy / "clip00").rename(copy / "a b.c")
    (copy / "clip00.txt").rename(copy / "a b.c.txt")
    clips, warnings = read_folder(copy, FRAME_GAP, check_poses=False)
    views = evaluation_list(clips, FRAME_GAP)
    write_evaluation_list(copy / "list", views)
    assert warnings == [] and views[0].clip == "a b.c" and read_evaluation_list(copy / "list") == views
    shutil.copytree(copy / "a b.c", copy / "a b.extra")
    (copy / "a b.txt").touch()
    with pytest.raises(ValueError, match="a b.extra has frames, but there is no a b.extra.txt"):
        read_folder(copy, FRAME_GAP, check_poses=False)


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_prints_every_problem(copy, capsys, monkeypatch):
    """A clip that is too short is none."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["datasets", "check", str(copy), *words])
        with pytest.raises(SystemExit) as stop:
            command.main(sys.argv[1:])
        return stop.value.code, capsys.readouterr().out

    # test_pose_check checks poses
    monkeypatch.setattr(clip_folder, "reject_mismatched", lambda clip, on_error, frame_matches: [])
    code, output = run("--frame-gap", "8", "16")
    assert code is False and "1 clips with 36 frames" in output
    shutil.copytree(copy / "clip00", copy / "short")
    lines = (copy / "clip00.txt").read_text().split("\n")
    (copy / "short.txt").write_text("\n".join(lines[:7]))
    for i in range(6, 36):
        (copy / "short" / frame_name(i)).unlink()
    code, output = run("--frame-gap", "8", "16")
    assert code is False and "short has 6 frames and no two of them 8 to 16 apart" in output
    assert "1 clips with 36 frames\n1 clips are too short for this frame gap" in output
    (copy / "clip00" / frame_name(3)).unlink()
    code, output = run("--frame-gap", "8", "16")
    assert code is True and frame_name(3)[:-4] in output
    assert run()[0] is True, "no clip is long enough"


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere"], "nowhere is not a folder: give one that holds"),
        ([".", "--frame-gap", "0", "2"], "0 is no whole number above 0"),
        ([".", "--frame-gap", "3", "2"], "give the smaller number first"),
    ],
)
def test_an_invalid_command_is_a_one_line_error(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["datasets", "check", *words])
    with pytest.raises(SystemExit):
        command.main(sys.argv[1:])
    assert message in capsys.readouterr().err
