"""What the build executed is what the notebooks say: the outputs of checked cells, and the memory Binder gives.

The build runs every notebook; here its runs are compared with what is stored, so that none needs to run twice. Text is
compared exactly. Pictures and values, which differ between machines, are in no checked cell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_cache import get_cache

from freshness import fingerprint

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RUNS = ROOT / "_build" / ".jupyter_cache" / fingerprint(ROOT)
CHECKED = "nbval-check-output"
MEGABYTES = 1500  # of the two gigabytes that Binder gives to the notebook and the server beside it


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook as the build ran it, which must be as it stands now."""
    cache = get_cache(str(RUNS / "notebooks"))
    try:
        return cache.merge_match_into_notebook(nbformat.read(path, as_version=4))[1]
    except KeyError:
        pytest.fail(f"{path.name} has changed since the book was built: run make book first")


def text(cell: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """What a reader can read of its outputs, printed pieces of one stream joined."""
    pieces: list[tuple[str, str]] = []
    for output in cell.outputs:
        name = output.get("name", output.output_type)
        written = output.get("text", output.get("data", {}).get("text/plain", output.get("evalue", "")))
        if pieces and output.output_type == "stream" and pieces[-1][0] == name:
            written = pieces.pop()[1] + written
        pieces.append((name, written))
    return pieces


def differences(stored: nbformat.NotebookNode, run: nbformat.NotebookNode) -> Iterator[str]:
    for number, (before, now) in enumerate(zip(stored.cells, run.cells, strict=True)):
        if CHECKED in before.metadata.get("tags", []) and text(before) != text(now):
            yield f"cell {number} is stored with {text(before)}, and now gives {text(now)}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_checked_cells_give_what_is_stored(path: Path) -> None:
    found = list(differences(nbformat.read(path, as_version=4), executed(path)))
    assert not found, "\n".join([path.name, *found])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_fits_into_binders_memory(path: Path) -> None:
    cost = json.loads((RUNS / "ledger" / f"{path.stem}.json").read_text("utf-8"))
    assert 0 < cost["peak_mb"] < MEGABYTES


def notebook(*outputs: nbformat.NotebookNode) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell("f()", outputs=list(outputs), metadata={"tags": [CHECKED]})
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), cell])


def printed(words: str, name: str = "stdout") -> nbformat.NotebookNode:
    return nbformat.v4.new_output("stream", name=name, text=words)


def shown(words: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("execute_result", data={"text/plain": words, "text/html": "<b>"}, execution_count=1)


@pytest.mark.parametrize(
    "other",
    [
        (),
        (printed("holds"),),
        (printed("holds\n", "stderr"),),
        (printed("holds\n"), printed("holds\n")),
        (shown("holds\n"),),
    ],
    ids=["nothing", "a character less", "another stream", "more", "a value"],
)
def test_a_difference_is_found(other: tuple[nbformat.NotebookNode, ...]) -> None:
    assert len(list(differences(notebook(printed("holds\n")), notebook(*other)))) == 1


def test_pieces_of_a_stream_make_no_difference() -> None:
    assert not list(differences(notebook(printed("1\n2\n")), notebook(printed("1\n"), printed("2\n"))))


def test_values_are_compared_as_text() -> None:
    assert not list(differences(notebook(shown("7")), notebook(shown("7"))))
    assert list(differences(notebook(shown("7")), notebook(shown("8"))))
