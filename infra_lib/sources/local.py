"""Rows of a data set in a local folder, in the layout that the hub gives it.

Files are parquet, JSON Lines, JSON (a list), each of the last two also with gzip. Which files
belong to a configuration and split is read from the card (``README.md``, its ``configs``) or,
without one, from names: ``data/train-00000-of-00004.parquet``, ``sanitized/test.jsonl``.

Before a row is read, the whole folder is checked: a half-downloaded data set is never used.
"""

from __future__ import annotations

import fnmatch
import gzip
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from infra_lib.errors import DataError, ParameterError
from infra_lib.sources.rows import Row, shorten

SUFFIXES = (".parquet", ".jsonl", ".json", ".jsonl.gz", ".json.gz")
_SHARD = re.compile(r"(?P<stem>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})(?P<end>\..+)")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_NO_DATA = {"dataset_info.json", "dataset_infos.json", "state.json"}


def data_files(folder: Path) -> list[Path]:
    """Return the data files of a folder, sorted, without hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.name.endswith(SUFFIXES)
        and path.name not in _NO_DATA
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def check_whole(folder: Path) -> None:
    """Raise where a folder looks like a download that did not finish.

    Raises
    ------
    DataError
        For a file that ends in ``.incomplete``, a missing shard, a Git LFS pointer, an empty file or
        a torn parquet file.
    """
    again = "download it again (hf download --repo-type dataset NAME --local-dir FOLDER)"
    # `hf download` keeps what has not arrived yet under .cache/huggingface/download.
    for path in sorted(chain(folder.rglob("*.incomplete"), folder.rglob("*.part"))):
        raise DataError(path, f"is half a download, so the folder is not used; {again}")
    shards: dict[tuple[Path, str, str, str], set[int]] = defaultdict(set)
    for path in data_files(folder):
        check_file(path, again)
        if match := _SHARD.fullmatch(path.name):
            key = (path.parent, match["stem"], match["count"], match["end"])
            shards[key].add(int(match["index"]))
    for (parent, stem, count, end), there in sorted(shards.items()):
        missing = sorted(set(range(int(count))) - there)
        if missing:
            name = parent / f"{stem}-{missing[0]:05d}-of-{count}{end}"
            raise DataError(name, f"is missing ({len(there)} of {int(count)} shards are there); {again}")


def check_file(path: Path, again: str = "download it again") -> None:
    """Raise where one data file is a Git LFS pointer, empty, or a torn parquet file."""
    with path.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise DataError(path, "is a Git LFS pointer, not the data: run git lfs pull, or " + again)
    if not head:
        raise DataError(path, f"is empty; {again}")
    if path.name.endswith(".parquet"):
        try:
            pq.ParquetFile(path).close()
        except (pa.ArrowException, OSError) as error:
            raise DataError(path, f"is torn or no parquet file ({_first(error)}); {again}") from None


def choose_files(folder: Path, config: str | None, split: str) -> list[Path]:
    """Return the files of a configuration and split.

    Raises
    ------
    ParameterError
        For a configuration or split that is not there, with those that are.
    DataError
        For a folder without data files.
    """
    files = data_files(folder)
    if not files:
        kinds = ", ".join(SUFFIXES)
        raise DataError(folder, f"holds no data file ({kinds})")
    card = read_card(folder)
    configs = card.get("configs")
    if isinstance(configs, list) and configs:
        return _by_card(folder, files, configs, config, split)
    if config is not None and (folder / config).is_dir():
        files = [path for path in files if path.relative_to(folder).parts[0] == config]
    elif len(top := {path.relative_to(folder).parts[0] for path in files if path.parent != folder}) > 1:
        raise ParameterError("config", config, f"one of {', '.join(sorted(top))}")
    return _by_name(folder, files, split)


def read_card(folder: Path) -> dict[str, Any]:
    """Return the metadata of a folder's card (YAML between two lines of ``---``), empty without one."""
    card = folder / "README.md"
    if not card.is_file():
        return {}
    parts = re.split(r"^---[ \t]*$", card.read_text(encoding="utf-8", errors="replace"), flags=re.M)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        found = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def promised_rows(folder: Path, config: str | None, split: str) -> int | None:
    """Return the number of rows that the card states for a split, or None where it states none."""
    info = read_card(folder).get("dataset_info")
    entries = [entry for entry in (info if isinstance(info, list) else [info]) if isinstance(entry, dict)]
    for entry in entries:
        if len(entries) > 1 and entry.get("config_name", "default") != (config or "default"):
            continue
        for part in entry.get("splits") or []:
            if isinstance(part, dict) and part.get("name") == split:
                count = part.get("num_examples")
                return count if isinstance(count, int) else None
    return None


def _by_card(
    folder: Path, files: Sequence[Path], configs: list[Any], config: str | None, split: str
) -> list[Path]:
    named = {str(entry.get("config_name", "default")): entry for entry in configs if isinstance(entry, dict)}
    if config is None:
        default = [name for name, entry in named.items() if entry.get("default")]
        config = default[0] if default else ("default" if "default" in named else next(iter(named)))
    if config not in named:
        raise ParameterError("config", config, f"one of {', '.join(named)} ({folder})")
    patterns = named[config].get("data_files")
    if isinstance(patterns, str):
        patterns = [{"split": "train", "path": patterns}]
    by_split: dict[str, list[str]] = {}
    for part in patterns or []:
        where = part.get("path") if isinstance(part, dict) else part
        key = str(part.get("split", "train")) if isinstance(part, dict) else "train"
        by_split.setdefault(key, []).extend([where] if isinstance(where, str) else list(where or []))
    if split not in by_split:
        raise ParameterError("split", split, f"one of {', '.join(by_split) or 'none'} ({folder})")
    chosen = [
        path
        for path in files
        if any(fnmatch.fnmatch(path.relative_to(folder).as_posix(), p) for p in by_split[split])
    ]
    if not chosen:
        raise DataError(folder, f"has no file {', '.join(by_split[split])}, which its card names for {split}")
    return chosen


def _by_name(folder: Path, files: Sequence[Path], split: str) -> list[Path]:
    words = {path: _split_of(path.relative_to(folder)) for path in files}
    chosen = [path for path, found in words.items() if found == split]
    if chosen:
        return chosen
    if len(files) == 1 and words[files[0]] is None:
        return list(files)
    there = sorted({found for found in words.values() if found})
    raise ParameterError("split", split, f"one of {', '.join(there) or 'none'} ({folder})")


def _split_of(path: Path) -> str | None:
    """Return the split that a path names: in its file name first, then in its folders."""
    for part in reversed(path.parts):
        words = re.split(r"[^a-z]+", part.lower())
        for split, names in _SPLITS.items():
            if any(name in words for name in names):
                return split
        if match := _SHARD.fullmatch(part):
            return match["stem"]
    return None


def columns_of(path: Path) -> list[str] | None:
    """Return the columns of a parquet file, or None for a format that has no schema."""
    if not path.name.endswith(".parquet"):
        return None
    return [str(name) for name in pq.read_schema(path).names]


def read_rows(path: Path, columns: Iterable[str] | None = None) -> Iterator[Row | DataError]:
    """Yield the rows of a file in order, and an error in the place of each one that cannot be read.

    Parameters
    ----------
    columns
        Names (in any case) of the columns to take from parquet; None takes all.
    """
    if path.name.endswith(".parquet"):
        yield from _parquet_rows(path, columns)
    else:
        yield from _json_rows(path)


def _parquet_rows(path: Path, columns: Iterable[str] | None) -> Iterator[Row]:
    wanted = None if columns is None else {name.lower() for name in columns}
    number = 0
    try:
        with pq.ParquetFile(path) as table:
            names = [n for n in table.schema_arrow.names if wanted is None or n.lower() in wanted]
            for batch in table.iter_batches(batch_size=256, columns=names):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(str(path), number, values)
    except (pa.ArrowException, OSError) as error:
        raise DataError(path, f"is torn after row {number} ({_first(error)}); download it again") from None


def _json_rows(path: Path) -> Iterator[Row | DataError]:
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as stream:
            first = stream.read(1)
            while first.isspace():
                first = stream.read(1)
            stream.seek(0)
            if first == b"[":
                yield from _json_list(path, stream.read())
                return
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    row = _json_line(path, number, line)
                    # A bad row ends with its line; one that ends with the file has not arrived whole.
                    if isinstance(row, DataError) and not line.endswith(b"\n"):
                        raise DataError(path, f"is torn in line {number}, its last; download it again")
                    yield row
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(path, f"is torn ({_first(error)}); download it again") from None


def _json_list(path: Path, raw: bytes) -> Iterator[Row | DataError]:
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"is no JSON ({_first(error)}), or half a download") from None
    for number, entry in enumerate(entries, start=1):
        yield _as_row(path, number, entry)


def _json_line(path: Path, number: int, line: bytes) -> Row | DataError:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        return DataError(path, f"is no JSON object ({_first(error)})", number)
    return _as_row(path, number, entry)


def _as_row(path: Path, number: int, entry: Any) -> Row | DataError:
    if not isinstance(entry, dict):
        return DataError(path, f"is {shorten(entry)}; it must be a JSON object", number)
    return Row(str(path), number, entry)


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
