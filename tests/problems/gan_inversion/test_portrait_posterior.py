"""The posterior of portraits given a crop agrees with formulas by hand, with frequencies, and with enumeration."""

import pytest
import torch

from fwdiff_lite import metrics
from fwdiff_lite.problems.gan_inversion import portrait_posterior, portraits
from fwdiff_lite.problems.gan_inversion.portrait_posterior import posterior_probabilities
from fwdiff_lite.problems.gan_inversion.portraits import ATTRIBUTE_NAMES, ATTRIBUTES


def sample(n: int, seed: int = 0) -> portraits.Portraits:
    return portraits.sample_portraits(n, torch.Generator().manual_seed(seed))


def crop_mask(row: int, col: int, size: int, n: int, side: int = 64) -> torch.Tensor:
    mask = torch.zeros(n, side, side, dtype=torch.bool)
    mask[:, row : row + size, col : col + size] = True
    return mask


def tell(people: portraits.Portraits, *names: str) -> dict[str, torch.Tensor]:
    """The possible categories if these attributes are told, and no other."""
    possible = {name: torch.ones(len(people), len(categories), dtype=bool) for name, categories in ATTRIBUTES.items()}
    for name in names:
        possible[name] = torch.nn.functional.one_hot(people.attribute(name), len(ATTRIBUTES[name])) > 0
    return possible


def test_the_joint_probability_table_by_hand():
    table = portrait_posterior.joint_probability_table()
    assert table.shape == tuple(map(len, ATTRIBUTES.values())) and table.sum().item() == pytest.approx(1, abs=1e-12)
    glasses = table.sum([i for i, name in enumerate(ATTRIBUTE_NAMES) if name != "glasses"])
    assert glasses[1].item() == pytest.approx(0.8 * 0.2 + 0.2 * 0.7)
    pair = table.sum([i for i, name in enumerate(ATTRIBUTE_NAMES) if name not in ("style", "beard")])
    assert pair[2, 1].item() == pytest.approx(0.3 * 0.05), "a beard with long hair"


def test_posterior_probabilities_by_hand():
    people = sample(50)
    grey = people.attribute("hair") == 4
    p = posterior_probabilities(tell(people, "hair", "eyes"))["glasses"][:, 1]
    assert torch.allclose(p, torch.where(grey, 0.7, 0.2).double())
    # if the hair style is not told, a beard is evidence of it, and so of earrings (Bayes' rule)
    p = posterior_probabilities(tell(people, "beard"))["earrings"][:, 1]
    style, earrings = torch.tensor([0.1, 0.4, 0.3, 0.2]), torch.tensor([0.2, 0.05, 0.6, 0.35])
    beard = torch.tensor([0.65, 0.40, 0.05, 0.20])
    earring_probabilities = [(style * b * earrings).sum() / (style * b).sum() for b in (1 - beard, beard)]
    expected = torch.where(people.attribute("beard") == 1, earring_probabilities[1], earring_probabilities[0]).double()
    assert torch.allclose(p, expected, atol=1e-6) and earring_probabilities[1] < 0.6 * earring_probabilities[0]


def test_a_style_that_is_told_in_part_by_hand():
    """Short or curly hair is left: the odds of earrings are a mean of both, not those of the true style."""
    people = sample(3)
    possible = tell(people)
    possible["style"] = torch.tensor([False, True, False, True]).expand(3, -1)
    p = posterior_probabilities(possible)
    expected = (0.4 * 0.05 + 0.2 * 0.35) / (0.4 + 0.2)
    assert torch.allclose(p["earrings"][:, 1], torch.full((3,), expected).double())
    assert torch.allclose(p["style"], torch.tensor([0, 2 / 3, 0, 1 / 3]).double().expand(3, -1))
    assert abs(expected - 0.05) > 0.09, "taking the style as told would be this far off"
    possible["mouth"] = torch.zeros(3, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="mouth has no possible category in some portrait"):
        posterior_probabilities(possible)


def test_posterior_probabilities_agree_with_frequencies():
    n = 40_000
    people = sample(n, 1)
    subset = people[:40]
    p = posterior_probabilities(tell(subset, "beard", "skin", "mouth"))["style"]
    for expected, attributes in zip(p, subset.attributes, strict=True):
        same = (people.attributes[:, [7, 0, 5]] == attributes[[7, 0, 5]]).all(1)  # beard, skin, mouth
        count = same.sum()
        frequencies = torch.bincount(people.attribute("style")[same], minlength=4) / count
        assert ((frequencies - expected).abs() < 4.5 * (expected * (1 - expected) / count).sqrt() + 1e-3).all()


def test_what_a_crop_tells():
    people = sample(16)
    possible = portrait_posterior.possible_categories(people, crop_mask(40, 27, 10, 16))  # around the mouth
    observed = dict(zip(ATTRIBUTE_NAMES, portrait_posterior.observed_attributes(possible).T, strict=True))
    assert observed["mouth"].all() and observed["skin"].all() and observed["beard"].all()
    assert not any(observed[name].any() for name in ("eyes", "brows", "glasses", "hat", "earrings"))
    assert torch.equal(observed["hair"], people.attribute("beard") == 1), "the beard's colour is the hair's"
    own = [mask.gather(1, people.attribute(name)[:, None]) for name, mask in possible.items()]
    assert torch.stack(own).all(), "a portrait's own category is always possible"
    nothing = portrait_posterior.possible_categories(people[:2], torch.zeros(2, 64, 64, dtype=torch.bool))
    assert all(mask.all() for mask in nothing.values())


def test_probabilities_given_a_crop_agree_with_enumeration():
    """Random attributes with the same nuisance parameters: those that show the crop have the stated frequencies.

    The crop lies beside the head, where long and curly hair differ from the background.
    """
    n, side = 2000, 16
    for style, possible_styles in ((1, [True, True, False, False]), (2, [False, False, True, False])):
        person, mask = sample(1, 3).with_attribute("style", style), crop_mask(7, 1, 2, 1, side)
        possible = portrait_posterior.possible_categories(person, mask, side)
        assert possible["style"][0].tolist() == possible_styles
        p = posterior_probabilities(possible)
        people = portraits.Portraits(sample(n, 50).attributes, person.nuisance.expand(n, -1))
        image, images = portraits.render(person, side), portraits.render(people, side)
        fits = ~(((images - image).abs().amax(1) > 0.1) & mask).flatten(1).any(1)
        assert fits.sum() > 50
        frequencies = portraits.attribute_frequencies(people.attributes[fits])
        for name, frequency in zip(ATTRIBUTE_NAMES, frequencies, strict=True):
            error = (frequency - p[name][0]).abs()
            assert (error < 4 * (p[name][0] * (1 - p[name][0]) / fits.sum()).sqrt() + 0.02).all(), (style, name)


def test_posterior_draws_show_the_crop_and_have_its_probabilities():
    count, k, side = 40, 8, 16
    people, mask = sample(count, 5), crop_mask(4, 8, 5, count, side)
    draws, fits = portrait_posterior.sample_posterior(people, mask, k, torch.Generator().manual_seed(0), side)
    assert len(draws) == count * k and fits.float().mean() > 0.95
    images, truth = portraits.render(draws, side), portraits.render(people, side).repeat_interleave(k, 0)
    difference = ((images - truth).abs().amax(1) * mask.repeat_interleave(k, 0)).amax((1, 2))
    assert difference.max() <= portrait_posterior.MIN_DIFFERENCE
    assert (images - truth).abs().amax((1, 2, 3)).mean() > 0.5, "outside of the crop the draws differ"
    possible = portrait_posterior.possible_categories(people, mask, side)
    probabilities, generator = posterior_probabilities(possible), torch.Generator().manual_seed(1)
    observed = portrait_posterior.observed_attributes(possible)
    for i, name in enumerate(ATTRIBUTE_NAMES):
        labels, hidden = draws.attributes.unflatten(0, (count, k))[..., i], ~observed[:, i]
        assert (labels[observed[:, i]] == people.attributes[observed[:, i], None, i]).all()
        if hidden.sum() < 20:
            continue
        p = probabilities[name][hidden]
        assert metrics.factor_tv(labels[hidden], p, generator).value < 0.1, name
        assert abs(metrics.agreement_excess(labels[hidden], p, generator).value) < 0.15, name
    outside = torch.zeros_like(mask)
    everything = portrait_posterior.hidden_nuisance(people, outside, side)
    assert everything.all() and not portrait_posterior.hidden_nuisance(people, ~outside, side)[:, 0].any()


def test_a_red_hue_that_a_crop_shows_is_not_hidden():
    """Hues 0 and 1 are both red, so the ends of the range of a hue leave a red background as it is."""
    people, mask = sample(2, 5), crop_mask(0, 0, 2, 2, 16)  # a corner
    background = list(portraits.NUISANCE_RANGES).index("background_hue")
    people.nuisance[:, background] = torch.tensor([0.01, 0.5])
    hidden = portrait_posterior.hidden_nuisance(people, mask, 16)
    assert not hidden[:, background].any() and hidden[:, :background].all()
    _, fits = portrait_posterior.sample_posterior(people, mask, 8, torch.Generator().manual_seed(0), 16)
    assert fits.all()
