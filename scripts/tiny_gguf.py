"""Writes a tiny llama model with random weights, so that tests run the real llama.cpp without a download.

The model babbles, which is all that an engine's contract needs: real token ids, a real sampler, a real KV cache, real
UTF-8 pieces that span tokens, in a file of well under 2 MB that the same seed writes byte for byte again.

The vocabulary is SentencePiece-like: three control tokens, the 256 single bytes, and some whole words, so that both
paths of a detokenizer (pieces of text and single bytes) are used.

    python scripts/tiny_gguf.py OUT.gguf [--seed N] [--context N] [--chat-template TEXT]
"""

import argparse
import pathlib
from typing import Final

import gguf
import numpy as np

EMBEDDING: Final = 64
HEADS: Final = 4
LAYERS: Final = 2
FEED_FORWARD: Final = 128
WORDS: Final = (
    "▁the ▁bee ▁hive ▁queen ▁comb ▁honey ▁field ▁of ▁and ▁to ▁a ▁in ▁wing ▁sun ▁rain ▁wax "
    "er ing ed ly s ▁dance ▁swarm ▁brood ▁nectar ▁is ▁was ▁we ▁they ▁fly ▁home ▁é ▁ü 蜂 蜜 🐝"
).split()


def _write_vocabulary(writer: gguf.GGUFWriter) -> int:
    """Add the tokenizer and return the number of tokens."""
    kinds = gguf.TokenType
    rows: list[tuple[bytes, float, int]] = [
        (b"<unk>", 0.0, kinds.UNKNOWN),
        (b"<s>", 0.0, kinds.CONTROL),
        (b"</s>", 0.0, kinds.CONTROL),
    ]
    rows += [(f"<0x{byte:02X}>".encode(), 0.0, kinds.BYTE) for byte in range(256)]
    rows += [(b"\xe2\x96\x81", -1.0, kinds.NORMAL)]
    rows += [(word.encode(), -2.0 - at, kinds.NORMAL) for at, word in enumerate(WORDS)]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text for text, _, _ in rows])
    writer.add_token_scores([score for _, score, _ in rows])
    writer.add_token_types([kind for _, _, kind in rows])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    return len(rows)


def _write_weights(writer: gguf.GGUFWriter, vocabulary: int, seed: int) -> None:
    """Add random weights, large enough that different seeds of the sampler diverge at once."""
    chance = np.random.default_rng(seed)

    def tensor(name: str, *shape: int, scale: float) -> None:
        values = chance.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        writer.add_tensor(name, values.astype(np.float16))

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(EMBEDDING, dtype=np.float32))

    tensor("token_embd.weight", vocabulary, EMBEDDING, scale=1.0)
    for layer in range(LAYERS):
        norm(f"blk.{layer}.attn_norm.weight")
        for part in ("q", "k", "v", "output"):
            tensor(f"blk.{layer}.attn_{part}.weight", EMBEDDING, EMBEDDING, scale=0.2)
        norm(f"blk.{layer}.ffn_norm.weight")
        tensor(f"blk.{layer}.ffn_gate.weight", FEED_FORWARD, EMBEDDING, scale=0.2)
        tensor(f"blk.{layer}.ffn_up.weight", FEED_FORWARD, EMBEDDING, scale=0.2)
        tensor(f"blk.{layer}.ffn_down.weight", EMBEDDING, FEED_FORWARD, scale=0.2)
    norm("output_norm.weight")
    # A small scale keeps the distribution flat: seeds and temperatures then make a visible difference.
    tensor("output.weight", vocabulary, EMBEDDING, scale=0.25)


def write_tiny_gguf(
    path: pathlib.Path, *, seed: int = 0, context_tokens: int = 2048, chat_template: str = ""
) -> pathlib.Path:
    """Write the model to `path` and return it; the same arguments give the same bytes.

    Args:
        path: File to write; its folder must exist.
        seed: Of the random weights.
        context_tokens: The trained context that the file claims.
        chat_template: A Jinja template to store with the model; empty for none, as base models have.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    vocabulary = _write_vocabulary(writer)
    writer.add_vocab_size(vocabulary)
    if chat_template:
        writer.add_chat_template(chat_template)
    _write_weights(writer, vocabulary, seed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny llama model with random weights.")
    parser.add_argument("path", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--chat-template", default="")
    given = parser.parse_args()
    write_tiny_gguf(
        given.path, seed=given.seed, context_tokens=given.context, chat_template=given.chat_template
    )


if __name__ == "__main__":
    _main()
