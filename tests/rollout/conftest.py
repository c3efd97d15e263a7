"""The engines under contract, and the small models that they serve.

An engine joins by a line in `ENGINES`; all of `test_contract.py` then holds for it. SGLang is the real server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_in_python import stand_in_python
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from aspo_megatron.config import ServersConfig
from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.models.family import read_family
from aspo_megatron.models.hf_names import by_checkpoint_name
from aspo_megatron.rollout.embedded.engine import EmbeddedEngine
from aspo_megatron.rollout.engine import Request, RolloutEngine
from aspo_megatron.rollout.sglang.command import ServedModel
from aspo_megatron.rollout.sglang.engine import SGLangEngine
from aspo_megatron.rollout.sglang.local_servers import LocalServers
from aspo_megatron.rollout.stop_rule import end_of_sequence_ids
from aspo_megatron.rollout.weight_sync.session import Transport
from aspo_megatron.rollout.weight_sync.transports import DistributedTransport
from tiny_models import llama_folder, qwen2_folder, qwen3_moe_folder

from .proxy import Proxy

END, OTHER_END = 2, 5
"""The models end a response with either: generation_config.json names both."""

TINY_LLAMA = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""The sizes of a model that transformers makes by itself."""


@dataclass
class Policy:
    """A model folder, the same model in transformers as the reference, and a tokenizer that fits."""

    family: str
    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    weights: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        tensors = by_checkpoint_name(self.model.state_dict().items())
        self.weights = {name: tensor.clone() for name, tensor in tensors}
        if self.model.config.tie_word_embeddings:
            del self.weights["lm_head.weight"]

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Give the reference other weights."""
        parameters = dict(by_checkpoint_name(self.model.state_dict().items()))
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)

    @torch.no_grad()
    def log_probs(self, sample: Sample, temperature: float) -> Tensor:
        """log_softmax(logits / temperature) before each response token, in one forward pass, [tokens, vocabulary]."""
        ids = torch.tensor([[*sample.prompt_ids.tolist(), *sample.response_ids.tolist()]])
        logits = self.model(input_ids=ids, use_cache=False).logits[0, len(sample.prompt_ids) - 1 : -1]
        return torch.log_softmax(logits.float() / temperature, dim=-1)


def make_embedded(policy: Policy, max_batch_tokens: int, request: pytest.FixtureRequest | None = None) -> RolloutEngine:
    return EmbeddedEngine(policy.folder, policy.tokenizer, torch.float32, torch.device("cpu"), max_batch_tokens)


def make_sglang(policy: Policy, max_batch_tokens: int, request: pytest.FixtureRequest) -> RolloutEngine:
    if policy.family not in SERVED:
        pytest.skip(f"{policy.family}: SGLang does not run it on a CPU")
    return sglang_engine(policy, request.getfixturevalue("sglang_servers")[policy.family].urls)


def sglang_engine(
    policy: Policy, urls: Sequence[str], transport: Transport | None = None, **settings: Any
) -> SGLangEngine:
    shape = read_family(policy.folder).shape(tp=1)
    return SGLangEngine(
        ServersConfig(bucket_mib=1, **settings),
        urls,
        transport or DistributedTransport("gloo", server_tp=1, timeout_seconds=60.0),
        {name: tuple(tensor.shape) for name, tensor in policy.weights.items()},
        shape.vocab_size,
        end_of_sequence_ids(policy.folder, policy.tokenizer),
        policy.tokenizer,
        KEY,
    )


ENGINES: dict[str, Callable[[Policy, int, pytest.FixtureRequest], RolloutEngine]] = {
    "embedded": make_embedded,
    "sglang": make_sglang,
}
SERVED = {"llama": llama_folder, "qwen2": qwen2_folder}
SERVERS = {"llama": 2, "qwen2": 1}
KEY = "to-the-servers-of-tests"
SGLANG_PYTHON = Path(__file__).parents[2] / ".venv-sglang" / "bin" / "python"

EngineMaker = Callable[..., RolloutEngine]


@pytest.fixture(scope="session")
def sglang_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LocalServers]]:
    """Running servers for each family that SGLang serves on a CPU."""
    if not SGLANG_PYTHON.exists():
        pytest.skip("SGLang is not installed: make sglang-cpu")
    with started(SGLANG_PYTHON, list(SERVED), tmp_path_factory) as running:
        yield running


@pytest.fixture(scope="session")
def stand_in_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LocalServers]]:
    """Two servers that answer as SGLang's, of one family."""
    python = stand_in_python(tmp_path_factory.mktemp("stand-in"))
    with started(python, ["llama"], tmp_path_factory) as running:
        yield running


@contextmanager
def started(
    python: Path, families: Sequence[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, LocalServers]]:
    """Servers by the Python of an environment with SGLang, once they answer."""
    with ExitStack() as stack:
        running = {}
        for family in families:
            folder = tmp_path_factory.mktemp(f"served-{family}")
            SERVED[family](folder, tied=family == "llama", eos_token_id=[END, OTHER_END])
            make_tokenizer(read_family(folder).shape(tp=1).vocab_size).save_pretrained(folder)
            (folder / "key").write_text(KEY)
            config = ServersConfig(
                python=python, max_cached_tokens=16384, count=SERVERS[family], api_key_file=folder / "key"
            )
            served = ServedModel(folder, "float32", random=False)
            running[family] = stack.enter_context(LocalServers(config, served, "cpu", folder / "logs", print))
        for servers in running.values():
            assert servers.ready(280.0)
        yield running


@pytest.fixture(params=["stand-in", pytest.param("sglang", marks=pytest.mark.sglang)])
def servers(request: pytest.FixtureRequest) -> dict[str, LocalServers]:
    """Stand-ins, and the real ones."""
    kinds = {"stand-in": "stand_in_servers", "sglang": "sglang_servers"}
    running: dict[str, LocalServers] = request.getfixturevalue(kinds[request.param])
    return running


@pytest.fixture
def proxies(servers: dict[str, LocalServers]) -> Iterator[list[Proxy]]:
    """One before each of the two servers."""
    with ExitStack() as stack:
        made = [Proxy(url) for url in servers["llama"].urls]
        for proxy in made:
            stack.callback(proxy.close)
        yield made


@pytest.fixture(params=["embedded", pytest.param("sglang", marks=pytest.mark.sglang)])
def make_engine(request: pytest.FixtureRequest, policy: Policy) -> Iterator[EngineMaker]:
    """Makes an engine that serves the policy's weights as version 7."""
    with ExitStack() as stack:

        def make(max_batch_tokens: int = 65536) -> RolloutEngine:
            engine = ENGINES[request.param](policy, max_batch_tokens, request)
            stack.callback(engine.close)
            engine.update_weights(policy.weights.items(), version=7)
            return engine

        yield make


@pytest.fixture
def engine(make_engine: EngineMaker) -> RolloutEngine:
    return make_engine()


@pytest.fixture(scope="session", params=["llama", "qwen2", "qwen3-moe"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    path = tmp_path_factory.mktemp(request.param)
    if request.param == "llama":
        llama_folder(path, tied=True, eos_token_id=[END, OTHER_END])
    elif request.param == "qwen3-moe":
        qwen3_moe_folder(path, eos_token_id=[END, OTHER_END])
    else:
        qwen2_folder(path, tied=False, eos_token_id=[END, OTHER_END])
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return Policy(request.param, path, model, make_tokenizer(model.config.vocab_size))


def make_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Pieces of one to three letters, so that a text of two tokens is not one token's."""
    pieces = ["<unk>", "<s>", "</s>"] + [chr(97 + i % 26) * (1 + i // 26 % 3) + "xyz"[i // 78] for i in range(size - 3)]
    tokenizer = Tokenizer(WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def ask(prompts: Sequence[Sequence[int]], counts: Sequence[int], seed: int = 0) -> list[Request]:
    """A request for each prompt; its group is 10 and its place."""
    return [
        Request(Problem(f"p{i}", "", tuple(prompt)), count, (seed, i), group=10 + i)
        for i, (prompt, count) in enumerate(zip(prompts, counts, strict=True))
    ]


COUNTS = [3, 1, 2, 4, 2]

RAGGED = [[11, 45, 8], [60], [7, 7, 7, 96, 33, 20, 14, 3, 90, 41, 52, 64, 75], [20, 31], [88, 3, 17, 29, 40, 51, 66]]
"""Prompts of very different lengths, in no order."""


def assert_complete(groups: list[list[Sample]], policy: Policy, version: int) -> None:
    """The answer to `ask(RAGGED, COUNTS)`, by the present weights: each log-prob is the policy's own."""
    assert [len(group) for group in groups] == COUNTS
    for group, prompt, number in zip(groups, RAGGED, range(10, 15), strict=True):
        for sample in group:
            assert (sample.prompt_ids.tolist(), sample.group, sample.weight_version) == (prompt, number, version)
            expected = policy.log_probs(sample, 1.0).gather(1, torch.tensor(sample.response_ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(sample.rollout_log_probs), expected, rtol=0, atol=1e-5)
