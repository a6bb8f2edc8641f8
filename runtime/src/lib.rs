//! What every Weft process needs once: tasks, drain, signals, logs, metrics.
