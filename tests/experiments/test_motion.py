"""The examination passes whoever draws from the truth, and fails everybody who does not."""

import json
from dataclasses import replace

import pytest
import torch

from fwdiff_lite import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments import motion as experiment
from fwdiff_lite.problems.motion import scenes
from fwdiff_lite.problems.motion.warping import motion
from fwdiff_lite.storage.checkpoints import load_pretrained, read_manifest

COUNT = 40


@pytest.fixture(scope="module")
def bank():
    return scenes.textures(scenes.HELD_OUT, 32)


@pytest.fixture(scope="module")
def paper(bank):
    return experiment.exam(bank, COUNT, 16)


def answers(paper, motions):
    """Answers whose motions (c, K, S) are given, with true fields and true frames."""
    many = paper.scenes[torch.arange(COUNT).repeat_interleave(motions.shape[1])]
    flat, tau = motions.flatten(0, 1), torch.tensor(experiment.TIMES)
    frames = [
        scenes.render(many[i : i + 64], flat[i : i + 64], tau.expand(len(flat[i : i + 64]), -1), paper.bank)
        for i in range(0, len(flat), 64)
    ]
    field = scenes.true_field(many, flat)
    signal = motion(paper.context.value[:, 0].repeat_interleave(motions.shape[1], 0), field)
    return experiment.Answers(signal, *(x.unflatten(0, motions.shape[:2]) for x in (field, torch.cat(frames))))


@pytest.fixture(scope="module")
def exact(paper):
    generator = torch.Generator().manual_seed(5)
    return torch.stack([scenes.draw_motions(paper.scenes, generator) for _ in range(16)], 1)


@pytest.fixture(scope="module")
def nothing(paper):
    return answers(paper, torch.zeros(COUNT, 1, 3))


@pytest.fixture(scope="module")
def marks(paper, exact, nothing):
    """What a perfect sampler gets."""
    return experiment.judge(paper, answers(paper, exact), nothing)


def test_exact_draws_pass(marks):
    assert marks["factor_tv"] < 0.06 and marks["factor_scene_rms"] < 0.1
    assert marks["readings_agree"] > 0.99 and marks["readings_right"] == 1
    assert abs(marks["mode_coverage"] - marks["mode_coverage_of_exact_draws"]) < 0.05
    assert marks["epe_best_of_16"] < 0.25 * marks["epe_zero"] and marks["epe_deterministic"] == marks["epe_zero"]
    assert marks["epe_sample"] > 0.7 * marks["epe_zero"], "a single exact draw is wrong half of the time"
    assert abs(marks["energy_skill"] - 1) < 0.1 and marks["energy_ratio"] < 0.75
    assert 0.9 < marks["spread_skill"] < 1.12
    assert marks["psnr_best"] > marks["psnr_deterministic"] + 2.5
    assert marks["static_pixels_move"] < 0.05
    assert abs(marks["variance_over_true"] - 1) < 0.1 and abs(marks["mean_error_over_true"] - 1) < 0.1


def test_taking_the_likelier_sign_each_time_fails(paper, exact, nothing, marks):
    likelier = experiment.judge(paper, answers(paper, exact.abs() * paper.scenes.favoured[:, None] * (exact != 0)), nothing)
    assert likelier["factor_tv"] > 0.25 and likelier["factor_scene_rms"] > 0.3
    assert likelier["mode_coverage"] < 0.6 and likelier["spread_skill"] < 0.6
    assert likelier["likelier_sign_70"] == 1 and likelier["likelier_sign_50"] == 1
    assert likelier["energy_skill"] < marks["energy_skill"] - 0.05, "against a still picture, any motion pays"


def test_one_mode_a_scene_passes_the_pooled_frequencies_and_fails_by_scene(paper, exact, nothing):
    fixed = experiment.judge(paper, answers(paper, exact[:, :1].expand(-1, 16, -1)), nothing)
    assert fixed["factor_scene_rms"] > 0.35 and fixed["spread_skill"] < 0.2 and fixed["mode_coverage"] < 0.6


def test_answers_to_other_scenes_fail(paper, exact, nothing, marks):
    true = answers(paper, exact)
    other = experiment.judge(paper, replace(true, field=true.field.roll(1, 0), frames=true.frames.roll(1, 0)), nothing)
    assert other["epe_best_of_16"] > 2 * marks["epe_best_of_16"] and other["energy_skill"] < 0
    assert other["static_pixels_move"] > 3 * marks["static_pixels_move"]


def test_half_of_the_motion_fails(paper, exact, nothing, marks):
    half = experiment.judge(paper, answers(paper, exact / 2), nothing)
    assert half["epe_best_of_16"] > 1.5 * marks["epe_best_of_16"] and half["energy_skill"] < 0.85
    assert half["spread_skill"] < 0.9 and half["variance_over_true"] < 0.8


def test_signs_are_read_from_true_fields_and_frames_without_error(paper, exact):
    true, there = answers(paper, exact), paper.scenes.there
    wanted = (exact.sign() == paper.scenes.favoured[:, None]).transpose(1, 2)[there]
    assert torch.equal(experiment.read_field(true.field, paper)[there].bool(), wanted)
    assert (experiment.read_frames(true.frames[:, :, -1], paper)[there].bool() == wanted).float().mean() > 0.99


def test_a_small_examination_is_the_start_of_a_large_one(bank, paper):
    small = experiment.exam(bank, 3, 16)
    for name in ("frames", "redrawn"):  # to rounding: some processors round lots of another size otherwise
        torch.testing.assert_close(getattr(small, name), getattr(paper, name)[:3])
    assert (experiment.exam(bank, 3, 16, seed=1).frames - small.frames).abs().max() > 0.1


def test_what_exact_draws_cover_is_known_in_closed_form(paper):
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(200):
        drawn = torch.stack([scenes.draw_motions(paper.scenes, generator) for _ in range(5)], -1)
        hit, wanted = experiment.coverage((drawn.sign() == paper.scenes.favoured[..., None]).long(), paper.scenes)
        found.append(hit)
    assert abs(float(torch.stack(found).mean() - wanted.mean())) < 0.01


def test_how_often_the_likelier_sign_is_drawn(paper, exact):
    labels = (exact.sign() == paper.scenes.favoured[:, None]).long().transpose(1, 2)
    for odds, (rate, half) in experiment.likelier(labels, paper.scenes).items():
        assert abs(100 * rate - odds) < 100 * 2 * half and 0.01 < half < 0.12
    assert experiment.likelier(torch.ones_like(labels), paper.scenes) == {50: (1, 0), 70: (1, 0), 80: (1, 0)}


def test_fewer_scenes_get_the_first_of_the_samples(bank):
    model = experiment.arm("splat_2", widths=(8, 8, 8, 16))
    many, few = (experiment.answer(model, experiment.exam(bank, n, 1), 2, steps=2, chunk=chunk) for n, chunk in ((3, 4), (2, 512)))
    assert many.field.shape == (3, 2, 2, 64, 64) and many.frames.shape == (3, 2, 2, 3, 64, 64)
    assert len(many.signal.still) == 6
    torch.testing.assert_close(many.frames[:2], few.frames)
    torch.testing.assert_close(many.field[:2], few.field)
    assert not torch.allclose(many.frames[:, 0], many.frames[:, 1]), "two samples differ"
    other = experiment.answer(model, experiment.exam(bank, 2, 1), 2, steps=2, seed=1)
    assert not torch.allclose(other.frames, few.frames)
    assert experiment.answer(experiment.arm("splat_2_mean", widths=(8,)), experiment.exam(bank, 2, 1), 5).field.shape[1] == 1


def test_arms_are_models_and_their_baselines():
    assert len(experiment.ARMS) == 8
    assert type(experiment.arm("splat_2_mean", widths=(8,))) is ForwardRegression
    model = experiment.arm("splat_2", widths=(8,))
    assert type(model) is ForwardDiffusion and model.denoiser.fields == 2
    with pytest.raises(ValueError, match="unknown arm 'warp_3': choose one of warp_1, splat_1"):
        experiment.arm("warp_3")


def test_a_forward_model_has_a_floor(bank):
    paper = experiment.exam(bank, 6, 2)
    warp, splat = (experiment.floors(paper, kind, fits=40) for kind in ("warp", "splat"))
    for floor in (warp, splat):
        assert 0 < floor["floor_best_fit"] < floor["floor_true_field"] < floor["floor_still"]
    assert splat["floor_best_fit"] < warp["floor_best_fit"], "it reads the field where the still is"


def test_the_commands_train_resume_examine_and_ship(tmp_path, monkeypatch):
    for minutes in (0.02, 0.04):
        for name in ("warp_1", "warp_1_mean"):
            experiment.train(name, tmp_path, minutes, size=2)
    record = json.loads((tmp_path / "warp_1.json").read_text())
    assert record["minutes"] >= 0.04 and len(record["losses"]["novel"]) <= 50
    experiment.examine(tmp_path, count=2, k=3, steps=2)
    numbers = json.loads((tmp_path / "examination.json").read_text())
    assert set(numbers) == {"warp", "splat", "warp_1_eta_0", "warp_1_eta_1"}
    assert 0 < numbers["warp_1_eta_0"]["epe_sample"] < 20
    assert (tmp_path / "examples.npz").stat().st_size > 1000
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    monkeypatch.setenv("FWDIFF_COMMIT", "of shipping")
    experiment.ship("warp_1", tmp_path, "a test's CPU")
    measures, arrays = experiment.recorded()
    assert measures == numbers and arrays["warp_1_eta_1_epe"].shape == (2, 3)
    assert arrays["warp_1_eta_0_labels"].shape == (2, 3, 3) and arrays["warp_1_frames"].shape == (2, 3, 3, 64, 64)
    assert arrays["warp_1_mean_frames"].shape == (2, 1, 3, 64, 64)
    assert arrays["warp_1_mean_fields"].shape == (2, 1, 2, 64, 64)
    entries = read_manifest()
    assert set(entries) == {f"{p.NAME}.safetensors", f"{p.NAME}.npz"}
    assert entries[f"{p.NAME}.safetensors"]["arm"] == "warp_1"
    for entry in entries.values():
        assert entry["commit"] == record["commit"] != "of shipping", "the commit that trained"
        assert record["command"] in entry["command"] and "train warp_1 --minutes 0.04 --batch 2" in entry["command"]
    weights = load_pretrained(experiment.NAME)
    experiment.arm("warp_1").denoiser.load_state_dict(weights)
