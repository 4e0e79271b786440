"""Published StyleGAN2 weights, converted to this repository's Generator."""

from __future__ import annotations

import os
import pickle
import re
from itertools import chain

import torch
from safetensors.torch import load_file
from torch import Tensor

from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator

EMA_PREFIXES = ("g_ema.", "G_ema.")  # of the averaged generator, in a checkpoint of several networks
LAYER_KEYS = {  # keys of a layer: in the g_ema layout -> here
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "activate.bias": "bias",
    "bias": "bias",
    "noise.weight": "noise_strength",
    "conv.blur.kernel": "resample_filter",
    "upsample.kernel": "resample_filter",
}


def load_published_generator(path: str | os.PathLike) -> Generator:
    """A published generator, on the CPU, in float32, in eval mode. Its sizes are inferred from its weights.

    Two PyTorch layouts of state dicts are supported. The first is that of the StyleGAN2-ADA release
    (synthesis.b4.const, ...); state dicts of this repository's Generator have it too. The second, the g_ema layout, has
    keys such as input.input and style.1.weight. It stores the mean of w as latent_avg, or not at all; then the mean is
    computed from 10,000 latent codes of a fixed seed.

    The file must hold tensors alone: NAME.safetensors, or tensors saved by torch.save. No code in it is executed.
    ADA's networks in half precision clamp their activations at 256; this generator does not clamp.

    ValueError if the file cannot be read, would run code, or holds an unsupported network: class labels, other filters,
    another architecture.
    """
    tensors = _read_tensors(path)
    prefix = next((p for p in EMA_PREFIXES if any(key.startswith(p) for key in tensors)), "")
    tensors = {
        key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix) or key == "latent_avg"
    }
    if "input.input" in tensors:
        tensors = {_convert_key(key): x for key, x in tensors.items()}
    elif "synthesis.b4.const" not in tensors:
        examples = ", ".join(sorted(tensors)[:3]) or "no tensor"
        raise ValueError(f"{path} is no StyleGAN2 generator: no synthesis.b4.const, no input.input, but {examples}")
    for key in [key for key in tensors if key.endswith("resample_filter")]:
        _check_filter(path, key, tensors.pop(key))

    with torch.device("meta"):  # allocates no memory: the weights may not fit
        G = Generator(**_infer_sizes(path, tensors))
    expected = G.state_dict()
    has_w_avg = "mapping.w_avg" in tensors
    if not has_w_avg:
        tensors["mapping.w_avg"] = torch.zeros(expected["mapping.w_avg"].shape)
    if missing := sorted(expected.keys() - tensors.keys()):
        raise ValueError(f"{path} lacks {missing[0]} of a generator of {G.synthesis.resolutions[-1]} pixels")
    if unexpected := sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"{path} is of another architecture: this generator has no {unexpected[0]}")
    G.load_state_dict({key: _reshape(path, key, tensors[key], expected[key].shape) for key in expected}, assign=True)
    G.eval()
    if not has_w_avg:
        z = torch.randn(10_000, G.mapping.z_dim, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            G.mapping.w_avg.copy_(G.mapping(z).mean(0))
    return G


def _read_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """All tensors of a file by name. A tensor of a nested dict is named outer.inner."""
    try:
        if str(path).endswith(".safetensors"):
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        global_name = f" ({match[1]})" if match else ""
        raise ValueError(
            f"{path} was refused: loading it could run code{global_name}; "
            "give a file that holds tensors alone, as safetensors or a state dict"
        ) from None
    except Exception as error:  # a damaged file may raise any exception
        raise ValueError(
            f"{path} cannot be read as tensors ({type(error).__name__}): check that the file is complete"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}: give a file that holds a dict of tensors")
    items = (
        [(f"{k}.{j}", x) for j, x in v.items()] if isinstance(v, dict) else [(str(k), v)] for k, v in content.items()
    )
    return {key: x for key, x in chain.from_iterable(items) if isinstance(x, Tensor)}


def _convert_key(key: str) -> str:
    """This repository's key for a key of the g_ema layout. An unknown key is returned unchanged."""

    def layer_name(i: int) -> str:
        return "b4.conv1" if i == 0 else f"b{2 ** (3 + (i - 1) // 2)}.conv{(i - 1) % 2}"

    if key in ("latent_avg", "input.input"):
        return {"latent_avg": "mapping.w_avg", "input.input": "synthesis.b4.const"}[key]
    if match := re.fullmatch(r"style\.(\d+)\.(weight|bias)", key):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}"  # style.0 is the normalisation of z
    if match := re.fullmatch(r"noises\.noise_(\d+)", key):
        return f"synthesis.{layer_name(int(match[1]))}.noise_const"
    match = re.fullmatch(r"(conv1|to_rgb1|convs\.\d+|to_rgbs\.\d+)\.(.+)", key)
    if not match or match[2] not in LAYER_KEYS:
        return key
    module, _, number = match[1].partition(".")
    if module in ("conv1", "convs"):
        layer = layer_name(int(number) + 1 if number else 0)
    else:
        layer = f"b{2 ** (3 + int(number)) if number else 4}.torgb"
    return f"synthesis.{layer}.{LAYER_KEYS[match[2]]}"


def _check_filter(path: str | os.PathLike, key: str, kernel: Tensor) -> None:
    """ValueError unless this is [1, 3, 3, 1], at any scale: some layouts multiply it by the gain of upsampling."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = kernel.float().squeeze()
    kernel = kernel if kernel.ndim != 1 else kernel[:, None] * kernel
    if kernel.shape != (4, 4) or not torch.allclose(kernel / kernel.sum(), taps[:, None] * taps / 64, atol=1e-3):
        raise ValueError(f"{path} resamples with another filter than [1, 3, 3, 1]: see {key}")


def _infer_sizes(path: str | os.PathLike, tensors: dict[str, Tensor]) -> dict[str, int]:
    """The arguments of Generator, from the shapes of its weights."""

    def size(key: str, axis: int) -> int:
        if key not in tensors or tensors[key].ndim < -axis:
            raise ValueError(f"{path} lacks {key}, or it is no weight of a generator")
        return tensors[key].shape[axis]

    resolution = max(int(match[1]) for key in tensors if (match := re.match(r"synthesis\.b(\d+)\.", key)))
    last_channels = size(f"synthesis.b{resolution}.torgb.weight", -3)
    return {
        "resolution": resolution,
        "z_dim": size("mapping.fc0.weight", -1),
        "w_dim": size("mapping.fc0.weight", -2),
        "mapping_layers": sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", key)) for key in tensors),
        "channel_base": last_channels * resolution,
        "channel_max": size("synthesis.b4.const", -3),
        "img_channels": size(f"synthesis.b{resolution}.torgb.weight", -4),
    }


def _reshape(path: str | os.PathLike, key: str, x: Tensor, shape: torch.Size) -> Tensor:
    """A finite float32 copy of a tensor in this shape. Shapes may differ in axes of size 1 alone, else ValueError."""
    if [n for n in x.shape if n != 1] != [n for n in shape if n != 1]:
        raise ValueError(f"{path}: {key} has shape {tuple(x.shape)} instead of {tuple(shape)}")
    if not torch.isfinite(x).all():
        raise ValueError(f"{path}: {key} is not finite")
    return x.float().reshape(shape).clone()
