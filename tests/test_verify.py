"""`infra verify` finds a changed byte in every file, by name, and says nothing where nothing is wrong."""

from __future__ import annotations

import random
import sys
from contextlib import ExitStack

import pytest
from typer.testing import CliRunner

from infra_lib.checksums import MANIFEST
from infra_lib.cli import app
from infra_lib.errors import DataError
from infra_lib.layout import STAGES, stage_folder
from infra_lib.pipeline import gather, resolved_study
from infra_lib.runner import stage_damage
from infra_lib.stage import open_stage
from infra_lib.verify import verify

pytestmark = pytest.mark.xdist_group("verify")


@pytest.fixture(scope="module")
def project(finished_smoke, tmp_path_factory):
    """A copy of the finished smoke study with the copies for its book; each test leaves it as it was."""
    from conftest import copy_of

    copy = copy_of(finished_smoke, tmp_path_factory.mktemp("verified") / "project")
    gather(copy.folder, "smoke")
    return copy


class Flipped:
    """A file with one bit of one byte changed, inside a with-block."""

    def __init__(self, path, random_) -> None:
        self.path, self.whole = path, path.read_bytes()
        self.changed = bytearray(self.whole)
        self.changed[random_.randrange(len(self.whole))] ^= 1 << random_.randrange(8)

    def __enter__(self) -> None:
        self.path.write_bytes(bytes(self.changed))

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(self.whole)


def artefacts(project) -> list:
    study = project.stage(".").resolve()
    found = [path for stage in STAGES for path in (study / stage).rglob("*")]
    found += [*(study / "runs").rglob("*"), *(study / "work").rglob("*.safetensors"), study / "study.json"]
    found += [path for part in ("records", "book/results") for path in (project.folder / part).rglob("*")]
    return [path for path in found if path.is_file() and path.stat().st_size]


def named(path, root) -> str:
    """Return how a problem names a file; a changed checksum is a problem of the file that it belongs to."""
    if path.name == MANIFEST:
        return MANIFEST
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return str(shown).removesuffix(".sha256")


def test_a_finished_study_has_nothing_wrong(project) -> None:
    report = verify(project.folder, "smoke", progress=False)
    assert report.problems == []
    assert report.lines()[-1].startswith("all ")
    assert set(report.tallies) >= {"stages", "training runs", "answers", "checkpoints and factors", "records"}


@pytest.mark.reliability(
    kind="fault", title="a changed byte in every single file of a study, its records and its book"
)
def test_a_changed_byte_in_any_file_is_found_by_name(project, record_property) -> None:
    random_ = random.Random(11)
    paths = artefacts(project)
    random_.shuffle(paths)

    def missed(changed: list) -> list:
        """Change one byte in each of these files at once; return those that no problem names."""
        with ExitStack() as stack:
            for path in changed:
                stack.enter_context(Flipped(path, random_))
            problems = verify(project.folder, "smoke", progress=False).problems
        return [
            path
            for path in changed
            if not any(named(path, project.folder) in problem for problem in problems)
        ]

    # A file is looked for by its folders too, so that its namesakes do not answer for it. A changed list of
    # checksums hides what it lists, and so does a changed record: what was hidden is tried alone.
    alone = [path for path in paths if path.name == MANIFEST]
    together = [path for path in paths if path.name != MANIFEST]
    for first in range(0, len(together), 16):
        alone += missed(together[first : first + 16])
    assert len(alone) < len(paths) / 4
    assert [path for path in alone if missed([path])] == []
    assert verify(project.folder, "smoke", progress=False).problems == []
    record_property("inputs", len(paths))
    record_property("outcome", "infra verify names each of them")


@pytest.mark.reliability(
    kind="fault", title="a changed byte in any file of a stage, met by the next stage or run"
)
def test_a_changed_byte_in_a_stage_is_met_before_use(project, record_property, monkeypatch) -> None:
    monkeypatch.setenv("INFRA_PROJECT", str(project.folder))
    random_ = random.Random(12)
    tried = 0
    for stage in STAGES:
        for path in sorted(project.stage(stage).rglob("*")):
            if not path.is_file():
                continue
            tried += 1
            with Flipped(path, random_):
                assert path.name in str(stage_damage(project.stage(stage))), path
                with pytest.raises(Exception, match=f"the book needs {stage}"):
                    gather(project.folder, "smoke")
                if path.parent.name == "data" and stage in STAGES["06_summary"]:
                    with pytest.raises(DataError, match=path.name):
                        open_stage("06_summary", {"study": "smoke"})
    record_property("inputs", tried)
    record_property("outcome", "the stage runs again; later stages and the book refuse it by name")


def test_a_changed_model_makes_the_stage_run_again_that_made_it(project) -> None:
    import json

    folder = project.stage("03_finetune_evaluate")
    model = json.loads((folder / "data" / "models.json").read_text())[0]["folder"]
    with Flipped(project.stage("runs") / model / "model.safetensors", random.Random(1)):
        assert "model.safetensors is missing or changed" in str(stage_damage(folder))


@pytest.mark.reliability(kind="fault", title="a changed byte in a study's own record")
def test_a_changed_study_file_is_not_used(project) -> None:
    with (
        Flipped(project.stage("study.json"), random.Random(2)),
        pytest.raises(DataError, match=r"study\.json"),
    ):
        resolved_study(project.folder, "smoke")


@pytest.mark.reliability(kind="fault", title="a changed byte in what the book is built from")
def test_the_book_is_not_built_from_changed_copies(project, root, monkeypatch) -> None:
    from types import SimpleNamespace

    from sphinx.errors import ExtensionError

    monkeypatch.syspath_prepend(str(root / "book" / "_ext"))
    sys.modules.pop("intact", None)
    from intact import check_copies

    book = SimpleNamespace(srcdir=project.folder / "book")
    check_copies(book)
    copy = sorted((project.folder / "book" / "results" / "data").rglob("*.parquet"))[0]
    with Flipped(copy, random.Random(3)), pytest.raises(ExtensionError, match=copy.name):
        check_copies(book)


def test_missing_and_unrecorded_files_are_named_with_what_mends_them(project) -> None:
    stray = project.stage("01_data") / "data" / "stray.parquet"
    stray.write_text("x")
    lost = project.stage("02_base_model") / "notebook.ipynb"
    content = lost.read_bytes()
    lost.unlink()
    try:
        problems = verify(project.folder, "smoke", progress=False).problems
    finally:
        stray.unlink()
        lost.write_bytes(content)
    assert [p for p in problems if "notebook.ipynb is missing; `infra run --study smoke`" in p]
    assert [p for p in problems if "stray.parquet is not recorded" in p]
    assert len(problems) == 2


def test_the_command_ends_with_its_status(project, monkeypatch) -> None:
    monkeypatch.setenv("INFRA_PROJECT", str(project.folder))
    runner = CliRunner()
    assert runner.invoke(app, ["verify", "--study", "smoke"]).exit_code == 0
    manifest = project.folder / "records" / MANIFEST
    with Flipped(manifest, random.Random(4)):
        assert runner.invoke(app, ["verify", "--study", "smoke"]).exit_code == 1
    asked = project.infra("verify", "--study", "smok")
    assert asked.returncode == 2
    assert "'smoke' (did you mean that?)" in asked.stderr
    assert stage_folder("smoke", "study.json", project.folder).exists()
