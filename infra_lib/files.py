"""Files and folders that are either whole or absent, and the digests by which results are known."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra_lib.errors import DataError

SEAL = "sha256"
"""Key under which a sealed JSON file carries its own checksum."""


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a JSON-serialisable value, independent of dictionary order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


# --- Whole files -------------------------------------------------------------------------


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends well.

    A crash, a full disk or an interrupt leaves the old file (or none), never half a new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and a final newline, whole or not at all."""
    write_text(path, _as_text(value))


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object that carries its own checksum, so that a changed byte is found on reading."""
    value = json.loads(json.dumps(value))  # keys become text here as they will on reading
    write_text(path, _as_text({**value, SEAL: digest_of(value)}))


def read_sealed(path: Path) -> dict[str, Any]:
    """Return an object that :func:`write_sealed` wrote, without its checksum.

    Raises
    ------
    DataError
        For a file that is torn, or of which any byte has changed.
    OSError
        For a file that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        whole = isinstance(value, dict) and text == _as_text(value)
        intact = whole and value.pop(SEAL, None) == digest_of(value)
    except ValueError:
        intact = False
    if not intact:
        raise DataError(path, "is torn, or was changed since it was written")
    return value


def is_sealed(path: Path) -> bool:
    """Return whether a JSON file says that it carries its own checksum, be that right or wrong.

    True for a file that cannot be read as JSON, which may have carried one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return True
    return not isinstance(value, dict) or SEAL in value or "files" in value


def _as_text(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _sync(path: Path) -> None:
    """Ask the system to write a file or a folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- Whole folders -----------------------------------------------------------------------


def replace_folder(new: Path, old: Path) -> None:
    """Put a finished folder in the place of an old one; a crash leaves the old or the new, whole."""
    for path in [*sorted(new.rglob("*")), new]:
        _sync(path)
    recover_folder(old)
    aside = _aside(old)
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        if _exchange(new, old):
            new.rename(aside)
        else:
            old.rename(aside)
            new.rename(old)
    else:
        new.rename(old)
    _sync(old.parent)
    shutil.rmtree(aside, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Bring back a folder whose replacement was cut off between taking the old away and putting the new."""
    aside = _aside(folder)
    if aside.exists() and not folder.exists():
        aside.rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, where the system can (Linux); return whether it was done."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap is not None and swap(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove temporary files of :func:`replacing` whose process is gone; return those removed."""
    removed = []
    for path in folder.rglob(".*.tmp"):
        named = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if named and path.is_file() and not _is_alive(int(named[1])):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def copied(path: Path, folder: Path, name: str) -> str:
    """Copy a file to ``folder/name``, whose folders are made, and return the name."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, folder / name)
    return name
