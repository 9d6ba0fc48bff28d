"""Measure speed and memory against the peers: ``python tests/benchmarks/run.py``.

Every contender runs in a process and an environment of its own, in turn with ours, on the same saved points. Answers
go to ``_build/benchmarks``: ``results.json`` with every round, ``report.md`` and ``report.html`` with the tables and
the picture of the book's page. ``--publish`` writes ``ledger/benchmarks.json``, from which that page is made.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tqdm import tqdm

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "book" / "_ext"))

import disk
import environments
import samples
from environments import (
    BUILD,
    CAPTURES,
    CIRCLE,
    DEVICE,
    DISTANCES,
    HESSIANS,
    MAPS,
    REFITS,
    ROOT,
    Contender,
    Limits,
    Measurement,
)

import benchmarks as page

SIZES = ((1000, 10_000), (4000, 1000), (10_000, 1000), (2000, 100_000))
LARGE = (2000, 1_000_000)
ON_DEVICE = (4096, 1_000_000)
NETWORKS = ((64, 16, 10), (64, 128, 64, 10))  # layer widths of the networks whose Hessians are looked at
EIGENVALUES = 10
LOOPS = {"MLP": 2000, "CNN": 300}  # networks that are captured, and for how many updates
WARM_UP = 20  # updates before those that are timed: few, so that none of them finds memory that is in use already
SLOW = 15  # seconds beyond which one round is enough
LARGE_LIMIT = 1800  # seconds
Score = Callable[[Measurement], dict[str, Any]]
Result = dict[str, Any]


def interleaved(contenders: Sequence[Contender], task: Result, n: int, rounds: int, limits: Limits) -> list[Result]:
    """Time all contenders in turn, round after round, each round beginning one further on; one row for each."""
    rows = {contender.name: new_row(contender, n) for contender in contenders}
    turns = [(r, contenders[(r + i) % len(contenders)]) for r in range(rounds) for i in range(len(contenders))]
    progress = tqdm(turns, f"{n} points" if n else "a network", leave=False)
    for turn, contender in progress:
        row = rows[contender.name]
        if row["failure"] or (row["rounds"] and row["rounds"][0]["seconds"] > SLOW):
            continue
        progress.set_postfix_str(contender.name)
        found = environments.run(contender, task, limits)
        row["failure"] = found.failure
        if not found.failure:
            numbers = {k: value for k, value in found.result.items() if k not in ("versions", "blas")}
            row["rounds"].append({"round": turn} | numbers)
            row |= {"versions": found.result["versions"], "blas": found.result["blas"], "measurement": found}
    return list(rows.values())


def new_row(contender: Contender, n: int) -> Result:
    why = f"not tried: {contender.why}" if n > contender.most else ""
    return {"name": contender.name, "failure": why, "rounds": []}


def compare(rows: list[Result], ours: str, floor: Sequence[str] = ()) -> Result:
    """Medians of each row, and ratios to ours taken within a round, where both met the same neighbors."""
    by_name = {row["name"]: row for row in rows}
    for row in rows:
        times = [taken["seconds"] for taken in row["rounds"]]
        if times and not row["failure"]:
            peaks = [taken["peak_mb"] for taken in row["rounds"] if taken["peak_mb"] is not None]
            row["seconds"], row["best_seconds"] = statistics.median(times), min(times)
            row["cpu_seconds"] = statistics.median(taken["cpu_seconds"] for taken in row["rounds"])
            row["peak_mb"] = max(peaks, default=None)
            row |= ratios("seconds", [row], [by_name[ours]], "ratio") | ratios(
                "cpu_seconds", [row], [by_name[ours]], "cpu_ratio"
            )
    found = ratios("seconds", [by_name[ours]], [by_name[name] for name in floor], "floor_ratio") if floor else {}
    return {"rows": rows} | found


def ratios(key: str, above: Sequence[Result], below: Sequence[Result], name: str) -> Result:
    """Median over the rounds that all have of (sum above) / (sum below), and the ratio of the best rounds."""
    tables = [[{taken["round"]: taken[key] for taken in row["rounds"]} for row in rows] for rows in (above, below)]
    common = set.intersection(*(set(times) for rows in tables for times in rows))
    if not common:
        return {}
    sums = [[sum(times[r] for times in rows) for r in sorted(common)] for rows in tables]
    best = [sum(min(times.values()) for times in rows) for rows in tables]
    paired = [a / b for a, b in zip(*sums, strict=True)]
    return {name: statistics.median(paired), f"best_{name}": best[0] / best[1]}


def strip(row: Result) -> Result:
    return {key: value for key, value in row.items() if key != "measurement"}


def at_size(contenders: Sequence[Contender], size: tuple[int, int], options: argparse.Namespace, score: Score) -> Any:
    """All contenders on one saved sphere, each with its score."""
    n, dimension = size
    with disk.scratch(4 * n * dimension) as folder:
        points = folder / "points.npy"
        samples.embed(samples.sphere(n), dimension, points)
        keep = contenders is not DISTANCES
        task = {"points": str(points), "scale": samples.SPHERE_SCALE, "components": 10, "keep": keep}
        load = os.getloadavg()[0]
        rows = interleaved(contenders, task, n, options.rounds, limits(options))
    floor = [contender.name for contender in environments.FLOORS if contender in contenders]
    return {"points": n, "dimension": dimension, "load": load} | scored(rows, contenders[0].name, floor, score)


def scored(rows: list[Result], ours: str, floor: Sequence[str], score: Score) -> Result:
    """The comparison of the rows, each with its score in place of its measurement."""
    compared = compare(rows, ours, floor)
    compared["rows"] = [strip(row) | (score(row["measurement"]) if "measurement" in row else {}) for row in rows]
    return compared


def fits(options: argparse.Namespace) -> Iterator[Result]:
    for size in options.sizes:
        yield at_size(MAPS, size, options, partial(sines_of, samples.sphere_spaces(samples.sphere(size[0]))))


def sines_of(spaces: Sequence[samples.Array], found: Measurement) -> Result:
    expected = sum(space.shape[1] for space in spaces)
    if found.answer is None or found.answer.ndim != 2 or not expected <= found.answer.shape[1] < len(found.answer):
        return {}
    return {"sines": samples.sines(found.answer, spaces)}


def distances(options: argparse.Namespace) -> Iterator[Result]:
    for size in options.sizes:
        yield at_size(DISTANCES, size, options, lambda _: {})


def late_training(options: argparse.Namespace) -> list[Result]:
    """Each package's error on steps that are a millionth of the points' norm."""
    with disk.scratch(0) as folder:
        path, points = folder / "points.npy", samples.late_training()
        np.save(path, points)
        task = {"points": str(path), "scale": None, "components": 10}
        rows = []
        for contender in tqdm([c for c in DISTANCES if c not in environments.FLOORS], "late training", leave=False):
            found = environments.run(contender, task, limits(options))
            error = {} if found.answer is None else {"error": samples.step_error(points, found.answer)}
            rows.append({"name": contender.name, "failure": found.failure} | error)
    return rows


def circle(options: argparse.Namespace) -> list[Result]:
    """Each package's eigenvectors on the nonuniform circle, with its own bandwidth."""
    angles = samples.circle(2000)
    with disk.scratch(0) as folder:
        path = folder / "points.npy"
        np.save(path, np.column_stack([np.cos(angles), np.sin(angles)]))
        rows = []
        for contender in tqdm(CIRCLE, "circle", leave=False):
            task = {"points": str(path), "scale": None, "components": 6}
            found = environments.run(contender, task, limits(options))
            rows.append(
                {"name": contender.name, "failure": found.failure} | sines_of(samples.circle_spaces(angles), found)
            )
    return rows


def refits(options: argparse.Namespace) -> Iterator[Result]:
    for size in options.sizes:
        found = at_size(REFITS, size, options, lambda _: {})
        yield found | {"rows": found["rows"][1:]}


def from_disk(options: argparse.Namespace) -> list[Result]:
    n, dimension = options.large_size
    bounds = Limits(LARGE_LIMIT, limits(options).gigabytes, options.threads)
    return [{"points": n, "dimension": dimension, "rows": disk.measure(n, dimension, bounds)}]


def on_device(options: argparse.Namespace) -> Iterator[Result]:
    """Distances and a map of points that lie on a CUDA device already; nothing where there is none."""
    import torch

    kind = torch.device(options.device).type
    if kind == "cuda" and not torch.cuda.is_available():
        return
    (n, dimension), places = options.device_size, samples.sphere(options.device_size[0])
    with disk.scratch(0) as folder:
        path = folder / "places.npz"
        np.savez(path, places=places, dimension=dimension, device=options.device)
        rows = interleaved(DEVICE, {"points": str(path), "components": 10}, n, options.rounds, limits(options))
    name = torch.cuda.get_device_name(options.device) if kind == "cuda" else processor()
    score = partial(sines_of, samples.sphere_spaces(places))
    yield {"points": n, "dimension": dimension, "device": name} | scored(rows, DEVICE[0].name, [], score)


def hessians(options: argparse.Namespace) -> Iterator[Result]:
    """The largest eigenvalues of each network's Hessian, with their error."""
    for widths in NETWORKS:
        with disk.scratch(0) as folder:
            path = folder / "problem.npz"
            size = samples.trained_network(widths, path)
            task = {"points": str(path), "components": EIGENVALUES}
            bounds = Limits(options.limit, limits(options).gigabytes, 1)  # torch is faster with one thread at this size
            load = os.getloadavg()[0]
            exact = environments.run(environments.REFERENCE, task, bounds)
            if exact.answer is None:
                raise RuntimeError(f"the reference eigenvalues could not be computed: {exact.failure}")
            rows = interleaved(HESSIANS, task, 0, options.rounds, bounds)
        compared = scored(rows, HESSIANS[0].name, [HESSIANS[1].name], partial(eigenvalue_error, exact.answer))
        yield {"parameters": size, "widths": widths, "load": load} | compared


def eigenvalue_error(exact: samples.Array, found: Measurement) -> dict[str, Any]:
    """Largest error of an eigenvalue relative to itself; one that is missing counts as 0."""
    if found.answer is None:
        return {}
    padded = np.zeros(len(exact))
    padded[: len(found.answer)] = found.answer[: len(exact)]
    return {"error": float(np.abs(padded / exact - 1).max())}


def captures(options: argparse.Namespace) -> Iterator[Result]:
    """A training loop that keeps nothing, and the same with the ways of keeping every update's parameters."""
    for network, updates in LOOPS.items():
        with disk.scratch(0) as folder:
            path = folder / "problem.npz"
            size = samples.training_loop(network, path)
            task = {"points": str(path), "components": updates, "warm_up": WARM_UP}
            load = os.getloadavg()[0]
            rows = interleaved(CAPTURES, task, 0, options.rounds, Limits(options.limit, limits(options).gigabytes, 1))
        found = {"network": network, "parameters": size, "updates": updates, "load": load}
        yield found | {"rows": [beside_bare(strip(row)) for row in rows]}


def beside_bare(row: Result) -> Result:
    """The row with its medians; ratios are taken within a process, which ran the bare loop in turn with its own."""
    if row["failure"]:
        return row
    columns = {key: [taken[key] for taken in row["rounds"]] for key in row["rounds"][0] if key != "round"}
    for name, key in (("ratio", "seconds"), ("cpu_ratio", "cpu_seconds")):
        columns[name] = [a / b for a, b in zip(columns[key], columns[f"bare_{key}"], strict=True)]
    peaks = [peak for peak in columns.pop("peak_mb") if peak is not None]
    medians = {key: statistics.median(values) for key, values in columns.items()}
    return row | medians | {"peak_mb": max(peaks, default=None)}


PARTS: dict[str, Callable[[argparse.Namespace], Iterable[Result]]] = {
    "fits": fits,
    "refits": refits,
    "distances": distances,
    "late_training": late_training,
    "circle": circle,
    "device": on_device,
    "hessians": hessians,
    "capture": captures,
    "disk": from_disk,
}


def limits(options: argparse.Namespace) -> Limits:
    return Limits(options.limit, 0.6 * psutil.virtual_memory().total / 1e9, options.threads)


def machine() -> Result:
    memory = psutil.virtual_memory().total / 2**30
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def earlier(path: Path, threads: int) -> Result:
    """What other runs measured on this very machine, whose parts stay unless they are measured again."""
    if path.exists():
        found = json.loads(path.read_text("utf-8"))
        if (found["machine"], found["threads"]) == (machine(), threads):
            return dict(found)
    return {"machine": machine(), "threads": threads, "dates": {}, "parts": {}}


def merged(before: list[Result], measured: list[Result]) -> list[Result]:
    """What was measured, and of what was there before the sizes that were not measured again."""
    done = {size_of(found) for found in measured}
    kept = [found for found in before if size_of(found) and size_of(found) not in done]
    return sorted([*kept, *measured], key=size_of)


def beside_published(results: Result, path: Path) -> Result:
    """The results, and what was published before from the same machine and was not measured again.

    SystemExit where parts would be lost, because they come from another machine.
    """
    before = json.loads(path.read_text("utf-8")) if path.exists() else {"dates": {}, "parts": {}}
    if any(before.get(key) != results[key] for key in ("machine", "threads")):
        if lost := sorted(before["parts"].keys() - results["parts"].keys()):
            sys.exit(f"not published: {path} has {', '.join(lost)} from another machine, measure them here too")
        return results
    parts = {name: merged(before["parts"].get(name, []), found) for name, found in results["parts"].items()}
    return results | {"dates": before["dates"] | results["dates"], "parts": before["parts"] | parts}


def size_of(found: Result) -> int:
    return int(found.get("points", 0) ** 2 * found.get("dimension", 0)) or int(found.get("parameters", 0))


def rounded(value: Any) -> Any:
    """The same to three digits, without the single rounds: what the book keeps."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items() if key != "rounds"}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def write(path: Path, results: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def report(results: Result, folder: Path) -> None:
    text = page.markdown(results)
    (folder / "report.md").write_text(text, "utf-8")
    (folder / "report.html").write_text(page.html(results), "utf-8")
    print(text)


def pairs(text: str) -> tuple[int, int]:
    n, dimension = text.lower().split("x")
    return int(n), int(dimension)


def arguments(words: Iterable[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of descentmaps, its peers and its floor.")
    parser.add_argument("--sizes", nargs="+", type=pairs, default=list(SIZES), metavar="TxD", help="points x dimension")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=[name for name in PARTS if name != "disk"])
    parser.add_argument("--rounds", type=int, default=5, help="times that each contender has its turn")
    parser.add_argument("--limit", type=float, default=90, help="seconds after which a contender is stopped")
    parser.add_argument("--threads", type=int, default=2, help="of BLAS and of every other pool, for all alike")
    parser.add_argument("--large", action="store_true", help="also 8 GB of points from disk")
    parser.add_argument("--large-size", type=pairs, default=LARGE, metavar="TxD", help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cuda", help="where the part device is measured")
    parser.add_argument("--device-size", type=pairs, default=ON_DEVICE, metavar="TxD", help=argparse.SUPPRESS)
    parser.add_argument("--publish", action="store_true", help="write ledger/benchmarks.json, shown in the book")
    parser.add_argument("--ledger", type=Path, default=ROOT / "ledger" / "benchmarks.json", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=BUILD, help="folder for the results")
    options = parser.parse_args(None if words is None else list(words))
    options.parts = [*options.parts, *(["disk"] if options.large and "disk" not in options.parts else [])]
    return options


def main(options: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # as an exception, so that scratch files go
    path = options.output / "results.json"
    results = earlier(path, options.threads)
    for name in options.parts:
        measured: list[Result] = []
        before = results["parts"].get(name, [])
        for found in PARTS[name](options):
            measured.append(found)
            results["parts"][name] = merged(before, measured)
            results["dates"][name] = datetime.date.today().isoformat()
            write(path, results)
    report(results, options.output)
    if options.publish:
        write(options.ledger, rounded(beside_published(results, options.ledger)))


if __name__ == "__main__":
    main(arguments())
