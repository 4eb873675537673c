"""The whole pipeline on the smoke study: it runs, reuses, continues after a kill, and refuses bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime, timedelta

import pandas as pd
import pytest
from faults import data_digests

from infra_lib.checksums import is_intact
from infra_lib.layout import STAGES
from infra_lib.study import VALIDATION_METHODS

pytestmark = pytest.mark.xdist_group("smoke")


def ran(output: str) -> set[str]:
    return set(re.findall(r"^running (\S+):", output, re.MULTILINE))


def reused(output: str) -> set[str]:
    return set(re.findall(r"^reused +(\S+):", output, re.MULTILINE))


def test_every_stage_ran_and_left_provenance_and_a_notebook(smoke) -> None:
    assert ran(smoke.first_run) == set(STAGES)
    for stage in STAGES:
        record = json.loads((smoke.stage(stage) / "provenance.json").read_text())
        assert record["study"] == "smoke"
        assert record["environment"]["versions"]["torch"]
        assert (smoke.stage(stage) / "notebook.ipynb").is_file()


def test_notebooks_that_need_one_process_run_side_by_side(smoke) -> None:
    spans = []
    for stage in ("07_method", "08_explorer"):
        record = json.loads((smoke.stage(stage) / "provenance.json").read_text())
        start = datetime.fromisoformat(record["started"])
        spans.append((start, start + timedelta(seconds=record["seconds"])))
    (first, first_end), (second, second_end) = spans
    assert first < second_end
    assert second < first_end


def test_results_are_complete_and_consistent(smoke) -> None:
    answers = pd.read_parquet(smoke.stage("05_reweighting_arms") / "data" / "answers.parquet")
    assert (
        answers.groupby(["arm", "base_seed", "seed"]).size().tolist() == [20] * 10
    )  # four arms and the untuned base
    arms = pd.read_parquet(smoke.stage("05_reweighting_arms") / "data" / "arms.parquet").set_index("arm")
    assert arms.loc["untuned", "runs"].tolist() == [2, 2]
    assert set(arms.index[arms["tokens_per_epoch"].isna()]) == {"untuned"}, "nothing was trained for it"
    scores = pd.read_parquet(smoke.stage("04_example_influence") / "data" / "scores.parquet")
    assert scores.groupby(["base_seed", "target"]).size().tolist() == [60] * 4
    assert scores["score"].notna().all()
    claims = pd.read_parquet(smoke.stage("06_summary") / "data" / "claims.parquet")
    assert set(claims["claim"]) == {"1", "2", "3", "4", "5"}
    assert "not measured" not in set(claims["verdict"])


def test_the_small_world_has_no_dates_and_no_traces_and_its_prompts_are_plain_text(smoke) -> None:
    exam = smoke.stage("03_finetune_evaluate")
    assert pd.read_parquet(exam / "data" / "exams_by_window.parquet").empty
    assert "<table" not in (exam / "tables" / "exams_by_window.md").read_text()
    record = json.loads((exam / "provenance.json").read_text())
    assert record["notes"]["prompts"]["form"] == "plain text"
    assert record["notes"]["prompts"]["with_system_text"] == 0
    assert pd.read_parquet(smoke.stage("01_data") / "data" / "steps.parquet").empty


def test_sentences_and_tokens_add_up_to_the_examples(smoke) -> None:
    data = smoke.stage("04_example_influence") / "data"
    scores = pd.read_parquet(data / "scores.parquet").set_index(["base_seed", "target", "id"])["score"]
    tokens = pd.read_parquet(data / "token_sums.parquet")
    loss = tokens[tokens["reading"] == "loss"]
    for sums in (pd.read_parquet(data / "sentence_sums.parquet"), loss):
        # Each is in its own standard deviations: the ratio to the examples' scores is one number.
        totals = sums.groupby(["base_seed", "target", "id"])["total"].sum()
        for key, part in totals.groupby(["base_seed", "target"]):
            own = scores.loc[key]
            factor = (part.droplevel([0, 1]) @ own) / (own @ own)
            assert factor > 0
            assert (part.droplevel([0, 1]) - factor * own).abs().max() < 1e-4 * part.abs().max()
    counted = loss.groupby(["base_seed", "target"])["count"].sum()
    n_tokens = pd.read_parquet(data / "scores.parquet").groupby(["base_seed", "target"])["n_tokens"].sum()
    assert (counted == n_tokens).all()
    rules = pd.read_parquet(data / "sentence_rules.parquet")
    assert rules.loc[rules["label"] == rules["kind"], "n"].sum() / rules["n"].sum() > 0.99


def test_method_page_has_every_method_and_its_checks_hold(smoke) -> None:
    data = smoke.stage("07_method") / "data"
    scored = pd.read_parquet(data / "sweep.parquet")
    methods = {"ekfac", "kfac", "diagonal", "identity", "gradcos", "refined", "refined_minibatches"}
    assert set(scored["method"]) == methods
    assert set(scored.groupby(["method", "damping", "target"]).size()) == {8}
    between = pd.read_parquet(data / "method_agreement.parquet")
    assert between.groupby("target").size().tolist() == [len(methods) ** 2] * 2
    assert between["spearman"].between(-1.001, 1.001).all()
    checks = json.loads((data / "checks.json").read_text())
    assert checks["forward_against_backward"] < 1e-4
    assert checks["sums_differ_by"] < 1e-4
    curves = pd.read_parquet(data / "convergence.parquet")
    exact = curves[curves["solver"] == "conjugate gradients"].sort_values("passes")
    for _, part in exact.groupby(["damping", "target"]):
        assert part["gain"].diff().min() > -1e-3


def test_the_method_notebook_can_be_left_out(broken) -> None:
    done = broken.infra("run", "07", "--study", "smoke", "-p", "method_examples=0")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert ran(done.stdout) == {"07_method"}
    left = broken.stage("07_method")
    assert "method_examples: 0" in (left / "tables" / "readings.md").read_text()
    assert not list(left.rglob("*.svg"))
    assert not list(left.rglob("*.parquet"))


def test_the_explorers_tables_add_up_and_repeat_the_scores_before(smoke) -> None:
    data = smoke.stage("08_explorer") / "data"
    scores = pd.read_parquet(data / "examples.parquet")
    assert scores.groupby(["method", "target"]).size().tolist() == [60] * 8
    sums = pd.read_parquet(data / "sums.parquet")
    assert len(sums) == 8 * 4
    assert sums["largest_difference"].max() < 1e-4
    repeated = pd.read_parquet(data / "repeated.parquet")
    assert repeated["target"].tolist() == ["math", "code"]
    assert repeated["examples"].tolist() == [60, 60]
    assert repeated["largest_difference"].max() < 1e-4
    tokens = pd.read_parquet(data / "tokens.parquet")
    assert tokens[["loss", "position"]].notna().all(axis=None)
    # Factors are those that notebook 04 stored, and none besides.
    assert not list((smoke.stage("work") / "08_explorer").rglob("*.safetensors"))
    assert len(list((smoke.stage("work") / "04_example_influence").rglob("*.safetensors"))) == 2


def test_validation_judges_every_method_by_real_retrainings(smoke) -> None:
    data = smoke.stage("09_validation") / "data"
    lds = pd.read_parquet(data / "lds.parquet")
    held = lds[lds["selection"] == "held out"]
    assert set(held["method"]) == set(VALIDATION_METHODS)
    # Refinement solves for a whole target, and has no score for each response.
    sizes = held.groupby(["unit", "target"]).size()
    for unit, methods in (("target", 10), ("response", 9)):
        assert sizes[unit].to_dict() == dict.fromkeys(("code", "math", "mean"), methods)
    assert set(held.loc[held["method"] == "refined", "unit"]) == {"target"}
    assert held["lds"].between(-1.001, 1.001).all()
    assert set(lds["subsets"]) == {6}
    # Six halves, three of them once more, the removals of one method and one at random.
    kept = sorted(smoke.stage("runs").glob("retrained/*.parquet"))
    assert len(kept) == 6 + 3 + 5
    assert all(is_intact(path) for path in kept)
    assert not list(smoke.stage("runs").glob("retrained/*.model"))
    groups = pd.read_parquet(data / "groups.parquet")
    # A level of each domain, and a category of one.
    assert groups.groupby(["change", "target"]).size().tolist() == [3] * 4
    assert set(groups["category"].dropna()) == {"symbolic"}
    assert groups[["predicted", "nats", "accuracy"]].notna().all(axis=None)
    assert set(groups["seeds"]) == {1}


def test_uniform_runs_are_shared_between_notebooks(smoke) -> None:
    first = pd.read_parquet(smoke.stage("03_finetune_evaluate") / "data" / "answers.parquet")
    later = pd.read_parquet(smoke.stage("05_reweighting_arms") / "data" / "answers.parquet")
    keys = ["base_seed", "seed", "id"]
    merged = first.merge(later[later["arm"] == "uniform"], on=keys, validate="one_to_one")
    assert (merged["response_x"] == merged["response_y"]).all()


def test_a_second_run_reuses_everything_and_says_so(smoke) -> None:
    before = data_digests(smoke)
    again = smoke.infra("run", "--study", "smoke")
    assert again.returncode == 0
    assert not ran(again.stdout)
    assert data_digests(smoke) == before
    assert "done" in smoke.infra("status", "--study", "smoke").stdout


def test_a_changed_parameter_runs_only_what_depends_on_it(smoke) -> None:
    done = smoke.infra("run", "--study", "smoke", "-p", "damping=0.2")
    assert done.returncode == 0, done.stderr
    assert ran(done.stdout) == {
        "04_example_influence",
        "05_reweighting_arms",
        "06_summary",
        "07_method",
        "08_explorer",
        "09_validation",
    }
    assert "parameters: damping changed (0.1 → 0.2)" in done.stdout
    back = smoke.infra("run", "--study", "smoke")
    assert ran(back.stdout) == {
        "04_example_influence",
        "05_reweighting_arms",
        "06_summary",
        "07_method",
        "08_explorer",
        "09_validation",
    }


def test_a_touched_notebook_is_reused_and_a_changed_one_runs(smoke) -> None:
    notebook = smoke.folder / "notebooks" / "04_example_influence.py"
    os.utime(notebook)
    touched = smoke.infra("run", "--study", "smoke")
    assert not ran(touched.stdout)
    source = notebook.read_text()
    notebook.write_text(source + "\n# %%\nprint('one more cell')\n")
    try:
        changed = smoke.infra("run", "--study", "smoke")
        # Its data came out as before, so the summary is not computed again.
        assert ran(changed.stdout) == {"04_example_influence"}
        assert "06_summary" not in ran(changed.stdout)
    finally:
        notebook.write_text(source)
        assert smoke.infra("run", "--study", "smoke").returncode == 0


@pytest.mark.reliability(kind="fault", title="a run of a study that another process holds")
def test_a_second_run_at_once_is_told_so(smoke) -> None:
    import fcntl

    with (smoke.stage(".lock")).open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        before = smoke.stage("study.json").read_bytes()
        done = smoke.infra("run", "--study", "smoke", "-p", "damping=0.7")
        assert smoke.stage("study.json").read_bytes() == before
    assert done.returncode == 2
    assert "is being run by process" in done.stderr


@pytest.mark.reliability(kind="bad input", title="a command line with a mistake")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--study", "smol"], "parameter study is 'smol': it must be"),
        (["run", "--study", "smoke", "-p", "epoch=1"], "'epochs' (did you mean that?)"),
        (
            ["run", "--study", "smoke", "-p", "epochs=many"],
            "parameter epochs is 'many': it must be a whole number",
        ),
        (["run", "--study", "smoke", "-p", "difficulties=[1,9]"], "parameter difficulties is [1, 9]"),
        (["run", "--study", "smoke", "-p", "epochs"], "of the form name=value"),
        (["run", "99", "--study", "smoke"], "parameter stage is '99'"),
        (["book", "--study", "small"], "the book needs 01_data: it has not run"),
        (["clean"], "--study"),
    ],
)
def test_bad_input_is_one_sentence_and_a_status(smoke, arguments, message) -> None:
    done = smoke.infra(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


@pytest.mark.reliability(kind="fault", title="the base models are missing")
def test_a_missing_base_model_is_named_and_nothing_is_lost(smoke) -> None:
    change = ["-p", "base_folder=records/none", "-p", "study=other"]
    assert smoke.infra("run", "01", "--study", "smoke", *change).returncode == 0
    done = smoke.infra("run", "--study", "smoke", *change)
    assert done.returncode == 2
    assert "holds no complete base model" in done.stdout + done.stderr
    assert (smoke.stage("01_data", "other") / "provenance.json").is_file()
    assert "01_data" not in ran(done.stdout)
    kept = smoke.folder / "_build" / "studies" / "other" / "work" / "02_base_model.ipynb"
    assert kept.is_file()


@pytest.mark.reliability(kind="fault", title="every write above 4 KiB fails")
def test_a_full_disk_is_named_and_leaves_no_half_file(smoke) -> None:
    """File sizes are limited to 4 KiB for the run, which fails every larger write."""
    import resource

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = smoke.infra("run", "--study", "smoke", "-p", "study=full", preexec_fn=limit)
    assert done.returncode != 0
    assert not (smoke.stage("01_data", "full") / "provenance.json").exists()
    assert smoke.infra("run", "01", "--study", "smoke", "-p", "study=full").returncode == 0


def test_a_notebook_runs_alone_with_plain_papermill(smoke, tmp_path) -> None:
    source, executed = tmp_path / "01.ipynb", tmp_path / "out.ipynb"
    jupytext = [
        sys.executable,
        "-m",
        "jupytext",
        "-q",
        "--to",
        "ipynb",
        "notebooks/01_data.py",
        "-o",
        str(source),
    ]
    subprocess.run(jupytext, cwd=smoke.folder, check=True)
    command = [
        sys.executable,
        "-m",
        "papermill",
        "-k",
        "python3",
        "--no-progress-bar",
        str(source),
        str(executed),
    ]
    parameters = ["-f", "notebooks/studies/smoke.yaml", "-p", "study", "plain"]
    done = subprocess.run(
        [*command, *parameters],
        cwd=smoke.folder,
        env=smoke.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    same = "01_data/data/train.parquet"
    frames = [pd.read_parquet(smoke.stage(same, study)) for study in ("plain", "smoke")]
    pd.testing.assert_frame_equal(*frames)
    asked = subprocess.run(
        [*command[:3], "--help-notebook", str(source)], capture_output=True, text=True, check=True
    )
    assert "swap_pool_examples" in asked.stdout
    assert "other problems from which the arms take replacements" in asked.stdout
