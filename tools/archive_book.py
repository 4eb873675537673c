"""Pack the built book and the results that it shows into one versioned archive with a manifest.

``python tools/archive_book.py`` writes ``_build/archive/infra-book-VERSION-STUDY-COMMIT.zip`` with
``html/``, ``results/`` and ``manifest.json``: version, study, commit, and the SHA-256 of every page,
file and result. The same book gives the same bytes.
"""

from __future__ import annotations

import json
import sys
import tomllib
import zipfile
from pathlib import Path

from infra_lib.checksums import damage, files_below, folder_digests, read_manifest
from infra_lib.layout import project_root

DATE = (1980, 1, 1, 0, 0, 0)
"""The date of every file in the archive, so that it depends on their contents alone."""


def manifest(root: Path) -> dict[str, object]:
    """Return what the archive says of itself."""
    record = json.loads((root / "book/results/06_summary.provenance.json").read_text(encoding="utf-8"))
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    digests = folder_digests(root / "_build" / "html")
    return {
        "version": version,
        "study": record["study"],
        "commit": record["environment"]["commit"],
        "pages": {name: digest for name, digest in digests.items() if name.endswith(".html")},
        "files": {name: digest for name, digest in digests.items() if not name.endswith(".html")},
        "results": folder_digests(root / "book" / "results"),
    }


def pack(root: Path) -> Path:
    """Write the archive and return its path; a book that has changed since it was built is refused."""
    folders = {"html": root / "_build" / "html", "results": root / "book" / "results"}
    for folder in folders.values():
        if damaged := damage(folder, read_manifest(folder)):
            sys.exit(
                f"{folder / damaged[0]} is missing or changed since the book was built: `infra book` again"
            )
    about = manifest(root)
    name = f"infra-book-{about['version']}-{about['study']}-{str(about['commit']).replace('+', '-')[:20]}.zip"
    target = root / "_build" / "archive" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        text = json.dumps(about, indent=1, sort_keys=True)
        archive.writestr(zipfile.ZipInfo("manifest.json", DATE), text, zipfile.ZIP_DEFLATED)
        for inside, folder in folders.items():
            for path in files_below(folder):
                entry = zipfile.ZipInfo(f"{inside}/{path.relative_to(folder).as_posix()}", DATE)
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    part.replace(target)
    return target


if __name__ == "__main__":
    print(pack(project_root()))
