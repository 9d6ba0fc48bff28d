"""What Binder would build, as far as that can be seen without its servers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINDER = ROOT / ".binder"


def requirements(path: Path) -> dict[str, str]:
    """Package to version of the exact pins in a requirements file; a local version such as +cpu is left out."""
    pins = re.findall(r"^([\w.-]+)==([^\s;+]+)", path.read_text("utf-8"), re.MULTILINE)
    return {name.lower(): version for name, version in pins}


def test_binder_pins_agree_with_the_book() -> None:
    book = requirements(ROOT / "requirements.txt")
    binder = requirements(BINDER / "requirements.txt")
    assert binder
    assert binder.items() <= book.items()


def test_binder_installs_the_book() -> None:
    lines = (BINDER / "requirements.txt").read_text("utf-8").splitlines()
    included = [line.split()[1] for line in lines if line.startswith("-r ")]
    assert [(BINDER / name).resolve() for name in included] == [ROOT / "requirements.txt"]
    # pip reads "-e ./lib" from the folder it runs in, which on Binder is the root of the repository.
    assert (ROOT / "requirements.txt").read_text("utf-8").rstrip().endswith("-e ./lib")
    assert (ROOT / "lib" / "pyproject.toml").exists()


@pytest.fixture(scope="module")
def dockerfile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What repo2docker would hand to Docker, from a copy of the files it looks at: it changes what it is given."""
    if sys.platform == "win32":
        pytest.skip("repo2docker does not run on Windows")
    copy = tmp_path_factory.mktemp("binder")
    shutil.copytree(BINDER, copy / ".binder")
    shutil.copy(ROOT / "requirements.txt", copy)
    command = [
        sys.executable,
        "-m",
        "repo2docker",
        "--no-build",
        "--debug",
        "--user-id",
        "1000",
        "--user-name",
        "reader",
    ]
    answer = subprocess.run([*command, str(copy)], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout + answer.stderr


def test_binder_has_the_right_python(dockerfile: str) -> None:
    assert (BINDER / "runtime.txt").read_text("utf-8").strip() == "python-3.11"
    assert "conda environment for python=3.11" in dockerfile


def test_binder_reads_its_own_requirements(dockerfile: str) -> None:
    """And not before the whole repository is there, for the requirements include files outside .binder."""
    copied = re.search(r"^COPY .* src/ ", dockerfile, re.MULTILINE)
    installed = re.search(r'^RUN .*pip install .*-r "\.binder/requirements\.txt"', dockerfile, re.MULTILINE)
    assert copied
    assert installed
    assert copied.start() < installed.start()
