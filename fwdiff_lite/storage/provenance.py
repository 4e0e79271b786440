"""Where a result comes from: the command, the commit of the sources, and the hardware."""

import os
import subprocess
from pathlib import Path
from typing import Any

import torch

from fwdiff_lite.devices import num_processes
from fwdiff_lite.storage.files import repo_root


def git_commit() -> str | None:
    """The checkout's commit, followed by '+' if its sources have changed since; None without its own git repository.

    The environment variable FWDIFF_COMMIT names the commit of sources that were copied without their history.
    """
    if commit := os.environ.get("FWDIFF_COMMIT"):
        return commit

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", repo_root(), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    results = (":!figures", ":!notebooks/*.ipynb", ":!README.md")
    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != repo_root():
            return None  # an unpacked archive that lies in another repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".", *results) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance(command: str) -> dict[str, str]:
    """The record of a command: the command itself, the commit of the sources, and the hardware."""
    hardware = f"{os.cpu_count()}-core CPU"
    if torch.cuda.is_available():
        count = num_processes()
        hardware = f"{'one' if count == 1 else count} {torch.cuda.get_device_name()}"
    return {"command": command, "commit": git_commit() or "unknown", "hardware": hardware}


def merge_provenance(parts: list[dict]) -> dict[str, Any]:
    """One record of a result that several commands made one after another. Its seed is that of the last training.

    parts: of each command its `provenance` and gpu_minutes; of a training also its seed
    """
    seeds = [part["seed"] for part in parts if "seed" in part]
    return {
        "command": "; ".join(part["command"] for part in parts),
        "gpu_minutes": round(sum(part["gpu_minutes"] for part in parts), 1),
        **{key: "; ".join(dict.fromkeys(part[key] for part in parts)) for key in ("hardware", "commit")},
    } | ({"seed": seeds[-1]} if seeds else {})
