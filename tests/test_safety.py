"""Nothing that the project reads can run: no pickle, no unsafe loader, no remote code."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import sys

import pytest
import torch
import yaml

from infra_lib.errors import InfraError, ModelError
from infra_lib.models import load_model, load_tokenizer
from infra_lib.runner import declared_parameters


@pytest.fixture(scope="module")
def checker(root):
    spec = importlib.util.spec_from_file_location("check_safety", root / "tools" / "check_safety.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_project_reads_nothing_that_could_run(checker, root) -> None:
    files = checker.project_files(root)
    assert len(files) > 60
    assert not checker.check(files, root)


def test_the_hook_runs_the_same_check(root) -> None:
    hooks = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    hook = next(hook for hook in hooks if hook["id"] == "no-pickle")
    assert hook["entry"] == ".venv/bin/python tools/check_safety.py"
    assert "exclude" not in hook


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "from dill import load as l",
        "import cloudpickle, shelve",
        "import marshal",
        "import importlib; importlib.import_module('pickle')",
        "from importlib import import_module as im; im('_pickle')",
        "__import__('pickle')",
        "import torch; torch.load('x')",
        "import torch as t; t.load('x')",
        "from torch import load; load('x')",
        "import torch; torch.load('x', weights_only=False)",
        "import torch; torch.load('x', weights_only=flag)",
        "import torch; torch.save({}, 'x')",
        "import pandas as pd; pd.read_pickle('x')",
        "frame.head().to_pickle('x')",
        "import numpy as np; np.load('x', allow_pickle=True)",
        "model = Auto.from_pretrained('x', trust_remote_code=True)",
        "model = Auto.from_pretrained('x', trust_remote_code=options.trust)",
        "model = Auto.from_pretrained('x', use_safetensors=False)",
        "import yaml; yaml.load(text, Loader=yaml.Loader)",
        "from yaml import unsafe_load; unsafe_load(text)",
        "eval('1')",
        "import builtins; builtins.exec('x')",
        "import subprocess; subprocess.run('ls', shell=True)",
        "import os; os.system('ls')",
    ],
)
def test_unsafe_code_is_found(checker, source: str) -> None:
    assert list(checker.findings(source, "x.py")), source


@pytest.mark.parametrize(
    "source",
    [
        "import torch; torch.load('x', weights_only=True)",
        "import numpy as np; np.load('x')",
        "import json; json.load(stream)",
        "import yaml; yaml.safe_load(text)",
        "model.eval()",
        "# import pickle\ntext = 'import pickle; eval(1)'",
        "model = Auto.from_pretrained('x', trust_remote_code=False, use_safetensors=True)",
    ],
)
def test_safe_code_passes(checker, source: str) -> None:
    assert not list(checker.findings(source, "x.py"))


# --- Loading -----------------------------------------------------------------------------


@pytest.fixture
def folder(model_folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(model_folder, copy)
    return copy


PICKLE = b"cos\nmkdir\n(V%s\ntR."
"""A pickle that makes a folder when it is read."""


@pytest.mark.reliability(kind="bad input", title="a model folder that holds pickle alone")
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.bin"])
def test_a_folder_with_pickled_weights_alone_is_refused_unread(folder, tmp_path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(PICKLE % str(tmp_path / "made").encode())
    with pytest.raises(ModelError, match="weights must be stored as safetensors"):
        load_model(folder)
    assert not (tmp_path / "made").exists()


@pytest.mark.reliability(kind="bad input", title="pickled weights beside the safetensors")
def test_pickled_weights_beside_the_right_ones_are_not_read(folder, tmp_path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(PICKLE % str(tmp_path / "made").encode())
    load_model(folder)
    assert not (tmp_path / "made").exists()


@pytest.mark.reliability(kind="bad input", title="an index that names pickled weights, or a file elsewhere")
@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "../other.safetensors", "/etc/passwd", "..", 3, None, ""]
)
def test_an_index_that_leads_elsewhere_is_refused(folder, tmp_path, name) -> None:
    (folder / "model.safetensors").rename(tmp_path / "other.safetensors")
    (folder / "pytorch_model.bin").write_bytes(PICKLE % str(tmp_path / "made").encode())
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError):
        load_model(folder)
    assert not (tmp_path / "made").exists()


CODE = "import pathlib\npathlib.Path({!r}).mkdir()\nclass X:\n    pass\n"


@pytest.mark.reliability(kind="bad input", title="a model folder that asks for its own code to be run")
@pytest.mark.parametrize("kind", ["qwen2", "unheard_of"])
def test_code_in_a_model_folder_is_never_run(folder, tmp_path, kind: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    remote = dict.fromkeys(names, "own.X")
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": remote, "model_type": kind}))
    (folder / "own.py").write_text(CODE.format(str(tmp_path / "made")))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer |= {"auto_map": {"AutoTokenizer": ["own.X", "own.X"]}, "tokenizer_class": "X"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    for load in (load_model, load_tokenizer):
        # Refused; or a known architecture loads, by the library's own code.
        with contextlib.suppress(ModelError):
            load(folder)
    assert not (tmp_path / "made").exists()
    assert "own" not in sys.modules


def test_torch_itself_refuses_such_a_pickle(tmp_path) -> None:
    """What the training library reads of its own checkpoints it reads with ``weights_only``."""
    (tmp_path / "x.pt").write_bytes(PICKLE % str(tmp_path / "made").encode())
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported|corrupt|unpickl"):
        torch.load(tmp_path / "x.pt", weights_only=True)
    assert not (tmp_path / "made").exists()


# --- Notebooks' parameters ---------------------------------------------------------------


@pytest.mark.reliability(kind="bad input", title="parameters of a notebook that hold code")
@pytest.mark.parametrize(
    "cell",
    [
        "import os",
        "seed = __import__('os').getpid()",
        "print(1)",
        "seed: int",
        "a.b = 1",
        "seed = (",
        "x, y = 1, 2",
    ],
)
def test_reading_a_notebooks_parameters_runs_nothing(tmp_path, cell: str) -> None:
    (tmp_path / "notebooks").mkdir()
    text = f'# %% tags=["parameters"]\nseed: int = 0\n{cell}\n'
    (tmp_path / "notebooks" / "01_data.py").write_text(text)
    with pytest.raises(InfraError, match="holds more than names and plain values"):
        declared_parameters(tmp_path, "01_data")
