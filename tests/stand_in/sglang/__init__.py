"""A stand-in for SGLang where it is not installed: what a run asks of its servers, answered by transformers."""
