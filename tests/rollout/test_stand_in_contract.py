"""The engine of servers without SGLang: what every engine must do, and weights by each way, against its stand-in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from aspo_megatron.config import SamplingConfig
from aspo_megatron.rollout.engine import RolloutEngine
from aspo_megatron.rollout.sglang.local_servers import LocalServers

from .conftest import COUNTS, RAGGED, EngineMaker, Policy, ask, assert_complete, sglang_engine
from .proxy import Proxy
from .test_contract import (  # noqa: F401
    test_a_stop_text_is_at_the_end_and_nowhere_before,
    test_an_end_token_in_the_last_place_is_a_stop,
    test_each_request_is_told_of_once_with_the_list_that_is_given_later,
    test_every_weight_is_replaced,
    test_greedy_takes_the_likeliest_and_gives_log_probs_at_temperature_one,
    test_groups_come_in_the_order_of_requests_and_bear_their_numbers,
    test_log_probs_are_those_of_the_reference,
    test_no_request_gives_no_group,
    test_prompt_log_probs_are_the_references,
    test_responses_end_with_an_end_token_or_at_the_limit,
    test_samples_bear_the_version_of_the_weights_that_made_them,
    test_seeds_and_responses_differ,
    test_the_engine_keeps_no_hold_on_the_tensors_it_was_given,
    test_tokens_are_drawn_with_their_probabilities,
    test_truncated_sampling_keeps_full_log_probs_and_draws_from_the_kept_tokens,
    test_weights_that_do_not_fit_are_refused_by_name,
)
from .test_weight_sync import WAYS, other_weights, served

pytestmark = pytest.mark.parametrize("policy", ["llama"], indirect=True)


@pytest.fixture
def make_engine(policy: Policy, stand_in_servers: dict[str, LocalServers]) -> Iterator[EngineMaker]:
    with ExitStack() as stack:

        def make() -> RolloutEngine:
            engine = sglang_engine(policy, stand_in_servers["llama"].urls)
            stack.callback(engine.close)
            engine.update_weights(policy.weights.items(), version=7)
            return engine

        yield make


@pytest.mark.parametrize("way", list(WAYS))
def test_weights_arrive_bit_for_bit(
    policy: Policy, stand_in_servers: dict[str, LocalServers], way: str, tmp_path: Path
) -> None:
    engine = sglang_engine(policy, stand_in_servers["llama"].urls, WAYS[way](policy, tmp_path))
    try:
        for version in (8, 9):
            weights = other_weights(policy, version)
            metrics = engine.update_weights(weights.items(), version)
            assert metrics["sync/bytes"] == sum(tensor.nbytes for tensor in weights.values())
            expected = {name: hashlib.sha256(t.numpy().tobytes()).hexdigest()[:16] for name, t in weights.items()}
            for found in served(engine):
                assert {name: found[name] for name in expected} == expected
    finally:
        engine.close()


def test_what_a_router_answers_is_checked_and_it_is_outlived(
    policy: Policy, stand_in_servers: dict[str, LocalServers]
) -> None:
    """A proxy before one server is as good a router as any."""
    urls, sampling = stand_in_servers["llama"].urls, SamplingConfig(max_response_tokens=12)
    router = Proxy(urls[0])
    engine = sglang_engine(policy, urls, addresses=urls, router=router.url, attempts=10, max_failures=1)
    try:
        engine.update_weights(policy.weights.items(), version=7)
        assert_complete(engine.generate(ask(RAGGED, COUNTS), sampling), policy, version=7)
        assert len(router.answered) == sum(COUNTS)
        assert set(router.paths) == {"/generate"}
        router.fault = "stale"
        assert_complete(engine.generate(ask(RAGGED, COUNTS), sampling), policy, version=7)
        assert len(router.answered) == sum(COUNTS)
        router.close()
        engine.update_weights(policy.weights.items(), version=8)
        assert_complete(engine.generate(ask(RAGGED, COUNTS), sampling), policy, version=8)
    finally:
        engine.close()
