"""Which configurations are those of the run that a folder holds."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from thorough import one_in

from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config, save_config
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.launch.run_folder import claimed, refuse_foreign_folder

EXAMPLES = Path(__file__).parents[2] / "examples"
OLDER = {
    "model.kernels.fp8_recipe": "delayed",
    "rollout.servers.sync": "distributed",
    "rollout.max_batch_tokens": 65536,
}
"""Values that were defaults once, and stand in the folders of runs that began then."""


def with_folder(tmp_path: Path, *settings: str) -> RunConfig:
    return load_config(EXAMPLES / "tiny" / "run.yaml", [f"output_dir={tmp_path}", *settings])


def test_a_run_that_began_with_other_defaults_is_the_same(tmp_path: Path) -> None:
    save_config(with_folder(tmp_path, *(f"{key}={value}" for key, value in OLDER.items())), tmp_path / "config.yaml")
    refuse_foreign_folder(with_folder(tmp_path))
    refuse_foreign_folder(with_folder(tmp_path, "model.reference=device", "model.kernels.expert_fusion=false"))


def test_another_recipe_of_fp8_is_another_run(tmp_path: Path) -> None:
    save_config(with_folder(tmp_path, "model.kernels.fp8=e4m3"), tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"differs in model\.kernels\.fp8_recipe"):
        refuse_foreign_folder(with_folder(tmp_path, "model.kernels.fp8=e4m3", "model.kernels.fp8_recipe=delayed"))


@pytest.mark.parametrize("name", ["tiny", "quickstart"])
def test_first_runs_need_no_gpu_for_each_rank(name: str) -> None:
    run = load_config(EXAMPLES / name / "run.yaml")
    assert run.parallel.world_size > 1
    assert run.platform.device == "cpu"


@pytest.mark.parametrize("lines", range(10, 80, 10))
def test_no_default_is_taken_for_what_is_cut_off(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "config.yaml"
    save_config(with_folder(tmp_path), path)
    (tmp_path / ".lock").touch()
    load_config(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))
    with pytest.raises(ConfigError, match="damaged, or written by another version"):
        load_config(path)


def _cut(text: bytes, share: float) -> bytes:
    return text[: int(len(text) * share)]


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "one byte": lambda text: text[:1],
    **{f"cut to {share} %": partial(_cut, share=share / 100) for share in (10, 30, 50, 70, 90)},
    "zeros": lambda text: b"\0" * len(text),
    "zeros at the end": lambda text: _cut(text, 0.5) + b"\0" * 500,
    "zeros within": lambda text: _cut(text, 0.5) + b"\0" * 500 + text[-100:],
    "binary": lambda text: bytes(range(256)) * 8,
    "no UTF-8": lambda text: text.replace(b"seed", b"s\xffed"),
    "a list": lambda text: b"- 1\n- 2\n",
    "a word": lambda text: b"word\n",
    "another file": lambda text: b"a: 1\nb: {c: 2}\n",
    "no YAML": lambda text: b"a: [1, {\n" + text,
    "a value of another kind": lambda text: text.replace(b"seed: ", b"seed: x"),
}


@pytest.mark.parametrize("states", [[], [4], [4, 12, 8]])
@pytest.mark.parametrize("kind", one_in(3, DAMAGED))
def test_a_damaged_configuration_in_the_run_folder_is_named(tmp_path: Path, kind: str, states: list[int]) -> None:
    run = with_folder(tmp_path, "slurm.time=2:00:00")
    path = tmp_path / "config.yaml"
    save_config(run, path)
    (tmp_path / ".lock").touch()
    whole = path.read_bytes()
    for step in states:
        folder = tmp_path / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_bytes(whole)
    path.write_bytes(DAMAGED[kind](whole))
    assert path.read_bytes() != whole
    newest = tmp_path / "checkpoints" / f"step-{max(states, default=0):06d}" / "config.yaml"
    cure = f"copy {newest} over it" if states else f"remove {tmp_path}, or choose another output_dir"
    for act in (
        lambda: refuse_foreign_folder(run),
        lambda: load_config(path),
        lambda: load_config(path, ["train.steps=9"]),
    ):
        with pytest.raises(ConfigError) as error:
            act()
        assert str(error.value).startswith(f"{path}: damaged, or written by another version (")
        assert str(error.value).endswith(f"; {cure}")
        assert "\n" not in str(error.value)
    if states:
        path.write_bytes(newest.read_bytes())
        refuse_foreign_folder(run)


@pytest.mark.parametrize("states", [[4], [4, 12, 8]])
@pytest.mark.parametrize("more", [[], [".lock"], [".lock", "metrics.jsonl", "summary.json"]])
def test_a_lost_configuration_of_a_run_with_states_is_no_other_run(
    tmp_path: Path, states: list[int], more: list[str]
) -> None:
    run = with_folder(tmp_path)
    path = tmp_path / "config.yaml"
    for name in more:
        (tmp_path / name).touch()
    for step in states:
        folder = tmp_path / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        save_config(run, folder / "config.yaml")
    newest = tmp_path / "checkpoints" / f"step-{max(states):06d}" / "config.yaml"
    for act in (lambda: refuse_foreign_folder(run), lambda: load_config(path), lambda: load_config(path, ["seed=1"])):
        with pytest.raises(ConfigError) as error:
            act()
        assert str(error.value) == f"{path}: missing; copy {newest} to this place to resume the run"
    path.write_bytes(newest.read_bytes())
    refuse_foreign_folder(run)


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "checkpoints"])
def test_what_is_left_of_a_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    said = "holds what is left of a run, whose config.yaml is missing; choose another folder or remove it"
    with pytest.raises(ConfigError, match=rf"^output_dir: {tmp_path} {said}$"):
        refuse_foreign_folder(with_folder(tmp_path))


@pytest.mark.parametrize(
    "name", ["thesis.tex", "logs/log", "models/config.yaml", "step-000004/config.yaml", ".git/HEAD"]
)
def test_a_folder_of_something_else_is_not_to_be_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    said = "holds files of something else; choose a new or an empty folder"
    with pytest.raises(ConfigError, match=rf"^output_dir: {tmp_path} {said}$"):
        refuse_foreign_folder(with_folder(tmp_path))


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=rf"^output_dir: {tmp_path}/file is a file; choose a folder$"):
        refuse_foreign_folder(with_folder(tmp_path / "file"))


def test_a_second_command_is_told_to_wait(tmp_path: Path) -> None:
    run = with_folder(tmp_path)
    said = "is in use by a run at this moment; wait for its end, or choose another folder"
    with claimed(run), pytest.raises(ConfigError, match=rf"^output_dir: {tmp_path} {said}$"), claimed(run):
        pass
    with claimed(run):
        pass


@pytest.fixture
def powerless() -> Iterator[None]:
    """Not root meanwhile, whom no permission binds."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o200, 0o300, 0o400, 0o600])
@pytest.mark.parametrize("name", ["", "run", "run/below"])
def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path, powerless: None, mode: int, name: str) -> None:
    closed = Path(tempfile.mkdtemp())
    (closed / "run" / "below").mkdir(parents=True)
    (closed / "run" / "below" / "file").touch()
    closed.chmod(mode)
    try:
        with pytest.raises(ConfigError) as error, claimed(with_folder(closed / name)):
            pass
    finally:
        closed.chmod(0o700)
        shutil.rmtree(closed)
    assert str(error.value).startswith(f"output_dir: {closed}")


@pytest.mark.parametrize("name", ["x" * 256, "x" * 3000, "a/" * 2100])
def test_a_name_that_is_too_long_is_told(tmp_path: Path, name: str) -> None:
    run = with_folder(tmp_path / name)
    with pytest.raises(ConfigError, match=r"^output_dir: .*x|a.* cannot be read \(File name too long\)$"):
        refuse_foreign_folder(run)


@pytest.mark.parametrize("end", [b"\neval:", b"  samples: 4\n  pass_k", b"  - 4\n  sampling", b"  format: raw"])
@pytest.mark.parametrize("less", [0, 1])
def test_a_cut_configuration_that_can_still_be_read_is_not_another_run(tmp_path: Path, end: bytes, less: int) -> None:
    run = with_folder(tmp_path)
    path = tmp_path / "config.yaml"
    save_config(run, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(end) + end.startswith(b"\n") - less])
    with pytest.raises(ConfigError, match=rf"^{path}: damaged, or written by another version \("):
        refuse_foreign_folder(run)


def test_a_wrong_override_is_no_damage(tmp_path: Path) -> None:
    save_config(with_folder(tmp_path), tmp_path / "config.yaml")
    (tmp_path / ".lock").touch()
    with pytest.raises(ConfigError, match=r"^train\.stepz: unknown key"):
        load_config(tmp_path / "config.yaml", ["train.stepz=9"])


def test_a_wrong_key_of_a_users_own_file_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seeed: 3\n")
    with pytest.raises(ConfigError, match=r"\nseeed: unknown key"):
        load_config(tmp_path / "config.yaml")


def test_a_full_disk_leaves_the_configuration_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_folder(tmp_path)
    save_config(run, tmp_path / "config.yaml")
    before = (tmp_path / "config.yaml").read_bytes()

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"config\.yaml: cannot be written: No space left on device"), claimed(run):
        pass
    assert (tmp_path / "config.yaml").read_bytes() == before
    assert not (tmp_path / "config.yaml.partial").exists()
