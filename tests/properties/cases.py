"""What the property tests share: strategies for hostile texts, and the count of answers."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import TypeVar, Union

from hypothesis import strategies as st

from osg_token_renewer.errors import RenewerError

Result = TypeVar("Result")
Error = TypeVar("Error", bound=RenewerError)

# The answers in this process so far.
answers = 0


def answer(call: Callable[[], Result], expected: type[Error]) -> Union[Result, Error]:
    """What the call returns, or the expected exception that it raises; any other exception is a bug."""
    global answers  # noqa: PLW0603
    answers += 1
    try:
        return call()
    except expected as error:
        return error


def said(error: RenewerError) -> str:
    return f"{error.message} {error.hint or ''}"


def harmless(text: str, limit: int = 2000) -> bool:
    """One bounded line of printable characters."""
    return text.isprintable() and len(text) <= limit


# Texts to which terminals, journals, parsers or file systems give a meaning.
NASTY = st.sampled_from(
    [
        "\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\r", "\n", "\0", "\x7f", "\x85", "\u2028", "\u202e",
        "\u2066", "\u200b", "\ufeff", "\ud800", "\udcff", "<3>", "%", "%(x)s", "{", "}", "{account}", "\\1",
        "'", '"', "/", "..", "-", "=", "[", "]", "é", "𝄞", "\t", " ",
    ]
)  # fmt: skip
# Any characters, halves of surrogate pairs too, and many nasty ones.
TEXT = st.lists(
    st.one_of(NASTY, st.text(st.characters(), max_size=12), st.text(string.printable, max_size=12)),
    max_size=12,
).map("".join)
# Texts that decoding UTF-8 with replacements can give.
DECODED = TEXT.map(lambda text: text.encode("utf-8", "surrogatepass").decode("utf-8", "replace"))

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=10,
)
