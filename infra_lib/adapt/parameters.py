"""What ``infra adapt`` is asked for: typed, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from infra_lib.adapt.data import TARGET, TRAIN
from infra_lib.attribute.options import LEVELS, Options
from infra_lib.errors import DataError, ParameterError
from infra_lib.models import check_model_folder
from infra_lib.study import unknown


@dataclass(frozen=True)
class AdaptParameters:
    """Parameters of one page, under the names that the notebook gives them.

    Attributes
    ----------
    model
        Local Hugging Face folder, or hub name.
    data
        Folder with ``train.jsonl`` and ``target.jsonl``, in the format of ``infra attribute``.
    out
        Folder of scores, figures and page.
    damping
        Multiple of a layer's mean eigenvalue.
    shown
        Examples that help and that hinder a target, each so many.
    max_tokens
        Cut longer examples here; 0 refuses what is longer than the model's context.
    skip_bad
        Leave out lines that cannot be used, and say so on the page.
    device, dtype, batch_tokens, memory, seed
        As for ``infra attribute``.
    """

    model: str
    data: str
    out: str
    damping: float = 0.1
    shown: int = 2
    max_tokens: int = 0
    skip_bad: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    batch_tokens: int = 4096
    memory: str = "2GiB"
    seed: int = 0

    @property
    def train(self) -> Path:
        """File of the training examples."""
        return Path(self.data) / TRAIN

    @property
    def target(self) -> Path:
        """File of the targets' correct responses."""
        return Path(self.data) / TARGET

    @property
    def scores(self) -> Path:
        """Folder of the scores."""
        return Path(self.out) / "scores"

    @property
    def effective(self) -> dict[str, Any]:
        """All that the page depends on: everything but where it lies."""
        return {name: value for name, value in asdict(self).items() if name != "out"}

    def options(self) -> Options:
        """Return the options of the attribution: EK-FAC, at all three levels."""
        shared = ("damping", "max_tokens", "skip_bad", "device", "dtype", "batch_tokens", "memory", "seed")
        return Options(
            model=self.model,
            train=self.train,
            target=self.target,
            out=self.scores,
            levels=LEVELS,
            **{name: getattr(self, name) for name in shared},
        )

    def check(self) -> None:
        """Raise for the first thing that cannot be: folder, files, model, values.

        Raises
        ------
        ParameterError, DataError, ModelError
            One sentence that names it and what would be right.
        """
        if not Path(self.data).is_dir():
            raise ParameterError("--data", self.data, f"a folder that holds {TRAIN} and {TARGET}")
        for path, what in (
            (self.train, "training examples"),
            (self.target, "correct responses of the targets"),
        ):
            if not path.is_file():
                raise DataError(path, f"is missing: it holds the {what}, one JSON object a line")
        check_model_folder(self.model)
        if self.shown < 1:
            raise ParameterError("shown", self.shown, "1 or more")
        self.options().check()


def make_parameters(values: Mapping[str, Any]) -> AdaptParameters:
    """Return parameters from names and values, each of its type; further ones are not changed.

    Raises
    ------
    ParameterError
        For a name that does not exist, or a value of another type.
    """
    types = {field.name: str(field.type) for field in fields(AdaptParameters)}
    found = {}
    for name, value in values.items():
        if name not in types:
            raise unknown("-p", name, [n for n in types if n not in ("model", "data", "out")])
        if types[name] == "float" and type(value) is int:
            value = float(value)
        if type(value).__name__ != types[name]:
            kinds = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
            raise ParameterError(name, value, kinds[types[name]])
        found[name] = value
    return AdaptParameters(**found)


def parameters_of(namespace: Mapping[str, Any]) -> AdaptParameters:
    """Return the parameters among a notebook's global names, checked."""
    names = [field.name for field in fields(AdaptParameters)]
    found = make_parameters({name: namespace[name] for name in names})
    found.check()
    return found


def with_batch(parameters: AdaptParameters, batch_tokens: int) -> AdaptParameters:
    """Return the same parameters with another batch, on which no result depends."""
    return replace(parameters, batch_tokens=batch_tokens)
