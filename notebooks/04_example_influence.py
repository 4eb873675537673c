# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Influence of examples, sentences and tokens
#
# How much would up-weighting one training example raise the log-likelihood of the
# model's own correct answers? The influence function estimates it without retraining:
# the gradient of the target, preconditioned by the curvature of the loss (EK-FAC, MLP
# weights), is compared with the gradient of each training example. A positive score
# means that the example helps.

# %% tags=["parameters"]
study: str = "small"  # name of the study
target_responses: str = "own"  # own (the model's correct answers) or reference (the data's solutions)
damping: float = 0.1  # added to each layer's curvature, as a multiple of its mean eigenvalue
batch_tokens: int = 4096  # padded tokens per batch of attribution
targets_at_once: int = 2  # targets that share a scoring pass; fewer take less memory and more time
factor_gib: float = 2.0  # room for factors under construction, in GiB; less means more passes
factor_labels: str = "sampled"  # labels of the Fisher factors: sampled (true Fisher) or empirical
easy: list = [1, 2]  # levels that count as easy
hard: list = [4, 5]  # levels that count as hard
seed: int = 0  # seed of the sampled labels and of the bootstrap
device: str = "cpu"  # cpu or cuda
devices_per_run: int = 1  # devices that share the factors and the scores
processes: int = 2  # models scored side by side on a CPU, one thread each
bootstrap_samples: int = 2000  # resamples behind each interval
confidence: float = 0.95  # coverage of the intervals, 0 to 1

# %%
import pandas as pd

from infra_lib import attributes, figures, tables
from infra_lib.examples import from_frame
from infra_lib.kinds import influence as kinds
from infra_lib.kinds import sentences, show
from infra_lib.scoring import score_models
from infra_lib.stage import open_stage

stage = open_stage("04_example_influence", globals())
params = stage.params

# %% [markdown]
# ## The target: correct answers
#
# For each base, the problems of the target split that its fine-tuned model solved, with
# the response that it wrote itself. Solved problems are mostly easy ones; the table says
# how many there are of each level.

# %%
train = from_frame(stage.read_table("01_data", "train"))
answers = stage.read_table("03_finetune_evaluate", "target_answers")
target = from_frame(stage.read_table("01_data", "target"))
if params.target_responses == "own":
    solved = attributes.correct_responses(target, answers)
else:
    solved = attributes.reference_responses(target, params.base_seeds)
counts = attributes.target_counts(solved)
stage.write_table("target_counts", counts)
stage.write_fragment("target_counts", tables.target_counts_markdown(counts))

# %% [markdown]
# ## Factors, direction, scores
#
# One EK-FAC fit per model, one preconditioned direction per target, and one forward-mode
# pass over the training set that scores every token; an example's score is the sum of its
# tokens'. A backward pass gives the other reading of a token: the position that predicts it.
# Where the study computes below float32, the table has the cosines with float32 on a sample.

# %%
models = stage.read_json("03_finetune_evaluate", "models")
results = score_models(
    [stage.runs / record["folder"] for record in models],
    train,
    [solved[record["base_seed"]] for record in models],
    damping=params.damping,
    labels=params.factor_labels,
    seed=params.seed,
    device=params.device,
    max_tokens=params.max_tokens,
    dtype=params.attribution_dtype(),
    batch_tokens=params.batch_tokens,
    memory_bytes=int(params.factor_gib * 2**30),
    targets_at_once=params.targets_at_once,
    devices=params.devices_per_run,
    folder=stage.workspace,
    processes=params.processes,
)
scored, by_kind, by_class, texts, fits = [], [], [], [], []
for record, result in zip(models, results, strict=True):
    base = {"base_seed": record["base_seed"]}
    scored.append(result.scores.assign(**base))
    by_kind.append(kinds.sentence_sums(train, result.encoded, result.tokens).assign(**base))
    classes = kinds.classes_of(train, result.encoded)
    for reading, values in (("loss", result.tokens), ("position", result.positions)):
        part = {**base, "reading": reading}
        by_class.append(kinds.token_sums(train, classes, values).assign(**part))
        texts.append(kinds.token_texts(train, result.encoded, classes, values).assign(**part))
    fits.append({**base, **result.checks})
    print(f"base {record['base_seed']}: {result.seconds}")
scores = pd.concat(scored, ignore_index=True)
stage.write_table("scores", scores)
checks = pd.DataFrame(fits)
stage.write_table("factor_checks", checks)
checks

# %% [markdown]
# ## Which difficulty helps which target
#
# Each cell is the mean influence of a group of training examples on a target, in standard
# deviations of that target's scores. Above zero, more of the group raises the target.

# %%
examples = stage.read_table("01_data", "train")
options = {"samples": params.bootstrap_samples, "confidence": params.confidence, "seed": params.seed}
groups = attributes.group_influence(scores, examples, ["domain", "difficulty"], **options)
stage.write_table("group_influence", groups)
stage.write_figure(
    "group_influence",
    figures.influence_heatmap(groups),
    data=groups,
    alt="Mean influence of training examples on the mathematics and code targets, by domain and difficulty of the examples.",
    caption=f"Mean influence by domain and difficulty of the training examples, in standard deviations ({len(checks)} models, {len(examples):,} examples).",
)

# %% [markdown]
# The same with intervals, so that a group's sign can be judged.

# %%
stage.write_figure(
    "group_influence_intervals",
    figures.influence_forest(groups),
    data=groups,
    alt="Mean influence of each group of training examples with intervals, one panel per target.",
    caption=f"Mean influence with {params.confidence:.0%} intervals, resampling models and examples.",
)

# %%
stage.write_fragment("group_influence", tables.group_influence_table(groups))

# %% [markdown]
# The same examples by category, where the data mark one.

# %%
categories = attributes.group_influence(scores, examples, ["domain", "category"], **options)
stage.write_table("category_influence", categories)
stage.write_fragment("category_influence", tables.group_influence_table(categories, "category"))

# %% [markdown]
# ## Hard against easy
#
# The paper's first claim as one number per target and training domain: the mean influence
# of hard examples minus that of easy ones.

# %%
contrast = attributes.hard_minus_easy(scores, examples, easy=params.easy, hard=params.hard, **options)
stage.write_table("hard_minus_easy", contrast)
stage.write_fragment("hard_minus_easy", tables.hard_minus_easy_table(contrast))

# %% [markdown]
# ## Across domains
#
# Does mathematics help code, and code mathematics? The mean influence of each domain on
# each target, and the influence of symbolic minus conversational mathematics.

# %%
transfer = attributes.group_influence(scores, examples, ["domain"], **options)
stage.write_table("transfer", transfer)
symbolic = attributes.contrast(scores, examples, "category", ("symbolic", "conversational"), **options)
stage.write_table("symbolic_minus_conversational", symbolic)
stage.write_fragment("transfer", tables.transfer_table(transfer))

# %%
symbolic

# %% [markdown]
# ## Kinds of sentences
#
# Rules sort sentences by their words alone, the first that fits decides. The generator
# labels its own sentences, so that the rules can be tried on all of them here; they are
# written for other traces too, and tried on hand-labelled sentences in the tests.

# %%
agreement = sentences.agreement(train)
stage.write_table("sentence_rules", agreement)
stage.write_fragment("sentence_rules", show.rules_table(sentences.rules_frame(), agreement))

# %% [markdown]
# A sentence's score is the sum of its tokens' (loss terms), in standard deviations of all
# sentences' scores on that target. *Exploratory* sentences check a result or seek another
# way; their effect is their mean minus that of all other sentences.

# %%
sentence_sums = pd.concat(by_kind, ignore_index=True)
stage.write_table("sentence_sums", sentence_sums)
sentence_means = kinds.means(sentence_sums, "kind", **options)
stage.write_table("sentence_kinds", sentence_means)
explored = kinds.from_others(kinds.means(kinds.exploratory(sentence_sums), "kind", **options))
stage.write_table("exploratory_minus_others", explored[explored["kind"] == "exploratory"])
stage.write_figure(
    "sentence_kinds",
    show.sentence_forest(sentence_means),
    data=sentence_means,
    alt="Mean influence of each kind of sentence on the mathematics and the code target, with intervals. "
    + "; ".join(
        f"{r.kind} in {r.domain} on {r.target}: {r.mean:+.2f}"
        for r in sentence_means[sentence_means["target"] == sentence_means["domain"]].itertuples()
    ),
    caption=f"Mean influence by kind of sentence with {params.confidence:.0%} intervals over models and examples ({len(checks)} models, {len(train):,} examples).",
)

# %%
stage.write_fragment("sentence_kinds", show.sentence_table(sentence_means))

# %% [markdown]
# ## Classes of tokens
#
# Prose is sorted by lists of words, programs by Python's own tokenizer. Both readings of
# a token stand beside each other: whether it is worth learning to predict it (loss terms),
# and where in the text the gradient arises (positions).

# %%
token_sums = pd.concat(by_class, ignore_index=True)
stage.write_table("token_sums", token_sums)
token_means = kinds.means(token_sums, "class", **options)
stage.write_table("token_classes", token_means)
stage.write_figure(
    "token_classes",
    show.token_forest(token_means),
    data=token_means,
    alt="Mean influence of each class of token on the target of its own domain, in both readings, with intervals. "
    + "; ".join(
        f"{r['class']} in {r['domain']}, {r['reading']}: {r['mean']:+.3f}"
        for r in token_means[token_means["target"] == token_means["domain"]].to_dict("records")
    ),
    caption=f"Mean influence of training tokens on the target of their own domain, by class and reading, with {params.confidence:.0%} intervals over models and examples ({len(checks)} models).",
)

# %%
stage.write_fragment("token_classes", show.token_table(token_means))

# %% [markdown]
# The texts with the highest and the lowest means, of those that occur often enough to
# have one. A high mean of a frequent word says that examples with it help, in that
# reading; it does not say that writing it more often would.

# %%
top = kinds.top_tokens(pd.concat(texts, ignore_index=True))
stage.write_table("top_tokens", top)
stage.write_fragment("top_tokens", show.top_tokens_table(top))

# %% [markdown]
# ## Do two models agree?
#
# Spearman's correlation of the scores of the same examples under models from different
# bases: how much of a ranking belongs to the data rather than to one training run.

# %%
agreement = attributes.rank_agreement(scores)
stage.write_table("rank_agreement", agreement)
agreement

# %% [markdown]
# ## The examples that help most and least

# %%
extremes = attributes.extreme_examples(scores, examples, count=3)
stage.write_table("extremes", extremes)
stage.write_fragment("extremes", tables.influential_examples(extremes))

# %%
stage.write_summary(
    [
        f"influence of hard minus easy {row.domain} on {row.target}: {row.difference:+.2f} sd"
        f" [{row.low:+.2f}, {row.high:+.2f}]"
        for row in contrast.itertuples()
    ]
)
stage.close()
