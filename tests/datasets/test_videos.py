"""Videos are read as they were written, and every bad video is refused by name."""

import shutil

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from fwdiff_lite import fit
from fwdiff_lite.datasets.videos import batches, read_video, read_videos
from fwdiff_lite.problems.motion.warping import build_model


def moving_block(count=5, height=64, width=64):
    """A bright block on black that moves one pixel to the right in each frame."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for i in range(count):
        frames[i, 20:40, width // 2 - 10 + i : width // 2 + 10 + i] = (250, 120, 10)
    return frames


def write_images(folder, frames):
    folder.mkdir()
    for i, frame in enumerate(frames):
        imageio.imwrite(folder / f"{i:03d}.{'tif' if frame.dtype == np.float32 else 'png'}", frame)


def test_gifs_and_folders_of_images_are_read_frame_by_frame(tmp_path):
    imageio.imwrite(tmp_path / "a.gif", moving_block(), loop=0)
    write_images(tmp_path / "b", moving_block(4))
    (tmp_path / "notes.txt").write_text("not a video")
    videos = read_videos(tmp_path)
    shapes = {name: tuple(video.shape) for name, video in videos.items()}
    assert shapes == {"a.gif": (5, 3, 64, 64), "b": (4, 3, 64, 64)}
    expected = torch.from_numpy(moving_block(4)).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(videos["b"], expected)
    assert (videos["a.gif"][:4] - expected).abs().max() < 0.1, "a palette rounds colours"


def test_videos_of_sub_folders_and_archives_are_named_by_their_path(tmp_path):
    write_images(tmp_path / "v10", moving_block(2))
    write_images(tmp_path / "v9", moving_block(12))
    (tmp_path / "v9" / "sub").mkdir()  # a folder of images is one video
    for i in range(12):
        (tmp_path / "v9" / f"{i:03d}.png").rename(tmp_path / "v9" / f"f{i}.png")  # f10 comes after f9
    (tmp_path / "train").mkdir()
    imageio.imwrite(tmp_path / "train" / "a.gif", moving_block(3), loop=0)
    shutil.copytree(tmp_path / "v10", tmp_path / ".ipynb_checkpoints" / "v10")
    (tmp_path / "v10" / "._000.png").write_bytes(b"metadata of macOS")
    videos = read_videos(tmp_path)
    assert {name: len(video) for name, video in videos.items()} == {"train/a.gif": 3, "v9": 12, "v10": 2}
    expected = torch.from_numpy(moving_block(12)).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(videos["v9"], expected)
    archive = shutil.make_archive(str(tmp_path.with_suffix("")), "zip", tmp_path)
    for name, video in read_videos(archive).items():
        assert torch.equal(video, videos[name])


def test_a_video_file_is_decoded_by_one_package(tmp_path, monkeypatch):
    """The package av is optional, so its place is taken here."""
    calls = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "av")
    monkeypatch.setattr(
        "imageio.v3.imiter", lambda path, **options: calls.append((path, options)) or iter(moving_block(3))
    )
    (tmp_path / "a.mp4").touch()
    assert read_video(tmp_path / "a.mp4").shape == (3, 3, 64, 64)
    assert calls == [(tmp_path / "a.mp4", {"plugin": "pyav", "format": "rgb24"})]


def test_frames_are_cropped_at_their_centre_and_resized(tmp_path):
    frames = np.zeros((2, 128, 192, 3), np.uint8)
    frames[:, :, :32] = frames[:, :, -32:] = 255  # outside of the crop
    frames[1, :64] = 100
    frames[1, :, :32] = frames[1, :, -32:] = 255
    write_images(tmp_path / "wide", frames)
    video = read_video(tmp_path / "wide")
    assert video.shape == (2, 3, 64, 64) and (video[0] == -1).all()
    torch.testing.assert_close(video[1, :, :30], torch.full((3, 30, 64), 100 / 127.5 - 1))


def test_grey_images_get_three_equal_channels(tmp_path):
    write_images(tmp_path / "grey", moving_block(2)[..., 0])
    video = read_video(tmp_path / "grey")
    assert video.shape == (2, 3, 64, 64) and torch.equal(video[:, 0], video[:, 2])


@pytest.mark.parametrize(
    "frames, message",
    [
        ([moving_block(1)[0]], "video has 1 frame: a video needs two or more"),
        ([moving_block(1)[0], moving_block(1, 70)[0]], r"video has frames of several sizes .*\(64, 64\), \(70, 64\)"),
        (list(moving_block(2, 40, 200)), "video has frames of 40x200 pixels: wanted at least 64x64"),
        ([np.zeros((64, 64), np.float32)] * 2, "000.tif has pixels of 32 bits or of floating point"),
    ],
)
def test_bad_videos_are_refused_by_name(tmp_path, frames, message):
    write_images(tmp_path / "video", frames)
    with pytest.raises(ValueError, match=message) as error:
        read_videos(tmp_path)
    assert "\n" not in str(error.value)


def test_unreadable_files_are_refused_by_name(tmp_path):
    (tmp_path / "broken.gif").write_bytes(b"GIF89a and then nothing")
    with pytest.raises(ValueError, match="broken.gif cannot be read: ") as error:
        read_videos(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "broken.gif").rename(tmp_path / "broken.mp4")
    with pytest.raises(ValueError, match="broken.mp4 cannot be read: .*pip install imageio"):
        read_videos(tmp_path)
    with pytest.raises(ValueError, match="none.gif does not exist"):
        read_video(tmp_path / "none.gif")
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        read_videos(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no video"):
        read_videos(tmp_path / "empty")


def test_batches_are_source_images_with_later_frames_of_the_same_video():
    videos = {name: torch.full((4 + i, 3, 8, 8), float(i)) for i, name in enumerate("abc")}
    for i, video in enumerate(videos.values()):
        video[:, 0, 0, 0] = 10 * i + torch.arange(4.0 + i)  # identifies video and frame
    batch = batches(videos, 300)(torch.Generator().manual_seed(0))
    frame_id = {name: observations.value[:, 0, 0, 0, 0] for name, observations in batch.items()}
    assert (batch["context"].params == 0).all()
    source_ids = set()
    for name in ("target", "novel"):
        tau = batch[name].params[:, 0, 0]
        torch.testing.assert_close(frame_id[name] - frame_id["context"], 3 * tau)
        assert set((3 * tau).round().int().tolist()) == {1, 2, 3}
        source_ids |= set(frame_id["context"].tolist())
    assert source_ids == {0.0, 10.0, 11.0, 20.0, 21.0, 22.0}, "every frame that leaves room for the largest gap"
    with pytest.raises(ValueError, match="a gap of 4 frames does not fit the shortest video, which has 4"):
        batches(videos, max_frame_gap=4)


def test_a_model_trains_on_a_video(tmp_path):
    imageio.imwrite(tmp_path / "a.gif", moving_block(), loop=0)
    model = build_model("warp", widths=(8, 8, 8, 16), seed=1)
    curve = fit(model, batches(read_videos(tmp_path), 8), steps=60, learning_rate=3e-3, warmup=5, progress=False).curve
    assert sum(curve["loss"][-10:]) < 0.7 * sum(curve["loss"][:10])
