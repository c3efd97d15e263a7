"""The names that SGLang imports from its CUDA kernels, where none can be loaded.

On a CPU SGLang computes with plain PyTorch; it needs these names at import only, and calling one is an error.
"""

from typing import Any, NoReturn

__version__ = "0.4.10"


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name}: there is no such kernel on a CPU")

    missing.__name__ = name
    return missing
