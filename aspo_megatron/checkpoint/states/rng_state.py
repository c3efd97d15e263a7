"""The random states of a rank: Python's, NumPy's, torch's, and megatron's for each kind of parallelism."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from safetensors.torch import load, save
from torch import Tensor

from aspo_megatron.checkpoint import checked_json
from aspo_megatron.errors import CheckpointError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import parse_json, read_bytes

_TRACKED = "megatron."
"""What the names of the states of kinds of parallelism begin with."""

_LARGEST = 1 << 20


def random_file(rank: int) -> str:
    """Name of a rank's file in a checkpoint."""
    return f"random-{rank:05d}.safetensors"


def capture() -> bytes:
    """All states of this process, as a safetensors file."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    states = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).view(np.int32).copy())}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    for name, state in get_cuda_rng_tracker().get_states().items():
        states[f"{_TRACKED}{name}"] = state
    told = {
        "python": json.dumps(random.getstate()),
        "numpy": json.dumps([kind, int(position), int(has_gauss), float(gauss)]),
    }
    content: bytes = save({name: state.clone() for name, state in states.items()}, metadata=told)
    return content


def restore(path: str) -> None:
    """Put back what `capture` has written to the file `path`.

    Raises:
        CheckpointError: it cannot be read, or says what no state can be; nothing is put back then.
    """
    content = read_bytes(Path(path), CheckpointError, _LARGEST)
    try:
        states: dict[str, Tensor] = load(content)
        metadata = _metadata(content)
        python = _python_state(parse_json(metadata["python"], "python"))
        numpy = _numpy_state(parse_json(metadata["numpy"], "numpy"), states.pop("numpy"))
        for name, state in states.items():
            if state.dtype != torch.uint8 or state.dim() != 1:
                raise ValueError(f"{one_line(name[:100])} is no random state")
        own, cuda = states.pop("torch"), states.pop("cuda", None)
        torch.Generator().set_state(own)  # refuses what is none
    except Exception as error:  # safetensors' own errors, and whatever a damaged file leads to
        raise CheckpointError(f"{path}: cannot be read ({one_line(str(error)[:300])})") from error
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(own)
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
    tracked = {name.removeprefix(_TRACKED): state for name, state in states.items() if name.startswith(_TRACKED)}
    get_cuda_rng_tracker().set_states(tracked)


def _metadata(content: bytes) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    header = checked_json.mapping(parse_json(content[8 : 8 + length], "header"), "the header")
    return checked_json.mapping(header.get("__metadata__"), "what is said of the states")


def _python_state(value: Any) -> tuple[int, tuple[int, ...], float | None]:
    version, numbers, gauss = checked_json.items(value, "python")
    words = checked_json.wholes({"numbers": numbers}, "numbers", 2**32 - 1)
    if type(version) is not int or not (gauss is None or math.isfinite(gauss)):
        raise ValueError("python's is no random state")
    random.Random().setstate((version, tuple(words), gauss))  # refuses what is none
    return version, tuple(words), gauss


def _numpy_state(value: Any, keys: Tensor) -> tuple[str, Any, int, int, float]:
    kind, position, has_gauss, gauss = checked_json.items(value, "numpy")
    whole = {"position": position, "has_gauss": has_gauss}
    if kind != "MT19937" or keys.dtype != torch.int32 or keys.shape != (624,) or not math.isfinite(gauss):
        raise ValueError("numpy's is no random state")
    words = keys.numpy().view(np.uint32)
    return (
        kind,
        words,
        checked_json.whole(whole, "position", 624),
        checked_json.whole(whole, "has_gauss", 1),
        float(gauss),
    )
