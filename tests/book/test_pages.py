"""Every page of the built book: what it asks for, what it logs, what it shows, and where its links lead."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from playwright.sync_api import Browser

import checks
import repository

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
LAUNCHERS = ("https://mybinder.org/", "https://colab.research.google.com/")


def discovered() -> list[str]:
    """Pages of the book; 404.html is written for the address it is published at, which this machine may lack."""
    pages = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if "_static" not in path.parts)
    return [page for page in pages if page != "404.html" or repository.find(ROOT) is None]


PAGES = discovered()


@pytest.fixture
def seen(browser: Browser, home: str, request: pytest.FixtureRequest) -> checks.Visit:
    return visited(browser, f"{home}/{request.param}")


visited = cache(checks.visit)
on_every_page = pytest.mark.parametrize("seen", PAGES, indirect=True)


def test_the_book_has_its_pages(site: Path) -> None:
    assert {"index.html", "search.html", "book/preface.html", "notebooks/00-tour.html"} <= set(PAGES)


@on_every_page
def test_no_error_in_the_console(seen: checks.Visit) -> None:
    assert not checks.error_problems(seen)


@on_every_page
def test_no_request_to_another_host(seen: checks.Visit) -> None:
    assert not checks.host_problems(seen)


@on_every_page
def test_formulas_are_typeset(seen: checks.Visit) -> None:
    assert not checks.math_problems(seen)


@on_every_page
def test_pictures_are_described(seen: checks.Visit) -> None:
    assert not checks.picture_problems(seen.html)


@on_every_page
def test_page_fits_a_desk_and_a_phone(seen: checks.Visit) -> None:
    assert not checks.width_problems(seen)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str, site: Path) -> None:
    assert not list(checks.link_problems(site, site / page))


@pytest.mark.parametrize("page", PAGES)
def test_launch_buttons_only_where_they_work(page: str, site: Path) -> None:
    expected = page.startswith("notebooks/") and repository.find(ROOT) is not None
    text = (site / page).read_text("utf-8")
    assert [launcher in text for launcher in LAUNCHERS] == [expected] * len(LAUNCHERS)


def test_some_page_has_formulas(browser: Browser, home: str) -> None:
    assert sum(visited(browser, f"{home}/{page}").typeset for page in PAGES) > 0
