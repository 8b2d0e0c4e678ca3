"""An R data file written by hand, byte for byte, as R's save(..., version = 2) does."""

import gzip
import struct

HEAD = b"RDX2\nX\n" + struct.pack(">iii", 2, 0x30300, 0x20300)
NIL, HAS_ATTRIBUTES, HAS_TAG = struct.pack(">i", 254), 512, 1024


def integer(*values):
    return struct.pack(f">{len(values)}i", *values)


def chars(text):
    return integer(9, -1) if text is None else integer(9, len(text)) + text.encode()


def symbol(text):
    return integer(1) + chars(text)


def pairs(**items):
    return b"".join(integer(2 | HAS_TAG) + symbol(name) + value for name, value in items.items()) + NIL


def vector(kind, content, n, **attributes):
    return (
        integer(kind | (HAS_ATTRIBUTES if attributes else 0), n)
        + content
        + (pairs(**attributes) if attributes else b"")
    )


def reals(*values, **attributes):
    return vector(14, struct.pack(f">{len(values)}d", *values), len(values), **attributes)


def integers(*values, **attributes):
    return vector(13, integer(*values), len(values), **attributes)


def strings(*values, **attributes):
    return vector(16, b"".join(map(chars, values)), len(values), **attributes)


def objects(*values, **attributes):
    return vector(19, b"".join(values), len(values), **attributes)


def environment(**bound):
    return integer(4, 0) + integer(242) + NIL + objects(NIL, pairs(**bound)) + NIL


def s4(**slots):
    return integer(25 | HAS_ATTRIBUTES) + pairs(**slots)


def saved(path, **items):
    """What save(..., version = 2) writes."""
    path.write_bytes(gzip.compress(HEAD + pairs(**items)))
    return path
