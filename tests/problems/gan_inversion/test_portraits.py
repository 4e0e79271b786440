"""Portraits follow their probabilities; those of attributes that a crop does not show agree with frequencies."""

import pytest
import torch

from fwdiff_lite.problems.gan_inversion import portrait_posterior, portraits
from fwdiff_lite.problems.gan_inversion.portraits import ATTRIBUTE_NAMES, ATTRIBUTES


def sample(n: int, seed: int = 0) -> portraits.Portraits:
    return portraits.sample_portraits(n, torch.Generator().manual_seed(seed))


def crop_mask(row: int, col: int, size: int, n: int) -> torch.Tensor:
    mask = torch.zeros(n, 64, 64, dtype=torch.bool)
    mask[:, row : row + size, col : col + size] = True
    return mask


def test_samples_follow_the_table():
    n = 40_000
    attributes = sample(n).attributes
    for name, categories in ATTRIBUTES.items():
        i = ATTRIBUTE_NAMES.index(name)
        p = portrait_posterior.joint_probability_table().sum([j for j in range(len(ATTRIBUTE_NAMES)) if j != i])
        frequencies = torch.bincount(attributes[:, i], minlength=len(categories)) / n
        assert ((frequencies - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all(), name
    for _, probabilities in portraits.CONDITIONAL_PROBABILITIES.values():
        assert 0.5 not in probabilities, "an even probability could hide the bias of a sampler"


def test_nuisance_parameters_stay_in_their_ranges_and_samples_repeat():
    people = sample(2000)
    low, high = torch.tensor(list(portraits.NUISANCE_RANGES.values())).T
    assert (people.nuisance >= low).all() and (people.nuisance <= high).all()
    assert (people.nuisance.amax(0) - people.nuisance.amin(0) > 0.9 * (high - low)).all()
    assert torch.equal(people[:7].nuisance, sample(2000)[:7].nuisance) and len(sample(0)) == 0


def test_an_unknown_attribute_is_refused():
    with pytest.raises(ValueError, match="unknown attribute 'ears': choose one of skin, hair"):
        sample(2).attribute("ears")


def test_images_are_antialiased_and_every_attribute_changes_them():
    people = sample(12)
    images = portraits.render(people)
    assert images.shape == (12, 3, 64, 64) and images.abs().max() <= 1
    fine_images = torch.nn.functional.avg_pool2d(portraits.render(people, 256), 4)
    assert (images - fine_images).square().mean().sqrt() < 0.03
    for name, categories in ATTRIBUTES.items():
        variants = torch.stack([portraits.render(people.with_attribute(name, k)) for k in range(len(categories))])
        differences = (variants[:, None] - variants[None]).abs().flatten(3).amax(-1)  # (K, K, B)
        assert (differences + 2 * torch.eye(len(categories))[..., None]).min() > 0.1, name
    possible = portrait_posterior.possible_categories(people, crop_mask(0, 0, 64, 12))
    assert portrait_posterior.observed_attributes(possible).all()
    with pytest.raises(ValueError, match="at least 16 pixels a side, got 8"):
        portraits.render(people, 8)


def test_an_image_does_not_depend_on_the_rest_of_the_batch():
    people = sample(6)
    assert torch.equal(portraits.render(people)[2:4], portraits.render(people[2:4]))
    assert torch.equal(portraits.render(people.to("cpu")), portraits.render(people))


class ColourClassifier(torch.nn.Module):
    """Classifies two attributes by the mean colour alone; its one weight scales the logits."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

    def forward(self, images):
        mean = self.scale * images.mean((2, 3))  # (B, 3)
        return [mean, torch.stack([mean[:, 0], -mean[:, 0]], 1)]


def test_the_attribute_moment_loss_is_the_squared_distance_of_second_moments():
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(n, 3, 2, 2, generator=generator, dtype=torch.float64) for n in (1100, 6))
    fake.requires_grad_()
    loss = portraits.AttributeMomentLoss(torch.nn.ModuleList([ColourClassifier()]), real, weight=7.0, decay=0.0)

    def moments(images):
        mean = 3 * images.mean((2, 3))
        p = torch.cat([mean.softmax(1), torch.sigmoid(2 * mean[:, :1]), torch.sigmoid(-2 * mean[:, :1])], 1)
        return torch.einsum("bi,bj->ij", p, p)[None] / len(p)

    torch.testing.assert_close(loss.target_moments, moments(real))
    assert loss(real) < 1e-12, "real images match themselves"
    expected = 7 * (moments(fake) - moments(real)).square().sum() / 2
    torch.testing.assert_close(loss(fake), expected)
    (gradient,), (expected_gradient,) = (torch.autograd.grad(value, fake) for value in (loss(fake), expected))
    torch.testing.assert_close(gradient, expected_gradient)

    # with a weight of the frequencies of categories: those stand on the diagonal
    classifiers = torch.nn.ModuleList([ColourClassifier()])
    weighted = portraits.AttributeMomentLoss(classifiers, real, weight=7.0, decay=0.0, frequency_weight=4.0)
    error = moments(fake) - moments(real)
    frequencies = error.diagonal(dim1=1, dim2=2)
    weighted_expected = 7 * (error.square().sum() + 4 * frequencies.square().sum()) / 2
    torch.testing.assert_close(weighted(fake), weighted_expected)
    values = weighted(fake), weighted_expected
    torch.testing.assert_close(*(torch.autograd.grad(value, fake)[0] for value in values))

    # with a running mean: the loss is that of the mean, the gradient flows through the batch
    loss = portraits.AttributeMomentLoss(torch.nn.ModuleList([ColourClassifier()]), real, weight=7.0, decay=0.9)
    for _ in range(3):
        value = loss(fake)
    mean = moments(real) + (1 - 0.9**3) * (moments(fake) - moments(real))
    torch.testing.assert_close(loss.running_moments, mean.detach())
    torch.testing.assert_close(value, 7 * (mean - moments(real)).square().sum() / 2)
    torch.testing.assert_close(torch.autograd.grad(value, fake)[0], (1 - 0.9**3) * expected_gradient)

    # several classifiers: the mean of their losses
    confident = ColourClassifier()
    confident.scale.data += 1
    joint_loss, *single_losses = (
        portraits.AttributeMomentLoss(torch.nn.ModuleList(classifiers), real, weight=7.0)
        for classifiers in ([ColourClassifier(), confident], [ColourClassifier()], [confident])
    )
    torch.testing.assert_close(joint_loss(fake), sum(loss(fake) for loss in single_losses) / 2)
