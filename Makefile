# Thin: every target calls `python -m bankside` or pytest in .venv, which is made on first use.
#   make run        generate text with decode attention on the RTL     make test      tests (test-all: slow ones too)
#   make sim UNIT=fp16_mul SIM=verilator|icarus WAVES=1                make agree     RTL == golden == timing
PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= test
ARGS   ?=
UNIT   ?=
SIM    ?= verilator
WAVES  ?=

PY       := $(VENV)/bin/python
BANKSIDE := $(PY) -m bankside
PYTEST   := $(PY) -m pytest -n 2
STAMP    := $(VENV)/.bankside-installed

.DEFAULT_GOAL := run
.PHONY: setup run test test-all sim agree bench verilog waves docs doctor clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "bankside needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "this Python cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -e '.[$(EXTRAS)]'
	@# Compiles the memory controllers, which the first answer of `map` would wait for; `doctor` says what is missing.
	-@$(BANKSIDE) map --model llama-3-70b --machine rank-pim --context 1024 --batch 1 >/dev/null 2>&1
	@touch $@

run: $(STAMP)
	$(BANKSIDE) run examples/generate_on_dimm_pim.yaml $(ARGS)

test: $(STAMP)
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(STAMP)
	$(PYTEST) $(ARGS)

sim: $(STAMP)
	$(BANKSIDE) sim $(if $(UNIT),--unit $(UNIT)) --simulator $(SIM) $(if $(WAVES),--waves) $(ARGS)

agree bench verilog waves docs doctor: $(STAMP)
	$(BANKSIDE) $@ $(ARGS)

clean:
	rm -rf build .pytest_cache .hypothesis .ruff_cache .mypy_cache dist
