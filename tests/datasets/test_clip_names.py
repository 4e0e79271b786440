"""The name of a clip comes from another's file: no writer follows it out of the folder that it was given."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from fwdiff_lite.datasets import __main__ as command
from fwdiff_lite.datasets import pixelsplat
from fwdiff_lite.datasets.clip_names import clip_file_name, is_clip_name
from fwdiff_lite.datasets.posed_clips import Clip
from fwdiff_lite.datasets.transforms_json import write_capture
from fwdiff_lite.datasets.view_sampler import ViewTimestamps, write_evaluation_list

HOSTILE = (
    "../../x", "..", ".", "a/../../x", "/abs/x", "//x", "C:\\x", "C:x", "..\\x", "a\\..\\..\\x", "a//b", "a/", "",
    "a\nb", "a\0b", "a\x1b[1m", "a\u2028b", "\ud800", "a" * 256, "é" * 128, 3, None,
)  # fmt: skip
NESTED = ("train/a", "train\\a", ".a")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_no_name(name):
    assert not is_clip_name(name)
    with pytest.raises(ValueError, match="cannot be written: wanted a name without '..', a root or control") as error:
        clip_file_name(name)
    assert "\n" not in str(error.value)
    if isinstance(name, str):
        with pytest.raises(ValueError, match="cannot be written: wanted a name without"):
            write_evaluation_list("/nowhere/list.txt", [ViewTimestamps(name, 1, 3, 2)])


def test_names_with_folders_are_names_but_not_of_files():
    for name in NESTED:
        assert is_clip_name(name)
        with pytest.raises(ValueError, match="cannot be written as files of its name: wanted a name without a sep"):
            clip_file_name(name)
    for name in ("000a", "110_13051_23361", "a b", "ü.1", "a" * 255, "a..b"):
        assert clip_file_name(name) == name


def clip(folder: Path, name: str) -> Clip:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    eye = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    return Clip(name, (1, 2, 3), eye[:, :3, :3], eye, (folder / "a.png",) * 3)


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("target", command.TARGETS)
@pytest.mark.parametrize("name", ["../../x", "ABSOLUTE", "..", ".", "a\nb", *NESTED])
def test_writers_write_nothing_outside_of_their_folder(tmp_path, target, name):
    name = str(tmp_path / "x") if name == "ABSOLUTE" else name
    example, out = clip(tmp_path, name), tmp_path / "deep" / "out"
    before = files(tmp_path)
    if target == "pixelsplat" and name in NESTED:
        command.write_clips(out, [example], target)
        assert [read.name for read in pixelsplat.read_chunks(out)[0]] == [name]
    else:
        with pytest.raises(ValueError, match="cannot be written"):
            command.write_clips(out, [example], target)
    assert all(path.is_relative_to(out) for path in files(tmp_path) - before)


@pytest.mark.parametrize("target", command.TARGETS)
def test_two_clips_of_one_name_do_not_overwrite_each_other(tmp_path, target):
    with pytest.raises(ValueError, match="two clips have"):
        command.write_clips(tmp_path / "out", [clip(tmp_path, "a"), clip(tmp_path, "a")], target)


def write_chunk(folder: Path, name: str) -> None:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    image = torch.frombuffer(bytearray((folder / "a.png").read_bytes()), dtype=torch.uint8)
    cameras = torch.tensor([[0.5, 0.5, 0.5, 0.5, 0, 0, *torch.eye(3, 4).flatten().tolist()]] * 2)
    example = {"key": name, "url": "", "timestamps": torch.tensor([1, 2]), "cameras": cameras, "images": [image] * 2}
    torch.save([example], folder / "000000.torch")


def write_co3d(folder: Path, name: str) -> None:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    camera = {"R": torch.eye(3).tolist(), "T": [0, 0, 1], "focal_length": [1, 1], "principal_point": [0, 0]}
    frame = {"sequence_name": name, "image": {"path": "a.png", "size": [8, 8]}, "viewpoint": camera}
    with gzip.open(folder / "frame_annotations.jgz", "wt") as file:
        json.dump([frame | {"frame_number": i} for i in range(2)], file)


@pytest.mark.parametrize("target", command.TARGETS)
@pytest.mark.parametrize("write", [write_chunk, write_co3d])
@pytest.mark.parametrize("name", ["../../x", "ABSOLUTE", "train/a"])
def test_convert_writes_nothing_outside_of_to(tmp_path, capsys, target, write, name):
    """Also with the pose check off. Hostile names are refused by the readers, so nothing is written at all."""
    name = str(tmp_path / "x") if name == "ABSOLUTE" else name
    source, out = tmp_path / "source", tmp_path / "deep" / "out"
    source.mkdir()
    write(source, name)
    before = files(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main(["convert", str(source), str(out), "--to", target, "--skip-pose-check"])
    keeps = target == "pixelsplat" and name == "train/a"
    written = files(tmp_path) - before
    assert stop.value.code == (0 if keeps else 2) and bool(written) == keeps
    assert all(path.is_relative_to(out) for path in written)
    assert keeps or "Traceback" not in capsys.readouterr().err


def test_a_capture_is_written_to_a_folder_of_its_name_only(tmp_path):
    with pytest.raises(ValueError, match="is to hold the clip a: wanted a folder of this name"):
        write_capture(tmp_path / "b", clip(tmp_path, "a"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    for target in command.TARGETS:
        with pytest.raises(ValueError, match="cannot be written: "):
            command.write_clips(tmp_path / "a.png" / "out", [clip(tmp_path, "a")], target)
