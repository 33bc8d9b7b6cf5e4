//! How to reach a peer: candidates, connectivity checks and the path in use, as a pure state machine.
