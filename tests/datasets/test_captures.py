"""Captures of photographs, in the formats of nerfstudio and of COLMAP: one camera is the same camera in both."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clip_helpers import double, edit_lines, generator
from PIL import Image

from fwdiff_lite.datasets.colmap import read_colmap
from fwdiff_lite.datasets.posed_clips import Clip, camera_matrices, intrinsics_matrix
from fwdiff_lite.datasets.realestate10k import read_clip
from fwdiff_lite.datasets.transforms_json import read_transforms, write_transforms
from fwdiff_lite.problems.inverse_graphics.cameras import project

WIDTH, HEIGHT = 40, 30
NAMES = ("1.png", "2.png", "10.png")  # in natural order, which is not the order of the files below
FILE_ORDER = (2, 0, 1)
INTRINSICS = [(0.9, 1.2, 0.52, 0.47), (0.9, 1.2, 0.52, 0.47), (0.7, 0.95, 0.5, 0.45)]  # in units of width and height


def random_quaternions(count: int) -> torch.Tensor:
    q = torch.randn(count, 4, generator=generator(3), dtype=torch.float64)
    return q / q.norm(dim=1, keepdim=True)


def rotate(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Rotates vectors (n, 3) by unit quaternions (n, 4), scalar first: v + 2 u x (u x v + w v)."""
    w, u = q[:, :1], q[:, 1:]
    return v + 2 * torch.linalg.cross(u, torch.linalg.cross(u, v) + w * v)


def poses() -> tuple[torch.Tensor, torch.Tensor]:
    """World-to-camera poses in OpenCV's axes, and their quaternions."""
    q, poses = random_quaternions(3), torch.eye(4).double().repeat(3, 1, 1)
    poses[:, :3, :3] = torch.stack([rotate(q, double(axis).expand(3, 3)) for axis in torch.eye(3).tolist()], -1)
    poses[:, :3, 3] = torch.randn(3, 3, generator=generator(4), dtype=torch.float64)
    return poses, q


@pytest.fixture
def capture(tmp_path) -> Path:
    """One capture of three photographs as transforms.json, as COLMAP's text and as RealEstate10K's."""
    world_to_camera, q = poses()
    pixels = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH, 3), np.uint8)
    (tmp_path / "images").mkdir()
    (tmp_path / "clip").mkdir()
    for i, name in enumerate(NAMES):
        Image.fromarray(pixels[i]).save(tmp_path / "images" / name)
        Image.fromarray(pixels[i]).save(tmp_path / "clip" / f"{i}.png")
    scale = (WIDTH, HEIGHT, WIDTH, HEIGHT)
    fx, fy, cx, cy = ([f[j] * scale[j] for f in INTRINSICS] for j in range(4))
    frames = []
    for i in FILE_ORDER:
        camera_to_world = torch.linalg.inv(world_to_camera[i])
        camera_to_world[:, 1:3] *= -1  # the columns are the camera's axes: down is up, forward is back
        frames.append({"file_path": f"./images/{NAMES[i]}", "transform_matrix": camera_to_world.tolist()})
    frames[0] |= {"fl_x": fx[2], "fl_y": fy[2], "cx": cx[2], "cy": cy[2]}
    shared = {"camera_model": "OPENCV", "w": WIDTH, "h": HEIGHT, "k1": 0.0, "k2": 0}
    shared |= {"fl_x": fx[0], "fl_y": fy[0], "cx": cx[0], "cy": cy[0], "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(shared))
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    lines = [f"{i} PINHOLE {WIDTH} {HEIGHT} {fx[i]} {fy[i]} {cx[i]} {cy[i]}" for i in (0, 2)]
    (tmp_path / "sparse" / "0" / "cameras.txt").write_text("\n".join(["# Camera list", *lines]) + "\n")
    lines = ["# Image list with two lines of data per image"]
    for i in FILE_ORDER:
        words = [i + 1, *q[i].tolist(), *world_to_camera[i, :3, 3].tolist(), 2 if i == 2 else 0, NAMES[i]]
        lines += [" ".join(map(str, words)), "" if i == 1 else "1.5 2.5 -1 3.5 4.5 7"]  # an image may have no points
    (tmp_path / "sparse" / "0" / "images.txt").write_text("\n".join(lines) + "\n")
    lines = ["https://www.example.org"]
    for i in range(3):
        lines.append(" ".join(map(str, [i, *INTRINSICS[i], 0, 0, *world_to_camera[i, :3].flatten().tolist()])))
    (tmp_path / "clip.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def assert_same_cameras(clip: Clip, other: Clip) -> None:
    torch.testing.assert_close(clip.intrinsics, other.intrinsics, rtol=0, atol=1e-9)
    torch.testing.assert_close(clip.poses, other.poses, rtol=0, atol=1e-9)


def test_three_formats_give_the_same_frames(capture):
    expected, _ = read_clip(capture / "clip.txt")
    torch.testing.assert_close(expected.poses, poses()[0])
    for read in (read_transforms, read_colmap):
        clip, warnings = read(capture)
        assert warnings == [] and clip.timestamps == (0, 1, 2) and [file.name for file in clip.files] == list(NAMES)
        assert_same_cameras(clip, expected)
        for x, y in zip(clip.load_frames([2, 0], 16), expected.load_frames([2, 0], 16), strict=True):
            torch.testing.assert_close(x, y)


def test_the_axes_are_those_of_each_format(tmp_path):
    """A camera 5 in front of the origin looks at it. The point that is right of it and above is so in the image."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    matrix = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 5], [0, 0, 0, 1]]  # OpenGL: looks along -z, y is up
    content = {"fl_x": WIDTH, "fl_y": HEIGHT, "frames": [{"file_path": "a", "transform_matrix": matrix}]}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    (tmp_path / "cameras.txt").write_text(f"1 SIMPLE_PINHOLE {WIDTH} {HEIGHT} {WIDTH} {WIDTH / 2} {HEIGHT / 2}\n")
    (tmp_path / "images.txt").write_text("1 0 1 0 0 0 0 5 1 a.png\n\n")  # half a turn about x
    uv = []
    for read in (read_transforms, read_colmap):
        clip, _ = read(tmp_path)
        point, depth = project(camera_matrices(clip.intrinsics, clip.poses), double([[1, 0.5, 0]]))
        torch.testing.assert_close(depth.flatten(), double([5]))
        uv.append(point.flatten())
    torch.testing.assert_close(uv[0], double([0.5 + 1 / 5, 0.5 - 0.5 / 5]))
    torch.testing.assert_close(uv[1], double([0.5 + 1 / 5, 0.5 - 0.5 / 5 * WIDTH / HEIGHT]))


def test_what_was_written_is_read(capture):
    clip, _ = read_colmap(capture)
    lens = double([0.1, -0.02, 0.003, 0, 0.004])
    clip = replace(clip, files=(clip.files[0], None, clip.files[2]), distortion=torch.stack([lens, lens, 0 * lens]))
    write_transforms(capture / "written.json", clip)
    read, warnings = read_transforms(capture / "written.json")
    assert warnings == [] and read.files == (clip.files[0], clip.files[2])
    for part in ("intrinsics", "poses", "distortion"):
        torch.testing.assert_close(getattr(read, part), getattr(clip, part)[[0, 2]], rtol=0, atol=1e-9)
    (capture / "sub").mkdir()
    with pytest.raises(ValueError, match="1.png is not below .*sub: write transforms.json beside the images"):
        write_transforms(capture / "sub" / "transforms.json", clip)


@pytest.mark.parametrize("model, values", [("SIMPLE_RADIAL", [0.1]), ("OPENCV", [0.1, -0.03, 0.01, -0.02])])
def test_a_pixel_shows_what_the_lens_showed_at_its_distorted_place(tmp_path, model, values):
    """On an image whose red and green are u and v, the undistorted frame reads where the lens showed each point."""
    v, u = (np.mgrid[0:90, 0:120] + 0.5) / np.array([90, 120])[:, None, None]
    Image.fromarray((255 * np.stack([u, v, 0 * u], -1)).round().astype(np.uint8)).save(tmp_path / "a.png")
    focal = "100" if model == "SIMPLE_RADIAL" else "100 100"
    line = " ".join(map(str, ["1", model, 120, 90, focal, 60, 45, *values]))
    (tmp_path / "cameras.txt").write_text(line + "\n")
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.png\n\n")
    frame = read_colmap(tmp_path)[0].read_frame(0)
    k1, k2, p1, p2 = [*values, 0, 0, 0][:4]
    x, y = (u * 120 - 60) / 100, (v * 90 - 45) / 100
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2
    distorted_u = (100 * (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)) + 60) / 120
    distorted_v = (100 * (y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y) + 45) / 90
    inside = (np.abs(distorted_u - 0.5) < 0.49) & (np.abs(distorted_v - 0.5) < 0.49)
    assert inside.mean() > 0.8 and np.abs(distorted_u - u).max() > 0.005, "the control: there is something to undo"
    np.testing.assert_allclose(frame[inside][:, 0], 255 * distorted_u[inside], atol=1.01)
    np.testing.assert_allclose(frame[inside][:, 1], 255 * distorted_v[inside], atol=1.01)


def test_another_resolution_changes_no_camera_and_another_crop_is_refused(capture):
    expected, _ = read_colmap(capture)
    for name in NAMES:
        Image.new("RGB", (WIDTH // 2, HEIGHT // 2)).save(capture / "images" / name)
    for read in (read_transforms, read_colmap):
        assert_same_cameras(read(capture)[0], expected)
    Image.new("RGB", (HEIGHT, HEIGHT)).save(capture / "images" / NAMES[1])
    for read in (read_transforms, read_colmap):
        with pytest.raises(ValueError, match="2.png.* has 30 x 30 pixels, but its camera 40 x 30: wanted one aspect"):
            read(capture)
        clip, warnings = read(capture, "skip")
        assert clip.has_image.tolist() == [True, False, True] and clip.poses[1].isnan().all() and len(warnings) == 1
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (WIDTH, HEIGHT)).save(capture / "images" / NAMES[1], exif=exif)
    for read in (read_transforms, read_colmap):
        with pytest.raises(ValueError, match="2.png has the EXIF orientation 3: turn its pixels, and its camera too"):
            read(capture)


def test_a_missing_image_is_named_and_moves_no_other(capture):
    (capture / "images" / NAMES[1]).unlink()
    for read in (read_transforms, read_colmap):
        with pytest.raises(ValueError, match="1 images that are missing: .*2.png; fix it, or skip it"):
            read(capture)
        clip, warnings = read(capture, "skip")
        assert clip.timestamps == (0, -1, 2) and clip.files[1] is None and clip.files[2].name == NAMES[2]
        assert len(warnings) == 1 and warnings[0].endswith("2.png: skipped")
    for name in (NAMES[0], NAMES[2]):
        (capture / "images" / name).unlink()
    for read in (read_transforms, read_colmap):
        with pytest.raises(ValueError, match="has no .*; the first problem: .*3 images that are missing"):
            read(capture, "skip")


def test_the_angle_of_view_stands_for_the_focal_length(capture):
    def change(content):
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
            content.pop(key)
        content |= {"camera_angle_x": 1.0}
        content["frames"] = content["frames"][1:]

    edit_json(capture, change)
    fx = 0.5 / np.tan(0.5)
    expected = intrinsics_matrix(fx, fx * WIDTH / HEIGHT, 0.5, 0.5)
    torch.testing.assert_close(read_transforms(capture)[0].intrinsics, expected.expand(2, 3, 3))


def test_a_moved_world_is_said(capture):
    edit_json(capture, lambda content: content.update(applied_scale=0.5))
    _, warnings = read_transforms(capture)
    assert len(warnings) == 1 and "transforms.json has applied_scale: its world is that of the file" in warnings[0]


def edit_json(folder: Path, change) -> None:
    content = json.loads((folder / "transforms.json").read_text())
    change(content)
    (folder / "transforms.json").write_text(json.dumps(content))


def edit_frame(key: str, value):
    return lambda content: content["frames"][2].update({key: value})


MATRIX = np.eye(4).tolist()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(frames={}), "has no list of frames"),
        (lambda c: c.update(frames=[]), "has no list of frames"),
        (lambda c: c.update(frames=[3]), "has no list of frames"),
        (lambda c: c.update(camera_model="OPENCV_FISHEYE"), "has the camera model 'OPENCV_FISHEYE', wanted one of"),
        (lambda c: c.update(k1="0.1"), "has k1 = '0.1', wanted a number"),
        (edit_frame("k1", 1e9), r"2.png has distortion .*, wanted coefficients of at most 100"),
        (edit_frame("k4", 0.1), r"2.png has distortion \(k4\) that is not undone: undistort the images first"),
        (edit_frame("file_path", None), "has a frame with the file_path 'None', wanted a path"),
        (edit_frame("fl_x", "900"), "2.png has fl_x = '900', wanted a number"),
        (edit_frame("fl_x", float("nan")), "2.png has fl_x = 'nan', wanted a number"),
        (edit_frame("fl_x", 0), "2.png has focal lengths 0 and 0, wanted pixels: 0.1 to 100 times 40 x 30"),
        (edit_frame("cx", 900), "2.png has the principal point 900 14.1, wanted pixels: a point in the"),
        (edit_frame("w", 0), "2.png has 40 x 30 pixels, but its camera 0 x 30: wanted one aspect ratio"),
        (lambda c: c.pop("fl_x"), "has no focal length: wanted fl_x or camera_angle_x"),
        (edit_frame("transform_matrix", None), "2.png has a transform_matrix that is no matrix of numbers"),
        (edit_frame("transform_matrix", "x"), "2.png has a transform_matrix that is no matrix of numbers"),
        (edit_frame("transform_matrix", [[1], [1, 2]]), "2.png has a transform_matrix that is no matrix of numbers"),
        (
            edit_frame("transform_matrix", MATRIX[:3]),
            r"2.png has a transform_matrix of shape \(3, 4\), wanted \(4, 4\)",
        ),
        (
            edit_frame("transform_matrix", (np.diag([2, 2, 2, 1])).tolist()),
            "2.png has a pose whose first three columns are not a rotation matrix: they are one that is scaled by 2",
        ),
        (
            edit_frame("transform_matrix", [*[[float("nan")] * 4] * 3, [0, 0, 0, 1]]),
            "2.png has a pose whose first three columns are not a rotation matrix: they have a NaN",
        ),
        (edit_frame("transform_matrix", [*MATRIX[:2], [0, 0, 1, 1e300], MATRIX[3]]), "2.png has a translation of 1e"),
    ],
)
def test_an_invalid_transforms_json_is_refused_in_one_line(capture, change, message):
    edit_json(capture, change)
    with pytest.raises(ValueError, match="transforms.json:? .*" + message) as error:
        read_transforms(capture)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "file, line, text, message",
    [
        (
            "cameras",
            1,
            "0 OPENCV_FISHEYE 40 30 36 36 20 15 0 0 0 0",
            "line 2 has the camera model 'OPENCV_FISHEYE', wan",
        ),
        (
            "cameras",
            1,
            "0 FULL_OPENCV 40 30 36 36 20 15 0 0 0 0 0 0 0.1 0",
            r"line 2 has distortion \(k5\) that is not undone: undistort the images first",
        ),
        ("cameras", 1, "0 PINHOLE 40 30 36 36 20", "line 2 has 3 parameters, wanted 4 of PINHOLE"),
        ("cameras", 1, "0 PINHOLE 40", "line 2 has 3 words, wanted an identifier"),
        ("cameras", 1, "0 PINHOLE 0 30 36 36 20 15", "line 2 has the size 0 x 30, wanted numbers above 0"),
        ("cameras", 1, "0 PINHOLE 40 30 36 36 20 x", "line 2 has 'x', which is not a number"),
        (
            "cameras",
            1,
            "0 PINHOLE 40 30 36 36 20 95",
            "line 2 has the principal point 20 95, wanted pixels: a point in the frame of 40 x 30",
        ),
        (
            "cameras",
            1,
            "7 PINHOLE 40 30 36 36 20 15",
            r"line 4 \(1.png\) has the camera '0', which the list of cameras lacks",
        ),
        ("images", 3, "1 1 0 0 0 0 0 0 0", "line 4 has 9 words, wanted 10"),
        ("images", 3, "1 1 1 0 0 0 0 0 0 1.png", r"line 4 \(1.png\) has a quaternion of norm 1.41, wanted 1"),
        ("images", 3, "1 nan 1 0 0 0 0 0 0 1.png", r"line 4 \(1.png\) has a quaternion of norm nan, wanted 1"),
        ("images", 3, "1 1 0 0 0 1e300 0 0 0 1.png", r"line 4 \(1.png\) has a translation of 1e.300"),
        ("images", 3, "1 1 0 0 0 x 0 0 0 1.png", r"line 4 \(1.png\) has 'x', which is not a number"),
    ],
)
def test_an_invalid_line_of_colmap_is_named(capture, file, line, text, message):
    edit_lines(capture / "sparse" / "0" / f"{file}.txt", lambda lines: lines.__setitem__(line, text))
    with pytest.raises(ValueError, match=f"{file if 'lacks' not in message else 'images'}.txt {message}") as error:
        read_colmap(capture)
    assert "\n" not in str(error.value)


def test_a_folder_without_cameras_is_refused(tmp_path):
    with pytest.raises(ValueError, match="transforms.json does not exist: give transforms.json, or the folder"):
        read_transforms(tmp_path)
    with pytest.raises(ValueError, match="holds no cameras.txt with images.txt: wanted them in it, in sparse or in"):
        read_colmap(tmp_path)
    (tmp_path / "sparse").mkdir()
    for read in (read_transforms, read_colmap):
        with pytest.raises(ValueError, match="on_error='ignore' is unknown"):
            read(tmp_path, "ignore")


# --- COLMAP's binary format -------------------------------------------------------------------------------------------


def stand_in_for_pycolmap(sparse: Path) -> SimpleNamespace:
    """A module with the part of pycolmap's interface that is used, for a reconstruction that is kept as text."""

    def camera(words):
        width, height, *params = map(float, words[2:])
        model = SimpleNamespace(name=words[1])
        return SimpleNamespace(model=model, width=int(width), height=int(height), params=np.array(params))

    def image(words):
        w, x, y, z, *translation = map(float, words[1:8])
        pose = SimpleNamespace(rotation=SimpleNamespace(quat=np.array([x, y, z, w])), translation=np.array(translation))
        return SimpleNamespace(name=words[9], camera_id=int(words[8]), has_pose=True, cam_from_world=lambda: pose)

    def lines(name):
        return [line.split() for line in (sparse / name).with_suffix(".kept").read_text().split("\n")[1:] if line]

    def reconstruction(path):
        if (sparse / "cameras.bin").read_bytes() != b"binary":
            raise ValueError("Camera model does not exist\nsecond line")
        assert path == str(sparse)
        return SimpleNamespace(
            cameras={int(words[0]): camera(words) for words in lines("cameras")},
            images={int(words[0]): image(words) for words in lines("images") if words[-1] in NAMES}
            | {99: SimpleNamespace(has_pose=False)},
        )

    return SimpleNamespace(Reconstruction=reconstruction)


@pytest.fixture
def binary(capture, monkeypatch) -> Path:
    """The capture with a binary reconstruction in place of the text, and a stand-in for pycolmap."""
    sparse = capture / "sparse" / "0"
    for name in ("cameras", "images"):
        (sparse / f"{name}.txt").rename(sparse / f"{name}.kept")
        (sparse / f"{name}.bin").write_bytes(b"binary")
    monkeypatch.setitem(sys.modules, "pycolmap", stand_in_for_pycolmap(sparse))
    return capture


def test_the_binary_format_gives_the_frames_of_the_text(binary):
    """An image without a pose is left out."""
    expected, _ = read_clip(binary / "clip.txt")
    clip, warnings = read_colmap(binary)
    assert warnings == [] and [file.name for file in clip.files] == list(NAMES)
    assert_same_cameras(clip, expected)


def test_faults_of_the_binary_format_are_named(binary, monkeypatch):
    sparse = binary / "sparse" / "0"
    edit_lines(sparse / "images.kept", lambda lines: lines.__setitem__(3, "1 1 1 0 0 0 0 0 0 1.png"))
    with pytest.raises(ValueError, match=r"images.bin image 1 \(1.png\) has a quaternion of norm 1.41, wanted 1"):
        read_colmap(binary)
    edit_lines(sparse / "cameras.kept", lambda lines: lines.__setitem__(1, "0 FISHEYE 40 30 36 36 20 15"))
    with pytest.raises(ValueError, match="cameras.bin camera 0 has the camera model 'FISHEYE', wanted one of"):
        read_colmap(binary)
    (sparse / "cameras.bin").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read as COLMAP's binary format: Camera model does not exist$"):
        read_colmap(binary)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    message = r"binary format: install its reader, `pip install fwdiff-lite\[colmap\]`, or write text, `colmap mo"
    with pytest.raises(ValueError, match=message) as error:
        read_colmap(binary)
    assert "\n" not in str(error.value)


def test_pycolmap_reads_what_it_wrote(capture):
    """Where pycolmap is installed: the interface is as it is used, and damaged files are refused."""
    pycolmap = pytest.importorskip("pycolmap")
    sparse, expected = capture / "sparse" / "0", read_colmap(capture)[0]
    for file in (sparse / "cameras.txt", sparse / "images.txt"):  # pycolmap wants points, and cameras from 1
        file.write_text(
            file.read_text().replace("\n0 PINHOLE", "\n7 PINHOLE").replace(" 0 1", " 7 1").replace(" 0 2", " 7 2")
        )
    edit_lines(sparse / "images.txt", lambda lines: lines.__setitem__(slice(2, None, 2), [""] * len(lines[2::2])))
    (sparse / "points3D.txt").touch()
    pycolmap.Reconstruction(str(sparse)).write_binary(str(sparse))
    for file in sparse.glob("*.txt"):
        file.unlink()
    assert_same_cameras(read_colmap(capture)[0], expected)
    for name in ("cameras", "images"):
        content = (sparse / f"{name}.bin").read_bytes()
        for damaged in (content[: len(content) // 2], b"\xff" * len(content), b""):
            (sparse / f"{name}.bin").write_bytes(damaged)
            with pytest.raises(ValueError) as error:
                read_colmap(capture)
            assert "\n" not in str(error.value)
        (sparse / f"{name}.bin").write_bytes(content)
