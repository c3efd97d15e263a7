"""SmolLM2 through the converters: the same files, and the same answers from each of its three forms."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from .command import aspo

MODEL = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not MODEL.is_dir(), reason="needs models/SmolLM2-135M-Instruct, which make quickstart fetches"),
]

TEMPLATE = "2 + 5 = 7\\n8 - 3 = 5\\n4 - 6 = -2\\n{prompt} ="
SETTINGS = [
    "data.format=raw",
    f'data.template="{TEMPLATE}"',
    "eval={samples: 1, pass_k: [1]}",
    'eval.sampling={temperature: 0, max_response_tokens: 12, stop: ["\\n\\n"]}',
    "reward.kind=math",
]


def test_a_real_model_evaluates_the_same_before_and_after(tmp_path: Path) -> None:
    """9 heads, so tp=3. Sixty-four sums and differences, decoded greedily."""
    sums = list(itertools.product(range(1, 9), range(2, 10)))
    problems = [
        {"prompt": f"{a} {sign} {b}", "answer": str(a + b if sign == "+" else a - b)}
        for (a, b), sign in zip(sums, itertools.cycle("+-"), strict=False)
    ]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    run("convert", "hf-to-megatron", MODEL, "megatron", "--tp", "3", "--pp", "2", "--verify", folder=tmp_path)
    run("convert", "megatron-to-hf", "megatron", "back", "--verify", folder=tmp_path)
    assert len(list((tmp_path / "megatron").glob("*.distcp"))) == 6
    assert {path.name for path in MODEL.iterdir()} == {path.name for path in (tmp_path / "back").iterdir()}
    for path in MODEL.iterdir():
        assert path.read_bytes() == (tmp_path / "back" / path.name).read_bytes(), path.name
    answers, scores = [], []
    for number, model in enumerate((MODEL, "megatron", "back")):
        output = f"answers-{number}.jsonl"
        said = run("eval", model, "--problems", "sums.jsonl", "--output", output, *SETTINGS, folder=tmp_path)
        scores.append(said.replace(Path(output).stem, ""))
        answers.append((tmp_path / output).read_bytes())
    print(scores[0], answers[0].splitlines()[0].decode())
    assert len(answers[0].splitlines()) == len(problems) == 64
    assert answers[0] == answers[1] == answers[2]
    assert scores[0] == scores[1] == scores[2]


def run(*argv: object, folder: Path) -> str:
    done = aspo(*argv, folder=folder)
    assert done.code == 0, done.stderr
    return done.stdout
