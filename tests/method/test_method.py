"""The method page's numbers: readings that add up, sweeps that equal plain scores, shades that say values."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import tiny_qwen2

from infra_lib import style
from infra_lib.errors import ParameterError
from infra_lib.examples import Example
from infra_lib.influence import example_scores, response_positions
from infra_lib.method import convergence, figures, readings, sweeps
from infra_lib.method.setting import Setting, open_setting, subset
from infra_lib.method.shading import EDGES, levels, shaded_readings
from infra_lib.models import save_model
from infra_lib.refine import conjugate_gradients, refine

DAMPING = 0.1


@pytest.fixture(scope="module")
def setting(tmp_path_factory, tokenizer, splits) -> Setting:
    folder = tmp_path_factory.mktemp("method") / "tiny"
    save_model(tiny_qwen2(len(tokenizer)), tokenizer, folder)
    short = sorted(splits.train, key=lambda e: len(e.prompt) + len(e.response))[:16]
    targets = {d: [e for e in splits.target if e.domain == d][:3] for d in ("code", "math")}
    return open_setting(folder, short, targets, examples=8)


@pytest.fixture(scope="module")
def both(setting):
    return setting.both_readings(setting.directions(DAMPING))


@pytest.fixture(scope="module")
def table(setting, both) -> pd.DataFrame:
    return readings.readings_table(setting.train, setting.encoded, *both)


def both_refined(setting) -> dict:
    plain = {DAMPING: setting.directions(DAMPING), 5.0: setting.directions(5.0)}
    return {"refined": plain, "refined_minibatches": plain}


@pytest.fixture(scope="module")
def scored(setting) -> pd.DataFrame:
    return sweeps.sweep(
        setting.model,
        setting.train,
        setting.encoded,
        setting.factors,
        setting.gradients,
        damping=DAMPING,
        dampings=[0.01, 1.0],
        refined=both_refined(setting),
    )


# --- Readings ----------------------------------------------------------------------------


def test_the_readings_differ_by_token_and_not_in_their_sums(table, both) -> None:
    agreement = readings.readings_agreement(table, *both).set_index("target")
    assert (agreement["sums_differ_by"] < 1e-4).all()
    assert (agreement["pearson"] < 0.999).all()
    for target, part in table.groupby("target"):
        assert agreement.loc[target, "pearson"] == pytest.approx(
            np.corrcoef(part["loss"], part["position"])[0, 1]
        )
        assert agreement.loc[target, "tokens"] == len(part)


def test_tokens_spell_the_response_and_the_prompt_has_the_rest(table, setting, both) -> None:
    for example, row, values in zip(setting.train, setting.encoded, both[1]["math"], strict=True):
        part = table[(table["id"] == example.id) & (table["target"] == "math")]
        assert "".join(part["text"]) == example.response
        share, own = response_positions(row, values)
        assert share + own.sum() == pytest.approx(values.sum(), rel=1e-5)
        # The position that predicts the first response token is the prompt's last.
        assert own[0] == values[int(row.loss_mask.nonzero()[0]) - 1]


def test_forward_mode_equals_one_backward_pass_per_token(setting, both) -> None:
    directions = setting.directions(DAMPING)
    slow = readings.backward_scores(setting.model, setting.encoded[2], directions)
    fast = {target: rows[2] for target, rows in both[0].items()}
    assert readings.largest_difference(fast, slow) < 1e-4
    moved = {target: values * 1.01 for target, values in fast.items()}
    assert readings.largest_difference(moved, slow) > 5e-3


def test_most_helpful_example_is_one_of_medium_length_where_there_is_one(setting) -> None:
    scores = np.arange(len(setting.encoded), dtype=float)
    lengths = [row.n_tokens for row in setting.encoded]
    assert readings.most_helpful(setting.encoded, scores, low=0, high=10**6) == len(lengths) - 1
    first = lengths[0]
    assert lengths[readings.most_helpful(setting.encoded, scores, low=first, high=first)] == first
    assert readings.most_helpful(setting.encoded, scores, low=10**6, high=10**7) == len(lengths) - 1
    with pytest.raises(ParameterError, match="at least one"):
        readings.most_helpful([], scores)


def test_subset_depends_on_seed_and_ids_and_not_on_order(splits) -> None:
    chosen = [example.id for example in subset(splits.train, 9, 0)]
    assert sorted(example.id for example in subset(splits.train[::-1], 9, 0)) == sorted(chosen)
    assert {example.id for example in subset(splits.train, 9, 1)} != set(chosen)
    assert len(subset(splits.train, 10**6, 0)) == len(splits.train)


# --- Sweeps ------------------------------------------------------------------------------


def test_scores_of_a_sweep_equal_sums_over_tokens(setting, scored, both) -> None:
    for target, expected in example_scores(both[0]).items():
        rows = scored[
            (scored["method"] == "ekfac") & (scored["damping"] == DAMPING) & (scored["target"] == target)
        ]
        assert rows["id"].tolist() == [example.id for example in setting.train]
        assert np.allclose(rows["score"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_sweep_has_each_method_at_each_damping_once(scored) -> None:
    counts = scored[scored["target"] == "math"].groupby("method")["damping"].nunique().to_dict()
    assert counts == {
        **dict.fromkeys(("ekfac", "kfac", "diagonal"), 4),
        **dict.fromkeys(("identity", "gradcos"), 1),
        **dict.fromkeys(("refined", "refined_minibatches"), 2),
    }
    assert not scored.duplicated(["method", "damping", "target", "id"]).any()


def test_scores_of_a_sweep_do_not_depend_on_the_groups_of_its_layers(setting, scored) -> None:
    one_by_one = sweeps.sweep(
        setting.model,
        setting.train,
        setting.encoded,
        setting.factors,
        setting.gradients,
        damping=DAMPING,
        dampings=[0.01, 1.0],
        refined=both_refined(setting),
        memory_bytes=1,
    )
    keys = ["method", "damping", "target", "id"]
    pd.testing.assert_frame_equal(one_by_one[keys], scored[keys])
    for _, part in scored.groupby(["method", "target"]):
        again = one_by_one.loc[part.index, "score"]
        assert np.allclose(again, part["score"], rtol=1e-5, atol=1e-5 * part["score"].abs().max())


def test_agreement_is_one_with_itself_and_symmetric(scored) -> None:
    by_damping = sweeps.damping_agreement(scored, DAMPING)
    assert set(by_damping["method"]) == {"ekfac", "kfac", "diagonal", "refined", "refined_minibatches"}
    assert np.allclose(by_damping.loc[by_damping["damping"] == DAMPING, "spearman"], 1)
    between = sweeps.method_agreement(scored, DAMPING)
    for _, part in between.groupby("target"):
        square = part.pivot(index="first", columns="second", values="spearman")
        assert np.allclose(square, square.T)
        assert np.allclose(np.diag(square), 1)
        # What was given as refined here is EK-FAC's own direction.
        assert square.loc["ekfac", "refined"] == pytest.approx(1)
    assert "EK-FAC and kfac on math" in sweeps.agreement_words(between)


def test_gradient_cosine_is_the_dot_product_over_the_norm(setting, scored) -> None:
    from infra_lib.baselines import gradient_norms

    norms = np.sqrt(gradient_norms(setting.model, setting.encoded, list(setting.factors.layers)))
    part = {
        m: scored[(scored["method"] == m) & (scored["target"] == "code")]["score"].to_numpy()
        for m in ("identity", "gradcos")
    }
    assert np.allclose(part["gradcos"], part["identity"] / norms, rtol=1e-4)


@pytest.mark.reliability(kind="bad input", title="an empty sweep of dampings")
def test_an_empty_sweep_is_named(setting) -> None:
    with pytest.raises(ParameterError, match="dampings"):
        sweeps.sweep(
            setting.model,
            setting.train,
            setting.encoded,
            setting.factors,
            setting.gradients,
            damping=0.1,
            dampings=[],
        )


def test_convergence_counts_passes_of_both_solvers_alike(setting) -> None:
    system = setting.system(100.0)
    cg = conjugate_gradients(system, iterations=2, tolerance=1e-9, progress=False)
    batches = refine(system, iterations=4, batch_examples=4, checks=2, tolerance=1e-9, progress=False)
    results = {("conjugate gradients", 100.0): cg, ("minibatches", 100.0): batches}
    curves = convergence.convergence_table(results, len(setting.train), 4)
    assert curves.groupby(["solver", "target"])["passes"].max().tolist() == [2.0] * 4
    at_zero = curves[curves["passes"] == 0].groupby("target")
    assert at_zero["natural"].nunique().tolist() == [1, 1]
    assert (at_zero["gain"].max() == 1).all()
    assert "conjugate gradients, damping 100, math" in convergence.convergence_words(curves)
    scored = sweeps.sweep(
        setting.model,
        setting.train,
        setting.encoded,
        setting.factors,
        setting.gradients,
        damping=DAMPING,
        dampings=[1.0],
        refined=convergence.by_method(results),
    )
    table = convergence.refinement_table(results, scored)
    assert (table["refined"] < table["rescaled"]).all()
    assert len(table) == 4
    for row in table.itertuples():
        part = scored[(scored["target"] == row.target) & (scored["damping"] == 100.0)]
        wide = part.pivot(index="id", columns="method", values="score")
        method = convergence.SCORED_AS[row.solver]
        assert row.spearman == pytest.approx(wide.corr("spearman").loc["ekfac", method])
    shown = convergence.refinement_markdown(table)
    assert "minibatches" in shown
    assert "nan" not in shown.lower()
    words = convergence.residual_words(table, 100.0)
    assert words.count("conjugate gradients") == words.count("minibatches") == 2
    unscored = convergence.refinement_table(results, scored[scored["method"] != "refined_minibatches"])
    assert unscored.loc[unscored["solver"] == "minibatches", "spearman"].isna().all()
    assert "not available" in convergence.refinement_markdown(unscored)
    figure = figures.convergence(curves.assign(natural=curves["natural"]))
    assert [len(axes.lines) for axes in figure.axes] == [4, 4]
    plt.close("all")


# --- Shading -----------------------------------------------------------------------------


def shaded(text: str) -> list[tuple[str, str]]:
    """Return (class, title) of each token of a fragment's first panel."""
    panel = text.split("<section")[1]
    return re.findall(r'<span(?: class="(\w+)")? title="([^"]+)">', panel)


def test_shades_follow_size_and_sign() -> None:
    values = np.array([0.0, 1.0, -1.0, EDGES[0] * 0.99, EDGES[0], -EDGES[2]])
    assert levels(values, 1.0).tolist() == [0, 4, -4, 0, 1, -3]


def test_every_token_is_shown_once_with_its_value_and_both_share_a_scale() -> None:
    frame = pd.DataFrame({"text": ["a", " b", ""], "loss": [2.0, -0.5, 0.0], "position": [4.0, 0.0, -2.5]})
    html = shaded_readings(
        frame, Example(id="x", domain="math", prompt="p", response="a b"), target="math", prompt_share=-250.0
    )
    assert shaded(html) == [("up4", "+2"), ("down2", "−0.5"), ("", "+0")]
    assert "These 3 tokens add up to +1.5.<" in html
    assert "add up to +1.5, the prompt's positions to −250: together −248." in html
    for number in ("≥ +0.25", "≥ +2", "≤ −0.25", "nats of the target", "mathematics", "end token"):
        assert number in html
    assert "\n\n" not in html


def test_text_of_an_example_is_shown_and_not_interpreted() -> None:
    nasty = "<script>alert(1)</script>\n\n$x$ {{a}} `b`"
    frame = pd.DataFrame({"text": [nasty], "loss": [1.0], "position": [1.0]})
    html = shaded_readings(
        frame, Example(id="x", domain="math", prompt=nasty, response=nasty), target="math", prompt_share=0
    )
    assert "<script" not in html
    assert "$x$" not in html
    assert "`b`" not in html
    assert "\n\n" not in html


# --- Figures -----------------------------------------------------------------------------


def test_figures_show_every_method_target_and_number(scored, table) -> None:
    style.apply()
    by_damping = sweeps.damping_agreement(scored, DAMPING)
    sweep = figures.damping_sweep(by_damping, damping=DAMPING)
    assert [len(axes.lines) for axes in sweep.axes] == [4, 4]  # three methods and the default
    assert [text.get_text() for text in sweep.legends[0].get_texts()] == ["EK-FAC", "KFAC", "diagonal"]
    heat = figures.method_heatmap(sweeps.method_agreement(scored, DAMPING))
    assert [len(axes.texts) for axes in heat.axes] == [49, 49]
    assert [label.get_text() for label in heat.axes[0].get_yticklabels()] == list(
        figures.METHOD_NAMES.values()
    )
    pairs = figures.readings(table)
    titles = [axes.get_title(loc="left") for axes in pairs.axes[:2]]
    assert titles == [f"on {name}, n = {len(table) // 2:,}" for name in ("mathematics", "code")]
    plt.close("all")
