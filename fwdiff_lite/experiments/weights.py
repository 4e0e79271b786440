"""Weights in the folder of an experiment: NAME.safetensors, in half precision."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fwdiff_lite.storage.checkpoints import load_pretrained, read_manifest
from fwdiff_lite.storage.files import file_sha256, write_tensors


def weights_path(name: str, folder: Path) -> Path:
    """The path of the weights of a variant or an asset in the folder. ValueError if there are none."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(f"there is no {path}: train it first")
    return path


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes the weights of a network in half precision."""
    write_tensors(path, {key: value.half().cpu() for key, value in network.state_dict().items()})


def initial_weights(parent: str | None, init_from: Path | None) -> tuple[dict[str, Tensor], dict]:
    """The weights that a training starts from, and the manifest entry of their file if the manifest has that file.

    A file of the same name with other weights has no entry.
    """
    manifest = read_manifest()
    if init_from is None:
        return load_pretrained(parent), manifest[f"{parent}.safetensors"]
    if not init_from.is_file():
        raise ValueError(f"there is no file {init_from} of initial weights")
    entry = manifest.get(init_from.name, {})
    try:
        return load_file(init_from), entry if entry.get("sha256") == file_sha256(init_from) else {}
    except SafetensorError as error:
        raise ValueError(f"{init_from} cannot be read: {error}") from None
