# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reweighting arms
#
# The paper's interventions. One *flips* the difficulty of the training data, hard mathematics
# in place of easy and easy code in place of hard; the reverse flip is its mirror. The other
# takes exploration out of the training solutions. The
# uniform arm stands beside them all, since a flip that beats only its mirror has not beaten
# doing nothing, and the *untuned* base, which says what fine-tuning itself does. Every arm
# trains from the same bases with the same seeds and sits the same exam, so differences are
# paired.

# %% tags=["parameters"]
study: str = "small"  # name of the study
arms: list = ["uniform", "flip", "reverse", "without_exploration"]  # training sets to compare
easy: list = [1, 2]  # levels that count as easy
hard: list = [4, 5]  # levels that count as hard, paired with the easy ones in order
swap_fraction: float = 1.0  # part of the disfavoured examples that is replaced, 0 to 1 (our choice)
seed: int = 0  # seed of the choice which examples are replaced, and of the bootstrap
fine_tune_seeds: list = [0, 1, 2]  # seeds of data order, one run each per base and arm
processes: int = 2  # training runs side by side, one thread each
devices_per_run: int = 1  # devices that share one training run
sandbox: str = "auto"  # how programs are walled off: auto, bubblewrap or process
bootstrap_samples: int = 2000  # resamples behind each interval
confidence: float = 0.95  # coverage of the intervals, 0 to 1

# %%
from functools import partial

import pandas as pd

from infra_lib import figures, tables
from infra_lib.attributes import compare_arms, compare_arms_by_base
from infra_lib.examples import from_frame
from infra_lib.experiment import Run, run_all
from infra_lib.models import load_tokenizer
from infra_lib.pass_at_k import pass_at_k_table, tries
from infra_lib.reweight.study_arms import UNTUNED, compared, composition_of, response_tokens, study_arm
from infra_lib.stage import open_stage
from infra_lib.statistics import accuracy_by_group
from infra_lib.study_data import exams_of

stage = open_stage("05_reweighting_arms", globals())
params = stage.params

# %% [markdown]
# ## The training sets
#
# Examples per level and response tokens per epoch, for every arm. Arms by difficulty have
# as many examples as *uniform*, and not as many tokens, since hard solutions are longer;
# those that are called *tokens* have as many tokens. *Without exploration* is *uniform*
# less the sentences that check a result or seek another way, found by the rules of
# {doc}`04_example_influence`; *fewer tokens* has as few tokens by leaving whole examples out.
# *Influence* weighs the examples by their scores of that notebook, whose targets share no
# problem with the exam.

# %%
train = from_frame(stage.read_table("01_data", "train"))
pool = from_frame(stage.read_table("01_data", "swap_pool"))
test = from_frame(stage.read_table("01_data", "test"))
bases = {seed: params.base_of(seed, stage.root) for seed in params.base_seeds}
tokenizer = load_tokenizer(bases[params.base_seeds[0]])
tokenized = partial(response_tokens, tokenizer, max_tokens=params.max_tokens)
scores = stage.read_table("04_example_influence", "scores")
built = {
    name: study_arm(name, params, train, pool, tokenized=tokenized, scores=scores) for name in params.arms
}
composition = pd.concat([composition_of(arm, tokenized) for arm in built.values()], ignore_index=True)
stage.write_table("composition", composition)
stage.write_figure(
    "arm_composition",
    figures.arm_composition(composition),
    data=composition,
    alt="Number of training examples per difficulty level in each arm, for mathematics and code.",
    caption=f"What each arm trains on (uniform: {len(train):,} examples).",
)

# %% [markdown]
# ## Train every arm, from every base, with every seed
#
# The untuned bases sit the exam once each: nothing of them depends on a seed of fine-tuning.

# %%
entered = [(name, arm.examples, arm.weights, params.fine_tune_seeds) for name, arm in built.items()]
runs = [
    Run(
        arm=name,
        base_seed=base_seed,
        seed=seed,
        base=bases[base_seed],
        train=examples,
        weights=weights,
        test=test,
        config=params.finetune_config(),
        root=stage.runs,
        sampling=params.sampling(),
        engine=params.engine,
        device=params.device,
        devices=params.devices_per_run,
        sandbox=params.sandbox,
    )
    for name, examples, weights, seeds in [(UNTUNED, (), None, params.fine_tune_seeds[:1]), *entered]
    for base_seed in params.base_seeds
    for seed in seeds
]
answers = run_all(runs, processes=params.processes)
stage.write_table("answers", answers)
print(f"{len(runs)} runs, {len(test)} exam problems each")

# %% [markdown]
# ## Accuracy of each arm

# %%
options = {"samples": params.bootstrap_samples, "confidence": params.confidence, "seed": params.seed}
summary = accuracy_by_group(answers, ["arm", "domain"], **options).merge(
    composition.groupby("arm")["tokens"].sum().rename("tokens_per_epoch").reset_index(), on="arm", how="left"
)
stage.write_table("arms", summary)
stage.write_figure(
    "arms",
    figures.arms(summary),
    data=summary,
    alt="Accuracy on mathematics and code for each arm with intervals.",
    caption=f"Accuracy by arm with {params.confidence:.0%} intervals"
    f" ({len(params.base_seeds)} bases × {len(params.fine_tune_seeds)} seeds, untuned the bases alone;"
    f" {len(test)} problems).",
)

# %%
stage.write_fragment("arms", tables.arms_table(summary))

# %% [markdown]
# ## Exam by exam
#
# The same, where a domain's problems come from several exams, or several answers were drawn.

# %%
exams = pass_at_k_table(
    answers.assign(exam=exams_of(answers["id"], params.test_sources)),
    tries(params.samples),
    by=["arm", "exam", "domain"],
    **options,
)
stage.write_table("exams", exams)
stage.write_fragment("exams", tables.exams(exams))

# %% [markdown]
# ## Differences, paired
#
# The same problems, bases and seeds on both sides. The interval resamples runs and
# problems together; the two sign-flip tests hold one of them fixed.

# %%
differences = compare_arms(answers, compared(params.arms), **options)
stage.write_table("differences", differences)
stage.write_figure(
    "differences",
    figures.paired_differences(differences),
    data=differences,
    alt="Paired differences in accuracy between arms with intervals, for mathematics and code.",
    caption=f"Differences in accuracy between arms, paired over problems and runs, with {params.confidence:.0%} intervals.",
)

# %%
stage.write_fragment("differences", tables.differences_table(differences))

# %% [markdown]
# These intervals draw runs as if all were alike, whatever their base, so they hold what the seeds do more than what
# a base does. Two bases are too few to speak of others; here is each by itself.

# %%
by_base = compare_arms_by_base(answers, compared(params.arms), **options)
stage.write_table("differences_by_base", by_base)
stage.write_fragment("differences_by_base", tables.base_differences_table(by_base))

# %% [markdown]
# ## Where the differences lie
#
# An arm that trains on hard problems may gain on hard ones and lose on easy ones; an
# average over an exam hides that, and depends on its mix.

# %%
levels = accuracy_by_group(answers, ["arm", "domain", "difficulty"], **options)
stage.write_table("accuracy_by_difficulty", levels)
stage.write_figure(
    "arms_by_difficulty",
    figures.arms_by_difficulty(levels),
    data=levels,
    alt="Accuracy of each arm against the difficulty of the test problem, for mathematics and code.",
    caption="Accuracy of each arm by difficulty of the test problem.",
)

# %%
stage.write_summary(
    [
        f"{row.arm_a} − {row.arm_b}, {row.domain}: {row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}],"
        f" p = {row.p_value:.3f}"
        for row in differences.itertuples()
    ]
)
stage.close()
