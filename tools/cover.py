"""Take the cover picture of the README from the built book: the two maps of the tour, as a reader sees them."""

from pathlib import Path
from shutil import which

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "_build/html/notebooks/00-tour.html"
COVER = ROOT / "book/_static/cover.png"

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(device_scale_factor=2)
    page.goto(PAGE.as_uri())
    page.locator("figure.figure-card .panels").first.screenshot(path=COVER)
    browser.close()
print(f"Wrote {COVER.relative_to(ROOT)}")
