"""SGLang's Python, options and models; NCCL on both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aspo_megatron.doctor.host import Answer, Torch
from aspo_megatron.doctor.lines import Line
from aspo_megatron.models.family import read_family
from doctor.machines import CUDA_TORCH, NOT_FOUND, Imitated, eight_gpus, lines_of, requirements_of, without_gpus

ROOT = Path(__file__).parents[2]
SERVER = "/envs/sglang/bin/python"
SGLANG = "/envs/sglang/lib/sglang"
OPTIONS = (
    *("model-path", "dtype", "host", "port", "tp-size", "skip-server-warmup", "load-format", "enable-memory-saver"),
    *("enable-fp32-lm-head", "mem-fraction-static", "config", "device", "attention-backend", "sleep-on-idle"),
    *("disable-overlap-schedule", "max-total-tokens"),
)
BY_NAME = "".join(f'        parser.add_argument(\n            "--{option}",\n' for option in OPTIONS)
AS_FIELDS = "".join(
    f'    {option.replace("-", "_")}: A[\n        bool,\n        "What it does.",\n    ]\n' for option in OPTIONS
)
ASKED = {f"{SERVER} -c": Answer(0, f'a warning\nSGLANG ["0.5.23", "2.13.0", ["{SGLANG}"]]\n')}


def with_sglang(source: str = BY_NAME, nccl: Answer | None = None, **more: str) -> Imitated:
    """A node whose servers' environment has an SGLang with this source of options."""
    files = {
        SERVER: "",
        f"{SGLANG}/srt/server_args.py": source,
        f"{SGLANG}/srt/models/qwen3.py": "class Qwen3ForCausalLM(nn.Module):\n",
    }
    answers = {f"{SERVER} -W ignore -c": nccl or Answer(0, "NCCL 2 29 7\n")} | ASKED | eight_gpus()
    return Imitated(answers, files=files | more)


def lines(host: Imitated, *overrides: str) -> dict[str, Line]:
    words = ("rollout.engine=sglang", f"rollout.servers.python={SERVER}", "model.dtype=bfloat16", *overrides)
    return lines_of(host, requirements_of(*words, host=host, config=True))


def test_servers_that_fit_are_found_without_starting_sglang() -> None:
    host = with_sglang()
    found = lines(host)
    assert found["SGLang"].found == f"0.5.23, torch 2.13.0 ({SERVER})"
    assert found["its options"].mark == "ok"
    assert found["NCCL"].found == "2.29.7, in the servers' environment too"
    assert not any("--help" in command for command in host.asked)


def test_options_that_are_fields_are_found_too() -> None:
    host = with_sglang("", None, **{f"{SGLANG}/srt/arg_groups/fields/model.py": AS_FIELDS})
    assert lines(host)["its options"].mark == "ok"
    assert not any("--help" in command for command in host.asked)


def test_an_option_that_sglang_does_not_know_is_wrong() -> None:
    host = with_sglang(BY_NAME.replace('"--enable-fp32-lm-head"', '"--enable-fp32-lm-heads"'))
    host._answers |= {
        f"{SERVER} -m sglang.launch_server --help": Answer(0, "  --port PORT\n  --enable-fp32-lm-heads\n")
    }
    line = lines(host)["its options"]
    assert line.mark == "wrong"
    assert "SGLang 0.5.23 does not support --enable-fp32-lm-head, which the run passes" in line.found
    assert line.todo == f"install a newer SGLang: {SERVER} -m pip install -U sglang"


def test_an_option_that_only_the_help_names_is_known_and_without_help_not_told() -> None:
    host = with_sglang("nothing of use")
    said = " ".join(f"--{option}" for option in OPTIONS)
    host._answers |= {f"{SERVER} -m sglang.launch_server --help": Answer(0, said)}
    assert lines(host)["its options"].mark == "ok"
    host._answers |= {f"{SERVER} -m sglang.launch_server --help": Answer(1, "", "ImportError: libnuma.so.1\n")}
    assert lines(host)["its options"].mark == "unknown"


def test_a_users_own_option_is_looked_for_too() -> None:
    host = with_sglang()
    host._answers |= {f"{SERVER} -m sglang.launch_server --help": Answer(0, "--port PORT")}
    line = lines(host, "rollout.servers.extra_args=[--chunked-prefill-sise=8]")["its options"]
    assert line.mark == "wrong"
    assert "--chunked-prefill-sise" in line.found
    assert line.todo == "see rollout.servers.extra_args"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (Answer(0, 'SGLANG [null, "2.13.0", []]'), "SGLang is not installed there"),
        (Answer(127, "", "bad interpreter\n"), "bad interpreter"),
        (Answer(None, problem="no answer within 30 s"), "no answer within 30 s"),
    ],
)
def test_a_python_without_sglang_is_wrong_where_the_run_starts_servers(answer: Answer, found: str) -> None:
    host = with_sglang()
    host._answers[f"{SERVER} -c"] = answer
    assert lines(host)["SGLang"].mark == "wrong"
    assert found in lines(host)["SGLang"].found
    assert lines_of(host, requirements_of(f"rollout.servers.python={SERVER}", host=host))["SGLang"].mark == "unneeded"


def test_no_python_where_it_is_said_to_be() -> None:
    host = without_gpus()
    found = lines(host)["SGLang"]
    assert found.mark == "wrong"
    assert found.todo.startswith("make sglang-cpu")
    assert lines_of(host)["SGLang"].mark == "unneeded"
    assert lines(Imitated(eight_gpus()))["SGLang"].todo.startswith("python3.11 -m venv /envs/sglang &&")


def test_servers_that_others_start_are_not_looked_for() -> None:
    host = with_sglang()
    found = lines(host, "rollout.servers.addresses=[http://node9:30000]")
    assert found["SGLang"].mark == "unneeded"
    assert found["servers' key"].mark == "warn"


def test_a_model_that_sglang_does_not_have_is_wrong() -> None:
    host = with_sglang()
    words = ("rollout.engine=sglang", f"rollout.servers.python={SERVER}")
    needs = requirements_of(*words, host=host, config=True)
    dense = replace(needs, family=read_family(ROOT / "examples" / "qwen3_8b" / "model"))
    experts = replace(needs, family=read_family(ROOT / "examples" / "qwen3_30b_a3b" / "model"))
    assert lines_of(host, dense)["its models"].mark == "ok"
    assert lines_of(host, experts)["its models"].found == "SGLang 0.5.23 does not support Qwen3MoeForCausalLM"


def test_a_cpu_torch_does_not_serve_gpus() -> None:
    host = with_sglang()
    host._answers[f"{SERVER} -c"] = Answer(0, f'SGLANG ["0.5.23", "2.13.0+cpu", ["{SGLANG}"]]')
    assert lines(host)["its torch"].mark == "wrong"


@pytest.mark.parametrize(
    ("theirs", "overrides", "mark", "todo"),
    [
        ("2 30 7", (), "warn", "pip install --no-deps nvidia-nccl-cu13==2.30.7"),
        ("2 28 9", (), "warn", f"{SERVER} -m pip install --no-deps nvidia-nccl-cu13==2.29.7"),
        ("2 30 7", ("rollout.servers.sync=distributed",), "wrong", "pip install --no-deps nvidia-nccl-cu13==2.30.7"),
        ("2 30 7", ("rollout.servers.sync=disk",), "ok", ""),
        ("2 30 7", ("rollout.servers.colocate=true",), "ok", ""),
    ],
)
def test_versions_of_nccl_that_differ(theirs: str, overrides: tuple[str, ...], mark: str, todo: str) -> None:
    line = lines(with_sglang(nccl=Answer(0, f"NCCL {theirs}\n")), *overrides)["NCCL"]
    assert line.mark == mark
    assert line.todo.startswith(todo)
    assert mark != "warn" or "sync=auto uses `tensor`" in line.found


@pytest.mark.parametrize(
    ("cuda", "build", "theirs", "package"),
    [
        ("12.6", "2.13.0", "2 30 7", "nvidia-nccl-cu12==2.30.7"),
        ("13.0", "2.9.1+cu128", "2 28 9", "nvidia-nccl-cu12==2.29.7"),
    ],
)
def test_the_nccl_to_install_is_of_the_cuda_of_its_environment(
    cuda: str, build: str, theirs: str, package: str
) -> None:
    host = with_sglang(nccl=Answer(0, f"NCCL {theirs}\n"))
    host.__dict__["torch"] = replace(CUDA_TORCH, cuda=cuda)
    host._answers |= {f"{SERVER} -c": Answer(0, f'SGLANG ["0.5.23", "{build}", ["{SGLANG}"]]\n')}
    assert package in lines(host)["NCCL"].todo


def test_no_environment_is_laid_over_the_systems() -> None:
    host = Imitated(eight_gpus() | {"/usr/bin/python3 -c": Answer(0, "SGLANG [null, null, []]\n")})
    host._files["/usr/bin/python3"] = ""
    todo = lines(host, "rollout.servers.python=/usr/bin/python3")["SGLang"].todo
    assert "-m venv .venv-sglang && .venv-sglang/bin/pip install sglang" in todo
    assert "rollout.servers.python=.venv-sglang/bin/python" in todo
    made = lines(host, "rollout.servers.python=/envs/new/bin/python")["SGLang"].todo
    assert made.startswith("python3.11 -m venv /envs/new && /envs/new/bin/pip install sglang;")


def test_an_interface_of_a_kind_that_does_not_tell_counts() -> None:
    host = Imitated(
        eight_gpus(), files={"/sys/class/net/net1/operstate": "unknown\n", "/sys/class/net/x/operstate": "down"}
    )
    assert lines_of(host)["interfaces"].found == "eth0, net1"


def test_an_nccl_that_cannot_be_asked_for_is_not_known() -> None:
    assert lines(with_sglang(nccl=NOT_FOUND))["NCCL"].mark == "unknown"
    host = with_sglang()
    host.__dict__["torch"] = Torch("2.13.0", "13.0", ("sm_90",), None)
    assert lines(host)["NCCL"].mark == "wrong"


TWO = {f"/sys/class/net/{name}/operstate": "up" for name in ("eth0", "ib0")} | {
    "/sys/class/net/lo/operstate": "unknown"
}


def test_several_interfaces_matter_between_nodes_alone() -> None:
    host = Imitated(eight_gpus(), files=TWO)
    assert lines_of(host)["interfaces"].mark == "ok"
    line = lines_of(host, requirements_of(host=host, config=True, nodes=2))["interfaces"]
    assert line.mark == "warn"
    assert line.todo.startswith("export NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0")
    host.env = {"NCCL_SOCKET_IFNAME": "ib", "GLOO_SOCKET_IFNAME": "ib0"}
    found = lines_of(host, requirements_of(host=host, config=True, nodes=2))
    assert [found[name].mark for name in ("interfaces", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")] == ["ok"] * 3


@pytest.mark.parametrize(
    ("variable", "value", "mark"),
    [
        ("GLOO_SOCKET_IFNAME", "ib", "wrong"),
        ("NCCL_SOCKET_IFNAME", "=ib", "wrong"),
        ("NCCL_SOCKET_IFNAME", "^docker0", "ok"),
        ("NCCL_SOCKET_IFNAME", "bond,ib", "ok"),
        ("NCCL_SOCKET_IFNAME", "ens", "wrong"),
    ],
)
def test_an_interface_that_is_named_is_there_or_not(variable: str, value: str, mark: str) -> None:
    assert lines_of(Imitated(eight_gpus(), files=TWO, env={variable: value}))[variable].mark == mark


@pytest.mark.parametrize(
    ("answer", "one", "several"),
    [
        (Answer(0, "10.0.0.7 node7\n"), "ok", "ok"),
        (Answer(0, "127.0.1.1       node7\n"), "ok", "wrong"),
        (Answer(2, ""), "warn", "wrong"),
        (Answer(None, problem="no answer within 5 s"), "unknown", "unknown"),
    ],
)
def test_the_machines_name_has_an_address_that_other_nodes_reach(answer: Answer, one: str, several: str) -> None:
    host = Imitated(eight_gpus() | {"getent hosts": answer})
    assert lines_of(host)["host name"].mark == one
    assert lines_of(host, requirements_of(host=host, config=True, nodes=2))["host name"].mark == several
