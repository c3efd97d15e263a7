"""Elements and operations of a model, counted from its family's table: nothing is built."""

from __future__ import annotations

from aspo_megatron.models.family import Family
from aspo_megatron.models.mapping import exported


def model_elements(family: Family) -> int:
    """Elements of the whole model, as its checkpoint has them."""
    shape = family.shape(tp=1)
    return sum(row.times(shape) * row.elements(shape) for row in exported(family.rows))


def active_elements(family: Family) -> int:
    """Elements that a token is multiplied with: of the experts only those that it goes through; no embedding table."""
    shape = family.shape(tp=1)
    total = shape.vocab_size * shape.hidden_size  # the output projection, tied or not
    for row in family.rows:
        if row.per_layer:
            times = family.experts_per_token if row.per_expert else 1
            total += shape.num_layers * times * row.elements(shape)
    return total


def forward_operations(family: Family, tokens: float, scored: float, pairs: float) -> float:
    """Floating-point operations of a forward pass: products with weights, and attention.

    Args:
        family: of the model.
        tokens: that go through the layers.
        scored: of them, those that the output projection is computed for.
        pairs: of a query's and a key's token.
    """
    attention = 4 * family.num_layers * family.num_heads * family.head_dim * pairs
    head = family.vocab_size * family.hidden_size
    layers = active_elements(family) - head
    return 2 * (layers * tokens + head * scored) + attention
