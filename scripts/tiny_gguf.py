"""Writes a tiny llama model with random weights, so that tests run the real llama.cpp without a download.

The model babbles, which is all that an engine's contract needs: real token ids, a real sampler, a real KV cache, and
characters that span several tokens, in a file of well under 2 MB that the same seed writes byte for byte again.
The output layer makes it a chain of preferred successors, far enough apart that rounding does not change the greedy
choice, close enough that seeds differ; and the four bytes of a bee follow each other.

The vocabulary is SentencePiece-like: three control tokens, the 256 single bytes, and some whole words, so that both
paths of a detokenizer (pieces of text and single bytes) are used.

    python scripts/tiny_gguf.py OUT.gguf [--seed N] [--context N] [--chat-template TEXT]
"""

import argparse
import itertools
import pathlib
from typing import Final

import gguf
import numpy as np

EMBEDDING: Final = 128
HEADS: Final = 4
LAYERS: Final = 2
FEED_FORWARD: Final = 128
# One dimension is the same for all tokens, so that the output layer can make some tokens unlikely whatever came before.
BIAS_VALUE: Final = 4.0
BYTES_FROM: Final = 3
WORDS_FROM: Final = BYTES_FROM + 256 + 1
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
    chance = np.random.default_rng(seed)

    def drawn(*shape: int, scale: float) -> np.ndarray:
        return chance.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(EMBEDDING, dtype=np.float32))

    embedding = drawn(vocabulary, EMBEDDING, scale=1.0)
    embedding[:, 0] = BIAS_VALUE
    writer.add_tensor("token_embd.weight", embedding.astype(np.float16))
    shapes = {
        "attn_q": (EMBEDDING, EMBEDDING),
        "attn_k": (EMBEDDING, EMBEDDING),
        "attn_v": (EMBEDDING, EMBEDDING),
        "attn_output": (EMBEDDING, EMBEDDING),
        "ffn_gate": (FEED_FORWARD, EMBEDDING),
        "ffn_up": (FEED_FORWARD, EMBEDDING),
        "ffn_down": (EMBEDDING, FEED_FORWARD),
    }
    for layer in range(LAYERS):
        norm(f"blk.{layer}.attn_norm.weight")
        norm(f"blk.{layer}.ffn_norm.weight")
        for name, shape in shapes.items():
            values = drawn(*shape, scale=0.05)
            writer.add_tensor(f"blk.{layer}.{name}.weight", values.astype(np.float16))
    norm("output_norm.weight")
    output = _successors(embedding, chance)
    writer.add_tensor("output.weight", output.astype(np.float16))


def _successors(embedding: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Return an output layer under which each token prefers a few others, and the bytes of a bee their successors."""
    tokens = len(embedding)
    directions = embedding.copy()
    directions[:, 0] = 0.0
    directions /= np.linalg.norm(directions, axis=1, keepdims=True) ** 2
    output = chance.standard_normal((tokens, EMBEDDING), dtype=np.float32) * np.float32(0.02)
    plain = [BYTES_FROM + byte for byte in range(0x61, 0x7B)] + list(range(WORDS_FROM, tokens))
    forbidden = np.ones(tokens, dtype=bool)
    forbidden[plain] = False
    bee = [BYTES_FROM + byte for byte in "🐝".encode()]
    forbidden[bee[0]] = False
    output[:, 0] = np.where(forbidden, -10.0, 0.0)
    for token in [*plain, bee[-1]]:
        liked = chance.choice(plain, size=8, replace=False)
        if token % 3 == 0:
            liked[1] = bee[0]
        for rank, successor in enumerate(liked):
            output[successor] += directions[token] * (7.0 - 0.6 * rank)
    for token, successor in itertools.pairwise(bee):
        output[successor] += directions[token] * 90.0
    return output


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
