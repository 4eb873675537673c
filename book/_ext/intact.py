"""Sphinx extension: build only from copies of results that are as they were gathered."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def check_copies(app: Sphinx) -> None:
    """Compare every file of ``results`` with the list of checksums that was gathered with it."""
    folder = Path(app.srcdir) / "results"
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ExtensionError(
                f"results/{name} is missing or changed since it was gathered: `infra gather` again"
            )


def setup(app: Sphinx) -> dict[str, Any]:
    """Check before anything is read."""
    app.connect("builder-inited", check_copies)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
