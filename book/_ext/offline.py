"""The built book asks no other host for anything, so that it works from a USB stick.

MathJax comes out of an installed package instead of a content network, and the state of live widgets, which
only a script from a content network could read, is left out of the pages.
"""

from __future__ import annotations

import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

MATHJAX = "sphinx-mathjax-offline/static/mathjax"
#: The page's script, its fonts, what TeX loads on demand (`\cancel`, `\boldsymbol`, ...) and what a screen
#: reader's explorer loads on demand: 4 MB of the package's 24.
NEEDED = (
    "tex-mml-chtml.js",
    "output/chtml/fonts/woff-v2",
    "input/tex/extensions",
    "a11y",
    "sre/mathmaps/base.json",
    "sre/mathmaps/en.json",
    "sre/mathmaps/nemeth.json",
)
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


def copy_mathjax(app: Sphinx) -> None:
    if app.builder.format != "html":
        return
    source = Path(str(distribution("sphinx-mathjax-offline").locate_file(MATHJAX)))
    for name in NEEDED:
        copy(source / name, Path(app.outdir) / "_static" / "mathjax" / name)


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def drop_widget_state(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    scripts = context.get("script_files", [])
    scripts[:] = [script for script in scripts if getattr(script, "attributes", {}).get("type") != WIDGET_STATE]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", copy_mathjax)
    app.connect("html-page-context", drop_widget_state, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
