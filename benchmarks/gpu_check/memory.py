"""Bytes of a GPU that tensors have, as they were asked for: the allocator's own rounding is not among them."""

from __future__ import annotations

import gc

import torch

_GRANULE = 512


def held() -> int:
    """What there is now."""
    torch.cuda.init()  # before it PyTorch has no figures, not even zeros
    gc.collect()
    return int(torch.cuda.memory_stats()["requested_bytes.all.current"])


def begin() -> int:
    """Let the peak begin anew; what is held."""
    torch.cuda.synchronize()
    before = held()
    torch.cuda.reset_peak_memory_stats()
    return before


def peak() -> int:
    """The most that was held since `begin`."""
    return int(torch.cuda.memory_stats()["requested_bytes.all.peak"])


def rounding(tensors: int) -> int:
    """What an allocator may add to so many of them."""
    return _GRANULE * tensors


def mib(size: float) -> float:
    """Bytes in MiB."""
    return size / 2**20
