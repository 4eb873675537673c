"""Code digests follow what a program does, and nothing else."""

from __future__ import annotations

from infra_lib.closure import LIBRARY, code_digest, imported, module_files, source_digest


def names(files) -> set[str]:
    return {str(path.relative_to(LIBRARY)) for path in files}


def test_comments_docstrings_and_layout_change_no_digest() -> None:
    plain = "def f(x):\n    return x + 1\n"
    dressed = '"""Doc."""\n\n# note\ndef f(\n    x,\n):\n    """Return."""\n    return x + 1  # sum\n'
    assert source_digest(plain) == source_digest(dressed)
    assert source_digest(plain) != source_digest(plain.replace("1", "2"))


def test_imports_inside_functions_and_of_names_count() -> None:
    source = (
        "from infra_lib import figures\ndef f():\n    from infra_lib.models import encode\n    import os\n"
    )
    found = imported(source)
    assert {"infra_lib", "infra_lib.figures", "infra_lib.models"} <= found
    assert "os" not in found


def test_closure_follows_imports_of_imports() -> None:
    files = names(module_files(["infra_lib.finetune"]))
    assert {"finetune/run.py", "models.py", "examples.py", "errors.py", "__init__.py"} <= files
    assert not {"figures.py", "statistics.py", "stage.py", "attributes.py"} & files


def test_training_does_not_depend_on_how_results_are_shown() -> None:
    shown = {"figures.py", "tables.py", "pages.py", "style.py", "statistics.py", "claims.py", "paper.py"}
    assert not shown & names(module_files(["infra_lib.finetune", "infra_lib.evaluate.accuracy"]))


def test_digest_is_the_same_each_time() -> None:
    assert code_digest("infra_lib.finetune") == code_digest("infra_lib.finetune")
    assert code_digest("infra_lib.finetune") != code_digest("infra_lib.reweight")
