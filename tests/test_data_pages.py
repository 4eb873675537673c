"""The page about data shows what the catalog says, all of it, and nothing that the catalog does not say."""

from __future__ import annotations

import html
import re

from infra_lib.data_pages import fragments
from infra_lib.sources.catalog import CATALOG
from infra_lib.sources.difficulty import RULES
from infra_lib.sources.prompts import PROMPTS


def text_of(fragment: str) -> str:
    return html.unescape(re.sub(r"<br>", "\n", re.sub(r"<(?!br>)[^>]*>", "", fragment)))


def test_the_page_includes_every_fragment_and_no_other(root) -> None:
    page = (root / "book" / "data.md").read_text(encoding="utf-8")
    included = set(re.findall(r"include\} results/generated/(\w+)\.md", page))
    assert included == set(fragments())
    assert "file: data\n" in (root / "book" / "_toc.yml").read_text(encoding="utf-8")


def test_every_fact_of_the_catalog_is_shown() -> None:
    shown = {name: text_of(fragment) for name, fragment in fragments().items()}
    for entry in CATALOG.values():
        for fact in filter(None, (entry.name, entry.title, entry.hub, entry.config, entry.licence)):
            assert fact in shown["data_sets"]
        for rule in filter(None, (entry.domain, entry.difficulty, entry.category, entry.scoring)):
            assert rule in shown["data_rules"]
        for column in [*(name for names in entry.columns for name in names), *entry.optional]:
            assert column in shown["data_columns"]
    assert all(rule in shown["data_difficulty"] for rule in RULES.values())
    assert all(prompt.template.strip() in shown["data_prompts"] for prompt in PROMPTS.values())


def test_every_benchmark_has_a_prompt_and_says_how_it_is_scored() -> None:
    for entry in CATALOG.values():
        assert (entry.name in PROMPTS) == (entry.kind != "training") == (entry.scoring is not None)
