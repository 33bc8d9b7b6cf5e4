//! Who signed what: DIDs, keys, signed statements and credentials of quorate.
