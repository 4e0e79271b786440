"""Flatland's ground truth: hidden rooms are hidden, contents follow their probabilities, classification is right."""

import math

import pytest
import torch

from fwdiff_lite.problems.inverse_graphics import flatland

HIDDEN_ROOMS = torch.tensor([False, True, True])


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def face_view(scenes, room, azimuth_offset=0.0, **options):
    return flatland.render_views(scenes, flatland.camera_facing(scenes, room, azimuth_offset), **options)


def test_the_image_of_a_disc_has_the_width_that_geometry_says(generator):
    """An orange disc alone on the camera's axis; its width follows from radius and distance."""
    scenes = flatland.sample_scenes(1, generator)
    content, position = torch.tensor([[1, 0, 0]]), torch.tensor([[[1.2, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    scenes = flatland.Scenes(scenes.first_room, scenes.wall_colour, content, position)
    row = face_view(scenes, 0, supersampling=64)[0, 0, :, 0]  # (3, W)
    not_wall = (row - flatland.WALL_COLOURS[scenes.wall_colour][0][:, None]).square().sum(0) > 0
    assert not_wall.any()
    distance = flatland.CAMERA_DISTANCE - 1.2
    half_angle = math.asin(flatland.DISC_RADIUS / distance)
    image_fraction = math.tan(half_angle) / math.tan(flatland.FIELD_OF_VIEW / 2)
    orange = (row - flatland.DISC_COLOURS[0][:, None]).square().sum(0) < 1e-6  # pixels that show nothing else
    assert abs(int(orange.sum()) - image_fraction * flatland.IMAGE_WIDTH) <= 2
    assert (orange == orange.flip(0)).all(), "in the middle of the image"


def test_the_context_shows_one_room_alone(generator):
    scenes = flatland.sample_scenes(200, generator)
    resampled = flatland.resample_rooms(scenes, HIDDEN_ROOMS, generator)
    assert (scenes.content[:, 1:] != resampled.content[:, 1:]).any()
    for offset in (-flatland.MAX_AZIMUTH_OFFSET, 0.0, flatland.MAX_AZIMUTH_OFFSET):
        context = face_view(scenes, 0, offset)
        assert torch.equal(context, face_view(resampled, 0, offset)), "hidden content changes no pixel"
    control = flatland.resample_rooms(scenes, ~HIDDEN_ROOMS, generator)
    assert not torch.equal(context, face_view(control, 0, flatland.MAX_AZIMUTH_OFFSET))
    assert not torch.equal(face_view(scenes, 1), face_view(resampled, 1))


def test_every_room_follows_its_probabilities(generator):
    scenes = flatland.sample_scenes(6000, generator)
    all_probabilities = flatland.CONTENT_PROBABILITIES.values()
    for wall_colour, probabilities in enumerate(all_probabilities):
        content = scenes.content[scenes.wall_colour == wall_colour]
        for room in range(flatland.NUM_ROOMS):
            frequency = torch.bincount(content[:, room], minlength=3) / len(content)
            assert (frequency - torch.tensor(probabilities)).abs().max() < 0.05
    assert all(abs(sum(p) - 1) < 1e-9 and max(p) != min(p) for p in all_probabilities)


def test_the_content_of_true_images_is_classified_rightly(generator):
    scenes = flatland.sample_scenes(24, generator)
    cameras = torch.cat([flatland.camera_facing(scenes, room) for room in range(1, flatland.NUM_ROOMS)], 1)
    images = flatland.render_views(scenes, cameras)[:, None]
    assert torch.equal(flatland.classify_hidden_rooms(images, scenes)[..., 0], scenes.content[:, 1:])
    blank = torch.full_like(images, flatland.BACKGROUND)
    assert (flatland.classify_hidden_rooms(blank, scenes) == 0).all()


def test_a_view_from_above_shows_the_discs_of_the_scene(generator):
    scenes = flatland.sample_scenes(24, generator)
    images = flatland.top_down_view(scenes)
    for content, disc_colour in enumerate(flatland.DISC_COLOURS, 1):
        has_colour = ((images - disc_colour).abs().sum(-1) < 1e-6).flatten(1).any(1)
        assert torch.equal(has_colour, (scenes.content == content).any(1))


def test_batches_have_one_to_two_contexts_and_pixels_in_range(generator):
    batches = [flatland.batches(32, 8)(generator) for _ in range(8)]
    assert {batch["context"].mask.shape[1] for batch in batches} == {1, 2}
    assert all(batch["context"].mask.all() for batch in batches)
    pixel_indices = batches[0]["pixel_indices"]
    assert pixel_indices.shape == (32, 1, 8)
    assert pixel_indices.min() >= 0 and pixel_indices.max() < flatland.IMAGE_WIDTH
    assert (pixel_indices.sort(-1).values.diff(dim=-1) > 0).all(), "no pixel twice"


def test_context_and_target_cameras_face_rooms_of_their_own_and_novel_cameras_are_at_any_azimuth(generator):
    batches = [flatland.batches(64)(generator) for _ in range(8)]
    room_angle = 2 * math.pi / flatland.NUM_ROOMS

    def azimuth(cameras):
        eye = torch.linalg.inv(cameras)[..., :2, 3]
        return torch.atan2(eye[..., 1], eye[..., 0])

    for batch in batches:
        room_number = azimuth(batch["context"].append(batch["target"]).params) / room_angle
        offset = (room_number - room_number.round()).abs() * room_angle
        assert offset.max() < flatland.MAX_AZIMUTH_OFFSET + 1e-4
        rooms = room_number.round() % flatland.NUM_ROOMS
        assert (rooms.sort(-1).values.diff(dim=-1) > 0.5).all(), "no room twice"
    novel = torch.cat([azimuth(batch["novel"].params) for batch in batches]).flatten()
    assert torch.histc(novel, 12, -math.pi, math.pi).min() > 0
