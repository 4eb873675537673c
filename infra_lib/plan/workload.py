"""What a study asks of a machine: how many examples, tokens and runs each notebook works through."""

from __future__ import annotations

from dataclasses import dataclass

from infra_lib.study import Study


@dataclass(frozen=True)
class Workload:
    """Counts behind a plan.

    Attributes
    ----------
    train, target, test
        Examples that are trained on and scored; problems whose solved answers are the target; exam
        problems, all benchmarks together.
    prompt_tokens, response_tokens
        Mean tokens of a training example.
    answer_tokens
        Mean tokens of a generated answer.
    longest
        Tokens of the longest sequence that is kept.
    epochs, batch_size
        Of fine-tuning.
    uniform_runs, arm_runs
        Training runs of notebook 03, and those that notebook 05 adds.
    models
        Models that are attributed.
    targets
        Targets scored side by side (math and code).
    samples
        Answers per exam problem.
    """

    train: int
    target: int
    test: int
    prompt_tokens: int
    response_tokens: int
    answer_tokens: int
    longest: int
    epochs: int
    batch_size: int
    uniform_runs: int
    arm_runs: int
    models: int
    targets: int = 2
    samples: int = 1

    @property
    def sequence_tokens(self) -> int:
        """Mean tokens of a training sequence."""
        return self.prompt_tokens + self.response_tokens

    @property
    def train_tokens(self) -> int:
        """Tokens of the training set, once."""
        return self.train * self.sequence_tokens


def workload(study: Study, lengths: tuple[int, int, int, int]) -> Workload:
    """Return the workload of a study.

    Parameters
    ----------
    lengths
        Mean prompt and response tokens, mean answer tokens, and tokens of the longest sequence.
    """
    runs = len(study.base_seeds) * len(study.fine_tune_seeds)
    prompt, response, answer, longest = lengths
    return Workload(
        train=study.train_examples,
        target=study.target_examples,
        test=study.test_examples,
        prompt_tokens=prompt,
        response_tokens=response,
        answer_tokens=answer,
        longest=longest,
        epochs=study.epochs,
        batch_size=study.batch_size,
        uniform_runs=runs,
        arm_runs=runs * sum(arm != "uniform" for arm in study.arms),
        models=len(study.base_seeds),
    )
