"""The command line: ``infra run``, ``infra status``, ``infra verify``, ``infra book``, ``infra attribute``.

Errors that a user can cause are one sentence on standard error and exit status 2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from infra_lib.errors import InfraError

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
        for stage, state, note in pipeline.status(root, opened):
            typer.echo(f"{stage:24} {state:7} {note}")
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


@app.command("attribute")
def attribute_command(
    model: Annotated[str, typer.Option(help="Local Hugging Face folder, or hub name.")],
    train: Annotated[Path, typer.Option(help="Training examples, JSON Lines: id, domain, prompt, response.")],
    target: Annotated[
        Path, typer.Option(help="Correct responses, in the same format; a domain is a target.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the results.")],
    method: Annotated[
        str, typer.Option(help="ekfac, kfac, diagonal, identity, graddot, gradcos, trak or random.")
    ] = "ekfac",
    levels: Annotated[str, typer.Option(help="Some of example,sentence,token.")] = "example",
    damping: Annotated[float, typer.Option(help="Multiple of a layer's mean eigenvalue.")] = 0.1,
    reading: Annotated[str, typer.Option(help="loss (a token's loss term) or position.")] = "loss",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch_tokens: Annotated[int, typer.Option(help="Padded tokens per batch.")] = 4096,
    seed: Annotated[int, typer.Option(help="Of the sampled labels.")] = 0,
    target_mean: Annotated[str, typer.Option(help="sum or token.")] = "sum",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="List bad examples and go on.")] = False,
) -> None:
    """Score training examples of your own under a model of your own."""
    from infra_lib.attribute import Options, attribute

    chosen = tuple(level.strip() for level in levels.split(",") if level.strip())
    folder = attribute(
        Options(
            model,
            train,
            target,
            out,
            method,
            chosen,
            damping,
            reading,
            device,
            batch_tokens,
            seed,
            target_mean,
            dtype,
            skip_bad,
        )
    )
    typer.echo(f"scores are in {folder}")


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
) -> None:
    """Check every artefact against its checksum: a study's results, the records, the book."""
    from infra_lib.checksums import write_manifest
    from infra_lib.layout import project_root, stage_folder
    from infra_lib.study import study_names, unknown
    from infra_lib.verify import verify

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
    report = verify(root, study)
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
        typer.echo(f"recorded in {comparing.record_comparison(root, first, second, found, label)}")
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
    with holding(folder.parent / "work" / ".lock", f"{stage} of study {study}", wait=20):
        again = force or stage in os.environ.get(FORCE_VARIABLE, "").split(",")
        runner.run_stage(root, stage, pipeline.resolved_study(root, study), force=again)
        write_text(stamp, data_digest(read_provenance(folder) or {}) + "\n")


def main() -> None:
    """Run the command line and turn user errors into one sentence."""
    try:
        app()
    except InfraError as error:
        typer.echo(f"infra: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("infra: interrupted; what finished is kept", err=True)
        sys.exit(130)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        typer.echo(f"infra: {os.strerror(error.errno) if error.errno else error}{where}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
