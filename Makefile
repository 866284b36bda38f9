# Every target makes .venv by itself; PYTHON picks the interpreter that it is made with.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test lint bench bench-runtime docs dist mutate mutate-source kill fuzz matrix clean

demo: $(INSTALLED)
	@$(BIN)/python demo/run.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/linter.py

# The clip on the CPU over a grid, as a table and heat maps in build/. Half an hour; what is there is not measured again.
bench-runtime: $(INSTALLED)
	mkdir -p build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python benchmarks/runtime.py build/runtime.jsonl --plot build/runtime.svg

# The site, in site/: the rules' pages come from the rules, and the results on them from a run of `clipcheck verify`.
docs: $(INSTALLED)
	mkdir -p build
	$(BIN)/python -m clipcheck verify --output-format json > build/verified.json
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# A wheel and a source distribution in dist/, each installed into an empty environment and tried there.
dist: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python tests/try_dist.py dist

mutate: $(INSTALLED)
	$(BIN)/python tests/mutate.py

# Kills clipcheck a thousand times while it fixes files, and checks that no file was ever damaged.
kill: $(INSTALLED)
	$(BIN)/python tests/kill.py

# The fast tests with every supported Python that this machine has, and with the lowest versions that are allowed.
matrix: $(INSTALLED)
	$(BIN)/python tests/matrix.py

# Random changes of clipcheck's own source, and how many of them the tests notice.
SAMPLE ?= 200
SEED ?= 1
mutate-source: $(INSTALLED)
	$(BIN)/python tests/mutate_source.py --sample $(SAMPLE) --seed $(SEED)

# Random modules around clipping idioms: none may lose a comment, break, or change where no fix is.
COUNT ?= 20000
fuzz: $(INSTALLED)
	$(BIN)/python tests/fuzz.py $(COUNT) $(SEED)

clean:
	rm -rf .venv build dist site

$(INSTALLED): pyproject.toml constraints.txt
	@echo 'Setting up .venv. Downloading torch takes most of the time, a few minutes on a slow line.'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@echo 'Done.'
	@touch $@
