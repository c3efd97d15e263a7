"""No value of a configuration is more in a batch script than the value that it is: for Slurm one word, for bash one."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.command import SETTINGS
from pydantic import ValidationError

from aspo_megatron.config import SlurmConfig
from aspo_megatron.errors import ConfigError
from aspo_megatron.slurm import job
from aspo_megatron.slurm.batch_script import options

CONTROLS = {
    **{f"U+{code:04X}": chr(code) for code in (*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0x2028, 0x202F), 0x2066)},
    "CRLF": "\r\n",
}
DIRECTIVES = ("partition", "account", "qos", "constraint")
LISTS = ("directives", "server_directives", "mounts")
PLACES = (*DIRECTIVES, "log_dir", *LISTS, "time", "venv", "container", "servers_of")
SHELL = (
    "it's",
    'a"b',
    "$(touch M)",
    "`touch M`",
    "a;touch M",
    "a&touch M",
    "a|touch M",
    "a)",
    "$IFS",
    "~/x",
    "[0]=x",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script_of(given: dict[str, Any], *overrides: str, name: str = "run.yaml", sweep: Path | None = None) -> str:
    config = yaml.safe_load(SETTINGS) | {"output_dir": "runs/first", "slurm": {"gpus_per_node": 0, **given}}
    Path(name).write_text(yaml.safe_dump(config))
    return job.render(job.make_job(Path(name), overrides, [], sweep, 1), job.read_template())


def given(key: str, value: str) -> dict[str, Any]:
    """A value at its place, as far as possible in the way that the key wants it."""
    if key in ("directives", "server_directives"):
        return {key: [f"--x={value}"], **({"server_nodes": 1} if key == "server_directives" else {})}
    return {key: [value], "container": "image"} if key == "mounts" else {key: value}


def assigned(script: str, name: str) -> list[str]:
    """The words that bash finds in the assignments to a name, or to an array."""
    lines = [line for line in script.split("\n") if line.startswith(f"{name}=")]
    assert len(lines) == 1
    shown = f'set --; {lines[0]}; printf "%s\\0" "${{{name}[@]}}"'
    done = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True, cwd="/")
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("key", PLACES)
def test_control_characters_are_refused_by_their_key(folder: Path, key: str) -> None:
    for name, character in CONTROLS.items():
        with pytest.raises(ValidationError) as refused:
            SlurmConfig.model_validate_json(json.dumps(given(key, f"a{character}touch M #")))
        assert [error["loc"] for error in refused.value.errors()] == [(key,)], name
    with pytest.raises(ConfigError, match=rf"^slurm\.{key}: ") as said:
        script_of(given(key, "a\ntouch M #"))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("code", ["U+000A", "U+000D", "U+001B", "U+007F", "U+0085", "U+009B", "U+2028", "U+202E"])
@pytest.mark.parametrize("place", ["an override", "a sweep", "the file's name"])
def test_control_characters_are_refused_in_what_the_ranks_are_told(folder: Path, place: str, code: str) -> None:
    text = f"a{CONTROLS[code]}touch M #"
    sweep = folder / "sweep.txt"
    sweep.write_text(f"output_dir=b {shlex.quote(f'log.wandb_project={text}')}\n", newline="")
    overrides = [f"log.wandb_project={text}"] if place == "an override" else []
    name = f"{text}.yaml" if place == "the file's name" else "run.yaml"
    with pytest.raises(ConfigError, match=r"^(log\.wandb_project|CONFIG|--array [^:]*sweep\.txt)[:=]"):
        script_of({}, *overrides, name=name, sweep=sweep if place == "a sweep" else None)


@pytest.mark.parametrize("code", ["U+0000", "U+000D", "U+001B", "U+0085", "U+2028", "U+202E"])
def test_own_lines_are_lines_of_text(folder: Path, code: str) -> None:
    with pytest.raises(ConfigError, match=r"^slurm\.setup(\.0)?: "):
        script_of({"setup": [f"module load{CONTROLS[code]} cuda"]})
    assert "\nmodule load cuda\n\techo 1\n" in script_of({"setup": ["module load cuda\n\techo 1"]})


@pytest.mark.parametrize("key", DIRECTIVES)
@pytest.mark.parametrize(
    "value",
    [
        "a b",
        "a --uid=0",
        " a",
        "a ",
        "a#b",
        "#",
        "a\u00a0b",
        "a\u3000b",
        "a\u2003b",
        "a'b",
        'a"b',
        "a\\b",
        "-a",
        "--uid=0",
    ],
)
def test_what_slurm_would_read_otherwise_is_refused(folder: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^slurm\.{key}: "):
        script_of({key: value})


@pytest.mark.parametrize(
    "name", ["my logs", "a --uid=0", " a", "a ", "a#b", "a\u00a0b", "a\u3000b", "logs", "100%x", "."]
)
def test_a_folder_of_logs_is_one_word_for_slurm(folder: Path, name: str) -> None:
    script = script_of({"log_dir": name})
    [line] = [line for line in script.splitlines() if line.startswith("#SBATCH --output=")]
    # Outside of quotes and behind no backslash, Slurm splits as the shell does; and %% is a percent sign.
    assert shlex.split(line.removeprefix("#SBATCH "), comments=True) == [
        f"--output={name.replace('%', '%%')}/%x-%j.log"
    ]
    assert assigned(script, "LOGS") == [name]


def test_the_folder_of_logs_as_the_command_writes_it(folder: Path) -> None:
    assert '\n#SBATCH --output="my logs/%x-%j.log"\n' in script_of({}, "slurm.log_dir=my logs")


@pytest.mark.parametrize("name", ["it's", 'a"b', "a\\b", "-a", "--uid=0"])
def test_a_folder_of_logs_that_slurm_would_read_otherwise(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^slurm\.log_dir: "):
        script_of({"log_dir": name})


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("--mem=0", True),
        ("--exclusive", True),
        ('--comment="two words"', True),
        ("--comment='a # b'", True),
        (r"--comment=two\ words", True),
        ("--gres=gpu:h200:4", True),
        ("--nodelist node1", False),
        ("--mem=0 --uid=0", False),
        ("--mem=0 # why", False),
        ("--mem=0#", False),
        ("--comment='open", False),
        ("--comment=open\\", False),
        ("mem=0", False),
        ("-N4", False),
        ("", False),
        ("'--mem' =0", False),
    ],
)
def test_a_directive_is_one_option(text: str, fine: bool) -> None:
    if fine:
        assert options("slurm.directives", [text]) == [text]
    else:
        with pytest.raises(ConfigError, match=r"^slurm\.directives: "):
            options("slurm.directives", [text])


@pytest.mark.parametrize("value", ["-x", "--bind=/:/host", "-"])
@pytest.mark.parametrize("key", ["venv", "servers_of", "log_dir", "container", "mounts", "CONFIG"])
def test_what_a_command_would_take_for_an_option_is_refused(folder: Path, key: str, value: str) -> None:
    name = f"{value.replace('/', '.')}.yaml" if key == "CONFIG" else "run.yaml"
    settings = {} if key == "CONFIG" else given(key, value) | {"container_runtime": "apptainer"}
    with pytest.raises(ConfigError, match=rf"^(slurm\.)?{key}: .* begin"):
        script_of(settings, name=name)


@pytest.mark.parametrize("value", SHELL)
def test_bash_reads_each_value_as_it_is(folder: Path, value: str) -> None:
    words = assigned(script_of({}, f"log.wandb_project={value}", name=f"{value.replace('/', '.')}.yaml"), "RUN")
    assert words == [f"{value.replace('/', '.')}.yaml", f"log.wandb_project={value}"]
    (folder / "sweep.txt").write_text(shlex.join(["output_dir=b", f"log.wandb_project={value}"]))
    (line,) = assigned(script_of({}, sweep=folder / "sweep.txt"), "SWEEP")
    assert shlex.split(line) == ["output_dir=b", f"log.wandb_project={value}"]
    assert assigned(script_of({"venv": value}), "VENV") == [value]
    assert assigned(script_of({"servers_of": value}), "SERVERS") == [value]
    box = {"container": value, "mounts": [value]}
    assert assigned(script_of(box), "CONTAINER")[:2] == [f"--container-image={value}", f"--container-mounts={value}"]
    inside = assigned(script_of(box | {"container_runtime": "apptainer"}), "INSIDE")
    assert (inside[2:4], inside[-1]) == (["--bind", value], value)
    assert list(folder.glob("M")) == []


def test_a_file_from_another_system_is_read(folder: Path) -> None:
    """With carriage returns and a byte order mark; blanks and tabs between words are as many as one likes."""
    (folder / "sweep.txt").write_bytes(b"\xef\xbb\xbfoutput_dir=a\t seed=2\r\noutput_dir=b  seed=3\r\n")
    assert assigned(script_of({}, sweep=folder / "sweep.txt"), "SWEEP") == [
        "output_dir=a seed=2",
        "output_dir=b seed=3",
    ]
