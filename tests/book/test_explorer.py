"""The explorer in a real browser: on the smoke study's book, and on 2,000 made-up and hostile examples."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "explorer"))
from book_browser import IN_BROWSER, serving
from hostile import TEXTS
from made_up import files_of

from benchmarks import explorer as waits
from infra_lib.checksums import write_manifest
from infra_lib.examples import Example, is_text
from infra_lib.markup import visible

pytestmark = IN_BROWSER

ALL = 2000
SCRIPT = "<script>window.__pwned=1</script><img src=x onerror='window.__pwned=2'>"
PLAIN = (
    "First the number 3 grows by {k}. Wait, let me check: 3 + {k} is right. "
    "So we have it, and the answer is {k}."
)
MOST_NODES = 10 * (800 + 60) + 200
"""Ten examples of at most 800 tokens, some sentences, and the controls with their choices."""
CARD = ".explorer-card"
PART = ".explorer-text .part"


def examples() -> list[Example]:
    """Return 2,000 examples, some of them with text that wants to be more than text."""
    evil = [text for text in TEXTS if text.strip() and is_text(text)]
    found = [
        Example(
            id=f"made-{k:04d}",
            domain="math" if k % 2 else "code",
            prompt=f"What is 3 + {k}?",
            response=PLAIN.format(k=k),
            difficulty=k % 5 + 1 if k % 50 else None,
            category=("symbolic", "conversational", "sort, filter")[k % 3],
        )
        for k in range(ALL - 3 - len(evil))
    ]
    odd = [SCRIPT, '"quoted", and\na line; =1+1', "=HYPERLINK(1)"]
    for name, texts in (("odd", odd), ("evil", evil)):
        found += [
            Example(
                id=f"{name}-{k}", domain="math", prompt=text, response=text, difficulty=1, category=SCRIPT
            )
            for k, text in enumerate(texts)
        ]
    return found


@pytest.fixture(scope="module")
def made_up(root, tmp_path_factory) -> Path:
    """Return a small built book: the explorer's page over made-up scores."""
    folder = tmp_path_factory.mktemp("explorer")
    shutil.copy2(root / "_config.yml", folder)
    for name in ("_ext", "_static", "_explorer"):
        shutil.copytree(root / "book" / name, folder / "book" / name)
    shutil.copy2(root / "book" / "references.bib", folder / "book")
    shutil.copy2(root / "book" / "explorer.md", folder / "book")
    for name, text in files_of(examples()).items():
        path = folder / "book" / "results" / "explorer" / f"{name}.js"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    write_manifest(folder / "book" / "results")
    for name in ("index", "method"):
        (folder / "book" / f"{name}.md").write_text(f"# {name}\n", encoding="utf-8")
    for name in ("04_example_influence", "08_explorer"):
        (folder / "book" / "results" / f"{name}.md").write_text(f"# {name}\n", encoding="utf-8")
    toc = "format: jb-book\nroot: index\nchapters:\n  - file: explorer\n  - file: method\n"
    toc += "  - file: results/04_example_influence\n  - file: results/08_explorer\n"
    (folder / "book" / "_toc.yml").write_text(toc)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "book"]
    command += ["--config", "_config.yml", "--path-output", ".", "--all", "-W", "-n", "--keep-going"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "_build" / "html"


@pytest.fixture(scope="module")
def served(made_up):
    """The made-up book over HTTP, where a page may use the clipboard."""
    with serving(made_up) as address:
        yield f"{address}/explorer.html"


class Reader:
    """A page of the explorer with what a reader does on it, and what went wrong meanwhile."""

    def __init__(self, browser, address: str, **options) -> None:
        self.page = browser.new_page(**options)
        self.problems: list[str] = []
        self.loaded: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("requestfailed", lambda request: self.problems.append(f"failed {request.url}"))
        self.page.on("request", lambda request: self.loaded.append(request.url))
        self.open(address)

    def _note(self, message) -> None:
        if message.type == "error" and "theme mode" not in message.text:
            self.problems.append(message.text)

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.settled()

    def settled(self) -> None:
        self.page.wait_for_selector("#influence-explorer .explorer-status")
        self.page.wait_for_function(
            "!document.querySelector('#influence-explorer').hasAttribute('aria-busy')"
            " && document.querySelector('.explorer-status').textContent"
        )

    def choose(self, name: str, value: str) -> None:
        self.page.select_option(f"#explorer-{name}", value)
        self.settled()

    def search(self, text: str) -> None:
        self.page.fill("#explorer-q", text)
        self.settled()

    def titles(self) -> list[str]:
        return [text.split("\n")[0] for text in self.page.locator(f"{CARD} h3").all_inner_texts()]

    def ids(self) -> list[str]:
        return self.page.locator(".explorer-id").all_inner_texts()

    def status(self) -> str:
        return self.page.locator(".explorer-status").inner_text()

    def bar(self) -> str:
        return self.page.locator(".explorer-bar").inner_text()

    def csv(self) -> list[dict[str, str]]:
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name="Download CSV").click()
        text = Path(download.value.path()).read_bytes().decode("utf-8-sig")
        return list(csv.DictReader(io.StringIO(text, newline="")))

    def close(self) -> None:
        self.page.close()
        assert not self.problems


@pytest.fixture
def reader(browser, made_up):
    found = Reader(browser, f"file://{made_up}/explorer.html")
    yield found
    found.close()


# --- The first view ----------------------------------------------------------------------


def test_the_smoke_studys_book_opens_from_disk_with_both_ends(browser, html, smoke) -> None:
    import pandas as pd

    scores = pd.read_parquet(smoke.stage("08_explorer") / "data" / "examples.parquet")
    ranked = scores[(scores["method"] == "ekfac") & (scores["target"] == "math")].sort_values("rank")["id"]
    found = Reader(browser, f"file://{html}/explorer.html")
    assert found.ids() == [*ranked[:5], *ranked[::-1][:5]]
    assert found.page.get_by_role("heading", name="Most helpful").count() == 1
    assert found.page.get_by_role("heading", name="Most harmful").count() == 1
    assert found.status() == "60 of 60 examples"
    words = found.page.locator(".explorer-words").inner_text()
    assert "nats of the target per unit of the example's weight" in words
    assert found.page.locator(f"{PART}.up4").count() + found.page.locator(f"{PART}.down4").count() > 0
    for target in ("math", "code"):
        for method in ("ekfac", "kfac", "graddot", "gradcos"):
            found.choose("target", target)
            found.choose("method", method)
            own = scores[(scores["method"] == method) & (scores["target"] == target)]
            assert found.ids()[0] == own.loc[own["rank"].idxmin(), "id"]
    found.close()


def test_the_first_view_of_2000_examples_needs_two_shards_and_few_nodes(reader) -> None:
    data = sorted({url.rsplit("/", 1)[1] for url in reader.loaded if "/_static/explorer/" in url})
    assert data == ["index.js", "shard-000.js", f"shard-{ALL // 10 - 1:03d}.js"]
    assert reader.page.locator(CARD).count() == 10
    nodes = "document.querySelectorAll('#influence-explorer *').length"
    before = reader.page.evaluate(nodes)
    assert before < MOST_NODES
    for _ in range(3):
        reader.page.get_by_role("button", name="Next").click()
        reader.settled()
    assert reader.titles()[0] == f"Rank 16 of {ALL:,}"
    assert reader.page.evaluate(nodes) < MOST_NODES
    reader.search("evil-")
    assert reader.page.evaluate(nodes) < MOST_NODES
    reader.search("")
    assert reader.titles()[0] == f"Rank 1 of {ALL:,}"


def test_long_examples_are_drawn_in_part_until_asked_for(browser, made_up, tmp_path) -> None:
    folder = tmp_path / "html"
    shutil.copytree(made_up, folder)
    long = [
        Example(id=f"long-{k}", domain="math", prompt="?", response=f"A long one, {k}. " * 500)
        for k in range(4)
    ]
    shutil.rmtree(folder / "_static" / "explorer")
    (folder / "_static" / "explorer").mkdir()
    for name, text in files_of(long).items():
        (folder / "_static" / "explorer" / f"{name}.js").write_text(text)
    found = Reader(browser, f"file://{folder}/explorer.html")
    assert found.page.locator(PART).count() == 4 * 800
    found.page.get_by_role("button", name="Show all").first.click()
    assert found.page.locator(f"{CARD} >> nth=0 >> .part").count() > 1500
    found.close()


# --- Controls ----------------------------------------------------------------------------


def test_every_control_changes_what_is_shown(reader) -> None:
    assert reader.titles()[0] == f"Rank 1 of {ALL:,}"
    reader.choose("show", "harmful")
    assert reader.titles()[0] == f"Rank {ALL:,} of {ALL:,}"
    reader.choose("show", "helpful")
    first = reader.ids()
    scores = reader.page.locator(".explorer-score").all_inner_texts()
    reader.choose("target", "code")
    assert reader.ids() != first
    reader.choose("target", "math")
    reader.choose("method", "graddot")
    assert reader.ids() != first
    assert "learning rate" in reader.page.locator(".explorer-words").inner_text()
    reader.choose("method", "ekfac")
    assert reader.page.locator(".explorer-score").all_inner_texts() == scores
    tokens = reader.page.locator(PART).count()
    reader.choose("level", "sentence")
    sentences = reader.page.locator(PART).count()
    assert 10 <= sentences < tokens / 4
    reader.choose("level", "example")
    assert reader.page.locator(PART).count() == 0
    assert not reader.page.locator("#explorer-reading").is_visible()
    assert reader.page.locator(".explorer-text.whole").count() == 10
    reader.choose("level", "token")
    before = reader.page.locator(f"{CARD} >> nth=0 >> .explorer-text").inner_html()
    reader.choose("reading", "position")
    assert reader.page.locator(".part.prompt").count() == 10
    assert reader.page.locator(f"{CARD} >> nth=0 >> .explorer-text").inner_html() != before
    reader.page.get_by_role("button", name="Reset").click()
    reader.settled()
    assert reader.page.input_value("#explorer-show") == "both"


def test_filters_and_search_agree_with_the_data(reader) -> None:
    own = examples()
    reader.choose("domain", "code")
    reader.choose("difficulty", "3")
    reader.choose("category", "sort, filter")
    fits = [e.id for e in own if (e.domain, e.difficulty, e.category) == ("code", 3, "sort, filter")]
    assert reader.status() == f"{len(fits)} of {ALL:,} examples"
    assert set(reader.ids()) <= set(fits)
    reader.page.get_by_role("button", name="Reset").click()
    reader.search("  ANSWER is 77  ")
    fits = [
        e.id
        for e in own
        if all(w in f"{e.id}\n{e.prompt}\n{e.response}".lower() for w in ("answer", "is", "77"))
    ]
    assert reader.status() == f"{len(fits)} of {ALL:,} examples"
    assert set(reader.ids()) <= set(fits)
    reader.search("no such word anywhere")
    assert reader.status().startswith(f"None of {ALL:,}")
    assert reader.page.locator(CARD).count() == 0
    assert reader.csv() == []


def test_words_are_kept_where_a_control_is_changed_while_they_are_typed(reader) -> None:
    reader.page.fill("#explorer-q", "made-0007")
    reader.choose("target", "code")
    assert reader.page.input_value("#explorer-q") == "made-0007"
    assert reader.ids() == ["made-0007"]


def test_ranks_are_among_all_whatever_is_filtered(reader) -> None:
    reader.choose("show", "helpful")
    every = reader.csv
    reader.choose("level", "example")
    ranks = {row["id"]: row["rank"] for row in every()}
    reader.choose("domain", "math")
    for title, name in zip(reader.titles(), reader.ids(), strict=True):
        assert title == f"Rank {int(ranks[name]):,} of {ALL:,}"


def test_scores_by_every_method_agree_with_their_views(reader) -> None:
    first = reader.page.locator(CARD).first
    first.get_by_text("Scores by every method").click()
    table = first.locator("table")
    table.wait_for()  # a browser says that details are open a moment after it has opened them
    assert table.locator("tbody tr").count() == 3
    name = reader.ids()[0]
    cell = table.locator("tbody tr >> nth=1 >> td >> nth=1").inner_text()
    reader.choose("level", "example")
    reader.choose("method", "graddot")
    reader.choose("target", "code")
    row = next(row for row in reader.csv() if row["id"] == name)
    assert cell.endswith(f"(rank {int(row['rank']):,})")


# --- Pointing, keys, links ---------------------------------------------------------------


def test_a_tokens_score_is_said_when_pointed_at_and_when_focused(reader) -> None:
    reader.choose("show", "helpful")
    rows = [row for row in reader.csv() if row["id"] == reader.ids()[0]]
    parts = reader.page.locator(f"{CARD} >> nth=0 >> .part")
    assert parts.count() == len(rows)
    parts.nth(3).hover()
    pointed = reader.bar()
    assert f"token “{rows[3]['text'].strip()}”" in pointed
    assert ("helps" if float(rows[3]["score"]) > 0 else "hinders") in pointed
    assert "sentence 1" in pointed
    assert "example +" in pointed
    reader.page.mouse.move(0, 0)
    parts.nth(5).focus()
    assert reader.bar() != pointed
    parts.nth(3).focus()
    assert reader.bar() == pointed


def test_the_keyboard_reaches_everything(reader) -> None:
    stops = []
    reader.page.locator("#explorer-target").focus()
    while stops[-1:] != ["Next"] and len(stops) < 80:
        stops.append(
            reader.page.evaluate(
                "(e => e.id || e.getAttribute('role') || e.textContent.slice(0, 30))(document.activeElement)"
            )
        )
        reader.page.keyboard.press("Tab")
    for name in ("target", "method", "level", "reading", "show", "q", "domain", "difficulty", "category"):
        assert f"explorer-{name}" in stops
    for name in ("Copy link", "Download CSV", "Reset", "Next"):
        assert name in stops
    assert stops.count("option") == 10  # one stop for each text, however many tokens it has

    reader.search("made-")
    parts = reader.page.locator(f"{CARD} >> nth=0 >> .part")
    parts.first.focus()

    def at() -> int:
        return int(reader.page.evaluate("document.activeElement.dataset.part"))

    said = {reader.bar()}
    for _ in range(4):
        reader.page.keyboard.press("ArrowRight")
        said.add(reader.bar())
    assert at() == 4
    assert len(said) > 2
    reader.page.keyboard.press("ArrowLeft")
    assert at() == 3
    reader.page.keyboard.press("ArrowDown")
    second = at()
    assert "sentence 2" in reader.bar()
    reader.page.keyboard.press("ArrowDown")
    assert "sentence 3" in reader.bar()
    reader.page.keyboard.press("ArrowUp")
    assert at() == second
    reader.page.keyboard.press("End")
    assert at() == parts.count() - 1
    reader.page.keyboard.press("ArrowRight")
    assert at() == parts.count() - 1
    reader.page.keyboard.press("Home")
    assert at() == 0
    reader.page.keyboard.press("Tab")
    assert reader.page.evaluate("document.activeElement.tagName") == "SUMMARY"
    reader.page.keyboard.press("Shift+Tab")
    assert at() == 0


def test_every_control_and_token_has_a_name(browser, html) -> None:
    found = Reader(browser, f"file://{html}/explorer.html#show=helpful&domain=code")
    unnamed = """[...document.querySelectorAll('#influence-explorer :is([role], button, summary)')].filter(
        (e) => !(e.getAttribute('aria-label') || e.textContent).trim()).map((e) => e.outerHTML)"""
    assert found.page.evaluate(unnamed) == ['<span class="explorer-said" role="status"></span>']
    for control in found.page.locator("#influence-explorer :is(select, input:not([hidden]))").all():
        assert control.evaluate("e => e.labels[0].textContent")
    line_ends = found.page.locator('.part[aria-label="line end"]')
    assert line_ends.count() > 0
    line_ends.first.focus()
    assert "token line end: " in found.bar()
    found.close()


def test_turning_a_page_moves_the_focus_to_its_beginning(reader) -> None:
    reader.choose("show", "helpful")
    reader.page.get_by_role("button", name="Next").focus()
    reader.page.keyboard.press("Enter")
    reader.settled()
    reader.page.wait_for_function("document.activeElement.tagName === 'H2'")
    assert reader.titles()[0] == f"Rank 11 of {ALL:,}"


def test_a_link_restores_the_view(browser, served) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    first = Reader(context, served)
    first.choose("target", "code")
    first.choose("method", "graddot")
    first.choose("level", "sentence")
    first.choose("reading", "position")
    first.choose("show", "harmful")
    first.choose("domain", "math")
    first.search("grows & # %")  # signs that mean something in an address
    assert first.status().startswith("None of")
    third = Reader(context, first.page.url)
    assert third.page.input_value("#explorer-q") == "grows & # %"
    third.close()
    first.search("grows 3 + 1")
    first.page.get_by_role("button", name="Next").click()
    first.settled()
    first.page.get_by_role("button", name="Copy link").click()
    first.page.wait_for_function("document.querySelector('.explorer-said').textContent === 'Link copied'")
    link = first.page.evaluate("navigator.clipboard.readText()")
    assert link == first.page.url
    second = Reader(context, link)
    assert second.ids() == first.ids()
    assert second.titles() == first.titles()
    for name in ("target", "method", "level", "reading", "show", "domain", "q"):
        field = f"#explorer-{name}"
        assert second.page.input_value(field) == first.page.input_value(field)
    assert "Page 2" in second.page.locator(".explorer-pager").inner_text()
    second.page.goto(served + "#q=made-0007")
    second.page.wait_for_function("document.querySelectorAll('.explorer-card').length === 1")
    assert second.ids() == ["made-0007"]
    first.close()
    second.close()
    context.close()


def test_where_there_is_no_clipboard_the_link_is_shown(reader) -> None:
    reader.page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(new Error('no')))")
    reader.choose("show", "harmful")
    reader.page.get_by_role("button", name="Copy link").click()
    shown = reader.page.locator(".explorer-link")
    shown.wait_for(state="visible")
    assert shown.input_value() == reader.page.url
    assert reader.page.url.endswith("#show=harmful")


@pytest.mark.parametrize(
    "hash_",
    [
        "#target=none&level=<b>&page=-1",
        "#page=999999&show=helpful",
        "#__proto__=1&method=constructor",
        "#%%%=%E0%A4%A",
    ],
)
def test_a_link_with_nonsense_shows_what_it_can(browser, made_up, hash_: str) -> None:
    found = Reader(browser, f"file://{made_up}/explorer.html{hash_}")
    assert 0 < found.page.locator(CARD).count() <= 10
    assert found.page.input_value("#explorer-target") == "math"
    assert found.page.input_value("#explorer-method") == "ekfac"
    found.close()


def test_an_example_has_a_link_of_its_own(reader) -> None:
    name = reader.ids()[2]
    reader.page.locator(".explorer-id").nth(2).click()
    reader.page.wait_for_function("document.querySelectorAll('.explorer-card').length === 1")
    assert reader.ids() == [name]
    assert f"q={name}" in reader.page.url


# --- Tables, text, faults ----------------------------------------------------------------


def test_csv_has_the_numbers_of_the_view(reader) -> None:
    reader.choose("level", "example")
    rows = reader.csv()
    assert len(rows) == ALL
    assert [int(row["rank"]) for row in rows] == list(range(1, ALL + 1))
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    reader.choose("show", "helpful")
    reader.search("made-")
    own = {row["id"]: float(row["score"]) for row in rows}
    for reading in ("loss", "position"):
        for level, room in (("sentence", 1e-4), ("token", 0.05)):
            reader.choose("level", level)
            reader.choose("reading", reading)
            parts = reader.csv()
            assert {row["reading"] for row in parts} == {reading}
            for name in reader.ids():
                total = sum(float(row["score"]) for row in parts if row["id"] == name)
                assert abs(total - own[name]) < room * max(1, abs(own[name]))
    text = "".join(row["text"] for row in parts if row["id"] == reader.ids()[0] and int(row["sentence"]) >= 0)
    assert "Wait, let me check" in text


@pytest.mark.reliability(kind="bad input", title="hostile text in the explorer, its tables and its links")
def test_hostile_text_is_shown_and_not_obeyed(reader) -> None:
    reader.search("odd-")
    assert sorted(reader.ids()) == ["odd-0", "odd-1", "odd-2"]
    article = reader.page.locator(".explorer-lists")
    for level in ("example", "sentence", "token"):
        reader.choose("level", level)
        assert article.locator("script, img").count() == 0
        assert reader.page.evaluate("window.__pwned") is None
    reader.choose("level", "example")
    shown = reader.page.locator(".explorer-text").all_text_contents()
    assert visible(SCRIPT) in shown
    assert SCRIPT in reader.page.locator("#explorer-category").inner_text()
    rows = {row["id"]: row for row in reader.csv()}
    assert rows["odd-1"]["prompt_begins"] == '"quoted", and a line; =1+1'
    assert rows["odd-2"]["prompt_begins"] == "'=HYPERLINK(1)"
    reader.choose("category", SCRIPT)
    assert len(reader.ids()) == 3
    reader.open(reader.page.url)
    assert reader.page.input_value("#explorer-category") == SCRIPT
    for query in ("evil-", "evil- script", "evil- \u202e"):
        reader.search(query)
        for level in ("sentence", "token"):
            reader.choose("level", level)
            assert article.locator("script, img, iframe, a, style").count() == 0
    assert reader.page.evaluate("window.__pwned") is None
    reader.search('<img src=x onerror="window.__pwned=3">')
    assert reader.page.evaluate("window.__pwned") is None


@pytest.mark.reliability(kind="fault", title="files of the explorer that are missing or torn")
@pytest.mark.parametrize(
    ("name", "text"),
    [("index", None), ("index", 'infraExplorer("index",{'), ("shard-000", None), ("search", "")],
)
def test_missing_and_torn_data_are_said(browser, made_up, tmp_path, name: str, text: str | None) -> None:
    folder = tmp_path / "html"
    shutil.copytree(made_up, folder)
    path = folder / "_static" / "explorer" / f"{name}.js"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    page = browser.new_page()
    page.goto(
        f"file://{folder}/explorer.html#q=odd" if name == "search" else f"file://{folder}/explorer.html"
    )
    page.wait_for_function("document.querySelector('#influence-explorer').innerText.includes('did not load')")
    assert f"{name}.js did not load" in page.inner_text("#influence-explorer")
    page.close()


def test_without_scripts_the_page_says_where_the_tables_are(browser, made_up) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{made_up}/explorer.html")
    assert "needs JavaScript" in page.locator("article").inner_text()
    context.close()


def test_no_other_page_loads_the_explorer(html) -> None:
    for path in html.glob("*.html"):
        assert ("explorer-data.js" in path.read_text(encoding="utf-8")) == (path.name == "explorer.html")


# --- Looks -------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_overflows_and_texts_have_contrast(browser, made_up, width: int, theme: str) -> None:
    for view in ("", "#level=sentence&reading=position", "#level=example&q=odd-"):
        found = Reader(
            browser,
            f"file://{made_up}/explorer.html{view}",
            viewport={"width": width, "height": 844},
            color_scheme=theme,
        )
        assert found.page.evaluate("document.documentElement.scrollWidth") <= width
        assert found.page.evaluate(WIDEST) <= width + 1
        assert found.page.evaluate(CONTRAST) >= 4.5
        found.close()


WIDEST = """Math.max(...[...document.querySelectorAll('#influence-explorer *')].map(
  (e) => e.getBoundingClientRect().right))"""

CONTRAST = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0.99) return c;
    }
    return [255, 255, 255];
  };
  let least = 21;
  for (const e of document.querySelectorAll("#influence-explorer *")) {
    const written = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!written || e.disabled || !e.getClientRects().length) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    least = Math.min(least, (a + 0.05) / (b + 0.05));
  }
  return least;
})()"""
"""Least contrast between a text of the explorer and what is behind it, as WCAG counts it."""


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_axe_finds_nothing_serious_in_any_view(browser, html, made_up, width: int, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = []
    views = (
        (html, ""),
        (html, "#reading=position"),
        (html, "#level=example"),
        (made_up, "#level=sentence&q=evil"),
    )
    for book, view in views:
        reader = Reader(
            browser,
            f"file://{book}/explorer.html{view}",
            viewport={"width": width, "height": 900},
            color_scheme=theme,
        )
        reader.page.locator(".explorer-every summary").first.click()
        reader.page.locator(".explorer-every table").first.wait_for()
        result = Axe().run(reader.page).response
        assert len(result["passes"]) > 10
        found += [
            (view, violation["id"], violation["nodes"][0]["html"][:200])
            for violation in result["violations"]
            if violation["impact"] in ("serious", "critical")
        ]
        reader.page.close()  # axe asks for style sheets, which a browser refuses on pages from disk
    assert not found


def test_the_scale_is_the_books_in_both_themes(browser, made_up) -> None:
    seen = {}
    for theme in ("light", "dark"):
        found = Reader(browser, f"file://{made_up}/explorer.html", color_scheme=theme)
        seen[theme] = found.page.eval_on_selector_all(
            ".explorer-swatches li", "all => all.map(e => getComputedStyle(e).backgroundColor)"
        )
        found.close()
    assert len(set(seen["light"])) == len(set(seen["dark"])) == 9
    assert seen["light"] != seen["dark"]


def test_the_benchmark_of_waits_sees_both_views(browser, made_up) -> None:
    found = waits.once(browser, made_up, 1, plain="method")
    assert set(found) == {"first view", "change", "plain"}
    assert all(0 < value < 60_000 for value in found.values())
