"""The networks know time and their own size, and nothing else."""

import pytest
import torch

from fwdiff_lite.backbones import MLP, DiT, Encoder, ResidualMLP, UNet, timestep_embedding


def test_time_features_tell_times_apart():
    t = torch.linspace(0, 1, 257, dtype=torch.float64)
    distance = torch.cdist(timestep_embedding(t), timestep_embedding(t)) + torch.eye(257) * 9
    assert distance.min() > 0.05


def test_mlp_counts_its_parameters_and_depends_on_time():
    net = MLP(5, 2, width=16, depth=3, num_freqs=4)
    sizes = [(5 + 8, 16), (16, 16), (16, 16), (16, 2)]
    assert sum(w.numel() for w in net.parameters()) == sum(a * b + b for a, b in sizes)
    x = torch.randn(7, 5)
    assert not torch.allclose(net(x, torch.zeros(7)), net(x, torch.full((7,), 0.01)))


def test_residual_mlp_counts_its_parameters_and_depends_on_time():
    net = ResidualMLP(5, 2, width=16, depth=3, num_freqs=4)
    block = 2 * (16 * 16 + 16) + 2 * 16  # two layers and a norm
    assert sum(w.numel() for w in net.parameters()) == (13 * 16 + 16) + 3 * block + 2 * 16 + (16 * 2 + 2)
    x = torch.randn(7, 5)
    assert not torch.allclose(net(x, torch.zeros(7)), net(x, torch.full((7,), 0.01)))


@pytest.mark.parametrize("network_class", [MLP, ResidualMLP])
def test_dropout_acts_in_training_only(network_class):
    net = network_class(3, 1, dropout=0.5)
    x, t = torch.randn(4, 3), torch.zeros(4)
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


@pytest.mark.parametrize("network_class", [MLP, ResidualMLP])
def test_sizes_must_be_positive(network_class):
    with pytest.raises(ValueError, match="positive sizes.*width=0"):
        network_class(3, 1, width=0)


def test_unet_begins_at_zero_and_depends_on_time_and_on_far_pixels():
    net = UNet(3, 2, (8, 16, 16), num_blocks=1, num_attention_levels=1)
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
    net, features = UNet(3, 2, (8, 16), num_blocks=1, num_attention_levels=0), 32

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


def test_a_row_unet_takes_rows_and_depends_on_time_and_on_far_pixels():
    net = UNet(3, 2, (8, 16, 16), num_blocks=1, num_attention_levels=1, dims=1)
    x, t = torch.randn(2, 3, 1, 24), torch.tensor([0.1, 0.9])
    assert net(x, t).shape == (2, 2, 1, 24) and (net(x, t) == 0).all()
    assert all(w.shape[2] == 1 for w in net.parameters() if w.ndim == 4), "no weights above or below a row"
    for w in net.parameters():
        torch.nn.init.normal_(w, std=0.1)
    assert not torch.allclose(net(x, t), net(x, t.flip(0)))
    far = x.clone()
    far[..., -1] += 1
    assert not torch.allclose(net(x, t)[..., 0], net(far, t)[..., 0])
    assert torch.allclose(net(x, t)[:1], net(x[:1], t[:1]), atol=1e-5), "examples do not see one another"


def test_a_row_unet_is_the_square_one_without_what_lies_above_and_below():
    """On an image of height 1 only the middle rows of a square network's 3 x 3 weights meet any pixel."""
    square, row = (UNet(3, 2, (16,), num_blocks=2, num_attention_levels=1, dims=dims) for dims in (2, 1))
    for a, b in zip(square.parameters(), row.parameters(), strict=True):
        torch.nn.init.normal_(a, std=0.2)
        b.data = a.data if a.shape == b.shape else a.data[:, :, 1:2]
    x, t = torch.randn(2, 3, 1, 12), torch.tensor([0.1, 0.9])
    torch.testing.assert_close(row(x, t), square(x, t), rtol=1e-4, atol=1e-5)
    row.conv_in.weight.data = square.conv_in.weight.data[:, :, :1].clone()
    assert not torch.allclose(row(x, t), square(x, t), atol=1e-2), "the control: an outer row of one layer"


def test_a_row_unet_refuses_what_is_no_row_and_what_it_cannot_halve():
    net = UNet(3, 2, (8, 8, 8), dims=1)
    with pytest.raises(ValueError, match="images of 4x16 pixels: this network takes rows, of height 1") as caught:
        net(torch.zeros(1, 3, 4, 16), torch.zeros(1))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="images of 1x18 pixels: both sides must be divisible by 4"):
        net(torch.zeros(1, 3, 1, 18), torch.zeros(1))
    with pytest.raises(ValueError, match="images of 1x16 pixels: both sides must be divisible by 4"):
        UNet(3, 2, (8, 8, 8))(torch.zeros(1, 3, 1, 16), torch.zeros(1))


@pytest.mark.parametrize("dims", [2, 1])
def test_dit_begins_at_zero_and_depends_on_time_and_on_far_pixels(dims):
    torch.manual_seed(0)
    net = DiT(3, 2, width=16, depth=2, heads=2, patch=4, dims=dims)
    h = 1 if dims == 1 else 8
    x, t = torch.randn(2, 3, h, 24), torch.tensor([0.1, 0.9])
    assert net(x, t).shape == (2, 2, h, 24) and (net(x, t) == 0).all()
    for w in net.parameters():
        torch.nn.init.normal_(w, std=0.1)
    assert not torch.allclose(net(x, t), net(x, t.flip(0)), atol=1e-3)
    far = x.clone()
    far[..., -1, -1] += 1
    assert not torch.allclose(net(x, t)[..., 0, 0], net(far, t)[..., 0, 0], atol=1e-4)
    assert torch.allclose(net(x, t)[:1], net(x[:1], t[:1]), atol=1e-5), "examples do not see one another"
    assert net(torch.randn(2, 3, h, 8), t).shape == (2, 2, h, 8), "any image of whole patches"


def test_dit_knows_where_its_patches_are():
    """The same patch everywhere has an answer of its own at every place, in rows as in columns."""
    net, t = DiT(1, 1, width=16, depth=1, heads=2, patch=2), torch.zeros(1)
    for w in net.parameters():
        torch.nn.init.normal_(w, std=0.3)
    outputs = net(torch.ones(1, 1, 2, 2).repeat(1, 1, 4, 3), t).unfold(2, 2, 2).unfold(3, 2, 2).reshape(12, 4)
    assert (torch.cdist(outputs, outputs) + 9 * torch.eye(12)).min() > 1e-2
    row = DiT(1, 1, width=16, depth=1, heads=2, patch=2, dims=1)
    outputs = row(torch.ones(1, 1, 1, 8), t)
    assert torch.equal(outputs, torch.zeros(1, 1, 1, 8)), "the control: untrained, all are zero"


@pytest.mark.parametrize("dims", [2, 1])
def test_dit_counts_its_parameters(dims):
    i, o, w, patch, pairs = 3, 2, 16, 4, 6
    net, pixels = DiT(i, o, w, 3, 2, patch, pairs, dims), patch if dims == 1 else patch**2
    time = 2 * pairs * w + w + w * w + w
    attention = 3 * (w * w + w) + w * w + w
    layers = 4 * w * w + 4 * w + 4 * w * w + w
    block = attention + layers + 6 * (w * w + w)
    ends = (pixels * i * w + w) + 2 * (w * w + w) + (pixels * w * o + o)
    assert sum(x.numel() for x in net.parameters()) == time + 3 * block + ends


def test_every_parameter_of_a_dit_is_trained():
    net, x, t = DiT(1, 1, width=8, depth=2, heads=2, patch=2), torch.randn(4, 1, 4, 4), torch.linspace(0, 1, 4)
    reached, optimizer = set(), torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(4):
        optimizer.zero_grad()
        (net(x, t) - x.flip(0)).square().mean().backward()
        reached_now = {name for name, w in net.named_parameters() if w.grad.abs().max() > 1e-9}
        first_step_reaches_all = "unpatchify.weight" in reached_now and "patch_embed.weight" in reached_now
        assert step or not first_step_reaches_all, "at zero, not all is reached at once"
        reached |= reached_now
        optimizer.step()
    assert reached == {name for name, _ in net.named_parameters()}


def test_activation_checkpointing_computes_each_block_again_and_changes_nothing_else():
    torch.manual_seed(0)
    net, calls = DiT(2, 3, width=8, depth=3, heads=2, patch=2).double(), []
    for w in net.parameters():
        torch.nn.init.normal_(w, std=0.3)
    for block in net.blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(0))
    x, t, results = torch.randn(2, 2, 4, 6).double(), torch.tensor([0.1, 0.9]).double(), []
    for checkpointing, forward_calls, backward_calls in ((False, 3, 0), (True, 3, 3)):
        net.activation_checkpointing = checkpointing
        net.zero_grad()
        output = net(x, t)
        assert len(calls) == forward_calls
        output.square().sum().backward()
        assert len(calls) == forward_calls + backward_calls
        results.append([output.detach(), *(w.grad for w in net.parameters())])
        calls.clear()
    for plain, checkpointed in zip(*results, strict=True):
        assert plain.abs().max() > 1e-6
        torch.testing.assert_close(checkpointed, plain, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(net(x, t), results[0][0], rtol=1e-12, atol=1e-12)
    assert len(calls) == 3, "without gradients, nothing is computed again"


def test_the_blocks_of_a_dit_get_the_channels_of_a_patch_side_by_side():
    net, layouts = DiT(2, 3, width=8, depth=2, heads=2, patch=2), []
    for block in net.blocks:
        block.register_forward_pre_hook(lambda _, inputs: layouts.append(inputs[0].is_contiguous()))
    net(torch.randn(2, 2, 4, 6), torch.zeros(2))
    assert layouts == [True, True]


def test_dit_refuses_what_is_not_whole_patches():
    for net, shape, message in (
        (
            DiT(3, 2, 16, 1, 2, 4),
            (1, 3, 8, 10),
            r"images of 8x10 pixels: sides must be multiples of a patch's \(4, 4\)",
        ),
        (DiT(3, 2, 16, 1, 2, 4), (1, 3, 1, 8), "images of 1x8 pixels: sides must be multiples"),
        (DiT(3, 2, 16, 1, 2, 4, dims=1), (1, 3, 1, 10), r"images of 1x10 pixels.*multiples of a patch's \(1, 4\)"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            net(torch.zeros(shape), torch.zeros(1))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="a multiple of 4 and of heads, got 18 with 3 heads"):
        DiT(3, 2, width=18, heads=3)
    with pytest.raises(ValueError, match="got 16 with 3 heads"):
        DiT(3, 2, width=16, heads=3)
    with pytest.raises(ValueError, match="positive sizes.*depth=0"):
        DiT(3, 2, depth=0)


def test_an_encoder_answers_numbers_and_learns_with_all_its_weights():
    torch.manual_seed(0)
    network = Encoder(3, 5, 16, widths=(8, 16, 16), num_blocks=2, hidden=12)
    x, t = torch.randn(4, 3, 16, 16), torch.rand(4)
    assert network(x, t).shape == (4, 5) and not network(x, t).any(), "untrained it answers zero"
    for w in network.parameters():
        torch.nn.init.normal_(w, std=0.2)
    network(x, t).square().sum().backward()
    assert all(w.grad.abs().max() > 0 for w in network.parameters())
    assert (network(x, t) - network(x, 1 - t)).abs().max() > 1e-3, "it is told the time"
    assert torch.allclose(network(x, t)[1:2], network(x[1:2], t[1:2]), atol=1e-5), "images do not see each other"


def test_an_encoder_refuses_images_of_another_size():
    with pytest.raises(ValueError, match="18x18 pixels: both sides must be divisible by 4"):
        Encoder(3, 5, 18, widths=(8, 8, 8))
    with pytest.raises(ValueError, match="images of 8x16 pixels: this network takes 16x16"):
        Encoder(3, 5, 16, widths=(8, 8))(torch.zeros(1, 3, 8, 16), torch.zeros(1))
    with pytest.raises(ValueError, match="widths must be multiples of 8"):
        Encoder(3, 5, 16, widths=(8, 12))
