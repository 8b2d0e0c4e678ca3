"""The transcriptome as one sequence: a condition token, then a token a gene, read in both directions by `lab.ssm`, and
a head that says what becomes of each gene.

    where = loci(cells.var_names, annotation)                       # missing ones are printed, and share a vector
    tokens = GeneTokens(where, pathway_features(cells))             # features of control cells alone
    design = perturb.Design(cells)
    head = LogExpression(cells.n_vars).fit(design, design.loader(cells))           # or CountLaw
    model = Predictor(design, tokens, head)
    train.fit(model, partial(loss, model), model.design.loader(cells), n=...)
    model.predict(control, "A+B", seed=0)                           # as all methods of `lab.perturb`

Genes have no order of their own. Here they follow one another as on the genome, so that neighbours there are neighbours
in the sequence, and columns in another order are the same model; another `order` is another model, since BiMamba is not
equivariant. What removes its ideas:

    GeneTokens(shuffled(where), pathways)       GeneTokens(where, shuffled(pathways))       order=
    Predictor(..., marks=False)                 descriptors=shuffled(gene_descriptors(where, pathways))
"""

from .compounds import fingerprints
from .genes import GeneTokens, gene_descriptors, loci, shuffled
from .heads import CountLaw, LogExpression
from .pathways import pathway_features
from .predictor import Predictor, loss, profiles
