"""Sphinx extension: what a page says of itself to those who share, open or launch it.

Two settings of ``_config.yml``, each also an environment variable, say where the project is public:

- ``infra_book_url`` (``INFRA_BOOK_URL``): where the book will be; the preview card needs a whole address.
- ``infra_repository_url`` (``INFRA_REPOSITORY_URL``): where the notebooks are; launch buttons appear
  only where it is set.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

CARD = Path("generated") / "card.png"
SUMMARY = Path("generated") / "landing_summary.txt"
LAUNCH_BRANCH = "notebooks"
"""Branch of the repository that the publishing workflow fills with the executed notebooks."""


def apply_addresses(app: Sphinx, config: Config) -> None:
    """Set what depends on the two addresses."""
    book = address(config, "infra_book_url")
    repository = address(config, "infra_repository_url")
    config.ogp_site_url = f"{book}/" if book else ""
    if book:
        config.html_baseurl = f"{book}/"
    if not repository:
        return
    options = config.html_theme_options
    options["repository_url"] = repository
    options["repository_branch"] = LAUNCH_BRANCH
    options["path_to_docs"] = "book"
    options["use_repository_button"] = True
    options["launch_buttons"] = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}
    if urlparse(repository).hostname == "github.com":
        options["launch_buttons"]["colab_url"] = "https://colab.research.google.com"


def address(config: Config, name: str) -> str:
    """Return an address from the environment or the settings, without a slash at its end."""
    value = (os.environ.get(name.upper()) or config[name] or "").rstrip("/")
    if value and (urlparse(value).scheme not in ("http", "https") or not urlparse(value).hostname):
        raise ExtensionError(f"{name} is {value!r}; it must be an address such as https://example.org/name")
    return value


def describe(app: Sphinx, page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Give the first page the sentence with the verdicts as its description."""
    summary = Path(app.srcdir) / "results" / SUMMARY
    if page == "index" and summary.is_file():
        text = summary.read_text(encoding="utf-8").strip()
        context["meta"] = {**(context.get("meta") or {}), "og:description": text}
        escaped = text.replace("&", "&amp;").replace('"', "&quot;")
        context["metatags"] = (
            context.get("metatags", "") + f'<meta name="description" content="{escaped}" />\n'
        )


def copy_card(app: Sphinx, failure: Exception | None) -> None:
    """Put the card where its address says."""
    card = Path(app.srcdir) / "results" / CARD
    if failure is None and app.builder.format == "html" and card.is_file():
        shutil.copyfile(card, Path(app.outdir) / "_static" / "card.png")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both settings; addresses are applied before the theme reads its options."""
    app.add_config_value("infra_book_url", "", "env", types=(str,))
    app.add_config_value("infra_repository_url", "", "env", types=(str,))
    app.connect("config-inited", apply_addresses, priority=100)
    app.connect("html-page-context", describe, priority=100)
    app.connect("build-finished", copy_card)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
