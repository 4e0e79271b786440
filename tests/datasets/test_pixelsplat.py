"""Chunks of pixelSplat: what is written is read, indices never move, and nothing hostile is executed or unpacked."""

import functools
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from clip_helpers import FRAME_GAP, NUM_FRAMES

from fwdiff_lite.datasets.clip_folder import read_folder
from fwdiff_lite.datasets.pixelsplat import read_chunks, read_evaluation_index, write_chunks
from fwdiff_lite.datasets.realestate10k import write_clip
from fwdiff_lite.datasets.view_sampler import batches


@pytest.fixture(scope="module")
def chunks(written, clips, tmp_path_factory):
    """The three written clips as two chunks."""
    folder = tmp_path_factory.mktemp("chunks")
    size = sum(file.stat().st_size for file in clips[0].files)
    assert write_chunks(folder, clips, megabytes=1.5 * size / 1e6) == []
    return folder


@pytest.fixture
def example(clips):
    """A clip of a chunk, to be damaged."""
    images = [torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8) for file in clips[0].files[:3]]
    cameras = torch.tensor([[0.5, 0.9, 0.5, 0.5, 0, 0, *torch.eye(3, 4).flatten().tolist()]] * 3)
    return {"key": "a", "url": "", "timestamps": torch.tensor([1, 5, 9]), "cameras": cameras, "images": images}


def save(folder, content, name="000000.torch"):
    torch.save(content, folder / name)


def test_chunks_hold_what_the_text_held(chunks, clips):
    assert sorted(path.name for path in chunks.iterdir()) == ["000000.torch", "000001.torch", "index.json"]
    read, warnings = read_chunks(chunks)
    assert warnings == [] and [clip.name for clip in read] == [clip.name for clip in clips]
    for clip, expected in zip(read, clips, strict=True):
        assert clip.timestamps == expected.timestamps
        torch.testing.assert_close(clip.poses, expected.poses, rtol=0, atol=1e-6)
        torch.testing.assert_close(clip.intrinsics, expected.intrinsics, rtol=0, atol=1e-6)
        assert [file.read_bytes() for file in clip.files] == [file.read_bytes() for file in expected.files]


def test_batches_from_chunks_are_those_from_text(chunks, clips):
    from_chunks, _ = read_folder(chunks, FRAME_GAP, check_poses=False)
    for part in ("context", "novel"):
        ours, theirs = (
            batches(source, 2, FRAME_GAP, side=16)(torch.Generator().manual_seed(0))[part]
            for source in (from_chunks, clips)
        )
        assert torch.equal(ours.value, theirs.value)
        torch.testing.assert_close(ours.params, theirs.params, rtol=0, atol=1e-5)


def test_batches_from_chunks_and_from_text_of_the_same_numbers_are_equal_to_the_bit(chunks, tmp_path):
    from_chunks, _ = read_folder(chunks, FRAME_GAP, check_poses=False)
    for clip in from_chunks:
        write_clip(tmp_path, clip)
    from_text, _ = read_folder(tmp_path, FRAME_GAP, check_poses=False)
    batch1, batch2 = (
        batches(c, 4, FRAME_GAP, 5, 16)(torch.Generator().manual_seed(1)) for c in (from_chunks, from_text)
    )
    for name, part in batch1.items():
        other = batch2[name]
        pairs = (
            [(part, other)]
            if isinstance(part, torch.Tensor)
            else [(part.value, other.value), (part.params, other.params)]
        )
        assert all(torch.equal(a, b) for a, b in pairs), name


def test_clips_can_be_sent_to_workers_and_hold_no_image(chunks):
    (clip, *_), _ = read_chunks(chunks)
    sent = pickle.dumps(clip)
    assert len(sent) < 40_000 < sum(len(file.read_bytes()) for file in clip.files)
    assert pickle.loads(sent).files[3].read_bytes() == clip.files[3].read_bytes()


def test_an_image_is_read_without_opening_its_chunk(chunks, clips, monkeypatch):
    """A chunk takes a second to open: frames of random clips must not need it."""
    read, _ = read_chunks(chunks)
    monkeypatch.setattr(torch, "load", None)
    assert [f.read_bytes() for c in read for f in c.files] == [f.read_bytes() for c in clips for f in c.files]


def test_images_may_be_parts_of_one_tensor(tmp_path, example):
    sizes, joined = [len(image) for image in example["images"]], torch.cat(example["images"])
    save(tmp_path, [{"z": torch.zeros(0)} | example | {"images": list(joined.split(sizes))}])
    (clip,), _ = read_chunks(tmp_path)
    for file, image in zip(clip.files, example["images"], strict=True):
        assert file.read_bytes() == image.numpy().tobytes()


def test_a_chunk_that_changes_after_it_was_read_is_named(tmp_path, example):
    save(tmp_path, [example])
    (clip,), _ = read_chunks(tmp_path)
    (tmp_path / "000000.torch").write_bytes(b"short")
    with pytest.raises(ValueError, match="000000.torch has become shorter: it has no .* bytes at"):
        clip.read_frame(0)
    (tmp_path / "000000.torch").unlink()
    with pytest.raises(ValueError, match="000000.torch cannot be read: No such file"):
        clip.read_frame(0)


def damage(**entries):
    return lambda example: [example | entries]


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda e: {"a": e}, "holds a dict, wanted a list of clips"),
        (lambda e: [3], "holds a list, wanted a list of clips"),
        (lambda e: [{k: v for k, v in e.items() if k != "images"}], "clip 0 has no images: wanted key, timestamps"),
        (damage(key=5), "clip 0 has the key '5', wanted a name"),
        (damage(key="a" * 300), "clip 0 has the key 'aaaa.*300 characters.*, wanted a name"),
        (damage(timestamps=[1, 5, 9]), "clip 'a' has timestamps list, wanted int64"),
        (damage(timestamps=torch.tensor([1.0, 5, 9])), r"has timestamps float32 \(3,\), wanted int64 \(n,\)"),
        (damage(cameras=torch.zeros(3, 17)), r"has cameras float32 \(3, 17\), wanted float32 \(3, 18\)"),
        (damage(cameras=torch.zeros(2, 18)), r"has cameras float32 \(2, 18\), wanted float32 \(3, 18\)"),
        (damage(cameras=torch.zeros(3, 18).bfloat16()), r"has cameras bfloat16 \(3, 18\), wanted float32 \(3, 18\)"),
        (damage(cameras=torch.zeros(3, 18).to_sparse()), "holds tensors that are sparse, nested, quantized or"),
        (damage(cameras=torch.zeros(3, 18, device="meta")), "holds tensors that are sparse, nested, quantized or"),
        (
            damage(cameras=torch.nested.nested_tensor([torch.zeros(18)] * 3)),
            "holds tensors that are sparse, nested, quantized or",
        ),
        (
            damage(url=functools.reduce(lambda x, _: [x], range(50), torch.ones(2).to_sparse())),
            "holds tensors that are",
        ),
        (damage(timestamps=torch.ones(3).long().to_sparse()), "holds tensors that are sparse, nested, quantized or"),
        (damage(images=[torch.ones(9).byte().to_sparse()] * 3), "holds tensors that are sparse, nested, quantized or"),
        (damage(key="../../x"), "has the key '../../x', wanted a name without '..', a root or control characters, of"),
        (damage(key="/tmp/x"), "has the key '/tmp/x', wanted a name without"),
        (damage(key="a\nb"), r"has the key 'a\\nb', wanted a name without"),
        (damage(key="é" * 128), "has the key 'é+'.*, wanted a name without"),
        (damage(images=[]), "has 0 images, wanted 3"),
        (damage(images="abc"), "has no images, wanted 3"),
        (damage(timestamps=torch.tensor([1, 5, 5])), "frame 2 has the timestamp 5, which is not later"),
        (lambda e: [e | {"cameras": e["cameras"] * torch.nan}], "frame 0 has a NaN or an infinite number"),
        (lambda e: [e | {"cameras": e["cameras"] * 500}], "frame 0 has focal lengths 250 and 450"),
        (lambda e: [e | {"images": [e["images"][0].float()] * 3}], r"frame 0 has an image float32 .*, wanted bytes"),
        (lambda e: [e | {"images": [e["images"][0][:0]] * 3}], "frame 0 has an image of 0 bytes"),
        (lambda e: [e | {"images": [torch.zeros(1).byte().expand(9**9)] * 3}], "frame 0 has an image uint8"),
        (lambda e: [e, e], "holds the clip a a second time"),
        (lambda e: [], "has no usable clip; the first problem: no chunk holds one"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_chunk_of_another_form_is_refused_in_one_line(tmp_path, example, content, message):
    save(tmp_path, content(example))
    with pytest.raises(ValueError, match=message) as error:
        read_chunks(tmp_path)
    assert "\n" not in str(error.value)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def zipped(compression, entries):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def saved(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda: pickle.dumps(Payload()), "cannot be read as a chunk"),
        (lambda: pickle.dumps([1]), "it is a pickle, as torch before version 1.6 wrote it: if you trust it, load"),
        (lambda: saved([Payload()]), "chunk: it holds posix.mkdir, which could run code: wanted tensors, lists, dict"),
        (lambda: saved([{"key": Payload()}]), "chunk: it holds posix.mkdir, which could run code: wanted tensors"),
        (lambda: saved([{"images": [np.zeros(3, np.uint8)]}]), r"chunk: it holds numpy\.\S*, which could run code"),
        (lambda: saved([torch.zeros(1000)])[:-500], "cannot be read as a chunk: it is cut or damaged: download it"),
        (lambda: saved([torch.zeros(1000)])[:200] + b"0" * 900, "cannot be read as a chunk"),
        (lambda: b"", "cannot be read as a chunk"),
        (lambda: zipped(8, {"a/data.pkl": b"0" * 10**7}), "its entries are compressed"),
        (lambda: zipped(0, {"a/data.pkl": b"0" * 1000}), "cannot be read as a chunk"),
        (lambda: zipped(0, {"a/b.txt": b"0"}), "cannot be read as a chunk"),
        (lambda: zipped(0, {"a/data.pkl": b"0" * (10**8 + 1)}), "it has 100 MB beside tensors, wanted at most 100"),
    ],
    ids=[
        "pickle",
        "old torch",
        "code",
        "code in a clip",
        "numpy",
        "cut",
        "garbage",
        "empty",
        "bomb",
        "no pickle",
        "no chunk",
        "large",
    ],
)
def test_a_hostile_or_broken_file_is_refused_in_one_line_and_runs_nothing(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "000000.torch").write_bytes(content())
    with pytest.raises(ValueError, match=message) as error:
        read_chunks(tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "executed").exists()
    assert not any(words in str(error.value) for words in ("weights_only", "Weights only", "\033"))


def test_an_image_that_is_damaged_is_named_when_it_is_read(tmp_path, example):
    example["images"][1] = example["images"][1][:200].clone()
    save(tmp_path, [example])
    (clip,), warnings = read_folder(tmp_path, (1, 2), "skip", check_poses=False)
    assert warnings == [] and clip.has_image.all()
    with pytest.raises(ValueError, match="000000.torch a frame 1 cannot be read"):
        clip.read_frame(1)


def test_a_container_that_holds_itself_ends(tmp_path, example):
    example["url"] = [example]
    example["url"].append(example["url"])
    save(tmp_path, [example])
    assert read_chunks(tmp_path)[0][0].files[2].read_bytes() == example["images"][2].numpy().tobytes()


def test_an_unusable_frame_keeps_its_index(tmp_path, example):
    example["cameras"][1, 3] = 7.0
    save(tmp_path, [example])
    (clip,), warnings = read_chunks(tmp_path, "skip")
    assert len(warnings) == 1 and "frame 1 has the principal point 0.5 7" in warnings[0]
    assert clip.has_image.tolist() == [True, False, True] and clip.timestamps == (1, -1, 9)
    assert clip.files[2].read_bytes() == example["images"][2].numpy().tobytes()


@pytest.mark.parametrize(
    "index, message",
    [
        ({"a": "000000.torch", "b": "000000.torch"}, "names 1 clips that no chunk holds: b"),
        ({"a": "000009.torch"}, "names 1 chunks with 1 clips that are not there: 000009.torch: download them; fix it"),
        ({"a": "../000000.torch"}, "gives 'a' the chunk '../000000.torch': wanted a name"),
        ({"a": 3}, "gives 'a' the chunk '3': wanted a name"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path, example, index, message):
    save(tmp_path, [example])
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=message):
        read_chunks(tmp_path)


def test_clips_with_missing_frames_are_written_with_a_warning(tmp_path, clips):
    files = list(clips[0].files)
    files[4] = None
    clip = clips[0].__class__(clips[0].name, clips[0].timestamps, clips[0].intrinsics, clips[0].poses, tuple(files))
    (warning,) = write_chunks(tmp_path, [clip])
    assert "1 frames without an image or a camera are left out: the indices of later frames move" in warning
    (read,), _ = read_chunks(tmp_path)
    assert len(read) == NUM_FRAMES - 1 and read.files[4].read_bytes() == clips[0].files[5].read_bytes()


# --- evaluation lists -------------------------------------------------------------------------------------------------


def test_an_evaluation_index_names_frames_and_null_is_skipped(tmp_path):
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"a": {"context": [3, 60], "target": [10, 20, 30]}, "b": None}))
    assert read_evaluation_index(path) == {"a": ((3, 60), (10, 20, 30))}


@pytest.mark.parametrize(
    "entry", [3, [], {"context": [0, 1]}, {"context": [0], "target": [1.5]}, {"context": [-1], "target": [1]},
              {"context": [0, 0], "target": [1]}, {"context": [], "target": [1]}, {"context": [True], "target": [1]}]
)  # fmt: skip
def test_an_evaluation_index_of_another_form_is_refused(tmp_path, entry):
    (tmp_path / "index.json").write_text(json.dumps({"a": entry}))
    with pytest.raises(ValueError, match="gives 'a' .*, wanted context and target indices"):
        read_evaluation_index(tmp_path / "index.json")
    (tmp_path / "index.json").write_text(json.dumps({"a": None}))
    with pytest.raises(ValueError, match="has no entry that is not null"):
        read_evaluation_index(tmp_path / "index.json")
