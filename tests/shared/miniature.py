"""Published files in miniature, written as their authors format them."""

import hashlib
import io
import tarfile
from dataclasses import replace

from scipy import sparse
from scipy.io import mmwrite


def mtx(counts):
    """The bytes of a Matrix Market file."""
    buffer = io.BytesIO()
    mmwrite(buffer, sparse.coo_matrix(counts))
    return buffer.getvalue()


def tar(path, members, mode="w:gz"):
    """An archive of files: name -> bytes."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def hashed(card, folder):
    """The same card, expecting the hashes of the files that the test wrote into `folder`."""
    content = {url: (folder / url.rsplit("/", 1)[-1]).read_bytes() for url in card.files}
    return replace(card, files={url: "sha256:" + hashlib.sha256(c).hexdigest() for url, c in content.items()})
