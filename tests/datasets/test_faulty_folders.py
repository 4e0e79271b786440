"""Folders of posed clips with faults that would give wrong cameras, or would leave out data without a word."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_helpers import double
from PIL import Image

from fwdiff_lite.datasets.clip_folder import detect_format, read_all_clips, remove_unreadable
from fwdiff_lite.datasets.co3d import Selection, read_category
from fwdiff_lite.datasets.colmap import read_colmap
from fwdiff_lite.datasets.images import natural_sort_key
from fwdiff_lite.datasets.pixelsplat import read_chunks, read_evaluation_index, write_chunks
from fwdiff_lite.datasets.posed_clips import check_pose, intrinsics_from_pixels
from fwdiff_lite.datasets.realestate10k import read_clip, read_split
from fwdiff_lite.datasets.transforms_json import read_transforms

WIDTH, HEIGHT, COUNT = 40, 30, 3
EYE = np.eye(4).tolist()
POSE = "1 0 0 0 0 1 0 0 0 0 1 0"


def write_images(folder: Path, suffix: str = ".png") -> None:
    folder.mkdir(parents=True)
    for i in range(COUNT):
        Image.new("RGB", (WIDTH, HEIGHT), (i, 0, 0)).save(folder / f"{i}{suffix}")


def write_transforms(folder: Path, frame: dict | None = None, without: tuple[str, ...] = (), **entries) -> Path:
    """A capture, whose second frame has other entries."""
    write_images(folder / "images")
    content = {"fl_x": 36.0, "fl_y": 36.0, "cx": 20.0, "cy": 15.0, "w": WIDTH, "h": HEIGHT} | entries
    content["frames"] = [{"file_path": f"images/{i}.png", "transform_matrix": EYE} for i in range(COUNT)]
    content["frames"][1] |= frame or {}
    content = {key: value for key, value in content.items() if key not in without}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


COLMAP_CAMERAS = f"1 PINHOLE {WIDTH} {HEIGHT} 36 36 20 15\n"


def write_colmap(folder: Path, images: str, cameras: str = COLMAP_CAMERAS, sparse: str = "sparse/0") -> Path:
    write_images(folder / "images")
    (folder / sparse).mkdir(parents=True, exist_ok=True)
    (folder / sparse / "cameras.txt").write_text(cameras)
    (folder / sparse / "images.txt").write_text(images)
    return folder


def image_line(i: int, name: str | None = None) -> str:
    return f"{i} 1 0 0 0 0 0 {i} 1 {name or f'{i}.png'}\n"


LINES = [image_line(i) for i in range(COUNT)]


def write_text(folder: Path, intrinsics: str = "0.9 1.2 0.5 0.5") -> Path:
    write_images(folder / "a")
    lines = ["url", *(f"{i} {intrinsics} 0 0 {POSE}" for i in range(COUNT))]
    (folder / "a.txt").write_text("\n".join(lines))
    return folder


def write_co3d(folder: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    write_images(folder / "images")
    camera = {"R": np.eye(3).tolist(), "T": [0, 0, 1], "focal_length": [2, 2], "principal_point": [0, 0]}
    camera["intrinsics_format"] = "ndc_isotropic"
    frames = [
        {"sequence_name": "a", "frame_number": i, "viewpoint": camera}
        | {"image": {"path": f"images/{i}.png", "size": list(size)}}
        for i in range(COUNT)
    ]
    with gzip.open(folder / "frame_annotations.jgz", "wt") as file:
        json.dump(frames, file)
    return folder


def refuse(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# --- COLMAP -----------------------------------------------------------------------------------------------------------


def test_a_list_of_images_without_lines_of_points_is_refused(tmp_path):
    """Every second image would be left out."""
    message = r"images.txt line 2 has 10 words, wanted points, three numbers each: an image and its points take two li"
    refuse(lambda: read_colmap(write_colmap(tmp_path / "a", "".join(LINES))), message)
    spaces = "".join(image_line(i, f"a b {i}.png") for i in range(COUNT))
    refuse(lambda: read_colmap(write_colmap(tmp_path / "b", spaces)), "line 2 has 12 words, wanted points")


@pytest.mark.parametrize(
    "images",
    [
        "# header\n\n\n" + "\n".join(LINES),  # blank lines in the header; the points are empty lines
        "\n\n\n".join(LINES),  # two blank lines after an image
        "1.5 2.5 -1 3.5 4.5 7\n\n".join(LINES) + "1 2 3",
    ],
)
def test_blank_lines_hide_no_image(tmp_path, images):
    clip, warnings = read_colmap(write_colmap(tmp_path / "a", images))
    assert warnings == [] and clip.poses[:, 2, 3].tolist() == [0, 1, 2]


def test_an_image_or_a_camera_that_is_listed_twice_is_named(tmp_path):
    names = [image_line(i, "1.png" if i < 2 else "./images/../1.png") for i in range(COUNT)]
    folder = write_colmap(tmp_path / "a", "\n".join(names[:2]))
    refuse(lambda: read_colmap(folder), "sparse/0 lists 1 images again: 1.png; fix it, or skip it")
    clip, warnings = read_colmap(folder, "skip")
    assert clip.has_image.tolist() == [True, False] and clip.timestamps == (0, -1) and len(warnings) == 1
    folder = write_colmap(tmp_path / "b", "\n".join(LINES), COLMAP_CAMERAS * 2)
    refuse(lambda: read_colmap(folder), "cameras.txt line 2 has the camera '1' a second time")
    folder = write_transforms(tmp_path / "c", {"file_path": "./images/2.png"})
    refuse(lambda: read_transforms(folder), "transforms.json lists 1 images again: 2.png")


@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "9" * 5000 + ".png", "/".join(["x"] * 4000)])
def test_a_name_that_no_file_can_have_is_missing(tmp_path, name):
    folder = write_colmap(tmp_path / "a", image_line(0, name))
    refuse(lambda: read_colmap(folder), "lists 1 images that are missing: ")
    folder = write_transforms(tmp_path / "b", {"file_path": name})
    refuse(lambda: read_transforms(folder), "lists 1 images that are missing: ")


def test_numbers_in_names_are_in_order_of_their_values():
    names = ["2", "10", "007", "7", "9" * 5000, "a1b2", "a1b10", "0"]
    expected = ["0", "2", "007", "7", "10", "9" * 5000, "a1b2", "a1b10"]
    assert sorted(names, key=natural_sort_key) == expected


def test_backslashes_between_folders_are_read(tmp_path):
    folder = write_transforms(tmp_path / "a", {"file_path": "images\\1"})
    assert read_transforms(folder)[0].has_image.all()
    (tmp_path / "b" / "images").mkdir(parents=True)
    write_colmap(tmp_path / "c", image_line(0, "sub\\0.png") + "\n")
    (tmp_path / "c" / "images" / "sub").mkdir()
    (tmp_path / "c" / "images" / "0.png").rename(tmp_path / "c" / "images" / "sub" / "0.png")
    assert read_colmap(tmp_path / "c")[0].has_image.all()


# --- transforms.json --------------------------------------------------------------------------------------------------


def matrix_with_row(row: list[float]) -> dict:
    return {"transform_matrix": [*EYE[:3], row]}


@pytest.mark.parametrize(
    "frame, message",
    [
        (matrix_with_row([1, 2, 3, 1]), "has a transform_matrix whose last row is 1 2 3 1, wanted 0 0 0 1: is it tra"),
        (matrix_with_row([0, 0, 0, 2]), "has a transform_matrix whose last row is 0 0 0 2, wanted 0 0 0 1"),
        (matrix_with_row([0, 0, 0, 0]), "has a transform_matrix whose last row is 0 0 0 0, wanted 0 0 0 1"),
        (matrix_with_row([0, 0, 0, float("nan")]), "has a transform_matrix whose last row is 0 0 0 nan, wanted"),
        ({"transform_matrix": [[10**400] * 4] * 4}, "has a transform_matrix that is no matrix of numbers"),
        (
            {"transform_matrix": [[1e200] * 4] * 3 + [EYE[3]]},
            "has a pose whose first three columns are not a rotation matrix",
        ),
        ({"fl_x": 10**400}, "has fl_x = '1000.*, wanted a number"),
        ({"fl_x": 0.9, "fl_y": 1.2}, "has focal lengths 0.9 and 1.2, wanted pixels: 0.1 to 100 times 40 x 30"),
        ({"fl_y": 2.9, "fl_x": 36}, "has focal lengths 36 and 2.9, wanted pixels"),
        ({"cx": 0.5, "cy": 0.5}, "has the principal point 0.5 0.5, wanted pixels: a point in the frame of 40 x 30"),
        ({"cx": 41, "cy": 15}, "has the principal point 41 15, wanted pixels"),
        ({"camera_angle_x": 0}, "has camera_angle_x = 0, wanted an angle in radians, above 0 and below pi"),
        ({"camera_angle_x": 50}, "has camera_angle_x = 50, wanted an angle in radians, above 0 and below pi"),
    ],
)
def test_an_implausible_camera_is_refused(tmp_path, frame, message):
    folder = write_transforms(tmp_path / "a", frame)
    refuse(lambda: read_transforms(folder), f"1.png {message}")
    clip, warnings = read_transforms(folder, "skip")
    assert clip.has_image.tolist() == [True, False, True] and len(warnings) == 1


@pytest.mark.parametrize("entries", [{"is_fisheye": True}, {"camera_model": "OPENCV_FISHEYE"}])
def test_a_fisheye_camera_is_refused_with_a_way_forward(tmp_path, entries):
    message = "has the camera model '(OPENCV_FISHEYE|fisheye)', .*: undistort the images first, as `colmap image_und"
    refuse(lambda: read_transforms(write_transforms(tmp_path / "a", **entries)), message)
    refuse(lambda: read_transforms(write_transforms(tmp_path / "b", frame=entries)), message)
    refuse(lambda: read_transforms(write_transforms(tmp_path / "c", k4=0.1)), "undistort the images first, as `colmap")


def test_a_frame_has_its_own_focal_length(tmp_path):
    clip, _ = read_transforms(write_transforms(tmp_path / "a", {"camera_angle_x": 1.0}))
    fx = 0.5 / np.tan(0.5)
    torch.testing.assert_close(clip.intrinsics[1].diagonal()[:2], double([fx, fx * WIDTH / HEIGHT]))
    torch.testing.assert_close(clip.intrinsics[0].diagonal()[:2], double([36 / WIDTH, 36 / HEIGHT]))
    clip, _ = read_transforms(write_transforms(tmp_path / "b", {"camera_angle_x": 1.0, "camera_angle_y": 0.8}))
    torch.testing.assert_close(clip.intrinsics[1, 1, 1], double(0.5 / np.tan(0.4)))
    clip, _ = read_transforms(write_transforms(tmp_path / "c", {"fl_x": 30}))
    torch.testing.assert_close(clip.intrinsics[1].diagonal()[:2], double([30 / WIDTH, 30 / HEIGHT]))


def test_intrinsics_of_larger_images_are_said(tmp_path):
    size = {"fl_x": 150, "fl_y": 150, "without": ("w", "h")}
    _, (warning,) = read_transforms(write_transforms(tmp_path / "a", **size))
    assert "for the images as they are, and 3 frames have a field of view of 15 degrees: if the" in warning
    assert read_transforms(write_transforms(tmp_path / "b", without=("w", "h")))[1] == []
    angle = {"camera_angle_x": 0.2, "without": ("w", "h", "fl_x", "fl_y")}
    assert read_transforms(write_transforms(tmp_path / "c", **angle))[1] == []


def test_json_of_windows_is_read_and_errors_have_a_place(tmp_path):
    folder = write_transforms(tmp_path / "a")
    path, text = folder / "transforms.json", (folder / "transforms.json").read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_transforms(folder)[0].has_image.all()
    for content, message in (
        (text[:-1] + ",}", r"transforms.json is not JSON \(.* line 1 column \d+ .*\): correct it$"),
        ("[" * 10**5, "transforms.json is not JSON that can be read: its lists are nested too deeply"),
        ('{"fl_x": ' + "1" * 5000 + "}", "transforms.json cannot be read: Exceeds the limit"),
        ("[]", "transforms.json holds a list: wanted a JSON object"),
        (text.encode("utf-16"), "transforms.json cannot be read: 'utf-8' codec"),
    ):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        refuse(lambda: read_transforms(folder), message)
    (tmp_path / "index.json").write_text('{"a": 3,}')
    refuse(lambda: read_evaluation_index(tmp_path / "index.json"), "index.json is not JSON .* line 1 .*correct")


@pytest.mark.parametrize(
    "factor, reason",
    [
        (2, "they are one that is scaled by 2$"),
        (-1, "they are mirrored, with the determinant -1$"),
        (-2, "they are one that is scaled by -2$"),
        (float("nan"), "they have a NaN or an infinite number$"),
        (0, "not a rotation matrix$"),
    ],
)
def test_the_reason_why_a_matrix_is_no_rotation_is_said(factor, reason):
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] *= factor
    refuse(lambda: check_pose(pose), reason)


def test_pixels_are_divided_by_width_and_height():
    intrinsics = intrinsics_from_pixels((36, 30), (20, 15), (WIDTH, HEIGHT))
    torch.testing.assert_close(intrinsics, double([[0.9, 0, 0.5], [0, 1, 0.5], [0, 0, 1]]))


# --- shapes of images -------------------------------------------------------------------------------------------------


def turn(file: Path) -> None:
    Image.new("RGB", (HEIGHT, WIDTH)).save(file)


def tag(file: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(file, exif=exif)


def as_chunks(folder: Path) -> Path:
    write_chunks(folder.with_name("chunks"), read_split(folder)[0])
    return folder.with_name("chunks")


@pytest.mark.parametrize(
    "change, message", [(turn, "1.*30 x 40 pixels"), (tag, "has the EXIF orientation 6: turn its")]
)
@pytest.mark.parametrize("name", ["text", "chunks", "co3d", "transforms", "colmap"])
def test_a_turned_image_is_refused_in_every_format(tmp_path, name, change, message):
    write = {
        "co3d": write_co3d,
        "transforms": write_transforms,
        "colmap": lambda folder: write_colmap(folder, "\n".join(LINES)),
    }.get(name, write_text)
    folder = write(tmp_path / "source")
    change(next(folder.rglob("1.png")))
    folder = as_chunks(folder) if name == "chunks" else folder
    if name in ("transforms", "colmap"):
        refuse(lambda: read_all_clips(folder, check_poses=False), message)
        return
    (clip,), _ = read_all_clips(folder, check_poses=False)
    refuse(lambda: remove_unreadable(clip), message)
    refuse(lambda: clip.load_frames([0, 1, 2], 8), message)
    kept, warnings = remove_unreadable(clip, "skip")
    assert kept.has_image.tolist() == [True, False, True] and len(warnings) == 1


def test_the_stated_size_of_co3d_is_that_of_the_image(tmp_path):
    folder = write_co3d(tmp_path / "apple", size=(WIDTH, HEIGHT))
    refuse(lambda: read_category(folder), "apple a frame 0 has 40 x 30 pixels, but its camera 30 x 40: wanted one asp")
    refuse(lambda: read_category(folder, "skip"), "has no usable sequence; the first problem: .* wanted one aspect rat")


def test_pixels_that_are_not_square_are_said(tmp_path):
    """As of frames that were cropped after their cameras were made; frames may be squeezed, so this is no error."""
    clip, _ = read_clip(write_text(tmp_path / "a", "0.9 0.9 0.5 0.5") / "a.txt")
    kept, (warning,) = remove_unreadable(clip)
    assert kept.has_image.all() and "the focal lengths along x and y, in pixels, have the ratio 1.33, which" in warning
    intrinsics = clip.intrinsics.clone()
    intrinsics[:, 1, 1] = 1.2
    assert remove_unreadable(replace(clip, intrinsics=intrinsics))[1] == []


# --- folders ----------------------------------------------------------------------------------------------------------


def test_folders_that_are_left_out_are_named(tmp_path):
    write_transforms(tmp_path / "x")
    assert read_all_clips(tmp_path, check_poses=False)[1] == []
    write_transforms(tmp_path / "y")
    (tmp_path / "y" / "transforms.json").unlink()
    write_colmap(tmp_path / "z", "\n".join(LINES))
    clips, (warning,) = read_all_clips(tmp_path, check_poses=False)
    assert [clip.name for clip in clips] == ["x"]
    assert "without y, which is no transforms.json of nerfstudio or instant-ngp, z, which is a reconstruc" in warning
    write_text(tmp_path)
    clips, (warning,) = read_all_clips(tmp_path, check_poses=False)
    assert "without RealEstate10K's text, in the folder itself, a, which is no transforms.json of" in warning
    shutil.move(tmp_path / "z" / "sparse", tmp_path / "x" / "sparse")
    assert read_all_clips(tmp_path / "x", check_poses=False)[1] == [], "nerfstudio keeps the reconstruction"


def test_text_that_is_no_clip_makes_no_format_and_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("recorded in May\n")
    refuse(lambda: detect_format(tmp_path), "holds no posed clips: wanted chunks")
    clips, (warning,) = read_all_clips(write_text(tmp_path), check_poses=False)
    assert [clip.name for clip in clips] == ["a"] and "has 1 text files that are no clips: notes.txt" in warning


def test_a_folder_of_no_format_has_a_way_forward(tmp_path):
    folder = write_transforms(tmp_path / "synthetic")
    (folder / "transforms.json").rename(folder / "transforms_train.json")
    refuse(lambda: detect_format(folder), "it has transforms_train.json: name the one that is to be read transforms.js")
    folder = write_colmap(tmp_path / "c", "\n".join(LINES), sparse="sparse/1")
    refuse(lambda: detect_format(folder), "it has a reconstruction of COLMAP in sparse/1: wanted it in sparse/0, so mo")
    write_text(tmp_path / "re10k" / "test")
    refuse(lambda: detect_format(tmp_path / "re10k"), "its folder test is RealEstate10K's text: give that folder")


def test_a_chunk_that_is_missing_is_named_and_skipped(tmp_path):
    clip, _ = read_clip(write_text(tmp_path / "text") / "a.txt")
    write_chunks(tmp_path, [clip])
    (tmp_path / "index.json").write_text(json.dumps({"a": "000000.torch", "b": "000009.torch", "c": "000009.torch"}))
    message = "names 1 chunks with 2 clips that are not there: 000009.torch: download them"
    refuse(lambda: read_chunks(tmp_path), f"{message}; fix it, or skip it")
    clips, (warning,) = read_chunks(tmp_path, "skip")
    assert [clip.name for clip in clips] == ["a"] and warning.endswith(f"{message}: skipped")
    refuse(lambda: read_colmap(write_colmap(tmp_path / "e", ""), "skip"), "has no frame; the first problem: .*[^d]$")


def test_a_clip_whose_images_cannot_be_read_is_left_out(tmp_path):
    write_text(tmp_path)
    for file in (tmp_path / "a").iterdir():
        file.write_bytes(b"no image")
    message = "has no usable clip; the first problem: a has no usable image; the first problem: .*0.png cannot be read"
    refuse(lambda: read_all_clips(tmp_path, "skip"), message)
    clips, _ = read_all_clips(tmp_path, check_poses=False)
    refuse(lambda: write_chunks(tmp_path / "b", [replace(clips[0], files=(None,) * COUNT)]), "'a' has no frame with an")


def test_frame_numbers_and_sizes_without_bound_are_refused(tmp_path):
    folder = write_co3d(tmp_path / "apple", size=(10**300, 10**300))
    refuse(lambda: read_category(folder), "wanted one aspect ratio")
    with gzip.open(folder / "frame_annotations.jgz", "wt") as file:
        json.dump([{"sequence_name": "a", "frame_number": 10**30}], file)
    refuse(lambda: read_category(folder), "frame 0 has the sequence_name 'a' and frame_number '1000")
    (folder / "set_lists").mkdir()
    (folder / "set_lists" / "few.json").write_text('{"train": [["a", Infinity, "x"]]}')
    refuse(lambda: read_category(folder, selection=Selection("train", "few")), "few.json train is no list of")
