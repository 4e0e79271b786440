"""The commit of a result is that of the checkout itself."""

import subprocess

import pytest

from fwdiff_lite.storage.provenance import git_commit


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with one commit, and a folder in it that was unpacked from an archive."""
    monkeypatch.delenv("FWDIFF_COMMIT", raising=False)
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "README.md").touch()
    author = ("-c", "user.name=reader", "-c", "user.email=reader@localhost")
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *author, *words], cwd=tmp_path, check=True, capture_output=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    return tmp_path, head.stdout.strip()


def test_a_checkout_has_its_own_commit(repository, monkeypatch):
    folder, head = repository
    monkeypatch.setenv("FWDIFF_ROOT", str(folder))
    assert git_commit() == head
    (folder / "source.py").touch()
    assert git_commit() == f"{head}+"


def test_an_archive_inside_another_repository_has_no_commit(repository, monkeypatch):
    monkeypatch.setenv("FWDIFF_ROOT", str(repository[0] / "archive"))
    assert git_commit() is None


def test_a_commit_may_be_given(repository, monkeypatch):
    monkeypatch.setenv("FWDIFF_ROOT", str(repository[0] / "archive"))
    monkeypatch.setenv("FWDIFF_COMMIT", "abc")
    assert git_commit() == "abc"
