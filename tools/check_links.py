"""Check every link of the built book: files, places on pages, and, with ``--external``, other servers.

``python tools/check_links.py [--external] [FOLDER]`` prints what leads nowhere and exits with status 1.
It needs Python alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

BUILT = Path(__file__).resolve().parents[1] / "_build" / "html"
ALIVE = (401, 403, 405, 429)
"""Answers of a server that is there and does not like to be asked by a program."""


class _Page(HTMLParser):
    """Collects the addresses that a page names and the places that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src", "xlink:href") and value and tag != "use":
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def read_pages(folder: Path) -> dict[Path, _Page]:
    """Return the pages below a folder by path."""
    return {
        path.resolve(): _Page(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.html"))
        if "_static" not in path.relative_to(folder).parts
    }


def broken_links(folder: Path) -> list[str]:
    """Return ``page: link`` for every link within the folder that leads nowhere."""
    pages = read_pages(folder)
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            missing = not target.exists()
            if not missing and place and target in pages:
                missing = place not in pages[target].places
            if missing:
                broken.append(f"{path.relative_to(folder.resolve())}: {link}")
    return broken


def broken_addresses(folder: Path, *, tries: int = 3, wait: float = 5.0) -> list[str]:
    """Return ``page: address`` for every address outside the folder that no server answers for."""
    first: dict[str, Path] = {}
    for path, page in read_pages(folder).items():
        for link in page.links:
            if urlsplit(link).scheme in ("http", "https"):
                first.setdefault(link.partition("#")[0], path)
    return [
        f"{path.relative_to(folder.resolve())}: {link} ({problem})"
        for link, path in first.items()
        if (problem := _problem(link, tries, wait))
    ]


def _problem(link: str, tries: int, wait: float) -> str | None:
    problem = None
    for attempt in range(tries):
        time.sleep(wait * attempt)
        try:
            with urlopen(Request(link, headers={"User-Agent": "link-check"}), timeout=30):
                return None
        except HTTPError as error:
            if error.code in ALIVE:
                return None
            problem = str(error.code)
        except (URLError, TimeoutError, OSError) as error:
            problem = str(error)
    return problem


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=BUILT)
    parser.add_argument("--external", action="store_true", help="ask other servers too")
    options = parser.parse_args()
    found = broken_links(options.folder)
    if options.external:
        found += broken_addresses(options.folder)
    print("\n".join(found) or "every link leads somewhere")
    sys.exit(bool(found))
