"""lab: the package of the book *Generating Cells*. Import the module that a chapter names: `from lab import data, vae`."""
