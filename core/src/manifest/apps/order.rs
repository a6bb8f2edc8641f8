//! `depends_on`: who waits for whom, and that nobody waits for ever.

use super::super::decode::Field;
use super::super::node::Value;
use super::super::suggest::nearest;
use super::{App, Condition, Dependency, Restart};

const CONDITIONS: [(&str, Condition); 3] = [
    ("service_started", Condition::Started),
    ("service_healthy", Condition::Healthy),
    ("service_completed_successfully", Condition::Completed),
];

/// Whom a service says it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    name: String,
    condition: Condition,
}

/// Reads a list of names, or a mapping of names with what is waited for.
pub(super) fn read(field: &Field<'_>) -> Vec<Wish> {
    if let Value::List(_) = field.node().value {
        let wish =
            |field: Field<'_>| Some(Wish { name: field.text()?.to_owned(), condition: Condition::Started });
        return field.list().unwrap_or_default().into_iter().filter_map(wish).collect();
    }
    let wish = |(name, field): (&str, Field<'_>)| {
        let condition = match &field.node().value {
            Value::Null => Some(Condition::Started),
            _ => field
                .object(&["condition"])?
                .field("condition")
                .map_or(Some(Condition::Started), |field| field.choice(&CONDITIONS)),
        };
        Some(Wish { name: name.to_owned(), condition: condition? })
    };
    field.entries().unwrap_or_default().into_iter().filter_map(wish).collect()
}

/// Finds those that are waited for, and tells what can never be.
pub(super) fn tie(apps: &mut [App], waits: &[(Field<'_>, Vec<Wish>)]) {
    let names: Vec<String> = apps.iter().map(|app| app.name.to_string()).collect();
    let mut found: Vec<Vec<Dependency>> = Vec::new();
    for (field, wishes) in waits {
        let place = field.at("depends_on").unwrap_or_else(|| field.clone());
        let mut dependencies = Vec::new();
        for wish in wishes {
            let Some(app) = names.iter().position(|name| *name == wish.name) else {
                let hint = nearest(&wish.name, names.iter().map(String::as_str));
                let hint = hint.map_or_else(
                    || format!("there are {}", names.join(", ")),
                    |near| format!("did you mean {near:?}?"),
                );
                place.mistake(format!("there is no service {:?}", wish.name), hint);
                continue;
            };
            if let Some((message, hint)) = apps.get(app).and_then(|app| never(app, wish.condition)) {
                place.mistake(message, hint);
            }
            dependencies.push(Dependency { app, condition: wish.condition });
        }
        found.push(dependencies);
    }
    if let Some(circle) = circle(&found)
        && let Some((field, _)) = circle.first().and_then(|first| waits.get(*first))
    {
        let place = field.at("depends_on").unwrap_or_else(|| field.clone());
        let path: Vec<&str> =
            circle.iter().filter_map(|index| names.get(*index)).map(String::as_str).collect();
        place.mistake(
            format!("each waits for the next: {}", path.join(" -> ")),
            "let one of them wait for none of the others",
        );
    }
    for (app, dependencies) in apps.iter_mut().zip(found) {
        app.depends_on = dependencies;
    }
}

/// Why a program never gets there.
fn never(app: &App, condition: Condition) -> Option<(String, &'static str)> {
    match condition {
        Condition::Healthy if app.health_check.is_none() => Some((
            format!("{} has no health check", app.name),
            "give it a healthcheck or a port, or wait for service_started",
        )),
        Condition::Completed if app.restart == Restart::Always => Some((
            format!("{} is always started again, so it never completes", app.name),
            "give it restart: no or on-failure",
        )),
        Condition::Started | Condition::Healthy | Condition::Completed => None,
    }
}

/// A circle of those that wait for each other, its first again at its end.
fn circle(waits: &[Vec<Dependency>]) -> Option<Vec<usize>> {
    // Who waits only for those that are done is done: what is left when nothing changes any more goes in circles.
    let mut done = vec![false; waits.len()];
    let is_done = |done: &[bool], index: usize| done.get(index).copied().unwrap_or(true);
    loop {
        let next = waits.iter().enumerate().position(|(index, dependencies)| {
            !is_done(&done, index) && dependencies.iter().all(|on| is_done(&done, on.app))
        });
        match next.and_then(|next| done.get_mut(next)) {
            Some(next) => *next = true,
            None => break,
        }
    }
    let mut path = vec![done.iter().position(|done| !done)?];
    loop {
        let last = *path.last()?;
        let next = waits.get(last)?.iter().find(|on| !is_done(&done, on.app))?.app;
        if let Some(begin) = path.iter().position(|before| *before == next) {
            path.push(next);
            return Some(path.split_off(begin));
        }
        path.push(next);
    }
}
