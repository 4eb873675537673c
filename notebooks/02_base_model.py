# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The base model
#
# A small transformer of the Qwen2 architecture, trained from scratch on the world's broad
# mix: arithmetic, one-step stories, code snippets, and a share of solved problems. It
# plays the part that a pretrained language model plays in the paper: it knows the
# language and the single steps, and composes them poorly. Two bases differ in their seed
# alone, since a finding that holds for one initialisation only is not a finding.
#
# Pretraining takes minutes, so the weights are kept with the project, and this notebook
# verifies them. Set `retrain_base` to train them again (`make base`).

# %% tags=["parameters"]
study: str = "small"  # name of the study
base_model: str = ""  # a Hugging Face folder or hub name; empty takes the models of base_folder
model_revision: str = ""  # branch, tag or commit of the hub
base_folder: str = "records/base"  # folder of the base models, one subfolder per seed
base_seeds: list = [0, 1]  # seeds of the base models to use
retrain_base: bool = False  # train the base models again instead of using the kept ones
pretrain_tokens: int = 6_500_000  # tokens of pretraining text, when training again
pretrain_epochs: int = 1  # times that this text is read
pretrain_hidden: int = 96  # width of a base model that is trained again
pretrain_layers: int = 4  # its decoder layers
pretrain_heads: int = 3  # its attention heads
pretrain_intermediate: int = 256  # width of its MLPs
pretrain_batch: int = 4  # sequences of 320 tokens a step
pretrain_learning_rate: float = 2e-3  # peak rate, decaying to zero
precision: str = "float32"  # arithmetic of training on a GPU: tf32, or float32 for every other one
processes: int = 2  # base models trained side by side
device: str = "cpu"  # cpu or cuda

# %%
import pandas as pd

from infra_lib import figures, tables
from infra_lib.pretrain import pretrain_all, verify_base
from infra_lib.pretrained import describe, pretrained_folder
from infra_lib.stage import open_stage

stage = open_stage("02_base_model", globals())
params = stage.params

# %% [markdown]
# ## Train, or verify
#
# Each base folder holds weights as safetensors, the configuration, the tokenizer and a
# provenance record; the weights must match the digest in the record.

# %%
root = stage.project_path(params.base_folder)
if params.base_model:
    local = stage.project_path(params.base_model)
    source = local if local.is_dir() else params.base_model
    folder = pretrained_folder(source, revision=params.model_revision, fetch=True)
    records = {params.base_seeds[0]: describe(folder)}
else:
    if params.retrain_base:
        pretrain_all(
            params.pretrain_config(),
            params.base_seeds,
            root,
            device=params.device,
            processes=params.processes,
        )
    records = {seed: verify_base(root / f"seed{seed}") for seed in params.base_seeds}
facts = tables.base_facts(records)
stage.write_table("bases", facts)
stage.write_fragment("bases", tables.base_facts_markdown(facts))

# %% [markdown]
# ## How pretraining went
#
# The loss on the training stream, in nats per token, as recorded while each base was
# trained. A model from elsewhere brings no such record.

# %%
curves = pd.concat(
    [pd.DataFrame(record.get("curve", [])).assign(base_seed=seed) for seed, record in records.items()],
    ignore_index=True,
)
shown = (
    stage.write_figure(
        "pretraining_loss",
        figures.loss_curves(curves),
        data=curves,
        alt="Pretraining loss in nats per token against tokens seen, one line per base model; both fall steeply and flatten.",
        caption="Pretraining loss of the base models, nats per token.",
    )
    if len(curves)
    else "The model comes without a record of its pretraining."
)
shown

# %%
stage.write_summary(
    [f"base models: {len(records)} of {facts['parameters'].iloc[0] / 1e6:.2f} M parameters, weights verified"]
)
stage.close()
