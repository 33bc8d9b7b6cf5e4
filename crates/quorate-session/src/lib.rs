//! Who takes part, in which order: the session protocol quorate/1 as a pure state machine.
