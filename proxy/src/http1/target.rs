//! A request's target in the forms of HTTP/1.1 (RFC 9112 section 3.2), taken apart. What its parts mean, and whether they
//! agree with `Host`, is for [`settle`](crate::http::target::settle) to say.

use http::Method;
use weft_core::path::MAX_TARGET;

use super::Malformed;

/// What a request is for, as it was written.
#[derive(Debug)]
pub(super) struct Target<'b> {
    written: &'b str,
    form: Form,
    /// Another host, and the port.
    named: Option<String>,
    /// Another path and query.
    settled: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    /// A path, or `*`.
    Origin,
    /// `http://host/path`: where the host begins and ends.
    Absolute(usize, usize),
    /// A host and a port, of `CONNECT` alone.
    Authority,
}

impl<'b> Target<'b> {
    /// Takes a target apart.
    pub(super) fn parse(method: &Method, written: &'b str) -> Result<Self, Malformed> {
        if written.len() > MAX_TARGET {
            return Err(Malformed::TooLarge);
        }
        if !written.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Malformed::Target);
        }
        let form = match written {
            _ if *method == Method::CONNECT => Form::Authority,
            _ if written.starts_with('/') || written == "*" => Form::Origin,
            _ => Self::absolute(written)?,
        };
        Ok(Self { written, form, named: None, settled: None })
    }

    fn absolute(written: &str) -> Result<Form, Malformed> {
        let (scheme, rest) = written.split_once("://").ok_or(Malformed::Target)?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(Malformed::Target);
        }
        let start = scheme.len() + "://".len();
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        Ok(Form::Absolute(start, start + end))
    }

    /// The host and port that it names; none where `Host` alone does.
    pub(super) fn authority(&self) -> Option<&str> {
        if self.named.is_some() {
            return self.named.as_deref();
        }
        match self.form {
            Form::Origin => None,
            Form::Absolute(start, end) => self.written.get(start..end),
            Form::Authority => Some(self.written),
        }
    }

    /// Its path and query, or `*`; none where it has neither.
    pub(super) fn path_and_query(&self) -> Option<&str> {
        if let Some(settled) = &self.settled {
            return str::from_utf8(settled).ok();
        }
        match self.form {
            Form::Origin => Some(self.written),
            // No path is the root (RFC 9112 section 3.2.1).
            Form::Absolute(_, end) => self.written.get(end..).filter(|path| !path.is_empty()).or(Some("/")),
            Form::Authority => None,
        }
    }

    /// Gives it another path and query.
    pub(super) fn settle(&mut self, path_and_query: &[u8]) {
        self.settled = Some(path_and_query.to_vec());
    }

    /// Has it name another host, where it names one.
    pub(super) fn rename(&mut self, host: &str) {
        self.named = match self.form {
            Form::Origin => None,
            Form::Absolute(..) => Some(host.to_owned()),
            // A tunnel leads to a port (RFC 9112 section 3.2.3).
            Form::Authority => self.written.rsplit_once(':').map(|(_, port)| format!("{host}:{port}")),
        };
    }

    /// Writes it for the next hop, in the form that it came in.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let (before, path) = match self.form {
            Form::Origin => ("", self.written),
            Form::Absolute(start, end) => {
                (self.written.get(..start).unwrap_or_default(), self.written.get(end..).unwrap_or_default())
            }
            Form::Authority => ("", ""),
        };
        out.extend_from_slice(before.as_bytes());
        out.extend_from_slice(self.authority().unwrap_or_default().as_bytes());
        out.extend_from_slice(self.settled.as_deref().unwrap_or(path.as_bytes()));
    }
}
