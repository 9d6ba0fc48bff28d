"""The benchmarks' own parts: scores, ratios, and a run that measures almost nothing. No time is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
MEASURED_ON = {"machine": {"cores": 2}, "threads": 2}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(HERE))
    import run

    return run


def test_true_eigenvectors_have_no_error(run) -> None:
    import numpy as np
    import samples

    points = samples.sphere(500)
    spaces = samples.sphere_spaces(points)
    assert max(samples.sines(np.column_stack(spaces), spaces)) < 1e-6
    assert min(samples.sines(np.ones((500, 8)), spaces)) == 1


def test_the_sphere_has_its_density(run) -> None:
    import samples

    z = samples.sphere(100_000)[:, 2]
    assert abs(z.mean() - 0.8 / 3) < 0.01


def test_a_ratio_is_taken_within_rounds(run) -> None:
    def row(name: str, *seconds: float) -> dict:
        rounds = [{"round": i, "seconds": s, "cpu_seconds": s, "peak_mb": 1.0} for i, s in enumerate(seconds)]
        return {"name": name, "failure": "", "rounds": rounds}

    rows = [row("ours", 1, 10, 1), row("peer", 2, 20, 3), row("floor", 0.5, 5, 0.5), row("slow", 30)]
    found = run.compare(rows, "ours", ["floor"])
    assert [r["ratio"] for r in found["rows"]] == [1, 2, 0.5, 30]
    assert found["floor_ratio"] == 2


class TestPublishing:
    def publish(self, run, path: Path, before: dict, measured: dict) -> dict:
        path.write_text(json.dumps({"dates": {}, "parts": {}} | before), "utf-8")
        return run.beside_published(MEASURED_ON | {"dates": dict.fromkeys(measured, "now"), "parts": measured}, path)

    def test_keeps_what_was_not_measured_again(self, run, tmp_path: Path) -> None:
        before = {"circle": [{"name": "ours"}], "capture": [{"parameters": 1, "old": 1}, {"parameters": 2, "old": 1}]}
        before = MEASURED_ON | {"dates": {"circle": "then", "capture": "then"}, "parts": before}
        found = self.publish(run, tmp_path / "ledger.json", before, {"capture": [{"parameters": 2}], "disk": []})
        assert found["parts"] == {
            "circle": [{"name": "ours"}],
            "capture": [{"parameters": 1, "old": 1}, {"parameters": 2}],
            "disk": [],
        }
        assert found["dates"] == {"circle": "then", "capture": "now", "disk": "now"}

    def test_does_not_mix_machines(self, run, tmp_path: Path) -> None:
        before = {"machine": {"cores": 64}, "threads": 2, "parts": {"capture": [{"parameters": 1}]}}
        found = self.publish(run, tmp_path / "ledger.json", before, {"capture": [{"parameters": 2}]})
        assert found["parts"] == {"capture": [{"parameters": 2}]}
        with pytest.raises(SystemExit, match=r"not published: .* has capture from another machine"):
            self.publish(run, tmp_path / "ledger.json", before, {"disk": []})

    def test_begins_a_ledger(self, run, tmp_path: Path) -> None:
        results = MEASURED_ON | {"dates": {}, "parts": {"disk": []}}
        assert run.beside_published(results, tmp_path / "none.json") == results


def test_a_small_run_makes_tables_and_a_picture(run, tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import environments, run
run.MAPS, run.DISTANCES, run.CIRCLE = environments.MAPS[:3], environments.DISTANCES[:2], environments.CIRCLE[:1]
run.HESSIANS, run.NETWORKS = environments.HESSIANS[:2], run.NETWORKS[:1]
run.CAPTURES, run.LOOPS = environments.CAPTURES[:-1], {{"MLP": 20}}
run.main(run.arguments([*"--sizes 300x20 --device cpu --device-size 400x30 --rounds 1 --output {tmp_path}".split()]))
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    (size,) = results["parts"]["fits"]
    assert size["floor_ratio"] > 0
    assert len(size["rows"][0]["sines"]) == 2
    (device,) = results["parts"]["device"]
    assert [row["failure"] for row in device["rows"]] == [""] * 3
    assert device["rows"][2]["sines"][0] < 0.3
    (hessian,) = results["parts"]["hessians"]
    assert max(row["error"] for row in hessian["rows"]) < 1e-6
    (capture,) = results["parts"]["capture"]
    assert [row["failure"] for row in capture["rows"]] == [""] * (len(run.CAPTURES) - 1)  # safetensors is left out
    sizes = {row["name"]: row["bytes"] for row in capture["rows"]}
    assert capture["parameters"] == 17_226
    assert sizes.pop("nothing") == 0
    assert sizes.pop("Recorder, CountSketch(1024)") == 4 * 1024
    assert sizes["Recorder, in memory"] == min(sizes.values()) == 4 * 17_226
    assert "| the floor |" in answer.stdout
    assert "MLP of 17\u202f226 parameters, 20 updates" in answer.stdout
    assert 'alt="Maps of ten coordinates' in (tmp_path / "report.html").read_text("utf-8")
