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
kernel: packages ## Build the kernel made for machines (15 minutes on 2 cores, once)
	$(CARGO) xtask kernel

.PHONY: run
run: build ## Create the machine `dev` from a Debian image and run commands in it
	$(CARGO) xtask images debian-systemd
	$(CARGO) xtask first-machine

.PHONY: images
images: packages ## Build the test images into the test registry
	$(CARGO) xtask images

.PHONY: registry
registry: images ## Serve the test images on 127.0.0.1:5000
	$(CARGO) xtask registry 5000

.PHONY: check
check: packages ## Formatting, lints, lock files, documentation links, prose and import cycles
	$(CARGO) fmt --all --check
	for manifest in fuzz benches/others; do \
		$(CARGO) metadata --locked --format-version 1 --manifest-path $$manifest/Cargo.toml \
			>/dev/null || exit 1; \
	done
	$(CARGO) xtask check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked

DENY := target/tools/bin/cargo-deny
$(DENY):
	CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install cargo-deny --version 0.20.2 --locked --debug --root target/tools

.PHONY: deny
deny: packages $(DENY) ## Check the dependencies' licences, sources, duplicates and advisories
	$(DENY) check bans licenses sources
	@if $(DENY) fetch db; then $(DENY) check advisories; else \
		echo "Warning: the advisory database cannot be fetched: advisories not checked" >&2; fi

.PHONY: test
test: check build kernel images ## Run `make check`, unit and end-to-end tests
	$(CARGO) test --workspace --locked

.PHONY: many-files
many-files: build images ## Walk a home of 200,000 files with at most 20,000 open
	$(CARGO) test --package end-to-end --locked -- --ignored --nocapture many_files

.PHONY: many-commands
many-commands: build images ## Run 1,000 commands at once in one machine
	$(CARGO) test --package end-to-end --locked -- --ignored --nocapture thousand_commands

STRESS_SECONDS ?= 600
.PHONY: home-stress
home-stress: build kernel images ## Work on the shared home from both sides for STRESS_SECONDS (600)
	STRESS_SECONDS=$(STRESS_SECONDS) $(CARGO) test --package end-to-end --locked -- \
		--ignored --nocapture home_stress

ROUNDS ?= 1000
SEED ?=
.PHONY: faults
faults: build kernel images ## Kill processes and fill disks for ROUNDS (1,000; SEED repeats a run)
	ROUNDS=$(ROUNDS) $(if $(SEED),SEED=$(SEED)) $(CARGO) test --package end-to-end --locked -- \
		--ignored --nocapture faults

REVISION ?= HEAD~20
.PHONY: test-upgrade
test-upgrade: build kernel images ## Update the program from the build of REVISION, and back
	tests/previous $(REVISION)
	PREVIOUS=$(CURDIR)/target/previous/installation $(CARGO) test --package end-to-end --locked -- \
		--ignored --nocapture upgrade

.PHONY: soak
soak: build kernel images ## Use 20 machines, and one with 10,000 commands, and look for leaks
	$(CARGO) test --package end-to-end --locked -- --ignored --nocapture soak

KVM_TESTS ?= kvm::
.PHONY: test-kvm
test-kvm: build images ## Run tests on KVM, in a machine with nested virtualization
	$(CARGO) xtask images debian-kvm
	$(CARGO) test --package end-to-end --locked -- \
		--ignored --nocapture --test-threads 1 $(KVM_TESTS)

.PHONY: bench-writers
bench-writers: bench-others ## Compare ext4 writers on difficult archives (20 minutes, as root)
	@xtask/packages python3
	benches/others/writers

.PHONY: image-corpus
image-corpus: images ## Unpack difficult archives and the test images, and compare with umoci
	@xtask/packages umoci skopeo libarchive-tools python3
	$(CARGO) test --release --package container-image --lib --locked -- \
		unpack::tests::corpus --include-ignored --nocapture --test-threads 1

SECONDS ?= 60
.PHONY: fuzz
fuzz: packages ## Run every fuzz target for SECONDS (60)
	@xtask/packages g++
	CARGO=$(CARGO) fuzz/run $(SECONDS)

.PHONY: bench
bench: build images ## Measure the tables of docs/performance.md, side by side
	@xtask/packages skopeo umoci passt podman runc
	$(CARGO) bench --package container-benches

.PHONY: bench-others
bench-others: packages ## Build other projects' crates for `make bench`
	# The writer's entry point is compiled for fuzzing only.
	RUSTFLAGS="--cfg fuzzing" $(CARGO) build --release --locked --manifest-path benches/others/Cargo.toml

.PHONY: demo
demo: build ## Record the README's session again: docs/demo.cast, docs/demo.svg
	@xtask/packages asciinema termtosvg
	$(CARGO) xtask images debian-systemd
	$(CARGO) xtask demo

.PHONY: install
install: build ## Install below PREFIX (/usr/local)
	$(CARGO) xtask install $(PREFIX)

.PHONY: clean
clean: ## Remove all build results
	$(CARGO) clean
