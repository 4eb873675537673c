"""The tools that publish the book: its README, archive, links, branches."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from infra_lib.checksums import write_manifest
from infra_lib.claims import measure_claims
from infra_lib.files import write_json, write_sealed
from infra_lib.method.setting import LEFT_OUT

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import archive_book  # noqa: E402
import check_links  # noqa: E402
import launch_branch  # noqa: E402
import readme_claims  # noqa: E402
import readme_picture  # noqa: E402


@pytest.fixture
def project(tmp_path, root, monkeypatch) -> Path:
    """A project folder with the README, records and one finished summary."""
    folder = tmp_path / "project"
    (folder / "notebooks" / "studies").mkdir(parents=True)
    shutil.copy2(root / "README.md", folder)
    shutil.copy2(root / "pyproject.toml", folder)
    (folder / "records").mkdir()
    (folder / "records" / "other.json").write_text("{}")
    write_manifest(folder / "records")
    frame = pd.DataFrame(
        [
            {
                "arm_a": "flip",
                "arm_b": "uniform",
                "domain": "math",
                "difference": -0.125,
                "low": -0.2,
                "high": -0.1,
            }
        ]
    ).assign(runs=6, n=250)
    stage = folder / "_build" / "studies" / "tried" / "06_summary"
    (stage / "data").mkdir(parents=True)
    measure_claims({"arms": frame}).to_parquet(stage / "data" / "claims.parquet")
    record = {
        "study": "tried",
        "started": "2026-01-02T03:04:05",
        "environment": {"commit": "0123456789abcdef", "device": "a processor"},
        "effective": {"confidence": 0.9},
    }
    write_sealed(stage / "provenance.json", record)
    results = folder / "book" / "results"
    results.mkdir(parents=True)
    write_json(results / "06_summary.provenance.json", record)
    monkeypatch.setenv("INFRA_PROJECT", str(folder))
    return folder


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tool", *arguments])
    return readme_claims.main()


def test_the_readmes_table_is_the_recorded_one(root) -> None:
    readme = (root / "README.md").read_text(encoding="utf-8")
    path = root / "records" / "claims.json"
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        assert readme == readme_claims.with_block(readme, readme_claims.table(record))
    else:
        assert f"{readme_claims.BEGIN}\n{readme_claims.END}" in readme


def test_the_readmes_picture_is_the_recorded_one(root) -> None:
    readme = (root / "README.md").read_text(encoding="utf-8")
    path = root / "records" / "readme" / "picture.json"
    if path.is_file():
        answer = json.loads(path.read_text(encoding="utf-8"))["answer"]
        shown = f"{readme_picture.BEGIN}\n{readme_picture.block(answer)}\n{readme_picture.END}"
        assert shown in readme
        assert all((path.parent / f"landing-{theme}.png").is_file() for theme in ("light", "dark"))
    else:
        assert f"{readme_picture.BEGIN}\n{readme_picture.END}" in readme


def test_claims_reach_the_readme_from_a_study(project, monkeypatch, capsys) -> None:
    shutil.copy2(ROOT / "README.md", project)
    assert run(monkeypatch, "--study", "tried") == 0
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert "1 not reproduced, 3 not measured" in readme
    assert "flip minus uniform, mathematics: −0.125 [−0.200, −0.100] accuracy" in readme
    assert "study `tried`, 2026-01-02, a processor, commit `0123456789ab`; 90% intervals" in readme
    assert run(monkeypatch, "--check") == 0
    (project / "README.md").write_text(readme.replace("−0.125", "+0.125"), encoding="utf-8")
    assert run(monkeypatch, "--check") == 1


def test_a_changed_record_is_not_listed_anew(project, monkeypatch) -> None:
    (project / "records" / "other.json").write_text("{} ")
    with pytest.raises(SystemExit, match=r"other\.json"):
        run(monkeypatch, "--study", "tried")


def built(folder: Path) -> None:
    html = folder / "_build" / "html"
    html.mkdir(parents=True)
    (html / "index.html").write_text('<p id="here"><a href="#here">x</a></p>', encoding="utf-8")
    (html / "style.css").write_text("p {}", encoding="utf-8")
    write_manifest(html)
    write_manifest(folder / "book" / "results")


def test_the_archive_lists_every_page_and_result_and_is_the_same_twice(project) -> None:
    built(project)
    path = archive_book.pack(project)
    first = path.read_bytes()
    assert archive_book.pack(project).read_bytes() == first
    assert path.name.startswith("infra-book-")
    assert "tried" in path.name
    with zipfile.ZipFile(path) as archive:
        about = json.loads(archive.read("manifest.json"))
        for kind, inside in (("pages", "html"), ("files", "html"), ("results", "results")):
            assert about[kind], kind
            for name, digest in about[kind].items():
                assert hashlib.sha256(archive.read(f"{inside}/{name}")).hexdigest() == digest
    assert set(about["pages"]) == {"index.html"}
    (project / "_build" / "html" / "index.html").write_text("changed", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"index\.html"):
        archive_book.pack(project)


def test_links_that_lead_nowhere_are_found(tmp_path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="sub/b.html#there">x</a><a href="#top">x</a><a href="mailto:x@y.z">x</a>'
    )
    (tmp_path / "sub" / "b.html").write_text('<p id="there"></p><a href="../a.html#top">x</a>')
    assert check_links.broken_links(tmp_path) == []
    (tmp_path / "sub" / "b.html").write_text('<a href="../a.html#gone">x</a><img src="no.png">')
    assert check_links.broken_links(tmp_path) == [
        "a.html: sub/b.html#there",
        "sub/b.html: ../a.html#gone",
        "sub/b.html: no.png",
    ]


def test_addresses_are_asked_and_an_answer_counts(tmp_path) -> None:
    import http.server
    import threading

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response({"/ok": 200, "/shy": 403}.get(self.path, 404))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        page = "".join(f'<a href="{at}/{name}">x</a>' for name in ("ok#x", "shy", "gone"))
        (tmp_path / "a.html").write_text(page)
        found = check_links.broken_addresses(tmp_path, tries=2, wait=0.01)
        server.shutdown()
    assert found == [f"a.html: {at}/gone (404)"]


def git(*arguments: str, at: Path) -> str:
    return subprocess.run(
        ["git", "-C", str(at), *arguments], check=True, capture_output=True, text=True
    ).stdout


def publish(*arguments: object) -> subprocess.CompletedProcess:
    command = [str(ROOT / "tools" / "publish.sh"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_publishing_keeps_previews_and_previews_keep_the_book(tmp_path) -> None:
    remote = tmp_path / "remote.git"
    git("init", "--quiet", "--bare", str(remote), at=tmp_path)
    book, preview, empty = (tmp_path / name for name in ("book", "preview", "empty"))
    for folder in (book, preview, empty):
        folder.mkdir()
    (book / "index.html").write_text("first")
    (book / "old.html").write_text("old")
    (preview / "index.html").write_text("preview")

    def listed() -> list[str]:
        return git("ls-tree", "-r", "--name-only", "gh-pages", at=remote).split()

    assert publish(book, remote, "gh-pages").returncode == 0
    assert publish(preview, remote, "gh-pages", "preview/7").returncode == 0
    assert listed() == [".nojekyll", "index.html", "old.html", "preview/7/index.html"]
    (book / "old.html").unlink()
    (book / "index.html").write_text("second")
    assert publish(book, remote, "gh-pages").returncode == 0
    assert listed() == [".nojekyll", "index.html", "preview/7/index.html"]
    assert git("show", "gh-pages:index.html", at=remote) == "second"
    assert "nothing has changed" in publish(book, remote, "gh-pages").stdout
    assert publish(empty, remote, "gh-pages", "preview/7").returncode == 0
    assert listed() == [".nojekyll", "index.html"]
    refused = publish(book, remote, "gh-pages", "../out")
    assert refused.returncode == 2
    assert "SUBFOLDER" in refused.stderr


def test_launched_notebooks_begin_by_fetching_the_project() -> None:
    notebook = {"cells": [{"cell_type": "code", "source": "x"}], "nbformat": 4}
    made = launch_branch.launchable(notebook, "https://example.org/a/b")
    assert made["cells"][1:] == notebook["cells"]
    source = made["cells"][0]["source"]
    assert "'https://example.org/a/b'" in source
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # elsewhere it does nothing


@pytest.mark.parametrize("left_out", [True, False])
def test_a_figure_that_a_study_leaves_out_is_numbered_and_says_so(tmp_path, root, left_out) -> None:
    pages, tables = tmp_path / "book", tmp_path / "book" / "results" / "tables" / "07_method"
    tables.mkdir(parents=True)
    if left_out:
        (tables / "readings.md").write_text(LEFT_OUT + "\n")
    directive = "```{build-figure} 07_method/readings\n:name: fig-tokens\n```\n"
    (pages / "index.md").write_text(f"# Tokens\n\n{directive}\nSee {{numref}}`fig-tokens`.\n")
    settings = ["extensions=myst_parser,build_figures", "numfig=1", "exclude_patterns=results/**"]
    options = [word for setting in settings for word in ("-D", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-C", "-W", "-q", *options, str(pages), str(tmp_path / "html")],
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'book' / '_ext'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if not left_out:
        assert "no figure 07_method/readings in results" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "html" / "index.html").read_text()
    assert "This study leaves the method notebook out (method_examples: 0)." in page
    assert re.search(r'href="#fig-tokens"><span class="std std-numref">Fig\. 1', page)
