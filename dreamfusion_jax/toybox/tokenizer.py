"""The word tokenizer of the embedded prior, in CLIP's own format."""

import string
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dreamfusion_jax.toybox.captions import Vocabulary

if TYPE_CHECKING:
    import transformers

MAX_LENGTH = 18
"""The longest caption, with a modifier and a view, has 15 words and two marks."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def build_tokenizer() -> "transformers.CLIPTokenizer":
    """A CLIP tokenizer whose byte pairs merge every word of the world into one token.

    The folder it is saved to is an ordinary CLIP tokenizer folder. The ids are the same
    every time, so that a training that was stopped can go on.
    """
    from transformers import CLIPTokenizer

    merges = learn_merges(Vocabulary().words())
    symbols = [*string.ascii_lowercase, ","]
    tokens = [_START, _END, *symbols, *(s + _WORD_END for s in symbols)]
    tokens += ["".join(pair) for pair in merges]
    vocab = {token: index for index, token in enumerate(tokens)}
    pairs: Any = merges  # The annotation of transformers says strings; it takes pairs.
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=MAX_LENGTH)


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
