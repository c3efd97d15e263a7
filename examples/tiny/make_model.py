"""Make `examples/tiny/model`: a Llama of 0.2 million parameters (no weights) and its own tokenizer.

    python examples/tiny/make_model.py

The result is part of the repository; run this only to change it.
"""

from pathlib import Path

import reasoning_gym
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

FOLDER = Path(__file__).parent / "model"
END = "<|end|>"


def main() -> None:
    """Train a byte-level BPE on arithmetic prompts, digit by digit, and write it with a config.json."""
    prompts = [entry["question"] for entry in reasoning_gym.create_dataset("chain_sum", size=500, seed=0)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(prompts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    fast.save_pretrained(FOLDER)
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
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
