"""Responses that servers make while the caller does other things, and what becomes of those that are cut off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

from aspo_megatron.data.samples import Sample
from aspo_megatron.rollout.client import ServerClient
from aspo_megatron.rollout.engine import Request, WhenComplete
from aspo_megatron.rollout.loop_thread import LoopThread

_ABORT_SECONDS = 10.0


class CutOffError(Exception):
    """A response is not wanted any more."""


@dataclass
class Response:
    """One response as it is asked for. `so_far`: what there is of it, made by an earlier request or none.

    `asked_of`: the server that makes it now, and the request's id there.
    """

    request: Request
    home: int
    so_far: Sample
    cut: bool = False
    asked_of: tuple[ServerClient, str] | None = None
    task: asyncio.Task[Sample] | None = field(default=None, repr=False)

    @contextlib.contextmanager
    def asking(self, client: ServerClient, rid: str) -> Iterator[None]:
        """While a server makes it.

        Raises:
            CutOffError: it is not to be asked for any more.
        """
        if self.cut:
            raise CutOffError
        self.asked_of = client, rid
        try:
            yield
        finally:
            self.asked_of = None


class InFlight:
    """The responses to some requests, in flight from the moment that this is made.

    Once `enough` of the requests, and all those that had been begun before, have complete responses, and the caller
    waits, the others are cut off: servers abort them and give what there is.
    """

    def __init__(
        self,
        loop: LoopThread,
        responses: Sequence[Sequence[Response]],
        generate: Callable[[Response], Coroutine[Any, Any, Sample]],
        enough: int | None,
        when_complete: WhenComplete | None = None,
    ) -> None:
        """`responses`: of each request; those whose `so_far` is not of `finish_reason` `abort` are complete already.

        `generate` makes a response whole, or raises `CutOffError`, or gives a part of it if it was cut.
        `when_complete` is called in the loop's thread.
        """
        self._loop, self._responses, self._generate = loop, responses, generate
        self._when_complete = when_complete
        self._enough = len(responses) if enough is None else min(enough, len(responses))
        self._begun = {index for index, row in enumerate(responses) if row and row[0].request.begun}
        self._waited_for = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._future: Future[list[list[Sample]]] = loop.start(self._run())

    @property
    def done(self) -> bool:
        """Whether nothing of it is in flight."""
        return self._future.done()

    def wait(self, seconds: float) -> bool:
        """Whether all are complete, cut off or failed within `seconds`. From now on they may be cut off."""
        self._loop.call(self._waited_for.set)
        return bool(wait([self._future], seconds).done)

    def result(self) -> list[list[Sample]]:
        """The responses, once they are there; raises what `generate` raised."""
        return self._future.result()

    def cancel(self) -> None:
        """Give all up. When this returns nothing is in flight."""
        self._loop.run(self._cancel())

    async def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> list[list[Sample]]:
        self._task = asyncio.current_task()
        groups = [asyncio.ensure_future(self._group(row)) for row in self._responses]
        watching: set[asyncio.Future[Any]] = {*groups, asyncio.ensure_future(self._waited_for.wait())}
        try:
            while not all(group.done() for group in groups):
                done, watching = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    future.result()
                if self._waited_for.is_set() and self._suffices([group.done() for group in groups]):
                    await self._cut_off()
                    await asyncio.wait(groups)
            return [group.result() for group in groups]
        finally:
            tasks = [response.task for row in self._responses for response in row if response.task is not None]
            left: list[asyncio.Future[Any]] = [*watching, *groups, *tasks]
            for future in left:
                future.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _suffices(self, complete: Sequence[bool]) -> bool:
        begun = sum(complete[index] for index in self._begun)
        return sum(complete) >= self._enough and begun >= min(len(self._begun), self._enough)

    async def _group(self, row: Sequence[Response]) -> list[Sample]:
        for response in row:
            response.task = asyncio.ensure_future(self._response(response))
        samples = list(await asyncio.gather(*(response.task for response in row if response.task is not None)))
        if row and self._when_complete is not None and all(sample.finish_reason != "abort" for sample in samples):
            self._when_complete(row[0].request, samples)
        return samples

    async def _response(self, response: Response) -> Sample:
        if response.so_far.finish_reason != "abort":
            return response.so_far
        try:
            return await self._generate(response)
        except CutOffError:
            return response.so_far
        except asyncio.CancelledError:
            if response.cut:
                return response.so_far
            raise

    async def _cut_off(self) -> None:
        """Abort what is not complete; a server that does not answer to that leaves its part where it was."""
        left = [r for row in self._responses for r in row if r.task is not None and not r.task.done()]
        aborts = []
        for response in left:
            response.cut = True
            if response.asked_of is not None:
                client, rid = response.asked_of
                aborts.append(client.abort(rid))
            elif response.task is not None:  # it waits for a server
                response.task.cancel()
        await asyncio.gather(*aborts)
        tasks = [response.task for response in left if response.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_ABORT_SECONDS)
            for task in late:
                task.cancel()
