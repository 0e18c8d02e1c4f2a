"""Raw bytes or text of one document to clean text, or the reason why it is left out. Pure functions.

What is changed is what differs between files and not between texts: ends of lines, Unicode form, control
characters, spaces at line ends, long runs of blank lines. Words, indentation and markup stay as they are.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

Reason = Literal["not_utf8", "empty", "short"]

_NEWLINES = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# C0 and C1 control characters but for tab and newline; soft hyphen, invisible spaces, byte-order mark.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b\u2060\ufeff]")
_ODD_ASCII = bytes(code for code in range(128) if chr(code) not in "\t\n" and not 32 <= code < 127)
_MANY_BLANK_LINES = re.compile("\n{4,}")


@dataclass(frozen=True, slots=True)
class Rejected:
    reason: Reason


def unify_newlines(text: str) -> str:
    return _NEWLINES.sub("\n", text)


def clean_text(text: str) -> str:
    """`text` in its one clean form; clean text comes back unchanged."""
    if not _is_plain(text):
        text = unicodedata.normalize("NFC", _CONTROL.sub("", unify_newlines(text)))
        text = "\n".join(line.rstrip() for line in text.split("\n"))
    elif " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
        text = "\n".join(line.rstrip() for line in text.split("\n"))
    if "\n\n\n\n" in text:
        text = _MANY_BLANK_LINES.sub("\n\n\n", text)
    return text.strip("\n")


def _is_plain(text: str) -> bool:
    """Whether the text is ASCII without control characters: most is, and this is told ten times faster than cleaned."""
    return text.isascii() and len(text.encode("ascii").translate(None, _ODD_ASCII)) == len(text)


def clean_document(raw: str | bytes, min_characters: int) -> str | Rejected:
    """The clean text of a document, or why it is dropped: not UTF-8, nothing left, or too short."""
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
        # JSON can spell half a surrogate pair, which no UTF-8 file can store.
        text.encode("utf-8")
    except UnicodeError:
        return Rejected("not_utf8")
    text = clean_text(text)
    if not text:
        return Rejected("empty")
    return text if len(text) >= min_characters else Rejected("short")


def text_digest(text: str) -> bytes:
    """Equal for texts that differ in case and white space only: the identity that deduplication goes by."""
    return blake2b(" ".join(text.casefold().split()).encode("utf-8"), digest_size=16).digest()
