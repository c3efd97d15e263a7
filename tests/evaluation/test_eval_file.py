"""An evaluation's file: what a kill leaves is resumed, nothing is lost or there twice, another one is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from file_size import limited

from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.evaluation.results import EvaluationDescription, ResultFile, read_scores, scores_path

IDENTITY = {"model": "weights 1", "samples": 2, "sampling.temperature": 0.8}
DESCRIPTION = EvaluationDescription("aime24", "mine", 4, 2, (1, 2), IDENTITY)


def group(index: int, *rewards: float) -> list[dict[str, Any]]:
    return [
        {"index": index, "response": f"zwölf\n≠ {n}", "reward": reward, "tokens": 10 + n, "finish_reason": "stop"}
        for n, reward in enumerate(rewards)
    ]


GROUPS = [group(0, 1.0, 0.0), group(1, 0.5, 0.0), group(2, 1.0, 1.0), group(3, 0.0, 2.0)]


def whole(path: Path) -> bytes:
    with ResultFile(path, DESCRIPTION) as results:
        results.append(GROUPS[0] + GROUPS[1])
        results.append(GROUPS[2])
        results.append(GROUPS[3])
        assert results.complete
    return path.read_bytes()


def test_records_and_scores_are_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "aime24.jsonl"
    lines = whole(path).decode().splitlines()
    assert [json.loads(line) for line in lines] == [record for records in GROUPS for record in records]
    content = read_scores(scores_path(path))
    assert (content["benchmark"], content["model"], content["complete"]) == ("aime24", "mine", True)
    assert content["right"] == [1, 0, 2, 1]
    assert content["scores"]["avg@2"]["value"] == 0.5
    assert content["scores"]["pass@2"]["value"] == 0.75
    assert content["mean_tokens"] == 10.5
    assert content["identity"] == IDENTITY
    assert content["thinking"] is None
    with ResultFile(path, replace(DESCRIPTION, thinking="off")):  # what it was is in the prompts, which are the same
        assert read_scores(scores_path(path))["thinking"] == "off"


def test_every_cut_of_the_file_is_gone_on_with(tmp_path: Path) -> None:
    """Torn after any byte, as by a kill: whole problems stay, the rest of a problem goes, nothing comes twice."""
    complete = whole(tmp_path / "whole.jsonl")
    ends = [0]
    for records in GROUPS:
        ends.append(ends[-1] + sum(len(json.dumps(record, ensure_ascii=False).encode()) + 1 for record in records))
    assert ends[-1] == len(complete)
    path = tmp_path / "torn.jsonl"
    scores_path(path).write_bytes(scores_path(tmp_path / "whole.jsonl").read_bytes())
    for cut in range(0, len(complete), 7):
        path.write_bytes(complete[:cut])
        with ResultFile(path, DESCRIPTION) as results:
            done = sum(end <= cut for end in ends[1:])
            assert sorted(results.right) == list(range(done))
            for records in GROUPS[done:]:
                results.append(records)
        assert path.read_bytes() == complete
        assert read_scores(scores_path(path))["right"] == [1, 0, 2, 1]


def test_an_unfinished_one_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with ResultFile(path, DESCRIPTION) as results:
        results.append(GROUPS[0])
        assert not results.complete
    content = read_scores(scores_path(path))
    assert (content["complete"], content["problems_done"], content["problems"]) == (False, 1, 4)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "weights 2"}, "model weights 1, not weights 2"),
        ({"sampling.temperature": 0.6}, "sampling.temperature 0.8, not 0.6"),
        ({"samples": 4, "model": "weights 2"}, "model weights 1, not weights 2; samples 2, not 4"),
        ({"new": 1}, "new none, not 1"),
    ],
)
def test_another_evaluation_is_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    path = tmp_path / "a.jsonl"
    before = whole(path)
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        ResultFile(path, replace(DESCRIPTION, identity=IDENTITY | changed))
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "mine"}\n')
    with pytest.raises(ConfigError, match=r"a\.scores\.json is missing"):
        ResultFile(path, DESCRIPTION)
    scores_path(path).write_text("{}")
    with pytest.raises(ConfigError, match="not the scores of an evaluation"):
        ResultFile(path, DESCRIPTION)
    assert path.read_text() == '{"prompt": "mine"}\n'


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    complete = whole(path)
    path.write_bytes(complete[:50] + b"\n" + complete[50:])
    with pytest.raises(UserError, match=r"a\.jsonl:1: not a line of JSON"):
        ResultFile(path, DESCRIPTION)
    path.write_bytes(complete + complete)
    with pytest.raises(UserError, match=r"a\.jsonl:9: problem 0 is not where it belongs"):
        ResultFile(path, DESCRIPTION)


@pytest.mark.parametrize(
    "line",
    [
        b"[1]", b"1", b"null", b"{}", b'"index"', b"",
        b'{"index": "0", "reward": 1, "tokens": 1, "finish_reason": "x"}',
        b'{"index": 0}', b'{"index": 0, "reward": "x", "tokens": 1, "finish_reason": "x"}', b"\0" * 64, b'{"\xff": 1}',
        b'{"index": 0, "reward": 1, "tokens": null, "finish_reason": "x"}', b"[" * 100_000,
        b'{"index": 0, "reward": 1' + b"0" * 400 + b', "tokens": 1, "finish_reason": "x"}',
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    complete = whole(path).splitlines(keepends=True)
    path.write_bytes(b"".join([complete[0], line + b"\n", *complete[2:]]))
    with pytest.raises(UserError, match=r"a\.jsonl:2: not a line of JSON that is a response; the file is damaged"):
        ResultFile(path, DESCRIPTION)


@pytest.mark.parametrize("room", [0, 1, 50, 2999, 3000, 3100, 3200, 4000, 6000, 6100])
def test_a_full_disk_is_one_line_and_is_gone_on_after(tmp_path: Path, room: int) -> None:
    path = tmp_path / "a.jsonl"
    long = [[record | {"response": "x" * 3000} for record in records] for records in GROUPS]
    with ResultFile(path, DESCRIPTION) as results:
        results.append(long[0])
        results.append(long[1])
    full, said = limited(path.stat().st_size + room), r"a\.jsonl: cannot be written: File too large$"
    with pytest.raises(UserError, match=said), full, ResultFile(path, DESCRIPTION) as results:
        results.append(long[2])
    with ResultFile(path, DESCRIPTION) as results:
        assert list(results.right) == [0, 1]
        results.append(long[2])
        results.append(long[3])
        assert results.complete
        assert list(results.records()) == [record for records in long for record in records]


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    with ResultFile(tmp_path / "a.jsonl", DESCRIPTION), pytest.raises(UserError, match="another process is writing it"):
        ResultFile(tmp_path / "a.jsonl", DESCRIPTION)
    ResultFile(tmp_path / "a.jsonl", DESCRIPTION).__exit__(None, None, None)
