# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tune and evaluate
#
# Supervised fine-tuning on the worked solutions turns the base into a model that reasons
# in steps. The loss counts the response only. The exam is real: mathematics is graded by
# its final answer, and each generated Python program is executed on hidden inputs in an
# isolated process.

# %% tags=["parameters"]
study: str = "small"  # name of the study
epochs: int = 3  # passes over the training examples
batch_size: int = 16  # examples per optimiser step
learning_rate: float = 1e-3  # AdamW learning rate after warm-up
warmup_fraction: float = 0.05  # part of all steps spent warming up, 0 to 1
weight_decay: float = 0.01  # AdamW weight decay
schedule: str = "linear"  # learning rate after the warm-up: linear, cosine or constant
max_tokens: int = None  # longest sequence; longer responses are cut, and the loss is recorded
precision: str = "float32"  # arithmetic of training: float32, tf32, bfloat16 or float16
attention: str = "sdpa"  # attention implementation of training
gradient_accumulation: int = None  # micro-batches per step and device; None chooses
gradient_checkpointing: bool = False  # compute activations twice in place of keeping them
packing: bool = False  # rows without padding, examples kept apart
fsdp: bool = False  # shard the training over its devices
checkpoint_steps: int = None  # steps between checkpoints; None is one an epoch
lora_rank: int = 0  # rank of low-rank adapters; 0 trains every weight
lora_alpha: float = None  # scale of the adapters; None is twice the rank
lora_targets: list = ["all-linear"]  # linear layers that get adapters
devices_per_run: int = 1  # devices that share one training run
fine_tune_seeds: list = [0, 1, 2]  # seeds of data order, one run each per base
samples: int = 1  # answers per problem; more than one need a temperature above 0
temperature: float = 0.0  # 0 decodes greedily
top_p: float = 1.0  # sample from the likeliest tokens of this probability
engine: str = "transformers"  # what generates: transformers or vllm
max_new_tokens: int = 320  # longest generated answer, in tokens
processes: int = 2  # training runs side by side, one thread each
sandbox: str = "auto"  # how programs are walled off: auto, bubblewrap or process
device: str = "cpu"  # cpu or cuda
bootstrap_samples: int = 2000  # resamples behind each interval
confidence: float = 0.95  # coverage of the intervals, 0 to 1

# %%
from dataclasses import replace

from infra_lib import figures, tables
from infra_lib.errors import DataError
from infra_lib.evaluate.sandbox import isolation
from infra_lib.exam_dates import accuracy_by_window
from infra_lib.examples import from_frame
from infra_lib.experiment import Run, run_all
from infra_lib.lengths import cut_report, encode_within
from infra_lib.models import load_tokenizer
from infra_lib.pass_at_k import pass_at_k_table, tries
from infra_lib.prompt_form import cautions, describe_prompts, prompts_in_words
from infra_lib.stage import open_stage
from infra_lib.statistics import accuracy_by_group
from infra_lib.study_data import exams_of

stage = open_stage("03_finetune_evaluate", globals())
params = stage.params

# %% [markdown]
# ## One run per base and seed
#
# Each run is kept under a digest of all that it depends on. A run that is there is read
# back, so an interrupted notebook continues where it stopped.

# %%
train = from_frame(stage.read_table("01_data", "train"))
test = from_frame(stage.read_table("01_data", "test"))
tokenizer = load_tokenizer(params.base_of(params.base_seeds[0], stage.root))
encoded, unread = encode_within(tokenizer, train, params.max_tokens)
if unread:
    raise DataError(unread[0], f"and {len(unread) - 1} more: empty, or the prompt alone fills max_tokens")
cut = cut_report(encoded, train)
del encoded
stage.write_table("cut", cut)
stage.write_fragment("cut", tables.cut_table(cut, params.max_tokens))

# %% [markdown]
# The response tokens, and what of them is cut off where `max_tokens` limits a sequence.
# Training and exam put the prompt in the same form, which the tokenizer decides:

# %%
prompts = describe_prompts(tokenizer, [*train, *test])
stage.write_note("prompts", prompts)
stage.write_summary(cautions(prompts))
print(prompts_in_words(prompts))

# %%
runs = [
    Run(
        arm="uniform",
        base_seed=base_seed,
        seed=seed,
        base=params.base_of(base_seed, stage.root),
        train=train,
        test=test,
        config=params.finetune_config(),
        root=stage.runs,
        sampling=params.sampling(),
        engine=params.engine,
        device=params.device,
        devices=params.devices_per_run,
        sandbox=params.sandbox,
    )
    for base_seed in params.base_seeds
    for seed in params.fine_tune_seeds
]
answers = run_all(runs, processes=params.processes)
stage.write_table("answers", answers)
print(f"{len(runs)} runs of {len(train):,} examples, {len(test)} exam problems each")
print(f"generated programs were run with {isolation(params.sandbox)} isolation")

# %% [markdown]
# ## Accuracy by difficulty
#
# Answers are drawn as the parameters say: by default greedily, one for each problem. Several
# answers to a problem are averaged. Intervals resample problems and runs together, so they
# speak of other questions and of other seeds.

# %%
by_level = accuracy_by_group(
    answers, ["domain", "difficulty"], samples=params.bootstrap_samples, confidence=params.confidence
)
overall = accuracy_by_group(
    answers, ["domain"], samples=params.bootstrap_samples, confidence=params.confidence
)
stage.write_table("accuracy_by_difficulty", by_level)
stage.write_table("accuracy", overall)
stage.write_figure(
    "accuracy_by_difficulty",
    figures.accuracy_by_difficulty(by_level),
    data=by_level,
    alt="Accuracy on the test problems against difficulty for mathematics and code, with intervals. "
    + "; ".join(
        f"{r.domain} {r.difficulty:g}: {r.mean:.2f}"
        for r in by_level.dropna(subset=["difficulty"]).itertuples()
    ),
    caption=f"Accuracy (pass@1, {params.decoding()}) by difficulty; {len(runs)} runs, {sum(e.difficulty is not None for e in test)} problems each.",
)

# %%
stage.write_fragment("accuracy_by_difficulty", tables.accuracy_by_difficulty(by_level))

# %% [markdown]
# ## Exam by exam
#
# A domain's problems can come from several exams, whose mean says little. pass@k is the chance
# that one of k answers is correct, by the unbiased estimate from all answers that were drawn.

# %%
exams = pass_at_k_table(
    answers.assign(exam=exams_of(answers["id"], params.test_sources)),
    tries(params.samples),
    by=["exam", "domain"],
    samples=params.bootstrap_samples,
    confidence=params.confidence,
)
stage.write_table("exams", exams)
stage.write_fragment("exams", tables.exams(exams))

# %% [markdown]
# Some problems carry their day of publication (LiveCodeBench's, of the contest). A model can have read
# those from before its training data end, and not later ones, so their accuracy is also
# shown by half-year.

# %%
windows = accuracy_by_window(
    answers, test, params.test_sources, samples=params.bootstrap_samples, confidence=params.confidence
)
stage.write_table("exams_by_window", windows)
stage.write_fragment("exams_by_window", tables.exams_by_window(windows))

# %% [markdown]
# ## What goes wrong
#
# The reasons that the graders gave, counted.

# %%
reasons = (
    answers.loc[~answers["correct"]].groupby(["domain", "reason"]).size().rename("answers").reset_index()
)
stage.write_table("failures", reasons)
reasons

# %% [markdown]
# ## Correct answers to attribute
#
# The influence target is the mean log-likelihood of the model's *own correct* responses.
# They come from problems of their own, in neither the training set nor the exam.

# %%
target = from_frame(stage.read_table("01_data", "target"))
attributed = [run for run in runs if run.seed == params.fine_tune_seeds[0]]
target_answers = run_all([replace(run, test=target) for run in attributed], processes=params.processes)
stage.write_table("target_answers", target_answers)
stage.write_json(
    "models",
    [{"base_seed": run.base_seed, "seed": run.seed, "folder": run.folder.name} for run in attributed],
)
stage.keep_models(run.folder for run in attributed)
solved = target_answers.groupby(["base_seed", "domain"])["correct"].agg(["sum", "count"]).reset_index()
solved

# %%
lines = [
    f"{row.domain} accuracy after fine-tuning: {row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]"
    f" ({row.runs} runs, {row.n} problems)"
    for row in overall.itertuples()
]
stage.write_summary(lines)
stage.close()
