"""Generation with vLLM, through its own Python API, where it is installed.

vLLM is no dependency: it needs a GPU and chooses its own torch. It is tested here against a
stand-in with the documented interface (``LLM``, ``SamplingParams``, ``RequestOutput``) and
has not been run with this project on a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import GenerationConfig

from infra_lib.errors import ParameterError
from infra_lib.evaluate.generate.sampling import Answer, Request, Sampling, end_tokens
from infra_lib.models import check_model_folder, load_tokenizer

INSTALL = "pip install vllm (in an environment of its own: it brings its own torch)"


class VllmEngine:
    """Draws answers with vLLM.

    Parameters
    ----------
    model
        Local Hugging Face folder, or hub name.
    dtype
        ``auto`` (the weights' own), ``bfloat16``, ``float16`` or ``float32``.
    devices
        GPUs that share the model (tensor parallel).
    memory
        Part of each GPU's memory that vLLM may take, 0 to 1.
    context
        Longest prompt and answer together, in tokens; None takes the model's.
    chunk
        Answers that are asked for, and finished, together.
    chat_template, identity
        As for :class:`~.transformers_engine.TransformersEngine`.

    Raises
    ------
    ParameterError
        Where vLLM is not installed, with the command that installs it.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: str = "auto",
        devices: int = 1,
        memory: float = 0.9,
        context: int | None = None,
        chunk: int = 1024,
        chat_template: bool | None = None,
        identity: str | None = None,
    ) -> None:
        if devices < 1:
            raise ParameterError("devices", devices, "1 or more")
        if not 0 < memory <= 1:
            raise ParameterError("memory", memory, "above 0 and at most 1")
        if chunk < 1:
            raise ParameterError("chunk", chunk, "1 or more")
        try:
            vllm = importlib.import_module("vllm")
        except ImportError:
            raise ParameterError("engine", "vllm", f"transformers, unless vLLM is there: {INSTALL}") from None
        check_model_folder(model)
        self.tokenizer = load_tokenizer(model)
        self.chat_template = chat_template
        self.identity = None if identity is None else f"vllm {vllm.__version__} {identity} {dtype}"
        self._chunk, self._vllm = chunk, vllm
        self._ends = end_tokens(self.tokenizer, _generation_config(model))
        self._llm = vllm.LLM(
            model=str(model),
            dtype=dtype,
            tensor_parallel_size=devices,
            gpu_memory_utilization=memory,
            max_model_len=context,
            trust_remote_code=False,
            # Not the model's own sampling defaults: the sampling parameters say it all. (Its end tokens
            # would go with them, so each request names them.)
            generation_config="vllm",
        )

    def run(
        self, requests: Sequence[Request], sampling: Sampling, *, progress: bool = True
    ) -> Iterator[list[Answer]]:
        """Yield the answers of one chunk after another; vLLM batches inside a chunk by itself."""
        tokens = 0
        with tqdm(total=len(requests), desc="answers", unit="answer", disable=not progress) as bar:
            for start in range(0, len(requests), self._chunk):
                part = requests[start : start + self._chunk]
                outputs = self._llm.generate(
                    [{"prompt_token_ids": list(request.prompt)} for request in part],
                    [self._parameters(request, sampling) for request in part],
                    use_tqdm=False,
                )
                answers = [_answer(r, output) for r, output in zip(part, outputs, strict=True)]
                tokens += sum(answer.n_tokens for answer in answers)
                bar.update(len(answers))
                if elapsed := bar.format_dict["elapsed"]:
                    bar.set_postfix_str(f"{tokens / elapsed:,.0f} tokens/s")
                yield answers

    def _parameters(self, request: Request, sampling: Sampling) -> Any:
        return self._vllm.SamplingParams(
            n=1,  # one request per sample, since each has its own seed; vLLM shares their prompt
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or -1,
            max_tokens=sampling.max_new_tokens,
            seed=None if sampling.greedy else request.seed,
            stop=list(sampling.stop) or None,
            stop_token_ids=self._ends or None,
        )


def _generation_config(model: str | Path) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(str(model))
    except OSError:
        return None


def _answer(request: Request, output: Any) -> Answer:
    drawn = output.outputs[0]
    reason = "length" if drawn.finish_reason == "length" else "stop"
    return Answer(request.id, request.sample, drawn.text, reason, len(drawn.token_ids), request.seed)
