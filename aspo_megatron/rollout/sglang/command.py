"""The command line of an SGLang server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aspo_megatron.config import ModelConfig, ServersConfig


@dataclass(frozen=True)
class ServedModel:
    """What the servers serve. `random`: the folder has no weights, they come by a sync."""

    folder: Path
    dtype: str
    random: bool

    @classmethod
    def of(cls, model: ModelConfig) -> ServedModel:
        """The model of a run, whose path may also be the Hugging Face side of a megatron checkpoint."""
        without = model.init == "random" or not any(model.path.glob("*.safetensors"))
        return cls(model.path, model.dtype, without)


def server_command(
    config: ServersConfig, model: ServedModel, device: str, port: int, settings: Path | None = None
) -> list[str]:
    """The command line of a server. `settings`: a file with what other users of the machine may not see."""
    command = [str(config.python.absolute()), "-m", "sglang.launch_server"]
    command += ["--model-path", str(model.folder.absolute()), "--dtype", model.dtype]
    command += ["--host", config.host, "--port", str(port), "--tp-size", str(config.tp), "--skip-server-warmup"]
    if model.random:
        command += ["--load-format", "dummy"]
    if config.colocate and device == "cuda":
        command += ["--enable-memory-saver"]
    if model.dtype == "bfloat16" and device == "cuda":
        command += ["--enable-fp32-lm-head"]  # the trainer's logits are fp32; rounded ones are off by hundredths
    if config.memory_fraction is not None:
        command += ["--mem-fraction-static", str(config.memory_fraction)]
    if settings is not None:
        command += ["--config", str(settings)]
    if device == "cpu":
        command += ["--device", "cpu", "--attention-backend", "torch_native", "--disable-overlap-schedule"]
        command += ["--sleep-on-idle", "--max-total-tokens", str(config.max_cached_tokens)]
        if config.memory_fraction is None:
            command += ["--mem-fraction-static", "0.1"]
    return [*command, *config.extra_args]
