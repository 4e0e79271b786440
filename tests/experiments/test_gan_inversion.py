"""The generator's training resumes bit for bit; the evaluation tells good sets from bad ones; all commands run."""

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
SMALL_64 = {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 256, "channel_max": 8}  # of 64 pixels
SMALL_ENCODER = {"widths": (8, 8, 8, 8), "hidden": 16}


class BrightnessClassifier(nn.Module):
    """Classifies one attribute: whether an image is bright."""

    def forward(self, images):
        x = 4 * images.mean((1, 2, 3))
        return [torch.stack([-x, x], 1)]


def test_a_training_resumes_where_it_stopped(tmp_path):
    sample_images = experiment.make_image_sampler(40, CPU, 16)
    weights = []
    for name, budgets in (("uninterrupted", (18,)), ("resumed", (5, 18))):
        (tmp_path / name).mkdir()
        for steps in budgets:  # each call starts with initial networks, as a new process would
            trainer = experiment.build_trainer(CPU, **TINY)
            classifiers = nn.ModuleList([BrightnessClassifier()])
            trainer.auxiliary_loss = portraits.AttributeMomentLoss(classifiers, torch.ones(4, 3, 16, 16), 100.0)
            log = experiment.train_generator(trainer, sample_images, tmp_path / name, 4, steps)
        assert log.steps == 18 and trainer.images == 72 and trainer.steps == 18
        assert set(log.curve) == {"generator", "auxiliary", "discriminator", "r1"}
        weights.append(torch.cat([w.flatten() for w in trainer.G_ema.parameters()]))
    assert torch.equal(*weights)
    initial = experiment.build_trainer(CPU, **TINY).G_ema
    assert not torch.equal(weights[0], torch.cat([w.flatten() for w in initial.parameters()]))


def test_a_training_needs_a_budget(tmp_path):
    sample_images = experiment.make_image_sampler(40, CPU, 16)
    with pytest.raises(ValueError, match="needs a budget: give steps, seconds or both"):
        experiment.train_generator(experiment.build_trainer(CPU, **TINY), sample_images, tmp_path)


@pytest.mark.parametrize("variant", experiment.VARIANTS)
def test_every_variant_learns_from_patches(tmp_path, variant):
    G = experiment.build_trainer(CPU, **SMALL_64).G_ema
    model = experiment.build_model(variant, G, **SMALL_ENCODER)
    images = experiment.generate_images(G, 8, torch.Generator().manual_seed(0))
    log = experiment.train_inversion(model, lambda n, _: images[:n], tmp_path, variant, 4, 2, steps=30)
    assert log.steps == 30 and (tmp_path / f"{variant}.state").exists()
    losses = log.curve["loss"]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="unknown variant 'v': choose one of w, wplus, wplus_faint, deterministic"):
        experiment.build_model("v", experiment.build_trainer(CPU, **TINY).G_ema)


def test_generated_images_do_not_depend_on_the_chunk_size():
    G = experiment.build_trainer(CPU, **TINY).G_ema
    images = experiment.generate_images(G, 5, torch.Generator().manual_seed(0))
    chunked = experiment.generate_images(G, 5, torch.Generator().manual_seed(0), chunk_size=2)
    assert images.shape == (5, 3, 16, 16) and torch.allclose(images, chunked, atol=1e-5)
    truncated = experiment.generate_images(G, 3, torch.Generator().manual_seed(0), 0.0)
    assert truncated.std(0).max() < 1e-5, "psi = 0 gives the mean"


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    classifier = portraits.AttributeClassifier(width=16)
    losses = portraits.train_classifier(classifier, 150, torch.Generator().manual_seed(0), batch_size=32)
    assert losses[-1] < 0.4 * losses[0]
    return classifier.eval()


def test_a_classifier_learns_the_attributes(classifier):
    people = portraits.sample_portraits(400, torch.Generator().manual_seed(1))
    accuracy = (classifier.predict(portraits.render(people)) == people.attributes).double().mean(0)
    assert accuracy[portraits.ATTRIBUTE_NAMES.index("hat")] > 0.97 and accuracy.mean() > 0.85


def test_the_evaluation_tells_a_second_sample_from_a_set_without_hats(classifier):
    first, second = (portraits.sample_portraits(600, torch.Generator().manual_seed(seed)) for seed in (2, 3))
    real, real_again = portraits.render(first), portraits.render(second)
    without_hats = portraits.render(second.with_attribute("hat", 0))
    good, bad = (
        experiment.evaluate_generator(fake, real, classifier, max_images=300) for fake in (real_again, without_hats)
    )
    assert good["worst_binary"] < 0.08 and bad["apart_hat"] > 0.15
    assert good["frechet"] < good["frechet_floor"] < bad["frechet"], "the floor is of half as many images"
    assert min(good["precision"], good["recall"]) > 0.8 and bad["recall"] < good["recall"]


def test_true_posterior_draws_pass_the_evaluation_and_their_mean_does_not(classifier):
    """True posterior draws as samples have the right probabilities and spread; one image for all has neither."""
    people = experiment.held_out_portraits(80, seed=5)
    test_set = experiment.make_portrait_test_set(people, seed=5)
    assert test_set.observed.shape == (80, 10)
    assert all(len(probabilities) == 80 for probabilities in test_set.probabilities.values())
    assert torch.equal(portraits.render(people), test_set.images)
    generator, k = torch.Generator().manual_seed(6), 8
    posterior_draws, all_with_hats = [], []
    for _ in range(k):  # an unobserved attribute is sampled from its probabilities; an observed one stays
        attributes = people.attributes.clone()
        for i, probabilities in enumerate(test_set.probabilities.values()):
            categories = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            attributes[:, i] = torch.where(test_set.observed[:, i], attributes[:, i], categories)
        draw = portraits.Portraits(attributes, people.nuisance)
        posterior_draws.append(portraits.render(draw))
        all_with_hats.append(portraits.render(draw.with_attribute("hat", 1)))
    samples = torch.stack(posterior_draws, 1)
    mean = samples.mean(1, keepdim=True)
    mean_labels = experiment.predict_labels(classifier, mean)
    labels = experiment.predict_labels(classifier, samples)
    good = experiment.evaluate_samples(test_set, samples, mean, labels, mean_labels)
    assert good["patch_psnr"] > 25 and good["diversity_outside_over_inside"] > 3
    assert good["energy_ratio"] < 0.8 and 0.8 < good["spread_skill"] < 1.2
    assert good["factor_tv_hat"] < 0.1, "a classifier of few training steps recognises hats"
    samples = torch.stack(all_with_hats, 1)
    labels = experiment.predict_labels(classifier, samples)
    bad = experiment.evaluate_samples(test_set, samples, mean, labels, mean_labels)
    assert bad["factor_tv_hat"] > 0.5 and bad["factor_tv"] >= bad["factor_tv_hat"]


def test_a_reference_set_agrees_with_draws_from_itself():
    generator = torch.Generator().manual_seed(0)
    people = portraits.sample_portraits(1200, generator)
    references = portraits.render(people)
    test_set = experiment.make_test_set(portraits.render(portraits.sample_portraits(12, generator)))
    weights, _, _ = patches.importance_weights(patches.reference_distances(references, test_set.context))
    labels = people.attributes[torch.multinomial(weights, 64, replacement=True, generator=generator)]
    numbers = experiment.reference_agreement(test_set, labels, references, people.attributes)
    assert numbers["bank_least_size"] >= 50 - 1e-6
    assert numbers["bank_tv"] < 1.3 * numbers["bank_tv_chance"] + 0.01
    prior_labels = people.attributes[torch.randint(1200, (12, 64), generator=generator)]
    prior_numbers = experiment.reference_agreement(test_set, prior_labels, references, people.attributes)
    assert prior_numbers["bank_tv"] > 1.3 * numbers["bank_tv"]


def test_the_schedule_of_the_experiment_keeps_the_spread():
    """With an exact denoiser only the finite steps lose spread: the cosine schedule does, unless steps are many."""
    people = portraits.sample_portraits(300, torch.Generator().manual_seed(0))
    shifted, cosine = (
        experiment.sampler_discretization_error(people, schedule, 150)
        for schedule in (patches.SCHEDULE, CosineSchedule())
    )
    many_steps = experiment.sampler_discretization_error(people, CosineSchedule(), 150, steps=128)
    assert shifted["spread"] > 0.96 and cosine["spread"] < 0.93 and many_steps["spread"] > cosine["spread"] + 0.05
    assert shifted["tv"] < cosine["tv"]


def test_samples_are_whole_images_for_any_number_of_targets():
    G = experiment.build_trainer(CPU, **SMALL_64).G_ema
    test_set = experiment.make_test_set(experiment.generate_images(G, 2, torch.Generator().manual_seed(0)))
    assert test_set.target_params.shape == (2, 5, 3)
    assert patches.patch_mask(test_set.target_params[:, 1:], 64).sum(1).eq(1).all(), "the quadrants cover the image"
    assert test_set.target_params[:, 0].tolist() == [[16, 16, 32]] * 2
    model = experiment.build_model("deterministic", G, **SMALL_ENCODER)
    assert experiment.sample_posterior(model, test_set).shape == (2, 1, 3, 64, 64)
    model = experiment.build_model("wplus", G, **SMALL_ENCODER)
    assert experiment.sample_posterior(model, test_set, 3, num_targets=2).shape == (2, 3, 3, 64, 64)


def test_the_commands_from_end_to_end(tmp_path, monkeypatch, capsys):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(checkpoints, "repo_root", lambda: tmp_path)
    sizes = experiment.stylegan2.SMALL_GENERATOR | SMALL_64
    monkeypatch.setattr(experiment.stylegan2, "SMALL_GENERATOR", sizes)
    monkeypatch.setattr(experiment, "SAMPLING_STEPS", 1)

    def run(*arguments: str) -> dict:
        experiment.main([*arguments, "--out", str(tmp_path), "--batch-size", "4", "--portraits", "9"])
        assert capsys.readouterr().out.splitlines()[-1].startswith(f'{arguments[0]} {{"commit"')
        return read_json(tmp_path / f"{arguments[0]}.json")

    records = run("auxiliary_classifiers", "--steps", "2")["classifiers"]
    assert len(records) == len(experiment.AUXILIARY_SEEDS)
    assert run("generator", "--steps", "2")["images"] == 8
    assert set(run("classifier", "--steps", "2")["numbers"]) == set(portraits.ATTRIBUTE_NAMES)
    assert run("evaluate_generator", "--count", "20")["numbers"]["frechet"] > 0
    for variant in experiment.VARIANTS:
        command = run(variant, "--steps", "2")["command"]
        assert command.endswith(f"gan_inversion {variant} --minutes 10 --batch-size 4")
    evaluation = run("evaluate", "--count", "8", "--samples", "2", "--references", "200")
    assert set(evaluation["numbers"]) == {*experiment.SAMPLERS, "optimised", "bank"}
    assert evaluation["numbers"]["bank"]["bank_least_size"] > 49
    assert set(map(float, evaluation["without_error"])) == set(experiment.SCHEDULE_SCALES)
    with np.load(tmp_path / "evaluation.npz") as arrays:
        assert arrays["wplus_eta_1"].shape == (experiment.NUM_EXAMPLES, 2, 3, 64, 64)
        assert arrays["deterministic"].shape == (experiment.NUM_EXAMPLES, 1, 3, 64, 64)

    monkeypatch.setattr("sys.argv", ["gan_inversion", "export", "--out", str(tmp_path)])
    experiment.main()
    records, arrays = experiment.load_results()
    assert set(records) == set(experiment.COMMANDS)
    assert records["evaluate"]["numbers"] == evaluation["numbers"] and arrays["live"].shape == (4, 2, 3, 64, 64)
    G, classifier, model = experiment.load_pretrained_model()
    G_in_folder, classifier_in_folder, model_in_folder = experiment.load_model(tmp_path)
    for in_folder, exported in (
        (G_in_folder, G),
        (classifier_in_folder, classifier),
        (model_in_folder.denoiser, model.denoiser),
    ):
        assert all(torch.equal(x, y) for x, y in zip(in_folder.parameters(), exported.parameters(), strict=True))
    test_set = experiment.make_portrait_test_set(experiment.held_out_portraits(8)).first(1)
    assert experiment.sample_posterior(model, test_set, 2).shape == (1, 2, 3, 64, 64) and not G.training
    images = experiment.generate_images(G, 2, torch.Generator().manual_seed(0))
    assert classifier.predict(images).shape == (2, 10)
    for entry in checkpoints.read_manifest().values():
        assert {"command", "commit", "gpu_minutes", "hardware", "licence", "metrics", "seed"} <= set(entry)


def test_shipped_records_have_the_names_of_the_commands():
    records, _ = experiment.load_results()
    assert set(records) == set(experiment.COMMANDS)
