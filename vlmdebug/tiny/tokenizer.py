"""A tokenizer without a download: byte-level BPE, trained on a few sentences.

Any text survives a round trip, because every byte is in the alphabet. What matters here are
the special tokens: a processor finds its placeholders by name on the tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SENTENCES = (
    "What is in the picture?",
    "Compare the two images and say which is larger.",
    "A small cat sits on a mat beside the blue circle.",
    "Read the number in each image aloud.",
)
_CONTROL = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
}


def train_tokenizer(
    named: Mapping[str, str], *, unnamed: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Train a tokenizer that keeps every given special token in one piece.

    Args:
        named: attribute to token. `{"image_token": "<image>"}` also gives the tokenizer an
            `image_token` and an `image_token_id`, where many processors look for them.
        unnamed: special tokens that upstream code identifies by their text only.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token=_CONTROL["unk_token"]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*_CONTROL.values(), *named.values(), *unnamed],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, extra_special_tokens=dict(named), **_CONTROL
    )
