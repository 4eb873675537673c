"""The record of a long study: refused where a stage is not whole, checked file by file when it is shown."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from infra_lib.checksums import folder_digests, write_manifest
from infra_lib.claims import IMPLIED, measure_claims
from infra_lib.cli import app
from infra_lib.errors import DataError, InfraError, ParameterError
from infra_lib.files import read_sealed, write_sealed
from infra_lib.layout import data_digest, stage_folder
from infra_lib.markup import active_markup
from infra_lib.study import VALIDATION_METHODS
from infra_lib.validation import record, record_pages, tables

TARGETS = ("math", "code", "mean")
FIGURE = re.compile(r"```\{build-figure\} (\S+)\n:name: \S+\n```")


def with_figures(text: str, results: Path) -> str:
    """Return a fragment with the figures that its directives name, as the book shows them."""
    return FIGURE.sub(lambda m: (results / "figures" / f"{m[1]}.md").read_text(encoding="utf-8"), text)


def lds_frame(lds: float = 0.7) -> pd.DataFrame:
    rows = [
        {
            "method": method,
            "target": target,
            "selection": selection,
            "unit": unit,
            "damping": 0.1 if method in ("ekfac", "kfac", "diagonal", "refined", "trak") else np.nan,
            "dampings": "0.1, 1",
            "lds": lds - 0.05 * number,
            "low": lds - 0.05 * number - 0.1,
            "high": lds - 0.05 * number + 0.1,
            "subsets": 96,
            "seeds": 6,
            "models": 4,
            "responses": 120,
        }
        for unit in ("target", "response")
        for selection in ("held out", "fixed")
        for target in TARGETS
        for number, method in enumerate(VALIDATION_METHODS)
    ]
    return pd.DataFrame(rows)


def differences_frame(low: float = 0.02) -> pd.DataFrame:
    rows = [
        {"method": m, "difference": low + 0.1, "low": low, "high": low + 0.2, "p_value": 0.01}
        | {"reference": "ekfac", "target": target, "unit": unit}
        for unit in ("target", "response")
        for target in TARGETS
        for m in ("gradcos", "graddot", "trak")
    ]
    return pd.DataFrame(rows)


def ceiling_frame() -> pd.DataFrame:
    row = {"single": 0.7, "reliability": 0.9, "ceiling": 0.95, "low": 0.9, "high": 0.99, "seeds": 6}
    return pd.DataFrame([{"target": t, **row, "subsets": 96, "repeats": 6} for t in TARGETS])


FRAMES = {
    "lds": lds_frame(),
    "differences": differences_frame(),
    "ceiling": ceiling_frame(),
    "choice": pd.DataFrame(
        [
            {"tokens": tokens, "responses": "own", "balanced": balanced, "domain": domain, "n": 9}
            | {"lds": 0.5, "low": 0.4, "high": 0.6, "outcome": 0.3, "outcome_low": 0.1, "outcome_high": 0.4}
            for tokens in ("whole", "critical", "final")
            for balanced in (False, True)
            for domain in ("math", "code")
        ]
    ),
    "removal": pd.DataFrame(
        [
            {"method": method, "target": target, "end": end, "fraction": fraction, "removed": 40}
            | {"change": -0.3, "low": -0.5, "high": -0.1, "retrainings": 3, "responses": 60}
            for method, ends in (("ekfac", ("top", "bottom")), ("random", ("random",)))
            for target in ("math", "code")
            for end in ends
            for fraction in (0.1, 0.4)
        ]
    ),
    "single": pd.DataFrame(
        [
            {"model": model, "method": "ekfac", "target": target, "lds": lds, "unit": unit}
            for unit in ("target", "response")
            for target in TARGETS
            for model, lds in enumerate((0.41, 0.53))
        ]
    ),
    "brittleness": pd.DataFrame(
        [{"method": "ekfac", "target": "math", "spearman": 0.8, "lowest": 0.7, "overlap": 0.6}]
    ).assign(pairs=6, models=4),
    "groups": pd.DataFrame(
        [
            {"target": target, "domain": d, "difficulty": level, "change": change, "predicted": 0.1}
            | {"nats": -0.2, "low": -0.3, "high": -0.1, "accuracy": 0.0, "accuracy_low": -0.1}
            | {"accuracy_high": 0.1, "seeds": 4, "responses": 60, "n": 20}
            for target in ("math", "code")
            for d in ("math", "code")
            for level in (1, 2)
            for change in ("removed", "doubled")
        ]
    ),
    "group_agreement": pd.DataFrame(
        [
            {"target": target, "change": change, "agree": 0.7, "low": 0.5, "high": 0.9, "clear": 0.8}
            | {"constant": 0.6, "n": 8, "n_clear": 5, "spearman": 0.6}
            for target in ("math", "code")
            for change in ("removed", "doubled", "both")
        ]
    ),
    "claims": measure_claims({}),
    "arms": pd.DataFrame(
        [
            {"arm": arm, "domain": d, "mean": 0.6, "low": 0.5, "high": 0.7, "runs": 8, "n": 250}
            for arm in ("uniform", "flip")
            for d in ("math", "code")
        ]
    ).assign(tokens_per_epoch=100_000),
    "arm differences": pd.DataFrame(
        [
            {"arm_a": "flip", "arm_b": "uniform", "domain": d, "difference": 0.1, "low": 0.0, "high": 0.2}
            | {"p_value": 0.04, "p_problems": 0.01, "p_runs": 0.3, "runs": 8, "n": 250}
            for d in ("math", "code")
        ]
    ),
}

ANSWERS = pd.DataFrame(
    [
        {"arm": arm, "base_seed": 0, "seed": 0, "id": name, "domain": "code", "difficulty": 1, "sample": 0}
        | {"n_tokens": 9, "correct": arm == "flip", "response": "def f(): pass", "reason": "wrong"}
        for arm in ("uniform", "flip")
        for name in ("one", "two")
    ]
)


@pytest.fixture
def project(tmp_path):
    """A project whose study `full` has run: stages with tables and provenance, made up here."""
    for stage, names in record.KEPT.items():
        folder = stage_folder("full", stage, tmp_path)
        (folder / "data").mkdir(parents=True)
        for name in names:
            own = stage == "09_validation" or name in ("arms", "claims")
            key = "arm differences" if (stage[:2], name) == ("05", "differences") else name if own else ""
            FRAMES.get(key, pd.DataFrame({"x": [1]})).to_parquet(folder / "data" / f"{name}.parquet")
        if stage == record.ARMS:
            ANSWERS.to_parquet(folder / "data" / "answers.parquet")
        _close(folder, stage, "0123456789abcdef")
    (tmp_path / "records").mkdir()
    return tmp_path


def _close(folder, stage, commit, reads=None) -> None:
    (folder / "provenance.json").unlink(missing_ok=True)
    provenance = {
        "stage": stage,
        "study": "full",
        "effective": {},
        "seeds": {},
        "environment": {"commit": commit, "device": "two <cores>"},
        "started": "2030-01-02T03:04:05",
        "seconds": 1800.0,
        "summary": [],
        "reads": reads or {},
        "files": folder_digests(folder),
    }
    write_sealed(folder / "provenance.json", provenance)


def test_a_whole_study_becomes_a_record_and_the_record_becomes_a_page(project) -> None:
    record.write_record(project)
    fragments = record_pages.fragments(project, project / "results")
    assert set(fragments) == {*record_pages.PARTS, "larger", "larger_validation", "smollm2_gpu"}
    shown = fragments["full"]
    badge, verdict = shown.split("\n\n")[:2]
    assert "recorded run" in badge
    assert "0.5 hours since its last start; what had finished before is not counted" in badge
    assert "2.5 hours in 5 notebooks, each since its last start" in fragments["full_claims"]
    assert fragments["full_arms"].count("<details") == 2, "long tables are folded"
    assert "Paired differences on each base" in fragments["full_arms"]
    assert "There is one base." in fragments["full_arms"]
    assert "sign of the outcome in <strong>70%</strong>" in fragments["full_agreement"]
    assert "<cores>" not in badge
    assert "0.70 [0.60, 0.80]" in verdict
    assert "clearly above gradient cosine" in verdict
    sections = dict(part.split("\n", 1) for part in shown.split("\n\n### ")[1:])
    assert list(sections) == [heading for heading in record_pages.SECTIONS if heading]
    for name, part in (
        ("lds", shown.split("\n\n### ")[0]),
        ("dampings", sections["Damping"]),
        ("choice", sections["Which target can be predicted"]),
        ("removal", sections["Removal"]),
        ("groups", sections["Groups removed and doubled"]),
        ("arms", fragments["full_arms"]),
        ("claims", fragments["full_claims"]),
    ):
        assert f"{{build-figure}} full/{name}\n" in part
        assert (project / "results" / "figures" / "full" / f"{name}.csv").is_file()
    assert "70%" in sections["Groups removed and doubled"]
    assert "Predicted best on mathematics" in sections["Which target can be predicted"]
    for value in ("0.41", "0.47", "0.53", "0.70"):  # lowest, mean, highest model; their scores averaged
        assert value in sections["Other seeds"]
    assert sections["Noise ceiling"].count("0.95 [") == 2, "the mean of the targets has no interval"
    assert "flip − uniform" in fragments["full_arms"]
    assert "there is no record" in fragments["larger"]
    assert "grade, 4 in all, is in <code>records&#47;full" in fragments["full_arms"]
    graded = pd.read_parquet(project / "records" / "full" / record.ARMS / "graded.parquet")
    pd.testing.assert_frame_equal(graded, ANSWERS[list(record.GRADED)])
    assert not any(active_markup(text) for text in fragments.values())
    kept = read_sealed(project / "records" / "full" / "09_validation" / "provenance.json")
    assert kept["environment"]["commit"] == "0123456789abcdef"


def test_a_long_study_is_recorded_in_parts(project) -> None:
    arms = record.recorded_stages(["06_summary"])
    assert arms == [
        "02_base_model",
        "03_finetune_evaluate",
        "04_example_influence",
        "05_reweighting_arms",
        "06_summary",
    ]
    folder = record.write_record(project, stages=arms)
    shown = record_pages.fragments(project, project / "results")
    assert shown["full"] == record_pages.ABSENT_PART
    assert "flip − uniform" in shown["full_arms"]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    later = record.recorded_stages(["09_validation"])
    assert later == ["02_base_model", "03_finetune_evaluate", "09_validation"]
    record.write_record(project, stages=later)
    assert record_pages.fragments(project, project / "results")["full"] != record_pages.ABSENT_PART
    assert {path: path.read_bytes() for path in before} == before, "what was recorded stays"


def test_a_validation_of_another_run_is_a_record_of_its_own_and_shown_in_its_place(project) -> None:
    arms, later = record.recorded_stages(["06_summary"]), record.recorded_stages(["09_validation"])
    record.write_record(project, stages=arms)
    folder = record.record_folder(project, f"records/{record.VALIDATION}")
    record.write_record(project, folder=folder, stages=later)
    shown = record_pages.fragments(project, project / "results")
    assert "0.70 [0.60, 0.80]" in shown["full"]
    assert f"{{build-figure}} {record.VALIDATION}/lds\n" in shown["full"]
    assert "{build-figure} full/arms\n" in shown["full_arms"]
    page = read_sealed(folder / "09_validation" / "provenance.json")
    assert page["study"] == "full"
    drawn = json.loads((project / "results" / "figures" / record.VALIDATION / "lds.json").read_text())
    assert drawn["page"] == "/validation"


def test_what_was_made_from_other_data_leaves_the_record(project) -> None:
    def close(stage: str, **reads) -> dict:
        folder = stage_folder("full", stage, project)
        _close(folder, stage, "0123456789abcdef", reads)
        return read_sealed(folder / "provenance.json")

    first = close("03_finetune_evaluate")
    arms = close("05_reweighting_arms", **{"03_finetune_evaluate": data_digest(first)})
    close("06_summary", **{"05_reweighting_arms": data_digest(arms)})
    folder = record.write_record(project)
    assert record.outdated(folder) == []
    table = stage_folder("full", "03_finetune_evaluate", project) / "data" / "accuracy.parquet"
    pd.DataFrame({"x": [2]}).to_parquet(table)
    close("03_finetune_evaluate")
    record.write_record(project, stages=["03_finetune_evaluate"])
    left = {path.name for path in folder.iterdir()}
    assert left == {"02_base_model", "03_finetune_evaluate", "04_example_influence", "09_validation"}


@pytest.mark.reliability(kind="bad input", title="a stage that was not recorded")
def test_what_is_not_recorded_is_named() -> None:
    with pytest.raises(
        ParameterError, match=r"'07_method'.*of those that are recorded: 02_base_model, 03_finetune"
    ):
        record.recorded_stages(["07_method"])
    assert record.recorded_stages([]) == list(record.KEPT)
    assert record.recorded_stages([], validated=False) == list(record.KEPT)[:-1]


@pytest.mark.reliability(kind="bad input", title="a record that an older version made")
def test_a_record_of_another_time_is_refused_and_says_what_it_lacks(project) -> None:
    path = stage_folder("full", "09_validation", project) / "data" / "removal.parquet"
    pd.read_parquet(path).drop(columns="retrainings").to_parquet(path)
    _close(path.parents[1], "09_validation", "0123456789abcdef")
    record.write_record(project)
    with pytest.raises(DataError, match=r"removal\.parquet.*no column retrainings.*infra record"):
        record_pages.fragments(project, project / "results")


@pytest.mark.reliability(kind="bad input", title="a record put where another lies")
def test_a_record_goes_below_records_and_over_no_other(project, monkeypatch) -> None:
    assert record.record_folder(project, "records/long") == project / "records" / "long"
    (project / "records" / "base").mkdir()
    for out in ("elsewhere", "records", "records/a/b", "../records/x", "records/base"):
        with pytest.raises(ParameterError, match="--out"):
            record.record_folder(project, out)
    folder = record.write_record(project, "full", project / "records" / "long")
    assert record.record_folder(project, "records/long") == folder
    assert (folder / "09_validation" / "lds.parquet").is_file()
    monkeypatch.setenv("INFRA_PROJECT", str(project))
    result = CliRunner().invoke(app, ["record", "--study", "full", "--out", "elsewhere"])
    assert isinstance(result.exception, ParameterError)


def test_without_a_record_the_page_says_so(tmp_path) -> None:
    found = record_pages.fragments(tmp_path, tmp_path)
    assert {name: found[name] for name in record_pages.PARTS} == dict.fromkeys(
        record_pages.PARTS, record_pages.ABSENT
    )
    assert all(
        f"no record <code>records/{study}</code>" in found[study.replace("-", "_")]
        for study in record_pages.LARGER
    )
    (tmp_path / "records" / "full").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no stage"):
        record_pages.fragments(tmp_path, tmp_path)


@pytest.mark.reliability(kind="fault", title="a study unfinished or damaged, to be recorded")
def test_an_unfinished_or_damaged_study_is_no_record(project) -> None:
    table = stage_folder("full", "09_validation", project) / "data" / "lds.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:-1])
    with pytest.raises(InfraError, match=r"lds.parquet is missing or changed"):
        record.write_record(project)
    table.write_bytes(whole)
    folder = stage_folder("full", "05_reweighting_arms", project)
    _close(folder, "05_reweighting_arms", "0123+changes")
    with pytest.raises(InfraError, match="changed code"):
        record.write_record(project)
    (folder / "provenance.json").unlink()
    with pytest.raises(InfraError, match="05_reweighting_arms of study full has not run"):
        record.write_record(project)
    assert not (project / "records" / "full").exists()


@pytest.mark.reliability(kind="fault", title="a file of the recorded long study is torn or missing")
def test_a_torn_record_is_not_shown(project) -> None:
    record.write_record(project)
    path = project / "records" / "full" / "09_validation" / "removal.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(DataError, match="not the file that was recorded"):
        record_pages.fragments(project, project / "results")
    path.unlink()
    write_manifest(project / "records")
    with pytest.raises(DataError, match="not whole"):
        record_pages.fragments(project, project / "results")


def test_the_best_choice_of_a_target_is_named_with_those_in_reach_of_it() -> None:
    choices = FRAMES["choice"].query("domain == 'math'").assign(lds=[0.3, 0.3, 0.5, 0.8, 0.5, 0.5])
    choices = choices.assign(low=choices["lds"] - 0.1, high=[0.4, 0.4, 0.8, 0.9, 0.6, 0.9])
    said = html.unescape(tables.choice_words(choices))
    assert (
        "its own log-likelihood: <strong>critical tokens, own, balanced</strong>, 0.80 [0.70, 0.90]" in said
    )
    assert "(2 of 5 others in reach; whole response, own: 0.30 [0.20, 0.40])" in said
    assert "that of the final answers" in said


def test_the_verdict_says_what_was_not_reached() -> None:
    text = tables.verdict(lds_frame(0.45), differences_frame(-0.05), ceiling_frame())
    assert "the goal of 0.5 is missed, and the interval lies on both sides of it" in text
    assert "does not tell it apart from gradient cosine and gradient dot and TRAK" in text
    assert "clearly" not in text
    assert "interval lies below it" in tables.verdict(lds_frame(0.3), differences_frame(-0.3), pd.DataFrame())
    assert "clearly below" in tables.verdict(lds_frame(0.3), differences_frame(-0.3), pd.DataFrame())


@pytest.mark.parametrize(
    ("tried", "chosen", "says"),
    [
        ([0.1, 1.0, 10.0], "10, 10", True),
        ([0.1, 1.0, 10.0], "0.1, 0.1", True),
        ([0.1, 1.0, 10.0], "1, 10", True),
        ([0.1, 1.0, 10.0], "1, 1", False),
        ([10.0], "10, 10", False),
    ],
)
def test_a_damping_at_the_end_of_those_that_were_tried_is_said(tried, chosen, says) -> None:
    table = lds_frame()
    table.loc[table["selection"] == "held out", "dampings"] = ""
    refined = table[table["method"] == "refined"]
    others = table[table["method"] != "refined"]
    held = refined[refined["selection"] == "held out"].assign(dampings=chosen)
    fixed = [refined[refined["selection"] == "fixed"].assign(damping=value) for value in tried]
    shown = tables.verdict(pd.concat([others, held, *fixed]), differences_frame(), ceiling_frame())
    assert ("Of refined EK-FAC a damping at the end of those that were tried was chosen" in shown) == says


def test_the_recorded_studies_of_larger_models_are_whole_and_shown(tmp_path) -> None:
    root = Path(__file__).resolve().parents[2]
    shown = record_pages.fragments(root, tmp_path)
    for study, only in record_pages.LARGER.items():
        text = with_figures(shown[study.replace("-", "_")], tmp_path)
        kept = record.Record(root, study)
        assert "recorded run" in text.split("\n\n", 1)[0]
        for stage in kept.stages:
            device = kept.provenance(stage)["environment"]["device"]
            assert device.startswith("NVIDIA") or stage == "06_summary", (study, stage, device)
        accuracy = kept.table("03_finetune_evaluate", "accuracy").set_index("domain")["mean"]
        assert (f"code {accuracy['code']:.2f}" in html.unescape(text)) == ("03_finetune_evaluate" in only)
        for name in ("group_influence", "sentence_kinds", "token_classes", "claims", "arms"):
            assert (tmp_path / "figures" / study / f"{name}.svg").is_file() == ("06_summary" in only)
        assert not active_markup(text)
    assert "humaneval" in shown["smollm2_gpu"]
    assert "Do the scores predict retraining?" in shown["larger_validation"]
    lds = record.Record(root, "larger-validation").table("09_validation", "lds")
    assert lds["subsets"].min() >= 200
    assert set(lds["method"]) == set(VALIDATION_METHODS)


def test_a_record_below_float32_says_how_far_its_scores_agree_with_float32(tmp_path) -> None:
    root = Path(__file__).resolve().parents[2]
    shown = record_pages.fragments(root, tmp_path)
    said = "computed in bfloat16. This record has no comparison with float32."
    assert said in shown["smollm2_gpu"]
    assert "This record has no comparison" not in shown["larger"]  # its scores are in float32
    kept = record.Record(root, "smollm2-gpu")
    checks = pd.DataFrame({f"float32_{name}": [0.99, 0.9876] for name in record_pages.COSINES})
    checks["float32_sample"] = 8
    kept.optional = lambda stage, name: checks if name == "factor_checks" else None
    (found,) = record_pages._precision(kept)
    assert found.count("0.9876") == 3


def test_claims_of_scores_are_shown_where_the_arms_were_not_reached(tmp_path) -> None:
    root = Path(__file__).resolve().parents[2]
    shutil.copytree(root / "records" / "larger", tmp_path / "records" / "larger")
    for stage in ("05_reweighting_arms", "06_summary"):
        shutil.rmtree(tmp_path / "records" / "larger" / stage, ignore_errors=True)
    write_manifest(tmp_path / "records")
    record_pages.fragments(tmp_path, tmp_path / "results")
    claims = pd.read_csv(tmp_path / "results" / "figures" / "larger" / "claims.csv")
    assert set(claims["claim"].astype(str)) >= {"1", "4", "5"}
    assert "2" not in set(claims["claim"].astype(str))


def test_captions_say_what_intervals_speak_of(tmp_path) -> None:
    root = Path(__file__).resolve().parents[2]
    fragments = record_pages.fragments(root, tmp_path)
    # Verdicts on arms that the paper does not report are younger than the records.
    assert IMPLIED in html.unescape(fragments["full_claims"])
    assert IMPLIED not in html.unescape(fragments["smollm2_gpu"])
    shown = {name: html.unescape(with_figures(text, tmp_path)) for name, text in fragments.items()}
    assert "with intervals over models and examples; models: 2" in shown["larger"]
    assert "with intervals over examples; one model" in shown["smollm2_gpu"]
    accuracy = record.Record(root, "smollm2-gpu").table("03_finetune_evaluate", "accuracy")
    exams = record.Record(root, "smollm2-gpu").optional("03_finetune_evaluate", "exams")
    assert exams is not None
    humaneval = int(exams.loc[exams["exam"] == "humaneval", "n"].sum())
    assert 0 < humaneval < accuracy["n"].sum()
    assert f"with {humaneval} problems that have no difficulty" in shown["smollm2_gpu"]
    assert "that have no difficulty" not in shown["larger"]
    assert "without 40% of the examples; the data have every part" in shown["larger_validation"]
