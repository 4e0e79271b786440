"""Published StyleGAN2 weights, read into this repository's Generator."""

from __future__ import annotations

import os
import pickle
import re
from itertools import chain

import torch
from safetensors.torch import load_file
from torch import Tensor

from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator

AVERAGED = ("g_ema.", "G_ema.")  # where a checkpoint keeps the generator that is meant to be used
PARTS = {  # of a layer, in the layout that has a g_ema
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "activate.bias": "bias",
    "bias": "bias",
    "noise.weight": "noise_strength",
    "conv.blur.kernel": "resample_filter",
    "upsample.kernel": "resample_filter",
}


def load_official(path: str | os.PathLike) -> Generator:
    """A published generator, on the CPU in float32 for evaluation, its sizes read from its weights.

    Two PyTorch layouts of state dicts are known: that of the StyleGAN2-ADA release (synthesis.b4.const, ...; also
    what this module's networks save) and the one whose checkpoints have a g_ema (input.input, style.1.weight, ...).
    The latter keep the mean of w under latent_avg, or not at all: it is then that of 10,000 codes from a fixed seed.
    The file is one of tensors alone: NAME.safetensors, or what torch.save made of tensors. Nothing in it is executed.
    Half-precision networks of ADA clamp their activations at 256; here nothing is clamped.

    ValueError if the file cannot be read, would run code, or holds another network: labels, filters, architecture.
    """
    found = _tensors(path)
    prefix = next((p for p in AVERAGED if any(key.startswith(p) for key in found)), "")
    found = {key.removeprefix(prefix): x for key, x in found.items() if key.startswith(prefix) or key == "latent_avg"}
    if "input.input" in found:
        found = {_native(key): x for key, x in found.items()}
    elif "synthesis.b4.const" not in found:
        some = ", ".join(sorted(found)[:3]) or "nothing"
        raise ValueError(f"{path} is no StyleGAN2 generator: no synthesis.b4.const, no input.input, but {some}")
    for key in [key for key in found if key.endswith("resample_filter")]:
        _check_filter(path, key, found.pop(key))

    with torch.device("meta"):  # no memory for what may not fit
        G = Generator(**_sizes(path, found))
    wanted = G.state_dict()
    averaged = "mapping.w_avg" in found
    if not averaged:
        found["mapping.w_avg"] = torch.zeros(wanted["mapping.w_avg"].shape)
    if missing := sorted(wanted.keys() - found.keys()):
        raise ValueError(f"{path} lacks {missing[0]} of a generator of {G.synthesis.resolutions[-1]} pixels")
    if foreign := sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{path} is of another architecture: nothing here is called {foreign[0]}")
    G.load_state_dict({key: _fitted(path, key, found[key], wanted[key].shape) for key in wanted}, assign=True)
    G.eval()
    if not averaged:
        z = torch.randn(10_000, G.mapping.z_dim, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            G.mapping.w_avg.copy_(G.mapping(z).mean(0))
    return G


def _tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """All tensors of a file by name; those of a dict in a dict as outer.inner."""
    try:
        if str(path).endswith(".safetensors"):
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wants = re.search(r"GLOBAL (\S+)", str(error))
        named = f" ({wants[1]})" if wants else ""
        raise ValueError(
            f"{path} was refused: loading it could run code{named}; give tensors alone, as safetensors or a state dict"
        ) from None
    except Exception as error:  # what is damaged may raise anything
        raise ValueError(f"{path} cannot be read as tensors ({type(error).__name__}): is it whole?") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}: a dict of tensors is wanted")
    nested = (
        [(f"{k}.{j}", x) for j, x in v.items()] if isinstance(v, dict) else [(str(k), v)] for k, v in content.items()
    )
    return {key: x for key, x in chain.from_iterable(nested) if isinstance(x, Tensor)}


def _native(key: str) -> str:
    """Our name of a tensor of the layout that has a g_ema; an unknown key is returned as it is."""

    def layer(i: int) -> str:
        return "b4.conv1" if i == 0 else f"b{2 ** (3 + (i - 1) // 2)}.conv{(i - 1) % 2}"

    if key in ("latent_avg", "input.input"):
        return {"latent_avg": "mapping.w_avg", "input.input": "synthesis.b4.const"}[key]
    if found := re.fullmatch(r"style\.(\d+)\.(weight|bias)", key):
        return f"mapping.fc{int(found[1]) - 1}.{found[2]}"  # style.0 is the norm of z
    if found := re.fullmatch(r"noises\.noise_(\d+)", key):
        return f"synthesis.{layer(int(found[1]))}.noise_const"
    found = re.fullmatch(r"(conv1|to_rgb1|convs\.\d+|to_rgbs\.\d+)\.(.+)", key)
    if not found or found[2] not in PARTS:
        return key
    kind, _, number = found[1].partition(".")
    if kind in ("conv1", "convs"):
        place = layer(int(number) + 1 if number else 0)
    else:
        place = f"b{2 ** (3 + int(number)) if number else 4}.torgb"
    return f"synthesis.{place}.{PARTS[found[2]]}"


def _check_filter(path: str | os.PathLike, key: str, kernel: Tensor) -> None:
    """A ValueError unless this is [1, 3, 3, 1], at whatever scale: some layouts have the gain of upsampling in it."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = kernel.float().squeeze()
    kernel = kernel if kernel.ndim != 1 else kernel[:, None] * kernel
    if kernel.shape != (4, 4) or not torch.allclose(kernel / kernel.sum(), taps[:, None] * taps / 64, atol=1e-3):
        raise ValueError(f"{path} resamples with another filter than [1, 3, 3, 1]: see {key}")


def _sizes(path: str | os.PathLike, found: dict[str, Tensor]) -> dict[str, int]:
    """The arguments of Generator, from shapes."""

    def size(key: str, axis: int) -> int:
        if key not in found or found[key].ndim < -axis:
            raise ValueError(f"{path} lacks {key}, or it is no weight of a generator")
        return found[key].shape[axis]

    resolution = max(int(r[1]) for key in found if (r := re.match(r"synthesis\.b(\d+)\.", key)))
    last = size(f"synthesis.b{resolution}.torgb.weight", -3)
    return {
        "resolution": resolution,
        "z_dim": size("mapping.fc0.weight", -1),
        "w_dim": size("mapping.fc0.weight", -2),
        "mapping_layers": sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", key)) for key in found),
        "channel_base": last * resolution,
        "channel_max": size("synthesis.b4.const", -3),
        "colours": size(f"synthesis.b{resolution}.torgb.weight", -4),
    }


def _fitted(path: str | os.PathLike, key: str, x: Tensor, shape: torch.Size) -> Tensor:
    """A tensor in our shape, which may lack axes of size 1 that others have."""
    if [n for n in x.shape if n != 1] != [n for n in shape if n != 1]:
        raise ValueError(f"{path}: {key} has shape {tuple(x.shape)} instead of {tuple(shape)}")
    if not torch.isfinite(x).all():
        raise ValueError(f"{path}: {key} is not finite")
    return x.float().reshape(shape).clone()
