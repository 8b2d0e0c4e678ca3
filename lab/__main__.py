"""The command line, `python -m lab`: `doctor` looks at this machine, `data` lists the sets, `train` fits your cells,
`sample` draws new ones from a finished run, `embed` finds others' place in it, `predict` says what perturbations would
make of them, `report` judges drawn cells and `evaluate` predicted ones.

Bad input ends in one sentence on stderr and a non-zero exit; `--help` after any command lists its options.
"""

import os
import sys

from lab.command import main

if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's threads, which spin where others need the processor
    sys.exit(main())
