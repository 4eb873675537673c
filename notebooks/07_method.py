# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The method at work
#
# {doc}`../method` derives how a training example's influence on a target is computed. This
# notebook takes one fine-tuned model of the study and looks at each choice in that
# derivation: what a token's score means, how much the damping matters, how far the
# curvature's simpler forms agree, and what is left of the ranking when the curvature's
# approximation is refined.

# %% tags=["parameters"]
study: str = "small"  # name of the study
damping: float = 0.1  # added to each layer's curvature, as a multiple of its mean eigenvalue
target_responses: str = "own"  # own (the model's correct answers) or reference (the data's solutions)
batch_tokens: int = 4096  # padded tokens per batch of attribution
factor_gib: float = 2.0  # room for factors under construction, in GiB; less means more passes
factor_labels: str = "sampled"  # labels of the Fisher factors: sampled (true Fisher) or empirical
method_examples: int = 40  # training examples, and target responses at most; 0 leaves the notebook out
method_dampings: list = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]  # dampings of the sweep
refine_dampings: list = [0.1, 100.0]  # dampings at which the EK-FAC direction is refined
refine_passes: int = 4  # passes over these examples that refine it
refine_batch: int = 16  # examples of a minibatch of the stochastic refinement
seed: int = 0  # seed of the subset, the sampled labels and the minibatches
device: str = "cpu"  # cpu or cuda

# %%

from infra_lib import attributes
from infra_lib.examples import from_frame
from infra_lib.influence import response_positions
from infra_lib.method import convergence, figures, readings, sweeps
from infra_lib.method.setting import LEFT_OUT, open_setting
from infra_lib.method.shading import shaded_readings
from infra_lib.refine import conjugate_gradients, refine
from infra_lib.stage import open_stage

stage = open_stage("07_method", globals())
params = stage.params
on = params.method_examples > 0

# %% [markdown]
# ## One direction per target
#
# An example's influence {eq}`eq-influence` is a product of three things: the gradient of
# the target $f$, the inverse of a curvature $H$, and the example's own gradient. The first
# two do not depend on the example. They make one direction $V$ in weight space
# {eq}`eq-direction`, and a score is how fast the example's log-likelihood grows along it
# {eq}`eq-token`.
#
# Here the model is the study's first, and a subset of its training examples stands for all
# of them, so that the page is made in a minute. Curvature, scores and refinement below
# are all of that subset.

# %%
if on:
    answers = stage.read_table("03_finetune_evaluate", "target_answers")
    problems = from_frame(stage.read_table("01_data", "target"))
    if params.target_responses == "own":
        solved = attributes.correct_responses(problems, answers)
    else:
        solved = attributes.reference_responses(problems, params.base_seeds)
    model_record = stage.read_json("03_finetune_evaluate", "models")[0]
    setting = open_setting(
        stage.runs / model_record["folder"],
        from_frame(stage.read_table("01_data", "train")),
        solved[model_record["base_seed"]],
        examples=params.method_examples,
        labels=params.factor_labels,
        seed=params.seed,
        device=params.device,
        max_tokens=params.max_tokens,
        dtype=params.attribution_dtype(),
        batch_tokens=params.batch_tokens,
        memory_bytes=int(params.factor_gib * 2**30),
    )
    shown = setting.counts()
else:
    shown = stage.write_fragment("readings", LEFT_OUT)
shown

# %% [markdown]
# ## Two readings of a token
#
# An example's score is a sum over its tokens {eq}`eq-example`, and the sum can be cut in two
# ways. The **loss-term** reading follows the tokens that are predicted: each token's score is
# the derivative of its own log-probability along $V$. The **position** reading follows the
# places where the gradient arises: with $a_t$ a layer's input and $\delta_t$ the gradient at
# its output,
#
# $$
# \sum_t \left\langle V, \nabla_\theta \log p(y_t \mid y_{<t}) \right\rangle
# = -\sum_t \sum_{\text{layers}} \delta_t^\top V a_t .
# $$
#
# The two sums are equal; their terms are not. A position also carries the gradient of all
# *later* tokens, through attention.

# %%
if on:
    directions = setting.directions(params.damping)
    loss, position = setting.both_readings(directions)
    tokens = readings.readings_table(setting.train, setting.encoded, loss, position)
    agreement = readings.readings_agreement(tokens, loss, position)
    stage.write_table("readings_agreement", agreement)
    shown = agreement
shown

# %% [markdown]
# Below is one training example in both readings, the one that helps the first target most (mathematics,
# where that is one) among those of medium length.

# %%
if on:
    target = next(iter(loss))
    scores = {name: [rows.sum() for rows in values] for name, values in loss.items()}
    row = readings.most_helpful(setting.encoded, scores[target])
    example = setting.train[row]
    shaded = tokens[(tokens["id"] == example.id) & (tokens["target"] == target)]
    share, _ = response_positions(setting.encoded[row], position[target][row])
    stage.write_table("shaded_example", shaded)
    shown = stage.write_fragment(
        "readings", shaded_readings(shaded, example, target=target, prompt_share=share)
    )
shown

# %% [markdown]
# Over all tokens of all examples, the two readings beside each other. On the dotted line they
# would be equal.

# %%
if on:
    shown = stage.write_figure(
        "readings",
        figures.readings(tokens),
        data=tokens[["target", "id", "index", "loss", "position"]],
        alt="Two-dimensional histogram of token scores in the loss-term and the position reading, one panel per target. "
        + "; ".join(f"on {r.target} the correlation is {r.pearson:.2f}" for r in agreement.itertuples()),
        caption="Scores of response tokens in both readings, nats of the target per unit of the example's weight; "
        + ", ".join(
            f"{r.target}: Pearson {r.pearson:.2f}, n = {r.tokens:,} tokens" for r in agreement.itertuples()
        )
        + f" of {len(setting.train)} examples. The axes span 98 % of the tokens.",
    )
shown

# %% [markdown]
# ### Do the numbers hold?
#
# Two checks. The sums of both readings must agree for each example (the column
# `sums_differ_by` above). And forward mode, which scores all tokens in one pass, must
# equal the slow way: one backward pass per token, here for the example shown.

# %%
if on:
    slow = readings.backward_scores(setting.model, setting.encoded[row], directions)
    fast = {name: values[row] for name, values in loss.items()}
    checks = {
        "forward_against_backward": readings.largest_difference(fast, slow),
        "sums_differ_by": float(agreement["sums_differ_by"].max()),
        "tokens": int(setting.encoded[row].n_tokens),
    }
    stage.write_json("checks", checks)
    print(
        f"forward mode against {checks['tokens']} backward passes: {checks['forward_against_backward']:.1e} of the largest score"
    )
    print(f"sums of the two readings: {checks['sums_differ_by']:.1e} of the largest score")

# %% [markdown]
# ## Refining the curvature
#
# EK-FAC describes each layer's curvature by two small matrices and lets layers know nothing of
# each other. The Gauss–Newton matrix {eq}`eq-gauss-newton` of these same examples keeps all of
# that, and can be multiplied with without being formed. The refined direction solves
# {eq}`eq-refined`, starting from EK-FAC's own and with EK-FAC as preconditioner.
#
# Two ways are drawn below: conjugate gradients, whose every step sees all examples, and the
# stochastic iterations {eq}`eq-iteration` of ASTRA {cite:p}`wang2025better`, whose steps see a
# minibatch. At zero passes stands EK-FAC's direction, rescaled by the one factor that fits the
# system best, which changes no ranking.

# %%
if on:
    results = {}
    refined_at = sorted({*params.refine_dampings, params.damping})
    for value in refined_at:
        results["conjugate gradients", value] = conjugate_gradients(
            setting.system(value), iterations=params.refine_passes
        )
    for value in refined_at:
        results["minibatches", value] = refine(
            setting.system(value),
            iterations=max(1, params.refine_passes * len(setting.train) // params.refine_batch),
            batch_examples=params.refine_batch,
            checks=2,
            seed=params.seed,
        )
    curves = convergence.convergence_table(results, len(setting.train), params.refine_batch)
    stage.write_table("convergence", curves)
    shown = stage.write_figure(
        "convergence",
        figures.convergence(curves),
        data=curves,
        alt="Relative residual of the Gauss–Newton system and gain over EK-FAC against passes over the examples, for conjugate gradients and minibatches, one column per damping. Residuals: "
        + convergence.convergence_words(curves),
        caption=f"Refinement at dampings of {' and '.join(f'{v:g}' for v in refined_at)} × mean eigenvalue, {len(setting.train)} examples. Above: residual in the norm of the preconditioner, 0 when solved and 1 for a direction of zero. Below: the target's influence on itself, over that of EK-FAC's rescaled direction; level when solved.",
    )
shown

# %% [markdown]
# Small damping is the hard case: the curvature of a few examples has far fewer directions than
# there are weights, EK-FAC gives every weight some, and what lies between them is left to the
# damping. The residual of conjugate gradients can rise on the way; the gain cannot. The same
# in numbers: *scale* is the factor by which EK-FAC's direction fits best; *EK-FAC*, *rescaled*
# and *refined* are residuals without it, with it, and at the end; *Spearman* is the agreement
# of the examples' ranking before and after.

# %%
if on:
    scored = sweeps.sweep(
        setting.model,
        setting.train,
        setting.encoded,
        setting.factors,
        setting.gradients,
        damping=params.damping,
        dampings=sorted({*params.method_dampings, params.damping}),
        refined=convergence.by_method(results),
        pad_id=setting.pad_id,
        batch_tokens=setting.batch_tokens,
        memory_bytes=setting.memory_bytes,
    )
    stage.write_table("sweep", scored)
    refinement = convergence.refinement_table(results, scored)
    stage.write_table("refinement", refinement)
    shown = stage.write_fragment("refinement", convergence.refinement_markdown(refinement))
shown

# %% [markdown]
# ## A damping sweep
#
# Damping keeps directions of little curvature from growing without bound. Does the ranking of
# examples hang on it? Each point is Spearman's correlation between the scores at one damping
# and those at the default, dotted.

# %%
if on:
    by_damping = sweeps.damping_agreement(scored, params.damping)
    stage.write_table("damping_agreement", by_damping)
    shown = stage.write_figure(
        "damping_sweep",
        figures.damping_sweep(by_damping, damping=params.damping),
        data=by_damping,
        alt="Spearman correlation of example scores with those at the default damping, against the damping, for EK-FAC, KFAC and the diagonal; "
        f"the lowest is {by_damping['spearman'].min():.2f}.",
        caption=f"Agreement of rankings with the default damping ({params.damping:g} × mean eigenvalue, dotted); n = {len(setting.train)} examples.",
    )
shown

# %% [markdown]
# ## Methods beside each other
#
# The same examples ranked by each member of the family at the default damping, by directions
# refined with conjugate gradients (*refined*) and with minibatches, and by two scores without
# curvature: the dot product of gradients and their cosine. A refined direction whose residual is
# not far below 1 has not solved its system, and its ranks say little of the solution's.

# %%
if on:
    between = sweeps.method_agreement(scored, params.damping)
    stage.write_table("method_agreement", between)
    shown = stage.write_figure(
        "method_agreement",
        figures.method_heatmap(between),
        data=between,
        alt=f"Heat map of Spearman correlations between the rankings of {between['first'].nunique()} methods, one panel per target. "
        + sweeps.agreement_words(between),
        caption=f"Spearman's correlation between methods' scores of the same n = {len(setting.train)} examples. "
        f"Residuals of the refined directions: {convergence.residual_words(refinement, params.damping)}.",
    )
shown

# %% [markdown]
# Agreement is not accuracy: which ranking predicts what training on the data does is a
# question that only training again can answer.

# %%
if on:
    pairs = between[(between["first"] == "ekfac") & (between["second"].isin(["refined", "gradcos"]))]
    stage.write_summary(
        [
            f"forward mode against one backward pass per token: {checks['forward_against_backward']:.1e} of the largest score",
            *(
                f"ranking on {r.target}, EK-FAC against {figures.METHOD_NAMES[r.second]}: Spearman {r.spearman:+.2f} (n = {r.n})"
                for r in pairs.itertuples()
            ),
        ]
    )
stage.close()
