"""Run chapters over many seeds and keep what each claim did: `make sweep SEEDS="0 1 2" CHAPTER=00-tour`.

A claim that fails on a seed stops that notebook; the ledger records the failure, and the sweep goes on. The
result, `ledger/NN-slug.json`, is committed, and the book's ledger page reads it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent


def run(notebook: Path, seed: int, folder: Path) -> dict[str, Any]:
    """The ledger of one chapter on one seed. An error that is not a failing claim ends the sweep."""
    os.environ["DESCENTMAPS_LEDGER"] = str(folder)
    try:
        papermill.execute_notebook(
            notebook, folder / "run.ipynb", {"SEED": seed}, cwd=notebook.parent, progress_bar=False, log_output=False
        )
    except PapermillExecutionError as error:
        if error.ename != "ClaimFailed":
            raise
    return json.loads((folder / f"{notebook.stem}.json").read_text("utf-8"))


def sweep(notebook: Path, seeds: list[int]) -> list[dict[str, Any]]:
    runs = []
    for seed in tqdm(seeds, desc=notebook.stem, unit="seed"):
        with TemporaryDirectory() as folder:
            runs.append(run(notebook, seed, Path(folder)))
    return runs


def summary(runs: list[dict[str, Any]]) -> str:
    """One line for each claim: on how many seeds it held, and how far its values spread."""
    lines = []
    for claims in zip(*(run["claims"] for run in runs), strict=True):
        values = [claim["value"] for claim in claims]
        held = sum(claim["holds"] for claim in claims)
        spread = f"from {min(values):.3g} to {max(values):.3g}"
        lines.append(f"  {held} of {len(runs)}: {claims[0]['sentence']} ({spread}, {claims[0]['region']})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run chapters over many seeds.")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--chapters", nargs="*", help="names such as 00-tour; every chapter if left out")
    chosen = parser.parse_args()
    names = chosen.chapters or sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    (ROOT / "ledger").mkdir(exist_ok=True)
    for name in names:
        runs = sweep(ROOT / "notebooks" / f"{name}.ipynb", chosen.seeds)
        target = ROOT / "ledger" / f"{name}.json"
        target.write_text(json.dumps({"chapter": name, "runs": runs}, indent=1) + "\n", encoding="utf-8")
        print(summary(runs))


if __name__ == "__main__":
    main()
