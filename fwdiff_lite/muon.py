"""Muon, the optimiser of hidden matrices: momentum, made orthogonal before it is subtracted from the weights.

AdamW scales each number of a gradient by itself. Muon scales the singular values of a matrix's momentum instead, to
about 1 each, so that all directions of the matrix move equally far (Jordan et al. 2024). The first and the last layers
of a network, its biases and its norms keep AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

SMALLEST_SIDE = 9  # rows and columns that a matrix needs: with fewer, it has hardly any directions to balance
NEWTON_SCHULZ_STEPS = 5
NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x^3 and x^5 (Jordan et al. 2024)
UPDATE_RMS = 0.2  # of each number of an update, about that of AdamW (Liu et al. 2025)


def hidden_matrices(network: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon trains: those of the hidden linear layers and convolutions that require a gradient.

    A module names its first and last layers, or modules that hold them, in `outer_layers`. Where no module of the
    network does so, these are the first and the last layer. A matrix with less than SMALLEST_SIDE rows or columns is
    left out. ValueError if there is no hidden matrix.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | _ConvNd)]
    named = [module.get_submodule(name) for module in network.modules() for name in getattr(module, "outer_layers", ())]
    outer = set(chain.from_iterable(part.modules() for part in named)) or {*layers[:1], *layers[-1:]}
    weights = [layer.weight for layer in layers if layer not in outer and layer.weight.requires_grad]
    weights = [w for w in dict.fromkeys(weights) if min(_matrix_shape(w)) >= SMALLEST_SIDE]
    if not weights:
        raise ValueError(
            f"{type(network).__name__} has no hidden matrix of {SMALLEST_SIDE} rows and columns for Muon: leave out "
            "muon_learning_rate"
        )
    return weights


def orthogonalize(matrices: Float[Tensor, "n r c"]) -> Float[Tensor, "n r c"]:
    """Each matrix U S V^T as about U V^T, by Newton-Schulz steps: most singular values end between 0.7 and 1.2.

    A matrix of zeros stays one. On a GPU the steps run in bfloat16.
    """
    dtype, transposed = matrices.dtype, matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if transposed else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(dtype).tiny)  # no singular value is above 1
    if x.device.type == "cuda":
        x = x.bfloat16()
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b gram + c gram^2
        x = torch.baddbmm(x, polynomial, x, beta=a)  # a x + polynomial x
    return (x.mT if transposed else x).to(dtype)


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz (Jordan et al. 2024), with updates of rms UPDATE_RMS (Liu et al. 2025).

    A kernel (O, I, *k) counts as a matrix of O rows. Matrices of one shape are updated at once. Weight decay is
    decoupled from the gradient, as in AdamW.

    found_inf: as of torch's fused optimisers: a tensor above 0 if the gradients are not finite. Then a step changes
        neither weights nor state; no GPU has to be waited for. None: gradients are finite
    """

    found_inf: Tensor | None = None

    def __init__(self, params: Iterable[Tensor], lr: float = 2e-3, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """One update of all weights that have a gradient."""
        for group in self.param_groups:
            weights_of_shape: dict[Any, list[Tensor]] = {}
            for w in group["params"]:
                if w.grad is not None:
                    weights_of_shape.setdefault((w.device, w.dtype, _matrix_shape(w)), []).append(w)
            for (_, _, shape), weights in weights_of_shape.items():
                self._update(weights, shape, group)

    def _update(self, weights: list[Tensor], shape: tuple[int, int], group: dict[str, Any]) -> None:
        """One update of weights that are matrices of one shape."""
        for w in weights:
            if not self.state[w]:
                self.state[w]["momentum_buffer"] = torch.zeros_like(w)
        buffers = [self.state[w]["momentum_buffer"] for w in weights]
        gradient = torch.stack([w.grad.reshape(shape) for w in weights])
        buffer = torch.stack([x.reshape(shape) for x in buffers])
        if self.found_inf is not None:  # the momentum stays, as the mean of itself and itself
            gradient = torch.where(self.found_inf > 0, buffer, gradient)
        buffer = buffer.lerp(gradient, 1 - group["momentum"])
        update = orthogonalize(gradient.lerp(buffer, group["momentum"])) * (UPDATE_RMS * max(shape) ** 0.5)
        rate = group["lr"] if self.found_inf is None else group["lr"] * (1 - self.found_inf)
        torch._foreach_copy_(buffers, [x.view_as(w) for x, w in zip(buffer, weights, strict=True)])
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
        torch._foreach_sub_(weights, [x.view_as(w) for x, w in zip(rate * update, weights, strict=True)])


def _matrix_shape(w: Tensor) -> tuple[int, int]:
    """Rows and columns of a weight as a matrix."""
    return len(w), w[0].numel()
