"""`aspo losses`: the losses there are."""

from __future__ import annotations

from aspo_megatron.streams import show


def losses() -> None:
    """List the losses with their hyperparameters."""
    from aspo_megatron import losses as registry

    for name in registry.names():
        loss = registry.get(name)
        show(f"{name}: {(loss.__doc__ or '').strip().splitlines()[0]}")
        for key, field in loss.model_fields.items():
            show(f"    loss.{key} = {field.default}  {field.description or ''}".rstrip())
