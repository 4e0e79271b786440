"""Contexts, targets and novel frames: all that are allowed, drawn by the generator alone, and fixed for evaluation."""

from dataclasses import replace

import pytest
import torch
from clip_helpers import FRAME_GAP, NUM_FRAMES, generator

from fwdiff_lite.datasets.pixelsplat import FrameIndices
from fwdiff_lite.datasets.view_sampler import (
    ViewTimestamps,
    batches,
    context_target_pairs,
    evaluation_list,
    load_indexed_views,
    load_views,
    read_evaluation_list,
    sample_views,
    write_evaluation_list,
)


def test_pairs_are_all_pairs_with_the_gap_and_a_frame_between(clips):
    files = tuple(None if i in (1, 2, 3, 20) else file for i, file in enumerate(clips[0].files))
    clip = replace(clips[0], files=files)
    pairs = set(map(tuple, context_target_pairs(clip, (4, 6)).tolist()))
    expected = {
        (i, j)
        for i in range(NUM_FRAMES)
        for j in range(NUM_FRAMES)
        if 4 <= abs(i - j) <= 6 and files[i] and files[j] and any(files[min(i, j) + 1 : max(i, j)])
    }
    assert pairs == expected and (0, 4) not in pairs and (0, 5) in pairs
    for seed in range(50):
        context, target, novel = sample_views(clip, (4, 6), generator(seed))
        assert (context, target) in pairs and min(context, target) < novel < max(context, target) and files[novel]


def test_batches_differ_between_steps_and_not_between_numbers_of_threads(clips):
    one_thread, three_threads = (batches(clips, 6, FRAME_GAP, 5, 16, num_threads=n) for n in (1, 3))
    g = generator(1)
    batch1, batch2 = one_thread(g), one_thread(g)
    for name, x in three_threads(generator(1)).items():
        y = batch1[name]
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else torch.equal(x.value, y.value), name
    assert batch1["context"].value.shape == (6, 1, 3, 16, 16) and batch1["pixel_indices"].shape == (6, 1, 5)
    assert not torch.equal(batch1["pixel_indices"], batch1["novel_pixel_indices"])
    examples = torch.cat([torch.cat([b["context"].value, b["target"].value], 1).flatten(1) for b in (batch1, batch2)])
    differences = (examples[:, None] - examples).abs().amax(-1) + torch.eye(12)
    assert differences.min() > 0.05, "no two examples are alike, also not those of two processes"
    message = "clip00 has no two frames 50 to 60 apart with a frame between them: leave it out"
    with pytest.raises(ValueError, match=message):
        batches(clips, frame_gap=(50, 60))


def test_more_contexts_change_no_other_frame_and_are_masked(clips):
    one, several = (batches(clips, 40, FRAME_GAP, side=8, max_contexts=n)(generator(2)) for n in (1, 3))
    counts = several["context"].mask.sum(1)
    assert set(counts.tolist()) == {1, 2, 3} and several["context"].value.shape[:2] == (40, 3)
    assert several["context"].mask[:, 0].all()
    again = batches(clips, 40, FRAME_GAP, side=8, max_contexts=3)(generator(2))
    assert torch.equal(again["context"].value, several["context"].value)
    same_clip_and_frames = one["target"].value[0] == several["target"].value[0]
    assert same_clip_and_frames.all(), "the first example's frames are drawn before the others"


def test_an_index_gives_contexts_target_and_novel_views(clips):
    index = {clips[0].name: FrameIndices((3, 20), (5, 11, 17)), "elsewhere": FrameIndices((0,), (1,))}
    views = load_indexed_views(clips, index, 24)
    images, cameras = clips[0].load_frames([3, 20, 5, 11, 17], 24)
    assert torch.equal(views["context"].value[0], images[:2]) and torch.equal(views["target"].value[0], images[2:3])
    assert torch.equal(views["novel"].value[0], images[3:]) and torch.equal(views["novel"].params[0], cameras[3:])
    first, second = clips[0].name, clips[1].name
    for bad, message in (
        ({first: FrameIndices((3,), (5, NUM_FRAMES))}, f"frames of {first} that are missing: {NUM_FRAMES}"),
        ({first: FrameIndices((3,), (5,))}, "one target of clip00, wanted two or more"),
        ({"x": FrameIndices((3,), (5, 6))}, "the index has none of the 3 clips"),
        (
            {first: FrameIndices((3,), (5, 6)), second: FrameIndices((3, 4), (5, 6))},
            "2 contexts and 2 targets of clip01, but 1 and 2 of clip00",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            load_indexed_views(clips, bad, 24)


def test_the_evaluation_list_is_fixed(clips, tmp_path):
    views = evaluation_list(clips, FRAME_GAP)
    assert views == evaluation_list(clips, FRAME_GAP)
    assert views[1:] == evaluation_list(clips[1:], FRAME_GAP), "it depends on one clip alone"
    write_evaluation_list(tmp_path / "list.txt", views)
    assert read_evaluation_list(tmp_path / "list.txt") == views
    observations = load_views(clips[::-1], views, 24)
    frame_indices = [clips[2].timestamps.index(timestamp) for timestamp in views[2][1:]]
    frames, cameras = clips[2].load_frames(frame_indices, 24)
    for i, name in enumerate(("context", "target", "novel")):
        assert torch.equal(observations[name].value[2, 0], frames[i])
        assert torch.equal(observations[name].params[2, 0], cameras[i])


def test_an_evaluation_list_that_does_not_fit_is_refused(clips, tmp_path):
    views = evaluation_list(clips, FRAME_GAP)
    with pytest.raises(ValueError, match="the list has the clip clip00, which is missing or was skipped"):
        load_views(clips[1:], views, 16)
    with pytest.raises(ValueError, match="the list has frames of clip00 that are missing: 17"):
        load_views(clips, [views[0]._replace(target=17)], 16)
    load_views(clips, views, 16, FRAME_GAP)
    with pytest.raises(ValueError, match="a frame gap of [0-9]+ in clip00, not 20 to 30: give the frame gap of the"):
        load_views(clips, views, 16, (20, 30))
    path = tmp_path / "list.txt"
    path.write_text("clip00 10 20 15\n\n")
    assert read_evaluation_list(path) == [ViewTimestamps("clip00", 10, 20, 15)]
    for text, message in (
        ("clip00 10 10 10\n", "wanted the third timestamp between the other two"),
        ("\n", "list.txt is empty: delete"),
        ("clip00 1 2\n", "list.txt line 1 is 'clip00 1 2': wanted a clip and three timestamps"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_evaluation_list(path)
