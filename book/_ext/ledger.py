"""Two pages that no one writes: the ledger of claims, and what each chapter costs to run.

Every chapter's `Claims` leaves a JSON file in a folder beside the cache of executed notebooks, so both live and
die together. The directives `{claims-ledger}` and `{execution-statistics}` become tables of those files after
all notebooks have run, whatever the order in which pages are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from simple_table import Cell, table

LOGGER = logging.getLogger(__name__)
#: The environment variable that `descentmaps.Claims` reads.
LEDGER = "DESCENTMAPS_LEDGER"

Entry = dict[str, Any]


class ClaimsLedgerNode(nodes.General, nodes.Element):
    """Place of the claims' tables until every notebook has run."""


class ExecutionStatisticsNode(nodes.General, nodes.Element):
    """Place of the costs' table until every notebook has run."""


class RunCostNode(nodes.General, nodes.Inline, nodes.TextElement):
    """Place of one chapter's cost in a sentence."""


PLACES = (ClaimsLedgerNode, ExecutionStatisticsNode, RunCostNode)


class RunCost(SphinxRole):
    """``{run-cost}`NN-slug` ``: the time and the memory that the chapter took in this build."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        return [RunCostNode(self.text, chapter=self.text)], []


class ClaimsLedger(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # so that every build writes this page again
        return [ClaimsLedgerNode()]


class ExecutionStatistics(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        return [ExecutionStatisticsNode()]


def name_folder(app: Sphinx) -> None:
    """Tell the kernels where to leave their files: a variable set here is inherited by each of them."""
    os.environ[LEDGER] = str(Path(app.config.nb_execution_cache_path).parent / "ledger")


def chapters(env: BuildEnvironment) -> list[str]:
    """Notebooks that make claims, in the order of their numbers."""
    sources = {name: Path(env.doc2path(name)) for name in env.found_docs}
    return sorted(
        name for name, path in sources.items() if path.suffix == ".ipynb" and "Claims(" in path.read_text("utf-8")
    )


def unread(app: Sphinx, env: BuildEnvironment, *_: object) -> list[str]:
    """Read a chapter again when its file is gone, for the ledger may have been deleted and the pages kept."""
    return [docname for docname in chapters(env) if not file_of(docname).exists()]


def file_of(docname: str) -> Path:
    return Path(os.environ[LEDGER]) / f"{Path(docname).name}.json"


def entries(env: BuildEnvironment) -> Iterator[tuple[str, Entry]]:
    for docname in chapters(env):
        if file_of(docname).exists():
            yield docname, json.loads(file_of(docname).read_text("utf-8"))
        else:
            LOGGER.warning("the notebook makes claims but left no ledger: does it call report()?", location=docname)


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    def link(target: str) -> nodes.reference:
        address = app.builder.get_relative_uri(docname, target)
        return nodes.reference("", app.env.titles[target].astext(), refuri=address, internal=True)

    if not any(isinstance(node, PLACES) for node in doctree.findall()):
        return
    ledger = list(entries(app.env))
    for place in list(doctree.findall(ClaimsLedgerNode)):
        place.replace_self([node for chapter in ledger for node in claims_of(app, *chapter, link)])
    for place in list(doctree.findall(ExecutionStatisticsNode)):
        place.replace_self(costs(ledger, link))
    for place in list(doctree.findall(RunCostNode)):
        place.replace_self(nodes.Text(cost(place["chapter"], ledger)))


def cost(chapter: str, ledger: list[tuple[str, Entry]]) -> str:
    for _, entry in ledger:
        if entry["chapter"] == chapter:
            return f"{entry['seconds']:.0f} seconds, {entry['peak_mb']:.0f} MB"
    LOGGER.warning("run-cost names the chapter %r, which has left no ledger", chapter)
    return ""


def claims_of(app: Sphinx, docname: str, entry: Entry, link: Callable[[str], nodes.Node]) -> list[nodes.Node]:
    """One chapter's claims, then the machine and the versions that measured them."""
    sweep = read_sweep(Path(app.srcdir) / "ledger" / f"{entry['chapter']}.json")
    head = ("Claim", "Measured", "Accepted", "Verdict", "Seeds it held on")
    rows: list[tuple[Cell, ...]] = [
        (claim["sentence"], f"{claim['value']:.3g}", claim["region"], verdict(claim), seeds(claim, sweep))
        for claim in entry["claims"]
    ]
    versions = ", ".join(f"{name} {version}" for name, version in entry["versions"].items())
    measured = f"Measured with seed {entry['seed']} on {entry['machine']}; {versions}."
    ledger = table(f"ledger-{entry['chapter']}", link(docname), head, rows, classes=["claims"])
    return [ledger, nodes.paragraph("", measured, classes=["ledger-machine"])]


def verdict(claim: Entry) -> str:
    return "holds" if claim["holds"] else "fails"


def read_sweep(path: Path) -> list[Entry]:
    return json.loads(path.read_text("utf-8"))["runs"] if path.exists() else []


def seeds(claim: Entry, sweep: list[Entry]) -> str:
    """On how many seeds this very claim, sentence and region, has held."""
    same = [
        swept["holds"]
        for run in sweep
        for swept in run["claims"]
        if (swept["sentence"], swept["region"]) == (claim["sentence"], claim["region"])
    ]
    return f"{sum(same)} of {len(same)}" if same else "not swept"


def costs(ledger: list[tuple[str, Entry]], link: Callable[[str], nodes.Node]) -> nodes.table:
    """Time and memory of each chapter's kernel, exercises included."""
    head = ("Chapter", "Seconds", "Peak memory (MB)", "Claims")
    rows: list[tuple[Cell, ...]] = [
        (link(docname), f"{entry['seconds']:.1f}", f"{entry['peak_mb']:.0f}", str(len(entry["claims"])))
        for docname, entry in ledger
    ]
    seconds = sum(entry["seconds"] for _, entry in ledger)
    peak = max((entry["peak_mb"] for _, entry in ledger), default=0)
    claims = sum(len(entry["claims"]) for _, entry in ledger)
    rows.append(("The whole book", f"{seconds:.1f}", f"{peak:.0f} (largest)", str(claims)))
    return table("execution-statistics", nodes.Text("What each chapter costs to run"), head, rows, classes=["costs"])


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_node(ClaimsLedgerNode)
    app.add_node(ExecutionStatisticsNode)
    app.add_node(RunCostNode)
    app.add_role("run-cost", RunCost())
    app.add_directive("claims-ledger", ClaimsLedger)
    app.add_directive("execution-statistics", ExecutionStatistics)
    app.connect("builder-inited", name_folder)
    app.connect("env-get-outdated", unread)
    app.connect("doctree-resolved", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
