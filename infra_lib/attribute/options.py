"""What ``infra attribute`` is asked for, checked before anything is loaded."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from infra_lib.curvature import LABELS
from infra_lib.device import check_device
from infra_lib.distributed import is_main, size
from infra_lib.errors import ParameterError

METHODS: dict[str, str] = {
    "ekfac": "eigenvalue-corrected Kronecker factors",
    "kfac": "Kronecker factors",
    "diagonal": "diagonal Fisher",
    "identity": "no curvature",
    "trak": "random projections and ridge regression",
    "graddot": "dot product of gradients",
    "gradcos": "cosine of gradients",
    "loss": "mean loss per token",
    "length": "number of response tokens",
    "bm25": "words shared with the target's examples",
    "random": "chance",
}
"""Methods and what they are."""

EXAMPLES_ONLY = ("trak", "loss", "length", "bm25", "random")
"""Methods without scores of sentences and tokens."""

CURVATURE = ("ekfac", "kfac", "diagonal", "identity")
GRADIENT = (*CURVATURE, "graddot", "gradcos")
"""Methods whose scores are sums over tokens, for which self-influence exists."""

OF_LAYERS = (*GRADIENT, "trak")
"""Methods that differentiate by the weights of layers; the others take a model whatever it is made of."""

LEVELS = ("example", "sentence", "token")
READINGS = ("loss", "position")
DTYPES = ("float32", "bfloat16", "float16")
NORMALISATIONS = ("none", "length", "sqrt_length", "self")
_NORMALISED_BY = {
    "none": tuple(METHODS),
    "length": (*GRADIENT, "trak"),
    "sqrt_length": (*GRADIENT, "trak"),
    "self": (*CURVATURE, "graddot"),
}


@dataclass(frozen=True)
class Options:
    """Options of one attribution.

    Attributes
    ----------
    model
        Local Hugging Face folder, or hub name.
    train, target
        JSON Lines files of examples; the target's are correct responses, and each of its distinct
        domains is a target.
    out
        Folder of the results.
    method
        A key of :data:`METHODS`.
    levels
        Granularities to write.
    damping
        Multiple of a layer's mean eigenvalue.
    reading
        ``loss`` (the token's loss term) or ``position`` (see :mod:`infra_lib.influence`).
    device
        ``cpu`` or ``cuda``; under ``torchrun`` each process takes a CUDA device of its own.
    batch_tokens
        Padded tokens per batch; results do not depend on it.
    seed
        Of sampled labels, projections and chance.
    target_mean
        ``sum``: f is the mean of summed log-likelihoods; ``token``: of their means per token.
    dtype
        Of the weights and passes; sums are always in float32, and scores below float32 are checked
        against it on a sample (:mod:`infra_lib.attribute.checks`).
    skip_bad
        Leave out examples that cannot be used and list them in ``skipped.jsonl``.
    normalise
        ``none``, ``length``, ``sqrt_length`` or ``self`` (see :mod:`infra_lib.attribute.normalise`).
    self_influence
        Write ``self_influence.parquet`` too.
    labels
        Behind the factors: ``sampled`` from the model (true Fisher) or ``empirical``.
    layers
        Regular expression over names of linear layers; None takes those of the MLPs.
    memory
        For factors under construction, such as ``4GiB``; layers are fitted in as many rounds as it needs.
    checkpoints
        More models of the same architecture (folders or hub names), such as other seeds or epochs;
        scores are the mean over ``model`` and all of these.
    refine
        Iterations that refine the EK-FAC directions (see :mod:`infra_lib.refine`); 0 for none.
    refine_batch
        Training examples of each such iteration; 0 takes all, by conjugate gradients.
    max_tokens
        Cut longer examples here, their loss being counted; 0 refuses what is longer than the context.
    """

    model: str
    train: Path
    target: Path
    out: Path
    method: str = "ekfac"
    levels: tuple[str, ...] = ("example",)
    damping: float = 0.1
    reading: str = "loss"
    device: str = "cpu"
    batch_tokens: int = 4096
    seed: int = 0
    target_mean: str = "sum"
    dtype: str = "float32"
    skip_bad: bool = False
    normalise: str = "none"
    self_influence: bool = False
    labels: str = "sampled"
    layers: str | None = None
    memory: str = "2GiB"
    checkpoints: tuple[str, ...] = ()
    refine: int = 0
    refine_batch: int = 0
    max_tokens: int = 0

    @property
    def memory_bytes(self) -> int:
        """``memory`` in bytes."""
        return parse_bytes("--memory", self.memory)

    def check(self) -> None:
        """Raise for the first option that cannot be.

        Raises
        ------
        ParameterError
            Naming the option, its value and the valid choices.
        """
        for name, value, choices in (
            ("--method", self.method, tuple(METHODS)),
            ("--reading", self.reading, READINGS),
            ("--target-mean", self.target_mean, ("sum", "token")),
            ("--dtype", self.dtype, DTYPES),
            ("--normalise", self.normalise, NORMALISATIONS),
            ("--labels", self.labels, LABELS),
            ("--device", self.device.split(":")[0], ("cpu", "cuda")),
        ):
            if value not in choices:
                raise ParameterError(name, value, f"one of {', '.join(choices)}")
        self._check_numbers()
        self._check_together()
        self._check_layers()
        check_device(self.device, "--device")
        self._check_out()

    def _check_numbers(self) -> None:
        if not (self.damping > 0 and math.isfinite(self.damping)):
            raise ParameterError("--damping", self.damping, "a finite number above 0")
        if self.batch_tokens < 1:
            raise ParameterError("--batch-tokens", self.batch_tokens, "1 or more")
        for name, value in (
            ("--seed", self.seed),
            ("--refine", self.refine),
            ("--refine-batch", self.refine_batch),
            ("--max-tokens", self.max_tokens),
        ):
            if value < 0:
                raise ParameterError(name, value, "0 or more")
        parse_bytes("--memory", self.memory)

    def _check_together(self) -> None:
        """Check what the method allows."""
        levels = ",".join(self.levels)
        if not self.levels or set(self.levels) - set(LEVELS):
            raise ParameterError("--levels", levels, f"some of {','.join(LEVELS)}")
        if self.method in EXAMPLES_ONLY and set(self.levels) != {"example"}:
            reason = f"example: --method {self.method} has no scores of sentences or tokens"
            raise ParameterError("--levels", levels, reason)
        if self.method not in (allowed := _NORMALISED_BY[self.normalise]):
            reason = f"none with --method {self.method}; this one goes with {', '.join(allowed)}"
            raise ParameterError("--normalise", self.normalise, reason)
        if self.self_influence and self.method not in GRADIENT:
            reason = f"left out with --method {self.method}; it goes with {', '.join(GRADIENT)}"
            raise ParameterError("--self-influence", True, reason)
        if self.method == "trak" and self.dtype != "float32":
            reason = "float32 with --method trak, whose ridge regression leaves no sample to check by"
            raise ParameterError("--dtype", self.dtype, reason)
        if self.layers and self.method not in OF_LAYERS:
            reason = f"left out with --method {self.method}, which takes no gradient"
            raise ParameterError("--layers", self.layers, reason)
        if self.refine and self.method != "ekfac":
            raise ParameterError("--refine", self.refine, f"0 with --method {self.method}: it refines ekfac")
        if self.refine and size() > 1:
            raise ParameterError("--refine", self.refine, "0 under torchrun: refinement runs in one process")

    def _check_layers(self) -> None:
        try:
            re.compile(self.layers or "")
        except re.error as error:
            raise ParameterError("--layers", self.layers, f"a regular expression ({error})") from None

    def _check_out(self) -> None:
        if not is_main():
            return  # one process writes, and so one tries
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            probe = self.out / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ParameterError(
                "--out", str(self.out), f"a folder that can be written ({error.strerror})"
            ) from None


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_bytes(name: str, text: str) -> int:
    """Return a size such as ``4GiB``, ``500 MB`` or ``1000000`` in bytes.

    Raises
    ------
    ParameterError
        Under the option's ``name``, for a text that is no such size, or not above 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if not match or unit is None or int(float(match[1]) * unit) < 1:
        raise ParameterError(name, text, "a number of bytes with a unit such as 500MB, 4GiB or 1.5GiB")
    return int(float(match[1]) * unit)
