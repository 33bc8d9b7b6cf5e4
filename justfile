# Short names for what developers type often. CI uses `cargo xtask` directly.

default:
    @just --list

# Three parties on this machine
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# Everything that CI checks
test:
    cargo xtask test

# Formatting, clippy, documentation, licences, architecture
lint:
    cargo xtask lint

# Figures of the data path
bench:
    cargo run --release --package quorate-node --example throughput
