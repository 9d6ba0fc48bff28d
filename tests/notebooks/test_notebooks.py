"""The form every chapter keeps, so that a diff shows what changed and every number is checked."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAME = re.compile(r"\d\d-[a-z0-9]+(-[a-z0-9]+)*")
CHAPTER = re.compile(r"\bClaims\(\s*[\"']([^\"']*)[\"']")
EXERCISE = re.compile(r"\{exercise(?:-start)?\}[^\n]*\n:label:\s*(\S+)")
SOLUTION = re.compile(r"\{solution(?:-start)?\}\s+(\S+)")
CHECKED = {"nbval-check-output", "keep_output"}
MOST_LINES, MEDIAN_LINES, EXERCISES = 20, 6, 3


def tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def output_problems(notebook: nbformat.NotebookNode) -> Iterator[str]:
    """Outputs are stored where they are compared, and nowhere else."""
    for number, cell in enumerate(code(notebook), 1):
        if tags(cell) & CHECKED and not tags(cell) >= CHECKED:
            yield f"code cell {number}: a checked cell needs both tags, {' and '.join(sorted(CHECKED))}"
        if cell.outputs and not tags(cell) & CHECKED:
            yield f"code cell {number} is not checked but stores an output: run make strip"
        # A checked cell without an output, or without a count, is not compared as one would think.
        if tags(cell) & CHECKED and not (cell.outputs and cell.execution_count):
            yield f"code cell {number} is checked but stores no output: run make notebooks"


def claim_problems(notebook: nbformat.NotebookNode, name: str) -> Iterator[str]:
    chapters = CHAPTER.findall("\n".join(cell.source for cell in code(notebook)))
    if set(chapters) != {name}:
        yield f"Claims must be opened with the notebook's name {name!r}, found {chapters}"
    if not any(".report()" in cell.source and tags(cell) >= CHECKED for cell in code(notebook)):
        yield "no checked cell calls report() of the claims"


def form_problems(notebook: nbformat.NotebookNode, name: str) -> Iterator[str]:
    if not NAME.fullmatch(name):
        yield f"the file must be called NN-slug.ipynb, not {name}.ipynb"
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the first cell must begin with the chapter's title, # Title"
    parameters = [cell.source for cell in code(notebook) if "parameters" in tags(cell)]
    if len(parameters) != 1 or not re.search(r"^SEED = \d+", parameters[0], re.MULTILINE):
        yield "exactly one cell must be tagged parameters and set SEED"


def length_problems(notebook: nbformat.NotebookNode) -> Iterator[str]:
    lengths = [len(cell.source.strip().splitlines()) for cell in code(notebook)]
    for number, length in enumerate(lengths, 1):
        if length > MOST_LINES:
            yield f"code cell {number} has {length} lines, more than {MOST_LINES}"
    if lengths and statistics.median(lengths) > MEDIAN_LINES:
        yield f"the median code cell has {statistics.median(lengths):g} lines, more than {MEDIAN_LINES}"


def exercise_problems(notebook: nbformat.NotebookNode) -> Iterator[str]:
    exercises, solutions = EXERCISE.findall(prose(notebook)), set(SOLUTION.findall(prose(notebook)))
    if len(exercises) < EXERCISES:
        yield f"{len(exercises)} exercises with a label, fewer than {EXERCISES}"
    for label in exercises:
        if label not in solutions:
            yield f"exercise {label} has no solution"


def problems(notebook: nbformat.NotebookNode, name: str) -> list[str]:
    return [
        *form_problems(notebook, name),
        *output_problems(notebook),
        *claim_problems(notebook, name),
        *length_problems(notebook),
        *exercise_problems(notebook),
    ]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_form(path: Path) -> None:
    found = problems(nbformat.read(path, as_version=4), path.stem)
    assert not found, "\n".join([path.name, *found])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_in_the_table_of_contents(path: Path) -> None:
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))["parts"]
    assert f"notebooks/{path.stem}" in [chapter["file"] for part in parts for chapter in part["chapters"]]


def good() -> nbformat.NotebookNode:
    """The smallest chapter without a problem."""
    v4 = nbformat.v4
    lines = [f"```{{exercise}}\n:label: e{k}\n```\n```{{solution}} e{k}\n```" for k in range(EXERCISES)]
    report = v4.new_code_cell('Claims("01-name").report()', execution_count=2)
    report.outputs = [v4.new_output("stream", text="holds")]
    report.metadata.tags = sorted(CHECKED)
    seed = v4.new_code_cell("SEED = 0")
    seed.metadata.tags = ["parameters"]
    return v4.new_notebook(
        cells=[v4.new_markdown_cell("# Title"), seed, report, v4.new_markdown_cell("\n".join(lines))]
    )


def test_a_good_notebook_has_no_problem() -> None:
    assert problems(good(), "01-name") == []


SPOILS = {
    "stores an output": lambda nb: nb.cells[1].outputs.append(nbformat.v4.new_output("stream", text="0")),
    "stores no output": lambda nb: nb.cells[2].outputs.clear(),
    "needs both tags": lambda nb: nb.cells[2].metadata.tags.remove("keep_output"),
    "no checked cell calls report": lambda nb: nb.cells[2].update(source='Claims("01-name")'),
    "opened with the notebook's name": lambda nb: nb.cells[2].update(source='Claims("02-name").report()'),
    "tagged parameters": lambda nb: nb.cells[1].update(source="seed = 0"),
    "has 21 lines": lambda nb: nb.cells[1].update(source="SEED = 0\n" * 21),
    "the median code cell": lambda nb: nb.cells[1].update(source="SEED = 0\n" * 14),
    "fewer than": lambda nb: nb.cells[3].update(source=""),
    "e2 has no solution": lambda nb: nb.cells[3].update(source=nb.cells[3].source.replace("{solution} e2", "")),
    "begin with the chapter's title": lambda nb: nb.cells.pop(0),
}


@pytest.mark.parametrize("message", SPOILS)
def test_a_spoiled_notebook_is_caught(message: str) -> None:
    notebook = good()
    SPOILS[message](notebook)
    assert message in "\n".join(problems(notebook, "01-name"))


def test_a_misnamed_notebook_is_caught() -> None:
    assert "must be called NN-slug" in problems(good(), "tour")[0]
