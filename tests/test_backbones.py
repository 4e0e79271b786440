"""The networks know time and their own size, and nothing else."""

import pytest
import torch

from fwdiff_lite.backbones import MLP, ResidualMLP, time_features


def test_time_features_tell_times_apart():
    t = torch.linspace(0, 1, 257, dtype=torch.float64)
    distance = torch.cdist(time_features(t), time_features(t)) + torch.eye(257) * 9
    assert distance.min() > 0.05


def test_mlp_counts_its_parameters_and_depends_on_time():
    net = MLP(5, 2, width=16, depth=3, pairs=4)
    sizes = [(5 + 8, 16), (16, 16), (16, 16), (16, 2)]
    assert sum(w.numel() for w in net.parameters()) == sum(a * b + b for a, b in sizes)
    x = torch.randn(7, 5)
    assert not torch.allclose(net(x, torch.zeros(7)), net(x, torch.full((7,), 0.01)))


def test_residual_mlp_counts_its_parameters_and_depends_on_time():
    net = ResidualMLP(5, 2, width=16, depth=3, pairs=4)
    block = 2 * (16 * 16 + 16) + 2 * 16  # two layers and a norm
    assert sum(w.numel() for w in net.parameters()) == (13 * 16 + 16) + 3 * block + 2 * 16 + (16 * 2 + 2)
    x = torch.randn(7, 5)
    assert not torch.allclose(net(x, torch.zeros(7)), net(x, torch.full((7,), 0.01)))


@pytest.mark.parametrize("kind", [MLP, ResidualMLP])
def test_dropout_acts_in_training_only(kind):
    net = kind(3, 1, dropout=0.5)
    x, t = torch.randn(4, 3), torch.zeros(4)
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


@pytest.mark.parametrize("kind", [MLP, ResidualMLP])
def test_sizes_must_be_positive(kind):
    with pytest.raises(ValueError, match="positive sizes.*width=0"):
        kind(3, 1, width=0)
