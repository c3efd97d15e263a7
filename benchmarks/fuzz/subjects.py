"""What is fuzzed: a folder of good files, which of them are changed and how, and who reads them."""

from __future__ import annotations

import json
import pickle
import random
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.fuzz.mutations import (
    Mutation,
    blind,
    json_lines,
    json_tree,
    packed_tests,
    pickled,
    safetensors,
    whole,
)
from benchmarks.fuzz.states import renew_manifests, resume


@dataclass(frozen=True)
class Subject:
    """A kind of foreign file.

    `mutations`: of the files that match a pattern, by it. `read`: the reader, called with the case's folder, which
    has the whole of a run's folder and a file of problems.
    """

    name: str
    mutations: Mapping[str, tuple[Mutation, ...]]
    read: Callable[[Path], None]

    def spoil(self, folder: Path, rng: random.Random) -> list[str]:
        """Change one to three of the files; their names."""
        changed = []
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            pattern = rng.choice(list(self.mutations))
            path = rng.choice(sorted(folder.glob(pattern)))
            content = rng.choice(self.mutations[pattern])(path.read_bytes(), rng)
            path.write_bytes(content)
            changed.append(str(path.relative_to(folder)))
        if rng.random() < 0.8:
            renew_manifests(folder / "run")
        return changed


def write_problems(path: Path) -> None:
    """Two problems, one with packed tests."""
    tests = json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}] * 3)
    packed = b64encode(zlib.compress(pickle.dumps(tests))).decode()
    records = [
        {"question": "Add two numbers.", "answer": "3", "id": "a", "private_test_cases": packed},
        {"question": "What is 2+2?", "answer": 4, "id": "b", "public_test_cases": tests},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _model(folder: Path) -> None:
    from aspo_megatron.config import ParallelConfig
    from aspo_megatron.models.family import read_family

    read_family(folder / "run" / "hf").check_layout(ParallelConfig(tp=2, sequence_parallel=True))


def _tokenizer(folder: Path) -> None:
    from aspo_megatron.config_io import load_config
    from aspo_megatron.data.prompts import load_problems
    from aspo_megatron.inputs import load_tokenizer

    data = load_config(
        None,
        [
            "model.path=x",
            "output_dir=y",
            f"data.train={{kind: jsonl, path: {folder / 'problems.jsonl'}, prompt_field: question}}",
            "data.heldout_fraction=0.5",
            "data.format=chat",
            "reward.kind=math",
        ],
    ).data
    load_problems(data, load_tokenizer(folder / "run" / "hf"), 4096, 16)


def _weights(folder: Path) -> None:
    from aspo_megatron.checkpoint.finite import FiniteTensors
    from aspo_megatron.checkpoint.hf import SafetensorsFolder, check_weights

    check_weights(folder / "run" / "hf")
    with SafetensorsFolder(folder / "run" / "hf") as tensors:
        finite = FiniteTensors(tensors)
        for name in tensors.names():
            finite.read(name)


def _state(folder: Path) -> None:
    """A saved state as `aspo convert` and `aspo eval` read it."""
    from aspo_megatron.checkpoint.convert import megatron_to_hf

    (state,) = (folder / "run" / "checkpoints").glob("step-*")
    with TemporaryDirectory(dir=folder) as out:
        megatron_to_hf(state, Path(out) / "hf", None, lambda *told: None)


def _resumed(folder: Path) -> None:
    resume(folder / "run")


def _problems(folder: Path) -> None:
    from aspo_megatron.config import SourceConfig
    from aspo_megatron.data.sources import read_source

    source = SourceConfig(
        kind="jsonl", path=str(folder / "problems.jsonl"), prompt_field="question", answer_field="answer"
    )
    read_source(source, "data.train")


def _tests(folder: Path) -> None:
    from aspo_megatron.data.samples import Problem
    from aspo_megatron.rewards.code_tests import read_tests

    for line in (folder / "problems.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        read_tests(Problem("a", "question", (1,), None, record))


def _views(folder: Path) -> None:
    """What `aspo plot`, `samples` and `table` read of others' runs, and what a run reads of its own."""
    from aspo_megatron.config_io import load_config
    from aspo_megatron.metrics.figures import config_differences, final_figures
    from aspo_megatron.metrics.sample_file import read_samples
    from aspo_megatron.metrics.series import read_series

    run = folder / "run"
    series = read_series([run, run], {})
    final_figures(series)
    config_differences(series)
    read_samples(run, warn=lambda text: None)
    load_config(run / "config.yaml")


def _table(folder: Path) -> None:
    from aspo_megatron.eval_table import comparison, read_results

    comparison(read_results([str(next(folder.glob("result/*.json")))]), []).markdown()


JSON = (json_tree, json_tree, blind, whole)
STATE = {
    "run/checkpoints/step-*/.metadata": (pickled, pickled, blind, whole),
    "run/checkpoints/step-*/*.distcp": (blind, whole),
    "run/checkpoints/step-*/common.pt": (blind, whole),
    "run/checkpoints/step-*/*.json": JSON,
    "run/checkpoints/step-*/*.safetensors": (safetensors, blind),
}
SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("config.json", {"run/hf/config.json": (json_tree, json_tree, json_tree, blind, whole)}, _model),
        Subject(
            "tokenizer",
            {"run/hf/tokenizer.json": JSON, "run/hf/tokenizer_config.json": JSON, "problems.jsonl": (json_lines,)},
            _tokenizer,
        ),
        Subject("weights", {"run/hf/*.safetensors": (safetensors, safetensors, blind, whole)}, _weights),
        Subject("checkpoint", STATE, _state),
        Subject("resumed state", STATE | {"run/checkpoints/latest": (blind, whole)}, _resumed),
        Subject("problems", {"problems.jsonl": (json_lines, json_lines, blind, whole)}, _problems),
        Subject("packed tests", {"problems.jsonl": (packed_tests,)}, _tests),
        Subject(
            "run folder",
            {
                "run/metrics.jsonl": (json_lines, blind),
                "run/samples.jsonl": (json_lines, blind),
                "run/config.yaml": (blind, whole),
                "run/summary.json": JSON,
            },
            _views,
        ),
    )
}
