"""Weights come back as they were saved, and whatever was done to them since is noticed."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from fwdiff_lite.storage.checkpoints import (
    ALL_MB,
    FILE_MB,
    arrays_file,
    load_pretrained,
    load_recorded,
    manifest_text,
    read_manifest,
    save,
    save_pretrained,
    save_recorded,
    verified_path,
    weights_file,
)
from fwdiff_lite.storage.files import UnwritableError, repo_root

WEIGHTS = {"layer.weight": torch.arange(12.0).reshape(3, 4), "steps": torch.tensor(7)}
ORIGIN = {"command": "python -m x", "seed": 0, "gpu_minutes": 1.5, "metrics": {"c2st": 0.5}, "tags": ["a"]}


@pytest.fixture
def saved(tmp_path):
    save_pretrained("toy", WEIGHTS, folder=tmp_path, **ORIGIN)
    return tmp_path


def test_round_trip(saved):
    weights = load_pretrained("toy", folder=saved)
    assert weights["layer.weight"].dtype == torch.float32 and weights["steps"].dtype == torch.int64
    assert all(torch.equal(weights[key], WEIGHTS[key]) for key in WEIGHTS)
    entry = read_manifest(saved)["toy.safetensors"]
    assert entry["licence"] == "MIT" and entry.items() >= ORIGIN.items()
    assert entry["bytes"] == (saved / "toy.safetensors").stat().st_size < 250, "half precision"


def test_recorded_round_trip(saved):
    save_recorded("sweep", {"steps": np.arange(3), "name": np.array(["a", "b"])}, folder=saved, **ORIGIN)
    arrays = load_recorded("sweep", folder=saved)
    assert arrays["steps"].tolist() == [0, 1, 2] and arrays["name"].tolist() == ["a", "b"]
    assert list(read_manifest(saved)) == ["sweep.npz", "toy.safetensors"]
    assert "all together" in (saved / "manifest.toml").read_text()
    assert {path.name for path in saved.iterdir()} == {"manifest.toml", "sweep.npz", "toy.safetensors"}


def test_saving_twice_gives_the_same_bytes(saved):
    first = (saved / "toy.safetensors").read_bytes(), (saved / "manifest.toml").read_bytes()
    save_pretrained("toy", WEIGHTS, folder=saved, **ORIGIN)
    assert first == ((saved / "toy.safetensors").read_bytes(), (saved / "manifest.toml").read_bytes())


def test_the_commit_is_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("FWDIFF_COMMIT", "abc1234")
    save_pretrained("toy", WEIGHTS, folder=tmp_path)
    save_pretrained("old", WEIGHTS, folder=tmp_path, commit="0ld")
    assert [entry["commit"] for entry in read_manifest(tmp_path).values()] == ["0ld", "abc1234"]


def test_unknown(saved):
    with pytest.raises(ValueError, match="unknown checkpoint other.safetensors: .* lists toy.safetensors"):
        load_pretrained("other", folder=saved)
    with pytest.raises(ValueError, match="unknown checkpoint toy.npz"):
        load_recorded("toy", folder=saved)
    with pytest.raises(ValueError, match="no checkpoints in .*empty: they come with the repository.*FWDIFF_ROOT"):
        load_pretrained("toy", folder=saved / "empty")


def test_missing(saved):
    (saved / "toy.safetensors").unlink()
    with pytest.raises(ValueError, match="checkpoint .*toy.safetensors is missing"):
        load_pretrained("toy", folder=saved)


def test_truncated(saved):
    path = saved / "toy.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=f"toy.safetensors has {size - 5} bytes instead of {size}"):
        load_pretrained("toy", folder=saved)


def test_altered(saved):
    path = saved / "toy.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="toy.safetensors was altered: its sha256"):
        load_pretrained("toy", folder=saved)


def test_pickles_are_refused(tmp_path):
    with pytest.raises(ValueError, match="hold Python objects"):
        save_recorded("toy", {"x": np.array([{}])}, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_half_precision_cannot_hold(tmp_path):
    for value in (1e6, float("nan")):
        with pytest.raises(ValueError, match="weights w of toy are not finite in half precision"):
            save_pretrained("toy", {"w": torch.tensor([value])}, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_large(tmp_path):
    with pytest.raises(ValueError, match="huge.safetensors has 16.0 MB, .* at most 15 MB for this file and 44"):
        save_pretrained("huge", {"w": torch.zeros(8_000_000)}, folder=tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing half-written"
    assert save_pretrained("huge", {"w": torch.zeros(8_000_000)}, tmp_path, max_megabytes=17).is_file()


def test_two_saves_at_once_lose_no_entry(tmp_path):
    """The second one begins after the first has read the manifest."""
    first, second = (weights_file(name, {"w": torch.zeros(2)}) for name in ("first", "second"))

    def write_both(path):
        with pytest.raises(ValueError, match="another process writes to .*: wait for it, then save again"):
            save([second], tmp_path)
        first.write(path)

    save([first._replace(write=write_both)], tmp_path)
    save([second], tmp_path)
    assert set(read_manifest(tmp_path)) == {"first.safetensors", "second.safetensors"}
    assert len(list(tmp_path.iterdir())) == 3, "no lock is left"


def test_several_files_are_written_or_none(tmp_path):
    small, huge = weights_file("toy", WEIGHTS), weights_file("huge", {"w": torch.zeros(8_000_000)})
    with pytest.raises(ValueError, match="huge.safetensors has 16.0 MB, the other checkpoints 0.0 MB"):
        save([small, huge], tmp_path)
    assert list(tmp_path.iterdir()) == []
    paths = save([small, arrays_file("sweep", {"a": np.ones(1)})], tmp_path)
    assert paths == [tmp_path / "toy.safetensors", tmp_path / "sweep.npz"]
    assert set(read_manifest(tmp_path)) == {"toy.safetensors", "sweep.npz"} and load_pretrained("toy", tmp_path)


@pytest.mark.parametrize("unwritable", ["toy.safetensors", "manifest.toml"])
def test_a_file_that_cannot_get_its_name_leaves_all_others_as_they_were(unwritable, tmp_path, monkeypatch):
    save_recorded("sweep", {"a": np.ones(1)}, tmp_path)
    contents = {path: path.read_bytes() for path in tmp_path.iterdir()}
    replace = Path.replace

    def refuse(path, target):
        if target.name == unwritable:
            raise PermissionError(13, "Permission denied")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(UnwritableError, match=f"{unwritable} cannot be written: Permission denied"):
        save([weights_file("toy", WEIGHTS), arrays_file("sweep", {"a": np.zeros(1)}), arrays_file("new", {})], tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents
    assert load_recorded("sweep", tmp_path)["a"] == 1


def test_what_the_manifest_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="cannot write .* to the manifest"):
        save_pretrained("toy", WEIGHTS, folder=tmp_path, seed=object())
    assert list(tmp_path.iterdir()) == []


def test_manifest_survives_any_words():
    entry = {"bytes": 1, "command": 'echo "a\\b" # ü\n', "metrics": {"a b": [1.5, 2], "ok": True}}
    odd = {"x.npz": entry}
    assert tomllib.loads(manifest_text(odd)) == odd


def test_committed_checkpoints():
    folder = repo_root() / "checkpoints"
    manifest = read_manifest(folder)
    assert (folder / "manifest.toml").read_text() == manifest_text(manifest), "its head adds up the megabytes"
    on_disk = {path.name for path in folder.iterdir() if path.name != "manifest.toml"}
    assert on_disk == set(manifest)
    for name, entry in manifest.items():
        verified_path(name, folder)
        wanted = {"command", "commit", "gpu_minutes", "hardware", "licence", "metrics", "seed"}
        assert wanted <= set(entry), f"{name}: the manifest lacks {wanted - set(entry)}"
        assert entry["bytes"] <= FILE_MB * 1e6
    assert sum(entry["bytes"] for entry in manifest.values()) <= ALL_MB * 1e6
