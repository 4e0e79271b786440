"""Published StyleGAN2 weights: both layouts, with random weights, against a plain float64 reference; refused files."""

import argparse
import math
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from stylegan2_reference import (
    FILTER,
    make_generator,
    normal,
    num_parameters,
    reference_leaky_relu,
    reference_modulated_conv2d,
    reference_upsample,
    small_generator,
)

from fwdiff_lite.problems.gan_inversion import stylegan2_weights
from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator, channels_per_resolution
from fwdiff_lite.problems.gan_inversion.stylegan2_weights import load_published_generator


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


def reference_layer(x, w, affine, bias, weight, noise, strength, layer_bias, up=False):
    style = affine @ w / math.sqrt(len(w)) + bias
    return reference_leaky_relu(
        reference_modulated_conv2d(x, weight, style, up=up) + strength * noise + layer_bias[:, None, None]
    )


def reference_to_rgb(x, w, affine, bias, weight, layer_bias):
    style = (affine @ w / math.sqrt(len(w)) + bias) / math.sqrt(len(x))
    return reference_modulated_conv2d(x, weight, style, demodulate=False) + layer_bias[:, None, None]


def ada_image(state, ws):
    """The image of styles (L, D), computed from a state dict of the ADA layout."""
    s = {key: x.double() for key, x in state.items()}

    def layer(x, w, name, up=False):
        parts = "affine.weight", "affine.bias", "weight", "noise_const", "noise_strength", "bias"
        return reference_layer(x, w, *(s[f"synthesis.{name}.{part}"] for part in parts), up=up)

    def to_rgb(x, w, r):
        parts = "affine.weight", "affine.bias", "weight", "bias"
        return reference_to_rgb(x, w, *(s[f"synthesis.b{r}.torgb.{part}"] for part in parts))

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


def save(folder, content, suffix):
    path = folder / f"generator.{suffix}"
    save_file(content, path) if suffix == "safetensors" else torch.save(content, path)
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_in_the_ada_layout(tmp_path, suffix):
    state = ada_state_dict()
    G = load_published_generator(save(tmp_path, state, suffix)).double()
    assert not G.training and all(w.requires_grad for w in G.parameters())
    assert {k: tuple(x.shape) for k, x in G.state_dict().items()} == {
        k: shape for k, shape in ada_shapes(16, 64, 8, 6, 5, 2).items() if "resample_filter" not in k
    }
    for key, x in G.state_dict().items():
        assert torch.equal(x, state[key].double()), key
    ws, z = normal(2, 6, 6), normal(3, 5)
    for image, w in zip(G.synthesis(ws), ws, strict=True):
        torch.testing.assert_close(image, ada_image(state, w), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        G.mapping(z), reference_mapping(state, z, lambda i: f"mapping.fc{i}"), rtol=1e-6, atol=1e-5
    )


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_in_the_g_ema_layout(tmp_path, suffix):
    state, mean = ema_state_dict(), normal(6, seed=9).float()
    nested = {"g_ema": state, "g": {key: x + 1 for key, x in state.items()}, "latent_avg": mean, "iteration": 3}
    flat = {f"g_ema.{key}": x for key, x in state.items()} | {"latent_avg": mean}
    G = load_published_generator(save(tmp_path, flat if suffix == "safetensors" else nested, suffix)).double()
    assert torch.equal(G.mapping.w_avg, mean.double())
    parameters = sum(x.numel() for key, x in state.items() if "kernel" not in key and "noises" not in key)
    assert num_parameters(G) == parameters, "all parameters are used"
    ws, z = normal(2, 6, 6), normal(3, 6)
    for image, w in zip(G.synthesis(ws), ws, strict=True):
        torch.testing.assert_close(image, ema_image(state, w), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        G.mapping(z), reference_mapping(state, z, lambda i: f"style.{i + 1}"), rtol=1e-6, atol=1e-5
    )
    flipped = state | {"convs.0.conv.weight": state["convs.0.conv.weight"].flip(3, 4)}
    assert not torch.allclose(G.synthesis(ws)[0], ema_image(flipped, ws[0]), atol=0.1), "control: a flipped kernel"


def test_without_latent_avg_the_mean_style_is_computed(tmp_path):
    path = save(tmp_path, ema_state_dict(), "pt")
    G = load_published_generator(path)
    w = G.mapping(torch.randn(10_000, 6, generator=make_generator(1)))
    error = (w.mean(0) - G.mapping.w_avg) / (w.std(0) * math.sqrt(2 / 10_000))
    assert error.abs().max() < 4 and w.mean(0).abs().max() > 0.05, "in standard errors; a mean of zero would not pass"
    assert torch.equal(G.mapping.w_avg, load_published_generator(path).mapping.w_avg)


@pytest.mark.parametrize("resolution, base", [(1024, 2**15), (256, 2**14)])
def test_published_generators_have_the_same_shapes(resolution, base):
    with torch.device("meta"):
        shapes = {k: tuple(x.shape) for k, x in Generator(resolution, channel_base=base).state_dict().items()}
    published = ada_shapes(resolution, base, 512, 512, 512, 8)
    assert shapes == {key: shape for key, shape in published.items() if "resample_filter" not in key}
    ema_layout = ema_shapes(resolution, base, 512, 512, 8)
    converted = {
        stylegan2_weights._convert_key(key): math.prod(shape)
        for key, shape in ema_layout.items()
        if "kernel" not in key
    }
    assert converted == {key: math.prod(shape) for key, shape in shapes.items() if key != "mapping.w_avg"}


def test_our_own_weights_in_half_precision_can_be_loaded(tmp_path):
    G = small_generator(8, img_channels=1, mapping_layers=2)
    torch.save({key: x.half() for key, x in G.state_dict().items()}, tmp_path / "half.pt")
    loaded = load_published_generator(tmp_path / "half.pt")
    assert all(x.dtype == torch.float32 for x in loaded.state_dict().values())
    z = normal(2, 5)
    torch.testing.assert_close(loaded(z.float()).double(), G(z), rtol=0.02, atol=0.05)


@pytest.mark.parametrize("resolution, channel_base, channel_max", [(8, 4096, 6), (16, 32, 8), (32, 128, 8)])
def test_sizes_are_inferred_from_the_weights(tmp_path, resolution, channel_base, channel_max):
    state = random_state_dict(ada_shapes(resolution, channel_base, channel_max, 6, 5, 1))
    G = load_published_generator(save(tmp_path, state, "safetensors"))
    assert G(torch.zeros(2, 5)).shape == (2, 3, resolution, resolution)
    widths = {r: len(getattr(G.synthesis, f"b{r}").conv1.bias) for r in G.synthesis.resolutions}
    assert widths == channels_per_resolution(resolution, channel_base, channel_max)


class CodeOnLoad:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def refusal_message(path) -> str:
    with pytest.raises(ValueError) as error:
        load_published_generator(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_that_would_run_code_are_refused_and_run_none(tmp_path):
    created_folder, path = tmp_path / "created_folder", tmp_path / "generator.pt"
    for save_unsafe in (
        lambda: torch.save(ada_state_dict() | {"more": CodeOnLoad(created_folder)}, path),
        lambda: torch.save(
            ada_state_dict() | {"more": CodeOnLoad(created_folder)}, path, _use_new_zipfile_serialization=False
        ),
        lambda: path.write_bytes(pickle.dumps(CodeOnLoad(created_folder), protocol=0)),
        lambda: path.write_bytes(pickle.dumps({"G_ema": CodeOnLoad(created_folder)})),
        lambda: torch.save({"g_ema": ema_state_dict(), "args": argparse.Namespace(size=16)}, path),
        lambda: torch.save(torch.nn.Linear(2, 2), path),
    ):
        save_unsafe()
        message = refusal_message(path)
        assert "was refused: loading it could run code" in message and "give a file that holds tensors alone" in message
        assert not created_folder.exists()
    assert "(torch.nn.modules.linear.Linear)" in message
    path.write_bytes(pickle.dumps(CodeOnLoad(created_folder)))
    pickle.loads(path.read_bytes())
    assert created_folder.exists(), "control: pickle runs the code"


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = save(tmp_path, ada_state_dict(), "pt")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    message = refusal_message(path)
    assert "cannot be read as tensors" in message and "check that the file is complete" in message
    path.write_bytes(b"")
    assert "cannot be read as tensors (EOFError)" in refusal_message(path)
    path.write_bytes(b"an image, maybe")
    assert "cannot be read as tensors" in refusal_message(path)
    safetensors_path = save(tmp_path, ada_state_dict(), "safetensors")
    safetensors_path.write_bytes(safetensors_path.read_bytes()[:-8])
    assert "cannot be read as tensors (SafetensorError)" in refusal_message(safetensors_path)
    assert "cannot be read as tensors (FileNotFoundError)" in refusal_message(tmp_path / "none.safetensors")
    torch.save([torch.zeros(1)], path)
    assert "holds a list: give a file that holds a dict of tensors" in refusal_message(path)
    torch.save({"layer.weight": torch.zeros(1), 3: torch.zeros(1)}, path)
    message = refusal_message(path)
    assert "is no StyleGAN2 generator: no synthesis.b4.const, no input.input, but 3, layer.weight" in message


def without(state, key):
    return {k: x for k, x in state.items() if k != key}


@pytest.mark.parametrize(
    "state, message",
    [
        (
            without(ada_state_dict(), "synthesis.b8.conv0.bias"),
            "lacks synthesis.b8.conv0.bias of a generator of 16 pixels",
        ),
        (without(ada_state_dict(), "mapping.fc0.weight"), "lacks mapping.fc0.weight"),
        (without(ema_state_dict(), "to_rgbs.1.conv.weight"), "lacks synthesis.b16.torgb.weight"),
        (ada_state_dict() | {"mapping.embed.weight": torch.zeros(6, 2)}, "this generator has no mapping.embed.weight"),
        (ema_state_dict() | {"convs.9.other": torch.zeros(2)}, "this generator has no convs.9.other"),
        (
            ada_state_dict() | {"synthesis.b8.skip.weight": torch.zeros(2)},
            "this generator has no synthesis.b8.skip.weight",
        ),
        (ada_state_dict() | {"synthesis.b8.conv0.resample_filter": torch.ones(4, 4) / 16}, "another filter than"),
        (ada_state_dict() | {"synthesis.b8.resample_filter": torch.ones(2, 2) / 4}, "see synthesis.b8.resample_filter"),
        (
            ada_state_dict() | {"synthesis.b8.conv1.bias": torch.zeros(9)},
            r"conv1.bias has shape \(9,\) instead of \(8,\)",
        ),
        (ada_state_dict() | {"synthesis.b8.conv1.bias": torch.full((8,), torch.nan)}, "b8.conv1.bias is not finite"),
    ],
)
def test_other_networks_are_refused(tmp_path, state, message):
    with pytest.raises(ValueError, match=message) as error:
        load_published_generator(save(tmp_path, state, "pt"))
    assert "\n" not in str(error.value)
