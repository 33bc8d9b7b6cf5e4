//! A deterministic world for the cores of quorate: one clock, one seed, a hostile network.
