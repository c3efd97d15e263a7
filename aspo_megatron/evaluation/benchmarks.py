"""The benchmarks that `aspo eval` knows by name: where their problems are, how they are asked, how often.

K, temperature and length are those of the ASPO paper (arXiv 2510.06062, section 7.1 and appendix B). It names no top_p
and samples with vLLM, whose default is 1. GSM8K is not in the paper. Of ARC, GPQA and MMLU-Pro (its table 3) it says
neither K nor how they are asked: both are chosen here.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aspo_megatron.config import SourceConfig
from aspo_megatron.config.words import OnBad
from aspo_megatron.data.sources.fields import ABSENT, lookup
from aspo_megatron.data.sources.files import source_files
from aspo_megatron.data.sources.hub import BUILDERS
from aspo_megatron.data.sources.read import ProblemRecord, first_fields, read_source
from aspo_megatron.errors import ConfigError
from aspo_megatron.evaluation.choices import Choice, usable
from aspo_megatron.files import whole_file
from aspo_megatron.foreign_text import one_line
from aspo_megatron.rewards.choice.reward import OPTIONS

TEMPERATURE = 0.8
TOP_P = 1.0
MAX_RESPONSE_TOKENS = 32768

BOXED = "{prompt}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
"""What DeepSeek recommends for its R1 models; no system message."""

LETTER = "{prompt}\n\nPlease reason step by step, and put the letter of your answer, and only that, within \\boxed{}."
"""The same for multiple choice."""

PROGRAM = "{prompt}\n\nThink step by step, and give the whole program in one ```python block at the end."

_STREAM_TASK = (
    "Write a Python program that solves the problem. It reads the input from standard input and prints the answer to "
    "standard output."
)
_FUNCTION_TASK = "Solve the problem in Python by completing this code; keep its names:\n\n```python\n{starter}\n```"


@dataclass(frozen=True)
class Benchmark:
    """A set of problems and how it is evaluated.

    Attributes:
        title: its usual name.
        dataset: on the Hugging Face Hub, with its split and subset.
        prompt_field: of the dataset.
        answer_field: of the dataset; None where tests decide.
        kind: the reward; of `choice` the options are found by `choices`.
        problems: how many it has.
        samples: K.
        dates: days from and before which a problem's `contest_date` must be.
        gated: whether the Hub gives it only to those who have accepted its terms.
    """

    title: str
    dataset: str
    split: str
    prompt_field: str
    answer_field: str | None
    problems: int
    samples: int
    kind: Literal["math", "code", "choice"] = "math"
    subset: str | None = None
    dates: tuple[str, str] | None = None
    gated: bool = False

    @property
    def page(self) -> str:
        """Of the dataset."""
        return f"https://huggingface.co/datasets/{self.dataset}"

    @property
    def template(self) -> str:
        """Text around a problem."""
        return {"math": BOXED, "code": PROGRAM, "choice": LETTER}[self.kind]


_LCB = "lighteval/code_generation_lite"

BENCHMARKS: dict[str, Benchmark] = {
    "aime24": Benchmark("AIME 2024", "HuggingFaceH4/aime_2024", "train", "problem", "answer", 30, 64),
    "aime25": Benchmark("AIME 2025", "math-ai/aime25", "test", "problem", "answer", 30, 64),
    "amc23": Benchmark("AMC 2023", "math-ai/amc23", "test", "question", "answer", 40, 64),
    "math500": Benchmark("MATH-500", "HuggingFaceH4/MATH-500", "test", "problem", "answer", 500, 4),
    "minerva": Benchmark("Minerva Math", "math-ai/minervamath", "test", "question", "answer", 272, 8),
    "olympiad": Benchmark("OlympiadBench", "math-ai/olympiadbench", "test", "question", "final_answer", 674, 4),
    "livecodebench-v5": Benchmark(
        "LiveCodeBench v5", _LCB, "test", "question_content", None, 279, 8, "code", "release_v5",
        ("2024-08-01", "2025-02-01"),
    ),
    "livecodebench-v6": Benchmark(
        "LiveCodeBench v6", _LCB, "test", "question_content", None, 131, 16, "code", "v6",
        ("2025-02-01", "2025-05-01"),
    ),
    "gsm8k": Benchmark("GSM8K", "openai/gsm8k", "test", "question", "answer", 1319, 4, subset="main"),
    "arc-c": Benchmark(
        "ARC-Challenge", "allenai/ai2_arc", "test", "question", "answerKey", 1172, 1, "choice", "ARC-Challenge"
    ),
    "gpqa-diamond": Benchmark(
        "GPQA-Diamond", "Idavidrein/gpqa", "train", "Question", "Correct Answer", 198, 8, "choice", "gpqa_diamond",
        gated=True,
    ),
    "mmlu-pro": Benchmark("MMLU-Pro", "TIGER-Lab/MMLU-Pro", "test", "question", "answer", 12032, 1, "choice"),
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """A benchmark that is asked for, and the file that holds its problems if that is given."""

    name: str
    file: Path | None

    @property
    def benchmark(self) -> Benchmark:
        """What is known of it."""
        return BENCHMARKS[self.name]


def parse(text: str) -> list[Wanted]:
    """Read `aime24,amc23=my/amc23.jsonl`.

    Raises:
        ConfigError: no such benchmark (names the nearest and all), one is named twice, or a file has no name.
    """
    wanted = []
    for part in text.split(","):
        name, has_file, file = part.strip().partition("=")
        if name not in BENCHMARKS:
            near = difflib.get_close_matches(name.lower(), BENCHMARKS, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"--benchmark {one_line(name)}: no such benchmark; the nearest is {near!r}. "
                f"They are: {', '.join(BENCHMARKS)}; any other problems: --problems FILE"
            )
        if has_file and not file.strip():
            raise ConfigError(
                f"--benchmark {one_line(text)}: after {name}= there is no file; without = it is the Hub's"
            )
        wanted.append(Wanted(name, Path(os.path.expanduser(file)) if file else None))
    names = [one.name for one in wanted]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--benchmark {one_line(text)}: {name} is named twice")
    return wanted


def settings(benchmark: Benchmark, problems: Path, samples: int | None) -> list[str]:
    """Overrides that evaluate a benchmark as the paper does.

    Args:
        benchmark: which.
        problems: what `write_problems` has written.
        samples: another K than the benchmark's.
    """
    k = samples or benchmark.samples
    answer = "null" if benchmark.answer_field is None else "answer"
    fields = f"prompt_field: prompt, answer_field: {answer}, limit: null"  # not those of a run's own problems
    overrides = [
        f"data={{train: {{kind: files, path: {json.dumps(str(problems))}, {fields}}}, format: chat, system: null}}",
        "data.heldout=null",
        "data.heldout_fraction=0",
        "data.max_prompt_tokens=16384",
        f"data.template={benchmark.template}",
        f"eval={{samples: {k}, pass_k: [{k}], max_problems: null}}",
        f"eval.sampling={{temperature: {TEMPERATURE}, top_p: {TOP_P}, max_response_tokens: {MAX_RESPONSE_TOKENS}}}",
        f"reward.kind={benchmark.kind}",
    ]
    return overrides + ["reward.timeout_seconds=120"] * (benchmark.kind == "code")


def write_problems(wanted: Wanted, path: Path, on_bad: OnBad = "refuse", seed: int = 0) -> int:
    """Read a benchmark's problems and write them as JSONL with `prompt` and `answer`; how many they are.

    A file may have the fields of the dataset, or `prompt` (`problem`, `question`) and `answer`, and `options`.

    Args:
        wanted: the benchmark, and the file with its problems if that is given.
        path: of what is written.
        on_bad: as `data.on_bad`.
        seed: the order of options that have none of their own follows from it, see `choices`.

    Raises:
        ConfigError: they cannot be read (with `on_bad` as `data.on_bad`); says how to give them as a file.
        UserError: the file cannot be written.
    """
    benchmark, key = wanted.benchmark, f"--benchmark {wanted.name}"
    try:
        with _no_retries_shown():
            records = list(_within(read_source(_source(wanted, key), key, on_bad=on_bad), benchmark))
    except ConfigError as error:
        if wanted.file is not None:
            raise
        terms = f"; it needs its terms accepted at {benchmark.page}, and HF_TOKEN" if benchmark.gated else ""
        instead = f"or give the problems as a file: --benchmark {wanted.name}=FILE.jsonl"
        raise ConfigError(f"{error}{terms}; {instead}") from error
    if not records:
        raise ConfigError(f"{key}: no problem is from {' to '.join(benchmark.dates or ())}")
    if benchmark.kind == "choice":
        problems = [_choice(*one) for one in usable(records, key, on_bad, seed)]
    else:
        problems = [_problem(record, benchmark) for record in records]
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        for fields in problems:
            file.write(json.dumps(fields, default=str) + "\n")
    return len(problems)


def _problem(record: ProblemRecord, benchmark: Benchmark) -> dict[str, Any]:
    """What is written of a problem of mathematics or programming."""
    fields = dict(record.metadata) | {"id": record.id, "prompt": _asked(record, _question(record, benchmark))}
    return fields if benchmark.answer_field is None else fields | {"answer": record.answer}


def _choice(record: ProblemRecord, choice: Choice) -> dict[str, Any]:
    """The same of multiple choice: of other fields nothing, as they may tell the answer."""
    asked = _asked(record, choice.asked(record.question))
    return {"id": record.id, "prompt": asked, "answer": choice.letter, OPTIONS: choice.options}


def _asked(record: ProblemRecord, question: str) -> str | list[dict[str, str]]:
    """The prompt: a text, or the turns of a chat."""
    return [*record.messages, {"role": "user", "content": question}] if record.messages else question


@contextmanager
def _no_retries_shown() -> Iterator[None]:
    """Without a network the Hub's library tells each of its attempts; what is raised in the end says it, too."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _source(wanted: Wanted, key: str) -> SourceConfig:
    benchmark, file = wanted.benchmark, wanted.file
    if file is None:
        return SourceConfig(
            kind="huggingface",
            path=benchmark.dataset,
            split=benchmark.split,
            subset=benchmark.subset,
            prompt_field=benchmark.prompt_field,
            answer_field=benchmark.answer_field,
        )
    by_library = file.suffix in BUILDERS or (os.path.isdir(file) and not _has_files(file, key))
    source = SourceConfig(
        kind="huggingface" if by_library else "files",
        path=str(file),
        split=benchmark.split,
        prompt_field=benchmark.prompt_field,
        answer_field=benchmark.answer_field,
    )
    prompt, answer = plain_names(source, key)
    return source.model_copy(update={"prompt_field": prompt, "answer_field": answer})


def _has_files(folder: Path, key: str) -> bool:
    """Whether a folder has files of problems, and of one split; others are for the library, which knows splits."""
    try:
        source_files(str(folder), key)
    except ConfigError:
        return False
    return True


def plain_names(source: SourceConfig, key: str) -> tuple[str, str | None]:
    """The fields with question and answer: those of the source, or where its first row lacks them the usual ones.

    `reward_model.ground_truth` is verl's.
    """
    there = first_fields(source, key)
    prompts = (source.prompt_field, "prompt", "problem", "question")
    prompt = next((name for name in prompts if lookup(there, name) is not ABSENT), source.prompt_field)
    if source.answer_field is None:
        return prompt, None
    answers = (source.answer_field, "answer", "reward_model.ground_truth")
    return prompt, next((name for name in answers if lookup(there, name) is not ABSENT), "answer")


def _within(records: Sequence[ProblemRecord], benchmark: Benchmark) -> Iterator[ProblemRecord]:
    """The records of the benchmark's days; those that bear no date are kept."""
    for record in records:
        date = str(record.metadata.get("contest_date", ""))[:10]
        if not date or benchmark.dates is None or benchmark.dates[0] <= date < benchmark.dates[1]:
            yield record


def _question(record: ProblemRecord, benchmark: Benchmark) -> str:
    if benchmark.kind == "math":
        return record.question
    starter = str(record.metadata.get("starter_code") or "").rstrip()
    return f"{record.question}\n\n{_FUNCTION_TASK.format(starter=starter) if starter else _STREAM_TASK}"


def markdown() -> str:
    """The table of benchmarks in docs/evaluation.md."""
    rows = [
        "| name | benchmark | problems | K | dataset (subset, split) | fields |",
        "| --- | --- | --: | --: | --- | --- |",
    ]
    for name, one in BENCHMARKS.items():
        where = f"[{one.dataset}]({one.page})"
        part = f"{one.subset}, {one.split}" if one.subset else one.split
        days = f", from {one.dates[0]} to before {one.dates[1]}" if one.dates else ""
        fields = f"`{one.prompt_field}`, " + (f"`{one.answer_field}`" if one.answer_field else "its tests")
        fields += ", its options" * (one.kind == "choice")
        rows.append(f"| `{name}` | {one.title}{days} | {one.problems} | {one.samples} | {where} ({part}) | {fields} |")
    return "\n".join(rows)
