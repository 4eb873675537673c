"""Rows of a data set from the Hugging Face hub, through the ``datasets`` library.

No code that comes with a data set is run: ``datasets`` 4 and later runs none, and a set that is
published as a script (LiveCodeBench) is read from its data files.

A download that was broken off is no matter here: ``datasets`` and the hub's client write what has not
arrived whole under names of its own and fetch it again.

A revision may be a branch, a tag or a commit. What a branch or tag stood for at loading is resolved
to a commit and kept in the report, so that a later run can name it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from infra_lib.errors import DataError, ParameterError
from infra_lib.sources.rows import Row

_UNREACHABLE = {
    *("ConnectionError", "ConnectError", "ConnectTimeout", "OfflineModeIsEnabled", "LocalEntryNotFoundError"),
    *("NameResolutionError", "TimeoutError", "ReadTimeout"),
}
_LOCAL = "or give a local folder in the same format"


def hub_table(
    name: str,
    *,
    config: str | None,
    split: str,
    revision: str | None,
    files: Sequence[str] | None = None,
) -> Any:
    """Return a ``datasets.Dataset``, downloaded or from the cache.

    Parameters
    ----------
    name
        ``owner/name`` on the hub.
    files
        Paths inside the repository, for a set without a readable layout of its own.

    Raises
    ------
    ParameterError
        For a configuration, split or revision that is not there, with those that are.
    DataError
        For a set that is gated or absent, a hub that cannot be reached, or a split without rows.
    """
    import datasets

    try:
        if files is None:
            table = datasets.load_dataset(name, config, split=split, revision=revision)
        else:
            at = f"@{revision}" if revision else ""
            urls = [f"hf://datasets/{name}{at}/{file}" for file in files]
            table = datasets.load_dataset("json", data_files={split: urls}, split=split)
    except Exception as error:
        raise explain(name, error, config=config, split=split, revision=revision) from error
    if len(table) == 0:
        raise DataError(name, f"split {split} is empty")
    return table


def hub_rows(table: Any, name: str) -> Iterator[Row]:
    """Yield the rows of a ``datasets.Dataset``."""
    for number, values in enumerate(table, start=1):
        yield Row(name, number, values)


def resolve_revision(name: str, revision: str | None) -> str | None:
    """Return the commit that a revision stands for now, or None where the hub cannot be asked."""
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, revision=revision, timeout=10).sha
    except Exception:  # whatever the reason, the rows are there and the commit is simply not known
        return None


def explain(
    name: str, error: BaseException, *, config: str | None, split: str, revision: str | None
) -> DataError | ParameterError:
    """Return a hub error as one sentence that says what to do."""
    kinds = {type(e).__name__ for e in _chain(error)}
    message = " ".join(str(e) for e in _chain(error))
    if "GatedRepoError" in kinds or re.search(r"\bgated (dataset|repo)", message, re.IGNORECASE):
        return DataError(
            name,
            "is gated: accept its terms on its page, then set HF_TOKEN to a token that may read it, "
            + _LOCAL,
        )
    if "RevisionNotFoundError" in kinds:
        return ParameterError("revision", revision, f"a branch, tag or commit of {name}")
    if match := re.search(r"Unknown split \"?([^\".]*)\"?\. Should be one of (\[[^\]]*\])", message):
        return ParameterError("split", split, f"one of {_names(match[2])} ({name})")
    if match := re.search(r"BuilderConfig .* not found\. Available: (\[[^\]]*\])", message):
        return ParameterError("config", config, f"one of {_names(match[1])} ({name})")
    if match := re.search(r"Config name is missing.*?(\[[^\]]*\])", message, re.DOTALL):
        return ParameterError("config", config, f"one of {_names(match[1])} ({name})")
    offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_DATASETS_OFFLINE")
    if kinds & _UNREACHABLE or "offline mode" in message.lower() or "Couldn't reach" in message:
        why = "offline mode is on (HF_HUB_OFFLINE)" if offline else "the hub cannot be reached from here"
        fetch = f"hf download --repo-type dataset {name} --local-dir FOLDER"
        return DataError(
            name, f"{why} and the set is not in the cache: elsewhere run {fetch}, then give FOLDER"
        )
    if "DatasetNotFoundError" in kinds or "RepositoryNotFoundError" in kinds:
        return DataError(
            name,
            "is not on the hub, or is private: check the name, set HF_TOKEN where it is private, " + _LOCAL,
        )
    first = (str(error).strip().splitlines() or [""])[0]
    return DataError(name, f"cannot be loaded from the hub ({type(error).__name__}: {first}); {_LOCAL}")


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and those that caused it."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def _names(listed: str) -> str:
    return ", ".join(re.findall(r"'([^']*)'", listed)) or listed
