# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which examples help, which hinder?
#
# Each training example of a folder, scored by its influence on each target: how much more
# weight on the example would raise the log-likelihood of the target's correct responses.
# A **positive** score means that it helps. Scores are first-order, by EK-FAC over the
# model's MLP layers.

# %% tags=["parameters"]
model: str = "_build/models/smollm2"  # local Hugging Face folder, or hub name
data: str = "data"  # folder with train.jsonl and target.jsonl
out: str = "_build/adapt"  # folder of scores, figures and page
damping: float = 0.1  # added to each layer's curvature, as a multiple of its mean eigenvalue
shown: int = 2  # examples that help, and that hinder, shown for each target
max_tokens: int = 0  # cut longer examples here; 0 refuses what is longer than the context
skip_bad: bool = False  # leave out lines that cannot be used
device: str = "cpu"  # cpu or cuda
dtype: str = "float32"  # float32, bfloat16 or float16
batch_tokens: int = 4096  # padded tokens per batch; no result depends on it
memory: str = "2GiB"  # for factors under construction
seed: int = 0  # of the labels that are sampled for the factors

# %%
from infra_lib.adapt import attributed, parameters_of, results, show
from infra_lib.adapt.notebook import Page

parameters = parameters_of(globals())
page = Page(parameters)

# %% [markdown]
# ## What was read
#
# Every domain of the target file is a target. Loss is counted on responses alone.

# %%
found = attributed(parameters)
page.html(show.read_table(found))

# %% [markdown]
# ## Which groups help
#
# A dot is an example, the large one its group's mean with a 95 % bootstrap interval over the
# examples. Scores of a target are divided by their standard deviation over all examples.

# %%
page.groups(found, ("domain",))

# %% [markdown]
# By difficulty and by category, where the examples say theirs:

# %%
for by in results.finer_groups(found):
    page.groups(found, by)

# %% [markdown]
# ## Single examples, sentence by sentence, token by token
#
# Both ends of each target's ranking. The shade of a token is the influence of its own loss
# term; the small number behind a sentence is the sum over its tokens.

# %%
for target in found.targets:
    page.heading(target)
    page.html(show.example_cards(found, target, parameters.shown))

# %% [markdown]
# ## A caution
#
# Scores that are simpler can rank alike. Where influence goes with the cosine of gradients,
# curvature changed little; where it goes with length, the ranking says little more than which
# examples are long. Neither says which of them predicts what training does.

# %%
page.html(show.agreement_table(results.agreement(found)))

# %% [markdown]
# ## Do the numbers hold?

# %%
page.html(show.checks_table(found))

# %% [markdown]
# ## Where they come from

# %%
page.html(show.provenance_table(found))
