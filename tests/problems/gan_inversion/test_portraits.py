"""Portraits are drawn at their odds; what a crop leaves open has the probabilities that counting finds."""

import pytest
import torch

from fwdiff_lite.problems.gan_inversion import portraits
from fwdiff_lite.problems.gan_inversion.portraits import ATTRIBUTES, NAMES


def drawn(n: int, seed: int = 0) -> portraits.Portraits:
    return portraits.draw_portraits(n, torch.Generator().manual_seed(seed))


def crop(top: int, left: int, side: int, n: int) -> torch.Tensor:
    seen = torch.zeros(n, 64, 64, dtype=torch.bool)
    seen[:, top : top + side, left : left + side] = True
    return seen


def given(n: int, *names: str) -> torch.Tensor:
    return torch.tensor([name in names for name in NAMES]).expand(n, -1)


def test_the_table_holds_all_odds():
    table = portraits.joint()
    assert table.shape == tuple(map(len, ATTRIBUTES.values())) and table.sum().item() == pytest.approx(1, abs=1e-12)
    glasses = table.sum([i for i, name in enumerate(NAMES) if name != "glasses"])
    assert glasses[1].item() == pytest.approx(0.8 * 0.2 + 0.2 * 0.7)
    pair = table.sum([i for i, name in enumerate(NAMES) if name not in ("style", "beard")])
    assert pair[2, 1].item() == pytest.approx(0.3 * 0.05), "a beard with long hair"


def test_draws_follow_the_table():
    n = 40_000
    attributes = drawn(n).attributes
    for name, categories in ATTRIBUTES.items():
        i = NAMES.index(name)
        p = portraits.joint().sum([j for j in range(len(NAMES)) if j != i])
        found = torch.bincount(attributes[:, i], minlength=len(categories)) / n
        assert ((found - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all(), name
    for odds in portraits.ODDS.values():  # a fair coin could hide a sampler's bias
        assert 0.5 not in odds[1]


def test_sizes_stay_in_their_ranges_and_draws_repeat():
    many = drawn(2000)
    low, high = torch.tensor(list(portraits.SIZES.values())).T
    assert (many.sizes >= low).all() and (many.sizes <= high).all()
    assert (many.sizes.amax(0) - many.sizes.amin(0) > 0.9 * (high - low)).all()
    assert torch.equal(many[:7].sizes, drawn(2000)[:7].sizes) and len(drawn(0)) == 0


def test_conditional_probabilities_by_hand():
    people = drawn(50)
    grey = people.attribute("hair") == 4
    p = portraits.conditional(people, given(50, "hair", "eyes"), "glasses")[:, 1]
    assert torch.allclose(p, torch.where(grey, 0.7, 0.2).double())
    # without the hair style a beard tells of it, and so of earrings (Bayes)
    p = portraits.conditional(people, given(50, "beard"), "earrings")[:, 1]
    style, earrings = torch.tensor([0.1, 0.4, 0.3, 0.2]), torch.tensor([0.2, 0.05, 0.6, 0.35])
    beard = torch.tensor([0.65, 0.40, 0.05, 0.20])
    odds = [(style * b * earrings).sum() / (style * b).sum() for b in (1 - beard, beard)]
    expected = torch.where(people.attribute("beard") == 1, odds[1], odds[0]).double()
    assert torch.allclose(p, expected, atol=1e-6) and odds[1] < 0.6 * odds[0]


def test_conditional_probabilities_are_what_counting_finds():
    n = 40_000
    people = drawn(n, 1)
    seen = given(n, "beard", "skin", "mouth")
    first = people[:40]
    p = portraits.conditional(first, seen[:40], "style")
    for row, person in zip(p, first.attributes, strict=True):
        same = (people.attributes[:, [NAMES.index(x) for x in ("beard", "skin", "mouth")]] == person[[7, 0, 5]]).all(1)
        count = same.sum()
        found = torch.bincount(people.attribute("style")[same], minlength=4) / count
        assert ((found - row).abs() < 4.5 * (row * (1 - row) / count).sqrt() + 1e-3).all()


def test_what_is_given_is_not_open():
    with pytest.raises(ValueError, match="hair is among what is given"):
        portraits.conditional(drawn(2), given(2, "hair"), "hair")
    with pytest.raises(ValueError, match="unknown attribute 'ears': choose one of skin, hair"):
        drawn(2).attribute("ears")


def test_pictures_are_antialiased_and_every_attribute_shows():
    people = drawn(32)
    pictures = portraits.render(people)
    assert pictures.shape == (32, 3, 64, 64) and pictures.abs().max() <= 1
    fine = torch.nn.functional.avg_pool2d(portraits.render(people, 256), 4)
    assert (pictures - fine).square().mean().sqrt() < 0.03
    for name, categories in ATTRIBUTES.items():
        drawings = torch.stack([portraits.render(people.changed(name, k)) for k in range(len(categories))])
        apart = (drawings[:, None] - drawings[None]).abs().flatten(3).amax(-1)  # (K, K, B)
        assert (apart + 2 * torch.eye(len(categories))[..., None]).min() > 0.1, name
    assert portraits.shown(people, crop(0, 0, 64, 32)).all()
    with pytest.raises(ValueError, match="at least 16 pixels a side, got 8"):
        portraits.render(people, 8)


def test_a_picture_does_not_depend_on_its_neighbours():
    people = drawn(6)
    assert torch.equal(portraits.render(people)[2:4], portraits.render(people[2:4]))
    assert torch.equal(portraits.render(people.to("cpu")), portraits.render(people))


def test_a_crop_tells_what_is_in_it():
    people = drawn(40)
    seen = dict(zip(NAMES, portraits.shown(people, crop(40, 27, 10, 40)).T, strict=True))  # around the mouth
    assert seen["mouth"].all() and seen["skin"].all() and seen["beard"].all()
    assert not any(seen[name].any() for name in ("eyes", "brows", "glasses", "hat", "earrings"))
    assert torch.equal(seen["hair"], people.attribute("beard") == 1), "the beard's colour is the hair's"
    assert not portraits.shown(people, torch.zeros(40, 64, 64, dtype=torch.bool)).any()


class Palette(torch.nn.Module):
    """Reads two attributes from colours alone; its one weight says how firmly."""

    def __init__(self):
        super().__init__()
        self.firm = torch.nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

    def forward(self, pictures):
        mean = self.firm * pictures.mean((2, 3))  # (B, 3)
        return [mean, torch.stack([mean[:, 0], -mean[:, 0]], 1)]


def test_a_lesson_is_the_distance_of_pair_frequencies():
    draw = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(n, 3, 2, 2, generator=draw, dtype=torch.float64) for n in (1100, 6))
    fake.requires_grad_()
    lesson = portraits.Lesson(torch.nn.ModuleList([Palette()]), real, weight=7.0, decay=0.0)

    def pairs(pictures):
        mean = 3 * pictures.mean((2, 3))
        p = torch.cat([mean.softmax(1), torch.sigmoid(2 * mean[:, :1]), torch.sigmoid(-2 * mean[:, :1])], 1)
        return torch.einsum("bi,bj->ij", p, p)[None] / len(p)

    torch.testing.assert_close(lesson.wanted, pairs(real))
    assert lesson(real) < 1e-12, "the real ones have nothing to learn"
    plain = 7 * (pairs(fake) - pairs(real)).square().sum() / 2
    torch.testing.assert_close(lesson(fake), plain)
    (ours,), (wanted,) = (torch.autograd.grad(loss, fake) for loss in (lesson(fake), plain))
    torch.testing.assert_close(ours, wanted)

    # with a memory: the distance of the mean, and the batch moves it
    lesson = portraits.Lesson(torch.nn.ModuleList([Palette()]), real, weight=7.0, decay=0.9)
    for _ in range(3):
        loss = lesson(fake)
    mean = pairs(real) + (1 - 0.9**3) * (pairs(fake) - pairs(real))
    torch.testing.assert_close(lesson.mean, mean.detach())
    torch.testing.assert_close(loss, 7 * (mean - pairs(real)).square().sum() / 2)
    torch.testing.assert_close(torch.autograd.grad(loss, fake)[0], (1 - 0.9**3) * wanted)

    # several readers: the mean of their lessons
    firm = Palette()
    firm.firm.data += 1
    both, *each = (
        portraits.Lesson(torch.nn.ModuleList(readers), real, weight=7.0)
        for readers in ([Palette(), firm], [Palette()], [firm])
    )
    torch.testing.assert_close(both(fake), sum(lesson(fake) for lesson in each) / 2)
