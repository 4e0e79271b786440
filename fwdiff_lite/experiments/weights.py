"""Weights in the folder of an experiment: NAME.safetensors, in half precision."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Shaped
from safetensors.torch import save_file
from torch import Tensor, nn

from fwdiff_lite.storage.files import atomic_write


def weights_path(name: str, folder: Path) -> Path:
    """The path of the weights of a variant or an asset in the folder. ValueError if there are none."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(f"there is no {path}: train it first")
    return path


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes the weights of a network in half precision."""
    weights = {key: value.half().cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(weights, temporary)


def load_weights(network: nn.Module, weights: Mapping[str, Shaped[Tensor, "..."]]) -> nn.Module:
    """The network with these weights, which may be of any precision, in eval mode."""
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    return network.eval()


def sha256(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
