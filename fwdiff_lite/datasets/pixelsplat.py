"""Reads and writes RealEstate10K and ACID as the chunks of pixelSplat (Charatan et al. 2024).

    FOLDER/index.json       {clip: chunk file}
    FOLDER/000000.torch     a list of clips, each {"key": its name, "url": text, "timestamps": int64 (n),
                            "cameras": float32 (n, 18), "images": list of n uint8 tensors, encoded images}

A row of cameras is a line of RealEstate10K's text without its timestamp (realestate10k.py). A chunk is opened without
running code from it: it holds tensors, lists and text only. Its images stay on disk: only their places in the file are
kept, so that the image of any frame of any chunk is read by itself.

An evaluation index, a JSON file {clip: {"context": [i, ...], "target": [j, ...]} or null}, names frames by their
indices in the clip.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fwdiff_lite.checks import abbreviate, check_positive
from fwdiff_lite.datasets.clip_names import CLIP_NAME_FORM, check_clip_name, is_clip_name
from fwdiff_lite.datasets.images import EncodedImage, first_line
from fwdiff_lite.datasets.posed_clips import (
    Clip,
    camera_from_numbers,
    camera_numbers,
    check_on_error,
    no_data_text,
    raise_or_warn,
)
from fwdiff_lite.datasets.text_files import read_json_object, shorten
from fwdiff_lite.storage.files import DAMAGE_ERRORS, atomic_write, write_text

INDEX = "index.json"
KEYS = ("key", "timestamps", "cameras", "images")
MAX_PICKLE_BYTES = 100_000_000  # of the part of a chunk that is no image
MAX_IMAGE_BYTES = 50_000_000
FLOATS = (torch.float32, torch.float64)  # of cameras: those of 16 bits have too few digits


def is_chunk_folder(folder: Path) -> bool:
    """Whether a folder holds chunks."""
    return any(folder.glob("*.torch"))


def read_chunks(folder: Path | str, on_error: str = "raise") -> tuple[list[Clip], list[str]]:
    """Reads the cameras of all clips, without decoding an image; returns the clips by name, and warnings.

    A frame keeps its index in the chunk, also if its camera or its image is unusable.
    on_error: "raise" raises a ValueError, "skip" skips the data and adds a warning, for a chunk that is missing or
        damaged, an invalid clip or camera, a clip that two chunks hold, and clips that the index names and no chunk
        holds
    """
    check_on_error(on_error)
    folder, warnings, clips = Path(folder), [], {}
    index, files = read_index(folder), sorted(file.name for file in folder.glob("*.torch") if file.is_file())
    if not files:
        raise ValueError(f"{folder} holds no chunk: wanted files such as 000000.torch and {INDEX}")
    if absent := sorted(set(index.values()) - set(files)):
        num_clips = sum(name in absent for name in index.values())
        raise_or_warn(
            f"{folder / INDEX} names {len(absent)} chunks with {num_clips} clips that are not there: "
            f"{abbreviate(absent)}: download them",
            on_error,
            warnings,
        )
        index = {key: name for key, name in index.items() if name not in absent}
    for name in files:
        try:
            examples, base = open_chunk(folder / name)
        except ValueError as error:
            raise_or_warn(str(error), on_error, warnings)
            continue
        for row, example in enumerate(examples):
            try:
                clip = _clip_of_example(folder / name, row, example, base, on_error, warnings)
                if clip.name in clips:
                    raise ValueError(f"{folder / name} holds the clip {clip.name} a second time")
                clips[clip.name] = clip
            except ValueError as error:
                if on_error == "raise":
                    raise
                raise_or_warn(str(error), on_error, warnings)
    if missing := sorted(index.keys() - clips.keys()):
        raise_or_warn(
            f"{folder / INDEX} names {len(missing)} clips that no chunk holds: {abbreviate(missing)}",
            on_error,
            warnings,
        )
    if not clips:
        raise ValueError(no_data_text(folder, "usable clip", warnings, "no chunk holds one"))
    return [clips[name] for name in sorted(clips)], warnings


def read_index(folder: Path) -> dict[str, str]:
    """The chunk file of each clip; an empty dict without an index. ValueError if the index has another form."""
    if not (folder / INDEX).is_file():
        return {}
    index = read_json_object(folder / INDEX)
    for key, name in index.items():
        if not isinstance(name, str) or not name.endswith(".torch") or Path(name).name != name:
            raise ValueError(f"{folder / INDEX} gives {shorten(key)} the chunk {shorten(str(name))}: wanted a name")
    return index


def open_chunk(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The clips of a chunk, whose tensors are mapped from the file, and the address in memory of the file's first byte.

    ValueError if the chunk is damaged or none. Nothing is unpickled but tensors and plain containers. The size is
    checked before anything is read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its entries are compressed: torch.save writes none")
        size = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
        if size > MAX_PICKLE_BYTES:
            raise ValueError(f"it has {size / 1e6:.0f} MB beside tensors, wanted at most {MAX_PICKLE_BYTES // 10**6}")
        first_record = _first_record_offset(path, entries)
    except DAMAGE_ERRORS as error:
        raise ValueError(f"{path} cannot be read as a chunk: {_archive_problem(path, error)}") from None
    try:
        content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:  # torch's message advises to run the code of the file
        if name := re.search(r"GLOBAL ([\w.]+)", str(error)):
            problem = f"it holds {name[1][:60]}, which could run code: wanted tensors, lists, dictionaries and text"
        else:
            problem = "it is damaged, or holds more than tensors, lists, dictionaries and text"
        raise ValueError(f"{path} cannot be read as a chunk: {problem}") from None
    except DAMAGE_ERRORS:
        raise ValueError(f"{path} cannot be read as a chunk: it is damaged, or no file of torch.save") from None
    if not isinstance(content, list) or not all(isinstance(example, dict) for example in content):
        raise ValueError(f"{path} holds a {type(content).__name__}, wanted a list of clips")
    tensors = _tensors(content)
    if not all(map(_is_plain, tensors)):
        raise ValueError(
            f"{path} holds tensors that are sparse, nested, quantized or without values: wanted plain ones"
        )
    addresses = [x.untyped_storage().data_ptr() for x in tensors if x.numel()]
    return content, min(addresses, default=0) - first_record


def _tensors(content: Any) -> list[Tensor]:
    """All tensors in nested containers. A hostile file may nest deeply, and a container may hold itself."""
    tensors, remaining, seen = [], [content], set()
    while remaining:
        value = remaining.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple | set):
            remaining.extend(value)
        elif isinstance(value, dict):
            remaining.extend([*value.keys(), *value.values()])
    return tensors


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has its numbers in memory as they are: it is not sparse, nested, quantized or without values."""
    if tensor.is_nested or tensor.is_quantized:
        return False
    return tensor.layout == torch.strided and tensor.device.type == "cpu"


def _first_record_offset(path: Path, entries: list[zipfile.ZipInfo]) -> int:
    """The offset in a chunk's file of the bytes of its first tensor."""
    offsets = [entry.header_offset for entry in entries if "/data/" in entry.filename and entry.file_size]
    if not offsets:
        return 0
    with path.open("rb") as file:  # the header of an entry has 30 bytes, and a name and an extra field
        file.seek(min(offsets) + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    return min(offsets) + 30 + name_length + extra_length


def read_part(path: Path, offset: int, size: int) -> bytes:
    """Some bytes of a file. ValueError if it is shorter."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) < size:
        raise ValueError(f"{path} has become shorter: it has no {size} bytes at {offset}")
    return content


def _archive_problem(path: Path, error: BaseException) -> str:
    """Why a file is no archive as torch.save writes it."""
    if not isinstance(error, zipfile.BadZipFile):
        return first_line(error)
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(b"PK"):
        return "it is cut or damaged: download it again"
    if start.startswith(b"\x80"):
        return (
            "it is a pickle, as torch before version 1.6 wrote it: if you trust it, load and save it with a newer torch"
        )
    return "it is no file of torch.save"


def _clip_of_example(
    path: Path, row: int, example: dict[str, Any], base: int, on_error: str, warnings: list[str]
) -> Clip:
    """The clip of one entry of a chunk. ValueError, with the chunk's name, if its form is wrong.

    base: the address in memory of the first byte of the file
    """
    place = f"{path} clip {row}"
    if missing := [key for key in KEYS if key not in example]:
        raise ValueError(f"{place} has no {', '.join(missing)}: wanted {', '.join(KEYS)}")
    key, timestamps, cameras, images = (example[name] for name in KEYS)
    if not is_clip_name(key):
        raise ValueError(f"{place} has the key {shorten(str(key))}, wanted {CLIP_NAME_FORM}")
    place = f"{path} clip {shorten(key)}"
    if not isinstance(timestamps, Tensor) or timestamps.dtype != torch.int64 or timestamps.ndim != 1:
        raise ValueError(f"{place} has timestamps {_describe(timestamps)}, wanted int64 (n,)")
    n = len(timestamps)
    if not isinstance(cameras, Tensor) or cameras.dtype not in FLOATS or cameras.shape != (n, 18):
        raise ValueError(f"{place} has cameras {_describe(cameras)}, wanted float32 ({n}, 18)")
    if not isinstance(images, list) or len(images) != n:
        raise ValueError(f"{place} has {len(images) if isinstance(images, list) else 'no'} images, wanted {n}")
    clip, files, latest, times = Clip.without_cameras(key, n), [None] * n, -1, [-1] * n
    for i in range(n):
        try:
            _check_encoded(images[i])
            if (time := int(timestamps[i])) <= latest:
                raise ValueError(f"has the timestamp {time}, which is not later than all earlier ones")
            latest = time
            clip.intrinsics[i], clip.poses[i] = camera_from_numbers(cameras[i].double())
            times[i] = time
            read = partial(read_part, path, images[i].data_ptr() - base, len(images[i]))
            files[i] = EncodedImage(f"{path} {key} frame {i}", read)
        except ValueError as error:
            raise_or_warn(f"{place} frame {i} {error}", on_error, warnings)
    first = next((i for i in range(n) if files[i]), None)
    if first is not None and files[first].read_bytes() != images[first].numpy().tobytes():
        raise ValueError(f"{place} has images that do not lie where the chunk's directory says: write the chunk again")
    if not any(files):
        raise ValueError(f"{place} has no frame: {(warnings or ['its lists are empty'])[0]}")
    return Clip(key, tuple(times), clip.intrinsics, clip.poses, tuple(files))


def _check_encoded(image: Any) -> None:
    """ValueError, without the place, if an entry of images is no encoded image."""
    if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 1 or not image.is_contiguous():
        raise ValueError(f"has an image {_describe(image)}, wanted bytes, uint8 (k,)")
    if not 0 < len(image) <= MAX_IMAGE_BYTES:
        raise ValueError(f"has an image of {len(image):,} bytes, wanted 1 to {MAX_IMAGE_BYTES:,}")


def _describe(value: Any) -> str:
    """The type of a value, for an error message."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.")


# --- writing ----------------------------------------------------------------------------------------------------------


def write_chunks(folder: Path | str, clips: Iterable[Clip], megabytes: float = 100.0) -> list[str]:
    """Writes clips as chunks of about so many megabytes, and their index; returns warnings.

    Images are copied byte by byte. A frame without a camera or an image is left out, which moves the indices of later
    frames; a warning says so. ValueError if a lens distorts a clip or masks hide its background: then
    `convert` draws its frames first.
    """
    check_positive(megabytes=megabytes)
    folder, index, examples, size, warnings = Path(folder), {}, [], 0, []

    def write() -> None:
        name = f"{len(set(index.values())):06}.torch"
        with atomic_write(folder / name) as part:
            torch.save(examples, part)
        index.update({example["key"]: name for example in examples})

    keys = set()
    for clip in clips:
        check_clip_name(clip.name)
        if clip.name in keys:
            raise ValueError(f"two clips have the name {clip.name}: wanted one name a clip")
        keys.add(clip.name)
        if clip.has_distortion or clip.masks is not None:
            raise ValueError(
                f"{shorten(clip.name)} has distortion or masks, which a chunk cannot hold: draw its frames first"
            )
        frames = [i for i, file in enumerate(clip.files) if file is not None]
        if not frames:
            raise ValueError(f"{shorten(clip.name)} has no frame with an image: leave it out")
        if len(frames) < len(clip):
            warnings.append(
                f"{clip.name}: {len(clip) - len(frames)} frames without an image or a camera are left out: the indices "
                "of later frames move"
            )
        images = [torch.frombuffer(bytearray(clip.files[i].read_bytes()), dtype=torch.uint8) for i in frames]
        cameras = [camera_numbers(clip.intrinsics[i], clip.poses[i]) for i in frames]
        examples.append(
            {
                "url": "",
                "timestamps": torch.tensor([clip.timestamps[i] for i in frames], dtype=torch.int64),
                "cameras": torch.stack(cameras).float(),
                "images": images,
                "key": clip.name,
            }
        )
        size += sum(map(len, images))
        if size >= 1e6 * megabytes:
            write()
            examples, size = [], 0
    if examples:
        write()
    write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")
    return warnings


# --- evaluation lists -------------------------------------------------------------------------------------------------


class FrameIndices(NamedTuple):
    """The indices of a clip's frames: contexts and targets."""

    context: tuple[int, ...]
    target: tuple[int, ...]


def read_evaluation_index(path: Path | str) -> dict[str, FrameIndices]:
    """The frames of each clip of an evaluation index, without the clips that it gives null.

    ValueError, with the clip's name, if an entry has another form.
    """
    index = {}
    for key, entry in read_json_object(Path(path)).items():
        if entry is None:
            continue
        if not isinstance(entry, Mapping) or not all(_is_index_list(entry.get(name)) for name in FrameIndices._fields):
            raise ValueError(f"{path} gives {shorten(key)} {shorten(str(entry))}, wanted context and target indices")
        index[key] = FrameIndices(*(tuple(entry[name]) for name in FrameIndices._fields))
    if not index:
        raise ValueError(f"{path} has no entry that is not null")
    return index


def _is_index_list(value: Any) -> bool:
    """Whether a value is a list of different whole numbers, 0 or larger."""
    if not isinstance(value, list) or not value:
        return False
    return all(type(i) is int and i >= 0 for i in value) and len(set(value)) == len(value)
