"""NVFP4: numbers of 4 bits (E2M1), a scale in FP8 for each 16 of a row, and one in fp32 for all. Pure tensors.

ModelOpt computes these on GPUs alone; what it writes is the same, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 16
_LARGEST, _FP8_MAX, _FP8_MIN = 6.0, 448.0, 2.0**-9
_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_BOUNDS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
"""Between neighbours of `_VALUES`; what lies in the middle goes to the one whose last bit is 0."""


def rounded(values: Tensor, amax: Tensor) -> Tensor:
    """The nearest numbers that NVFP4 has.

    Args:
        values: [..., n], n a multiple of 16.
        amax: the largest magnitude of all, one number.

    Returns:
        The same shape and dtype.
    """
    blocks = values.detach().float().unflatten(-1, (-1, _BLOCK))
    of_all = amax.detach().float().reshape(()) / (_LARGEST * _FP8_MAX)
    of_all = torch.where(of_all > 0, of_all, torch.ones_like(of_all))
    scale = blocks.abs().amax(dim=-1, keepdim=True) / (_LARGEST * of_all)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale).clamp(_FP8_MIN, _FP8_MAX)
    step = scale.to(torch.float8_e4m3fn).float() * of_all
    magnitudes, bounds = (blocks / step).abs(), blocks.new_tensor(_BOUNDS)
    places = torch.bucketize(magnitudes, bounds) + (magnitudes[..., None] == bounds[1::2]).any(dim=-1)
    nearest: Tensor = blocks.new_tensor(_VALUES)[places] * blocks.sign() * step
    return nearest.flatten(-2).to(values.dtype)


def unpacked(packed: Tensor, scale: Tensor, of_all: Tensor) -> Tensor:
    """The weights that are written so, fp32 [out, in].

    Args:
        packed: [out, in / 2] uint8, the first of two numbers lowest; the sign is each one's highest bit.
        scale: [out, in / 16] FP8.
        of_all: one number, fp32.
    """
    numbers = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).long()
    values = torch.tensor([*_VALUES, *(-value for value in _VALUES)])[numbers]
    weights: Tensor = values.unflatten(-1, (-1, _BLOCK)) * (scale.float() * of_all.float())[..., None]
    return weights.flatten(-2)
