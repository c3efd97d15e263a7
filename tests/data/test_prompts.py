"""Problems from every kind of source, their split and their tokens; and the error for each kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from aspo_megatron.config import DataConfig
from aspo_megatron.data.prompts import load_problems
from aspo_megatron.errors import ConfigError

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
CONTEXT, RESPONSE = 256, 16


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, so that lengths and texts can be read off the ids."""
    vocabulary = {"<unk>": 0} | {chr(code): code for code in range(1, 128)}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>", chat_template=CHAT_TEMPLATE)


def write_jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def sums(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{n} + {n + 1} =", "answer": 2 * n + 1} for n in range(count)]


def data(source: Path | dict[str, Any], **options: Any) -> DataConfig:
    train = {"kind": "jsonl", "path": str(source)} if isinstance(source, Path) else source
    return DataConfig.model_validate({"train": train, "format": "raw", **options})


def load(config: DataConfig, tokenizer: PreTrainedTokenizerFast, context: int = CONTEXT):
    return load_problems(config, tokenizer, context, RESPONSE)


def decode(ids: tuple[int, ...]) -> str:
    return "".join(map(chr, ids))


def test_jsonl_becomes_raw_prompts(tmp_path, tokenizer):
    path = write_jsonl(tmp_path / "sums.jsonl", [{"prompt": "1 + 2 =", "answer": 3, "level": "easy"}])
    train, heldout = load(data(path, template="Q: {prompt}\nA:"), tokenizer)
    assert heldout == []
    assert [(p.id, p.question, p.answer, p.metadata) for p in train] == [("sums-0", "1 + 2 =", "3", {"level": "easy"})]
    assert decode(train[0].prompt_ids) == "Q: 1 + 2 =\nA:"


def test_chat_prompts_go_through_the_template(tmp_path, tokenizer):
    path = write_jsonl(tmp_path / "sums.jsonl", sums(2))
    train, _ = load(data(path, format="chat", system="Add.", template="{prompt} ?"), tokenizer)
    assert [decode(p.prompt_ids) for p in train] == [
        "[system]Add.[user]0 + 1 = ?[assistant]",
        "[system]Add.[user]1 + 2 = ?[assistant]",
    ]


def test_own_ids_other_fields_no_answers_and_blank_lines(tmp_path, tokenizer):
    path = tmp_path / "own.jsonl"
    path.write_text('\ufeff{"id": 7, "q": "a"}\n\n{"id": "x", "q": "b"}\n{"id": "y", "q": "c"}\n')
    source = {"kind": "jsonl", "path": str(path), "prompt_field": "q", "answer_field": None, "limit": 2}
    train, _ = load(data(source), tokenizer)
    assert [(p.id, p.question, p.answer) for p in train] == [("7", "a", None), ("x", "b", None)]


def test_ids_that_repeat_are_not_used(tmp_path, tokenizer):
    records = [{"id": "same", **record} for record in sums(2)]
    train, _ = load(data(write_jsonl(tmp_path / "d.jsonl", records)), tokenizer)
    assert [p.id for p in train] == ["d-0", "d-1"]


def test_repeated_prompts_are_dropped(tmp_path, tokenizer):
    path = write_jsonl(tmp_path / "d.jsonl", [*sums(2), {"prompt": " 0 + 1 = ", "answer": "later"}, *sums(3)])
    train, _ = load(data(path), tokenizer)
    assert [(p.id, p.answer) for p in train] == [("d-0", "1"), ("d-1", "3"), ("d-5", "5")]
    assert train.repeated == 3


def test_heldout_fraction_is_disjoint_exact_and_stable(tmp_path, tokenizer):
    records = sums(50) + sums(20)
    forward, backward = (
        load(data(write_jsonl(tmp_path / f"{name}.jsonl", order), heldout_fraction=0.3, template=template), tokenizer)
        for name, order, template in [("a", records, "{prompt}"), ("b", records[::-1], "Solve {prompt}")]
    )
    questions = [[p.question for p in side] for side in forward]
    assert [len(side) for side in questions] == [35, 15]
    assert not set(questions[0]) & set(questions[1])
    assert [set(side) for side in questions] == [{p.question for p in side} for side in backward]
    order = [record["prompt"] for record in records]
    assert all(side == sorted(side, key=order.index) for side in questions)
    # A change of the hash would move problems of published runs to the other side.
    assert questions[1][:4] == ["2 + 3 =", "3 + 4 =", "4 + 5 =", "8 + 9 ="]


def test_heldout_source_is_taken_out_of_train(tmp_path, tokenizer, caplog):
    train_path = write_jsonl(tmp_path / "train.jsonl", sums(10))
    heldout_path = write_jsonl(tmp_path / "heldout.jsonl", [*sums(12)[7:], sums(12)[8]])
    train, heldout = load(data(train_path, heldout={"kind": "jsonl", "path": str(heldout_path)}), tokenizer)
    assert [p.id for p in train] == [f"train-{n}" for n in range(7)]
    assert [p.id for p in heldout] == [f"heldout-{n}" for n in range(5)]
    assert "dropped 3 problems that are in data.heldout" in caplog.text


def test_huggingface_folder_file_and_saved_dataset(tmp_path, tokenizer, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "sums"
    folder.mkdir()
    records = [{"question": f"{n} + 1 =", "answer": n + 1, "level": n} for n in range(4)]
    write_jsonl(folder / "train.jsonl", records)
    write_jsonl(folder / "test.jsonl", records[:1])
    datasets.Dataset.from_list(records).save_to_disk(tmp_path / "saved")
    fields = {"kind": "huggingface", "prompt_field": "question"}
    for path, split, name in [(folder, "test", "sums"), (folder / "test.jsonl", "test", "test")]:
        train, _ = load(data({**fields, "path": str(path), "split": split}), tokenizer)
        assert [(p.id, p.question, p.answer, p.metadata) for p in train] == [
            (f"{name}-{split}-0", "0 + 1 =", "1", {"level": 0})
        ]
    train, _ = load(data({**fields, "path": str(tmp_path / "saved"), "limit": 3}), tokenizer)
    assert [p.answer for p in train] == ["1", "2", "3"]

    with pytest.raises(ConfigError, match=r"no field 'prompt'.*question, answer, level.*data\.train\.prompt_field"):
        load(data({"kind": "huggingface", "path": str(folder)}), tokenizer)
    with pytest.raises(ConfigError, match=r"data\.train: cannot load.*'dev'.*train"):
        load(data({**fields, "path": str(folder), "split": "dev"}), tokenizer)
    with pytest.raises(ConfigError, match=r"data\.train\.path: .*none\.parquet does not exist"):
        load(data({**fields, "path": str(tmp_path / "none.parquet")}), tokenizer)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigError, match="pip install datasets"):
        load(data({**fields, "path": str(folder)}), tokenizer)


CHAIN_SUM = {"kind": "reasoning_gym", "family": "chain_sum", "size": 30, "seed": 3}
ONE_DIGIT = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def test_reasoning_gym_keeps_what_scoring_needs(tokenizer):
    config = data({**CHAIN_SUM, "params": ONE_DIGIT}, heldout_fraction=0.2)
    train, heldout = load(config, tokenizer)
    assert load(config, tokenizer) == (train, heldout)
    assert not {p.question for p in train} & {p.question for p in heldout}
    first = train[0]
    assert first.id == "chain_sum-3-0"
    assert first.metadata["family"] == "chain_sum"
    entry = first.metadata["entry"]
    assert (entry["question"], entry["answer"]) == (first.question, first.answer)
    assert eval(entry["metadata"]["expression"]) == int(first.answer)
    assert len(load(data({**CHAIN_SUM, "limit": 5}), tokenizer)[0]) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "chain_sums"}, r"data\.train\.family: .*'chain_sums'; the nearest name is 'chain_sum'"),
        ({"params": {"terms": 2}}, r"data\.train\.params: chain_sum has no parameter 'terms'; it has: min_terms, "),
        ({"params": {"min_terms": 9}}, r"data\.train\.params: chain_sum refuses .*max_terms must be >= min_terms"),
        ({"params": {"min_terms": "two"}}, r"data\.train\.params: chain_sum refuses"),
        ({"params": {"seed": 2}}, r"data\.train\.params\.seed: set data\.train\.seed"),
    ],
)
def test_reasoning_gym_errors(tokenizer, change, message):
    with pytest.raises(ConfigError, match=message):
        load(data({**CHAIN_SUM, **change}), tokenizer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"data\.train: .*d\.jsonl holds no problem"),
        ("\n\n", r"holds no problem"),
        ('{"prompt": "a", "answer": 1}\n{"prompt": \n', r"d\.jsonl:2: not valid JSON \(Expecting value, column"),
        ("1\n", r"d\.jsonl:1: a problem must be a JSON object, not 1"),
        ('{"question": "a", "answer": 1}', r"d\.jsonl:1: no field 'prompt'.*question, answer.*data\.train\.prompt_f"),
        ('{"prompt": "a", "gold": 1}', r"d\.jsonl:1: no field 'answer'.*prompt, gold.*data\.train\.answer_field"),
        ('{"prompt": 5, "answer": 1}', r"d\.jsonl:1: field 'prompt' must be a non-empty text, not 5"),
        ('{"prompt": " ", "answer": 1}', r"must be a non-empty text"),
        ('{"prompt": "a", "answer": true}', r"d\.jsonl:1: field 'answer' must be a text or a number, not True"),
        ('{"prompt": "\\ud800", "answer": 1}', r"d\.jsonl:1: .*surrogate"),
    ],
)
def test_jsonl_errors(tmp_path, tokenizer, text, message):
    path = tmp_path / "d.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(data(path), tokenizer)


def test_jsonl_not_text_or_not_there(tmp_path, tokenizer):
    (tmp_path / "d.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(ConfigError, match=r"d\.jsonl:1: not UTF-8"):
        load(data(tmp_path / "d.jsonl"), tokenizer)
    with pytest.raises(ConfigError, match=r"data\.train\.path: .*none\.jsonl does not exist"):
        load(data(tmp_path / "none.jsonl"), tokenizer)
    with pytest.raises(ConfigError, match=r"is a folder"):
        load(data(tmp_path.parent), tokenizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "Q:"}, r"data\.template: 'Q:' has no \{prompt\}"),
        ({"system": "Add."}, r"data\.system needs data\.format: chat"),
        ({"heldout_fraction": 0.01}, r"data\.heldout_fraction: 0\.01 of 10 problems rounds to none"),
        ({"heldout_fraction": 0.99}, r"data\.train: no problem is left"),
        ({"max_prompt_tokens": 6}, r"problem d-0: its prompt has 7 tokens, more than data\.max_prompt_tokens=6"),
    ],
)
def test_form_errors(tmp_path, tokenizer, options, message):
    path = write_jsonl(tmp_path / "d.jsonl", sums(10))
    with pytest.raises(ConfigError, match=message):
        load(data(path, **options), tokenizer)


def test_two_ways_to_hold_out(tmp_path, tokenizer):
    path = write_jsonl(tmp_path / "d.jsonl", sums(3))
    source = {"kind": "jsonl", "path": str(path)}
    with pytest.raises(ConfigError, match="both set"):
        load(data(path, heldout=source, heldout_fraction=0.5), tokenizer)
    with pytest.raises(ConfigError, match="no problem is left"):
        load(data(path, heldout=source), tokenizer)


def test_prompt_and_response_must_fit_the_context(tmp_path, tokenizer):
    path = write_jsonl(
        tmp_path / "d.jsonl", [{"prompt": "12345678", "answer": 1}, {"prompt": "123456789", "answer": 1}]
    )
    with pytest.raises(
        ConfigError, match=r"d-1: its prompt of 9 tokens and a response of up to 16.*context of 24.*max_r"
    ):
        load(data(path), tokenizer, context=24)
    assert len(load(data(path), tokenizer, context=25)[0]) == 2


def test_chat_template_missing_or_failing(tmp_path, tokenizer):
    path = write_jsonl(tmp_path / "d.jsonl", sums(1))
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>")
    with pytest.raises(ConfigError, match=r"no chat template; set data\.format: raw"):
        load(data(path, format="chat"), plain)
    plain.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ConfigError, match=r"System role not supported.*leave data\.system out"):
        load(data(path, format="chat", system="Add."), plain)
