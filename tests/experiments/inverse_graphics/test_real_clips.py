"""Models are trained and evaluated on clips in RealEstate10K's format, from the command line too."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from fwdiff_lite import metrics
from fwdiff_lite.datasets.realestate10k import read_folder
from fwdiff_lite.datasets.view_sampler import evaluation_list, load_views
from fwdiff_lite.experiments.inverse_graphics import real_clips, train
from fwdiff_lite.problems.inverse_graphics.synthetic_realestate10k import write_clips
from fwdiff_lite.storage.files import read_json

FRAME_GAP, SIDE = (8, 16), 16
TINY = {
    "side": SIDE,
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


@pytest.mark.parametrize("variant", ["unet", "deterministic"])
def test_training_lowers_the_loss_and_improves_the_samples(variant, clips, views, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "LEARNING_RATE", 4e-3)  # a small model learns faster with it
    model = train.build_model(variant, near_far=(1.0, 8.0), **TINY)
    initial = real_clips.evaluate(real_clips.sample_posterior(model.eval(), views, k=2, steps=4), views)
    curve = train.train(model, tmp_path, variant, 8, 64, clips=clips, frame_gap=FRAME_GAP, steps=100).curve
    for name in ("loss", "target", "novel", "deterministic"):
        first, last = (sum(part) for part in (curve[name][:10], curve[name][-10:]))
        assert last < 0.2 * first, (name, first / 10, last / 10)
    samples = real_clips.sample_posterior(model, views, k=2, steps=4)
    assert samples.shape == (3, 1 if variant == "deterministic" else 2, 2, 3, SIDE, SIDE)
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


def test_training_and_evaluation_commands_run(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "build_model", partial(train.build_model, **TINY))
    data = ["--data", str(folder), "--frame-gap", "8", "16", "--out", str(tmp_path)]

    def run(module, *words):
        monkeypatch.setattr("sys.argv", [module.__name__, *words, *data])
        module.main()
        return capsys.readouterr().out

    for variant in ("unet", "deterministic"):
        output = run(train, variant, "--steps", "2", "--batch", "2", "--near-far", "1", "8")
        assert "3 clips" in output and f"{variant}: 2 steps of 2" in output
        assert read_json(tmp_path / f"{variant}.json")["options"] == {"side": 64, "near_far": [1.0, 8.0]}
        output = run(real_clips, variant, "--samples", "2", "--steps", "2", "--skip-pose-check")
        numbers = read_json(tmp_path / f"evaluation_{variant}.json")
        assert (
            numbers["scenes"] == 3
            and {"psnr_target_one", "ssim_novel_one"} < set(numbers)
            and "ssim_novel_one" in output
        )
        assert (tmp_path / f"evaluation_{variant}.png").stat().st_size > 1000
    lines = (tmp_path / "evaluation_list.txt").read_text().split("\n")
    assert len(lines) == 4
    (tmp_path / "evaluation_list.txt").write_text("\n".join(lines[1:]))
    run(real_clips, "unet", "--samples", "2", "--steps", "1", "--skip-pose-check")
    again = read_json(tmp_path / "evaluation_unet.json")
    assert again["scenes"] == 2, "the existing list is used"
    assert again["frame_gap"] == [8, 16] and again["list"] == "evaluation_list.txt"
    with pytest.raises(SystemExit):
        run(real_clips, "unet", "--list", str(tmp_path / "typo.txt"), "--skip-pose-check")
    assert "there is no" in capsys.readouterr().err and not (tmp_path / "typo.txt").exists()


def test_a_model_of_another_image_size_is_trained_and_evaluated(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "build_model", partial(train.build_model, **TINY))
    data = ["unet", "--data", str(folder), "--frame-gap", "8", "16", "--out", str(tmp_path), "--skip-pose-check"]
    monkeypatch.setattr(
        "sys.argv", ["train", *data, "--side", "32", "--steps", "1", "--batch", "2", "--near-far", "1", "8"]
    )
    train.main()
    monkeypatch.setattr("sys.argv", ["real_clips", *data, "--side", "32", "--samples", "1", "--steps", "1"])
    real_clips.main()
    assert "psnr_target_one" in read_json(tmp_path / "evaluation_unet_32.json")
    monkeypatch.setattr("sys.argv", ["train", *data[:-1], "--side", "160", "--steps", "1"])
    with pytest.raises(SystemExit):
        train.main()
    assert "has 160 x 120 pixels: wanted at least 160 x 160" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module, words, message",
    [
        (train, ["unet", "--frame-gap", "1", "2"], "--near-far, --frame-gap and --skip-pose-check need --data"),
        (train, ["unet", "--data", "x", "--contexts", "2"], "with --data, a context is one image"),
        (train, ["guided", "--data", "x"], "guided cannot be trained on --data: choose a variant with a scene"),
        (train, ["view_space", "--data", "x"], "view_space cannot be trained on --data: choose a variant with a scene"),
        (train, ["unet", "--data", "x", "--out", "./x"], "--out and --data are one folder"),
        (train, ["unet", "--init-from", "nope"], "--init-from: there is no file nope"),
        (train, ["unet", "--batch", "0"], "argument --batch: 0 is no whole number above 0"),
        (
            train,
            ["unet", "--data", "x", "--frame-gap", "-1", "2"],
            "argument --frame-gap: -1 is no whole number above 0",
        ),
        (train, ["unet", "--data", "x", "--frame-gap", "9", "2"], "give the smaller number first"),
        (train, ["unet", "--init-from", "none"], "Error while deserializing header"),
        (real_clips, ["unet"], "give --data, the folder of the test clips"),
        (real_clips, ["unet", "--data", "x", "--samples", "0"], "argument --samples: 0 is no whole number above 0"),
    ],
)
def test_invalid_commands_are_refused(module, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("none").write_text("no weights")
    monkeypatch.setattr("sys.argv", [module.__name__, *words])
    with pytest.raises(SystemExit):
        module.main()
    assert message in capsys.readouterr().err


def test_a_model_that_was_not_trained_on_clips_is_refused(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["real_clips", "unet", "--data", str(folder), "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        real_clips.main()
    assert "holds no unet that was trained on clips: run train with --data first" in capsys.readouterr().err


def test_near_must_be_below_far():
    with pytest.raises(ValueError, match="near and far are 2 and 1: wanted 0 < near < far"):
        train.build_model("unet", near_far=(2.0, 1.0))
