"""`data`: the sets that lab knows, a line each."""

from lab import data


def sets() -> None:
    """The data sets: what is here, what can be fetched, from where and under which licence."""
    table = data.sets().reset_index()
    many = [["any" if n != n else f"{int(n):,}" for n in table[name].astype(float)] for name in ("cells", "genes")]
    size = [f"{cells} x {genes}" for cells, genes in zip(*many)]
    columns = {
        "lab.data.": table["call"],
        "cells x genes": size,
        "kind": table["kind"],
        "here": table["status"],
        "licence": table["licence"],
        "source": table["source"],
    }
    width = {name: max(map(len, [name, *map(str, column)])) for name, column in columns.items()}
    for row in [columns, *zip(*columns.values())]:
        print("  ".join(f"{value:{width[name]}}" for name, value in zip(columns, row)).rstrip())
    print(
        "Sets that are not here are downloaded when first called, and checked by hash; or put their files into a "
        "folder and name it in LAB_DATA."
    )
