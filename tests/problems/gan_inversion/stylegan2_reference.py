"""A plain float64 reference of StyleGAN2's layers: sums over filter taps, as the equations state them.

Also state dicts with random weights in the layouts of two releases, their images by the reference, and pickles.
"""

import math
import pickle
import re
import sys
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch.nn import functional as F

from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
FILTER = TAPS[:, None] * TAPS / 64


def make_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=make_generator(seed), dtype=torch.float64)


def num_parameters(network: torch.nn.Module) -> int:
    return sum(w.numel() for w in network.parameters())


def correlate(x, weight):
    """Cross-correlation of (i, h, w) with (o, i, k, l), without padding."""
    k, m = weight.shape[2:]
    h, w = x.shape[1] - k + 1, x.shape[2] - m + 1
    return sum(
        torch.einsum("oi,ihw->ohw", weight[:, :, a, b], x[:, a : a + h, b : b + w]) for a in range(k) for b in range(m)
    )


def reference_blur(x, pad_before, pad_after, gain=1.0):
    """(c, h, w), zero-padded, filtered with the outer product of [1, 3, 3, 1]."""
    x = F.pad(x, (pad_before, pad_after, pad_before, pad_after))
    return torch.stack([correlate(channel[None], gain * FILTER[None, None])[0] for channel in x])


def insert_zeros(x):
    """(c, h, w) -> (c, 2 h, 2 w): zeros right of and below every pixel."""
    y = x.new_zeros(x.shape[0], 2 * x.shape[1], 2 * x.shape[2])
    y[:, ::2, ::2] = x
    return y


def reference_upsample(x):
    return reference_blur(insert_zeros(x), 2, 1, 4.0)


def reference_downsample(x):
    return reference_blur(x, 1, 1)[:, ::2, ::2]


def reference_up_conv2d(x, weight):
    """A transposed convolution of stride 2: each pixel adds its kernel at twice its position. Then the filter."""
    o, _, k, _ = weight.shape
    h, w = x.shape[1:]
    y = x.new_zeros(o, 2 * h + 1, 2 * w + 1)
    for a in range(k):
        for b in range(k):
            y[:, a : a + 2 * h : 2, b : b + 2 * w : 2] += torch.einsum("oi,ihw->ohw", weight[:, :, a, b], x)
    return reference_blur(y, 1, 1, 4.0)


def reference_modulated_conv2d(x, weight, style, demodulate=True, up=False):
    """One example, with its own modulated weights (SG2, Eq. 1 to 3)."""
    weight = weight * style[None, :, None, None]
    if demodulate:
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if up:
        return reference_up_conv2d(x, weight)
    return correlate(F.pad(x, (weight.shape[-1] // 2,) * 4), weight)


def reference_leaky_relu(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def small_generator(resolution: int = 16, seed: int = 0, **sizes) -> Generator:
    """A small generator with random biases, noise strengths and w_avg, so that every parameter changes the image."""
    torch.manual_seed(seed)
    sizes = {"z_dim": 5, "w_dim": 6, "mapping_layers": 3, "channel_base": 64, "channel_max": 8} | sizes
    G = Generator(resolution, **sizes).double()
    for name, w in G.named_parameters():
        if w.ndim < 2:
            torch.nn.init.normal_(w, float("affine" in name), 0.5)
    torch.nn.init.normal_(G.mapping.w_avg)
    return G


def ada_shapes(
    resolution: int, channel_base: int, channel_max: int, w_dim: int, z_dim: int, num_layers: int
) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a generator in the StyleGAN2-ADA release."""
    shapes = {"mapping.w_avg": (w_dim,)}
    for i in range(num_layers):
        shapes |= {f"mapping.fc{i}.weight": (w_dim, w_dim if i else z_dim), f"mapping.fc{i}.bias": (w_dim,)}
    previous, r = 0, 4
    while r <= resolution:
        c, block = min(channel_base // r, channel_max), f"synthesis.b{r}"
        shapes[f"{block}.resample_filter"] = (4, 4)
        if r == 4:
            shapes[f"{block}.const"] = (c, 4, 4)
        for name, i in (("conv0", previous), ("conv1", c))[r == 4 :]:
            shapes |= {
                f"{block}.{name}.affine.weight": (i, w_dim),
                f"{block}.{name}.affine.bias": (i,),
                f"{block}.{name}.weight": (c, i, 3, 3),
                f"{block}.{name}.bias": (c,),
                f"{block}.{name}.noise_const": (r, r),
                f"{block}.{name}.noise_strength": (),
                f"{block}.{name}.resample_filter": (4, 4),
            }
        shapes |= {
            f"{block}.torgb.affine.weight": (c, w_dim),
            f"{block}.torgb.affine.bias": (c,),
            f"{block}.torgb.weight": (3, c, 1, 1),
            f"{block}.torgb.bias": (3,),
        }
        previous, r = c, 2 * r
    return shapes


def ema_shapes(
    resolution: int, channel_base: int, channel_max: int, w_dim: int, num_layers: int
) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a generator in the g_ema layout."""
    c = {r: min(channel_base // r, channel_max) for r in (2**i for i in range(2, 11))}
    shapes = {"input.input": (1, c[4], 4, 4)}
    for i in range(1, num_layers + 1):
        shapes |= {f"style.{i}.weight": (w_dim, w_dim), f"style.{i}.bias": (w_dim,)}

    def convolution(name, i, o, up):
        return {
            f"{name}.conv.weight": (1, o, i, 3, 3),
            f"{name}.conv.modulation.weight": (i, w_dim),
            f"{name}.conv.modulation.bias": (i,),
            f"{name}.noise.weight": (1,),
            f"{name}.activate.bias": (o,),
        } | ({f"{name}.conv.blur.kernel": (4, 4)} if up else {})

    def to_rgb(name, i, up):
        return {
            f"{name}.conv.weight": (1, 3, i, 1, 1),
            f"{name}.conv.modulation.weight": (i, w_dim),
            f"{name}.conv.modulation.bias": (i,),
            f"{name}.bias": (1, 3, 1, 1),
        } | ({f"{name}.upsample.kernel": (4, 4)} if up else {})

    shapes |= convolution("conv1", c[4], c[4], False) | to_rgb("to_rgb1", c[4], False)
    shapes["noises.noise_0"] = (1, 1, 4, 4)
    for k in range(int(math.log2(resolution)) - 2):
        r = 2 ** (k + 3)
        shapes |= convolution(f"convs.{2 * k}", c[r // 2], c[r], True)
        shapes |= convolution(f"convs.{2 * k + 1}", c[r], c[r], False)
        shapes |= to_rgb(f"to_rgbs.{k}", c[r], True)
        shapes |= {f"noises.noise_{2 * k + 1 + j}": (1, 1, r, r) for j in (0, 1)}
    return shapes


def random_state_dict(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Random tensors, but for the filters, which are constant; the g_ema layout multiplies them by the gain."""
    generator = make_generator(3)
    state = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    for key in state:
        if key.endswith(("resample_filter", "kernel")):
            state[key] = FILTER.float() * (4 if key.endswith("kernel") else 1)
        if key.startswith(("mapping.fc", "style.")):
            state[key] *= 100
    return state


def ada_state_dict(resolution=16):
    return random_state_dict(ada_shapes(resolution, 64, 8, 6, 5, 2))


def ema_state_dict(resolution=16):
    return random_state_dict(ema_shapes(resolution, 64, 8, 6, 2))


def reference_layer(x, w, affine, bias, weight, noise, strength, layer_bias, up=False, clamp=math.inf):
    style = affine @ w / math.sqrt(len(w)) + bias
    return reference_leaky_relu(
        reference_modulated_conv2d(x, weight, style, up=up) + strength * noise + layer_bias[:, None, None]
    ).clip(-clamp, clamp)


def reference_to_rgb(x, w, affine, bias, weight, layer_bias, clamp=math.inf):
    style = (affine @ w / math.sqrt(len(w)) + bias) / math.sqrt(len(x))
    return (reference_modulated_conv2d(x, weight, style, demodulate=False) + layer_bias[:, None, None]).clip(
        -clamp, clamp
    )


def ada_image(state, ws, clamp=math.inf):
    """The image of styles (L, D), computed from a state dict of the ADA layout. Activations are clipped at clamp."""
    s = {key: x.double() for key, x in state.items()}

    def layer(x, w, name, up=False):
        parts = "affine.weight", "affine.bias", "weight", "noise_const", "noise_strength", "bias"
        return reference_layer(x, w, *(s[f"synthesis.{name}.{part}"] for part in parts), up=up, clamp=clamp)

    def to_rgb(x, w, r):
        parts = "affine.weight", "affine.bias", "weight", "bias"
        return reference_to_rgb(x, w, *(s[f"synthesis.b{r}.torgb.{part}"] for part in parts), clamp=clamp)

    x = layer(s["synthesis.b4.const"], ws[0], "b4.conv1")
    image, k, r = to_rgb(x, ws[1], 4), 1, 8
    while f"synthesis.b{r}.torgb.bias" in s:
        x = layer(x, ws[k], f"b{r}.conv0", up=True)
        x = layer(x, ws[k + 1], f"b{r}.conv1")
        image = reference_upsample(image) + to_rgb(x, ws[k + 2], r)
        k, r = k + 2, 2 * r
    return image


def ema_image(state, ws):
    """The image of styles (L, D), computed from a state dict of the g_ema layout."""
    s = {key: x.double() for key, x in state.items()}

    def layer(x, w, name, number, up=False):
        parts = "conv.modulation.weight", "conv.modulation.bias"
        affine, bias = (s[f"{name}.{part}"] for part in parts)
        weight, noise = s[f"{name}.conv.weight"][0], s[f"noises.noise_{number}"][0, 0]
        return reference_layer(
            x, w, affine, bias, weight, noise, s[f"{name}.noise.weight"], s[f"{name}.activate.bias"], up
        )

    def to_rgb(x, w, name):
        affine, bias = s[f"{name}.conv.modulation.weight"], s[f"{name}.conv.modulation.bias"]
        return reference_to_rgb(x, w, affine, bias, s[f"{name}.conv.weight"][0], s[f"{name}.bias"].flatten())

    x = layer(s["input.input"][0], ws[0], "conv1", 0)
    image, k = to_rgb(x, ws[1], "to_rgb1"), 0
    while f"to_rgbs.{k}.bias" in s:
        x = layer(x, ws[2 * k + 1], f"convs.{2 * k}", 2 * k + 1, up=True)
        x = layer(x, ws[2 * k + 2], f"convs.{2 * k + 1}", 2 * k + 2)
        image = reference_upsample(image) + to_rgb(x, ws[2 * k + 3], f"to_rgbs.{k}")
        k += 1
    return image


def reference_mapping(state, z, layer_name):
    """The mapping network of either layout. layer_name: a function from i to the name of the i-th layer."""
    x, i = z / z.square().mean(1, keepdim=True).sqrt(), 0
    while f"{layer_name(i)}.weight" in state:
        weight, bias = (state[f"{layer_name(i)}.{part}"].double() for part in ("weight", "bias"))
        x, i = reference_leaky_relu(x @ (weight * 0.01 / math.sqrt(x.shape[1])).T + 0.01 * bias), i + 1
    return x


# --- pickles as the StyleGAN2-ADA release writes them -------------------------------------------------------


class PersistentModule:
    """A module whose pickle calls torch_utils.persistence._reconstruct_persistent_obj(meta)."""

    def __init__(self, class_name: str, state: dict):
        self.class_name, self.state = class_name, state

    def __reduce__(self):
        source = "raise SystemExit('this source code must not run')"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": self.class_name, "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def ada_class_name(name: str) -> str:
    """The class of a module, by its name."""
    patterns = {
        r"": "Generator",
        r"mapping": "MappingNetwork",
        r"synthesis": "SynthesisNetwork",
        r"synthesis\.b\d+": "SynthesisBlock",
        r".*\.conv\d": "SynthesisLayer",
        r".*\.torgb": "ToRGBLayer",
        r".*\.(fc\d+|affine)": "FullyConnectedLayer",
    }
    return next(class_name for pattern, class_name in patterns.items() if re.fullmatch(pattern, name))


def persistent_generator(state: dict, conv_clamp: float | None, attributes: dict[str, dict]) -> PersistentModule:
    """The modules of a state dict of the ADA layout, with the attributes that the release's classes have."""

    def build(name: str) -> PersistentModule:
        prefix = f"{name}." if name else ""
        own = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
        tensors = {key: x for key, x in own.items() if "." not in key}
        buffers = {k: x for k, x in tensors.items() if k in ("w_avg", "noise_const", "resample_filter")}
        names = dict.fromkeys(key.split(".")[0] for key in own if "." in key)
        class_name = ada_class_name(name)
        content = {
            "training": False,
            "_parameters": OrderedDict((k, torch.nn.Parameter(x)) for k, x in tensors.items() if k not in buffers),
            "_buffers": OrderedDict(buffers),
            "_non_persistent_buffers_set": set(),
            "_backward_hooks": OrderedDict(),
            "_modules": OrderedDict((k, build(f"{prefix}{k}")) for k in names),
        }
        if class_name in ("SynthesisLayer", "ToRGBLayer"):
            content["conv_clamp"] = conv_clamp
        if class_name == "SynthesisLayer":
            content |= {"use_noise": True, "activation": "lrelu", "padding": 1, "act_gain": np.sqrt(2)}
        if class_name == "SynthesisBlock":
            content["architecture"] = "skip"
        if class_name == "MappingNetwork":
            content |= {"c_dim": 0, "num_layers": len(names), "w_avg_beta": 0.995}
        if class_name == "SynthesisNetwork":
            content["block_resolutions"] = [int(k[1:]) for k in names]
        if class_name == "FullyConnectedLayer":
            multiplier = 0.01 if "mapping" in name else 1
            content["activation"] = "lrelu" if "mapping" in name else "linear"
            content["weight_gain"] = multiplier / np.sqrt(tensors["weight"].shape[1])  # a number of NumPy
        if class_name == "Generator":
            content["_init_kwargs"] = sys.modules["dnnlib.util"].EasyDict(synthesis_kwargs={"conv_clamp": conv_clamp})
        return PersistentModule(class_name, content | attributes.get(name, {}))

    return build("")


@contextmanager
def ada_modules():
    """Stand-ins for the two modules whose names stand in such pickles."""
    persistence, util = ModuleType("torch_utils.persistence"), ModuleType("dnnlib.util")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("a pickle's code was called")

    class EasyDict(dict):
        pass

    for function, module in ((_reconstruct_persistent_obj, persistence), (EasyDict, util)):
        function.__module__, function.__qualname__ = module.__name__, function.__name__
        setattr(module, function.__name__, function)
    added = {"torch_utils": ModuleType("torch_utils"), "dnnlib": ModuleType("dnnlib")}
    added |= {"torch_utils.persistence": persistence, "dnnlib.util": util}
    added["torch_utils"].persistence, added["dnnlib"].util = persistence, util
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def write_ada_pickle(path, state: dict, conv_clamp=None, attributes=None, protocol=4, **more) -> None:
    """A pickle of several networks, of which G_ema has these weights. `more`: more entries of its dict."""
    with ada_modules():
        networks = {
            "G": persistent_generator({key: x + 1 for key, x in state.items()}, conv_clamp, {}),
            "D": PersistentModule("Discriminator", {"_parameters": {}, "_buffers": {}, "_modules": {}}),
            "G_ema": persistent_generator(state, conv_clamp, attributes or {}),
            "training_set_kwargs": sys.modules["dnnlib.util"].EasyDict(path="faces.zip", resolution=16),
            "augment_pipe": None,
        }
        Path(path).write_bytes(pickle.dumps(networks | more, protocol=protocol))
