"""Modules of Triton kernels: compiled on a GPU; on a CPU interpreted, slowly, to see that they are right.

A module of kernels imports Triton at its top, so nothing imports it but `kernels_in`. Around it stand operations of
PyTorch that launch its kernels: what looks at operations (tensors without values, a simulated GPU) needs no Triton.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from aspo_megatron.errors import UserError

_INTERPRET = "TRITON_INTERPRET"
_library = torch.library.Library("aspo_megatron", "FRAGMENT")


def define_operation(schema: str, launch: Callable[..., None]) -> None:
    """Make `torch.ops.aspo_megatron.NAME` of what launches kernels, and gives nothing but what it writes to.

    Not by `torch.library.custom_op`, whose operations import PyTorch's compiler at their first call, three seconds, and
    take 40 microseconds at each, eight times as long as these.
    """
    name = _library.define(schema)
    _library.impl(name, launch, "CompositeExplicitAutograd")
    torch.library.register_fake(f"aspo_megatron::{name}", lambda *_: None, lib=_library)


def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def kernels_in(module: str, device: torch.device) -> Any:
    """The module of that name, its kernels for tensors of `device`.

    Raises:
        UserError: on a CPU, if this process has imported Triton before to compile.
    """
    if device.type != "cpu":
        return importlib.import_module(module)
    with _interpreting():
        kernels = importlib.import_module(module)
        # A part of Triton that decides as it is imported, too: at the first launch, if it is not there by then.
        importlib.import_module("triton.experimental.gluon")
        return kernels


@contextlib.contextmanager
def _interpreting() -> Iterator[None]:
    """Triton decides as it is imported, by a variable, whether its functions are interpreted; of kernels the same."""
    if "triton" in sys.modules and not _is_interpreted():
        raise UserError(
            f"Triton was imported before, to compile; start with {_INTERPRET}=1, or take plain kernels "
            "(model.kernels.log_prob=eager, model.kernels.rotary=eager, model.kernels.attention=blocks)"
        )
    before = os.environ.get(_INTERPRET)
    os.environ[_INTERPRET] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_INTERPRET]
        else:
            os.environ[_INTERPRET] = before


def _is_interpreted() -> bool:
    from triton import language
    from triton.runtime.interpreter import InterpretedFunction

    return isinstance(language.zeros, InterpretedFunction)
