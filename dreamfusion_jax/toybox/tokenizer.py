"""The word tokenizer of the embedded prior, in CLIP's own format."""

import functools
import json
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamfusion_jax.toybox.captions import WHOLE_WORLD

if TYPE_CHECKING:
    import tokenizers
    import transformers

MAX_LENGTH = 32
"""The longest caption, of a spoilt picture of a modified object, has 27 words and commas, and
two marks."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def build_tokenizer() -> "transformers.CLIPTokenizer":
    """A CLIP tokenizer whose byte pairs merge every word of the world into one token.

    The folder it is saved to is an ordinary CLIP tokenizer folder. The ids are the same
    every time, so that a training that was stopped can go on.
    """
    return _tokenizer(_merges_of_the_world(), MAX_LENGTH)


def _tokenizer(merges: Sequence[tuple[str, str]], length: int) -> "transformers.CLIPTokenizer":
    """Of single letters, the comma and merged pairs, for texts of a length."""
    from transformers import CLIPTokenizer

    symbols = [*string.ascii_lowercase, ","]
    tokens = [_START, _END, *symbols, *(s + _WORD_END for s in symbols)]
    tokens += ["".join(pair) for pair in merges]
    vocab = {token: index for index, token in enumerate(tokens)}
    pairs: Any = [*merges]  # The annotation of transformers says strings; it takes pairs.
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=length)


def read_tokenizer(folder: Path) -> "tokenizers.Tokenizer":
    """What transformers reads from a tokenizer's folder, without its import, which takes seconds.

    Args:
        folder: As transformers' `save_pretrained` writes it. Texts are padded, or cut, to the full
            length that is stored there.

    Raises:
        FileNotFoundError: It holds no tokenizer.
        ValueError: Its files are damaged.
    """
    import tokenizers

    words, settings = (folder / name for name in ("tokenizer.json", "tokenizer_config.json"))
    texts = [file.read_text(encoding="utf-8") for file in (words, settings)]
    try:
        tokenizer, known = tokenizers.Tokenizer.from_str(texts[0]), json.loads(texts[1])
        length, pad = known["model_max_length"], known["pad_token"]
    except Exception as error:  # The library raises no other.
        raise ValueError(f"{folder} holds no tokenizer that can be read: {error}") from error
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_token=pad, pad_id=tokenizer.token_to_id(pad))
    return tokenizer


@functools.cache
def _merges_of_the_world() -> tuple[tuple[str, str], ...]:
    """They are always the same."""
    return tuple(learn_merges(WHOLE_WORLD.words()))


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding (1508.07909, algorithm 1), until every word is a single symbol.

    The pair that most words have is merged first; among equals, the first of the alphabet.
    """
    split = [[*word[:-1], word[-1] + _WORD_END] for word in sorted(words)]
    merges = []
    while counts := Counter(pair for symbols in split for pair in pairwise(symbols)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        split = [_merge(symbols, best) for symbols in split]
    return merges


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Joins each occurrence of a pair of neighbours, from the left."""
    merged = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


class WordIds:
    """Tokenizes captions word by word: quicker than the tokenizer, and the same.

    Args:
        tokenizer: Of `build_tokenizer`, every word of which is one token.
    """

    def __init__(self, tokenizer: "transformers.CLIPTokenizer") -> None:
        ids = tokenizer.get_vocab()
        self._ids = {t.removesuffix(_WORD_END): i for t, i in ids.items() if t.endswith(_WORD_END)}
        self._start, self._end = ids[_START], ids[_END]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Ids [len(texts), MAX_LENGTH]; what follows the text is the end mark.

        Raises:
            KeyError: A word that no caption has.
        """
        rows = np.full((len(texts), MAX_LENGTH), self._end, np.int32)
        for row, text in zip(rows, texts, strict=True):
            words = text.replace(",", " ,").split()
            row[0] = self._start
            row[1 : 1 + len(words)] = [self._ids[word] for word in words]
        return rows
