"""Reading an R data file (.rda, version 2): vectors, lists and attributes, and nothing that is run."""

import gzip
import struct
from pathlib import Path

import numpy as np

from lab.errors import Refused

# kinds of R object by their number in the file
NIL, SYMBOL, PAIRS, ENVIRONMENT, CHARS, STRINGS, LIST, S4 = 0, 1, 2, 4, 9, 16, 19, 25
LOGICAL, INTEGER, REAL = 10, 13, 14
NIL_VALUE, GLOBAL, BASE, EMPTY, NAMESPACE, REFERENCE = 254, 253, 241, 242, 249, 255
NUMBERS = {LOGICAL: ">i4", INTEGER: ">i4", REAL: ">f8"}


def read_rda(path: str | Path) -> dict:
    """The objects in a gzip-packed .rda file by their names.

    A vector is an array, or a `dict` of "values" and its attributes where it has any ("dim", "dimnames", "names",
    "levels", ...); R orders a matrix by columns. Texts are a list; an environment or an S4 object is a `dict` of what
    it holds. A file that is damaged or of another version, and functions and expressions in it, raise `Refused`.
    """
    try:
        content = gzip.decompress(Path(path).read_bytes())
        if content[:7] != b"RDX2\nX\n":
            raise Refused(f"{path} is not an R data file of version 2 (RDX2); write it anew, save(..., version = 2)")
        return _Reader(content, 7).item()
    except (OSError, EOFError, struct.error, IndexError, ValueError) as error:
        raise Refused(f"{path} cannot be read as .rda ({error}); it is truncated or damaged, fetch it again") from error


class _Reader:
    """Walks over the bytes of R's serialisation, big-endian."""

    def __init__(self, content: bytes, at: int):
        self.content, self.at, self.seen = content, at + 12, []  # the format's version and two of R's

    def take(self, n: int) -> bytes:
        if self.at + n > len(self.content):
            raise EOFError("it ends too early")
        self.at += n
        return self.content[self.at - n : self.at]

    def integer(self) -> int:
        return struct.unpack(">i", self.take(4))[0]

    def item(self):
        """The next object; pairs become a dict."""
        flags = self.integer()
        kind, with_attributes, with_tag = flags & 255, flags & 512, flags & 1024
        if kind in (NIL, NIL_VALUE, GLOBAL, BASE, EMPTY):
            return None
        if kind == REFERENCE:
            return self.seen[(flags >> 8 or self.integer()) - 1]
        if kind == SYMBOL:
            self.seen.append(self.item())
            return self.seen[-1]
        if kind == NAMESPACE:
            self.integer()
            self.seen.append([self.item() for _ in range(self.integer())])
            return self.seen[-1]
        if kind == CHARS:
            n = self.integer()
            return None if n < 0 else self.take(n).decode("utf-8", "replace")
        if kind == ENVIRONMENT:
            return self.environment()
        if kind == PAIRS:
            return self.pairs(with_attributes, with_tag)
        if kind == S4:
            return self.item() if with_attributes else {}
        if kind in NUMBERS:
            n = self.integer()
            dtype = np.dtype(NUMBERS[kind])
            values = np.frombuffer(self.take(n * dtype.itemsize), dtype).astype(dtype.newbyteorder("="))
        elif kind in (STRINGS, LIST):
            values = [self.item() for _ in range(self.integer())]
        else:
            raise Refused(f"the file holds an R object of kind {kind}, which is neither numbers nor text; save those")
        return {"values": values} | self.item() if with_attributes else values

    def pairs(self, with_attributes, with_tag) -> dict:
        """A linked list of tag and value, to its end."""
        found = {}
        while True:
            if with_attributes:
                self.item()
            tag = self.item() if with_tag else len(found)
            found[tag] = self.item()
            flags = self.integer()
            if flags & 255 != PAIRS:
                return found
            with_attributes, with_tag = flags & 512, flags & 1024

    def environment(self) -> dict:
        """What an environment binds, hashed or not."""
        self.integer()  # whether it is locked
        found = {}
        self.seen.append(found)
        _, frame, table, _ = (self.item() for _ in range(4))  # enclosure, frame, hash table, attributes
        for bound in [frame, *(table or [])]:
            found.update(bound or {})
        return found
