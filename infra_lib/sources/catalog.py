"""The data sets and benchmarks, as data: where they are, what their rows hold, by which rules they are read.

The book's page about data is made from this table, so a fact stands here and nowhere else. A licence is
given where the set's card or repository states it; elsewhere the entry says "see the card".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from infra_lib.examples import Example
from infra_lib.sources import bespoke_stratos, gsm8k, livecodebench, math500, mbpp, open_thoughts
from infra_lib.sources.context import Context
from infra_lib.sources.rows import Dropped, Row

SEE_CARD = "see the card"


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set.

    Attributes
    ----------
    hub, config, split
        ``owner/name`` on the hub (None: generated here), and the configuration and split by default.
    columns
        Columns that must be there, each with the names under which it may come.
    optional
        Columns that are used where they are there.
    domain, difficulty, category, scoring
        The rules, in words. ``scoring`` is None for training sets.
    parse
        Makes an example of a row.
    options
        Further options of :func:`infra_lib.sources.registry.load` for this set.
    rows
        Rows of a benchmark's default split as published, for plans alone; None where it is not known.
        Of LiveCodeBench, see :data:`infra_lib.sources.livecodebench.RELEASES`.
    """

    name: str
    title: str
    kind: str
    hub: str | None
    config: str | None
    split: str
    licence: str
    columns: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...]
    domain: str
    difficulty: str
    category: str
    scoring: str | None
    parse: Callable[[Row, Context], Example | Dropped]
    options: tuple[str, ...] = ()
    rows: int | None = None


_LABELS = ("pass_rate", "level", "difficulty", "source_subset", "subset", "source")
_DOMAIN = "math, code or other, from the first words of the prompt"
_NO_LABEL = (
    "none; from a column pass_rate, level, difficulty, subset or source where a copy has one (our choice)"
)
_BOXED = "last box (else “answer is …”), MATH's normalisation, then math-verify"
_AIME = "last box (else “answer is …”), a whole number from 0 to 999, equal"
_AIME_COLUMNS = (("problem", "question"), ("answer",))
_AIME_OPTIONAL = ("id", "solution", "url")
_POSITION = "number 1–15, three to a level, where id or url tells it, else none (our choice)"

CATALOG: dict[str, DataSet] = {
    entry.name: entry
    for entry in (
        DataSet(
            name="bespoke_stratos",
            title="Bespoke-Stratos-17k",
            kind="training",
            hub="bespokelabs/Bespoke-Stratos-17k",
            config=None,
            split="train",
            licence="Apache-2.0",
            columns=(("conversations", "messages"),),
            optional=("system", *_LABELS),
            domain=_DOMAIN,
            difficulty=_NO_LABEL,
            category="answer, stdin or function, from the prompt's first words",
            scoring=None,
            parse=bespoke_stratos.parse,
            options=("domains",),
        ),
        DataSet(
            name="open_thoughts",
            title="OpenThoughts-114k",
            kind="training",
            hub="open-thoughts/OpenThoughts-114k",
            config="metadata",
            split="train",
            licence="Apache-2.0",
            columns=(
                ("problem", "conversations"),
                ("deepseek_reasoning", "conversations"),
                ("deepseek_solution", "conversations"),
                ("domain", "conversations"),
            ),
            optional=("system", "ground_truth_solution", "test_cases", "starter_code", *_LABELS),
            domain="column domain (metadata), else as Bespoke-Stratos",
            difficulty=_NO_LABEL,
            category="column source (configuration metadata), else as Bespoke-Stratos",
            scoring=None,
            parse=open_thoughts.parse,
            options=("domains",),
        ),
        DataSet(
            name="gsm8k",
            title="GSM8K",
            kind="benchmark",
            hub="openai/gsm8k",
            config="main",
            split="test",
            licence="MIT",
            columns=(("question",), ("answer",)),
            optional=(),
            domain="math",
            difficulty="annotated calculations: 1–2, 3, 4, 5, 6 or more (our choice)",
            category="none",
            scoring="last ####, else last box, else “answer is …”; the same number",
            parse=gsm8k.parse,
            rows=1319,
        ),
        DataSet(
            name="math500",
            title="MATH500",
            kind="benchmark",
            hub="HuggingFaceH4/MATH-500",
            config=None,
            split="test",
            licence=SEE_CARD,
            columns=(("problem",), ("answer",)),
            optional=("solution", "subject", "level", "unique_id"),
            domain="math",
            difficulty="column level",
            category="column subject",
            scoring=_BOXED,
            parse=math500.parse,
            rows=500,
        ),
        DataSet(
            name="aime24",
            title="AIME 2024",
            kind="benchmark",
            hub="HuggingFaceH4/aime_2024",
            config=None,
            split="train",
            licence=SEE_CARD,
            columns=_AIME_COLUMNS,
            optional=_AIME_OPTIONAL,
            domain="math",
            difficulty=_POSITION,
            category="name of the set",
            scoring=_AIME,
            parse=math500.parse_aime,
            rows=30,
        ),
        DataSet(
            name="aime25",
            title="AIME 2025",
            kind="benchmark",
            hub="math-ai/aime25",
            config=None,
            split="test",
            licence=SEE_CARD,
            columns=_AIME_COLUMNS,
            optional=_AIME_OPTIONAL,
            domain="math",
            difficulty=_POSITION,
            category="name of the set",
            scoring=_AIME,
            parse=math500.parse_aime,
            rows=30,
        ),
        DataSet(
            name="mbpp",
            title="MBPP",
            kind="benchmark",
            hub="google-research-datasets/mbpp",
            config="full",
            split="test",
            licence="CC BY 4.0",
            columns=(("task_id",), ("text", "prompt"), ("code",), ("test_list",)),
            optional=("test_setup_code", "test_imports"),
            domain="code",
            difficulty="none",
            category="function",
            scoring="text from [BEGIN] to [DONE], else the last Python block; every assertion holds",
            parse=mbpp.parse,
            rows=500,
        ),
        DataSet(
            name="humaneval",
            title="HumanEval",
            kind="benchmark",
            hub="openai/openai_humaneval",
            config=None,
            split="test",
            licence="MIT",
            columns=(("task_id",), ("prompt",), ("canonical_solution",), ("test",), ("entry_point",)),
            optional=(),
            domain="code",
            difficulty="none",
            category="function",
            scoring="last Python block, else the text as the prompt's continuation; check(…) raises nothing",
            parse=mbpp.parse_humaneval,
            rows=164,
        ),
        DataSet(
            name="livecodebench",
            title="LiveCodeBench, code generation (lite)",
            kind="benchmark",
            hub="livecodebench/code_generation_lite",
            config=None,
            split="test",
            licence="CC, see the card",
            columns=(
                ("question_id",),
                ("question_content",),
                ("platform",),
                ("contest_date",),
                ("difficulty",),
                ("public_test_cases",),
                ("private_test_cases",),
            ),
            optional=("question_title", "starter_code", "metadata"),
            domain="code",
            difficulty="column difficulty: easy 1, medium 3, hard 5",
            category="column platform",
            scoring="between the last two lines with ```; every public and private case, lines stripped, "
            "numbers compared as decimals",
            parse=livecodebench.parse,
            options=("release", "start_date", "end_date", "levels", "platforms"),
        ),
        DataSet(
            name="gsm_symbolic",
            title="GSM-symbolic, generated by reasoning-gym",
            kind="generated",
            hub=None,
            config=None,
            split="train",
            licence="Apache-2.0 (the generator)",
            columns=(("question",), ("answer",)),
            optional=(),
            domain="math",
            difficulty="none",
            category="symbolic",
            scoring="as GSM8K",
            parse=gsm8k.parse_symbolic,
            options=("size", "seed"),
        ),
    )
}
