"""Models are trained and evaluated on clips in RealEstate10K's format, from the command line too."""

import json
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from fwdiff_lite import metrics
from fwdiff_lite.datasets import view_sampler
from fwdiff_lite.datasets.__main__ import main as convert
from fwdiff_lite.datasets.clip_folder import read_folder
from fwdiff_lite.datasets.co3d import Selection
from fwdiff_lite.datasets.view_sampler import evaluation_list, load_views
from fwdiff_lite.experiments import harness
from fwdiff_lite.experiments.__main__ import main
from fwdiff_lite.experiments.inverse_graphics import real_clips, variants
from fwdiff_lite.problems.inverse_graphics.synthetic_realestate10k import write_clips
from fwdiff_lite.storage.files import read_json

FRAME_GAP, SIDE = (8, 16), 16
TINY = {
    "samples_per_ray": 16,
    "width": 16,
    "widths": (16, 32),
    "num_blocks": 1,
    "num_attention_levels": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 3, 20, seed=1)
    return folder


@pytest.fixture(scope="module")
def clips(folder):
    return read_folder(folder, FRAME_GAP)[0]


@pytest.fixture(scope="module")
def views(clips):
    return load_views(clips, evaluation_list(clips, FRAME_GAP), SIDE)


@pytest.mark.parametrize("name", ["unet", "deterministic"])
def test_training_lowers_the_loss_and_improves_the_samples(name, clips, views, tmp_path):
    variant = variants.make_clip_variant(name, clips, FRAME_GAP, (1.0, 8.0), side=SIDE)
    fit_options = variant.fit_options | {"learning_rate": 4e-3}  # a small model learns faster with it
    batches = lambda device, batch_size: view_sampler.batches(clips, batch_size, FRAME_GAP, 64, SIDE)  # noqa: E731
    variant = replace(variant, build=partial(variant.build, **TINY), batches=batches, fit_options=fit_options)
    experiment = replace(real_clips.EXPERIMENT, variants={name: variant}, evaluations={})
    model = variant.build_model().eval()
    initial = real_clips.evaluate(real_clips.sample_posterior(model, views, k=2, steps=4), views)
    curve = harness.train(experiment, name, tmp_path, steps=100, batch_size=8).curve
    for key in ("loss", "target", "novel", "deterministic"):
        first, last = (sum(part) for part in (curve[key][:10], curve[key][-10:]))
        assert last < 0.2 * first, (key, first / 10, last / 10)
    model = harness.load_model(experiment, name, tmp_path, torch.device("cpu"))
    samples = real_clips.sample_posterior(model, views, k=2, steps=4)
    assert samples.shape == (3, 1 if name == "deterministic" else 2, 2, 3, SIDE, SIDE)
    trained = real_clips.evaluate(samples, views)
    for view in ("target", "novel"):
        assert trained[f"psnr_{view}_one"] > initial[f"psnr_{view}_one"] + 10
    context_psnr = metrics.psnr(views["context"].value[:, 0], views["target"].value[:, 0], 2)
    assert trained["psnr_target_one"] > context_psnr, "the sample is not a copy of the context"


def test_the_truth_scores_best_and_other_frames_score_worse(views):
    truth = torch.cat([views["target"].value, views["novel"].value], 1)[:, None]
    numbers = real_clips.evaluate(truth, views)
    assert numbers["psnr_target_one"] == torch.inf and numbers["ssim_novel_one"] == pytest.approx(1)
    swapped = real_clips.evaluate(truth.flip(2), views)
    assert swapped["psnr_target_one"] < 25 and swapped["ssim_target_one"] < 0.9
    noisy = truth + 0.2 * torch.randn((3, 4, *truth.shape[2:]), generator=torch.Generator().manual_seed(0))
    numbers = real_clips.evaluate(noisy, views)
    assert numbers["psnr_target_one"] == pytest.approx(20, abs=0.3)  # 10 log10(4 / 0.04)
    assert numbers["psnr_target_mean"] == pytest.approx(26, abs=0.3), "a mean of four has a quarter of the error"
    assert numbers["psnr_novel_best_of_4"] >= numbers["psnr_novel_one"]


def test_unavailable_metrics_give_a_warning_and_no_error(views, monkeypatch):
    truth = torch.cat([views["target"].value, views["novel"].value], 1)[:, None]
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", None)
    monkeypatch.setattr("fwdiff_lite.metrics.fid_kid", lambda fake, real: (1.5, 0.25))
    numbers, warnings = real_clips.perceptual_metrics(truth, views)
    assert numbers == {"fid_target_one": 1.5, "kid_target_one": 0.25}
    assert len(warnings) == 1 and warnings[0].startswith(
        "no lpips: LearnedPerceptualImagePatchSimilarity is not available ("
    )


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Runs a command of the experiment with small networks, and returns what it printed."""
    monkeypatch.setattr(variants, "build_model", partial(variants.build_model, **TINY))
    data = ["--data", str(folder), "--frame-gap", "8", "16", "--skip-pose-check", "--out", str(tmp_path)]

    def run(*words):
        main(["real_clips", *words, *data])
        return capsys.readouterr().out

    return run


def test_training_and_evaluation_commands_run(run, folder, tmp_path, capsys):
    train = ("--steps", "2", "--batch-size", "2", "--near-far", "1", "8", "--side", "32")
    output = run("train", "unet", "deterministic", *train)
    assert "3 clips" in output and "deterministic: 2 steps of 2" in output
    for name in ("unet", "deterministic"):
        record = read_json(tmp_path / f"{name}.json")
        assert record["options"]["near_far"] == [1, 8] and record["options"]["side"] == 32
        words = f"--data {folder.name} --frame-gap 8 16 --side 32 --near-far 1 8 --steps 2 --batch-size 2"
        assert record["command"].endswith(f"real_clips train {name} {words}")
    evaluate = ("evaluate", "--samples", "2", "--steps", "2", "--side", "32")
    assert "psnr_target_one" in run(*evaluate)
    record = read_json(tmp_path / "evaluation_unet.json")
    assert {"psnr_target_one", "ssim_novel_one"} <= {row["measure"] for row in record["measures"]}
    assert record["options"]["scenes"] == 3 and record["options"]["frame_gap"] == [8, 16]
    assert (tmp_path / "evaluation_deterministic.png").stat().st_size > 1000
    assert "evaluated already" in run(*evaluate)
    lines = (tmp_path / "evaluation_list.txt").read_text().split("\n")
    assert len(lines) == 4
    (tmp_path / "evaluation_list.txt").write_text("\n".join(lines[1:]))
    run("evaluate", "unet", *evaluate[1:])
    assert read_json(tmp_path / "evaluation_unet.json")["options"]["scenes"] == 2, "the existing list is used"
    with pytest.raises(SystemExit):
        run("evaluate", "unet", "--list", str(tmp_path / "typo.txt"))
    assert "there is no" in capsys.readouterr().err and not (tmp_path / "typo.txt").exists()


def test_training_on_chunks_has_the_loss_curve_of_text_to_the_bit(folder, tmp_path):
    """The text holds the numbers of the chunks, which are in single precision."""
    for source, target, name in ((folder, "chunks", "pixelsplat"), (tmp_path / "chunks", "text", "realestate10k")):
        with pytest.raises(SystemExit) as stop:
            convert(["convert", str(source), str(tmp_path / target), "--to", name, "--skip-pose-check"])
        assert not stop.value.code
    curves = []
    for name in ("chunks", "text"):
        clips, _ = read_folder(tmp_path / name, FRAME_GAP, check_poses=False)
        variant = variants.make_clip_variant("unet", clips, FRAME_GAP, (1.0, 8.0), side=SIDE)
        variant = replace(variant, build=partial(variant.build, **TINY))
        experiment = replace(real_clips.EXPERIMENT, variants={"unet": variant}, evaluations={})
        curves.append(harness.train(experiment, "unet", tmp_path / f"{name}_out", steps=10, batch_size=4).curve)
    assert curves[0] == curves[1] and len(curves[0]["loss"]) == 10


def test_workers_decode_the_images_of_a_training(run, tmp_path):
    run("train", "unet", "--steps", "2", "--batch-size", "2", "--side", "16", "--workers", "2")
    record = read_json(tmp_path / "unet.json")
    assert record["steps"] == 2 and "--workers 2" in record["command"]


def test_the_options_of_co3d_are_passed_on_and_recorded(monkeypatch, clips, run, tmp_path):
    calls = []
    monkeypatch.setattr(real_clips.clip_folder, "read_folder", lambda *words: calls.append(words) or (clips, []))
    run("train", "unet", "--steps", "1", "--batch-size", "2", "--side", "16", *CO3D_WORDS)
    assert read_json(tmp_path / "unet.json")["command"].count(" ".join(CO3D_WORDS)) == 1
    run("evaluate", "unet", "--samples", "1", "--steps", "1", "--side", "16", *CO3D_WORDS)
    assert [words[-1] for words in calls] == [Selection("train", "few", True)] * 2
    assert read_json(tmp_path / "evaluation_unet.json")["options"]["masks"] is True


CO3D_WORDS = ("--subset", "train", "--set-list", "few", "--masks")


def test_several_contexts_are_trained_and_an_index_is_evaluated(run, tmp_path):
    """The index of pixelSplat: two contexts and three targets a clip, by the indices of their frames."""
    run("train", "unet", "--steps", "2", "--batch-size", "2", "--side", "32", "--contexts", "3")
    record = read_json(tmp_path / "unet.json")
    assert record["options"]["contexts"] == 3 and "--contexts 3" in record["command"]
    index = {f"clip{i:02}": {"context": [2 + i, 15], "target": [5, 8, 11]} for i in range(2)} | {"clip02": None}
    (tmp_path / "index.json").write_text(json.dumps(index))
    run("evaluate", "unet", "--samples", "2", "--steps", "2", "--side", "32", "--list", str(tmp_path / "index.json"))
    record = read_json(tmp_path / "evaluation_unet.json")
    assert record["options"]["scenes"] == 2 and {"psnr_novel_one"} <= {row["measure"] for row in record["measures"]}


def test_an_unwritable_folder_is_a_one_line_error(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(variants, "build_model", partial(variants.build_model, **TINY))
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    words = ["train", "unet", "--steps", "1", "--data", folder, "--frame-gap", 8, 16, "--skip-pose-check", "--out", out]
    with pytest.raises(SystemExit):
        main(["real_clips", *map(str, words)])
    assert f"--out {out}: {tmp_path / 'file'} is a file; name a folder" in capsys.readouterr().err


def test_images_are_at_most_as_large_as_the_frames(run, capsys):
    with pytest.raises(SystemExit):
        run("train", "unet", "--side", "160", "--steps", "1")
    assert "has frames of 120x160 pixels: wanted at least 160x160" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["train", "unet", "--steps", "1"], "the following arguments are required: --data"),
        (
            ["train", "guided", "--steps", "1", "--data", "x"],
            "unknown variant 'guided' of real_clips: choose one of unet",
        ),
        (["train", "unet", "--steps", "1", "--data", "x", "--out", "./x"], "--out and --data are one folder"),
        (["train", "unet", "--data", "x", "--frame-gap", "-1", "2"], "argument --frame-gap: -1 is no whole number"),
        (["train", "unet", "--steps", "1", "--data", "x", "--frame-gap", "9", "2"], "give the smaller number first"),
        (["train", "unet", "--steps", "1", "--data", "x", "--near-far", "2", "1"], "--near-far is 2 1: give two dist"),
        (["train", "unet", "--steps", "1", "--data", "x", "--near-far", "0", "1"], "--near-far is 0 1: give two dist"),
        (["train", "unet", "--steps", "1", "--data", "x", "--near-far", "1", "nan"], "--near-far is 1 nan: give two"),
        (["evaluate", "unet", "--data", "x", "--list", "."], ". cannot be read: Is a directory"),
        (
            ["train", "unet", "--steps", "1", "--data", "x", "--subset", "train"],
            "--subset and --set-list belong together",
        ),
        (["train", "unet", "--steps", "1", "--data", "x", "--workers", "0"], "--workers: 0 is no whole number above 0"),
        (["evaluate", "unet"], "the following arguments are required: --data"),
        (["evaluate", "--data", "x", "--samples", "0"], "argument --samples: 0 is no whole number above 0"),
    ],
)
def test_invalid_commands_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["real_clips", *words])
    assert message in capsys.readouterr().err


def test_a_list_of_another_form_is_refused_before_clips_are_read(tmp_path, capsys):
    """The message held the whole list."""
    (tmp_path / "list.json").write_text('{"clip": [1, 2, 3], ' * 20_000)
    with pytest.raises(SystemExit):
        main(["real_clips", "evaluate", "--data", "nowhere", "--list", str(tmp_path / "list.json")])
    error = capsys.readouterr().err
    assert "list.json is not JSON" in error
    assert len(error) < 1500


def test_a_model_that_was_not_trained_is_refused(run, capsys):
    with pytest.raises(SystemExit):
        run("evaluate", "unet")
    assert "unet.safetensors: train it first" in capsys.readouterr().err


def test_without_a_command_there_are_no_clips():
    with pytest.raises(ValueError, match="this experiment needs clips: give --data"):
        real_clips.EXPERIMENT.make_test_set(torch.device("cpu"), {})
