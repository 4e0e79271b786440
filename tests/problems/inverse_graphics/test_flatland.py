"""Flatland's truth: what is hidden is hidden, odds are those stated, readings are right; and its examination."""

import math

import pytest
import torch

from fwdiff_lite import metrics
from fwdiff_lite.diffusion import ForwardRegression
from fwdiff_lite.experiments import flatland as experiment
from fwdiff_lite.problems.inverse_graphics import flatland
from fwdiff_lite.training import fit


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def paper():
    return experiment.exam(24, 8)


def test_a_disc_is_where_geometry_says(generator):
    """An orange disc alone on the camera's axis, as wide as its radius and distance say."""
    scenes = flatland.draw_scenes(1, generator)
    content, place = torch.tensor([[1, 0, 0]]), torch.tensor([[[1.2, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    scenes = flatland.Scenes(scenes.first, scenes.wall, content, place)
    row = flatland.look(scenes, flatland.before(scenes, 0), smooth=64)[0, 0, :, 0]  # (3, W)
    share = (row - flatland.WALLS[scenes.wall][0][:, None]).square().sum(0) > 0
    assert share.any()
    distance = flatland.DISTANCE - 1.2
    half = math.tan(math.asin(flatland.RADIUS / distance)) / math.tan(flatland.VIEW / 2)  # in half images
    orange = (row - flatland.DISCS[0][:, None]).square().sum(0) < 1e-6  # whole pixels of it
    assert abs(int(orange.sum()) - half * flatland.W) <= 2
    assert (orange == orange.flip(0)).all(), "in the middle"


def test_the_context_sees_one_room_alone(generator):
    scenes = flatland.draw_scenes(200, generator)
    other = flatland.redraw(scenes, experiment.HIDDEN, generator)
    assert (scenes.content[:, 1:] != other.content[:, 1:]).any()
    for off in (-flatland.LOOK, 0.0, flatland.LOOK):
        seen, again = (flatland.look(x, flatland.before(x, 0, off)) for x in (scenes, other))
        assert torch.equal(seen, again), "what is hidden leaves no trace"
    control = flatland.redraw(scenes, ~experiment.HIDDEN, generator)
    assert not torch.equal(seen, flatland.look(control, flatland.before(control, 0, flatland.LOOK)))
    behind, again = (flatland.look(x, flatland.before(x, 1)) for x in (scenes, other))
    assert not torch.equal(behind, again)


def test_every_room_follows_its_odds(generator):
    scenes = flatland.draw_scenes(6000, generator)
    for wall, odds in enumerate(flatland.ODDS.values()):
        content = scenes.content[scenes.wall == wall]
        for room in range(flatland.ROOMS):
            found = torch.bincount(content[:, room], minlength=3) / len(content)
            assert (found - torch.tensor(odds)).abs().max() < 0.05
    assert all(abs(sum(odds) - 1) < 1e-9 and max(odds) != min(odds) for odds in flatland.ODDS.values())


def test_readings_of_true_pictures_are_right(paper):
    scenes = paper.scenes
    assert torch.equal(flatland.contents(paper.truth[:, None], scenes)[..., 0], scenes.content[:, 1:])
    blank = torch.full_like(paper.truth[:, None], flatland.BACKGROUND)
    assert (flatland.contents(blank, scenes) == 0).all()


def test_true_redraws_pass_and_controls_fail(paper):
    """The mean of all redraws is the perfect deterministic answer; a prior that knows no wall fails on the odds."""
    mean = paper.redrawn.mean(1)
    exact = experiment.judge(paper, paper.redrawn, mean)
    assert exact["factor_tv"] < 0.08 and exact["factor_scene_rms"] < 0.15
    assert exact["energy_skill"] > 0.85 and 0.85 < exact["spread_skill"] < 1.15
    same = experiment.judge(paper, paper.redrawn[:, :1].expand_as(paper.redrawn), mean)
    assert same["factor_scene_rms"] > 0.3 and same["spread_skill"] < 0.1, "one draw repeated"
    order = torch.arange(len(paper.scenes)).roll(1)
    shuffled = experiment.judge(paper, paper.redrawn[order], mean)
    assert shuffled["energy_skill"] < 0.5, "another scene's answers"


def test_a_scene_from_above_agrees_with_its_rows(paper):
    """The colours that a picture from above holds are those that a camera sees."""
    pictures = flatland.above(paper.scenes)
    for content, disc in enumerate(flatland.DISCS, 1):
        there = ((pictures - disc).abs().sum(-1) < 1e-6).flatten(1).any(1)
        assert torch.equal(there, (paper.scenes.content == content).any(1))


def test_a_few_steps_lower_the_loss_and_answers_have_their_shapes():
    model = flatland.untrained()
    curve = fit(model, flatland.batches(8, 4), steps=100, learning_rate=5e-3, warmup=1, progress=False).curve["loss"]
    assert sum(curve[-10:]) < 0.8 * sum(curve[:10])
    small = experiment.exam(2, 2)
    first, second = experiment.answer(model, small, k=2, steps=2)
    assert first.views.shape == second.views.shape == (2, 2, 5, 3, 1, flatland.W)
    assert second.field.feature_maps.shape[1] == first.field.feature_maps.shape[1] + 1, "the first target has joined the context"
    assert flatland.from_above(second.field, 8).shape == (4, 8, 8, 3)
    (only,) = experiment.answer(flatland.untrained(ForwardRegression), small)
    numbers = experiment.judge(small, second.views, only.views[:, 0])
    assert numbers["energy_ratio"] == pytest.approx(
        float(
            metrics.energy_score(second.views, small.truth).mean()
            / metrics.euclidean_error(only.views[:, 0], small.truth).mean()
        )
    )


def test_batches_hold_one_to_two_contexts_and_pixels_in_range(generator):
    some = [flatland.batches(32, 8)(generator) for _ in range(8)]
    assert {batch["context"].mask.shape[1] for batch in some} == {1, 2}
    assert all(batch["context"].mask.all() for batch in some)
    at = some[0]["pixel_indices"]
    assert at.shape == (32, 1, 8) and at.min() >= 0 and at.max() < flatland.W
    assert (at.sort(-1).values.diff(dim=-1) > 0).all(), "no pixel twice"


def test_contexts_and_targets_stand_before_rooms_of_their_own_and_novel_cameras_anywhere(generator):
    some = [flatland.batches(64)(generator) for _ in range(8)]

    def azimuth(cameras):
        eye = torch.linalg.inv(cameras)[..., :2, 3]
        return torch.atan2(eye[..., 1], eye[..., 0])

    for batch in some:
        third = azimuth(batch["context"].append(batch["target"]).params) / (2 * math.pi / flatland.ROOMS)
        assert (third - third.round()).abs().max() * 2 * math.pi / flatland.ROOMS < flatland.LOOK + 1e-4
        rooms = third.round() % flatland.ROOMS
        assert (rooms.sort(-1).values.diff(dim=-1) > 0.5).all(), "no room twice"
    novel = torch.cat([azimuth(batch["novel"].params) for batch in some]).flatten()
    assert torch.histc(novel, 12, -math.pi, math.pi).min() > 0
