"""A real sglang-router before real servers: generation goes through it, all else past it.

1. All prompts get their responses through the router, by the present weights.
2. It may choose a server with other weights, or die: then the servers themselves are asked.
3. While a server has not taken the weights the router is not asked, as it would send it prompts.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from aspo_megatron.config import SamplingConfig
from aspo_megatron.launch.addresses import free_ports
from aspo_megatron.rollout.sglang.engine import SGLangEngine
from aspo_megatron.rollout.sglang.local_servers import LocalServers

from .conftest import COUNTS, KEY, RAGGED, SGLANG_PYTHON, Policy, ask, assert_complete, sglang_engine
from .proxy import Proxy

pytestmark = [
    pytest.mark.sglang,
    pytest.mark.thorough,
    pytest.mark.parametrize("servers", ["sglang"], indirect=True),
    pytest.mark.parametrize("policy", ["llama"], indirect=True),
    pytest.mark.timeout(400),
]

SAMPLING = SamplingConfig(max_response_tokens=12)


class Router:
    """An sglang-router before servers, in turns."""

    def __init__(self, servers: tuple[str, ...]) -> None:
        port, metrics_port = free_ports(2, "127.0.0.1")
        self.url = f"http://127.0.0.1:{port}"
        command = [str(SGLANG_PYTHON), "-m", "sglang_router.launch_router", "--worker-urls", *servers]
        command += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics_port)]
        command += ["--policy", "round_robin", "--health-check-endpoint", "/model_info", "--log-level", "error"]
        command += ["--api-key", KEY]
        command += ["--worker-startup-check-interval", "1", "--health-check-interval-secs", "1"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 100
        while self._workers() < len(servers):
            assert self.process.poll() is None, "the router has ended"
            assert time.monotonic() < deadline, "the router does not get ready"
            time.sleep(0.2)

    def _workers(self) -> int:
        try:
            asked = urllib.request.Request(f"{self.url}/workers", headers={"Authorization": f"Bearer {KEY}"})
            with urllib.request.urlopen(asked, timeout=5) as answer:
                return sum(bool(worker["is_healthy"]) for worker in json.load(answer)["workers"])
        except (OSError, urllib.error.URLError):
            return 0

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def router(sglang_servers: dict[str, LocalServers]) -> Iterator[Router]:
    """Before both servers. It takes a minute to find them well, so there is one, which the last test kills."""
    if subprocess.run([SGLANG_PYTHON, "-c", "import sglang_router"], capture_output=True, check=False).returncode:
        pytest.skip("sglang-router is not installed: make sglang-cpu")
    running = Router(sglang_servers["llama"].urls)
    yield running
    running.close()


@pytest.fixture
def engine(policy: Policy, proxies: list[Proxy], router: Router) -> Iterator[SGLangEngine]:
    """With the policy's weights as version 7."""
    urls = tuple(proxy.url for proxy in proxies)
    made = sglang_engine(policy, urls, addresses=urls, router=router.url, attempts=10, request_timeout_seconds=30.0)
    assert made.update_weights(policy.weights.items(), version=7)["sync/servers"] == 2
    try:
        yield made
    finally:
        made.close()


def test_an_answer_by_other_weights_is_not_used(
    engine: SGLangEngine, policy: Policy, proxies: list[Proxy], sglang_servers: dict[str, LocalServers]
) -> None:
    """Somebody else has given a server other weights; the router does not know."""
    body = json.dumps({"new_version": "3", "abort_all_requests": False}).encode()
    url = f"{sglang_servers['llama'].urls[0]}/update_weight_version"
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(url, body, headers)
    assert urllib.request.urlopen(request, timeout=30).status == 200
    assert_complete(engine.generate(ask(RAGGED, COUNTS), SAMPLING), policy, version=7)
    assert proxies[1].answered  # asked in the router's place


def test_the_router_is_not_asked_while_a_server_lacks_the_weights(
    engine: SGLangEngine, policy: Policy, proxies: list[Proxy]
) -> None:
    proxies[0].fault, proxies[0].at = "500", "/begin_weight_update"
    assert engine.update_weights(policy.weights.items(), version=8)["sync/servers"] == 1
    assert_complete(engine.generate(ask(RAGGED, COUNTS), SAMPLING), policy, version=8)
    assert (len(proxies[0].answered), len(proxies[1].answered)) == (0, sum(COUNTS))
    proxies[0].fault = ""
    assert engine.update_weights(policy.weights.items(), version=9)["sync/servers"] == 2
    assert_complete(engine.generate(ask(RAGGED, COUNTS), SAMPLING), policy, version=9)
    assert len(proxies[1].answered) == sum(COUNTS)


def test_generation_goes_through_the_router_and_outlives_it(
    engine: SGLangEngine, policy: Policy, proxies: list[Proxy], router: Router
) -> None:
    assert_complete(engine.generate(ask(RAGGED, COUNTS), SAMPLING), policy, version=7)
    assert [proxy.answered for proxy in proxies] == [[], []]
    assert len(engine.prompt_log_probs(RAGGED[4])) == 2
    assert all(len(proxy.answered) == 1 for proxy in proxies)  # a probe of each
    engine.update_weights(policy.weights.items(), version=8)
    assert_complete(engine.generate(ask(RAGGED, COUNTS), SAMPLING), policy, version=8)
    assert all(len(proxy.answered) == 1 for proxy in proxies)
    router.close()
    assert_complete(engine.generate(ask(RAGGED, COUNTS), SAMPLING), policy, version=8)
    assert sum(len(proxy.answered) for proxy in proxies) == 2 + sum(COUNTS)
