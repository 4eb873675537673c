"""`infra adapt` does what the book's page says, with a model and data that nothing else here uses."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from conftest import copy_project
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast
from typer.main import get_command
from typer.testing import CliRunner

from infra_lib.adapt import record, results, show
from infra_lib.adapt.data import write_examples
from infra_lib.adapt.parameters import make_parameters
from infra_lib.adapt.record import shell_blocks
from infra_lib.cli import app
from infra_lib.errors import DataError, ModelError, ParameterError
from infra_lib.examples import read_jsonl
from infra_lib.models import save_model

HOSTILE = "Salt </div><script>alert(1)</script> {doc}`index` $x$ **melts** ice."
CHEMISTRY = [
    ("What is NaCl?", "It is table salt. Its ions are sodium and chloride."),
    ("What melts ice?", HOSTILE),
    ("Balance H2 + O2.", "Two molecules of hydrogen meet one of oxygen. So it is 2 H2 + O2 = 2 H2O."),
    ("What is a base?", "A base takes up protons. Therefore lye is one."),
    ("What is rust?", "Iron meets oxygen and water. The result is iron oxide."),
]
HISTORY = [
    ("When did Rome fall?", "The western empire ended in 476. Its last emperor was deposed."),
    ("Who was Hatshepsut?", "She ruled Egypt as pharaoh. She sent ships to Punt."),
    ("What was the Hansa?", "It was a league of trading towns. Its centre was Luebeck."),
    ("When was the Magna Carta?", "It was sealed in 1215. King John agreed to it."),
    ("What ended in 1648?", "The Thirty Years' War ended. The peace was made in Westphalia."),
]


def write_lines(path, domain_texts) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in domain_texts), encoding="utf-8")


def lines(first: int, last: int, **more) -> list[dict]:
    return [
        {
            "id": f"{domain}-{k}",
            "domain": domain,
            "prompt": prompt,
            "response": response,
            "difficulty": 1 + k % 2,
        }
        | more
        for domain, texts in (("chemistry", CHEMISTRY), ("history", HISTORY))
        for k, (prompt, response) in list(enumerate(texts))[first:last]
    ]


@pytest.fixture(scope="module")
def neox(tmp_path_factory):
    """A random GPT-NeoX with a byte-level tokenizer trained on these very texts."""
    folder = tmp_path_factory.mktemp("neox") / "model"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([text for pair in CHEMISTRY + HISTORY for text in pair], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>", pad_token="<end>")
    torch.manual_seed(3)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
    )
    save_model(GPTNeoXForCausalLM(config).eval(), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def followed(root, neox, tmp_path_factory):
    """A copy of the project in which the page's commands were typed, from its third step on."""
    project = copy_project(root, tmp_path_factory.mktemp("adapt") / "project")
    data = project.folder / "mydata"
    data.mkdir()
    write_lines(data / "train.jsonl", lines(0, 4))
    write_lines(data / "target.jsonl", lines(4, 5))
    write_lines(data / "test.jsonl", lines(4, 5, answer="none", id="t"))
    project.said = {}
    for block in shell_blocks((root / "book" / "adapt.md").read_text(encoding="utf-8"))[2:4]:
        text = block.commands.replace("_build/models/smollm2", str(neox)).replace(
            "--data data", "--data mydata"
        )
        assert text.startswith("infra adapt ")
        project.said[block.step] = typed(project, text)
    return project


def typed(project, line: str) -> str:
    """Return what a line of the command line prints in a project, run in this process to save its start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        patch.setenv("INFRA_PROJECT", str(project.folder))
        done = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output[-3000:]
    return done.stdout


@pytest.mark.slow
def test_what_the_page_says_makes_a_page_of_ones_own(followed) -> None:
    html = followed.folder / "mypage" / "html" / "index.html"
    assert f"the page is at {html.relative_to(followed.folder)}" in followed.said[4]
    soup = BeautifulSoup(html.read_text(encoding="utf-8"), "html.parser")
    article = soup.find("article")
    headings = [h.get_text().strip("#").strip() for h in article.find_all(["h1", "h2"])]
    for words in ("Which examples help", "What was read", "Which groups help", "A caution"):
        assert any(words in heading for heading in headings)
    figures = article.select("figure.infra-figure svg")
    assert len(figures) == 2  # by domain and by difficulty; no example has a category
    assert all(
        "on chemistry" in figure["aria-label"] and "history" in figure["aria-label"] for figure in figures
    )
    cards = article.select("section.example-card")
    assert len(cards) == 2 * 2 * 2
    assert all(card.select(".sentence-score") and card.select("span[title]") for card in cards)


@pytest.mark.slow
@pytest.mark.reliability(kind="attack", title="markup in an example, on the page that infra adapt makes")
def test_text_of_an_example_is_shown_and_not_obeyed(followed, root) -> None:
    text = (followed.folder / "mypage" / "html" / "index.html").read_text(encoding="utf-8")
    article = BeautifulSoup(text, "html.parser").find("article")
    assert not [s for s in article.find_all("script") if "alert" in s.get_text()]
    scores = followed.folder / "mypage" / "scores"
    data = followed.folder / "mydata"
    found = results.load_results(scores, data / "train.jsonl", data / "target.jsonl")
    cards = BeautifulSoup(show.example_cards(found, "chemistry", 4), "html.parser")
    card = cards.find("section", attrs={"aria-label": "chemistry-1"})
    shown = "".join(span.get_text() for span in card.select(".shaded-text > span"))
    assert shown == HOSTILE


@pytest.mark.slow
def test_the_plan_is_said_before_heavy_work_and_alone_where_asked(followed) -> None:
    plan, run = followed.said[3], followed.said[4]
    assert "8 training and 2 target examples" in plan
    assert "the page is at" not in plan
    assert "fit factors" in run[: run.index("the page is at")]
    for name in ("target gradients", "score", "gradient cosines", "together"):
        assert name in plan


@pytest.mark.slow
def test_a_second_run_with_nothing_changed_does_nothing(followed, neox) -> None:
    page = followed.folder / "mypage" / "html" / "index.html"
    before = page.stat().st_mtime_ns
    said = typed(followed, f"infra adapt --model {neox} --data mydata --out mypage")
    assert "nothing that the page depends on has changed" in said
    assert page.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.reliability(kind="fault", title="infra adapt and its notebook are killed at random moments")
def test_a_killed_adaptation_ends_in_the_same_scores(followed, neox, record_property) -> None:
    line = f"infra adapt --model {neox} --data mydata --out killed"
    moments = random.Random(0)
    kills = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "infra_lib.cli", *shlex.split(line)[1:]],
            cwd=followed.folder,
            env=followed.environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started = time.monotonic()
        # The first is cut where its factors are being written, however fast the machine is.
        while not kills and not (followed.folder / "killed" / "scores" / "factors").is_dir():
            assert time.monotonic() - started < 120
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 12) if kills else 0)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills
    typed(followed, line)
    for name in ("examples", "sentences", "tokens", "gradcos"):
        whole, again = (
            next((followed.folder / page).rglob(f"{name}.parquet")) for page in ("mypage", "killed")
        )
        pd.testing.assert_frame_equal(pd.read_parquet(whole), pd.read_parquet(again))
    record_property("inputs", kills)
    record_property("outcome", "the same command ends in the same scores")


@pytest.mark.slow
def test_the_sums_hold_and_the_groups_are_those_of_the_file(followed) -> None:
    data, scores = followed.folder / "mydata", followed.folder / "mypage" / "scores"
    found = results.load_results(scores, data / "train.jsonl", data / "target.jsonl")
    assert all(value < 1e-5 for value in results.sums_differ_by(found).values())
    groups = results.by_group(found, ("domain",))
    assert set(zip(groups["target"], groups["group"], strict=True)) == {
        (t, d) for t in ("chemistry", "history") for d in ("chemistry", "history")
    }
    assert (groups["n"] == 4).all()
    assert ((groups["low"] <= groups["mean"]) & (groups["mean"] <= groups["high"])).all()
    agreement = results.agreement(found)
    assert agreement["spearman"].between(-1, 1).all()
    cosine = found.gradcos["score"]
    assert cosine.abs().max() <= 1 + 1e-6


@pytest.mark.slow
def test_cosines_are_those_of_infra_attribute(followed, neox, tmp_path) -> None:
    from infra_lib.attribute import Options, attribute
    from infra_lib.reading import load_table

    data = followed.folder / "mydata"
    options = Options(
        str(neox), data / "train.jsonl", data / "target.jsonl", tmp_path / "out", method="gradcos"
    )
    slow = load_table(attribute(options, progress=False) / "examples.parquet")
    fast = load_table(followed.folder / "mypage" / "scores" / "gradcos.parquet")
    both = slow.merge(fast, on=["id", "target"])
    assert (both["score_x"] - both["score_y"]).abs().max() < 1e-5


@pytest.mark.slow
def test_the_last_step_plans_a_study_on_the_same_files(followed, root, neox) -> None:
    block = shell_blocks((root / "book" / "adapt.md").read_text(encoding="utf-8"))[4]
    for name in ("train", "target", "test"):
        write_lines(followed.folder / "mydata" / f"{name}.jsonl", study_lines(name))
    text = block.commands.replace("_build/models/smollm2", str(neox)).replace(
        "train_examples=64", "train_examples=10"
    )
    for command in text.splitlines():
        if command.startswith("sed"):
            command = command.replace("study: mine/'", "study: mine/; s#data/#mydata/#'")
            subprocess.run(["bash", "-c", command], cwd=followed.folder, check=True)
        else:
            said = typed(followed, command)
    assert "mydata/train.jsonl" in said
    assert "04_example_influence" in said


def study_lines(name: str) -> list[dict]:
    return [
        {**line, "id": f"{name}-{line['id']}", "prompt": f"{name}: {line['prompt']}", "answer": "salt"}
        for line in lines(0, 5)
    ]


# --- Bad input -----------------------------------------------------------------------------


@pytest.mark.reliability(kind="bad input", title="infra adapt: folder, files, model and parameters")
def test_bad_input_is_one_sentence_before_anything_runs(tmp_path, neox) -> None:
    data = tmp_path / "data"
    given = {"model": str(neox), "data": str(data), "out": str(tmp_path / "out")}
    with pytest.raises(ParameterError, match=r"--data .* a folder that holds train\.jsonl and target\.jsonl"):
        make_parameters(given).check()
    data.mkdir()
    write_lines(data / "train.jsonl", lines(0, 4))
    with pytest.raises(DataError, match=r"target\.jsonl: is missing: it holds the correct responses"):
        make_parameters(given).check()
    write_lines(data / "target.jsonl", lines(4, 5))
    make_parameters(given).check()
    with pytest.raises(ModelError, match="neither a model folder nor a hub name"):
        make_parameters({**given, "model": "no-such-model"}).check()
    with pytest.raises(ParameterError, match="did you mean that"):
        make_parameters({**given, "dampng": 1})
    with pytest.raises(ParameterError, match="shown is 'many': it must be a whole number"):
        make_parameters({**given, "shown": "many"})
    with pytest.raises(ParameterError, match="--damping"):
        make_parameters({**given, "damping": -1}).check()
    assert not (tmp_path / "out" / "scores" / "factors").exists()


def test_longer_examples_are_cut_and_counted_where_asked(tmp_path, neox) -> None:
    from infra_lib.adapt.scores import counts, read

    write_lines(tmp_path / "train.jsonl", lines(0, 4))
    write_lines(tmp_path / "target.jsonl", lines(4, 5))
    given = {"model": str(neox), "data": str(tmp_path), "out": str(tmp_path / "out")}
    whole = counts(read(make_parameters(given)).inputs)
    cut = counts(read(make_parameters({**given, "max_tokens": 16})).inputs)
    assert all(entry["cut_tokens"] == 0 for entry in whole)
    for before, after in zip(whole, cut, strict=True):
        assert after["response_tokens"] + after["cut_tokens"] == before["response_tokens"]
        assert after["tokens"] <= 16 * after["examples"]


# --- The examples to begin with, the plan, and the record ------------------------------------


def test_the_examples_to_begin_with_are_the_same_for_a_seed_and_share_no_question(tmp_path) -> None:
    first = write_examples(tmp_path / "a", train=8, target=4, test=2)
    write_examples(tmp_path / "b", train=8, target=4, test=2)
    for name, rows in first.items():
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert [e.id for e in read_jsonl(tmp_path / "a" / name)] == [e.id for e in rows]
        assert sum(e.domain == "code" for e in rows) == len(rows) // 2
    with pytest.raises(ParameterError, match="without another"):
        write_examples(tmp_path / "a", train=8, target=4, test=2, seed=1)
    with pytest.raises(ParameterError, match="an even number"):
        write_examples(tmp_path / "c", train=7)


@pytest.mark.reliability(kind="bad input", title="infra adapt: a model that cannot fit")
def test_a_plan_grows_with_examples_and_refuses_what_cannot_fit(neox, tmp_path) -> None:
    from dataclasses import replace

    from infra_lib.adapt.scores import read
    from infra_lib.plan.attribution import plan_attribution
    from infra_lib.plan.estimate import Choices
    from infra_lib.plan.hardware import gpu_machine

    write_lines(tmp_path / "train.jsonl", lines(0, 4))
    write_lines(tmp_path / "target.jsonl", lines(4, 5))
    given = {"model": str(neox), "data": str(tmp_path), "out": str(tmp_path / "out")}
    found = read(make_parameters(given))
    machine, inputs = gpu_machine("h100", 1), found.inputs

    def plan(times: int, **changed):
        rows = list(inputs.encoded) * times
        return plan_attribution(
            "m", found.config, rows, inputs.targets, replace(machine, **changed), Choices()
        )

    few, many = plan(1), plan(10)
    assert few.seconds < many.seconds < 11 * few.seconds
    score = [next(s for s in p.plan.steps() if s.what == "score").seconds for p in (few, many)]
    assert score[1] == pytest.approx(10 * score[0], rel=0.01)
    with pytest.raises(ParameterError, match="it must be"):
        plan(1, memory_bytes=100_000)


def test_the_page_has_five_steps_of_commands_that_exist(root) -> None:
    blocks = shell_blocks((root / "book" / "adapt.md").read_text(encoding="utf-8"))
    assert [block.step for block in blocks] == [1, 2, 3, 4, 5]
    known = set(get_command(app).commands)
    for block in blocks:
        for line in block.commands.splitlines():
            first, *rest = line.split()
            assert first == "sed" or (first == "infra" and rest[0] in known), line


def test_the_record_is_whole_and_shown(root, tmp_path) -> None:
    recorded = record.read_record(root)
    fragments = record.fragments(root, tmp_path)
    page = (root / "book" / "adapt.md").read_text(encoding="utf-8")
    assert all(f"results/generated/{name}.md" in page for name in fragments)
    if recorded is None:
        assert set(fragments.values()) == {record.ABSENT}
        return
    found, transcript = recorded
    assert len(found.train) == 64
    assert sum(found.provenance["target_examples"].values()) == 16
    assert all(value < 1e-5 for value in results.sums_differ_by(found).values())
    assert found.provenance["seconds"] <= 360
    assert f"{found.provenance['seconds'] / 60:.1f} minutes" in fragments["adapt_badge"]
    assert sorted(transcript["steps"]) == ["1", "2", "3", "4", "5"]
    size = sum(path.stat().st_size for path in (root / record.RECORD).iterdir())
    assert size < 1_500_000


@pytest.mark.slow
def test_the_recorder_runs_every_block_of_a_page_and_keeps_what_it_made(followed, root, tmp_path) -> None:
    """The tool behind the record, on a page whose commands copy a small run's results."""
    small = tmp_path / "small"
    project = copy_project(root, small)
    made = followed.folder
    (small / "book" / "adapt.md").write_text(
        f"# T\n\n## 1. Data\n\n```bash\ncp -r {made}/mydata data\necho made\n```\n\n"
        f"## 2. Page\n\n```bash\nmkdir mypage && cp -r {made}/mypage/scores mypage/scores\n```\n"
    )
    tool = [sys.executable, str(root / "tools" / "record_adapt.py"), str(small)]
    done = subprocess.run(tool, env=project.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kept = record.RECORD
    transcript = json.loads((small / kept / record.TRANSCRIPT).read_text())
    assert transcript["steps"]["1"]["output"] == "made\n"
    assert (small / kept / "tokens.parquet").read_bytes() == (
        made / "mypage/scores/tokens.parquet"
    ).read_bytes()
    assert f"{kept.name}/tokens.parquet" in (small / "records" / "SHA256SUMS").read_text()
