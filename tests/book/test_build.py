"""The build keeps its promises, tried on a book of one small chapter that has this book's own machinery."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MACHINERY = ("_config.yml", "book/_ext", "book/_static", "book/ledger.md", "book/statistics.md", "tools/sweep.py")
CELLS = (
    "SEED = 0",
    "with open('runs.txt', 'a') as log:\n    print('run', file=log)",
    "from descentmaps.claims import Claims\nfrom descentmaps.constant import ANSWER",
    "claims = Claims('01-small', SEED)\nclaims.at_most('The answer is small', ANSWER + SEED, 50)\nclaims.report()",
    "print('the answer is', ANSWER)",
)


class Book:
    """A book in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notebook = folder / "notebooks" / "01-small.ipynb"
        self.html = folder / "_build" / "html"

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def write_contents(self, *pages: str) -> None:
        chapters = [{"file": page} for page in pages]
        self.write("_toc.yml", yaml.dump({"format": "jb-book", "root": "book/preface", "chapters": chapters}))

    def write_notebook(self, cells: tuple[str, ...]) -> None:
        v4 = nbformat.v4
        notebook = v4.new_notebook(cells=[v4.new_markdown_cell("# Small"), *map(v4.new_code_cell, cells)])
        notebook.cells[1].metadata.tags = ["parameters"]
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        self.notebook.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, self.notebook)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(self.folder / "lib")}
        return subprocess.run(
            [sys.executable, *command], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def try_build(self) -> subprocess.CompletedProcess[str]:
        return self.run(
            "-c", "from jupyter_book.cli.main import main; main()", "build", "-W", "--keep-going", "-n", "."
        )

    def build(self) -> None:
        answer = self.try_build()
        assert answer.returncode == 0, answer.stdout + answer.stderr

    def page(self, name: str) -> str:
        return (self.html / name).read_text("utf-8")

    @property
    def runs(self) -> int:
        return len((self.folder / "notebooks" / "runs.txt").read_text("utf-8").splitlines())

    def add_remote(self, address: str) -> None:
        for command in (["init", "-q", "-b", "trunk"], ["remote", "add", "origin", address], ["add", "_config.yml"]):
            subprocess.run(["git", *command], cwd=self.folder, check=True)
        author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *author, "commit", "-q", "-m", "Begin"], cwd=self.folder, check=True)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    """With the real `Claims`, and nothing else of the library, which would only cost time."""
    for name in MACHINERY:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    book = Book(tmp_path)
    book.write("lib/descentmaps/__init__.py", "")
    book.write("lib/descentmaps/claims.py", (ROOT / "lib/descentmaps/claims.py").read_text("utf-8"))
    book.write("lib/descentmaps/constant.py", "ANSWER = 41\n")
    book.write("requirements.txt", "")
    book.write("book/preface.md", "# Preface\n")
    book.write("book/references.bib", "")
    book.write_contents("book/ledger", "book/statistics", "notebooks/01-small")
    book.write_notebook(CELLS)
    return book


def test_a_change_in_the_library_reaches_every_page(book: Book) -> None:
    book.build()
    assert "the answer is 41" in book.page("notebooks/01-small.html")
    assert "<p>41</p>" in book.page("book/ledger.html")
    book.build()
    assert book.runs == 1, "nothing changed, so nothing should have run again"
    book.write("lib/descentmaps/constant.py", "ANSWER = 42\n")
    book.build()
    assert book.runs == 2
    assert "the answer is 42" in book.page("notebooks/01-small.html")
    assert "<p>42</p>" in book.page("book/ledger.html")
    book.write("requirements.txt", "# another version of something\n")
    book.build()
    assert book.runs == 3


def test_an_edit_that_is_taken_back_runs_again(book: Book) -> None:
    book.build()
    book.write_notebook((*CELLS[:2], CELLS[2] + "\nANSWER = 7", *CELLS[3:]))
    book.build()
    assert "<p>7</p>" in book.page("book/ledger.html")
    book.write_notebook(CELLS)
    book.build()
    assert "the answer is 41" in book.page("notebooks/01-small.html")
    assert "<p>41</p>" in book.page("book/ledger.html")


def test_a_page_comes_and_goes(book: Book) -> None:
    book.build()
    book.write("book/more.md", "# One page more\n")
    book.write_contents("book/ledger", "book/statistics", "notebooks/01-small", "book/more")
    book.build()
    assert "One page more" in book.page("book/preface.html")
    book.write_contents("book/ledger", "book/statistics", "notebooks/01-small")
    book.build()
    assert "One page more" not in book.page("book/preface.html")
    assert not (book.html / "book" / "more.html").exists()
    assert book.runs == 1


def test_ledger_and_statistics_link_to_the_chapter(book: Book) -> None:
    book.build()
    for name in ("book/ledger.html", "book/statistics.html"):
        assert '<a class="reference internal" href="../notebooks/01-small.html">Small</a>' in book.page(name)
    assert "not swept" in book.page("book/ledger.html")
    assert "The whole book" in book.page("book/statistics.html")


def test_a_lost_ledger_comes_back(book: Book) -> None:
    book.build()
    shutil.rmtree(book.folder / "_build" / ".jupyter_cache")
    book.build()
    assert "<p>41</p>" in book.page("book/ledger.html")


def test_a_false_claim_stops_the_build(book: Book) -> None:
    book.write("lib/descentmaps/constant.py", "ANSWER = 51\n")
    answer = book.try_build()
    assert answer.returncode != 0
    assert "The answer is small" in answer.stdout + answer.stderr


def test_claims_that_are_not_reported_stop_the_build(book: Book) -> None:
    book.write_notebook(tuple(cell.replace("claims.report()", "") for cell in CELLS))
    answer = book.try_build()
    assert answer.returncode != 0
    assert "left no ledger" in answer.stdout + answer.stderr


def test_a_sweep_records_failures_and_reaches_the_ledger(book: Book) -> None:
    answer = book.run("tools/sweep.py", "--seeds", "0", "9", "10")
    assert answer.returncode == 0, answer.stderr
    runs = json.loads((book.folder / "ledger" / "01-small.json").read_text("utf-8"))["runs"]
    assert [run["seed"] for run in runs] == [0, 9, 10]
    assert [run["claims"][0]["holds"] for run in runs] == [True, True, False]
    book.build()
    assert "<p>2 of 3</p>" in book.page("book/ledger.html")
    before = book.runs
    book.write("ledger/01-small.json", json.dumps({"chapter": "01-small", "runs": runs[:1]}))
    book.build()
    assert "<p>1 of 1</p>" in book.page("book/ledger.html")
    assert book.runs == before + 1, "a chapter may read what the ledger says"


def test_launch_buttons_lead_to_the_remote(book: Book) -> None:
    book.add_remote("git@github.com:owner/the-book.git")
    book.build()
    page = book.page("notebooks/01-small.html")
    assert "https://mybinder.org/v2/gh/owner/the-book/trunk?urlpath=lab/tree/notebooks/01-small.ipynb" in page
    assert "https://colab.research.google.com/github/owner/the-book/blob/gh-pages/colab/01-small.ipynb" in page
    assert "mybinder" not in book.page("book/preface.html")
    first = nbformat.read(book.html / "colab" / "01-small.ipynb", as_version=4).cells[0]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=book.folder, capture_output=True, text=True, check=True)
    commit = head.stdout.strip()
    package = f"descentmaps @ git+https://github.com/owner/the-book@{commit}#subdirectory=lib"
    assert first.source == f'%pip install -q "{package}"'


@pytest.mark.parametrize("remote", ["https://git.example.org/owner/book.git", "/srv/book.git"])
def test_no_buttons_for_other_hosts(book: Book, remote: str) -> None:
    book.add_remote(remote)
    book.build()
    page = book.page("notebooks/01-small.html")
    assert not any(word in page for word in ("mybinder", "colab.research", "git.example.org", "executablebooks"))
    assert not (book.html / "colab").exists()
