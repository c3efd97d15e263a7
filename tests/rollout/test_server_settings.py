"""How servers are started, without starting any: commands, environments, ports, keys, and what is refused."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from aspo_megatron.config import ServersConfig
from aspo_megatron.errors import UserError
from aspo_megatron.rollout.sglang.command import ServedModel, server_command
from aspo_megatron.rollout.sglang.environment import server_environment
from aspo_megatron.rollout.sglang.local_servers import LocalServers, exposed_without_key
from aspo_megatron.rollout.sglang.server_key import read_api_key

MODEL = ServedModel(Path("/models/m"), "bfloat16", random=False)


def options(command: list[str]) -> dict[str, str]:
    """Options with their values; a flag's value is the next option."""
    return {name: value for name, value in zip(command, [*command[1:], ""], strict=True) if name.startswith("--")}


def test_a_server_on_gpus() -> None:
    config = ServersConfig(tp=4, memory_fraction=0.7, extra_args=("--enable-metrics",))
    command = server_command(config, MODEL, "cuda", 30001)
    found = options(command)
    assert command[1:3] == ["-m", "sglang.launch_server"]
    assert (found["--model-path"], found["--dtype"], found["--tp-size"]) == ("/models/m", "bfloat16", "4")
    assert (found["--host"], found["--port"], found["--mem-fraction-static"]) == ("127.0.0.1", "30001", "0.7")
    assert command[-1] == "--enable-metrics"
    assert not {"--device", "--attention-backend", "--load-format", "--max-total-tokens", "--api-key"} & set(found)


def test_logits_are_fp32_as_the_trainers() -> None:
    flag = "--enable-fp32-lm-head"
    assert flag in server_command(ServersConfig(), MODEL, "cuda", 30000)
    assert flag not in server_command(ServersConfig(), ServedModel(Path("m"), "float32", False), "cuda", 30000)
    assert flag not in server_command(ServersConfig(), MODEL, "cpu", 30000)  # there it multiplies in fp32, slowly


def test_a_server_on_cpu_of_a_model_without_weights() -> None:
    found = options(server_command(ServersConfig(), ServedModel(Path("m"), "float32", random=True), "cpu", 30000))
    assert found["--device"] == "cpu"
    assert found["--attention-backend"] == "torch_native"
    assert found["--load-format"] == "dummy"
    assert (found["--max-total-tokens"], found["--mem-fraction-static"]) == ("65536", "0.1")
    assert Path(found["--model-path"]).is_absolute()


@pytest.mark.parametrize(
    ("number", "visible", "expected"),
    [(0, "0,1,2,3,4,5,6,7", "6,7"), (1, "0,1,2,3,4,5,6,7", "4,5"), (0, "3,5,6", "5,6")],
)
def test_servers_take_the_last_gpus(monkeypatch: pytest.MonkeyPatch, number: int, visible: str, expected: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert server_environment(ServersConfig(tp=2), "cuda", number, os.environ)["CUDA_VISIBLE_DEVICES"] == expected


@pytest.mark.parametrize(("number", "expected"), [(0, "6,7,2"), (2, "2,3")])
def test_a_server_that_opens_memory_of_the_trainers_sees_its_gpu(
    monkeypatch: pytest.MonkeyPatch, number: int, expected: str
) -> None:
    """The leader's GPU is the first; SGLang takes the first ones of those it sees for itself."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,4,5,6,7")
    config = ServersConfig(tp=2, count=3, sync="tensor", colocate=True)
    assert server_environment(config, "cuda", number, os.environ)["CUDA_VISIBLE_DEVICES"] == expected


def test_a_server_is_not_told_that_its_parent_is_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "ASPO_RANK_REPORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("KEPT", "yes")
    env = server_environment(ServersConfig(), "cpu", 0, os.environ)
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "ASPO_RANK_REPORT"} & set(env)
    of_torchrun = {"GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME"}
    of_torchrun |= {"TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RUN_ID", "TORCH_NCCL_BLOCKING_WAIT"}
    assert not of_torchrun & set(server_environment(ServersConfig(), "cpu", 0, dict.fromkeys(of_torchrun, "True")))
    assert (env["KEPT"], env["OMP_NUM_THREADS"], env["SGLANG_USE_CPU_ENGINE"]) == ("yes", "1", "1")


def test_a_server_has_its_own_settings_of_cuda() -> None:
    env = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "CUDA_DEVICE_MAX_CONNECTIONS": "1", "CUDA_HOME": "/cuda"}
    found = server_environment(ServersConfig(), "cuda", 0, env)
    assert not {"PYTORCH_ALLOC_CONF", "CUDA_DEVICE_MAX_CONNECTIONS"} & set(found)
    assert found["CUDA_HOME"] == "/cuda"
    of_user = {"PYTORCH_CUDA_ALLOC_CONF": "garbage_collection_threshold:0.8"}
    assert server_environment(ServersConfig(), "cuda", 0, of_user).items() >= of_user.items()


def test_trainer_and_servers_have_the_same_settings_of_nccl() -> None:
    """SGLang turns off what is not set; between two GPUs of a machine NCCL wants both sides to have the same."""
    untouched = server_environment(ServersConfig(sync="distributed"), "cuda", 0, {})
    assert (untouched["NCCL_CUMEM_ENABLE"], untouched["NCCL_NVLS_ENABLE"]) == ("-2", "2")  # NCCL's own defaults
    of_user = server_environment(ServersConfig(sync="distributed"), "cuda", 0, {"NCCL_CUMEM_ENABLE": "0"})
    assert of_user["NCCL_CUMEM_ENABLE"] == "0"
    for way in ("tensor", "disk"):  # without NCCL between the two
        found = server_environment(ServersConfig(sync=way), "cuda", 0, {"CUDA_VISIBLE_DEVICES": "0,1"})
        assert "NCCL_CUMEM_ENABLE" not in found


@pytest.mark.parametrize(
    ("settings", "exposed"),
    [
        ({}, []),
        ({"host": "localhost"}, []),
        ({"host": "0.0.0.0"}, []),  # a key is made
        ({"addresses": ("http://127.0.0.1:30000", "http://[::1]:30000")}, []),
        ({"addresses": ("http://127.0.0.1:30000", "http://node7:30000")}, ["http://node7:30000"]),
        ({"host": "0.0.0.0", "api_key_file": Path("key")}, []),
    ],
)
def test_what_is_warned_about(settings: dict[str, Any], exposed: list[str]) -> None:
    assert exposed_without_key(ServersConfig(**settings)) == exposed


def test_the_key_comes_from_a_file(tmp_path: Path) -> None:
    key = tmp_path / "key"
    with pytest.raises(UserError, match="api_key_file"):
        read_api_key(ServersConfig(api_key_file=key))
    key.write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        read_api_key(ServersConfig(api_key_file=key))
    key.write_text("secret\n")
    assert read_api_key(ServersConfig(api_key_file=key)) == "secret"
    assert read_api_key(ServersConfig()) is None


@pytest.mark.timeout(60)
def test_the_key_is_not_on_the_command_line(tmp_path: Path) -> None:
    """Any user sees command lines. This Python has no SGLang; it lives long enough to be looked at, in a script."""
    key = tmp_path / "key"
    key.write_text("to-all-doors\n")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nwhile [ "$1" != --config ]; do shift; done; cat "$2"; sleep 60\n')
    python.chmod(0o755)
    config = ServersConfig(python=python, api_key_file=key)
    log = tmp_path / "logs" / "server0.log"
    with LocalServers(config, MODEL, "cpu", tmp_path / "logs", print):
        while not log.exists() or not log.read_text():
            time.sleep(0.05)
        (server,) = (child for child in psutil.Process().children() if str(python) in child.cmdline())
        commands = [" ".join(process.cmdline()) for process in (server, *server.children(recursive=True))]
        settings = Path(server.cmdline()[server.cmdline().index("--config") + 1])
        assert yaml.safe_load(log.read_text()) == {"api-key": "to-all-doors"}
        assert settings.stat().st_mode & 0o077 == log.stat().st_mode & 0o077 == 0
    assert not any("to-all-doors" in command for command in commands)
    assert not settings.exists()


def start(tmp_path: Path, device: str = "cpu", **settings: Any) -> LocalServers:
    config = ServersConfig(python=Path(sys.executable), **settings)
    return LocalServers(config, MODEL, device, tmp_path / "logs", print)


def test_what_cannot_be_started_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make sglang-cpu"):
        LocalServers(ServersConfig(python=tmp_path / "no"), MODEL, "cpu", tmp_path, print)
    with pytest.raises(UserError, match=r"rollout.servers.tp: a server on CPU"):
        start(tmp_path, tp=2)
    with pytest.raises(UserError, match="GPUs are needed"):
        start(tmp_path, "cuda", count=100)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"rollout.servers.port: 127.0.0.1:{port} cannot be used"):
            start(tmp_path, port=port)


@pytest.mark.timeout(60)
def test_a_server_that_ends_is_started_again_and_at_last_given_up(tmp_path: Path) -> None:
    """This Python has no SGLang: the server ends as it starts, and its log says why."""
    told: list[str] = []
    config = ServersConfig(python=Path(sys.executable), restarts=1)
    with (
        LocalServers(config, MODEL, "cpu", tmp_path / "logs", told.append) as servers,
        pytest.raises(UserError, match="No module named") as caught,
    ):
        servers.ready(50.0)
    assert "ended with exit code 1, after 2 starts" in str(caught.value)
    assert "sglang" in str(caught.value)
    assert "it is started again" in told[0]
