"""The table of answers, and its store: what is finished stays when a run is interrupted.

A store is a folder with one folder per engine and sampling, which holds parquet files that
are whole or absent, each with its checksum. Columns: id, sample, response, finish_reason, n_tokens, seed,
sampling (digest), prompt (digest of its tokens). An answer is found again by id, sample and prompt,
so that more problems or more samples cost only what is new.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from infra_lib.checksums import checksum_path, is_intact, write_checksum
from infra_lib.errors import DataError, ParameterError
from infra_lib.evaluate.generate.sampling import Answer, Engine, Request, Sampling
from infra_lib.examples import Example
from infra_lib.files import digest_of, replacing
from infra_lib.models import prompt_tokens

COLUMNS = [*(field.name for field in fields(Answer)), "sampling", "prompt"]


def answer(
    engine: Engine,
    problems: Sequence[Example],
    sampling: Sampling,
    *,
    store: Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Answer every problem ``sampling.samples`` times.

    Parameters
    ----------
    store
        Folder that keeps finished answers; those in it are not drawn again.

    Returns
    -------
    pandas.DataFrame
        id, sample, response, finish_reason, n_tokens, seed, sampling, prompt; in the order of the
        problems and samples.

    Raises
    ------
    ParameterError
        For sampling parameters out of range, an id that occurs twice, or a store for an engine that
        does not say which model it is (``identity``).
    DataError
        For a problem without a prompt.
    ModelError
        Where a chat template is asked for and the tokenizer has none.
    """
    sampling.check()
    requests = _requests(engine, problems, sampling)
    kept = AnswerStore(store, engine.identity, sampling) if store is not None else None
    found = kept.read() if kept else pd.DataFrame(columns=COLUMNS)
    have = set(zip(found["id"], found["sample"], found["prompt"], strict=True))
    prompts = {request.id: digest_of(list(request.prompt)) for request in requests}
    missing = [r for r in requests if (r.id, r.sample, prompts[r.id]) not in have]
    parts = [found] if len(found) else []
    for answers in engine.run(missing, sampling, progress=progress) if missing else ():
        rows = [asdict(a) | {"sampling": sampling.digest, "prompt": prompts[a.id]} for a in answers]
        parts.append(pd.DataFrame(rows, columns=COLUMNS))
        if kept:
            kept.add(parts[-1])
    order = pd.DataFrame(
        [(r.id, r.sample, prompts[r.id]) for r in requests], columns=["id", "sample", "prompt"]
    )
    every = pd.concat(parts, ignore_index=True) if parts else found
    return order.merge(every, on=["id", "sample", "prompt"], validate="one_to_one")[COLUMNS]


def _requests(engine: Engine, problems: Sequence[Example], sampling: Sampling) -> list[Request]:
    ids = [problem.id for problem in problems]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ParameterError("problems", f"id {twice!r} twice", "free of repeated ids")
    requests = []
    for problem in problems:
        prompt = tuple(prompt_tokens(engine.tokenizer, problem, chat_template=engine.chat_template))
        if not prompt:
            raise DataError(problem.id, "has an empty prompt; nothing can be answered")
        requests += [
            Request(problem.id, sample, prompt, sampling.seed_of(problem.id, sample))
            for sample in range(sampling.samples)
        ]
    return requests


class AnswerStore:
    """Finished answers of one engine and sampling.

    Raises
    ------
    ParameterError
        For an engine without identity, whose answers could be taken for another's.
    """

    def __init__(self, folder: Path, identity: str | None, sampling: Sampling) -> None:
        if not identity:
            raise ParameterError("identity", identity, "given to the engine when answers are stored")
        self.folder = folder / digest_of([identity, sampling.digest])[:20]
        self.folder.mkdir(parents=True, exist_ok=True)

    def read(self) -> pd.DataFrame:
        """Return all stored answers; a torn or changed file is reported and drawn again."""
        frames = []
        for path in sorted(self.folder.glob("*.parquet")):
            if is_intact(path):
                frames.append(pd.read_parquet(path, columns=COLUMNS))
            elif checksum_path(path).exists():  # without one, another process may be writing it
                tqdm.write(
                    f"{path} is torn, or was changed since it was written; its answers are drawn again"
                )
                # In this order a kill leaves a file that counts as absent, and no checksum of nothing.
                checksum_path(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
        if not frames:
            return pd.DataFrame(columns=COLUMNS)
        every = pd.concat(frames, ignore_index=True)
        return every.drop_duplicates(["id", "sample", "prompt"], ignore_index=True)

    def add(self, answers: pd.DataFrame) -> None:
        """Store some more, whole or not at all."""
        number = 1 + max((int(path.name[:6]) for path in self.folder.glob("*.parquet")), default=-1)
        name = f"{number:06d}-{os.getpid()}.parquet"
        with replacing(self.folder / name) as temporary:
            answers.to_parquet(temporary, index=False)
        write_checksum(self.folder / name)
