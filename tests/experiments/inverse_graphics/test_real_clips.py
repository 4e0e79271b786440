"""Models train, sample and are judged on clips in RealEstate10K's format, from the command line too."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from fwdiff_lite import metrics
from fwdiff_lite.datasets.realestate10k import evaluation_list, observe, read_folder
from fwdiff_lite.experiments.inverse_graphics import real_clips, train
from fwdiff_lite.problems.inverse_graphics.synthetic_realestate10k import write_clips
from fwdiff_lite.storage.files import read_json

NEAR, SIDE = (8, 16), 16
TINY = {"side": SIDE, "samples": 16, "width": 16, "widths": (16, 32), "blocks": 1, "attention": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 3, 20, seed=1)
    return folder


@pytest.fixture(scope="module")
def clips(folder):
    return read_folder(folder, NEAR)[0]


@pytest.fixture(scope="module")
def seen(clips):
    return observe(clips, evaluation_list(clips, NEAR), SIDE)


@pytest.mark.parametrize("arm", ["unet", "deterministic"])
def test_the_loss_falls_and_answers_come_nearer_to_the_truth(arm, clips, seen, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "RATE", 4e-3)  # so small a model learns faster
    model = train.build_model(arm, ends=(1.0, 8.0), **TINY)
    before = real_clips.evaluate(real_clips.answer(model.eval(), seen, k=2, steps=4), seen)
    curve = train.train(model, tmp_path, arm, 8, 64, clips=clips, distance=NEAR, steps=100).curve
    for name in ("loss", "target", "novel", "deterministic"):
        first, last = (sum(part) for part in (curve[name][:10], curve[name][-10:]))
        assert last < 0.2 * first, (name, first / 10, last / 10)
    answers = real_clips.answer(model, seen, k=2, steps=4)
    assert answers.shape == (3, 1 if arm == "deterministic" else 2, 2, 3, SIDE, SIDE)
    after = real_clips.evaluate(answers, seen)
    for view in ("target", "novel"):
        assert after[f"psnr_{view}_one"] > before[f"psnr_{view}_one"] + 10
    copied = metrics.psnr(seen["context"].value[:, 0], seen["target"].value[:, 0], 2)
    assert after["psnr_target_one"] > copied, "the target is not the context again"


def test_the_truth_is_judged_best_and_other_frames_are_not(seen):
    truth = torch.cat([seen["target"].value, seen["novel"].value], 1)[:, None]
    numbers = real_clips.evaluate(truth, seen)
    assert numbers["psnr_target_one"] == torch.inf and numbers["ssim_novel_one"] == pytest.approx(1)
    swapped = real_clips.evaluate(truth.flip(2), seen)
    assert swapped["psnr_target_one"] < 25 and swapped["ssim_target_one"] < 0.9
    noisy = truth + 0.2 * torch.randn((3, 4, *truth.shape[2:]), generator=torch.Generator().manual_seed(0))
    numbers = real_clips.evaluate(noisy, seen)
    assert numbers["psnr_target_one"] == pytest.approx(20, abs=0.3)  # 10 log10(4 / 0.04)
    assert numbers["psnr_target_mean"] == pytest.approx(26, abs=0.3), "a mean of four has a quarter of the error"
    assert numbers["psnr_novel_best_of_4"] >= numbers["psnr_novel_one"]


def test_measures_that_cannot_be_had_are_told_and_stop_nothing(seen, monkeypatch):
    truth = torch.cat([seen["target"].value, seen["novel"].value], 1)[:, None]
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", None)
    monkeypatch.setattr("fwdiff_lite.metrics.fid_kid", lambda fake, real: (1.5, 0.25))
    numbers, told = real_clips.perceptual_metrics(truth, seen)
    assert numbers == {"fid_target_one": 1.5, "kid_target_one": 0.25}
    assert len(told) == 1 and told[0].startswith("no lpips: LearnedPerceptualImagePatchSimilarity cannot be had (")


def test_the_commands_run_to_their_end(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "untrained", partial(train.build_model, **TINY))
    data = ["--data", str(folder), "--distance", "8", "16", "--out", str(tmp_path)]

    def run(module, *words):
        monkeypatch.setattr("sys.argv", [module.__name__, *words, *data])
        module.main()
        return capsys.readouterr().out

    for arm in ("unet", "deterministic"):
        said = run(train, arm, "--steps", "2", "--batch", "2", "--ends", "1", "8")
        assert "3 clips" in said and f"{arm}: 2 steps of 2" in said
        assert read_json(tmp_path / f"{arm}.json")["options"] == {"side": 64, "ends": [1.0, 8.0]}
        said = run(real_clips, arm, "--samples", "2", "--steps", "2", "--unchecked")
        numbers = read_json(tmp_path / f"evaluation_{arm}.json")
        assert (
            numbers["scenes"] == 3 and {"psnr_target_one", "ssim_novel_one"} < set(numbers) and "ssim_novel_one" in said
        )
        assert (tmp_path / f"evaluation_{arm}.png").stat().st_size > 1000
    chosen = (tmp_path / "evaluation_list.txt").read_text().split("\n")
    assert len(chosen) == 4
    (tmp_path / "evaluation_list.txt").write_text("\n".join(chosen[1:]))
    run(real_clips, "unet", "--samples", "2", "--steps", "1", "--unchecked")
    again = read_json(tmp_path / "evaluation_unet.json")
    assert again["scenes"] == 2, "the list is read again, not made anew"
    assert again["distance"] == [8, 16] and again["list"] == "evaluation_list.txt"
    with pytest.raises(SystemExit):
        run(real_clips, "unet", "--list", str(tmp_path / "typo.txt"), "--unchecked")
    assert "there is no" in capsys.readouterr().err and not (tmp_path / "typo.txt").exists()


def test_a_model_of_other_images_is_trained_and_judged(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "untrained", partial(train.build_model, **TINY))
    data = ["unet", "--data", str(folder), "--distance", "8", "16", "--out", str(tmp_path), "--unchecked"]
    monkeypatch.setattr(
        "sys.argv", ["train", *data, "--side", "32", "--steps", "1", "--batch", "2", "--ends", "1", "8"]
    )
    train.main()
    monkeypatch.setattr("sys.argv", ["evaluate", *data, "--side", "32", "--samples", "1", "--steps", "1"])
    real_clips.main()
    assert "psnr_target_one" in read_json(tmp_path / "evaluation_unet_32.json")
    monkeypatch.setattr("sys.argv", ["train", *data[:-1], "--side", "160", "--steps", "1"])
    with pytest.raises(SystemExit):
        train.main()
    assert "has 160 x 120 pixels: wanted at least 160 x 160" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module, words, message",
    [
        (train, ["unet", "--distance", "1", "2"], "--ends, --distance and --unchecked are for --data"),
        (train, ["unet", "--data", "x", "--contexts", "2"], "with --data, a context is one image"),
        (train, ["guided", "--data", "x"], "with --data, an arm makes scenes, and from a context"),
        (train, ["view_space", "--data", "x"], "with --data, an arm makes scenes, and from a context"),
        (train, ["unet", "--data", "x", "--out", "./x"], "--out and --data are one folder"),
        (train, ["unet", "--start", "nope"], "there are no weights in nope to start from"),
        (train, ["unet", "--batch", "0"], "argument --batch: 0 is no whole number above 0"),
        (train, ["unet", "--data", "x", "--distance", "-1", "2"], "argument --distance: -1 is no whole number above 0"),
        (train, ["unet", "--data", "x", "--distance", "9", "2"], "give the smaller one first"),
        (train, ["unet", "--start", "none"], "Error while deserializing header"),
        (real_clips, ["unet"], "give the --data to judge it on"),
        (real_clips, ["unet", "--data", "x", "--samples", "0"], "argument --samples: 0 is no whole number above 0"),
    ],
)
def test_commands_that_make_no_sense_are_refused(module, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("none").write_text("no weights")
    monkeypatch.setattr("sys.argv", [module.__name__, *words])
    with pytest.raises(SystemExit):
        module.main()
    assert message in capsys.readouterr().err


def test_a_model_of_something_else_is_not_judged(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evaluate", "unet", "--data", str(folder), "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        real_clips.main()
    assert "holds no unet that was trained on clips: run train with --data first" in capsys.readouterr().err


def test_near_and_far_are_in_their_order():
    with pytest.raises(ValueError, match="near and far are 2 and 1: wanted 0 < near < far"):
        train.build_model("unet", ends=(2.0, 1.0))
