"""The learning rate of each update, by the place of the update in the run."""

from __future__ import annotations

from typing import Any

from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from aspo_megatron.config import OptimizerConfig


class Schedule:
    """megatron's course of rates, and how many updates of it are done.

    Of n updates, w of them warm-up, number k (from 1) has the rate lr * k / w in the warm-up, and after it
    min_lr + (lr - min_lr) * f((k - w) / (n + 1 - w)), where f falls from 1 to 0. So none is made at rate 0: the first
    has a rate, and the last is one before `min_lr`. No warm-up is the same as one of a single update.

    transformers' schedules without a warm-up are these. With one they begin at 0, where an update is lost: theirs for
    n + 1 updates, without that first one, are these.
    """

    def __init__(self, adam: Any, config: OptimizerConfig, updates: int) -> None:
        """Set the rate, and the weight decay, of the first update.

        Args:
            adam: has `param_groups`, each a dict; `wd_mult` in it is a factor of the weight decay.
            config: rates and course.
            updates: how many there will be.
        """
        warm_up = max(config.warmup_updates, 1)
        self._course = OptimizerParamScheduler(
            adam,
            init_lr=0.0,
            max_lr=config.lr,
            min_lr=config.min_lr if config.schedule != "constant" else config.lr,
            lr_warmup_steps=warm_up,
            lr_decay_steps=max(updates, warm_up) + 1,
            lr_decay_style=config.schedule,
            start_wd=config.weight_decay,
            end_wd=config.weight_decay,
            wd_incr_steps=0,
            wd_incr_style="constant",
        )
        self.stand_at(0)

    @property
    def place(self) -> int:
        """Of the next update: how many are before it in the run, made or left out."""
        return int(self._course.num_steps) - 1

    def stand_at(self, place: int) -> None:
        """Set the rate of the update at `place`."""
        self._course.num_steps = 0
        self._course.step(increment=place + 1)
