"""The harness of the experiments and its command line, with a toy experiment; every variant of every real one."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fwdiff_lite import ForwardDiffusion
from fwdiff_lite.experiments import __main__ as command_line
from fwdiff_lite.experiments import harness
from fwdiff_lite.experiments.declaration import Asset, Evaluation, Results
from fwdiff_lite.experiments.measurements import add_setting, to_flat, to_long
from fwdiff_lite.experiments.records import COMMAND
from fwdiff_lite.storage.checkpoints import load_pretrained, read_manifest
from fwdiff_lite.storage.files import read_json
from fwdiff_lite.training import INTERRUPTED, TrainingLog
from tests.experiments.toy_experiment import TOY, build_toy_model, evaluate_toy_sampler, make_toy_variant


def test_a_training_leaves_weights_and_a_record_and_is_resumed(toy):
    folder = toy("train full reseeded --steps 2")
    record = read_json(folder / "reseeded.json")
    assert (
        record["seed"] == 1 and record["options"] == {"model_class": "ForwardDiffusion"} and record["commit"] == "abc"
    )
    assert record["command"] == "python -m fwdiff_lite.experiments toy train reseeded --steps 2 --batch-size 4"
    assert record["steps"] == len(record["curve"]["loss"]) == 2 and record["parent"] == {}
    first, second = (load_file(folder / f"{name}.safetensors") for name in ("full", "reseeded"))
    assert all(w.dtype == torch.float16 for w in first.values())
    assert any((first[key] != second[key]).any() for key in first), "another seed"
    toy("train full --steps 3 --minutes 0.5 --batch-size 4 --jobs-per-gpu 2")
    record = read_json(folder / "full.json")
    assert record["steps"] == 3 and record["minutes"] > 0 and record["gpu_minutes"] == 0, "on a CPU"
    assert record["command"].endswith("toy train full --minutes 0.5 --steps 3 --batch-size 4 --jobs-per-gpu 2")
    model = harness.load_model(TOY, "full", folder, torch.device("cpu"))
    assert all(torch.equal(w, load_file(folder / "full.safetensors")[key].float())
               for key, w in model.denoiser.state_dict().items())  # fmt: skip


def test_a_training_of_other_settings_is_not_resumed(toy, monkeypatch, tmp_path):
    folder = toy("train full --steps 1")
    other = replace(TOY, variants={"full": replace(TOY.variants["full"], seed=5)}, evaluations={})
    with pytest.raises(ValueError, match="full.state was trained with seed 0, not 5: delete it"):
        harness.train(other, "full", folder, steps=2)
    assert read_json(folder / "full.json")["steps"] == 1


def test_an_interrupted_training_leaves_its_state_alone_and_is_resumed(toy, tmp_path, monkeypatch):
    calls = []

    def interrupted_batches(device, batch_size):
        batch = TOY.variants["full"].batches(device, batch_size)

        def draw(generator):
            calls.append(None)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return batch(generator)

        return draw

    variant = replace(TOY.variants["full"], batches=interrupted_batches)
    interrupted = replace(TOY, variants={"full": variant}, evaluations={})
    monkeypatch.setattr(command_line, "find_experiment", lambda name: interrupted)
    with pytest.raises(SystemExit) as error:
        toy("train full --steps 4")
    assert error.value.code == INTERRUPTED
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert names == {"full.state", "full.config.json"}
    folder = toy("train full --steps 4")
    assert read_json(folder / "full.json")["steps"] == 4


def test_initial_weights_come_from_the_parent_or_a_file(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    folder = toy("train full baseline --steps 1")
    toy("evaluate")
    toy("export full")
    with_child = replace(TOY, variants={"child": make_toy_variant(parent="90_toy")}, evaluations={})
    monkeypatch.setattr(command_line, "find_experiment", lambda name: with_child)
    toy("train child --steps 1")
    record = read_json(folder / "child.json")
    assert record["parent"]["variant"] == "full"
    assert record["parent"]["command"].endswith("train full --steps 1 --batch-size 4")
    parent, trained = load_pretrained("90_toy"), load_file(folder / "child.safetensors")
    moved = max(float((trained[key].float() - w).abs().max()) for key, w in parent.items())
    assert 0 < moved < 0.02, "one step from the parent's weights"
    weights = tmp_path / "own" / "90_toy.safetensors"  # another file than that of the manifest
    weights.parent.mkdir()
    save_file({key: torch.zeros_like(w) for key, w in parent.items()}, weights)
    monkeypatch.setattr(command_line, "find_experiment", lambda name: TOY)
    toy(f"train reseeded --steps 1 --init-from {weights}")
    assert max(float(w.abs().max()) for w in load_file(folder / "reseeded.safetensors").values()) < 0.02
    record = read_json(folder / "reseeded.json")
    assert record["command"].endswith("--init-from 90_toy.safetensors") and record["parent"] == {}


def test_an_evaluation_is_cached_until_weights_or_options_change(toy, capsys):
    folder = toy("train full baseline --steps 1")
    toy("evaluate")
    path = folder / "evaluation_full_eta_0.json"
    record = read_json(path)
    assert record["command"].endswith("toy evaluate full_eta_0 --scenes 3") and record["options"] == {"scenes": 3}
    energy, count = record["measures"]
    assert (energy["variant"], energy["sampler"], energy["view"], energy["measure"]) == (
        "full", "full_eta_0", "60", "energy"
    )  # fmt: skip
    assert energy["high"] - energy["value"] == pytest.approx(1) and count["low"] is None and count["view"] == ""
    with np.load(path.with_suffix(".npz")) as arrays:
        assert arrays["full_sizes"].tolist() == [3, 30]
    capsys.readouterr()
    toy("evaluate full")
    assert f"full_eta_0: evaluated already; delete {path}" in capsys.readouterr().out and read_json(path) == record
    toy("train full --steps 2")
    toy("evaluate full_eta_0")
    assert read_json(path)["weights"] != record["weights"] and read_json(path)["measures"] != record["measures"]
    toy("evaluate full_eta_0 --scenes 4")
    with np.load(path.with_suffix(".npz")) as arrays:
        assert arrays["full_sizes"].tolist() == [4, 40]


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluations": {"a": Evaluation(evaluate_toy_sampler, "nope")}},
        {"evaluations": {"a": Evaluation(evaluate_toy_sampler, "full", baselines=("nope",))}},
        {"evaluations": {"a": Evaluation(evaluate_toy_sampler, "full", assets=("nope",))}},
        {"variants": TOY.variants | {"other": make_toy_variant(contained_assets=("nope",))}},
        {"assets": {"a": Asset(torch.nn.Module, lambda *x: None, "90_toy_a", batch_size=8, training_assets=("nope",))}},
    ],
)
def test_an_experiment_declares_every_variant_and_asset_that_it_names(changes):
    with pytest.raises(ValueError, match="toy names 'nope' but does not declare it: it declares full, reseeded, b"):
        replace(TOY, **changes)


# --- assets ---


def build_number(seed):
    torch.manual_seed(seed)
    return torch.nn.Linear(1, 1)


def train_number(network, training):
    """Sets the weight to the number of steps, plus that of the first asset if it is needed."""
    first = training.assets.get("first")
    torch.nn.init.constant_(network.weight, training.steps + (float(first.weight) if first else 0.0))
    return TrainingLog(training.steps, 1.0, {"loss": [float(training.seed), float(training.batch_size)]})


def build_with_number(second, seed):
    assert not second.weight.requires_grad, "an asset is frozen"
    model = build_toy_model(ForwardDiffusion, seed)
    model.second = second
    return model


def weight_results(network):
    return Results({"count": float(network.weight)}, {})


WITH_ASSETS = replace(
    TOY,
    assets={
        "first": Asset(build_number, train_number, "90_toy_first", batch_size=8, options={"number": 1}, seed=3),
        "second": Asset(build_number, train_number, "90_toy_second", batch_size=8, training_assets=("first",)),
    },
    variants={"full": replace(TOY.variants["full"], build=build_with_number, contained_assets=("second",))},
    evaluations={
        "weight": Evaluation(
            lambda session: Results({"count": float(session.model("full").second.weight)}, {}),
            "full",
            assets=("first",),
        ),
        "first": Evaluation(lambda session: Results({"count": float(session.model("first").weight)}, {}), "first"),
    },
)


@pytest.fixture
def with_assets(toy, monkeypatch, tmp_path):
    monkeypatch.setattr(command_line, "find_experiment", lambda name: WITH_ASSETS)
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    return toy


def test_an_asset_is_trained_evaluated_exported_and_loaded(with_assets):
    folder = with_assets("train first second full --steps 2")
    record = read_json(folder / "first.json")
    assert record["command"] == "python -m fwdiff_lite.experiments toy train first --steps 2 --batch-size 8"
    assert record["seed"] == 3 and record["options"] == {"number": 1} and record["curve"] == {"loss": [3.0, 8.0]}
    assert set(read_json(folder / "full.json")["needs"]) == {"second"}
    with_assets("evaluate")
    record = read_json(folder / "evaluation_weight.json")
    assert set(record["weights"]) == {"full", "second", "first"} and record["measures"][0]["value"] == 4.0
    with_assets("export full second first")
    entries = read_manifest()
    assert set(entries) == {
        f"90_toy{part}" for part in (".npz", ".safetensors", "_second.safetensors", "_first.safetensors")
    }
    command, first = entries["90_toy.safetensors"]["command"], entries["90_toy_first.safetensors"]
    trainings = [part.split(" toy ")[1].split(" --")[0] for part in command.split("; ")]
    assert trainings == ["train first", "train second", "train full"]
    assert first["seed"] == 3 and first["metrics"] == {"count": 2.0} and entries["90_toy.safetensors"]["seed"] == 0
    for source in (folder, None):
        model = harness.load_model(WITH_ASSETS, "full", source, torch.device("cpu"))
        assert float(model.second.weight) == 4.0 and not model.training
        assert all(w.requires_grad for w in model.denoiser.parameters())


def test_an_option_that_is_too_small_is_refused_before_anything_is_computed(toy, monkeypatch, capsys):
    folder = toy("train full baseline --steps 1")
    sampler = replace(TOY.evaluations["full_eta_0"], least_options={"scenes": 2})
    evaluations = {"exact": TOY.evaluations["exact"], "full_eta_0": sampler}
    monkeypatch.setattr(command_line, "find_experiment", lambda name: replace(TOY, evaluations=evaluations))
    with pytest.raises(SystemExit):
        toy("evaluate --scenes 1")
    assert "--scenes is 1: full_eta_0 needs at least 2" in capsys.readouterr().err
    assert not list(folder.glob("evaluation_*"))
    toy("evaluate exact --scenes 1")
    toy("evaluate full_eta_0 --scenes 2")
    assert len(list(folder.glob("evaluation_*.json"))) == 2


def test_a_training_with_another_asset_is_not_resumed_and_an_evaluation_is_repeated(with_assets, capsys):
    folder = with_assets("train first second full --steps 2")
    with_assets("evaluate weight")
    with_assets("train first second --steps 3")
    with pytest.raises(SystemExit):
        with_assets("train full --steps 3")
    assert "full.state was trained with" in capsys.readouterr().err
    with_assets("evaluate weight")
    assert read_json(folder / "evaluation_weight.json")["measures"][0]["value"] == 6.0


@pytest.mark.parametrize(
    "words, message",
    [
        ("train full --steps 1", "runs/second.safetensors: train it first"),
        ("train second full --steps 1", "runs/first.safetensors: train it first"),
        ("train full second first --steps 1", "runs/second.safetensors: train it first"),
        ("evaluate weight", "runs/full.safetensors: train it first"),
        ("train nope --steps 1", "unknown variant 'nope' of toy: choose one of full, first, second"),
        ("export first", "runs/first.safetensors: train it first"),
    ],
)
def test_what_is_missing_is_named_before_anything_starts(words, message, with_assets, capsys, tmp_path):
    with pytest.raises(SystemExit) as error:
        with_assets(words)
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.value.code == 2 and message in last_line and not (tmp_path / "runs").exists()


def test_an_asset_is_trained_in_one_process(with_assets, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        with_assets("train first --steps 1")
    assert "first runs in one process: start it without `accelerate launch`" in capsys.readouterr().err


def test_an_interval_stays_with_its_measure_at_a_setting():
    numbers = {"energy": 2.0, "energy_low": 1.0, "energy_high": 3.0, "mean_tv": 0.5}
    at_setting = {add_setting(key, "1.5"): x for key, x in numbers.items()}
    rows = to_long("toy", "full", "sampler", at_setting)
    assert [(row.measure, row.value, row.low, row.high) for row in rows] == [
        ("energy_1.5", 2.0, 1.0, 3.0),
        ("mean_tv_1.5", 0.5, None, None),
    ]
    assert to_flat(rows)["sampler"] == at_setting


def test_flat_and_long_form_hold_the_same_numbers():
    numbers = {"a_60": 1.0, "a_60_low": 0.5, "a": 2.0, "a_high": 3.0, "slow": 4.0, "fell_low": 5.0}
    rows = to_long("toy", "", "exact", numbers, ("60",))
    assert [(row.measure, row.view, row.low, row.high) for row in rows] == [
        ("a", "60", 0.5, None), ("a", "", None, 3.0), ("slow", "", None, None), ("fell_low", "", None, None)
    ]  # fmt: skip
    assert to_flat(rows) == {"exact": numbers}


@pytest.mark.parametrize(
    "words, message",
    [
        ("train nope --steps 1", "unknown variant 'nope' of toy: choose one of full, reseeded, baseline"),
        ("train full", "a training needs a budget: give --minutes, --steps or both"),
        ("train full --steps 0", "argument --steps: 0 is no whole number above 0"),
        ("train full --steps 1 --init-from nope", "there is no file nope of initial weights"),
        ("train full --steps 1 --init-from README.md", "README.md cannot be read"),
        ("evaluate nope", "toy has no evaluation 'nope': choose from full_eta_0, exact"),
        ("evaluate full", "runs/full.safetensors: train it first"),
        ("evaluate --samples 3", "unrecognized arguments: --samples"),
        ("export full", "runs/full.safetensors: train it first"),
        ("export nope", "unknown variant 'nope' of toy"),
        ("export", "runs holds no evaluation: evaluate some variant first"),
        ("ship full", "invalid choice: 'ship'"),
    ],
)
def test_bad_words_are_refused_in_one_line(words, message, toy, capsys):
    with pytest.raises(SystemExit) as error:
        toy(words)
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.value.code == 2 and message in last_line


@pytest.mark.parametrize("words", ["train full --steps 1", "evaluate exact", "export"])
def test_an_out_that_is_a_file_is_refused(words, toy, tmp_path, capsys):
    for path in (tmp_path / "runs", tmp_path / "runs" / "deeper"):
        (tmp_path / "runs").write_text("a file")
        with pytest.raises(SystemExit):
            command_line.main(["toy", *words.split(), "--out", str(path)])
        assert f"--out {path}: {tmp_path / 'runs'} is a file; name a folder" in capsys.readouterr().err


def test_an_unknown_experiment_is_refused(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["nope", "train", "full"])
    assert "unknown experiment 'nope': choose one of " in capsys.readouterr().err
    assert set(EXPERIMENTS) == {command_line.find_experiment(name).name for name in EXPERIMENTS}


def test_only_trainings_run_in_several_processes(toy, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        toy("evaluate")
    assert "evaluate runs in one process: start it without `accelerate launch`" in capsys.readouterr().err


# --- the real experiments ---

TOY_SIZES = {  # options of build_model
    "motion": {"widths": (8, 8, 8, 16)},
    "inverse_graphics": {"width": 8, "samples_per_ray": 4},
    "ablations": {"width": 8, "samples_per_ray": 4},
    "flatland": {},
    "digits": {"width": 8, "depth": 1},
    "projections": {"width": 8, "depth": 1},
    "noisy_projections": {},
    "paper_size": {
        "encoder_options": {"width": 8, "depth": 1, "heads": 2, "patch": 16},
        "denoiser_options": {"width": 8, "num_features": 2, "render_downsample": 8},
        "renderer_options": {"height": 64, "width": 64, "samples_per_ray": 4},
    },
}
# Of variants whose encoder is a UNet, with as many resolutions as it has. One variant is trained with its own widths.
TOY_UNET, OWN_WIDTHS = {"widths": (8, 8, 8, 16)}, ("inverse_graphics", "unet")
EXPERIMENTS = {name: command_line.find_experiment(name) for name in TOY_SIZES}


def test_every_experiment_is_tested_here():
    declared = set()
    for name in command_line.experiment_modules():
        try:
            declared.add(command_line.find_experiment(name).name)
        except ValueError:
            continue
    # trained in the tests of these modules: they need clips, a generator; those of cost are those of inverse_graphics
    elsewhere = {"real_clips", "gan_inversion", "own_generator", "cost"}
    assert declared == set(TOY_SIZES) | elsewhere


@pytest.mark.parametrize(
    "experiment, name", [(experiment, name) for experiment in TOY_SIZES for name in EXPERIMENTS[experiment].variants]
)
def test_every_variant_trains_and_records_what_sets_it_apart(experiment, name, tmp_path):
    declared = EXPERIMENTS[experiment]
    variant = declared.variants[name]
    has_toy_unet = variant.options.get("encoder") == "unet" and (experiment, name) != OWN_WIDTHS
    sizes = TOY_SIZES[experiment] | (TOY_UNET if has_toy_unet else {})
    small = replace(variant, build=partial(variant.build, **sizes), parent=None)
    harness.train(replace(declared, variants={name: small}, evaluations={}), name, tmp_path, steps=2, batch_size=2)
    record = read_json(tmp_path / f"{name}.json")
    assert record["seed"] == variant.seed and record["steps"] == 2 and record["batch"] == 2
    assert record["options"] == json.loads(json.dumps(dict(variant.options)))
    assert record["command"] == f"{COMMAND} {experiment} train {name} --steps 2 --batch-size 2"


@pytest.mark.parametrize("experiment", TOY_SIZES)
def test_variants_differ_in_their_options_or_their_seed(experiment):
    variants = EXPERIMENTS[experiment].variants.values()
    settings = {json.dumps([dict(variant.options), variant.seed, variant.parent]) for variant in variants}
    assert len(settings) == len(variants)
