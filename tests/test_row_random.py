"""Random numbers of a row depend on the key and the row alone, and have the stated distributions."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fwdiff_lite import row_random
from fwdiff_lite.row_random import RowBatches, RowRandom, draw_key


def test_a_row_has_the_same_numbers_whichever_other_rows_are_drawn():
    def draw(rows, key=5):
        random = RowRandom(key, rows)
        return torch.cat(
            [
                random.uniform(0, 1, 3),
                random.integers(7, 1),
                random.uniform(0, 1, 100),
                random.normal(2),
                random.uniform(0, 1, 1),
            ],
            1,
        )

    all_rows = draw(range(6))
    assert torch.equal(torch.cat([draw(range(2)), draw(range(2, 6))]), all_rows)
    assert torch.equal(draw(range(1, 6, 2)), all_rows[1::2])
    numbers = torch.cat([all_rows, draw(range(6), key=6)])[:, [0, 1, 2, 5, 104]]
    assert numbers.unique().numel() == numbers.numel(), "other rows and other keys have other numbers"


def test_threads_draw_the_same_numbers(monkeypatch):
    one_thread = RowRandom(5, range(7)).normal(3, 4)
    monkeypatch.setattr(row_random, "NUMBERS_A_THREAD", 20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    used = set()
    monkeypatch.setattr(row_random, "ThreadPoolExecutor", lambda n: used.add(n) or ThreadPoolExecutor(n))
    assert torch.equal(RowRandom(5, range(7)).normal(3, 4), one_thread) and used == {3}


def test_the_numbers_have_their_distributions():
    random = RowRandom(0, range(500))
    uniform, normal = random.uniform(-1, 3, 40).double(), random.normal(40).double()
    assert uniform.min() >= -1 and uniform.max() < 3
    assert uniform.mean() == pytest.approx(1, abs=0.04) and uniform.var() == pytest.approx(16 / 12, abs=0.04)
    assert normal.mean() == pytest.approx(0, abs=0.03) and normal.var() == pytest.approx(1, abs=0.04)
    neighbours = torch.corrcoef(normal)[0, 1:]
    assert neighbours.std() == pytest.approx(40**-0.5, rel=0.15), "rows are independent"
    counts = random.integers(3, 40).flatten().bincount()
    assert len(counts) == 3 and (counts / 20_000 - 1 / 3).abs().max() < 0.015
    p = torch.tensor([[0.5, 0.2, 0.3], [0.0, 1.0, 0.0]])
    shares = torch.stack([random.categories(p.expand(500, 2, 3)) for _ in range(40)])
    shares = torch.nn.functional.one_hot(shares, 3).double().mean((0, 1))
    torch.testing.assert_close(shares, p.double(), atol=0.015, rtol=0)


def test_a_batch_advances_the_generator_by_one_key():
    make_batch, generators = RowBatches(4, lambda random: {"x": random.uniform(0, 1, 2)}), []
    for rows in (None, slice(1, 2)):
        generators.append(torch.Generator().manual_seed(1))
        batch = make_batch(generators[-1]) if rows is None else make_batch.draw_rows(generators[-1], rows)
        assert len(batch["x"]) == (4 if rows is None else 1)
    assert draw_key(generators[0]) == draw_key(generators[1]) != draw_key(generators[1])
