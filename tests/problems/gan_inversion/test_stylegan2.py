"""StyleGAN2, each piece beside a plain float64 reference; published layouts; how the two networks are trained."""

import argparse
import math
import os
import pickle
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from fwdiff_lite.problems.gan_inversion import stylegan2
from fwdiff_lite.problems.gan_inversion.stylegan2 import (
    SMALL,
    Convolution,
    Dense,
    Discriminator,
    Generator,
    blur,
    channels,
    downsample,
    leaky,
    mix,
    modulated_convolution,
    truncate,
    upsample,
    with_deviation,
)
from fwdiff_lite.problems.gan_inversion.stylegan2_training import (
    STRONGEST,
    Adversaries,
    adapted,
    augment,
    average_into,
    discriminator_loss,
    generator_loss,
    lazy_adam,
    path_lengths,
    r1_penalty,
)
from fwdiff_lite.problems.gan_inversion.stylegan2_weights import load_official

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
FILTER = TAPS[:, None] * TAPS / 64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def count(network: torch.nn.Module) -> int:
    return sum(w.numel() for w in network.parameters())


# --- references: sums over taps, as the equations say ---------------------------------------------------------


def correlate(x, weight):
    """(i, h, w) with (o, i, k, l), no padding."""
    k, m = weight.shape[2:]
    h, w = x.shape[1] - k + 1, x.shape[2] - m + 1
    return sum(
        torch.einsum("oi,ihw->ohw", weight[:, :, a, b], x[:, a : a + h, b : b + w]) for a in range(k) for b in range(m)
    )


def filtered(x, before, after, gain=1.0):
    """(c, h, w) with the outer product of [1, 3, 3, 1], between so many zeros."""
    x = F.pad(x, (before, after, before, after))
    return torch.stack([correlate(plane[None], gain * FILTER[None, None])[0] for plane in x])


def with_zeros(x):
    """(c, h, w) -> (c, 2 h, 2 w): zeros behind every pixel."""
    y = x.new_zeros(x.shape[0], 2 * x.shape[1], 2 * x.shape[2])
    y[:, ::2, ::2] = x
    return y


def doubled(x):
    return filtered(with_zeros(x), 2, 1, 4.0)


def halved(x):
    return filtered(x, 1, 1)[:, ::2, ::2]


def enlarging(x, weight):
    """Every pixel paints its kernel at twice its place, then the filter: an up-convolution."""
    o, _, k, _ = weight.shape
    h, w = x.shape[1:]
    y = x.new_zeros(o, 2 * h + 1, 2 * w + 1)
    for i in range(h):
        for j in range(w):
            y[:, 2 * i : 2 * i + k, 2 * j : 2 * j + k] += torch.einsum("oikl,i->okl", weight, x[:, i, j])
    return filtered(y, 1, 1, 4.0)


def styled(x, weight, style, demodulate=True, up=False):
    """One example with weights of its own (SG2, Eq. 1 to 3)."""
    weight = weight * style[None, :, None, None]
    if demodulate:
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if up:
        return enlarging(x, weight)
    return correlate(F.pad(x, (weight.shape[-1] // 2,) * 4), weight)


def rectified(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


# --- resampling and convolutions ----------------------------------------------------------------------------------


def test_resampling_is_zero_insertion_filter_and_decimation():
    x = normal(2, 3, 4, 6)
    for ours, direct in ((upsample, doubled), (downsample, halved), (lambda x: blur(x, 2, 3.0), None)):
        wanted = torch.stack([direct(one) if direct else filtered(one, 2, 2, 3.0) for one in x])
        torch.testing.assert_close(ours(x), wanted)
    shifted = torch.stack([filtered(with_zeros(one), 1, 2, 4.0) for one in x])
    assert not torch.allclose(upsample(x), shifted, atol=0.1), "the control: half a pixel beside"


def test_resampling_keeps_the_brightness_inside():
    flat = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    assert torch.allclose(upsample(flat)[..., 1:-1, 1:-1], torch.ones(()).double())
    assert torch.allclose(downsample(flat)[..., 1:-1, 1:-1], torch.ones(()).double())


@pytest.mark.parametrize("function", [upsample, downsample, lambda x: blur(x, 1, 4.0)])
def test_gradients_of_resampling(function):
    x = normal(1, 2, 4, 4).requires_grad_()
    assert gradcheck(function, x) and gradgradcheck(function, x)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_is_each_examples_own(up, demodulate):
    x, weight, styles = normal(3, 4, 5, 5), normal(6, 4, 3, 3, seed=1), normal(3, 4, seed=2)
    ours = modulated_convolution(x, weight, styles, demodulate, up)
    wanted = torch.stack([styled(a, weight, s, demodulate, up) for a, s in zip(x, styles, strict=True)])
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)
    assert ours.shape == (3, 6, 10, 10) if up else (3, 6, 5, 5)
    for wrong in (
        modulated_convolution(x, weight.flip(2, 3), styles, demodulate, up),
        modulated_convolution(x, weight, styles.flip(0), demodulate, up),
        modulated_convolution(x, weight, styles, not demodulate, up),
    ):
        assert not torch.allclose(wrong, wanted, atol=0.1), "controls: a flipped kernel, others' styles, no norm"


@pytest.mark.parametrize("up", [False, True])
def test_gradients_of_a_modulated_convolution(up):
    inputs = [normal(2, 2, 3, 3), normal(2, 2, 3, 3, seed=1), normal(2, 2, seed=2)]
    inputs = [x.requires_grad_() for x in inputs]

    def convolution(*given):
        return modulated_convolution(*given, up=up)

    assert gradcheck(convolution, inputs) and gradgradcheck(convolution, inputs)


def test_demodulation_cancels_any_scale_of_the_styles():
    x, weight, styles = normal(2, 4, 5, 5), normal(3, 4, 3, 3, seed=1), normal(2, 4, seed=2)
    once, thrice = (modulated_convolution(x, weight, k * styles) for k in (1, 3))
    torch.testing.assert_close(once, thrice, rtol=1e-6, atol=1e-8)
    once, thrice = (modulated_convolution(x, weight, k * styles, demodulate=False) for k in (1, 3))
    torch.testing.assert_close(3 * once, thrice)


def test_an_equalised_convolution_halves_after_the_filter():
    x = normal(2, 3, 6, 6)
    for kernel, bias in ((1, False), (3, True)):
        layer = Convolution(3, 4, kernel, bias, down=True).double()
        weight = layer.weight / math.sqrt(3 * kernel**2)
        if bias:
            torch.nn.init.normal_(layer.bias)
        if kernel == 1:
            wanted = torch.stack([correlate(halved(one), weight) for one in x])
        else:
            wanted = torch.stack([correlate(filtered(one, 2, 2), weight)[:, ::2, ::2] for one in x])
        torch.testing.assert_close(layer(x), wanted + (layer.bias[:, None, None] if bias else 0))


def test_equalised_layers_keep_unit_variance_whatever_their_size():
    torch.manual_seed(0)
    for layer, x in (
        (Dense(512, 256), torch.randn(256, 512)),
        (Dense(512, 256, rate=0.01), torch.randn(256, 512)),
        (Convolution(64, 64, 3), torch.randn(4, 64, 16, 16)),
    ):
        assert 0.9 < layer(x).std() < 1.1
        assert layer.weight.detach().std() == pytest.approx(1 / getattr(layer, "rate", 1), rel=0.05), (
            "stored at Adam's scale"
        )


def test_leaky_keeps_the_second_moment():
    x = torch.randn(100_000, generator=seeded(), dtype=torch.float64)
    assert leaky(x).square().mean() == pytest.approx(1.04, rel=0.02)  # (1 + 0.2^2) / 2 times 2
    torch.testing.assert_close(leaky(x), rectified(x))


def test_the_deviation_within_groups():
    x = normal(8, 3, 2, 2)
    ours = with_deviation(x, 4)
    assert ours.shape == (8, 4, 2, 2) and torch.equal(ours[:, :3], x)
    for i in range(8):
        group = x[[j for j in range(8) if j % 2 == i % 2]]
        wanted = (((group - group.mean(0)) ** 2).mean(0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(ours[i, 3], wanted.expand(2, 2))
    assert not torch.allclose(ours[0, 3], ours[1, 3]), "the control: groups differ"
    torch.testing.assert_close(with_deviation(x[:3])[:, 3], with_deviation(x[:3], 3)[:, 3])
    assert with_deviation(x[:1].expand(4, -1, -1, -1))[:, 3].max() < 1e-3, "of copies, none"


# --- the generator --------------------------------------------------------------------------------------------


def tiny(resolution: int = 16, seed: int = 0, **sizes) -> Generator:
    """A small generator whose every parameter matters, noise strengths and w_avg included."""
    torch.manual_seed(seed)
    sizes = {"z_dim": 5, "w_dim": 6, "mapping_layers": 3, "channel_base": 64, "channel_max": 8} | sizes
    G = Generator(resolution, **sizes).double()
    for name, w in G.named_parameters():
        if w.ndim < 2:
            torch.nn.init.normal_(w, float("affine" in name), 0.5)
    torch.nn.init.normal_(G.mapping.w_avg)
    return G


def test_mapping_is_eight_plain_layers():
    mapping = tiny(mapping_layers=8).mapping
    z = normal(4, 5)
    x = z / z.square().mean(1, keepdim=True).sqrt()
    for i in range(8):
        layer = getattr(mapping, f"fc{i}")
        x = rectified(x @ (layer.weight * 0.01 / math.sqrt(x.shape[1])).T + 0.01 * layer.bias)
    torch.testing.assert_close(mapping(z), x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mapping(7 * z), mapping(z), rtol=1e-6, atol=1e-6)
    assert mapping(z).std(0).min() > 1e-3, "the control: z matters"


def test_the_mean_style_is_tracked():
    mapping, w = tiny().mapping, normal(8, 6)
    wanted = 0.9 * mapping.w_avg + 0.1 * w.mean(0)
    mapping.track(w, 0.9)
    torch.testing.assert_close(mapping.w_avg, wanted)


def test_truncation_leads_to_the_mean():
    G, z = tiny(), normal(3, 5)
    mean = G.synthesis(G.mapping.w_avg[None])
    torch.testing.assert_close(G(z, 0.0), mean.expand(3, -1, -1, -1))
    torch.testing.assert_close(G(z, 1.0), G.synthesis(G.mapping(z)))
    assert not torch.allclose(G(z), mean, atol=0.1)
    w = G.mapping(z)
    torch.testing.assert_close(truncate(w, G.mapping.w_avg, 0.25), 0.75 * G.mapping.w_avg + 0.25 * w)
    torch.testing.assert_close(G(z, 0.25), G.synthesis(0.75 * G.mapping.w_avg + 0.25 * w))


def test_one_style_for_all_layers_is_a_case_of_one_for_each():
    G, w = tiny().synthesis, normal(2, 6)
    every = w[:, None].repeat(1, 6, 1)
    assert G.layers == 6 and torch.equal(G(w), G(every))
    for layer in range(6):
        other = every.clone()
        other[:, layer] += 1
        assert not torch.allclose(G(other), G(w), atol=1e-3), f"layer {layer} has a say"


def test_styles_are_mixed_from_a_layer_on():
    w, other = normal(3, 2), normal(3, 2, seed=1)
    ws = mix(w, other, torch.tensor([1, 3, 4]), 4)
    origin = (ws == w[:, None]).all(-1)
    assert origin.tolist() == [[True, False, False, False], [True, True, True, False], [True] * 4]
    assert torch.equal(ws[~origin], torch.stack([other[0], other[0], other[0], other[1]]))


def test_noise_is_fixed_unless_it_is_given():
    G, w = tiny().synthesis, normal(2, 6)
    assert torch.equal(G(w), G(w))
    layers = [block for b in G.children() for block in (getattr(b, "conv0", None), b.conv1) if block is not None]
    assert torch.equal(G(w, [layer.noise_const for layer in layers]), G(w))
    noise = [x.double() for x in G.draw_noise(2, seeded())]
    assert [tuple(x.shape) for x in noise] == [(2, 1, r, r) for r in (4, 8, 8, 16, 16)]
    assert not torch.allclose(G(w, noise), G(w), atol=0.1)
    for i, layer in enumerate(layers):
        changed = [x.noise_const for x in layers]
        changed[i] = changed[i] + 1
        assert not torch.allclose(G(w, changed), G(w), atol=1e-4), f"map {i} has a say"
        torch.nn.init.zeros_(layer.noise_strength)
    assert torch.equal(G(w, noise), G(w)), "the control: of strength zero"


def test_images_differentiate_in_their_styles():
    G = tiny(8, channel_max=3).synthesis.requires_grad_(False)
    w = normal(1, 6).requires_grad_()
    assert gradcheck(G, w)
    assert gradcheck(G, w.detach()[:, None].repeat(1, 4, 1).requires_grad_())


def test_an_untrained_generator_passes_its_styles_and_adds_no_noise():
    torch.manual_seed(0)
    G = Generator(16, w_dim=32, z_dim=32, channel_base=512, channel_max=32)
    for name, w in G.named_parameters():
        if w.ndim < 2:
            assert torch.equal(w, torch.full_like(w, float("affine" in name))), name
    images = G(torch.randn(32, 32))
    assert 0.3 < images.std() < 3 and images.std(0).mean() > 0.05, "of about unit size, and no two alike"


def test_parameters_of_the_published_networks():
    """Totals that the authors' training log prints for configuration F at 1024 pixels."""
    with torch.device("meta"):
        G, D = Generator(1024), Discriminator(1024)
    assert count(G.mapping) == 8 * (512 * 512 + 512) == 2_101_248
    assert count(G.synthesis) == 28_268_812
    assert count(G) == 30_370_060 and count(D) == 29_012_513
    assert G.synthesis.layers == 18


def test_the_small_generator_is_small():
    with torch.device("meta"):
        G = Generator(**SMALL)
    assert count(G) <= 5_000_000 and G.synthesis.resolutions[-1] == 64
    assert channels(64, SMALL["channel_base"], SMALL["channel_max"]) == {4: 160, 8: 160, 16: 96, 32: 48, 64: 24}


# --- published layouts, as random weights -----------------------------------------------------------------------


def ada_shapes(resolution: int, base: int, most: int, w: int, z: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a generator in the StyleGAN2-ADA release."""
    shapes = {"mapping.w_avg": (w,)}
    for i in range(layers):
        shapes |= {f"mapping.fc{i}.weight": (w, w if i else z), f"mapping.fc{i}.bias": (w,)}
    before, r = 0, 4
    while r <= resolution:
        c, block = min(base // r, most), f"synthesis.b{r}"
        shapes[f"{block}.resample_filter"] = (4, 4)
        if r == 4:
            shapes[f"{block}.const"] = (c, 4, 4)
        for name, i in (("conv0", before), ("conv1", c))[r == 4 :]:
            shapes |= {
                f"{block}.{name}.affine.weight": (i, w),
                f"{block}.{name}.affine.bias": (i,),
                f"{block}.{name}.weight": (c, i, 3, 3),
                f"{block}.{name}.bias": (c,),
                f"{block}.{name}.noise_const": (r, r),
                f"{block}.{name}.noise_strength": (),
                f"{block}.{name}.resample_filter": (4, 4),
            }
        shapes |= {
            f"{block}.torgb.affine.weight": (c, w),
            f"{block}.torgb.affine.bias": (c,),
            f"{block}.torgb.weight": (3, c, 1, 1),
            f"{block}.torgb.bias": (3,),
        }
        before, r = c, 2 * r
    return shapes


def ema_shapes(resolution: int, base: int, most: int, w: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a generator in the layout whose checkpoints have a g_ema."""
    c = {r: min(base // r, most) for r in (2**i for i in range(2, 11))}
    shapes = {"input.input": (1, c[4], 4, 4)}
    for i in range(1, layers + 1):
        shapes |= {f"style.{i}.weight": (w, w), f"style.{i}.bias": (w,)}

    def convolution(name, i, o, up):
        return {
            f"{name}.conv.weight": (1, o, i, 3, 3),
            f"{name}.conv.modulation.weight": (i, w),
            f"{name}.conv.modulation.bias": (i,),
            f"{name}.noise.weight": (1,),
            f"{name}.activate.bias": (o,),
        } | ({f"{name}.conv.blur.kernel": (4, 4)} if up else {})

    def colours(name, i, up):
        return {
            f"{name}.conv.weight": (1, 3, i, 1, 1),
            f"{name}.conv.modulation.weight": (i, w),
            f"{name}.conv.modulation.bias": (i,),
            f"{name}.bias": (1, 3, 1, 1),
        } | ({f"{name}.upsample.kernel": (4, 4)} if up else {})

    shapes |= convolution("conv1", c[4], c[4], False) | colours("to_rgb1", c[4], False)
    shapes["noises.noise_0"] = (1, 1, 4, 4)
    for k in range(int(math.log2(resolution)) - 2):
        r = 2 ** (k + 3)
        shapes |= convolution(f"convs.{2 * k}", c[r // 2], c[r], True)
        shapes |= convolution(f"convs.{2 * k + 1}", c[r], c[r], False)
        shapes |= colours(f"to_rgbs.{k}", c[r], True)
        shapes |= {f"noises.noise_{2 * k + 1 + j}": (1, 1, r, r) for j in (0, 1)}
    return shapes


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Random tensors; filters are what they always are, with the gain of upsampling where that layout has it."""
    draw = seeded(3)
    state = {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}
    for key in state:
        if key.endswith(("resample_filter", "kernel")):
            state[key] = FILTER.float() * (4 if key.endswith("kernel") else 1)
        if key.startswith(("mapping.fc", "style.")):
            state[key] *= 100
    return state


def ada(resolution=16):
    return filled(ada_shapes(resolution, 64, 8, 6, 5, 2))


def ema(resolution=16):
    return filled(ema_shapes(resolution, 64, 8, 6, 2))


def one_layer(x, w, affine, bias, weight, noise, strength, after, up=False):
    style = affine @ w / math.sqrt(len(w)) + bias
    return rectified(styled(x, weight, style, up=up) + strength * noise + after[:, None, None])


def one_colour(x, w, affine, bias, weight, after):
    style = (affine @ w / math.sqrt(len(w)) + bias) / math.sqrt(len(x))
    return styled(x, weight, style, demodulate=False) + after[:, None, None]


def ada_image(state, ws):
    """One image of styles (L, D), read off that layout's keys."""
    s = {key: x.double() for key, x in state.items()}

    def layer(x, w, name, up=False):
        parts = "affine.weight", "affine.bias", "weight", "noise_const", "noise_strength", "bias"
        return one_layer(x, w, *(s[f"synthesis.{name}.{part}"] for part in parts), up=up)

    def colour(x, w, r):
        parts = "affine.weight", "affine.bias", "weight", "bias"
        return one_colour(x, w, *(s[f"synthesis.b{r}.torgb.{part}"] for part in parts))

    x = layer(s["synthesis.b4.const"], ws[0], "b4.conv1")
    image, k, r = colour(x, ws[1], 4), 1, 8
    while f"synthesis.b{r}.torgb.bias" in s:
        x = layer(x, ws[k], f"b{r}.conv0", up=True)
        x = layer(x, ws[k + 1], f"b{r}.conv1")
        image = doubled(image) + colour(x, ws[k + 2], r)
        k, r = k + 2, 2 * r
    return image


def ema_image(state, ws):
    """The same for the other layout."""
    s = {key: x.double() for key, x in state.items()}

    def layer(x, w, name, number, up=False):
        parts = "conv.modulation.weight", "conv.modulation.bias"
        affine, bias = (s[f"{name}.{part}"] for part in parts)
        weight, noise = s[f"{name}.conv.weight"][0], s[f"noises.noise_{number}"][0, 0]
        return one_layer(x, w, affine, bias, weight, noise, s[f"{name}.noise.weight"], s[f"{name}.activate.bias"], up)

    def colour(x, w, name):
        affine, bias = s[f"{name}.conv.modulation.weight"], s[f"{name}.conv.modulation.bias"]
        return one_colour(x, w, affine, bias, s[f"{name}.conv.weight"][0], s[f"{name}.bias"].flatten())

    x = layer(s["input.input"][0], ws[0], "conv1", 0)
    image, k = colour(x, ws[1], "to_rgb1"), 0
    while f"to_rgbs.{k}.bias" in s:
        x = layer(x, ws[2 * k + 1], f"convs.{2 * k}", 2 * k + 1, up=True)
        x = layer(x, ws[2 * k + 2], f"convs.{2 * k + 1}", 2 * k + 2)
        image = doubled(image) + colour(x, ws[2 * k + 3], f"to_rgbs.{k}")
        k += 1
    return image


def styles_of(state, z, name):
    """The mapping network of either layout; name: of its i-th layer."""
    x, i = z / z.square().mean(1, keepdim=True).sqrt(), 0
    while f"{name(i)}.weight" in state:
        weight, bias = (state[f"{name(i)}.{part}"].double() for part in ("weight", "bias"))
        x, i = rectified(x @ (weight * 0.01 / math.sqrt(x.shape[1])).T + 0.01 * bias), i + 1
    return x


def written(folder, content, kind):
    path = folder / f"generator.{kind}"
    save_file(content, path) if kind == "safetensors" else torch.save(content, path)
    return path


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_weights_in_the_layout_of_ada(tmp_path, kind):
    state = ada()
    G = load_official(written(tmp_path, state, kind)).double()
    assert not G.training and all(w.requires_grad for w in G.parameters())
    assert {k: tuple(x.shape) for k, x in G.state_dict().items()} == {
        k: shape for k, shape in ada_shapes(16, 64, 8, 6, 5, 2).items() if "resample_filter" not in k
    }
    for key, x in G.state_dict().items():
        assert torch.equal(x, state[key].double()), key
    ws, z = normal(2, 6, 6), normal(3, 5)
    for image, w in zip(G.synthesis(ws), ws, strict=True):
        torch.testing.assert_close(image, ada_image(state, w), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(G.mapping(z), styles_of(state, z, lambda i: f"mapping.fc{i}"), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_weights_in_the_layout_that_has_a_g_ema(tmp_path, kind):
    state, mean = ema(), normal(6, seed=9).float()
    nested = {"g_ema": state, "g": {key: x + 1 for key, x in state.items()}, "latent_avg": mean, "iteration": 3}
    flat = {f"g_ema.{key}": x for key, x in state.items()} | {"latent_avg": mean}
    G = load_official(written(tmp_path, flat if kind == "safetensors" else nested, kind)).double()
    assert torch.equal(G.mapping.w_avg, mean.double())
    parameters = sum(x.numel() for key, x in state.items() if "kernel" not in key and "noises" not in key)
    assert count(G) == parameters, "nothing left out"
    ws, z = normal(2, 6, 6), normal(3, 6)
    for image, w in zip(G.synthesis(ws), ws, strict=True):
        torch.testing.assert_close(image, ema_image(state, w), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(G.mapping(z), styles_of(state, z, lambda i: f"style.{i + 1}"), rtol=1e-6, atol=1e-5)
    swapped = state | {"convs.0.conv.weight": state["convs.0.conv.weight"].flip(3, 4)}
    assert not torch.allclose(G.synthesis(ws)[0], ema_image(swapped, ws[0]), atol=0.1), "the control: flipped"


def test_a_layout_without_a_mean_style_gets_that_of_many_codes(tmp_path):
    path = written(tmp_path, ema(), "pt")
    G = load_official(path)
    w = G.mapping(torch.randn(10_000, 6, generator=seeded(1)))
    error = (w.mean(0) - G.mapping.w_avg) / (w.std(0) * math.sqrt(2 / 10_000))
    assert error.abs().max() < 4 and w.mean(0).abs().max() > 0.05, "in standard errors; zero would be far off"
    assert torch.equal(G.mapping.w_avg, load_official(path).mapping.w_avg)


@pytest.mark.parametrize("resolution, base", [(1024, 2**15), (256, 2**14)])
def test_the_published_sizes_line_up_one_to_one(resolution, base):
    with torch.device("meta"):
        ours = {k: tuple(x.shape) for k, x in Generator(resolution, channel_base=base).state_dict().items()}
    published = ada_shapes(resolution, base, 512, 512, 512, 8)
    assert ours == {key: shape for key, shape in published.items() if "resample_filter" not in key}
    other = ema_shapes(resolution, base, 512, 512, 8)
    named = {stylegan2._native(key): math.prod(shape) for key, shape in other.items() if "kernel" not in key}
    assert named == {key: math.prod(shape) for key, shape in ours.items() if key != "mapping.w_avg"}


def test_what_is_saved_here_is_read_again_in_half_precision_too(tmp_path):
    G = tiny(8, colours=1, mapping_layers=2)
    torch.save({key: x.half() for key, x in G.state_dict().items()}, tmp_path / "mine.pt")
    again = load_official(tmp_path / "mine.pt")
    assert all(x.dtype == torch.float32 for x in again.state_dict().values())
    z = normal(2, 5)
    torch.testing.assert_close(again(z.float()).double(), G(z), rtol=0.02, atol=0.05)


@pytest.mark.parametrize("resolution, base, most", [(8, 4096, 6), (16, 32, 8), (32, 128, 8)])
def test_sizes_are_read_from_the_weights(tmp_path, resolution, base, most):
    state = filled(ada_shapes(resolution, base, most, 6, 5, 1))
    G = load_official(written(tmp_path, state, "safetensors"))
    assert G(torch.zeros(2, 5)).shape == (2, 3, resolution, resolution)
    widths = {r: len(getattr(G.synthesis, f"b{r}").conv1.bias) for r in G.synthesis.resolutions}
    assert widths == channels(resolution, base, most)


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def refusal(path) -> str:
    with pytest.raises(ValueError) as caught:
        load_official(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_would_run_code_is_refused_and_does_not_run(tmp_path):
    trap, path = tmp_path / "trap", tmp_path / "generator.pt"
    for write in (
        lambda: torch.save(ada() | {"more": Code(trap)}, path),
        lambda: torch.save(ada() | {"more": Code(trap)}, path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps(Code(trap), protocol=0)),
        lambda: path.write_bytes(pickle.dumps({"G_ema": Code(trap)})),
        lambda: torch.save({"g_ema": ema(), "args": argparse.Namespace(size=16)}, path),
        lambda: torch.save(torch.nn.Linear(2, 2), path),
    ):
        write()
        message = refusal(path)
        assert "was refused: loading it could run code" in message and "give tensors alone" in message
        assert not trap.exists()
    assert "(torch.nn.modules.linear.Linear)" in message
    path.write_bytes(pickle.dumps(Code(trap)))
    pickle.loads(path.read_bytes())
    assert trap.exists(), "the control: it would have"


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = written(tmp_path, ada(), "pt")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "cannot be read as tensors" in refusal(path) and "is it whole?" in refusal(path)
    path.write_bytes(b"")
    assert "cannot be read as tensors (EOFError)" in refusal(path)
    path.write_bytes(b"an image, maybe")
    assert "cannot be read as tensors" in refusal(path)
    safe = written(tmp_path, ada(), "safetensors")
    safe.write_bytes(safe.read_bytes()[:-8])
    assert "cannot be read as tensors (SafetensorError)" in refusal(safe)
    assert "cannot be read as tensors (FileNotFoundError)" in refusal(tmp_path / "none.safetensors")
    torch.save([torch.zeros(1)], path)
    assert "holds a list: a dict of tensors is wanted" in refusal(path)
    torch.save({"layer.weight": torch.zeros(1), 3: torch.zeros(1)}, path)
    assert "is no StyleGAN2 generator: no synthesis.b4.const, no input.input, but 3, layer.weight" in refusal(path)


def without(state, key):
    return {k: x for k, x in state.items() if k != key}


@pytest.mark.parametrize(
    "state, message",
    [
        (without(ada(), "synthesis.b8.conv0.bias"), "lacks synthesis.b8.conv0.bias of a generator of 16 pixels"),
        (without(ada(), "mapping.fc0.weight"), "lacks mapping.fc0.weight"),
        (without(ema(), "to_rgbs.1.conv.weight"), "lacks synthesis.b16.torgb.weight"),
        (ada() | {"mapping.embed.weight": torch.zeros(6, 2)}, "nothing here is called mapping.embed.weight"),
        (ema() | {"convs.9.other": torch.zeros(2)}, "nothing here is called convs.9.other"),
        (ada() | {"synthesis.b8.skip.weight": torch.zeros(2)}, "nothing here is called synthesis.b8.skip.weight"),
        (ada() | {"synthesis.b8.conv0.resample_filter": torch.ones(4, 4) / 16}, "another filter than"),
        (ada() | {"synthesis.b8.resample_filter": torch.ones(2, 2) / 4}, "see synthesis.b8.resample_filter"),
        (ada() | {"synthesis.b8.conv1.bias": torch.zeros(9)}, r"conv1.bias has shape \(9,\) instead of \(8,\)"),
        (ada() | {"synthesis.b8.conv1.bias": torch.full((8,), torch.nan)}, "b8.conv1.bias is not finite"),
    ],
)
def test_other_networks_are_refused(tmp_path, state, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_official(written(tmp_path, state, "pt"))
    assert "\n" not in str(caught.value)


# --- the discriminator ----------------------------------------------------------------------------------------


def scores_of(state, images, resolution):
    """A discriminator of the published layout, read off its keys."""

    def convolution(x, name, down=False):
        weight = state[f"{name}.weight"]
        k = weight.shape[-1]
        weight = weight / math.sqrt(weight[0].numel())
        if down and k == 1:
            y = torch.stack([correlate(halved(one), weight) for one in x])
        elif down:
            y = torch.stack([correlate(filtered(one, 2, 2), weight)[:, ::2, ::2] for one in x])
        else:
            y = torch.stack([correlate(F.pad(one, (k // 2,) * 4), weight) for one in x])
        return y + state[f"{name}.bias"][:, None, None] if f"{name}.bias" in state else y

    def dense(x, name):
        weight = state[f"{name}.weight"]
        return x @ weight.T / math.sqrt(weight.shape[1]) + state[f"{name}.bias"]

    x, r = rectified(convolution(images, f"b{resolution}.fromrgb")), resolution
    while r > 4:
        y = rectified(convolution(rectified(convolution(x, f"b{r}.conv0")), f"b{r}.conv1", True))
        x, r = (y + convolution(x, f"b{r}.skip", True)) / math.sqrt(2), r // 2
    deviation = ((x - x.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
    x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], 1)
    x = rectified(convolution(x, "b4.conv"))
    return dense(rectified(dense(x.flatten(1), "b4.fc")), "b4.out")[:, 0]


def test_the_discriminator_is_the_published_one():
    torch.manual_seed(0)
    D = Discriminator(16, 64, 8).double()
    for name, w in D.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(w)
    block = {"conv0.weight", "conv0.bias", "conv1.weight", "conv1.bias", "skip.weight"}
    wanted = {f"b{r}.{part}" for r in (8, 16) for part in block} | {"b16.fromrgb.weight", "b16.fromrgb.bias"}
    wanted |= {f"b4.{layer}.{part}" for layer in ("conv", "fc", "out") for part in ("weight", "bias")}
    assert set(D.state_dict()) == wanted
    images = normal(4, 3, 16, 16)
    torch.testing.assert_close(D(images), scores_of(D.state_dict(), images, 16))
    assert not torch.allclose(D(images)[:1], D(images[:1])), "images of a group see one another"


# --- losses ---------------------------------------------------------------------------------------------------


def test_losses_are_those_of_a_logistic_game():
    zero = torch.zeros(4, dtype=torch.float64)
    assert generator_loss(zero) == pytest.approx(math.log(2))
    assert discriminator_loss(zero, zero) == pytest.approx(2 * math.log(2))
    real, fake = normal(5), normal(5, seed=1)
    wanted = -(real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean())
    torch.testing.assert_close(discriminator_loss(real, fake), wanted)
    torch.testing.assert_close(generator_loss(fake), -fake.sigmoid().log().mean())
    lost = torch.full((1,), -20.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(generator_loss(lost), lost)
    assert slope == pytest.approx(-1), "does not saturate where the discriminator is sure"
    (slope,) = torch.autograd.grad(-discriminator_loss(torch.zeros(1).double(), lost), lost)
    assert abs(slope) < 1e-6, "the control: the saturating one does"


def test_r1_of_discriminators_whose_gradient_is_known():
    images, a = normal(4, 3, 2, 2), normal(3, 2, 2, seed=1).requires_grad_()
    linear = r1_penalty(lambda x: (x * a).flatten(1).sum(1), images)
    torch.testing.assert_close(linear, a.square().sum())
    (slope,) = torch.autograd.grad(linear, a)
    torch.testing.assert_close(slope, 2 * a), "so it can be minimised"
    square = r1_penalty(lambda x: 1.5 * x.square().flatten(1).sum(1), images)
    torch.testing.assert_close(square, 9 * images.square().flatten(1).sum(1).mean())
    assert r1_penalty(lambda x: 0 * x.flatten(1).sum(1), images) == 0


def test_path_lengths_of_a_linear_generator():
    """image = sum_l A_l w_l has J^T y = (A_l^T y)_l."""
    matrix = normal(2, 5, 3 * 4 * 4).requires_grad_()  # (L, D, C H W)
    ws = normal(6, 2, 5, seed=1).requires_grad_()
    images = torch.einsum("bld,ldp->bp", ws, matrix).unflatten(1, (3, 4, 4))
    noise = normal(6, 3, 4, 4, seed=2)
    lengths = path_lengths(images, ws, noise)
    pulled = torch.einsum("ldp,bp->bld", matrix, noise.flatten(1)) / 4  # sqrt(4 x 4)
    torch.testing.assert_close(lengths, pulled.square().sum((1, 2)).div(2).sqrt())
    (slope,) = torch.autograd.grad(lengths.sum(), matrix)
    assert slope.abs().min() > 0, "so it can be minimised"


# --- augmentation -----------------------------------------------------------------------------------------------


def test_augmentation_without_a_chance_is_the_identity():
    images = normal(6, 3, 16, 16).requires_grad_()
    seen = augment(images, 0.0, seeded())
    torch.testing.assert_close(seen, images, rtol=1e-5, atol=1e-5)
    (slope,) = torch.autograd.grad(seen.sum(), images)
    torch.testing.assert_close(slope, torch.ones_like(images), rtol=1e-4, atol=1e-4)
    changed = (augment(images, 1.0, seeded()) - images).abs().flatten(1).amax(1)
    assert changed.min() > 0.1, "the control: at chance 1, all are changed"
    some = (augment(images.repeat(50, 1, 1, 1), 0.05, seeded()) - images.repeat(50, 1, 1, 1)).flatten(1).abs().amax(1)
    assert 0.6 < (some < 1e-4).double().mean() < 0.85  # 0.95^6 = 0.74 are left alone, some more by neutral draws


def test_augmentation_differentiates():
    """Draws aside, it is linear in the images: so is its gradient's check exact."""
    images = normal(2, 3, 8, 8).requires_grad_()
    assert gradcheck(lambda x: augment(x, 0.9, seeded(1)), images, fast_mode=True, atol=1e-4)


def poses(image):
    """All mirror images, turns and shifts by a pixel of an image that goes on as its reflection."""
    wide = torch.cat([image[:, :1], image, image[:, -1:]], 1)
    wide = torch.cat([wide[:, :, :1], wide, wide[:, :, -1:]], 2)
    h = image.shape[1]
    shifts = [wide[:, i : i + h, j : j + h] for i in range(3) for j in range(3)]
    turned = [x.rot90(k, (1, 2)) for x in shifts for k in range(4)]
    return torch.stack([x for one in turned for x in (one, one.flip(2))])


def outcomes(monkeypatch, p: float, n: int = 6000) -> Counter:
    """How often each of the 72 poses comes out, where sizes and colours are left alone."""
    monkeypatch.setattr(torch, "randn", lambda *shape, generator, device: torch.zeros(*shape))
    image = torch.rand(3, 8, 8, generator=seeded(5), dtype=torch.float64)
    seen = augment(image.expand(n, -1, -1, -1), p, seeded(6))
    distance, pose = torch.cdist(seen.flatten(1), poses(image).flatten(1), 1.0).min(1)
    assert distance.max() < 1e-5, "whole pixels are moved, none is made"
    return Counter(pose.tolist())


def test_augmentation_by_whole_pixels_does_not_leak(monkeypatch):
    """Below chance 1, the image as it is stays the likeliest: a generator of turned images is not as good."""
    n, plain = 6000, torch.arange(64.0).view(1, 8, 8)
    own = next(i for i, x in enumerate(poses(plain)) if torch.equal(x, plain))
    for p in (0.4, STRONGEST):
        seen = outcomes(monkeypatch, p, n)
        chance = (1 - p / 2) * (1 - 3 * p / 4) * (1 - 8 * p / 9)
        assert abs(seen[own] / n - chance) < 4 * math.sqrt(chance / n)
        mirrored = sum(often for pose, often in seen.items() if pose % 2) / n
        assert abs(mirrored - p / 2) < 4 * math.sqrt(p / 2 / n), "turns are no mirror images"
        (best, often), (_, next_often) = seen.most_common(2)
        assert best == own and often > next_often + 3 * math.sqrt(often)
    seen = outcomes(monkeypatch, 1.0, n)
    assert len(seen) == 72, "all poses occur"
    assert max(seen.values()) < 2 * n / 72, "the control: at chance 1, all are alike"


def test_sizes_and_colours_are_what_they_say(monkeypatch):
    """A ramp of two slopes, all normal draws 1, not mirrored, turned or shifted."""
    monkeypatch.setattr(torch, "randn", lambda *shape, generator, device: torch.ones(*shape))
    pick = {2: 1, 4: 0}
    monkeypatch.setattr(torch, "randint", lambda *args, generator, device: torch.full(args[-1], pick.get(args[0], 0)))
    x = ((torch.arange(16) + 0.5) / 8 - 1).double()
    ramp = torch.stack([x.expand(16, -1), x.expand(16, -1).T, torch.zeros(16, 16).double()])
    seen = augment(ramp[None], 1.0, seeded())[0]
    bright = (ramp / 2**0.2 + 0.2) * 2**0.5
    grey = bright.mean(0)
    torch.testing.assert_close(seen, grey + 2 * (bright - grey), rtol=1e-5, atol=1e-5)


def test_the_chance_of_augmentation_follows_the_discriminator():
    p, sure, unsure = torch.tensor(0.3), torch.ones(50), torch.tensor([1.0, -1.0]).repeat(25)
    assert adapted(p, sure, span=500) == pytest.approx(0.4) and adapted(p, unsure, span=500) == pytest.approx(0.2)
    assert adapted(p, unsure, target=-0.1, span=500) == pytest.approx(0.4)
    assert adapted(torch.tensor(0.79), sure, span=500) == pytest.approx(STRONGEST)
    assert adapted(torch.tensor(0.01), unsure, span=500) == 0


# --- training ---------------------------------------------------------------------------------------------------


def test_an_average_moves_by_its_decay():
    average, network = tiny(8), tiny(8, seed=1)
    before, now = ({k: x.clone() for k, x in g.state_dict().items()} for g in (average, network))
    average_into(average, network, 0.75)
    buffers = {name for name, _ in network.named_buffers()}
    for key, x in average.state_dict().items():
        torch.testing.assert_close(x, now[key] if key in buffers else 0.75 * before[key] + 0.25 * now[key])
    assert all(torch.equal(x, now[key]) for key, x in network.state_dict().items()), "the network stays"


def test_lazy_regularisation_slows_adam_down():
    group = lazy_adam(Dense(2, 2), 0.01, 16).param_groups[0]
    assert group["lr"] == pytest.approx(0.01 * 16 / 17)
    assert group["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17)))
    assert lazy_adam(Dense(2, 2), 0.01, None).param_groups[0]["lr"] == 0.01


def game(**options) -> Adversaries:
    torch.manual_seed(0)
    G = Generator(8, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, channel_max=16)
    return Adversaries(G, Discriminator(8, 128, 16), **options)


def test_a_share_of_the_images_has_two_styles():
    for mixing, low, high in ((0.0, 0.0, 0.0), (0.5, 0.35, 0.65), (1.0, 1.0, 1.0)):
        play = game(mixing=mixing)
        ws = play.styles(200, seeded())
        assert ws.shape == (200, 4, 8)
        kinds = (ws != ws[:, :1]).any(-1)
        assert low <= kinds.any(1).double().mean() <= high
        assert torch.equal(kinds, kinds.cummax(1).values), "once changed, a style stays"
        assert play.G.mapping.w_avg.abs().max() > 0, "the mean is tracked"


def test_every_parameter_is_trained_and_every_loss_is_finite():
    play, draw = game(path=2.0, path_every=2, r1_every=2, adaptive=True), seeded()
    play.p += 0.3
    before = {name: w.clone() for n in (play.G, play.D) for name, w in n.named_parameters(prefix=type(n).__name__)}
    average = [w.clone() for w in play.average.parameters()]
    real = torch.rand(8, 3, 8, 8, generator=draw) - 0.5
    named = [play.step(real, draw) for _ in range(4)]
    every = {"generator", "discriminator", "path", "r1"}
    assert [set(losses) for losses in named] == [every, every - {"path", "r1"}] * 2, "regularisers are lazy"
    for losses in named:
        assert all(torch.isfinite(x) and not x.requires_grad for x in losses.values())
    now = {name: w for n in (play.G, play.D) for name, w in n.named_parameters(prefix=type(n).__name__)}
    assert not [name for name, w in now.items() if torch.equal(w, before[name])], "none is dead"
    assert all(w.requires_grad for w in now.values())
    assert all(not torch.equal(a, b) for a, b in zip(average, play.average.parameters(), strict=True))
    assert torch.equal(play.average.mapping.w_avg, play.G.mapping.w_avg)
    assert play.steps == 4 and play.images == 32
    assert 0 < abs(play.p - 0.3) < 1.1 * 32 / 500_000, "the chance of augmentation follows"


def test_a_step_descends_what_it_says(monkeypatch):
    """What is handed to the optimisers, how quickly the average follows, and what the discriminator is shown."""
    descended, decays, shown = [], [], []
    descend, follow, change = stylegan2._descend, stylegan2.average_into, stylegan2.augment

    def watched(optimizer, loss, weight=1.0):
        descended.append(weight * loss.item())
        return descend(optimizer, loss, weight)

    monkeypatch.setattr(stylegan2, "_descend", watched)
    monkeypatch.setattr(stylegan2, "average_into", lambda a, n, decay: (decays.append(decay), follow(a, n, decay)))
    monkeypatch.setattr(stylegan2, "augment", lambda x, *rest: (shown.append(x), change(x, *rest))[1])
    play, draw = game(path=2.0, path_every=4, r1=3.0, r1_every=16, half_life=100, adaptive=True), seeded()
    real = torch.rand(8, 3, 8, 8, generator=draw)
    losses = play.step(real, draw)
    weights = {"generator": 1, "discriminator": 1, "path": 2 * 4, "r1": 3 / 2 * 16}
    assert descended == pytest.approx([weight * losses[name].item() for name, weight in weights.items()])
    assert sum(x is real for x in shown) == 2 and len(shown) == 4, "generated ones twice, real ones too: R1 has a step"
    play.images = 100_000
    play.step(real, draw)
    assert decays == pytest.approx([0.5 ** (8 / 0.4), 0.5 ** (8 / 100)])
    assert 0 < play.path_mean < 0.1 * losses["path"].sqrt(), "the mean length begins at zero and follows slowly"


def test_noise_hides_what_the_discriminator_sees():
    play, draw = game(noise=0.5), seeded()
    images = torch.zeros(64, 3, 8, 8)
    first, second = (play.shown(images, draw) for _ in range(2))
    assert first.std().item() == pytest.approx(0.5, abs=0.02) and not torch.equal(first, second)


def test_without_options_nothing_is_augmented_or_regularised():
    play, draw = game(r1=0.0), seeded()
    images = torch.rand(8, 3, 8, 8, generator=draw)
    assert set(play.step(images, draw)) == {"generator", "discriminator"}
    assert play.shown(images, draw) is images and play.p == 0
    assert {o.param_groups[0]["lr"] for o in (play.optimise_G, play.optimise_D)} == {2e-3}, "no step is lazy"


def test_a_few_steps_teach_the_colour_of_the_images():
    """Real images are orange; the average generator's become so, and the same seed gives the same."""
    colour = torch.tensor([0.8, 0.2, -0.6])[:, None, None]

    def trained():
        play, draw = game(learning_rate=5e-3, half_life=200), seeded()
        for _ in range(60):
            play.step(colour + 0.1 * torch.randn(8, 3, 8, 8, generator=draw), draw)
        return play.average(torch.randn(64, 8, generator=seeded(1)))

    untrained = game().average(torch.randn(64, 8, generator=seeded(1)))
    images = trained()
    far, near = ((x - colour).square().mean().sqrt() for x in (untrained, images))
    assert near < 0.4 * far
    assert torch.equal(images, trained())


def test_a_lesson_moves_the_generator():
    """Real images are black; whoever is taught brightness as well makes brighter ones."""

    def trained(**options):
        play, draw = game(learning_rate=5e-3, half_life=200, **options), seeded()
        for _ in range(30):
            losses = play.step(-torch.ones(8, 3, 8, 8), draw)
        return play.average(torch.randn(64, 8, generator=seeded(1))).mean(), losses

    plain, _ = trained()
    taught, losses = trained(lesson=lambda images: 20 * (images.mean() - 0.5).square())
    assert {"generator", "lesson", "discriminator"} <= set(losses)
    assert taught > plain + 0.3


def test_a_lesson_sees_what_the_discriminator_is_shown():
    judged, taught = [], []
    play, draw = game(noise=0.5, lesson=lambda images: (taught.append(images), images.sum() * 0)[1]), seeded()
    play.D.register_forward_pre_hook(lambda network, given: judged.append(given[0]))
    play.step(torch.zeros(8, 3, 8, 8), draw)
    assert len(taught) == 1, "a lesson a step, and none of what D learns from"
    assert torch.equal(taught[0], judged[0]) and not any(torch.equal(taught[0], other) for other in judged[1:])


# --- what was given --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Generator(48), "resolution must be a power of two, 8 or more, got 48"),
        (lambda: Discriminator(4), "resolution must be a power of two, 8 or more, got 4"),
        (lambda: Generator(64, channel_base=32), "no channel is left at 64 pixels: got base=32, most=512"),
        (lambda: Generator(8, w_dim=0), "sizes must be positive, got z_dim=512, w_dim=0"),
        (lambda: tiny()(torch.zeros(2, 6)), r"z has shape \(2, 6\): give \(B, 5\)"),
        (lambda: tiny().synthesis(torch.zeros(2, 5)), r"\(2, 5\): give \(B, 6\) or \(B, 6, 6\)"),
        (lambda: tiny().synthesis(torch.zeros(2, 5, 6)), r"\(2, 5, 6\): give \(B, 6\) or \(B, 6, 6\)"),
        (lambda: tiny().synthesis(torch.zeros(6)), r"styles have shape \(6,\)"),
        (lambda: tiny().synthesis(torch.zeros(1, 6).double(), [torch.zeros(1, 1, 4, 4)]), r"each r of \[4, 8, 8, 16"),
        (lambda: Discriminator(8, 64, 8)(torch.zeros(1, 3, 16, 16)), r"\(1, 3, 16, 16\): give \(B, 3, 8, 8\)"),
        (lambda: with_deviation(torch.zeros(6, 1, 2, 2)), "a batch of 6 images cannot be split into groups of 4"),
    ],
)
def test_wrong_input_is_named_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
