"""lab: the package of the book *Generating Cells*. Import the room that a chapter names: `from lab import data, vae`.

foundations, each imports only those above it
    errors        Refused: one sentence, cause and remedy
    path          x_t = alpha x0 + sigma eps, and what a prediction says of both ends
    dist          the laws that torch lacks or has otherwise, a readable log_prob each
    nets          networks, conditions and count heads that every family of models shares
    denoise       a network that denoises along a path: the one loss of scores, diffusion and flows
    data          from a file or a set's name to checked minibatches; catalogue/ has the sets
    train         one loop, any scale; checkpoints that continue to the bit
    sample        samplers: generators that yield x after every step
    baselines     the rows that a model has to beat
    metrics       distances between samples, paired scores, chains, and one report on how good samples are
    plot          one look for every figure
    shipped       what a page cannot train in its minute: small weights and tables

models, none imports another
    vae           bounds on log p(x), the count VAE, what it says of cells
    disentangle   what a code says of known factors, and FactorVAE
    score         Fisher's and Stein's, and score matching without noise
    diffusion     the chain's posterior, its bound and its schedules
    flow          fields learned from pairs of points, which pairs to take, and a density by change of variables
    ebm           energies: replayed chains, contrast, partition functions, a Boltzmann machine
    jepa          the embedding of a target predicted from its context's, and what keeps it from collapse
    world         latent dynamics, filtered and imagined; Kalman, plans, a policy from imagination
    ssm           a scan that chooses what to remember, exact and fast on any processor, and Mamba's blocks

applications, import models, never one another
    perturb       what a perturbation does to cells: the judge of all predictions, and models that predict it
    synth         real cells measured for a simulator, and how near to them it comes
    transcriptome genes as one sequence that a perturbation begins, and what becomes of each

edges, import anything
    __main__      python -m lab
    command       its commands, one folder a run, one recipe a family of models
    assign        homework from an instructor's source: build it, prove it, mark it
    checks        what a student's notebook prints of an answer
"""
