"""The evaluation of the 3-D models: exact posterior draws pass, wrong samples fail, and bad input is refused."""

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
def test_set():
    return evaluation.make_test_set(COUNT, K, side=SIDE)


@pytest.fixture(scope="module")
def model():
    options = {"side": 16, "samples_per_ray": 8, "width": 16, "widths": (8, 16)}
    model = train.build_model("unet", **options).eval()
    with torch.no_grad():  # an initial encoder returns zero
        for weights in model.parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(len(weights)))
    return model


def posterior_mean(test_set):
    return test_set.posterior_draws.mean(1, keepdim=True)


def test_a_smaller_test_set_has_the_first_scenes_of_a_larger_one(test_set):
    small_set = evaluation.make_test_set(2, 1, side=SIDE)
    assert torch.equal(small_set.context.value, test_set.context.value[:2])
    assert torch.equal(small_set.cameras, test_set.cameras[:2]) and torch.equal(small_set.truth, test_set.truth[:2])


def test_posterior_draws_differ_only_in_the_disocclusion_mask(test_set):
    assert torch.equal(test_set.scenes.factor, evaluation.held_out_scenes()[0].factor[:COUNT])
    changes = (test_set.posterior_draws.amax(1) - test_set.posterior_draws.amin(1)).amax(3) > 0.3
    assert float((changes & ~test_set.disocclusion_mask).sum() / changes.sum()) < 0.1  # pixels at edges show both sides
    assert changes.float().mean() < test_set.disocclusion_mask.float().mean() < 0.5


def test_exact_posterior_draws_pass(test_set):
    numbers = evaluation.evaluate(test_set, test_set.posterior_draws, posterior_mean(test_set))
    assert numbers["readings_right"] == 1
    assert numbers["factor_tv"] < 0.15 and numbers["factor_scene_rms"] < 0.2
    for angle in evaluation.TARGET_ANGLES:
        assert numbers[f"energy_skill_{angle}"] == pytest.approx(1, abs=1e-6)
        assert numbers[f"sharpness_ratio_{angle}"] == pytest.approx(1, abs=0.03)
        assert numbers[f"variance_unseen_over_seen_{angle}"] > 100
    assert numbers["spread_skill_180"] == pytest.approx(1, abs=0.2)
    back_draws = test_set.posterior_draws[:, :, 2:]
    back = evaluation.evaluate(test_set, back_draws, posterior_mean(test_set), evaluation.TARGET_ANGLES[2:])
    assert "energy_skill_60" not in back and back["factor_tv"] == numbers["factor_tv"]
    assert back["energy_ratio_180"] == numbers["energy_ratio_180"]


def test_draws_for_other_scenes_and_the_posterior_mean_fail(test_set):
    shuffled = evaluation.evaluate(test_set, test_set.posterior_draws.roll(1, 0), posterior_mean(test_set))
    assert shuffled["energy_skill_180"] < 0 and shuffled["psnr_seen_180"] < 20
    noise = torch.randn(test_set.posterior_draws.shape, generator=torch.Generator().manual_seed(0))
    collapsed = posterior_mean(test_set) + 1e-3 * noise
    numbers = evaluation.evaluate(test_set, collapsed, posterior_mean(test_set))
    assert numbers["spread_skill_180"] < 0.1
    assert numbers["energy_skill_180"] == pytest.approx(0, abs=0.05)


def test_without_a_baseline_there_is_no_comparison_with_it(test_set):
    numbers = evaluation.evaluate(test_set, test_set.posterior_draws)
    assert "spread_skill_60" in numbers and not any("energy" in name or "determ" in name for name in numbers)


def test_samples_do_not_depend_on_the_chunk_size(model):
    small_set = evaluation.make_test_set(2, 1, side=16)
    samples = evaluation.sample_posterior(model, small_set, 2, 2, chunk_size=4)
    assert samples.shape == (2, 2, len(evaluation.TARGET_ANGLES), 2, 3, 16, 16)
    assert (evaluation.sample_posterior(model, small_set, 2, 2, chunk_size=4) == samples).all()
    angles = evaluation.TARGET_ANGLES[:1]
    again = evaluation.sample_posterior(model, small_set, 2, 2, target_angles=angles, chunk_size=1)
    assert (again[:, :, 0] - samples[:, :, 0]).abs().max() < 1e-4
    assert (samples[:, 0] - samples[:, 1]).abs().max() > 1e-3, "samples differ"


def test_an_orbit_begins_at_the_context_camera(model):
    small_set = evaluation.make_test_set(1, 1, side=16)
    images = evaluation.render_orbit(model, small_set, k=2, steps=1, frames=3)
    assert images.rgb.shape == (2, 3, 3, 16, 16) and images.depth.shape == (2, 3, 16, 16)
    generator, context = torch.Generator().manual_seed(0), small_set.context.repeat(2)
    camera = small_set.context.params
    targets = [tabletop.rotate_about_z(camera, d).expand(2, -1, -1, -1) for d in evaluation.ORBIT_TARGETS]
    step = model.sample(context, targets[0], steps=1, generator=generator)
    context = context.append(Observations(step.observation, targets[0]))
    step = model.sample(context, targets[1], steps=1, generator=generator)
    assert torch.allclose(images.rgb[:, 0], step.signal.render(camera.expand(2, -1, -1, -1)).rgb[:, 0])


def test_a_transparent_pixel_has_infinite_depth():
    image = RenderedImages(torch.zeros(1, 1, 3, 1, 2), torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[0.9, 0.1]]]]))
    assert evaluation.surface_depth(image).flatten().tolist() == [1.0, torch.inf]


def test_a_test_set_has_at_most_128_scenes():
    with pytest.raises(ValueError, match="the test set has 128 scenes, got count = 129"):
        evaluation.make_test_set(129)


def test_results_of_all_commands_are_exported(tmp_path, monkeypatch):
    small = partial(train.build_model, width=8, widths=(8, 16), samples_per_ray=4)
    monkeypatch.setattr(train, "build_model", small)
    parent_run = {"command": "train parent", "commit": "old", "hardware": "a GPU", "gpu_minutes": 2.0, "steps": 3}
    for variant, parent in {"unet": parent_run, "deterministic": None}.items():
        train.train(small(variant), tmp_path, variant, 2, 16, steps=1, command=f"train {variant}", parent_run=parent)
    evaluation.run_evaluation(tmp_path, "unet", 2, 2, 1)
    evaluation.save_orbit(tmp_path, "unet", 1)
    evaluation.save_reference_outputs(tmp_path, "unet")
    exported = []

    def save(name, content, **entry):
        exported.append((name, content, entry))

    monkeypatch.setattr(evaluation, "save_pretrained", save)
    monkeypatch.setattr(evaluation, "save_recorded", save)
    part = {"command": "examine dit", "commit": "old", "hardware": "another GPU", "gpu_minutes": 1.0}
    texts = {
        "numbers": {"dit_eta_0": {"factor_tv": 0.5}},
        "records": {},
        "curves": {},
        "parts": {"examination_dit": part},
    }
    earlier_arrays = {key: np.array(json.dumps(text)) for key, text in texts.items()} | {"dit_eta_0": np.zeros(1)}
    monkeypatch.setattr(evaluation, "load_recorded", lambda name: earlier_arrays)
    evaluation.export_checkpoint(tmp_path, "unet")
    (name, weights, entry), (_, arrays, record) = exported
    assert name == "06_inverse_graphics_unet" and weights.keys() == small("unet").denoiser.state_dict().keys()
    assert entry["steps"] == 4 and entry["command"] == "train parent; train unet" and entry["gpu_minutes"] >= 2
    commit = read_json(tmp_path / "unet.json")["commit"]
    assert entry["hardware"].startswith("a GPU; ") and entry["commit"] == f"old; {commit}"
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
    parts = {"examination_unet", "orbit_unet", "live_unet", "examination_dit"}
    assert set(json.loads(str(arrays["parts"]))) == parts, "the keys that the notebook reads"


@pytest.mark.parametrize(
    "words, message",
    [
        (["evaluate", "unet"], "there is no nowhere/unet.safetensors: train it first"),
        (["orbit", "around"], "there is no nowhere/around.safetensors: train it first"),
        (["evaluate", "guided"], "guided has no evaluation here: choose one of unet, dit, no_novel"),
        (["evaluate", "unet", "--samples", "0"], "argument --samples: 0 is no whole number above 0"),
    ],
)
def test_invalid_commands_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["evaluation", *words, "--out", "nowhere"])
    with pytest.raises(SystemExit):
        evaluation.main()
    assert message in capsys.readouterr().err and not (tmp_path / "nowhere").exists()
