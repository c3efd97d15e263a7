"""What whoever carries on relies on: git's hooks, the changelog, the pages about both."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
from packaging.version import Version
from pre_commit.clientlib import load_config

import aspo_megatron

ROOT = Path(__file__).parents[1]
HOOKS = ROOT / ".pre-commit-config.yaml"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][\w-]*):(?!=)", MAKEFILE, re.MULTILINE))
HEADINGS = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_hooks_are_targets_of_make_and_nothing_is_fetched() -> None:
    config = load_config(str(HOOKS))
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = {hook["id"]: hook for hook in config["repos"][0]["hooks"]}
    for name, hook in hooks.items():
        assert hook["entry"] == f"make {name}"
        assert name in TARGETS
        assert not hook["pass_filenames"]  # whole files are looked at as make does
        assert hook["language"] in ("system", "unsupported")  # no environment of its own
        assert not hook.get("additional_dependencies")
    # What is checked everywhere is checked here, too.
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    asked = re.findall(r"^make (lint|types)$", run, re.MULTILINE)
    asked += re.findall(r"^make (lint|types) &.*\n\1=\$!$(?=[^&]*^wait \"\$\1\"$)", run, re.MULTILINE)
    assert set(asked) == {"lint", "types"} <= set(hooks)
    assert {name: hook["stages"] or config["default_stages"] for name, hook in hooks.items()} == {
        "lint": ["pre-commit"],
        "generated": ["pre-commit"],
        "types": ["pre-push"],
    }
    assert set(config["default_install_hook_types"]) == {"pre-commit", "pre-push"}


def test_the_tests_of_generated_pages_are_there() -> None:
    listed = re.search(r"^GENERATED := ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    assert listed is not None
    tests = listed[1].replace("\\\n", " ").split()
    assert len(tests) >= 3
    for test in tests:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_the_newest_section_of_the_changelog_is_this_version() -> None:
    assert HEADINGS, "no section"
    newest, *_ = HEADINGS
    assert newest == "[Unreleased]" or newest.startswith(f"[{aspo_megatron.__version__}] - ")


def test_releases_in_the_changelog_are_dated_and_in_order() -> None:
    released = [heading for heading in HEADINGS if heading != "[Unreleased]"]
    parts = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", heading) for heading in released]
    found = [(Version(part[1]), datetime.date.fromisoformat(part[2])) for part in parts if part]
    assert len(found) == len(HEADINGS) - HEADINGS.count("[Unreleased]")
    assert found == sorted(found, reverse=True)
    assert HEADINGS.count("[Unreleased]") <= 1


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/releasing.md", ".github/PULL_REQUEST_TEMPLATE.md"])
def test_what_a_page_says_to_call_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"`[^`]+`|^ {4,}.*$", text, re.MULTILINE))
    targets = set(re.findall(r"\bmake ([a-z][\w-]*)", code))
    assert targets
    assert targets <= TARGETS
    places = re.findall(r"`((?:tests|docs|benchmarks|tools|aspo_megatron|\.ci|examples)/[\w./]*)`", text)
    assert [place for place in places if not (ROOT / place).exists()] == []
