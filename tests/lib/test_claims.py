"""The ledger: what holds, what fails, what is printed and what is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from descentmaps.claims import LEDGER, ClaimFailed, Claims


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(LEDGER, str(tmp_path / "deep" / "ledger"))
    return tmp_path / "deep" / "ledger"


def kept(folder, chapter="00-test"):
    return json.loads((folder / f"{chapter}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("verb", "arguments", "holds"),
    [
        ("at_most", (1.0, 1.0), True),
        ("at_most", (1.0000001, 1.0), False),
        ("at_least", (1.0, 1.0), True),
        ("at_least", (0.9999999, 1.0), False),
        ("between", (1.0, 1.0, 2.0), True),
        ("between", (2.0, 1.0, 2.0), True),
        ("between", (2.0000001, 1.0, 2.0), False),
        ("between", (0.9999999, 1.0, 2.0), False),
        ("equals", (3, 3), True),
        ("equals", (3.0000001, 3), False),
        ("equals", (True, True), True),
        ("equals", (np.False_, True), False),
        ("at_most", (torch.tensor(2.0), np.float32(3)), True),
        ("equals", (np.int64(3), np.int64(3)), True),
        ("between", (np.float64(1), np.float64(0), np.float64(2)), True),
    ],
)
def test_every_verb_is_true_and_false_where_it_should_be(folder, capsys, verb, arguments, holds):
    claims = Claims("00-test")
    getattr(claims, verb)("A sentence.", *arguments)
    if holds:
        claims.report()
    else:
        with pytest.raises(ClaimFailed, match="1 of 1 claims fail"):
            claims.report()
    assert kept(folder)["claims"][0]["holds"] is holds
    assert ("holds" in capsys.readouterr().out) == holds


def test_printed_text_is_free_of_measured_values(folder, capsys):
    texts = []
    for value in (0.1234567, 0.1234568):
        claims = Claims("00-test")
        claims.at_most("Error is small.", value, 0.2)
        claims.between("It lies inside.", value, -1, 1e6 + 1)
        claims.equals("All are there.", 1234567, 1234567)
        claims.report()
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[0] == (
        "1. Error is small.\n   at most 0.2: holds\n"
        "2. It lies inside.\n   between -1 and 1000001: holds\n"
        "3. All are there.\n   exactly 1234567: holds\n"
    )


def test_json_keeps_values_cost_and_versions(folder):
    claims = Claims("00-test", seed=7)
    claims.at_least("Größe ≥ one.", 1.25, 1)
    claims.report()
    entry = kept(folder)
    assert entry["chapter"] == "00-test"
    assert entry["seed"] == 7
    assert entry["claims"] == [{"sentence": "Größe ≥ one.", "value": 1.25, "region": "at least 1", "holds": True}]
    assert 0 < entry["seconds"] < 1e5
    assert 10 < entry["peak_mb"] < 1e5
    assert entry["versions"]["torch"] == torch.__version__
    assert set(entry["versions"]) == {"python", "descentmaps", "numpy", "scipy", "torch"}
    assert [path.name for path in folder.iterdir()] == ["00-test.json"]  # nothing partial stays behind


def test_failure_lists_all_false_claims_and_still_keeps_them(folder):
    claims = Claims("00-test")
    claims.at_most("First.", 3.5, 1)
    claims.at_most("Second.", 0.5, 1)
    claims.equals("Third.", 4, 5)
    with pytest.raises(ClaimFailed) as failure:
        claims.report()
    assert str(failure.value) == "2 of 3 claims fail:\n  First.: 3.5, not at most 1\n  Third.: 4, not exactly 5"
    assert isinstance(failure.value, AssertionError)
    assert [claim["holds"] for claim in kept(folder)["claims"]] == [False, True, False]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(number):
    claims = Claims("00-test")
    for verb, arguments in [
        ("at_most", (1,)),
        ("at_least", (1,)),
        ("between", (0, 1)),
        ("equals", (1,)),
    ]:
        with pytest.raises(ValueError, match="value of the claim 'S' must be a finite number"):
            getattr(claims, verb)("S", number, *arguments)
        for position in range(len(arguments)):
            changed = [number if i == position else bound for i, bound in enumerate(arguments)]
            with pytest.raises(ValueError, match="of the claim 'S' must be a finite number"):
                getattr(claims, verb)("S", 0.5, *changed)


def test_empty_repeated_and_impossible_claims_are_refused(folder):
    claims = Claims("00-test")
    with pytest.raises(ValueError, match="claims of chapter '00-test' are empty"):
        claims.report()
    with pytest.raises(ValueError, match=r"low must not exceed high, got low=2.0 and high=1.0"):
        claims.between("S", 1, 2, 1)
    claims.at_most("S", 1, 2)
    with pytest.raises(ValueError, match="sentence is claimed twice"):
        claims.at_least("S", 1, 0)
    assert not folder.exists()


@pytest.mark.parametrize("chapter", ["", "a/b", "../x", "."])
def test_chapter_names_a_file(chapter):
    with pytest.raises(ValueError, match="chapter must be a notebook's name"):
        Claims(chapter)


class Cells(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.opened, self.text = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.opened.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def test_table_has_scoped_headers_values_and_no_markup_of_its_sentences():
    claims = Claims("00-test")
    claims.at_most("Is <b>x</b> & y small?", 0.123456, 1)
    claims.at_least("Is it large?", 2, 3)
    cells = Cells(claims.table().data)
    headers = [attributes for tag, attributes in cells.opened if tag == "th"]
    assert headers == [{"scope": "col"}] * 4
    assert cells.text[:4] == ["Claim", "Measured", "Accepted", "Verdict"]
    assert cells.text[4:8] == ["Is <b>x</b> & y small?", "0.123", "at most 1", "holds"]
    assert cells.text[8:] == ["Is it large?", "2", "at least 3", "fails"]
    assert not [tag for tag, _ in cells.opened if tag == "b"]


def test_cost_is_kept_up_to_the_end_of_the_notebook(folder):
    """Cells after the report count too, each writes the file anew; of a report that ran twice the second counts."""
    script = """
import json, os, pathlib
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
report = "from descentmaps import Claims; c = Claims('00-test'); c.at_most('S', {}, 2); c.report()"
file = pathlib.Path(os.environ["DESCENTMAPS_LEDGER"]) / "00-test.json"
callbacks = len(shell.events.callbacks["post_run_cell"])
shell.run_cell(report.format(0))
shell.run_cell(report.format(1))
peaks = [json.loads(file.read_text())["peak_mb"]]
shell.run_cell("import numpy; ballast = numpy.ones(40 * 2**20)")  # 320 MiB
peaks.append(json.loads(file.read_text())["peak_mb"])
assert peaks[1] > peaks[0] + 250, peaks
assert len(shell.events.callbacks["post_run_cell"]) == callbacks + 1
"""
    ballast = np.ones(80 * 2**20)  # what the parent process needs is not its child's
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert kept(folder)["claims"][0]["value"] == 1
    if sys.platform == "linux":
        assert kept(folder)["peak_mb"] < ballast.nbytes / 2**20 + 250
