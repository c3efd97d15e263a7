"""All that touches megatron-core and torch.distributed."""
