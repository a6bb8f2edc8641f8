//! What a request's record will say of it, and of the try that is under way: each of the app's is a span of its own.

use std::cell::Cell;
use std::time::{Instant, SystemTime};

use http::Method;
use weft_core::trace::SpanId;

use super::head::Head;
use crate::observe::{Note, Requested};

/// What was asked of whom, and when.
#[derive(Debug)]
pub(super) struct Target {
    started: SystemTime,
    method: Method,
    authority: Box<str>,
    path: Box<str>,
    /// What else its span says.
    pub(super) notes: Vec<Note>,
    /// The try that is under way.
    pub(super) current: Cell<Try>,
}

/// One of a request's tries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Try {
    pub(super) span: SpanId,
    /// The span of the one before, which the head may still name.
    pub(super) before: SpanId,
    pub(super) started: SystemTime,
    pub(super) begun: Instant,
    /// What it was answered, where that was in vain.
    pub(super) answer: Option<(u16, Option<u8>)>,
}

impl Target {
    /// Of a request whose head was just read, and whose first try is under `span`.
    pub(super) fn of(head: &impl Head, span: SpanId) -> Self {
        let current = Try::first(span);
        Self {
            started: current.started,
            method: head.method().clone(),
            authority: head.authority().into(),
            path: head.path().into(),
            notes: Vec::new(),
            current: Cell::new(current),
        }
    }

    /// The same as it is told.
    pub(super) fn requested(&self) -> Requested<'_> {
        let Self { started, method, authority, path, notes, .. } = self;
        Requested { started: *started, method, authority, path, notes }
    }
}

impl Try {
    /// The first one, which begins now.
    pub(super) fn first(span: SpanId) -> Self {
        Self { span, before: span, started: SystemTime::now(), begun: Instant::now(), answer: None }
    }

    /// The one after it, which begins now.
    pub(super) fn next(&self) -> Self {
        Self { before: self.span, ..Self::first(self.span.next()) }
    }
}
