"""The evaluation tells good sets from bad ones; at a toy size, all is trained, evaluated, exported and loaded."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.experiments import __main__ as command_line
from fwdiff_lite.experiments import harness
from fwdiff_lite.experiments.declaration import Training, needed_assets
from fwdiff_lite.experiments.gan_inversion import evaluation as experiment
from fwdiff_lite.experiments.gan_inversion import samples as test_sets
from fwdiff_lite.experiments.gan_inversion import variants as networks
from fwdiff_lite.experiments.measurements import to_flat
from fwdiff_lite.problems.gan_inversion import (
    measures,
    patches,
    portrait_posterior,
    portraits,
    stylegan2,
    stylegan2_training,
)
from fwdiff_lite.schedule import CosineSchedule
from fwdiff_lite.storage.checkpoints import FILE_MB, read_manifest
from fwdiff_lite.storage.files import exclusive_lock, read_json

CPU = torch.device("cpu")
SMALL_64 = {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 256, "channel_max": 8}  # of 64 pixels
FIT_OPTIONS = {"learning_rate": 1e-3, "checkpoint_every": 2000}  # networks this small have no matrix for Muon
SMALL_ENCODER = {"widths": (8, 8, 8, 8), "hidden": 16}
EXPERIMENT = experiment.make_experiment(9)
GENERATORS = ("generator",)


def build_small_model(name, **options):
    G = networks.build_generator(0, **SMALL_64)
    return EXPERIMENT.variant(name).build_model(generator=G, **SMALL_ENCODER, **options)


@pytest.fixture(scope="module")
def rendered():
    """A thousand portraits and their images, which several tests share: to render them takes most of the time."""
    people = portraits.sample_portraits(1000, torch.Generator().manual_seed(2))
    return people, portraits.render(people)


@pytest.fixture(scope="module")
def classifier(rendered):
    """A classifier that is trained on random batches of the rendered portraits, not on new ones."""
    people, images = rendered
    rows = torch.randint(1000, (150, 32), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    classifier = portraits.AttributeClassifier(width=16)
    batches, batches_again = iter(rows), iter(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portraits, "sample_portraits", lambda n, generator: people[next(batches)])
        patch.setattr(portraits, "render", lambda batch: images[next(batches_again)])
        losses = portraits.train_classifier(classifier, 150, torch.Generator().manual_seed(0), batch_size=32)
    assert losses[-1] < 0.4 * losses[0]
    return classifier.eval()


def test_a_classifier_learns_the_attributes(classifier):
    people = portraits.sample_portraits(200, torch.Generator().manual_seed(1))
    accuracy = (classifier.predict(portraits.render(people)) == people.attributes).double().mean(0)
    assert accuracy[portraits.ATTRIBUTE_NAMES.index("hat")] > 0.97 and accuracy.mean() > 0.85


def test_the_evaluation_tells_a_second_sample_from_a_set_without_hats(classifier, rendered):
    people, images = rendered
    real, real_again = images.chunk(2)
    without_hats = portraits.render(people[500:].with_attribute("hat", 0))
    good, bad = (
        measures.compare_with_portraits(fake, real, classifier, max_images=300) for fake in (real_again, without_hats)
    )
    assert good["worst_binary"] < 0.08 and bad["apart_hat"] > 0.15
    assert good["frechet"] < good["frechet_floor"] < bad["frechet"], "the floor is of half as many images"
    assert min(good["precision"], good["recall"]) > 0.8 and bad["recall"] < good["recall"]


def test_the_nearest_portraits_are_not_deceived_as_a_classifier_is(classifier, rendered):
    """A faint pattern makes the classifier see hats; images without hats are told from others by both."""
    people, images = rendered
    real, real_again, reference_images = images[:200], images[200:400], images[400:]
    without_hats = portraits.render(people[200:400].with_attribute("hat", 0))
    hat, pattern = portraits.ATTRIBUTE_NAMES.index("hat"), torch.zeros_like(real_again).requires_grad_()
    for _ in range(5):  # steps along the sign of the gradient
        logits = classifier(real_again + pattern)[hat]
        (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), pattern)
        pattern = (pattern + 0.03 * gradient.sign()).detach().requires_grad_()
    deceptive = (real_again + pattern).detach()

    def apart(fake):
        by_classifier = measures.compare_with_portraits(fake, real, classifier, max_images=50)["apart_hat"]
        by_nearest = measures.compare_nearest_labels(fake, real, people[400:], reference_images)
        assert by_nearest["nearest_worst"] == max(by_nearest[f"nearest_apart_{x}"] for x in measures.VISIBLE_CROPS)
        return by_classifier, by_nearest["nearest_apart_hat"]

    assert max(apart(real_again)) < 0.12 and min(apart(without_hats)) > 0.15
    by_classifier, by_nearest = apart(deceptive)
    assert by_classifier > 0.3 and by_nearest < 0.12


def test_true_posterior_draws_pass_the_evaluation_and_others_do_not(monkeypatch):
    """True posterior draws have the right probabilities and spread; hats for all, or one draw repeated, have not."""
    monkeypatch.setattr(test_sets, "MIN_HIDDEN", 12)
    people, k, side = test_sets.held_out_portraits(32, seed=5), 8, 32
    test_set = test_sets.make_portrait_test_set(people, seed=5, side=side)
    assert test_set.observed.shape == (32, 10) and torch.equal(portraits.render(people, side), test_set.images)
    assert all(len(probabilities) == 32 for probabilities in test_set.probabilities.values())
    masks, generator = test_sets.context_masks(test_set), torch.Generator().manual_seed(6)
    draws, fits = portrait_posterior.sample_posterior(people, masks, k, generator, side)
    assert fits.float().mean() > 0.9
    samples = portraits.render(draws, side).unflatten(0, (-1, k))
    mean = samples.mean(1, keepdim=True)
    mean_labels, labels = mean.new_zeros(32, 1, 10, dtype=torch.long), draws.attributes.unflatten(0, (-1, k))

    good = test_sets.evaluate_samples(test_set, samples, mean, labels, mean_labels)
    assert good["patch_psnr"] > 25 and good["diversity_outside_over_inside"] > 3
    assert good["energy_ratio"] < 0.8 and 0.8 < good["spread_skill"] < 1.2
    assert good["factor_tv"] < 0.12 and good["factor_scene_rms"] < 0.12 and abs(good["agree_excess"]) < 0.15
    upper_ends = [x for key, x in good.items() if key.startswith("factor_tv_") and key.endswith("_high")]
    assert good["factor_tv_high"] == max(upper_ends) and good["deterministic_factor_tv"] > 0.3

    def evaluate(labels):
        return test_sets.evaluate_labels(test_set, labels, generator)

    with_hats = labels.clone()
    with_hats[..., portraits.ATTRIBUTE_NAMES.index("hat")] = 1
    bad = evaluate(with_hats)
    assert bad["factor_tv_hat"] > 0.5 and bad["factor_tv"] >= bad["factor_tv_hat"] > good["factor_tv_hat"] + 0.3
    one_draw = evaluate(labels[:, :1].expand(-1, k, -1))
    assert one_draw["agree_excess"] > 0.5 and one_draw["factor_scene_rms"] > 0.3
    assert one_draw["factor_tv"] < 0.4, "pooled frequencies hardly see that all samples agree"


def test_a_reference_set_agrees_with_draws_from_itself(rendered):
    generator, (people, references) = torch.Generator().manual_seed(0), rendered
    truth = portraits.sample_portraits(12, generator)
    test_set = test_sets.make_test_set(portraits.render(truth))
    distances = patches.reference_distances(references, test_set.context)
    weights, _, _ = patches.importance_weights(distances)
    labels = people.attributes[torch.multinomial(weights, 64, replacement=True, generator=generator)]
    numbers, curve = measures.reference_agreement(distances, people.attributes, truth.attributes, labels, 50)
    assert numbers["bank_least_size"] >= 50 - 1e-6
    assert numbers["bank_tv"] < 1.3 * numbers["bank_tv_chance"] + 0.01
    prior_labels = people.attributes[torch.randint(1000, (12, 64), generator=generator)]
    prior, _ = measures.reference_agreement(distances, people.attributes, truth.attributes, prior_labels, 50)
    assert prior["bank_tv"] > 1.3 * numbers["bank_tv"]
    assert curve["bank_curve_size"] == [125, 250, 500, 1000] and curve["bank_curve_tv"][-1] == 0
    assert (
        curve["bank_curve_tv"][0] > curve["bank_curve_tv"][2]
        and numbers["bank_tv_quarter"] == curve["bank_curve_tv"][1]
    )
    assert curve["bank_curve_tolerance"][0] > curve["bank_curve_tolerance"][-1] == numbers["bank_tolerance"]
    assert curve["bank_curve_log_loss"][-1] == numbers["bank_log_loss"]
    # twice the same set: halves that agree, although neither has converged
    twice, _ = measures.reference_agreement(
        distances.repeat(1, 2), people.attributes.repeat(2, 1), truth.attributes, labels, 50
    )
    assert twice["bank_tv_halves"] == 0 < numbers["bank_tv_halves"]
    wanted = "wanted at least 1004, so that a quarter has more than the effective size of 250"
    with pytest.raises(ValueError, match=f"a reference set of 1000 images was given: {wanted}"):
        measures.reference_agreement(distances, people.attributes, truth.attributes, labels, 250)


def test_the_response_of_an_exact_denoiser_is_that_of_bayes_rule():
    """Two images are possible: the portrait with and without a hat. A denoiser that is blind to the target has none."""
    person = portraits.sample_portraits(1, torch.Generator().manual_seed(1))
    images = torch.cat([portraits.render(person.with_attribute("hat", k)) for k in (0, 1)])
    model = ForwardDiffusion(patches.ReferenceSetDenoiser(images, patches.SCHEDULE), patches.ReferenceSet(images))
    people, crop = person[torch.zeros(40, dtype=torch.long)], (0, 16, 32)
    context = patches.observe(portraits.render(people), torch.tensor([[[40.0, 20, 16]]]).expand(40, -1, -1))
    context = context.mask_out(torch.ones_like(context.mask))

    def respond(model):
        generator, p = torch.Generator().manual_seed(0), torch.full((40,), 0.5)
        return measures.attribute_response(model, context, people, "hat", crop, p, (3.0, 0.08, 1e-4), generator)

    exact = respond(model)
    torch.testing.assert_close(exact.response, exact.exact_response, atol=1e-3, rtol=0)
    torch.testing.assert_close(exact.spread, exact.exact_spread, atol=1e-3, rtol=0)
    assert exact.response[0] > 0.999 > exact.response[1] > 0.2 > 0.01 > exact.response[2]
    model.denoiser.forward = lambda condition, noisy_target, t: torch.full((len(t), 2), 0.5)
    constant = respond(model)
    assert constant.response.abs().max() < 1e-5 < constant.exact_response[0] and constant.spread.max() < 1e-5


def test_the_schedule_of_the_experiment_keeps_the_spread():
    """With an exact denoiser only the finite steps lose spread: the cosine schedule does, unless steps are many."""
    people = portraits.sample_portraits(150, torch.Generator().manual_seed(0))
    shifted, cosine = (
        measures.sampler_discretization_error(people, schedule, 150)
        for schedule in (patches.SCHEDULE, CosineSchedule())
    )
    many_steps = measures.sampler_discretization_error(people, CosineSchedule(), 150, steps=96)
    assert shifted["spread"] > 0.96 and cosine["spread"] < 0.93 and many_steps["spread"] > cosine["spread"] + 0.05
    assert shifted["tv"] < cosine["tv"]


def test_samples_are_whole_images_for_any_number_of_targets():
    G = networks.build_generator(0, **SMALL_64)
    test_set = test_sets.make_test_set(stylegan2.generate_images(G, 2, torch.Generator().manual_seed(0)))
    assert test_set.target_params.shape == (2, 5, 3)
    assert patches.patch_mask(test_set.target_params[:, 1:], 64).sum(1).eq(1).all(), "the quadrants cover the image"
    assert test_set.target_params[:, 0].tolist() == [[16, 16, 32]] * 2
    prediction = test_sets.sample_posterior(build_small_model("deterministic"), test_set)
    assert prediction.shape == (2, 1, 3, 64, 64)
    model = build_small_model("wplus")
    samples = test_sets.sample_posterior(model, test_set, 3, 2, num_targets=2)
    assert samples.shape == (2, 3, 3, 64, 64)
    chunked = test_sets.sample_posterior(model, test_set, 3, 2, num_targets=2, chunk_size=1)
    assert torch.allclose(samples, chunked, atol=1e-4), "with eta = 0 the noise does not depend on the chunk size"


# --- the experiment ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The experiment at a toy size, and a folder in which all assets and variants were trained for two steps."""
    sizes = {name: SMALL_64 if name in GENERATORS else {} for name in EXPERIMENT.assets}
    assets = {
        name: replace(asset, build=partial(asset.build, **sizes[name])) for name, asset in EXPERIMENT.assets.items()
    }
    variants = {
        name: replace(variant, build=partial(variant.build, **SMALL_ENCODER), fit_options=FIT_OPTIONS)
        for name, variant in EXPERIMENT.variants.items()
    }
    folder, small = tmp_path_factory.mktemp("gan_inversion"), replace(EXPERIMENT, assets=assets, variants=variants)
    for name in (*assets, *variants):
        harness.train(small, name, folder, steps=2, batch_size=4)
    return small, folder


@pytest.mark.parametrize("name", [*EXPERIMENT.assets, *EXPERIMENT.variants])
def test_everything_trains_and_records_what_sets_it_apart(name, trained):
    small, folder = trained
    record, declaration = read_json(folder / f"{name}.json"), EXPERIMENT.declaration(name)
    assert record["seed"] == declaration.seed and record["steps"] == 2 and record["batch"] == 4
    assert record["options"] == json.loads(json.dumps(dict(declaration.options)))
    command = f"python -m fwdiff_lite.experiments gan_inversion train {name} --portraits 9 --steps 2 --batch-size 4"
    assert record["command"] == command and record["gpu_minutes"] == 0
    assert set(record["needs"]) == set(needed_assets(declaration))
    assert all(map(np.isfinite, sum(record["curve"].values(), [])))
    initial = small.declaration(name).trained_part(build_initial(small, name))
    trained_weights = load_file(folder / f"{name}.safetensors")
    assert any((trained_weights[key].float() - w).abs().max() > 1e-4 for key, w in initial.state_dict().items())


def build_initial(small, name):
    assets = {need: small.declaration(need).build_model() for need in small.contained_assets(name)}
    return small.declaration(name).build_model(**assets)


def test_assets_and_variants_differ_in_their_options_their_needs_or_their_seed():
    declared = [*EXPERIMENT.assets.values(), *EXPERIMENT.variants.values()]
    settings = {json.dumps([dict(x.options), needed_assets(x), x.seed]) for x in declared}
    assert len(settings) == len(declared)


@pytest.mark.parametrize("name, refinements", [("wplus_weighted", 0), ("wplus_refined", 1)])
def test_the_weights_of_the_widest_variants_can_be_shipped(name, refinements):
    model = experiment.EXPERIMENT.variant(name).build_model(generator=networks.build_generator(0))
    assert model.denoiser.num_refinements == refinements
    megabytes = 2e-6 * sum(x.numel() for x in model.denoiser.state_dict().values())  # in half precision
    assert 10 < megabytes < FILE_MB
    assert model.schedule.scale == model.denoiser.schedule.scale == 1 / 8 and model.denoiser.low_noise_weight == 4


def test_the_auxiliary_classifiers_have_different_seeds(trained):
    curve = read_json(trained[1] / "auxiliary_classifiers.json")["curve"]
    assert set(curve) == {f"loss_of_seed_{seed}" for seed in (1, 2, 3)} and len({x[0] for x in curve.values()}) == 3
    assert set(read_json(trained[1] / "classifier.json")["curve"]) == {"loss_of_seed_0"}


def test_a_complete_training_of_classifiers_is_not_repeated(trained, monkeypatch):
    """Otherwise a generator could not be resumed: it needs the weights that it was trained with."""
    small, folder = trained
    path = folder / "auxiliary_classifiers.safetensors"
    content, record = path.read_bytes(), read_json(path.with_suffix(".json"))
    monkeypatch.setattr(portraits, "train_classifier", lambda *arguments: pytest.fail("trained again"))
    harness.train(small, "auxiliary_classifiers", folder, steps=2, batch_size=4)
    assert path.read_bytes() == content and read_json(path.with_suffix(".json")) == record
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        harness.train(small, "auxiliary_classifiers", folder, steps=3, batch_size=4)


def test_the_mapping_is_trained_at_the_end_for_a_tenth_of_the_steps_at_most(trained, monkeypatch, tmp_path):
    small, folder = trained
    assert "mapping" not in read_json(folder / "generator.json")["curve"], "two steps have no tenth"
    calls = []
    monkeypatch.setattr(stylegan2_training, "train_mapping", lambda G, *_, steps, seed: calls.append(steps) or [0.0])
    (tmp_path / "auxiliary_classifiers.safetensors").symlink_to(folder / "auxiliary_classifiers.safetensors")
    harness.train(small, "generator", tmp_path, steps=10, batch_size=4)
    assert calls == [1] and read_json(tmp_path / "generator.json")["curve"]["mapping"] == [0.0]


def test_the_generator_that_is_kept_is_the_average_of_weights(trained, monkeypatch, tmp_path):
    """An average that never moves holds the initial weights."""
    small, folder = trained
    monkeypatch.setattr(stylegan2_training, "update_ema", lambda ema, network, decay: None)
    (tmp_path / "auxiliary_classifiers.safetensors").symlink_to(folder / "auxiliary_classifiers.safetensors")
    harness.train(small, "generator", tmp_path, steps=1, batch_size=4)
    kept = load_file(tmp_path / "generator.safetensors")
    initial = build_initial(small, "generator").state_dict()
    assert all(torch.equal(kept[key], w.half()) for key, w in initial.items())


def test_a_recipe_decides_the_networks_of_a_generators_training(monkeypatch):
    sizes = {}

    class Built(Exception):
        pass

    def record_sizes(**options):
        sizes.update(options)
        raise Built

    monkeypatch.setattr(networks.stylegan2, "Discriminator", record_sizes)
    recipe = networks.GeneratorRecipe(
        networks.GENERATOR.trainer,
        sizes={"mapping_layers": 2, "channel_base": 3 * 2**10},
        discriminator_sizes={"channel_base": 2**11, "group_size": 32},
    )
    asset = networks.make_generator("generator", recipe, 9)
    G = asset.build_model()
    with pytest.raises(Built):
        asset.train(G, Training(1, None, 4, 0, None, torch.device("cpu"), {}))
    assert sizes == {"resolution": 64, "channel_base": 2**11, "channel_max": 160, "group_size": 32}
    assert G.synthesis.b64.conv1.weight.shape[0] == 48 and len(list(G.mapping.children())) == 2


def test_the_weights_of_every_generator_can_be_shipped():
    for name in GENERATORS:
        megabytes = 2e-6 * sum(x.numel() for x in EXPERIMENT.assets[name].build_model().state_dict().values())
        assert 2 < megabytes < FILE_MB, "in half precision"


def test_the_commands_from_end_to_end(trained, tmp_path, monkeypatch, capsys):
    small, folder = trained
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    test_set = small.make_test_set(CPU, {"portraits": 12})  # made once, for all commands
    small = replace(small, make_test_set=lambda device, options: test_set.first(options["portraits"]))
    monkeypatch.setattr(command_line, "find_experiment", lambda name: small)
    monkeypatch.setattr(patches, "optimise_latents", partial(patches.optimise_latents, steps=3))

    def run(words):
        command_line.main(["gan_inversion", *words.split(), "--out", str(folder)])

    options = "--portraits 12 --samples 2 --steps 1 --references 50 --images 10 --effective-size 10"
    with exclusive_lock(folder / "evaluation_wplus_eta_0.json"):  # as if another process evaluated it
        run(f"evaluate {options}")
    assert "wplus_eta_0: another process evaluates it" in capsys.readouterr().out
    assert not (folder / "evaluation_wplus_eta_0.json").exists()
    run(f"evaluate wplus_eta_0 {options}")
    default = {name for name, evaluation in small.evaluations.items() if not evaluation.on_request}
    assert {path.stem.removeprefix("evaluation_") for path in folder.glob("evaluation_*.json")} == default
    capsys.readouterr()
    run(f"evaluate wplus_eta_1 {options}")
    assert "wplus_eta_1: evaluated already" in capsys.readouterr().out
    record = read_json(folder / "evaluation_wplus_eta_1.json")
    assert set(record["weights"]) == {"wplus", "deterministic", "classifier", "generator"}
    run(f"evaluate recipe_wplus_wide {options}")
    recipe = to_flat(
        harness.Measurement(**row) for row in read_json(folder / "evaluation_recipe_wplus_wide.json")["measures"]
    )
    assert recipe["recipe_wplus_wide"]["exact_response_hat"] > 0.9 > recipe["recipe_wplus_wide"]["response_hat"]
    (folder / "evaluation_recipe_wplus_wide.json").unlink()
    run("export wplus generator classifier")
    results = harness.load_results(small)
    numbers = to_flat(results.rows)
    assert set(numbers) == default - {"deterministic"} and set(results.evaluations) == default
    assert numbers["reference_set"]["bank_least_size"] > 9.9 and len(results.arrays["bank_curve_size"]) == 2
    assert (
        0 < numbers["true_draws"]["energy_ratio"]
        and 0 < numbers["inverted_true_draws"]["image_psnr"] < numbers["true_draws"]["patch_psnr"]
        and numbers["optimised_wplus"]["patch_psnr"] > 0
        and numbers["generator"]["frechet"] > 0
    )
    spreads = [numbers["temperature_wplus"][f"spread_skill_{x:g}"] for x in experiment.TEMPERATURES]
    assert len(set(spreads)) == len(spreads), "no two temperatures give the same samples"
    rows = {row.measure: row for row in results.rows if row.sampler == "temperature_wplus"}
    assert all(x.low <= x.value <= x.high for key, x in rows.items() if key.startswith("spread_skill"))
    assert set(numbers["classifier"]) == set(portraits.ATTRIBUTE_NAMES)
    assert all(numbers[f"exact_{scale:g}"]["spread"] > 0 for scale in experiment.SCHEDULE_SCALES)
    assert results.arrays["wplus_eta_1"].shape == (experiment.NUM_EXAMPLES, 2, 3, 64, 64)
    assert results.arrays["deterministic"].shape == (experiment.NUM_EXAMPLES, 1, 3, 64, 64)
    assert results.arrays["live"].shape == (experiment.NUM_REPRODUCED, 2, 3, 64, 64)
    assert results.arrays["given"].shape == (12, 10) and results.arrays["odds_hat"].shape == (12, 2)
    for name in ("generator", "classifier", "wplus"):
        in_folder, exported = (harness.load_model(small, name, source, CPU) for source in (folder, None))
        assert all(torch.equal(x, y) for x, y in zip(in_folder.parameters(), exported.parameters(), strict=True))
    entries = read_manifest()
    assert set(entries) == {"04_gan_inversion.npz"} | {
        f"04_gan_inversion{part}.safetensors" for part in ("", "_generator", "_reader")
    }
    for entry in entries.values():
        assert {"command", "commit", "gpu_minutes", "hardware", "licence", "metrics", "seed"} <= set(entry)
    assert "frechet" in entries["04_gan_inversion_generator.safetensors"]["metrics"]


@pytest.mark.parametrize(
    "name",
    ["temperature_wplus", "reference_set", "optimised", "true_draws", "inverted_true_draws", "generator", "exact_1"],
)
@pytest.mark.filterwarnings("error:std|var:UserWarning")
def test_evaluations_take_the_smallest_options(name, trained, monkeypatch):
    """A quarter of two portraits has still two: an interval resamples them."""
    small, folder = trained
    monkeypatch.setattr(patches, "optimise_latents", partial(patches.optimise_latents, steps=1))
    options = {"portraits": 2, "samples": 2, "steps": 1, "references": 8, "images": 4, "effective_size": 1}
    evaluation = small.evaluations[name]
    for key, least in evaluation.least_options.items():
        assert options[key] == least
        with pytest.raises(ValueError, match=f"--{key} is {least - 1}: {name} needs at least {least}"):
            evaluation.check_options(name, options | {key: least - 1})
    results = evaluation.run(harness.Session(small, folder, options))
    assert results.numbers and not any(map(np.isnan, results.numbers.values()))


@pytest.mark.parametrize("size, effective_size", [(7, 1), (41, 10), (50, 12), (51, 12.5)])
def test_the_size_that_a_reference_set_needs_is_enough(size, effective_size):
    with pytest.raises(ValueError, match="wanted at least") as error:
        measures.check_reference_set(size, effective_size)
    wanted = int(str(error.value).split("at least ")[1].split(",")[0])
    assert wanted > size
    measures.check_reference_set(wanted, effective_size)
    with pytest.raises(ValueError):
        measures.check_reference_set(wanted - 1, effective_size)


@pytest.mark.parametrize(
    "words, message",
    [
        ("train wplus --steps 1", "nowhere/generator.safetensors: train it first"),
        ("train generator --steps 1", "nowhere/auxiliary_classifiers.safetensors: train it first"),
        ("train classifier --minutes 1", "for a number of steps, not of minutes: give --steps"),
        ("train vae --steps 1", "unknown variant 'vae' of gan_inversion: choose one of w, wplus, wplus_faint, "),
        ("evaluate reference_set", "nowhere/wplus.safetensors: train it first"),
    ],
)
def test_bad_words_are_refused_in_one_line(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        command_line.main(["gan_inversion", *words.split(), "--out", str(tmp_path / "nowhere")])
    assert error.value.code == 2 and message in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_size_of_the_training_set_is_an_argument(tmp_path):
    folder = tmp_path / "runs"
    command_line.main(
        ["gan_inversion", "train", "classifier", "--steps", "1", "--batch-size", "2", "--out", str(folder)]
    )
    assert "--portraits" not in read_json(folder / "classifier.json")["command"]
    parser = command_line.command_parser(experiment.EXPERIMENT)
    options = parser.parse_args(["train", "wplus", "--steps", "1", "--portraits", "12"])
    configured = experiment.EXPERIMENT.configure(experiment.EXPERIMENT, options)
    assert configured.variant("wplus").options["portraits"] == configured.arguments["portraits"] == 12


def test_shipped_results_have_the_names_of_the_experiment():
    results = harness.load_results(experiment.EXPERIMENT)
    recipes = {*networks.SWEEP}
    trained = {*experiment.EXPERIMENT.assets, *experiment.EXPERIMENT.variants} - recipes
    assert set(results.trainings) == trained
    assert (
        {*experiment.SAMPLERS, "reference_set"} <= set(to_flat(results.rows)) <= set(experiment.EXPERIMENT.evaluations)
    )
    assert set(results.evaluations) == set(to_flat(results.rows))
    assert results.trainings["generator"]["batch"] == 64 and results.trainings["generator"]["command"]
    assert results.arrays["live"].shape == (4, 2, 3, 64, 64) and "records" not in results.arrays
    assert {row.variant for row in results.rows if row.sampler.startswith("wplus_eta")} == {"wplus"}
