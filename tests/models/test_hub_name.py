"""What is a name on the Hub, and what is a path that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from aspo_megatron.models.hub_name import fetch_first, hub_name


@pytest.mark.parametrize(
    ("text", "download"),
    [
        ("Qwen/Qwen3-0.6B", "hf download Qwen/Qwen3-0.6B --local-dir models/Qwen3-0.6B"),
        ("Qwen/Qwen3-0.6B@v1/a", "hf download Qwen/Qwen3-0.6B --revision v1/a --local-dir models/Qwen3-0.6B"),
        ("models/Qwen3-0.6B", None),
        ("own/model", None),
        ("own/there", None),
        ("Qwen3-0.6B", None),
        ("a/b/c", None),
        ("/models/a", None),
        ("./Qwen/a", None),
        ("../a", None),
        ("~/a", None),
        ("-x/a", None),
        ("a/b;c", None),
        ("", None),
    ],
)
def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, download: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "there").mkdir(parents=True)
    found = hub_name(text)
    assert (found and found.download) == download


def test_a_folder_of_models_that_is_not_there() -> None:
    assert fetch_first(Path("models/A")) == "; to download one: hf download ORGANISATION/A --local-dir models/A"
    assert fetch_first(Path("/models/A")) == fetch_first(Path("runs/A/hf")) == ""
