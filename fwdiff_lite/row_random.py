"""Random numbers of the rows of a batch: those of a row depend on the batch's key and on the row's index alone.

So a process can draw its own rows of a batch without the others, and any number of processes draws the same batch. The
numbers come from NumPy's Philox, a counter-based generator (Salmon et al. 2011): the key is the batch's, and the index
of the row is a part of the counter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

NUMBERS_A_THREAD = 2**17  # as many take about a millisecond; to start a thread takes less
BLOCK = 64  # uniform numbers that are drawn at once: a call of NumPy for every row takes longer than a few numbers


def draw_key(generator: torch.Generator) -> int:
    """A key for `RowRandom`. The generator advances by one draw, however large the batch is."""
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


class RowRandom:
    """Random numbers of B rows of a batch, on the CPU.

    key: of the batch, from `draw_key`
    rows: the B indices of the rows
    """

    def __init__(self, key: int, rows: range):
        self._generators = [np.random.Generator(np.random.Philox(counter=[0, 0, 0, i], key=key)) for i in rows]
        self._block, self._used = torch.empty(len(rows), 0), 0

    def __len__(self) -> int:
        return len(self._generators)

    def uniform(self, low: float, high: float, *shape: int) -> Float[Tensor, "b *shape"]:
        """Uniform numbers from `low` to `high`."""
        count = math.prod(shape)
        if self._used + count > self._block.shape[1]:
            self._block, self._used = self._draw("random", max(count, BLOCK)), 0
        numbers = self._block[:, self._used : self._used + count].reshape(len(self), *shape)
        self._used += count
        return low + (high - low) * numbers

    def integers(self, high: int, *shape: int) -> Int[Tensor, "b *shape"]:
        """Uniform integers from 0 to below `high`."""
        return self.uniform(0, high, *shape).long().clamp(max=high - 1)  # rounding can give `high`

    def categories(self, probabilities: Float[Tensor, "b *f c"]) -> Int[Tensor, "b *f"]:
        """Indices of categories with these probabilities, which sum to 1."""
        u = self.uniform(0, 1, *probabilities.shape[1:-1])
        return (u[..., None] >= probabilities.cumsum(-1)[..., :-1]).sum(-1)

    def normal(self, *shape: int) -> Float[Tensor, "b *shape"]:
        """Standard normal numbers."""
        return self._draw("standard_normal", math.prod(shape)).view(len(self), *shape)

    def _draw(self, method: str, count: int) -> Float[Tensor, "b {count}"]:
        numbers = np.empty((len(self), count), np.float32)

        def fill(rows: range) -> None:
            for i in rows:
                getattr(self._generators[i], method)(dtype=np.float32, out=numbers[i])

        threads = min(torch.get_num_threads(), numbers.size // NUMBERS_A_THREAD)
        if threads > 1:  # NumPy does not hold the interpreter's lock while it fills a row
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(fill, [range(first, len(self), threads) for first in range(threads)]))
        else:
            fill(range(len(self)))
        return torch.from_numpy(numbers)


@dataclass(frozen=True)
class RowBatches:
    """A batch function that draws the rows of one process (protocols.RowBatchFunction).

    batch_size: rows of a batch, over all processes
    draw: makes the rows of a batch from their random numbers
    """

    batch_size: int
    draw: Callable[[RowRandom], dict[str, Any]]

    def __call__(self, generator: torch.Generator) -> dict[str, Any]:
        """The next batch."""
        return self.draw_rows(generator, slice(None))

    def draw_rows(self, generator: torch.Generator, rows: slice) -> dict[str, Any]:
        """These rows of the next batch."""
        return self.draw(RowRandom(draw_key(generator), range(self.batch_size)[rows]))
