"""Plans: sizes from a configuration alone, estimates against measured peaks, and what is refused."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CTRLConfig, FalconConfig, LlamaConfig, Qwen2Config
from typer.testing import CliRunner

from benchmarks.partition import planned
from benchmarks.setting import Size, make_config
from infra_lib.cli import app
from infra_lib.errors import ModelError, ParameterError
from infra_lib.finetune import FinetuneConfig
from infra_lib.influence import _home_of_sums
from infra_lib.layout import STAGES
from infra_lib.method.sweeps import directions_of_target
from infra_lib.plan.estimate import ALLOCATOR, Choices, Plan, Step
from infra_lib.plan.fit import _next_change, fitted
from infra_lib.plan.hardware import Machine, gpu_machine, parse_size, this_machine
from infra_lib.plan.passes import Architecture
from infra_lib.plan.record import compute, plans_table
from infra_lib.plan.report import find_config, known_config, known_names, plan_study
from infra_lib.plan.trace import meta_batch, meta_model, trace
from infra_lib.plan.workload import Lengths, MethodWork, Workload, workload
from infra_lib.study import load_study, make_study
from infra_lib.tables import escape

PUBLISHED = {  # billions of parameters, as the models' cards give them
    "qwen2.5-0.5b": 0.49,
    "qwen2.5-1.5b": 1.54,
    "qwen2.5-7b": 7.61,
    "qwen2.5-14b": 14.7,
    "llama-3-8b": 8.03,
    "smollm2-135m": 0.135,
}
WORK = Workload(train=100, target=10, test=10, lengths=Lengths(64, 192, 256), answer_tokens=192)


def small_config(**changes):
    sizes = {
        "vocab_size": 4096,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    }
    return Qwen2Config(**(sizes | changes))


ON_CPU = replace(gpu_machine("h100"), is_gpu=False)
"""Peaks are measured on a CPU, where the output head is met in smaller slices."""


def plan(config, machine: Machine | None = None, **choices) -> Plan:
    machine = machine or replace(ON_CPU, memory_bytes=8 * 2**30)
    return Plan(Architecture(config), WORK, machine, Choices(**choices))


@pytest.mark.parametrize("name", known_names())
def test_known_models_have_the_parameters_that_their_cards_give(name: str) -> None:
    model = meta_model(known_config(name), torch.bfloat16)
    billions = sum(p.numel() for p in model.parameters()) / 1e9
    assert billions == pytest.approx(PUBLISHED[name], rel=0.01)


def test_a_trace_counts_what_is_made_and_let_go_and_not_what_was_there() -> None:
    a = torch.empty(100, 200, device="meta")

    def step() -> torch.Tensor:
        b = a @ a.T  # 100 × 100 × 4 bytes
        c = b + 1  # another
        del b
        return c * 2  # a third, while one is left

    found = trace(step)
    assert found.peak_bytes == 2 * 100 * 100 * 4
    assert found.flops == 2 * 100 * 100 * 200
    assert trace(lambda: a.T).peak_bytes == 0


def test_a_deep_model_is_carried_on_from_a_few_layers(monkeypatch) -> None:
    config = small_config(num_hidden_layers=12)
    short = Architecture(config).forward_backward(torch.float32, 2, 64, 48)
    monkeypatch.setattr("infra_lib.plan.trace.Traced.MORE", 12)
    whole = Architecture(config).forward_backward(torch.float32, 2, 64, 48)
    assert short.flops == whole.flops
    assert short.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.01)


def measured(program: str, step: str, sizes: dict, *more: int) -> int:
    """Return the most bytes that a step's tensors took in a process of its own.

    Tensors of these small models are below 32 MiB, and glibc keeps what is let go of that size: how much
    differs from run to run and by processor, up to half of all. Tensors of models that need a plan have pages
    of their own, as all have here.
    """
    done = subprocess.run(
        [sys.executable, "-c", program, step, json.dumps(sizes), *map(str, more)],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


MEASURE = """
import gc, json, sys
import torch
from transformers import AutoModelForCausalLM, Qwen2Config
from infra_lib.curvature import fit_factors
from infra_lib.influence import position_scores, precondition, target_gradient, token_scores
from infra_lib.models import Encoded, linears
step, sizes = sys.argv[1], json.loads(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(Qwen2Config(**sizes), attn_implementation="eager").eval()
def rows(count, length):
    mask = torch.zeros(length, dtype=torch.bool)
    mask[length // 4:] = True
    offsets = tuple((i, i + 1) for i in range(int(mask.sum())))
    return [Encoded(f"{i}", torch.randint(4000, (length,)), mask, offsets) for i in range(count)]
directions = {t: {n: torch.randn_like(m.weight) for n, m in linears(model, None).items()} for t in ("a", "b")}
factors = fit_factors(model, rows(2, 16), progress=False) if step == "directions" else None
made = {}
def run(data):
    made.clear()
    if step == "directions":
        # As notebook 04 does: a gradient at a time, and its direction is kept.
        for target in ("a", "b"):
            gradient = target_gradient(model, list(factors.layers), data, batch_tokens=4096)
            made[target] = precondition(factors, gradient)
            del gradient
    elif step == "fit factors":
        fit_factors(model, data, batch_tokens=4096, progress=False, memory_bytes=int(sys.argv[3]))
    else:
        scores = token_scores if step == "score" else position_scores
        scores(model, data, directions, batch_tokens=4096, progress=False)
def memory(field):
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))
held = sum(p.numel() * 4 for p in model.parameters())
# Directions are there before a score, and no part of a fit.
held += sum(t.numel() * 4 for d in directions.values() for t in d.values()) if "score" in step else 0
run(rows(1, 16))
gc.collect()
with open("/proc/self/clear_refs", "w") as stream:
    stream.write("5")  # the kernel's own high-water mark starts anew; a thread that samples misses peaks
base = memory("VmRSS:")
run(rows(16, 256))
print(json.dumps(memory("VmHWM:") - base + held))
"""


USE = """
import gc, json, sys, tempfile
from pathlib import Path
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config
from infra_lib.evaluate.generate import Sampling, TransformersEngine, answer
from infra_lib.examples import Example
from infra_lib.finetune import FinetuneConfig, finetune
from infra_lib.models import save_model
step, sizes = sys.argv[1], json.loads(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
known = sizes["vocab_size"] - 2
words = {f"w{i}": i for i in range(known)} | {"<eos>": known, "<pad>": known + 1}
core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")
config = Qwen2Config(**sizes, bos_token_id=None, eos_token_id=known)
model = AutoModelForCausalLM.from_config(config).eval()
def text(count, seed):
    drawn = torch.randint(known, (count,), generator=torch.Generator().manual_seed(seed))
    return " ".join(f"w{i}" for i in drawn.tolist())
def examples(count, length):
    prompt = length // 4
    rest = length - prompt - 1  # and the end token
    # A few tokens shorter here and there, so that batches are padded.
    rests = [rest - i % 8 * (length > 100) for i in range(count)]
    return [Example(f"{count}-{i}", "math", text(prompt, i), text(r, count + i)) for i, r in enumerate(rests)]
def memory(field):
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))
with tempfile.TemporaryDirectory() as folder:
    base = Path(folder) / "base"
    save_model(model, tokenizer, base)
    held = 0
    if step == "fine-tune":
        del model  # it is loaded anew
        settings = FinetuneConfig(epochs=2, batch_size=16, **json.loads(sys.argv[3]))
        def run(count, length):
            out = Path(folder) / f"{count}"
            finetune(base, examples(count, length), settings, seed=0, folder=out, progress=False)
        small, large = (2, 16), (32, 256)
    else:
        held = sum(p.numel() * 4 for p in model.parameters())
        engine = TransformersEngine(model, tokenizer, batch_size=64)
        def run(count, length):
            answer(engine, examples(count, length), Sampling(max_new_tokens=3 * length // 4), progress=False)
        small, large = (1, 16), (64, 256)
    run(*small)
    gc.collect()
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")
    before = memory("VmRSS:")
    run(*large)
    print(json.dumps(memory("VmHWM:") - before + held))
"""


def estimated_and_measured(step: str, hidden: int = 384, **settings) -> tuple[float, int]:
    """Return the peak that is planned for tensors, and the one that they have."""
    config = small_config(hidden_size=hidden, num_attention_heads=hidden // 64)
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {key: getattr(config, key) for key in (*keys, "num_key_value_heads")}
    work = replace(WORK, train=32, target=0, test=64)
    machine = replace(ON_CPU, memory_bytes=64 * 2**30)
    choices = Choices(finetune=FinetuneConfig(epochs=2, batch_size=16, **settings))
    steps = Plan(Architecture(config), work, machine, choices).steps()
    expected = next(found.peak_bytes for found in steps if found.what == step)
    return expected / ALLOCATOR, measured(USE, step, sizes, json.dumps(settings))


@pytest.mark.parametrize("hidden", [384, 512])
@pytest.mark.parametrize("step", ["fine-tune", "generate"])
def test_estimated_peaks_of_training_and_answering_lie_within_a_fifth_of_measured_ones(
    step: str, hidden: int
) -> None:
    expected, found = estimated_and_measured(step, hidden)
    assert expected == pytest.approx(found, rel=0.2)


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bfloat16"},
        {"precision": "bfloat16", "packing": True, "gradient_checkpointing": True},
        {"precision": "bfloat16", "lora_rank": 8, "gradient_accumulation": 1},
        {"lora_rank": 8, "gradient_checkpointing": True, "gradient_accumulation": 1},
        {"packing": True, "gradient_accumulation": 1},
        {"packing": True, "attention": "eager"},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_estimated_peaks_of_every_way_of_training_lie_within_a_fifth_of_measured_ones(settings) -> None:
    expected, found = estimated_and_measured("fine-tune", **settings)
    assert expected == pytest.approx(found, rel=0.2)


def test_attention_that_is_given_no_mask_is_planned_without_one() -> None:
    def peak(**settings) -> int:
        finetune = FinetuneConfig(batch_size=16, gradient_accumulation=1, packing=True, **settings)
        return plan(small_config(), finetune=finetune).finetune(1, "03_finetune_evaluate").peak_bytes

    saved = peak() - peak(attention="flash_attention_2")
    tokens = 16 * WORK.lengths.longest
    assert saved == pytest.approx(ALLOCATOR * tokens**2 * (1 + 4 * 8), rel=0.01)
    kept = peak(gradient_checkpointing=True) - peak(
        gradient_checkpointing=True, attention="flash_attention_2"
    )
    assert kept == pytest.approx(ALLOCATOR * tokens**2 * (1 + 4), rel=0.01)


def test_adapters_are_planned_where_they_are_put() -> None:
    found = Architecture(small_config())
    every = found.adapted(("all-linear",))
    assert len(every) == 7 * 8
    assert found.adapted(("q_proj",)) == [(384, 384)] * 8
    assert found.adapted(()) == []

    def flops(**settings) -> int:
        return found.training(torch.float32, 2, 128, **settings).flops

    whole, kept = flops(), flops(adapters=("all-linear",))
    # No product for the gradient of a weight, of the head, or of what the first layer's attention sees.
    weights = sum(out * into for out, into in every) + 4096 * 384 + (384 + 2 * 128) * 384
    assert whole - kept == pytest.approx(2 * 2 * 128 * weights, rel=1e-6)
    assert flops(adapters=("q_proj",)) == pytest.approx(kept, rel=0.05)


def test_a_model_that_cannot_make_activations_again_is_not_asked_to() -> None:
    sizes = {"vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "dff": 128}
    config = CTRLConfig(**sizes)
    assert not Architecture(config).checkpointable
    asked = Choices(finetune=FinetuneConfig(gradient_checkpointing=True))
    with pytest.raises(ParameterError, match="false for a model of CTRLConfig"):
        Plan(Architecture(config), WORK, ON_CPU, asked).finetune(1, "03_finetune_evaluate")
    unable = plan(small_config(), finetune=FinetuneConfig(batch_size=16, gradient_accumulation=16))
    step = unable.finetune(1, "03_finetune_evaluate")
    assert "gradient checkpointing" in _next_change(unable, step)[0]
    unable.architecture.checkpointable = False
    assert "LoRA" in _next_change(unable, step)[0]


def test_a_part_of_a_micro_batch_counts_as_a_row_of_it() -> None:
    def note(**settings) -> str:
        return plan(small_config(), finetune=FinetuneConfig(**settings)).finetune(1, "03").note

    assert "3 × 256 tokens" in note(batch_size=10, gradient_accumulation=4)
    assert "2 × 256 tokens" in note(batch_size=8, gradient_accumulation=4)


def test_what_belongs_to_no_layer_is_gathered_under_fsdp_too() -> None:
    machine = replace(gpu_machine("h100"), devices=4)
    shared = FinetuneConfig(batch_size=16, fsdp=True, gradient_accumulation=4)
    small, large = (
        plan(small_config(vocab_size=size), machine, finetune=shared) for size in (4096, 4096 + 1024)
    )
    gathered = [
        p.finetune(1, "03").peak_bytes / ALLOCATOR
        - p.architecture.training(torch.float32, 1, 256).peak_bytes
        - 16 * p.architecture.size.parameters / 4
        for p in (small, large)
    ]
    # Embeddings and the output head, four bytes a weight.
    assert gathered[1] - gathered[0] == pytest.approx(2 * 4 * 1024 * 384, rel=0.01)


def test_a_trace_counts_operations_as_torch_does() -> None:
    model = meta_model(small_config(num_hidden_layers=2), torch.float32)

    def step() -> None:
        model(**meta_batch(2, 64).inputs, use_cache=False).logits.sum().backward()

    with FlopCounterMode(display=False) as counter:
        step()
    assert trace(step).flops == counter.get_total_flops() > 0


def test_a_paged_cache_takes_what_it_holds() -> None:
    grown, paged = (
        plan(small_config(), engine=engine).generate(64, "x") for engine in ("transformers", "vllm")
    )
    assert paged.peak_bytes < grown.peak_bytes


def test_notebooks_add_up_to_the_whole_plan(root) -> None:
    record = json.loads((root / "records" / "plans.json").read_text())
    planned = [row for row in record["rows"] if not row["refused"]]
    assert len(planned) >= 8
    for row in planned:
        parts = row["notebooks"].values()
        assert sum(part["seconds"] for part in parts) == pytest.approx(row["seconds"])
        assert sum(part["disk_bytes"] for part in parts) == pytest.approx(row["disk_bytes"])
        assert max(part["peak_bytes"] for part in parts) == row["peak_bytes"]
        assert row["parts"] >= 1


@pytest.mark.parametrize("step", ["fit factors", "directions", "score", "score positions"])
def test_estimated_peaks_lie_within_a_fifth_of_measured_ones(step: str) -> None:
    sizes = small_config().to_dict()
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {key: sizes[key] for key in (*keys, "num_key_value_heads")}
    budget = 2**30
    work = replace(WORK, train=16)
    machine = replace(ON_CPU, memory_bytes=64 * 2**30)
    estimates = Plan(Architecture(Qwen2Config(**sizes)), work, machine, Choices(factor_bytes=budget)).steps()
    expected = next(s.peak_bytes for s in estimates if s.what == step)
    assert expected / ALLOCATOR == pytest.approx(measured(MEASURE, step, sizes, budget), rel=0.2)


def test_an_estimated_peak_at_a_large_models_shape_lies_within_a_fifth_of_the_one_a_gpu_had(root) -> None:
    record = json.loads((root / "records" / "gpu" / "partition.json").read_text(encoding="utf-8"))
    fit = next(run for run in record["runs"] if run["step"] == "fit one partition")
    assert record["parameters"] > 7e9
    assert planned(record)["peak_bytes"] / ALLOCATOR == pytest.approx(fit["peak_bytes"], rel=0.2)


@pytest.mark.parametrize("what", ["direct", "tokens", "positions"])
def test_estimated_peaks_lie_within_a_fifth_of_those_that_a_gpu_had(root, what: str) -> None:
    record = json.loads((root / "records" / "gpu" / "attribution-135m.json").read_text(encoding="utf-8"))
    run = next(run for run in record["runs"] if (run["library"], run["step"]) == ("infra", what))
    settings = json.loads((root / "records" / "gpu" / "attribution.json").read_text(encoding="utf-8"))
    size = Size(**settings["settings"]["sizes"]["135m"])
    lengths = Lengths(size.prompt, size.tokens - size.prompt, size.tokens)
    work = Workload(size.train, size.target, 1, lengths, answer_tokens=1)
    together = size.scored if what == "tokens" else size.batch
    choices = Choices(attribution_dtype=torch.bfloat16, batch_tokens=together * size.tokens)
    on_gpu = Plan(Architecture(make_config(size)), work, gpu_machine("h200"), choices)
    step = {"direct": on_gpu.directions, "tokens": on_gpu.score, "positions": on_gpu.score_positions}[what]()
    # Held when the step began: the weights and, before a score, two targets' directions.
    held = on_gpu.weight_bytes
    held += 0 if what == "direct" else 2 * 2 * on_gpu.architecture.size.attributed
    taken = run["peak_bytes"] - run["held_bytes"]
    assert step.peak_bytes / ALLOCATOR - held == pytest.approx(taken, rel=0.2)


def test_a_gradient_that_would_take_much_of_a_gpu_is_made_and_counted_beside_it(monkeypatch) -> None:
    config = small_config(hidden_size=512, intermediate_size=8192, vocab_size=64, num_attention_heads=8)
    roomy = Plan(Architecture(config), WORK, gpu_machine("h100"), Choices())
    sums = 4 * roomy.architecture.size.attributed
    tight = replace(roomy, machine=replace(roomy.machine, memory_bytes=4 * sums))
    saved = roomy.directions().peak_bytes - tight.directions().peak_bytes
    assert saved == pytest.approx(ALLOCATOR * sums, rel=0.01)
    assert tight.directions().seconds > roomy.directions().seconds
    # And so the gradient is made.
    for plan_, home in ((roomy, "cuda"), (tight, "cpu")):
        device = SimpleNamespace(total_memory=plan_.machine.memory_bytes)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device, found=device: found)
        assert _home_of_sums(sums // 4, torch.device("cuda")).type == home
    assert _home_of_sums(sums // 4, torch.device("cpu")).type == "cpu"


def test_attention_that_cannot_be_chosen_is_planned_as_it_is() -> None:
    sizes = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    falcon = Architecture(FalconConfig(**sizes))
    assert not falcon.fusable
    dtype = torch.float32
    eager = falcon.forward_backward(dtype, 8, 256, 1)
    assert falcon.fused(dtype, 8, 256, 1, passes=falcon.forward_backward) == eager
    chosen = Architecture(small_config())
    whole = chosen.forward_backward(dtype, 8, 256, 1)
    fused = chosen.fused(dtype, 8, 256, 1, passes=chosen.forward_backward)
    assert fused.peak_bytes < whole.peak_bytes
    assert fused.flops == pytest.approx(whole.flops, rel=0.05)


SHALLOW = small_config(hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4)
METHOD_WORK = MethodWork(examples=4, responses=2, directions=9, refined=2, passes=2, batch=4)
METHOD = """
import gc, json, sys
import torch
from transformers import AutoModelForCausalLM, Qwen2Config
from infra_lib.curvature import fit_factors
from infra_lib.examples import Example
from infra_lib.influence import target_gradient
from infra_lib.method.setting import Setting
from infra_lib.method.sweeps import sweep
from infra_lib.models import Encoded
from infra_lib.refine import conjugate_gradients, refine
step, sizes, budget = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(Qwen2Config(**sizes), attn_implementation="eager").eval()
def rows(count, length):
    mask = torch.zeros(length, dtype=torch.bool)
    mask[length // 4:] = True
    offsets = tuple((i, i + 1) for i in range(int(mask.sum())))
    return [Encoded(f"{i}", torch.randint(4000, (length,)), mask, offsets) for i in range(count)]
def memory(field):
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))
data = rows(4, 128)
examples = [Example(row.id, "math", "p", "r") for row in data]
factors = fit_factors(model, data, batch_tokens=512, diagonal=True, progress=False)
gradients = {t: target_gradient(model, list(factors.layers), rows(1, 16)) for t in ("a", "b")}
setting = Setting(model, examples, data, {}, factors, gradients, 0, 512, budget)
directions = setting.directions(0.1)
# Before its sweep the notebook has what two solvers found at two dampings.
found = [setting.directions(0.1) for _ in range(4 if step == "sweep" else 0)]
def run(setting):
    results = []
    if step == "refine":
        for damping in (0.1, 1.0):
            results.append(conjugate_gradients(setting.system(damping), iterations=2, progress=False))
        for damping in (0.1, 1.0):
            options = {"iterations": 2, "batch_examples": 4, "checks": 2, "progress": False}
            results.append(refine(setting.system(damping), **options))
    else:
        refined = {"refined": {0.1: found[0], 1.0: found[1]}}
        options = {"damping": 0.1, "dampings": [0.1, 1.0], "refined": refined}
        sweep(
            model, examples, data, factors, gradients, batch_tokens=512, memory_bytes=budget, **options
        )
held = sum(p.numel() * 4 for p in model.parameters())
for layer in factors.layers.values():
    held += sum(t.numel() * 4 for t in vars(layer).values() if isinstance(t, torch.Tensor))
for stack in (gradients, directions, *found):
    held += sum(t.numel() * 4 for direction in stack.values() for t in direction.values())
gc.collect()
with open("/proc/self/clear_refs", "w") as stream:
    stream.write("5")
base = memory("VmRSS:")
run(setting)
print(json.dumps(memory("VmHWM:") - base + held))
"""


@pytest.mark.parametrize("step", ["refine", "sweep"])
def test_estimated_peaks_of_the_method_notebook_lie_within_a_fifth_of_measured_ones(step: str) -> None:
    config = SHALLOW
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {key: getattr(config, key) for key in (*keys, "num_key_value_heads")}
    budget = 2**27
    work = replace(WORK, lengths=Lengths(32, 96, 128), method=METHOD_WORK)
    machine = replace(ON_CPU, memory_bytes=64 * 2**30)
    choices = Choices(batch_tokens=512, factor_bytes=budget)
    steps = Plan(Architecture(config), work, machine, choices).steps()
    expected = next(s.peak_bytes for s in steps if (s.notebook, s.what) == ("07_method", step))
    assert expected == pytest.approx(measured(METHOD, step, sizes, budget), rel=0.2)


def test_the_method_notebook_is_counted_as_it_works_and_can_be_left_out() -> None:
    values = {"train_examples": 100, "method_examples": 8, "damping": 0.1, "refine_passes": 3}
    dampings = {"method_dampings": [0.01, 1.0], "refine_dampings": [0.1, 5.0], "refine_batch": 4}
    lengths = Lengths(prompt=50, response=50, longest=128)
    work = workload(make_study(values | dampings), lengths)
    # Four dampings of three methods, plain gradients, and two refined by two solvers.
    assert work.method == MethodWork(8, 16, 3 * 4 + 1 + 4, 2, 3, 4)
    assert directions_of_target(4, 4) == work.method.directions
    named = {s.what for s in replace(plan(small_config()), work=work).steps() if s.notebook == "07_method"}
    assert named == {"fit factors", "score", "refine", "sweep"}
    left_out = workload(make_study({"method_examples": 0}), lengths)
    assert left_out.method is None
    assert "07_method" not in {s.notebook for s in replace(plan(small_config()), work=left_out).steps()}


@pytest.mark.reliability(kind="bad input", title="infra plan: a method notebook that cannot fit")
def test_a_method_notebook_that_cannot_fit_is_refused_with_how_to_leave_it_out() -> None:
    work = replace(WORK, train=4, method=METHOD_WORK)
    whole = replace(plan(SHALLOW, factor_bytes=2**27), work=work)

    def largest(of: Plan) -> Step:
        return max(of.steps(), key=lambda step: step.peak_bytes)

    assert (largest(whole).notebook, largest(whole).what) == ("07_method", "refine")
    tight = replace(whole.machine, memory_bytes=largest(whole).peak_bytes - 1)
    less, changes = fitted(replace(whole, machine=tight))
    assert changes == ["attribution with 2048 tokens a batch, not 4096 (batch_tokens: 2048)"]
    least = replace(less, choices=replace(less.choices, batch_tokens=work.lengths.longest))
    tight = replace(whole.machine, memory_bytes=largest(least).peak_bytes - 1)
    with pytest.raises(ParameterError, match=r"for 07_method, refine; or leave .* \(method_examples: 0\)"):
        fitted(replace(least, machine=tight))
    fitted(replace(least, machine=tight, work=replace(work, method=None)))


def test_what_does_not_fit_is_made_to_fit_and_says_how() -> None:
    config = FinetuneConfig(batch_size=16)
    roomy, changes = fitted(plan(small_config(), finetune=config))
    assert changes == []
    peak = max(step.peak_bytes for step in roomy.steps())
    tight, changes = fitted(replace(roomy, machine=replace(roomy.machine, memory_bytes=int(peak * 0.6))))
    assert changes
    assert max(step.peak_bytes for step in tight.steps()) <= peak * 0.6


def test_more_devices_and_fewer_targets_take_less_memory() -> None:
    one = plan(small_config())
    single = replace(one, choices=replace(one.choices, targets_at_once=1))
    assert single.score().peak_bytes < one.score().peak_bytes
    assert single.score().seconds > one.score().seconds
    sharded = FinetuneConfig(fsdp=True)
    many = plan(small_config(), gpu_machine("h100", 8), finetune=sharded)
    assert many.finetune(1, "x").peak_bytes < plan(small_config()).finetune(1, "x").peak_bytes

    def seconds(of: Plan) -> dict[tuple[str, str], float]:
        return {(step.notebook, step.what): step.seconds for step in of.steps()}

    # Fine-tuning and attribution share the devices, and answers do where vLLM draws them.
    alone, shared = (
        seconds(plan(small_config(), gpu_machine("h100", gpus), engine="vllm")) for gpus in (1, 8)
    )
    for key in alone:
        assert shared[key] == pytest.approx(alone[key] / 8), key
    one, many = (plan(small_config(), gpu_machine("h100", gpus)).generate(99, "x") for gpus in (1, 8))
    assert one.seconds == many.seconds


@pytest.mark.reliability(kind="bad input", title="infra plan: a study that cannot fit")
def test_what_cannot_fit_is_refused_with_what_would_hold_it() -> None:
    tiny = replace(gpu_machine("h100"), memory_bytes=2**20)
    with pytest.raises(ParameterError, match=r"--gpu-memory is .* it must be .* or more for 0\d_"):
        fitted(plan(small_config(), tiny))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_the_memory_that_a_refusal_names_holds_the_plan(share: float) -> None:
    config = FinetuneConfig(batch_size=16)
    roomy = plan(small_config(), finetune=config)
    peak = max(step.peak_bytes for step in roomy.steps())
    machine = replace(roomy.machine, memory_bytes=int(peak * share))
    with pytest.raises(ParameterError, match=r"it must be [\d.]+ [GM]iB or more") as refused:
        fitted(replace(roomy, machine=machine))
    named = re.search(r"it must be ([\d.]+ [GM]iB)", str(refused.value))[1]
    enough = replace(machine, memory_bytes=parse_size("--gpu-memory", named))
    less, changes = fitted(replace(roomy, machine=enough))
    assert max(step.peak_bytes for step in less.steps()) <= enough.memory_bytes
    assert all(re.search(r"\(\w+: \w+\)$", change) for change in changes)


def test_one_device_has_nothing_to_shard_over() -> None:
    """As training, which refuses it there."""
    alone, changes = fitted(plan(small_config(), gpu_machine("h100", 1), finetune=FinetuneConfig(fsdp=True)))
    assert changes == ["fine-tuning without sharding, for which there is one device (fsdp: false)"]
    assert not alone.choices.finetune.fsdp
    shared, changes = fitted(plan(small_config(), gpu_machine("h100", 2), finetune=FinetuneConfig(fsdp=True)))
    assert shared.choices.finetune.fsdp
    assert changes == []


def test_a_cpu_is_not_told_of_gpus() -> None:
    cpu = replace(gpu_machine("h100"), memory_bytes=2**20, is_gpu=False)
    with pytest.raises(ParameterError, match=r"memory of the device is .* it must be") as refused:
        fitted(plan(small_config(), cpu))
    assert "--gpu" not in str(refused.value)


def test_a_study_without_arms_says_so(root, monkeypatch) -> None:
    monkeypatch.setenv("INFRA_PROJECT", str(root))
    result = CliRunner().invoke(app, ["plan", "--study", "smoke", "-p", "arms=[uniform]"])
    assert result.exit_code == 0, result.exception
    assert "not estimated" not in result.output
    assert "nothing is trained: uniform is the only arm" in result.output


def test_gqa_free_and_tied_models_are_planned_too() -> None:
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    named = {step.what for step in plan(config).steps()}
    assert named == {"fine-tune", "generate", "fit factors", "directions", "score", "score positions"}


@pytest.mark.parametrize(
    ("text", "size"), [("80GiB", 80 * 2**30), ("24GB", 24 * 10**9), ("512 MiB", 2**29), ("1.5g", 3 * 2**29)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size("--gpu-memory", text) == size


@pytest.mark.reliability(kind="bad input", title="a plan for a machine that cannot be")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpu-memory", "lots"], "parameter --gpu-memory is 'lots': it must be"),
        (["--gpu-memory", "0GiB"], "--gpu-memory"),
        (["--gpus", "1", "--gpu", "h101"], "'h100' (did you mean that?)"),
        (["--study", "papre"], "'paper' (did you mean that?)"),
        (["--study", "custom"], "parameter train_sources is 'data/train.jsonl'"),
        (
            ["-p", "base_model=nobody/nothing", "-p", "base_seeds=[0]"],
            "nobody/nothing is not in the local cache and the hub cannot be reached",
        ),
        (["--gpus", "-3"], "parameter --gpus is -3: it must be 1 or more"),
        (["--gpus", "0", "--gpu-memory", "80GiB"], "left out with --gpus 0"),
    ],
)
def test_bad_input_is_named(arguments, words, root, monkeypatch) -> None:
    monkeypatch.setenv("INFRA_PROJECT", str(root))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert words in str(result.exception)


def planned_notebooks(text: str) -> list[str]:
    named = [line.split()[0] for line in text.splitlines()[3:] if line.startswith("  0")]
    return list(dict.fromkeys(named))


@pytest.mark.parametrize("study", ["small", "smoke", "smollm2", "paper"])
def test_every_study_has_a_plan_of_every_notebook(study: str, root, monkeypatch) -> None:
    monkeypatch.setenv("INFRA_PROJECT", str(root))
    result = CliRunner().invoke(app, ["plan", "--study", study])
    assert result.exit_code == 0, result.exception
    assert "fit factors" in result.stdout
    assert "together" in result.stdout
    assert planned_notebooks(result.stdout) == list(STAGES)


def test_the_papers_setting_fits_eight_large_devices_and_not_one_small(root) -> None:
    study = load_study(root / "notebooks" / "studies", "paper")
    found = plan_study(study, root, gpu_machine("h100", 8))
    assert found.peak_bytes <= 80 * 2**30
    assert found.size.parameters == pytest.approx(7.6e9, rel=0.01)
    with pytest.raises(ParameterError, match="GiB or more for"):
        plan_study(study, root, gpu_machine("h100", 1, "24GiB"))


def test_a_dry_run_names_steps_inputs_and_costs(root, monkeypatch) -> None:
    monkeypatch.setenv("INFRA_PROJECT", str(root))
    result = CliRunner().invoke(app, ["run", "--study", "paper", "--dry-run"])
    assert result.exit_code == 0, result.exception
    for words in (
        "01_data",
        "bespoke_stratos",
        "Qwen/Qwen2.5-7B-Instruct",
        "fine-tune:",
        "score:",
        "a device",
    ):
        assert words in result.stdout
    for stage, following in itertools.pairwise([*STAGES, "together"]):
        part = result.stdout.split(f"{stage} ", 1)[1].split(following)[0]
        costs = ("a device;", "left out (", "no model passes", "seconds on the CPU")
        assert any(words in part for words in costs), stage


def test_a_plan_counts_the_problems_that_benchmarks_have(root) -> None:
    studies = root / "notebooks" / "studies"

    def problems(**change) -> tuple[int, int]:
        work = workload(load_study(studies, "paper", change), Lengths(400, 5000, 6144))
        return work.test, work.target

    assert problems() == (30 + 30 + 500 + 880, 800)
    both = {"test_sources": ["livecodebench", "gsm8k"], "data_options": {"livecodebench": {"release": "v2"}}}
    assert problems(**both)[0] == 511 + 1319
    assert problems(**both, test_examples=800)[0] == 800
    assert problems(test_sources=["small_world", "aime24"], test_examples=100)[0] == 100


def test_a_local_folders_configuration_comes_first(root, model_folder) -> None:
    study = load_study(
        root / "notebooks" / "studies", "small", {"base_model": str(model_folder), "base_seeds": [0]}
    )
    name, config = find_config(study, root)
    assert name == str(model_folder)
    assert config.hidden_size == 16


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 3584),
        ("meta-llama/Meta-Llama-3-8B", 4096),
        ("qwen2.5-1.5b", 1536),
        ("_build/models/smollm2", 576),
    ],
)
def test_published_models_are_known_by_their_names(name: str, hidden: int, tmp_path) -> None:
    study = make_study({"base_model": name, "base_seeds": [0]})
    assert find_config(study, tmp_path)[1].hidden_size == hidden


def test_anothers_model_of_a_known_name_is_not_taken_for_it(root, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    study = make_study({"base_model": "nobody/Qwen2.5-7B", "base_seeds": [0]})
    with pytest.raises(ModelError, match=r"nobody/Qwen2\.5-7B is not"):
        find_config(study, root)


def test_a_finished_model_takes_the_disk_of_its_bases_type() -> None:
    for name, width in (("qwen2.5-0.5b", 2), ("smollm2-135m", 4)):
        architecture = Architecture(known_config(name))
        assert architecture.stored_bytes == width * architecture.size.parameters


def test_the_template_has_a_plan_once_its_data_are_there(root, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("INFRA_PROJECT", str(root))
    rows = [
        {"id": f"q{k}", "domain": "math", "prompt": f"2 + {k}?", "response": str(2 + k)} for k in range(9)
    ]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"{part}_sources=[{data}]" for part in ("train", "pool", "target", "test")]
    options = [word for value in given for word in ("-p", value)]
    result = CliRunner().invoke(app, ["plan", "--study", "custom", *options])
    assert result.exit_code == 0, result.exception
    assert planned_notebooks(result.stdout) == list(STAGES)


def test_recorded_plans_are_what_the_code_still_says(root) -> None:
    record = json.loads((root / "records" / "plans.json").read_text())
    kept = [row for row in record["rows"] if row["model"] == "smollm2-135m"]
    again = json.loads(compute(["smollm2-135m"]).to_json(orient="records"))
    assert {row["model"] for row in record["rows"]} == set(known_names())
    for before, now in zip(kept, again, strict=True):
        assert now["peak_bytes"] == pytest.approx(before["peak_bytes"], rel=0.02)
        assert now["seconds"] == pytest.approx(before["seconds"], rel=0.02)
        assert now["disk_bytes"] == before["disk_bytes"]


def test_the_table_of_plans_names_every_model_and_what_does_not_fit(root) -> None:
    table = plans_table(root)
    assert all(escape(name) in table for name in known_names())
    assert "recorded run" in table


def test_retrainings_of_the_validation_are_counted_as_the_notebook_does_them() -> None:
    from infra_lib.plan.workload import _validation

    study = make_study(
        {
            "validation_examples": 100,
            "validation_epochs": 2,
            "validation_models": 3,
            "validation_subsets": 10,
            "validation_seeds": 1,
            "ceiling_subsets": 4,
            "ceiling_seeds": 3,
            "removal_methods": ["ekfac"],
            "removal_fractions": [0.1, 0.2],
            "removal_seeds": 2,
            "removal_draws": 1,
            "group_seeds": 2,
            "group_categories": ["symbolic", "map"],
        }
    )
    halves, removals, groups, categories = 10 + 4 * 2, 2 * (4 + 1), 2 * 10, 2 * 2
    seen = halves * 50 + 3 * 100 + removals * 90 + removals * 80
    seen += groups * 100 + groups * 100 - 2 * 100 + 2 * categories * 100
    assert _validation(study) == (halves + 3 + 2 * removals + 2 * groups + 2 * categories, 2 * seen)
    assert _validation(make_study({"validation_subsets": 0})) == (0, 0)


def test_the_explorer_is_counted_by_its_directions_and_the_examples_it_scores(root) -> None:
    methods = ["ekfac", "gradcos"]
    study = make_study({"train_examples": 100, "explorer_examples": 40, "explorer_methods": methods})
    lengths = Lengths(prompt=50, response=50, longest=128)
    work = workload(study, lengths)
    assert (work.explored, work.explored_directions) == (40, 4)
    architecture = Architecture(known_config("smollm2-135m"))
    machine = gpu_machine("h100", 1, None)

    def explore(explored: int, at_once: int):
        choices = Choices(explorer_directions=at_once)
        return Plan(architecture, replace(work, explored=explored), machine, choices).explore()[-1]

    assert explore(80, 4).seconds == pytest.approx(2 * explore(40, 4).seconds)
    assert explore(40, 1).seconds > explore(40, 4).seconds

    def kept(directions: int, machine: Machine) -> int:
        own = replace(work, explored_directions=directions)
        return Plan(architecture, own, machine, Choices(explorer_directions=4)).explore()[-1].peak_bytes

    # Directions of later passes wait beside a GPU; a CPU has one memory for all.
    assert kept(8, ON_CPU) - kept(4, ON_CPU) >= 4 * 4 * architecture.size.attributed
    assert kept(8, machine) == kept(4, machine)
    steps = Plan(architecture, work, machine).steps()
    assert [step.what for step in steps if step.notebook == "08_explorer"] == ["directions", "score"]
    without = Plan(architecture, replace(work, explored=0), machine).steps()
    assert not [step for step in without if step.notebook == "08_explorer"]


def test_a_study_that_trains_its_own_bases_is_planned_with_their_training(tmp_path) -> None:
    machine = this_machine()  # it measures itself, a little otherwise each time
    study = make_study(
        {
            "retrain_base": True,
            "base_folder": "_build/bases/none",
            "pretrain_hidden": 192,
            "pretrain_tokens": 1_000_000,
            "pretrain_epochs": 2,
        }
    )
    made = plan_study(study, tmp_path, machine)
    assert (
        made.size.parameters
        > plan_study(make_study({"retrain_base": True}), tmp_path, machine).size.parameters
    )
    steps = [step for step in made.steps if step.what == "pretrain"]
    assert [step.notebook for step in steps] == ["02_base_model"]
    twice = plan_study(study.model_copy(update={"pretrain_epochs": 4}), tmp_path, machine)
    assert twice.steps[0].seconds == pytest.approx(2 * steps[0].seconds, rel=0.01)
    assert not any(
        step.what == "pretrain"
        for step in plan_study(make_study({}), Path(__file__).parents[1], machine).steps
    )
