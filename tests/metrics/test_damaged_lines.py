"""What a power cut leaves in the files of lines of a run, and going on with them."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest
from thorough import one_in

from aspo_megatron.errors import UserError
from aspo_megatron.metrics.damaged_lines import named, named_spans
from aspo_megatron.metrics.line_file import LineFile
from aspo_megatron.metrics.record import Recorder, read_metrics
from aspo_megatron.plots.sample_file import read_samples

DAMAGED = {
    "zeros within": b'{"step": 3, "a": \0\0\0}\n',
    "zeros alone": b"\0" * 4096 + b"\n",
    "zeros before": b"\0" * 512 + b'{"step": 3, "a": 3.0}\n',
    "zeros behind": b'{"step": 3, "a": 3.0}' + b"\0" * 512 + b"\n",
    "not UTF-8": b'{"step": 3, "\xff": 1}\n',
    "another encoding": '{"step": 3, "é": 1}'.encode("latin-1") + b"\n",
    "half of a surrogate pair": b'{"step": 3, "\xed\xa0\x80": 1}\n',
    "empty": b"\n",
    "empty of Windows": b"\r\n",
    "blanks": b"  \t \n",
    "cut": b'{"step": 3, "a"\n',
    "cut and glued": b'{"step": 3, "a{"step": 3, "a": 3.0}\n',
    "two in one": b'{"step": 3, "a": 3.0}{"step": 4, "a": 4.0}\n',
    "list": b"[3]\n",
    "number": b"3\n",
    "text": b'"step"\n',
    "null": b"null\n",
    "no step": b'{"a": 3.0}\n',
    "step of text": b'{"step": "3", "a": 3.0}\n',
    "step of a fraction": b'{"step": 3.5, "a": 3.0}\n',
    "step null": b'{"step": null, "a": 3.0}\n',
    "step true": b'{"step": true, "a": 3.0}\n',
    "step a list": b'{"step": [3], "a": 3.0}\n',
    "step below 0": b'{"step": -3, "a": 3.0}\n',
    "huge step": b'{"step": 1' + b"0" * 400 + b"}\n",
    "endless step": b'{"step": 1' + b"0" * 9000 + b"}\n",
    "infinite step": b'{"step": 1e999}\n',
    "deep": b'{"step": 3, "a": ' + b"[" * 100_000 + b"}\n",
}
NO_NUMBERS = {
    "huge value": b'{"step": 3, "a": 1' + b"0" * 400 + b"}\n",
    "value of text": b'{"step": 3, "a": "three"}\n',
    "value null": b'{"step": 3, "a": null}\n',
    "value a list": b'{"step": 3, "a": [3]}\n',
}


def lines(first: int, last: int) -> list[bytes]:
    return [json.dumps({"step": step, "a": float(step)}).encode() + b"\n" for step in range(first, last + 1)]


def go_on(run: Path, step: int) -> list[str]:
    told: list[str] = []
    with Recorder(run, False, step, warn=told.append) as recorder:
        recorder.log(step + 1, {"a": step + 1})
        recorder.log_samples(step + 1, [{"a": step + 1}])
    return told


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("metrics.jsonl", kind) for kind in [*DAMAGED, *NO_NUMBERS]),
        *(("samples.jsonl", kind) for kind in DAMAGED),
    ],
)
def test_a_damaged_line_is_set_aside_and_named(tmp_path: Path, name: str, kind: str) -> None:
    bad = (DAMAGED | NO_NUMBERS)[kind]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines(1, 5)))
    (tmp_path / name).write_bytes(b"".join([*lines(1, 2), bad, *lines(4, 5)]))
    (told,) = go_on(tmp_path, 4)
    assert told.startswith(f"warning: {tmp_path / name}, line 3: damaged, now in {name}.damaged; ")
    assert ("step 3 missing" in told) == (name == "metrics.jsonl")
    assert (tmp_path / f"{name}.damaged").read_bytes() == bad
    whole = [json.loads(line)["step"] for line in (tmp_path / name).read_bytes().splitlines()]
    assert whole == [1, 2, 4, 5]
    again = go_on(tmp_path, 5)
    assert not any(f"{name}.damaged" in line for line in again)


@pytest.mark.parametrize("kind", [*DAMAGED, *NO_NUMBERS])
def test_a_damaged_line_is_left_out_of_a_figure(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join([*lines(1, 2), (DAMAGED | NO_NUMBERS)[kind], *lines(4, 5)]))
    told: list[str] = []
    before = path.read_bytes()
    assert [values["step"] for values in read_metrics(path, told.append)] == [1, 2, 4, 5]
    assert told == [f"warning: {path}, line 3: damaged, not the metrics of a step; left out"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "steps"),
    [
        (None, "steps 1 to 4"),
        (b"", "steps 1 to 4"),
        (b"\0" * 300, "steps 1 to 4"),
        (b"".join(lines(1, 2)), "steps 3 to 4"),
        (b"".join(lines(1, 3))[:-1], "steps 3 to 4"),
        (b"".join(lines(1, 3))[:30], "steps 2 to 4"),
        (b"".join(lines(3, 4)), "steps 1 to 2"),
        (b"".join([*lines(1, 1), *lines(3, 3), *lines(5, 9)]), "steps 2, 4"),
        (b"".join(lines(5, 9)), "steps 1 to 4"),
        (b"".join(lines(1, 1) * 4), "steps 2 to 4"),
    ],
)
def test_missing_steps_are_told(tmp_path: Path, content: bytes | None, steps: str) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    (told,) = go_on(tmp_path, 4)
    assert f"{steps} missing: what was recorded then is lost" in told
    assert str(tmp_path / "metrics.jsonl") in told
    assert read_metrics(tmp_path / "metrics.jsonl")[-1] == {"step": 5, "a": 5}


@pytest.mark.timeout(60)
def test_a_step_without_measure_is_no_endless_count(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines(1, 3)))
    (told,) = go_on(tmp_path, 10**18)
    assert f"steps 4 to {10**18} missing: what was recorded then is lost" in told


@pytest.mark.parametrize(
    "content",
    [
        b"".join(lines(1, 4)),
        b"".join(lines(1, 6)),
        b"".join(lines(1, 4)) + b'{"step": 5, "a',
        b"".join(lines(0, 4) * 2),
        b"".join(reversed(lines(1, 6))),
        b"".join(line.replace(b"\n", b"\r\n") for line in lines(1, 4)),
        b"\xef\xbb\xbf" + b"".join(lines(1, 4)),
        b"".join(lines(1, 4)).replace(b"1.0", b'"NaN"').replace(b"2.0", b"NaN").replace(b"3.0", b"1e999"),
        b"".join(line.replace(b" ", b"   ") for line in lines(1, 5)),
        b"".join([*lines(1, 4), b'{"step": 4, "' + "é".encode() * 70_000 + b'": 1}\n', b'{"step": 5' + b" " * 200_000]),
    ],
)
def test_whole_lines_are_kept_as_they_are(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    assert go_on(tmp_path, 4) == []
    kept = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
    kept = [line for line in kept if b'"step": 5' not in line.replace(b"   ", b" ") and b'"step": 6' not in line]
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(kept) + lines(5, 5)[0]
    assert not (tmp_path / "metrics.jsonl.damaged").exists()


def test_damage_of_several_times_is_kept(tmp_path: Path) -> None:
    for bad in (b"\0\0\n", b"[\n"):
        (tmp_path / "samples.jsonl").write_bytes(bad + lines(1, 1)[0])
        (tmp_path / "metrics.jsonl").write_bytes(lines(1, 1)[0])
        assert len(go_on(tmp_path, 1)) == 1
    assert (tmp_path / "samples.jsonl.damaged").read_bytes() == b"\0\0\n[\n"


def test_a_run_that_begins_again_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"\0\n" + lines(1, 3)[0])
    assert go_on(tmp_path, -1) == []
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 0, "a": 0}]


def test_evaluations_of_other_names_stay(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    for name in ("step-000004", "step-000005", "step-best", "step-", "step-²"):
        (tmp_path / "eval" / f"{name}.jsonl").touch()
    (tmp_path / "eval" / "step-000004.jsonl.partial").touch()
    go_on(tmp_path, 4)
    assert {path.stem for path in (tmp_path / "eval").iterdir()} == {"step-000004", "step-best", "step-", "step-²"}


def test_a_file_without_metrics_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# A run\n\nof mine\n")
    with pytest.raises(UserError, match=r"README\.md, line 1: not a line of metrics: b'# A run"):
        read_metrics(path)


def test_numbers_are_named_shortly() -> None:
    assert named("line", [2]) == "line 2"
    assert named("step", [1, 2, 3, 7]) == "steps 1 to 3, 7"
    assert named_spans("step", [range(3, 10**30)]) == f"steps 3 to {10**30 - 1}"
    assert named("line", list(range(1, 100, 2))) == "lines 1, 3, 5, 7, 9 and more"


def test_a_full_disk_allows_to_cut_what_is_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines(1, 9)))

    def full(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(os, "replace", full)
    assert go_on(tmp_path, 4) == []
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 5


GOOD = b'{"step": 1, "a": 1.0}\n'
NO_ACCIDENT = {
    "a hole": b"",
    "empty lines": b"\n" * 200_000,
    "short lines": b"{\n" * 200_000,
    "lines that must be parsed": b"{aaaaaaaaaaa\n" * 100_001,
    "long lines": (b"x" * (1 << 22) + b"\n") * 80,
}


@pytest.mark.parametrize("kind", one_in(3, NO_ACCIDENT))
def test_a_file_that_no_accident_leaves_is_refused_early(tmp_path: Path, kind: str) -> None:
    """In little memory and time, whatever its size; nothing of it is changed."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        (tmp_path / name).write_bytes(GOOD + NO_ACCIDENT[kind] + GOOD)
        if kind == "a hole":
            os.truncate(tmp_path / name, 20 << 30)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    try:
        for read in (
            lambda: read_metrics(tmp_path / "metrics.jsonl"),
            lambda: read_samples(tmp_path),
            lambda: go_on(tmp_path, 1),
        ):
            with pytest.raises(UserError, match=r"(metrics|samples)\.jsonl: .* damaged lines .* move the file away"):
                read()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert (tmp_path / "metrics.jsonl").stat().st_size == size
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "samples.jsonl"}
    go_on(tmp_path, -1)  # a run that begins anew needs none of it
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0]


def test_many_values_in_a_line_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 2, "a": [' + b"{}," * (5 << 20) + b"{}]}\n" + GOOD)
    told: list[str] = []
    assert read_metrics(path, warn=told.append) == [{"step": 1.0, "a": 1.0}]
    assert "line 1: damaged" in told[0]


def test_what_is_longer_than_a_line_is_kept_and_written_after(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes(GOOD)
    os.truncate(path, 20 << 30)
    lines = LineFile(path)
    lines.add(GOOD)
    lines.write()
    lines.close()
    with path.open("rb") as file:
        assert file.read(len(GOOD)) == GOOD
        assert file.seek(0, os.SEEK_END) == (20 << 30) + 1 + len(GOOD)
        file.seek(20 << 30)
        assert file.read() == b"\n" + GOOD
