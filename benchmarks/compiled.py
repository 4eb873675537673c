"""What `torch.compile` gains in forward-mode scoring (`python -m benchmarks.compiled`).

The pass that scores tokens, up to the head's inputs, as the library runs it and compiled, on batches of one
shape. What compiling takes is taken again for every shape of batch: PyTorch compiles a derivative under
``vmap`` for the sizes that it meets. So there are tokens of one shape below which it does not pay. On a GPU
``reduce-overhead`` is tried too, which replays CUDA graphs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._inductor import config as inductor_config

from benchmarks.gpu import needs_gpu
from benchmarks.records import RECORDS, command_of, keep
from benchmarks.setting import GPU_SIZES, SIZES, TARGETS, Size, make_data, make_model
from infra_lib.models import Batch, batches, mlp_linears
from infra_lib.provenance import driver, environment

RECORD = RECORDS / "benchmarks" / "compiled.json"
CHOSEN = {
    "cpu": {name: replace(SIZES[name], train=32) for name in ("small", "medium")},
    "cuda": {name: GPU_SIZES[name] for name in ("10m", "135m")},
}
REPEATS = 3
QUICK = {"tiny": SIZES["tiny"]}
MODES = {"cpu": ("default",), "cuda": ("default", "reduce-overhead")}
Pass = Callable[[dict[str, Tensor], Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def forward_pass(model: Any) -> Pass:
    """Return the pass: states [loss terms, hidden] and their derivatives [targets, …] along tangents."""
    inner = model.model
    weights = {f"{n}.weight": m.weight.detach() for n, m in mlp_linears(inner).items()}

    def derive(
        tangents: dict[str, Tensor], ids: Tensor, positions: Tensor, where: Tensor
    ) -> tuple[Tensor, Tensor]:
        def forward(values: dict[str, Tensor]) -> Tensor:
            given = {"input_ids": ids, "position_ids": positions, "use_cache": False}
            states = torch.func.functional_call(inner, values, (), given).last_hidden_state
            return states.flatten(0, -2).index_select(0, where)

        def one(tangent: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            return torch.func.jvp(forward, (weights,), (tangent,))[:2]

        return torch.func.vmap(one, out_dims=(None, 0))(tangents)

    return derive


def measure(name: str, size: Size, device: str) -> list[dict[str, Any]]:
    """Return what each way takes at a size, the first time and then (the fastest of three)."""
    model = make_model(size, device=device)
    if device != "cpu":
        model = model.bfloat16()
    train, _ = make_data(size)
    rows = (size.scored or size.batch) * size.tokens
    groups = [batch.to(device) for batch in batches(train, batch_tokens=rows, pad_id=0)]
    tangents = {
        f"{n}.weight": torch.stack([torch.randn_like(m.weight) for _ in TARGETS])
        for n, m in mlp_linears(model.model).items()
    }
    ways: dict[str, Pass] = {"as it is": forward_pass(model)}
    for mode in MODES[device]:
        ways[f"compiled, {mode}"] = torch.compile(forward_pass(model), dynamic=False, mode=mode)
    derivatives = {way: partial(_derivatives, step, tangents) for way, step in ways.items()}
    exact = derivatives["as it is"](groups[0])
    found = []
    for way, step in derivatives.items():
        first = _seconds(lambda step=step: step(groups[0]), device)
        taken = min(_seconds(lambda step=step: [step(b) for b in groups], device) for _ in range(REPEATS))
        own = step(groups[0])
        found.append(
            {
                "size": name,
                "way": way,
                "parameters": sum(p.numel() for p in model.parameters()),
                "tokens": sum(batch.input_ids.numel() for batch in groups),
                "first_seconds": first,
                "seconds": taken,
                "repeats": REPEATS,
                "difference": float((own - exact).abs().max() / exact.abs().max()),
            }
        )
        print(f"{name:8}{way:28}{first:9.2f} s at first{taken:9.2f} s then", flush=True)
    return found


@torch.no_grad()
def _derivatives(step: Pass, tangents: dict[str, Tensor], batch: Batch) -> Tensor:
    return step(tangents, batch.input_ids, batch.position_ids, batch.predicting)[1].float()


def _seconds(step: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="one tiny model, to see that everything runs")
    parser.add_argument("--out", type=Path, help="the record to write")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    needs_gpu(options.device, "--device cpu --quick")
    sizes = QUICK if options.quick else CHOSEN[options.device]
    threads = torch.get_num_threads()
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with inductor_config.patch(force_disable_caches=True):  # what compiling takes is measured, every time
        runs = [run for name, size in sizes.items() for run in measure(name, size, options.device)]
    record = {
        "environment": environment(options.device),
        "driver": driver(),
        "started": started,
        "command": command_of("benchmarks.compiled", given),
        "settings": {
            "sizes": {name: asdict(size) for name, size in sizes.items()},
            "threads": threads,
            "dtype": "float32" if options.device == "cpu" else "bfloat16",
        },
        "runs": runs,
    }
    out = options.out or (RECORD if options.device == "cpu" else RECORDS / "gpu" / "compiled.json")
    keep(out, record)
    print(f"recorded in {out}")


if __name__ == "__main__":
    main()
