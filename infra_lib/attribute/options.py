"""What ``infra attribute`` is asked for, checked before anything is loaded."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from infra_lib.errors import ParameterError

METHODS: dict[str, str] = {
    "ekfac": "eigenvalue-corrected Kronecker factors",
    "kfac": "Kronecker factors",
    "diagonal": "diagonal Fisher",
    "identity": "no curvature",
    "graddot": "dot product of gradients",
    "gradcos": "cosine of gradients",
    "trak": "random projections and ridge regression",
    "random": "chance",
}
"""Methods and what they are."""

EXAMPLES_ONLY = ("trak", "random")
"""Methods without scores of sentences and tokens."""

CURVATURE = ("ekfac", "kfac", "diagonal", "identity")
LEVELS = ("example", "sentence", "token")
READINGS = ("loss", "position")
DTYPES = ("float32", "bfloat16", "float16")


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
    target_mean
        ``sum``: f is the mean of summed log-likelihoods; ``token``: of their means per token.
    skip_bad
        Leave out examples that cannot be used and list them in ``skipped.jsonl``.
    refine
        Iterations that refine the EK-FAC directions (see :mod:`infra_lib.refine`); 0 for none.
    refine_batch
        Training examples of each such iteration; 0 takes all, by conjugate gradients.
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
    refine: int = 0
    refine_batch: int = 0

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
            ("--device", self.device.split(":")[0], ("cpu", "cuda")),
        ):
            if value not in choices:
                raise ParameterError(name, value, f"one of {', '.join(choices)}")
        if not self.levels or set(self.levels) - set(LEVELS):
            raise ParameterError("--levels", ",".join(self.levels), f"some of {','.join(LEVELS)}")
        if self.method in EXAMPLES_ONLY and set(self.levels) != {"example"}:
            reason = f"example: --method {self.method} has no scores of sentences or tokens"
            raise ParameterError("--levels", ",".join(self.levels), reason)
        if not (self.damping > 0 and math.isfinite(self.damping)):
            raise ParameterError("--damping", self.damping, "a finite number above 0")
        if self.batch_tokens < 1:
            raise ParameterError("--batch-tokens", self.batch_tokens, "1 or more")
        for option, number in (
            ("--seed", self.seed),
            ("--refine", self.refine),
            ("--refine-batch", self.refine_batch),
        ):
            if number < 0:
                raise ParameterError(option, number, "0 or more")
        if self.refine and self.method != "ekfac":
            raise ParameterError("--refine", self.refine, f"0 with --method {self.method}: it refines ekfac")
        self._check_out()
        self._check_device()

    def _check_out(self) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            probe = self.out / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ParameterError(
                "--out", str(self.out), f"a folder that can be written ({error.strerror})"
            ) from None

    def _check_device(self) -> None:
        if self.device.startswith("cuda"):
            import torch

            if not torch.cuda.is_available():
                raise ParameterError("--device", self.device, "cpu on this machine, which has no CUDA device")
