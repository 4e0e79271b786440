"""A DataLoader of training examples of clips, whose processes decode the images; and how fast it is.

    loader = make_loader(clips, batch_size=96, num_workers=8)
    fit(model, loader, steps=1000)

Nothing holds the images of a data set in memory: a process decodes the frames of an example when it makes the example.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from fwdiff_lite.batches import collate
from fwdiff_lite.checks import check_count
from fwdiff_lite.datasets.posed_clips import Clip
from fwdiff_lite.datasets.view_sampler import FRAME_GAP, batches

EPOCH_BATCHES = 500  # batches of an epoch: a resumed training reads at most so many batches again


class SeededExamples(Dataset):
    """Random training examples of clips: the item of a seed is one row of `view_sampler.batches`, drawn from that seed.

    options: of `view_sampler.batches`
    """

    def __init__(self, clips: list[Clip], frame_gap: tuple[int, int] = FRAME_GAP, **options):
        self.draw = batches(clips, 1, frame_gap, **options)

    def __getitem__(self, seed: int) -> dict:
        return self.draw(torch.Generator().manual_seed(seed))


class SeedSampler(Sampler):
    """The seeds of an epoch's examples, from torch's global random numbers: `fit` seeds them for each epoch."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randint(2**62, (self.count,)).tolist())


def make_loader(
    clips: list[Clip],
    batch_size: int = 96,
    frame_gap: tuple[int, int] = FRAME_GAP,
    num_workers: int = 0,
    epoch_batches: int = EPOCH_BATCHES,
    **options,
) -> DataLoader:
    """A DataLoader for `fit` of batches as those of `view_sampler.batches`, whatever the number of workers.

    num_workers: processes that decode images, each a batch of its own; 0: this process decodes them
    epoch_batches: batches of an epoch; workers are started anew for each epoch
    options: of `view_sampler.batches`: pixels, side and max_contexts
    """
    check_count(batch_size=batch_size, epoch_batches=epoch_batches)
    return DataLoader(
        SeededExamples(clips, frame_gap, **options),
        batch_size,
        sampler=SeedSampler(batch_size * epoch_batches),
        num_workers=num_workers,
        collate_fn=collate,
    )


class ReadingRate(NamedTuple):
    """How fast a DataLoader makes batches: clips and frames a second, and the seconds to the first batch."""

    clips: float
    frames: float
    first_batch: float


def measure_reading_rate(loader: DataLoader, num_batches: int) -> ReadingRate:
    """The rate without the first batches, two a worker, which the workers make while they start.

    ValueError if an epoch of the loader has too few batches.
    """
    warmup = max(1, 2 * loader.num_workers)
    if warmup + num_batches > len(loader):
        raise ValueError(f"an epoch has {len(loader)} batches, wanted {warmup + num_batches} or more to measure a rate")
    start, iterator = time.perf_counter(), iter(loader)
    first = next(iterator)
    first_batch = time.perf_counter() - start
    for _ in islice(iterator, warmup - 1):
        pass
    start = time.perf_counter()
    for _ in islice(iterator, num_batches):
        pass
    seconds = time.perf_counter() - start
    frames = sum(first[name].value.shape[1] for name in ("context", "target", "novel"))
    clips = num_batches * len(first["target"]) / seconds
    return ReadingRate(clips, frames * clips, first_batch)
