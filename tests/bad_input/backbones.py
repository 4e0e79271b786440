"""Bad input to fwdiff_lite.backbones."""

import math

import torch

from fwdiff_lite.backbones import MLP, DiT, Encoder, ResidualMLP, UNet, timestep_embedding

T = torch.full((2,), 0.5)
VECTORS, IMAGES = torch.zeros(2, 3), torch.zeros(2, 3, 8, 8)
NETWORKS = {
    "MLP": (MLP(3, 2, width=8, depth=1), VECTORS),
    "ResidualMLP": (ResidualMLP(3, 2, width=8, depth=1), VECTORS),
    "UNet": (UNet(3, 2, widths=(8, 8), num_blocks=1), IMAGES),
    "Encoder": (Encoder(3, 2, 8, widths=(8, 8), hidden=8), IMAGES),
    "DiT": (DiT(3, 2, width=8, depth=1, heads=2), IMAGES),
}
ROWS_UNET = UNet(3, 2, widths=(8, 8), num_blocks=1, dims=1)


def calls(name, network, x):
    """Wrong inputs of one network."""
    return [
        (f"{name} channels", lambda: network(torch.cat([x, x], 1), T), r"got x of shape \(2, 6.* wanted \(B, 3"),
        (f"{name} no batch", lambda: network(x[0], T), "got x of shape"),
        (f"{name} two times", lambda: network(x, T[:1]), r"got t of shape \(1,\), wanted \(2,\)"),
        (f"{name} time column", lambda: network(x, T[:, None]), r"got t of shape \(2, 1\), wanted \(2,\)"),
        (f"{name} integers", lambda: network(x.long(), T), "got x of torch.int64"),
        (f"{name} double", lambda: network(x.double(), T), "got x of torch.float64.* convert it to torch.float32"),
        (f"{name} double time", lambda: network(x, T.double()), "got t of torch.float64"),
        (f"{name} empty batch", lambda: network(x[:0], T[:0]), None),
        (f"{name} nan", lambda: network(x * math.nan, T), None),  # Observations.check finds it, once a sample
    ]


CASES = [
    *(case for name, (network, x) in NETWORKS.items() for case in calls(name, network, x)),
    ("timestep_embedding column", lambda: timestep_embedding(T[:, None]), r"got t of shape \(2, 1\)"),
    ("timestep_embedding integers", lambda: timestep_embedding(T.long()), "torch.int64, wanted .* a floating type"),
    ("MLP width zero", lambda: MLP(3, 2, width=0), "positive sizes.*width=0"),
    ("MLP half a unit", lambda: MLP(3, 2, width=8.5), "positive sizes.*width=8.5"),
    ("MLP depth", lambda: MLP(3, 2, depth=0), "positive sizes.*depth=0"),
    ("MLP dropout", lambda: MLP(3, 2, dropout=1.5), "got dropout = 1.5"),
    ("MLP dropout nan", lambda: MLP(3, 2, dropout=math.nan), "got dropout = nan"),
    ("ResidualMLP features", lambda: ResidualMLP(0, 2), "positive sizes.*in_features=0"),
    ("ResidualMLP dropout", lambda: ResidualMLP(3, 2, dropout=-0.1), "got dropout = -0.1"),
    ("UNet no widths", lambda: UNet(3, 2, widths=()), "positive sizes.*width=0"),
    ("UNet widths", lambda: UNet(3, 2, widths=(12,)), "multiples of 8"),
    ("UNet dims", lambda: UNet(3, 2, widths=(8,), dims=3), "got dims = 3, wanted 2 for images or 1"),
    ("UNet attention", lambda: UNet(3, 2, widths=(8,), num_attention_levels=-1), "num_attention_levels = -1"),
    ("UNet more attention than levels", lambda: UNet(3, 2, widths=(8,), num_attention_levels=9), None),
    ("UNet odd side", lambda: NETWORKS["UNet"][0](IMAGES[..., :7], T), "8x7 pixels: both sides must be divisible by 2"),
    ("UNet rows", lambda: ROWS_UNET(IMAGES, T), "takes rows, of height 1"),
    ("Encoder side zero", lambda: Encoder(3, 2, 0, widths=(8, 8)), "got side = 0"),
    ("Encoder other side", lambda: NETWORKS["Encoder"][0](IMAGES[..., :4], T), "takes 8x8"),
    ("DiT heads zero", lambda: DiT(3, 2, width=8, heads=0), "got heads = 0"),
    ("DiT patch zero", lambda: DiT(3, 2, width=8, patch=0), "got patch = 0"),
    ("DiT width", lambda: DiT(3, 2, width=10, heads=2), "multiple of 4 and of heads"),
    ("DiT dims", lambda: DiT(3, 2, width=8, dims=3), "got dims = 3"),
    ("DiT side", lambda: NETWORKS["DiT"][0](IMAGES[..., :6], T), "multiples of a patch"),
]
