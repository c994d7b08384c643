"""The word tokenizer of the embedded prior, in CLIP's own format."""

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from dreamfusion_jax.toybox.captions import Vocabulary

MAX_LENGTH = 18
"""The longest caption, with a modifier and a view, has 15 words and two marks."""

_START, _END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose byte pairs merge every word of the world into one token.

    Byte-pair encoding is trained on the words themselves until each is whole, so the
    folder it is saved to is an ordinary CLIP tokenizer folder.
    """
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=_END))
    bpe.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=[_START, _END],
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    words = sorted(Vocabulary().words())
    bpe.train_from_iterator([[*words, ",", *letters] for _ in range(2)], trainer)
    model = bpe.model
    folder = _saved_model(model)
    vocab, merges = folder
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)


def _saved_model(model) -> tuple[dict, list]:
    import json
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        vocab = json.loads((Path(folder) / "vocab.json").read_text())
        lines = (Path(folder) / "merges.txt").read_text().splitlines()
    return vocab, [tuple(line.split()) for line in lines if line and not line.startswith("#")]
