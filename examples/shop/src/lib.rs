//! Four small services that the demo runs.
