"""Take the README's pictures of the book: its first page, as built, in the light and in the dark theme.

``make book && python tools/readme_picture.py`` writes ``records/readme/landing-light.png`` and
``landing-dark.png`` with Debian's Chromium, and puts them into README.md. The study and commit that the
pictures show are kept beside them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from infra_lib.checksums import damaged_others, list_anew
from infra_lib.files import write_json, write_text
from infra_lib.layout import project_root

BEGIN, END = "<!-- picture: written by tools/readme_picture.py -->", "<!-- /picture -->"
WIDTH, HEIGHT = 1280, 900


def take(page_file: Path, folder: Path) -> str:
    """Write the pictures and return the page's answer in a sentence, their alternative text."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("Chromium is needed: sudo apt-get install chromium")
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for theme in ("light", "dark"):
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=theme)
            page.goto(page_file.resolve().as_uri())
            page.wait_for_function("document.fonts.status === 'loaded'")
            page.screenshot(path=str(folder / f"landing-{theme}.png"), animations="disabled")
            answer = page.locator(".infra-lede").inner_text()
            page.close()
        browser.close()
    return " ".join(answer.split())


def block(answer: str) -> str:
    """Return the README's lines that show the pictures."""
    alt = answer.replace('"', "&quot;")
    return f"""<picture>
  <source media="(prefers-color-scheme: dark)" srcset="records/readme/landing-dark.png">
  <img src="records/readme/landing-light.png" width="100%" alt="The book's first page. {alt}">
</picture>"""


def main() -> int:
    """Take the pictures of the built book."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    root = project_root()
    first = root / "_build" / "html" / "index.html"
    if not first.is_file():
        sys.exit("no book has been built yet; do `make book` first")
    provenance = json.loads((root / "book/results/06_summary.provenance.json").read_text(encoding="utf-8"))
    records = root / "records"
    if damaged := damaged_others(records, "readme"):
        sys.exit(f"records/{damaged[0]} is not the file that was recorded; restore it first")
    answer = take(first, records / "readme")
    about = {"study": provenance["study"], "commit": provenance["environment"]["commit"], "answer": answer}
    write_json(records / "readme" / "picture.json", about)
    list_anew(records, "readme")
    readme = (root / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN, 1)
    write_text(root / "README.md", f"{before}{BEGIN}\n{block(answer)}\n{END}{rest.split(END, 1)[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
