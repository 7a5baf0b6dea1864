# requorum: `make` lists the targets. Go, git and make are enough to start; `make test` installs the
# rest, or says what is missing. Programs for tests are kept outside of the tree, in CACHE.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export PATH := $(PATH):/usr/local/go/bin

GO      ?= go
CACHE   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/requorum-test
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

GOLANGCI_VERSION := 2.15.0
GOLANGCI         := $(CACHE)/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint
NFPM_VERSION     := 2.43.4
NFPM             := $(CACHE)/nfpm-$(NFPM_VERSION)/nfpm

# Debian packages whose programs tests call: a restore without requorum.
PACKAGES := age zstd
# And what others call that are skipped without: promtool, for alert rules.
OPTIONAL := prometheus

# What the Patroni lab runs. Without root or Debian the lab is skipped.
LAB_PACKAGES := patroni python3-etcd python3-idna postgresql-15
# The browser in which tests look at the reports of drills. Without it, or without Debian, they do not.
PAGE_PACKAGES := chromium

# What hosts are made of, as network namespaces with SSH servers and as whole systems with systemd. Without root or Debian they are skipped.
HOST_PACKAGES := openssh-server sudo iproute2 systemd-container debootstrap
HOST_PROGRAMS := sshd sudo ip systemd-nspawn debootstrap

# The race detector needs cgo, and so a C compiler; without one tests run without it.
RACE      := $(shell printf '\043include <stdlib.h>\n' | gcc -E - >/dev/null 2>&1 && echo -race)
# Tests start the program, of which the cache of test results knows nothing: they run each time.
TESTFLAGS := $(RACE) -count 1 -timeout 25m -p 2
FUZZTIME  := 10s
SOAK      := 4m
MBPS      := 300
BENCH     := .

.DEFAULT_GOAL := help
.PHONY: lab lab-danger lab-kubernetes help build demo check test lint fmt vet bench bench-disk fuzz soak deb clean packages servers

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/requorum, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/requorum ./cmd/requorum

demo: build ## the whole job on this machine in a minute, nothing else needed
	./bin/requorum demo

check: build fmt vet ## the inner loop: build, gofmt, vet, tests that start no servers
	$(GO) test -short -timeout 5m ./...

test: packages servers build fmt vet lint ## everything: lint, and all tests on real etcd and S3 servers
	@out=$$(mktemp); trap 'rm -f "$$out"' EXIT; \
	$(GO) test $(TESTFLAGS) ./... 2>&1 | tee "$$out" || { printf '\nWhat failed:\n'; \
	  awk '/^ *--- FAIL/ {left = 20} /^ *--- (PASS|SKIP)|^(ok|===) / {left = 0} /^(panic:|FAIL\t|WARNING: DATA RACE)/ {print; left = 0; next} left-- > 0 {print}' "$$out"; exit 1; }

lint: $(GOLANGCI) ## golangci-lint, with the rules of which package may import what
	$(GOLANGCI) run ./...

fmt:
	@bad=$$(gofmt -l .); if [ -n "$$bad" ]; then echo "gofmt would change these, run gofmt -w on them:"; echo "$$bad"; exit 1; fi

vet:
	$(GO) vet ./...

bench: packages servers build ## speed and memory against etcdctl and etcdutl in the same run (REQUORUM_BENCH_QUICK=1)
	$(GO) test -run '^$$' -bench . -timeout 30m -p 1 ./internal/seal ./internal/dbfile ./storage/s3
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 60m ./internal/service
	$(GO) test -run '^$$' -bench . -timeout 120m ./e2e/bench
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 60m ./e2e/hosts

bench-disk: packages servers build ## the same on a disk held to 300 MB/s (needs root; MBPS=125, BENCH=Restore/1500)
	e2e/bench/on-disk.sh $(MBPS) $(BENCH)

lab: packages servers ## every disaster with real Patroni and PostgreSQL, each row counted (10 minutes, needs root; PATRONI=4)
	REQUORUM_LAB=1 REQUORUM_LAB_PATRONI=$(PATRONI) $(GO) test -v -count 1 -timeout 60m ./e2e/patroni

lab-danger: packages servers ## what a plain etcdutl snapshot restore does to Patroni: it loses committed rows
	REQUORUM_LAB=danger $(GO) test -v -count 1 -timeout 20m -run Danger ./e2e/patroni

lab-kubernetes: packages servers ## real API servers and a scheduler that lose their etcd; builds them first (10 minutes)
	REQUORUM_LAB=kubernetes $(GO) test -v -count 1 -timeout 60m ./e2e/kubernetes

fuzz: ## every fuzz target for a moment (FUZZTIME=10s)
	@grep -rlE --include='*_test.go' '^func Fuzz' . | while read -r file; do \
	  for target in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$$file"); do \
	    echo "$$(dirname "$$file") $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" </dev/null; \
	  done; \
	done

soak: servers ## serve under load while members, store and replicas fail at random (SOAK=4m)
	REQUORUM_SOAK=$(SOAK) $(GO) test ./e2e -run '^TestSoak$$' -v -timeout 60m

deb: build $(NFPM) ## dist/requorum_VERSION_ARCH.deb
	mkdir -p dist
	GOARCH=$$($(GO) env GOARCH) VERSION=$$(echo '$(VERSION)' | sed 's/^v//; s/^[^0-9]/0~&/') $(NFPM) package -f deploy/debian/nfpm.yaml -p deb -t dist/

clean: ## remove what was built; programs for tests stay in the cache directory
	rm -rf bin dist coverage.out

packages:
	@missing=; for p in $(PACKAGES); do command -v "$$p" >/dev/null || missing="$$missing $$p"; done; \
	optional=; for p in $(OPTIONAL); do command -v "$$p" >/dev/null || optional="$$optional $$p"; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  missing="$$missing$$optional"; \
	  if [ -n "$$missing" ] || { [ ! -e $(CACHE)/etcd-3.4.23/etcd ] && ! apt-cache show etcd-server >/dev/null 2>&1; }; then apt-get update -qq; fi; \
	  if [ -n "$$missing" ]; then DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing </dev/null; fi; \
	else \
	  if [ -n "$$optional" ]; then echo "not installed:$$optional; what needs it is skipped: tests of the alert rules"; fi; \
	  if [ -n "$$missing" ]; then echo "tests need these programs:$$missing; install them, on Debian as root: apt-get install$$missing"; exit 1; fi; \
	fi
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { command -v patroni && /usr/bin/python3 -c "import etcd, idna" && [ -x /usr/lib/postgresql/15/bin/postgres ]; } >/dev/null 2>&1; then \
	  apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(LAB_PACKAGES) </dev/null || \
	    echo "the Patroni lab is skipped: $(LAB_PACKAGES) cannot be installed here"; \
	fi
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  missing=; for p in $(HOST_PROGRAMS); do command -v "$$p" >/dev/null || missing=yes; done; \
	  if [ -n "$$missing" ]; then \
	    apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(HOST_PACKAGES) </dev/null || \
	      echo "tests on several hosts are skipped: $(HOST_PACKAGES) cannot be installed here"; \
	  fi; \
	fi
	@if ! command -v chromium >/dev/null; then \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PAGE_PACKAGES) </dev/null; } || \
	    echo "pages are not looked at in a browser: $(PAGE_PACKAGES) is not here"; \
	fi
	@if [ -z "$(RACE)" ]; then echo "no C compiler here: tests run without the race detector"; fi

servers:
	$(GO) run ./internal/etcdtest/prepare

$(NFPM):
	GOBIN=$(@D) GOFLAGS= CGO_ENABLED=0 $(GO) install github.com/goreleaser/nfpm/v2/cmd/nfpm@v$(NFPM_VERSION)

$(GOLANGCI):
	GOBIN=$(@D) GOFLAGS= CGO_ENABLED=0 $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(GOLANGCI_VERSION)
