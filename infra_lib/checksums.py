"""Checksums beside what they are of, in the format of ``sha256sum``, which can check them too.

A single file has them in ``<name>.sha256`` beside it; a folder, in its ``SHA256SUMS``. They are
written after the file, so that an interrupt leaves a file without a checksum, which counts
as absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from infra_lib.errors import DataError
from infra_lib.files import file_digest, write_text

MANIFEST = "SHA256SUMS"
"""Name of the file that lists the checksums of a folder."""


# --- One file ----------------------------------------------------------------------------


def checksum_path(path: Path) -> Path:
    """Return the file that holds a file's checksum."""
    return path.with_name(path.name + ".sha256")


def write_checksum(path: Path) -> None:
    """Write the checksum of a finished file beside it."""
    write_text(checksum_path(path), f"{file_digest(path)}  {path.name}\n")


def forget_checksum(path: Path) -> None:
    """Remove the checksum of a file that is about to be written again: it would speak of the old one."""
    checksum_path(path).unlink(missing_ok=True)


def how_damaged(path: Path) -> str:
    """Return what is wrong with a file that is there and not intact, as the end of a sentence."""
    return "is torn or changed" if checksum_path(path).exists() else "was not finished"


def is_intact(path: Path) -> bool:
    """Return whether a file is there with its checksum and has not changed since."""
    try:
        return checksum_path(path).read_bytes() == f"{file_digest(path)}  {path.name}\n".encode()
    except OSError:
        return False


# --- A folder ----------------------------------------------------------------------------


def folder_digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder but its list, by relative name, sorted."""
    return {str(path.relative_to(folder)): file_digest(path) for path in files_below(folder)}


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in order, without its list, temporary files and lock files."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST and not path.name.endswith((".tmp", ".lock")):
            yield path


def write_manifest(folder: Path) -> Path:
    """Write the list of a folder's checksums and return its path."""
    write_text(folder / MANIFEST, _as_lines(folder_digests(folder)))
    return folder / MANIFEST


def damaged_others(folder: Path, *changed: str) -> list[str]:
    """Return the listed files of a folder that differ from their lines, without some files or folders."""
    recorded = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
    meant = tuple(f"{name}/" for name in changed)
    return damage(folder, {n: d for n, d in recorded.items() if n not in changed and not n.startswith(meant)})


def list_anew(folder: Path, *changed: str) -> Path:
    """Write a folder's list with new checksums for some files or folders in it; return the list's path.

    Parameters
    ----------
    changed
        Names below the folder, of files or folders, that were just written.

    Raises
    ------
    DataError
        For any other file that differs from its line: its change must not pass with this one.
    """
    if damaged := damaged_others(folder, *changed):
        raise DataError(
            folder / damaged[0],
            f"is not the file that was recorded; restore it, then `infra verify --update-records` lists "
            f"{', '.join(changed)}",
        )
    return write_manifest(folder)


def _as_lines(digests: Mapping[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def read_manifest(folder: Path) -> dict[str, str]:
    """Return the recorded digests of a folder's files, by relative name.

    Raises
    ------
    DataError
        For a list that is missing or torn.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes().decode("utf-8")
        lines = [line.partition("  ") for line in text.split("\n") if line]
        digests = {name: digest for digest, _, name in lines}
        whole = text == _as_lines(digests) and all(len(digest) == 64 for digest in digests.values())
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise DataError(path, "is missing or torn: it lists the checksums of this folder")
    return digests


def names_within(listed: object) -> bool:
    """Return whether a record's list of files is one, and names nothing outside its own folder.

    Folders come from anybody: a name could lead out of one, to what never ends when it is read.
    """
    return isinstance(listed, dict) and not any(
        Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name for name in listed
    )


def damage(folder: Path, recorded: Mapping[str, str]) -> list[str]:
    """Return the recorded files of a folder that are missing, unreadable, or differ from their digest."""
    return [name for name, digest in recorded.items() if not _matches(folder / name, digest)]


def _matches(path: Path, digest: str) -> bool:
    try:
        return file_digest(path) == digest
    except OSError:
        return False


def check_record(root: Path, path: Path) -> None:
    """Raise for a file of ``records/`` that differs from its recorded checksum.

    Raises
    ------
    DataError
        For a file that has changed, or is not in the list.
    """
    folder = root / "records"
    name = str(path.relative_to(folder))
    recorded = read_manifest(folder)
    if name not in recorded:
        raise DataError(path, "is not listed in records/SHA256SUMS: `infra verify --update-records` lists it")
    if damage(folder, {name: recorded[name]}):
        raise DataError(
            path,
            "is not the file that was recorded; restore it from version control, or, where it was just made "
            "and its making was cut off, `infra verify --update-records` lists it",
        )
