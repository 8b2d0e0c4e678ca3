"""Public sets: nothing silent, nothing unchecked, and the readers of the published files."""

import functools
import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.io import mmwrite

from lab import data
from lab.data import geo, public, tenx
from lab.data.public import Source
from lab.errors import Refused

SHA = "sha256:" + hashlib.sha256(b"cells").hexdigest()
NOWHERE = "http://127.0.0.1:9/cells.bin"  # the discard port: nobody listens


@pytest.fixture(autouse=True)
def empty_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(public, "cache", lambda: folder)
    return folder


@pytest.fixture
def lab_data(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path


def source(url=NOWHERE, known=SHA, **more):
    return Source("toy", {url: known}, 1, 1, "CC0", "toy2020", "https://example.org/toy", "pbmc()", **more)


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


def mtx(counts):
    buffer = io.BytesIO()
    mmwrite(buffer, sparse.coo_matrix(counts))
    return buffer.getvalue()


def tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def hashed(a_source, folder):
    """The same source, expecting the hashes of the files that the test wrote."""
    content = {url: (folder / url.rsplit("/", 1)[-1]).read_bytes() for url in a_source.files}
    return replace(a_source, files={url: "sha256:" + hashlib.sha256(c).hexdigest() for url, c in content.items()})


@pytest.mark.parametrize(
    "name, folder", [("PBMC3K", "filtered_gene_bc_matrices/hg19"), ("PBMC68K", "filtered_matrices_mex/hg19")]
)
def test_the_archive_of_10x_is_read_without_extracting(lab_data, monkeypatch, name, folder, capsys):
    counts = np.random.default_rng(0).poisson(1.0, (4, 3))  # (B, G)
    archive = next(iter(getattr(tenx, name).files)).rsplit("/", 1)[-1]
    tar(
        lab_data / archive,
        {
            f"{folder}/matrix.mtx": mtx(counts.T),
            f"{folder}/barcodes.tsv": b"AAAC-1\nAAAG-1\nAAAT-1\nAACA-1\n",
            f"{folder}/genes.tsv": b"ENSG1\tMT-CO1\nENSG2\tCD3D\nENSG3\tCD3D\n",
        },
    )
    monkeypatch.setattr(tenx, name, hashed(getattr(tenx, name), lab_data))
    cells = getattr(data, name.lower())()
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), counts)
    assert list(cells.var_names) == ["MT-CO1", "CD3D", "CD3D-1"] and list(cells.var["gene_id"]) == [
        "ENSG1",
        "ENSG2",
        "ENSG3",
    ]
    assert cells.obs_names[0] == "AAAC-1" and cells.X is None and "4 cells x 3 genes" in capsys.readouterr().out
    assert [path.name for path in lab_data.iterdir()] == [archive]
    assert next(iter(data.loader(cells, size=4, shuffle=False)))["x"].shape == (4, 3)


def test_kang_joins_counts_and_labels_by_barcode_also_where_both_samples_have_it(lab_data, monkeypatch):
    ctrl, stim = np.array([[1, 2], [3, 4], [5, 6]]), np.array([[7, 8], [9, 10]])  # (B, G)
    zipped = lambda text: gzip.compress(text.encode())
    tar(
        lab_data / "GSE96583_RAW.tar",
        {
            "GSM2560248_2.1.mtx.gz": gzip.compress(mtx(ctrl.T)),
            "GSM2560248_barcodes.tsv.gz": zipped("AAA-1\nCCC-1\nGGG-1\n"),
            "GSM2560249_2.2.mtx.gz": gzip.compress(mtx(stim.T)),
            "GSM2560249_barcodes.tsv.gz": zipped("AAA-1\nTTT-1\n"),
        },
        "w",
    )
    (lab_data / "GSE96583_batch2.genes.tsv.gz").write_bytes(zipped("ENSG1\tISG15\nENSG2\tCD14\n"))
    table = pd.DataFrame(
        {
            "ind": [101, 107, 101, 101, 107],
            "stim": ["ctrl", "ctrl", "ctrl", "stim", "stim"],
            "cell": ["B cells", "NK cells", "B cells", "NK cells", None],
            "multiplets": ["singlet", "singlet", "doublet", "singlet", "singlet"],
        },
        index=["GGG-1", "AAA-1", "CCC-1", "AAA-11", "TTT-1"],
    )  # not in the matrix's order
    table.to_csv(lab_data / "GSE96583_batch2.total.tsne.df.tsv.gz", sep="\t")
    monkeypatch.setattr(geo, "KANG", hashed(geo.KANG, lab_data))
    cells = data.kang()
    assert cells.layers["counts"].toarray().tolist() == [
        [1, 2],
        [5, 6],
        [7, 8],
    ]  # the doublet and the unlabelled are out
    assert list(cells.obs["cell_type"]) == ["NK cells", "B cells", "NK cells"] and list(cells.obs["batch"]) == [
        "107",
        "101",
        "101",
    ]
    assert list(cells.obs["perturbation"]) == ["control", "control", "IFN-beta"] and list(cells.obs["n_counts"]) == [
        3,
        11,
        15,
    ]


def test_a_new_set_costs_a_source_and_a_reader(lab_data):
    ad.AnnData(np.ones((2, 2), np.float32)).write_h5ad(lab_data / "mine.h5ad")
    mine = Source("mine", {"https://localhost/mine.h5ad": SHA}, 2, 2, "CC0", "me2020", "https://example.org", "pbmc()")
    mine = hashed(mine, lab_data)
    assert data.read(public.locate(mine)[0][0]).shape == (2, 2)


@pytest.mark.real
def test_kang_subset_is_counts_with_both_conditions_in_seven_cell_types(capsys):
    cells = data.kang()
    assert "development subset" in capsys.readouterr().out and cells.shape == (1975, 6998)
    assert cells.obs["perturbation"].value_counts().to_dict() == {"IFN-beta": 1039, "control": 936}
    assert cells.obs["cell_type"].nunique() == 7 and (cells.obs["n_counts"] >= data.check_counts(cells)).all()
    prepared = data.prepare(cells, 500, min_genes=100)
    isg = prepared[:, "ISG15"]
    treated = (prepared.obs["perturbation"] == "IFN-beta").to_numpy()
    assert (
        isg.X[treated].mean() - isg.X[~treated].mean() > 2
    )  # the best known interferon-stimulated gene, in natural-log units


@pytest.mark.real
def test_citeseq_subset_has_proteins_beside_a_whole_transcriptome():
    cells = data.citeseq()
    assert cells.shape == (200, 16581) and cells.obsm["protein"].shape == (200, 29)
    assert (data.check_counts(cells) > 500).all()
    loader = data.loader(data.prepare(cells, 1000))
    assert next(iter(loader))["x"].shape == (128, 1000)


def test_files_missing_beside_a_published_one_are_downloaded(lab_data, server, capsys):
    (lab_data / "other.bin").write_bytes(b"cells")
    two = replace(source(server), files={"https://127.0.0.1:9/other.bin": SHA, server: SHA}, subset="subset.h5ad")
    (lab_data / "subset.h5ad").write_bytes(b"x")
    paths, published = public.locate(two)
    assert published and [path.name for path in paths] == ["other.bin", "cells.bin"]
    assert "downloading" in capsys.readouterr().out
