"""Pretrained models to start from: a local folder or a hub name, fetched once and described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open

from infra_lib.errors import ModelError
from infra_lib.finetune.store import weights_digest
from infra_lib.models import check_model_folder, model_config, weight_files

NEEDED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""Files of a hub repository that are fetched: weights as safetensors, configuration, tokenizer."""


def pretrained_folder(source: str | Path, *, revision: str = "", fetch: bool = False) -> Path:
    """Return the local folder of a model.

    Parameters
    ----------
    source
        A local folder, which is returned as it is, or a hub name.
    revision
        Branch, tag or commit of the hub; empty is the main branch.
    fetch
        Download what is missing; otherwise only the local cache is asked.

    Raises
    ------
    ModelError
        For a name that is neither, a gated or absent repository, or a hub that cannot be reached, with
        what to do.
    """
    if Path(source).is_dir():
        return Path(source)
    check_model_folder(source)
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            str(source), revision=revision or None, allow_patterns=list(NEEDED), local_files_only=not fetch
        )
    except Exception as error:
        raise ModelError(_explain(str(source), revision, error)) from error
    return Path(folder)


OF_THE_HUB = frozenset(
    {
        "GatedRepoError",
        "RepositoryNotFoundError",
        "RevisionNotFoundError",
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
        "ConnectionError",
        "ConnectError",
        "ConnectTimeout",
        "ReadTimeout",
        "ProxyError",
        "HfHubHTTPError",
        "HTTPStatusError",
    }
)
"""Names of errors that come from asking the hub, from whichever library does it."""


def _kinds(error: BaseException | None) -> set[str]:
    """Return the names of an error's type and of those behind it, and of their bases."""
    kinds = set[str]()
    while error is not None:
        kinds |= {kind.__name__ for kind in type(error).__mro__}
        error = error.__cause__ or error.__context__
    return kinds


def _explain(source: str, revision: str, error: Exception) -> str:
    """Return a hub error as one sentence that says what to do; transformers wraps the hub's own in others."""
    kinds = _kinds(error)
    local = f"or run `hf download {source} --local-dir FOLDER` and give FOLDER in its place"
    # A gated repository is also one that cannot be found.
    if "GatedRepoError" in kinds:
        return f"{source} is gated: accept its terms on its page and set HF_TOKEN, {local}"
    if "RevisionNotFoundError" in kinds:
        return f"parameter model_revision is {revision!r}: {source} has no such branch, tag or commit"
    if "RepositoryNotFoundError" in kinds:
        return f"{source} is not on the hub, or is private: check the name, set HF_TOKEN, {local}"
    return f"{source} is not in the local cache and the hub cannot be reached from here; {local}"


def readable_config(source: str | Path) -> Any:
    """Return a model's configuration without loading its weights.

    Raises
    ------
    ModelError
        For a configuration that is missing, or of no kind of model that transformers knows; for a hub name
        that is gated, absent or out of reach, with what to do.
    """
    try:
        return model_config(source)
    except (OSError, ValueError) as error:
        if not Path(source).exists() and _kinds(error) & OF_THE_HUB:
            raise ModelError(_explain(str(source), "", error)) from None
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(f"no configuration of {source}: {reason}") from None


def describe(folder: Path) -> dict[str, Any]:
    """Return what is known of a model's folder without loading it.

    Returns
    -------
    dict
        ``parameters`` (tied weights once), ``architecture``, ``weights_sha256``, ``commit`` (of the hub,
        where it comes from there).
    """
    config = model_config(folder)
    parameters = 0
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no dictionary)
                size = 1
                for side in tensors.get_slice(name).get_shape():
                    size *= side
                parameters += size
    # A snapshot of the hub's cache lies in snapshots/<commit>.
    commit = folder.name if folder.parent.name == "snapshots" else ""
    return {
        "parameters": parameters,
        "architecture": (config.architectures or [config.model_type])[0],
        "weights_sha256": weights_digest(folder),
        "commit": commit,
    }
