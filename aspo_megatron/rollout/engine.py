"""What every rollout engine does; the embedded engine and SGLang obey the same contract and the same tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from aspo_megatron.config import SamplingConfig
from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.errors import AgreedError, CheckpointError

MemoryTag = Literal["weights", "kv_cache"]

# The second number of `Request.seed`: requests for one purpose share no random numbers with those for another.
ROLLOUT_STREAM = 0
EVALUATION_STREAM = 1
QUANTIZE_STREAM = 2


class ServersLostError(AgreedError):
    """No server is left that generates with the policy's weights. Raised on all ranks together."""


@dataclass(frozen=True)
class Request:
    """`count` responses to one problem. `seed` fixes them, whatever else is generated beside them: (run, stream, ...).

    `group` is the number that the samples bear. Where servers draw the tokens, the seed is theirs and not this one.
    `begun`, of an earlier request that was cut off: its `count` responses as far as they are. Those whose
    `finish_reason` is `abort` are continued, the others are taken as they are.
    """

    problem: Problem
    count: int
    seed: tuple[int, ...]
    group: int
    begun: tuple[Sample, ...] = ()


WhenComplete = Callable[[Request, list[Sample]], None]
"""Told of a request whose responses are all complete. The list is the one that `Generation.finish` gives later."""


class Generation(Protocol):
    """Responses that an engine has been making since `RolloutEngine.start`. Both methods are collectives."""

    def wait(self) -> None:
        """Wait until nothing of it is in flight, whatever has become of it."""
        ...

    def finish(self) -> list[list[Sample]]:
        """The responses to each request, in the requests' order.

        Raises:
            ServersLostError: nobody is left to generate them.
        """
        ...


@dataclass(frozen=True)
class Deferred:
    """A `Generation` that begins when it is asked for."""

    generate: Callable[[], list[list[Sample]]]

    def wait(self) -> None:
        """Nothing is in flight."""

    def finish(self) -> list[list[Sample]]:
        """See `Generation`."""
        return self.generate()


class ResponseSource(Protocol):
    """Generates responses with the policy's weights.

    Log-probs are log_softmax(logits / temperature) before any top-p or top-k (greedy: temperature 1).
    """

    def generate(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[list[Sample]]:
        """The responses to each request, in the requests' order, each with the version of the weights it is from.

        Raises:
            ServersLostError: nobody is left to generate them.
        """
        ...


class RolloutEngine(ResponseSource, Protocol):
    """A `ResponseSource` that is given its weights."""

    def start(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        enough: int | None = None,
        when_complete: WhenComplete | None = None,
    ) -> Generation:
        """Begin with the responses to `requests`, if the engine can do so beside other things. No collective.

        Args:
            requests: as in `generate`.
            sampling: the same.
            enough: once the responses to so many of the requests are complete, and to all those that had been begun
                before, the others need not be: they may end with `finish_reason` `abort`. None: all are completed.
            when_complete: called, perhaps in another thread, as soon as a request's responses are complete.
        """
        ...

    def update_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> dict[str, float]:
        """Replace all weights, given by their Hugging Face names; later samples bear `version`.

        Returns:
            What to log of it.

        Raises:
            CheckpointError: if a name is unknown, a tensor has another shape, or one is missing.
            ServersLostError: nobody took them.
        """
        ...

    def prompt_log_probs(self, token_ids: Sequence[int]) -> dict[str, list[float]]:
        """Log-probs (temperature 1) of all tokens but the first, by each copy of the weights, named.

        Raises:
            ServersLostError: nobody is left to say.
            UserError: the copies are not the same, bit for bit.
        """
        ...

    def release_memory(self) -> None:
        """Give up the memory of weights and caches, until they are resumed. Nothing may be in flight."""
        ...

    def resume_memory(self, what: MemoryTag) -> None:
        """Take memory that was given up: for weights before they are updated, for the cache before generation."""
        ...

    def await_servers(self, seconds: float) -> bool:
        """Whether, within `seconds`, weights may be given again after `ServersLostError`."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...


def checked(
    tensors: Iterable[tuple[str, Tensor]], sizes: Mapping[str, Sequence[int]], optional: Collection[str] = ()
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a weight update, each checked before it is used; the names of `optional` need not come.

    Raises:
        CheckpointError: a name is unknown, a tensor has another shape, or one did not come.
    """
    missing = set(sizes) - set(optional)
    for name, tensor in tensors:
        if name not in sizes:
            raise CheckpointError(f"weight update: the model has no tensor {name}")
        if tuple(tensor.shape) != tuple(sizes[name]):
            raise CheckpointError(f"weight update: {name} has shape {list(tensor.shape)}, not {list(sizes[name])}")
        missing.discard(name)
        yield name, tensor
    if missing:
        raise CheckpointError(f"weight update: these tensors are missing: {', '.join(sorted(missing))}")
