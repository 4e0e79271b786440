"""Time-conditioned networks that know no problem: numbers in, numbers out."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def time_features(t: Float[Tensor, "b"], pairs: int = 6) -> Float[Tensor, "b f"]:
    """Sines and cosines of pi t / 2 times 1, 2, 4, ...: f = 2 pairs features of time in [0, 1]."""
    frequencies = (math.pi / 2) * 2.0 ** torch.arange(pairs, device=t.device, dtype=t.dtype)
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def _check_sizes(inputs: int, outputs: int, width: int, depth: int, pairs: int) -> None:
    if min(inputs, outputs, width, depth, pairs) < 1:
        raise ValueError(f"a network needs positive sizes, got {inputs=}, {outputs=}, {width=}, {depth=}, {pairs=}")


class MLP(nn.Module):
    """`depth` hidden layers of `width` SiLU units between `inputs` numbers with their time and `outputs` numbers.

    dropout: share of the hidden units silenced in training, against over-confidence on small training sets
    """

    def __init__(
        self, inputs: int, outputs: int, width: int = 128, depth: int = 3, dropout: float = 0.0, pairs: int = 6
    ):
        super().__init__()
        _check_sizes(inputs, outputs, width, depth, pairs)
        self.pairs = pairs
        sizes = [inputs + 2 * pairs] + [width] * depth
        layers: list[nn.Module] = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(a, b), nn.SiLU(inplace=True)]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, x: Float[Tensor, "b i"], t: Float[Tensor, "b"]) -> Float[Tensor, "b o"]:
        """The network's answer at time t."""
        return self.layers(torch.cat([x, time_features(t, self.pairs)], 1))


class ResidualMLP(nn.Module):
    """As MLP, with `depth` residual blocks of two layers each: trains faster where inputs must be copied or refined.

    dropout: share of the hidden units silenced in training, against over-confidence on small training sets
    """

    def __init__(
        self, inputs: int, outputs: int, width: int = 384, depth: int = 2, dropout: float = 0.0, pairs: int = 6
    ):
        super().__init__()
        _check_sizes(inputs, outputs, width, depth, pairs)
        self.pairs = pairs

        def layer(drop: float) -> list[nn.Module]:
            return [nn.SiLU(), nn.Dropout(drop), nn.Linear(width, width)]

        self.first = nn.Linear(inputs + 2 * pairs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), *layer(dropout), *layer(dropout)) for _ in range(depth)
        )
        self.last = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, outputs))

    def forward(self, x: Float[Tensor, "b i"], t: Float[Tensor, "b"]) -> Float[Tensor, "b o"]:
        """The network's answer at time t."""
        h = self.first(torch.cat([x, time_features(t, self.pairs)], 1))
        for block in self.blocks:
            h = h + block(h)
        return self.last(h)
