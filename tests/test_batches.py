"""Batches of data sets: padded, in epochs, by several workers, resumed in the middle; and the same on all processes."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fwdiff_lite.batches import EpochBatches, collate
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.toy import projections as p
from fwdiff_lite.training import fit
from tests import training_script
from tests.test_training import run_on_two_processes

UNUSED = torch.Generator()  # an iterable draws from none


def observations(m, value=1.0, b=1):
    return Observations(torch.full((b, m, 2), value), torch.full((b, m, 3), 10 * value))


def test_collate_pads_with_masked_observations():
    batch = collate(
        [{"context": observations(3), "x": torch.ones(1, 5)}, {"context": observations(1, 2.0), "x": torch.zeros(1, 5)}]
    )
    context = batch["context"]
    assert context.mask.tolist() == [[True, True, True], [True, False, False]]
    assert context.value[:, :, 0].tolist() == [[1, 1, 1], [2, 0, 0]]
    assert context.params[:, :, 0].tolist() == [[10, 10, 10], [20, 20, 20]], "parameters that a forward model can take"
    assert batch["x"].shape == (2, 5)
    empty = collate([{"context": observations(0)}, {"context": observations(2)}])["context"]
    assert empty.mask.tolist() == [[False, False], [True, True]] and (empty.params == 10).all()
    masked = observations(1).mask_out(torch.ones(1, 1, dtype=torch.bool))
    assert collate([{"a": masked}, {"a": observations(2)}])["a"].mask.tolist() == [[False, False], [True, True]]


def test_an_epoch_has_every_batch_once_and_a_seed_decides_the_order():
    loader = DataLoader([{"i": i} for i in range(8)], batch_size=2, shuffle=True)

    def epochs(seed, count=8):
        batches = EpochBatches(loader, seed)
        return torch.stack([batches(UNUSED)["i"] for _ in range(count)]), batches.position

    torch.manual_seed(1)
    before = torch.get_rng_state()
    values, position = epochs(0)
    assert torch.equal(torch.get_rng_state(), before), "torch's global random numbers are as they were"
    assert position == (1, 4) and epochs(0, 5)[1] == (1, 1)
    assert [sorted(epoch.flatten().tolist()) for epoch in values.split(4)] == [list(range(8))] * 2
    assert not torch.equal(values[:4], values[4:])
    torch.manual_seed(2)
    assert torch.equal(epochs(0)[0], values) and not torch.equal(epochs(1)[0], values)


def test_an_epoch_is_resumed_after_the_batches_that_were_given():
    loader = DataLoader([{"i": i} for i in range(6)], batch_size=2, shuffle=True)
    batches = EpochBatches(loader, 3)
    values = [batches(UNUSED)["i"] for _ in range(7)]
    for count in range(7):
        resumed = EpochBatches(loader, 3)
        resumed.position = (count // 3, count % 3) if count != 3 else (0, 3)  # 3: at the end of an epoch
        assert [x.tolist() for x in values[count:]] == [resumed(UNUSED)["i"].tolist() for _ in range(7 - count)]


class Augmented(Dataset):
    """Examples of the toy's problem with one or two contexts, whose targets get noise from torch's random numbers."""

    def __init__(self, noise=0.0):
        self.batch, self.noise = p.infinite_batches(p.make_prior(2), 24, 2)(torch.Generator().manual_seed(0)), noise

    def __len__(self):
        return 24

    def __getitem__(self, i):
        example = {name: x[[i]] for name, x in self.batch.items()}
        target = example["target"]
        noise = self.noise * torch.randn(target.value.shape) if self.noise else 0
        example["context"] = example["context"].select(slice(0, 1 + i % 2))
        return example | {"target": Observations(target.value + noise, target.params)}


def train(batches, **options):
    torch.manual_seed(0)
    model = p.build_diffusion(2, max_contexts=2, width=8, depth=1)
    log = fit(model, batches, **{"steps": 8, "progress": False, "warmup": 1} | options)
    return [w.detach() for w in model.parameters()], log


def loader(noise=0.0, **options):
    return DataLoader(Augmented(noise), batch_size=10, shuffle=True, collate_fn=collate, **options)


def test_workers_make_the_same_batches():
    """The last batch of an epoch has 4 examples; the others have 10."""
    _, log = train(loader())
    _, other_log = train(loader(num_workers=2))
    assert log.curve["loss"] == pytest.approx(other_log.curve["loss"], abs=1e-5)
    _, other_log = train(loader(), seed=1)
    assert log.curve["loss"] != pytest.approx(other_log.curve["loss"], abs=1e-2), "the control"


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_data_set_is_resumed_bit_for_bit(steps, tmp_path):
    """Within an epoch and at its end, with random numbers in the data set."""
    wanted, wanted_log = train(loader(0.1))
    full = loader(0.1)

    class Ending:
        """The batches, until an interrupt."""

        def __init__(self):
            self.count = 0

        def __iter__(self):
            for batch in full:
                if self.count == steps:
                    raise KeyboardInterrupt
                self.count += 1
                yield batch

    path = tmp_path / "run"
    _, log = train(Ending(), checkpoint=path)
    assert log.steps == steps and log.interrupted
    weights, log = train(loader(0.1), checkpoint=path)
    assert log.curve == wanted_log.curve and all(map(torch.equal, weights, wanted))


def test_two_processes_train_on_the_rows_of_one_loader(tmp_path):
    """The curve is that of one process. There, a weight without a gradient is named in one line."""
    run_on_two_processes(tmp_path / "two", loader=True, steps=12)
    two = json.loads(Path(tmp_path / "two.json").read_text())
    torch.manual_seed(0)
    model = p.build_diffusion(2, width=16, depth=2)
    log = fit(model, training_script.make_loader(), steps=12, warmup=5, seed=3, progress=False)
    assert two["processes"] == 2 and two["curve"]["loss"] == pytest.approx(log.curve["loss"], abs=1e-4)
    for rank in range(2):
        error = Path(tmp_path / f"two.{rank}.error").read_text()
        assert re.fullmatch("the denoiser's unused got no gradient, and several processes .*", error)


def test_a_wrong_batch_is_named_by_step_and_epoch():
    batch = next(iter(loader()))
    options = [batch, batch, {"context": batch["context"]}]
    with pytest.raises(ValueError, match='the batch at step 2 .number 2 of epoch 0. has no "target"'):
        train(options)
    generators = iter([batch, batch, batch | {"mask": 1}])
    with pytest.raises(ValueError, match='the batch at step 2 has a int as "mask"'):
        train(lambda generator: next(generators))


def test_a_batch_function_with_a_batch_size_alone_draws_whole_batches():
    model, make_batch = training_script.toy()

    class Batches:
        batch_size = 32

        def __call__(self, generator):
            return make_batch(generator)

    assert fit(model, Batches(), steps=1, progress=False).steps == 1
