"""Tokens for all requests at once, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SECONDS = 0.01
"""The least that a token takes: others have time to do something meanwhile."""

_GREEDY = 1e-6
"""A temperature below it is none."""


@dataclass(eq=False)
class Row:
    """A response as it grows."""

    rid: str
    prompt: list[int]
    sampling: dict[str, Any]
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    finish: Literal["stop", "length", "abort"] | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, finish: Literal["stop", "length", "abort"]) -> None:
        self.finish = finish
        self.done.set()

    def finish_reason(self) -> dict[str, Any]:
        """As it is told."""
        match self.finish:
            case "length":
                return {"type": "length", "length": len(self.tokens)}
            case "stop":
                return {"type": "stop", "matched": self.tokens[-1]}
            case _:
                return {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}

    def spans(self) -> list[dict[str, Any]]:
        """Which version has made which tokens."""
        spans: list[dict[str, Any]] = []
        for place, version in enumerate(self.versions):
            if spans and spans[-1]["version"] == version:
                spans[-1]["end"] = place + 1
            else:
                spans.append({"version": version, "start": place, "end": place + 1})
        return spans


class Generating:
    """The requests that are being answered. All of them are computed anew for each token: models are small."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._rows: list[Row] = []
        self._going = asyncio.Event()
        self._going.set()
        self._kept = False  # whether a pause has left what is cached of the responses where it was
        self._asked = asyncio.Event()
        self._busy = asyncio.Lock()

    async def finished(self, row: Row) -> None:
        """Answer a request; it is given up if its client goes away."""
        self._rows.append(row)
        self._asked.set()
        try:
            await row.done.wait()
        finally:
            self._rows.remove(row)

    @property
    def idle(self) -> bool:
        """Whether no request is open."""
        return all(row.finish is not None for row in self._rows)

    def abort(self, rid: str, everything: bool) -> None:
        """End requests, by the beginning of their names."""
        for row in self._rows:
            if row.finish is None and (everything or (rid and row.rid.startswith(rid))):
                row.end("abort")

    async def pause(self, mode: str) -> None:
        """Once the token that is being made is there, make no further one.

        Raises:
            ValueError: there is no such mode.
        """
        if mode not in ("abort", "in_place", "retract"):
            raise ValueError(f"no mode {mode}")
        self._going.clear()
        async with self._busy:
            pass
        self._kept = mode == "in_place"
        if mode == "abort":
            self.abort("", True)

    def go_on(self) -> None:
        """After `pause`."""
        self._going.set()

    async def flushed(self, seconds: float) -> bool:
        """Whether the cache can be emptied within so many seconds: no response is being made then."""
        until = asyncio.get_running_loop().time() + seconds
        while not self.idle and (self._going.is_set() or self._kept):
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(_SECONDS)
        return True

    async def run(self, version: Callable[[], str]) -> None:
        """Make tokens for ever; `version` names the weights that do."""
        while True:
            await asyncio.gather(self._going.wait(), self._asked.wait(), asyncio.sleep(_SECONDS))
            async with self._busy:
                rows = [row for row in self._rows if row.finish is None]
                if not rows:
                    self._asked.clear()
                elif self._going.is_set():
                    found = await asyncio.to_thread(self._next, rows)
                    for row, (token, log_prob) in zip(rows, found, strict=True):
                        if row.finish is None:  # it may have been aborted meanwhile
                            row.versions.append(version())
                            self._append(row, token, log_prob)

    def prompt_log_probs(self, ids: list[int]) -> list[float]:
        """Of all tokens but the first, at temperature 1."""
        with torch.no_grad():
            log_probs = torch.log_softmax(self._model(input_ids=torch.tensor([ids])).logits[0, :-1].float(), dim=-1)
        return log_probs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()

    @torch.no_grad()
    def _next(self, rows: list[Row]) -> list[tuple[int, float]]:
        texts = [[*row.prompt, *row.tokens] for row in rows]
        lengths = [len(text) for text in texts]
        # What fills a row comes after its last token, which does not look at it.
        ids = torch.tensor([text + [0] * (max(lengths) - len(text)) for text in texts])
        logits = self._model(input_ids=ids, use_cache=False).logits.float()
        return [_drawn(logits[i, length - 1], rows[i].sampling) for i, length in enumerate(lengths)]

    def _append(self, row: Row, token: int, log_prob: float) -> None:
        row.tokens.append(token)
        row.log_probs.append(log_prob)
        text = self._tokenizer.decode(row.tokens) if row.sampling["stop"] else ""
        if token in row.sampling["stop_token_ids"] or any(stop in text for stop in row.sampling["stop"]):
            row.end("stop")
        elif len(row.tokens) == row.sampling["max_new_tokens"]:
            row.end("length")


def _drawn(logits: Tensor, sampling: dict[str, Any]) -> tuple[int, float]:
    """A token, and its log-prob among all tokens; the likeliest, and at temperature 1, if none but it can be drawn."""
    if sampling["temperature"] < _GREEDY or sampling["top_k"] == 1:
        log_probs = torch.log_softmax(logits, dim=-1)
        token = int(log_probs.argmax())
        return token, float(log_probs[token])
    log_probs = torch.log_softmax(logits / sampling["temperature"], dim=-1)
    probs, order = log_probs.double().exp().sort(descending=True)
    probs[probs.cumsum(0) - probs >= sampling["top_p"]] = 0.0
    if sampling["top_k"] > 0:
        probs[sampling["top_k"] :] = 0.0
    token = int(order[torch.multinomial(probs, 1)])
    return token, float(log_probs[token])
