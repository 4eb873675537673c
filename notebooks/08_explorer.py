# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Scores behind the explorer
#
# {doc}`../explorer` shows training examples with their sentences and tokens shaded by
# influence. This notebook makes what it shows: scores of one fine-tuned model, on both
# targets, by several methods, for every example, sentence and token, in both readings of a
# token. The tables below are there to be loaded by others too.

# %% tags=["parameters"]
study: str = "small"  # name of the study
explorer_model: int = 0  # which of the study's models, counted from 0
explorer_methods: list = ["ekfac", "kfac", "graddot", "gradcos"]  # methods that the explorer offers
explorer_examples: int = 2000  # the most training examples that the explorer shows
explorer_directions: int = 6  # directions that share a scoring pass; fewer take less memory and more time
target_responses: str = "own"  # own (the model's correct answers) or reference (the data's solutions)
damping: float = 0.1  # added to each layer's curvature, as a multiple of its mean eigenvalue
batch_tokens: int = 4096  # padded tokens per batch of attribution
factor_gib: float = 2.0  # room for factors under construction, in GiB; less means more passes
factor_labels: str = "sampled"  # labels of the Fisher factors: sampled (true Fisher) or empirical
seed: int = 0  # seed of the sampled labels, and of the draw where there are more examples
device: str = "cpu"  # cpu or cuda
devices_per_run: int = 1  # devices that share the factors and the scores

# %%
from infra_lib import attributes
from infra_lib.examples import from_frame
from infra_lib.explorer import agreement, tables
from infra_lib.explorer.score import score_methods
from infra_lib.stage import open_stage

stage = open_stage("08_explorer", globals())
params = stage.params

# %% [markdown]
# ## One model, and what it is asked
#
# The model and its correct answers are those of {doc}`04_example_influence`, and so are the
# factors of its curvature, which are read where that notebook stored them.

# %%
record = stage.read_json("03_finetune_evaluate", "models")[params.explorer_model]
answers = stage.read_table("03_finetune_evaluate", "target_answers")
problems = from_frame(stage.read_table("01_data", "target"))
if params.target_responses == "own":
    solved = attributes.correct_responses(problems, answers)
else:
    solved = attributes.reference_responses(problems, params.base_seeds)
# Mathematics comes before code, as everywhere in the book.
targets = dict(sorted(solved[record["base_seed"]].items(), reverse=True))
{target: len(correct) for target, correct in targets.items()}

# %% [markdown]
# ## Scores
#
# EK-FAC and K-FAC influence and the dot product of gradients are derivatives along
# directions, and go through the training examples together: one forward-mode pass for the
# loss-term reading, one backward pass for the position reading. The cosine is the dot
# product over two norms.

# %%
found = score_methods(
    stage.runs / record["folder"],
    from_frame(stage.read_table("01_data", "train")),
    targets,
    methods=params.explorer_methods,
    examples=params.explorer_examples,
    damping=params.damping,
    labels=params.factor_labels,
    seed=params.seed,
    device=params.device,
    factors_folder=stage.workspace_of("04_example_influence"),
    max_tokens=params.max_tokens,
    dtype=params.attribution_dtype(),
    batch_tokens=params.batch_tokens,
    memory_bytes=int(params.factor_gib * 2**30),
    directions_at_once=params.explorer_directions,
    devices=params.devices_per_run,
)

# %% [markdown]
# ## Three tables
#
# Examples, sentences and tokens, one row for each with each method and target. Scores add
# up: tokens to sentences, sentences to examples, in either reading; in the position reading
# the prompt has a share of its own, the row with index −1.

# %%
examples = tables.example_table(found)
sentences, tokens = tables.finer_tables(found)
stage.write_table("examples", examples)
stage.write_table("sentences", sentences)
stage.write_table("tokens", tokens)
sums = agreement.sums(examples, sentences, tokens)
stage.write_table("sums", sums)
sums

# %% [markdown]
# ## The same numbers as before
#
# {doc}`04_example_influence` has scored the same examples by EK-FAC, in passes with other
# company. The largest difference, over the largest score:

# %%
before = stage.read_table("04_example_influence", "scores")
repeated = agreement.with_earlier(examples, before[before["base_seed"] == record["base_seed"]])
stage.write_table("repeated", repeated)
repeated

# %% [markdown]
# ## Do the methods rank alike?
#
# Spearman's correlation between the methods' scores of the same examples.

# %%
ranks = agreement.between_methods(examples)
stage.write_table("method_ranks", ranks)
ranks.pivot(index=["target", "method"], columns="other", values="spearman").round(3)

# %%
stage.write_json(
    "about",
    {
        "study": params.study,
        "base_seed": record["base_seed"],
        "damping": params.damping,
        "factor_labels": params.factor_labels,
        "target_responses": params.target_responses,
        "training_examples": len(stage.read_table("01_data", "train")),
        "targets": {target: len(correct) for target, correct in targets.items()},
    },
)
stage.write_summary(
    [
        f"explorer: {len(found.train):,} examples and {sum(r.n_tokens for r in found.encoded):,} tokens"
        f" by {len(params.explorer_methods)} methods"
    ]
)
stage.close()
