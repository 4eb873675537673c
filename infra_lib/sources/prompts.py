r"""The prompt of every benchmark, in one place.

``{problem}`` (and ``{tests}``) stand for the row's own text. An *official* template is the one that
the benchmark's authors publish; *our choice* marks the others: those benchmarks publish problems and
no prompt. For mathematics it is the sentence that begins each mathematics prompt of the training sets
(Bespoke-Stratos-17k, OpenThoughts-114k), so that training and test ask in the same words.

Another template is given to :func:`infra_lib.sources.registry.load` as ``template``.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra_lib.errors import ParameterError


@dataclass(frozen=True)
class Prompt:
    """A template, the system turn that goes with it, and where it is from."""

    template: str
    origin: str
    system: str | None = None


_BOXED = Prompt("Return your final response within \\boxed{}. {problem}", "our choice")

PROMPTS = {
    "gsm8k": _BOXED,
    "math500": _BOXED,
    "aime24": _BOXED,
    "aime25": _BOXED,
    "gsm_symbolic": Prompt("{problem}", "our choice"),
    "mbpp": Prompt(
        "You are an expert Python programmer, and here is your task: {problem} "
        "Your code should pass these tests:\n\n{tests}\n[BEGIN]\n",
        "official (Austin et al. 2021), no examples in front",
    ),
    "humaneval": Prompt("{problem}", "official (Chen et al. 2021)"),
    "livecodebench": Prompt(
        "### Question:\n{problem}\n\n"
        "### Format: Read the inputs from stdin solve the problem and write the answer to stdout (do not "
        "directly test on the sample inputs). Enclose your code within delimiters as follows. Ensure that "
        "when the python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT.\n"
        "```python\n# YOUR CODE HERE\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n",
        "official (LiveCodeBench, generic chat model)",
        "You are an expert Python programmer. You will be given a question (problem specification) and will "
        "generate a correct Python program that matches the specification and passes all tests.",
    ),
}

LIVECODEBENCH_STARTER = (
    "### Question:\n{problem}\n\n"
    "### Format: You will use the following starter code to write the solution to the problem and enclose "
    "your code within delimiters.\n```python\n{starter}\n```\n\n"
    "### Answer: (use the provided format with backticks)\n\n"
)
"""LiveCodeBench's template for problems that come with starter code."""


def fill(template: str, **parts: str) -> str:
    """Return a template with its ``{name}`` fields replaced, each once; other braces stay as they are.

    Replaced text is not looked at again, so a problem may hold braces of its own.
    """
    pieces, at = [], 0
    spots = sorted((template.find("{" + name + "}"), name) for name in parts)
    for start, name in spots:
        if start >= at:
            pieces += [template[at:start], parts[name]]
            at = start + len(name) + 2
    return "".join([*pieces, template[at:]])


def check_template(template: str | None) -> None:
    """Raise where a caller's template has no place for the problem."""
    if template is not None and "{problem}" not in template:
        raise ParameterError("template", template, "text that holds {problem}")
