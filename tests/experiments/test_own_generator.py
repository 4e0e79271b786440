"""GAN inversion with a file of a generator and a folder of images, from the command line."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fwdiff_lite.experiments import __main__ as command_line
from fwdiff_lite.experiments import own_generator as experiment
from fwdiff_lite.problems.gan_inversion import patches
from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator
from fwdiff_lite.storage.files import read_json

SIZES = {"z_dim": 4, "w_dim": 4, "mapping_layers": 1, "channel_max": 4}


def write_generator(path, resolution):
    torch.manual_seed(0)
    torch.save(Generator(resolution, channel_base=4 * resolution, **SIZES).state_dict(), path)
    return path


def write_images(folder, count, side):
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side + 8, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.jpg")
    return folder


def run(words, *more):
    command_line.main(["own_generator", *words.split(), *map(str, more)])


def test_the_commands_from_end_to_end_at_256_pixels(tmp_path, capsys):
    generator, out = write_generator(tmp_path / "my generator.pt", 256), tmp_path / "runs"
    faces, held_out = write_images(tmp_path / "faces", 5, 256), write_images(tmp_path / "held out", 3, 300)
    files = ("--generator", generator, "--out", out, "--images")
    run("train wplus deterministic --steps 1 --batch-size 2", *files, faces)
    assert "256 pixels" in capsys.readouterr().out
    run("evaluate --count 2 --samples 2 --steps 1", *files, held_out)
    record = read_json(out / "evaluation_wplus.json")
    names = {row["measure"] for row in record["measures"]}
    assert {"patch_psnr", "energy_ratio", "spread_skill"} <= names and (out / "evaluation_wplus.png").exists()
    assert read_json(out / "wplus.json")["options"]["side"] == 256
    assert not (out / "evaluation_w.json").exists(), "w was not trained"
    write_generator(generator, 64)
    with pytest.raises(SystemExit):
        run("evaluate", *files, held_out)
    message = capsys.readouterr().err
    assert "was trained with generator " in message and "; side 256, not 64: give the same, or name" in message


def test_crops_and_schedule_follow_the_side():
    torch.manual_seed(0)
    sampled = {}
    for side in (64, 256):
        images = torch.rand(8, 3, side, side)
        batch = patches.batches(lambda n, generator, images=images: images[:n], 8, 3)(torch.Generator().manual_seed(0))
        sampled[side] = batch["context"].params[:, 0, 2], batch["target"].params[:, 0, 2]
        assert batch["target"].value.shape[-1] == side
    for (smallest, largest), sizes in zip(((64, 96), (96, 128)), sampled[256], strict=True):
        assert smallest <= sizes.min() and sizes.max() <= largest and sizes.max() > 64
    assert patches.schedule_of_side(64) == patches.SCHEDULE and patches.schedule_of_side(256).scale == 1 / 16


def test_a_smaller_resolution_is_the_mean_of_squares(tmp_path):
    torch.manual_seed(0)
    G = Generator(64, channel_base=256, **SIZES)
    full_size, reduced = patches.CroppedGenerator(G), patches.CroppedGenerator(G, 16)
    w = torch.randn(2, 4)
    torch.testing.assert_close(
        reduced.render(w), full_size.render(w).unflatten(3, (16, 4)).unflatten(2, (16, 4)).mean((3, 5))
    )
    with pytest.raises(ValueError, match="a generator of 64 pixels has no image of 48 pixels: give a divisor"):
        patches.CroppedGenerator(G, 48)


@pytest.mark.parametrize(
    "resolution, image_side, words, message",
    [
        (64, 64, "--resolution 48", "a generator of 64 pixels has no image of 48 pixels: give a divisor"),
        (64, 64, "--resolution 8", "--resolution is 8: give a power of two, 16 or more"),
        (64, 64, "--resolution 128", "a generator of 64 pixels has no image of 128 pixels"),
        (64, 32, "", "0.jpg has 40 x 32 pixels, wanted at least 64 x 64: remove it, or give a smaller resolution"),
        (64, 64, "--images nowhere", "nowhere is not a folder: give one that holds images"),
        (64, 64, "--generator nowhere.pkl", "nowhere.pkl does not exist: check the path"),
        (64, 64, "--conv-clamp -1", "conv_clamp must be positive, or None, got -1.0"),
        (64, 64, "--images " + 300 * "x", "cannot be opened: File name too long"),
        (64, 64, "--generator " + 300 * "x", "cannot be opened: File name too long"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, capsys, resolution, image_side, words, message):
    generator, faces = write_generator(tmp_path / "g.pt", resolution), write_images(tmp_path / "faces", 1, image_side)
    with pytest.raises(SystemExit) as error:
        run("train wplus --steps 1 --generator", generator, "--images", faces, "--out", tmp_path / "o", *words.split())
    assert error.value.code == 2 and message in capsys.readouterr().err.strip().splitlines()[-1]


def refusal(capsys, words, *more) -> str:
    with pytest.raises(SystemExit) as error:
        run(words, *more)
    assert error.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_images_of_grey_are_refused(tmp_path, capsys):
    torch.save(Generator(16, channel_base=64, img_channels=1, **SIZES).state_dict(), tmp_path / "grey.pt")
    files = ("--generator", tmp_path / "grey.pt", "--images", write_images(tmp_path / "faces", 1, 16))
    message = refusal(capsys, "train wplus --steps 1 --out", tmp_path / "runs", *files)
    assert "a generator of images of 1 channels was given: wanted 3" in message


def test_a_wrong_image_is_found_before_the_training(tmp_path, capsys):
    faces = write_images(tmp_path / "faces", 3, 16)
    files = ("--generator", write_generator(tmp_path / "g.pt", 16), "--images", faces, "--out", tmp_path / "runs")
    (faces / "2.jpg").write_text("no image")
    assert "2.jpg cannot be read: it is damaged" in refusal(capsys, "train wplus --steps 1", *files)
    assert not (tmp_path / "runs").exists(), "no training began"
    (faces / "2.jpg").unlink()
    run("train wplus --steps 1 --batch-size 2", *files)
    (faces / "1.jpg").unlink()
    run("train wplus --steps 2 --batch-size 2", *files)  # a training goes on without an image
    assert read_json(tmp_path / "runs" / "wplus.json")["steps"] == 2


def test_evaluations_that_cannot_be_made_say_so(tmp_path, capsys):
    out, held_out = tmp_path / "runs", write_images(tmp_path / "held out", 3, 16)
    files = ("--generator", write_generator(tmp_path / "g.pt", 16), "--out", out, "--images", held_out)
    few, needed = "evaluate --count 2 --samples 2 --steps 1", "train w, deterministic, or others, first"
    assert f"holds the weights of no evaluation: {needed}" in refusal(capsys, few, *files)
    run("train wplus deterministic --steps 1 --batch-size 2", *files)
    assert "--count is 1: wanted at least 2" in refusal(capsys, "evaluate --count 1", *files)
    assert "--samples is 1: wanted at least 2" in refusal(capsys, "evaluate --samples 1", *files)
    one = write_images(tmp_path / "one", 1, 16)
    assert "one holds 1 images: wanted at least 2" in refusal(capsys, few, *files, "--images", one)
    run(few, *files)
    run(few, *files)
    assert "evaluated already" in capsys.readouterr().out
    assert f"--images '{held_out.name}'" in read_json(out / "evaluation_wplus.json")["command"]
    (held_out / "2.jpg").write_bytes((held_out / "0.jpg").read_bytes())  # beyond the two images that are used
    run(few, *files)
    assert "evaluated already" in capsys.readouterr().out
    (held_out / "1.jpg").write_bytes((held_out / "0.jpg").read_bytes())
    run(few, *files)
    assert "evaluated already" not in capsys.readouterr().out, "the images are others"


@pytest.mark.filterwarnings("ignore:the targets have a standard deviation")
def test_one_folder_holds_the_models_of_one_generator(tmp_path, capsys):
    files = ("--out", tmp_path / "runs", "--images", write_images(tmp_path / "faces", 2, 32), "--generator")
    run("train wplus --steps 1 --batch-size 2 --conv-clamp 256", *files, write_generator(tmp_path / "g.pt", 16))
    message = refusal(capsys, "train deterministic --steps 1", *files, write_generator(tmp_path / "other.pt", 32))
    assert "runs/wplus was trained with generator " in message
    assert "; side 16, not 32; conv_clamp 256.0, not None: give the same, or name another --out" in message


@pytest.mark.parametrize("resolution, largest", [(16, 9), (64, 4), (128, 2), (256, 1)])
def test_a_large_generator_renders_few_images_at_once(monkeypatch, resolution, largest):
    monkeypatch.setattr(experiment, "CHUNK_SIZE", 4)
    torch.manual_seed(0)
    G, rendered = Generator(resolution, channel_base=4 * resolution, **SIZES), []
    model = experiment.build_on_file(lambda: G, "wplus", 16, widths=(8, 8), hidden=8)
    test_set = experiment.make_test_set(torch.rand(3, 3, 16, 16))
    G.synthesis.register_forward_hook(lambda _, inputs, image: rendered.append(len(inputs[0])))
    assert experiment.sample(model, test_set, num_samples=3, steps=1).shape == (3, 3, 3, 16, 16)
    assert max(rendered) == largest


def test_without_files_the_command_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("train wplus --steps 1 --out", tmp_path)
    assert "--generator" in capsys.readouterr().err
    with pytest.raises(ValueError, match="give --generator and --images"):
        experiment.EXPERIMENT.variant("wplus").build_model()


def test_images_are_read_when_they_are_needed(tmp_path, monkeypatch):
    """A folder that is larger than the memory: no image is kept."""
    folder, images_read = write_images(tmp_path / "faces", 40, 64), []
    images = experiment.ImageFolder(folder, 64)
    read_image = sys.modules["fwdiff_lite.datasets.image_folder"].read_image

    def count(file, *options):
        images_read.append(file)
        return read_image(file, *options)

    monkeypatch.setattr("fwdiff_lite.datasets.image_folder.read_image", count)
    batches = experiment.image_batches(images, torch.device("cpu"), 4)
    generator = torch.Generator().manual_seed(0)
    first, second = batches(generator), batches(generator)
    assert len(images_read) == 8 and not torch.equal(first["target"].value, second["target"].value)
    again = batches(torch.Generator().manual_seed(0))
    assert torch.equal(first["target"].value, again["target"].value)
    assert not any(isinstance(x, torch.Tensor) for x in vars(images).values())
