"""Every reason for which a test may be skipped, and which other tests hold the feature then.

A plugin of pytest, by `conftest.py`: a test that is skipped for a reason that is not here has failed, wherever it runs.
`test_skips.py` looks at the sources: that each reason there is here, and that the tests named here are there and cannot
be skipped themselves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Skip:
    """One reason.

    Attributes:
        reason: as pytest says it, a pattern for the whole of it.
        why: what cannot be tested then, and where that is so.
        held_by: tests of the same feature that are never skipped, `file::function`.
    """

    reason: str
    why: str
    held_by: tuple[str, ...]


SKIPS = (
    Skip(
        r"SGLang is not installed: make sglang-cpu",
        "real servers are 3.4 GB: .ci/run installs them, a checkout need not",
        (
            "tests/e2e/test_stand_in_servers.py::test_a_run_starts_its_own_servers_and_leaves_none",
            "tests/e2e/test_stand_in_servers.py::test_servers_of_aspo_serve_generate_beside_a_run",
            "tests/rollout/test_stand_in_contract.py::test_weights_arrive_bit_for_bit",
            "tests/rollout/test_contract.py::test_log_probs_are_those_of_the_reference",
            "tests/rollout/test_server_faults.py::test_a_wrong_answer_costs_no_prompt",
            "tests/rollout/test_server_faults.py::test_a_killed_server_comes_back_and_is_asked_after_a_sync",
            "tests/rollout/test_across_updates.py::test_responses_go_on_across_updates",
            "tests/rollout/test_live_server.py::test_aspo_eval_of_servers_as_they_are",
            "tests/slurm/test_scripts.py::test_nodes_for_servers",
        ),
    ),
    Skip(
        r"sglang-router is not installed: make sglang-cpu",
        "the router is part of the same environment",
        ("tests/rollout/test_stand_in_contract.py::test_what_a_router_answers_is_checked_and_it_is_outlived",),
    ),
    Skip(
        r".+: SGLang does not run it on a CPU",
        "no machine without a GPU serves mixtures of experts by SGLang",
        ("tests/rollout/test_contract.py::test_prompt_log_probs_are_the_references",),
    ),
    Skip(
        r"no browser here: make browser",
        "how a browser lays pages out: .ci/run brings one, a checkout need not",
        (
            "tests/plots/test_plot_cli.py::test_a_run_alone_gets_its_picture_and_page",
            "tests/plots/test_samples.py::test_page_escapes_everything",
            "tests/plots/test_samples.py::test_responses_stand_by_problem",
        ),
    ),
    Skip(
        r"no .+: apt-get install slurmctld slurmd slurm-client munge",
        "a Slurm of the tests' own wants its daemons, which make does not install",
        _SLURM := (
            "tests/slurm/test_scripts.py::test_every_script_is_valid_bash",
            "tests/slurm/test_scripts.py::test_ranks_take_the_rendezvous_of_the_script",
            "tests/slurm/test_batch_script.py::test_bash_reads_each_value_as_it_is",
            "tests/launch/test_srun.py::test_a_task_on_one_node",
            "tests/e2e/test_resume.py::test_the_command_is_killed_and_stopped",
        ),
    ),
    Skip(
        r"only root can start a Slurm with nodes of their own",
        "its nodes have networks of their own",
        _SLURM,
    ),
    Skip(
        r".+: needs .+ GPUs, .+ found",
        "layouts on GPUs: no machine of the tests has one",
        (
            "tests/parallel/test_step.py::test_layouts_agree",
            "tests/simulation/test_layouts.py::test_layout",
            "tests/simulation/test_mistakes.py::test_what_would_be_garbage_at_times_is_an_error",
        ),
    ),
    Skip(
        r"needs models/SmolLM2-135M-Instruct, which make quickstart fetches",
        "a real model that is converted there and back, and evaluated: 100 MB that tests do not download",
        (
            "tests/checkpoint/test_convert.py::test_there_and_back_is_the_same_byte_for_byte",
            "tests/e2e/test_runs.py::test_aspo_eval_gives_the_accuracy_of_training_answer_for_answer",
            "tests/e2e/test_runs.py::test_transformers_generates_what_was_evaluated",
        ),
    ),
    Skip(
        r"this CPU has no packed products",
        "an engine's layers are packed on x86-64 with AVX2 alone",
        ("tests/rollout/test_embedded_weights.py::test_an_engine_without_weights_says_so",),
    ),
    Skip(
        r"no bf16 products",
        "the same in bfloat16, on CPUs with AVX-512",
        ("tests/rollout/test_embedded_weights.py::test_an_engine_without_weights_says_so",),
    ),
    Skip(
        r"needs mallinfo2 of glibc 2\.33 or newer",
        "the memory of ranks after hundreds of steps",
        ("tests/e2e/test_resources.py::test_nothing_grows_with_the_steps",),
    ),
    Skip(
        r"this machine has no address but loopback",
        "who reaches the ranks of a machine whose name others know",
        _MEETING := (
            "tests/parallel/test_rendezvous.py::test_interfaces",
            "tests/parallel/test_rendezvous.py::test_the_store_listens_at_an_address_of_this_machine_alone",
        ),
    ),
    Skip(r"only root gives a machine another name", "the same", _MEETING),
    Skip(
        r"mounting a small file system needs root",
        "a model's folder on a disk that is full",
        ("tests/checkpoint/test_write.py::test_a_write_that_the_system_refuses_leaves_nothing_behind",),
    ),
    Skip(
        r"no sandbox here: .+",
        "one of the ways to keep programs of responses apart: namespaces, or Landlock of Linux 5.13",
        _SANDBOX := ("tests/rewards/test_sandbox.py::test_the_way_that_this_machine_has_keeps_programs_apart",),
    ),
    Skip(
        r"needs root, to become another user, and the system's Python",
        "the sandbox of an ordinary user",
        _SANDBOX,
    ),
    Skip(r"the system's Python is older than 3\.11", "the same", _SANDBOX),
    Skip(
        r"needs user namespaces, to take them away, and setpriv",
        "Landlock where there are no namespaces",
        _SANDBOX,
    ),
    Skip(
        r"needs Linux 5\.5, to count the threads of a program without namespaces",
        "a bound on threads",
        ("tests/rewards/test_leaks.py::test_where_threads_are_not_shown_all_that_were_started_count",),
    ),
)


def listed(reason: str) -> Skip | None:
    """The entry for a reason."""
    found = [skip for skip in SKIPS if re.fullmatch(skip.reason, reason)]
    assert len(found) <= 1, f"two entries for {reason!r}"
    return found[0] if found else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip that may not be is a failure. So is a failure that was expected, of which there are none."""
    report = yield
    _judge(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for whole files."""
    report = yield
    _judge(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was skipped, and why."""
    counts = Counter(listed(_reason(report)) for report in terminalreporter.stats.get("skipped", []))
    if counts:
        terminalreporter.section("skipped; which tests hold it all the same is in tests/skips.py")
    for skip, count in counts.items():
        if skip is not None:
            terminalreporter.write_line(f"{count} x {skip.reason}: {skip.why}")


def _judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome == "skipped" and listed(_reason(report)) is None:
        report.outcome = "failed"
        report.longrepr = f"tests/skips.py has no reason for which this may be skipped: {_reason(report)}"
        vars(report).pop("wasxfail", None)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if hasattr(report, "wasxfail"):
        return f"expected to fail: {report.wasxfail}"
    where = report.longrepr
    return where[2].removeprefix("Skipped: ") if isinstance(where, tuple) else str(where)
