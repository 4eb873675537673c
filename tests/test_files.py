"""Files and folders are whole or absent, and a changed byte anywhere in them is found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra_lib import files
from infra_lib.checksums import (
    MANIFEST,
    check_record,
    checksum_path,
    damage,
    folder_digests,
    is_intact,
    list_anew,
    read_manifest,
    write_checksum,
    write_manifest,
)
from infra_lib.errors import DataError
from infra_lib.files import (
    read_sealed,
    recover_folder,
    remove_leftovers,
    replace_folder,
    replacing,
    write_sealed,
    write_text,
)

VALUE = {"b": [1, 2.5, None, "ä\n"], "a": {"nested": True}, "10": 1, "9": 2}


def every_changed_byte(content: bytes):
    for place in range(len(content)):
        for bit in (0, 3, 5, 7):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            yield bytes(changed)


@pytest.mark.reliability(kind="fault", title="any changed byte of a sealed record")
def test_a_sealed_record_reads_back_and_any_changed_byte_is_found(tmp_path, record_property) -> None:
    path = tmp_path / "record.json"
    write_sealed(path, VALUE)
    assert read_sealed(path) == VALUE
    tried = 0
    for changed in every_changed_byte(path.read_bytes()):
        path.write_bytes(changed)
        with pytest.raises(DataError, match="is torn, or was changed since it was written"):
            read_sealed(path)
        tried += 1
    record_property("inputs", tried)
    record_property("outcome", "every one is a named error")


@pytest.mark.reliability(kind="fault", title="a sealed record cut off anywhere")
def test_a_sealed_record_that_is_cut_off_is_found(tmp_path, record_property) -> None:
    path = tmp_path / "record.json"
    write_sealed(path, VALUE)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_sealed(path)
    record_property("inputs", len(whole))
    record_property("outcome", "every one is a named error")


@pytest.mark.reliability(kind="fuzz", title="sealed records written and read back")
@given(st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False)))
def test_any_record_reads_back(tmp_path_factory, value) -> None:
    path = tmp_path_factory.mktemp("sealed") / "x.json"
    value.pop(files.SEAL, None)
    write_sealed(path, value)
    assert read_sealed(path) == value


@pytest.mark.reliability(kind="fault", title="any changed byte of a file with a checksum, or of its checksum")
def test_a_file_is_intact_until_a_byte_of_it_or_of_its_checksum_changes(tmp_path, record_property) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(range(64)))
    assert not is_intact(path)  # no checksum yet: as if it were not there
    write_checksum(path)
    assert is_intact(path)
    tried = 0
    for changing in (path, checksum_path(path)):
        whole = changing.read_bytes()
        for changed in every_changed_byte(whole):
            changing.write_bytes(changed)
            assert not is_intact(path)
            tried += 1
        changing.write_bytes(whole)
    record_property("inputs", tried)
    record_property("outcome", "every one is found")


@pytest.mark.reliability(kind="fault", title="any changed byte of a folder's list of checksums")
def test_a_changed_byte_of_a_list_of_checksums_is_found(tmp_path, record_property) -> None:
    (tmp_path / "records").mkdir()
    path = tmp_path / "records" / "a.json"
    path.write_text("1")
    manifest = write_manifest(tmp_path / "records")
    check_record(tmp_path, path)
    tried = 0
    for changed in every_changed_byte(manifest.read_bytes()):
        manifest.write_bytes(changed)
        with pytest.raises(DataError):
            check_record(tmp_path, path)
        tried += 1
    record_property("inputs", tried)
    record_property("outcome", "every one is a named error")


@pytest.mark.reliability(kind="fault", title="a changed byte in another record while one is recorded")
def test_a_record_is_listed_anew_and_no_other_change_passes_with_it(tmp_path) -> None:
    for name in ("a.json", "b.json", "full/c.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path)
    (tmp_path / "full" / "c.json").write_text("new")
    (tmp_path / "full" / "d.json").write_text("another")
    list_anew(tmp_path, "full")
    assert read_manifest(tmp_path) == folder_digests(tmp_path)
    (tmp_path / "a.json").write_text("new")
    (tmp_path / "b.json").write_text("changed by nobody")
    before = (tmp_path / MANIFEST).read_bytes()
    with pytest.raises(DataError, match=r"b\.json: is not the file that was recorded; .* lists a\.json"):
        list_anew(tmp_path, "a.json")
    assert (tmp_path / MANIFEST).read_bytes() == before


def test_sha256sum_reads_the_same_lists(tmp_path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "c.txt").write_text("c")
    write_manifest(tmp_path)
    assert read_manifest(tmp_path) == folder_digests(tmp_path)
    done = subprocess.run(["sha256sum", "-c", MANIFEST], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0
    (tmp_path / "a b" / "c.txt").unlink()
    assert damage(tmp_path, read_manifest(tmp_path)) == ["a b/c.txt"]


def test_the_kept_records_are_the_listed_ones(root) -> None:
    listed = read_manifest(root / "records")
    assert damage(root / "records", listed) == []
    assert set(folder_digests(root / "records")) == set(listed), "infra verify --update-records lists them"


def make_folder(path, content: str):
    path.mkdir()
    (path / "x").write_text(content)
    return path


@pytest.mark.reliability(kind="fault", title="a kill at every step of replacing a folder")
@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_step_of_replacing_leaves_the_old_or_the_new(
    tmp_path, monkeypatch, record_property, exchange
) -> None:
    """Every call to the system that changes names is made the last one, in turn."""
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)

    class KilledError(BaseException):
        pass

    step = 0
    while True:
        folder = tmp_path / str(step)
        folder.mkdir()
        old, new = make_folder(folder / "final", "old"), make_folder(folder / "part", "new")
        calls = iter(range(step, -1, -1))

        def die(original, calls=calls):
            def call(*arguments, **options):
                if next(calls) == 0:
                    raise KilledError
                return original(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(files.Path, "rename", die(files.Path.rename))
            patch.setattr(files.shutil, "rmtree", die(files.shutil.rmtree))
            if exchange:
                patch.setattr(files, "_exchange", die(files._exchange))
            try:
                replace_folder(new, old)
                finished = True
            except KilledError:
                finished = False
        if exchange:
            assert (old / "x").read_text() in ("old", "new")  # at every moment
        recover_folder(old)
        assert (old / "x").read_text() in ("old", "new")
        if finished:
            break
        step += 1
    assert step >= 3
    assert (old / "x").read_text() == "new"
    record_property("inputs", step)
    record_property("outcome", "the old folder or the new one, whole")


@pytest.mark.reliability(kind="fault", title="a failure while a file is being replaced")
def test_a_failed_block_leaves_the_old_file_and_no_leftover(tmp_path) -> None:
    path = tmp_path / "x"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "old"


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = tmp_path / f".x.{ended.pid}.tmp", tmp_path / f".x.{os.getpid()}.tmp"
    for path in (dead, alive):
        path.write_text("half")
    assert remove_leftovers(tmp_path) == [dead]
    assert alive.exists()
