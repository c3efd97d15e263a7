"""The responses that servers make for a rank, and what it says to the others when these are lost."""

from __future__ import annotations

from aspo_megatron.data.samples import Sample
from aspo_megatron.parallel.grid.exchange import gather
from aspo_megatron.rollout.client import ServerError
from aspo_megatron.rollout.engine import ServersLostError
from aspo_megatron.rollout.rounds import in_rounds
from aspo_megatron.rollout.sglang.in_flight import InFlight
from aspo_megatron.rollout.sglang.server_pool import NoServerError


class SGLangGeneration:
    """See `Generation`."""

    def __init__(self, in_flight: InFlight, attempts: int, names: str) -> None:
        self._in_flight, self._attempts, self._names = in_flight, attempts, names

    def wait(self) -> None:
        """See `Generation`."""
        in_rounds(lambda seconds: all(gather(self._in_flight.wait(seconds))))

    def finish(self) -> list[list[Sample]]:
        """See `Generation`."""
        self.wait()
        groups: list[list[Sample]] = []
        lost: str | None = None
        try:
            groups = self._in_flight.result()
        except NoServerError:
            lost = "all servers have failed"
        except ServerError as fault:
            lost = f"a response was asked for {self._attempts} times, the last time of {fault}"
        reasons = [reason for reason in gather(lost) if reason is not None]
        if reasons:
            raise ServersLostError(f"{reasons[0]} ({self._names})")
        return groups
