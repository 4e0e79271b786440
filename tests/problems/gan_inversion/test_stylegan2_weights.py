"""Published StyleGAN2 weights: both layouts, with random weights, against a plain float64 reference."""

import argparse
import math
import warnings

import pytest
import torch
from safetensors.torch import save_file
from stylegan2_reference import (
    ada_image,
    ada_shapes,
    ada_state_dict,
    ema_image,
    ema_shapes,
    ema_state_dict,
    make_generator,
    normal,
    num_parameters,
    random_state_dict,
    reference_mapping,
    small_generator,
    write_ada_pickle,
)

from fwdiff_lite.problems.gan_inversion import stylegan2_weights
from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator, channels_per_resolution
from fwdiff_lite.problems.gan_inversion.stylegan2_weights import load_published_generator

# warned of in a test of its own
pytestmark = pytest.mark.filterwarnings("ignore:.*does not state conv_clamp")


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
        (ada_state_dict() | {"mapping.embed.weight": torch.zeros(6, 2)}, r"is class-conditional \(2 labels\)"),
        (
            {k: x for k, x in ada_state_dict().items() if "torgb" not in k or "b16" in k},
            "its architecture is orig, or it is damaged",
        ),
        (ema_state_dict() | {"convs.9.other": torch.zeros(2)}, "this generator has no convs.9.other"),
        (
            ada_state_dict() | {"synthesis.b8.skip.weight": torch.zeros(2)},
            "has the architecture resnet",
        ),
        (ada_state_dict() | {"synthesis.b8.conv0.resample_filter": torch.ones(4, 4) / 16}, "another filter than"),
        (ada_state_dict() | {"synthesis.b8.resample_filter": torch.ones(2, 2) / 4}, "see synthesis.b8.resample_filter"),
        (
            ada_state_dict() | {"synthesis.b8.conv1.bias": torch.zeros(9)},
            r"conv1.bias has shape \(9,\) instead of \(8,\)",
        ),
        (ada_state_dict() | {"synthesis.b8.conv1.bias": torch.full((8,), torch.nan)}, "b8.conv1.bias is not finite"),
        (ada_state_dict() | {"mapping.w_avg": normal(6) * 1e300}, "w_avg is not finite in float32"),
        (ada_state_dict() | {"mapping.w_avg": torch.zeros(6).long()}, "w_avg holds int64: wanted floating-point"),
        (ada_state_dict() | {"mapping.w_avg": torch.zeros(6) + 1j}, "w_avg holds complex64: wanted floating-point"),
        (ada_state_dict() | {"mapping.w_avg": torch.zeros(6).to_sparse()}, "w_avg is sparse, quantised, nested or"),
        (ada_state_dict() | {"mapping.w_avg": torch.zeros(6, device="meta")}, "or without numbers: give dense tensors"),
        (ema_state_dict() | {"latent_avg": torch.zeros(0)}, r"latent_avg has shape \(0,\) instead of"),
        (ema_state_dict() | {"latent_avg": torch.zeros(6) + 1j}, "latent_avg holds complex64"),
        (ada_state_dict() | {"synthesis.b" + 5000 * "9" + ".x": torch.zeros(1)}, "generator.pt is of another architec"),
        (
            ada_state_dict() | {f"synthesis.b{2**40}.torgb.weight": torch.zeros(3, 4, 1, 1)},
            "no synthesis.b1099511627776",
        ),
        (ada_state_dict() | {"synthesis.b4.const": torch.zeros(0, 4, 4)}, "generator.pt: no channel is left at 16"),
        (ada_state_dict() | {"a\nb": torch.zeros(1)}, r"this generator has no a\?b"),
    ],
)
def test_other_networks_are_refused(tmp_path, state, message):
    with pytest.raises(ValueError, match=message) as error:
        load_published_generator(save(tmp_path, state, "pt"))
    assert "\n" not in str(error.value)


def ema_checkpoint(state):
    """What rosinality's training saves: several networks, their optimisers, the command line's arguments."""
    other = {key: x + 1 for key, x in state.items()}
    optimiser = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.002, "params": [0]}]}
    arguments = argparse.Namespace(size=16, latent=6, n_mlp=2, path="faces.lmdb", wandb=False)
    return {"g": other, "d": {"convs.0.0.weight": torch.zeros(2)}, "g_ema": state, "g_optim": optimiser} | {
        "args": arguments,
        "ada_aug_p": 0.1,
    }


LAYOUTS = {  # name: (the layout's state dict at a resolution, what is written to the file)
    "ADA state dict": (ada_state_dict, lambda state: state),
    "ADA state dict in half precision": (ada_state_dict, lambda state: {k: x.half() for k, x in state.items()}),
    "g_ema state dict": (ema_state_dict, lambda state: state),
    "g_ema of a DataParallel": (ema_state_dict, lambda state: {f"module.{k}": x for k, x in state.items()}),
    "training checkpoint": (ema_state_dict, ema_checkpoint),
    "state_dict": (ema_state_dict, lambda state: {"state_dict": state, "epoch": 3}),
    "decoder in state_dict": (
        ema_state_dict,
        lambda state: {"state_dict": {f"decoder.{k}": x for k, x in state.items()} | {"encoder.w": torch.zeros(2)}},
    ),
    "params_ema": (ema_state_dict, lambda state: {"params": {k: x + 1 for k, x in state.items()}, "params_ema": state}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", ["pt", "legacy.pt"])
def test_layouts_of_files_that_people_have(tmp_path, layout, suffix):
    make_state, wrap = LAYOUTS[layout]
    state, path = make_state(), tmp_path / f"generator.{suffix}"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=suffix == "pt")
    G = load_published_generator(path).double()
    w = normal(6, 6)
    reference = (ada_image if make_state is ada_state_dict else ema_image)(state, w)
    error = (G.synthesis(w[None])[0] - reference).square().mean().sqrt() / reference.std()
    assert error < 1e-3


@pytest.mark.parametrize("resolution", [64, 256, 1024])
@pytest.mark.parametrize("layout", ["ADA pickle", "ADA state dict", "training checkpoint"])
def test_images_of_all_resolutions(tmp_path, layout, resolution):
    path = tmp_path / "generator"
    if layout == "training checkpoint":
        state = random_state_dict(ema_shapes(resolution, 4 * resolution, 4, 6, 2))
        torch.save(ema_checkpoint(state), path)
    else:
        state = random_state_dict(ada_shapes(resolution, 4 * resolution, 4, 6, 5, 2))
        write_ada_pickle(path, state) if layout == "ADA pickle" else torch.save(state, path)
    G = load_published_generator(path)
    w = normal(G.synthesis.num_layers, 6)
    reference = (ema_image if layout == "training checkpoint" else ada_image)(state, w)
    with torch.no_grad():
        image = G.synthesis(w[None].float())[0]
    assert image.shape == (3, resolution, resolution)
    assert (image - reference).square().mean().sqrt() / reference.std() < 1e-3


def test_a_mean_of_each_layer(tmp_path):
    state, means = ema_state_dict(), normal(6, 6, seed=9).float()
    torch.save({"g_ema": state, "latent_avg": means}, tmp_path / "several.pt")
    torch.testing.assert_close(load_published_generator(tmp_path / "several.pt").mapping.w_avg, means.mean(0))
    torch.save({"g_ema": state, "latent_avg": means[:1]}, tmp_path / "one.pt")
    torch.testing.assert_close(load_published_generator(tmp_path / "one.pt").mapping.w_avg, means[0])


def test_a_pickle_states_what_it_clips(tmp_path):
    state = ada_state_dict()
    for key in state:
        if key.endswith("conv1.bias"):
            state[key] = state[key] + 300.0  # activations of 424
    path = tmp_path / "network.pkl"
    write_ada_pickle(path, state, conv_clamp=256)
    G, w = load_published_generator(path).double(), normal(6, 6)
    reference = ada_image(state, w, clamp=256)
    torch.testing.assert_close(G.synthesis(w[None])[0], reference, rtol=1e-5, atol=1e-3)
    assert (ada_image(state, w) - reference).square().mean().sqrt() > 0.04 * reference.std(), "control: no clamp"
    write_ada_pickle(path, state, conv_clamp=None)
    torch.testing.assert_close(load_published_generator(path).double().synthesis(w[None])[0], ada_image(state, w))
    with pytest.raises(ValueError, match="states conv_clamp None, not 256: leave the argument out"):
        load_published_generator(path, conv_clamp=256)


def test_a_state_dict_does_not_state_what_it_clips(tmp_path):
    path = save(tmp_path, ada_state_dict(), "pt")
    with pytest.warns(UserWarning, match="does not state conv_clamp, so activations are not clipped: give conv_clamp="):
        load_published_generator(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_published_generator(path, conv_clamp=256).synthesis.b8.conv0.clamp == 256
        load_published_generator(save(tmp_path, ema_state_dict(), "pt"))  # that release clips nothing
        load_published_generator(save(tmp_path, small_generator().float().state_dict(), "pt"))


@pytest.mark.parametrize(
    "attributes, message",
    [
        ({"mapping": {"c_dim": 10}}, r"is class-conditional \(10 labels\): only generators without labels"),
        ({"synthesis.b8": {"architecture": "resnet"}}, "has the architecture resnet: only skip is supported"),
        ({"synthesis.b8": {"architecture": "orig"}}, "has the architecture orig: only skip is supported"),
        ({"synthesis.b8.conv0": {"activation": "swish"}}, "has the activation swish in synthesis.b8.conv0: only lrelu"),
        ({"synthesis.b8.conv0": {"use_noise": False}}, "has no noise in synthesis.b8.conv0"),
        ({"synthesis.b8.conv0": {"conv_clamp": 9}}, "clips the activations of its layers at different values"),
        ({"mapping.fc0": {"weight_gain": 1.0}}, "has a mapping of learning rate multiplier 2.24: wanted 0.01"),
        ({"mapping.fc0": {"weight_gain": "x"}}, "has weight_gain 'x' in mapping.fc0: wanted a number above 0"),
        ({"synthesis.b8.conv0": {"conv_clamp": "256"}}, "has conv_clamp '256' in synthesis.b8.conv0: wanted a number"),
        ({"synthesis.b8.conv0": {"conv_clamp": math.nan}}, "has conv_clamp nan in synthesis.b8.conv0: wanted a number"),
        ({"synthesis.b8.conv0": {"activation": "linear"}}, "the activation linear in synthesis.b8.conv0: only lrelu"),
        ({"synthesis.b8.conv0.affine": {"activation": "lrelu"}}, "lrelu in synthesis.b8.conv0.affine: only linear is"),
        ({"mapping": {"c_dim": "a\nb"}}, r"is class-conditional \(a\?b labels\)"),
    ],
)
def test_pickled_networks_of_other_kinds_are_refused(tmp_path, attributes, message):
    path = tmp_path / "network.pkl"
    write_ada_pickle(path, ada_state_dict(), attributes=attributes)
    with pytest.raises(ValueError, match=message) as error:
        load_published_generator(path)
    assert "\n" not in str(error.value)


def test_the_last_generator_is_not_taken_silently_for_the_averaged_one(tmp_path):
    torch.save({"g": ema_state_dict()}, tmp_path / "last.pt")
    with pytest.warns(UserWarning, match=r"holds no averaged generator \(g_ema\): the last one is used"):
        load_published_generator(tmp_path / "last.pt")


def test_two_generators_are_not_mixed_up(tmp_path):
    torch.save({"first": ada_state_dict(), "second": ada_state_dict()}, tmp_path / "two.pt")
    with pytest.raises(
        ValueError, match=r"holds 2 generators \(first\., second\.\): keep the averaged generator alone"
    ):
        load_published_generator(tmp_path / "two.pt")
