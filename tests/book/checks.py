"""What a page of the book must not do. Each check returns the problems it found, in words.

The tests ask them of the built book, and of small bad pages to see that they are found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Browser, Page, ViewportSize

PHONE, DESK = ViewportSize(width=390, height=844), ViewportSize(width=1280, height=900)
#: An alternative text that is a file's name or address says nothing about the picture.
ADDRESS = re.compile(r"^(data:|https?:|\S*/)\S*$|^\S+\.(png|svg|webp|jpe?g|gif)$", re.IGNORECASE)
RAW_TEX = re.compile(r"\$\$|\\\(|\\\[|\\begin\{")


@dataclass
class Visit:
    """All that one visit to a page brought to light."""

    url: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    html: str = ""
    text: str = ""
    formulas: int = 0
    typeset: int = 0
    wrong_formulas: list[str] = field(default_factory=list)
    too_wide: list[str] = field(default_factory=list)


def visit(browser: Browser, url: str) -> Visit:
    """Open a page in a fresh context at the width of a desk, then look at it at the width of a phone."""
    seen = Visit(url)
    page = browser.new_page(viewport=DESK)
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on(
        "response", lambda answer: seen.errors.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None
    )
    page.goto(url, wait_until="networkidle")  # not "load": the page in the root sends the reader on
    page.evaluate("() => window.MathJax?.startup?.promise")
    read(page, seen)
    seen.too_wide = page.evaluate(TOO_WIDE)
    page.set_viewport_size(PHONE)
    seen.too_wide += page.evaluate(TOO_WIDE)
    page.close()
    return seen


def read(page: Page, seen: Visit) -> None:
    seen.html = page.content()
    seen.text = page.evaluate(PROSE)
    seen.formulas = page.locator("article .math").count()
    seen.typeset = page.locator("article .math mjx-container").count()
    seen.wrong_formulas = page.locator("mjx-merror, [data-mjx-error]").all_inner_texts()


#: The words of the article that are not code, where TeX that was not typeset would stand.
PROSE = """() => {
  const article = document.querySelector("article")?.cloneNode(true);
  article?.querySelectorAll("pre, code, script, style, mjx-container").forEach(element => element.remove());
  return article?.textContent ?? "";
}"""

#: Elements that stick out of a page which can be scrolled sideways, and lines of code that stick out of their boxes.
TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth, start = e => e.outerHTML.slice(0, 120);
  const code = [...document.querySelectorAll("article pre")].filter(e => !e.closest(".cell_output"));
  const cut = code.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => `code is cut off: ${start(e)}`);
  if (document.documentElement.scrollWidth <= width) return cut;
  const wide = [...document.querySelectorAll("article *")].filter(e => e.getBoundingClientRect().right > width + 1);
  return [...cut, `the page is ${document.documentElement.scrollWidth} wide`, ...wide.map(start)];
}"""


def error_problems(seen: Visit) -> list[str]:
    return seen.errors


def host_problems(seen: Visit) -> list[str]:
    """Requests to any host but the page's own, answered or not."""
    home = urlsplit(seen.url).netloc
    outside = (url for url in seen.requests if urlsplit(url).scheme not in ("data", "blob"))
    return [f"asks {url}" for url in outside if urlsplit(url).netloc != home]


def math_problems(seen: Visit) -> list[str]:
    found = [f"MathJax cannot read {formula}" for formula in seen.wrong_formulas]
    if seen.typeset < seen.formulas:
        found.append(f"{seen.formulas - seen.typeset} of {seen.formulas} formulas are not typeset")
    return found + [
        f"raw TeX in the text: {seen.text[m.start() - 20 : m.end() + 20]!r}" for m in RAW_TEX.finditer(seen.text)
    ]


def width_problems(seen: Visit) -> list[str]:
    return seen.too_wide


def picture_problems(html: str) -> list[str]:
    """Pictures in the article that say nothing to a reader who cannot see them."""
    article = BeautifulSoup(html, "html.parser").find("article")
    if not isinstance(article, Tag):
        return []
    images = [image for image in article.find_all("img") if not good_alt(str(image.get("alt", "")))]
    drawings = [drawing for drawing in article.find_all("svg") if not (decorative(drawing) or named(drawing))]
    return [f"without a description: {str(picture)[:160]}" for picture in images + drawings]


def good_alt(alt: str) -> bool:
    return bool(alt.strip()) and not ADDRESS.match(alt.strip())


def decorative(drawing: Tag) -> bool:
    """Icons and parts of formulas are named by what they stand in."""
    return drawing.get("aria-hidden") == "true" or drawing.find_parent(["button", "mjx-container"]) is not None


def named(drawing: Tag) -> bool:
    title = drawing.find("title")
    name = drawing.get("aria-label") or (title.get_text() if title else "")
    return drawing.get("role") == "img" and bool(str(name).strip())


@cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_bytes(), "html.parser")


@cache
def anchors(page: Path) -> frozenset[str]:
    return frozenset(str(tag["id"]) for tag in soup(page).find_all(id=True))


def link_problems(site: Path, page: Path) -> Iterator[str]:
    """Links and files of a page that lead to nothing in the built site."""
    here = page.relative_to(site).as_posix()
    for tag, attribute in (("a", "href"), ("link", "href"), ("script", "src"), ("img", "src")):
        for element in soup(page).find_all(tag, attrs={attribute: True}):
            address = str(element[attribute])
            if not urlsplit(address).scheme and not leads_somewhere(site, here, address):
                yield f"{here}: <{tag}> leads nowhere: {address}"


def leads_somewhere(site: Path, here: str, address: str) -> bool:
    parts = urlsplit(urljoin(f"/{here}", address))
    target = site / unquote(parts.path).lstrip("/")
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return False
    fragment = unquote(parts.fragment)
    return target.suffix != ".html" or fragment in ("", "top") or fragment in anchors(target)
