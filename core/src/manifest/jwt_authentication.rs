//! `weft.mesh/v1alpha1 JwtAuthentication`.

use std::time::Duration;

use super::decode::{Field, Object};
use super::document::Places;
use super::target::{self, TargetKind};
use crate::jwt::read_key_set;
use crate::model::{
    ClaimName, Forwarding, KeySource, Name, PolicyTarget, Presence, TokenKey, TokenPlace, TokenProvider,
    is_token,
};

const TARGETS: [TargetKind; 4] =
    [TargetKind::Service, TargetKind::Workload, TargetKind::Namespace, TargetKind::Mesh];

/// Members of a list.
const MOST: usize = 16;

/// By how much clocks may differ.
const SKEW: Duration = Duration::from_mins(1);
const MOST_SKEW: Duration = Duration::from_mins(10);

const FORWARD: [(&str, Forwarding); 2] = [("Keep", Forwarding::Keep), ("Strip", Forwarding::Strip)];

/// Headers that are not for claims: what frames a message or says for whom it is, and what the mesh itself says.
const NOT_FOR_CLAIMS: [&str; 17] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-request-id",
];

/// What a `JwtAuthentication` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtAuthenticationSpec {
    /// Whose callers it is about.
    pub target: PolicyTarget,
    /// Whether a request may come without a token.
    pub presence: Presence,
    /// Whose tokens are taken. Their keys are those that stand in the document.
    pub providers: Vec<(TokenProvider, Option<KeySource>)>,
}

pub(super) fn read(
    spec: &Field<'_>,
    namespace: Option<&Name>,
    places: &mut Places,
) -> Option<JwtAuthenticationSpec> {
    let object = spec.object(&["targetRef", "required", "providers"])?;
    let target = target::read(&object, namespace, &TARGETS, places);
    let required = object.field("required").map(|field| field.bool());
    let presence = match required {
        Some(Some(false)) => Presence::Optional,
        Some(None) => return None,
        None | Some(Some(true)) => Presence::Required,
    };
    let hint = "write providers: [{issuer: https://id.example.com, audiences: [web]}]";
    let field = object.required("providers", hint)?;
    let members = some(&field)?;
    let mut providers: Vec<(TokenProvider, Option<KeySource>)> = Vec::new();
    for member in &members {
        let Some(read) = provider(member) else { continue };
        if providers.iter().any(|(other, _)| other.issuer == read.0.issuer) {
            member.mistake(format!("{:?} is there twice", read.0.issuer), "name each issuer once");
        }
        providers.push(read);
    }
    Some(JwtAuthenticationSpec { target: target?, presence, providers })
}

fn provider(field: &Field<'_>) -> Option<(TokenProvider, Option<KeySource>)> {
    const FIELDS: [&str; 8] =
        ["issuer", "audiences", "jwks", "fromHeaders", "fromParams", "forward", "claimHeaders", "clockSkew"];
    let object = field.object(&FIELDS)?;
    let issuer_field = object.required("issuer", "write what tokens have as their iss, letter by letter");
    let issuer = issuer_field.as_ref().and_then(|field| field.text());
    let audiences = object.required("audiences", "write whom tokens must be meant for: audiences: [web]");
    let audiences = audiences.and_then(|field| some(&field));
    let audiences = audiences.map(|list| list.iter().filter_map(|member| text(member)).collect::<Vec<_>>());
    let (keys, source) = keys(&object, issuer_field.as_ref())?;
    let forwarding = object.field("forward").and_then(|field| field.choice(&FORWARD)).unwrap_or_default();
    let claim_headers = object.field("claimHeaders").and_then(|field| some(&field)).unwrap_or_default();
    let claim_headers = claim_headers.iter().filter_map(claim_header).collect();
    let skew = match object.field("clockSkew") {
        None => SKEW,
        Some(field) => skew(&field)?,
    };
    let provider = TokenProvider {
        issuer: issuer?.to_owned(),
        audiences: audiences?,
        keys,
        places: token_places(&object),
        forwarding,
        claim_headers,
        skew,
    };
    Some((provider, source))
}

/// Where the keys come from: they stand in the document, or at an address, or where the issuer's discovery says.
fn keys(object: &Object<'_>, issuer: Option<&Field<'_>>) -> Option<(Vec<TokenKey>, Option<KeySource>)> {
    let jwks = match object.field("jwks") {
        None => None,
        Some(field) => Some((field.object(&["inline", "uri", "ca"])?, field)),
    };
    let part = |name: &str| jwks.as_ref().and_then(|(jwks, _)| jwks.field(name));
    let authorities = match part("ca") {
        None => String::new(),
        Some(field) => authorities(&field)?,
    };
    match (part("inline"), part("uri")) {
        (Some(_), Some(field)) => {
            field.mistake("the keys stand in the document already", "write inline or uri");
            None
        }
        (Some(field), None) => match read_key_set(field.text()?.as_bytes()) {
            Ok(keys) => Some((keys, None)),
            Err(error) => {
                field.mistake(error, "write a set of public keys: '{\"keys\": [..]}'");
                None
            }
        },
        (None, Some(field)) => Some((Vec::new(), Some(KeySource::At { uri: https(&field)?, authorities }))),
        (None, None) => {
            if let Some((_, field)) = jwks.as_ref().filter(|_| authorities.is_empty()) {
                field.mistake("it says nothing", "write uri or inline, or leave it out to ask the issuer");
            }
            Some((Vec::new(), Some(KeySource::Discovered { issuer: https(issuer?)?, authorities })))
        }
    }
}

/// An address that keys may come from: whoever could answer in its place could sign tokens.
fn https(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let rest = text.strip_prefix("https://").unwrap_or_default();
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let is_plain = !authority.is_empty() && !authority.contains('@') && !authority.starts_with(':');
    if is_plain && text.len() <= 2048 && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#' && b != b'\\')
    {
        return Some(text.to_owned());
    }
    field.mistake(
        format!("{text:?} is no address that keys are fetched from"),
        "write https://HOST/PATH, or the keys themselves as jwks: {inline: ..}",
    );
    None
}

fn authorities(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let looks_right =
        text.contains("-----BEGIN CERTIFICATE-----") && text.contains("-----END CERTIFICATE-----");
    if !looks_right || text.len() > 64 * 1024 {
        field.mistake("is no certificate in PEM", "write -----BEGIN CERTIFICATE----- and so on");
        return None;
    }
    Some(text.to_owned())
}

fn token_places(object: &Object<'_>) -> Vec<TokenPlace> {
    let list = |name: &str| object.field(name).and_then(|field| some(&field)).unwrap_or_default();
    let mut places: Vec<TokenPlace> = list("fromHeaders").iter().filter_map(header_place).collect();
    places.extend(list("fromParams").iter().filter_map(parameter_place));
    if object.field("fromHeaders").is_none() && object.field("fromParams").is_none() {
        places.push(TokenPlace::Header { name: "authorization".to_owned(), prefix: "Bearer ".to_owned() });
    }
    places
}

fn header_place(field: &Field<'_>) -> Option<TokenPlace> {
    let object = field.object(&["name", "prefix"])?;
    let name_field = object.required("name", "write the header's name")?;
    let name = name_field.text()?;
    if !is_token(name) {
        name_field.mistake(format!("{name:?} is no header's name"), "write letters, digits and '-'");
        return None;
    }
    let prefix = match object.field("prefix") {
        None => "",
        Some(field) => field.text()?,
    };
    Some(TokenPlace::Header { name: name.to_ascii_lowercase(), prefix: prefix.to_owned() })
}

fn parameter_place(field: &Field<'_>) -> Option<TokenPlace> {
    let name = field.text()?;
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)) {
        field.mistake(format!("{name:?} is no parameter's name"), "write letters, digits, '-', '_' and '.'");
        return None;
    }
    Some(TokenPlace::Parameter(name.to_owned()))
}

fn claim_header(field: &Field<'_>) -> Option<(ClaimName, String)> {
    let object = field.object(&["claim", "header"])?;
    let claim =
        object.required("claim", "write the claim's name").and_then(|field| field.parse("write a name"));
    let header_field = object.required("header", "write the header that the app reads it from")?;
    let header = header_field.text()?.to_ascii_lowercase();
    if !is_token(&header) || header.starts_with("weft-") || NOT_FOR_CLAIMS.contains(&header.as_str()) {
        let message = format!("{header:?} is no header that a claim may be in");
        header_field.mistake(message, "write a name of your own, such as x-user");
        return None;
    }
    Some((claim?, header))
}

fn skew(field: &Field<'_>) -> Option<Duration> {
    if field.spelling().is_some_and(|text| text == "0s") {
        return Some(Duration::ZERO);
    }
    let skew = field.duration()?;
    if skew > MOST_SKEW {
        field.mistake("is longer than ten minutes", "write at most 10m");
        return None;
    }
    Some(skew)
}

fn text(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if text.is_empty() {
        field.mistake("it says nothing", "leave it out, or write what is meant");
    }
    Some(text.to_owned())
}

/// The members of a list that has from one to a few.
fn some<'a>(field: &Field<'a>) -> Option<Vec<Field<'a>>> {
    let mut members = field.list()?;
    if members.is_empty() || members.len() > MOST {
        let message = format!("{} members, where from 1 to {MOST} are expected", members.len());
        field.mistake(message, "leave it out, or write what is meant");
    }
    members.truncate(MOST);
    Some(members)
}
