"""The generator's training goes on where it stopped, bit for bit; judging tells good sets from bad ones."""

import numpy as np
import pytest
import torch
from torch import nn

from fwdiff_lite.experiments import gan_inversion as experiment
from fwdiff_lite.problems.gan_inversion import patches, portraits
from fwdiff_lite.schedule import CosineSchedule
from fwdiff_lite.storage import checkpoints
from fwdiff_lite.storage.files import read_json

CPU = torch.device("cpu")
TINY = {"resolution": 16, "z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 64, "channel_max": 8}


class Bright(nn.Module):
    """Reads one attribute, whether a picture is bright."""

    def forward(self, pictures):
        x = 4 * pictures.mean((1, 2, 3))
        return [torch.stack([-x, x], 1)]


def test_a_training_goes_on_where_it_stopped(tmp_path):
    pictures = experiment.drawn(40, CPU, 16)
    weights = []
    for name, parts in (("whole", (18,)), ("parts", (5, 18))):
        (tmp_path / name).mkdir()
        for steps in parts:  # a fresh process would begin with untrained networks, as here
            both = experiment.adversaries(CPU, **TINY)
            both.lesson = portraits.Lesson(nn.ModuleList([Bright()]), torch.ones(4, 3, 16, 16), 100.0)
            done = experiment.train_generator(both, pictures, tmp_path / name, 4, steps)
        assert done.steps == 18 and both.images == 72 and both.steps == 18
        assert set(done.curve) == {"generator", "lesson", "discriminator", "r1"}
        weights.append(torch.cat([w.flatten() for w in both.average.parameters()]))
    assert torch.equal(*weights)
    untrained = experiment.adversaries(CPU, **TINY).average
    assert not torch.equal(weights[0], torch.cat([w.flatten() for w in untrained.parameters()]))


def test_a_training_needs_a_budget(tmp_path):
    with pytest.raises(ValueError, match="needs a budget: give steps, seconds or both"):
        experiment.train_generator(experiment.adversaries(CPU, **TINY), experiment.drawn(40, CPU, 16), tmp_path)


@pytest.mark.parametrize("arm", experiment.ARMS)
def test_every_arm_learns_from_patches(tmp_path, arm):
    sizes = {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 256, "channel_max": 8}
    G = experiment.adversaries(CPU, **sizes).average
    model = experiment.untrained(arm, G, widths=(8, 8, 8, 8), hidden=16)
    whole = experiment.generated(G, 8, torch.Generator().manual_seed(0))
    done = experiment.train_inversion(model, lambda n, _: whole[:n], tmp_path, arm, 4, 2, steps=30)
    assert done.steps == 30 and (tmp_path / f"{arm}.state").exists()
    losses = done.curve["loss"]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_an_unknown_arm_is_refused():
    with pytest.raises(ValueError, match="unknown arm 'v': choose one of w, wplus, wplus_faint, deterministic"):
        experiment.untrained("v", experiment.adversaries(CPU, **TINY).average)


def test_generated_pictures_do_not_depend_on_the_lot():
    G = experiment.adversaries(CPU, **TINY).average
    whole = experiment.generated(G, 5, torch.Generator().manual_seed(0))
    parts = experiment.generated(G, 5, torch.Generator().manual_seed(0), lot=2)
    assert whole.shape == (5, 3, 16, 16) and torch.allclose(whole, parts, atol=1e-5)
    assert experiment.generated(G, 3, torch.Generator().manual_seed(0), 0.0).std(0).max() < 1e-5, "psi = 0: the mean"


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(0)
    reader = portraits.Reader(width=16)
    losses = portraits.train_reader(reader, 150, torch.Generator().manual_seed(0), size=32)
    assert losses[-1] < 0.4 * losses[0]
    return reader.eval()


def test_a_reader_learns_to_read(reader):
    people = portraits.draw_portraits(400, torch.Generator().manual_seed(1))
    right = (reader.read(portraits.render(people)) == people.attributes).double().mean(0)
    assert right[portraits.NAMES.index("hat")] > 0.97 and right.mean() > 0.85


def test_judging_tells_another_draw_from_a_set_without_hats(reader):
    first, second = (portraits.draw_portraits(600, torch.Generator().manual_seed(seed)) for seed in (2, 3))
    real, again = portraits.render(first), portraits.render(second)
    bare = portraits.render(second.changed("hat", 0))
    good, bad = (experiment.judge(fake, real, reader, few=300) for fake in (again, bare))
    assert good["worst_binary"] < 0.08 and bad["apart_hat"] > 0.15
    assert good["frechet"] < good["frechet_floor"] < bad["frechet"], "the floor is of half as many"
    assert min(good["precision"], good["recall"]) > 0.8 and bad["recall"] < good["recall"]


def test_true_draws_pass_the_examination_and_the_mean_does_not(reader):
    """Redrawn portraits in the place of samples: right odds and spread; one picture for all is none."""
    people = experiment.held_out(80, seed=5)
    paper = experiment.portrait_exam(people, seed=5)
    assert paper.given.shape == (80, 10) and all(len(odds) == 80 for odds in paper.odds.values())
    assert torch.equal(portraits.render(people), paper.pictures)
    generator, k = torch.Generator().manual_seed(6), 8
    drawings, hats = [], []
    for _ in range(k):  # what the context does not show, drawn from its odds; the rest is as it was
        attributes = people.attributes.clone()
        for i, odds in enumerate(paper.odds.values()):
            new = torch.multinomial(odds, 1, generator=generator)[:, 0]
            attributes[:, i] = torch.where(paper.given[:, i], attributes[:, i], new)
        other = portraits.Portraits(attributes, people.sizes)
        drawings.append(portraits.render(other))
        hats.append(portraits.render(other.changed("hat", 1)))
    drawn = torch.stack(drawings, 1)
    mean = drawn.mean(1, keepdim=True)
    read_mean = experiment.labels(reader, mean)
    good = experiment.score(paper, drawn, mean, experiment.labels(reader, drawn), read_mean)
    assert good["patch_psnr"] > 25 and good["diversity_outside_over_inside"] > 3
    assert good["energy_ratio"] < 0.8 and 0.8 < good["spread_skill"] < 1.2
    assert good["factor_tv_hat"] < 0.1, "hats are read well even by a reader of few steps"
    hats = torch.stack(hats, 1)
    bad = experiment.score(paper, hats, mean, experiment.labels(reader, hats), read_mean)
    assert bad["factor_tv_hat"] > 0.5 and bad["factor_tv"] >= bad["factor_tv_hat"]


def test_a_bank_agrees_with_draws_from_itself():
    generator = torch.Generator().manual_seed(0)
    people = portraits.draw_portraits(1200, generator)
    bank = portraits.render(people)
    paper = experiment.exam(portraits.render(portraits.draw_portraits(12, generator)))
    weights, _, _ = patches.bank_weights(patches.bank_distances(bank, paper.context))
    drawn = people.attributes[torch.multinomial(weights, 64, replacement=True, generator=generator)]
    found = experiment.bank_agreement(paper, drawn, bank, people.attributes)
    assert found["bank_least_size"] >= 50 - 1e-6
    assert found["bank_tv"] < 1.3 * found["bank_tv_chance"] + 0.01
    other = people.attributes[torch.randint(1200, (12, 64), generator=generator)]  # the prior
    assert experiment.bank_agreement(paper, other, bank, people.attributes)["bank_tv"] > 1.3 * found["bank_tv"]


def test_steps_of_sampling_keep_the_spread_where_the_noise_fits():
    """With Bayes' rule as denoiser only the steps can lose it. The plain cosine schedule does, unless they are many."""
    people = portraits.draw_portraits(300, torch.Generator().manual_seed(0))
    ours, plain = (experiment.without_error(people, schedule, 150) for schedule in (patches.SCHEDULE, CosineSchedule()))
    slow = experiment.without_error(people, CosineSchedule(), 150, steps=128)
    assert ours["spread"] > 0.96 and plain["spread"] < 0.93 and slow["spread"] > plain["spread"] + 0.05
    assert ours["tv"] < plain["tv"]


def test_answers_are_whole_pictures_from_one_or_many_targets():
    sizes = {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 256, "channel_max": 8}
    G = experiment.adversaries(CPU, **sizes).average
    paper = experiment.exam(experiment.generated(G, 2, torch.Generator().manual_seed(0)))
    assert paper.targets.shape == (2, 5, 3) and patches.patch_mask(paper.targets[:, 1:], 64).sum(1).eq(1).all()
    assert paper.targets[:, 0].tolist() == [[16, 16, 32]] * 2
    small = {"widths": (8, 8, 8, 8), "hidden": 16}
    single = experiment.answer(experiment.untrained("deterministic", G, **small), paper)
    assert single.shape == (2, 1, 3, 64, 64)
    drawn = experiment.answer(experiment.untrained("wplus", G, **small), paper, 3, targets=2)
    assert drawn.shape == (2, 3, 3, 64, 64)


def test_the_commands_from_end_to_end(tmp_path, monkeypatch, capsys):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(checkpoints, "root", lambda: tmp_path)
    small = {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 256, "channel_max": 8}
    monkeypatch.setattr(experiment.stylegan2, "SMALL", experiment.stylegan2.SMALL | small)
    monkeypatch.setattr(experiment, "STEPS", 1)

    def run(*words: str) -> dict:
        experiment.main([*words, "--out", str(tmp_path), "--batch", "4", "--portraits", "9"])
        assert capsys.readouterr().out.splitlines()[-1].startswith(f'{words[0]} {{"commit"')
        return read_json(tmp_path / f"{words[0]}.json")

    assert len(run("coaches", "--steps", "2")["coaches"]) == len(experiment.COACHES)
    assert run("generator", "--steps", "2")["images"] == 8
    assert set(run("reader", "--steps", "2")["numbers"]) == set(portraits.NAMES)
    assert run("judge", "--count", "20")["numbers"]["frechet"] > 0
    for arm in experiment.ARMS:
        assert run(arm, "--steps", "2")["command"].endswith(f"study {arm} --minutes 10 --batch 4")
    found = run("examine", "--count", "8", "--samples", "2", "--bank", "200")
    assert set(found["numbers"]) == {*experiment.CASES, "optimised", "bank"}
    assert found["numbers"]["bank"]["bank_least_size"] > 49
    assert set(map(float, found["without_error"])) == set(experiment.SCALES)
    with np.load(tmp_path / "examination.npz") as kept:
        few = experiment.EXAMPLES
        assert kept["wplus_eta_1"].shape == (few, 2, 3, 64, 64) and kept["deterministic"].shape == (few, 1, 3, 64, 64)

    monkeypatch.setattr("sys.argv", ["gan_study", "ship", "--out", str(tmp_path)])
    experiment.main()
    records, arrays = experiment.recorded()
    assert set(records) == {"coaches", "generator", "reader", "judge", *experiment.ARMS, "examine"}
    assert records["examine"]["numbers"] == found["numbers"] and arrays["live"].shape == (4, 2, 3, 64, 64)
    G, reader, model = experiment.shipped()
    for left, kept in zip(experiment.trained(tmp_path), (G, reader, model.denoiser), strict=True):
        left = getattr(left, "denoiser", left)
        assert all(torch.equal(x, y) for x, y in zip(left.parameters(), kept.parameters(), strict=True))
    paper = experiment.portrait_exam(experiment.held_out(8)).first(1)
    assert experiment.answer(model, paper, 2).shape == (1, 2, 3, 64, 64) and not G.training
    assert reader.read(experiment.generated(G, 2, torch.Generator().manual_seed(0))).shape == (2, 10)
    for entry in checkpoints.read_manifest().values():
        assert {"command", "commit", "gpu_minutes", "hardware", "licence", "metrics", "seed"} <= set(entry)
