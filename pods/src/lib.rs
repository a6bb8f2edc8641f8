//! Pods on one Linux machine: namespaces, links and interception.
