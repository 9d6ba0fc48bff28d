"""What a reader does with the book: search it, darken it, move its figures, all without a kernel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

SITE = Path(__file__).resolve().parents[2] / "_build" / "html"
TOUR = "notebooks/00-tour.html"
MOVING = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.glob("notebooks/*.html")
    if 'class="scrubber"' in path.read_text("utf-8")
)


def test_search_finds_diffusion(page: Page, home: str) -> None:
    page.goto(f"{home}/search.html?q=diffusion")
    results = page.locator("#search-results ul.search li")
    expect(results.first).to_contain_text("diffusion", ignore_case=True)
    results.first.locator("a").first.click()
    expect(page.locator("article")).to_contain_text("diffusion", ignore_case=True)


def test_control_k_opens_the_search(page: Page, home: str) -> None:
    page.goto(f"{home}/book/preface.html")
    dialog = page.locator("#pst-search-dialog")
    expect(dialog).to_be_hidden()
    page.keyboard.press("Control+k")
    expect(dialog).to_be_visible()
    page.keyboard.type("diffusion")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"search\.html\?q=diffusion"))


def test_the_page_darkens(page: Page, home: str) -> None:
    page.goto(f"{home}/{TOUR}")
    colors = {}
    for _ in range(3):  # the button goes round light, dark and the system's own
        page.locator("button.theme-switch-button:visible").first.click()
        theme = page.evaluate("document.documentElement.dataset.theme")
        colors[theme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert set(colors) == {"light", "dark"}
    assert colors["light"] != colors["dark"]


def test_pictures_are_not_dimmed_in_the_dark(page: Page, home: str) -> None:
    page.add_init_script("localStorage.setItem('mode', 'dark'); localStorage.setItem('theme', 'dark')")
    page.goto(f"{home}/notebooks/12-scale-and-dimension.html")
    pictures = "figure.figure-card img, figure.scrubber img"
    assert page.locator("figure.scrubber img").count()
    filters = page.eval_on_selector_all(pictures, "images => images.map(image => getComputedStyle(image).filter)")
    assert set(filters) == {"none"}


def test_controls_have_names_that_contain_what_they_show(page: Page, home: str) -> None:
    page.goto(f"{home}/{TOUR}")
    wrong = page.evaluate(
        """() => [...document.querySelectorAll("button, summary, input:not([type=hidden]):not([type=checkbox])")]
            .filter(e => e.checkVisibility())
            .filter(e => {
                const words = e.innerText.trim().replace(/\\s+/g, " "), label = e.getAttribute("aria-label");
                return label ? !label.includes(words) : !(words || e.title || e.closest("label") || e.labels?.length);
            }).map(e => e.outerHTML.slice(0, 160))"""
    )
    assert wrong == []


def test_the_tour_moves(site: Path) -> None:
    assert TOUR in MOVING


@pytest.fixture(scope="module")
def scrubber(moving_page: Page, home: str, request: pytest.FixtureRequest) -> Locator:
    """The first one of a page, which all tests move in turn."""
    moving_page.goto(f"{home}/{request.param}")
    return moving_page.locator("figure.scrubber").first


on_every_scrubber = pytest.mark.parametrize("scrubber", MOVING, indirect=True)


def state(scrubber: Locator) -> tuple[list[object], str]:
    """Where the markers are or which pictures show, and what the readout says."""
    markers = scrubber.locator("svg circle.marker").all()
    pictures = scrubber.locator(".frame img:visible").all()
    parts: list[object] = [(m.get_attribute("cx"), m.get_attribute("cy")) for m in markers]
    parts += [picture.get_attribute("src") for picture in pictures]
    return parts, scrubber.locator("output").inner_text()


def assert_moved(before: tuple[list, str], after: tuple[list, str]) -> None:
    assert before[0]
    assert before[0] != after[0]
    assert before[1] != after[1]


@on_every_scrubber
def test_scrubber_has_the_parts_a_reader_needs(scrubber: Locator) -> None:
    expect(scrubber.get_by_role("slider")).to_have_count(1)
    expect(scrubber.get_by_role("slider")).to_have_accessible_name(re.compile(r"\w"))
    expect(scrubber.get_by_role("button").first).to_have_accessible_name(re.compile(r"\w"))
    expect(scrubber.locator("output")).not_to_be_empty()
    drawings, frames = scrubber.locator("svg:has(circle.marker)").count(), scrubber.locator(".frame").count()
    assert drawings + frames >= 2
    assert scrubber.locator("circle.marker").count() == drawings
    assert scrubber.locator(".frame:visible").count() == min(frames, 1)


def test_the_tour_ties_three_views_together(page: Page, home: str) -> None:
    page.goto(f"{home}/{TOUR}")
    before, _ = state(page.locator("figure.scrubber").first)
    page.get_by_role("slider").first.press("Home")
    after, _ = state(page.locator("figure.scrubber").first)
    assert len(before) == 3
    assert all(one != other for one, other in zip(before, after, strict=True))


@on_every_scrubber
def test_keyboard_moves_the_scrubber(scrubber: Locator) -> None:
    slider = scrubber.get_by_role("slider")
    slider.press("Home")
    start = state(scrubber)
    slider.press("ArrowRight")
    step = state(scrubber)
    assert_moved(start, step)
    slider.press("End")
    assert_moved(step, state(scrubber))


@on_every_scrubber
def test_input_moves_the_scrubber(scrubber: Locator) -> None:
    slider = scrubber.get_by_role("slider")
    slider.press("Home")
    start = state(scrubber)
    slider.evaluate("e => { e.value = (+e.min + +e.max) / 2; e.dispatchEvent(new Event('input', {bubbles: true})); }")
    assert_moved(start, state(scrubber))


@on_every_scrubber
def test_button_moves_the_scrubber(scrubber: Locator) -> None:
    slider = scrubber.get_by_role("slider")
    slider.press("Home")
    start, value = state(scrubber), slider.input_value()
    scrubber.get_by_role("button").first.click()
    expect(slider).not_to_have_value(value)
    assert_moved(start, state(scrubber))
