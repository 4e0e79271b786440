"""StyleGAN2's networks: each part against a plain float64 reference."""

import math

import pytest
import torch
from stylegan2_reference import (
    correlate,
    insert_zeros,
    make_generator,
    normal,
    num_parameters,
    reference_blur,
    reference_downsample,
    reference_leaky_relu,
    reference_modulated_conv2d,
    reference_upsample,
    small_generator,
)
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from fwdiff_lite.problems.gan_inversion.stylegan2 import (
    SMALL_GENERATOR,
    Discriminator,
    EqualConv2d,
    EqualLinear,
    Generator,
    blur,
    channels_per_resolution,
    downsample,
    generate_images,
    minibatch_stddev,
    mix_styles,
    modulated_conv2d,
    scaled_leaky_relu,
    truncate,
    upsample,
)

# --- resampling and convolutions ----------------------------------------------------------------------------------


def test_resampling_is_zero_insertion_filter_and_decimation():
    x = normal(2, 3, 4, 6)
    for function, reference in (
        (upsample, reference_upsample),
        (downsample, reference_downsample),
        (lambda x: blur(x, 2, 3.0), None),
    ):
        expected = torch.stack([reference(image) if reference else reference_blur(image, 2, 2, 3.0) for image in x])
        torch.testing.assert_close(function(x), expected)
    shifted = torch.stack([reference_blur(insert_zeros(image), 1, 2, 4.0) for image in x])
    assert not torch.allclose(upsample(x), shifted, atol=0.1), "control: shifted by half a pixel"


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
def test_modulated_conv2d_has_weights_for_each_example(up, demodulate):
    x, weight, styles = normal(3, 4, 5, 5), normal(6, 4, 3, 3, seed=1), normal(3, 4, seed=2)
    result = modulated_conv2d(x, weight, styles, demodulate, up)
    expected = torch.stack(
        [reference_modulated_conv2d(a, weight, s, demodulate, up) for a, s in zip(x, styles, strict=True)]
    )
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)
    assert result.shape == (3, 6, 10, 10) if up else (3, 6, 5, 5)
    for control in (
        modulated_conv2d(x, weight.flip(2, 3), styles, demodulate, up),
        modulated_conv2d(x, weight, styles.flip(0), demodulate, up),
        modulated_conv2d(x, weight, styles, not demodulate, up),
    ):
        assert not torch.allclose(control, expected, atol=0.1), (
            "controls: flipped kernel, styles of other examples, demodulation switched"
        )


@pytest.mark.parametrize("up", [False, True])
def test_gradients_of_a_modulated_convolution(up):
    inputs = [normal(2, 2, 3, 3), normal(2, 2, 3, 3, seed=1), normal(2, 2, seed=2)]
    inputs = [x.requires_grad_() for x in inputs]

    def convolution(*arguments):
        return modulated_conv2d(*arguments, up=up)

    assert gradcheck(convolution, inputs) and gradgradcheck(convolution, inputs)


def test_demodulation_cancels_any_scale_of_the_styles():
    x, weight, styles = normal(2, 4, 5, 5), normal(3, 4, 3, 3, seed=1), normal(2, 4, seed=2)
    single, triple = (modulated_conv2d(x, weight, k * styles) for k in (1, 3))
    torch.testing.assert_close(single, triple, rtol=1e-6, atol=1e-8)
    single, triple = (modulated_conv2d(x, weight, k * styles, demodulate=False) for k in (1, 3))
    torch.testing.assert_close(3 * single, triple)


def test_an_equalised_convolution_halves_after_the_filter():
    x = normal(2, 3, 6, 6)
    for kernel, bias in ((1, False), (3, True)):
        layer = EqualConv2d(3, 4, kernel, bias, down=True).double()
        weight = layer.weight / math.sqrt(3 * kernel**2)
        if bias:
            torch.nn.init.normal_(layer.bias)
        if kernel == 1:
            expected = torch.stack([correlate(reference_downsample(image), weight) for image in x])
        else:
            expected = torch.stack([correlate(reference_blur(image, 2, 2), weight)[:, ::2, ::2] for image in x])
        torch.testing.assert_close(layer(x), expected + (layer.bias[:, None, None] if bias else 0))


def test_equalised_layers_keep_unit_variance_whatever_their_size():
    torch.manual_seed(0)
    for layer, x in (
        (EqualLinear(512, 256), torch.randn(256, 512)),
        (EqualLinear(512, 256, lr_multiplier=0.01), torch.randn(256, 512)),
        (EqualConv2d(64, 64, 3), torch.randn(4, 64, 16, 16)),
    ):
        assert 0.9 < layer(x).std() < 1.1
        assert layer.weight.detach().std() == pytest.approx(1 / getattr(layer, "bias_gain", 1), rel=0.05), (
            "stored at Adam's scale"
        )


def test_scaled_leaky_relu_keeps_the_second_moment():
    x = torch.randn(100_000, generator=make_generator(), dtype=torch.float64)
    assert scaled_leaky_relu(x).square().mean() == pytest.approx(1.04, rel=0.02)  # (1 + 0.2^2) / 2 times 2
    torch.testing.assert_close(scaled_leaky_relu(x), reference_leaky_relu(x))


def test_minibatch_stddev_within_groups():
    x = normal(8, 3, 2, 2)
    result = minibatch_stddev(x, 4)
    assert result.shape == (8, 4, 2, 2) and torch.equal(result[:, :3], x)
    for i in range(8):
        group = x[[j for j in range(8) if j % 2 == i % 2]]
        expected = (((group - group.mean(0)) ** 2).mean(0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(result[i, 3], expected.expand(2, 2))
    assert not torch.allclose(result[0, 3], result[1, 3]), "control: groups differ"
    torch.testing.assert_close(minibatch_stddev(x[:3])[:, 3], minibatch_stddev(x[:3], 3)[:, 3])
    assert minibatch_stddev(x[:1].expand(4, -1, -1, -1))[:, 3].max() < 1e-3, "identical examples have no deviation"


# --- the generator --------------------------------------------------------------------------------------------


def test_mapping_is_eight_plain_layers():
    mapping = small_generator(mapping_layers=8).mapping
    z = normal(4, 5)
    x = z / z.square().mean(1, keepdim=True).sqrt()
    for i in range(8):
        layer = getattr(mapping, f"fc{i}")
        x = reference_leaky_relu(x @ (layer.weight * 0.01 / math.sqrt(x.shape[1])).T + 0.01 * layer.bias)
    torch.testing.assert_close(mapping(z), x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mapping(7 * z), mapping(z), rtol=1e-6, atol=1e-6)
    assert mapping(z).std(0).min() > 1e-3, "control: z has an effect"


def test_w_avg_follows_the_mean_style():
    mapping, w = small_generator().mapping, normal(8, 6)
    expected = 0.9 * mapping.w_avg + 0.1 * w.mean(0)
    mapping.update_w_avg(w, 0.9)
    torch.testing.assert_close(mapping.w_avg, expected)


def test_truncation_moves_towards_the_mean():
    G, z = small_generator(), normal(3, 5)
    mean = G.synthesis(G.mapping.w_avg[None])
    torch.testing.assert_close(G(z, 0.0), mean.expand(3, -1, -1, -1))
    torch.testing.assert_close(G(z, 1.0), G.synthesis(G.mapping(z)))
    assert not torch.allclose(G(z), mean, atol=0.1)
    w = G.mapping(z)
    torch.testing.assert_close(truncate(w, G.mapping.w_avg, 0.25), 0.75 * G.mapping.w_avg + 0.25 * w)
    torch.testing.assert_close(G(z, 0.25), G.synthesis(0.75 * G.mapping.w_avg + 0.25 * w))


def test_a_style_in_w_is_a_special_case_of_w_plus():
    G, w = small_generator().synthesis, normal(2, 6)
    ws = w[:, None].repeat(1, 6, 1)
    assert G.num_layers == 6 and torch.equal(G(w), G(ws))
    for layer in range(6):
        changed = ws.clone()
        changed[:, layer] += 1
        assert not torch.allclose(G(changed), G(w), atol=1e-3), f"layer {layer} has an effect"


def test_styles_are_mixed_from_a_layer_on():
    w, other = normal(3, 2), normal(3, 2, seed=1)
    ws = mix_styles(w, other, torch.tensor([1, 3, 4]), 4)
    is_first = (ws == w[:, None]).all(-1)
    assert is_first.tolist() == [[True, False, False, False], [True, True, True, False], [True] * 4]
    assert torch.equal(ws[~is_first], torch.stack([other[0], other[0], other[0], other[1]]))


def test_noise_is_constant_unless_it_is_given():
    G, w = small_generator().synthesis, normal(2, 6)
    assert torch.equal(G(w), G(w))
    layers = [block for b in G.children() for block in (getattr(b, "conv0", None), b.conv1) if block is not None]
    assert torch.equal(G(w, [layer.noise_const for layer in layers]), G(w))
    noise = [x.double() for x in G.sample_noise(2, make_generator())]
    assert [tuple(x.shape) for x in noise] == [(2, 1, r, r) for r in (4, 8, 8, 16, 16)]
    assert not torch.allclose(G(w, noise), G(w), atol=0.1)
    for i, layer in enumerate(layers):
        changed = [x.noise_const for x in layers]
        changed[i] = changed[i] + 1
        assert not torch.allclose(G(w, changed), G(w), atol=1e-4), f"noise map {i} has an effect"
        torch.nn.init.zeros_(layer.noise_strength)
    assert torch.equal(G(w, noise), G(w)), "control: noise of strength zero"


def test_images_are_differentiable_with_respect_to_styles():
    G = small_generator(8, channel_max=3).synthesis.requires_grad_(False)
    w = normal(1, 6).requires_grad_()
    assert gradcheck(G, w)
    assert gradcheck(G, w.detach()[:, None].repeat(1, 4, 1).requires_grad_())


def test_an_initial_generator_uses_its_styles_and_adds_no_noise():
    torch.manual_seed(0)
    G = Generator(16, w_dim=32, z_dim=32, channel_base=512, channel_max=32)
    for name, w in G.named_parameters():
        if w.ndim < 2:
            assert torch.equal(w, torch.full_like(w, float("affine" in name))), name
    images = G(torch.randn(32, 32))
    assert 0.3 < images.std() < 3 and images.std(0).mean() > 0.05, "about unit variance, and different images"


def test_parameters_of_the_published_networks():
    """Totals that the authors' training log prints for configuration F at 1024 pixels."""
    with torch.device("meta"):
        G, D = Generator(1024), Discriminator(1024)
    assert num_parameters(G.mapping) == 8 * (512 * 512 + 512) == 2_101_248
    assert num_parameters(G.synthesis) == 28_268_812
    assert num_parameters(G) == 30_370_060 and num_parameters(D) == 29_012_513
    assert G.synthesis.num_layers == 18


def test_the_small_generator_is_small():
    with torch.device("meta"):
        G = Generator(**SMALL_GENERATOR)
    assert num_parameters(G) <= 5_000_000 and G.synthesis.resolutions[-1] == 64
    channels = channels_per_resolution(64, SMALL_GENERATOR["channel_base"], SMALL_GENERATOR["channel_max"])
    assert channels == {4: 160, 8: 160, 16: 96, 32: 48, 64: 24}


# --- the discriminator ----------------------------------------------------------------------------------------


def reference_logits(state, images, resolution):
    """The logits of a discriminator in the published layout, computed from its state dict."""

    def convolution(x, name, down=False):
        weight = state[f"{name}.weight"]
        k = weight.shape[-1]
        weight = weight / math.sqrt(weight[0].numel())
        if down and k == 1:
            y = torch.stack([correlate(reference_downsample(image), weight) for image in x])
        elif down:
            y = torch.stack([correlate(reference_blur(image, 2, 2), weight)[:, ::2, ::2] for image in x])
        else:
            y = torch.stack([correlate(F.pad(image, (k // 2,) * 4), weight) for image in x])
        return y + state[f"{name}.bias"][:, None, None] if f"{name}.bias" in state else y

    def linear(x, name):
        weight = state[f"{name}.weight"]
        return x @ weight.T / math.sqrt(weight.shape[1]) + state[f"{name}.bias"]

    x, r = reference_leaky_relu(convolution(images, f"b{resolution}.fromrgb")), resolution
    while r > 4:
        y = reference_leaky_relu(convolution(reference_leaky_relu(convolution(x, f"b{r}.conv0")), f"b{r}.conv1", True))
        x, r = (y + convolution(x, f"b{r}.skip", True)) / math.sqrt(2), r // 2
    stddev = ((x - x.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
    x = torch.cat([x, stddev.expand(len(x), 1, 4, 4)], 1)
    x = reference_leaky_relu(convolution(x, "b4.conv"))
    return linear(reference_leaky_relu(linear(x.flatten(1), "b4.fc")), "b4.out")[:, 0]


def test_the_discriminator_has_the_published_layout():
    torch.manual_seed(0)
    D = Discriminator(16, 64, 8).double()
    for name, w in D.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(w)
    block = {"conv0.weight", "conv0.bias", "conv1.weight", "conv1.bias", "skip.weight"}
    expected = {f"b{r}.{part}" for r in (8, 16) for part in block} | {"b16.fromrgb.weight", "b16.fromrgb.bias"}
    expected |= {f"b4.{layer}.{part}" for layer in ("conv", "fc", "out") for part in ("weight", "bias")}
    assert set(D.state_dict()) == expected
    images = normal(4, 3, 16, 16)
    torch.testing.assert_close(D(images), reference_logits(D.state_dict(), images, 16))
    assert not torch.allclose(D(images)[:1], D(images[:1])), "images of a group affect each other"


# --- wrong input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Generator(48), "resolution must be a power of two, 8 or more, got 48"),
        (lambda: Discriminator(4), "resolution must be a power of two, 8 or more, got 4"),
        (
            lambda: Generator(64, channel_base=32),
            "no channel is left at 64 pixels: got channel_base=32, channel_max=512",
        ),
        (lambda: Generator(8, w_dim=0), "sizes must be positive, got z_dim=512, w_dim=0"),
        (lambda: small_generator()(torch.zeros(2, 6)), r"z has shape \(2, 6\): give \(B, 5\)"),
        (lambda: small_generator().synthesis(torch.zeros(2, 5)), r"\(2, 5\): give \(B, 6\) or \(B, 6, 6\)"),
        (lambda: small_generator().synthesis(torch.zeros(2, 5, 6)), r"\(2, 5, 6\): give \(B, 6\) or \(B, 6, 6\)"),
        (lambda: small_generator().synthesis(torch.zeros(6)), r"styles have shape \(6,\)"),
        (
            lambda: small_generator().synthesis(torch.zeros(1, 6).double(), [torch.zeros(1, 1, 4, 4)]),
            r"each r of \[4, 8, 8, 16",
        ),
        (lambda: Discriminator(8, 64, 8)(torch.zeros(1, 3, 16, 16)), r"\(1, 3, 16, 16\): give \(B, 3, 8, 8\)"),
        (lambda: minibatch_stddev(torch.zeros(6, 1, 2, 2)), "a batch of 6 images cannot be split into groups of 4"),
    ],
)
def test_wrong_input_gives_a_one_line_error(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_generated_images_do_not_depend_on_the_chunk_size():
    G = small_generator(16).float()
    images = generate_images(G, 5, torch.Generator().manual_seed(0))
    chunked = generate_images(G, 5, torch.Generator().manual_seed(0), chunk_size=2)
    assert images.shape == (5, 3, 16, 16) and torch.allclose(images, chunked, atol=1e-5)
    truncated = generate_images(G, 3, torch.Generator().manual_seed(0), 0.0)
    assert truncated.std(0).max() < 1e-5, "psi = 0 gives the mean"


def test_compiled_resampling_is_the_same(monkeypatch):
    """Compiled code adds shifted images where plain code convolves."""
    x = normal(2, 3, 8, 8)
    calls = [(blur, 1, 4.0), (blur, 2), (blur, 1, 1.0, 2), (downsample,), (upsample,)]
    plain = [f(x, *arguments) for f, *arguments in calls]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(F, "conv2d", None)
    monkeypatch.setattr(F, "conv_transpose2d", None)
    for (f, *arguments), expected in zip(calls, plain, strict=True):
        torch.testing.assert_close(f(x, *arguments), expected)
