"""Weights and recorded runs in checkpoints/, each checked against the manifest there before it is used.

Weights are NAME.safetensors in half precision; recorded arrays (sweeps, ablations, long curves) are NAME.npz. Loading
compares size and sha256 with manifest.toml, and never unpickles. Saving writes the file and its manifest entry: hash,
command, commit, hardware and headline metrics.
"""

import json
import re
import tomllib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fwdiff_lite.checks import abbreviate
from fwdiff_lite.storage.files import (
    DAMAGE_ERRORS,
    atomic_write,
    exclusive_lock,
    file_sha256,
    read_text,
    repo_root,
    restore_on_error,
)
from fwdiff_lite.storage.provenance import git_commit

FILE_MB, ALL_MB = 15, 44  # the largest sizes of one file, unless its caller allows more, and of all files together
MAX_ARRAY_BYTES = 500_000_000  # of all arrays of one .npz, uncompressed
# A weight may be stored in any of them; steps and other counts are integers.
FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOGETHER = "all together"
HEAD = """\
# What lies in this folder. Written by fwdiff_lite.storage.checkpoints; loading checks bytes and sha256.
# A command names the modules as they were at the commit of its entry.
#
"""


def load_pretrained(name: str, folder: Path | None = None) -> dict[str, Shaped[Tensor, "..."]]:
    """The weights of checkpoints/NAME.safetensors, in float32 on the CPU.

    ValueError if the name is unknown, or the file missing, truncated, altered or damaged, or has a NaN or infinity.
    """
    path = verified_path(f"{name}.safetensors", folder)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"checkpoint {path} is no safetensors file: {str(error).splitlines()[0]}") from None
    for key, value in tensors.items():
        if value.is_complex() or (value.is_floating_point() and value.dtype not in FLOAT_TYPES):
            raise ValueError(f"checkpoint {path} has {key} of type {value.dtype}: wanted real numbers of 16 to 64 bits")
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    if bad := [key for key, value in tensors.items() if not torch.isfinite(value).all()]:
        raise ValueError(f"checkpoint {path} has a NaN or infinity in {abbreviate(bad)}: fetch or train it again")
    return tensors


def load_recorded(name: str, folder: Path | None = None) -> dict[str, np.ndarray]:
    """The arrays of checkpoints/NAME.npz. ValueError as in load_pretrained; arrays may have NaN."""
    path = verified_path(f"{name}.npz", folder)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_ARRAY_BYTES:
            raise ValueError(f"its arrays have {size / 1e6:.0f} MB, wanted at most {MAX_ARRAY_BYTES // 1_000_000}")
        with np.load(path, allow_pickle=False) as saved_arrays:
            arrays = dict(saved_arrays)
    except DAMAGE_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"checkpoint {path} is no file of arrays: {reason}") from None
    if bad := [key for key, value in arrays.items() if not isinstance(value, np.ndarray)]:
        raise ValueError(f"checkpoint {path} has members that are no arrays: {abbreviate(bad)}")
    return arrays


def load_weights(network: torch.nn.Module, weights: Mapping[str, Shaped[Tensor, "..."]], source: str) -> None:
    """Copies weights into a network, whatever their precision.

    source: where the weights come from, for the message of an error
    ValueError, before anything is changed, if a tensor is missing or surplus, has another shape, is an integer in place
    of a real number or the reverse, or has a NaN or infinity.
    """
    state = network.state_dict()
    missing, surplus = [key for key in state if key not in weights], [key for key in weights if key not in state]
    if missing or surplus:
        lists = [("lacks", missing), ("has the unknown", surplus)]
        text = " and ".join(f"{verb} {len(keys)} tensors ({abbreviate(keys)})" for verb, keys in lists if keys)
        raise ValueError(f"{source} is of another network: it {text}")
    for key, own in state.items():
        value = weights[key]
        if not isinstance(value, Tensor):
            raise ValueError(f"{source} has {key} of type {type(value).__name__}: wanted a tensor")
        if value.shape != own.shape:
            raise ValueError(f"{source} has {key} of shape {tuple(value.shape)}: wanted {tuple(own.shape)}")
        if value.is_floating_point() != own.is_floating_point() or value.is_complex() != own.is_complex():
            raise ValueError(f"{source} has {key} of type {value.dtype}: wanted {own.dtype}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{source} has a NaN or infinity in {key}: train it again")
    network.load_state_dict({key: value.to(state[key].dtype) for key, value in weights.items()})


class CheckpointFile(NamedTuple):
    """A file that will lie in checkpoints/.

    name: with its suffix
    write: writes the content to a path
    entry: of the manifest: command, seed, gpu_minutes, hardware, metrics, ...; the commit is that of the checkout
        unless it is given
    """

    name: str
    write: Callable[[Path], object]
    entry: dict[str, Any]
    max_megabytes: int = FILE_MB


def weights_file(
    name: str, tensors: dict[str, Shaped[Tensor, "..."]], max_megabytes: int = FILE_MB, **entry: Any
) -> CheckpointFile:
    """The file NAME.safetensors of weights in half precision. ValueError if a weight is not finite in it."""
    half = {
        key: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous().clone()
        for key, value in tensors.items()
    }
    bad = [key for key, value in half.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"weights {', '.join(bad)} of {name} are not finite in half precision: nothing was saved")
    content = safetensors.torch.save(half)
    return CheckpointFile(f"{name}.safetensors", lambda path: path.write_bytes(content), entry, max_megabytes)


def arrays_file(name: str, arrays: dict[str, np.ndarray], **entry: Any) -> CheckpointFile:
    """The file NAME.npz of arrays. ValueError if one holds Python objects."""
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    bad = [key for key, value in arrays.items() if value.dtype.hasobject]
    if bad:
        raise ValueError(f"arrays {', '.join(bad)} of {name} hold Python objects: give numbers or strings")
    return CheckpointFile(f"{name}.npz", lambda path: np.savez_compressed(path, **arrays), entry)


def save(files: Sequence[CheckpointFile], folder: Path | None = None) -> list[Path]:
    """Writes files and their manifest entries to checkpoints/: all of them, or none if one cannot be written.

    All are complete before the first one gets its name.
    ValueError if a file would have more than its `max_megabytes`, or all checkpoints together more than ALL_MB, or if
    another process writes to the folder: one of the two would lose the other's entries.
    """
    for file in files:
        check_file_name(file.name)
    folder = folder or repo_root() / "checkpoints"
    commit = git_commit() or "unknown"  # before the files themselves count as a change
    with exclusive_lock(folder / "manifest.toml") as is_mine:
        if not is_mine:
            raise ValueError(f"another process writes to {folder}: wait for it, then save again")
        _write_files(files, folder, commit)
    return [folder / file.name for file in files]


def _write_files(files: Sequence[CheckpointFile], folder: Path, commit: str) -> None:
    """Writes files and their manifest entries to a folder that no other process writes to."""
    manifest = read_manifest(folder)
    with restore_on_error([folder / file.name for file in files]), ExitStack() as stack:
        # the stack closes in reverse order: every file is in place before the manifest that names it
        manifest_path = stack.enter_context(atomic_write(folder / "manifest.toml"))
        for file in files:
            path = stack.enter_context(atomic_write(folder / file.name))
            file.write(path)
            facts = {"sha256": file_sha256(path), "bytes": path.stat().st_size, "licence": "MIT"}
            manifest[file.name] = facts | {"commit": commit} | file.entry
        check_sizes(manifest, files)
        manifest_path.write_text(manifest_text(manifest), encoding="utf-8")


def check_sizes(manifest: dict[str, dict], files: Sequence[CheckpointFile]) -> None:
    """ValueError if a file is too large, or all files of the manifest together are."""
    total = sum(entry["bytes"] for entry in manifest.values())
    for file in files:
        size = manifest[file.name]["bytes"]
        if size > file.max_megabytes * 1e6 or total > ALL_MB * 1e6:
            raise ValueError(
                f"{file.name} has {size / 1e6:.1f} MB, the other checkpoints {(total - size) / 1e6:.1f} MB: "
                f"at most {file.max_megabytes} MB for this file and {ALL_MB} MB in all"
            )


def save_pretrained(
    name: str, tensors: dict[str, Shaped[Tensor, "..."]], folder: Path | None = None, **options
) -> Path:
    """Writes weights and their manifest entry. options: of `weights_file`; ValueError as there and in `save`."""
    (path,) = save([weights_file(name, tensors, **options)], folder)
    return path


def save_recorded(name: str, arrays: dict[str, np.ndarray], folder: Path | None = None, **entry: Any) -> Path:
    """Writes arrays and their manifest entry. ValueError as in `arrays_file` and `save`."""
    (path,) = save([arrays_file(name, arrays, **entry)], folder)
    return path


def read_manifest(folder: Path | None = None) -> dict[str, dict]:
    """The manifest: file name -> entry; empty if there is none.

    ValueError if it is no TOML, or an entry has an unsafe name or lacks its size or hash.
    """
    path = (folder or repo_root() / "checkpoints") / "manifest.toml"
    if not path.exists():
        return {}
    try:
        manifest = tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no TOML ({str(error).splitlines()[0]}): fetch it again") from None
    for file, entry in manifest.items():
        check_file_name(file)
        if not isinstance(entry, dict):
            raise ValueError(f"{path} has {file} = {abbreviate([entry])}: wanted a table of bytes, sha256 and others")
        size, digest = entry.get("bytes"), entry.get("sha256")
        if type(size) is not int or size < 0:
            raise ValueError(f"{path} has no bytes for {file}: wanted the size of the file, a whole number")
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"{path} has no sha256 for {file}: wanted 64 hexadecimal digits")
    return manifest


def check_file_name(file: str) -> None:
    """ValueError if the name of a checkpoint is not the plain name of a file in its folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(safetensors|npz)", file) or len(file) > 200:
        raise ValueError(
            f"{file[:80]!r} is not a name of a checkpoint: wanted letters, digits and _.- followed by .safetensors or "
            ".npz, without a folder"
        )


def verified_path(file: str, folder: Path | None) -> Path:
    """The path of a file, after its size and sha256 were compared with the manifest; otherwise ValueError."""
    check_file_name(file)
    folder = folder or repo_root() / "checkpoints"
    if not (folder / "manifest.toml").exists():
        raise ValueError(
            f"there are no checkpoints in {folder}: they come with the repository, not with the installed package; "
            "clone the repository and set the environment variable FWDIFF_ROOT to its folder"
        )
    manifest = read_manifest(folder)
    path = folder / file
    if file not in manifest:
        raise ValueError(f"unknown checkpoint {file}: {folder / 'manifest.toml'} lists {', '.join(manifest) or 'none'}")
    if not path.is_file():
        raise ValueError(f"checkpoint {path} is missing: fetch it again with 'git checkout -- {path.parent.name}'")
    expected = manifest[file]
    try:
        size, digest = path.stat().st_size, file_sha256(path)
    except OSError as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error.strerror}") from None
    if size != expected["bytes"]:
        raise ValueError(
            f"checkpoint {path} has {size} bytes instead of {expected['bytes']}: "
            "it is truncated or was replaced; fetch it again"
        )
    if digest != expected["sha256"]:
        raise ValueError(f"checkpoint {path} was altered: its sha256 is not the manifest's; fetch it again")
    return path


def manifest_text(manifest: dict[str, dict]) -> str:
    """The manifest as TOML, under a comment with the sizes in megabytes."""
    sizes = {file: manifest[file]["bytes"] / 1e6 for file in sorted(manifest)}
    width = max(map(len, [*sizes, TOGETHER]))
    rows = [f"# {file:<{width}}  {size:6.2f} MB" for file, size in sizes.items()]
    total = f"# {TOGETHER:<{width}}  {sum(sizes.values()):6.2f} MB of {ALL_MB}"
    entries = [
        "\n".join([f"[{toml(file)}]", *(f"{key} = {toml(value)}" for key, value in manifest[file].items())])
        for file in sizes
    ]
    return HEAD + "\n".join([*rows, total]) + "\n" + "".join(f"\n{entry}\n" for entry in entries)


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool | int | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return repr(value)
    raise ValueError(f"cannot write {value!r} to the manifest: give numbers, strings, lists or dicts of them")
