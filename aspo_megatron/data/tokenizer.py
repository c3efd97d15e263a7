"""The tokenizer of a model folder: data, read first in a process that may fail; whatever is wrong is one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aspo_megatron.data.bad_problems import Reason
from aspo_megatron.data.decoding import refusal
from aspo_megatron.data.isolated_process import Isolated, IsolatedError
from aspo_megatron.errors import CheckpointError
from aspo_megatron.foreign_text import one_line, reason_of
from aspo_megatron.models.data_only import read_tokenizer_config
from aspo_megatron.models.family import Family, read_family

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""One of them is in every folder with a tokenizer."""

_SECONDS = 60.0
"""Of computing, to load a tokenizer: a large vocabulary takes one, without a tokenizer.json some more."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder.

    Raises:
        CheckpointError: the folder has none, it cannot be read, it needs code of its own, or responses may not be
            decoded with it.
    """
    name = one_line(folder)
    if not any((folder / file).is_file() for file in FILES):
        raise CheckpointError(f"{name}: no tokenizer (tokenizer.json, tokenizer.model or vocab.json)")
    family = read_family(folder)
    _refuse_code(folder, family, read_tokenizer_config(folder))
    from aspo_megatron.models.hf_config import transformers_config

    config = transformers_config(family)
    if "tokenizer_class" in family.hf_config:
        config.tokenizer_class = family.hf_config["tokenizer_class"]
    try:
        # What is damaged or hostile shows there; then it is loaded here.
        with Isolated[Path, str | None](lambda path: _try(path, config)) as elsewhere:
            refused = elsewhere(folder, _SECONDS)
        if refused is None:
            return _load(folder, config)
    except IsolatedError as error:
        raise CheckpointError(f"{name}: the tokenizer cannot be read ({error})") from error
    except Exception as error:  # of a library that raises all kinds
        raise CheckpointError(f"{name}: the tokenizer cannot be read ({reason_of(error)})") from error
    raise CheckpointError(f"{name}: the tokenizer cannot be used: {refused}")


def beyond_vocabulary(
    name: str, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], vocab_size: int
) -> Reason | None:
    """Why a model of so many tokens cannot be given these, which the tokenizer has made of a text named so."""
    if max(ids, default=0) < vocab_size:
        return None
    token = next(token for token in ids if token >= vocab_size)
    text = (
        f"{one_line(name)}: token {one_line(tokenizer.convert_ids_to_tokens(token))[:80]} ({token}) is beyond the "
        f"model's vocabulary ({vocab_size}); do tokenizer and config.json (vocab_size) belong to one model?"
    )
    return Reason("token beyond the vocabulary", text)


def _load(folder: Path, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, config=config, trust_remote_code=False, local_files_only=True
    )
    return tokenizer


def _try(folder: Path, config: PretrainedConfig) -> str | None:
    """Use a tokenizer in all the ways in which it is used later; why it is refused, if it is."""
    tokenizer = _load(folder, config)
    refused = refusal(tokenizer)
    if refused is not None:
        return refused
    ids = tokenizer(["1 + 1 ="])["input_ids"][0]
    tokenizer.decode(ids)
    tokenizer.decode(sorted(tokenizer.get_vocab().values()))  # a decoder may make much of little
    if not all(isinstance(token, int) and token >= 0 for token in ids):
        raise ValueError(f"it makes no whole numbers of a text, but {ids}")
    if not isinstance(tokenizer.eos_token_id, int | None):
        raise TypeError(f"its end token is {tokenizer.eos_token_id!r}")
    templates = tokenizer.chat_template
    for template in templates.values() if isinstance(templates, dict) else (templates,):
        if not isinstance(template, str | None):
            raise TypeError(f"its chat template is no text, but a {type(template).__name__}")
    return None


def _refuse_code(folder: Path, family: Family, config: dict[str, Any]) -> None:
    """See that the tokenizer's class is one of transformers, which would ask for the folder's own otherwise."""
    where, named = folder / "tokenizer_config.json", config.get("tokenizer_class")
    if named is None and family.hf_config.get("tokenizer_class") is not None:
        where, named = folder / "config.json", family.hf_config["tokenizer_class"]
    if named is None and config.get("auto_map"):
        raise CheckpointError(f"{one_line(where)}: the tokenizer needs its own code (auto_map), which is not run")
    if named is not None and not _is_known(named):
        raise CheckpointError(
            f"{one_line(where)}: tokenizer_class {one_line(repr(named))[:80]} is not a tokenizer of transformers; "
            "a folder's own code is not run"
        )


def _is_known(name: object) -> bool:
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        return False
    from transformers import PreTrainedTokenizerBase
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    try:
        found = tokenizer_class_from_name(name)
    except Exception:  # a module of transformers that cannot be imported here
        return False
    known = isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase)
    return known and found.__module__.startswith("transformers.")
