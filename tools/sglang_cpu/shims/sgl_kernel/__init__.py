"""The names that SGLang imports from its CUDA kernels, where none can be loaded.

On a CPU SGLang computes with plain PyTorch; it needs these names at import only, and calling one is an error.
"""

__version__ = "0.4.10"


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*args, **kwargs):
        raise NotImplementedError(f"sgl_kernel.{name}: there is no such kernel on a CPU")

    missing.__name__ = name
    return missing
