"""Public sets: nothing silent, nothing unchecked."""

import functools
import hashlib
import http.server
import threading
from dataclasses import replace

import pytest

from lab import data
from lab.data import public
from lab.data.card import Card
from lab.errors import Refused

SHA = "sha256:" + hashlib.sha256(b"cells").hexdigest()
NOWHERE = "http://127.0.0.1:9/cells.bin"  # the discard port: nobody listens


def source(url=NOWHERE, known=SHA, **more):
    about = dict(cells=1, genes=1, licence="CC0", source="https://example.org/toy", instead="pbmc()")
    return Card(call="toy()", kind="public", files={url: known}, **about, **more)


@pytest.fixture
def server(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    (site / "cells.bin").write_bytes(b"cells")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/cells.bin"
        running.shutdown()


def test_offline_one_sentence_says_what_is_missing_where_it_comes_from_where_to_put_it_and_what_to_use_instead():
    with pytest.raises(Refused) as caught:
        public.locate(source())
    message = str(caught.value)
    for part in ("toy() needs cells.bin", NOWHERE, "LAB_DATA", "pbmc()"):
        assert part in message
    assert "\n" not in message and message.count(". ") == 0


def test_a_download_is_checked_kept_and_not_repeated(server, empty_cache, capsys):
    (path,), published = public.locate(source(server))
    assert (
        path.read_bytes() == b"cells"
        and published
        and path.parent == empty_cache
        and "downloading" in capsys.readouterr().out
    )
    (again,), _ = public.locate(source(NOWHERE))
    assert again == path and "reading" in capsys.readouterr().out


def test_a_download_with_another_hash_is_refused(server, empty_cache):
    with pytest.raises(Refused, match="no longer gives the published file"):
        public.locate(source(server, "sha256:" + "0" * 64))
    assert not (empty_cache / "cells.bin").exists()


@pytest.mark.parametrize("folder", ["", "some_folder"])
def test_the_published_file_is_found_in_lab_data_and_announced(lab_data, folder, capsys):
    (lab_data / folder).mkdir(exist_ok=True)
    (lab_data / folder / "cells.bin").write_bytes(b"cells")
    (path,), published = public.locate(source())
    assert published and path == lab_data / folder / "cells.bin" and f"published {path}" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"cell", b"", b"other cells"])
def test_a_truncated_or_different_file_in_lab_data_is_refused(lab_data, content):
    (lab_data / "cells.bin").write_bytes(content)
    with pytest.raises(Refused, match="truncated or another version.*cells.bin again"):
        public.locate(source(subset="subset.h5ad"))


def test_the_subset_is_used_only_without_the_published_file_and_says_so(lab_data, capsys):
    (lab_data / "subset.h5ad").write_bytes(b"x")
    (path,), published = public.locate(source(subset="subset.h5ad"))
    assert not published and path.name == "subset.h5ad" and "development subset, subset.h5ad" in capsys.readouterr().out
    (lab_data / "cells.bin").write_bytes(b"cells")
    assert public.locate(source(subset="subset.h5ad"))[1]


def test_a_lab_data_that_does_not_exist_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "absent"))
    for call in (lambda: public.locate(source()), data.pbmc3k, data.sets):
        with pytest.raises(Refused, match="LAB_DATA=.*absent is not a folder"):
            call()


def test_status_follows_the_files(lab_data, empty_cache):
    it = source(subset="subset.h5ad")
    assert public.status(it) == "not here"
    (empty_cache / "cells.bin").write_bytes(b"cells")
    assert public.status(it) == "downloaded"
    (lab_data / "subset.h5ad").write_bytes(b"x")
    assert public.status(it) == "subset in LAB_DATA"
    (lab_data / "cells.bin").write_bytes(b"cells")
    assert public.status(it) == "published files in LAB_DATA"


def test_files_missing_beside_a_published_one_are_downloaded(lab_data, server, capsys):
    (lab_data / "other.bin").write_bytes(b"cells")
    two = replace(source(server), files={"https://127.0.0.1:9/other.bin": SHA, server: SHA}, subset="subset.h5ad")
    (lab_data / "subset.h5ad").write_bytes(b"x")
    paths, published = public.locate(two)
    assert published and [path.name for path in paths] == ["other.bin", "cells.bin"]
    assert "downloading" in capsys.readouterr().out
