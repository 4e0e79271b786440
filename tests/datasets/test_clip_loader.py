"""Batches of a DataLoader are those of a batch function, whatever the number of its processes."""

import re

import pytest
import torch
from clip_helpers import FRAME_GAP, generator

from fwdiff_lite.datasets import __main__ as command
from fwdiff_lite.datasets.clip_loader import make_loader, measure_reading_rate
from fwdiff_lite.datasets.view_sampler import batches


def assert_equal(batch: dict, other: dict) -> None:
    assert batch.keys() == other.keys()
    for name, x in batch.items():
        pairs = [(x, other[name])]
        if not isinstance(x, torch.Tensor):
            pairs = [(getattr(x, part), getattr(other[name], part)) for part in ("value", "params", "mask")]
        assert all(torch.equal(a, b) for a, b in pairs), name


def test_batches_do_not_depend_on_the_number_of_workers_and_differ_between_epochs(clips):
    """An example is what a batch function draws from its seed."""
    epochs = []
    for num_workers in (0, 2):
        loader = make_loader(clips, 2, FRAME_GAP, num_workers, 3, pixels=5, side=8, max_contexts=2)
        torch.manual_seed(3)
        epochs.append(list(loader))
    assert len(epochs[0]) == len(loader) == 3
    for batch, other in zip(*epochs, strict=True):
        assert_equal(batch, other)
    assert_equal(loader.dataset[5], batches(clips, 1, FRAME_GAP, 5, 8, max_contexts=2)(generator(5)))
    torch.manual_seed(4)
    assert not torch.equal(next(iter(loader))["target"].value, epochs[0][0]["target"].value)


def test_a_rate_counts_the_clips_and_frames_of_batches(clips):
    loader = make_loader(clips, 2, FRAME_GAP, 0, 4, side=8, max_contexts=2)
    rate = measure_reading_rate(loader, 3)
    assert rate.frames == 4 * rate.clips > 0 and rate.first_batch > 0
    with pytest.raises(ValueError, match="an epoch has 4 batches, wanted 5 or more to measure a rate"):
        measure_reading_rate(loader, 4)
    with pytest.raises(ValueError, match="got batch_size = 0, wanted a whole number"):
        make_loader(clips, 0, FRAME_GAP)
    with pytest.raises(ValueError, match="clip00 has no two frames 50 to 60 apart with a frame between them"):
        make_loader(clips, 2, (50, 60))


def test_the_benchmark_prints_a_rate_for_each_number_of_workers(written, capsys):
    words = ("benchmark", written[0], "--frame-gap", 8, 16, "--batch-size", 2, "--side", 8, "--batches", 2, "--workers")
    with pytest.raises(SystemExit) as stop:
        command.main([str(word) for word in (*words, 1, 2)])
    output = capsys.readouterr().out
    assert stop.value.code == 0 and "3 clips" in output
    rates = re.findall(r"(\d) workers: [\d.]+ clips/s, \d+ frames/s at 8 x 8; the first batch after", output)
    assert rates == ["1", "2"]
    for number in (0, -1):
        with pytest.raises(SystemExit):
            command.main([str(word) for word in (*words, number)])
        assert f"{number} is no whole number above 0" in capsys.readouterr().err
