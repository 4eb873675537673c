"""Studies accept what is right and name what is wrong, before anything runs."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra_lib.errors import InfraError, ParameterError
from infra_lib.pipeline import processes
from infra_lib.runner import declared_parameters, parameters_cell, read_notebook
from infra_lib.stage import STAGES
from infra_lib.study import Study, load_study, make_study, parse_override, study_names


@pytest.mark.reliability(kind="bad input", title="a study parameter with a value that it cannot have")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("difficulties", [0]),
        ("difficulties", [1, 6]),
        ("difficulties", []),
        ("difficulties", [1, 1]),
        ("difficulties", "1"),
        ("epochs", 0),
        ("epochs", 2.5),
        ("epochs", "three"),
        ("epochs", True),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", "fast"),
        ("swap_fraction", 1.01),
        ("base_seeds", []),
        ("base_seeds", [-1]),
        ("damping", 0),
        ("factor_labels", "guessed"),
        ("arms", ["flop"]),
        ("arms", ["flip", "flip"]),
        ("hard", [4]),
        ("hard", [2, 5]),
        ("device", "tpu"),
        ("study", "../up"),
        ("confidence", 1.0),
        ("retrain_base", "false"),
    ],
)
def test_an_invalid_value_is_named_with_its_valid_choices(name, value) -> None:
    with pytest.raises(ParameterError) as caught:
        make_study({name: value})
    message = str(caught.value)
    assert message.startswith(f"parameter {name} is {value!r}: it must be ")
    assert len(message.split("it must be ")[1]) > 4


@pytest.mark.reliability(kind="bad input", title="a misspelt parameter")
def test_an_unknown_parameter_gets_its_nearest_name() -> None:
    with pytest.raises(ParameterError, match="'epochs' \\(did you mean that\\?\\)"):
        make_study({"epoch": 3})


@pytest.mark.reliability(kind="bad input", title="an unknown study")
def test_an_unknown_study_lists_the_known_ones(root) -> None:
    with pytest.raises(ParameterError, match="small"):
        load_study(root / "notebooks" / "studies", "smal")


def test_yaml_floats_in_scientific_notation_are_numbers() -> None:
    assert make_study({"learning_rate": "1e-3"}).learning_rate == 1e-3
    assert parse_override("learning_rate=5e-4") == ("learning_rate", "5e-4")
    assert make_study(dict([parse_override("learning_rate=5e-4")])).learning_rate == 5e-4


@pytest.mark.reliability(kind="bad input", title="a malformed -p override")
@pytest.mark.parametrize("text", ["epochs", "=3", "x=[1"])
def test_a_malformed_override_is_named(text: str) -> None:
    with pytest.raises(ParameterError):
        parse_override(text)


@pytest.mark.reliability(kind="fuzz", title="any values for any parameters")
@given(
    st.dictionaries(
        st.sampled_from(sorted(Study.model_fields)) | st.text(max_size=8),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.lists(st.integers()),
    )
)
@settings(max_examples=200, deadline=None)
def test_no_values_crash_the_check(values) -> None:
    with contextlib.suppress(InfraError):
        assert isinstance(make_study(values), Study)


@pytest.mark.parametrize("stage", STAGES)
def test_notebooks_declare_parameters_with_the_small_studys_values(root, stage: str) -> None:
    small = load_study(root / "notebooks" / "studies", "small").model_dump()
    declared = declared_parameters(root, stage)
    assert declared
    assert declared == {name: small[name] for name in declared}


@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_of_a_notebook_has_a_type_and_a_comment(root, stage: str) -> None:
    for line in parameters_cell(read_notebook(root, stage)).splitlines():
        name, rest = line.split(":", 1)
        assert name in Study.model_fields
        assert " = " in rest
        assert len(rest.split("  # ")[1]) > 5


def test_the_small_study_is_the_default_and_names_every_parameter(root) -> None:
    import yaml

    folder = root / "notebooks" / "studies"
    assert load_study(folder, "small") == Study()
    assert set(yaml.safe_load((folder / "small.yaml").read_text())) == set(Study.model_fields)
    for name in study_names(folder):
        assert load_study(folder, name).study == name


def test_papermill_knows_every_parameter(root, tmp_path) -> None:
    import jupytext
    from papermill.inspection import inspect_notebook

    for stage in STAGES:
        path = tmp_path / f"{stage}.ipynb"
        jupytext.write(read_notebook(root, stage), path, fmt="ipynb")
        found = inspect_notebook(str(path))
        assert set(found) == set(declared_parameters(root, stage))
        assert all(parameter["help"] for parameter in found.values())


def test_notebooks_that_need_one_process_share_a_cpu(root) -> None:
    taken = {stage: processes(root, Study(processes=3), stage) for stage in STAGES}
    assert {taken[stage] for stage in ("03_finetune_evaluate", "05_reweighting_arms", "09_validation")} == {3}
    assert {taken[stage] for stage in ("06_summary", "07_method", "08_explorer")} == {1}
    on_gpu = {processes(root, Study(processes=3, device="cuda"), stage) for stage in STAGES}
    assert on_gpu == {3}, "one at a time"


def test_no_two_modules_share_a_name_in_what_a_stage_depends_on(root, tmp_path) -> None:
    from infra_lib.closure import imported, module_files
    from infra_lib.runner import dependencies

    stage = "04_example_influence"
    modules = dependencies(root, stage, make_study({"study": "nowhere"}))["modules"]
    source = (root / "notebooks" / f"{stage}.py").read_text()
    assert len(modules) == len(module_files(imported(source)))
    assert {"infra_lib/__init__.py", "infra_lib/curvature/__init__.py"} <= set(modules)


def test_captions_say_how_answers_are_drawn() -> None:
    assert make_study({}).decoding() == "greedy"
    drawn = make_study({"temperature": 0.6, "samples": 8})
    assert drawn.decoding() == "8 answers a problem at temperature 0.6"
