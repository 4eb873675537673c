"""What the explorer's page loads: whole, escaped, and as close to the scores as it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import ABOUT, PAIRS, encoded, explored, files_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))
from hostile import TEXTS

from infra_lib.errors import ParameterError
from infra_lib.examples import Example
from infra_lib.explorer import agreement, tables
from infra_lib.explorer.page import SHARD, STEPS, cut_pieces, page_files, quantised
from infra_lib.explorer.score import METHODS, drawn, score_methods
from infra_lib.markup import visible
from infra_lib.models import load_model, load_tokenizer
from infra_lib.scoring import score_training_set


def read(text: str, name: str):
    """Return what a file of the page hands over."""
    head, tail = f'infraExplorer("{name}",', ");\n"
    assert text.startswith(head)
    assert text.endswith(tail)
    return json.loads(text[len(head) : -len(tail)])


@pytest.fixture(scope="module")
def examples(splits) -> list[Example]:
    return list(splits.train)


@pytest.fixture(scope="module")
def made(examples):
    found = explored(examples)
    sentences, tokens = tables.finer_tables(found)
    return found, tables.example_table(found), sentences, tokens


@pytest.fixture(scope="module")
def files(examples, made) -> dict[str, str]:
    _, scores, sentences, tokens = made
    return page_files(examples, scores, sentences, tokens, ABOUT)


@pytest.fixture(scope="module")
def rows(files) -> dict[str, dict]:
    """Return what the shards hold, by id."""
    index = read(files["index"], "index")
    names = sorted(name for name in files if name.startswith("shard-"))
    held = [row for name in names for row in read(files[name], name)]
    return {entry[0]: row for entry, row in zip(index["examples"], held, strict=True)}


# --- Tables ------------------------------------------------------------------------------


def test_tokens_add_up_to_sentences_and_sentences_to_examples(made) -> None:
    _, scores, sentences, tokens = made
    sums = agreement.sums(scores, sentences, tokens)
    assert len(sums) == len(PAIRS) * 4
    assert sums["largest_difference"].max() < 1e-10
    keys = ["method", "target", "id"]
    by_sentence = tokens.groupby([*keys, "sentence"], observed=True)[["loss", "position"]].sum()
    own = sentences.set_index([*keys, "index"])[["loss", "position"]]
    apart = by_sentence - own.loc[by_sentence.index].to_numpy()
    assert np.abs(apart.to_numpy()).max() < 1e-10


def test_a_wrong_sum_would_be_seen(made) -> None:
    _, scores, sentences, tokens = made
    wrong = tokens.assign(loss=tokens["loss"] * 1.01)
    assert agreement.sums(scores, sentences, wrong)["largest_difference"].max() > 1e-3


def test_the_prompt_has_a_share_in_the_position_reading_alone(made) -> None:
    _, _, _, tokens = made
    prompt = tokens[tokens["index"] == tables.PROMPT]
    assert len(prompt) == len(PAIRS) * made[0].train.__len__()
    assert (prompt["loss"] == 0).all()
    assert prompt["position"].abs().min() > 0


def test_spans_of_the_tables_cut_the_responses(made, examples) -> None:
    _, _, sentences, tokens = made
    by_id = {example.id: example for example in examples}
    first = tokens[(tokens["method"] == "ekfac") & (tokens["target"] == "math") & (tokens["index"] >= 0)]
    for name, part in first.groupby("id", observed=True):
        text = by_id[str(name)].response
        assert "".join(text[a:b] for a, b in zip(part["start"], part["end"], strict=True)) == text
    kinds = set(sentences["kind"].dropna())
    assert {"step", "conclusion"} & kinds


def test_every_pair_has_ranks_from_one(made) -> None:
    _, scores, _, _ = made
    for _, part in scores.groupby(["method", "target"]):
        ordered = part.sort_values("rank")
        assert ordered["rank"].tolist() == list(range(1, len(part) + 1))
        assert ordered["score"].is_monotonic_decreasing


# --- Files -------------------------------------------------------------------------------


def test_shards_are_whole_and_in_the_order_of_the_first_ranking(files, made, examples) -> None:
    _, scores, _, _ = made
    index = read(files["index"], "index")
    names = [name for name in files if name.startswith("shard-")]
    sizes = [len(read(files[name], name)) for name in names]
    assert sizes == [SHARD] * (len(examples) // SHARD)
    ids = [entry[0] for entry in index["examples"]]
    first = scores[(scores["method"] == PAIRS[0][0]) & (scores["target"] == PAIRS[0][1])]
    assert ids == first.sort_values("rank")["id"].tolist()
    assert len(read(files["search"], "search")) == len(ids)
    assert [target["key"] for target in index["targets"]] == ["math", "code"]
    assert [target["responses"] for target in index["targets"]] == [12, 7]


def test_a_last_shard_holds_the_rest(examples) -> None:
    files = files_of(examples[:7], shard=3)
    sizes = [len(read(files[name], name)) for name in sorted(files) if name.startswith("shard-")]
    assert sizes == [3, 3, 1]


def test_what_the_page_shows_of_a_token_is_within_the_bound(rows, made) -> None:
    found = made[0]
    shared = 0
    for reading, scores in (("loss", found.loss), ("position", found.position)):
        for pair, key in enumerate(scores):
            for example, values in zip(found.train, scores[key], strict=True):
                columns = rows[example.id]["q"][reading]
                scale, whole = columns[pair]
                if isinstance(whole, int):
                    whole = columns[whole][1]
                    shared += 1
                own = values if reading == "loss" else values[2 : 2 + len(whole)]
                bound = np.abs(own).max() / (2 * STEPS) * (1 + 1e-5)
                assert np.abs(np.array(whole) * scale - own).max() <= bound + 1e-12
                assert np.abs(whole).max() in (STEPS - 1, STEPS, STEPS + 1)
    assert shared >= 2 * len(found.train)  # cosines share the whole numbers of their products


def test_sentences_and_examples_keep_six_digits(rows, files, made) -> None:
    _, scores, sentences, _ = made
    index = read(files["index"], "index")
    for entry in index["examples"]:
        own = scores[scores["id"] == entry[0]].set_index(["method", "target"])["score"]
        assert np.allclose(entry[6], [own[pair] for pair in PAIRS], rtol=1e-5)
    one = index["examples"][0][0]
    own = sentences[(sentences["id"] == one) & (sentences["n_tokens"] > 0)]
    for pair, (method, target) in enumerate(PAIRS):
        part = own[(own["method"] == method) & (own["target"] == target)]
        for reading in ("loss", "position"):
            assert np.allclose(rows[one]["e"][reading][pair], part[reading], rtol=1e-5)


def test_sums_hold_on_the_page_up_to_the_bound(rows, files) -> None:
    index = read(files["index"], "index")
    for entry in index["examples"]:
        row = rows[entry[0]]
        assert sum(len(piece) > 0 for piece in row["t"]) == row["n"] - 1
        for reading in ("loss", "position"):
            for pair, (scale, whole) in enumerate(row["q"][reading]):
                whole = row["q"][reading][whole][1] if isinstance(whole, int) else whole
                share = row["h"][pair] if reading == "position" else 0.0
                room = len(whole) * scale / 2 + 1e-5 * abs(entry[6][pair]) + 1e-5 * abs(share)
                assert abs(sum(whole) * scale + share - entry[6][pair]) <= room
                assert abs(sum(row["e"][reading][pair]) + share - entry[6][pair]) <= 1e-4 * max(
                    1, *map(abs, row["e"][reading][pair])
                )


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(-1e30, 1e30, allow_subnormal=False), max_size=40))
def test_any_scores_are_quantised_within_the_bound(values: list[float]) -> None:
    array = np.array(values, dtype=np.float64)
    scale, whole = quantised(array)
    assert len(whole) == len(values)
    if values and np.abs(array).max() > 1e-290:
        bound = np.abs(array).max() / (2 * STEPS) * (1 + 2e-5)
        assert np.abs(np.array(whole) * scale - array).max() <= bound


@settings(deadline=None, max_examples=200)
@given(st.text(min_size=1, max_size=60), st.lists(st.integers(0, 60), max_size=10))
def test_pieces_and_rest_are_the_whole_text(text: str, places: list[int]) -> None:
    starts = np.array([0, *sorted(min(place, len(text)) for place in places)])
    ends = np.append(starts[1:], min(len(text), starts[-1] + 3))
    pieces, rest = cut_pieces(text, starts, ends)
    assert len(pieces) == len(starts)
    assert "".join(pieces) + rest == text


@pytest.mark.reliability(kind="bad input", title="hostile text in the explorer's data")
def test_hostile_text_is_ascii_without_a_tag_and_comes_back_as_it_can_be_seen() -> None:
    texts = [text for text in TEXTS if text.strip()]
    texts += ["</script><script>window.__pwned=1</script>", "\u2028 \u2029 \"quotes\" 'and' \\ back", "=1+1"]
    texts = [text for text in texts if text.isascii() or text.encode("utf-8", "ignore").decode() == text]
    hostile = [
        Example(id=f"{k} {text[:40]}", domain="math", prompt=text, response=text, category=text[:30] or None)
        for k, text in enumerate(texts)
    ]
    files = files_of(hostile)
    for name, text in files.items():
        assert text.isascii()
        assert "<" not in text
        assert text.count("\n") == 1
        read(text, name)
    index = read(files["index"], "index")
    ids = [entry[0] for entry in index["examples"]]
    for number, example in enumerate(hostile):
        at = ids.index(visible(example.id))
        row = read(files[f"shard-{at // SHARD:03d}"], f"shard-{at // SHARD:03d}")[at % SHARD]
        assert row["p"] == visible(example.prompt)
        pieces = [visible(example.response[a:b]) for a, b in encoded(example).offsets]
        assert row["t"] == pieces, number


def test_the_colour_scale_ends_at_what_one_percent_exceed(files, made) -> None:
    _, _, sentences, tokens = made
    index = read(files["index"], "index")
    for level, frame in (("sentence", sentences), ("token", tokens)):
        for pair, (method, target) in enumerate(PAIRS):
            own = frame[(frame["method"] == method) & (frame["target"] == target) & (frame["index"] >= 0)]
            end = index["ends"][f"{level}-loss"][pair]
            assert np.isclose(end, np.quantile(own["loss"].abs(), 0.99), rtol=0.051)


# --- Scores ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def targets(splits) -> dict[str, list[Example]]:
    return {name: [e for e in splits.target if e.domain == name] for name in ("math", "code")}


@pytest.fixture(scope="module")
def scored(model_folder, splits, targets):
    return score_methods(model_folder, splits.train[::4], targets, progress=False)


def test_ekfac_scores_are_those_of_the_study(model_folder, splits, targets, scored) -> None:
    earlier = score_training_set(model_folder, splits.train[::4], targets, progress=False)
    table = agreement.with_earlier(tables.example_table(scored), earlier.scores)
    assert table["target"].tolist() == ["math", "code"]
    assert table["examples"].tolist() == [10, 10]
    assert table["largest_difference"].max() < 1e-4


def test_sums_hold_in_both_readings_of_every_method(scored) -> None:
    sums = agreement.sums(tables.example_table(scored), *tables.finer_tables(scored))
    assert set(sums["method"]) == set(METHODS)
    assert sums["largest_difference"].max() < 1e-4


def test_a_cosine_is_the_product_over_two_norms(model_folder, scored, targets) -> None:
    from infra_lib.influence import target_gradient
    from infra_lib.models import encode, mlp_linears

    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    names = list(mlp_linears(model))

    def flat(rows) -> torch.Tensor:
        gradient = target_gradient(model, names, rows)
        return torch.cat([part.flatten() for part in gradient.values()]).double()

    goal = flat([encode(tokenizer, example, end_token=True) for example in targets["math"]])
    table = tables.example_table(scored)
    own = table[table["target"] == "math"].set_index(["method", "id"])["score"]
    for example, row in zip(scored.train[:3], scored.encoded[:3], strict=True):
        gradient = flat([row])
        product = float(goal @ gradient)
        assert np.isclose(own["graddot", example.id], product, rtol=1e-3)
        assert np.isclose(
            own["gradcos", example.id], product / float(goal.norm() * gradient.norm()), rtol=1e-3
        )
    assert own["gradcos"].abs().max() <= 1


def test_company_and_order_of_methods_change_nothing(model_folder, splits, targets, scored) -> None:
    alone = score_methods(
        model_folder,
        splits.train[::4],
        targets,
        methods=["gradcos", "kfac"],
        directions_at_once=1,
        progress=False,
    )
    assert list(alone.loss) == [(m, t) for t in ("math", "code") for m in ("gradcos", "kfac")]
    for found, same in ((alone.loss, scored.loss), (alone.position, scored.position)):
        for key, values in found.items():
            size = max(np.abs(row).max() for row in same[key])
            for one, other in zip(values, same[key], strict=True):
                assert np.abs(one - other).max() < 1e-4 * size


def test_fewer_examples_are_drawn_and_keep_their_scores(
    model_folder, splits, targets, scored, tmp_path
) -> None:
    some = score_methods(
        model_folder, splits.train[::4], targets, methods=["ekfac"], examples=4,
        factors_folder=tmp_path, progress=False,
    )  # fmt: skip
    assert len(some.train) == 4
    assert list(tmp_path.iterdir())
    whole = tables.example_table(scored).set_index(["method", "target", "id"])["score"]
    few = tables.example_table(some).set_index(["method", "target", "id"])["score"]
    assert np.allclose(few, whole.loc[few.index], rtol=1e-3)


def test_the_draw_does_not_depend_on_the_order() -> None:
    ids = [f"e{k}" for k in range(50)]
    chosen = {ids[k] for k in drawn(ids, 10, 3)}
    turned = ids[::-1]
    assert {turned[k] for k in drawn(turned, 10, 3)} == chosen
    assert drawn(ids, None, 0) == list(range(50))


@pytest.mark.reliability(kind="bad input", title="methods that the explorer does not have")
@pytest.mark.parametrize("methods", [[], ["trak"], ["ekfac", "diagonal"]])
def test_unknown_methods_are_named(model_folder, splits, targets, methods) -> None:
    with pytest.raises(ParameterError, match=r"explorer_methods is .* ekfac, kfac, graddot, gradcos"):
        score_methods(model_folder, splits.train[:4], targets, methods=methods, progress=False)


@pytest.mark.reliability(kind="bad input", title="parameters of the explorer that cannot be")
def test_the_study_checks_the_explorers_parameters() -> None:
    from infra_lib.study import make_study

    for values, name in (
        ({"explorer_model": 2}, "explorer_model"),
        ({"explorer_methods": ["ekfac", "ekfac"]}, "explorer_methods"),
        ({"explorer_methods": ["trak"]}, "explorer_methods"),
        ({"explorer_examples": 0}, "explorer_examples"),
        ({"explorer_directions": 0}, "explorer_directions"),
    ):
        with pytest.raises(ParameterError, match=name):
            make_study(values)


def test_methods_rank_like_themselves(made) -> None:
    ranks = agreement.between_methods(made[1])
    same = ranks[ranks["method"] == ranks["other"]]
    assert np.allclose(same["spearman"], 1)
    assert isinstance(ranks, pd.DataFrame)
    assert len(ranks) == 2 * 3 * 3
