"""Attribution on a GPU beside kronfluence and TRAK (`python -m benchmarks.gpu`).

Ours runs in bfloat16 with factors in float32; kronfluence runs in its defaults (float32) and in its own
low-precision settings; both store factors on disk and use the same random model and sequences. Batches are
the same but in our forward-mode pass, which holds no graph and takes more sequences (``Size.scored``). Each
library at each size runs in a process of its own, after a warm-up of every step on a few sequences; memory
is the allocator's high-water mark, the model included. Whatever fails is recorded with its error.

What a process measured is kept in ``--parts`` when it ends well. A benchmark that was interrupted goes on
with the same command, and the record is written when all is there.

=============  ===================================================================================
step           what is timed
=============  ===================================================================================
``forward``    a plain forward pass over the training sequences, without the output head
``fit``        EK-FAC factors from model to disk, true Fisher, MLP linears
``direct``     ours: gradients of two targets and their preconditioning (kronfluence's scores hold it)
``tokens``     ours: one forward-mode pass: token, sentence and example scores of two targets.
               kronfluence: two per-token runs, one for each target
``positions``  ours: the position reading of both targets
``examples``   kronfluence's two runs for example scores; TRAK's features and scores
=============  ===================================================================================
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks import ceilings, operations
from benchmarks.records import command_of, keep
from benchmarks.setting import GPU_SIZES, SIZES, TARGETS, Size, make_data, make_model
from infra_lib.attention import fused_attention
from infra_lib.curvature import Factors, fit_factors
from infra_lib.files import digest_of, write_json
from infra_lib.influence import (
    example_scores,
    position_scores,
    precondition_all,
    target_gradient,
    token_scores,
)
from infra_lib.models import batches, mlp_linears
from infra_lib.provenance import driver, environment
from infra_lib.responses import response_states

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "records" / "gpu" / "attribution.json"
FACTOR_BYTES = 4 * 2**30
"""Our budget for factors under construction and kept rows."""
LENGTHS = (512, 1024, 2048, 4096)
SAMPLE = 16
"""Sequences on which scores are compared with float32, and with kronfluence's under the same factors."""
PEERS = {"defaults": False, "low-precision": True}
"""Kronfluence's settings, and whether they are those of low precision."""


class Bench:
    """Times steps on a device and keeps what they took.

    Parameters
    ----------
    out
        Where everything found so far is written after each step.
    """

    def __init__(self, device: str, out: Path, record: dict[str, Any]) -> None:
        self.device, self.out, self.record = device, out, record
        self.runs: list[dict[str, Any]] = record["runs"]

    @contextmanager
    def step(self, **names: Any) -> Iterator[dict[str, Any]]:
        """Time a step and record it under its names; what fails is recorded, and goes no further."""
        self.collect()
        found: dict[str, Any] = dict(names)
        if self.device == "cuda":
            found["held_bytes"] = torch.cuda.memory_allocated()
        start = time.perf_counter()
        try:
            yield found
            self._wait()
            found["seconds"] = time.perf_counter() - start
            if self.device == "cuda":
                found["peak_bytes"] = torch.cuda.max_memory_allocated()
        except Exception as error:  # a peer that does not fit, say: that is a result
            found["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"
        self.runs.append(found)
        write_json(self.out, self.record)
        print(json.dumps({k: v for k, v in found.items() if k != "agreement"}), flush=True)

    def collect(self) -> None:
        """Let go of memory and start the high-water mark again."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def ours(bench: Bench, name: str, size: Size, folder: Path, *, compare: bool = True) -> dict[str, Any]:
    """Measure ours at one size and return its position and example scores by target.

    Parameters
    ----------
    compare
        Compare position scores with kronfluence's under the same factors too.
    """
    dtype = torch.bfloat16 if bench.device == "cuda" else torch.float32
    model = make_model(size, device=bench.device).to(dtype)
    train, targets = make_data(size)
    names = list(mlp_linears(model))
    options: dict[str, Any] = {"batch_tokens": size.batch * size.tokens, "progress": False}
    at: dict[str, Any] = {"size": name, "tokens": size.tokens, "library": "infra", "dtype": str(dtype)[6:]}
    at["parameters"] = sum(p.numel() for p in model.parameters())

    scoring = {**options, "batch_tokens": (size.scored or size.batch) * size.tokens}

    def direct() -> dict[str, Any]:
        most = options["batch_tokens"]
        gradients = {t: target_gradient(model, names, own, batch_tokens=most) for t, own in targets.items()}
        return precondition_all(factors, gradients, dtype=model.dtype)

    warm = train[: 2 * size.batch]
    factors = fit_factors(model, warm, memory_bytes=FACTOR_BYTES, pattern=re.escape(names[0]), **options)
    random = {t: {n: torch.randn_like(model.get_submodule(n).weight) for n in names} for t in targets}
    token_scores(model, train[: size.scored or size.batch], random, **scoring)
    position_scores(model, warm, random, **options)
    plain_forward(model, warm, size)
    del random, factors

    with bench.step(**at, step="forward") as found:
        plain_forward(model, train, size)
        found["operations"] = operations.forward(size, size.train).operations
    scores: dict[str, Any] = {}
    with bench.step(**at, step="fit") as found:
        factors = fit_factors(model, train, memory_bytes=FACTOR_BYTES, folder=folder / "infra", **options)
        parts = len(list((folder / "infra").glob("*.safetensors")))
        work = operations.fit(size, size.train, parts)
        found |= {"operations": work.operations, "intensity": work.intensity, "partitions": parts}
    with bench.step(**at, step="direct"):
        directions = direct()
    work = operations.token_scores(size, size.train, len(TARGETS))
    for repeat in range(2):
        with bench.step(**at, step="tokens", repeat=repeat) as found:
            found |= {"operations": work.operations, "intensity": work.intensity}
            scores["examples"] = example_scores(token_scores(model, train, directions, **scoring))
    with bench.step(**at, step="positions") as found:
        positions = position_scores(model, train, directions, **options)
        scores["positions"] = {t: np.concatenate(rows) for t, rows in positions.items()}
        found["agreement"] = {
            t: float(np.corrcoef(scores["examples"][t], [float(r.sum()) for r in positions[t]])[0, 1])
            for t in targets
        }
    sample = train[:SAMPLE]
    with bench.step(**at, step="against_float32", sequences=len(sample)) as found:
        low = token_scores(model, sample, directions, **options)
        model.float()
        directions = direct()
        exact = token_scores(model, sample, directions, **options)
        found["agreement"] = {t: cosine(np.concatenate(low[t]), np.concatenate(exact[t])) for t in targets}
    if compare and importlib.util.find_spec("kronfluence"):
        with bench.step(**at, step="same_factors", sequences=len(sample)) as found:
            found["agreement"] = same_factors(bench, size, folder, factors, sample, model, directions)
    return scores


def same_factors(
    bench: Bench, size: Size, folder: Path, factors: Factors, sample: list[Any], model: Any, directions: Any
) -> dict[str, float]:
    """Return the rank correlation of position scores with kronfluence's, same factors, in float32."""
    from benchmarks.kronfluence_peer import Kronfluence

    own = position_scores(model, sample, directions, progress=False)
    peer = Kronfluence(model, folder / "same", batch=size.batch, device=bench.device)
    peer.take(factors)
    target = TARGETS[0]
    theirs = peer.scores(sample, make_data(size)[1][target], per_token=True, name="same")
    return {target: float(spearmanr(np.concatenate(own[target]), theirs.ravel()).statistic)}


def plain_forward(model: Any, train: Sequence[Any], size: Size) -> None:
    """Run a plain forward pass over sequences, up to the output head."""
    for batch in batches(train, batch_tokens=size.batch * size.tokens, pad_id=0):
        moved = batch.to(model.device)
        with torch.no_grad(), fused_attention(model, moved):
            response_states(model, moved)


def kronfluence(
    bench: Bench, name: str, size: Size, folder: Path, own: dict[str, Any], *, low_precision: bool
) -> None:
    """Measure kronfluence at one size, and how far its scores agree with ours."""
    from benchmarks.kronfluence_peer import Kronfluence

    model = make_model(size, device=bench.device, attention="sdpa")
    train, targets = make_data(size)
    at: dict[str, Any] = {"size": name, "tokens": size.tokens, "library": "kronfluence"}
    at |= {"dtype": "low precision" if low_precision else "float32"}
    at["parameters"] = sum(p.numel() for p in model.parameters())
    options: dict[str, Any] = {"batch": size.batch, "device": bench.device, "low_precision": low_precision}
    # What is loaded lazily is loaded now, as for ours.
    with bench.step(**at, step="warm-up"):
        warm = Kronfluence(model, folder / "warm", **options)
        warm.fit(train[: 2 * size.batch])
        for per_token in (True, False):
            few = targets[TARGETS[0]][: size.batch]
            warm.scores(train[: 2 * size.batch], few, per_token=per_token, name=f"warm-{per_token}")
    warm = None
    model = make_model(size, device=bench.device, attention="sdpa")  # the other one has its wrappers
    peer = Kronfluence(model, folder / "kronfluence", **options)
    with bench.step(**at, step="fit"):
        peer.fit(train)
    for step in ("tokens", "examples") if name in ("tiny", "10m", "135m") else ("tokens",):
        with bench.step(**at, step=step) as found:
            theirs = {
                target: peer.scores(train, rows, per_token=step == "tokens", name=f"{target}-{step}")
                for target, rows in targets.items()
            }
        if own and "error" not in found:
            other = own["positions" if step == "tokens" else "examples"]
            found["agreement"] = {
                t: float(spearmanr(other[t], np.asarray(theirs[t]).ravel()).statistic) for t in targets
            }


def trak(bench: Bench, name: str, size: Size, folder: Path) -> None:
    """Measure TRAK through ``trak``, whose own projector needs a CUDA extension built from source."""
    from infra_lib.trak_scores import trak_scores

    model = make_model(size, device=bench.device)
    train, targets = make_data(size)
    at = {"size": name, "tokens": size.tokens, "library": "trak", "dtype": "float32", "step": "examples"}
    with bench.step(**at, parameters=sum(p.numel() for p in model.parameters())):
        trak_scores(model, train, targets, batch_tokens=size.batch * size.tokens, folder=folder / "trak")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two vectors."""
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def attention_check(device: str) -> list[dict[str, Any]]:
    """Return how far attention's derivative is from the same in double precision, by precision and mask."""
    from infra_lib.attention import blocks
    from infra_lib.attention.rule import _derivative

    torch.manual_seed(0)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        for width, masked in ((64, False), (64, True), (128, False), (80, True)):
            shapes = [(2, 8, 300, width), *[(2, 2, 300, width)] * 2]
            primal = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
            moved = [torch.randn((2, *shape), device=device).to(dtype) for shape in shapes]
            mask = None
            if masked:
                mask = torch.ones(300, 300, device=device, dtype=torch.bool).tril().repeat(2, 1, 1, 1)
                mask[0, :, :, 250:] = False
            scale = width**-0.5

            def run(
                parts: list[Any], compute: Callable[..., Any], mask: Any = mask, scale: float = scale
            ) -> Any:
                output = blocks.attention(*parts[:3], mask, scale)
                return compute(*parts[:3], output, mask, scale, tuple(parts[3:]))

            exact = run([part.double() for part in (*primal, *moved)], blocks.derivative)
            own = run([*primal, *moved], lambda *a: _derivative(a[:5], a[5], a[6]))
            error = float((own.double() - exact).norm() / exact.norm())
            found.append({"dtype": str(dtype)[6:], "width": width, "masked": masked, "relative_error": error})
    return found


@dataclass(frozen=True)
class Cell:
    """What one process measures: a library (or the machine) at a size."""

    library: str
    name: str = ""
    size: Size | None = None

    @property
    def key(self) -> str:
        """A name for its file."""
        return "-".join(filter(None, (self.library, self.name, str(self.size.tokens) if self.size else "")))


def cells(sizes: Mapping[str, Size], lengths: Sequence[int], *, beside: bool = False) -> list[Cell]:
    """Return what is measured, in order: ours before the peer that is compared with it.

    Parameters
    ----------
    beside
        Measure kronfluence at these lengths too.
    """
    base = GPU_SIZES["135m"]
    longer = [n for n in lengths if n != base.tokens or "135m" not in sizes]
    chosen = [(name, size, True) for name, size in sizes.items()]
    chosen += [("135m", of_length(base, length), beside) for length in longer]
    found = [Cell("machine")]
    for name, size, with_peer in chosen:
        found.append(Cell("infra", name, size))
        if with_peer and importlib.util.find_spec("kronfluence"):
            found += [Cell(f"kronfluence-{setting}", name, size) for setting in PEERS]
        if name in ("tiny", "10m"):
            found.append(Cell("trak", name, size))
    return found


def of_length(size: Size, tokens: int) -> Size:
    """Return a size with sequences of another length, and as many tokens in all."""
    share = size.tokens / tokens
    fewer = {"train": int(size.train * share), "target": max(2, int(size.target * share))}
    rows = {"batch": max(1, int(size.batch * share)), "scored": max(1, int(size.scored * share))}
    return replace(size, tokens=tokens, **rows, **fewer)


def measure(cell: Cell, device: str, parts: Path, disk: Path | None, sides: Sequence[int]) -> None:
    """Measure a cell in this process and leave what it found in ``parts``."""
    record: dict[str, Any] = {"runs": []}
    bench = Bench(device, parts / f"{cell.key}.unfinished", record)
    own = parts / f"infra-{cell.name}-{cell.size.tokens if cell.size else 0}.npz"
    with tempfile.TemporaryDirectory(prefix="infra-gpu-", dir=disk) as folder:
        if cell.size is None:
            record["ceilings"] = ceilings.measure(sides) if device == "cuda" else {}
            record["attention"] = attention_check(device)
        elif cell.library == "infra":
            compare = cell.size.tokens == (GPU_SIZES | SIZES)[cell.name].tokens
            scores = ours(bench, cell.name, cell.size, Path(folder), compare=compare)
            flat = {f"{step}|{t}": values for step, found in scores.items() for t, values in found.items()}
            np.savez(own, **flat)
        elif cell.library == "trak":
            trak(bench, cell.name, cell.size, Path(folder))
        else:
            low = PEERS[cell.library.removeprefix("kronfluence-")]
            kronfluence(bench, cell.name, cell.size, Path(folder), read_scores(own), low_precision=low)
    write_json(parts / f"{cell.key}.json", record)
    bench.out.unlink(missing_ok=True)


def read_scores(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the scores that ours left for its peers, by reading and target; none if it left none."""
    found: dict[str, dict[str, np.ndarray]] = {}
    if path.is_file():
        with np.load(path, allow_pickle=False) as held:
            for name in held.files:
                step, target = name.split("|")
                found.setdefault(step, {})[target] = held[name]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for, each cell in a process of its own, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="one tiny model, to see that everything runs")
    parser.add_argument("--sizes", nargs="*", choices=list(GPU_SIZES), default=list(GPU_SIZES))
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS), help="at 135m, ours")
    parser.add_argument("--beside", action="store_true", help="kronfluence at these lengths too")
    parser.add_argument("--out", type=Path, default=RECORD, help="the record to write")
    parser.add_argument("--parts", type=Path, help="where finished parts wait (default: _build/benchmarks)")
    parser.add_argument("--disk", type=Path, help="where factors are stored meanwhile")
    parser.add_argument("--commit", help="of the code, where it was copied here without its history")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    needs_gpu(options.device, "--device cpu --quick")
    sizes = {"tiny": SIZES["tiny"]} if options.quick else {name: GPU_SIZES[name] for name in options.sizes}
    lengths = [] if options.quick else options.lengths
    sides = sorted({size.inner for size in sizes.values()})
    planned = cells(sizes, lengths, beside=options.beside)
    found_at = environment(options.device) | ({"commit": options.commit} if options.commit else {})
    settings: dict[str, Any] = {
        "factor_bytes": FACTOR_BYTES,
        "sizes": {name: asdict(size) for name, size in sizes.items()},
        "targets": list(TARGETS),
    }
    peers = {name: _version(name) for name in ("kronfluence", "traker")}
    # Parts of another commit, machine or setting are not gone on with.
    # What is changed beside a commit may be this very record, so that it does not count.
    code = found_at["commit"].removesuffix("+changes")
    mark = digest_of([{**found_at, "commit": code}, settings, lengths, peers, options.device])[:16]
    parts = (options.parts or ROOT / "_build" / "benchmarks") / f"{options.out.stem}-{mark}"
    if options.cell:
        cell = next(cell for cell in planned if cell.key == options.cell)
        measure(cell, options.device, parts, options.disk, sides)
        return
    parts.mkdir(parents=True, exist_ok=True)
    started = parts / "started.json"
    if not started.exists():
        write_json(started, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    whole: dict[str, Any] = {"runs": []}
    for number, cell in enumerate(planned, 1):
        path = parts / f"{cell.key}.json"
        print(f"{number} of {len(planned)}: {cell.key}{', done before' if path.exists() else ''}", flush=True)
        if not path.exists():
            command = [sys.executable, "-m", "benchmarks.gpu", *given, "--cell", cell.key]
            status = subprocess.run(command, cwd=ROOT, check=False).returncode
            if status:
                whole["runs"] += _ended_early(parts / f"{cell.key}.unfinished", cell, status)
                continue
        part = json.loads(path.read_text(encoding="utf-8"))
        whole["runs"] += part.pop("runs")
        whole |= part
    record = {
        "environment": found_at,
        "driver": driver(),
        "started": json.loads(started.read_text(encoding="utf-8")),
        "command": command_of("benchmarks.gpu", given),
        "peers": peers,
        "settings": settings,
        "ceilings": {},
        "attention": [],
        **whole,
    }
    keep(options.out, record)
    print(f"recorded in {options.out}")
    if all((parts / f"{cell.key}.json").exists() for cell in planned):
        shutil.rmtree(parts)  # the same command measures again


def _ended_early(path: Path, cell: Cell, status: int) -> list[dict[str, Any]]:
    """Return what a process that did not come to its end had found; the same command tries it again."""
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else []
    path.unlink(missing_ok=True)
    ended: dict[str, Any] = {"size": cell.name, "library": cell.library, "step": "process"}
    return [*runs, {**ended, "error": f"the process ended with status {status}"}]


def needs_gpu(device: str, instead: str) -> None:
    """End with a word where a GPU is asked for and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"no CUDA device here; to see that it runs at all: {instead}")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
