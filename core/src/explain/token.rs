//! What a request's token proves: to the caller's sidecar, where routes ask for claims, and to the server's.

use super::outbound::Head;
use super::question::{Question, TokenAsked};
use super::{Explanation, Step};
use crate::jwt::{Carried, Claims, Flaw, prove};
use crate::manifest::{Kind, ResourceKey};
use crate::model::{Presence, Service, TokenPolicy};
use crate::world::World;

/// What is known of a request's token.
pub(super) enum Token {
    /// Nothing.
    Unknown,
    /// There is none.
    None,
    /// It proves nothing.
    Flawed(Flaw),
    /// It proves this.
    Proved(Claims),
}

impl Token {
    fn read(question: &Question<'_>, policy: &TokenPolicy, head: &Head) -> Self {
        let TokenAsked::Shown(check) = question.token else { return Self::Unknown };
        let query = head.target.split_once('?').map(|(_, query)| query);
        let carried = Carried::find(&policy.providers, query, |name, see| {
            let values = head.headers.iter().filter(|(own, _)| own == name);
            values.for_each(|(_, value)| see(value.as_bytes()));
        });
        match carried.only() {
            Ok(None) => Self::None,
            Ok(Some((place, token))) => match prove(token, policy.at(place), question.now, check) {
                Ok(proved) => Self::Proved(proved.claims),
                Err(flaw) => Self::Flawed(flaw),
            },
            Err(flaw) => Self::Flawed(flaw),
        }
    }

    /// What it says.
    pub(super) fn claims(&self) -> Option<&Claims> {
        match self {
            Self::Proved(claims) => Some(claims),
            Self::Unknown | Self::None | Self::Flawed(_) => None,
        }
    }

    /// What the server's sidecar answers instead of asking policies, and why.
    pub(super) fn refused(&self, policy: &TokenPolicy) -> Option<(String, (u16, &'static str))> {
        let name = &policy.name;
        match (self, policy.presence) {
            (Self::Flawed(flaw @ Flaw::Several), _) => {
                Some((format!("JwtAuthentication {name}: {flaw}"), (400, "bad-request")))
            }
            (Self::Flawed(flaw), _) => {
                Some((format!("JwtAuthentication {name}: {flaw}"), (401, "unauthenticated")))
            }
            (Self::None, Presence::Required) => {
                Some((format!("JwtAuthentication {name} requires a token"), (401, "unauthenticated")))
            }
            (Self::None, Presence::Optional) | (Self::Unknown | Self::Proved(_), _) => None,
        }
    }
}

impl Explanation {
    /// What the caller's sidecar makes of a request's token; none where no route of the service asks for claims.
    pub(super) fn token_of_caller(
        &mut self,
        world: &World,
        question: &Question<'_>,
        service: &Service,
        head: &Head,
    ) -> Option<Token> {
        let policy = service.tokens.as_ref()?;
        let token = Token::read(question, policy, head);
        let text = match &token {
            Token::Unknown => "routes ask for claims, which are not known of calls that were made".to_owned(),
            Token::None => "routes ask for claims, and without a token there are none".to_owned(),
            Token::Flawed(flaw) => format!("routes ask for claims, and there are none: {flaw}"),
            Token::Proved(_) => "routes ask for claims, and the token is proved".to_owned(),
        };
        self.by_token(world, policy, text);
        Some(token)
    }

    /// What the server's sidecar makes of it.
    pub(super) fn token_of_server(
        &mut self,
        world: &World,
        question: &Question<'_>,
        policy: &TokenPolicy,
        head: &Head,
    ) -> Token {
        let token = Token::read(question, policy, head);
        let text = match &token {
            Token::Unknown => "it looks at tokens, which are not known of calls that were made".to_owned(),
            Token::None => "there is no token".to_owned(),
            Token::Flawed(flaw) => flaw.to_string(),
            Token::Proved(_) => "the token is proved".to_owned(),
        };
        self.by_token(world, policy, text);
        token
    }

    fn by_token(&mut self, world: &World, policy: &TokenPolicy, text: String) {
        let (namespace, name) = (Some(policy.name.namespace.clone()), policy.name.name.clone());
        let source = world.resource(&ResourceKey { kind: Kind::JwtAuthentication, namespace, name });
        let source = source.map(|own| format!("{} ({})", own.key(), own.place(""))).unwrap_or_default();
        let step = Step { stage: "tokens", text, source };
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
    }
}
