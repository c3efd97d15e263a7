"""Runs functions in processes of their own that have the stand-in: PyTorch cannot be told to forget its device."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from forked import Server

_SMALLEST = {
    "hidden_size": 8,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": 8,
}


def processes() -> Server:
    """A process that has imported everything, and forks another for each call."""
    return Server(_serve)


def _serve(pipe: Connection) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from aspo_megatron.parallel.device.platform import installed
    from aspo_megatron.simulation.device.operations import StandIn
    from aspo_megatron.simulation.device.platform import StandInPlatform
    from aspo_megatron.simulation.rank import BARE

    torch.set_num_threads(1)
    with installed(StandInPlatform(StandIn(), BARE)):  # megatron-core asks for a GPU as it is imported
        import aspo_megatron.rollout.embedded.engine  # noqa: F401
        import aspo_megatron.train.trainer  # noqa: F401
    for family in ("llama", "qwen2", "qwen3", "qwen3_moe"):  # transformers imports them when it is first asked
        AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **_SMALLEST))
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        here, there = multiprocessing.get_context("fork").Pipe()
        child = multiprocessing.get_context("fork").Process(target=_call, args=(there, task))
        child.start()
        there.close()
        try:
            pipe.send(here.recv())
        except EOFError:
            child.join()
            pipe.send((False, f"the process died: {child.exitcode}"))
        child.join()
        here.close()


def _call(pipe: Connection, task: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> None:
    function, args, kwargs = task
    try:
        pipe.send((True, function(*args, **kwargs)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
