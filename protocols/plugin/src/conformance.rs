//! The conformance kit: what every code must pass, driven by the code's own tests.
