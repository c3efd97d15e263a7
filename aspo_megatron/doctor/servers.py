"""Checks of SGLang: its Python, its version, the options and models that it knows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aspo_megatron.config import RunConfig
from aspo_megatron.doctor.host import Host
from aspo_megatron.doctor.lines import Line, ok, unknown, unneeded, warn, wrong
from aspo_megatron.doctor.nvidia import Gpus
from aspo_megatron.doctor.requirements import Requirements

_ASK_SECONDS = 30.0
_HELP_SECONDS = 90.0
_ASK = """
import importlib.metadata as m, importlib.util as u, json
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
found = u.find_spec("sglang")
folders = list(found.submodule_search_locations or []) if found else []
print("SGLANG", json.dumps([version("sglang"), version("torch"), folders]))
"""
"""Finds it without importing it, which takes ten seconds and more."""


@dataclass(frozen=True)
class Sglang:
    """What a Python has. `problem`: why that is not known."""

    version: str = ""
    torch: str = ""
    folder: Path | None = None
    problem: str = ""


def read_sglang(host: Host, needs: Requirements) -> Sglang:
    """Ask the Python of `rollout.servers.python`."""
    python = needs.run.rollout.servers.python
    if not host.exists(python):
        return Sglang(problem="no such file")
    answer = host.run([str(python.absolute()), "-c", _ASK], _ASK_SECONDS)
    for line in answer.out.splitlines():
        if line.startswith("SGLANG "):
            version, torch, folders = json.loads(line.removeprefix("SGLANG "))
            if version is None or not folders:
                return Sglang(problem="SGLang is not installed there")
            return Sglang(version, torch or "no torch", Path(folders[0]))
    return Sglang(problem=answer.complaint)


def server_lines(host: Host, needs: Requirements, gpus: Gpus, sglang: Sglang) -> Iterator[Line]:
    """Whether the run's servers would start."""
    servers, python = needs.run.rollout.servers, needs.run.rollout.servers.python
    found = sglang.problem or f"{sglang.version}, torch {sglang.torch}"
    if needs.run.rollout.engine == "embedded":
        yield unneeded("SGLang", f"{found} ({python}); rollout.engine=embedded does not need it")
        return
    if not needs.own_servers:
        where = ", ".join(servers.addresses) or "other nodes of the job, or another job"
        yield unneeded("SGLang", f"the run uses servers started elsewhere: {where}")
        yield from _exposed(needs)
        return
    if sglang.problem:
        yield wrong(
            "SGLang",
            f"rollout.servers.python={python}: {sglang.problem}",
            _install(python, host.exists(python), gpus, needs.away),
        )
        return
    yield ok("SGLang", f"{found} ({python})")
    if (gpus.usable or needs.away) and sglang.torch.endswith("+cpu"):
        yield wrong(
            "its torch",
            f"{sglang.torch} has no CUDA, but the servers are to use the GPUs",
            _install(python, host.exists(python), gpus, needs.away),
        )
    on_gpu = bool(gpus.usable or needs.away) and needs.run.platform.device != "cpu"
    if not on_gpu and servers.tp > 1:
        yield wrong("servers", f"rollout.servers.tp={servers.tp}: a server on CPU has one process", "set it to 1")
    yield _options(host, needs.run, "cuda" if on_gpu else "cpu", sglang)
    if needs.family is not None:
        yield _models(host, needs.family.hf_config.get("architectures") or [], sglang)
    yield from _exposed(needs)


def _install(python: Path, there: bool, gpus: Gpus, away: bool) -> str:
    if gpus.there or away:
        # What is there may be the system's: nothing is laid over it.
        folder = Path(".venv-sglang") if there else python.parent.parent
        made = f"python3.11 -m venv {folder} && {folder}/bin/pip install sglang"
        named = f", rollout.servers.python={folder}/bin/python" if there else ""
        return f"{made}{named}; docs/sglang.md; or rollout.engine=embedded"
    return "make sglang-cpu (docs/sglang.md), or rollout.engine=embedded"


def _exposed(needs: Requirements) -> Iterator[Line]:
    from aspo_megatron.rollout.sglang.local_servers import exposed_without_key

    for address in exposed_without_key(needs.run.rollout.servers):
        found = f"{address} can be reached from other machines, but requires no key"
        yield warn("servers' key", found, "rollout.servers.api_key_file=FILE, which contains a long random text")


def _options(host: Host, run: RunConfig, device: str, sglang: Sglang) -> Line:
    """Whether SGLang knows the options that the run would pass.

    Its source says so at once, but not always in the same way: an option that is not found there is asked for.
    """
    passed = _passed(run, device)
    lacking = _not_in_source(host, sglang, passed)
    what = "its options"
    if not lacking:
        return ok(what, f"it supports all {len(passed)} that the run passes")
    command = [str(run.rollout.servers.python.absolute()), "-m", "sglang.launch_server", "--help"]
    answer = host.run(command, _HELP_SECONDS)
    if not answer.good:
        return unknown(what, f"{', '.join(lacking)}: not found in its source; --help: {answer.complaint}")
    lacking = [option for option in lacking if not re.search(rf"(?<![\w-]){option}(?![\w-])", answer.out)]
    if not lacking:
        return ok(what, f"it supports all {len(passed)} that the run passes")
    ours = [option for option in lacking if option not in " ".join(run.rollout.servers.extra_args)]
    todo = (
        f"install a newer SGLang: {command[0]} -m pip install -U sglang" if ours else "see rollout.servers.extra_args"
    )
    return wrong(what, f"SGLang {sglang.version} does not support {', '.join(lacking)}, which the run passes", todo)


def _passed(run: RunConfig, device: str) -> list[str]:
    """The options on the command line of a server."""
    from aspo_megatron.rollout.sglang.command import ServedModel, server_command

    servers = run.rollout.servers
    command = server_command(servers, ServedModel.of(run.model), device, 0, servers.api_key_file)
    return list(dict.fromkeys(word.partition("=")[0] for word in command if word.startswith("--")))


def _not_in_source(host: Host, sglang: Sglang, options: list[str]) -> list[str]:
    """Options that SGLang's source does not declare, be it by name or as a field that is made into one."""
    if sglang.folder is None:
        return options
    source = sglang.folder / "srt"
    groups = source / "arg_groups"
    paths = [source / "server_args.py"]
    paths += [folder / name for folder in (groups, groups / "fields") for name in host.names(folder)]
    text = "\n".join(host.read(path) or "" for path in paths if path.suffix == ".py")

    def declared(option: str) -> bool:
        field = option.removeprefix("--").replace("-", "_")
        return f'"{option}"' in text or re.search(rf"^ +{field}\s*:", text, flags=re.MULTILINE) is not None

    return [option for option in options if not declared(option)]


def _models(host: Host, architectures: list[str], sglang: Sglang) -> Line:
    """Whether SGLang has the model's class."""
    what = "its models"
    folder = (sglang.folder or Path()) / "srt" / "models"
    names = [name for name in host.names(folder) if name.endswith(".py")]
    if not names or not architectures:
        return unknown(what, "config.json names no architecture" if names else f"{folder} does not exist")
    wanted = architectures[0]
    if any(re.search(rf"^class {re.escape(wanted)}\b", host.read(folder / name) or "", re.M) for name in names):
        return ok(what, f"it supports {wanted}")
    return wrong(
        what,
        f"SGLang {sglang.version} does not support {wanted}",
        "install a newer SGLang, or set rollout.engine=embedded",
    )
