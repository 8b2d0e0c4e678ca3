"""The table of chapters: page, title, what each needs, the learning paths it lies on, its place on the wide map.

A row is a promise and not yet a page: what is written is found in the table of contents.
"""

PATHS = {"expression": "Gene expression", "drug": "Drug response", "mathematics": "Mathematics"}
PARTS = {
    0: "Start",
    1: "Latent variables",
    6: "Evaluation",
    7: "Diffusion",
    15: "Flows",
    17: "Energies",
    18: "Predicting in latent space",
    21: "Applications",
}  # number of a part's first chapter
# number: (page, title with its line break, chapters it needs, initials of its paths)
CHAPTERS = {
    0: ("start/00-cells-are-counts", "Cells are|counts", (), "edm"),
    1: ("latent/01-vae", "Variational|autoencoder", (0,), "edm"),
    2: ("latent/02-conditional-vae", "Conditional|VAE", (1,), "ed"),
    3: ("latent/03-vae-for-counts", "VAE for|counts", (2,), "ed"),
    4: ("latent/04-beta-vae", "β-VAE", (1,), "m"),
    5: ("latent/05-iwae", "Tighter|bounds", (1,), "m"),
    6: ("evaluation/06-how-good-are-samples", "How good|are samples?", (1,), "edm"),
    7: ("diffusion/07-scores", "Scores", (0,), "edm"),
    8: ("diffusion/08-langevin", "Langevin|sampling", (7,), "m"),
    9: ("diffusion/09-ddpm", "Denoising|diffusion", (1, 7), "edm"),
    10: ("diffusion/10-diffusion-on-expression", "Diffusion on|expression", (6, 9), "edm"),
    11: ("diffusion/11-sde", "Diffusion|as an SDE", (8, 9), "m"),
    12: ("diffusion/12-guidance", "Guidance", (9,), "ed"),
    13: ("diffusion/13-latent-diffusion", "Latent|diffusion", (3, 10), "ed"),
    14: ("diffusion/14-imaging", "Medical|imaging", (9,), ""),
    15: ("flows/15-flow-matching", "Flow|matching", (10, 11), "m"),
    16: ("flows/16-snapshots-to-trajectories", "Snapshots to|trajectories", (15,), "m"),
    17: ("energy/17-energy-based-models", "Energy-based|models", (8,), "m"),
    18: ("predictive/18-jepa", "Embeddings|that predict", (1,), "d"),
    19: ("predictive/19-joint-latent-spaces", "Joint latent|spaces", (15, 18), ""),
    20: ("predictive/20-world-models", "World|models", (18,), ""),
    21: ("applications/21-expression-prediction", "Predicting|expression", (3, 10), "e"),
    22: ("applications/22-judging-perturbation-models", "Judging|perturbations", (6,), "d"),
    23: ("applications/23-perturbation-models", "Perturbation|models", (3, 12, 22), "d"),
    24: ("applications/24-scppdm", "Drugs and|doses", (13, 23), "d"),
    25: ("applications/25-perturb-jepa", "Perturb-JEPA", (18, 22), "d"),
    26: ("applications/26-bimamba", "Expression as|a sequence", (10, 22), "d"),
    27: ("applications/27-embedding-cells", "Embedding|cells", (22,), "d"),
    28: ("applications/28-synthetic-data", "Synthetic|data", (12, 13), "e"),
    29: ("applications/29-scoreboard", "Scoreboard", (13, 15, 17), ""),
}
COLUMNS = (
    (0,),
    (1, 7),
    (18, 6, 5, 4, 2, 9, 8),
    (20, 22, 3, 12, 10, 14, 11, 17),
    (25, 27, 23, 21, 13, 15),
    (19, 24, 26, 28, 16, 29),
)  # wide layout, top to bottom: every arrow points right
