"""The networks know time and their own size, and nothing else."""

import pytest
import torch

from fwdiff_lite.backbones import MLP, ResidualMLP, UNet, time_features


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


def test_unet_begins_at_zero_and_depends_on_time_and_on_far_pixels():
    net = UNet(3, 2, (8, 16, 16), blocks=1, attention=1)
    x, t = torch.randn(2, 3, 16, 24), torch.tensor([0.1, 0.9])
    assert net(x, t).shape == (2, 2, 16, 24) and (net(x, t) == 0).all()
    for w in net.parameters():
        torch.nn.init.normal_(w, std=0.1)
    assert not torch.allclose(net(x, t), net(x, t.flip(0)))
    far = x.clone()
    far[..., -1, -1] += 1
    assert not torch.allclose(net(x, t)[..., 0, 0], net(far, t)[..., 0, 0])
    assert torch.allclose(net(x, t)[:1], net(x[:1], t[:1]), atol=1e-5), "examples do not see one another"


def test_unet_counts_its_parameters():
    net, features = UNet(3, 2, (8, 16), blocks=1, attention=0), 32

    def block(i, o):
        convolutions = 9 * i * o + o + 9 * o * o + o + (i * o + o if i != o else 0)
        return 2 * i + convolutions + features * 2 * o + 2 * o

    time = 12 * features + features + features * features + features
    ways = (9 * 8 * 16 + 16) + (9 * 16 * 8 + 8)
    ends = (9 * 3 * 8 + 8) + 2 * 8 + (9 * 8 * 2 + 2)
    total = time + ways + ends + block(8, 8) + block(16, 16) + block(16, 8)
    assert sum(w.numel() for w in net.parameters()) == total


def test_unet_refuses_what_it_cannot_halve():
    with pytest.raises(ValueError, match="images of 10x16 pixels: both sides must be divisible by 4"):
        UNet(3, 2, (8, 8, 8))(torch.zeros(1, 3, 10, 16), torch.zeros(1))
    with pytest.raises(ValueError, match=r"multiples of 8, got \(8, 12\)"):
        UNet(3, 2, (8, 12))
    with pytest.raises(ValueError, match="positive sizes.*width=0"):
        UNet(3, 2, ())
