"""CPA (cpa-tools 0.8.8, Lotfollahi 2023) on one folder of splits, at the settings of its Norman or Kang tutorial.

In an environment of its own (Python 3.10; it refuses 3.11, and pip did not resolve its own pins in 20 minutes):

    pip install --no-deps -r tests/foreign/run_cpa.txt
    python tests/foreign/run_cpa.py FOLDER OUT.h5ad EPOCHS SEED BATCH MINUTES

Own: 2,000 epochs, stopped when its metric on 15 % of the cells has not risen for 25, or after MINUTES. Its batches of
2,048 (Norman, 108,000 cells) and 512 (Kang, 13,000) make 45 and 23 steps an epoch, and its schedules count epochs, so
BATCH keeps the steps of the smaller sets here: 128 and 64.
A prediction starts from control cells, as in the Norman tutorial; its negative binomial is drawn from, since log1p of
its means (what `predict` gives) is no mean of log1p.
"""

import sys
import tempfile
import time

import anndata
import cells
import cpa
import numpy as np

# fmt: off
NORMAN = dict(
    n_latent=32, recon_loss="nb", doser_type="linear", n_hidden_encoder=256, n_layers_encoder=4, n_hidden_decoder=256,
    n_layers_decoder=2, use_batch_norm_encoder=True, use_layer_norm_encoder=False, use_batch_norm_decoder=False,
    use_layer_norm_decoder=False, dropout_rate_encoder=0.2, dropout_rate_decoder=0.0, variational=False,
)
NORMAN_PLAN = dict(
    n_epochs_kl_warmup=None, n_epochs_adv_warmup=50, n_epochs_mixup_warmup=10, n_epochs_pretrain_ae=10, mixup_alpha=0.1,
    lr=1e-4, wd=3.2170178270865573e-06, adv_steps=3, reg_adv=10.0, pen_adv=20.0, adv_lr=1e-4,
    adv_wd=7.051355554517135e-06, n_layers_adv=2, n_hidden_adv=128, use_batch_norm_adv=True, use_layer_norm_adv=False,
    dropout_rate_adv=0.3, step_size_lr=25, do_clip_grad=False, adv_loss="cce", gradient_clip_value=5.0,
)
KANG = dict(
    n_latent=64, recon_loss="nb", doser_type="linear", n_hidden_encoder=128, n_layers_encoder=2, n_hidden_decoder=512,
    n_layers_decoder=2, use_batch_norm_encoder=True, use_layer_norm_encoder=False, use_batch_norm_decoder=False,
    use_layer_norm_decoder=True, dropout_rate_encoder=0.0, dropout_rate_decoder=0.1, variational=False,
)
KANG_PLAN = dict(
    n_epochs_kl_warmup=None, n_epochs_pretrain_ae=30, n_epochs_adv_warmup=50, n_epochs_mixup_warmup=0, mixup_alpha=0.0,
    adv_steps=None, n_hidden_adv=64, n_layers_adv=3, use_batch_norm_adv=True, use_layer_norm_adv=False,
    dropout_rate_adv=0.3, reg_adv=20.0, pen_adv=5.0, lr=3e-4, wd=4e-07, adv_lr=3e-4, adv_wd=4e-07, adv_loss="cce",
    doser_lr=3e-4, doser_wd=4e-07, do_clip_grad=True, gradient_clip_value=1.0, step_size_lr=10,
)
# fmt: on

folder, out, epochs, seed, batch, minutes = *sys.argv[1:3], *map(int, sys.argv[3:])
start, train, controls = time.monotonic(), cells.read(folder, "train"), cells.read(folder, "control_a")
kang = train.obs["cell_type"].nunique() > 1
settings, plan = (KANG, KANG_PLAN) if kang else (NORMAN, NORMAN_PLAN)
rng = np.random.default_rng(seed)
train.obs["split"] = rng.choice(["train", "valid"], len(train), p=[0.85, 0.15])
asked = cells.names(folder, {"seen", "pair 2/2", "unseen cell type"})
parts = [train]
for name in asked if kang else cells.names(folder, {"pair 2/2"}):
    parts.append(controls.copy())
    parts[-1].obs["perturbation"], parts[-1].obs["split"] = name, "ood"
both = anndata.concat(parts, index_unique="-")
both.X = both.X.toarray()
cpa.CPA.setup_anndata(
    both,
    perturbation_key="perturbation",
    control_group="control",
    categorical_covariate_keys=["cell_type"],
    is_count_data=True,
    max_comb_len=1 if kang else 2,
)
of = dict(split_key="split", train_split="train", valid_split="valid", test_split="ood")
model = cpa.CPA(both, **of, seed=seed, **settings)
model.train(
    max_epochs=epochs,
    use_gpu=False,
    batch_size=batch,
    plan_kwargs=plan,
    early_stopping_patience=5,
    check_val_every_n_epoch=5,
    save_path=tempfile.mkdtemp(),
    max_time={"minutes": minutes},
)

theta = np.exp(model.module.px_r.detach().numpy())
draws = {}
kinds = controls.obs["cell_type"].iloc[0]
for name in asked:
    rows = np.flatnonzero((both.obs["perturbation"] == name) & (both.obs["cell_type"] == kinds))
    some = both[np.resize(rows, len(controls))].copy()
    some.obs_names_make_unique()
    some.X = controls.X.toarray()
    model.predict(some, batch_size=2048)
    draws[name] = rng.poisson(rng.gamma(theta, some.obsm["CPA_pred"] / theta))
logs, total = {}, controls.obs["n_counts"].to_numpy()[:, None]
for name, x in draws.items():
    drawn = total * x.sum(1, keepdims=True) / controls.X.sum(1)  # its own total, of which n_counts may hold other genes
    logs[name] = np.log1p(1e4 * x / np.asarray(drawn))
cells.write(out, controls, logs)
last = model.epoch_history["epoch"].max() + 1
print(f"{last} epochs, {time.monotonic() - start:.0f} s")
