"""Prepares Google Colab for a notebook: the first code cell of every notebook but 00 clones the repository, then runs
this file by its path.

It imports nothing of this package, whose dependencies are not installed yet. It never touches numpy or torch, which
Colab matches to its hardware.
"""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

KEPT = {"torch", "numpy"}
INDIRECT = {"wadler-lindig"}  # jaxtyping's own dependency, since pip is told to install no dependencies


def missing_packages(folder: Path) -> list[str]:
    """The names of the package's dependencies, in pyproject.toml, that are not installed."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {line.split(">=")[0] for line in project["dependencies"]} | INDIRECT
    names = [distribution.metadata["Name"] or "" for distribution in importlib.metadata.distributions()]
    return sorted(needed - KEPT - {name.lower().replace("_", "-") for name in names})


def set_up(folder: Path) -> None:
    """Installs the missing packages and the repository itself, and makes notebooks/ the current folder."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, *missing_packages(folder), "-e", str(folder)], check=True)
    sys.path.insert(0, str(folder))  # a running kernel does not see a new editable install
    os.chdir(folder / "notebooks")


if __name__ == "__main__":
    set_up(Path(__file__).resolve().parents[2])
