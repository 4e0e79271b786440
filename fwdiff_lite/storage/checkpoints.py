"""Weights and recorded runs in checkpoints/, each checked against the manifest there before it is used.

Weights are NAME.safetensors in half precision; recorded arrays (sweeps, ablations, long curves) are NAME.npz. Loading
compares size and sha256 with manifest.toml, and never unpickles. Saving writes the file and its manifest entry: hash,
command, commit, hardware and headline metrics.
"""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from safetensors.torch import load_file, save_file
from torch import Tensor

from fwdiff_lite.storage.files import atomic_write, repo_root, write_text
from fwdiff_lite.storage.provenance import git_commit

FILE_MB, ALL_MB = 15, 32  # the largest sizes of one file and of all files together
TOGETHER = "all together"
HEAD = """\
# What lies in this folder. Written by fwdiff_lite.storage.checkpoints; loading checks bytes and sha256.
# A command names the modules as they were at the commit of its entry.
#
"""


def load_pretrained(name: str, folder: Path | None = None) -> dict[str, Shaped[Tensor, "..."]]:
    """The weights of checkpoints/NAME.safetensors, in float32 on the CPU.

    ValueError if the name is unknown, or the file missing, truncated or altered.
    """
    tensors = load_file(verified_path(f"{name}.safetensors", folder))
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def load_recorded(name: str, folder: Path | None = None) -> dict[str, np.ndarray]:
    """The arrays of checkpoints/NAME.npz. ValueError as in load_pretrained."""
    with np.load(verified_path(f"{name}.npz", folder), allow_pickle=False) as arrays:
        return dict(arrays)


def save_pretrained(
    name: str, tensors: dict[str, Shaped[Tensor, "..."]], folder: Path | None = None, **provenance: Any
) -> Path:
    """Writes weights in half precision to checkpoints/NAME.safetensors, and their manifest entry.

    provenance: the manifest entry: command, seed, gpu_minutes, hardware, metrics, ...; the commit is that of the
        checkout unless it is given
    ValueError if a weight is not finite in half precision, or the file would be too large.
    """
    half = {
        key: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous().clone()
        for key, value in tensors.items()
    }
    bad = [key for key, value in half.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"weights {', '.join(bad)} of {name} are not finite in half precision: nothing was saved")
    return save(f"{name}.safetensors", lambda part: save_file(half, part), folder, provenance)


def save_recorded(name: str, arrays: dict[str, np.ndarray], folder: Path | None = None, **provenance: Any) -> Path:
    """Writes arrays to checkpoints/NAME.npz, and their manifest entry; provenance as in save_pretrained.

    ValueError if an array holds Python objects, or the file would be too large.
    """
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    bad = [key for key, value in arrays.items() if value.dtype.hasobject]
    if bad:
        raise ValueError(f"arrays {', '.join(bad)} of {name} hold Python objects: give numbers or strings")
    return save(f"{name}.npz", lambda part: np.savez_compressed(part, **arrays), folder, provenance)


def read_manifest(folder: Path | None = None) -> dict[str, dict]:
    """The manifest: file name -> entry."""
    path = (folder or repo_root() / "checkpoints") / "manifest.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def verified_path(file: str, folder: Path | None) -> Path:
    """The path of a file, after its size and sha256 were compared with the manifest; otherwise ValueError."""
    folder = folder or repo_root() / "checkpoints"
    manifest = read_manifest(folder)
    path = folder / file
    if file not in manifest:
        raise ValueError(f"unknown checkpoint {file}: {folder / 'manifest.toml'} lists {', '.join(manifest) or 'none'}")
    if not path.exists():
        raise ValueError(f"checkpoint {path} is missing: fetch it again with 'git checkout -- {path.parent.name}'")
    expected, content = manifest[file], path.read_bytes()
    if len(content) != expected["bytes"]:
        raise ValueError(
            f"checkpoint {path} has {len(content)} bytes instead of {expected['bytes']}: "
            "it is truncated or was replaced; fetch it again"
        )
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise ValueError(f"checkpoint {path} was altered: its sha256 is not the manifest's; fetch it again")
    return path


def save(file: str, write, folder: Path | None, provenance: dict[str, Any]) -> Path:
    """Writes a file and its manifest entry; neither if the file is too large."""
    folder = folder or repo_root() / "checkpoints"
    manifest = read_manifest(folder)
    provenance = {"commit": git_commit() or "unknown"} | provenance  # before this file itself counts as a change
    with atomic_write(folder / file) as temporary:
        write(temporary)
        content = temporary.read_bytes()
        others = sum(entry["bytes"] for name, entry in manifest.items() if name != file)
        if len(content) > FILE_MB * 1e6 or len(content) + others > ALL_MB * 1e6:
            raise ValueError(
                f"{file} has {len(content) / 1e6:.1f} MB, the other checkpoints {others / 1e6:.1f} MB: "
                f"at most {FILE_MB} MB a file and {ALL_MB} MB in all"
            )
        entry = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "licence": "MIT",
        } | provenance
        text = manifest_text(manifest | {file: entry})
    write_text(folder / "manifest.toml", text)
    return folder / file


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
