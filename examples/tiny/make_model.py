"""Make `examples/tiny/model`: a Llama of 0.1 million parameters (no weights) and its own tokenizer.

    python examples/tiny/make_model.py

The result is there already; run this only to change it.
"""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

FOLDER = Path(__file__).parent / "model"
END = "<|end|>"


def main() -> None:
    """Write a tokenizer of one token a byte, and the config.json of a model that fits it."""
    # No merges: a letter is a token wherever it stands, without which spelling would be a matter of rote.
    alphabet = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    fast.save_pretrained(FOLDER)
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    ).save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
