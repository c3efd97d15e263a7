"""Files that commands read and others may have made: what is odd in them is one line that names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from plots.made_runs import write_run

from aspo_megatron.config import RunConfig, ServersConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.evaluation.benchmarks import Wanted, write_problems
from aspo_megatron.evaluation.results import EvaluationDescription, ResultFile, read_scores
from aspo_megatron.files import write_whole
from aspo_megatron.foreign_text import one_line
from aspo_megatron.launch.run_folder import is_finished
from aspo_megatron.metrics.record import read_metrics
from aspo_megatron.metrics.wandb_run import _id_of
from aspo_megatron.plots.figures import config_differences
from aspo_megatron.plots.sample_file import read_samples
from aspo_megatron.plots.series import read_series
from aspo_megatron.rollout.sglang.server_key import read_api_key
from aspo_megatron.yaml_text import read_yaml

pytestmark = pytest.mark.timeout(60)

SCORES: dict[str, Any] = {
    "benchmark": "b", "model": "m", "complete": True, "problems": 2, "samples": 4, "right": [1, 4], "identity": {},
}  # fmt: skip
DESCRIPTION = EvaluationDescription("b", "m", 2, 1, (1,), {})
LINE = {"index": 0, "reward": 1.0, "tokens": 3, "finish_reason": "stop"}


@contextmanager
def one_line_that_names(path: Path, kind: type[UserError] = UserError) -> Iterator[None]:
    with pytest.raises(kind) as error:
        yield
    assert one_line(path.name) in str(error.value)
    assert one_line(error.value) == str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"benchmark": 3}, {"benchmark": ["b"]}, {"model": None}, {"model": {"a": 1}}, {"complete": "yes"},
        {"complete": 1}, {"problems": "2"}, {"problems": -1}, {"problems": 2.5}, {"problems": True},
        {"problems": 10**400}, {"samples": 0}, {"samples": None}, {"right": 3}, {"right": [1, "4"]}, {"right": [1, -4]},
        {"right": [1, 5]}, {"right": [1, 2, 3]}, {"right": [1]}, {"right": [[1], [2]]}, {"right": [1.0, 2.0]},
        {"right": {"a": 1}}, {"identity": []}, {"identity": None}, {"right": [float("nan"), 1]}, {"failed": -1},
    ],
    ids=lambda changes: str(changes)[:30],
)  # fmt: skip
def test_scores_of_another_kind(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a\x1bb.scores.json"
    path.write_text(json.dumps(SCORES))
    assert read_scores(path) == SCORES | {"failed": 0, "thinking": None}
    path.write_text(json.dumps(SCORES | changes)[:9000])
    with one_line_that_names(path, ConfigError):
        read_scores(path)


CONTENTS = {
    "empty": b"",
    "a list": b"[1]",
    "a text": b'"x"',
    "null": b"null",
    "nested": b"[" * 200_000,
    "zeros": b"\0" * 4096,
    "no UTF-8": b"\xff\xfe{}",
    "cut": json.dumps(SCORES).encode()[:40],
    "digits": b"1" * 5000,
    "escapes": b"\x1b]0;TITLE\x07",
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_other_files_in_the_place_of_scores_and_summaries(kind: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    path = tmp_path / "a.scores.json"
    path.write_bytes(CONTENTS[kind])
    with one_line_that_names(path, ConfigError):
        read_scores(path)
    run = config(tmp_path)
    (tmp_path / "run" / "summary.json").write_bytes(CONTENTS[kind])
    assert not is_finished(run)


def config(folder: Path) -> RunConfig:
    return load_config(None, [f"output_dir={folder}/run", "model.path=m", "data.train={kind: jsonl, path: x}"])


@pytest.mark.parametrize(
    ("summary", "finished"),
    [
        ({"steps": 10**9}, True), ({"steps": "many"}, False), ({"steps": None}, False), ({"steps": [1]}, False),
        ({}, False), ({"steps": float("nan")}, False), ({"steps": {"a": 1}}, False), ({"Steps": 9}, False),
        ([], False), (3, False),
    ],
    ids=str,
)  # fmt: skip
def test_summaries_of_another_kind(summary: object, finished: bool, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    assert is_finished(config(tmp_path)) is finished


@pytest.mark.parametrize(
    "changes",
    [
        {"index": True}, {"index": -1}, {"index": 2}, {"index": 0.0}, {"index": 10**30}, {"index": [0]},
        {"reward": "1"},
        {"reward": None}, {"reward": True}, {"reward": [1]}, {"reward": 10**400}, {"tokens": "3"}, {"tokens": -3},
        {"tokens": 2.5}, {"tokens": 10**400}, {"finish_reason": 3}, {"finish_reason": None},
    ],
    ids=lambda changes: str(changes)[:30],
)  # fmt: skip
def test_responses_of_another_kind(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with ResultFile(path, DESCRIPTION) as results:
        results.append([LINE])
    path.write_text(json.dumps(LINE | changes) + "\n")
    with one_line_that_names(path):
        ResultFile(path, DESCRIPTION)


def beside(folder: Path) -> None:
    (folder / "b.jsonl").write_text(json.dumps(LINE) + "\n")
    ResultFile(folder / "b.jsonl", DESCRIPTION)


def differences(folder: Path) -> None:
    write_run(folder, "entropy", {1: 1.0})
    config_differences(read_series([folder], {}))


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "scores": ("a.scores.json", lambda folder: read_scores(folder / "a.scores.json")),
    "responses": ("a.jsonl", lambda folder: ResultFile(folder / "a.jsonl", DESCRIPTION)),
    "scores beside responses": ("b.scores.json", beside),
    "metrics": ("metrics.jsonl", lambda folder: read_metrics(folder / "metrics.jsonl")),
    "a run to draw": ("metrics.jsonl", lambda folder: read_series([folder], {})),
    "samples": ("samples.jsonl", read_samples),
    "settings of a run": ("config.yaml", differences),
    "a configuration": ("run.yaml", lambda folder: load_config(folder / "run.yaml")),
    "a run's configuration": ("config.yaml", lambda folder: load_config(folder / "config.yaml")),
    "a key": ("key", lambda folder: read_api_key(ServersConfig(api_key_file=folder / "key"))),
    "wandb's name": ("wandb-id", _id_of),
    "problems": ("p.jsonl", lambda folder: write_problems(Wanted("aime24", folder / "p.jsonl"), folder / "out")),
    "YAML": ("a.yaml", lambda folder: read_yaml(folder / "a.yaml")),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_in_a_file_s_place_keeps_nobody_waiting(reader: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    os.mkfifo(tmp_path / name)
    with one_line_that_names(tmp_path / name):
        read(tmp_path)


def test_a_pipe_in_the_place_of_a_summary(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "summary.json")
    assert not is_finished(config(tmp_path))
    with one_line_that_names(tmp_path / "run" / "summary.json"):
        write_whole(tmp_path / "run" / "summary.json", "{}")


def test_a_pipe_that_somebody_reads_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", "all of it")
    assert os.read(reading, 100) == b"all of it"
    os.close(reading)


@pytest.mark.parametrize(
    "content",
    [
        b"two words", b"line\nline", b"a\x1b[2J", "ä".encode(), b"\xff", b"a\0b", b" \n", b"a\tb", b"\xe2\x80\xae",
        b"x" * 70_000,
    ],
    ids=lambda content: repr(content)[:20],
)  # fmt: skip
def test_a_key_that_is_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"sk-1234\n")
    assert read_api_key(ServersConfig(api_key_file=path)) == "sk-1234"
    path.write_bytes(content)
    with one_line_that_names(path):
        read_api_key(ServersConfig(api_key_file=path))


def bomb(kind: str) -> str:
    names = "abcdefghijkl"
    begin, end = ("[", "]") if kind == "lists" else ("{", "}")
    lines = [f"a: &a {'x' * 100}\n"]
    for before, name in pairwise(names):
        parts = [f"*{before}" if kind == "lists" else f"k{number}: *{before}" for number in range(10)]
        lines.append(f"{name}: &{name} {begin}{', '.join(parts)}{end}\n")
    return "".join(lines)


YAML = {
    "aliases of lists": bomb("lists"),
    "aliases of mappings": bomb("mappings"),
    "a list in itself": "a: &a [*a]\n",
    "a mapping in itself": "a: &a {b: *a}\n",
    "nested lists": "a: " + "[" * 5000,
    "nested mappings": "{a: " * 5000,
    "a number of many digits": "seed: 1" + "0" * 5000,
    "an object": "a: !!python/object/apply:os.system [x]\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "a list as key": "? [a]\n: 3\n",
    "an unknown alias": "a: *b\n",
    "a control character": "a: \x1b[2J\n",
    "no YAML": "a: b: c\n\x1b",
    "no UTF-8": "a: \udcff\n",
    "a word": "word\n",
    "bytes as key": "!!binary aGk=: 3\n",
    "a key that is none": "null: 3\n",
}


@pytest.mark.parametrize("kind", YAML)
def test_yaml_that_is_odd(kind: str, tmp_path: Path) -> None:
    for name in ("run.yaml", "config.yaml"):
        (tmp_path / name).write_bytes(YAML[kind].encode("utf-8", errors="surrogateescape"))
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "run.yaml")
    assert all(one_line(line) == line for line in str(error.value).split("\n"))
    if kind not in ("bytes as key", "a key that is none"):  # keys that a run has not, and settings may have
        with one_line_that_names(tmp_path / "config.yaml"):
            differences(tmp_path)


def test_keys_of_settings_may_be_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "2020-01-01: 3\n!!binary aGk=: {null: 3}\nc: [{2020-01-01: 1}]\nd: !!set {x}\n"
    )
    differences(tmp_path)


@pytest.mark.parametrize("value", ["a\\0b", "\\0"])
def test_a_value_that_no_file_can_be_named_like(value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path: holds a zero byte or half of a surrogate pair"):
        load_config(None, ["output_dir=x", f'model.path="{value}"', "data.train={kind: jsonl, path: x}"])


def test_a_configuration_from_the_shell(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"output_dir: x\nmodel: {path: m}\ndata: {train: {kind: jsonl, path: x}}\n")
    os.close(writing)
    assert load_config(Path(f"/dev/fd/{reading}")).output_dir == Path("x")
    os.close(reading)


def test_a_line_without_an_end_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aspo_megatron.metrics.damaged_lines.MOST_BYTES", 1000)
    monkeypatch.setattr("aspo_megatron.evaluation.results.MOST_BYTES", 1000)
    response = json.dumps({"problem": "p", "response": "r", "reward": 1.0} | LINE)
    long = json.dumps({"problem": "p", "response": "r" * 5000, "reward": 1.0} | LINE)
    (tmp_path / "samples.jsonl").write_text(f"{response}\n{long}\n{response}\n")
    told: list[str] = []
    assert len(read_samples(tmp_path, warn=told.append).samples) == 2
    assert "damaged, not a response; left out" in told[0]
    with ResultFile(tmp_path / "a.jsonl", DESCRIPTION) as results:
        results.append([LINE])
    (tmp_path / "a.jsonl").write_text(f"{long}\n")
    with one_line_that_names(tmp_path / "a.jsonl"):
        ResultFile(tmp_path / "a.jsonl", DESCRIPTION)
