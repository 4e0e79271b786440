"""Metrics of images and of sets of images: closed forms, order under noise and blur, and missing dependencies."""

import math
import sys
import types

import pytest
import torch
from toy_posterior import normal, seed

from fwdiff_lite.metrics import (
    OptionalDependencyError,
    best_of,
    fid_kid,
    frechet_distance,
    lpips,
    precision_recall,
    psnr,
    squared_error,
    ssim,
    total_variation,
    variance_inside_outside,
)

# --- sets of features -------------------------------------------------------------------------------------------------


def test_frechet_distance_closed_forms():
    g = seed()
    x = normal(400, 3, generator=g)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + torch.tensor([1.0, 2.0, 2.0])) == pytest.approx(9, rel=1e-9)
    # scaled by s along rotated axes: the sum of (s - 1)^2 times the variance along each axis
    x = torch.linalg.qr(x - x.mean(0))[0] * (len(x) - 1) ** 0.5  # of unit covariance
    rotation = torch.linalg.qr(normal(3, 3, generator=g))[0]
    scaled = x @ rotation * torch.tensor([2.0, 1.0, 0.5], dtype=x.dtype) @ rotation.T
    assert frechet_distance(x, scaled) == pytest.approx(1 + 0.25, rel=1e-9)
    assert frechet_distance(x[:, :2], x[:, 1:] * 0) == pytest.approx(2, rel=1e-9), "to a point: all its variance"


def test_precision_and_recall_tell_a_missing_mode_from_a_wrong_one():
    g = seed()
    real = torch.cat([normal(300, 2, generator=g) + mode for mode in (-10, 10)])
    fake = torch.cat([normal(300, 2, generator=g) + mode for mode in (-10, 10)])
    assert min(precision_recall(real, fake)) > 0.9
    precision, recall = precision_recall(real, fake[:300])  # one of two modes
    assert precision > 0.9 and 0.4 < recall < 0.55
    precision, recall = precision_recall(real, torch.cat([fake, fake + 40]))  # two wrong modes beside them
    assert 0.4 < precision < 0.55 and recall > 0.9
    assert precision_recall(real, real + 100) == (0, 0)
    with pytest.raises(ValueError, match="got 600 and 3 rows, wanted at least 4"):
        precision_recall(real, fake[:3])


def test_precision_recall_by_hand_for_each_neighbour():
    real, fake = (torch.tensor(x, dtype=torch.float64)[:, None] for x in ([0, 10, 30, 36], [-9, -15, 12]))
    # the balls' radii with k = 1 and k = 2: real 10, 10, 6, 6 and 30, 20, 20, 26; fake 6, 6, 21 and 21, 27, 27
    assert precision_recall(real, fake, k=1) == (2 / 3, 3 / 4)
    assert precision_recall(real, fake, k=2) == (1, 1)
    assert precision_recall(real, fake[:2] - 10, k=1) == (0, 0)


# --- images -----------------------------------------------------------------------------------------------------------


def test_psnr_closed_forms_and_pooling():
    truth = torch.zeros(2, 1, 4, 4)
    assert psnr(truth + 0.1, truth, 1.0) == pytest.approx(20, abs=1e-4)
    assert psnr(truth + 0.1, truth, 2.0) == pytest.approx(26.02, abs=1e-2)
    assert psnr(truth, truth, 1.0) == math.inf
    uneven = torch.tensor([0.01, 0.1]).view(2, 1, 1, 1) + truth
    assert psnr(uneven, truth, 1.0) == pytest.approx(22.97, abs=0.01), "of the mean error; the mean of dB is 30"


def test_a_perfect_sample_is_three_db_below_the_perfect_mean():
    g = seed(38)
    truth, sample = (normal(128, 3, 16, 16, generator=g) for _ in range(2))
    difference = psnr(torch.zeros_like(truth), truth, 1.0) - psnr(sample, truth, 1.0)
    assert difference == pytest.approx(10 * math.log10(2), abs=0.1)


def test_best_of_is_the_nearest_sample_and_improves_with_k():
    truth = torch.zeros(2, 3)
    samples = torch.tensor([[[1.0] * 3, [0.5] * 3, [2.0] * 3], [[-0.1] * 3, [0.5] * 3, [1.0] * 3]])
    assert torch.equal(best_of(samples, truth), torch.tensor([[0.5] * 3, [-0.1] * 3]))
    samples, truth = normal(200, 8, 5, generator=seed(39)), torch.zeros(200, 5).double()
    errors = [float(squared_error(best_of(samples[:, :k], truth), truth).mean()) for k in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 1.5 * errors[-1]


def add_noise(images: torch.Tensor) -> torch.Tensor:
    return images + 0.1 * torch.randn(images.shape, generator=seed(41))


def test_ssim_falls_with_noise_and_blur():
    g = seed(40)
    images = torch.rand(3, 2, 20, 24, generator=g)
    assert torch.allclose(ssim(images, images, 1.0), torch.ones(3).double())
    noise_levels = [
        float(ssim(images + std * torch.randn(images.shape, generator=g), images, 1.0).mean()) for std in (0.1, 0.5)
    ]
    assert 0.5 < noise_levels[0] < 1 and noise_levels[1] < noise_levels[0] - 0.2
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    assert ssim(blurred, images, 1.0).max() < 0.8
    assert torch.allclose(ssim(2 * add_noise(images), 2 * images, 2.0), ssim(add_noise(images), images, 1.0))
    constant = torch.full((1, 1, 16, 16), 0.25)  # of two constant images, only the luminance term is left
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert float(ssim(constant, 3 * constant, 1.0)[0]) == pytest.approx(expected, abs=1e-6)


def test_total_variation_closed_forms_and_blur():
    checkerboard = (torch.arange(6)[:, None] + torch.arange(4)) % 2.0
    assert total_variation(checkerboard.expand(2, 3, 6, 4)).tolist() == [[1.0] * 3] * 2
    assert float(total_variation(torch.ones(5, 5))) == 0
    ramp = torch.arange(5.0).expand(1, 5)
    assert float(total_variation(ramp)) == 1, "an image of one row has only horizontal neighbours"
    assert float(total_variation(ramp.expand(3, 5))) == pytest.approx(12 / 22)
    noise = torch.rand(4, 16, 16, generator=seed(42))
    assert total_variation(torch.nn.functional.avg_pool2d(noise, 3, 1, 1)).mean() < 0.5 * total_variation(noise).mean()


def test_variance_inside_and_outside_of_the_context():
    g = seed(43)
    mask = torch.zeros(40, 8, 8, dtype=torch.bool)
    mask[:, :4] = True
    samples = normal(40, 8, 8, 8, generator=g) * torch.where(mask, 0.1, 2.0)[:, None]
    inside, outside = variance_inside_outside(samples, mask)
    assert inside == pytest.approx(0.01, rel=0.1) and outside == pytest.approx(4, rel=0.1)
    assert variance_inside_outside(samples, ~mask) == (outside, inside)
    inside, outside = variance_inside_outside(normal(40, 8, 8, 8, generator=g), mask)
    assert inside == pytest.approx(outside, rel=0.1), "negative control: samples that ignore the context"


# --- torchmetrics -----------------------------------------------------------------------------------------------------

IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class FakeMetric(torch.nn.Module):
    """In place of a metric of torchmetrics: checks the range of the images, and compares means."""

    def __init__(self, **options):
        super().__init__()
        self.options, self.images = options, {True: [], False: []}

    def update(self, images, real):
        self.images[real].append(images)

    def compute(self):
        real, fake = (torch.cat(self.images[is_real]) for is_real in (True, False))
        assert min(real.min(), fake.min()) >= 0 and max(real.max(), fake.max()) <= 1 and self.options["normalize"]
        distance = (real.mean() - fake.mean()).abs()
        return (distance, distance) if "subset_size" in self.options else distance

    def forward(self, prediction, truth):
        assert min(prediction.min(), truth.min()) >= -1 and max(prediction.max(), truth.max()) <= 1
        return (prediction - truth).abs().mean()


def test_torchmetrics_gets_images_in_the_range_of_each_metric(monkeypatch):
    """LPIPS: [-1, 1]; FID and KID: [0, 1]. Values outside are clipped, and KID's subsets are smaller than the sets."""
    modules = {
        "lpip": "LearnedPerceptualImagePatchSimilarity",
        "fid": "FrechetInceptionDistance",
        "kid": "KernelInceptionDistance",
    }
    for module, name in modules.items():
        stub = types.ModuleType(module)
        setattr(stub, name, FakeMetric)
        monkeypatch.setitem(sys.modules, f"torchmetrics.image.{module}", stub)
    monkeypatch.setitem(sys.modules, "torchmetrics", types.ModuleType("torchmetrics"))
    monkeypatch.setitem(sys.modules, "torchmetrics.image", types.ModuleType("image"))
    assert lpips(IMAGES, IMAGES) == 0 and lpips(IMAGES + 0.5, IMAGES) > 0.2
    assert fid_kid(IMAGES, IMAGES) == (0, 0)
    fid, kid = fid_kid(IMAGES + 0.5, IMAGES)
    assert fid == kid > 0.1


@pytest.mark.parametrize("cause", [ModuleNotFoundError("No module named 'torchvision'"), OSError("no route\nto host")])
def test_a_missing_dependency_is_a_one_line_error(monkeypatch, cause):
    def fail(name):
        raise cause

    monkeypatch.setattr("fwdiff_lite.metrics.images.importlib.import_module", fail)
    for call in (lambda: lpips(IMAGES, IMAGES), lambda: fid_kid(IMAGES, IMAGES)):
        with pytest.raises(OptionalDependencyError, match="is not available .*: pip install -e") as error:
            call()
        assert "\n" not in str(error.value) and str(cause).splitlines()[0] in str(error.value)
