"""Weights in the folder of an experiment: NAME.safetensors, in half precision."""

from pathlib import Path

from torch import nn

from fwdiff_lite.storage.files import write_tensors


def weights_path(name: str, folder: Path) -> Path:
    """The path of the weights of a variant or an asset in the folder. ValueError if there are none."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(f"there is no {path}: train it first")
    return path


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes the weights of a network in half precision."""
    write_tensors(path, {key: value.half().cpu() for key, value in network.state_dict().items()})
