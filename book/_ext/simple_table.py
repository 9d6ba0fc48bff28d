"""A docutils table from plain rows: docutils builds one out of seven nested nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from docutils import nodes

Cell: TypeAlias = str | nodes.Node


def table(
    name: str, caption: nodes.Node, head: Sequence[str], rows: Iterable[Sequence[Cell]], classes: list[str]
) -> nodes.table:
    """A table with a caption, a row of headers and an anchor called `name`."""
    columns = [nodes.colspec(colwidth=1) for _ in head]
    body = nodes.tbody("", *(table_row(row) for row in rows))
    group = nodes.tgroup("", *columns, nodes.thead("", table_row(head)), body, cols=len(head))
    return nodes.table("", nodes.title("", "", caption), group, ids=[name], names=[name], classes=classes)


def table_row(cells: Sequence[Cell]) -> nodes.row:
    texts = (cell if isinstance(cell, nodes.Node) else nodes.Text(cell) for cell in cells)
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", text)) for text in texts))
