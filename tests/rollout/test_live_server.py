"""Servers asked as they are: no weights are sent, and answers by other weights than at the start do not count."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from e2e.command import aspo

from aspo_megatron.config import SamplingConfig
from aspo_megatron.errors import UserError
from aspo_megatron.evaluation.results import read_scores
from aspo_megatron.rollout.engine import ServersLostError
from aspo_megatron.rollout.sglang.engine import SGLangEngine
from aspo_megatron.rollout.sglang.local_servers import LocalServers

from .conftest import KEY, RAGGED, Policy, ask, make_embedded, sglang_engine

pytestmark = [
    pytest.mark.parametrize("policy", ["llama"], indirect=True),
    pytest.mark.timeout(600),
]

GREEDY = SamplingConfig(max_response_tokens=12, temperature=0.0)


@pytest.fixture
def served(policy: Policy, servers: dict[str, LocalServers]) -> list[str]:
    """Addresses of servers that have the policy's weights, as version 41, from somebody else."""
    urls = list(servers["llama"].urls)
    somebody = sglang_engine(policy, urls)
    somebody.update_weights(policy.weights.items(), version=41)
    somebody.close()
    return urls


@pytest.fixture
def engine(policy: Policy, served: list[str]) -> Iterator[SGLangEngine]:
    with ExitStack() as stack:
        live = sglang_engine(policy, served, attempts=2, max_failures=1)
        stack.callback(live.close)
        yield live


def test_servers_answer_with_the_weights_that_they_have(policy: Policy, engine: SGLangEngine) -> None:
    assert re.fullmatch("[0-9a-f]{8}-41", engine.adopt())
    embedded = make_embedded(policy, 65536)
    embedded.update_weights(policy.weights.items(), version=0)
    requests = ask(RAGGED, [1] * len(RAGGED))
    groups = [engine.generate(requests, GREEDY), embedded.generate(requests, GREEDY)]
    ours, theirs = ([sample.response_ids.tolist() for (sample,) in group] for group in groups)
    assert ours == theirs


def test_weights_that_change_meanwhile_end_it(policy: Policy, served: list[str], engine: SGLangEngine) -> None:
    engine.adopt()
    trainer = sglang_engine(policy, served)
    trainer.update_weights(policy.weights.items(), version=42)
    with pytest.raises(ServersLostError):
        engine.generate(ask(RAGGED[:2], [1, 1]), GREEDY)
    trainer.close()
    assert engine.adopt().endswith("-42")


def test_runs_do_not_take_each_others_weights_for_theirs(policy: Policy, served: list[str]) -> None:
    """Both are at the same step."""
    one, other = (sglang_engine(policy, served, attempts=2, max_failures=1) for _ in range(2))
    for run in (one, other):
        run.update_weights(policy.weights.items(), version=5)
    with pytest.raises(ServersLostError):
        one.generate(ask(RAGGED[:2], [1, 1]), GREEDY)
    assert other.generate(ask(RAGGED[:1], [1]), GREEDY)[0][0].weight_version == 5
    one.close()
    other.close()


def test_servers_of_different_versions_are_refused(policy: Policy, served: list[str], engine: SGLangEngine) -> None:
    one = sglang_engine(policy, served[:1])
    one.update_weights(policy.weights.items(), version=43)
    one.close()
    with pytest.raises(UserError, match=f"different versions: {served[0]} [0-9a-f]+-43, {served[1]} [0-9a-f]+-41"):
        engine.adopt()


def test_no_server_is_said(policy: Policy) -> None:
    nobody = sglang_engine(policy, ["http://127.0.0.1:9"])
    with pytest.raises(ServersLostError, match=r"http://127\.0\.0\.1:9"):
        nobody.adopt()
    nobody.close()


def test_aspo_eval_of_servers_as_they_are(policy: Policy, served: list[str], tmp_path: Path) -> None:
    """The folder has tokenizer and configuration, and no weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "generation_config.json"):
        (folder / name).write_bytes((policy.folder / name).read_bytes())
    policy.tokenizer.save_pretrained(folder)
    (tmp_path / "length.py").write_text("def score(problem, response):\n    return float(len(response) % 2)\n")
    prompts = ["b c d", "e f", "g h i j", "k"]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps({"prompt": p, "answer": ""}) + "\n" for p in prompts))
    argv = ["eval", "model", "--problems", "words.jsonl", "--output", "out.jsonl", "--label", "live"]
    for url in served:
        argv += ["--server", url]
    argv += ["data.format=raw", "reward.kind=length:score", "eval={samples: 3, pass_k: [3], chunk: 2}"]
    (tmp_path / "key").write_text(KEY)
    argv += ["rollout.sampling.max_response_tokens=8", "rollout.servers.api_key_file=key"]
    done = aspo(*argv, folder=tmp_path)
    assert done.code == 0, done.stderr
    assert "words: 4 problems, 3 responses each" in done.stdout
    content = read_scores(tmp_path / "out.scores.json")
    assert (content["complete"], content["model"]) == (True, "live")
    assert re.fullmatch("served as version [0-9a-f]{8}-41", content["identity"]["model"])
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record["index"] for record in records] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert all(record["reward"] == len(record["response"]) % 2 for record in records)
