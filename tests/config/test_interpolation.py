"""References of a configuration: what they may stand for is known before any is followed."""

from __future__ import annotations

from pathlib import Path

import pytest
from config.test_io import REQUIRED, load, yaml_file

from aspo_megatron.config.io import load_config
from aspo_megatron.errors import ConfigError

pytestmark = pytest.mark.timeout(60)

DOUBLED = "".join(
    f"  k{number}: '${{loss.options.k{number + 1}}}${{loss.options.k{number + 1}}}'\n" for number in range(60)
)
TOO_MUCH = {
    "doubled": f"loss:\n options:\n{DOUBLED}  k60: text\n",
    "relative": "loss:\n options:\n" + DOUBLED.replace("loss.options", "") + "  k60: text\n",
    "bracketed": "loss:\n options:\n" + DOUBLED.replace("loss.options.k", "loss[options].k") + "  k60: text\n",
    "spaced": "loss:\n options:\n" + DOUBLED.replace("{", "{ ").replace("}", " }") + "  k60: text\n",
    "escaped once": "loss:\n options:\n" + DOUBLED.replace("'", '"').replace("$", "\\\\\\\\$") + "  k60: text\n",
    "sections": "".join(f"s{n}: {{a: '${{s{n + 1}}}', b: '${{s{n + 1}}}'}}\n" for n in range(40)) + "s40: {c: 1}\n",
    "lists": "".join(f"s{n}: ['${{s{n + 1}}}', '${{s{n + 1}}}']\n" for n in range(40)) + "s40: [1]\n",
    "a long text": f"seed: {'a' * 200_000}\nloss: {{options: {{a: '{'${seed}' * 1000}'}}}}\n",
    "itself": "seed: ${seed}\n",
    "each other": "a: ${b}\nb: ${c}\nc: ${a}\n",
    "its section": "a: {b: '${a}', c: '${a}'}\n",
    "through another": "a: ${b}\nb: {c: '${a.c}', d: 1}\n",
    "a number of a list": "a: ['${a[1]}${a[1]}', '${a[2]}${a[2]}', '${a[0]}']\n",
}  # fmt: skip


@pytest.mark.parametrize("text", TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_what_stands_for_too_much_is_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"references expand to too much text, or refer to themselves$") as caught:
        load_config(yaml_file(tmp_path, text), REQUIRED)
    assert len(str(caught.value).splitlines()) == 1


def test_overrides_are_held_to_the_same() -> None:
    doubled = [f"loss.options.k{n}=${{loss.options.k{n + 1}}}${{loss.options.k{n + 1}}}" for n in range(60)]
    with pytest.raises(ConfigError, match="references expand to too much text"):
        load(*doubled, "loss.options.k60=text")


@pytest.mark.parametrize("text", [
    "${oc.decode:'[1,2]'}", "${oc.select:model.path}", "${oc.create:{a:1}}", "${oc.dict.keys:model}", "${own:a}",
    "${loss.${model.path}}", "${oc.env:${model.path}}", "a ${", "${a b}", "${'model.path'}", r"\\${oc.decode:1}",
])  # fmt: skip
def test_other_kinds_of_references_are_named_with_what_is_read(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^data\.template: only the references \$\{section\.key\} and"):
        load(f"data.template={text}")


def test_what_is_documented_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERE", "value")
    config = load(
        "data.template=${oc.env:THERE} ${oc.env:NOT_THERE,other} ${model.path} ${.system}",
        "data.system=s ${rollout.sampling.stop[0]} ${train.steps}",
        "rollout.sampling.stop=[Q]",
        "train.steps=7",
    )
    assert config.data.template == "value other models/m s Q 7"
    assert load(r"data.template=\${model.path}").data.template == "${model.path}"


def test_many_values_are_told_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r", line 10001, column 3: not YAML: has more than 10,000 values$"):
        load_config(yaml_file(tmp_path, "- 1\n" * 30_000), REQUIRED)
