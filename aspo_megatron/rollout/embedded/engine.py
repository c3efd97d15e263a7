"""Generation inside the training processes: a Hugging Face model with a key-value cache.

Each rank holds a whole copy and generates for its share of the prompts, so that every core is used. A prompt is
computed once for all its responses, and a response that is finished leaves the batch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from aspo_megatron.config import SamplingConfig
from aspo_megatron.data.samples import FinishReason, Sample
from aspo_megatron.models.family import read_family
from aspo_megatron.models.hf_config import transformers_config
from aspo_megatron.parallel.device.host_memory import to_device
from aspo_megatron.rollout.embedded.batch_tokens import most_rows, most_tokens
from aspo_megatron.rollout.embedded.empty_model import empty_model
from aspo_megatron.rollout.embedded.kv_cache import cache_name, decode_cache, takes_masks
from aspo_megatron.rollout.embedded.sampling import sample_tokens
from aspo_megatron.rollout.embedded.weights import EmbeddedWeights
from aspo_megatron.rollout.engine import Deferred, Generation, MemoryTag, Request, WhenComplete
from aspo_megatron.rollout.stop_rule import StopRule, end_of_sequence_ids

_TOKENS_AT_ONCE = 8
"""Tokens of each response that the host waits for at once. While it waits it asks for nothing, and a GPU then stands
still until some of the next pass was asked for: so it does once in eight tokens. What a response gets beyond its end,
3.5 tokens in the mean, is little among hundreds. On a CPU there is nothing to wait for."""
_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""All but cuDNN's, PyTorch's first choice on Hopper: it makes a plan for each number of keys, 60 ms for each token."""


class EmbeddedEngine:
    """A `RolloutEngine` in this process. It has no weights until `update_weights` was called."""

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        dtype: torch.dtype,
        device: torch.device,
        max_batch_tokens: int | None,
        packs: bool = True,
        tokens_at_once: int | None = None,
    ) -> None:
        """`folder`: the Hugging Face model folder whose architecture and end-of-sequence tokens are used.

        `max_batch_tokens`: prompts and responses that are held at once; None: see `batch_tokens.py`.
        `packs`: whether linear layers may be packed for this CPU. Such a model can compute, and nothing else.
        `tokens_at_once`: of each response, after which it is seen whether it has ended; None: as suits the device.
        """
        self._model = empty_model(transformers_config(read_family(folder)), dtype, device)
        self._weights = EmbeddedWeights(self._model, packs)
        self._tokenizer = tokenizer
        self._device = device
        self._max_batch_tokens = max_batch_tokens
        self._tokens_at_once = tokens_at_once or (1 if device.type == "cpu" else _TOKENS_AT_ONCE)
        self._end_ids = end_of_sequence_ids(folder, tokenizer)
        self._version = -1

    def update_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> dict[str, float]:
        """See `RolloutEngine`."""
        self._weights.load(tensors)
        self._version = version
        return {}

    @torch.no_grad()
    def prompt_log_probs(self, token_ids: Sequence[int]) -> dict[str, list[float]]:
        """See `RolloutEngine`."""
        self._check_weights()
        ids = torch.tensor([token_ids], device=self._device)
        log_probs = torch.log_softmax(self._model(input_ids=ids, use_cache=False).logits[0, :-1].float(), dim=-1)
        return {"embedded": log_probs.gather(1, ids[0, 1:, None])[:, 0].tolist()}

    def start(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        enough: int | None = None,
        when_complete: WhenComplete | None = None,
    ) -> Generation:
        """Generates when it is asked for: there is nobody else to do it, and it completes all."""
        return Deferred(lambda: self._generate(requests, sampling, when_complete))

    def release_memory(self) -> None:
        """See `RolloutEngine`."""
        self._weights.release()

    def resume_memory(self, what: MemoryTag) -> None:
        """Memory is taken as weights come, and for the cache as responses grow."""

    def await_servers(self, seconds: float) -> bool:
        """There are none to wait for."""
        return True

    def close(self) -> None:
        """Nothing to do."""

    def generate(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[list[Sample]]:
        """See `RolloutEngine`."""
        return self._generate(requests, sampling, None)

    @torch.no_grad()
    @sdpa_kernel(_ATTENTION)
    def _generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, when_complete: WhenComplete | None
    ) -> list[list[Sample]]:
        self._check_weights()
        results: dict[int, list[Sample]] = {}
        rule = StopRule(self._end_ids, sampling.stop, self._tokenizer)
        for batch in self._batches(requests, sampling):
            rows = _Rows(self._model, self._device, rule, sampling, [requests[i] for i in batch])
            rows.run(self._tokens_at_once)
            for index, samples in zip(batch, rows.samples(self._version), strict=True):
                results[index] = samples
                if when_complete is not None:
                    when_complete(requests[index], samples)
        return [results[index] for index in range(len(requests))]

    def _check_weights(self) -> None:
        if not self._weights.present:
            raise RuntimeError("the engine has no weights: none were given since it was made, or gave up its memory")

    def _batches(self, requests: Sequence[Request], sampling: SamplingConfig) -> Iterator[list[int]]:
        """Indices of requests that are generated together: of similar length, to waste little on padding."""
        most, rows_at_most = self._most_tokens(), self._most_rows(sampling)
        batch: list[int] = []
        rows = 0
        for index in sorted(range(len(requests)), key=lambda i: len(requests[i].problem.prompt_ids)):
            request = requests[index]
            tokens = (rows + request.count) * (len(request.problem.prompt_ids) + sampling.max_response_tokens)
            if batch and (tokens > most or rows + request.count > rows_at_most):
                yield batch
                batch, rows = [], 0
            batch.append(index)
            rows += request.count
        if batch:
            yield batch

    def _most_tokens(self) -> int:
        return self._max_batch_tokens or most_tokens(self._model, self._device)

    def _most_rows(self, sampling: SamplingConfig) -> int:
        return sys.maxsize if self._max_batch_tokens else most_rows(self._model, self._device, sampling)


@dataclass
class _Row:
    """A response as it grows."""

    request: Request
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish: FinishReason | None = None


class _Rows:
    """One batch of generation. The host waits for a GPU once for so many tokens of each row."""

    def __init__(
        self,
        model: PreTrainedModel,
        device: torch.device,
        stop_rule: StopRule,
        sampling: SamplingConfig,
        requests: Sequence[Request],
    ) -> None:
        self._model, self._device, self._stop_rule, self._sampling = model, device, stop_rule, sampling
        self._cache_name = cache_name(model)
        self._requests = requests
        self._rows = [_Row(request) for request in requests for _ in range(request.count)]
        self._longest = max(len(request.problem.prompt_ids) for request in requests)
        self._takes_masks = takes_masks(model.config)

    def run(self, at_once: int) -> None:
        """Generate until every row is finished. `at_once`: tokens of each row that the host fetches together.

        A row that ends before the last of them goes on until then: what it got beyond its end is dropped.
        """
        logits, cache, mask = self._prefill()
        positions = mask.sum(dim=1)
        uniforms, places = self._uniforms(), None
        alive, last = self._rows, self._sampling.max_response_tokens - 1
        waiting: list[tuple[Tensor, Tensor]] = []
        for position in range(last + 1):
            chosen = uniforms[position] if places is None else uniforms[position][places]
            tokens, log_probs = sample_tokens(logits, chosen, self._sampling)
            waiting.append((tokens, log_probs))
            if len(waiting) == at_once or position == last:
                self._append(alive, waiting)
                waiting = []
            keep = [index for index, row in enumerate(alive) if row.finish is None]
            if not keep:
                return
            if len(keep) < len(alive):
                index = to_device(torch.tensor(keep), self._device)
                cache.batch_select_indices(index)
                tokens, mask, positions = tokens[index], mask[index], positions[index]
                places = index if places is None else places[index]
                alive = [alive[i] for i in keep]
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            output = self._model(
                input_ids=tokens[:, None],
                attention_mask=self._attention_mask(mask, alive),
                position_ids=positions[:, None],
                use_cache=True,
                **{self._cache_name: cache},
            )
            positions = positions + 1
            logits = output.logits[:, -1]

    def samples(self, version: int) -> list[list[Sample]]:
        """The finished responses of each request."""
        rows = iter(self._rows)
        return [
            [self._sample(request, next(rows), version) for _ in range(request.count)] for request in self._requests
        ]

    def _uniforms(self) -> Tensor:
        """A number for each token that decides it, [tokens, rows], float64.

        They come from a stream of the response's own: what is generated beside it does not matter.
        """
        drawn = [
            np.random.default_rng([*request.seed, i]).random(self._sampling.max_response_tokens)
            for request in self._requests
            for i in range(request.count)
        ]
        return to_device(torch.from_numpy(np.stack(drawn, axis=1)), self._device)

    def _prefill(self) -> tuple[Tensor, DynamicCache, Tensor]:
        """Next-token logits, cache and attention mask of every row, each prompt computed once."""
        prompts = [request.problem.prompt_ids for request in self._requests]
        ids = torch.tensor([[0] * (self._longest - len(prompt)) + list(prompt) for prompt in prompts])
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        mask = to_device((torch.arange(self._longest) >= (self._longest - lengths)[:, None]).long(), self._device)
        cache = decode_cache(self._model.config)
        output = self._model(
            input_ids=to_device(ids, self._device),
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_name: cache},
        )
        counts = torch.tensor([request.count for request in self._requests])
        repeats = to_device(torch.arange(len(prompts)).repeat_interleave(counts), self._device)
        cache.batch_select_indices(repeats)
        return output.logits[:, -1][repeats], cache, mask[repeats]

    def _attention_mask(self, mask: Tensor, alive: Sequence[_Row]) -> Tensor | None:
        """What one token of each row attends to, out of `mask` [rows, tokens].

        transformers would look into the mask for padding at every token, for which the host waits.
        """
        if not self._takes_masks:
            return mask
        padded = any(len(row.request.problem.prompt_ids) < self._longest for row in alive)
        return mask.bool()[:, None, None, :] if padded else None

    def _append(self, rows: Sequence[_Row], drawn: Sequence[tuple[Tensor, Tensor]]) -> None:
        """What was drawn for each row, [rows] tokens and log-probs one after the other, up to where the row ends."""
        both = torch.stack([tensor.double() for pair in drawn for tensor in pair])  # exact, and fetched at once
        for row, *numbers in zip(rows, *both.cpu().tolist(), strict=True):
            for token, log_prob in zip(numbers[::2], numbers[1::2], strict=True):
                row.tokens.append(int(token))
                row.log_probs.append(log_prob)
                if self._stop_rule.ends(row.tokens):
                    row.finish = "stop"
                    break
            if row.finish is None and len(row.tokens) == self._sampling.max_response_tokens:
                row.finish = "length"

    @staticmethod
    def _sample(request: Request, row: _Row, version: int) -> Sample:
        assert row.finish is not None
        return Sample(
            problem_id=request.problem.id,
            group=request.group,
            prompt_ids=np.array(request.problem.prompt_ids, dtype=np.int64),
            response_ids=np.array(row.tokens, dtype=np.int64),
            response_mask=np.ones(len(row.tokens), dtype=np.bool_),
            rollout_log_probs=np.array(row.log_probs, dtype=np.float32),
            weight_version=version,
            finish_reason=row.finish,
        )
