"""The claims' pages and the card say what the claims' table says, and what is unknown is said to be."""

from __future__ import annotations

import json
import struct

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from infra_lib import claim_pages, figures, pages, style, tables
from infra_lib.card import SIZE, draw_card
from infra_lib.claims import IMPLIED, measure_claims
from infra_lib.drawing_functions import functions_page
from infra_lib.paper import load_paper
from infra_lib.stage import Stage

RECORD = {
    "study": "tried",
    "seeds": {"base_seeds": [0, 1], "unused_seed": 4},
    "effective": {"base_seeds": [0, 1], "confidence": 0.95},
    "environment": {"commit": "abcdef0123456789", "device": "a processor"},
    "started": "2026-01-02T03:04:05+00:00",
}
RECORDS = dict.fromkeys(("04_example_influence", "05_reweighting_arms", "06_summary"), RECORD)


@pytest.fixture
def claims() -> pd.DataFrame:
    """Return claims of which flip on mathematics is reproduced, on code not, the rest undecided or open."""
    arms = [("flip", "math", 0.1, 0.05), ("flip", "code", -0.1, -0.2), ("reverse", "code", 0.0, -0.1)]
    frame = pd.DataFrame(
        [
            {"arm_a": a, "arm_b": "uniform", "domain": d, "difference": m, "low": low, "high": m + 0.05}
            for a, d, m, low in arms
        ]
    ).assign(runs=6, n=250)
    return measure_claims({"arms": frame})


@pytest.fixture
def arms() -> pd.DataFrame:
    return pd.DataFrame(
        [{"arm": "flip", "domain": "math", "mean": 0.4321, "low": 0.4, "high": 0.5, "runs": 6, "n": 250}]
    )


@pytest.fixture
def differences() -> pd.DataFrame:
    pair = {"arm_a": "hard_hard", "arm_b": "uniform", "domain": "code", "difference": -0.1}
    return pd.DataFrame([{**pair, "low": -0.2, "high": -0.05, "runs": 6, "n": 250}])


def texts(markup: str) -> list[list[str]]:
    rows = BeautifulSoup(markup, "html.parser").select("tbody tr")
    return [[cell.get_text(" ") for cell in row.select("td")] for row in rows]


def test_every_claim_gets_its_fragments(claims, arms, differences) -> None:
    made = claim_pages.fragments(claims, arms, differences, RECORDS)
    for claim in load_paper()["claims"]:
        rows = texts(made[f"claim_{claim['page']}_table"])
        assert [row[0] for row in rows] == [test["id"] for test in claim["tests"]]
        assert claim["claim"] in BeautifulSoup(made[f"claim_{claim['page']}"], "html.parser").get_text()
    assert len(texts(made["claims_full"])) == len(claims)
    ((test, _, reported, _, verdict),) = texts(made["claims_implied"])
    assert test == "2j"
    assert IMPLIED in reported
    assert verdict.startswith("reproduced")
    none = claim_pages.fragments(claims, arms, differences.iloc[:0], RECORDS)
    assert none["claims_implied"] == "The study of this build has no such arm."


def test_measured_cells_carry_their_provenance_and_others_say_not_available(
    claims, arms, differences
) -> None:
    made = claim_pages.fragments(claims, arms, differences, RECORDS)
    rows = {row[0]: row for row in texts(made["claims_full"])}
    for part in ("study tried", "abcdef012345", "base seeds [0, 1]", "a processor", "2026-01-02 03:04"):
        assert part in rows["2a"][3]
    assert "unused" not in rows["2a"][3]
    assert "AIME24 10 → 20" in rows["2a"][2]
    assert "abstract" in rows["2a"][2]  # how sure the reported number is
    assert rows["3a"][3] == "not available"
    assert "number not available" in rows["1a"][2]


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        (["not measured"] * 2, "no experiment"),
        (["reproduced", "not measured"], "Every effect that was measured came out as reported"),
        (["not reproduced"], "the other way round"),
        (["undecided"] * 3, "told from zero"),
        (
            ["reproduced", "undecided", "undecided"],
            "Of 3 effects that were measured: 1 as reported, 2 undecided.",
        ),
    ],
)
def test_a_claim_is_summed_up_in_words(verdicts, words) -> None:
    said = claim_pages.in_words(pd.DataFrame({"verdict": verdicts}))
    assert words in said
    assert " 0 " not in said


def test_every_number_of_the_paper_stands_beside_ours(arms) -> None:
    rows = texts(claim_pages.numbers_beside(arms, "somewhere"))
    for number in load_paper()["numbers"]:
        found = [r for r in rows if r[0].startswith(f"{number['model']} · {number['benchmark']}")]
        assert any(cell.startswith(f"{number['value']:g} %") for row in found for cell in row[1:])
    ours = next(r for r in rows if r[0].startswith("this study · mathematics"))
    assert any(cell.startswith("43.2 % [40.0, 50.0]") and "6 runs" in cell for cell in ours[1:])
    assert "not available" in ours[1:]
    assert any("not available" in row[1:] for row in rows if row[0].startswith("14B"))


def test_a_tip_is_in_the_text_and_takes_the_keyboard() -> None:
    tip = BeautifulSoup(tables.tip("5", "from <here>", "x"), "html.parser").span
    assert tip["tabindex"] == "0"
    assert tip.select_one(".tip-text").get_text() == " (from <here>)"
    assert tables.tip("5", "") == "5"


def test_the_card_has_its_size_and_changes_with_the_claims(tmp_path, claims) -> None:
    draw_card(tmp_path / "a.png", claims, "tried")
    draw_card(tmp_path / "again.png", claims, "tried")
    draw_card(tmp_path / "b.png", claims.assign(mean=-claims["mean"]), "tried")
    draw_card(tmp_path / "none.png", measure_claims({}), "tried")
    data = (tmp_path / "a.png").read_bytes()
    assert struct.unpack(">II", data[16:24]) == SIZE
    assert data == (tmp_path / "again.png").read_bytes()
    assert data != (tmp_path / "b.png").read_bytes()


def test_the_picture_draws_every_measured_effect_on_the_reported_side(claims) -> None:
    style.apply()
    measured = claims[claims["verdict"] != "not measured"]
    figure = figures.verdicts(measured)
    [axes] = figure.axes
    assert [text.get_text()[:2] for text in axes.texts] == list(measured["test"])
    sides = [line.get_marker() for line in axes.lines if line.get_marker() in "<>" and line.get_marker()]
    assert sides == [">" if way == "up" else "<" for way in measured["direction"]]
    means = [line for line in axes.lines if line.get_marker() in style.VERDICT_MARKERS.values()]
    assert [line.get_xdata()[0] for line in means] == list(measured["mean"])
    assert [line.get_color() for line in means] == [style.VERDICT_COLOURS[v] for v in measured["verdict"]]
    assert figures.verdicts(measured.iloc[:0]) is not None  # a study without any of the experiments


def test_the_sentence_for_shared_links_is_plain(claims) -> None:
    said = pages.summary_sentence(claims)
    assert "<" not in said
    assert "of 3 effects that it measured, 1 came out as reported, 1 the other way round" in said


def test_figures_remember_their_function_and_results(tmp_path, claims) -> None:
    style.apply()
    data = pd.DataFrame({"domain": ["math"] * 2, "difficulty": [1, 2], "mean": 0.5, "low": 0.4, "high": 0.6})
    figure = figures.accuracy_by_difficulty(data)
    folder = tmp_path / "figures" / "03"
    style.save_figure(
        folder, "03_finetune_evaluate", "x", figure, data=data, alt="a", caption="c", results="data/x.parquet"
    )
    record = json.loads((folder / "x.json").read_text(encoding="utf-8"))
    assert record["function"] == "infra_lib.figures.accuracy_by_difficulty"
    assert record["results"] == "data/x.parquet"
    page = functions_page(tmp_path / "figures")
    assert "(function-infra-lib-figures-accuracy-by-difficulty)=" in page
    assert "def accuracy_by_difficulty(frame: pd.DataFrame)" in page


def test_the_results_file_of_a_figure_is_the_table_that_holds_its_data() -> None:
    stage = Stage.__new__(Stage)
    table = pd.DataFrame({"a": [1, 2, 3], "b": [4.0, float("nan"), 6.0], "c": "x"})
    stage._tables = {"other": pd.DataFrame({"a": [1, 2, 3], "b": [0.0, 0.0, 0.0]}), "held": table}
    assert stage._table_of(table) == "held"
    assert stage._table_of(table.loc[[1, 2], ["b", "a"]]) == "held"
    assert stage._table_of(table.assign(a=9)) is None
    assert stage._table_of(table.assign(new=1)) is None
    assert stage._table_of(table.set_index(table.index + 5)) is None
