"""The Python interface: `train`, `evaluate`, `convert`, configurations, metrics, losses, and log-probs without logits.

This and `aspo_megatron.losses` are what is public in Python; docs/python.md says what that means, with an example of
each. Importing it is cheap: what a name needs, torch for one, is imported when the name is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aspo_megatron import losses
    from aspo_megatron.api.configuration import load_config
    from aspo_megatron.api.conversion import convert
    from aspo_megatron.api.evaluation import Estimate, EvaluationResult, SetResult, evaluate
    from aspo_megatron.api.records import read_metrics
    from aspo_megatron.api.tokens import token_log_probs
    from aspo_megatron.api.training import RunSummary, TrainResult, train
    from aspo_megatron.config import RunConfig
    from aspo_megatron.errors import CheckpointError, ConfigError, RunError, UserError
    from aspo_megatron.losses import Loss, LossInput, LossOutput, Stat

__all__ = [
    "CheckpointError",
    "ConfigError",
    "Estimate",
    "EvaluationResult",
    "Loss",
    "LossInput",
    "LossOutput",
    "RunConfig",
    "RunError",
    "RunSummary",
    "SetResult",
    "Stat",
    "TrainResult",
    "UserError",
    "convert",
    "evaluate",
    "load_config",
    "losses",
    "read_metrics",
    "token_log_probs",
    "train",
]

_MODULES = {
    "aspo_megatron": ("losses",),
    "aspo_megatron.api.configuration": ("load_config",),
    "aspo_megatron.api.conversion": ("convert",),
    "aspo_megatron.api.evaluation": ("Estimate", "EvaluationResult", "SetResult", "evaluate"),
    "aspo_megatron.api.records": ("read_metrics",),
    "aspo_megatron.api.tokens": ("token_log_probs",),
    "aspo_megatron.api.training": ("RunSummary", "TrainResult", "train"),
    "aspo_megatron.config": ("RunConfig",),
    "aspo_megatron.errors": ("CheckpointError", "ConfigError", "RunError", "UserError"),
    "aspo_megatron.losses": ("Loss", "LossInput", "LossOutput", "Stat"),
}
"""Where each public name is; the lines above say the same to type checkers."""


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            if name == "losses":
                return import_module("aspo_megatron.losses")
            found: object = getattr(import_module(module), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
