"""Variations of the validation: the code that made their record runs small, and the record is whole."""

from __future__ import annotations

import html
import shutil
from pathlib import Path

import pytest

from infra_lib.checksums import write_manifest
from infra_lib.errors import DataError
from infra_lib.markup import active_markup
from infra_lib.reading import load_table
from infra_lib.study import load_study
from infra_lib.validation import bounds

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    study = load_study(ROOT / "notebooks" / "studies", "smoke")
    small = {**bounds.FEWER, "validation_subsets": study.validation_subsets}
    chosen = {name: bounds.VARIATIONS[name] for name in ("as in the study", "attention's weights seen too")}
    runs = tmp_path_factory.mktemp("runs")
    return bounds.measure_bounds(study, ROOT, runs, variations=chosen, fewer=small)


def test_variations_are_judged_alike(measured) -> None:
    sizes = measured.groupby(["variation", "unit"])["method"].agg(set)
    assert len(sizes) == 4
    assert all(methods == set(bounds.COMPARED) for methods in sizes)
    lds = measured.set_index(["variation", "unit", "method"])["lds"]
    assert lds.between(-1, 1).all()
    other = measured[measured["method"] != "ekfac"].set_index(["variation", "unit", "method"])
    for key, row in other.iterrows():
        assert row["difference"] == pytest.approx(lds[(*key[:2], "ekfac")] - lds[key])
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_the_table_has_a_row_for_each_variation(measured) -> None:
    shown = html.unescape(bounds.bounds_table(measured))
    assert shown.count("<tr ") == 3
    assert "validation_layers: all" in shown
    assert not active_markup(shown)


def test_the_record_is_whole_and_shown(tmp_path) -> None:
    shown = html.unescape(bounds.bounds_fragment(ROOT))
    for name, change in bounds.VARIATIONS.items():
        assert name in shown
        assert all(f"{key}: {value}" in shown for key, value in change.items())
    kept = load_table(ROOT / bounds.RECORD)
    assert (kept["subsets"] == bounds.FEWER["validation_subsets"]).all()
    assert "not available" in bounds.bounds_fragment(tmp_path)
    shutil.copytree((ROOT / bounds.RECORD).parent, (tmp_path / bounds.RECORD).parent)
    write_manifest(tmp_path / "records")
    path = tmp_path / bounds.RECORD
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="not the file that was recorded"):
        bounds.bounds_fragment(tmp_path)
