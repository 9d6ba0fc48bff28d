"""Every form of address that git accepts is understood, and strangers get no buttons."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import repository


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/owner/the-book",
        "https://github.com/owner/the-book.git",
        "https://github.com/owner/the-book/",
        "https://token@github.com/owner/the-book.git",
        "git@github.com:owner/the-book.git",
        "git@github.com:owner/the-book",
        "ssh://git@github.com/owner/the-book.git",
        "ssh://git@github.com:22/owner/the-book.git",
        "git://github.com/owner/the-book.git\n",
    ],
)
def test_addresses_on_github(remote: str) -> None:
    assert repository.parse(remote) == ("owner", "the-book")


@pytest.mark.parametrize(
    "remote",
    [
        "",
        "/home/reader/the-book",
        "file:///srv/the-book.git",
        "https://example.org/owner/the-book.git",
        "https://notgithub.com/owner/the-book",
        "https://example.org/github.com/owner/the-book",
        "https://github.com/owner",
    ],
)
def test_other_addresses(remote: str) -> None:
    assert repository.parse(remote) is None


def test_no_repository_at_all(tmp_path: Path) -> None:
    assert repository.find(tmp_path) is None


def run_git(folder: Path, *arguments: str) -> None:
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(folder), *author, *arguments], check=True)


def test_only_a_repository_of_its_own_with_a_commit(tmp_path: Path) -> None:
    run_git(tmp_path, "init", "-q", "-b", "trunk")
    run_git(tmp_path, "remote", "add", "origin", "git@github.com:owner/book.git")
    assert repository.find(tmp_path) is None
    run_git(tmp_path, "commit", "-q", "--allow-empty", "-m", "Begin")
    found = repository.find(tmp_path)
    assert found is not None
    assert (found.url, found.branch) == ("https://github.com/owner/book", "trunk")
    (tmp_path / "unpacked").mkdir()
    assert repository.find(tmp_path / "unpacked") is None
