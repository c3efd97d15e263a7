"""Checks of what the layers compute with: Transformer Engine, Apex, Triton."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from aspo_megatron.doctor.host import Host
from aspo_megatron.doctor.lines import Line, ok, unknown, unneeded, warn, wrong
from aspo_megatron.doctor.nvidia import Gpus
from aspo_megatron.doctor.requirements import Requirements
from aspo_megatron.errors import ConfigError

_IMPORT_SECONDS = 60.0


def kernel_lines(host: Host, needs: Requirements, gpus: Gpus) -> Iterator[Line]:
    """The optional packages, and whether what `model.kernels` asks for is possible with them."""
    if host.torch.problem:
        return  # nothing of this can be asked
    yield from _engine(host, needs, gpus)
    yield from _apex(host)
    yield _triton(host, gpus)
    yield from _choice(host, needs, gpus)


def _engine(host: Host, needs: Requirements, gpus: Gpus) -> Iterator[Line]:
    """Transformer Engine: its version, and whether it can be imported beside this torch."""
    packages, name = host.packages, "Transformer Engine"
    on_cpu = needs.run.platform.device == "cpu"
    if on_cpu or not gpus.there:
        there = packages.transformer_engine or "not installed"
        yield unneeded(name, f"{there}; it needs a GPU{', but platform.device=cpu' if on_cpu and gpus.there else ''}")
        return
    if packages.engine_lack:
        found, _, cure = packages.engine_lack.removesuffix(")").partition(" (")
        silence = "; or model.kernels.layers=local, which is slower"
        # That it is asked for, and refused, is said by the line of the choice.
        yield warn(name, found, f"{cure}{silence}")
        return
    if needs.run.model.kernels.layers == "local":
        yield unneeded(name, f"{packages.transformer_engine}; model.kernels.layers=local does not need it")
        return
    found = f"{packages.transformer_engine} (required: {packages.engine_window})"
    if not gpus.usable:
        yield ok(name, f"{found}; it can be loaded only where torch sees a GPU")
        return
    # Its compiled part is of one torch; only loading it shows whether of this one. In a process of its own, as that
    # may crash.
    answer = host.run([sys.executable, "-c", "import transformer_engine.pytorch"], _IMPORT_SECONDS)
    if answer.good:
        yield ok(name, found)
        return
    if answer.code is None:
        yield unknown(name, f"{found}; whether it can be imported is not known: {answer.problem}")
        return
    release = packages.transformer_engine.base_version if packages.transformer_engine else ""
    todo = (
        "pip install --no-build-isolation --no-deps --force-reinstall --no-cache-dir "
        f"'transformer_engine_torch=={release}', which builds it against this torch"
    )
    yield wrong(name, f"{found} is installed, but cannot be imported: {answer.complaint}", todo)


def _apex(host: Host) -> Iterator[Line]:
    packages = host.packages
    if packages.other_apex:
        yield warn(
            "Apex",
            "the package `apex` that is installed is an unrelated web toolkit, and is not used",
            "pip uninstall apex; NVIDIA's is built from github.com/NVIDIA/apex; Transformer Engine works without it",
        )
    elif packages.apex:
        kernels = "with" if packages.apex_gradient_kernels else "without"
        yield ok("Apex", f"NVIDIA's, {kernels} its kernels for gradients")
    else:
        yield unneeded("Apex", "not installed; Transformer Engine does not need it")
    yield unneeded("Adam", f"of {packages.fused_adam}")
    three = ", in place of it FlashAttention-3 on Hopper" if packages.flash_attention_3 else ""
    yield unneeded("flash-attn", f"the package is not used: attention uses PyTorch's own flash kernel{three}")


def _triton(host: Host, gpus: Gpus) -> Line:
    found = "found" if host.packages.triton else "not found"
    if not gpus.there:
        return unneeded("Triton", f"{found}; on a CPU, needed only where model.kernels asks for triton")
    if host.packages.triton:
        return ok("Triton", found)
    return warn(
        "Triton", f"{found}: log-probs, rotary positions and fused layers use plain kernels", "pip install triton"
    )


def _choice(host: Host, needs: Requirements, gpus: Gpus) -> Iterator[Line]:
    """What the run's `model.kernels` come to here, by the product's own rules."""
    import torch

    from aspo_megatron.parallel.device.attention_kernels import flash_takes
    from aspo_megatron.parallel.device.expert_traits import ExpertTraits
    from aspo_megatron.parallel.device.kernels import Machine, advice, choose_kernels

    on_gpu = gpus.there and needs.run.platform.device != "cpu"
    capability = (gpus.capability or (0, 0)) if on_gpu else None
    if needs.away:
        yield unneeded("model.kernels", "chosen on the nodes that have GPUs")
        return
    machine = Machine(host.packages, capability)
    dtype = needs.run.model.dtype
    experts = None if needs.family is None else ExpertTraits.of(needs.family, needs.run.parallel, dtype)
    head_dim = 128 if needs.family is None else needs.family.head_dim
    flash = flash_takes(getattr(torch, dtype), head_dim)
    try:
        chosen = choose_kernels(needs.run.model.kernels, machine, experts=experts, flash=flash)
    except ConfigError as error:
        yield wrong("model.kernels", str(error), "install what it names, or leave the setting at its default")
        return
    used = [name for name, value in vars(chosen).items() if value is True]
    used.append(f"attention by {chosen.attention}")
    layers = [] if chosen.transformer_engine else ["megatron-core's own layers"]
    yield ok("model.kernels", ", ".join([*layers, *(name.replace("_", " ") for name in used)]))
    for text in advice(needs.run.model, machine) if needs.config is not None else ():
        if text.startswith("model.dtype"):
            found_text, _, todo = text.partition(". ")
            yield warn("model.dtype", found_text, todo)
