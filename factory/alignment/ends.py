"""Where the tokens of a text end, in bytes: plain sums where the pieces spell the text, a walk or the encoder's offsets elsewhere.

Pieces spell the text, or the text behind one space, for byte-level BPE and SentencePiece: then a cumulative sum is all. WordPiece
drops white space, normalisers rewrite letters, broken UTF-8 is decoded to U+FFFD: there a student's ids are walked along the text,
and a scorer's tokens are placed by the offsets that its encoder gave. Both are linear. Texts in, arrays out; no file, no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from data.keys import nfc
from factory.alignment.pieces import Pieces

BROKEN = "\ufffd".encode()
REACH = 64  # bytes: how far a walk looks for the next token behind one that the text does not hold

Offsets = Sequence[tuple[int, int]]
Placed = tuple[list[int], list[bool]]


@dataclass(frozen=True)
class Ends:
    """Token ends of some texts. Axis n: the tokens of all texts in order; x: texts."""

    end_n: np.ndarray
    """int64: bytes of the own text before the token's end, never falling within a text; an end token's is one beyond the text."""
    size_n: np.ndarray
    """int64: bytes that the token itself spells; 0 for special tokens inside a text, 1 for an end token."""
    sound_n: np.ndarray
    """bool: the token says what the text says there. False for [UNK], U+FFFD, and letters that a normaliser changed."""
    count_x: np.ndarray
    """int64: tokens of each text."""


def ends(
    pieces: Pieces,
    texts: Sequence[str],
    ids: Sequence[Sequence[int]],
    ended: Sequence[bool],
    offsets: Callable[[int], Offsets] | None = None,
) -> Ends:
    """Ends of each text's ids. `ended`: the last id is an end token. `offsets(x)`: character spans of text x from its encoder.

    Without offsets the ids are taken to be decoded to the text, and the last of them to end with it."""
    count_x = np.array([len(own) for own in ids], np.int64)
    known = [pieces.known(own) for own in ids]
    size_n = pieces.size_v[np.fromiter(chain.from_iterable(known), np.int64)]
    stop_x = np.cumsum(count_x)
    reach_n = np.cumsum(size_n)
    start_x = np.concatenate([[0], reach_n])[stop_x - count_x]
    end_n, sound_n = reach_n - np.repeat(start_x, count_x), np.ones(len(size_n), bool)
    for x, (text, own) in enumerate(zip(texts, known, strict=True)):
        here, encoded = slice(int(stop_x[x] - count_x[x]), int(stop_x[x])), text.encode()
        spelt = [pieces.bytes_v[i] for i in own]
        joined = b"".join(spelt)
        if joined == b" " + encoded:
            end_n[here] = np.maximum(end_n[here] - 1, 0)
        elif joined != encoded:
            inside = spelt[:-1] if ended[x] else spelt
            placed = _walked(encoded, inside) if offsets is None else _encoded(text, inside, offsets(x))
            end_n[here.start : here.start + len(inside)], sound_n[here.start : here.start + len(inside)] = placed
        if ended[x]:
            end_n[here.stop - 1], size_n[here.stop - 1] = len(encoded) + 1, 1
    return Ends(end_n, size_n, sound_n, count_x)


def _walked(text: bytes, spelt: Sequence[bytes]) -> Placed:
    """Token after token along the text they were decoded to; what lies behind the last belongs to it."""
    place, found, sound = 0, list[int](), [True] * len(spelt)
    lost = 0  # tokens since the last one that was found
    for piece in spelt:
        if text.startswith(piece, place) and not lost:  # nearly always, so nothing else is asked first
            place += len(piece)
        elif not piece:  # a special token among lost ones says nothing about where they end
            lost += 1
        elif (at := _found(text, place, piece)) is None:
            sound[len(found)] = False
            lost += 1
        else:
            found[len(found) - lost :] = [at[0]] * lost  # the bytes they became end where this one begins
            lost, place = 0, at[1]
        found.append(place)
    spoken = [n for n, piece in enumerate(spelt) if piece]
    last = min(spoken[-1], len(found) - max(lost, 1)) if spoken else len(found)
    found[last:] = [len(text)] * (len(found) - last)
    return found, sound


def _found(text: bytes, place: int, piece: bytes) -> tuple[int, int] | None:
    """(begin, end) of a piece at a place, or behind what was broken, or behind spaces that only one of the two has."""
    if text.startswith(piece, place):
        return place, place + len(piece)
    mended = place
    while text.startswith(BROKEN, mended):
        mended += len(BROKEN)
    if mended > place and text.startswith(piece, mended):
        return mended, mended + len(piece)
    bare = piece.lstrip(b" ")  # decoding may take spaces away, and put some between words
    if text.startswith(bare, place):
        return place, place + len(bare)
    while text.startswith(b" ", mended):
        mended += 1
    if text.startswith(bare, mended):
        return mended, mended + len(bare)
    begin = text.find(bare, mended, mended + REACH) if _whole(bare) else -1
    return None if begin < 0 else (begin, begin + len(bare))


def _whole(piece: bytes) -> bool:
    """Whether bytes are characters by themselves: parts of one are found anywhere."""
    try:
        return bool(piece.decode().strip())
    except UnicodeDecodeError:
        return False


def _encoded(text: str, spelt: Sequence[bytes], offsets: Offsets) -> Placed:
    """The encoder's spans as ends in bytes.

    A character over several tokens has one span: they end together. White space that no token holds belongs to the token behind
    it, any other character (a mark that the normaliser took away) to the token before."""
    starts, stops = [a for a, _ in offsets], [b for _, b in offsets]
    following = np.array([*starts, len(text)])[1:]
    for n in np.flatnonzero(following > stops).tolist():
        while stops[n] < following[n] and not text[stops[n]].isspace():
            stops[n] += 1
    for n in np.flatnonzero(following < stops).tolist()[::-1]:
        stops[n] = stops[n + 1]
    stops = np.maximum.accumulate(stops).tolist() if stops else []
    return _bytes_before(text)[stops].tolist() if stops else [], _sound(text, spelt, stops)


def _sound(text: str, spelt: Sequence[bytes], stops: Sequence[int]) -> list[bool]:
    """Whether the tokens that end together spell the characters up to there, but for white space and NFC for NFD."""
    if "".join(b"".join(spelt).decode(errors="replace").split()) == "".join(text.split()):
        return [True] * len(spelt)  # most texts: no token need be looked at
    sound, begin = list[bool](), 0
    for n, stop in enumerate(stops):
        if n + 1 < len(stops) and stops[n + 1] == stop:
            continue
        own, said = text[begin:stop].strip(), b"".join(spelt[len(sound) : n + 1]).decode(errors="replace").strip()
        sound += [said == own or said == nfc(own)] * (n + 1 - len(sound))
        begin = stop
    return sound


def _bytes_before(text: str) -> np.ndarray:
    """Bytes of UTF-8 before each character and before the end, (characters + 1,) int64."""
    code = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    size = 1 + (code > 0x7F).astype(np.int64) + (code > 0x7FF) + (code > 0xFFFF)
    return np.concatenate([[0], np.cumsum(size)])
