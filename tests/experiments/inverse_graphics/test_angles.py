"""Samplers measured scene by scene: exact draws pass, wrong ones fail; parts are those of the whole; ceilings."""

import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_variants import small_variant

from fwdiff_lite import metrics
from fwdiff_lite.experiments import harness
from fwdiff_lite.experiments.declaration import Evaluation, Results
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.experiments.inverse_graphics import angles, ceilings, evaluation, held_out
from fwdiff_lite.experiments.split import Part, PerContext, interleave
from fwdiff_lite.problems.inverse_graphics.bilinear import bilinear_sample_uv

COUNT, K, SIDE = 8, 4, 12
make_small_set = partial(held_out.make_test_set, side=SIDE, angles=angles.ANGLES)


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(angles.metrics, "bootstrap", partial(metrics.bootstrap, resamples=20))


@pytest.fixture(scope="module")
def test_set():
    return make_small_set(COUNT, 2 * K)


def measures(test_set, samples):
    return angles.summarise_views(angles.measure_views(test_set, samples), samples.shape[1])


def test_rows_angles_and_supersampling_change_no_random_number():
    all_angles, part, three, fine, large = (
        partial(held_out.make_test_set, 3, 2, side=4)(**options)
        for options in (
            {"angles": angles.ANGLES},
            {"angles": angles.ANGLES, "rows": slice(1, None, 2)},
            {},
            {"supersampling": 4},
            {"side": 8},
        )
    )
    for name in ("truth", "posterior_draws", "disocclusion_mask", "cameras"):
        assert torch.equal(getattr(part, name), getattr(all_angles[1::2], name))
    assert torch.equal(part.drawn_scenes.factor, all_angles[1::2].drawn_scenes.factor)
    assert torch.equal(three.posterior_draws, all_angles.posterior_draws[:, :, ::2]), "the views at 60, 120 and 180"
    same_rays = torch.nn.functional.avg_pool2d(large.posterior_draws.flatten(0, 4), 2).view_as(fine.posterior_draws)
    torch.testing.assert_close(fine.posterior_draws, same_rays, rtol=0, atol=1e-6)
    assert (three.posterior_draws - same_rays).abs().max() > 0.05, "the control: 2 x 2 rays"


def test_the_larger_test_set_begins_with_the_smaller_one():
    large = held_out.make_test_set(held_out.COUNT + 1, 1, side=2, rows=slice(126, None, 2))
    first, second = (held_out.held_out_scenes(seed)[0].position for seed in (2026, 2027))
    assert torch.equal(large.scenes.position, torch.stack([first[126], second[0]])) and len(large.truth) == 2


def test_a_part_without_a_scene_is_refused(tmp_path):
    session = Session(evaluation.EXPERIMENT, tmp_path, {"scenes": 2, "samples": 2, "supersampling": 1}, Part(2, 3))
    with pytest.raises(ValueError, match=r"no row of slice\(2, None, 3\) is one of 2 scenes: make at most 2 parts"):
        ceilings.measure_each_scene(session)


def test_exact_draws_pass_and_wrong_samples_fail(test_set):
    draws = test_set.posterior_draws
    exact = measures(test_set, draws[:, :K])
    assert measures(test_set, draws)["novel_energy_over_true_60"] == 1.0, "the same draws"
    wrong = {
        "shuffled": measures(test_set, draws[:, :K].roll(1, 0)),
        "mean": measures(test_set, draws.mean(1, keepdim=True) + 1e-3 * torch.randn_like(draws[:, :K])),
        "filtered": measures(test_set, ceilings.filter_as_maps(draws[:, :K])),
    }
    assert exact["readings_right"] == 1 and exact["factor_tv"] < 0.3
    for prefix in ("", "novel_"):
        for angle in angles.ANGLES:
            name = f"{prefix}{{}}_{angle}".format
            assert exact[name("energy_over_true")] == pytest.approx(1, abs=0.2)
            assert exact[name("energy_over_true") + "_low"] <= exact[name("energy_over_true")]
            assert exact[name("sharpness_ratio")] == pytest.approx(1, abs=0.05) and exact[name("visible_rms")] < 0.05
            assert wrong["shuffled"][name("energy_over_true")] > 1.5 and wrong["shuffled"][name("visible_rms")] > 0.2
            assert wrong["mean"][name("spread_skill")] < 0.1 and wrong["filtered"][name("energy_over_true")] > 1.01
            assert wrong["filtered"][name("sharpness_ratio")] < 0.9
            assert exact[name("psnr_sample")] == pytest.approx(exact[name("psnr_true_draw")], abs=1.5)
            assert wrong["shuffled"][name("psnr_sample")] < exact[name("psnr_true_draw")] - 3
            assert wrong["mean"][name("psnr_sample")] > exact[name("psnr_true_draw")], "the mean has the least error"
            variance_ratio = name("hidden_over_visible_variance")
            assert exact[variance_ratio] > 30 and wrong["mean"][variance_ratio] == pytest.approx(1, abs=0.3)
    views, mask = test_set.posterior_draws[:, :K, 4, 0], test_set.disocclusion_mask[:, 4, 0, None]
    generator = torch.Generator().manual_seed(0)
    spread = metrics.spread_skill(views, test_set.truth[:, 4, 0], generator, mask)
    assert exact["spread_skill_180"] == pytest.approx(spread.value, abs=1e-6), "the metric of the library"


def test_skills_and_ratios_in_closed_form():
    true = np.random.default_rng(0).uniform(1, 2, (8, 5, 2))
    for own, skill, ratio in ((true, 1, 0.5), (2 * true, 0, 1), (1.25 * true, 0.75, 0.625)):
        sampler = {"energy": own, "energy_true": true, "mean_mse": 0.04 * true}
        numbers = angles.add_baseline(sampler, {"energy": 2 * true, "mse": 0.4 * true})
        assert len(numbers) == 5 * 10 * 3 + 10
        in_decibel = {key: numbers.pop(key) for key in list(numbers) if "psnr" in key}
        for key, value in in_decibel.items():
            if "mean" in key:
                assert value == pytest.approx(10), "a tenth of the error"
        expected_psnr = 10 * np.log10(4 / (0.4 * true[:, 0, 1].mean()))
        assert in_decibel["novel_psnr_deterministic_60"] == pytest.approx(expected_psnr)
        for key, value in numbers.items():
            expected = {"skill": skill, "ratio": ratio, "deterministic": 0.5, "true": 2}[key.split("_")[-2 - (
                key.endswith("_low") or key.endswith("_high"))]]  # fmt: skip
            assert value == pytest.approx(expected), key


def test_parts_have_the_samples_of_the_whole(monkeypatch, tmp_path):
    model = small_variant("unet", side=8).build_model().eval()
    for weights in model.parameters():
        weights.data += 0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(len(weights)))
    view_model = small_variant("view_space", side=8).build_model().eval()
    baseline = small_variant("deterministic", side=8).build_model()
    models, batch_sizes = {"unet": model, "view_space": view_model, "deterministic": baseline}, set()
    predict = baseline.sample
    baseline.sample = lambda context, cameras: batch_sizes.add(len(context)) or predict(context, cameras)
    whole_set = held_out.make_test_set(2, 2, side=8, angles=(120, 180))
    monkeypatch.setattr(angles, "make_test_set", lambda *sizes, rows, **options: whole_set[rows])
    monkeypatch.setattr(angles, "ANGLES", whole_set.angles)
    options, shared = {"scenes": 2, "samples": 2, "steps": 2, "supersampling": 2}, torch.Generator()

    def measure(run, part):
        session = Session(evaluation.EXPERIMENT, tmp_path, options, part)
        for name, network in models.items():
            for key in ("model", "compiled model"):
                session.cached((key, name), lambda network=network: network)
        return run(session)

    runs = {name: partial(angles.measure_sampler, name, 1) for name in ("unet", "view_space")}
    runs["deterministic"] = partial(angles.measure_deterministic, "deterministic")
    for name, run in runs.items():
        single = measure(run, Part())
        joined = interleave([measure(run, Part(i, 2)) for i in range(2)])
        for key in single.keys() - {"seconds"}:
            np.testing.assert_array_equal(joined[key], single[key], err_msg=f"{name} {key}")
        assert single["energy"].shape == (2, 2, 2) and single["images"].dtype == np.uint8
        if name == "unet":
            session = Session(evaluation.EXPERIMENT, tmp_path, options)
            results = angles.summarise_sampler("unet_angles_eta_1", session, joined)
            assert results.numbers["novel_energy_over_true_120"] > 1 and results.numbers["seconds_a_sample"] > 0
            assert results.arrays["unet_angles_eta_1_labels"].shape == (2, 2, 2)
            unpaired = measure(run, Part(1, 2))["energy"]
            monkeypatch.setattr(angles, "scene_generator", lambda scene: shared)
            assert (measure(run, Part(1, 2))["energy"] != unpaired).any(), "the control: noise that the part decides"
        elif name == "deterministic":
            errors = angles.summarise_deterministic("deterministic", session, joined)
            assert errors.numbers["energy_120"] == pytest.approx(joined["energy"][:, 0, 0].mean())
            assert batch_sizes == {1}, "a batch of another size has other rounding errors"


@pytest.mark.usefixtures("no_shape_checks")  # the model is a stand-in
@pytest.mark.parametrize("num_angles, k, chunk_size", [(3, 2, 80), (2, 3, 4), (5, 1, 2)])
def test_the_samples_of_a_scene_stand_at_their_angles_and_cameras(num_angles, k, chunk_size, test_set):
    """Each sample is made for its angle's target camera, and shown by that angle's cameras."""
    test_set, counts = replace(test_set[2:3], cameras=test_set.cameras[2:3, :num_angles]), []

    class Scenes:
        def __init__(self, targets):
            self.targets = targets

        def render(self, cameras):
            """The rows' numbers, and the cameras of the target and of the view as pixels."""
            rows = (torch.arange(len(cameras)) + sum(counts) - len(cameras)).view(-1, 1, 1).expand(-1, 1, 4)
            pixels = torch.cat([rows.view(-1, 1, 1, 4), self.targets, cameras], 2)
            return SimpleNamespace(rgb=pixels[:, :, None].expand(-1, -1, 3, -1, -1))

    def sample(context, targets, **options):
        assert len(context) == len(targets) <= chunk_size and options["last_time"] == angles.LAST_TIME
        counts.append(len(targets))
        assert (context.value == test_set.context.value).all()
        return SimpleNamespace(signal=Scenes(targets))

    sampling = angles.Sampling(k, 2, 1.0, chunk_size)
    views = angles.sample_scene(SimpleNamespace(sample=sample), test_set, sampling, torch.Generator())
    assert views.shape == (1, k, num_angles, 2, 3, 9, 4)
    cameras = test_set.cameras[0].expand(k, -1, -1, -1, -1)
    assert torch.equal(views[0, :, :, :, 0, 1:5], cameras[:, :, :1].expand(-1, -1, 2, -1, -1)), "the target"
    assert torch.equal(views[0, :, :, :, 0, 5:], cameras), "the view"
    assert views[0, :, :, 0, 0, 0, 0].unique().numel() == num_angles * k, "no sample is used twice"


def test_larger_images_are_those_of_the_variant(test_set, monkeypatch, tmp_path):
    assert angles.variant_side("supersampled_maps_128") == 128 and angles.variant_side("view_space") == 64
    assert "supersampled_maps_128_angles_eta_1" in evaluation.EXPERIMENT.evaluations
    made = []
    monkeypatch.setattr(angles, "make_test_set", lambda *sizes, side, **options: made.append(side) or test_set)
    session = Session(evaluation.EXPERIMENT, tmp_path, {"scenes": 2, "samples": 2, "supersampling": 1})
    for side in (64, 128, 64):
        angles.session_test_set(session, side)
    assert made == [64, 128], "one test set for each size"


def test_the_seconds_of_a_sample_are_those_of_sampling_alone(monkeypatch, tmp_path):
    clock = [0.0]

    def take(seconds, result):
        clock[0] += seconds
        return result

    monkeypatch.setattr(angles, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(angles, "session_test_set", lambda session, side: "two scenes")
    monkeypatch.setattr(angles, "load_compiled_model", lambda session, variant: None)
    monkeypatch.setattr(angles, "sample_scene", lambda *_: take(3.0, torch.zeros(1, 2, 5, 2, 3, 4, 4)))
    monkeypatch.setattr(angles, "measure_views", lambda *_: take(100.0, {}))
    session = Session(evaluation.EXPERIMENT, tmp_path, {"scenes": 2, "samples": 2, "steps": 1})
    assert angles.measure_sampler("unet", 1, session)["seconds"].tolist() == [3.0, 3.0]


def test_images_are_recorded_for_the_scenes_that_figures_show_alone(monkeypatch, tmp_path):
    replaced = {
        "session_test_set": lambda session, side: "four scenes",
        "load_compiled_model": lambda session, variant: None,
        "sample_scene": lambda *_: torch.linspace(-1, 1, 2 * 5 * 2 * 3).view(1, 2, 5, 2, 3, 1, 1),
        "measure_views": lambda *_: {},
        "NUM_EXAMPLES": 2,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(angles, name, value)
    options = {"scenes": 4, "samples": 2, "steps": 1}
    rows = angles.measure_sampler("unet", 1, Session(evaluation.EXPERIMENT, tmp_path, options, Part(1, 2)))
    assert rows["images"].shape == (2, 2, 5, 2, 3, 1, 1) and rows["images"].dtype == np.uint8
    assert rows["deviation"].shape == (2, 5, 2, 1, 1)
    for values in rows.values():
        assert len(values) == 2
    assert rows["images"][0].any() and rows["deviation"][0].all(), "scene 1"
    assert not rows["images"][1].any() and not rows["deviation"][1].any(), "scene 3"


def test_the_test_set_of_a_part_ends_with_the_part(monkeypatch, tmp_path):
    class PartTestSet(held_out.TestSet):
        def __init__(self):
            pass

    made = []

    def make(*sizes, **options):
        assert all(reference() is None for reference in made), "the test set of an earlier part is in memory"
        made.append(weakref.ref(test_set := PartTestSet()))
        return test_set

    def measure(session):
        angles.session_test_set(session)
        return {"row": np.zeros(2 // session.part.count)}

    monkeypatch.setattr(angles, "make_test_set", make)
    options = {"scenes": 2, "samples": 2, "supersampling": 1}
    split = Evaluation(PerContext(measure, lambda session, arrays: Results({}, arrays)))
    experiment = replace(evaluation.EXPERIMENT, evaluations={"first": split, "second": split})
    harness.evaluate(experiment, ["first", "second"], tmp_path / "parts", options, parts=2)
    assert len(made) == 4
    harness.evaluate(experiment, ["first", "second"], tmp_path / "whole", options)
    assert len(made) == 5, "evaluations of all contexts share one test set"


def test_a_filtered_image_is_read_from_its_map_by_two_by_two_rays():
    images = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v, u = torch.meshgrid(*((torch.arange(2 * n, dtype=torch.float64) + 0.5) / (2 * n) for n in (5, 7)), indexing="ij")
    rays = bilinear_sample_uv(images, torch.stack([u, v], -1).flatten(0, 1).expand(2, -1, -1))
    pixels = torch.nn.functional.avg_pool2d(rays.transpose(1, 2).unflatten(2, (10, 14)), 2)
    torch.testing.assert_close(ceilings.filter_as_maps(images), pixels, rtol=0, atol=1e-12)
    assert (images - pixels).abs().max() > 0.1, "the control: unfiltered"


def test_true_draws_are_at_the_ceiling_of_their_own_rays(test_set):
    coarse, fine = map(ceilings.measure_ceilings, (test_set, make_small_set(COUNT, 3, supersampling=4)))
    assert torch.equal(coarse["energy_rays"], coarse["energy_true"]) and coarse["energy_true"].shape == (COUNT, 5, 2)
    assert coarse["energy_maps"].mean() > coarse["energy_true"].mean()
    assert fine["energy_rays"].mean() > fine["energy_true"].mean(), "4 x 4 rays are not 2 x 2 rays"
    arrays = {name: x.numpy() for name, x in fine.items()}
    results = ceilings.summarise(Session(evaluation.EXPERIMENT, Path(), {}), arrays)
    assert results.numbers["ceiling_rays_60_low"] < results.numbers["ceiling_rays_60"] and len(results.numbers) == 60
    assert results.numbers["novel_ceiling_maps_60"] == pytest.approx(
        float(fine["energy_maps"][:, 0, 1].mean() / fine["energy_true"][:, 0, 1].mean()), rel=1e-5
    )
