"""Whatever lies where problems are read is one line that names the file and the line, and says what to do."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aspo_megatron.config.data import SourceConfig
from aspo_megatron.data.sources import files, jsonl
from aspo_megatron.data.sources.read import read_source
from aspo_megatron.errors import ConfigError

GOOD = b'{"prompt": "a", "answer": "b"}\n'
KEY = "data.heldout"


def refusal(path: Path | str, **options: Any) -> str:
    """What is said of a source, which is one line that a terminal shows as it is."""
    source = SourceConfig.model_validate({"kind": "jsonl", "path": str(path), **options})
    with pytest.raises(ConfigError) as refused:
        read_source(source, KEY)
    said = str(refused.value)
    assert said.isprintable(), said
    assert len(said) < 1000, said
    return said


def line(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a", "answer": "b", **fields}).encode() + b"\n"


CONTENT: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "holds no problem"),
    "blank lines": (b"\n \r\n\t\n", "holds no problem"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "holds no problem"),
    "latin-1": (GOOD + '{"prompt": "caf\u00e9", "answer": 1}'.encode("latin-1"), "d.jsonl:2: not UTF-8 text"),
    "cut within a character": (GOOD + '{"prompt": "\u20ac'.encode()[:-1], "d.jsonl:2: not UTF-8 text"),
    "overlong encoding": (b'{"prompt": "\xc0\xaf"}', "d.jsonl:1: not UTF-8 text"),
    "surrogate as bytes": (b'{"prompt": "\xed\xa0\x80"}', "d.jsonl:1: not UTF-8 text"),
    "utf-16": (GOOD.decode().encode("utf-16"), "d.jsonl: not UTF-8 text: the file is UTF-16; save it as UTF-8"),
    "utf-16-be": (GOOD.decode().encode("utf-16-be"), "d.jsonl:1: holds zero bytes"),
    "utf-32": (GOOD.decode().encode("utf-32-le"), "d.jsonl:1: holds zero bytes"),
    "zero bytes after a crash": (GOOD + bytes(5000), "d.jsonl:2: holds zero bytes: the file is damaged"),
    "gzip": (
        b"\x1f\x8b\x08\x00" + os.urandom(9).replace(b"\n", b""),
        "d.jsonl: damaged: the gzip data cannot be unpacked",
    ),
    "zstd": (b"\x28\xb5\x2f\xfd\x04", "compressed by zstd"),
    "zip": (b"PK\x03\x04\x14", "a zip archive"),
    "parquet": (b"PAR1\x15\x04", "d.jsonl: not a whole Parquet file: "),
    "deep lists": (b"[" * 200_000, "d.jsonl row 0: nested more than 100 deep"),
    "many values": (
        line(x=0).replace(b"0}", b"[" + b"{}," * 3_000_000 + b"{}]}"),
        "d.jsonl:1: JSON of more than 4,194",
    ),
    "deep objects": (b'{"a":' * 200_000, "d.jsonl:1: nested more than 100 deep"),
    "deep field": (line(tests=0).replace(b"0}", b"[" * 400 + b"]" * 400 + b"}"), "d.jsonl:1: nested more than 100"),
    "number of 5000 digits": (
        GOOD + b'{"prompt": "a", "answer": ' + b"9" * 5000 + b"}",
        "d.jsonl:2: a number with too",
    ),
    "number of 10000 digits elsewhere": (line(x=0).replace(b"0}", b"1" * 10_000 + b"}"), "write it as a text"),
    "answer infinity": (line(answer=float("-inf")), "must be a text or a number, not -inf"),
    "answer 1e999": (b'{"prompt": "a", "answer": 1e999}', "must be a text or a number, not inf"),
    "answer true": (line(answer=True), "must be a text or a number, not True"),
    "answer a mapping": (line(answer={"a": 1}), "must be a text or a number, not {'a': 1}"),
    "answers of two kinds": (line(answer=["a", 1]), "must be a text or a number, not ['a', 1]"),
    "answer with half a pair": (line(answer="\ud83d"), "d.jsonl:1: field 'answer' holds half of a surrogate pair"),
    "answers with half a pair": (line(answer=["1", "\udc00"]), "field 'answer' holds half of a surrogate pair"),
    "question with half a pair": (line(prompt="x\udfff"), "field 'prompt' holds half of a surrogate pair"),
    "id with half a pair": (GOOD + line(id="\ud800"), "d.jsonl:2: field 'id' holds half of a surrogate pair"),
    "question null": (line(prompt=None), "field 'prompt' must be a non-empty text, not None"),
    "question a list": (line(prompt=["a"]), "field 'prompt' must be a non-empty text, not ['a']"),
    "question a list of mappings": (line(prompt=[{"a": 1}]), "must be a non-empty text, not [{'a': 1}]"),
    "question an empty list": (line(prompt=[]), "field 'prompt' must be a non-empty text, not []"),
    "question of spaces": (line(prompt="\u3000\t"), "field 'prompt' must be a non-empty text"),
    "a text": (b'"a"\n', "d.jsonl:1: a problem must be a JSON object, not 'a'"),
    "a number": (b"1\n", "a problem must be a JSON object, not 1"),
    "null": (b"null\n", "a problem must be a JSON object, not None"),
    "a list that does not end": (b"[\n" + GOOD, "d.jsonl row 0: not valid JSON: the list does not end; it is cut off"),
    "a list cut off in a text": (b'[{"prompt": "a', "d.jsonl row 0: not valid JSON (Unterminated string"),
    "a list cut off behind a comma": (b"[" + GOOD + b",", "row 1: not valid JSON: the list does not end"),
    "a list with two commas": (b"[" + GOOD + b",,]", "row 1: not valid JSON (Expecting value, character 0 of it)"),
    "a list without commas": (b"[" + GOOD + GOOD + b"]", "d.jsonl row 0: not valid JSON: '{' follows it"),
    "a list, then more": (b"[" + GOOD + b"]" + GOOD, "d.jsonl: not valid JSON: '{' follows the list of problems"),
    "a list of texts": (b'["a"]', "d.jsonl row 0: a problem must be a JSON object, not 'a'"),
    "a list of deep objects": (b"[" + b'{"a":' * 200_000, "d.jsonl row 0: nested more than 100 deep"),
    "a list in latin-1": (b'[{"prompt": "caf\xe9"}]', "d.jsonl: not UTF-8 text"),
    "a list of many values": (
        b"[" + line(x=0).strip().replace(b"0}", b"[" + b"{}," * 3_000_000 + b"{}]}") + b"]",
        "d.jsonl row 0: JSON of more than 4,194",
    ),
    "an empty list": (b" [ ] ", "holds no problem"),
    "two lists": (
        b'{"train": [' + GOOD + b'], "test": [' + GOOD + b"]}",
        "d.jsonl: holds a second list of objects, 'test'; write the one to be used to a file of its own",
    ),
    "an object around a list, cut off": (
        b'{"data": [' + GOOD + b"]",
        "the object around the list of problems does not",
    ),
    "half an object over lines": (b'{\n"prompt": "a"\n', "JSONL has a whole object on each line"),
    "two objects on a line": (GOOD.strip() + GOOD, "d.jsonl:1: not valid JSON (Extra data, column 31)"),
    "objects ended by CR": (GOOD.replace(b"\n", b"\r") * 2, "d.jsonl:1: not valid JSON (Extra data"),
    "half a line": (GOOD + GOOD[:12], "d.jsonl:2: not valid JSON"),
    "control characters": (b'{"prompt": "\x1b[31m", "answer": 1}', "not valid JSON (Invalid control character"),
    "two answers": (b'{"prompt": "a", "answer": 1, "answer": 2}', "d.jsonl:1: two fields are named 'answer'"),
    "two answers among many fields": (
        b"{" + b"".join(b'"f%d": 1, ' % i for i in range(200_000)) + b'"answer": 1, "answer": 2}',
        "d.jsonl:1: two fields are named 'answer'",
    ),
    "a long id": (b'{"prompt": "a", "answer": 1, "id": "%s"}' % (b"\\u001b" * 10**6), "'id' has 1,000,000 characters"),
    "no answer, odd names": (b'{"prompt": "a", "\\u001b[2J\\n": 1}', "the fields there are: prompt, \u241b[2J\u240a"),
    "no answer, many fields": (b"{" + b", ".join(b'"f%d": 1' % i for i in range(9999)) + b"}", "Set data.heldout.pro"),
    "yaml": (b"prompt: a\nanswer: b\n", "d.jsonl:1: not valid JSON (Expecting value"),
    "python": (b"{'prompt': 'a'}\n", "d.jsonl:1: not valid JSON (Expecting property name"),
}


@pytest.mark.timeout(60)  # what takes time by the square of a line's length does not end
@pytest.mark.parametrize("name", CONTENT)
def test_content(tmp_path: Path, name: str) -> None:
    content, said = CONTENT[name]
    (tmp_path / "d.jsonl").write_bytes(content)
    assert said in refusal(tmp_path / "d.jsonl")


GOOD_CONTENT: dict[str, tuple[bytes, list[tuple[str, str]]]] = {
    "CRLF": (GOOD.replace(b"\n", b"\r\n") * 2, [("a", "b")] * 2),
    "byte order marks": (b"\xef\xbb\xbf" + GOOD + b"\xef\xbb\xbf" + GOOD, [("a", "b")] * 2),
    "no newline at the end": (GOOD + GOOD.strip(), [("a", "b")] * 2),
    "large whole number": (b'{"prompt": "a", "answer": ' + b"9" * 4000 + b"}", [("a", "9" * 4000)]),
    "one list of problems": (b"[" + GOOD.strip() + b"]", [("a", "b")]),
    "a list over lines, with a byte order mark": (b"\xef\xbb\xbf[\n" + GOOD + b",\n" + GOOD + b"]\n", [("a", "b")] * 2),
    "an object around a list": (b'{"n": 1, "data": [' + GOOD + b'], "by": {"a": []}}', [("a", "b")]),
    "a line with a list of objects first": (b'{"tests": [{"problem": 1}], ' + GOOD[1:], [("a", "b")]),
    "a row longer than a piece": (
        b"[" + line(prompt="x" * 3_000_000) + b"," + GOOD + b"]",
        [("x" * 3_000_000, "b"), ("a", "b")],
    ),
    "NaN in another field": (line(score=float("nan")), [("a", "b")]),
    "a whole pair": (b'{"prompt": "\\ud83d\\ude00", "answer": 1.50}', [("\U0001f600", "1.5")]),
    "a zero character, escaped": (b'{"prompt": "\\u0000", "answer": "b"}', [("\0", "b")]),
    "fields of one name within a field": (b'{"prompt": "a", "answer": "b", "x": {"y": 1, "y": 2}}', [("a", "b")]),
    "nested 99 deep": (line(x=0).replace(b"0}", b"[" * 99 + b"]" * 99 + b"}"), [("a", "b")]),
    "many brackets": (line(x=[[1]] * 500, answer=["1", "2"]), [("a", "1, 2")]),
}


@pytest.mark.parametrize("answer", [None, "", " \n", float("nan"), []])
def test_an_empty_answer_is_none(tmp_path: Path, answer: Any) -> None:
    """Which rewards that need one refuse."""
    (tmp_path / "d.jsonl").write_bytes(line(answer=answer))
    (record,) = read_source(SourceConfig(kind="jsonl", path=str(tmp_path / "d.jsonl")), KEY)
    assert record.answer is None


@pytest.mark.parametrize("name", GOOD_CONTENT)
def test_content_that_is_read(tmp_path: Path, name: str) -> None:
    content, expected = GOOD_CONTENT[name]
    (tmp_path / "d.jsonl").write_bytes(content)
    records = read_source(SourceConfig(kind="jsonl", path=str(tmp_path / "d.jsonl")), KEY)
    assert [(record.question, record.answer) for record in records] == expected


def test_a_line_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MOST_LINE_BYTES", 2**20)
    path = tmp_path / "d.jsonl"
    with path.open("wb") as file:
        file.write(GOOD)
        file.truncate(2**31)
    assert f"{path}:2: longer than 1 MiB" in refusal(path)


def pipe(path: Path) -> Path:
    os.mkfifo(path / "pipe")
    return path / "pipe"


def bound_socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path / "socket"))
    return path / "socket"


def loop(path: Path) -> Path:
    (path / "loop").symlink_to("loop")
    return path / "loop"


def below_a_file(path: Path) -> Path:
    (path / "file").touch()
    return path / "file" / "d.jsonl"


def dangling(path: Path) -> Path:
    (path / "link").symlink_to("nowhere")
    return path / "link"


PLACES: dict[str, tuple[Callable[[Path], Path | str], str]] = {
    "nothing": (lambda path: path / "none.jsonl", "none.jsonl does not exist; give a JSONL, JSON, CSV or Parquet file"),
    "a folder": (lambda path: path, "is a folder without .jsonl, .json, .csv or .parquet files"),
    "a pipe": (pipe, "is a pipe or a device; write what it gives into a file"),
    "a device": (lambda path: "/dev/zero", "/dev/zero is a pipe or a device"),
    "a terminal": (lambda path: "/dev/tty", "data.heldout.path: /dev/tty "),
    "a socket": (bound_socket, "cannot be read: No such device or address"),
    "a link to itself": (loop, "cannot be read: Too many levels of symbolic links"),
    "a link to nothing": (dangling, "link does not exist"),
    "below a file": (below_a_file, "cannot be read: Not a directory"),
    "a long name": (lambda path: path / ("x" * 300), "cannot be read: File name too long"),
    "a zero byte": (lambda path: f"{path}/a\0b", "cannot be read: embedded null byte"),
    "another user's home": (lambda path: "~no-such-user/d.jsonl", "~no-such-user/d.jsonl: "),
    "lines in the name": (lambda path: path / "a\nb\x1b[2J.jsonl", "a\u240ab\u241b[2J.jsonl"),
}


@pytest.mark.parametrize("kind", ["jsonl", "huggingface"])
@pytest.mark.parametrize("name", PLACES)
def test_places(tmp_path: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place, said = PLACES[name]
    refused = refusal(place(tmp_path), kind=kind)
    assert KEY in refused
    if kind == "jsonl":
        assert said in refused


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_file_that_is_not_given(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As to a user who may not read it; root may read all."""

    def denied(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "os", SimpleNamespace(**{**vars(os), "open": denied}))
    assert f"d.jsonl cannot be read: {os.strerror(number)}" in refusal(tmp_path / "d.jsonl")


@pytest.mark.parametrize("content", [GOOD * 9000, b"[" + b",".join([GOOD] * 90_000) + b"]"])
def test_a_disk_that_fails(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the beginning, by which the file's format is seen."""

    class Failing(io.BytesIO):
        def _or_fail(self, read: Callable[[int], bytes], size: int) -> bytes:
            if self.tell() > 250_000:
                raise OSError(5, "Input/output error")
            return read(min(size, 250_000))

        def read(self, size: int | None = -1, /) -> bytes:
            return self._or_fail(super().read, size or -1)

        def readline(self, size: int | None = -1, /) -> bytes:
            return self._or_fail(super().readline, size or -1)

    monkeypatch.setattr(files, "open_source", lambda path, key: Failing(content))
    said = refusal(tmp_path / "d.jsonl")
    assert "cannot be read: Input/output error" in said
    assert "d.jsonl" in said


# ---- Hugging Face datasets --------------------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path


def program(folder: Path) -> Path:
    """A dataset as they once were: a program."""
    place = folder / "sums"
    place.mkdir()
    (place / "sums.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    return place


@pytest.mark.parametrize("trusting", [False, True])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_dataset_that_is_a_program_is_not_run(
    offline: Path, what: str, trusting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trusting:
        monkeypatch.setenv("HF_DATASETS_TRUST_REMOTE_CODE", "1")
    place = program(offline)
    said = refusal(place if what == "folder" else place / "sums.py", kind="huggingface")
    assert "sums.py is a program that makes a dataset, and is not run" in said
    assert not (offline / "ran").exists()


def test_a_library_that_asks_is_told_no(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions of `datasets` run what a name on the Hub leads to, if they may."""
    import datasets

    given: dict[str, Any] = {}

    def load_dataset(path: str, name: str | None = None, trust_remote_code: bool | None = None, **more: Any) -> None:
        given.update(more, trust_remote_code=trust_remote_code)
        raise ValueError("The repository for x/y contains custom code\nwhich must be executed")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert "custom code which must be executed" in refusal("x/y", kind="huggingface")
    assert given == {"split": "train", "trust_remote_code": False}


DATASETS: dict[str, tuple[str, bytes, str]] = {
    "parquet that is none": ("d.parquet", b"PAR1 and no more", "d.parquet: not a whole Parquet file"),
    "arrow that is none": ("d.arrow", b"ARROW1\0\0", "cannot load dataset"),
    "csv in latin-1": ("d.csv", "prompt,answer\ncaf\u00e9,1\n".encode("latin-1"), "d.csv:2: not UTF-8 text"),
    "json cut off": ("d.json", b'{"prompt": "a", "ans', "d.json:1: not valid JSON"),
    "empty json": ("d.json", b"", KEY),
    "no such field": ("d.csv", b"question,answer\na,1\n", "no field 'prompt'; the fields there are: question, answer"),
    "no question in a row": ("d.csv", b"prompt,answer\na,1\n,1\n", "d.csv:3: field 'prompt' must be a non-empty text"),
    "plain text": ("d.txt", b"a\nb\n", "no field 'prompt'; the fields there are: text"),
}


@pytest.mark.parametrize("name", DATASETS)
def test_datasets(offline: Path, name: str) -> None:
    file, content, said = DATASETS[name]
    (offline / file).write_bytes(content)
    assert said in refusal(offline / file, kind="huggingface")


def test_a_folder_of_several_splits_is_no_split(offline: Path) -> None:
    import datasets

    one = datasets.Dataset.from_list([{"prompt": "a", "answer": "b"}])
    datasets.DatasetDict({"inner": one}).save_to_disk(offline / "all" / "train")
    (offline / "all" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert "data.heldout.split: 'train' of" in refusal(offline / "all", kind="huggingface")


def test_a_row_that_cannot_be_read(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    class Broken(datasets.Dataset):  # type: ignore[misc]
        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield {"prompt": "a", "answer": "b"}
            raise OSError("cannot identify image file\nx.png")

    rows = datasets.Dataset.from_list([{"prompt": "a", "answer": "b"}] * 2)
    monkeypatch.setattr(datasets, "load_from_disk", lambda path: Broken(rows.data))
    (offline / "state.json").touch()
    said = refusal(offline, kind="huggingface")
    assert "[train] row 1: cannot be read: cannot identify image file x.png" in said


# ---- reasoning-gym ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"params": {"min_terms": None}}, "data.heldout.params: chain_sum refuses"),
        ({"params": {"min_terms": "\x1b[2J"}}, "refuses {'min_terms':"),
        ({"params": {"min_terms": [2]}}, "refuses {'min_terms': [2]}"),
        ({"params": {"min_terms": -1}}, "refuses {'min_terms': -1}: "),
        ({"params": {"min_terms": 2, "max_terms": float("nan")}}, "refuses"),
        ({"params": {"\x1b": 1}}, "chain_sum has no parameter"),
        ({"params": {"min_digits": 1.5}}, "refuses"),
        ({"family": "chain_sum\n"}, "the nearest name is 'chain_sum'"),
        ({"family": "x" * 5000}, "the nearest name is"),
        ({"prompt_field": "words"}, "chain_sum has no field 'words'; it has: "),
    ],
)
def test_reasoning_gym(options: dict[str, Any], said: str) -> None:
    assert said in refusal("", **{"kind": "reasoning_gym", "family": "chain_sum", "size": 3, **options})
