"""Tables and a picture of what `make bench` measured, in the book and in the folder of results.

The page is made from ``ledger/benchmarks.json``, which is committed: no one needs to measure to build the book. The
directive ``{benchmarks} PART`` shows one part of it: fits, distances, refits, disk, device, circle, late_training,
hessians, capture, picture or machine. A part that was never measured says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from simple_table import table

LEDGER = Path("ledger") / "benchmarks.json"
OURS = "descentmaps"
FLOORS = ("rank-k update", "eigsh")
Result = dict[str, Any]


class Table(NamedTuple):
    name: str
    caption: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def fits(results: Result) -> Iterator[Table]:
    head = ("Package", "Time, ours = 1", "CPU time, ours = 1", "Peak memory (MB)", "Sine, linear / quadratic")
    for size in results.get("fits", []):
        rows = [
            (row["name"], *ratio_cells(row), memory(row), sines(row))
            for row in size["rows"]
            if row["name"] not in FLOORS
        ]
        floor = ("the floor", number(reciprocal(size.get("floor_ratio"))), "", "", "")
        yield Table(
            f"fits-{shape(size)}", f"Maps of {points(size)}. {our_time(size)}", head, [rows[0], floor, *rows[1:]]
        )


def distances(results: Result) -> Iterator[Table]:
    head = ("Package", "Time, ours = 1", "CPU time, ours = 1", "Peak memory (MB)")
    for size in results.get("distances", []):
        rows = [(named(row), *ratio_cells(row), "" if row["name"] in FLOORS else memory(row)) for row in size["rows"]]
        yield Table(f"distances-{shape(size)}", f"Squared distances of {points(size)}. {our_time(size)}", head, rows)


def refits(results: Result) -> Iterator[Table]:
    sizes = results.get("refits", [])
    rows = [(points(size), number(row.get("ratio")) or row["failure"]) for size in sizes for row in size["rows"]]
    if rows:
        yield Table("refits", "A new epsilon and alpha on the same points", ("Points", "Time, a new fit = 1"), rows)


def disk(results: Result) -> Iterator[Table]:
    head = (
        *("Layout", "Time, the longer floor = 1", "Map (s)", "Reading (s)", "Rank-k update (s)"),
        *("Anonymous memory (MB)", "Allowed (MB)"),
    )
    keys = ("ratio", "seconds", "read_seconds", "rank_k_seconds", "peak_mb", "allowed_mb")
    for size in results.get("disk", []):
        rows = [
            (row["name"], *(number(row.get(key)) for key in keys))
            if not row["failure"]
            else (row["name"], row["failure"], *[""] * 5)
            for row in size["rows"]
        ]
        yield Table("disk", f"Maps of {points(size)} in float32, from a cold disk", head, rows)


def device(results: Result) -> Iterator[Table]:
    head = ("On the device", "Time, the product = 1", "Seconds", "Sine, linear / quadratic")
    for size in results.get("device", []):
        rows = [
            (row["name"], ratio_cells(row)[0], number(row.get("seconds")), sines(row) if "sines" in row else "")
            for row in size["rows"]
        ]
        yield Table("device", f"{points(size)} in float32, on {size['device']}", head, rows)


def circle(results: Result) -> Iterator[Table]:
    head = ("Package", "Sine, first pair", "second", "third")
    rows = []
    for row in results.get("circle", []):
        found = [f"{sine:.2f}" for sine in row.get("sines", [])]
        rows.append((row["name"], *(found or [row["failure"] or "no answer", "", ""])))
    if rows:
        yield Table("circle", "Eigenvectors of a nonuniform circle, with each package's own bandwidth", head, rows)


def late_training(results: Result) -> Iterator[Table]:
    rows = [(row["name"], error(row) or row["failure"]) for row in results.get("late_training", [])]
    if rows:
        yield Table("late-training", "Late in training", ("Package", "Worst relative error of a squared step"), rows)


def hessians(results: Result) -> Iterator[Table]:
    head = ("Package", "Time, ours = 1", "CPU time, ours = 1", "Peak memory (MB)", "Worst relative error")
    for size in results.get("hessians", []):
        rows = [(named(row), *ratio_cells(row), memory(row), error(row)) for row in size["rows"]]
        widths = "-".join(map(str, size["widths"]))
        caption = f"Ten eigenvalues of a network {widths}, {grouped(size['parameters'])} parameters. {our_time(size)}"
        yield Table(f"hessians-{size['parameters']}", caption, head, rows)


def capture(results: Result) -> Iterator[Table]:
    head = ("Kept after every update", "Time, nothing = 1", "CPU time, nothing = 1", "Bytes a snapshot", "Memory (MB)")
    for size in results.get("capture", []):
        rows = [(row["name"], *ratio_cells(row), kept(row), memory(row)) for row in size["rows"]]
        bare = size["rows"][0]
        what = f"{size['network']} of {grouped(size['parameters'])} parameters, {grouped(size['updates'])} updates."
        time = (
            bare["failure"] or f"Without a capture, one takes {1000 * bare['bare_seconds'] / size['updates']:.2g} ms."
        )
        yield Table(f"capture-{size['parameters']}", f"{what} {time}", head, rows)


TABLES: dict[str, Callable[[Result], Iterator[Table]]] = {
    "fits": fits,
    "distances": distances,
    "refits": refits,
    "disk": disk,
    "device": device,
    "circle": circle,
    "late_training": late_training,
    "hessians": hessians,
    "capture": capture,
}


def named(row: Result) -> str:
    return "the floor" if row["name"] in FLOORS else str(row["name"])


def ratio_cells(row: Result) -> tuple[str, str]:
    return (number(row.get("ratio")) or row["failure"], number(row.get("cpu_ratio")))


def memory(row: Result) -> str:
    return "" if row.get("peak_mb") is None else f"{row['peak_mb']:.0f}"


def kept(row: Result) -> str:
    return grouped(round(row["bytes"])) if row.get("bytes") else ""


def sines(row: Result) -> str:
    if row["failure"]:
        return ""
    return " / ".join(f"{sine:.2f}" for sine in row["sines"]) if "sines" in row else "no answer"


def error(row: Result) -> str:
    return f"{row['error']:.0e}" if "error" in row else ""


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 3 else f"{value:.2f}"


def reciprocal(value: float | None) -> float | None:
    return None if value is None else 1 / value


def shape(size: Result) -> str:
    return f"{size['points']}x{size['dimension']}"


def points(size: Result) -> str:
    return f"{grouped(size['points'])} points in {grouped(size['dimension'])} dimensions"


def grouped(count: int) -> str:
    """Its digits in groups of three."""
    return f"{count:,}".replace(",", "\u202f")


def our_time(size: Result) -> str:
    ours = size["rows"][0]
    if ours["failure"]:
        return ours["failure"]
    return f"Ours takes {ours['seconds']:.2g} s, {number(size.get('floor_ratio'))} times its floor."


def machine(results: Result) -> str:
    """On what, when, and with which versions all this was measured, in a paragraph."""
    on, dates = results["machine"], sorted(set(results["dates"].values()))
    versions: dict[str, str] = {}
    blas: set[str] = set()
    sizes = [size for part in results["parts"].values() for size in part]
    loads = [size["load"] for size in sizes if "load" in size]
    for row in (row for size in sizes for row in size.get("rows", [])):
        versions |= {name: version for name, version in row.get("versions", {}).items() if name in row_package(row)}
        blas |= set(row.get("blas", []))
    return (
        f"Measured on {on['processor']}, {on['cores']} cores, {on['memory_gb']} GB, {on['system']}, Python "
        f"{on['python']}, with {results['threads']} threads for every package, on {' and '.join(dates)}. "
        f"Versions: {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}. "
        f"BLAS: {', '.join(sorted(blas))}. {other_load(loads)}"
    )


def other_load(loads: list[float]) -> str:
    """What else the machine did when a size was begun; its own earlier rounds are part of it."""
    return f"Load average at the start of each size: {min(loads):.1f} to {max(loads):.1f}." if loads else ""


def row_package(row: Result) -> list[str]:
    return [name for name in row.get("versions", {}) if row["name"].startswith(name)]


MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


def picture(results: Result) -> Any:
    """Seconds against the size of the rank-k update, per package, for maps and for distances."""
    from descentmaps.figures import Picture, style

    style()
    kinds = [("fits", "Maps of ten coordinates"), ("distances", "Squared distances")]
    kinds = [(part, title) for part, title in kinds if results.get(part)]
    figures = [draw(results[part], title) for part, title in kinds]
    return Picture(
        *figures,
        alt=[describe(results[part], title) for part, title in kinds],
        caption="Both axes are logarithmic. Look at the distance from the floor, the dotted line: what a package takes "
        "beyond one matrix product and one eigensolve. A point that is missing is a run that was stopped.",
    )


def draw(sizes: Sequence[Result], title: str) -> Any:
    from descentmaps.figures import COLORS, panel

    figure, axes = panel(title, "multiplications of the product, T² D", "seconds", width=5.4, height=5.2)
    others = [color for name, color in COLORS.items() if name != "ink"]
    for k, (name, x, y) in enumerate(curves(sizes)):
        if name == "the floor":
            axes.loglog(x, y, color=COLORS["ink"], linestyle=":", label=name)
        else:
            width, dash = (3, "-") if name == OURS else (1.2, ("-", "--")[k % 2])
            mark, color = MARKS[k % len(MARKS)], others[k % len(others)]
            axes.loglog(x, y, color=color, linewidth=width, linestyle=dash, marker=mark, label=name)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def curves(sizes: Sequence[Result]) -> Iterator[tuple[str, list[float], list[float]]]:
    """Each package's sizes and seconds, smallest size first, then the floor's."""
    ordered = sorted(sizes, key=work)
    for name in dict.fromkeys(row["name"] for size in ordered for row in size["rows"] if row["name"] not in FLOORS):
        timed = [(work(size), row["seconds"]) for size in ordered for row in size["rows"] if was_timed(row, name)]
        if timed:
            yield name, [x for x, _ in timed], [y for _, y in timed]
    floors = [(work(size), floor_seconds(size)) for size in ordered]
    yield "the floor", [x for x, _ in floors], [y for _, y in floors]


def was_timed(row: Result, name: str) -> bool:
    return bool(row["name"] == name and "seconds" in row)


def work(size: Result) -> float:
    return float(size["points"]) ** 2 * size["dimension"]


def floor_seconds(size: Result) -> float:
    return sum(row.get("seconds", 0.0) for row in size["rows"] if row["name"] in FLOORS)


def describe(sizes: Sequence[Result], title: str) -> str:
    """The picture in words: how each package stands to ours at its best and at its worst."""
    said = []
    for name in dict.fromkeys(row["name"] for size in sizes for row in size["rows"]):
        found = [row["ratio"] for size in sizes for row in size["rows"] if row["name"] == name and "ratio" in row]
        if name != OURS and name not in FLOORS and found:
            said.append(f"{name} {number(min(found))} to {number(max(found))}")
    floor = [size["floor_ratio"] for size in sizes if "floor_ratio" in size]
    beside = f"descentmaps takes {number(min(floor))} to {number(max(floor))} times its floor. " if floor else ""
    return f"{title}, seconds against size. {beside}In units of its time the others take: {'; '.join(said)}."


def markdown(results: Result) -> str:
    """All tables, with our machine, as Markdown."""
    lines = [machine(results), ""]
    for make in TABLES.values():
        for _, caption, head, rows in make(results["parts"]):
            lines += [f"**{caption}**", "", _line(head), _line(["---"] * len(head)), *map(_line, rows), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def html(results: Result) -> str:
    """One page of all of it that stands by itself."""
    body = [f"<p>{escape(machine(results))}</p>"]
    if has_picture(results["parts"]):
        body.append(picture(results["parts"])._repr_html_())
    for make in TABLES.values():
        for name, caption, head, rows in make(results["parts"]):
            cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
            lines = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
            body.append(f'<table id="{name}"><caption>{escape(caption)}</caption><tr>{cells}</tr>{lines}</table>')
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Benchmarks</title>{"".join(body)}</html>\n'


def has_picture(parts: Result) -> bool:
    return bool(parts.get("fits") or parts.get("distances"))


class Benchmarks(SphinxDirective):
    """``{benchmarks} PART``: one part of the committed measurements."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / LEDGER
        self.env.note_dependency(str(path))
        part = self.arguments[0]
        if part not in (*TABLES, "picture", "machine"):
            raise self.error(f"benchmarks has no part {part!r}")
        found = self.show(json.loads(path.read_text("utf-8")), part) if path.exists() else []
        return found or [nodes.paragraph("", "This part has not been measured yet: run make bench.")]

    def show(self, results: Result, part: str) -> list[nodes.Node]:
        if part == "machine":
            return [nodes.paragraph("", machine(results), classes=["ledger-machine"])]
        if part == "picture":
            if not has_picture(results["parts"]):
                return []
            return [nodes.raw("", picture(results["parts"])._repr_html_(), format="html")]
        return [
            table(name, nodes.Text(caption), head, rows, classes=["costs"])
            for name, caption, head, rows in TABLES[part](results["parts"])
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("benchmarks", Benchmarks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
