"""A study: every parameter of the notebooks, typed and checked before anything runs.

Studies are flat YAML files under ``notebooks/studies``; they are papermill parameter
files too. A notebook declares the parameters that it uses; what it does not declare it
takes from the steps before it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from infra_lib import plain_yaml
from infra_lib.errors import DataError, ParameterError

Level = Annotated[int, Field(ge=1, le=5)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Sources = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
DataOption = Annotated[
    bool | str | list[str], BeforeValidator(lambda v: v.isoformat() if isinstance(v, date) else v)
]
"""An option of a data set; YAML reads ``2024-08-01`` as a date."""
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]

ValidationMethod = Literal[
    "ekfac", "kfac", "diagonal", "refined", "trak", "graddot", "gradcos", "loss", "length", "random"
]
VALIDATION_METHODS: tuple[ValidationMethod, ...] = get_args(ValidationMethod)
"""Methods whose predictions retraining can judge, in the order of tables."""

StudyArm = Literal[
    "uniform",
    "flip",
    "reverse",
    "hard_hard",
    "easy_easy",
    "flip_tokens",
    "reverse_tokens",
    "hard_hard_tokens",
    "easy_easy_tokens",
    "influence",
    "without_exploration",
    "fewer_tokens",
]
"""Training sets that a study can compare (:mod:`infra_lib.reweight.study_arms`)."""

WITHOUT_EFFECT = frozenset(
    {"study", "processes", "devices_per_run", "sandbox", "expected_prompt_tokens", "expected_response_tokens"}
)
"""Parameters that change where and how fast results come, and not what they are."""


class Study(BaseModel):
    """Parameters of a study; defaults are those of the study ``small``.

    Each field's description completes the sentence "it must be …".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    study: str = Field(
        "small", pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$", description="a name of small letters, digits, - and _"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="a whole number, 0 or more")

    train_sources: Sources = Field(
        ["small_world"], description="a list of small_world, data sets of the catalog, or .jsonl files"
    )
    pool_sources: Sources = Field(
        ["small_world"], description="a list of small_world, data sets of the catalog, or .jsonl files"
    )
    target_sources: Sources = Field(
        ["small_world"], description="a list of small_world, benchmarks of the catalog, or .jsonl files"
    )
    test_sources: Sources = Field(
        ["small_world"], description="a list of small_world, benchmarks of the catalog, or .jsonl files"
    )
    data_folder: str = Field(
        "",
        description="empty (load from the hub) or a folder with a subfolder per data set",
    )
    data_revisions: dict[str, str] = Field(
        {}, description="a mapping from data set names to branches, tags or commits of the hub"
    )
    data_options: dict[str, dict[str, DataOption]] = Field(
        {}, description="a mapping from data set names to options, such as livecodebench: {release: v5}"
    )
    difficulty_from: Literal["labels", "length"] = Field(
        "labels", description="labels (what the data give) or length (fifths of the response's length)"
    )
    difficulties: list[Level] = Field(
        [1, 2, 3, 4, 5], min_length=1, description="a list of distinct whole numbers from 1 to 5"
    )
    train_examples: int = Field(1500, ge=10, description="a whole number, 10 or more")
    swap_pool_examples: int = Field(1500, ge=0, description="a whole number, 0 or more")
    target_examples: int = Field(400, ge=10, description="a whole number, 10 or more")
    test_examples: int = Field(500, ge=10, description="a whole number, 10 or more")
    exploratory_fraction: Fraction = Field(0.25, description="a number from 0 to 1")
    mend_fraction: Fraction = Field(0.5, description="a number from 0 to 1")
    conversational_fraction: Fraction = Field(0.5, description="a number from 0 to 1")

    base_model: str = Field(
        "", description="empty (the base models of base_folder), a Hugging Face folder, or a hub name"
    )
    model_revision: str = Field(
        "", description="empty (the main branch) or a commit, tag or branch of the hub"
    )
    base_folder: str = Field(
        "records/base", min_length=1, description="a folder with one base model per seed (seed0, seed1, …)"
    )
    base_seeds: Seeds = Field([0, 1], description="a non-empty list of distinct whole numbers, 0 or more")
    retrain_base: bool = Field(False, description="true or false")
    pretrain_tokens: int = Field(6_500_000, ge=10_000, description="a whole number, 10000 or more")
    pretrain_epochs: int = Field(1, ge=1, le=100, description="a whole number from 1 to 100")
    pretrain_hidden: int = Field(
        96, ge=2, le=65_536, description="a whole number, an even multiple of pretrain_heads"
    )
    pretrain_layers: int = Field(4, ge=1, le=1000, description="a whole number from 1 to 1000")
    pretrain_heads: int = Field(3, ge=1, le=1024, description="a whole number from 1 to 1024")
    pretrain_intermediate: int = Field(256, ge=1, le=262_144, description="a whole number, 1 or more")
    pretrain_batch: int = Field(4, ge=1, description="a whole number of sequences of 320 tokens, 1 or more")
    pretrain_learning_rate: float = Field(2e-3, gt=0, le=1, description="a number above 0, at most 1")

    epochs: int = Field(3, ge=1, le=1000, description="a whole number from 1 to 1000")
    batch_size: int = Field(16, ge=1, description="a whole number, 1 or more")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="a number above 0, at most 1")
    warmup_fraction: Fraction = Field(0.05, description="a number from 0 to 1")
    weight_decay: float = Field(0.01, ge=0, le=1, description="a number from 0 to 1")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="linear, cosine or constant"
    )
    max_tokens: int | None = Field(
        None, ge=1, description="a whole number, 1 or more, or null to cut nothing"
    )
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = Field(
        "float32", description="float32, bfloat16, or on cuda alone tf32 or float16"
    )
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = Field(
        "sdpa", description="sdpa, eager, flash_attention_2 or flex_attention"
    )
    gradient_accumulation: int | None = Field(
        None, ge=1, description="a whole number, 1 or more, or null to choose it by the batch size"
    )
    gradient_checkpointing: bool = Field(False, description="true or false")
    packing: bool = Field(False, description="true or false")
    fsdp: bool = Field(False, description="true or false (true needs cuda and devices_per_run)")
    checkpoint_steps: int | None = Field(
        None, ge=1, description="a whole number, 1 or more, or null for one checkpoint an epoch"
    )
    lora_rank: int = Field(0, ge=0, description="a whole number, 0 (train every weight) or more")
    lora_alpha: float | None = Field(None, gt=0, description="a number above 0, or null for twice lora_rank")
    lora_targets: list[str] = Field(
        ["all-linear"], min_length=1, description="a list of names of linear layers, or [all-linear]"
    )
    devices_per_run: int = Field(1, ge=1, description="a whole number, 1 or more")
    fine_tune_seeds: Seeds = Field(
        [0, 1, 2], description="a non-empty list of distinct whole numbers, 0 or more"
    )
    max_new_tokens: int = Field(320, ge=1, le=100_000, description="a whole number from 1 to 100000")

    samples: int = Field(1, ge=1, description="a whole number, 1 or more (1 where temperature is 0)")
    temperature: float = Field(0.0, ge=0, description="0 (greedy) or a number above")
    top_p: float = Field(1.0, gt=0, le=1, description="a number above 0, at most 1")
    engine: Literal["transformers", "vllm"] = Field("transformers", description="transformers or vllm")

    batch_tokens: int = Field(4096, ge=1, description="a whole number, 1 or more")
    targets_at_once: int = Field(2, ge=1, description="a whole number, 1 or more")
    factor_gib: float = Field(2.0, gt=0, description="a number of GiB above 0")
    target_responses: Literal["own", "reference"] = Field(
        "own", description="own (the model's correct answers) or reference (the data's own solutions)"
    )
    damping: float = Field(0.1, gt=0, description="a number above 0 (a multiple of the mean eigenvalue)")
    factor_labels: Literal["sampled", "empirical"] = Field("sampled", description="sampled or empirical")

    method_examples: int = Field(
        40, ge=0, description="a whole number, 4 or more, or 0 (the method notebook is left out)"
    )
    method_dampings: list[Annotated[float, Field(gt=0)]] = Field(
        [0.001, 0.01, 0.1, 1.0, 10.0, 100.0],
        min_length=2,
        description="a list of two or more distinct numbers above 0",
    )
    refine_dampings: list[Annotated[float, Field(gt=0)]] = Field(
        [0.1, 100.0], min_length=1, description="a non-empty list of distinct numbers above 0"
    )
    refine_passes: int = Field(4, ge=1, le=1000, description="a whole number from 1 to 1000")
    refine_batch: int = Field(16, ge=1, description="a whole number, 1 or more")

    explorer_model: int = Field(
        0, ge=0, description="a whole number, 0 or more, below the number of base_seeds"
    )
    explorer_methods: list[Literal["ekfac", "kfac", "graddot", "gradcos"]] = Field(
        ["ekfac", "kfac", "graddot", "gradcos"],
        min_length=1,
        description="a non-empty list of distinct ones of ekfac, kfac, graddot, gradcos",
    )
    explorer_examples: int = Field(2000, ge=4, description="a whole number, 4 or more")
    explorer_directions: int = Field(6, ge=1, description="a whole number, 1 or more")

    arms: list[StudyArm] = Field(
        ["uniform", "flip", "reverse", "without_exploration"],
        min_length=1,
        description=f"a list of {', '.join(get_args(StudyArm))}",
    )
    easy: list[Level] = Field([1, 2], min_length=1, description="a list of whole numbers from 1 to 5")
    hard: list[Level] = Field([4, 5], min_length=1, description="a list of whole numbers from 1 to 5")
    swap_fraction: Fraction = Field(1.0, description="a number from 0 to 1")

    validation_examples: int = Field(160, ge=10, description="a whole number, 10 or more")
    validation_targets: int = Field(60, ge=2, description="a whole number, 2 or more")
    validation_epochs: int = Field(3, ge=1, le=1000, description="a whole number from 1 to 1000")
    validation_learning_rate: float = Field(3e-4, gt=0, le=1, description="a number above 0, at most 1")
    validation_models: int = Field(2, ge=1, le=100, description="a whole number from 1 to 100")
    validation_subsets: int = Field(
        48, ge=0, description="a whole number, 6 or more, or 0 to leave the validation out"
    )
    validation_seeds: int = Field(1, ge=1, le=100, description="a whole number from 1 to 100")
    ceiling_subsets: int = Field(12, ge=0, description="a whole number, 3 or more, or 0 for no ceiling")
    ceiling_seeds: int = Field(2, ge=1, le=100, description="a whole number from 1 to 100")
    validation_tokens: Literal["whole", "critical", "final"] = Field(
        "critical", description="whole (the response), critical (results, answer, program) or final"
    )
    validation_layers: Literal["mlp", "all"] = Field(
        "mlp", description="mlp or all (attention's linear layers too)"
    )
    validation_without: list[ValidationMethod] = Field(
        [], description=f"a list of {', '.join(VALIDATION_METHODS)}; may be empty"
    )
    validation_dampings: list[Annotated[float, Field(gt=0)]] = Field(
        [0.01, 0.1, 1.0, 10.0], min_length=1, description="a non-empty list of distinct numbers above 0"
    )
    validation_refine_dampings: list[Annotated[float, Field(gt=0)]] = Field(
        [1.0], min_length=1, description="a non-empty list of distinct numbers above 0"
    )
    validation_refine_passes: int = Field(2, ge=1, le=1000, description="a whole number from 1 to 1000")
    removal_methods: list[ValidationMethod] = Field(
        ["ekfac", "gradcos"], description=f"a list of {', '.join(VALIDATION_METHODS)}; may be empty"
    )
    removal_fractions: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.2], min_length=1, description="a non-empty list of distinct numbers between 0 and 1"
    )
    removal_seeds: int = Field(1, ge=1, le=100, description="a whole number from 1 to 100")
    removal_draws: int = Field(2, ge=0, le=100, description="a whole number from 0 to 100")

    group_levels: list[Level] = Field(
        [1, 2, 3, 4, 5], description="a list of distinct whole numbers from 1 to 5; may be empty"
    )
    group_categories: list[str] = Field(
        ["symbolic", "conversational", "map", "filter", "order", "slice"],
        description="a list of distinct categories of the training data; may be empty",
    )
    group_seeds: int = Field(
        1, ge=1, le=100, description="a whole number, 1 or more, at most validation_models"
    )

    bootstrap_samples: int = Field(2000, ge=100, description="a whole number, 100 or more")
    confidence: float = Field(0.95, gt=0, lt=1, description="a number between 0 and 1, such as 0.95")
    expected_prompt_tokens: int = Field(
        0, ge=0, description="a whole number; 0 measures it where the data are at hand (for plans alone)"
    )
    expected_response_tokens: int = Field(
        0, ge=0, description="a whole number; 0 measures it where the data are at hand (for plans alone)"
    )
    processes: int = Field(2, ge=1, le=1024, description="a whole number, 1 or more")
    sandbox: Literal["auto", "bubblewrap", "process"] = Field(
        "auto",
        description="auto or bubblewrap (programs run in namespaces or not), or process (limits alone)",
    )
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu, cuda or cuda:0")

    @model_validator(mode="before")
    @classmethod
    def _numbers_in_text(cls, values: Any) -> Any:
        """Accept ``1e-3``, which YAML reads as text, for fields that are floats."""
        if not isinstance(values, Mapping):
            return values
        mended = dict(values)
        for name, value in values.items():
            known = cls.model_fields.get(name)
            written = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value)
            if known and known.annotation is float and written:
                mended[name] = float(value)
        return mended

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        for name in (
            "difficulties",
            "base_seeds",
            "fine_tune_seeds",
            "method_dampings",
            "refine_dampings",
            "explorer_methods",
            "validation_without",
            "validation_dampings",
            "validation_refine_dampings",
            "removal_methods",
            "removal_fractions",
            "group_levels",
            "group_categories",
            "arms",
        ):
            value = getattr(self, name)
            if len(set(value)) != len(value):
                raise ParameterError(name, value, "free of repetitions")
        if self.samples > 1 and self.temperature == 0:
            raise ParameterError("samples", self.samples, "1 where temperature is 0 (greedy)")
        if self.group_seeds > self.validation_models:
            most = f"at most {self.validation_models}, the number of validation_models"
            raise ParameterError("group_seeds", self.group_seeds, most)
        if 0 < self.method_examples < 4:
            raise ParameterError("method_examples", self.method_examples, "4 or more, or 0")
        if 0 < self.validation_subsets < 6:
            raise ParameterError("validation_subsets", self.validation_subsets, "6 or more, or 0")
        if absent := sorted(set(self.removal_methods) & set(self.validation_without)):
            raise ParameterError("removal_methods", self.removal_methods, f"without {absent[0]} too")
        if self.base_model and len(self.base_seeds) > 1:
            raise ParameterError("base_seeds", self.base_seeds, "one seed where base_model is given")
        if self.pretrain_hidden % (2 * self.pretrain_heads):
            valid = f"an even multiple of pretrain_heads ({self.pretrain_heads}), as rotary embeddings need"
            raise ParameterError("pretrain_hidden", self.pretrain_hidden, valid)
        if self.explorer_model >= len(self.base_seeds):
            below = f"below {len(self.base_seeds)}, the number of base_seeds"
            raise ParameterError("explorer_model", self.explorer_model, below)
        if len(self.easy) != len(self.hard) or set(self.easy) & set(self.hard):
            raise ParameterError(
                "hard", self.hard, f"as long as easy ({self.easy}) and share no level with it"
            )
        if missing := sorted(set(self.easy + self.hard) - set(self.difficulties)):
            raise ParameterError(
                "difficulties", self.difficulties, f"complete: easy and hard name {missing} too"
            )
        return self

    def pretrain_config(self) -> Any:
        """Return size and training of the base models, where the study trains its own."""
        from infra_lib.pretrain import PretrainConfig

        return PretrainConfig(
            tokens=self.pretrain_tokens,
            epochs=self.pretrain_epochs,
            hidden=self.pretrain_hidden,
            layers=self.pretrain_layers,
            heads=self.pretrain_heads,
            intermediate=self.pretrain_intermediate,
            batch=self.pretrain_batch,
            learning_rate=self.pretrain_learning_rate,
            precision="tf32" if self.precision == "tf32" else "float32",
        )

    def sampling(self) -> Any:
        """Return how answers are drawn in this study."""
        from infra_lib.evaluate.generate import Sampling

        return Sampling(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            samples=self.samples,
            seed=self.seed,
        )

    def decoding(self) -> str:
        """Return in words how answers are drawn, as captions say it."""
        if self.temperature == 0:
            return "greedy"
        answers = "one answer" if self.samples == 1 else f"{self.samples} answers"
        return f"{answers} a problem at temperature {self.temperature:g}"

    def base_of(self, base_seed: int, root: Path) -> Path:
        """Return the folder from which fine-tuning starts: the study's model, or a seed's base model.

        Raises
        ------
        ModelError
            For a hub model that notebook 02 has not fetched.
        """
        if not self.base_model:
            return root / self.base_folder / f"seed{base_seed}"
        from infra_lib.pretrained import pretrained_folder

        local = root / self.base_model
        return pretrained_folder(local if local.is_dir() else self.base_model, revision=self.model_revision)

    def attribution_dtype(self) -> Any:
        """Return the type of weights in attribution: that of training on a GPU, float32 on a CPU."""
        import torch

        from infra_lib.finetune import weights_dtype

        return weights_dtype(self.precision) if self.device.startswith("cuda") else torch.float32

    def finetune_config(self) -> Any:
        """Return the fine-tuning settings of this study."""
        from infra_lib.finetune import FinetuneConfig

        return FinetuneConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_fraction=self.warmup_fraction,
            schedule=self.schedule,
            max_tokens=self.max_tokens,
            precision=self.precision,
            attention=self.attention,
            gradient_accumulation=self.gradient_accumulation,
            gradient_checkpointing=self.gradient_checkpointing,
            packing=self.packing,
            fsdp=self.fsdp,
            checkpoint_steps=self.checkpoint_steps,
            lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha,
            lora_targets=tuple(self.lora_targets),
        )


def make_study(values: Mapping[str, Any]) -> Study:
    """Return a checked study.

    Raises
    ------
    ParameterError
        Naming the first parameter that is unknown or has a value that it cannot have.
    """
    for name in values:
        if name not in Study.model_fields:
            raise unknown("parameter", name, list(Study.model_fields))
    try:
        return Study.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ParameterError(name, values.get(name), str(Study.model_fields[name].description)) from None


def unknown(what: str, name: object, choices: list[str]) -> ParameterError:
    """Return the error for a name that does not exist, with the nearest one first."""
    near = difflib.get_close_matches(name[:80], choices, n=1) if isinstance(name, str) else []
    hint = f"{near[0]!r} (did you mean that?) or " if near else ""
    return ParameterError(what, name, f"{hint}one of {', '.join(choices)}")


def study_names(folder: Path) -> list[str]:
    """Return the names of the studies in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_study(folder: Path, name: str, overrides: Mapping[str, Any] | None = None) -> Study:
    """Read ``folder/name.yaml`` and apply overrides.

    Raises
    ------
    ParameterError
        For an unknown study, or a parameter that is unknown or invalid.
    DataError
        For a file that is no flat YAML mapping.
    """
    path = folder / f"{name}.yaml"
    if name not in study_names(folder):
        raise unknown("study", name, study_names(folder))
    try:
        values = plain_yaml.load(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(path, f"is no YAML file ({error})") from None
    if not isinstance(values, dict):
        raise DataError(path, "must be a mapping of parameter names to values")
    return make_study({"study": name, **values, **(overrides or {})})


def parse_override(text: str) -> tuple[str, Any]:
    """Return name and value of ``name=value``, the value read as YAML (``-p epochs=2 -p base_seeds=[0]``)."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ParameterError("-p", text, "of the form name=value")
    try:
        return name.strip(), plain_yaml.load(value)
    except ValueError:
        raise ParameterError(
            name.strip(), value, "a YAML value such as 3, 0.5, true, cpu or [0, 1]"
        ) from None
