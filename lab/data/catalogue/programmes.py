"""Gene programmes: which genes are said to act together, as a table of genes x programmes."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lab.errors import Refused

from ..card import Card

# Nine of the lists of ten markers, one list per cell type, of the Azimuth human PBMC reference, annotation level 2,
# built on Hao et al. 2021, doi:10.1016/j.cell.2021.04.048.
MARKERS = {
    "CD14 Mono": "S100A9 CTSS S100A8 LYZ VCAN S100A12 IL1B CD14 G0S2 FCN1",
    "CD16 Mono": "CDKN1C FCGR3A PTPRC LST1 IER5 MS4A7 RHOC IFITM3 AIF1 HES4",
    "cDC2": "FCER1A HLA-DQA1 CLEC10A CD1C ENHO PLD4 GSN SLC38A1 NDRG2 AFF3",
    "B naive": "IGHM IGHD CD79A IL4R MS4A1 CXCR4 BTG1 TCL1A CD79B YBX3",
    "NK": "GNLY TYROBP NKG7 FCER1G GZMB TRDC PRF1 FGFBP2 SPON2 KLRF1",
    "CD8 TEM": "CCL5 GZMH CD8A TRAC KLRD1 NKG7 GZMK CST7 CD8B TRGC2",
    "CD4 Naive": "TCF7 CD4 CCR7 IL7R FHIT LEF1 MAL NOSIP LDHB PIK3IP1",
    "HSPC": "SPINK2 PRSS57 CYTL1 EGFL7 GATA2 CD34 SMIM24 AVP MYB LAPTM4B",
    "Platelet": "PPBP PF4 NRGN GNG11 CAVIN2 TUBB1 CLU HIST1H2AC RGS18 GP9",
}
CARD = Card(
    call="programmes()",
    kind="table",
    cells=None,
    genes=len(set(" ".join(MARKERS.values()).split())),
    licence="none needed",
    citation="hao2021",
    source="https://azimuth.hubmapconsortium.org/references/human_pbmc/",
)


def programmes(
    var_names: Sequence[str] | None = None, file: str | Path | None = None, *, min_genes: int = 1
) -> pd.DataFrame:
    """Genes x programmes, 1 where a gene belongs to a programme and 0 elsewhere.

    Without `file`, ten published markers for each of nine blood cell types, the Azimuth human PBMC reference's (Hao et
    al. 2021). `file` is a GMT file, one programme a line: name, description and gene symbols between tabs, such as
    MSigDB's Hallmark sets (CC BY 4.0; from gsea-msigdb.org).
    With `var_names` the rows are those genes in that order, and programmes with fewer than `min_genes` of them are left
    out; `programmes(adata.var_names).to_numpy()` is then the mask of a decoder.
    """
    sets = {name: genes.split() for name, genes in MARKERS.items()} if file is None else _read_gmt(Path(file))
    rows = list(dict.fromkeys(g for genes in sets.values() for g in genes) if var_names is None else var_names)
    if len(set(rows)) < len(rows):
        raise Refused("gene names occur twice; call adata.var_names_make_unique() first")
    table = pd.DataFrame({name: pd.Index(rows).isin(genes).astype(int) for name, genes in sets.items()}, index=rows)
    table = table.loc[:, table.sum() >= max(min_genes, 1)]
    if table.empty:
        raise Refused(
            f"no programme has {max(min_genes, 1)} of these {len(rows)} genes (the first is "
            f"{rows[0] if rows else None!r}); names must be of one kind, gene symbols such as 'CD79A'"
        )
    return table


def _read_gmt(path: Path) -> dict[str, list[str]]:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror}); give the path of a GMT file") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is not text; unpack it, a GMT file is read as plain text") from error
    if not text.endswith("\n"):
        raise Refused(
            f"{path} {'ends in the middle of a line' if text else 'is empty'}; download it again, or end "
            "it with a line break if it is whole"
        )
    sets = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, *rest = (field.strip() for field in line.split("\t"))
        genes = [gene for gene in rest[1:] if gene]
        if not genes or not name or name in sets:
            raise Refused(
                f"line {number} of {path} {'repeats a name' if name in sets else 'is not a programme'}; a GMT "
                "line is a name of its own, a description and gene symbols, between tabs"
            )
        sets[name] = genes
    return sets
