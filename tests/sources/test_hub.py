"""What comes from the hub goes through `datasets`; what goes wrong there is said in one sentence.

The real loader runs here on local folders in the hub's layout; its failures are those that it raises
without a network, and stand-ins for those that need one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from layouts import FIXTURES, rows_of, write_rows

from infra_lib.errors import DataError, ParameterError
from infra_lib.sources import hub, registry


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[dict]:
    """Let hub names be read from a folder by the real `datasets.load_dataset`, and keep the calls."""
    import datasets

    calls: list[dict] = []
    real = datasets.load_dataset

    def from_folder(path: str, *arguments, **keywords):
        calls.append({"path": path, "arguments": arguments, **keywords})
        if path == "json":
            urls = [url for group in keywords["data_files"].values() for url in group]
            keywords["data_files"] = {"test": [str(folder / url.rsplit("/", 1)[-1]) for url in urls]}
            return real("json", **keywords)
        keywords.pop("revision")
        return real(str(folder), *arguments, **keywords)

    monkeypatch.setattr(datasets, "load_dataset", from_folder)
    monkeypatch.setattr(hub, "resolve_revision", lambda name, revision: "c" * 40)
    return calls


@pytest.mark.parametrize("config", ["default", "metadata"])
def test_hub_and_folder_give_the_same_examples(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    calls = stand_in(monkeypatch, FIXTURES / "open_thoughts")
    loaded = registry.load("open_thoughts", config=config, revision="main")
    assert (
        loaded.examples == registry.load("open_thoughts", FIXTURES / "open_thoughts", config=config).examples
    )
    assert loaded.report.origin == "open-thoughts/OpenThoughts-114k"
    # What main stood for is what was asked for, and what the report keeps.
    assert loaded.report.revision == calls[0]["revision"] == "c" * 40
    assert "trust_remote_code" not in calls[0]


@pytest.mark.reliability(kind="bad input", title="a split, configuration or column that a data set lacks")
def test_parquet_shards_through_the_hub_loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = rows_of("bespoke_stratos", "data", "train.jsonl")
    folder = tmp_path / "hub"
    for index in range(2):
        write_rows(folder / "data" / f"train-{index:05d}-of-00002.parquet", rows[2 * index : 2 * index + 2])
    stand_in(monkeypatch, folder)
    assert registry.load("bespoke_stratos").examples == registry.load("bespoke_stratos", folder).examples
    with pytest.raises(ParameterError, match="split is 'test': it must be one of train"):
        registry.load("bespoke_stratos", split="test")
    with pytest.raises(ParameterError, match="config is 'small': it must be one of default"):
        registry.load("bespoke_stratos", config="small")
    with pytest.raises(DataError, match="misses column question"):
        registry.load("gsm8k", config="default", split="train")


def test_livecodebench_is_read_from_its_files_and_not_by_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in(monkeypatch, FIXTURES / "livecodebench")
    loaded = registry.load("livecodebench", release="v2", revision="abc")
    assert loaded.examples == registry.load("livecodebench", FIXTURES / "livecodebench").examples
    at = f"hf://datasets/livecodebench/code_generation_lite@{'c' * 40}"
    assert calls[0]["data_files"] == {"test": [f"{at}/test.jsonl", f"{at}/test2.jsonl"]}


def test_without_a_network_it_is_said_what_to_do() -> None:
    program = (
        "from infra_lib.errors import DataError\n"
        "from infra_lib.sources.registry import load\n"
        "for name in ('gsm8k', 'livecodebench'):\n"
        "    try:\n        load(name)\n"
        "    except DataError as error:\n        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"HF_HUB_OFFLINE": "1", "PATH": "", "PYTHONPATH": str(Path(hub.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("openai/gsm8k: offline mode is on (HF_HUB_OFFLINE)")
    assert "hf download --repo-type dataset openai/gsm8k --local-dir FOLDER" in first
    assert second.startswith("livecodebench/code_generation_lite: offline mode is on")


def raised(kind: str, message: str) -> Exception:
    return type(kind, (Exception,), {})(message)


@pytest.mark.reliability(kind="bad input", title="a hub that fails: gated, absent, or no network")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (raised("DatasetNotFoundError", "Dataset 'a/b' is a gated dataset on the Hub."), "gated.*HF_TOKEN"),
        (raised("GatedRepoError", "403"), "gated: accept its terms"),
        (
            raised("DatasetNotFoundError", "Dataset 'a/b' doesn't exist on the Hub"),
            "not on the hub, or is private",
        ),
        (raised("ConnectionError", "Couldn't reach 'a/b' on the Hub"), "cannot be reached from here"),
        (
            raised("RevisionNotFoundError", "404"),
            "revision is 'v7': it must be a branch, tag or commit of a/b",
        ),
        (raised("ValueError", "Something else.\nlong"), r"\(ValueError: Something else\.\); or give a local"),
    ],
)
def test_failures_of_the_hub_say_what_to_do(monkeypatch, error: Exception, message: str) -> None:
    import datasets

    def fail(*arguments, **keywords):
        raise error

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises((DataError, ParameterError), match=message):
        hub.hub_table("a/b", config=None, split="train", revision="v7")


def test_a_name_with_gated_in_it_is_not_gated() -> None:
    error = raised("ConnectionError", "Couldn't reach 'a/aggregated' on the Hub")
    said = hub.explain("a/aggregated", error, config=None, split="train", revision=None)
    assert "cannot be reached" in str(said) or "offline mode" in str(said)


def test_a_commit_needs_no_resolving() -> None:
    assert hub.resolve_revision("a/b", "0" * 40) == "0" * 40
