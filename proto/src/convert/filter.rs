//! What routes make of requests and responses.

use weft_core::model;

use super::route::{all, method, parsed, parsed_all};
use super::{ConvertError, port_from_wire};
use crate::v1;

impl TryFrom<v1::Filters> for model::Filters {
    type Error = ConvertError;

    fn try_from(wire: v1::Filters) -> Result<Self, ConvertError> {
        Ok(Self {
            request: wire.request.unwrap_or_default().try_into()?,
            response: wire.response.unwrap_or_default().try_into()?,
            mirrors: all(wire.mirrors)?,
            redirect: wire.redirect.map(TryInto::try_into).transpose()?,
            rewrite: wire.rewrite.map(TryInto::try_into).transpose()?,
            cors: wire.cors.map(TryInto::try_into).transpose()?,
        })
    }
}

impl TryFrom<v1::FieldEdits> for model::FieldEdits {
    type Error = ConvertError;

    fn try_from(wire: v1::FieldEdits) -> Result<Self, ConvertError> {
        let field = |field: &v1::Field| {
            let name = parsed::<model::HeaderName>("fields.name", &field.name)?;
            Ok((name, parsed::<model::HeaderValue>("fields.value", &field.value)?))
        };
        Ok(Self {
            set: wire.set.iter().map(field).collect::<Result<_, ConvertError>>()?,
            add: wire.add.iter().map(field).collect::<Result<_, ConvertError>>()?,
            remove: parsed_all("fields.remove", &wire.remove)?,
        })
    }
}

impl TryFrom<v1::Mirror> for model::Mirror {
    type Error = ConvertError;

    fn try_from(wire: v1::Mirror) -> Result<Self, ConvertError> {
        let share = model::Share::new(wire.numerator, wire.denominator);
        Ok(Self {
            target: wire.target.ok_or(ConvertError::Missing("mirrors.target"))?.try_into()?,
            share: share.ok_or_else(|| ConvertError::Range("mirrors.numerator", wire.numerator.into()))?,
        })
    }
}

impl TryFrom<v1::Redirect> for model::Redirect {
    type Error = ConvertError;

    fn try_from(wire: v1::Redirect) -> Result<Self, ConvertError> {
        let scheme = match wire.scheme.as_str() {
            "" => None,
            "http" => Some(model::Scheme::Http),
            "https" => Some(model::Scheme::Https),
            other => return Err(ConvertError::Route("redirect.scheme", format!("{other:?} is none"))),
        };
        let status =
            model::RedirectStatus::ALL.into_iter().find(|status| u32::from(status.code()) == wire.status);
        Ok(Self {
            scheme,
            host: host(&wire.host)?,
            path: wire.path.map(TryInto::try_into).transpose()?,
            port: match wire.port {
                0 => None,
                port => Some(port_from_wire("redirect.port", port)?),
            },
            status: status.ok_or_else(|| ConvertError::Range("redirect.status", wire.status.into()))?,
        })
    }
}

impl TryFrom<v1::Rewrite> for model::Rewrite {
    type Error = ConvertError;

    fn try_from(wire: v1::Rewrite) -> Result<Self, ConvertError> {
        Ok(Self { host: host(&wire.host)?, path: wire.path.map(TryInto::try_into).transpose()? })
    }
}

impl TryFrom<v1::PathEdit> for model::PathEdit {
    type Error = ConvertError;

    fn try_from(wire: v1::PathEdit) -> Result<Self, ConvertError> {
        Ok(match wire.edit.ok_or(ConvertError::Missing("path.edit"))? {
            v1::path_edit::Edit::Full(path) => Self::Full(parsed("path.full", &path)?),
            v1::path_edit::Edit::Prefix(path) if path.is_empty() => Self::Prefix(None),
            v1::path_edit::Edit::Prefix(path) => Self::Prefix(Some(parsed("path.prefix", &path)?)),
        })
    }
}

impl TryFrom<v1::Cors> for model::Cors {
    type Error = ConvertError;

    fn try_from(wire: v1::Cors) -> Result<Self, ConvertError> {
        Ok(Self {
            origins: parsed_all("cors.origins", &wire.origins)?,
            credentials: wire.credentials,
            methods: listed(&wire.methods, method)?,
            headers: listed(&wire.headers, |name| parsed("cors.headers", name))?,
            expose: listed(&wire.expose, |name| parsed("cors.expose", name))?,
            max_age: wire.max_age,
        })
    }
}

fn listed<T>(
    wire: &[String],
    read: impl Fn(&str) -> Result<T, ConvertError>,
) -> Result<model::Listed<T>, ConvertError> {
    if let [star] = wire
        && star == "*"
    {
        return Ok(model::Listed::All);
    }
    wire.iter().map(|text| read(text)).collect::<Result<_, _>>().map(model::Listed::These)
}

fn host(text: &str) -> Result<Option<model::HostName>, ConvertError> {
    if text.is_empty() { Ok(None) } else { parsed("host", text).map(Some) }
}

impl From<&model::Filters> for v1::Filters {
    fn from(filters: &model::Filters) -> Self {
        let edits = |edits: &model::FieldEdits| (!edits.is_empty()).then(|| edits.into());
        Self {
            request: edits(&filters.request),
            response: edits(&filters.response),
            mirrors: filters.mirrors.iter().map(Into::into).collect(),
            redirect: filters.redirect.as_ref().map(Into::into),
            rewrite: filters.rewrite.as_ref().map(Into::into),
            cors: filters.cors.as_ref().map(Into::into),
        }
    }
}

impl From<&model::FieldEdits> for v1::FieldEdits {
    fn from(edits: &model::FieldEdits) -> Self {
        let field = |(name, value): &(model::HeaderName, model::HeaderValue)| v1::Field {
            name: name.as_str().to_owned(),
            value: value.as_str().to_owned(),
        };
        Self {
            set: edits.set.iter().map(field).collect(),
            add: edits.add.iter().map(field).collect(),
            remove: edits.remove.iter().map(|name| name.as_str().to_owned()).collect(),
        }
    }
}

impl From<&model::Mirror> for v1::Mirror {
    fn from(mirror: &model::Mirror) -> Self {
        Self {
            target: Some((&mirror.target).into()),
            numerator: mirror.share.numerator(),
            denominator: mirror.share.denominator(),
        }
    }
}

impl From<&model::Redirect> for v1::Redirect {
    fn from(redirect: &model::Redirect) -> Self {
        Self {
            scheme: redirect.scheme.map(|scheme| scheme.as_str().to_owned()).unwrap_or_default(),
            host: redirect.host.as_ref().map(|host| host.as_str().to_owned()).unwrap_or_default(),
            path: redirect.path.as_ref().map(Into::into),
            port: redirect.port.map(Into::into).unwrap_or_default(),
            status: redirect.status.code().into(),
        }
    }
}

impl From<&model::Rewrite> for v1::Rewrite {
    fn from(rewrite: &model::Rewrite) -> Self {
        Self {
            host: rewrite.host.as_ref().map(|host| host.as_str().to_owned()).unwrap_or_default(),
            path: rewrite.path.as_ref().map(Into::into),
        }
    }
}

impl From<&model::PathEdit> for v1::PathEdit {
    fn from(edit: &model::PathEdit) -> Self {
        let edit = match edit {
            model::PathEdit::Full(path) => v1::path_edit::Edit::Full(path.as_str().to_owned()),
            model::PathEdit::Prefix(path) => v1::path_edit::Edit::Prefix(
                path.as_ref().map(|path| path.as_str().to_owned()).unwrap_or_default(),
            ),
        };
        Self { edit: Some(edit) }
    }
}

impl From<&model::Cors> for v1::Cors {
    fn from(cors: &model::Cors) -> Self {
        fn listed<T>(list: &model::Listed<T>, name: impl Fn(&T) -> &str) -> Vec<String> {
            match list {
                model::Listed::All => vec!["*".to_owned()],
                model::Listed::These(these) => these.iter().map(|one| name(one).to_owned()).collect(),
            }
        }
        Self {
            origins: cors.origins.iter().map(ToString::to_string).collect(),
            credentials: cors.credentials,
            methods: listed(&cors.methods, |method| method.as_str()),
            headers: listed(&cors.headers, |name| name.as_str()),
            expose: listed(&cors.expose, |name| name.as_str()),
            max_age: cors.max_age,
        }
    }
}
