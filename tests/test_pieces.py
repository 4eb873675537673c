"""A folder travels in pieces: it arrives as it was, or what is missing is named."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from infra_lib.checksums import folder_digests


@pytest.fixture
def sent(tmp_path) -> tuple[Path, Path]:
    folder = tmp_path / "a folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "big.bin").write_bytes(random.Random(0).randbytes(2_500_000))
    (folder / "deep" / "small.txt").write_text("häh\n", encoding="utf-8")
    assert pieces(tmp_path, "split", folder, tmp_path / "pieces", 1).returncode == 0
    return folder, tmp_path / "pieces"


def pieces(root: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).resolve().parents[1] / "workflow" / "pieces.sh"
    command = [str(script), *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_a_folder_arrives_as_it_was(sent, tmp_path) -> None:
    folder, carried = sent
    names = sorted(path.name for path in carried.iterdir())
    assert names == ["SHA256SUMS", "piece-0000", "piece-0001", "piece-0002"]
    assert max(path.stat().st_size for path in carried.iterdir()) <= 2**20
    assert pieces(tmp_path, "join", carried, tmp_path / "there").returncode == 0
    assert folder_digests(tmp_path / "there") == folder_digests(folder)


def test_absent_and_torn_pieces_are_named_and_nothing_is_put_together(sent, tmp_path) -> None:
    folder, carried = sent
    last = (carried / "piece-0002").read_bytes()
    (carried / "piece-0002").unlink()
    middle = (carried / "piece-0001").read_bytes()
    (carried / "piece-0001").write_bytes(middle[:-1] + bytes([middle[-1] ^ 1]))
    found = pieces(tmp_path, "join", carried, tmp_path / "there")
    assert found.returncode == 2
    assert "absent or torn, bring again: piece-0001 piece-0002" in found.stderr
    assert not (tmp_path / "there").exists()
    (carried / "piece-0001").write_bytes(middle)
    (carried / "piece-0002").write_bytes(last)
    assert pieces(tmp_path, "join", carried, tmp_path / "there").returncode == 0
    assert folder_digests(tmp_path / "there") == folder_digests(folder)


def test_a_splitting_that_was_killed_is_done_again_by_the_same_command(sent, tmp_path) -> None:
    folder, carried = sent
    left = tmp_path / "again.part"
    left.mkdir()
    (left / "piece-0007").write_bytes(b"of the one that was killed")
    assert pieces(tmp_path, "split", folder, tmp_path / "again", 1).returncode == 0
    assert folder_digests(tmp_path / "again") == folder_digests(carried)
    assert not left.exists()
    assert pieces(tmp_path, "split", folder, f"{tmp_path / 'slash'}/", 1).returncode == 0
    assert pieces(tmp_path, "join", tmp_path / "slash", f"{tmp_path / 'joined'}/").returncode == 0
    assert folder_digests(tmp_path / "joined") == folder_digests(folder)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("split", "none", "p", 1), "FOLDER is 'none'; it must be a folder that exists"),
        (("split", ".", "p", "0"), "MIB is '0'; it must be a whole number from 1"),
        (("split", ".", "full", 1), "PIECES is 'full'; it must be a new or empty folder"),
        (("join", "p", "there"), "PIECES is 'p'; it must hold SHA256SUMS"),
        (("join",), "workflow/pieces.sh join PIECES FOLDER"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, problem: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    found = pieces(tmp_path, *arguments)
    assert found.returncode == 2
    assert problem in found.stderr
