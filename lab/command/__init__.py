"""The command line, `python -m lab`: one front (`dispatch`, `options`), and behind it a file a command.

`doctor` looks at this machine, `sets` lists data, `train` fits a recipe to cells in one folder (`cells`, `folder`),
and `folder.reopen` opens what it left, for `sample`, `embed` and `predict`. A family of models is one file in
`recipes`.
"""

from .dispatch import main
