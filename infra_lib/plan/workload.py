"""What a study asks of a machine: how many examples, tokens and runs each notebook works through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra_lib.curvature import METHODS
from infra_lib.errors import ParameterError
from infra_lib.sources import livecodebench
from infra_lib.sources.catalog import CATALOG
from infra_lib.study import Study


@dataclass(frozen=True)
class Lengths:
    """Tokens of training examples: mean prompt and response, and the longest whole sequence."""

    prompt: int
    response: int
    longest: int


@dataclass(frozen=True)
class MethodWork:
    """Counts behind notebook 07.

    Attributes
    ----------
    examples, responses
        Training examples that it looks at, and correct responses, all targets together.
    directions
        Of one target, along which its sweep scores.
    refined
        Dampings at which directions are refined.
    passes, batch
        Passes over the examples that refine one, and examples of a minibatch.
    """

    examples: int
    responses: int
    directions: int
    refined: int
    passes: int
    batch: int


@dataclass(frozen=True)
class Workload:
    """Counts behind a plan.

    Attributes
    ----------
    train, target, test
        Examples that are trained on and scored; problems whose solved answers are the target; exam
        problems, all benchmarks together.
    lengths
        Of the training examples.
    answer_tokens
        Mean tokens of a generated answer.
    epochs
        Of fine-tuning.
    uniform_runs, arm_runs
        Training runs of notebook 03, and those that notebook 05 adds.
    models
        Models that are attributed.
    targets
        Targets scored side by side (math and code).
    samples
        Answers per exam problem.
    method
        Of notebook 07, where it is not left out.
    explored, explored_directions
        Examples of notebook 08, and directions (a method and a target) that score each of them.
    retrainings, retrained
        Trainings of notebook 09, and the examples that they see, all passes together.
    pretrainings, pretrain_tokens, pretrain_batch, block
        Base models that notebook 02 trains, the tokens that each reads, all passes together, sequences a
        step, and tokens of each.
    """

    train: int
    target: int
    test: int
    lengths: Lengths
    answer_tokens: int
    epochs: int = 1
    uniform_runs: int = 1
    arm_runs: int = 0
    models: int = 1
    targets: int = 2
    samples: int = 1
    method: MethodWork | None = None
    explored: int = 0
    explored_directions: int = 0
    retrainings: int = 0
    retrained: int = 0
    pretrainings: int = 0
    pretrain_tokens: int = 0
    pretrain_batch: int = 1
    block: int = 320

    @property
    def train_tokens(self) -> int:
        """Tokens of the training set, once."""
        return self.train * (self.lengths.prompt + self.lengths.response)


def workload(study: Study, lengths: Lengths) -> Workload:
    """Return the workload of a study."""
    runs = len(study.base_seeds) * len(study.fine_tune_seeds)
    retrainings, retrained = _validation(study)
    return Workload(
        train=study.train_examples,
        target=_problems(study, "target"),
        test=_problems(study, "test"),
        lengths=lengths,
        answer_tokens=min(study.max_new_tokens, lengths.response),
        epochs=study.epochs,
        uniform_runs=runs,
        arm_runs=runs * sum(arm != "uniform" for arm in study.arms),
        models=len(study.base_seeds),
        samples=study.samples,
        method=_method(study),
        explored=min(study.explorer_examples, study.train_examples),
        # The cosine is the dot product over norms, and needs no direction of its own.
        explored_directions=2 * len({m.replace("gradcos", "graddot") for m in study.explorer_methods}),
        retrainings=retrainings,
        retrained=retrained,
        pretrainings=len(study.base_seeds) if study.retrain_base and not study.base_model else 0,
        pretrain_tokens=study.pretrain_tokens * study.pretrain_epochs,
        pretrain_batch=study.pretrain_batch,
        block=study.pretrain_config().block,
    )


def _problems(study: Study, split: str) -> int:
    """Return the most problems that a split's sources give: their share, or all that a benchmark has."""
    wanted = int(getattr(study, f"{split}_examples"))
    sources = getattr(study, f"{split}_sources")
    share = wanted // len(sources)
    there = [_published(study, source) for source in sources]
    return wanted if None in there else sum(min(share, rows) for rows in there if rows is not None)


def _published(study: Study, source: str) -> int | None:
    if source == "livecodebench":
        release = str(study.data_options.get(source, {}).get("release") or list(livecodebench.RELEASES)[-1])
        return livecodebench.RELEASES.get(release.removeprefix("release_"))
    return CATALOG[source].rows if source in CATALOG else None


def _method(study: Study) -> MethodWork | None:
    """Return what a study's notebook 07 works through; None where it is left out."""
    if not study.method_examples:
        return None
    refined = {study.damping, *study.refine_dampings}
    swept = {*study.method_dampings, *refined}
    return MethodWork(
        examples=min(study.method_examples, study.train_examples),
        responses=min(2 * study.method_examples, study.target_examples),
        # Of the family, plain gradients have no damping; two solvers refine.
        directions=1 + (len(METHODS) - 1) * len(swept) + 2 * len(refined),
        refined=len(refined),
        passes=study.refine_passes,
        batch=study.refine_batch,
    )


def _validation(study: Study) -> tuple[int, int]:
    """Return the trainings of a study's validation, and the examples that they see in all passes."""
    if not study.validation_subsets:
        return 0, 0
    more = min(study.ceiling_subsets, study.validation_subsets)
    halves = study.validation_subsets * study.validation_seeds
    halves += more * max(0, study.ceiling_seeds - study.validation_seeds)
    # Each method's top and bottom for two targets, and random ones.
    removals = (4 * len(study.removal_methods) + study.removal_draws) * study.removal_seeds
    size = study.validation_examples
    seen = halves * (size // 2) + study.validation_models * size
    seen += sum(round(removals * size * (1 - fraction)) for fraction in study.removal_fractions)
    # Each group, a difficulty of one of two domains, is removed and doubled; its examples are absent once.
    levels = set(study.difficulties) & set(study.group_levels)
    groups = 2 * 2 * len(levels) * study.group_seeds
    seen += groups * size - study.group_seeds * size * len(levels) // len(study.difficulties)
    # Each category too, if the data have it; how many examples it holds is theirs to say, so none is absent.
    categories = 2 * len(study.group_categories) * study.group_seeds
    groups, seen = groups + categories, seen + categories * size
    runs = halves + study.validation_models + groups + removals * len(study.removal_fractions)
    return runs, seen * study.validation_epochs


def expected_lengths(study: Study, root: Path) -> Lengths:
    """Return the lengths that a study expects, or measures where its data are at hand.

    Measured are generated worlds and local files (by the model's tokenizer where it is there, else at
    four characters a token).

    Raises
    ------
    ParameterError
        Where the data are on the hub and the study expects nothing.
    """
    cut = study.max_tokens or 10**9
    if study.expected_prompt_tokens and study.expected_response_tokens:
        prompt, response = study.expected_prompt_tokens, study.expected_response_tokens
        # Traces are skewed: what a cut lets through is as long as the cut.
        longest = min(cut, 4 * (prompt + response))
        return Lengths(prompt, min(response, cut - prompt), longest)
    if not study.data_folder and any(
        not (s == "small_world" or s == "gsm_symbolic" or s.endswith(".jsonl")) for s in study.train_sources
    ):
        raise ParameterError(
            "expected_response_tokens",
            study.expected_response_tokens,
            "given, and expected_prompt_tokens too, until the data are at hand (data_folder)",
        )
    return _measured(study, root, cut)


def _measured(study: Study, root: Path, cut: int) -> Lengths:
    from infra_lib.study_data import load_splits

    few = study.model_copy(
        update={
            "train_examples": min(study.train_examples, 200),
            "swap_pool_examples": 0,
            "target_examples": 0,
            "test_examples": 0,
        }
    )
    examples = load_splits(few, root, progress=False).splits["train"]
    count = _counter(study, root)
    prompts = [count(example.prompt) for example in examples]
    responses = [count(example.response) + 1 for example in examples]
    whole = [min(cut, p + r) for p, r in zip(prompts, responses, strict=True)]
    return Lengths(sum(prompts) // len(prompts), sum(responses) // len(responses), max(whole))


def _counter(study: Study, root: Path) -> Callable[[str], int]:
    """Return what counts a text's tokens."""
    folder = root / (study.base_model or f"{study.base_folder}/seed{study.base_seeds[0]}")
    if folder.is_dir():
        from infra_lib.models import load_tokenizer

        tokenizer = load_tokenizer(folder)
        return lambda text: len(tokenizer(text).input_ids)
    return lambda text: 1 + len(text) // 4
