"""What goes with what, of the settings for generation beside training; and what a colocated server is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from aspo_megatron.config import ServersConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import ConfigError
from aspo_megatron.rollout.sglang.command import ServedModel, server_command

REQUIRED = ["output_dir=runs/a", "model.path=models/m", "data.train.kind=jsonl", "data.train.path=p.jsonl"]
SGLANG = "rollout.engine=sglang"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["rollout.overlap=wait"], "overlap=wait needs engine sglang"),
        (["rollout.overlap=continue"], "overlap=continue needs engine sglang"),
        (["rollout.cut_off=0.9"], "cut_off=0.9 needs engine sglang"),
        ([SGLANG, "rollout.cut_off=0.3"], "rollout.cut_off"),
        ([SGLANG, "rollout.cut_off=0.9", "rollout.dynamic_sampling=refill"], "does not go with dynamic_sampling"),
        ([SGLANG, "rollout.overlap=wait", "rollout.servers.colocate=true"], "does not go with servers.colocate"),
    ],
)
def test_what_does_not_go_together_is_one_line(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(None, [*REQUIRED, *overrides])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["rollout.overlap=continue", "rollout.cut_off=0.8", "rollout.dynamic_sampling=drop"],
        ["rollout.overlap=wait", "rollout.dynamic_sampling=refill"],
        ["rollout.servers.colocate=true", "rollout.cut_off=0.8"],
    ],
)
def test_what_goes_together(overrides: list[str]) -> None:
    load_config(None, [*REQUIRED, SGLANG, *overrides])


def test_only_a_colocated_server_on_a_gpu_can_give_up_its_memory() -> None:
    model = ServedModel(Path("m"), "bfloat16", random=False)
    flag = "--enable-memory-saver"
    assert flag in server_command(ServersConfig(colocate=True), model, "cuda", 30000)
    assert flag not in server_command(ServersConfig(), model, "cuda", 30000)
    assert flag not in server_command(ServersConfig(colocate=True), model, "cpu", 30000)  # it would not start
