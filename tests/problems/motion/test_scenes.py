"""The synthetic scenes move as documented, and their source images do not tell the motion."""

import pytest
import torch

from fwdiff_lite.problems.motion import scenes as p
from fwdiff_lite.problems.motion.warping import bilinear_sample_xy, pixel_grid


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def textures():
    return p.make_textures(["brick.png", "rocket.jpg"], 16)


@pytest.fixture(scope="module")
def random_scenes():
    return p.sample_scenes(4000, 16, generator())


def single_sprite(sprite_type, angle=0.0, cue=0, radius=8.0):
    """A scene with one sprite at the centre."""
    return p.Scenes(
        sprite_type=torch.tensor([[p.SPRITE_TYPES.index(sprite_type)]]),
        cue=torch.tensor([[cue]]),
        centre=torch.tensor([[[31.0, 33.0]]]),
        radius=torch.tensor([[radius]]),
        angle=torch.tensor([[angle]]),
        texture_index=torch.tensor([[3]]),
        tint=torch.zeros(1, 1, 3),
        background_index=torch.tensor([5]),
        background_tint=torch.zeros(1, 3),
    )


def test_photographs_are_split_and_textures_have_contrast():
    assert not set(p.TRAIN_PHOTOGRAPHS) & set(p.TEST_PHOTOGRAPHS)
    for names in (p.TRAIN_PHOTOGRAPHS, p.TEST_PHOTOGRAPHS):
        textures = p.make_textures(names, 2 * len(names))
        assert textures.shape == (2 * len(names), 3, 64, 64) and textures.abs().max() <= 1
        assert textures.flatten(1).std(1).min() > 0.2 and textures.flatten(1).mean(1).abs().max() < 0.15
    textures = p.make_textures(p.TEST_PHOTOGRAPHS, 4)
    assert torch.equal(textures, p.make_textures(p.TEST_PHOTOGRAPHS, 4))
    assert not torch.equal(textures, p.make_textures(p.TEST_PHOTOGRAPHS, 4, seed=1))


def test_scenes_have_one_to_three_sprites_of_every_type_and_cue(random_scenes):
    present_mask = random_scenes.present_mask
    counts = torch.bincount(present_mask.sum(1), minlength=4)
    assert counts[0] == 0 and (counts[1:] / 4000 - 1 / 3).abs().max() < 5 * (2 / 9 / 4000) ** 0.5
    types, cues = random_scenes.sprite_type[present_mask], random_scenes.cue[present_mask]
    for probability, indices in ((torch.full((4,), 0.25), types), (p.CUE_FREQUENCIES, cues)):
        frequency = torch.bincount(indices, minlength=len(probability)) / len(indices)
        standard_error = (probability * (1 - probability) / len(indices)).sqrt()
        assert ((frequency - probability).abs() < 5 * standard_error).all()


def test_amplitudes_follow_the_cue_and_nothing_else(random_scenes):
    amplitudes, present_mask = p.sample_amplitudes(random_scenes, generator(1)), random_scenes.present_mask
    assert (amplitudes[~present_mask] == 0).all()
    magnitude = amplitudes[present_mask].abs()
    assert magnitude.min() >= 0.5 and magnitude.max() <= 1 and abs(float(magnitude.mean()) - 0.75) < 0.01
    for cue, probability in enumerate(p.CUE_PROBABILITIES.values()):
        for sprite_type in range(4):
            selected = present_mask & (random_scenes.cue == cue) & (random_scenes.sprite_type == sprite_type)
            positive = amplitudes[selected] > 0
            assert abs(float(positive.float().mean()) - probability) < 5 * (0.25 / len(positive)) ** 0.5
    assert sorted(p.CUE_PROBABILITIES.values()) == [0.3, 0.5, 0.8], "fair coins alone would hide a bias"


def test_the_source_image_does_not_tell_the_motion(textures):
    scenes = p.sample_scenes(6, 16, generator(2))
    amplitudes = [p.sample_amplitudes(scenes, generator(i)) for i in (3, 4)]
    sources = [p.render(scenes, amplitude, torch.zeros(6, 1), textures) for amplitude in amplitudes]
    torch.testing.assert_close(*sources)
    frames = p.render(scenes, amplitudes[0], torch.ones(6, 1), textures)
    assert ((frames - sources[0]).abs().amax((1, 2, 3, 4)) > 0.1).all()


@pytest.mark.parametrize("cue", range(3))
def test_the_badge_shows_the_cue_and_only_the_badge_does(textures, cue):
    wheels = single_sprite("wheel", cue=cue), single_sprite("wheel", cue=cue - 1)
    source, other_source = (p.render(wheel, torch.ones(1, 1), torch.zeros(1, 1), textures)[0, 0] for wheel in wheels)
    torch.testing.assert_close(source[:, 33, 31], p.CUE_COLOURS[cue])
    assert ((source - other_source).abs().amax(0) > 0).sum() <= 25


def test_a_bead_slides_by_whole_pixels_exactly(textures):
    scenes, amplitudes = single_sprite("bead"), torch.tensor([[4 / p.SLIDE_DISTANCE]])
    source, frame = p.render(scenes, amplitudes, torch.tensor([[0.0, 1.0]]), textures)[0]
    interior = torch.nn.functional.avg_pool2d(p.sprite_masks(scenes)[0].float(), 5, 1, 2)[0] == 1
    rows, columns = interior.nonzero().unbind(1)
    torch.testing.assert_close(frame[:, rows, columns + 4], source[:, rows, columns])
    displacement = p.true_displacement(scenes, amplitudes)[0]
    torch.testing.assert_close(displacement[:, rows, columns], torch.tensor([[4.0], [0.0]]).expand(2, len(rows)))


@pytest.mark.parametrize("sprite_type", p.SPRITE_TYPES)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_pixels_arrive_where_the_true_displacement_sends_them(textures, sprite_type, sign):
    """At every tau, the colour at x + tau F(x) is the source's at x: all motions are linear in tau."""
    scenes = single_sprite(sprite_type, angle=0.4 if sprite_type != "pendulum" else 0.0)
    amplitudes, tau = torch.tensor([[0.8 * sign]]), torch.tensor([[0.0, 0.5, 1.0]])
    frames = p.render(scenes, amplitudes, tau, textures)[0]
    displacement, mask = p.true_displacement(scenes, amplitudes), p.sprite_masks(scenes)[0, 0]
    x, y = pixel_grid(64, 64, displacement)
    for i in (1, 2):
        for factor, correct in ((1, True), (-1, False)):
            shift = factor * tau[0, i] * displacement
            moved = bilinear_sample_xy(frames[i][None], x + shift[:, 0], y + shift[:, 1])[0]
            error = (moved - frames[0]).square().mean(0)[mask].mean()
            static_error = (frames[i] - frames[0]).square().mean(0)[mask].mean()
            assert bool(error < 0.35 * static_error) is correct, (sprite_type, i, factor)


def test_signs_mean_what_the_notebook_says():
    for sprite_type, (row, column), direction in (
        ("pendulum", (33, 31), (1, 0)),  # the bob moves to the right
        ("bead", (33, 31), (1, 0)),
        ("disc", (33, 36), (1, 0)),  # its right side moves to the right: it grows
        ("wheel", (28, 31), (1, 0)),  # its top moves to the right: clockwise
    ):
        displacement = p.true_displacement(single_sprite(sprite_type), torch.ones(1, 1))[0, :, row, column]
        assert displacement @ torch.tensor(direction).float() > 0.9 * displacement.norm() > 0, sprite_type


def test_sprites_do_not_overlap_and_stay_in_the_frame(random_scenes):
    scenes = random_scenes[:400]
    masks = p.sprite_masks(scenes)
    assert masks.sum(1).max() == 1
    assert (masks.sum((2, 3)) > 0)[scenes.present_mask].all()
    border = torch.ones(64, 64, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert not (masks & border).any()


def test_batches_hold_a_source_image_and_two_frames_of_one_motion(textures):
    batch = p.batches(textures, 5)(generator())
    assert (batch["context"].params == 0).all()
    for name in ("target", "novel"):
        assert batch[name].params.min() >= 0.25 and batch[name].params.max() <= 1
    same_batch = p.batches(textures, 5)(generator())
    assert all(torch.equal(same_batch[name].value, observations.value) for name, observations in batch.items())
