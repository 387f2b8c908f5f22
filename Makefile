# `make` lists the targets. `make demo` and `make test` also set up a fresh machine.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL: # colcon must not build one package twice at once
.PHONY: help system venv build demo test test-all check core coverage lint format docs bench workspace wheel clean distclean

# Extras installed into .venv besides ROS 2 and the core: any of live, train, dev, rtx, view, docs. On a robot: make venv EXTRAS=live
EXTRAS ?= live train dev
# Python for .venv, 3.10 to 3.14.
PYTHON ?= python3
# Parallel test processes; each uses its own ROS domain.
WORKERS ?= 2
ENV := . scripts/env.sh

REQUIREMENTS := $(wildcard requirements/*.txt requirements/*/*.txt)
MESSAGES := $(wildcard ros2_ws/src/actrec_msgs/*.* ros2_ws/src/actrec_msgs/*/*)

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

system: ## install missing Debian/Ubuntu packages (asks for root only if any are missing)
	@scripts/install_system.sh $(PYTHON)

venv: .venv/.ready ## create .venv with ROS 2 (sourced distribution, or wheels) and the Python packages

# Rebuild .venv if EXTRAS names extras that it lacks, also if they are the default ones and a goal needs these. A .venv
# without the list .extras (older versions) is left as it is.
HELD := $(shell cat .venv/.extras 2>/dev/null || echo $(EXTRAS))
ifneq ($(filter-out file,$(origin EXTRAS))$(filter test test-all check coverage lint format,$(MAKECMDGOALS)),)
ifneq ($(filter-out $(HELD),$(EXTRAS)),)
.PHONY: .venv/.ready
endif
endif
# Also if a ROS 2 distribution is sourced that .venv was not made with.
ifneq ($(and $(ROS_DISTRO),$(AMENT_PREFIX_PATH),$(wildcard .venv/ros2)),)
ifneq ($(ROS_DISTRO),$(shell cat .venv/ros2))
.PHONY: .venv/.ready
endif
endif

.venv/.ready: $(REQUIREMENTS) scripts/make_venv.sh
	@scripts/install_system.sh $(PYTHON)
	@PYTHON=$(PYTHON) scripts/make_venv.sh "$(EXTRAS)"
	@touch $@

build: .venv/.ready ros2_ws/install/.ready .venv/.ready_actrec ## build the messages and install actrec into .venv, editable

# CMake's cache holds the folder of NumPy's headers, which another version of NumPy has elsewhere.
ros2_ws/install/.ready: .venv/.ready $(MESSAGES)
	@mkdir -p ros2_ws/log && $(ENV) && . scripts/step.sh && step "building the messages" ros2_ws/log/build.log \
		env -C ros2_ws colcon build --cmake-clean-cache --packages-select actrec_msgs
	@touch $@

.venv/.ready_actrec: .venv/.ready setup.py setup.cfg
	@$(ENV) && . scripts/step.sh && step "installing actrec" .venv/install_actrec.log \
		python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: build ## show the actions of a simulated person to the graph; compare the labels with them
	@$(ENV) && actrec run --params config/demo.yaml --quiet --image demo.jpg

# Not --dist loadfile: with it xdist 3.8.0 hangs after a worker dies (pytest-xdist #1323).
PYTEST := python -m pytest -n $(WORKERS) --dist worksteal --max-worker-restart 2

test: build ## run the tests that are not slow, in about ten minutes; or some, slow ones too: ARGS="-k name"
	@$(ENV) && $(PYTEST) $(or $(ARGS),-m "not slow")

test-all: build ## run all tests
	@$(ENV) && $(PYTEST)

# The quick part of the tests: no graph, no training, no rendering, no evaluation.
QUICK := --ignore=tests/core/inference/test_zoo_packages.py \
  tests/core/features tests/core/inference tests/core/recordings tests/core/skeleton tests/core/utils \
  tests/house/test_dependencies.py tests/house/test_imports.py tests/house/test_layout.py tests/house/test_release.py \
  tests/house/test_requirements.py tests/nodes/common/test_conversions.py tests/nodes/common/test_synchronizer.py

check: lint ## lint and a quick part of the tests, in two minutes
	@$(ENV) && python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow" $(QUICK)

# In any environment: pip install -e '.[live,train,dev]' && pip install --no-deps -r requirements/no_deps/live.txt && make core
core: ## run the tests that need no ROS, with the Python on PATH
	@python -m pytest -n $(WORKERS) --dist worksteal --max-worker-restart 2 \
		tests/calibration tests/core tests/models tests/house/test_layout.py tests/house/test_other_systems.py \
		tests/house/test_public_surface.py tests/house/test_release.py tests/house/test_requirements.py $(ARGS)

coverage: build ## report the lines that the tests run, by package; or some tests: ARGS=tests/core
	@$(ENV) && python -m pytest -q -n $(WORKERS) --dist worksteal --max-worker-restart 2 --cov --cov-report= $(ARGS)
	@$(ENV) && python scripts/coverage_by_package.py

lint: build ## ruff, codespell, mypy and the list of avoided words
	@$(ENV) && ruff check . && ruff format --check . && codespell && mypy && python -m pytest -q tests/house/test_language.py

format: build ## format and fix with ruff
	@$(ENV) && ruff format . && ruff check --fix .

docs: ## build the documentation site into build/site, warnings as errors
	@$(MAKE) --no-print-directory build EXTRAS="$(HELD) docs"
	@$(ENV) && NO_MKDOCS_2_WARNING=1 mkdocs build --strict && echo "actrec: build/site/index.html; with search: python -m http.server -d build/site"

bench: build ## list the benchmarks, or run one: make bench NAME=transport
	@$(ENV) && actrec bench $(NAME)

workspace: .venv/.ready ## build the packages with colcon, as on a robot (then: . ros2_ws/install/setup.bash)
	@$(ENV) && cd ros2_ws && colcon build $(ARGS)

wheel: ## build the wheel and the source archive into dist/, and label a recording with it in an empty environment
	@PYTHON=$(PYTHON) scripts/check_wheel.sh

clean: ## remove build results, keep .venv
	rm -rf build dist install log ros2_ws/build ros2_ws/install ros2_ws/log actrec.egg-info .venv/.ready_actrec
	rm -rf .pytest_cache .mypy_cache .ruff_cache .coverage* coverage.xml demo.jpg
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## also remove .venv
	rm -rf .venv
