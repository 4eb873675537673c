# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Data and difficulty
#
# Attribution needs training data whose attributes are known. A study names its data: published
# sets, files of your own, or, in the default study, a generated *small world* of short
# mathematics stories and Python-function tasks that are built from
# one lexicon of operations, so that a step learned in one domain can help in the other.
# **Difficulty** is the number of operations a problem composes, 1 to 5. Every problem
# comes with a worked solution in sentences, and some solutions explore: they check a
# step, try another way, or catch and mend a slip.

# %% tags=["parameters"]
study: str = "small"  # name of the study; its results go to _build/studies/<study>
seed: int = 0  # seed of the generated problems
train_sources: list = ["small_world"]  # small_world, data sets of the catalog, or .jsonl files
pool_sources: list = ["small_world"]  # where the arms take replacements from, in the same way
target_sources: list = ["small_world"]  # benchmarks or files whose solved problems are the target
test_sources: list = ["small_world"]  # benchmarks or files of the exam
data_folder: str = ""  # folder with one subfolder per data set; empty loads from the hub
data_revisions: dict = {}  # data set name to branch, tag or commit of the hub
data_options: dict = {}  # data set name to options: livecodebench has release, start_date, end_date, …
difficulty_from: str = "labels"  # labels (what the data give) or length (fifths of the response's length)
difficulties: list = [1, 2, 3, 4, 5]  # levels to generate, each from 1 (one step) to 5
train_examples: int = 1500  # training examples, both domains together, levels in equal parts
swap_pool_examples: int = 1500  # other problems from which the arms take replacements
target_examples: int = 400  # problems whose solved answers become the influence target
test_examples: int = 500  # problems of the exam, both domains together
exploratory_fraction: float = 0.25  # part of solutions with an exploratory sentence, 0 to 1
mend_fraction: float = 0.5  # part of those that catch and mend a slip; the rest confirm
conversational_fraction: float = 0.5  # part of math problems told as conversation, not symbolically
arms: list = ["uniform", "flip", "reverse", "without_exploration"]  # training sets to compare
easy: list = [1, 2]  # levels that count as easy
hard: list = [4, 5]  # levels that count as hard, paired with the easy ones in order
swap_fraction: float = 1.0  # part of the disfavoured examples that an arm replaces, 0 to 1

# %%
from infra_lib import figures, tables
from infra_lib.examples import to_frame
from infra_lib.reweight.study_arms import check_arms
from infra_lib.stage import open_stage
from infra_lib.steps import count_steps
from infra_lib.study_data import exams_of, load_splits

stage = open_stage("01_data", globals())
params = stage.params

# %% [markdown]
# ## Four splits that share no question
#
# Training set, swap pool, target problems and test problems are disjoint by question:
# no problem occurs in two of them, in whatever words. The generator checks this and
# refuses to go on otherwise.

# %%
data = load_splits(params, stage.root)
frames = {name: to_frame(examples) for name, examples in data.splits.items()}
stage.write_json("sources", data.reports)
for report in data.reports:
    if report.get("bad"):
        print(
            f"{report['name']}: {len(report['bad']):,} rows left out that cannot be used, the first: {report['bad'][0]}"
        )
for name, frame in frames.items():
    stage.write_table(name, frame)
check_arms(params, data.splits["train"], data.splits["swap_pool"])
counts = tables.split_counts(frames)
stage.write_fragment("splits", tables.split_counts_markdown(counts))

# %% [markdown]
# ## What the problems look like
#
# One problem of each kind, with its solution, a sentence a line. Dotted lines mark
# sentences that check, try another way, or mend; hover to see what a sentence does.

# %%
stage.write_fragment("gallery", tables.example_gallery(frames["train"]))

# %% [markdown]
# ## Length by difficulty
#
# Where the number of characters in a solution grows with its difficulty, swapping easy for
# hard examples changes how much text a model trains on, which is why arms are
# compared with the number of tokens beside them.

# %%
lengths = frames["train"].assign(characters=frames["train"]["response"].str.len())
known = lengths.dropna(subset=["difficulty"])
middle = known.groupby(["domain", "difficulty"])["characters"].median()
stage.write_figure(
    "length_by_difficulty",
    figures.length_by_difficulty(lengths),
    data=lengths[["id", "domain", "difficulty", "characters"]],
    alt="Length of solutions in characters against difficulty. Medians: "
    + ("; ".join(f"{domain} {level:g}: {value:.0f}" for (domain, level), value in middle.items()) or "none"),
    caption=f"Length of the training solutions by difficulty (n = {len(known):,}).",
)

# %% [markdown]
# ## Steps of long traces
#
# Published training sets come with long traces, whose sections are marked by tags. A trace
# falls into steps: a paragraph is one, and a sentence that turns round ("Wait",
# "Alternatively") begins one. *Checks* and *alternatives* are steps that begin so.

# %%
train = data.splits["train"]
steps = count_steps(train, exams_of([ex.id for ex in train], params.train_sources))
stage.write_table("steps", steps)
stage.write_fragment("steps", tables.steps_table(steps))

# %%
sizes = ", ".join(f"{len(frame):,} {name.replace('_', ' ')}" for name, frame in frames.items())
stage.write_summary([f"data: {sizes}; no question in two splits"])
stage.close()
