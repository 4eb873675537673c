# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Do the scores predict retraining?
#
# An influence score is a forecast: *this* happens to the target if the example is left
# out. Here the forecast meets the outcome. Many models are trained from the same base, each on
# a random half of the examples; a method is right to the degree that the sum of its scores
# over a half predicts how well the target does after training on it. That degree, as a rank
# correlation, is the linear datamodeling score (LDS) {cite:p}`park2023trak`.

# %% tags=["parameters"]
study: str = "small"  # name of the study
validation_examples: int = 160  # training examples, in equal parts by domain and difficulty
validation_targets: int = 60  # problems of the target, in equal parts by domain and difficulty
validation_epochs: int = 3  # passes of a retraining over its half
validation_learning_rate: float = 3e-4  # of retrainings
validation_models: int = 2  # models trained on all of these examples, whose scores are averaged
validation_subsets: int = 48  # random halves; 0 leaves the validation out
validation_seeds: int = 1  # retrainings of each half
ceiling_subsets: int = 12  # halves retrained with more seeds, to measure the noise
ceiling_seeds: int = 2  # retrainings of each of these
validation_tokens: str = "critical"  # tokens that the target counts: whole, critical or final
validation_layers: str = "mlp"  # weights that scores see: mlp or all (attention's too)
validation_without: list = []  # methods that are not judged
validation_dampings: list = [0.01, 0.1, 1.0, 10.0]  # dampings to choose from
validation_refine_dampings: list = [1.0]  # dampings of refined EK-FAC, dearer than the others
validation_refine_passes: int = 2  # passes of conjugate gradients behind refined EK-FAC
removal_methods: list = ["ekfac", "gradcos"]  # methods whose extremes are removed
removal_fractions: list = [0.2]  # parts of the examples that are removed
removal_seeds: int = 1  # retrainings of each removal
removal_draws: int = 2  # random removals beside them
group_levels: list = [1, 2, 3, 4, 5]  # difficulties of the groups that are removed and doubled
group_categories: list = ["symbolic", "conversational", "map", "filter", "order", "slice"]  # and categories
group_seeds: int = 1  # retrainings of each group that is removed or doubled
damping: float = 0.1  # damping at which targets are compared
factor_labels: str = "sampled"  # labels of the Fisher factors: sampled (true Fisher) or empirical
batch_tokens: int = 4096  # padded tokens per batch of attribution
seed: int = 0  # seed of subsets, sampled labels and the bootstrap
processes: int = 2  # retrainings side by side, one thread each
sandbox: str = "auto"  # how programs are walled off: auto, bubblewrap or process
device: str = "cpu"  # cpu or cuda
bootstrap_samples: int = 2000  # resamples behind each interval
confidence: float = 0.95  # coverage of the intervals, 0 to 1

# %%
import pandas as pd

from infra_lib.examples import from_frame
from infra_lib.experiment import run_all
from infra_lib.stage import open_stage
from infra_lib.statistics import accuracy_by_group
from infra_lib.validation import bench, figures, groups, judge, report, retraining, scores, tables

stage = open_stage("09_validation", globals())
params = stage.params
on = params.validation_subsets > 0
intervals = {"samples": params.bootstrap_samples, "confidence": params.confidence, "seed": params.seed}

# %% [markdown]
# ## Models trained on everything
#
# The smallest setting that still solves the tasks, so that it can be trained by the hundred: the
# study's first base, a part of its training set. The models whose scores are judged are
# trained on all of that part; they differ in the order of the examples alone.

# %%
if on:
    setting = bench.open_bench(
        params,
        from_frame(stage.read_table("01_data", "train")),
        from_frame(stage.read_table("01_data", "target")),
        root=stage.root,
        runs=stage.runs,
    )
    answers = run_all(setting.runs, processes=params.processes)
    solved = accuracy_by_group(
        answers, ["domain"], samples=params.bootstrap_samples, confidence=params.confidence
    )
    stage.write_table("accuracy", solved)
    for row in solved.itertuples():
        print(f"{row.domain}: {row.mean:.2f} [{row.low:.2f}, {row.high:.2f}] solved, {row.n} problems")
else:
    print("this study leaves the validation out (validation_subsets: 0)")

# %% [markdown]
# ## Retraining on random halves
#
# Each retraining leaves behind the log-probability of every token of every target response, and
# nothing else. One that is there is not done again, so an interrupted run goes on subset by subset.

# %%
if on:
    targets = bench.form_targets(setting, answers)
    measured = judge.retrain(params, setting, targets, label="random halves")
    ceiling = report.ceiling_table(targets, measured, tokens=params.validation_tokens, **intervals)
    stage.write_table("ceiling", ceiling)

# %% [markdown]
# ## The noise ceiling
#
# Train twice on the same half, in another order, and the target differs: that much nothing can
# predict. From the correlation between single retrainings follows the best LDS that a perfect
# forecast could have (Spearman–Brown; the root of the reliability).

# %%
if on:
    fragment = stage.write_fragment("ceiling", tables.ceiling_table(ceiling))
else:
    fragment = stage.write_fragment("ceiling", tables.NOT_RUN)
fragment

# %% [markdown]
# ## Scores of every method
#
# Each model scores every training example on every target response. The mean over the models is
# what is judged.

# %%
if on:
    scored, found = judge.score_and_compare(params, setting, targets, measured, folder=stage.workspace)
    for name, table in found.items():
        stage.write_table(name, table)
    for model in scored:
        print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in model.seconds.items()))

# %% [markdown]
# ## The linear datamodeling score
#
# A method with a damping gets it from one half of the subsets and is judged on the other, both
# ways. Intervals draw subsets and target responses anew, the same for all methods.
#
# Two units are reported. The first figure takes a target as one number, the mean over its responses;
# a few responses whose log-likelihood changes much can decide it. The second takes the LDS of each
# response by itself and averages, as the score is defined for single outputs.

# %%
if on:
    tuned = found["lds"][found["lds"]["selection"] == "held out"]
    held, each = (tuned[tuned["unit"] == unit] for unit in ("target", "response"))
    shown = stage.write_figure(
        "lds",
        figures.lds(held, ceiling),
        data=held,
        alt="Linear datamodeling score of each method with intervals, one panel per target, and the noise ceiling. "
        + "; ".join(
            f"{figures.METHOD_NAMES[r.method]} {r.lds:.2f}"
            for r in held[held["target"] == report.MEAN].itertuples()
        ),
        caption=f"LDS over {params.validation_subsets} random halves of {len(setting.train)} examples, {params.validation_seeds} retraining(s) each, with {params.confidence:.0%} intervals. Dashed: the noise ceiling with its interval.",
    )
    stage.write_fragment("lds", tables.lds_table(found["lds"]))
else:
    shown = stage.write_fragment("lds", tables.NOT_RUN)
shown

# %%
if on:
    shown = stage.write_figure(
        "lds_each",
        figures.lds(each, ceiling.iloc[:0]),
        data=each,
        alt="Linear datamodeling score of single responses, averaged, for each method with intervals. "
        + "; ".join(
            f"{figures.METHOD_NAMES[r.method]} {r.lds:.2f}"
            for r in each[each["target"] == report.MEAN].itertuples()
        ),
        caption=f"LDS of single responses, averaged, over the same {params.validation_subsets} halves, with {params.confidence:.0%} intervals. Refined directions are of whole targets.",
    )
else:
    shown = stage.write_fragment("lds_each", tables.NOT_RUN)
shown

# %%
verdict = tables.verdict(found["lds"], found["differences"], ceiling) if on else tables.NOT_RUN
stage.write_fragment("verdict", verdict)

# %%
stage.write_fragment("differences", tables.differences_table(found["differences"]) if on else tables.NOT_RUN)

# %% [markdown]
# ## Damping
#
# Here every damping is judged on all subsets, so its best point flatters it a little.

# %%
if on:
    fixed = found["lds"].query("selection == 'fixed' and unit == 'target'")
    shown = stage.write_figure(
        "dampings",
        figures.dampings(fixed),
        data=fixed,
        alt="LDS against the damping for methods that have one, one panel per target.",
        caption=f"LDS at each damping (× mean eigenvalue; for TRAK the ridge × the mean of its kernel's diagonal), {params.validation_subsets} subsets; bands are {params.confidence:.0%} intervals.",
    )
else:
    shown = stage.write_fragment("dampings", tables.NOT_RUN)
shown

# %% [markdown]
# ## Which target can be predicted
#
# The same method at the same damping, with other targets: all tokens of a response, the critical
# ones (results, answer, program), or the final answer; the data's solutions or the model's own
# correct answers; every response alike, or every difficulty. Blue: how well a choice predicts its
# own log-likelihood. Orange: how well it predicts one outcome that is the same for all, the
# log-likelihood of the reference's final answers.

# %%
if on:
    how = bench.method_settings(params, folder=stage.workspace)
    by_model = [
        scores.score_choices(run.folder, setting.train, targets.choices(), how, damping=params.damping)
        for run in setting.runs
    ]
    by_choice = {name: [model[name] for model in by_model] for name in by_model[0]}
    choice = report.choice_table(targets, measured, by_choice, key=("ekfac", params.damping), **intervals)
    stage.write_table("choice", choice)
    shown = stage.write_figure(
        "choice",
        figures.choices(choice),
        data=choice,
        alt="LDS of EK-FAC for each choice of target, on its own log-likelihood and on that of the final answers.",
        caption=f"LDS of EK-FAC at damping {params.damping:g} by choice of target, {params.validation_subsets} subsets, with {params.confidence:.0%} intervals.",
    )
else:
    shown = stage.write_fragment("choice", tables.NOT_RUN)
shown

# %%
stage.write_fragment("choice_words", tables.choice_words(choice) if on else tables.NOT_RUN)

# %% [markdown]
# ## Taking examples away
#
# The forecast for a single ranking: train without its most helpful examples and the target should
# fall, without its least helpful ones it should rise, against taking away as many at random.

# %%
if on:
    keys = report.tuned_keys(found["lds"])
    plan, left = report.removal_plan(targets, scored, {m: keys[m] for m in params.removal_methods})
    order = [[2000 + 100 * row + k for k in range(params.removal_seeds)] for row in range(len(plan))]
    removed = report.removal_table(
        targets,
        plan,
        retraining.run_all(targets.jobs(left, order), processes=params.processes, label="removals"),
        tokens=params.validation_tokens,
        **intervals,
    )
    stage.write_table("removal", removed)
    stage.write_fragment("removal", tables.removal_table(removed))
    shown = stage.write_figure(
        "removal",
        figures.removal(removed),
        data=removed,
        alt="Change of each target after training without the most and least helpful examples of each method, and without random ones.",
        caption=f"Change of the target against models trained on everything{figures.removal_words(removed)}; {tables.drawn_over(params.removal_seeds, params.confidence)} The noise of those models is in no interval.",
    )
else:
    shown = stage.write_fragment("removal", tables.NOT_RUN)
shown

# %% [markdown]
# ## Groups, taken away and doubled
#
# The paper's first claim is about groups: which difficulty of which domain helps. Here each difficulty
# of a domain, and each category, is taken out of the training set, and counts twice in another run;
# models are trained again with the same seeds and sit the same exam. Beside it stands the forecast: the
# sum of the scores times the change of weight, by EK-FAC where it is among the methods. What is removed
# shortens the training by its steps; what is doubled takes its weight from the other examples.

# %%
changed = groups.group_runs(setting) if on else []
if on and (absent := sorted({*params.group_categories} - {example.category for example in setting.train})):
    print(f"no training example is of the category {' or '.join(absent)} (group_categories)")
no_groups = tables.NO_GROUPS if on else tables.NOT_RUN
if changed:
    forecast = keys.get("ekfac", next(iter(keys.values())))
    print(f"forecast by {figures.METHOD_NAMES[forecast[0]]}, damping {forecast[1]}")
    retrained = run_all([run for group in changed for run in group.runs], processes=params.processes)
    outcome = groups.group_table(
        targets,
        changed,
        pd.concat([answers, retrained], ignore_index=True),
        scored,
        key=forecast,
        tokens=params.validation_tokens,
        **intervals,
    )
    agreement = groups.sign_agreement(outcome, **intervals)
    stage.write_table("groups", outcome)
    stage.write_table("group_agreement", agreement)
    shown = stage.write_figure(
        "groups",
        figures.groups(outcome),
        data=outcome,
        alt="Change of each target's log-likelihood after training without each group of examples, and with twice its weight, with intervals.",
        caption=f"Change of the target after a group of training examples was removed or doubled; {tables.drawn_over(params.group_seeds, params.confidence)}",
    )
else:
    shown = stage.write_fragment("groups", no_groups)
shown

# %%
if changed:
    shown = stage.write_figure(
        "forecasts",
        figures.forecasts(outcome),
        data=outcome,
        alt="Outcome against forecast for each group and change: points in the lower left and upper right agree in sign.",
        caption=f"Outcome of each change against its forecast by {figures.METHOD_NAMES[forecast[0]]}, with {params.confidence:.0%} intervals.",
    )
else:
    shown = stage.write_fragment("forecasts", no_groups)
shown

# %%
stage.write_fragment("group_agreement", tables.agreement_sentence(agreement) if changed else no_groups)

# %%
stage.write_fragment("groups", tables.groups_table(outcome) if changed else no_groups)

# %% [markdown]
# ## Do rankings survive another seed?
#
# Two models that saw the same examples in another order, and the same question.

# %%
if on:
    brittleness = report.brittleness_table(targets, scored, keys)
    stage.write_table("brittleness", brittleness)
fragment = stage.write_fragment(
    "brittleness", tables.brittleness_table(brittleness) if on else tables.NOT_RUN
)
fragment

# %%
if on:
    mean = held[held["target"] == report.MEAN]
    stage.write_summary(
        [
            f"LDS of {figures.METHOD_NAMES[row.method]}: {row.lds:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
            f" ({row.subsets} subsets, {row.seeds} retraining(s) each)"
            for row in mean.itertuples()
            if row.method in ("ekfac", "refined", "trak", "gradcos", "graddot")
        ]
    )
stage.close()
