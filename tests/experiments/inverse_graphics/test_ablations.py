"""The comparisons: every row of the table answers the same examination, and what is measured of it is what is said."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from fwdiff_lite.colours import to_uint8
from fwdiff_lite.experiments.inverse_graphics import ablations, evaluation, train
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.storage.files import read_json, write_json

SIDE, COUNT, K = 32, 8, 4
SMALL = {"width": 8, "widths": (8, 16), "samples": 4}
build_model = train.build_model
TOY = ablations.EvalConfig(count=2, steps=1, side=16, batch=16)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def paper():
    return evaluation.exam(COUNT, K, side=SIDE)


@pytest.fixture(scope="module")
def few():
    return evaluation.exam(2, 2, side=16)


def awake(arm, **options):
    """A small model whose encoder does not answer zero."""
    model = build_model(arm, **({"side": 16} | SMALL | options)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=seeded(len(weights)))
    return model


# --- measures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(paper):
    points, means = ablations.consistency_points(paper), paper.redrawn.mean(1, keepdim=True)
    found = {}
    for name in ("redrawn", "mixed", "prior"):
        row = replace(ablations.ABLATIONS[name], degrees=evaluation.BACK_ANGLES)
        found[name] = ablations.measure(paper, row.answer(None, paper, K)[:, :, 2:], means, row, points)
    return found


def test_true_draws_show_what_a_perfect_sampler_would_score(measured):
    redrawn, shuffle_views, prior = (measured[name]["numbers"] for name in ("redrawn", "mixed", "prior"))
    assert redrawn["energy_skill_180"] == redrawn["novel_energy_skill_180"] == pytest.approx(1, abs=1e-6)
    assert shuffle_views["energy_180"] == redrawn["energy_180"], "view by view the same"
    assert shuffle_views["consistency_180"] < redrawn["consistency_180_low"] - 9, "but not together"
    assert prior["energy_180"] > 1.1 * redrawn["energy_180"]
    assert 0.8 < prior["set_distance_180"] < 1.2, "of the fresh scenes that it should follow"
    assert set(measured["prior"]["each"]) == {"energy_180", "novel_energy_180"}, "its scenes are others"
    assert redrawn["lean_low"] < 0 < redrawn["lean_high"]
    each = measured["redrawn"]["each"]
    assert np.mean(each["energy_180"]) == pytest.approx(redrawn["energy_180"], rel=1e-4)
    assert 10 * np.log10(4 / np.mean(each["consistency_180"])) == pytest.approx(redrawn["consistency_180"], abs=1e-3)


def test_what_has_no_error_has_no_decibels(paper, tmp_path):
    answers, means = paper.redrawn.clone(), paper.redrawn.mean(1, keepdim=True)
    answers[:, 0] = paper.truth
    row = replace(ablations.ABLATIONS["redrawn"], degrees=evaluation.BACK_ANGLES)
    told = ablations.measure(paper, answers[:, :, 2:], means, row, ablations.consistency_points(paper))
    write_json(tmp_path / "row.json", told)  # refuses what is not finite
    assert "psnr_seen_180" not in told["numbers"] and "energy_180" in told["numbers"]


def test_a_single_answer_is_judged_by_its_distance(paper):
    row, means = ablations.ABLATIONS["deterministic"], paper.redrawn.mean(1, keepdim=True)
    told = ablations.measure(paper, means, means, row, ablations.consistency_points(paper))
    assert "spread_skill_180" not in told["numbers"]
    distance = (means[:, 0, 2, 0] - paper.truth[:, 2, 0]).flatten(1).norm(dim=1)
    torch.testing.assert_close(torch.tensor(told["each"]["energy_180"]), distance, rtol=1e-4, atol=0)


def test_who_always_takes_the_likeliest_leans_by_all_that_it_lacks():
    scenes = tabletop.draw_scenes(40, seeded())
    odds, likeliest = scenes.factor_probabilities.max(-1)
    labels = likeliest[..., None].expand(-1, -1, 3)
    assert ablations.lean(labels, scenes, seeded()).value == pytest.approx(1 - float(odds.mean()), abs=1e-6)
    true = torch.multinomial(scenes.factor_probabilities.flatten(0, 1), 400, True, generator=seeded(1)).view(40, 2, 400)
    assert abs(ablations.lean(true, scenes, seeded()).value) < 0.02


def test_sets_of_pictures_are_as_far_apart_as_true_draws_or_farther():
    truth, others, again = torch.randn(3, 40, 4, 3, 4, 4, generator=seeded())
    assert ablations.relative_sliced_w2(again, truth, others) == pytest.approx(1, abs=0.15)
    assert ablations.relative_sliced_w2(0.5 * again, truth, others) > 1.5
    assert ablations.relative_sliced_w2(again.mean(1, keepdim=True).expand_as(again), truth, others) > 1.5


def test_a_samplers_own_picture_is_judged_beside_its_scene(paper):
    behind, means = paper.redrawn[:, :, 2:], paper.redrawn.mean(1, keepdim=True)
    answers = torch.cat([behind, behind[:, :, :, :1] + 0.1], 3)
    row, points = ablations.ABLATIONS["guidance_2"], ablations.consistency_points(paper)
    numbers = ablations.measure(paper, answers, means, row, points)["numbers"]
    assert numbers["picture_lean"] == numbers["lean"] and numbers["picture_energy_180"] > numbers["energy_180"]


def test_against_another_row_pairs_their_scenes():
    ours = {
        "energy_180": torch.rand(50, generator=seeded()).add(1).tolist(),
        "novel_energy_60": [2.0] * 50,
        "consistency_60": [0.01] * 50,
        "more": [1.0],
    }
    theirs = {"energy_180": [1.1 * x for x in ours["energy_180"]], "consistency_60": [0.1] * 50}
    theirs["novel_energy_60"] = [2.0] * 50
    gains = ablations.paired_gains(ours, theirs)
    assert set(gains) == {"energy_180", "novel_energy_60", "consistency_60", "energies"}
    assert gains["energy_180"].value == pytest.approx(0.1, abs=1e-6) and gains["energy_180"].low > 0.09
    first = sum(ours["energy_180"])
    assert gains["energies"].value == pytest.approx(0.1 * first / (first + 100), abs=1e-6)
    assert gains["consistency_60"] == pytest.approx((10, 10, 10), abs=1e-6)
    assert ablations.paired_gains(theirs, theirs)["energy_180"] == (0, 0, 0)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_a_model_of_views_draws_every_view_by_itself(few):
    model = awake("view_space")
    answers = ablations.sample_view_space(model, few, 2, 2, 0.0, chunk=12)
    assert answers.shape == (2, 2, 3, 2, 3, 16, 16)
    again = ablations.sample_view_space(model, few, 2, 2, 0.0, chunk=24)
    assert (again[0] - answers[0]).abs().max() < 1e-4, "the first lot has the same noise"
    assert (answers[:, 0] - answers[:, 1]).abs().max() > 1e-3, "samples differ"


def test_a_deterministic_scene_is_seen_by_both_cameras(few):
    model = awake("deterministic")
    answers = ablations.sample_deterministic(model, few, 8, 1, 0.0, chunk=1)
    assert answers.shape == (2, 1, 3, 2, 3, 16, 16)
    asked = evaluation.answer(model, few)
    torch.testing.assert_close(answers[:, :, :, 0], asked[:, :, :, 0], atol=1e-5, rtol=0)
    assert (answers[:, :, :, 1] - asked[:, :, :, 1]).abs().max() > 1e-4, "the control: the novel view, asked by itself"


def test_guidance_moves_the_samplers_picture_away_from_its_scene(few):
    model, apart = awake("guided"), []
    for options in ({}, {"guidance": 3.0}):
        answers = ablations.sample_with_options(model, few, 2, 1, 0.0, 64, **options)
        assert answers.shape == (2, 2, 1, 3, 3, 16, 16)
        scene, _, picture = answers[:, :, 0].unbind(2)
        apart.append((scene - picture).square().mean().sqrt())  # a sampler's picture has one ray a pixel
    assert apart[1] > 1.02 * apart[0]


def test_without_a_context_answers_do_not_depend_on_it(few):
    model = awake("unconditional")
    answers = ablations.sample_unconditional(model, few, 2, 1, 1.0, 64)
    flipped = replace(few, context=few.context[[1, 0]])
    assert torch.equal(ablations.sample_unconditional(model, flipped, 2, 1, 1.0, 64), answers)
    told = evaluation.answer(awake("unet"), few, 2, 1, 1.0)
    assert not torch.equal(evaluation.answer(awake("unet"), flipped, 2, 1, 1.0), told), (
        "the control: a context that is there"
    )


def test_two_pictures_of_a_front_hide_the_same(paper):
    two = ablations.with_second_context(paper).context
    assert two.value.shape == (COUNT, 2, 3, SIDE, SIDE) and torch.equal(two.select([0]).value, paper.context.value)
    others = tabletop.resample_hidden(paper.scenes, seeded(5))
    assert (tabletop.render(others, two.params, SIDE) - two.value).abs().max() < 1e-4
    assert (two.params[:, 0] - two.params[:, 1]).abs().amax((1, 2)).min() > 1e-2, "from another place"


def test_targets_one_after_another_are_seen_from_behind(few):
    model = awake("around")
    once, twice = (
        ablations.sample_through_targets(model, few, 2, 1, 0.0, 64, targets=targets)
        for targets in (evaluation.ORBIT_TARGETS[:1], evaluation.ORBIT_TARGETS)
    )
    assert once.shape == twice.shape == (2, 2, 1, 2, 3, 16, 16)
    assert (once - twice).abs().max() > 1e-3
    around = evaluation.orbit(model, few, k=2, steps=1, frames=2)  # the second of two frames is at 180 degrees
    torch.testing.assert_close(twice[:, :, 0, 0].flatten(0, 1), around.rgb[:, 1], atol=1e-5, rtol=0)


def test_a_distilled_scene_is_seen_by_all_cameras(few):
    model, options = awake("view_space"), {"num_rounds": 2, "updates_per_round": 2, "rays_per_camera": 8, "resolution": 8}
    answers = ablations.sample_distilled(model, few, 1, 1, 0.0, 64, **options)
    assert answers.shape == (2, 1, 3, 2, 3, 16, 16) and answers.isfinite().all()


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With the weights that the toy commands need; what takes long is judged by its shape alone."""
    monkeypatch.setattr(train, "untrained", lambda arm, **options: awake(arm, **options))
    for arm in ("unet", "deterministic", "guided"):
        train.train(awake(arm), tmp_path, train.run_name(arm, TOY.side), 2, 16, steps=1, command=f"train {arm}")
    monkeypatch.setattr(ablations, "common_points", lambda exam: [])

    def shallow(exam, answers, baseline, row, points):
        score = float(answers.square().mean())
        numbers = {"energy_180": score} | ({"energy_skill_180": score} if answers.shape[1] > 1 else {})
        return {"numbers": numbers, "each": {"energy_180": [1.0] * len(answers)}}

    monkeypatch.setattr(ablations, "measure", shallow)
    return tmp_path


def test_rows_are_examined_once_and_shipped(folder, monkeypatch, capsys):
    ablations.run_evaluation(["unet", "deterministic", "redrawn", "guidance_2"], folder, TOY)
    path = folder / "row_unet_16.json"
    record = read_json(path)
    assert record["command"].endswith("comparisons examine unet --count 2 --steps 1 --side 16 --batch 16")
    assert {"commit", "hardware", "gpu_minutes", "seed", "numbers", "each"} < record.keys()
    assert set(record["weights"]) == {"unet_16", "deterministic_16"}
    capsys.readouterr()
    ablations.run_evaluation(["unet"], folder, TOY)
    assert "unet: there already; delete" in capsys.readouterr().out and read_json(path) == record
    kept = []
    monkeypatch.setattr(ablations, "save_recorded", lambda name, arrays, **entry: kept.append((name, arrays, entry)))
    ablations.export_checkpoint(folder)
    ((name, arrays, entry),) = kept
    rows = {"unet_16", "deterministic_16", "redrawn_16", "guidance_2_16"}
    assert name == "07_ablations" and set(entry["metrics"]) == rows - {"deterministic_16"}, "of one answer, no skill"
    views, guided = (arrays[f"row_{name}_16_pictures"] for name in ("unet", "guidance_2"))
    assert views.shape == (2, 1, 2, 3, 16, 16) and guided.shape == (1, 4, 2, 3, 16, 16)
    assert views.dtype == np.uint8 and len(np.unique(views)) <= 64
    row, bench = ablations.ABLATIONS["guidance_2"], ablations.Evaluator(folder, TOY)
    model = evaluation.trained("guided", folder, bench.device, TOY.side)
    again = row.answer(model, bench.exam, row.samples, TOY.steps, row.eta, chunk=TOY.batch)
    assert np.array_equal(guided, to_uint8(again[:1, :4, -1, [0, 2]], 64)), "the scene, and the sampler's picture"
    monkeypatch.setattr(ablations, "load_recorded", lambda name: dict(arrays))
    told, pictures = ablations.recorded()
    assert told["row"]["unet_16"] == record and told["training"]["unet_16"]["steps"] == 1
    assert set(told["row"]) == rows
    assert set(pictures) == {name for name in arrays if name.startswith("row_")}
    assert "train unet" in entry["command"] and "examine redrawn" in entry["command"]

    # other weights: what is there is no longer told of them, and the two do not go together
    train.train(awake("unet"), folder, "unet_16", 2, 16, steps=2, command="train unet")
    ablations.run_evaluation(["unet"], folder, TOY)
    assert read_json(path)["weights"]["unet_16"] != record["weights"]["unet_16"]
    train.train(awake("deterministic"), folder, "deterministic_16", 2, 16, steps=2)
    ablations.run_evaluation(["unet"], folder, TOY)
    with pytest.raises(ValueError, match="of other weights of deterministic_16 than rows before: examine all"):
        ablations.export_checkpoint(folder)


def test_scenes_are_kept_as_they_look_from_all_around(folder, monkeypatch):
    quick = partial(ablations.distil, num_rounds=1, updates_per_round=1, rays_per_camera=8, resolution=8)
    monkeypatch.setattr(ablations, "distil", quick)
    monkeypatch.setattr(evaluation, "trained", lambda arm, folder, device, side: awake(arm))
    ablations.ring(folder, TOY)
    record = read_json(folder / "ring_views.json")
    assert record["command"].endswith("comparisons ring --steps 1") and record["seconds"] > 0
    with np.load(folder / "ring_views.npz") as pictures:
        found = dict(pictures)
    assert set(found) == {"painted", "distilled", "unet"}
    assert all(views.shape == (1, len(ablations.ORBIT_ANGLES), 3, 16, 16) for views in found.values())
    assert len({views.tobytes() for views in found.values()}) == 3


def test_unknown_rows_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["comparisons", "examine", "unet", "vit"])
    with pytest.raises(SystemExit):
        ablations.main()
    assert "unknown vit: choose from unet, reseeded, dit, no_novel" in capsys.readouterr().err
    assert set(train.VARIANTS) - set(ablations.ABLATIONS) == {ablations.GUIDANCE_VARIANT}
    assert isinstance(ablations.ABLATIONS["one_shot"].answer, partial)


@pytest.mark.parametrize(
    "words, message",
    [
        (["examine", "unet"], "there is no nowhere/unet.safetensors: train it first"),
        (["examine", "redrawn", "--count", "129"], "the examination has 128 scenes, and intervals need two"),
        (["examine", "redrawn", "--count", "1"], "--count is 1"),
        (["ring"], "there is no nowhere/view_space.safetensors: train it first"),
        (["ship", "unet"], "ship takes no rows"),
        (["ship"], "nowhere holds no row: examine some first"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["comparisons", *words, "--out", "nowhere"])
    with pytest.raises(SystemExit):
        ablations.main()
    assert message in capsys.readouterr().err and not (tmp_path / "nowhere").exists()
