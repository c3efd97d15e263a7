"""Reading, checking and writing configurations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config, save_config
from aspo_megatron.errors import ConfigError, UserError

REQUIRED = ["output_dir=runs/a", "model.path=models/m", "data.train.kind=jsonl", "data.train.path=p.jsonl"]

YAML = """\
output_dir: runs/a
model: {path: models/m, dtype: bfloat16}
data:
  train: {kind: reasoning_gym, family: chain_sum, params: {min_terms: 2, nested: {a: [1, x]}}}
  template: "Q: {prompt}\\nA:"
optimizer:
  lr: 1e-6
loss: {name: grpo, eps_high: 0.28}
"""


def load(*overrides: str) -> RunConfig:
    return load_config(None, [*REQUIRED, *overrides])


def error_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    return str(caught.value)


def yaml_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_file_and_overrides_on_top(tmp_path: Path) -> None:
    config = load_config(yaml_file(tmp_path, YAML), ["optimizer.warmup_updates=7", "data.train.params.min_terms=3"])
    assert config.output_dir == Path("runs/a")  # relative to the current directory, as given
    assert config.model.dtype == "bfloat16"
    assert config.optimizer.lr == 1e-6
    assert config.optimizer.warmup_updates == 7
    assert config.data.train.params == {"min_terms": 3, "nested": {"a": [1, "x"]}}
    assert config.data.template == "Q: {prompt}\nA:"
    assert config.loss.hyperparameters == {"eps_high": 0.28}
    assert config.train.steps == 100


def test_scientific_notation_is_a_number_in_both_places(tmp_path: Path) -> None:
    assert load("optimizer.lr=1e-6").optimizer.lr == 1e-6  # a string in YAML 1.1
    assert load("optimizer.lr=2E-5").optimizer.lr == 2e-5
    assert load("loss.eps=1e-3").loss.hyperparameters == {"eps": 1e-3}
    assert load_config(yaml_file(tmp_path, YAML), ["optimizer.lr=1"]).optimizer.lr == 1.0


def test_text_keys_take_the_command_line_as_it_stands() -> None:
    assert load("data.template={prompt}").data.template == "{prompt}"  # a mapping in YAML
    assert load("data.template=Q: {prompt} = ?").data.template == "Q: {prompt} = ?"
    assert load(r'data.template="Q: {prompt}\nA:"').data.template == "Q: {prompt}\nA:"
    assert load("data.train.prompt_field=yes").data.train.prompt_field == "yes"
    assert load("data.train.subset=1").data.train.subset == "1"
    assert load("data.train.answer_field=null").data.train.answer_field is None
    assert load("output_dir=2024").output_dir == Path("2024")


def test_lists_null_sections_and_references() -> None:
    config = load(
        "rollout.sampling.stop=['</s>', Q]",
        "eval.samples=8",
        "eval.pass_k=[1,4,8]",
        "eval.sampling.temperature=0",
        "data.system=model ${model.path}",
    )
    assert config.rollout.sampling.stop == ("</s>", "Q")
    assert config.eval.pass_k == (1, 4, 8)
    assert config.eval.sampling is not None
    assert config.eval.sampling.temperature == 0
    assert config.data.system == "model models/m"
    assert load("data.train.path=[a.parquet, 'b c.jsonl']").data.train.path == ("a.parquet", "b c.jsonl")
    assert load("data.train.path=[ab].jsonl").data.train.path == "[ab].jsonl"


def test_evaluation_draws_as_the_rollouts_do_unless_it_has_its_own_sampling() -> None:
    alike = load("rollout.sampling.top_k=5")
    assert alike.eval_sampling == alike.rollout.sampling
    own = load("rollout.sampling.top_k=5", "eval.sampling.temperature=0")
    assert own.eval_sampling == own.eval.sampling != own.rollout.sampling


@pytest.mark.parametrize(("override", "line"), [
    ("optimizer.lrr=1", "optimizer.lrr: unknown key; did you mean optimizer.lr?"),
    ("optimzer.lr=1", "optimzer: unknown key; did you mean optimizer?"),
    ("lr=1", "lr: unknown key; did you mean optimizer.lr or warmup.lr?"),
    ("heldout=1", "heldout: unknown key; did you mean data.heldout?"),
    ("rollout.temperature=1", "rollout.temperature: unknown key; did you mean rollout.sampling.temperature?"),
    ("rollout.max_response_tokens=9",
     "rollout.max_response_tokens: unknown key; did you mean rollout.sampling.max_response_tokens?"),
    ("sampling.top_p=1", "sampling: unknown key; did you mean rollout.sampling or eval.sampling?"),
    ("output_dir=", "output_dir: is empty; name a folder"),
    ("output_dir= ", "output_dir: is empty; name a folder"),
    ("model.path=", "model.path: is empty; name a folder"),
    ("slurm.time=soon", "slurm.time: 'soon' is no time limit as Slurm writes it: minutes, hours:minutes:seconds, "
     "days-hours or UNLIMITED"),
    (
        "platform.zzz=1",
        "platform.zzz: unknown key; platform has device, threads_per_rank, more_ranks_than_cores, timeout_minutes",
    ),
    ("train.steps=true", "train.steps: must be a whole number, not true"),
    ("train.steps='3'", 'train.steps: must be a whole number, not "3"'),
    ("train.steps=1.5", "train.steps: must be a whole number, not 1.5"),
    ("train.steps=0", "train.steps: must be greater than 0, not 0"),
    ("optimizer.lr=true", "optimizer.lr: must be a number, not true"),
    ("optimizer.lr=.nan", "optimizer.lr: must be a finite number, not nan"),
    ("loss.eps_high=.inf", "loss.eps_high: must be a finite number, not inf"),
    ("log.tensorboard=1", "log.tensorboard: must be true or false, not 1"),
    ("model.dtype=fp16", "model.dtype: must be 'float32' or 'bfloat16', not \"fp16\""),
    ("rollout.sampling.stop=[1]", "rollout.sampling.stop.0: must be text (put it in quotes), not 1"),
    ("eval.pass_k=1", "eval.pass_k: must be a list, such as [a, b], not 1"),
    ("optimizer=adam", 'optimizer: is a section: set the keys in it, not "adam"'),
    ("optimizer.lr.x=2", "optimizer.lr: must be a number, not a section"),
    ("parallel.sequence_parallel=true", "parallel: sequence_parallel needs tp > 1"),
    ("rollout.prompts_per_step=63",
     "rollout.prompts_per_step=63 is not a multiple of train.prompts_per_update=16"),
    ("optimizer.lr", "optimizer.lr: an override is written key=value, e.g. optimizer.lr=2e-6"),
    ("=1", "=1: '' is not a key; keys are names joined by single dots"),
    ("a..b=1", "a..b=1: 'a..b' is not a key; keys are names joined by single dots"),
    ("output_dir=r\udcffn", r"'output_dir=r\udcffn': not UTF-8, as all text has to be"),
    ("r\udcff=1", r"'r\udcff=1': not UTF-8, as all text has to be"),
    ("data.train.prompt_field=\udc80", r"'data.train.prompt_field=\udc80': not UTF-8, as all text has to be"),
    ("eval.pass_k=[1", "eval.pass_k=[1: the value is not YAML; put it in quotes"),
    ("data.template=${",
     "data.template: only the references ${section.key} and ${oc.env:NAME} are supported; write \\${ for plain text"),
    ("seed=${nope}", "seed: Interpolation key 'nope' not found"),
])  # fmt: skip
def test_mistake_is_one_line(override: str, line: str) -> None:
    assert error_of(override) == line


@pytest.mark.parametrize(("text", "lines"), [
    ("model.path: m\n", ["model.path: a key with a dot; in a file its dots are levels: model: {path: ...}"]),
    (
        "data: {train.kind: files}\nseed: x\neval.every: 2\n",
        [
            "data.train.kind: a key with a dot; in a file its dots are levels: data: {train: {kind: ...}}",
            "eval.every: a key with a dot; in a file its dots are levels: eval: {every: ...}",
        ],
    ),
])  # fmt: skip
def test_a_dotted_key_in_a_file(tmp_path: Path, text: str, lines: list[str]) -> None:
    """What else is wrong may be so for want of these."""
    with pytest.raises(ConfigError) as caught:
        load_config(yaml_file(tmp_path, text))
    assert sorted(str(caught.value).splitlines()) == sorted(lines)


def test_every_wrong_key_has_its_line() -> None:
    assert error_of("optimizer.lr=abc", "train.stepz=3", "seed=x").splitlines() == [
        'seed: must be a whole number, not "x"',
        'optimizer.lr: must be a number, not "abc"',
        "train.stepz: unknown key; did you mean train.steps?",
    ]


@pytest.mark.parametrize("key", ["seed", "parallel.tp", "reward.options.bonus", "data.train.params.x"])
def test_a_number_that_cannot_be_shown_is_one_line(key: str) -> None:
    assert error_of(f"{key}=0x{'F' * 5000}") == f"{key}: has more digits than any number that is meant"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("node1:30000", "does not begin with http:// or https://"),
        ("http://", "is no address such as http://node1:30000"),
        ("http://:30000", "is no address such as http://node1:30000"),
        ("http://node1:abc", "is no address such as http://node1:30000: Port could not be cast"),
        ("http://node1:99999999", "is no address such as http://node1:30000: Port out of range"),
        ("http://node1:0", "is no address such as http://node1:30000"),
        (f"http://{'a' * 64}:1", "is no address such as http://node1:30000: .*label"),
        ("http://a..b:1", "is no address such as http://node1:30000: .*label"),
        ("http://[::1:1", "is no address such as http://node1:30000"),
        ("http://node 1:1", "is no address such as http://node1:30000"),
        ("http://node1:1/?x=1", "is no address such as http://node1:30000"),
        ("http://node1:1/#x", "is no address such as http://node1:30000"),
    ],
)
def test_what_no_server_can_be_at_is_no_address(address: str, words: str) -> None:
    for key, value in (("addresses", f'["{address}"]'), ("router", f'"{address}"')):
        with pytest.raises(ConfigError, match=rf"^rollout\.servers: {key}: .*{words}") as caught:
            load(f"rollout.servers.{key}={value}")
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "address", ["http://node1", "https://user@node1.example.com:1/path", "http://[::1]:3", "http://127.1:3"]
)
def test_addresses_of_servers(address: str) -> None:
    assert load(f'rollout.servers.addresses=["{address}"]').rollout.servers.addresses == (address,)


def test_missing_keys_are_named_to_the_last_level() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["output_dir", "model.path", "data.train.kind"]
    assert lines[0].startswith("output_dir: required, but not given. The run folder")
    assert error_of("data.heldout.path=x.jsonl").startswith("data.heldout.kind: required")


@pytest.mark.parametrize(("text", "words"), [
    ("a: 1\nb: [1\nc: 2\n", ", line 3, column 2: not YAML"),
    ("seed: 1\nseed: 2\n", ", line 2, column 1: the key seed is given twice here; keep one of them"),
    ("data:\n\ttrain: x\n", ", line 2, column 1: not YAML: a tab; lines are indented by spaces"),
    ("- a\n", "must hold `key: value` lines, not a list"),
    ("3\n", "must hold `key: value` lines"),
    ("'1_0'\n", "must hold `key: value` lines"),
    ("'seed: 3'\n", "must hold `key: value` lines"),
    ("seed: ???\n", "seed: "),
    ("seed: 1\x00\n", "not YAML"),
    (f"seed: 0x{'F' * 5000}\n", ", line 1, column 7: not YAML: a number of 5,002 digits"),
    (f"data: {{format: [0b{'1' * 500}]}}\n", ", line 1, column 17: not YAML: a number of 502 digits"),
    (f"0x{'F' * 500}: 3\n", ", line 1, column 1: not YAML: a number of 502 digits"),
    (f"seed: {'7' * 5000}\n", ", line 1, column 7: not YAML: a number of 5,000 digits"),
])  # fmt: skip
def test_bad_file_is_named_with_the_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(yaml_file(tmp_path, text), REQUIRED)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such configuration file"):
        load_config(tmp_path / "nowhere.yaml", REQUIRED)
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path, REQUIRED)
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00a: \x80")
    with pytest.raises(ConfigError, match="not YAML"):
        load_config(tmp_path / "run.yaml", REQUIRED)


def test_a_model_whose_name_is_too_long_is_left_to_who_reads_it() -> None:
    name = "x" * 70_000
    assert load(f"model.path={name}").model.path == Path(name)


def test_empty_file_is_no_setting(tmp_path: Path) -> None:
    assert load_config(yaml_file(tmp_path, "# nothing\n"), REQUIRED) == load()


@pytest.mark.parametrize("text", [
    "plain", "1e-6", "yes", "null", "", "'", "ümlaut ∑", "Q: {prompt}", "a\nb \n",
    "${model.path}", r"\${x}", r"\\${x} \\",
])  # fmt: skip
def test_what_is_saved_loads_back_equal(tmp_path: Path, text: str) -> None:
    given = load(
        "optimizer.lr=1e-6", "rollout.sampling.stop=[a, '1']", "loss.dual_clip=3.0", "loss.options={a: null}",
        "data.heldout.kind=jsonl", "data.heldout.path=h.jsonl", "train.steps=3",
    )  # fmt: skip
    config = given.model_copy(update={"data": given.data.model_copy(update={"template": text})})
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    save_config(load_config(tmp_path / "saved.yaml"), tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == (tmp_path / "saved.yaml").read_bytes()


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_config(load(), tmp_path / "file" / "saved.yaml")


def test_heavy_libraries_are_not_imported() -> None:
    script = (
        "import sys, aspo_megatron.config.io\n"
        "print([name for name in ('torch', 'numpy', 'rich', 'megatron', 'matplotlib') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_bare_off_is_off(tmp_path: Path) -> None:
    """Which YAML reads as false; and it comes back from a file that was written."""
    config = load("rollout.dynamic_sampling=off")
    assert config.rollout.dynamic_sampling == "off"
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml", []) == config
    assert "must be 'off', 'drop' or 'refill', not true" in error_of("rollout.dynamic_sampling=on")
