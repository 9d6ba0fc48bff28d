"""Nothing stale: a change in the library, its requirements or the ledger executes every notebook again.

jupyter-cache knows a notebook by its code cells only, so a page would keep the numbers of an older library.
Here the cache lives in a folder named after everything else that a result depends on. The folder is a setting
of the build environment, so when its name changes Sphinx reads and writes every page again by itself.

The table of contents stands on every page too, and for its sake every page is written again when it changes. The pages
of what has left it go.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from jupyter_cache import get_cache
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment


def fingerprint(root: Path) -> str:
    """Sixteen hex digits that change with any file that a notebook's results depend on."""
    files = [*(root / "lib").rglob("*.py"), root / "lib" / "pyproject.toml", root / "requirements.txt"]
    files += (root / "ledger").glob("[0-9]*.json")  # which the verdict reads
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def note_contents(app: Sphinx, config: Config) -> None:
    config.book_contents = (Path(app.srcdir) / "_toc.yml").read_text("utf-8")


def choose_cache(app: Sphinx, config: Config) -> None:
    caches = Path(app.outdir).parent / ".jupyter_cache"
    current = caches / fingerprint(Path(app.srcdir))
    for old in caches.glob("*"):
        if old.is_dir() and old != current:
            shutil.rmtree(old)
    config.nb_execution_cache_path = str(current / "notebooks")


def keep_latest(app: Sphinx) -> None:
    """Forget all but the last execution of each notebook.

    A notebook that is edited and then put back as it was must run again: the ledger's file is that of the edit.
    """
    if not Path(app.config.nb_execution_cache_path).is_dir():
        return
    cache = get_cache(app.config.nb_execution_cache_path)
    seen: set[str] = set()
    for record in sorted(cache.list_cache_records(), key=lambda record: record.created, reverse=True):
        if record.uri in seen:
            cache.remove_cache(record.pk)
        seen.add(record.uri)


def remove_pages(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Delete the pages of what was removed; nothing else is outdated by that."""
    for name in removed:
        (Path(app.outdir) / app.builder.get_target_uri(name)).unlink(missing_ok=True)
    return []


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("book_contents", "", "html")
    app.connect("config-inited", note_contents)
    app.connect("config-inited", choose_cache)
    app.connect("builder-inited", keep_latest)
    app.connect("env-get-outdated", remove_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
