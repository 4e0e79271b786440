"""Published StyleGAN2 weights, converted to this repository's Generator."""

from __future__ import annotations

import math
import os
import re
import warnings
from typing import Any

import torch
from torch import Tensor

from fwdiff_lite.problems.gan_inversion.network_files import Attributes, printable, read_network_file
from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator

FIRST_TENSORS = ("synthesis.b4.const", "input.input")  # of either layout
# Names of the averaged generator in a checkpoint of several networks, then those of other generators.
NETWORK_NAMES = (
    "g_ema",
    "G_ema",
    "params_ema",
    "ema",
    "generator_ema",
    "",
    "state_dict",
    "generator",
    "params",
    "g",
    "G",
)
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
CONVERSION = (
    "keep the averaged generator alone: checkpoint = torch.load(FILE, map_location='cpu', weights_only=False); "
    "torch.save(checkpoint['g_ema'], 'generator.pt')"
)


def load_published_generator(path: str | os.PathLike, conv_clamp: float | None = None) -> Generator:
    """A published generator, on the CPU, in float32, in eval mode. Its sizes are inferred from its weights.

    Three kinds of files are read: state dicts, checkpoints of several networks, of which the averaged generator is
    taken, and the pickles (.pkl) of the StyleGAN2-ADA release. No code in a file is executed, see network_files.

    Two layouts of state dicts are supported. The first is that of the StyleGAN2-ADA release (synthesis.b4.const, ...);
    state dicts of this repository's Generator have it too. The second, the g_ema layout, has keys such as input.input
    and style.1.weight. It stores the mean of w as latent_avg, one for all layers or one for each, or not at all. Of
    several means, their mean is taken. Without a mean, the mean is computed from 10,000 latent codes of a fixed seed.

    conv_clamp: see Generator. A pickle states it. A state dict of the ADA layout does not: a warning says so, unless
        this argument is given.

    ValueError, in one line, if the file cannot be read, would run code, or holds an unsupported network: class labels,
    the architectures resnet and orig, other filters or activations.
    """
    file = read_network_file(path)
    prefix = _find_network(path, file.tensors)
    tensors = {key.removeprefix(prefix): x for key, x in file.tensors.items() if key.startswith(prefix)}
    for key, x in tensors.items():
        if x.is_nested or x.layout != torch.strided or x.is_quantized or x.is_meta:
            raise ValueError(f"{path}: {key} is sparse, quantised, nested or without numbers: give dense tensors")
    modules = {
        f"{name}.".removeprefix(prefix).removesuffix("."): attributes
        for name, attributes in file.attributes.items()
        if f"{name}.".startswith(prefix)
    }
    conv_clamp = _check_modules(path, modules, tensors, conv_clamp)
    if "input.input" in tensors:
        layers = {_convert_key(key): x for key, x in tensors.items() if key != "latent_avg"}
        tensors = layers | _latent_mean(path, prefix, file.tensors)
    elif not _states_conv_clamp(modules) and conv_clamp is None and any("resample_filter" in key for key in tensors):
        warnings.warn(
            f"{path} does not state conv_clamp, so activations are not clipped: give conv_clamp=256 (--conv-clamp 256) "
            "if the network was trained in half precision",
            stacklevel=2,
        )
    for key in [key for key in tensors if key.endswith("resample_filter")]:
        _check_filter(path, key, tensors.pop(key))
    return _build_generator(path, tensors, conv_clamp)


def _find_network(path: str | os.PathLike, tensors: dict[str, Tensor]) -> str:
    """The prefix of the keys of the generator, the averaged one if there are several."""
    prefixes = {key.removesuffix(first) for key in tensors for first in FIRST_TENSORS if key.endswith(first)}
    prefixes = sorted(prefix for prefix in prefixes if not prefix or prefix.endswith("."))
    if not prefixes:
        raise ValueError(f"{path} {_describe_other_network(tensors)}")

    def rank(prefix: str) -> int:
        names = [name for name in prefix.split(".") if name not in ("", "module", "state_dict", "decoder")]
        name = names[0] if names else ""
        return NETWORK_NAMES.index(name) if name in NETWORK_NAMES else len(NETWORK_NAMES)

    ranks = [rank(prefix) for prefix in prefixes]
    best = [prefix for prefix, r in zip(prefixes, ranks, strict=True) if r == min(ranks)]
    if len(best) > 1:
        raise ValueError(f"{path} holds {len(best)} generators ({printable(', '.join(best))}): {CONVERSION}")
    if best[0].strip(".").lower() == "g":
        warnings.warn(f"{path} holds no averaged generator (g_ema): the last one is used", stacklevel=3)
    return best[0]


def _describe_other_network(tensors: dict[str, Tensor]) -> str:
    """Why these tensors are no generator of StyleGAN2."""
    if any(re.search(r"synthesis\.(input\.freqs|L0_)", key) for key in tensors):
        return "holds a StyleGAN3 generator: only StyleGAN2 is supported"
    if any(re.search(r"(epilogue|style_modulation|g_synthesis\.blocks)\.", key) for key in tensors):
        return "holds a StyleGAN generator of the first version: only StyleGAN2 is supported"
    if any(re.search(r"(^|\.)(b4\.out\.weight|final_linear\.1\.weight)$", key) for key in tensors):
        return "holds a discriminator and no generator: give the file of the generator"
    examples = ", ".join(sorted(tensors)[:3]) or "no tensor"
    return f"is no StyleGAN2 generator: no synthesis.b4.const, no input.input, but {examples}"


def _latent_mean(path: str | os.PathLike, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of w beside a generator of the g_ema layout, or nothing. It stands beside the network, or in it."""
    parts = prefix.split(".")[:-1]
    for n in range(len(parts), -1, -1):
        key = ".".join([*parts[:n], "latent_avg"])
        if key in tensors:
            mean = _to_float32(path, key, tensors[key])
            if mean.ndim not in (1, 2) or not mean.numel():
                raise ValueError(f"{path}: {key} has shape {tuple(mean.shape)} instead of (D,) or (L, D)")
            return {"mapping.w_avg": mean.reshape(-1, mean.shape[-1]).mean(0)}
    return {}


def _check_modules(
    path: str | os.PathLike, modules: dict[str, Attributes], tensors: dict[str, Tensor], conv_clamp: float | None
) -> float | None:
    """conv_clamp of a pickled network. ValueError where a module does what this Generator does not."""
    clamps = set()
    for name, module in modules.items():
        if module.get("c_dim"):
            raise ValueError(f"{path} {_class_conditional(module['c_dim'])}")
        if module.get("architecture", "skip") != "skip":
            raise ValueError(f"{path} has the architecture {_show(module['architecture'])}: only skip is supported")
        wanted = "linear" if name.endswith(".affine") else "lrelu"
        if (activation := module.get("activation", wanted)) != wanted:
            raise ValueError(f"{path} has the activation {_show(activation)} in {name}: only {wanted} is supported")
        if module.get("use_noise") is False:
            raise ValueError(f"{path} has no noise in {name}: only generators with noise are supported")
        if "conv_clamp" in module:
            clamps.add(_check_number(path, name, "conv_clamp", module["conv_clamp"], optional=True))
        weight = tensors.get(f"{name}.weight")
        if re.fullmatch(r"mapping\.fc\d+", name) and "weight_gain" in module and weight is not None and weight.ndim:
            gain = _check_number(path, name, "weight_gain", module["weight_gain"])
            if not math.isclose(multiplier := gain * math.sqrt(weight.shape[-1]), 0.01, rel_tol=1e-3):
                raise ValueError(f"{path} has a mapping of learning rate multiplier {multiplier:.3g}: wanted 0.01")
    if len(clamps) > 1:
        raise ValueError(f"{path} clips the activations of its layers at different values: {sorted(map(str, clamps))}")
    if clamps and conv_clamp is not None and clamps != {conv_clamp}:
        raise ValueError(f"{path} states conv_clamp {clamps.pop()}, not {conv_clamp}: leave the argument out")
    return clamps.pop() if clamps else conv_clamp


def _states_conv_clamp(modules: dict[str, Attributes]) -> bool:
    """Whether a pickled network says where activations are clipped."""
    return any("conv_clamp" in module for module in modules.values())


def _check_number(path: str | os.PathLike, name: str, key: str, value: Any, optional: bool = False) -> float | None:
    """A positive number that a module states; None if `optional`. ValueError if it is anything else."""
    if value is None and optional:
        return None
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{path} has {key} {printable(repr(value))} in {name}: wanted a number above 0")
    return value


def _show(value: Any) -> str:
    return printable(str(value))


def _class_conditional(labels: Any) -> str:
    return f"is class-conditional ({_show(labels)} labels): only generators without labels are supported"


def _build_generator(path: str | os.PathLike, tensors: dict[str, Tensor], conv_clamp: float | None) -> Generator:
    """The generator with these weights, in the names of this repository's Generator."""
    if "mapping.embed.weight" in tensors:
        raise ValueError(f"{path} {_class_conditional(tensors['mapping.embed.weight'].shape[-1])}")
    if any(re.fullmatch(r"synthesis\.b\d+\.skip\.weight", key) for key in tensors):
        raise ValueError(f"{path} has the architecture resnet: only skip is supported")
    if "synthesis.b4.torgb.weight" not in tensors and any(key.endswith("torgb.weight") for key in tensors):
        raise ValueError(f"{path} has no torgb at 4 pixels, so its architecture is orig, or it is damaged: wanted skip")
    sizes = _infer_sizes(path, tensors)
    try:
        with torch.device("meta"):  # allocates no memory: the weights may not fit
            G = Generator(**sizes, conv_clamp=conv_clamp)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
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


def _convert_key(key: str) -> str:
    """This repository's key for a key of the g_ema layout. An unknown key is returned unchanged."""

    def layer_name(i: int) -> str:
        return "b4.conv1" if i == 0 else f"b{2 ** (3 + (i - 1) // 2)}.conv{(i - 1) % 2}"

    if key == "input.input":
        return "synthesis.b4.const"
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
    kernel = _to_float32(path, key, kernel).squeeze()
    kernel = kernel if kernel.ndim != 1 else kernel[:, None] * kernel
    if kernel.shape != (4, 4) or not torch.allclose(kernel / kernel.sum(), taps[:, None] * taps / 64, atol=1e-3):
        raise ValueError(f"{path} resamples with another filter than [1, 3, 3, 1]: see {key}")


def _infer_sizes(path: str | os.PathLike, tensors: dict[str, Tensor]) -> dict[str, int]:
    """The arguments of Generator, from the shapes of its weights."""

    def size(key: str, axis: int) -> int:
        if key not in tensors or tensors[key].ndim < -axis:
            raise ValueError(f"{path} lacks {key}, or it is no weight of a generator")
        return tensors[key].shape[axis]

    resolution = max(int(match[1]) for key in tensors if (match := re.match(r"synthesis\.b(\d{1,4})\.", key)))
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
    return _to_float32(path, key, x).reshape(shape).clone()


def _to_float32(path: str | os.PathLike, key: str, x: Tensor) -> Tensor:
    """A tensor in float32. ValueError if it holds other numbers, or numbers that float32 cannot hold."""
    if not x.is_floating_point():
        raise ValueError(f"{path}: {key} holds {str(x.dtype).removeprefix('torch.')}: wanted floating-point numbers")
    x = x.float()
    if not torch.isfinite(x).all():
        raise ValueError(f"{path}: {key} is not finite in float32")
    return x
