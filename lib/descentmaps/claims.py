"""The ledger: every number the book states is checked where it is stated.

A chapter opens a :class:`Claims`, makes its claims, and calls :meth:`Claims.report`. What the report prints is
the same on every machine where the claims hold, so it can be stored in the notebook and compared; the measured
values, which differ in their last digits, go to :meth:`Claims.table` and to a JSON file that the book's ledger
page is built from.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from html import escape
from importlib import metadata
from pathlib import Path

import psutil
from IPython import get_ipython
from IPython.display import HTML

__all__ = ["Claim", "ClaimFailed", "Claims"]

#: Environment variable that names the folder for the JSON files; the build of the book sets it.
LEDGER = "DESCENTMAPS_LEDGER"

#: What runs after each cell of the notebook, by chapter.
_watching: dict[str, Callable[..., None]] = {}


class ClaimFailed(AssertionError):
    """At least one claim of a chapter does not hold."""


@dataclass(frozen=True)
class Claim:
    """One sentence about one measured value, and the region in which the sentence is true."""

    sentence: str
    value: float
    region: str
    holds: bool


class Claims:
    """The claims of one chapter.

    Parameters
    ----------
    chapter
        Name of the notebook without its ending, such as ``"00-tour"``.
    seed
        The seed of this run, kept beside the values so that runs over many seeds can be told apart.
    """

    def __init__(self, chapter: str, seed: int = 0) -> None:
        if not chapter or Path(chapter).name != chapter:
            raise ValueError(f"chapter must be a notebook's name such as '00-tour', got {chapter!r}")
        self.chapter = chapter
        self.seed = int(seed)
        self._claims: list[Claim] = []

    def at_most(self, sentence: str, value: float, bound: float) -> None:
        """Claim that ``value <= bound``; ValueError, as in all claims, where a number is NaN or infinite."""
        value, bound = _finite("value", sentence, value), _finite("bound", sentence, bound)
        self._add(sentence, value, f"at most {bound:.10g}", value <= bound)

    def at_least(self, sentence: str, value: float, bound: float) -> None:
        """Claim that ``value >= bound``."""
        value, bound = _finite("value", sentence, value), _finite("bound", sentence, bound)
        self._add(sentence, value, f"at least {bound:.10g}", value >= bound)

    def between(self, sentence: str, value: float, low: float, high: float) -> None:
        """Claim that ``low <= value <= high``; ValueError where ``low > high``."""
        value = _finite("value", sentence, value)
        low, high = _finite("low", sentence, low), _finite("high", sentence, high)
        if low > high:
            raise ValueError(f"low must not exceed high, got low={low!r} and high={high!r}")
        self._add(sentence, value, f"between {low:.10g} and {high:.10g}", low <= value <= high)

    def equals(self, sentence: str, value: float, expected: float) -> None:
        """Claim that ``value == expected``: for counts and truths, not for measured reals."""
        value, expected = _finite("value", sentence, value), _finite("expected", sentence, expected)
        self._add(sentence, value, f"exactly {expected:.10g}", value == expected)

    def report(self) -> None:
        """Print every claim with its region and verdict, and write the JSON file; ClaimFailed where one is false."""
        if not self._claims:
            raise ValueError(f"claims of chapter {self.chapter!r} are empty: make a claim before the report")
        self._write()
        _after_every_cell(self.chapter, self._write)
        for number, claim in enumerate(self._claims, 1):
            verdict = "holds" if claim.holds else "FAILS"
            print(f"{number}. {claim.sentence}\n   {claim.region}: {verdict}")
        false = [claim for claim in self._claims if not claim.holds]
        if false:
            lines = (f"  {claim.sentence}: {claim.value:.6g}, not {claim.region}" for claim in false)
            raise ClaimFailed(f"{len(false)} of {len(self._claims)} claims fail:\n" + "\n".join(lines))

    def table(self) -> HTML:
        """The claims with their measured values, for the reader's eyes: never compare this output."""
        rows = "".join(
            f"<tr><td>{escape(claim.sentence)}</td><td>{claim.value:.3g}</td><td>{escape(claim.region)}</td>"
            f"<td>{'holds' if claim.holds else 'fails'}</td></tr>"
            for claim in self._claims
        )
        head = "".join(f'<th scope="col">{name}</th>' for name in ("Claim", "Measured", "Accepted", "Verdict"))
        return HTML(f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>')

    def _add(self, sentence: str, value: float, region: str, holds: bool) -> None:
        if any(claim.sentence == sentence for claim in self._claims):
            raise ValueError(f"sentence is claimed twice in chapter {self.chapter!r}: {sentence!r}")
        self._claims.append(Claim(sentence, value, region, holds))

    def _write(self) -> None:
        folder = Path(os.environ.get(LEDGER, "ledger"))
        folder.mkdir(parents=True, exist_ok=True)
        entry = {
            "chapter": self.chapter,
            "seed": self.seed,
            "claims": [asdict(claim) for claim in self._claims],
            **_cost(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "versions": _versions(),
        }
        path = folder / f"{self.chapter}.json"
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)


def _finite(name: str, sentence: str, value: float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} of the claim {sentence!r} must be a finite number, got {value!r}")
    return number


def _after_every_cell(chapter: str, write: Callable[[], None]) -> None:
    """Keep time and memory of the whole notebook, exercises included, not only up to the report."""
    shell = get_ipython()
    if shell is None:
        return
    if chapter in _watching:  # the report was run again: what it kept before is out of date
        shell.events.unregister("post_run_cell", _watching[chapter])
    _watching[chapter] = lambda _result: write()
    shell.events.register("post_run_cell", _watching[chapter])


def _cost() -> dict[str, float]:
    process = psutil.Process()
    seconds = time.time() - process.create_time()
    return {"seconds": round(seconds, 1), "peak_mb": round(_peak_bytes(process) / 2**20, 1)}


def _peak_bytes(process: psutil.Process) -> int:
    """Largest resident set so far, of this process alone.

    `ru_maxrss` is in KiB on Linux, in bytes on macOS, and absent on Windows; on Linux it starts from the peak of the
    process that started this one, so that the kernel's own record comes first.
    """
    status = Path("/proc/self/status")
    own = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    if own:
        return int(own[1]) * 1024
    try:
        import resource
    except ModuleNotFoundError:
        return process.memory_info().peak_wset
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _versions() -> dict[str, str]:
    installed = {name: metadata.version(name) for name in ("descentmaps", "numpy", "scipy", "torch")}
    return {"python": platform.python_version(), **installed}
