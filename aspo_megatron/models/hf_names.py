"""The names that tensors have in a checkpoint, where the model in `transformers` holds them in another form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor


def by_checkpoint_name(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """`tensors` of a transformers model (or their gradients) as views, by the names of its checkpoint.

    All experts of a layer share two tensors there: `gate_up_proj` [experts, 2 x size, hidden] and `down_proj`
    [experts, hidden, size].
    """
    for name, tensor in tensors:
        prefix, experts, kind = name.rpartition(".mlp.experts.")
        if not experts or kind not in ("gate_up_proj", "down_proj"):
            yield name, tensor
            continue
        for number, own in enumerate(tensor):
            parts = (
                zip(("gate_proj", "up_proj"), own.chunk(2), strict=True) if kind == "gate_up_proj" else [(kind, own)]
            )
            for part, view in parts:
                yield f"{prefix}{experts}{number}.{part}.weight", view
