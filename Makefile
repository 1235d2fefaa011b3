# One-word commands. `make help` lists them.

PREFIX ?= /usr/local
CARGO ?= cargo

.PHONY: help
help: ## List these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

.PHONY: packages
packages: ## Install the Debian packages that are missing (as root, or with sudo)
	@xtask/packages

.PHONY: build
build: packages ## Build the program and the guest's files
	$(CARGO) build --release --locked
	$(CARGO) xtask guest

.PHONY: kernel
kernel: packages ## Build the kernel that is made for machines (15 minutes on 2 cores, once)
	$(CARGO) xtask kernel

.PHONY: run
run: build ## Make the machine `dev` from a Debian image and look inside
	$(CARGO) xtask images debian-systemd
	$(CARGO) xtask first-machine

.PHONY: images
images: packages ## Build the test images into the test registry
	$(CARGO) xtask images

.PHONY: registry
registry: images ## Serve the test images on 127.0.0.1:5000
	$(CARGO) xtask registry 5000

.PHONY: check
check: packages ## Formatting, lints and documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

.PHONY: test
test: check build kernel images ## Everything: formatting, clippy, unit and end-to-end tests
	$(CARGO) test --workspace --locked

.PHONY: many-files
many-files: build images ## Walk a home of 200,000 files with a limit of 20,000 open ones
	$(CARGO) test --package end-to-end --locked -- --ignored --nocapture many_files

.PHONY: bench-writers
bench-writers: bench-others ## Compare ext4 writers on archives made to hurt (20 minutes, as root)
	@xtask/packages python3
	benches/others/writers

.PHONY: image-corpus
image-corpus: images ## Unpack archives made to hurt, and the test images, and compare with umoci
	@xtask/packages umoci skopeo libarchive-tools python3
	$(CARGO) test --release --package container-image --test corpus --locked -- \
		--include-ignored --nocapture --test-threads 1

SECONDS ?= 60
.PHONY: fuzz
fuzz: packages ## Fuzz layers, manifests and configurations for SECONDS (60) each
	@xtask/packages g++
	CARGO=$(CARGO) fuzz/run $(SECONDS)

.PHONY: bench
bench: build images ## Measure, side by side, what docs/performance.md tells
	@xtask/packages skopeo umoci passt
	$(CARGO) bench --package container-benches

.PHONY: bench-others
bench-others: packages ## Build other people's crates that `make bench` measures beside ours
	$(CARGO) build --release --locked --manifest-path benches/others/Cargo.toml

.PHONY: demo
demo: build ## Record the README's session anew: docs/demo.cast, docs/demo.svg
	@xtask/packages asciinema termtosvg
	$(CARGO) xtask images debian-systemd
	$(CARGO) xtask demo

.PHONY: install
install: build ## Install below PREFIX (/usr/local)
	$(CARGO) xtask install $(PREFIX)

.PHONY: clean
clean: ## Remove everything that was built
	$(CARGO) clean
