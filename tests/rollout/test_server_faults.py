"""What a real server does wrong costs no prompt: it is asked of another one, and all is said by name.

1. Whatever is wrong with an answer, each prompt gets its responses, by the weights that they claim.
2. A server that does not take the weights gets no prompt until it has.
3. Without any server the error says so; once one is back and has the weights, all goes on.
4. A server that was killed is started again, and asked again after a sync.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence

import psutil
import pytest
from thorough import one_in, some_of

from aspo_megatron.config import SamplingConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import UserError
from aspo_megatron.rollout.engine import Request, ServersLostError
from aspo_megatron.rollout.sglang.engine import SGLangEngine
from aspo_megatron.rollout.sglang.local_servers import LocalServers
from aspo_megatron.rollout.weight_sync.session import Transport
from aspo_megatron.rollout.weight_sync.transports import DistributedTransport, TensorTransport

from .conftest import COUNTS, RAGGED, Policy, ask, assert_complete, sglang_engine
from .proxy import Proxy

pytestmark = [
    pytest.mark.parametrize("policy", ["llama"], indirect=True),
    pytest.mark.timeout(400),
]

SAMPLING = SamplingConfig(max_response_tokens=12)


@pytest.fixture
def engine(policy: Policy, proxies: list[Proxy]) -> Iterator[SGLangEngine]:
    """Over the proxies, with the policy's weights as version 7."""
    engine = engine_over(policy, proxies)
    try:
        yield engine
    finally:
        engine.close()


def engine_over(policy: Policy, proxies: Sequence[Proxy]) -> SGLangEngine:
    # A server whose first answer is wrong is left out at once: the others need fewer retries to have all.
    engine = sglang_engine(
        policy,
        [proxy.url for proxy in proxies],
        request_timeout_seconds=10.0,
        sync_timeout_seconds=10.0,
        max_failures=1,
    )
    engine.update_weights(policy.weights.items(), version=7)
    return engine


WRONG = ["500", "hang", "drop", "short", "reordered", "foreign", "aborted", "stale", "mixed", "empty", "list"]


@pytest.mark.parametrize("fault", some_of(WRONG, ["500", "short", "foreign", "stale"]))
def test_a_wrong_answer_costs_no_prompt(engine: SGLangEngine, proxies: list[Proxy], policy: Policy, fault: str) -> None:
    proxies[0].fault = fault
    assert_complete(engine.generate(ask(RAGGED, COUNTS), SAMPLING), policy, version=7)
    assert proxies[0].answered == []
    assert len(proxies[1].answered) == sum(COUNTS) == len(set(proxies[1].answered))


def test_both_servers_are_asked_and_a_group_has_one_home(engine: SGLangEngine, proxies: list[Proxy]) -> None:
    engine.generate(ask(RAGGED, COUNTS), SAMPLING)
    assert sorted(len(proxy.answered) for proxy in proxies) == [5, 7]  # groups 1, 3 and groups 0, 2, 4


FAILING_SYNCS = [
    ("distributed", "/begin_weight_update", "500"),
    ("distributed", "/init_weights_update_group", "500"),
    ("distributed", "/init_weights_update_group", "hang"),
    ("distributed", "/update_weights_from_distributed", "500"),
    ("distributed", "/update_weights_from_distributed", "hang"),
    ("distributed", "/update_weight_version", "500"),
    ("tensor", "/update_weights_from_tensor", "500"),
    ("tensor", "/update_weights_from_tensor", "hang"),
]


SLOW_BY_SGLANG = pytest.mark.parametrize(
    "servers",
    ["stand-in", pytest.param("sglang", marks=[pytest.mark.sglang, pytest.mark.thorough])],
    indirect=True,
)
"""For tests in which a real server starts anew, or is waited for: a minute each."""


@SLOW_BY_SGLANG
@pytest.mark.parametrize(("way", "at", "fault"), one_in(3, FAILING_SYNCS, first=1))
def test_a_server_without_the_weights_gets_no_prompt_until_it_has_them(
    policy: Policy, proxies: list[Proxy], way: str, at: str, fault: str
) -> None:
    transports: dict[str, Transport] = {
        "distributed": DistributedTransport("gloo", 1, 5.0),
        "tensor": TensorTransport(1, 5.0),
    }
    engine = sglang_engine(policy, [proxy.url for proxy in proxies], transports[way])
    try:
        engine.update_weights(policy.weights.items(), version=7)
        proxies[0].fault, proxies[0].at = fault, at
        assert engine.update_weights(policy.weights.items(), version=8)["sync/servers"] == 1
        assert_complete(engine.generate(ask(RAGGED, COUNTS), SAMPLING), policy, version=8)
        assert proxies[0].answered == []
        proxies[0].fault = ""
        assert engine.update_weights(policy.weights.items(), version=9)["sync/servers"] == 2
        assert_complete(engine.generate(ask(RAGGED, COUNTS), SAMPLING), policy, version=9)
        assert proxies[0].answered
    finally:
        engine.close()


def test_without_any_server_the_error_says_so_and_it_goes_on_when_one_is_back(
    engine: SGLangEngine, proxies: list[Proxy], policy: Policy
) -> None:
    for proxy in proxies:
        proxy.fault, proxy.at = "500", "/"
    with pytest.raises(ServersLostError, match="all servers have failed") as caught:
        engine.generate(ask(RAGGED, COUNTS), SAMPLING)
    assert proxies[0].url in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ServersLostError, match=r"none of .* accepted the weights"):
        engine.update_weights(policy.weights.items(), version=8)
    assert not engine.await_servers(3.0)
    proxies[1].fault = ""
    assert engine.await_servers(10.0)
    engine.update_weights(policy.weights.items(), version=8)
    assert_complete(engine.generate(ask(RAGGED, COUNTS), SAMPLING), policy, version=8)


def test_a_wrong_key_is_named(policy: Policy, proxies: list[Proxy]) -> None:
    proxies[0].key = "secret"
    engine = sglang_engine(policy, [proxies[0].url])
    try:
        with pytest.raises(UserError, match="api_key_file"):
            engine.update_weights(policy.weights.items(), version=7)
    finally:
        engine.close()


def test_a_token_beyond_the_vocabulary_never_leaves(engine: SGLangEngine, proxies: list[Proxy]) -> None:
    before = [len(proxy.answered) for proxy in proxies]
    request = Request(Problem("odd", "", (3, 100000)), 1, (0,), group=0)
    with pytest.raises(UserError, match=r"problem odd: its prompt has token 100000"):
        engine.generate([request], SAMPLING)
    assert [len(proxy.answered) for proxy in proxies] == before


@SLOW_BY_SGLANG
def test_a_killed_server_comes_back_and_is_asked_after_a_sync(policy: Policy, servers: dict[str, LocalServers]) -> None:
    running = servers["llama"]
    engine = sglang_engine(policy, running.urls)
    try:
        engine.update_weights(policy.weights.items(), version=7)
        port = running.urls[0].rpartition(":")[2]
        (process,) = (found for found in psutil.Process().children() if f"--port {port} " in " ".join(found.cmdline()))
        sampling = SamplingConfig(max_response_tokens=100)
        requests = ask(RAGGED * 30, COUNTS * 30)
        pending = engine.start(requests, sampling)
        time.sleep(1.0)
        assert not pending._in_flight.done
        os.kill(process.pid, signal.SIGKILL)
        groups = pending.finish()
        assert [len(group) for group in groups] == COUNTS * 30
        assert {sample.weight_version for group in groups for sample in group} == {7}
        assert running.ready(250.0)
        assert_complete(engine.generate(ask(RAGGED, COUNTS), SAMPLING), policy, version=7)  # by the other one
        assert engine.update_weights(policy.weights.items(), version=8)["sync/servers"] == 2
        assert_complete(engine.generate(ask(RAGGED, COUNTS), SAMPLING), policy, version=8)
    finally:
        engine.close()
