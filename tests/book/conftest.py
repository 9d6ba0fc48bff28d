"""The built book behind a small server, and the Chromium that looks at it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from checks import DESK
from server import serve

SITE = Path(__file__).resolve().parents[2] / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
)


@pytest.fixture(scope="session")
def site() -> Path:
    assert (SITE / "index.html").exists(), "there is no built book to test: run make book first"
    return SITE


@pytest.fixture(scope="session")
def home(site: Path) -> Iterator[str]:
    with serve(site) as address:
        yield address


MISSING = f"Chromium is missing, so the built book was not tested in a browser: install one of {', '.join(BROWSERS)}"


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A reader's machine may lack the browser; where the book is checked for everybody it must be there."""
    found = chromium()
    if found is None and os.environ.get("CI"):
        pytest.exit(MISSING, returncode=1)
    if found is None:
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=list(QUIET))
        yield launched
        launched.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if chromium() is None:
        terminalreporter.write_line(MISSING)


@contextmanager
def desk(browser: Browser) -> Iterator[Page]:
    """A new page, as wide as a desk's screen."""
    page = browser.new_page(viewport=DESK)
    page.set_default_timeout(10_000)
    yield page
    page.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with desk(browser) as page:
        yield page


@pytest.fixture(scope="module")
def moving_page(browser: Browser) -> Iterator[Page]:
    """One for many tests."""
    with desk(browser) as page:
        yield page
