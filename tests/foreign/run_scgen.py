"""scGen (scgen 2.1.0, Lotfollahi 2019) on one folder of splits, at its tutorial's settings.

In an environment of its own (Python 3.10; 2.1.0 imports what scvi-tools dropped at 0.20):

    pip install --no-deps -r tests/foreign/run_scgen.txt
    python tests/foreign/run_scgen.py FOLDER OUT.h5ad EPOCHS SEED MINUTES

Own: 100 epochs in batches of 32, stopped when the validation loss has not fallen for 25, or after MINUTES. Of a pair
the package says nothing; here its two shifts are added before its decoder.
"""

import sys
import time

import cells
import scgen
import scvi
import torch

folder, out, epochs, seed, minutes = *sys.argv[1:3], *map(int, sys.argv[3:])
start, train, controls = time.monotonic(), cells.read(folder, "train"), cells.read(folder, "control_a")
train.X, controls.X = cells.logs(train), cells.logs(controls)
scvi.settings.seed = seed
scgen.SCGEN.setup_anndata(train, batch_key="perturbation", labels_key="cell_type")
model = scgen.SCGEN(train)
stop = dict(early_stopping=True, early_stopping_patience=25, max_time={"minutes": minutes})
model.train(max_epochs=epochs, batch_size=32, **stop)

predicted, shift = {}, {}
for name in sorted(set(train.obs["perturbation"]) - {"control"}):
    cloud, shift[name] = model.predict(ctrl_key="control", stim_key=name, adata_to_predict=controls)
    predicted[name] = cloud.X
latent = model.get_latent_representation(controls)
for name in cells.names(folder, {"pair 2/2"}):
    moved = latent + sum(shift[part] for part in name.split("+"))
    with torch.no_grad():
        predicted[name] = model.module.generative(torch.Tensor(moved))["px"].numpy()
cells.write(out, controls, predicted)
print(f"{len(model.history['elbo_train'])} epochs, {time.monotonic() - start:.0f} s")
