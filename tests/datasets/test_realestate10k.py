"""Clips come back as they were written, what is bad is named and never shifts anything, and shifted poses are seen."""

import functools
import shutil
from dataclasses import replace

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from fwdiff_lite.datasets import realestate10k as re10k
from fwdiff_lite.datasets.videos import read_frames
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.cameras import check_cameras, look_at, project
from fwdiff_lite.problems.inverse_graphics.synthetic_realestate10k import (
    HEIGHT,
    FRAME_INTERVAL,
    WIDTH,
    cameras_from_poses,
    render_frames,
    format_clip_text,
    write_clips,
)

FRAMES, NEAR = 36, (8, 16)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of three clips, with the scene and the poses of each."""
    folder = tmp_path_factory.mktemp("written")
    return folder, write_clips(folder, 3, FRAMES)


@pytest.fixture(scope="module", autouse=True)
def _seen_before(written):
    """Frames of `written` are looked at for features once: many poses are tried on them."""
    with pytest.MonkeyPatch.context() as patch:
        found, known = re10k._features, functools.cache(re10k._features)
        patch.setattr(re10k, "_features", lambda file: (known if written[0] in file.parents else found)(file))
        yield


@pytest.fixture
def copy(written, tmp_path):
    """The first clip alone, to be spoilt."""
    shutil.copytree(written[0] / "clip00", tmp_path / "clip00")
    shutil.copy(written[0] / "clip00.txt", tmp_path)
    return tmp_path


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def edit(text, change):
    lines = text.read_text().split("\n")
    change(lines)
    text.write_text("\n".join(lines))


def frame(row):
    return f"{500_000 + FRAME_INTERVAL * row}.png"


def double(x):
    return torch.tensor(x, dtype=torch.float64)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_frames_and_cameras_are_those_that_were_written(written):
    """What the renderer shows through the cameras that are read is what the frames show, cut and resized."""
    folder, made = written
    clips, told = re10k.read_folder(folder, NEAR, look=False)
    assert [clip.name for clip in clips] == list(made) and told == []
    for clip in clips:
        scene, poses = made[clip.name]
        torch.testing.assert_close(clip.poses, poses, rtol=0, atol=1e-8)
        rows = [3, 30, 14]  # as text, the names of later frames come first
        frames, cameras = clip.look(rows, 48)
        check_cameras(cameras)
        assert frames.shape == (3, 3, 48, 48) and cameras.shape == (3, 4, 4)
        world = cameras.double() @ poses[rows[0]]
        shown = tabletop.render(scene, world.float()[None], 48, 4)[0]
        assert (shown - frames).square().mean() < 2e-3
        whole = render_frames(scene, cameras_from_poses(poses[rows]).float(), 48, 48).movedim(-1, 1)
        for wrong in (whole, shown.roll(1, 0), shown.flip(-1)):  # uncut, of other frames, mirrored
            assert (wrong - frames).square().mean() > 5e-3


def test_the_first_frames_camera_is_the_world(written):
    clip, _ = re10k.read_clip(written[0] / "clip01.txt")
    _, cameras = clip.look([5, 9], 32)
    lens = torch.eye(4)
    lens[:3, :3] = re10k.cut(clip.lenses[5], HEIGHT, WIDTH).float()
    torch.testing.assert_close(cameras[0], lens)
    moved = replace(clip, poses=clip.poses @ look_at(double([3, 1, 2]), double([0, 0, 0]), 1.0))
    torch.testing.assert_close(moved.look([5, 9], 32)[1], cameras, msg="whatever the clip's own world is")


@pytest.mark.parametrize("height, width", [(96, 128), (128, 95), (64, 64)])
def test_what_a_pixel_shows_does_not_move_when_a_frame_is_cut(height, width):
    """In float64: pixel (x, y) of the frame is pixel (x - left, y - top) of the square."""
    lens = double([[0.7, 0, 0.52], [0, 0.9, 0.47], [0, 0, 1]])
    poses = torch.eye(4).double()[None]
    points = torch.randn(9, 3, generator=generator(), dtype=torch.float64) + double([0, 0, 5])
    before, depth = project(re10k.cameras(lens[None], poses), points)
    after, same = project(re10k.cameras(re10k.cut(lens, height, width)[None], poses), points)
    side = min(height, width)
    corner = double([(width - side) // 2, (height - side) // 2])
    torch.testing.assert_close(after * side, before * double([width, height]) - corner, rtol=0, atol=1e-9)
    assert torch.equal(depth, same)


def test_a_missing_frame_is_named_and_moves_nothing(copy):
    (copy / "clip00" / frame(7)).unlink()
    whole = re10k.read_clip(copy / "clip00.txt", "skip")[0].poses
    with pytest.raises(
        ValueError, match=f"clip00.txt has 1 timestamps without a frame: {frame(7)[:-4]}; mend it"
    ) as error:
        re10k.read_folder(copy, NEAR)
    assert "\n" not in str(error.value)
    (clip,), told = re10k.read_folder(copy, NEAR, "skip", look=False)
    assert len(told) == 1 and frame(7)[:-4] in told[0] and told[0].endswith("skipped")
    assert clip.there.logical_not().nonzero().tolist() == [[7]] and clip.files[8].name == frame(8)
    assert torch.equal(clip.poses, whole) and not (re10k.pairs(clip, NEAR) == 7).any()
    apart = re10k.pairs(clip, NEAR).diff(dim=1).abs()
    assert apart.min() == NEAR[0] and apart.max() == NEAR[1], "distances are those of the lines"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda words: words[:-1], "line 6 has 18 numbers, wanted 19"),
        (lambda words: [*words[:3], "x", *words[4:]], "line 6 holds what is no number"),
        (lambda words: ["1.5", *words[1:]], "line 6 holds what is no number, or a timestamp that is not whole"),
        (lambda words: [*words[:-1], "nan"], "line 6 holds NaN"),
        (lambda words: [*words[:5], "0.1", *words[6:]], r"line 6 has distortion \[0.1, 0.0\], wanted zeros"),
        (lambda words: [words[0], "0", *words[2:]], "line 6 has focal lengths 0 and 0.9"),
        (lambda words: [*words[:3], "1.2", *words[4:]], "line 6 has the middle 1.2 0.47, wanted it in the frame"),
        (lambda words: [*words[:7], "2", *words[8:]], "line 6 has a pose whose first three columns are no rotation"),
        (lambda words: ["500000", *words[1:]], "line 6 has the timestamp 500000, which is not later than all before"),
    ],
)
def test_malformed_lines_are_named_and_keep_their_place(copy, change, message):
    text = copy / "clip00.txt"
    whole, _ = re10k.read_clip(text)

    def spoil(lines):
        lines[5] = " ".join(change(lines[5].split()))

    edit(text, spoil)
    with pytest.raises(ValueError, match="clip00.txt " + message) as error:
        re10k.read_clip(text)
    assert "\n" not in str(error.value)
    clip, told = re10k.read_clip(text, "skip")
    assert message.split()[1] in told[0] and "1 frames without a timestamp" in told[1]
    assert len(clip) == len(whole) and clip.files[4] is None and clip.poses[4].isnan().all()
    there = torch.arange(len(clip)) != 4
    assert torch.equal(clip.there, there) and torch.equal(clip.poses[there], whole.poses[there])
    assert clip.files[5:] == whole.files[5:]


def test_a_text_that_begins_with_a_camera_is_not_read_as_if_it_began_with_an_address(copy):
    edit(copy / "clip00.txt", lambda lines: lines.pop(0))
    with pytest.raises(ValueError, match="clip00.txt line 1 is a frame's camera: wanted where the video is"):
        re10k.read_clip(copy / "clip00.txt")
    clip, told = re10k.read_clip(copy / "clip00.txt", "skip")
    assert "line 1" in told[0] and "1 frames without a timestamp" in told[1] and clip.files[0].name == frame(1)


def test_unreadable_frames_are_named(copy):
    (copy / "clip00" / frame(9)).write_bytes((copy / "clip00" / frame(9)).read_bytes()[:300])
    with pytest.raises(ValueError, match=f"{frame(9)} cannot be read"):
        re10k.read_folder(copy, NEAR)
    (clip,), told = re10k.read_folder(copy, NEAR, "skip")
    assert len(told) == 1 and frame(9) in told[0] and clip.there.logical_not().nonzero().tolist() == [[9]]
    (clip,), told = re10k.read_folder(copy, NEAR, look=False)
    with pytest.raises(ValueError, match=f"{frame(9)} cannot be read"):
        clip.look([8, 9], 32)


def test_what_is_no_set_of_clips_is_refused(copy):
    with pytest.raises(ValueError, match="nowhere is not a folder: give one that holds CLIP.txt"):
        re10k.read_folder(copy / "nowhere")
    with pytest.raises(ValueError, match="clip00 holds no text file: wanted CLIP.txt"):
        re10k.read_folder(copy / "clip00")
    with pytest.raises(ValueError, match="bad='ignore' is unknown: choose one of refuse, skip"):
        re10k.read_folder(copy, NEAR, "ignore")
    with pytest.raises(ValueError, match="clip00.txt has no two frames 100 to 180 apart, one between them"):
        re10k.read_folder(copy, look=False)
    with pytest.raises(ValueError, match="has no clip that can be used; the first that is wrong: .*100 to 180 apart"):
        re10k.read_folder(copy, bad="skip", look=False)


def test_texts_without_frames_and_frames_without_text_are_named(copy):
    (copy / "alone.txt").write_text((copy / "clip00.txt").read_text())
    with pytest.raises(ValueError, match="alone.txt has no frame: .*alone is not there"):
        re10k.read_folder(copy, NEAR)
    (copy / "alone").mkdir()
    imageio.imwrite(copy / "alone" / "5.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="alone.txt has no frame: .*alone holds none of its 36 frames"):
        re10k.read_folder(copy, NEAR)
    (copy / "alone.txt").unlink()
    with pytest.raises(ValueError, match="alone has frames, but there is no alone.txt"):
        re10k.read_folder(copy, NEAR)
    imageio.imwrite(copy / "clip00" / "cover.png", np.zeros((9, 9, 3), np.uint8))
    (clip,), told = re10k.read_folder(copy, NEAR, "skip", look=False)
    assert (
        len(told) == 2
        and "no alone.txt" in told[0]
        and "1 frames without a timestamp of their own: cover.png" in told[1]
    )


def test_the_command_says_what_is_wrong(copy, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["realestate10k", str(copy), "--distance", "8", "16"])
    with pytest.raises(SystemExit, match="False"):
        re10k.main()
    assert capsys.readouterr().out == "1 clips with 36 frames\n"
    (copy / "clip00" / frame(3)).unlink()
    with pytest.raises(SystemExit, match="True"):
        re10k.main()
    assert frame(3)[:-4] in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere"], "nowhere is not a folder: give one that holds"),
        ([".", "--distance", "0", "2"], "0 is no whole number above 0"),
    ],
)
def test_the_command_refuses_in_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["realestate10k", *words])
    with pytest.raises(SystemExit):
        re10k.main()
    assert message in capsys.readouterr().err


# --- poses that do not belong to the frames ---------------------------------------------------------------------------


def moved(clip, k):
    """The clip with every frame's pose taken from k lines before."""
    poses = clip.poses.roll(k, 0)
    poses[:k] = torch.nan if k > 0 else poses[:k]
    poses[k:] = torch.nan if k < 0 else poses[k:]
    return replace(clip, poses=poses)


def test_matches_lie_on_their_epipolar_lines():
    """In float64, for any two cameras; not where one camera is another; and off by as much as they are moved."""
    points = torch.randn(50, 3, generator=generator(), dtype=torch.float64)
    lenses = double([[[90, 0, 50], [0, 80, 40], [0, 0, 1]], [[110, 0, 60], [0, 90, 30], [0, 0, 1]]])
    eyes = double([[4, 1, 1], [3, 2, 0.5], [3, -2, 0.5]])
    poses = look_at(eyes, torch.zeros(3, 3).double(), torch.pi / 2)
    poses[:, :2] = 2 * (poses[:, :2] - 0.5 * poses[:, 2:3])
    a, b = project(re10k.cameras(lenses, poses[:2]), points)[0]
    assert re10k.misfit(lenses, poses[:2], a, b).max() < 1e-9
    assert re10k.misfit(lenses, poses[[0, 2]], a, b).mean() > 1
    aside = torch.eye(4).double().repeat(2, 1, 1)
    aside[1, 0, 3] = 1.0  # to the side: lines are rows, and half of an error of 2 is mended in each frame
    off = re10k.misfit(lenses[[0, 0]], aside, a, a + double([7, 2]))
    torch.testing.assert_close(off, torch.full_like(off, 2**0.5))


def test_a_camera_that_only_turns_shows_the_same_elsewhere():
    points = torch.randn(50, 3, generator=generator(), dtype=torch.float64) + double([9, 0, 0])
    lenses = double([[90, 0, 50], [0, 80, 40], [0, 0, 1]]).expand(2, 3, 3)
    ahead = double([[9, 0, 0], [9, 1, 0.5]])
    poses = look_at(torch.zeros(2, 3).double(), ahead, torch.pi / 2)
    poses[:, :2] = 2 * (poses[:, :2] - 0.5 * poses[:, 2:3])
    a, b = project(re10k.cameras(lenses, poses), points)[0]
    assert re10k.misfit(lenses, poses, a, b).max() < 1e-9
    off = re10k.misfit(lenses, poses, a, b + double([3, 4]))
    torch.testing.assert_close(off, torch.full_like(off, 5.0))
    assert re10k.misfit(lenses, poses[[0, 0]], a, b).min() > 1, "it has turned"


def test_shifted_poses_are_seen_and_honest_ones_pass(written):
    for clip in re10k.read_folder(written[0], NEAR, look=False)[0]:
        honest = re10k.check_poses(clip)
        assert not honest.shifted and honest.gain.value > 1.1 and min(honest.errors, key=honest.errors.get) == 0
        for k in (1, -1, 2):
            found = re10k.check_poses(moved(clip, k))
            assert found.shifted and found.best == k, (clip.name, k, found)
            assert found.errors[0] > 1.1 * honest.errors[0]


def test_where_all_stretches_of_the_way_are_alike_no_shift_is_claimed(tmp_path, monkeypatch):
    """A camera that turns evenly: moved poses are the stated ones, seen from elsewhere."""

    def evenly(frames, generator):
        turn = torch.linspace(0, 1.2, frames, dtype=torch.float64)
        eyes = torch.stack([2.7 * turn.cos(), 2.7 * turn.sin(), torch.full_like(turn, 1.4)], -1)
        poses = look_at(eyes, torch.zeros_like(eyes), torch.pi / 2)
        poses[:, :2] = 2 * (poses[:, :2] - 0.5 * poses[:, 2:3])
        return poses

    monkeypatch.setattr("fwdiff_lite.problems.inverse_graphics.synthetic_realestate10k.draw_camera_path", evenly)
    write_clips(tmp_path, 1, 24)
    clip, _ = re10k.read_clip(tmp_path / "clip00.txt")
    for k in (0, 1):
        found = re10k.check_poses(moved(clip, k))
        assert not found.shifted and found.gain.value == pytest.approx(1, abs=1e-4)


def test_a_clip_whose_poses_are_shifted_is_refused(copy):
    """Each frame is kept under the next one's timestamp: every timestamp has a frame, and each is wrong."""
    last = copy / "clip00" / frame(FRAMES - 1)
    last.unlink()
    for row in range(FRAMES - 2, -1, -1):
        (copy / "clip00" / frame(row)).rename(copy / "clip00" / frame(row + 1))
    shutil.copy(copy / "clip00" / frame(1), copy / "clip00" / frame(0))
    with pytest.raises(ValueError, match=r"clip00: poses .* moved by -1 lines explain the frames better") as error:
        re10k.read_folder(copy, NEAR)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no clip that can be used; the first that is wrong: clip00: poses and frames"):
        re10k.read_folder(copy, NEAR, "skip")
    assert re10k.read_folder(copy, NEAR, look=False)[1] == [], "only a look into the frames can tell"


def test_poses_that_explain_nothing_are_refused(written):
    """Of other clips, the other way round, with axes that point elsewhere, all the same; and honest ones are not."""
    clips, _ = re10k.read_folder(written[0], NEAR, look=False)
    upwards = torch.tensor([1.0, -1, -1, 1]).double().diag()
    for clip, other in zip(clips[:2], clips[1:], strict=True):
        assert not re10k.check_poses(clip).lost
        for poses in (
            other.poses,
            torch.linalg.inv(clip.poses),
            upwards @ clip.poses,
            clip.poses[:1].expand(FRAMES, 4, 4),
        ):
            with pytest.raises(ValueError, match=f"{clip.name}: poses and frames do not belong together") as error:
                re10k.refuse_foreign(replace(clip, poses=poses))
            assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="pixels off their epipolar lines, of 1.60 at most: is it another clip's text"):
        re10k.refuse_foreign(replace(clips[0], poses=torch.linalg.inv(clips[0].poses)))


def torn(clip, k, row):
    """The clip with poses moved by k lines from a row on."""
    return replace(clip, poses=torch.cat([clip.poses[:row], moved(clip, k).poses[row:]]))


@pytest.mark.parametrize("k, row", [(1, 18), (2, 24), (6, 18), (-2, 27)])
def test_poses_that_are_shifted_from_the_middle_on_are_seen_and_the_place_is_named(written, k, row):
    for clip in re10k.read_folder(written[0], NEAR, look=False)[0]:
        assert not re10k.check_poses(clip).torn
        found = re10k.check_poses(torn(clip, k, row))
        assert found.torn and abs(found.part.first - 2 - row) <= 6, (clip.name, found)
    with pytest.raises(ValueError, match=r"clip02: poses and frames .* lines \d+ to 3\d of the text, poses moved by"):
        re10k.refuse_foreign(torn(clip, k, row))


def test_a_shift_of_one_stretch_saves_what_its_pairs_lose():
    """Ten lines, pairs of neighbours; poses from line 4 to 7, counted from 0, are one too far."""
    rows = torch.stack([torch.arange(9), torch.arange(1, 10)], 1)
    wrong = ((rows >= 4) & (rows < 8)).long()
    sums = torch.full((9, 2, 4), 5.0).double()
    sums[:, :, 0] = 1.0 + 4 * (wrong.sum(1) > 0)[:, None]
    sums[torch.arange(9), 1, wrong @ torch.tensor([1, 2])] = 1.0
    found = re10k.worst_stretch(rows, sums, [-1, 1])
    assert found == (6, 9, 1, pytest.approx(20 / 29))
    assert re10k.worst_stretch(rows, torch.full((9, 2, 4), 5.0).double(), [-1, 1]) is None


@pytest.mark.parametrize("every", [2, 5])
def test_thinned_out_frames_are_checked(written, every):
    clip = re10k.read_folder(written[0], NEAR, look=False)[0][0]
    clip = replace(clip, files=tuple(file if row % every == 0 else None for row, file in enumerate(clip.files)))
    found = re10k.check_poses(clip)
    assert found.matches > re10k.MATCHES and re10k.refuse_foreign(clip) == []
    with pytest.raises(ValueError, match="clip00: poses and frames do not belong together: poses moved by"):
        re10k.refuse_foreign(moved(clip, 2))


def test_a_frames_own_size_counts(written, tmp_path):
    """Intrinsics are over width and height: what is scaled shows the same."""
    clip = re10k.read_folder(written[0], NEAR, look=False)[0][0]
    files = list(clip.files)
    for row in range(1, FRAMES, 2):
        picture = imageio.imread(files[row])
        files[row] = tmp_path / files[row].name
        imageio.imwrite(files[row], picture[::2, ::2] if row % 4 == 1 else picture.repeat(2, 0)[:, :, :])
    mixed = replace(clip, files=tuple(files))
    assert len({imageio.imread(file).shape for file in files}) == 3
    assert re10k.refuse_foreign(mixed) == []
    assert re10k.check_poses(moved(mixed, 2)).shifted


def test_a_camera_that_stands_still_is_not_shifted(copy):
    for row in range(1, FRAMES):
        shutil.copy(copy / "clip00" / frame(0), copy / "clip00" / frame(row))
    clip, _ = re10k.read_clip(copy / "clip00.txt")
    still = replace(clip, poses=clip.poses[:1].expand(FRAMES, 4, 4))
    found = re10k.check_poses(still)
    assert found.errors[0] < 0.01 and re10k.refuse_foreign(still) == []


def test_frames_that_show_nothing_are_not_judged(tmp_path):
    (tmp_path / "plain").mkdir()
    for row in range(24):
        imageio.imwrite(tmp_path / "plain" / frame(row), np.full((32, 32, 3), 200, np.uint8))
    times = [500_000 + FRAME_INTERVAL * row for row in range(24)]
    (tmp_path / "plain.txt").write_text(format_clip_text("plain", times, torch.eye(4).double().repeat(24, 1, 1)))
    with pytest.raises(ValueError, match="plain: 0 matches between frames are too few .* read it unchecked") as error:
        re10k.read_folder(tmp_path, NEAR)
    assert "\n" not in str(error.value)
    (clip,), told = re10k.read_folder(tmp_path, NEAR, "skip")
    assert told == ["plain: 0 matches between frames are too few to compare poses with: not checked"]
    assert re10k.read_folder(tmp_path, NEAR, look=False)[1] == []
    alone = replace(clip, files=clip.files[:1] + (None,) * 23)
    (told,) = re10k.refuse_foreign(alone, "skip")
    assert told == "plain: no two frames are there, whose poses could be compared: not checked"


# --- contexts, targets and novel views --------------------------------------------------------------------------------


def test_pairs_are_all_at_their_distance_with_a_frame_between(written):
    clip, _ = re10k.read_clip(written[0] / "clip00.txt")
    files = tuple(None if row in (1, 2, 3, 20) else file for row, file in enumerate(clip.files))
    clip = replace(clip, files=files)
    found = set(map(tuple, re10k.pairs(clip, (4, 6)).tolist()))
    wanted = {
        (i, j)
        for i in range(FRAMES)
        for j in range(FRAMES)
        if 4 <= abs(i - j) <= 6 and files[i] and files[j] and any(files[min(i, j) + 1 : max(i, j)])
    }
    assert found == wanted and (0, 4) not in found and (0, 5) in found
    for seed in range(50):
        context, target, novel = re10k.draw_views(clip, (4, 6), generator(seed))
        assert (context, target) in found and min(context, target) < novel < max(context, target) and files[novel]


def test_draws_differ_between_epochs_and_rows_and_not_between_workers(written):
    clips, _ = re10k.read_folder(written[0], NEAR, look=False)
    few, many = (re10k.batches(clips, 6, NEAR, 5, 16, workers=n) for n in (1, 3))
    one, other = generator(1), generator(1)
    first, second = few(one), few(one)
    for name, x in many(other).items():
        mine = first[name]
        same = torch.equal(x, mine) if isinstance(x, torch.Tensor) else torch.equal(x.value, mine.value)
        assert same, "whoever reads, the same is drawn"
    assert first["context"].value.shape == (6, 1, 3, 16, 16) and first["pixel_indices"].shape == (6, 1, 5)
    assert not torch.equal(first["pixel_indices"], first["novel_pixel_indices"])
    shots = torch.cat([torch.cat([b["context"].value, b["target"].value], 1).flatten(1) for b in (first, second)])
    apart = (shots[:, None] - shots).abs().amax(-1) + torch.eye(12)
    assert apart.min() > 0.05, (
        "no two of these rows are alike: epochs differ, and so do processes with rows of their own"
    )
    with pytest.raises(ValueError, match="clip00 has no two frames 50 to 60 apart, one between them: leave it out"):
        re10k.batches(clips, distance=(50, 60))


def test_the_evaluation_list_is_fixed(written, tmp_path):
    clips, _ = re10k.read_folder(written[0], NEAR, look=False)
    views = re10k.evaluation_list(clips, NEAR)
    assert views == re10k.evaluation_list(clips, NEAR)
    assert views[1:] == re10k.evaluation_list(clips[1:], NEAR), "of a clip alone"
    re10k.write_list(tmp_path / "list.txt", views)
    assert re10k.read_list(tmp_path / "list.txt") == views
    seen = re10k.observe(clips[::-1], views, 24)
    rows = [clips[2].times.index(time) for time in views[2][1:]]
    frames, cameras = clips[2].look(rows, 24)
    for i, name in enumerate(("context", "target", "novel")):
        assert torch.equal(seen[name].value[2, 0], frames[i]) and torch.equal(seen[name].params[2, 0], cameras[i])


def test_names_may_have_spaces_and_dots(copy):
    (copy / "clip00").rename(copy / "a b.c")
    (copy / "clip00.txt").rename(copy / "a b.c.txt")
    clips, told = re10k.read_folder(copy, NEAR, look=False)
    views = re10k.evaluation_list(clips, NEAR)
    re10k.write_list(copy / "list", views)
    assert told == [] and views[0].clip == "a b.c" and re10k.read_list(copy / "list") == views
    shutil.copytree(copy / "a b.c", copy / "a b.extra")
    (copy / "a b.txt").touch()
    with pytest.raises(ValueError, match="a b.extra has frames, but there is no a b.extra.txt"):
        re10k.read_folder(copy, NEAR, look=False)


def test_lists_that_do_not_fit_are_refused(written, tmp_path):
    clips, _ = re10k.read_folder(written[0], NEAR, look=False)
    views = re10k.evaluation_list(clips, NEAR)
    with pytest.raises(ValueError, match="the list asks for the clip clip00, which is not there or was skipped"):
        re10k.observe(clips[1:], views, 16)
    with pytest.raises(ValueError, match="the list asks for frames of clip00 that are not there: 17"):
        re10k.observe(clips, [views[0]._replace(target=17)], 16)
    re10k.observe(clips, views, 16, NEAR)
    with pytest.raises(ValueError, match="frames of clip00 that are [0-9]+ apart, not 20 to 30: give its distance, or"):
        re10k.observe(clips, views, 16, (20, 30))
    (tmp_path / "list.txt").write_text("clip00 10 20 15\n\n")
    assert re10k.read_list(tmp_path / "list.txt") == [re10k.Views("clip00", 10, 20, 15)]
    for text, message in (("clip00 10 10 10\n", "wanted the third time between"), ("\n", "list.txt is empty: delete")):
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            re10k.read_list(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("clip00 1 2\n")
    with pytest.raises(ValueError, match="list.txt line 1 is 'clip00 1 2': wanted a clip and three timestamps"):
        re10k.read_list(tmp_path / "list.txt")


def test_two_frames_of_one_time_are_told_of(copy):
    file = sorted((copy / "clip00").glob("*.png"))[5]
    shutil.copy(file, file.with_suffix(".jpg"))
    with pytest.raises(ValueError, match="1 frames without a timestamp of their own: "):
        re10k.read_folder(copy, NEAR, look=False)


def test_colours_of_print_are_refused_by_name(copy, tmp_path):
    file = tmp_path / "print.jpg"
    Image.fromarray(np.full((8, 8, 4), 90, np.uint8), "CMYK").save(file)
    with pytest.raises(ValueError, match=r"print.jpg has CMYK colours: wanted RGB"):
        read_frames(file, True)
    Image.fromarray(np.full((8, 8, 4), 90, np.uint8), "RGBA").save(tmp_path / "clear.png")
    assert read_frames(tmp_path / "clear.png", True)[0].shape == (8, 8, 3)
