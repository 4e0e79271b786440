"""CO3D's cameras are read in OpenCV's convention, whatever the normalized device coordinates; faults are named."""

import gzip
import json

import numpy as np
import pytest
import torch
from clip_helpers import double, generator
from PIL import Image

from fwdiff_lite.datasets import __main__ as command
from fwdiff_lite.datasets import clip_folder, co3d, pose_check
from fwdiff_lite.datasets.clip_folder import detect_format, read_all_clips
from fwdiff_lite.datasets.co3d import Selection, camera_from_viewpoint, read_category
from fwdiff_lite.datasets.posed_clips import camera_matrices
from fwdiff_lite.problems.inverse_graphics.cameras import project

HEIGHT, WIDTH = 30, 20
FORMATS = ("ndc_norm_image_bounds", "ndc_isotropic")


def viewpoint(seed: int, intrinsics_format: str) -> dict:
    """A random PyTorch3D camera that looks at the origin from a distance of 4."""
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator(seed), dtype=torch.float64))
    q = q * torch.linalg.det(q).sign()
    camera = {"R": q.tolist(), "T": [0.2, -0.1, 4.0], "focal_length": [1.6, 1.5], "principal_point": [0.1, -0.2]}
    return camera | {"intrinsics_format": intrinsics_format}


def pytorch3d_pixels(camera: dict, point: torch.Tensor) -> tuple[float, float]:
    """Where PyTorch3D shows a point, in pixels from the top left corner, by its documentation."""
    x, y, z = (point @ double(camera["R"]) + double(camera["T"])).tolist()  # left, up, forward
    (fx, fy), (px, py) = camera["focal_length"], camera["principal_point"]
    x_ndc, y_ndc = fx * x / z + px, fy * y / z + py  # left and up
    sides = (WIDTH, HEIGHT) if camera["intrinsics_format"] == FORMATS[0] else (min(WIDTH, HEIGHT),) * 2
    return WIDTH / 2 - x_ndc * sides[0] / 2, HEIGHT / 2 - y_ndc * sides[1] / 2


@pytest.mark.parametrize("intrinsics_format", FORMATS)
def test_a_point_is_where_pytorch3d_shows_it(intrinsics_format):
    for seed in range(8):
        camera, point = viewpoint(seed, intrinsics_format), 0.5 * torch.randn(3, generator=generator(9 + seed)).double()
        matrix = camera_matrices(*(part[None] for part in camera_from_viewpoint(camera, HEIGHT, WIDTH)))
        uv, depth = project(matrix, point[None])
        assert depth > 0
        u, v = pytorch3d_pixels(camera, point)
        torch.testing.assert_close(uv.flatten(), double([u / WIDTH, v / HEIGHT]))


@pytest.fixture
def category(tmp_path):
    """Two sequences of four frames; the files' names are not the frame numbers."""
    frames, rng = [], np.random.default_rng(0)
    for name in ("b", "a"):
        (tmp_path / "apple" / name / "images").mkdir(parents=True)
        (tmp_path / "apple" / name / "masks").mkdir()
        for i in (2, 0, 1, 3):
            image, mask = f"apple/{name}/images/frame{10 * i:06}.png", f"apple/{name}/masks/frame{10 * i:06}.png"
            Image.fromarray(rng.integers(0, 200, (HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / image)
            Image.fromarray(255 * np.eye(HEIGHT, WIDTH, dtype=np.uint8)).save(tmp_path / mask)
            frame = {"sequence_name": name, "frame_number": i, "image": {"path": image, "size": [HEIGHT, WIDTH]}}
            frames.append(frame | {"mask": {"path": mask, "mass": 9.0}, "viewpoint": viewpoint(i, FORMATS[1])})
    write(tmp_path, frames)
    return tmp_path, frames


def write(folder, frames) -> None:
    with gzip.open(folder / "apple" / "frame_annotations.jgz", "wt") as file:
        json.dump(frames, file)


def test_sequences_are_clips_in_the_order_of_frame_numbers(category):
    folder, _ = category
    for place in (folder, folder / "apple"):
        assert detect_format(place).name == "co3d"
        clips, warnings = read_all_clips(place, check_poses=False)
        assert warnings == [] and [clip.name for clip in clips] == ["a", "b"]
    (clip, _), _ = read_category(folder / "apple")
    assert clip.timestamps == (0, 1, 2, 3) and [file.stem[-2:] for file in clip.files] == ["00", "10", "20", "30"]
    torch.testing.assert_close(clip.poses[2], camera_from_viewpoint(viewpoint(2, FORMATS[1]), HEIGHT, WIDTH)[1])
    assert clip.masks is None and clip.read_frame(0).max() < 200


def test_masks_hide_the_background(category):
    (clip, _), _ = read_category(category[0] / "apple", selection=Selection(masks=True))
    frame, inside = clip.read_frame(1), np.eye(HEIGHT, WIDTH, dtype=bool)
    assert (frame[~inside] == 255).all() and (frame[inside] < 200).all()
    Image.new("L", (9, 9)).save(clip.masks[1])
    with pytest.raises(ValueError, match="has 9 x 9 pixels, its image 20 x 30: wanted the same"):
        clip.read_frame(1)
    clip.masks[2].unlink()
    with pytest.raises(ValueError, match="apple a lists 1 files that are missing: apple/a/masks/frame000020.png"):
        read_category(category[0] / "apple", selection=Selection(masks=True))


def test_a_set_list_selects_frames(category):
    folder = category[0] / "apple"
    (folder / "set_lists").mkdir()
    lists = {"train": [["a", 3, "x"], ["a", 1, "x"]], "test": []}
    (folder / "set_lists" / "fewview.json").write_text(json.dumps(lists))
    (clip,), _ = read_category(folder, selection=Selection("train", "fewview"))
    assert clip.name == "a" and clip.timestamps == (1, 3)
    with pytest.raises(ValueError, match="the subset test has no frame"):
        read_category(folder, selection=Selection("test", "fewview"))
    with pytest.raises(ValueError, match="has no subset 'val': choose one of train, test"):
        read_category(folder, selection=Selection("val", "fewview"))
    with pytest.raises(ValueError, match="has no set list None: choose one of fewview"):
        read_category(folder, selection=Selection("val"))


def test_check_and_convert_take_the_options_of_co3d(category, tmp_path, capsys, monkeypatch):
    """Masks hide the background of what is written; the poses are compared with whole frames."""
    folder = category[0] / "apple"
    (folder / "set_lists").mkdir()
    (folder / "set_lists" / "few.json").write_text(json.dumps({"train": [["a", i, "x"] for i in (0, 1, 3)]}))
    compared = []

    def compare(clip, on_error, frame_matches):
        compared.append(clip)
        return []

    monkeypatch.setattr(clip_folder, "reject_mismatched", compare)
    words = ("--subset", "train", "--set-list", "few", "--masks")

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            command.main([str(word) for word in words])
        return (stop.value.code, *capsys.readouterr())

    code, output, _ = run("check", folder, "--frame-gap", 1, 2, *words)
    assert code == 0 and "CO3D\n1 clips with 3 frames" in output
    code, output, _ = run("convert", folder, tmp_path / "out", "--to", "pixelsplat", *words)
    assert code == 0 and "1 clips as pixelsplat" in output
    (clip,), _ = read_all_clips(tmp_path / "out", check_poses=False)
    outside = ~np.eye(HEIGHT, WIDTH, dtype=bool)
    assert clip.timestamps == (0, 1, 3) and (clip.read_frame(1)[outside] == 255).all()
    code, _, errors = run("check", folder, "--subset", "train")
    assert code == 2 and "--subset and --set-list belong together: give both" in errors
    code, _, errors = run("check", tmp_path / "out", "--masks")
    assert code == 2 and "out is chunks of pixelSplat: subsets, set lists and masks are read of CO3D only" in errors


def test_matches_are_those_of_whole_frames(category, monkeypatch):
    (clip, _), _ = read_category(category[0] / "apple", selection=Selection(masks=True))
    seen = []
    monkeypatch.setattr(pose_check, "_sift_features", lambda clip, i: seen.append(clip.read_frame(i)) or FEATURES)
    pose_check.match_frames(clip)
    assert seen and all(frame.max() < 200 for frame in seen)


FEATURES = pose_check.Features(torch.zeros(0, 2).double(), torch.zeros(0, 128), (WIDTH, HEIGHT))


def change(key, value):
    def changed(frame):
        frame["viewpoint"][key] = value

    return changed


@pytest.mark.parametrize(
    "damage, message",
    [
        (change("R", (double([1, 1, -1]).diag()).tolist()), "frame 1 has a left-handed camera: the determinant of its"),
        (change("R", [[1, 0], [0, 1]]), r"frame 1 has R = '\[\[1, 0\], \[0, 1\]\]', wanted 9 numbers"),
        (change("T", [0, 0, float("nan")]), r"frame 1 has T = .*, wanted 3 numbers"),
        (change("focal_length", [0, 1]), "frame 1 has focal lengths 0 and"),
        (change("intrinsics_format", "pixels"), "has the intrinsics_format 'pixels', wanted one of ndc_norm"),
        (change("principal_point", [5, 0]), "frame 1 has the principal point -2 0.5"),
        (lambda f: f.update(viewpoint=None), "frame 1 has no viewpoint or no size"),
        (lambda f: f.update(frame_number=2), "frame 2 is listed a second time"),
        (lambda f: f.update(frame_number="1"), "frame 6 has the sequence_name 'a' and frame_number '1'"),
        (lambda f: f["image"].update(path="../secret.png"), "frame 1 has no path of its image in the data set"),
        (lambda f: f["image"].update(path="apple/none.png"), "a lists 1 files that are missing: apple/none.png"),
        (lambda f: f["image"].update(size=3), "has size = '3', wanted 2 numbers"),
    ],
)
def test_a_faulty_frame_is_named_and_keeps_the_others(category, damage, message):
    folder, frames = category
    damage(frames[6])  # sequence a, frame 1
    write(folder, frames)
    with pytest.raises(ValueError, match=message) as error:
        read_category(folder / "apple")
    assert "\n" not in str(error.value)
    clips, warnings = read_category(folder / "apple", "skip")
    assert len(warnings) == 1 and int(clips[0].has_image.sum()) == 3 and clips[1].has_image.all()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"no gzip", "cannot be read: Not a gzipped file"),
        (gzip.compress(b"{}"), "it holds a dict, wanted a list of frames"),
        (gzip.compress(b"[1, "), "cannot be read: Expecting value"),
        (gzip.compress(b"[" * 10**5), "cannot be read: maximum recursion depth"),
        (gzip.compress(b"[]")[:-4], "cannot be read: Compressed file ended"),
        (gzip.compress(b"[]"), "has no usable sequence; the first problem: it lists no frame"),
        (gzip.compress(b"[1]"), "frame 0 has the sequence_name '0' and frame_number '0'"),
        (gzip.compress(b" " * 10**6), "it has more than 0 MB, unpacked"),
    ],
    ids=["no gzip", "dict", "no JSON", "deep", "cut", "empty", "number", "bomb"],
)
def test_broken_annotations_are_refused_in_one_line(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(co3d, "MAX_TEXT_BYTES", 500_000)
    (tmp_path / "frame_annotations.jgz").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_category(tmp_path)
    assert "\n" not in str(error.value)
