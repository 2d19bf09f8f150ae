# Targets: demo test build lint bench fuzz clean. "make help" explains them.
GO        ?= go
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   := -s -w -X main.version=$(VERSION)
TOOLS     := $(CURDIR)/.cache/bin
LINT_VER  := v2.6.2
FUZZTIME  ?= 30s
# What tests and the demo compare with; see build/deps.
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: demo-migrate soak web web-test web-bench web-images test-distributed check-deploy bin/temporal azure-sdk guests guests-ci guests-report fuzz-api bench-api help build demo test lint bench bench-smoke fuzz deps demo-deps clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

build: bin/ascend bin/ascend-agent bin/ascend-firstboot-amd64.exe bin/ascend-firstboot-386.exe ## build bin/ascend, its appliance's agent and the first start of Windows

# The web application, where npm is there to build it; without, a page says how.
WEBSRC := $(shell find web -name node_modules -prune -o -name .shots -prune -o -type f -print) docs/openapi.json

web: internal/webui/dist/index.html ## build the web application into the program

web/node_modules/.package-lock.json: web/package.json web/package-lock.json
	cd web && npm ci --no-fund --no-audit --loglevel=error

internal/webui/dist/index.html: $(WEBSRC)
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory web/node_modules/.package-lock.json && \
		rm -rf internal/webui/dist/assets && cd web && npm run --silent api && npm run --silent build; \
	else echo "npm is not there: the program is built without the web application"; fi

web-test: build ## the web application's own tests, and a browser's way through it
	$(GO) build -o bin/sims ./web/e2e/sims
	cd web && npx vitest run && node e2e/run.mjs

web-bench: web ## measure the web application in Chromium: first paint, clicks, memory over an hour of events
	cd web && node e2e/bench.mjs

web-images: build ## picture every page of the running product for docs/images
	mkdir -p docs/images && rm -f docs/images/*.jpg
	cd web && ASCEND_IMAGES=$(CURDIR)/docs/images node e2e/run.mjs

bin/ascend: web FORCE
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/ascend

bin/ascend-agent: FORCE
	CGO_ENABLED=0 GOOS=linux $(GO) build -trimpath -ldflags '-s -w' -o $@ ./cmd/ascend-agent

bin/ascend-firstboot-%.exe: FORCE
	CGO_ENABLED=0 GOOS=windows GOARCH=$* $(GO) build -trimpath -ldflags '-s -w' -o $@ ./cmd/ascend-firstboot

FORCE:

demo: demo-deps build ## make a sample backup of real files, restore it, show what happened
	./build/demo bin/ascend

demo-migrate: deps build ## migrate a real Debian machine from VMware to CloudStack and back, adapted and boot-proven
	$(GO) build -o bin/sims ./web/e2e/sims
	./build/demo-migrate bin

test: deps guests-ci lint ## everything that must hold: vet, lint, all tests with the race detector
	$(GO) vet ./...
	$(GO) vet -tags distributed ./internal/engine ./test/distributed
	CGO_ENABLED=1 $(GO) test -race -timeout 30m ./...
	$(MAKE) --no-print-directory web-test
	$(MAKE) --no-print-directory fuzz-api FUZZSECONDS=20

soak: deps ## the long runs: databases, disks and targets away for a minute, many kills (an hour)
	ASCEND_FAULT_SECONDS=60 $(GO) test -timeout 1h -count 1 ./cmd/ascend -run TestServe -v
	$(GO) test -timeout 1h -count 5 ./internal/restore -run 'TestKilled|TestClockJumps'
	$(GO) test -timeout 1h -count 5 ./internal/engine

test-distributed: deps bin/temporal ## many machines: workers lost, cut off, drained, moved; a real Temporal server (root)
	CGO_ENABLED=1 $(GO) build -race -o bin/ascend-race ./cmd/ascend
	ASCEND_TEMPORAL=$(CURDIR)/bin/temporal $(GO) test -tags distributed -run TestWorkersAreLost -count 1 ./internal/engine
	ASCEND_TEMPORAL=$(CURDIR)/bin/temporal ASCEND_BIN=$(CURDIR)/bin/ascend-race $(GO) test -tags distributed -timeout 20m -count 1 ./test/distributed

check-deploy: ## check deploy/ by systemd, the schemas of compose and Kubernetes, and helm
	./build/check-deploy

# A module of its own: a Temporal server is no part of the product.
bin/temporal:
	cd test/temporal && $(GO) build -trimpath -o $(CURDIR)/bin/temporal .

lint: $(TOOLS)/golangci-lint-$(LINT_VER)
	$< run ./...

$(TOOLS)/golangci-lint-$(LINT_VER):
	mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VER)
	mv $(TOOLS)/golangci-lint $@

guests: deps build ## build the guests to test with (root; cached in /var/cache/ascend-guests)
	./build/guests
	ASCEND_AGENT=$(CURDIR)/bin/ascend-agent $(GO) run ./internal/boot/guests make

guests-ci: deps ## build the few guests that the tests boot
	./build/guests debian win2008r2 win2012r2 win2019

guests-report: guests ## guests × targets: does each come up, how far, at what cost
	ASCEND_AGENT=$(CURDIR)/bin/ascend-agent $(GO) run ./internal/boot/guests report $(REPORTFLAGS)

bench: deps build ## measure against qemu-img in one run; prints ratios
	$(GO) run ./internal/bench -ascend bin/ascend $(BENCHFLAGS)

fuzz: ## run every fuzz target for FUZZTIME
	./build/fuzz $(FUZZTIME)

fuzz-api: build ## fuzz the HTTP API from its own document for a minute: no answer may be a 500
	./build/fuzz-api bin/ascend $(FUZZSECONDS)

bench-api: ## measure lists of 10,000 jobs and backups over HTTP
	$(GO) test ./internal/server -run '^$$' -bench . -benchtime 200x

azure-sdk: deps ## drive the simulator of Azure by Microsoft's own client (1 GB, Debian's python3-azure)
	/usr/bin/python3 -c 'import azure.mgmt.compute' 2>/dev/null || ./build/deps azure-sdk
	$(GO) test -tags azuresdk -run TestSDK -v ./internal/target/azure/armsim

deps: ## install what the tests compare with
	./build/deps test

demo-deps:
	./build/deps demo

clean: ## remove what was built
	rm -rf bin .cache/bin
