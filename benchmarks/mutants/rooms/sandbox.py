"""Faults in what keeps programs apart."""

from __future__ import annotations

from benchmarks.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "rewards/programs/jail/init.py",
        "_limit",
        "resource.RLIMIT_AS: settings.memory",
        "resource.RLIMIT_AS: resource.RLIM_INFINITY",
        ("rewards/test_sandbox_limits.py",),
    ),
    Mutant(
        "rewards/programs/jail/init.py",
        "_limit",
        "resource.RLIMIT_NOFILE: 64,",
        "",
        ("rewards/test_sandbox_limits.py",),
    ),
    Mutant(
        "rewards/programs/jail/init.py",
        "_shut_in",
        "may_fork=settings.processes",
        "may_fork=True",
        ("rewards/test_sandbox_limits.py",),
    ),
    Mutant(
        "rewards/programs/jail/seccomp.py",
        "build",
        "_ERRNO | errno.ENOSYS",
        "_ALLOW",
        ("rewards/test_sandbox_limits.py",),
    ),
)
