"""The rollout engine that a configuration names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from aspo_megatron.checkpoint.hf.folder import write_folder
from aspo_megatron.config import RunConfig, ServersConfig
from aspo_megatron.config.words import WeightSync
from aspo_megatron.folders import LOGS, SYNC
from aspo_megatron.launch.addresses import is_loopback
from aspo_megatron.models.family import Family
from aspo_megatron.models.mapping import hf_sizes
from aspo_megatron.parallel.grid.exchange import from_leader, rank
from aspo_megatron.rollout.embedded.engine import EmbeddedEngine
from aspo_megatron.rollout.engine import RolloutEngine
from aspo_megatron.rollout.rounds import in_rounds
from aspo_megatron.rollout.sglang.command import ServedModel
from aspo_megatron.rollout.sglang.engine import SGLangEngine
from aspo_megatron.rollout.sglang.local_servers import LocalServers
from aspo_megatron.rollout.sglang.server_key import read_api_key, without_key
from aspo_megatron.rollout.stop_rule import end_of_sequence_ids
from aspo_megatron.rollout.weight_sync.session import Transport
from aspo_megatron.rollout.weight_sync.transport_choice import choose_weight_sync
from aspo_megatron.rollout.weight_sync.transports import DiskTransport, DistributedTransport, TensorTransport


@contextmanager
def own_servers(config: RunConfig, device: torch.device, tell: Callable[[str], None]) -> Iterator[LocalServers | None]:
    """The servers that the run starts itself, on the leader: being started, and ended with the context.

    Raises:
        UserError: they cannot be started, or not be given weights as `sync` says.
    """
    servers = config.rollout.servers
    if config.rollout.engine == "embedded" or servers.addresses or rank() > 0:
        yield None
        return
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    servers = servers.model_copy(update={"sync": choose_weight_sync(servers, device.type, True, tell)})
    with LocalServers(
        servers, ServedModel.of(config.model), device.type, config.output_dir / LOGS, tell, ranks_here
    ) as local:
        yield local


@contextmanager
def rollout_engine(
    config: RunConfig,
    family: Family,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    local: LocalServers | None,
    tell: Callable[[str], None],
) -> Iterator[RolloutEngine]:
    """The engine, once its servers answer. A collective. `local`: what `own_servers` gave.

    Raises:
        UserError: the run's own servers do not get ready.
    """
    if config.rollout.engine == "embedded":
        dtype = getattr(torch, config.model.dtype)
        yield EmbeddedEngine(config.model.path, tokenizer, dtype, device, config.rollout.max_batch_tokens)
        return
    servers = config.rollout.servers
    for address in open_doors(servers) if rank() == 0 else ():
        tell(f"warning: {address}, without a key (rollout.servers.api_key_file)")
    in_rounds(lambda seconds: from_leader(local is None or local.ready(seconds)))
    started = from_leader(None if local is None else (local.urls, local.weight_sync, local.api_key))
    urls, weight_sync, key = started or (
        servers.addresses,
        choose_weight_sync(servers, device.type, False, tell),
        read_api_key(servers),
    )
    engine = SGLangEngine(
        servers,
        urls,
        _transport(config, family, device, weight_sync, local is not None),
        hf_sizes(family.rows, family.shape(tp=1)),
        family.shape(tp=1).vocab_size,
        end_of_sequence_ids(config.model.path, tokenizer),
        tokenizer,
        key,
    )
    with closing(engine):
        yield engine


def servers_elsewhere(config: RunConfig) -> bool:
    """Whether the run uses servers that are not, or may not be, on this machine."""
    addresses = config.rollout.servers.addresses if config.rollout.engine == "sglang" else ()
    return not all(is_loopback(address) for address in addresses)


def open_doors(servers: ServersConfig) -> list[str]:
    """Who may use the servers, and give them weights, for which there is no key."""
    who = ("whoever reaches it from another machine", "every user of this machine")
    return [f"{address} may be used by {who[is_loopback(address)]}" for address in without_key(servers)]


def _transport(
    config: RunConfig, family: Family, device: torch.device, weight_sync: WeightSync, own: bool
) -> Transport:
    """`own`: the run has started the servers itself."""
    servers = config.rollout.servers
    if weight_sync == "tensor":
        # Those started elsewhere may not see this GPU; they are given the weights in the machine's memory.
        return TensorTransport(servers.tp, servers.sync_timeout_seconds, own)
    if weight_sync == "distributed":
        backend = "nccl" if device.type == "cuda" else "gloo"
        return DistributedTransport(backend, servers.tp, servers.sync_timeout_seconds)

    def write(folder: Path, tensors: Iterator[tuple[str, Tensor]]) -> None:
        hf_config = family.exported_config(config.model.dtype)
        write_folder(folder, tensors, hf_config, tokenizer_from=config.model.path, replace=True)

    return DiskTransport(write, (config.output_dir / SYNC).absolute(), servers.sync_timeout_seconds)
