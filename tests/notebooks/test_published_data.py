"""Notebooks 01 to 05 on data sets in the hub's format and a model from elsewhere, no small world."""

from __future__ import annotations

import copy
import html
import json

import pandas as pd
import pytest
from conftest import Project, copy_project, tiny_qwen2
from published_sets import code_row, math_row, write_data

from infra_lib.files import digest_of
from infra_lib.layout import STAGES, read_provenance
from infra_lib.models import save_model
from infra_lib.prompt_form import CHAT
from infra_lib.runner import run_stage
from infra_lib.study import make_study

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
EXAMS = {"aime24": 2, "aime25": 2, "livecodebench": 3, "math500": 3, "mbpp": 2}
"""Exams, and problems of each in the fixtures."""
PER_DOMAIN, POOL, REPEATED = 15, 40, 2
MAX_TOKENS = 200


@pytest.fixture(scope="module")
def published(root, tmp_path_factory, tokenizer) -> Project:
    """The first five notebooks of a study of published data, run to the end."""
    folder = tmp_path_factory.mktemp("published")
    project = copy_project(root, folder / "project")
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = TEMPLATE
    save_model(tiny_qwen2(len(tokenizer)), chatty, folder / "model")
    data = write_data(folder / "data", train=PER_DOMAIN, pool=POOL, repeated=REPEATED)
    study = make_study(
        {
            "study": "published",
            "train_sources": ["bespoke_stratos"],
            "pool_sources": ["open_thoughts"],
            "target_sources": ["gsm8k", "humaneval"],
            "test_sources": list(EXAMS),
            "data_folder": str(data),
            "data_options": {"livecodebench": {"release": "v2"}},
            "difficulty_from": "length",
            "train_examples": 2 * PER_DOMAIN,
            "swap_pool_examples": 2 * POOL,
            "target_examples": 10,
            "test_examples": 50,
            "base_model": str(folder / "model"),
            "base_seeds": [0],
            "epochs": 1,
            "batch_size": 8,
            "max_tokens": MAX_TOKENS,
            "fine_tune_seeds": [0],
            "max_new_tokens": 4,
            "target_responses": "reference",
            "arms": ["uniform", "flip"],
            "bootstrap_samples": 100,
            "processes": 1,
        }
    )
    for stage in list(STAGES)[:5]:
        run_stage(project.folder, stage, study, progress=False)
    return project


def table(project: Project, stage: str, name: str) -> pd.DataFrame:
    return pd.read_parquet(project.stage(stage, "published") / "data" / f"{name}.parquet")


def fragment(project: Project, stage: str, name: str) -> str:
    written = (project.stage(stage, "published") / "tables" / f"{name}.md").read_text("utf-8")
    return html.unescape(written)


def test_the_splits_are_the_data_sets_and_share_no_question(published) -> None:
    frames = {name: table(published, "01_data", name) for name in ("train", "swap_pool", "target", "test")}
    sources = {name: set(frame["id"].str.partition("/")[0]) for name, frame in frames.items()}
    assert sources == {
        "train": {"bespoke_stratos"},
        "swap_pool": {"open_thoughts"},
        "target": {"gsm8k", "humaneval"},
        "test": set(EXAMS),
    }
    train, pool = frames["train"], frames["swap_pool"]
    assert train["domain"].value_counts().to_dict() == {"math": PER_DOMAIN, "code": PER_DOMAIN}
    assert len(pool) == 2 * (POOL - REPEATED)
    assert not set(train["question"]) & set(pool["question"])
    reports = json.loads((published.stage("01_data", "published") / "data" / "sources.json").read_text())
    by_name = {report["name"]: report for report in reports}
    assert by_name["repeated questions"] == {
        "name": "repeated questions",
        "split": "swap_pool",
        "removed": 2 * REPEATED,
    }
    assert by_name["bespoke_stratos"]["dropped"] == {"domain other": 1}
    assert by_name["bespoke_stratos"]["unlabelled"] == 2 * PER_DOMAIN
    assert all(report["revision"].startswith("files:") for report in reports if "revision" in report)


def test_difficulty_is_the_fifth_of_the_length_within_a_domain(published) -> None:
    train = table(published, "01_data", "train")
    for _, part in train.groupby("domain"):
        assert part["difficulty"].value_counts().to_dict() == dict.fromkeys(range(1, 6), PER_DOMAIN // 5)
        ordered = part.assign(length=part["response"].str.len()).sort_values("length")
        assert ordered["difficulty"].is_monotonic_increasing


def test_the_gallery_shows_the_responses_of_data_without_marked_sentences(published) -> None:
    gallery = fragment(published, "01_data", "gallery")
    assert gallery.count("example-card") >= 2
    assert 'class="kind-check"' in gallery or 'class="kind-alternative"' in gallery
    for response in gallery.split('<div class="example-response">')[1:]:
        assert "thought" in response.partition("</div>")[0]


def test_steps_of_traces_are_counted(published) -> None:
    steps = table(published, "01_data", "steps").set_index("domain")
    assert steps["source"].tolist() == ["bespoke_stratos"] * 2
    assert steps["traces"].tolist() == steps["examples"].tolist() == [PER_DOMAIN] * 2
    # A paragraph a row of tulips, one for the turn; then the two paragraphs of the solution.
    rows = [1 + number % 10 + 3 for number in range(PER_DOMAIN)]
    assert steps.loc["math", "steps"] == pd.Series(rows).median()
    turns = [math_row(n)["reasoning"].splitlines()[-1] for n in range(PER_DOMAIN)]
    assert steps.loc["math", "check"] == pytest.approx(sum("Wait" in t for t in turns) / PER_DOMAIN)
    assert steps.loc["code", "alternative"] == pytest.approx(
        sum("Alternatively" in code_row(n)["reasoning"] for n in range(PER_DOMAIN)) / PER_DOMAIN
    )
    assert "15 of 15" in fragment(published, "01_data", "steps")


def test_what_is_cut_at_the_context_is_counted(published) -> None:
    cut = table(published, "03_finetune_evaluate", "cut")
    whole = cut[cut["domain"] == "all"].iloc[0]
    assert whole["examples"] == 2 * PER_DOMAIN
    assert 0 < whole["cut"] < 2 * PER_DOMAIN
    assert 0 < whole["lost"] < whole["tokens"]


def test_the_form_of_prompts_is_in_the_provenance(published) -> None:
    record = read_provenance(published.stage("03_finetune_evaluate", "published"))
    assert record is not None
    examples = 2 * PER_DOMAIN + sum(EXAMS.values())
    # Bespoke-Stratos has a system turn in every row, LiveCodeBench's prompts have one of their own.
    assert record["notes"]["prompts"] == {
        "form": CHAT,
        "template_digest": digest_of(TEMPLATE),
        "template_left_out": False,
        "turn_tokens": [],
        "examples": examples,
        "with_system_text": 2 * PER_DOMAIN + EXAMS["livecodebench"],
    }


def test_every_exam_is_shown_apart_and_problems_without_a_level_too(published) -> None:
    exams = table(published, "03_finetune_evaluate", "exams")
    assert exams.set_index("exam")["n"].to_dict() == EXAMS
    assert exams["mean"].between(0, 1).all()
    shown = fragment(published, "03_finetune_evaluate", "exams")
    assert all(name in shown for name in EXAMS)
    levels = table(published, "03_finetune_evaluate", "accuracy_by_difficulty")
    assert levels["n"].sum() == sum(EXAMS.values())
    without = levels[levels["difficulty"].isna()].set_index("domain")["n"]
    assert without.to_dict() == {"code": EXAMS["mbpp"], "math": EXAMS["aime25"]}


def test_problems_with_a_date_are_shown_by_half_year(published) -> None:
    windows = table(published, "03_finetune_evaluate", "exams_by_window")
    assert windows[["exam", "difficulty", "window", "n"]].to_numpy().tolist() == [
        ["livecodebench", 1, "2023-07 to 2023-12", 1],
        ["livecodebench", 3, "2024-01 to 2024-06", 1],
        ["livecodebench", 5, "2024-01 to 2024-06", 1],
    ]
    answers = table(published, "03_finetune_evaluate", "answers").set_index("id")["correct"]
    contest = answers[answers.index.str.startswith("livecodebench/")]
    assert (windows["mean"] * windows["n"]).sum() == contest.sum()
    assert "2024-01 to 2024-06" in fragment(published, "03_finetune_evaluate", "exams_by_window")


def test_every_training_example_has_a_score_on_each_target(published) -> None:
    scores = table(published, "04_example_influence", "scores")
    train = table(published, "01_data", "train")
    for target in ("math", "code"):
        part = scores[scores["target"] == target]
        assert set(part["id"]) == set(train["id"])
        assert part["score"].std() > 0
    counts = table(published, "04_example_influence", "target_counts")
    assert counts.groupby("domain")["n"].sum().to_dict() == {"code": 1, "math": 3}
    groups = table(published, "04_example_influence", "group_influence")
    assert groups.groupby(["target", "domain"])["n"].sum().tolist() == [PER_DOMAIN] * 4
    contrast = table(published, "04_example_influence", "hard_minus_easy")
    assert contrast[["n_hard", "n_easy"]].to_numpy().tolist() == [[6, 6]] * 4
    kinds = table(published, "04_example_influence", "sentence_sums")
    assert {"check", "alternative", "program", "conclusion"} <= set(kinds["kind"])


def test_the_flip_moves_difficulty_and_both_arms_sit_every_exam(published) -> None:
    composition = table(published, "05_reweighting_arms", "composition")
    counts = composition.set_index(["arm", "domain", "difficulty"])["examples"].sort_index()
    fifth = PER_DOMAIN // 5
    assert counts["uniform"].tolist() == [fifth] * 10
    assert counts["flip", "math"].to_dict() == {3: fifth, 4: 2 * fifth, 5: 2 * fifth}
    assert counts["flip", "code"].to_dict() == {1: 2 * fifth, 2: 2 * fifth, 3: fifth}
    exams = table(published, "05_reweighting_arms", "exams")
    for arm in ("uniform", "flip"):
        assert exams[exams["arm"] == arm].set_index("exam")["n"].to_dict() == EXAMS
    first = table(published, "03_finetune_evaluate", "answers").set_index("id")["response"]
    again = table(published, "05_reweighting_arms", "answers").query("arm == 'uniform'")
    assert again.set_index("id")["response"].equals(first)
    differences = table(published, "05_reweighting_arms", "differences")
    assert differences[["arm_a", "arm_b", "domain", "n"]].to_numpy().tolist() == [
        ["flip", "uniform", "code", EXAMS["mbpp"] + EXAMS["livecodebench"]],
        ["flip", "uniform", "math", EXAMS["aime24"] + EXAMS["aime25"] + EXAMS["math500"]],
    ]
