"""No study file and no ``-p name=value`` crashes: a checked study, or an error that names what is wrong."""

from __future__ import annotations

import pytest
import yaml
from hostile import ANY_TEXT, TEXTS
from hypothesis import strategies as st
from trials import JSON, Trials, damaged

from infra_lib import plain_yaml
from infra_lib.errors import DataError, InfraError, ParameterError
from infra_lib.study import Study, load_study, parse_override


def read(folder, content: bytes) -> Study | InfraError:
    (folder / "x.yaml").write_bytes(content)
    try:
        return load_study(folder, "x")
    except InfraError as error:
        assert len(str(error)) < 2000  # it may name every parameter
        assert isinstance(error, ParameterError) or str(folder / "x.yaml") in str(error)
        return error


@pytest.mark.reliability(kind="fuzz", title="study files: any bytes, and damaged studies")
def test_any_bytes_are_a_study_or_a_named_error(request, root, tmp_path) -> None:
    small = (root / "notebooks" / "studies" / "small.yaml").read_bytes()
    trials = Trials(request)
    trials.search(st.binary(max_size=120), lambda content: read(tmp_path, content), 200)
    trials.search(damaged(small), lambda content: read(tmp_path, content), 150)
    trials.search(
        st.text(alphabet="abe:-[]{}&*!#%|>'\",? \n01.~<=_", max_size=40).map(str.encode),
        lambda content: read(tmp_path, content),
        300,
    )


@pytest.mark.reliability(kind="fuzz", title="study files: any value for any parameter")
def test_any_value_is_a_study_or_names_its_parameter(request, tmp_path) -> None:
    def check(values: dict) -> None:
        found = read(tmp_path, yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "surrogatepass"))
        if isinstance(found, ParameterError) and found.name in Study.model_fields:
            assert found.valid

    names = st.sampled_from(sorted(Study.model_fields)) | ANY_TEXT
    Trials(request).search(st.dictionaries(names, JSON | ANY_TEXT, max_size=3), check, 250)


@pytest.mark.reliability(kind="fuzz", title="-p name=value: any text")
def test_any_override_is_a_value_or_a_named_error(request) -> None:
    def check(text: str) -> None:
        try:
            name, _ = parse_override(text)
        except ParameterError as error:
            assert error.name
        else:
            assert name

    trials = Trials(request)
    trials.each(TEXTS + [f"epochs={text}" for text in TEXTS], check)
    trials.search(ANY_TEXT.map("epochs={}".format) | ANY_TEXT, check, 200)


LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (c, c, *([c - 1] * 9)) for c in range(98, 106)
)
CASES = {
    "billion laughs": (LAUGHS, "line 2: alias"),
    "a value that holds itself": (b"epochs: &a [*a]", "alias"),
    "a Python object": (
        b"epochs: !!python/object/apply:os.system ['true']",
        "could not determine a constructor",
    ),
    "a Python name": (b"epochs: !!python/name:os.system", "could not determine a constructor"),
    "a key twice": (b"epochs: 1\nseed: 0\nepochs: 2", "line 3: key 'epochs' occurs twice"),
    "a whole number of 10,000 digits": (b"epochs: " + b"9" * 10_000, "does not fit its type"),
    "a hexadecimal number of 10,000 digits": (b"epochs: 0x" + b"f" * 10_000, "parameter epochs"),
    "a float out of range": (b"learning_rate: 1e9999", "parameter learning_rate"),
    "a number for a float that no float holds": (b"damping: 1" + b"0" * 400, "parameter damping"),
    "no number": (b"damping: .nan", "parameter damping"),
    "a date that is none": (b"study: 2024-99-99", "does not fit its type"),
    "an empty whole number": (b"epochs: !!int ''", "does not fit its type"),
    "a boolean that is none": (b"epochs: !!bool x", "does not fit its type"),
    "a time that is none": (b"epochs: !!timestamp x", "does not fit its type"),
    "a list for a key": (b"? [1]\n: 2", "unhashable key"),
    "a number for a key": (b"1: 2", "parameter parameter is 1"),
    "nothing for a key": (b"~: 2", "parameter parameter is None"),
    "deep nesting": (b"epochs: " + b"[" * 3_000, "nested too deeply"),
    "a list": (b"- epochs", "must be a mapping"),
    "nothing": (b"", "must be a mapping"),
    "two documents": (b"epochs: 1\n---\nepochs: 2", "line 2: "),
    "a tab for indentation": (b"epochs:\n\t- 1", "line 2: "),
    "NUL": (b"epochs: \0", "special characters"),
    "invalid UTF-8": (b"epochs: \xff", "is no YAML file"),
    "a name with a line end": (b'study: "small\\n"', "parameter study"),
    "a name that leaves the folder": (b"study: ../up", "parameter study"),
    "a device with a line end": (b'device: "cpu\\n"', "parameter device"),
    "true for a number": (b"epochs: true", "parameter epochs"),
    "a list of 5,000 numbers": (b"base_seeds: [" + b"0," * 5_000 + b"]", "parameter base_seeds"),
}


@pytest.mark.reliability(kind="bad input", title="study files: one of each kind of trouble")
def test_each_kind_of_bad_study_is_named(request, tmp_path) -> None:
    def check(case: tuple[str, tuple[bytes, str]]) -> None:
        name, (content, message) = case
        found = read(tmp_path, content)
        assert isinstance(found, InfraError), name
        assert message in str(found), (name, str(found))

    Trials(request).each(CASES.items(), check)


def test_plain_yaml_reads_what_studies_hold(root) -> None:
    for path in sorted((root / "notebooks" / "studies").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        assert plain_yaml.load(text) == yaml.safe_load(text)


def test_a_study_file_that_is_a_folder_is_not_a_crash(tmp_path) -> None:
    (tmp_path / "x.yaml").mkdir()
    with pytest.raises((DataError, OSError)):
        load_study(tmp_path, "x")
