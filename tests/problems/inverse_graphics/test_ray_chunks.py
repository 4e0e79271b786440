"""Rays in chunks and activation checkpointing change the memory of a model, and nothing else."""

from dataclasses import replace

import pytest
import torch
from pixelnerf_helpers import generator, noise_images, small_denoiser

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer

SAMPLES = 6  # of a ray


def checkpointed(model: ForwardDiffusion, points_per_chunk: int | None) -> ForwardDiffusion:
    """The same model with rays in chunks of so many points, and with activation checkpointing in its encoder."""
    renderer = replace(model.forward_model, points_per_chunk=points_per_chunk)
    model.denoiser.renderer = model.forward_model = renderer
    model.denoiser.encoder.activation_checkpointing = points_per_chunk is not None
    return model


def small_model(points_per_chunk=None, **options) -> ForwardDiffusion:
    """A small model with a DiT, in float64 and in training mode, so that samples are at stratified offsets."""
    denoiser = small_denoiser("dit", samples_per_ray=SAMPLES, **options).double().train()
    return checkpointed(ForwardDiffusion(denoiser, denoiser.renderer), points_per_chunk)


def loss_of(model, pixels=11) -> torch.Tensor:
    """The loss on that many pixels of the target and of the novel view."""
    context, target, novel = (noise_images(2, m, seed=s, dtype=torch.float64) for m, s in ((2, 0), (1, 5), (1, 7)))
    t, noise = model.sample_time_and_noise(target, generator())
    indices = [torch.randint(64, (2, 1, pixels), generator=generator(seed)) for seed in (1, 2)]
    return model.loss(context, target, t, noise, novel, *indices)["loss"]


def loss_and_gradients(model, pixels) -> dict[str, torch.Tensor]:
    """The loss and its gradient for every parameter."""
    loss = loss_of(model, pixels)
    loss.backward()
    return {"loss": loss.detach()} | {name: w.grad for name, w in model.named_parameters()}


@pytest.mark.parametrize("points_per_chunk, pixels", [(1, 2), (5 * 2 * SAMPLES, 11), (10**6, 11)])
def test_loss_and_gradients_are_those_of_all_rays_at_once(points_per_chunk, pixels):
    """In chunks of one ray of each view, of five rays with a smaller last chunk, and of all rays."""
    expected, result = (loss_and_gradients(small_model(points), pixels) for points in (None, points_per_chunk))
    for name, x in expected.items():
        torch.testing.assert_close(result[name], x, rtol=1e-9, atol=1e-12)
    assert all(x.abs().max() > 1e-9 for x in expected.values()), "the control: there is something to compare"


def test_a_chunk_that_numbers_its_own_rays_would_be_another_loss(monkeypatch):
    """The control: a stratified offset belongs to the ray's pixel, and not to its place in a chunk."""
    render_chunk = VolumeRenderer._render_chunk

    def render_renumbered(self, signal, num_channels, origins, directions, ray_indices):
        order = torch.arange(ray_indices.shape[-1]).expand_as(ray_indices)
        return render_chunk(self, signal, num_channels, origins, directions, order)

    expected = loss_of(small_model())
    monkeypatch.setattr(VolumeRenderer, "_render_chunk", render_renumbered)
    assert (loss_of(small_model(5 * 2 * SAMPLES)) / expected - 1).abs() > 1e-6


def test_images_are_the_same_with_gradients_and_without():
    """A pixel is the mean of four rays here. Chunks of 51 rays divide the rays of some pixels."""
    model = small_model()
    model.forward_model = replace(model.forward_model, supersampling=2, supersample_observations=True)
    images, cameras = noise_images(2, 1, dtype=torch.float64), noise_images(2, 2, seed=3, dtype=torch.float64).params

    def render():
        return model.forward_model(model.denoiser.encode_context(images), cameras)

    expected = render().detach()
    checkpointed(model, 51 * 2 * SAMPLES)
    torch.testing.assert_close(render(), expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(render(), expected, rtol=1e-12, atol=1e-12)
        images_only = model.denoiser.encode_context(images).render(cameras)
        assert torch.isfinite(images_only.rgb).all()


def saved_bytes(model, pixels) -> int:
    """The bytes that a forward pass keeps for the backward pass, without the weights."""
    storages, weights = {}, {w.untyped_storage().data_ptr() for w in model.parameters()}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes(), x  # x: or its memory would be used again
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss_of(model, pixels)
    return sum(size for size, _ in storages.values())


def test_memory_hardly_grows_with_the_rays():
    """A ray in a chunk keeps its result of three colours, a ray of the control its samples' hidden layers."""
    plain, chunked = small_model(), small_model(5 * 2 * SAMPLES)
    growth = [saved_bytes(model, 48) - saved_bytes(model, 16) for model in (plain, chunked)]
    assert growth[1] < growth[0] / 100
    assert saved_bytes(chunked, 16) < saved_bytes(plain, 16) / 10


def test_the_deterministic_render_has_samples_of_its_own():
    model = small_model()
    queried = []
    model.denoiser.field.register_forward_hook(lambda module, inputs, output: queried.append(inputs[0].shape[1]))
    loss_of(model)
    model.denoiser.render_samples = 2
    loss_of(model)
    assert queried == [16 * SAMPLES, 22 * SAMPLES, 16 * 2, 22 * SAMPLES]


def test_a_chunk_has_at_least_one_point():
    with pytest.raises(ValueError, match="got points_per_chunk = 0, wanted a whole number of at least 1"):
        replace(small_denoiser().renderer, points_per_chunk=0)
