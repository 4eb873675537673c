"""One partition of an EK-FAC fit at a large model's true shapes (`python -m benchmarks.partition`).

Weights are random, which changes neither time nor memory. One partition is what a whole fit repeats:
a pass for the covariances, their eigendecompositions, a pass for Λ, and the file.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import Bench, needs_gpu
from benchmarks.records import keep
from benchmarks.setting import SIZES, Size, make_config, make_data, make_model
from infra_lib.curvature import construction_bytes, fit_factors
from infra_lib.models import mlp_linears
from infra_lib.plan.estimate import Choices, Plan
from infra_lib.plan.hardware import gpu_machine
from infra_lib.plan.passes import Architecture
from infra_lib.plan.workload import Lengths, Workload
from infra_lib.provenance import driver, environment

RECORD = Path(__file__).resolve().parents[1] / "records" / "gpu" / "partition.json"
SHAPES = {
    # Qwen2.5-7B's shape, its head tied to the embeddings (which fitting does not look at).
    "qwen2.5-7b": Size(
        3584, 18944, 28, 28, 4, 152064, train=16, target=2, prompt=64, tokens=512, batch=8, initializer=0.02
    ),
    "tiny": SIZES["tiny"],
}


def planned(record: dict[str, Any]) -> dict[str, Any]:
    """Return what ``infra plan`` says of one partition of this fit on this device, and how many there are."""
    size, settings = SHAPES[record["shape"]], record["settings"]
    device = record["environment"]["device"].lower()
    kind = next((name for name in ("h200", "h100", "a100") if name in device), "h100")
    lengths = Lengths(prompt=size.prompt, response=size.tokens - size.prompt, longest=size.tokens)
    work = Workload(settings["train"], 1, 1, lengths, answer_tokens=1)
    choices = Choices(
        attribution_dtype=torch.bfloat16,
        batch_tokens=size.batch * size.tokens,
        factor_bytes=settings["memory_bytes"],
    )
    fit = Plan(Architecture(make_config(size)), work, gpu_machine(kind), choices).fit()
    return {
        "machine": kind,
        "partitions": size.layers,
        "peak_bytes": fit.peak_bytes,
        "seconds": fit.seconds / size.layers,
        "stored_bytes": fit.disk_bytes / size.layers,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the factors of one layer's MLP and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=list(SHAPES), default="qwen2.5-7b")
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--sequences", type=int)
    parser.add_argument("--out", type=Path, default=RECORD, help="the record to write")
    parser.add_argument("--disk", type=Path, help="where factors are stored meanwhile")
    parser.add_argument("--commit", help="of the code, where it was copied here without its history")
    parser.add_argument("--plan", type=Path, help="measure nothing: put the plan beside this record")
    options = parser.parse_args(arguments)
    if options.plan:
        record = json.loads(options.plan.read_text(encoding="utf-8"))
        keep(options.plan, {**record, "plan": planned(record)})
        return
    needs_gpu(options.device, "--device cpu --shape tiny")
    size = SHAPES[options.shape]
    size = replace(size, train=options.sequences or size.train)
    torch.set_default_dtype(torch.bfloat16 if options.device == "cuda" else torch.float32)
    model = make_model(size, device=options.device)
    torch.set_default_dtype(torch.float32)
    train, _ = make_data(size)
    pattern = rf"layers\.{options.layer}\.mlp\."
    modules = {name: module for name, module in mlp_linears(model).items() if re.search(pattern, name)}
    need = sum(construction_bytes(module, diagonal=False) for module in modules.values())
    record: dict[str, Any] = {
        "environment": environment(options.device),
        "driver": driver(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "shape": options.shape,
        "settings": {**asdict(size), "layer": options.layer, "memory_bytes": need, "layers": list(modules)},
        "parameters": sum(p.numel() for p in model.parameters()),
        "runs": [],
    }
    if options.commit:
        record["environment"]["commit"] = options.commit
    bench = Bench(options.device, options.out, record)
    with tempfile.TemporaryDirectory(prefix="infra-partition-", dir=options.disk) as folder:
        with bench.step(step="fit one partition") as found:
            factors = fit_factors(
                model,
                train,
                pattern=pattern,
                memory_bytes=need,
                batch_tokens=size.batch * size.tokens,
                folder=Path(folder),
                progress=False,
            )
            found["stored_bytes"] = sum(path.stat().st_size for path in Path(folder).iterdir())
            found["checks"] = factors.checks
        if options.device == "cuda":
            for side in (size.hidden, size.inner):
                rows = torch.randn(side + 64, side, device="cuda")
                matrix = rows.T @ rows / len(rows)
                with bench.step(step="eigendecomposition", side=side):
                    torch.linalg.eigh(matrix)
    keep(options.out, record)
    print(json.dumps(record["runs"]))


if __name__ == "__main__":
    main()
