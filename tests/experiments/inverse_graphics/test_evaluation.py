"""The examination of the 3-D models: true redraws pass it, what is wrong fails it, and what cannot be is refused."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from fwdiff_lite.experiments.inverse_graphics import evaluation, train
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.volume import RenderedImages
from fwdiff_lite.storage.files import read_json

SIDE, COUNT, K = 32, 24, 6


@pytest.fixture(scope="module")
def paper():
    return evaluation.exam(COUNT, K, side=SIDE)


@pytest.fixture(scope="module")
def model():
    options = {"side": 16, "samples": 8, "width": 16, "widths": (8, 16)}
    model = train.build_model("unet", **options).eval()
    with torch.no_grad():  # an untrained encoder answers zero
        for weights in model.parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(len(weights)))
    return model


def means(paper):
    return paper.redrawn.mean(1, keepdim=True)


def test_a_smaller_examination_has_the_first_scenes_of_a_larger_one(paper):
    few = evaluation.exam(2, 1, side=SIDE)
    assert torch.equal(few.context.value, paper.context.value[:2])
    assert torch.equal(few.cameras, paper.cameras[:2]) and torch.equal(few.truth, paper.truth[:2])


def test_what_redraws_change_is_unseen_and_the_context_is_the_same(paper):
    assert torch.equal(paper.scenes.factor, evaluation.held_out_scenes()[0].factor[:COUNT])
    changes = (paper.redrawn.amax(1) - paper.redrawn.amin(1)).amax(3) > 0.3
    assert float((changes & ~paper.unseen).sum() / changes.sum()) < 0.1  # the rims, whose pixels are of both
    assert changes.float().mean() < paper.unseen.float().mean() < 0.5


def test_true_redraws_pass(paper):
    numbers = evaluation.evaluate(paper, paper.redrawn, means(paper))
    assert numbers["readings_right"] == 1
    assert numbers["factor_tv"] < 0.15 and numbers["factor_scene_rms"] < 0.2
    for degrees in evaluation.TARGET_ANGLES:
        assert numbers[f"energy_skill_{degrees}"] == pytest.approx(1, abs=1e-6)
        assert numbers[f"sharpness_ratio_{degrees}"] == pytest.approx(1, abs=0.03)
        assert numbers[f"variance_unseen_over_seen_{degrees}"] > 100
    assert numbers["spread_skill_180"] == pytest.approx(1, abs=0.2)
    behind = evaluation.evaluate(paper, paper.redrawn[:, :, 2:], means(paper), evaluation.TARGET_ANGLES[2:])
    assert "energy_skill_60" not in behind and behind["factor_tv"] == numbers["factor_tv"]
    assert behind["energy_ratio_180"] == numbers["energy_ratio_180"]


def test_other_scenes_and_a_mean_fail(paper):
    shuffled = evaluation.evaluate(paper, paper.redrawn.roll(1, 0), means(paper))
    assert shuffled["energy_skill_180"] < 0 and shuffled["psnr_seen_180"] < 20
    flat = means(paper) + 1e-3 * torch.randn(paper.redrawn.shape, generator=torch.Generator().manual_seed(0))
    flat = evaluation.evaluate(paper, flat, means(paper))
    assert flat["spread_skill_180"] < 0.1
    assert flat["energy_skill_180"] == pytest.approx(0, abs=0.05)


def test_without_a_baseline_nothing_is_compared_with_it(paper):
    numbers = evaluation.evaluate(paper, paper.redrawn)
    assert "spread_skill_60" in numbers and not any("energy" in name or "determ" in name for name in numbers)


def test_answers_do_not_depend_on_how_many_are_drawn_at_once(model):
    few = evaluation.exam(2, 1, side=16)
    whole = evaluation.answer(model, few, 2, 2, chunk=4)
    assert whole.shape == (2, 2, len(evaluation.TARGET_ANGLES), 2, 3, 16, 16)
    assert (evaluation.answer(model, few, 2, 2, chunk=4) == whole).all()
    first = evaluation.answer(model, few, 2, 2, degrees=evaluation.TARGET_ANGLES[:1], chunk=1)
    assert (first[:, :, 0] - whole[:, :, 0]).abs().max() < 1e-4
    assert (whole[:, 0] - whole[:, 1]).abs().max() > 1e-3, "samples differ"


def test_an_orbit_begins_at_the_contexts_camera(model):
    few = evaluation.exam(1, 1, side=16)
    around = evaluation.orbit(model, few, k=2, steps=1, frames=3)
    assert around.rgb.shape == (2, 3, 3, 16, 16) and around.depth.shape == (2, 3, 16, 16)
    generator, context = torch.Generator().manual_seed(0), few.context.repeat(2)
    targets = [tabletop.rotate_about_z(few.context.params, d).expand(2, -1, -1, -1) for d in evaluation.ORBIT_TARGETS]
    first = model.sample(context, targets[0], steps=1, generator=generator)
    both = context.append(Observations(first.observation, targets[0]))
    step = model.sample(both, targets[1], steps=1, generator=generator)
    assert torch.allclose(around.rgb[:, 0], step.signal.render(few.context.params.expand(2, -1, -1, -1)).rgb[:, 0])


def test_where_light_goes_on_there_is_no_depth():
    image = RenderedImages(torch.zeros(1, 1, 3, 1, 2), torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[0.9, 0.1]]]]))
    assert evaluation.surface_depth(image).flatten().tolist() == [1.0, torch.inf]


def test_there_are_no_more_scenes_than_there_are():
    with pytest.raises(ValueError, match="the examination has 128 scenes, got count = 129"):
        evaluation.exam(129)


def test_what_the_commands_leave_is_what_they_ship(tmp_path, monkeypatch):
    small = partial(train.build_model, width=8, widths=(8, 16), samples=4)
    monkeypatch.setattr(train, "untrained", small)
    earlier = {"command": "train before", "commit": "old", "hardware": "a GPU", "gpu_minutes": 2.0, "steps": 3}
    before = {"unet": earlier, "deterministic": None}
    for arm, earlier in before.items():
        train.train(small(arm), tmp_path, arm, 2, 16, steps=1, command=f"train {arm}", before=earlier)
    evaluation.run_evaluation(tmp_path, "unet", 2, 2, 1)
    evaluation.save_orbit(tmp_path, "unet", 1)
    evaluation.save_reference_outputs(tmp_path, "unet")
    kept = []
    monkeypatch.setattr(evaluation, "save_pretrained", lambda name, weights, **entry: kept.append((name, weights, entry)))
    monkeypatch.setattr(evaluation, "save_recorded", lambda name, arrays, **entry: kept.append((name, arrays, entry)))
    part = {"command": "examine dit", "commit": "old", "hardware": "another GPU", "gpu_minutes": 1.0}
    texts = {
        "numbers": {"dit_eta_0": {"factor_tv": 0.5}},
        "records": {},
        "curves": {},
        "parts": {"examination_dit": part},
    }
    there = {key: np.array(json.dumps(text)) for key, text in texts.items()} | {"dit_eta_0": np.zeros(1)}
    monkeypatch.setattr(evaluation, "load_recorded", lambda name: there)
    evaluation.export_checkpoint(tmp_path, "unet")
    (name, weights, entry), (_, arrays, record) = kept
    assert name == "06_inverse_graphics_unet" and weights.keys() == small("unet").denoiser.state_dict().keys()
    assert entry["steps"] == 4 and entry["command"] == "train before; train unet" and entry["gpu_minutes"] >= 2
    now = read_json(tmp_path / "unet.json")["commit"]
    assert entry["hardware"].startswith("a GPU; ") and entry["commit"] == f"old; {now}"
    assert set(entry["metrics"]) == set(evaluation.HEADLINE_METRICS)
    assert {"train unet", "train deterministic", "examine dit"} < set(record["command"].split("; "))
    assert record["gpu_minutes"] >= 1 and "another GPU" in record["hardware"] and "dit_eta_0" in arrays
    numbers = json.loads(str(arrays["numbers"]))
    assert set(numbers) == {"unet_eta_0", "unet_eta_1", "dit_eta_0"} and "factor_tv" in numbers["unet_eta_1"]
    assert "energy_skill_60" in numbers["unet_eta_1"] and "energy_skill_60" not in numbers["unet_eta_0"]
    assert arrays["unet_eta_1"].shape == (2, 2, 3, 2, 3, 64, 64) and arrays["unet_eta_1"].dtype == np.uint8
    assert arrays["deterministic"].shape == (2, 3, 2, 3, 64, 64) and arrays["unet_eta_0_labels"].shape == (2, 2, 2)
    assert arrays["orbit"].shape == (2 * evaluation.ORBIT_SCENES, evaluation.ORBIT_FRAMES, 3, 64, 64)
    assert arrays["live"].shape == (2, 2, 1, 1, 3, 64, 64)


@pytest.mark.parametrize(
    "words, message",
    [
        (["examine", "unet"], "there is no nowhere/unet.safetensors: train it first"),
        (["orbit", "around"], "there is no nowhere/around.safetensors: train it first"),
        (["examine", "guided"], "guided is not examined: choose one of unet, dit, no_novel"),
        (["examine", "unet", "--samples", "0"], "argument --samples: 0 is no whole number above 0"),
    ],
)
def test_commands_that_make_no_sense_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["study", *words, "--out", "nowhere"])
    with pytest.raises(SystemExit):
        evaluation.main()
    assert message in capsys.readouterr().err and not (tmp_path / "nowhere").exists()
