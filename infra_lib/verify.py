"""Check everything that a study and the project keep against the checksums written with it.

``infra verify`` reads every artefact once: stages with their notebooks, training runs, answers,
factors, checkpoints, the records that a build does not compute again, the copies that the
book is built from, and the built book.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from infra_lib.checksums import MANIFEST, files_below, is_intact, names_within, read_manifest
from infra_lib.errors import DataError, ParameterError
from infra_lib.files import file_digest, is_sealed, read_sealed
from infra_lib.layout import STAGES, stage_folder

MENDING = {
    "stages": "`infra run --study {study}` computes it again",
    "training runs": "the next stage that needs it trains it again",
    "answers": "the next stage that needs it takes the exam again",
    "checkpoints and factors": "the next run that needs it goes on without it",
    "scores": "`infra attribute` with the same options writes it again",
    "factors of scores": "delete it, and `infra attribute` fits it again",
    "models": "make it again by the command that made it",
    "pages": "`infra adapt` with the same options makes it again",
    "study": "`infra run --study {study}` writes it again",
    "records": "restore it from version control (after a wanted change: `infra verify --update-records`)",
    "book's copies": "`infra book --study {study}` copies it again",
    "built book": "`infra book --study {study}` builds it again",
}
"""Kinds of artefact, and what mends a damaged one."""

SCORES = ("provenance.json", "adapt.json")
"""Records of a folder of scores: of ``infra attribute``, and of what ``infra adapt`` puts beside it."""

ELSEWHERE = "lists files in another form than names below its own folder"


@dataclass(frozen=True)
class Item:
    """One file to check.

    Attributes
    ----------
    kind
        A key of :data:`MENDING`.
    path
        The file.
    check
        Returns what is wrong, in words, or None.
    """

    kind: str
    path: Path
    check: Callable[[], str | None]


@dataclass
class Tally:
    """What was found of one kind of artefact."""

    files: int = 0
    bytes: int = 0
    torn_or_changed: int = 0
    missing: int = 0
    unrecorded: int = 0

    @property
    def bad(self) -> int:
        """Files that are not as they were written."""
        return self.torn_or_changed + self.missing + self.unrecorded


@dataclass(frozen=True)
class Report:
    """Tallies by kind, and a line for each problem."""

    tallies: Mapping[str, Tally]
    problems: list[str]

    def lines(self) -> list[str]:
        """Return the report as text: a table of counts, then the problems, or that there are none."""
        head = f"{'':26}{'files':>7}{'MB':>9}{'torn or changed':>18}{'missing':>9}{'not recorded':>14}"
        rows = [
            f"{kind:26}{t.files:>7}{t.bytes / 1e6:>9.1f}"
            f"{t.torn_or_changed:>18}{t.missing:>9}{t.unrecorded:>14}"
            for kind, t in self.tallies.items()
        ]
        count = sum(t.files for t in self.tallies.values())
        end = self.problems or [f"all {count} files are as they were written"]
        return [head, *rows, "", *end]


def verify(root: Path, study: str, *, progress: bool = True) -> Report:
    """Check all artefacts of a study, the records, and the book; nothing is changed."""
    items = [*_study_items(stage_folder(study, ".", root).resolve()), *_project_items(root)]
    return _check(items, root, study, progress)


def verify_folder(folder: Path, *, progress: bool = True) -> Report:
    """Check a folder that a command wrote: ``infra attribute``, ``adapt``, ``finetune`` or ``model``.

    Raises
    ------
    ParameterError
        For a folder with none of their records.
    """
    folder = folder.resolve()
    items = [*_folder_items(folder)]
    if not items:
        valid = f"a folder with one of {', '.join((*SCORES, 'run.json', 'packaged.json', 'page.json'))}"
        raise ParameterError("--folder", str(folder), valid)
    return _check(items, folder, "", progress)


def _check(items: Sequence[Item], root: Path, study: str, progress: bool) -> Report:
    tallies = {kind: Tally() for kind in MENDING}
    problems = []
    for item in tqdm(items, desc="verifying", unit="file", disable=not progress):
        tally = tallies[item.kind]
        tally.files += 1
        found = item.check()
        if item.path.is_file():
            tally.bytes += item.path.stat().st_size
        if found is None:
            continue
        if found.startswith("is missing"):
            tally.missing += 1
        elif found.startswith("is not recorded"):
            tally.unrecorded += 1
        else:
            tally.torn_or_changed += 1
        where = item.path.relative_to(root) if item.path.is_relative_to(root) else item.path
        problems.append(f"{where} {found}; {MENDING[item.kind].format(study=study)}")
    return Report({kind: tally for kind, tally in tallies.items() if tally.files}, problems)


def _study_items(folder: Path) -> Iterator[Item]:
    """Yield what lies in a study's folder; what a cut-off run left half is no artefact and not listed."""
    if (folder / "study.json").exists():
        yield _sealed("study", folder / "study.json")
    for stage in STAGES:
        if (folder / stage / "provenance.json").exists():
            yield from _stage_items(folder / stage)
    for run in sorted((folder / "runs").glob("*/run.json")):
        yield from _recorded("training runs", run.parent, run.name)
    for checksum in sorted((folder / "runs").rglob("*.parquet.sha256")):
        yield _with_checksum("answers", checksum.with_suffix(""))
    for manifest in sorted((folder / "runs").glob(f"*.part/checkpoint-*/{MANIFEST}")):
        yield from _listed("checkpoints and factors", manifest.parent)
    for checksum in sorted((folder / "work").rglob("*.sha256")):
        yield _with_checksum("checkpoints and factors", checksum.with_suffix(""))


def _stage_items(folder: Path) -> Iterator[Item]:
    besides = ("depends.json", "notebook.ipynb")
    yield from _recorded("stages", folder, "provenance.json", besides=besides)

    depends = folder / "depends.json"
    if not depends.exists():
        return  # executed by hand: nothing was recorded of the notebook
    yield _sealed("stages", depends)
    try:
        executed = str(read_sealed(depends).get("executed"))
    except (DataError, OSError):
        return
    yield _with_digest("stages", folder / "notebook.ipynb", executed)


def _folder_items(folder: Path) -> Iterator[Item]:
    if (folder / "run.json").is_file():
        yield from _recorded("models", folder, "run.json")
    if (folder / "packaged.json").is_file():
        yield Item("models", folder / "model.safetensors", lambda: _unlike_package(folder))
    if _is_base(folder):
        yield from _recorded("models", folder, "provenance.json")
    elif any((folder / name).is_file() for name in SCORES):
        yield from _score_items(folder)
    if (folder / "page.json").is_file():
        yield _sealed("pages", folder / "page.json")
        yield from _listed("pages", folder / "html")
        yield from _score_items(folder / "scores")


def _is_base(folder: Path) -> bool:
    """Return whether a folder's provenance is that of a base model, whose weights it gives."""
    try:
        return "weights_sha256" in read_sealed(folder / "provenance.json")
    except (DataError, OSError):
        return False


def _unlike_package(folder: Path) -> str | None:
    try:
        digest = json.loads((folder / "packaged.json").read_text(encoding="utf-8"))["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "has a torn packaged.json beside it"
    return _with_digest("models", folder / "model.safetensors", digest).check()


def _score_items(folder: Path) -> Iterator[Item]:
    """Yield what ``infra attribute`` wrote into a folder, and what ``infra adapt`` put beside it."""
    known, read = set[str](), True
    for name in SCORES:
        path = folder / name
        if name == "adapt.json" and not path.is_file():
            continue
        if path.is_file() and not is_sealed(path):
            yield Item("scores", path, lambda: "is not recorded: it is of a version that kept no checksums")
            read = False
            continue
        yield _sealed("scores", path)
        try:
            listed = read_sealed(path).get("files", {})
        except (DataError, OSError):
            read = False
            continue
        if not names_within(listed):
            yield Item("scores", path, lambda: ELSEWHERE)
            read = False
            continue
        fresh = {key: digest for key, digest in listed.items() if key not in known | {"provenance.json"}}
        yield from (_with_digest("scores", folder / key, digest) for key, digest in fresh.items())
        known |= set(listed)
    if read:
        for path in sorted([*folder.glob("*.parquet"), *folder.glob("skipped.jsonl")]):
            if path.name not in known:
                yield Item("scores", path, lambda: "is not recorded: it is of another run")
    for checksum in sorted((folder / "factors").rglob("*.sha256")):
        yield _with_checksum("factors of scores", checksum.with_suffix(""))


def _project_items(root: Path) -> Iterator[Item]:
    for kind, folder in (
        ("records", root / "records"),
        ("book's copies", root / "book" / "results"),
        ("built book", root / "_build" / "html"),
    ):
        if folder.is_dir():
            yield from _listed(kind, folder)


# --- Ways in which a checksum is kept ----------------------------------------------------


def _recorded(kind: str, folder: Path, record: str, *, besides: tuple[str, ...] = ()) -> Iterator[Item]:
    """Yield a folder's sealed record, the files that it lists, and those that it does not."""
    yield _sealed(kind, folder / record)
    try:
        listed = read_sealed(folder / record)["files"]
    except (DataError, OSError, KeyError):
        return
    if not names_within(listed):
        yield Item(kind, folder / record, lambda: ELSEWHERE)
        return
    yield from (_with_digest(kind, folder / name, digest) for name, digest in listed.items())
    yield from _unrecorded(kind, folder, {*listed, record, *besides})


def _listed(kind: str, folder: Path) -> Iterator[Item]:
    """Yield the files of a folder with a list of checksums, and those that are not in it."""
    try:
        listed = read_manifest(folder)
    except DataError as error:
        problem = error.problem
        yield Item(kind, folder / MANIFEST, lambda: problem)
        return
    # The list may be what changed: a digest or a name in it reads as well as the right one.
    yield from (_with_digest(kind, folder / name, digest, MANIFEST) for name, digest in listed.items())
    yield from _unrecorded(kind, folder, set(listed), MANIFEST)


def _unrecorded(kind: str, folder: Path, known: set[str], where: str = "") -> Iterator[Item]:
    for path in files_below(folder):
        if str(path.relative_to(folder)) not in known:
            yield Item(kind, path, lambda: f"is not recorded in {where}" if where else "is not recorded")


def _sealed(kind: str, path: Path) -> Item:
    def check() -> str | None:
        try:
            read_sealed(path)
        except DataError as error:
            return error.problem
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return None

    return Item(kind, path, check)


def _with_digest(kind: str, path: Path, digest: str, listed_in: str = "") -> Item:
    def check() -> str | None:
        try:
            same = file_digest(path) == digest
        except FileNotFoundError:
            return f"is missing, or misnamed in {listed_in}" if listed_in else "is missing"
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        damaged = "is torn, or was changed since it was written"
        return None if same else damaged + (f", or its line in {listed_in} was" if listed_in else "")

    return Item(kind, path, check)


def _with_checksum(kind: str, path: Path) -> Item:
    def check() -> str | None:
        if not path.is_file():
            return "is missing"
        return None if is_intact(path) else "is torn, or was changed since it was written"

    return Item(kind, path, check)
