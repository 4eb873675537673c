"""How long a reader waits for the explorer: its first view and a change of view, beside a plain page.

The built book is opened from disk in Debian's Chromium, the explorer and the glossary in turns, each time
with an empty cache, at the speed of this machine and with the processor slowed down fourfold, as on a phone.

- ``first view``: from the start of navigation until the first examples stand there;
- ``change``: from the choice of another target until its examples stand there;
- ``plain``: from the start of navigation until the glossary has loaded.

Run: ``python -m benchmarks.explorer [--html _build/html] [--rounds 9]``.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

PLAIN = "glossary"
# Runs before the page's own scripts. Waits end in the page, so that the driver's own time is not in them.
WATCH = """
window.shown = new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error('no example after a minute')), 60000);
  const look = () => {
    const part = document.querySelector('#influence-explorer');
    const ready = part && !part.hasAttribute('aria-busy') && part.querySelector('.explorer-card');
    ready ? resolve(performance.now()) : requestAnimationFrame(look);
  };
  look();
});
"""
CHANGE = """() => new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error('no other examples after a minute')), 60000);
  const part = document.querySelector('#influence-explorer');
  const choice = document.querySelector('#explorer-target');
  const before = part.querySelector('.explorer-card');
  const started = performance.now();
  choice.value = [...choice.options].find(option => option.value !== choice.value).value;
  choice.dispatchEvent(new Event('input', {bubbles: true}));
  choice.dispatchEvent(new Event('change', {bubbles: true}));
  const look = () => {
    const now = part.querySelector('.explorer-card');
    const ready = now && now !== before && !part.hasAttribute('aria-busy');
    ready ? resolve(performance.now() - started) : requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""
LOADED = """() => new Promise(resolve => {
  const end = () => performance.getEntriesByType('navigation')[0].loadEventEnd;
  const look = () => end() ? resolve(end()) : requestAnimationFrame(look);
  look();
})"""


def once(browser: Any, html: Path, slowdown: int, *, plain: str = PLAIN) -> dict[str, float]:
    """Return the waits of one reader with an empty cache, in milliseconds."""
    found = {}
    for name in ("explorer", plain):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": slowdown})
        if name == "explorer":
            page.add_init_script(WATCH)
        page.goto((html / f"{name}.html").as_uri(), wait_until="commit")
        if name == plain:
            found["plain"] = page.evaluate(LOADED)
        else:
            found["first view"] = page.evaluate("window.shown")
            found["change"] = page.evaluate(CHANGE)
        context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--html", type=Path, default=Path("_build/html"), help="the built book")
    parser.add_argument("--rounds", type=int, default=9, help="times that each page is opened")
    given = parser.parse_args()
    html = given.html.resolve()
    if not (html / "explorer.html").is_file():
        parser.error(f"--html {given.html}: it has no explorer.html; build the book first (make book)")
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: it must be 1 or more")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        parser.error("Chromium is not installed (apt-get install chromium)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for slowdown in (1, 4):
            rounds = [once(browser, html, slowdown) for _ in range(given.rounds)]
            plain = statistics.median(row["plain"] for row in rounds)
            print(f"processor slowed down {slowdown} ×, median and range of {given.rounds}")
            for name in ("first view", "change", "plain"):
                values = [row[name] for row in rounds]
                middle = statistics.median(values)
                spread = f"{min(values):5.0f} to {max(values):5.0f}"
                print(f"  {name:12}{middle:6.0f} ms  ({spread})  {middle / plain:5.2f} × the plain page")
        browser.close()


if __name__ == "__main__":
    main()
