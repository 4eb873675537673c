"""Shared fixtures: a tiny model, the world's tokenizer, a few examples of each domain."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from infra_lib.sources.small_world import SplitSizes, make_splits, train_tokenizer

pytest_plugins = ["reliability_plugin", "book_plugin"]

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="session")
def splits():
    return make_splits(SplitSizes(train=40, swap_pool=20, target=20, test=20), seed=0)


def tiny_qwen2(vocabulary: int, *, seed: int = 0, hidden: int = 16, layers: int = 2):
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=24,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        attn_implementation="eager",
    )
    # Larger weights than the default: gradients well away from zero make comparisons sharp.
    config.initializer_range = 0.3
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer) -> Path:
    """A saved tiny model with the world's tokenizer."""
    from infra_lib.models import save_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(tiny_qwen2(len(tokenizer)), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def files(tmp_path_factory, splits) -> Path:
    """A folder with train.jsonl (10 examples) and target.jsonl, for `infra attribute`."""
    from infra_lib.examples import write_jsonl

    folder = tmp_path_factory.mktemp("files")
    write_jsonl(folder / "train.jsonl", splits.train[::4])
    write_jsonl(folder / "target.jsonl", splits.target[::5])
    return folder


COPIED = ("_config.yml", "book", "notebooks", "records", "workflow", "README.md", "CHANGELOG.md")


class Project:
    """A copy of the project, with `infra` run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "INFRA_PROJECT": str(folder), "OMP_NUM_THREADS": "1"}

    def infra(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "infra_lib.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
            **options,
        )

    def stage(self, name: str, study: str = "smoke") -> Path:
        return self.folder / "_build" / "studies" / study / name


def copy_project(root: Path, folder: Path) -> Project:
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("results", ".results*"))
        else:
            shutil.copy2(source, folder / name)
    return Project(folder)


@pytest.fixture(scope="session")
def finished_smoke(root, tmp_path_factory) -> Project:
    """The smoke study, run to the end, once for all of xdist's workers; not to be changed."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "finished-smoke"
    shared.mkdir(exist_ok=True)
    log = shared / "log"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        project = Project(shared / "project") if log.exists() else copy_project(root, shared / "project")
        if not log.exists():
            done = project.infra("run", "--study", "smoke")
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            log.write_text(done.stdout)
    project.first_run = log.read_text()
    return project


@pytest.fixture(scope="session")
def smoke(finished_smoke, tmp_path_factory) -> Project:
    """A copy of the finished smoke study that the tests of the group "smoke" share, and may change."""
    return copy_of(finished_smoke, tmp_path_factory.mktemp("project"))


@pytest.fixture
def broken(finished_smoke, tmp_path) -> Project:
    """A test's own copy of the finished smoke study, to be broken."""
    return copy_of(finished_smoke, tmp_path / "project")


def copy_of(project: Project, folder: Path) -> Project:
    shutil.copytree(project.folder, folder, dirs_exist_ok=True)
    copy = Project(folder)
    copy.first_run = project.first_run
    return copy
