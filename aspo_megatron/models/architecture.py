"""What a file of `models/families` says of its family."""

from __future__ import annotations

from dataclasses import dataclass

from aspo_megatron.models.mapping import ParameterRow


@dataclass(frozen=True)
class Architecture:
    """A family of models, and what it has beyond Llama.

    Attributes:
        model_types: the `model_type` of config.json by which the family is known.
        rows: every parameter of its models, in one table for all sizes.
        qkv_bias: query, key and value have biases.
        qk_norm: each head's query and key has an RMS norm.
        experts: a router and experts in place of every feed-forward layer.
    """

    model_types: tuple[str, ...]
    rows: tuple[ParameterRow, ...]
    qkv_bias: bool = False
    qk_norm: bool = False
    experts: bool = False

    def rows_of(self, *, tied_embeddings: bool) -> tuple[ParameterRow, ...]:
        """The rows of a model whose embeddings are tied, or are not."""
        return tuple(row for row in self.rows if row.tied in (None, tied_embeddings))
