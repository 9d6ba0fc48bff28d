"""Launch buttons that lead to the repository this book was built from, and none where there is no such place.

The address is read from the git remote `origin`. Binder builds the repository itself. Colab cannot import the
`lib/` folder, so it opens a copy of the notebook whose first cell installs the library from the very commit;
the copies are part of the published book.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from sphinx.application import Sphinx
from sphinx.config import Config

#: What follows the host in git@github.com:OWNER/REPO.git, ssh://git@github.com/OWNER/REPO, https://github.com/...
GITHUB = re.compile(
    r"^(?:(?:https?|ssh|git)://)?(?:[^@/]+@)?github\.com(?::\d+/|[:/])([\w.-]+)/([\w.-]+?)(?:\.git)?/?$"
)
COLAB = "https://colab.research.google.com"
#: The branch that `make publish` writes the built book to.
PUBLISHED = "gh-pages"


@dataclass(frozen=True)
class Repository:
    owner: str
    name: str
    branch: str
    commit: str

    @property
    def url(self) -> str:
        return f"https://github.com/{self.owner}/{self.name}"


def parse(remote: str) -> tuple[str, str] | None:
    """Owner and name of a repository on GitHub, from any form that git accepts; None for other addresses."""
    match = GITHUB.match(remote.strip())
    return (match[1], match[2]) if match else None


def git(folder: Path, *arguments: str) -> str:
    """The answer of git, empty where there is none: no repository, no remote, no commit, or no git at all."""
    try:
        answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def find(folder: Path) -> Repository | None:
    if git(folder, "rev-parse", "--show-prefix"):
        return None  # the book was unpacked inside another project, and that one's remote is not its own
    place = parse(git(folder, "remote", "get-url", "origin"))
    commit = git(folder, "rev-parse", "--verify", "HEAD")
    if place is None or not commit:
        return None
    return Repository(*place, branch=git(folder, "symbolic-ref", "--short", "HEAD") or commit, commit=commit)


def set_options(app: Sphinx, config: Config) -> None:
    repository = find(Path(app.srcdir))
    config.book_repository = repository
    options = config.html_theme_options
    options["repository_url"] = repository.url if repository else ""
    options["repository_branch"] = repository.branch if repository else ""
    options["use_repository_button"] = repository is not None
    options["launch_buttons"] = binder() if repository else {}
    # A project on GitHub Pages lives in a folder of its host, and the page for a missing address needs to know.
    config.notfound_urls_prefix = f"/{repository.name}/" if repository else "/"


def binder() -> dict[str, str]:
    return {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}


def add_colab_button(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    groups = [button for button in context.get("header_buttons", []) if button.get("label") == "launch-buttons"]
    for group in groups:
        repository = app.config.book_repository
        target = f"github/{repository.owner}/{repository.name}/blob/{PUBLISHED}/{colab_path(pagename)}"
        button = {
            "type": "link",
            "text": "Colab",
            "tooltip": "Launch on Colab",
            "icon": "_static/images/logo_colab.png",
        }
        group["buttons"].append(button | {"url": f"{COLAB}/{target}"})


def colab_path(docname: str) -> str:
    return f"colab/{Path(docname).name}.ipynb"


def write_colab_copies(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html" or app.config.book_repository is None:
        return
    for docname in app.env.found_docs:
        source = Path(app.env.doc2path(docname))
        if source.suffix == ".ipynb":
            target = Path(app.outdir) / colab_path(docname)
            target.parent.mkdir(exist_ok=True)
            nbformat.write(colab_copy(source, app.config.book_repository), target)


def colab_copy(source: Path, repository: Repository) -> nbformat.NotebookNode:
    notebook = nbformat.read(source, as_version=4)
    package = f"descentmaps @ git+{repository.url}@{repository.commit}#subdirectory=lib"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f'%pip install -q "{package}"'))
    return notebook


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("book_repository", None, "")
    app.connect("config-inited", set_options)
    app.connect("html-page-context", add_colab_button, priority=900)
    app.connect("build-finished", write_colab_copies)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
