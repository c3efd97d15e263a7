"""Time limits in all of Slurm's forms, and those that leave a run no time before it has to save."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.command import SETTINGS

from aspo_megatron.errors import ConfigError
from aspo_megatron.slurm.job import make_job, read_template, render
from aspo_megatron.slurm.time_limit import limit_seconds


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(SETTINGS + "output_dir: run\nslurm: {gpus_per_node: 0}\n")


def time_of(*overrides: str, options: tuple[str, ...] = ()) -> list[str]:
    job = make_job(Path("run.yaml"), overrides, options, None, 1)
    lines = render(job, read_template()).splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith("#SBATCH --time=")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 300),
        ("5:30", 330),
        ("1:02:03", 3723),
        ("2-3", 51 * 3600),
        ("2-3:4", 51 * 3600 + 240),
        ("2-3:04:05", 51 * 3600 + 245),
        ("0:00:30", 30),
        ("0", None),
        ("0:00", None),
        ("UNLIMITED", None),
        ("infinite", None),
        ("-1", None),
    ],
)
def test_forms(text: str, seconds: int | None) -> None:
    assert limit_seconds(text) == seconds


@pytest.mark.parametrize("text", ["5", "6", "0:00:30", "6:00", "0:06:00", "0-0", "0-0:5", "0-0:0:1"])
def test_a_limit_without_time_to_train(text: str) -> None:
    if limit_seconds(text) is None:
        assert time_of(f"slurm.time={text}") == ["UNLIMITED"]
        return
    with pytest.raises(ConfigError, match=r"^slurm\.time=.*slurm\.save_seconds=300 ") as said:
        time_of(f"slurm.time={text}")
    assert "set slurm.time to more than 6 minutes" in str(said.value)
    with pytest.raises(ConfigError, match=r"^slurm\.time="):
        time_of(options=(f'slurm.time="{text}"',))


def test_limits_with_time_to_train() -> None:
    assert time_of("slurm.time=7") == ["7"]
    assert time_of("slurm.time=5", "slurm.save_seconds=120") == ["5"]
    assert time_of("slurm.time=0:06:01") == ["0:06:01"]


@pytest.mark.parametrize("text", ["UNLIMITED", "unlimited", "INFINITE", "Infinite", "-1", "0"])
def test_no_limit(text: str) -> None:
    assert time_of(f"slurm.time={text}") == ["UNLIMITED"]
    hetjob = ("slurm.server_nodes=1", "slurm.server_directives=[--partition=spare]")
    assert time_of(f"slurm.time={text}", *hetjob) == ["UNLIMITED"] * 2


def test_the_limit_of_the_partition() -> None:
    assert time_of("slurm.time=null") == []
    assert time_of("slurm.time=null", "slurm.server_nodes=1", "slurm.server_directives=[--partition=spare]") == []


def test_more_seconds_than_slurm_takes() -> None:
    with pytest.raises(ConfigError, match=r"^slurm\.save_seconds=65536: .*slurm\.time"):
        time_of("slurm.save_seconds=65536", "slurm.time=7-0")
    with pytest.raises(ConfigError, match=r"^slurm\.save_seconds=70000: "):
        time_of("slurm.save_seconds=70000", "slurm.time=UNLIMITED")
    assert time_of("slurm.save_seconds=65535", "slurm.time=7-0") == ["7-0"]


@pytest.mark.parametrize("line", ["--time=5", "--time=12:00:00", "--signal=B:USR1@20", "--sign=USR1"])
@pytest.mark.parametrize("key", ["directives", "server_directives"])
def test_directives_that_would_set_another(key: str, line: str) -> None:
    servers = ["slurm.server_nodes=1"] if key == "server_directives" else []
    with pytest.raises(ConfigError, match=rf"^slurm\.{key}: {line}: set slurm\.time .* slurm\.save_seconds"):
        time_of(f"slurm.{key}=[{line}]", *servers)


def test_a_least_time_counts_as_well() -> None:
    with pytest.raises(ConfigError, match=r"^slurm\.directives: --time-min=5: 300 s .* slurm\.save_seconds=300"):
        time_of("slurm.directives=[--time-min=5]")
    assert time_of("slurm.directives=[--time-min=1:00:00]") == ["24:00:00"]


def test_words_of_the_command_reach_the_ranks() -> None:
    """Else they would read the file's own, which may not fit."""
    job = make_job(Path("run.yaml"), [], ['slurm.time="2:00:00"'], None, 1)
    assert job.words == ("run.yaml", 'slurm.time="2:00:00"')
