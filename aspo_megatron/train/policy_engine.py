"""The rollout engine with the policy's weights in it: synchronised, probed, waited for when its servers are lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from aspo_megatron.config import RunConfig, SamplingConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.errors import UserError
from aspo_megatron.parallel.grid.exchange import from_leader
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.parallel.update.passes import PassLimits, response_log_probs
from aspo_megatron.rollout.engine import Generation, Request, RolloutEngine, ServersLostError, WhenComplete
from aspo_megatron.train.probe import BEYOND_DOUBT, difference, ends_runs, probe_of, random_probe, tolerance_of

T = TypeVar("T")

_LONGEST_PAUSE = 60.0


class PolicyEngine:
    """Generates with the weights of `model`, as they were at the last `sync`. All methods but `start` are collectives.

    What was started goes on while the caller does other things. With `rollout.overlap` `continue` a sync does not wait
    for it: its tokens are of the old weights and then of the new ones, and say so.
    """

    def __init__(
        self,
        config: RunConfig,
        model: PolicyModel,
        engine: RolloutEngine,
        tell: Callable[[str], None],
        make_room: Callable[[], None],
    ) -> None:
        """Of an engine with the weights of `model`.

        Args:
            config: of the run.
            model: the policy.
            engine: what generates.
            tell: is given a line when servers are lost and waited for, or compute a little differently.
            make_room: gives back what the trainer does not need before its next passes, for an engine on its GPUs.
        """
        self._model, self._engine, self._tell, self._make_room = model, engine, tell, make_room
        self._servers, self._waits = config.rollout.servers, config.rollout.overlap != "continue"
        self._started: Generation | None = None
        self._takes_turns = config.rollout.takes_turns
        self._probes = config.rollout.engine == "sglang" and self._servers.probe_every > 0
        self._tolerance = tolerance_of(config, model.shape.num_experts)
        self._ends_runs = ends_runs(config)
        self._limits = PassLimits.of(config.train, temperature=1.0)
        self._probe_sample = random_probe(model.shape.vocab_size, config.seed)
        self._response: Sample | None = None  # of this rank, for the next probe
        self._doubted: set[str] = set()  # servers that were warned about at the last probe
        self._syncs = 0
        self._version = -1

    def wait_in_flight(self) -> None:
        """Wait for the responses in flight, unless they are to go on across the next sync."""
        if self._waits and self._started is not None:
            self._started.wait()

    def sync(self, version: int) -> dict[str, float]:
        """Push the present weights, after `wait_in_flight`; every so often probe whether the engine computes with them.

        Returns:
            What to log: bytes, servers, and the probe's difference if there was one.

        Raises:
            ServersLostError: no server took them, and none came back in time.
            UserError: a server computes something else than the trainer does.
        """
        self._version = version
        return self._until_it_works(self._push_weights)

    def generate(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[list[Sample]]:
        """See `RolloutEngine`; servers that come back are given the weights before they are asked.

        Raises:
            ServersLostError: no server is left, and none came back in time.
        """
        return self.start(requests, sampling)()

    def start(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        enough: int | None = None,
        when_complete: WhenComplete | None = None,
    ) -> Callable[[], list[list[Sample]]]:
        """Begin to generate, see `RolloutEngine`. What is returned is a collective that waits for the responses.

        If servers are lost meanwhile, all of them are asked for again, as by `generate`.
        """
        begun: Generation | None = self._engine.start(requests, sampling, enough, when_complete)
        self._started = begun

        def ask() -> list[list[Sample]]:
            nonlocal begun
            if begun is None:  # servers were lost, and some are back
                self._push_weights()
                begun = self._engine.start(requests, sampling, enough, when_complete)
            waited_for, begun = begun, None
            groups = waited_for.finish()
            if self._probes:
                self._response = probe_of(groups, self._model.shape.vocab_size) or self._response
            return groups

        return lambda: self._until_it_works(ask)

    def release_memory(self) -> None:
        """An engine that shares the trainer's memory has none of it from now to the next `sync`."""
        if self._takes_turns:
            self._engine.release_memory()

    def _until_it_works(self, action: Callable[[], T]) -> T:
        """What `action` gives, once there are servers for it; in all they are waited for `recovery_minutes`."""
        waited = pause = 0.0
        while True:
            try:
                return action()
            except ServersLostError as lost:
                left = 60 * self._servers.recovery_minutes - waited
                self._tell(f"{lost}; waiting up to {left:.0f} s for a server")
                began = time.monotonic()
                time.sleep(pause)  # servers that answer, but refuse, are asked less and less often
                pause = min(_LONGEST_PAUSE, 2 * pause + 1)
                if not self._engine.await_servers(left):
                    raise
                waited += time.monotonic() - began

    def _push_weights(self) -> dict[str, float]:
        if self._takes_turns:
            self._make_room()
            torch.cuda.empty_cache()  # what the trainer has let go of goes back to the GPU; nothing without one
            self._engine.resume_memory("weights")
        tensors = self._model.hf_tensors(bucket_bytes=self._servers.bucket_mib << 20)
        metrics = self._engine.update_weights(tensors, self._version)
        if self._takes_turns:
            torch.cuda.empty_cache()  # what the sync has taken
            self._engine.resume_memory("kv_cache")
        if self._probes and (self._doubted or self._syncs % self._servers.probe_every == 0):
            metrics |= {"sync/probe_difference": self._probe()}
        self._syncs += 1
        return metrics

    def _probe(self) -> float:
        """The largest of the servers' differences in log-prob from the trainer.

        One beyond the tolerance is told, and ends the run if the next sync does not cure it; see `ends_runs`.
        """
        self._probe_sample = from_leader(self._response) or self._probe_sample
        ((_, expected),) = list(response_log_probs(self._model, [[self._probe_sample]], self._limits))
        tokens = [*self._probe_sample.prompt_ids.tolist(), *self._probe_sample.response_ids.tolist()]
        found = self._engine.prompt_log_probs(tokens)
        apart = {name: difference(self._probe_sample, expected, log_probs) for name, log_probs in found.items()}
        doubted = {name: by for name, by in apart.items() if not by <= self._tolerance}  # nan is doubted too
        for name, by in doubted.items():
            said = (
                f"{name} computes other log-probs than the trainer after a weight sync: a tenth of {len(expected)} "
                f"tokens differ by {by:.2g} or more, which is beyond {self._tolerance:g} "
                "(rollout.servers.probe_tolerance)"
            )
            if not self._ends_runs:
                self._tell(f"warning: {said}; as one side quantises, this ends the run only if you set that")
                continue
            if name in self._doubted or not by <= BEYOND_DOUBT * self._tolerance:
                raise UserError(f"{said}; is it a server of another model or precision?")
            self._tell(f"warning: {said}; the run ends if the next sync finds the same")
        self._doubted = set(doubted) if self._ends_runs else set()
        return max(apart.values())
