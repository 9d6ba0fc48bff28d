"""The checks bite: small bad pages, and what is found on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

import checks
from server import serve

GOOD = (
    "<p>A figure <a href='#figure'>follows</a>.</p>"
    "<figure id='figure'><img alt='A falling curve' src='data:image/gif;base64,R0lGODlhAQABAAAAACw='></figure>"
    "<svg role='img' aria-label='A ring of points'></svg><svg aria-hidden='true'></svg>"
)


def write(folder: Path, article: str) -> Path:
    page = folder / "page.html"
    page.write_text(
        f"<!doctype html><html><head><title>x</title><link rel='icon' href='data:,'></head>"
        f"<body><article>{article}</article></body></html>",
        encoding="utf-8",
    )
    return page


def every_problem(browser: Browser, folder: Path, article: str) -> list[str]:
    page = write(folder, article)
    with serve(folder) as home:
        seen = checks.visit(browser, f"{home}/page.html")
    return [
        *checks.error_problems(seen),
        *checks.host_problems(seen),
        *checks.math_problems(seen),
        *checks.picture_problems(seen.html),
        *checks.width_problems(seen),
        *checks.link_problems(folder, page),
    ]


def test_a_good_page_has_no_problem(browser: Browser, tmp_path: Path) -> None:
    assert every_problem(browser, tmp_path, GOOD) == []


BAD = {
    "asks http://localhost:9/style.css": "<link rel='stylesheet' href='http://localhost:9/style.css'>",
    "asks https://fonts.invalid/font.woff": "<script>fetch('https://fonts.invalid/font.woff').catch(() => 0)</script>",
    "not defined": "<script>nothing()</script>",
    "on purpose": "<script>console.error('on purpose')</script>",
    "404": "<img alt='A curve that is missing' src='missing.png'>",
    "are not typeset": r"<span class='math'>x^2</span>",
    "raw TeX": r"<p>where \(x\) is the point</p>",
    "MathJax cannot read": "<mjx-merror>no such macro</mjx-merror>",
    "without a description: <img": "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>",
    'without a description: <img alt=""': "<img alt='' src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>",
    'without a description: <img alt="../_images': "<img alt='../_images/f00.png' src='data:,'>",
    "without a description: <svg": "<svg><circle r='4'/></svg>",
    "code is cut off": f"<pre style='overflow: auto'>{'x' * 400}</pre>",
    "the page is": "<div style='width: 2000px'>wide</div>",
    "leads nowhere: #missing": "<a href='#missing'>there</a>",
    "leads nowhere: missing.html": "<a href='missing.html'>there</a>",
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_page_is_caught(message: str, browser: Browser, tmp_path: Path) -> None:
    assert any(message in problem for problem in every_problem(browser, tmp_path, BAD[message]))
