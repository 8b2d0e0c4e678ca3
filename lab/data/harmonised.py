"""The screens that scPerturb brought to one layout: where each file is, its hash, and how it is opened.

Zenodo record 13350497 (version 1.4) holds them, each an .h5ad with raw counts in X and in `obs` `perturbation`
("control", a name, or names joined by "_"), `nperts`, `ncounts` and, where they apply, `guide_id`, `dose_value`, ...
"""

from pathlib import Path

import anndata as ad
import pandas as pd

from .counts import column
from .read import read

DOI = "10.5281/zenodo.13350497"
FILES = "https://zenodo.org/records/13350497/files"
SOURCE, LICENCE = f"https://doi.org/{DOI}", "CC BY 4.0"
MD5 = {  # as Zenodo states it, where another project's text quotes it; else "": Zenodo is asked when it is downloaded
    "AdamsonWeissman2016_GSM2406675_10X001": "232f7e3756d41602bbe434b50662a76f",
    "AdamsonWeissman2016_GSM2406677_10X005": "8657391920e7f8b3e6fd52745777002a",
    "AdamsonWeissman2016_GSM2406681_10X010": "2fa44ea61a8dd35742af618638ec65fc",
    "AissaBenevolenskaya2021": "",
    "ChangYe2021": "",
    "CuiHacohen2023": "",
    "DatlingerBock2017": "",
    "DatlingerBock2021": "5cfbcb4770e9c859a07b2cc44fd12066",
    "DixitRegev2016_K562_TFs_13_days": "",
    "DixitRegev2016_K562_TFs_7_days": "",
    "DixitRegev2016_K562_TFs_High_MOI": "",
    "FrangiehIzar2021_RNA": "dc438f53c476a3dd562898654d48ed15",
    "GasperiniShendure2019_atscale": "",
    "GasperiniShendure2019_highMOI": "",
    "GasperiniShendure2019_lowMOI": "",
    "GehringPachter2019": "",
    "JoungZhang2023_atlas": "",
    "JoungZhang2023_combinatorial": "",
    "LaraAstiasoHuntly2023_exvivo": "",
    "LaraAstiasoHuntly2023_invivo": "",
    "LaraAstiasoHuntly2023_leukemia": "",
    "LiangWang2023": "",
    "LotfollahiTheis2023": "",
    "McFarlandTsherniak2020": "",
    "NadigOConner2024_hepg2": "af2be47f7477cf32fa6e4bec1c6a4868",
    "NadigOConner2024_jurkat": "d8b05d00bfbd686d37ffdd4293bc6c8c",
    "NormanWeissman2019_filtered": "c870e6967d91c017d9da827bab183cd6",
    "PapalexiSatija2021_eccite_RNA": "d9e8bfe20b0e7b0919be042e8fcf6d03",
    "PapalexiSatija2021_eccite_arrayed_RNA": "",
    "ReplogleWeissman2022_K562_essential": "d8cba17576d1a8afc0f7d71b79cad0f7",
    "ReplogleWeissman2022_K562_gwps": "13db594f8f1d2ccb88fec44a13e414dc",
    "ReplogleWeissman2022_rpe1": "cc7f1ec50aeb3a3e1b4a6cfa713d80fa",
    "SantinhaPlatt2023": "",
    "SchiebingerLander2019_GSE106340": "8d988c345930195ea6e64a05c762abb3",
    "SchiebingerLander2019_GSE115943": "",
    "SchraivogelSteinmetz2020_TAP_SCREEN__chromosome_11_screen": "",
    "SchraivogelSteinmetz2020_TAP_SCREEN__chromosome_8_screen": "",
    "ShifrutMarson2018": "",
    "SrivatsanTrapnell2020_sciplex2": "",
    "SrivatsanTrapnell2020_sciplex3": "c9e70629505d98c7ca1a837f62b14e89",
    "SrivatsanTrapnell2020_sciplex4": "",
    "SunshineHein2023": "",
    "TianKampmann2019_day7neuron": "",
    "TianKampmann2019_iPSC": "",
    "TianKampmann2021_CRISPRa": "",
    "TianKampmann2021_CRISPRi": "",
    "WeinrebKlein2020": "",
    "WesselsSatija2023": "",
    "XieHon2017": "",
    "XuCao2023": "",
    "ZhaoSims2021": "",
}


def published(*names: str) -> dict[str, str]:
    """Addresses of these files in the record, each with its hash, as a card's `files` has them."""
    at = lambda name: FILES if MD5[name] else f"doi:{DOI}"
    return {f"{at(name)}/{name}.h5ad": MD5[name] and f"md5:{MD5[name]}" for name in names}


def opened(path: Path) -> ad.AnnData:
    """One of these files, its matrix left on disk; names of cells and genes unique; the parts of a combination joined
    by "+" (a label is one where it has as many parts between "_" as `nperts` says), which no other label holds."""
    cells = read(path, on_disk=True)
    cells.obs_names_make_unique()
    cells.var_names_make_unique()
    label, number = column(cells, "perturbation"), column(cells, "nperts")
    known = label.notna()
    several = pd.to_numeric(number[known].astype(object), errors="coerce").groupby(label[known].astype(str)).max()
    new = {}
    for name, n in several.items():
        parts = name.split("_")
        new[name] = "+".join(parts) if n > 1 and len(parts) == n else name.replace("+", "plus")
    cells.obs["perturbation"] = label.astype(object).map(lambda name: new.get(str(name), name))
    return cells


def present(cells: ad.AnnData, **columns: str) -> dict[str, str]:
    """Those of the columns (new name=name in `obs`) that the file has; a line says which it has not."""
    lacking = [f"no {old!r}, and so no {new!r}" for new, old in columns.items() if old not in cells.obs]
    if lacking:
        print(f"the file has {'; '.join(lacking)}")
    return {new: old for new, old in columns.items() if old in cells.obs}
