"""Checks of Python and of the packages that a run imports."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from aspo_megatron import versions
from aspo_megatron.doctor.host import Host
from aspo_megatron.doctor.lines import Line, ok, unknown, wrong
from aspo_megatron.doctor.requirements import Requirements

_PROJECT = "aspo-megatron"


def package_lines(host: Host, needs: Requirements) -> Iterator[Line]:
    """What is installed, held against the versions that this package works with."""
    for name, wanted in versions.window().items():
        version = host.version(name)
        if version is not None and versions.is_inside(version, wanted):
            yield ok(name, f"{version} (required: {wanted})")
        else:
            found, _, todo = str(versions.Outside(name, version, wanted)).partition(": ")
            yield wrong(name, found, todo)
    if host.torch.problem and host.version("torch") is not None:
        yield wrong("import torch", host.torch.problem, _todo_for_import(host))
    yield from _others(host, needs)


def _todo_for_import(host: Host) -> str:
    again = (
        "python -c 'import torch' shows the whole error; pip install --force-reinstall torch repairs a broken install"
    )
    if host.env.get("LD_LIBRARY_PATH"):
        return f"try it with LD_LIBRARY_PATH unset: it may put other libraries before torch's own; {again}"
    return again


def _others(host: Host, needs: Requirements) -> Iterator[Line]:
    """The other requirements, in one line if all are there; and the extras that the run asks for."""
    requirements = [Requirement(text) for text in host.requires(_PROJECT)]
    if not requirements:
        yield unknown("other packages", f"{_PROJECT} is not installed here, so its requirements are not known")
        return
    extras = _extras(needs)
    wanted = [
        each
        for each in requirements
        if canonicalize_name(each.name) not in versions.NAMES
        and (each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras)))
    ]
    lacking = [each for each in wanted if not _is_there(host, each)]
    for each in lacking:
        version = host.version(each.name)
        found = "is not installed" if version is None else f"{version}, but {each.specifier} is required"
        asks = next((key for extra, key in extras.items() if each.marker and _is_of(each, extra)), "")
        todo = f"pip install '{each.name}{each.specifier}'"
        yield wrong(each.name, f"{found}{f' ({asks})' if asks else ''}", todo)
    if not lacking:
        yield ok("other packages", f"all {len(wanted)} are installed: {', '.join(each.name for each in wanted)}")


def _extras(needs: Requirements) -> dict[str, str]:
    """The optional parts of this package that the run needs, and the setting that asks for each."""
    run = needs.run
    found: dict[str, str] = {}
    for key, source in (("data.train", run.data.train), ("data.heldout", run.data.heldout)):
        if source is not None and source.kind == "huggingface":
            found["datasets"] = f"{key}.kind=huggingface"
    if run.log.wandb != "none":
        found["wandb"] = f"log.wandb={run.log.wandb}"
    return found


def _is_of(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is not None and requirement.marker.evaluate({"extra": extra})


def _is_there(host: Host, requirement: Requirement) -> bool:
    version = host.version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)
