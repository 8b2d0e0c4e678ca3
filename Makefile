# make book | test | check | elsewhere | machines | notebooks | shipped | bench | grading.  TORCH_INDEX=<url> takes torch from another index (PyTorch's CPU wheels, say).

.DEFAULT_GOAL := book
.PHONY: book test check elsewhere machines notebooks shipped bench grading executed clean

PYTHON ?= python3
BIN := .venv/bin
LOCK := .binder/requirements.txt

# What is published and compared never depends on the machine: no data of its own, no GPU, one thread per kernel
# (the number of threads changes a trained loss in the seventh digit), the notebook's own figures.
unexport LAB_DATA MPLBACKEND DISPLAY
export ACCELERATE_USE_CPU := true
export CUDA_VISIBLE_DEVICES :=
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export NUMBA_NUM_THREADS := 1
export PYTHONHASHSEED := 0
export PYDEVD_DISABLE_FILE_VALIDATION := 1

book: executed
	@[ _toc.yml -ot _build/html/index.html ] || rm -rf _build/html _build/.doctrees  # every sidebar names every page
	@$(BIN)/jupyter-book build -q -W --keep-going . || { rm -rf _build/html _build/.doctrees; exit 1; }
	@echo "The book: $(CURDIR)/_build/html/index.html"

# The last step of a failed build is to forget it: Sphinx reports a warning only while it reads the page.

executed: $(BIN)/.ready
	@$(BIN)/python book/_ext/execute.py

# Cells run with initial weights moved in the seventh digit, by the commit: outputs must be those of any processor.
ONE := --nbval --nbval-current-env --nbval-cell-timeout 300
NBVAL := -n 2 --dist loadfile $(ONE)
CHAPTERS = $(if $(CHAPTER),$(foreach n,$(CHAPTER),$(wildcard book/*/$(n)-*.ipynb)),book)
test: book
	LAB_JITTER=$$(git rev-parse --short HEAD 2>/dev/null || echo 1) $(BIN)/python -m pytest $(NBVAL) tests book

# The chapters' cells on two such processors against the stored outputs: make elsewhere CHAPTER="01 03".
elsewhere: $(BIN)/.ready
	@for seed in 1 2; do LAB_JITTER=$$seed $(BIN)/python -m pytest -q $(NBVAL) $(CHAPTERS) || exit 1; done

# One at a time, on the machines that readers have: with two and four threads the assertions, and the outputs with the
# plainest kernels of torch, numpy and their BLAS. make machines CHAPTER=03, or weekly for all.
machines: $(BIN)/.ready
	@for n in 2 4; do echo "$$n threads"; OMP_WAIT_POLICY=passive OMP_NUM_THREADS=$$n MKL_NUM_THREADS=$$n \
	OPENBLAS_NUM_THREADS=$$n $(BIN)/python -m pytest -q $(ONE:nbval=nbval-lax) $(CHAPTERS) || exit 1; done
	@echo "plainest kernels"; ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Nehalem \
	NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR" $(BIN)/python -m pytest -q $(ONE) $(CHAPTERS)

# For the inner loop, in a minute or two: handwriting, the package, what a page must hold; no page is executed.
check: $(BIN)/.ready
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -k 'not stated_seconds' \
	tests/test_handwriting.py tests/lab tests/book/test_chapters.py

notebooks: executed
	@$(BIN)/python book/_ext/reader.py

# What a page cannot train in its minute: runs again what is stale, or NAME alone.
shipped: $(BIN)/.ready
	@$(BIN)/python book/_ext/ship.py $(NAME)

bench: $(BIN)/.ready
	$(BIN)/python -m pip install -q -r .ci/bench.txt -c $(LOCK)
	$(BIN)/python -m pip install -q --no-deps -r .ci/bench-alone.txt
	$(BIN)/python tests/bench

# What marks homework: otter-grader in an environment of its own, which sees the lock's packages behind its own few.
grading: .grading/.ready

.grading/.ready: .ci/grading.txt $(BIN)/.ready
	$(BIN)/python -m venv .grading
	.grading/bin/python -m pip install -q --no-deps -r .ci/grading.txt
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' \
	> "$$(.grading/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/lock.pth"
	@touch $@

$(BIN)/.ready: $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "The book needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install -q --index-url $(TORCH_INDEX) $(shell grep ^torch== $(LOCK)))
	$(BIN)/python -m pip install -q -r $(LOCK)
	$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@

clean:
	rm -rf _build
