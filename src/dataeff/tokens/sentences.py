"""Text to sentences, by nupunkt's own model: it knows common abbreviations, numbers and initials.

Texts are cut into pieces of a million characters first, as Megatron cuts them, which bounds what one text costs.
"""

from __future__ import annotations

PIECE_CHARACTERS = 1_000_000


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, without the space between them."""
    from nupunkt import sent_tokenize

    pieces = (text[first : first + PIECE_CHARACTERS] for first in range(0, len(text), PIECE_CHARACTERS))
    return [str(sentence) for piece in pieces for sentence in sent_tokenize(piece)]
