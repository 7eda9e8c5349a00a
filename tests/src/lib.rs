//! The frame of the end-to-end tests.
