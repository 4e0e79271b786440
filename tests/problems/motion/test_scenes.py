"""The made scenes move as they say they do, and their stills do not tell how they will."""

import pytest
import torch

from fwdiff_lite.problems.motion import scenes as p
from fwdiff_lite.problems.motion.warping import bilinear, grid


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def bank():
    return p.textures(["brick.png", "rocket.jpg"], 16)


@pytest.fixture(scope="module")
def many():
    return p.draw_scenes(4000, 16, generator())


def one(kind, angle=0.0, cue=0, radius=8.0):
    """A scene with one sprite in the middle."""
    return p.Scenes(
        kind=torch.tensor([[p.KINDS.index(kind)]]),
        cue=torch.tensor([[cue]]),
        centre=torch.tensor([[[31.0, 33.0]]]),
        radius=torch.tensor([[radius]]),
        angle=torch.tensor([[angle]]),
        texture=torch.tensor([[3]]),
        tint=torch.zeros(1, 1, 3),
        background=torch.tensor([5]),
        ground=torch.zeros(1, 3),
    )


def test_photographs_are_split_and_textures_have_something_on_them():
    assert not set(p.TRAIN) & set(p.HELD_OUT)
    for names in (p.TRAIN, p.HELD_OUT):
        some = p.textures(names, 2 * len(names))
        assert some.shape == (2 * len(names), 3, 64, 64) and some.abs().max() <= 1
        assert some.flatten(1).std(1).min() > 0.2 and some.flatten(1).mean(1).abs().max() < 0.15
    assert torch.equal(p.textures(p.HELD_OUT, 4), p.textures(p.HELD_OUT, 4))
    assert not torch.equal(p.textures(p.HELD_OUT, 4), p.textures(p.HELD_OUT, 4, seed=1))


def test_scenes_have_one_to_three_sprites_of_every_kind_and_cue(many):
    counts = torch.bincount(many.there.sum(1), minlength=4)
    assert counts[0] == 0 and (counts[1:] / 4000 - 1 / 3).abs().max() < 5 * (2 / 9 / 4000) ** 0.5
    there = many.there
    for share, numbers in ((torch.full((4,), 0.25), many.kind[there]), (p.CUE_SHARES, many.cue[there])):
        found = torch.bincount(numbers, minlength=len(share)) / len(numbers)
        assert ((found - share).abs() < 5 * (share * (1 - share) / len(numbers)).sqrt()).all()


def test_motions_follow_the_cue_and_nothing_else(many):
    motion = p.draw_motions(many, generator(1))
    assert (motion[~many.there] == 0).all()
    amount = motion[many.there].abs()
    assert amount.min() >= 0.5 and amount.max() <= 1 and abs(float(amount.mean()) - 0.75) < 0.01
    for cue, chance in enumerate(p.CUES.values()):
        for kind in range(4):
            positive = motion[many.there & (many.cue == cue) & (many.kind == kind)] > 0
            assert abs(float(positive.float().mean()) - chance) < 5 * (0.25 / len(positive)) ** 0.5
    assert sorted(p.CUES.values()) == [0.3, 0.5, 0.8], "fair coins alone would hide a bias"


def test_the_still_does_not_tell_the_motion(bank):
    scenes = p.draw_scenes(6, 16, generator(2))
    stills = [p.render(scenes, p.draw_motions(scenes, generator(i)), torch.zeros(6, 1), bank) for i in (3, 4)]
    torch.testing.assert_close(*stills)
    moved = p.render(scenes, p.draw_motions(scenes, generator(3)), torch.ones(6, 1), bank)
    assert ((moved - stills[0]).abs().amax((1, 2, 3, 4)) > 0.1).all()


@pytest.mark.parametrize("cue", range(3))
def test_the_badge_shows_the_cue_and_only_the_badge_does(bank, cue):
    wheels = one("wheel", cue=cue), one("wheel", cue=cue - 1)
    still, other = (p.render(wheel, torch.ones(1, 1), torch.zeros(1, 1), bank)[0, 0] for wheel in wheels)
    torch.testing.assert_close(still[:, 33, 31], p.COLOURS[cue])
    assert ((still - other).abs().amax(0) > 0).sum() <= 25


def test_a_bead_slides_by_whole_pixels_exactly(bank):
    scenes, motion = one("bead"), torch.tensor([[4 / p.SLIDE]])
    still, frame = p.render(scenes, motion, torch.tensor([[0.0, 1.0]]), bank)[0]
    inside = torch.nn.functional.avg_pool2d(p.owner(scenes)[0].float(), 5, 1, 2)[0] == 1
    rows, columns = inside.nonzero().unbind(1)
    torch.testing.assert_close(frame[:, rows, columns + 4], still[:, rows, columns])
    field = p.true_field(scenes, motion)[0]
    torch.testing.assert_close(field[:, rows, columns], torch.tensor([[4.0], [0.0]]).expand(2, len(rows)))


@pytest.mark.parametrize("kind", p.KINDS)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_pixels_are_found_where_the_true_field_sends_them(bank, kind, sign):
    """At every tau, the colour at x + tau F(x) is the still's at x: all motions are linear in tau."""
    scenes, motion = one(kind, angle=0.4 if kind != "pendulum" else 0.0), torch.tensor([[0.8 * sign]])
    tau = torch.tensor([[0.0, 0.5, 1.0]])
    frames = p.render(scenes, motion, tau, bank)[0]
    field, inside = p.true_field(scenes, motion), p.owner(scenes)[0, 0]
    x, y = grid(64, 64, field)
    for i in (1, 2):
        for way, good in ((1, True), (-1, False)):
            there = bilinear(frames[i][None], x + way * tau[0, i] * field[:, 0], y + way * tau[0, i] * field[:, 1])[0]
            error = (there - frames[0]).square().mean(0)[inside].mean()
            stays = (frames[i] - frames[0]).square().mean(0)[inside].mean()
            assert bool(error < 0.35 * stays) is good, (kind, i, way)


def test_signs_mean_what_the_notebook_says():
    for kind, point, way in (
        ("pendulum", (33, 31), (1, 0)),  # the bob goes right
        ("bead", (33, 31), (1, 0)),
        ("disc", (33, 36), (1, 0)),  # its right side goes right: it grows
        ("wheel", (28, 31), (1, 0)),  # its top goes right: clockwise
    ):
        field = p.true_field(one(kind), torch.ones(1, 1))[0, :, point[0], point[1]]
        assert field @ torch.tensor(way).float() > 0.9 * field.norm() > 0, kind


def test_sprites_keep_out_of_one_another_and_in_the_frame(many):
    own = p.owner(many[:400])
    assert own.sum(1).max() == 1
    assert (own.sum((2, 3)) > 0)[many[:400].there].all()
    border = torch.ones(64, 64, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert not (own & border).any()


def test_batches_hold_a_still_and_two_frames_of_one_moment(bank):
    batch = p.batches(bank, 5)(generator())
    assert (batch["context"].params == 0).all()
    for name in ("target", "novel"):
        assert batch[name].params.min() >= 0.25 and batch[name].params.max() <= 1
    again = p.batches(bank, 5)(generator())
    assert all(torch.equal(again[name].value, seen.value) for name, seen in batch.items())
