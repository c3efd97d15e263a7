"""Responses in flight while weights change, and responses that are cut off: what each token is made of is the truth.

1. A response that goes on across updates has tokens of several versions, each with the log-prob of its own.
2. A server that does not take the weights loses what it is at to the others.
3. What is cut off goes on later, on any server, and is one response in the end.
4. A server's memory is given up and taken again around the updates.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from aspo_megatron.config import SamplingConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.rollout.sglang.engine import SGLangEngine
from aspo_megatron.rollout.sglang.local_servers import LocalServers

from .conftest import RAGGED, Policy, ask, sglang_engine
from .proxy import Proxy

pytestmark = [
    pytest.mark.parametrize("policy", ["llama"], indirect=True),
    pytest.mark.timeout(400),
]

SAMPLING = SamplingConfig(max_response_tokens=200)
MANY = ask(RAGGED * 6, [8] * 30)
"""About ten thousand tokens, which take two servers some seconds."""


@pytest.fixture
def engine(policy: Policy, proxies: list[Proxy]) -> Iterator[SGLangEngine]:
    """Over the proxies, with the policy's weights as version 7."""
    engine = sglang_engine(policy, [proxy.url for proxy in proxies])
    try:
        engine.update_weights(policy.weights.items(), version=7)
        yield engine
    finally:
        engine.close()


def other_weights(policy: Policy, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: t + 0.05 * torch.randn(t.shape, generator=generator) for n, t in policy.weights.items()}


def assert_tokens_are_of_their_versions(
    policy: Policy, samples: Sequence[Sample], weights: dict[int, dict[str, Tensor]]
) -> None:
    """Each token's log-prob is that of the weights which it claims, and of no others."""
    try:
        for version, tensors in weights.items():
            policy.load(tensors)
            for sample in samples:
                expected = policy.log_probs(sample, 1.0).gather(1, torch.tensor(sample.response_ids)[:, None])[:, 0]
                found = torch.tensor(sample.rollout_log_probs)
                start = 0
                for made_by, count in sample.versions:
                    own = slice(start, start + count)
                    if made_by == version:
                        torch.testing.assert_close(found[own], expected[own], rtol=0, atol=1e-4)
                    elif count >= 10:
                        assert (found[own] - expected[own]).abs().max() > 1e-3
                    start += count
                assert start == len(sample.response_ids)
    finally:
        policy.load(policy.weights)


def flat(groups: list[list[Sample]]) -> list[Sample]:
    return [sample for group in groups for sample in group]


def test_responses_go_on_across_updates(engine: SGLangEngine, proxies: list[Proxy], policy: Policy) -> None:
    weights = {7: policy.weights, 8: other_weights(policy, 8), 9: other_weights(policy, 9)}
    generation = engine.start(MANY, SAMPLING)
    for version in (8, 9):
        time.sleep(0.7)
        assert not generation._in_flight.done
        assert engine.update_weights(weights[version].items(), version)["sync/servers"] == 2
    # What is asked beside it is of the present weights alone.
    beside = flat(engine.generate(ask(RAGGED, [1] * 5), SamplingConfig(max_response_tokens=8)))
    assert {sample.versions for sample in beside} == {((9, len(sample.response_ids)),) for sample in beside}
    groups = generation.finish()
    assert [len(group) for group in groups] == [8] * 30
    samples = flat(groups)
    assert_tokens_are_of_their_versions(policy, [*samples, *beside], weights)
    assert sum(len(sample.versions) > 1 for sample in samples) > 20
    assert {version for sample in samples for version, _ in sample.versions} == {7, 8, 9}
    assert any(sample.finish_reason == "stop" for sample in samples if len(sample.versions) > 1)
    # None had to be asked for twice.
    assert sum(len(proxy.answered) for proxy in proxies) == 240 + 5


@pytest.mark.thorough
def test_a_server_that_misses_an_update_loses_what_it_is_at(
    engine: SGLangEngine, proxies: list[Proxy], policy: Policy
) -> None:
    weights = {7: policy.weights, 8: other_weights(policy, 8)}
    generation = engine.start(MANY, SAMPLING)
    time.sleep(0.7)
    proxies[0].fault, proxies[0].at = "drop", "/begin_weight_update"
    assert engine.update_weights(weights[8].items(), version=8)["sync/servers"] == 1
    answered = len(proxies[0].answered)
    samples = flat(generation.finish())
    assert len(samples) == 240
    assert len(proxies[0].answered) == answered  # it is paused, and nobody waits for it
    assert_tokens_are_of_their_versions(policy, samples, weights)
    proxies[0].fault = ""
    assert engine.update_weights(weights[8].items(), version=9)["sync/servers"] == 2
    assert len(flat(engine.generate(ask(RAGGED, [2] * 5), SAMPLING))) == 10


def test_what_is_cut_off_goes_on_later(engine: SGLangEngine, proxies: list[Proxy], policy: Policy) -> None:
    weights = {7: policy.weights, 8: other_weights(policy, 8)}
    told: list[int] = []
    groups = engine.start(MANY, SAMPLING, 20, lambda request, group: told.append(id(group))).finish()
    complete = [all(sample.finish_reason != "abort" for sample in group) for group in groups]
    assert 20 <= sum(complete) < 30
    assert sorted(told) == sorted(id(group) for group, whole in zip(groups, complete, strict=True) if whole)
    assert_tokens_are_of_their_versions(policy, [s for s in flat(groups) if len(s.response_ids)], weights)
    parts = [sample for sample in flat(groups) if sample.finish_reason == "abort"]
    assert sum(len(part.response_ids) > 0 for part in parts) > len(parts) / 2
    engine.update_weights(weights[8].items(), version=8)
    left = [request for request, whole in zip(MANY, complete, strict=True) if not whole]
    begun = [group for group, whole in zip(groups, complete, strict=True) if not whole]
    before = [len(proxy.answered) for proxy in proxies]
    again = [replace(request, begun=tuple(group)) for request, group in zip(left, begun, strict=True)]
    finished = engine.start([*again, *ask(RAGGED, [8] * 5)], SAMPLING, enough=len(again)).finish()[: len(again)]
    for first, second in zip(begun, finished, strict=True):
        for part, whole in zip(first, second, strict=True):
            assert whole.finish_reason in ("stop", "length")
            assert whole.response_ids[: len(part.response_ids)].tolist() == part.response_ids.tolist()
            assert (part is whole) == (part.finish_reason != "abort")
            assert [version for version, _ in whole.versions] in ([7], [7, 8], [8])
    assert_tokens_are_of_their_versions(policy, flat(finished), weights)
    asked = sum(len(proxy.answered) for proxy in proxies) - sum(before)
    assert len(parts) <= asked <= len(parts) + 40  # those that were complete are not asked for again


def test_nothing_is_left_at_the_servers_when_the_engine_is_closed(
    policy: Policy, servers: dict[str, LocalServers]
) -> None:
    engine = sglang_engine(policy, servers["llama"].urls)
    engine.update_weights(policy.weights.items(), version=7)
    engine.start(MANY * 4, SAMPLING)
    time.sleep(0.5)
    engine.close()
    after = sglang_engine(policy, servers["llama"].urls)
    try:  # a server with a request gives up its memory only when it is rid of it
        after.update_weights(policy.weights.items(), version=8)
        began = time.monotonic()
        after.generate(ask(RAGGED, [1] * 5), SamplingConfig(max_response_tokens=4))
        assert time.monotonic() - began < 60
    finally:
        after.close()


def test_memory_is_given_up_and_taken_again(engine: SGLangEngine, proxies: list[Proxy], policy: Policy) -> None:
    """A server without a GPU takes part in it all, and frees nothing."""
    weights = {7: policy.weights, 8: other_weights(policy, 8), 9: other_weights(policy, 9)}
    for version in (8, 9):
        engine.generate(ask(RAGGED, [2] * 5), SAMPLING)
        for proxy in proxies:
            proxy.paths.clear()
        engine.release_memory()
        engine.resume_memory("weights")
        engine.update_weights(weights[version].items(), version)
        engine.resume_memory("kv_cache")
        for proxy in proxies:
            paths = [path for path in proxy.paths if "model_info" not in path]
            assert paths[:4] == [
                "/abort_request",
                "/flush_cache",
                "/release_memory_occupation",
                "/resume_memory_occupation",
            ]
            assert paths[4] == "/pause_generation"
            assert paths[-2:] == ["/continue_generation", "/resume_memory_occupation"]
        samples = flat(engine.generate(ask(RAGGED, [2] * 5), SAMPLING))
        assert {sample.versions for sample in samples} == {((version, len(s.response_ids)),) for s in samples}
        assert_tokens_are_of_their_versions(policy, samples, weights)


def test_a_server_that_was_started_anew_is_not_asked_to_take_what_it_has(
    engine: SGLangEngine, proxies: list[Proxy], policy: Policy
) -> None:
    """It names its weights by another version than those that it had; asked, it would end."""
    engine.release_memory()
    proxies[0].version = "default"
    for proxy in proxies:
        proxy.paths.clear()
    engine.resume_memory("weights")
    engine.resume_memory("kv_cache")
    assert "/resume_memory_occupation" not in proxies[0].paths
    assert proxies[1].paths.count("/resume_memory_occupation") == 2
