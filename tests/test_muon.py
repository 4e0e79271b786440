"""Muon's update is near-orthogonal and free of the gradient's scale, and fit trains hidden matrices with it."""

import pytest
import torch
from torch import nn

from fwdiff_lite.backbones import UNet
from fwdiff_lite.experiments.inverse_graphics.variants import SETTINGS, build_model
from fwdiff_lite.muon import UPDATE_RMS, Muon, hidden_matrices
from fwdiff_lite.problems.toy import projections
from fwdiff_lite.training import fit
from fwdiff_lite.training_state import Optimization, TrainingState


def update(gradient, steps=1, **options):
    """What Muon subtracts from a weight that has this gradient at each of some steps, at a learning rate of 1."""
    w = nn.Parameter(torch.zeros_like(gradient))
    optimizer = Muon([w], lr=1.0, **options)
    for _ in range(steps):
        w.grad = gradient.clone()
        optimizer.step()
    return -w.detach()


@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16)])
def test_the_update_of_a_matrix_is_near_orthogonal_with_the_stated_rms(shape):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = update(gradient)
    singular_values = torch.linalg.svdvals(step) / (UPDATE_RMS * max(shape) ** 0.5)
    assert 0.6 < singular_values.min() and singular_values.max() < 1.25
    gradient_values = torch.linalg.svdvals(gradient / gradient.norm()) * min(shape) ** 0.5
    assert gradient_values.min() < 0.6, "the control: the gradient itself is not orthogonal"
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    cosine = nn.functional.cosine_similarity((u @ v).flatten(), step.flatten(), 0)
    assert cosine > 0.97, "and it has the gradient's singular vectors"
    assert step.square().mean().sqrt() == pytest.approx(UPDATE_RMS, rel=0.2)


def test_neither_the_gradients_scale_nor_a_transpose_changes_the_update():
    gradient = torch.randn(12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = update(gradient, steps=3)
    for scale in (1e-6, 1e4):
        torch.testing.assert_close(update(scale * gradient, steps=3), wanted)
    torch.testing.assert_close(update(gradient.T, steps=3), wanted.T)
    kernel = gradient.view(12, 5, 2, 2)
    torch.testing.assert_close(update(kernel, steps=3), wanted.view_as(kernel), msg="a kernel is a matrix of O rows")


def test_matrices_of_one_shape_are_updated_as_each_alone_with_nesterovs_momentum_and_decoupled_decay():
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(3, 10, 12, generator=generator, dtype=torch.float64) for _ in range(2)]
    weights = [nn.Parameter(torch.ones(10, 12, dtype=torch.float64)) for _ in range(3)]
    optimizer = Muon(weights, lr=0.1, momentum=0.9, weight_decay=0.5)
    for gradient in gradients:
        for w, g in zip(weights, gradient, strict=True):
            w.grad = g.clone()
        optimizer.step()
    first, second = (update_of(g) for g in momenta(*gradients))
    wanted = (1.0 * 0.95 - 0.1 * first) * 0.95 - 0.1 * second
    torch.testing.assert_close(torch.stack([w.detach() for w in weights]), wanted)


def momenta(first, second, decay=0.9):
    """Nesterov's momentum, as a mean, of two successive gradients."""
    one = (1 - decay) * first
    two = decay * one + (1 - decay) * second
    return [(1 - decay) * g + decay * m for g, m in ((first, one), (second, two))]


def update_of(directions):
    return torch.stack([update(x, momentum=0.0) for x in directions])


def test_a_gradient_that_is_not_finite_leaves_weights_and_state():
    w = nn.Parameter(torch.randn(10, 10))
    optimizer = Muon([w], weight_decay=0.1)
    w.grad, optimizer.found_inf = torch.randn(10, 10), torch.zeros(())
    optimizer.step()
    before, momentum = w.detach().clone(), optimizer.state[w]["momentum_buffer"].clone()
    w.grad, optimizer.found_inf = torch.full((10, 10), torch.nan), torch.ones(())
    optimizer.step()
    assert torch.equal(w, before) and torch.equal(optimizer.state[w]["momentum_buffer"], momentum)
    optimizer.found_inf = None
    optimizer.step()
    assert w.isnan().any(), "the control"


# --- which weights it trains ---


def names_of_hidden_matrices(network):
    matrices = {id(w) for w in hidden_matrices(network)}
    return {name for name, w in network.named_parameters() if id(w) in matrices}


def test_first_and_last_layers_norms_biases_embeddings_and_thin_matrices_are_no_hidden_matrices():
    network = nn.Sequential(
        nn.Embedding(20, 20), nn.Linear(20, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(8, 16)
    )
    assert names_of_hidden_matrices(network) == {"3.weight"}
    network[3].requires_grad_(False)
    with pytest.raises(ValueError, match="Sequential has no hidden matrix of 9 rows and columns for Muon: leave out"):
        hidden_matrices(network)


def test_a_network_names_its_outer_layers():
    unet = UNet(16, 16, (16, 16), 1, 1)
    hidden = names_of_hidden_matrices(nn.Sequential(unet))
    assert not {name for name in hidden if "conv_in" in name or "conv_out" in name}
    assert {"0.time.0.weight", "0.down.0.0.conv2.weight", "0.upsample.0.weight"} <= hidden
    with torch.device("meta"):
        denoiser = build_model(SETTINGS["unet"]).denoiser
    large = {name for name, w in denoiser.named_parameters() if w.ndim > 1}
    others = large - names_of_hidden_matrices(denoiser)
    outer = {f"field.{name}.weight" for name in ("camera_proj", "world_proj", "weight", "head")}
    assert others == outer | {"encoder.conv_in.weight", "encoder.conv_out.2.weight"}


# --- in fit ---


def trained(**options):
    torch.manual_seed(0)
    model = projections.build_diffusion(2, width=16, depth=2)
    options = {"muon_learning_rate": 0.02, "progress": False} | options
    return model, fit(model, projections.infinite_batches(projections.make_prior(2), 64), **options)


def test_a_resumed_training_is_bit_for_bit_the_same(tmp_path, monkeypatch):
    wanted_model, wanted = trained(steps=12)
    path = tmp_path / "state"
    monkeypatch.setattr(Optimization, "learning_rate_at", lambda *arguments: 0.01)  # as if no budget ended at step 7
    constant_model, constant = trained(steps=12)
    trained(steps=7, checkpoint=path)
    model, done = trained(steps=12, checkpoint=path)
    assert done.curve == constant.curve != wanted.curve
    assert all(torch.equal(w, x) for w, x in zip(model.parameters(), constant_model.parameters(), strict=True))
    assert not all(torch.equal(w, x) for w, x in zip(model.parameters(), wanted_model.parameters(), strict=True))
    with pytest.raises(ValueError, match="was trained with muon_learning_rate 0.02; this call has .* 0.03"):
        trained(steps=12, checkpoint=path, muon_learning_rate=0.03)


def test_both_learning_rates_follow_the_schedule_and_a_wrong_one_is_refused():
    torch.manual_seed(0)
    denoiser = projections.build_diffusion(2, width=16, depth=2).denoiser
    state = TrainingState(denoiser, Optimization(1e-3, 0.0, 10, 1.0, 0.9, 0, muon_learning_rate=0.02))
    state.log.steps = 4  # half of the warm-up
    state.set_learning_rate(0.5)  # half of the cosine
    rates = [optimizer.param_groups[0]["lr"] for optimizer in state.optimizers]
    assert rates == pytest.approx([1e-3 / 4, 0.02 / 4])
    counts = [len(optimizer.param_groups[0]["params"]) for optimizer in state.optimizers]
    assert counts[1] == len(hidden_matrices(denoiser)) and sum(counts) == len(list(denoiser.parameters()))
    with pytest.raises(ValueError, match="muon_learning_rate is 0: wanted above 0, or None"):
        trained(steps=1, muon_learning_rate=0)


def test_muon_trains_the_hidden_matrices_only():
    """With a tiny learning rate, AdamW moves nothing that can be seen."""
    torch.manual_seed(0)
    first = dict(projections.build_diffusion(2, width=16, depth=2).denoiser.named_parameters())
    model, _ = trained(steps=3, learning_rate=1e-12, ema=0.0, warmup=1)
    moved = {name for name, w in model.denoiser.named_parameters() if (w - first[name]).abs().max() > 1e-4}
    assert moved == names_of_hidden_matrices(model.denoiser) and moved
