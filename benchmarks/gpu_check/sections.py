"""The sections of the check, in order of value: what an early end leaves out is what can be missed best."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A part of the check, which runs in a process of its own.

    Attributes:
        name: for `--only`.
        title: what it is about, as a heading.
        module: has `run(sheet, place)`; its docstring says what it shows.
        seconds: how long it may take on one GPU.
        gpus: how many it needs to mean anything.
    """

    name: str
    title: str
    module: str
    seconds: float
    gpus: int = 1


def _here(name: str, title: str, seconds: float, gpus: int = 1) -> Section:
    return Section(name, title, f"{__package__}.{name}", seconds, gpus)


SECTIONS = (
    _here("start", "Versions, process groups, choice of kernels", 90),
    _here("attention", "Attention against fp64", 120),
    _here("log_prob", "Log-probs: values, gradients, time, memory", 120),
    _here("layer", "Heads and experts of a layer against fp64", 90),
    _here("model", "A model on the GPU against the CPU", 120),
    _here("update", "An update, offload and saves", 90),
    _here("nccl", "Collectives and layouts over NCCL", 120, gpus=2),
    _here("weights", "Weights handed over, and the embedded engine", 90),
    _here("weight_sync", "Weights broadcast to another GPU", 90, gpus=2),
    _here("train", "Training, killed and resumed", 150),
    _here("ceilings", "What the card can do", 60),
    _here("attention_time", "Attention: time and kernels", 60),
    _here("two_processes", "Two ranks on one GPU", 120),
    _here("update_time", "A whole update: tokens a second, share of the peak", 180),
    _here("step_time", "A whole step of training: tokens a second, phases", 150),
    _here("matrix", "Rows of the matrix of layouts", 240),
)
