//! Rules as nftables expressions, and back.

use netlink_packet_core::{DefaultNla, Nla as _, parse_u32_be};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta,
    MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};

use super::ruleset::{Action, ControlGroup, Family, Match, Rule, Transport};
use crate::pod::KEPT_SOURCE_MARK;

/// One element of a rule's expression list.
pub(super) type Expression = ListAttribute<ExpressionAttribute>;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// `NFTA_REDIR_REG_PROTO_MIN`: the register with the port to redirect to.
const REDIR_PORT: u16 = 1;

/// `NFTA_TPROXY_FAMILY` and `NFTA_TPROXY_REG_PORT`: which packets (`NFPROTO_UNSPEC`, of any), and the register with the port.
const TPROXY_FAMILY: u16 = 1;
const TPROXY_PORT: u16 = 3;
const ANY: u32 = 0;

/// A part of a packet that is loaded into a register, to be compared or looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    /// `NFT_PAYLOAD_NETWORK_HEADER` or `NFT_PAYLOAD_TRANSPORT_HEADER`.
    base: u32,
    offset: u32,
    len: u32,
}

const DESTINATION_PORT: Field = Field { base: 2, offset: 2, len: 2 };
const TCP_FLAGS: Field = Field { base: 2, offset: 13, len: 1 };
const DESTINATION_V4: Field = Field { base: 1, offset: 16, len: 4 };
const DESTINATION_V6: Field = Field { base: 1, offset: 24, len: 16 };

/// Of TCP's flags those that tell what opens a connection (FIN, SYN, RST and ACK), and what they are then (RFC 9293 section
/// 3.1).
const OPENING: u8 = 0x17;
const SYN: u8 = 0x02;
/// `NFTA_CT_DREG`, `NFTA_CT_KEY` and `NFTA_CT_SREG`.
const CT_INTO: u16 = 1;
const CT_KEY: u16 = 2;
const CT_FROM: u16 = 4;
/// `NFT_CT_MARK`.
const CT_MARK: u32 = 3;

/// `NFTA_SOCKET_KEY`, `NFTA_SOCKET_DREG` and `NFTA_SOCKET_LEVEL`.
const SOCKET_KEY: u16 = 1;
const SOCKET_INTO: u16 = 2;
const SOCKET_LEVEL: u16 = 3;
/// `NFT_SOCKET_CGROUPV2`.
const SOCKET_GROUP: u32 = 3;

/// The kernel's form of a rule.
pub(super) fn encode(rule: &Rule) -> Vec<Expression> {
    let mut expressions = Vec::new();
    for found in &rule.matches {
        match found {
            Match::User(id) => expressions.extend(meta_is(MetaKey::SocketUserId, &id.to_ne_bytes())),
            Match::Mark(mark) => expressions.extend(meta_is(MetaKey::Mark, &mark.to_ne_bytes())),
            Match::Input(index) => expressions.extend(meta_is(MetaKey::Iif, &index.to_ne_bytes())),
            Match::Output(index) => expressions.extend(meta_is(MetaKey::Oif, &index.to_ne_bytes())),
            Match::Protocol(Transport::Tcp) => expressions.extend(meta_is(MetaKey::L4Proto, &[TCP])),
            Match::Protocol(Transport::Udp) => expressions.extend(meta_is(MetaKey::L4Proto, &[UDP])),
            Match::Port(port) => expressions.extend([load(DESTINATION_PORT), is(&port.to_be_bytes())]),
            Match::PortIn(set) => expressions.extend([load(DESTINATION_PORT), is_in(set)]),
            Match::AddressIn(Family::V4, set) => {
                expressions.extend(meta_is(MetaKey::Nfproto, &[IPV4]));
                expressions.extend([load(DESTINATION_V4), is_in(set)]);
            }
            Match::AddressIn(Family::V6, set) => {
                expressions.extend(meta_is(MetaKey::Nfproto, &[IPV6]));
                expressions.extend([load(DESTINATION_V6), is_in(set)]);
            }
            Match::Continues => expressions.extend([load(TCP_FLAGS), mask(OPENING), is_not(&[SYN])]),
            Match::ConnectionMark(mark) => {
                expressions.extend([connection_mark(CT_INTO), is(&mark.to_ne_bytes())])
            }
            Match::Group(group) => {
                expressions.extend([socket_group(group.level), is(&group.id.to_ne_bytes())])
            }
            Match::Foreign(_) => {}
        }
    }
    match rule.action {
        Action::Return => {
            let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Return)]);
            expressions.push(set_register(Register::Verdict, verdict));
        }
        Action::Redirect(port) => {
            expressions.extend([set_port(port), redirect(Register::Reg1)]);
        }
        Action::MarkConnection(mark) => expressions.extend([set_mark(mark), connection_mark(CT_FROM)]),
        Action::MarkPacket(mark) => expressions.extend([set_mark(mark), packet_mark()]),
        Action::Divert(port) => {
            expressions.extend([set_mark(KEPT_SOURCE_MARK), packet_mark()]);
            expressions.extend([set_port(port), divert(Register::Reg1)]);
        }
        Action::Foreign => {}
    }
    expressions
}

fn meta_is(key: MetaKey, value: &[u8]) -> [Expression; 2] {
    let meta = Expressions::Meta(vec![Meta::DestinationRegister(Register::Reg1), Meta::Key(key)]);
    [meta.into(), is(value)]
}

fn load(field: Field) -> Expression {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(field.base),
        Payload::Offset(field.offset),
        Payload::Len(field.len),
    ])
    .into()
}

fn is(value: &[u8]) -> Expression {
    compare(Operator::Equal, value)
}

fn is_not(value: &[u8]) -> Expression {
    compare(Operator::NotEqual, value)
}

fn compare(operator: Operator, value: &[u8]) -> Expression {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value.to_vec())),
    ])
    .into()
}

/// Leaves these bits of what was loaded.
fn mask(bits: u8) -> Expression {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(1),
        Bitwise::Mask(DataAttribute::Value(vec![bits])),
        Bitwise::Xor(DataAttribute::Value(vec![0])),
    ])
    .into()
}

fn set_mark(mark: u32) -> Expression {
    set_register(Register::Reg1, DataAttribute::Value(mark.to_ne_bytes().to_vec()))
}

fn set_port(port: u16) -> Expression {
    set_register(Register::Reg1, DataAttribute::Value(port.to_be_bytes().to_vec()))
}

/// Gives the packet the mark that is in the register.
fn packet_mark() -> Expression {
    Expressions::Meta(vec![Meta::Key(MetaKey::Mark), Meta::SourceRegister(Register::Reg1)]).into()
}

/// `ct` about the mark, which the netlink crate has no form of its own for: into a register or from it.
fn connection_mark(way: u16) -> Expression {
    let attributes = vec![
        DefaultNla::new(CT_KEY, CT_MARK.to_be_bytes().to_vec()),
        DefaultNla::new(way, u32::from(Register::Reg1).to_be_bytes().to_vec()),
    ];
    Expressions::Other { expression_type: "ct".to_owned(), attributes }.into()
}

/// `socket cgroupv2`: which group of this level the packet's process is in.
fn socket_group(level: u32) -> Expression {
    let attributes =
        [(SOCKET_KEY, SOCKET_GROUP), (SOCKET_INTO, u32::from(Register::Reg1)), (SOCKET_LEVEL, level)]
            .map(|(kind, value)| DefaultNla::new(kind, value.to_be_bytes().to_vec()));
    Expressions::Other { expression_type: "socket".to_owned(), attributes: attributes.into() }.into()
}

fn is_in(set: &str) -> Expression {
    Expressions::Lookup(vec![Lookup::Set(set.to_owned()), Lookup::SourceRegister(Register::Reg1)]).into()
}

fn set_register(register: Register, data: DataAttribute) -> Expression {
    Expressions::Immediate(vec![Immediate::DestinationRegister(register), Immediate::Data(data)]).into()
}

/// `redir`, which the netlink crate has no form of its own for.
fn redirect(port: Register) -> Expression {
    let attributes = vec![DefaultNla::new(REDIR_PORT, u32::from(port).to_be_bytes().to_vec())];
    Expressions::Other { expression_type: "redir".to_owned(), attributes }.into()
}

/// `tproxy`, likewise.
fn divert(port: Register) -> Expression {
    let attributes = vec![
        DefaultNla::new(TPROXY_FAMILY, ANY.to_be_bytes().to_vec()),
        DefaultNla::new(TPROXY_PORT, u32::from(port).to_be_bytes().to_vec()),
    ];
    Expressions::Other { expression_type: "tproxy".to_owned(), attributes }.into()
}

/// What a register holds while a rule is read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Loaded {
    Nothing,
    Meta(MetaKey),
    Field(Field),
    /// Of TCP's flags those that tell what opens a connection.
    OpeningFlags,
    ConnectionMark,
    /// The control group of this level.
    Group(u32),
    Value(Vec<u8>),
}

/// Reads a rule back. What we never ask for is kept as foreign, so that it differs from anything we asked for.
pub(super) fn decode(expressions: &[Expression]) -> Rule {
    let mut rule = Rule { matches: Vec::new(), action: Action::Foreign };
    let mut loaded = Loaded::Nothing;
    // The family that the packet was found to have: it goes with the address that follows.
    let mut family = None;
    for expression in expressions.iter().filter_map(data) {
        match expression {
            Expressions::Meta(meta) if meta.contains(&Meta::SourceRegister(Register::Reg1)) => {
                rule.action = match (meta_key(meta), mark(&loaded)) {
                    (Some(MetaKey::Mark), Some(mark)) => Action::MarkPacket(mark),
                    _ => Action::Foreign,
                };
            }
            Expressions::Meta(meta) => loaded = meta_key(meta).map_or(Loaded::Nothing, Loaded::Meta),
            Expressions::Bitwise(bitwise) => loaded = masked(&loaded, bitwise),
            Expressions::Payload(payload) => loaded = Loaded::Field(field(payload)),
            Expressions::Immediate(immediate) => match value(immediate) {
                Some(bytes) => loaded = Loaded::Value(bytes.to_vec()),
                None if returns(immediate) => rule.action = Action::Return,
                None => {}
            },
            Expressions::Cmp(cmp) if loaded == Loaded::OpeningFlags && differs(cmp) == Some(&[SYN]) => {
                rule.matches.push(Match::Continues);
            }
            Expressions::Cmp(cmp) => match (equals(cmp), &loaded) {
                (Some([IPV4]), Loaded::Meta(MetaKey::Nfproto)) => family = Some(Family::V4),
                (Some([IPV6]), Loaded::Meta(MetaKey::Nfproto)) => family = Some(Family::V6),
                (bytes, _) => rule.matches.push(compared(&loaded, bytes)),
            },
            Expressions::Lookup(lookup) => rule.matches.push(looked_up(&loaded, lookup, family)),
            Expressions::Other { expression_type, attributes } if expression_type == "redir" => {
                rule.action =
                    port_from(attributes, REDIR_PORT, &loaded).map_or(Action::Foreign, Action::Redirect);
            }
            Expressions::Other { expression_type, attributes } if expression_type == "tproxy" => {
                rule.action = match (&rule.action, port_from(attributes, TPROXY_PORT, &loaded)) {
                    (Action::MarkPacket(KEPT_SOURCE_MARK), Some(port)) => Action::Divert(port),
                    _ => Action::Foreign,
                };
            }
            Expressions::Other { expression_type, attributes } if is_of_mark(expression_type, attributes) => {
                match (about(attributes, CT_FROM), mark(&loaded)) {
                    (Some(_), Some(mark)) => rule.action = Action::MarkConnection(mark),
                    (Some(_), None) => rule.action = Action::Foreign,
                    (None, _) => loaded = Loaded::ConnectionMark,
                }
            }
            Expressions::Other { expression_type, attributes }
                if expression_type == "socket" && about(attributes, SOCKET_KEY) == Some(SOCKET_GROUP) =>
            {
                loaded = about(attributes, SOCKET_LEVEL).map_or(Loaded::Nothing, Loaded::Group);
            }
            Expressions::Other { expression_type, .. } => {
                rule.matches.push(Match::Foreign(expression_type.clone()))
            }
            other => rule.matches.push(Match::Foreign(format!("{other:?}"))),
        }
    }
    rule
}

fn data(expression: &Expression) -> Option<&Expressions> {
    let ListAttribute::Element(attributes) = expression else { return None };
    attributes.iter().find_map(|attribute| match attribute {
        ExpressionAttribute::Data(data) => Some(data),
        _ => None,
    })
}

fn meta_key(meta: &[Meta]) -> Option<MetaKey> {
    meta.iter().find_map(|attribute| match attribute {
        Meta::Key(key) => Some(*key),
        _ => None,
    })
}

fn field(payload: &[Payload]) -> Field {
    let mut field = Field { base: 0, offset: 0, len: 0 };
    for attribute in payload {
        match attribute {
            Payload::Base(base) => field.base = *base,
            Payload::Offset(offset) => field.offset = *offset,
            Payload::Len(len) => field.len = *len,
            _ => {}
        }
    }
    field
}

fn value(immediate: &[Immediate]) -> Option<&[u8]> {
    immediate.iter().find_map(|attribute| match attribute {
        Immediate::Data(DataAttribute::Value(bytes)) => Some(bytes.as_slice()),
        _ => None,
    })
}

fn returns(immediate: &[Immediate]) -> bool {
    immediate.iter().any(|attribute| match attribute {
        Immediate::Data(DataAttribute::Verdict(verdict)) => {
            verdict.contains(&VerdictAttribute::Code(Verdict::Return))
        }
        _ => false,
    })
}

fn masked(loaded: &Loaded, bitwise: &[Bitwise]) -> Loaded {
    let (mask, xor) = (DataAttribute::Value(vec![OPENING]), DataAttribute::Value(vec![0]));
    let is_ours = bitwise.contains(&Bitwise::Mask(mask)) && bitwise.contains(&Bitwise::Xor(xor));
    if is_ours && *loaded == Loaded::Field(TCP_FLAGS) { Loaded::OpeningFlags } else { Loaded::Nothing }
}

/// What a register holds that a mark is set from.
fn mark(loaded: &Loaded) -> Option<u32> {
    match loaded {
        Loaded::Value(bytes) => bytes.as_slice().try_into().ok().map(u32::from_ne_bytes),
        _ => None,
    }
}

fn is_of_mark(expression_type: &str, attributes: &[DefaultNla]) -> bool {
    expression_type == "ct" && about(attributes, CT_KEY) == Some(CT_MARK)
}

fn about(attributes: &[DefaultNla], kind: u16) -> Option<u32> {
    attributes.iter().find(|attribute| attribute.kind() == kind).and_then(number)
}

/// What a comparison for equality compares with.
fn equals(cmp: &[Cmp]) -> Option<&[u8]> {
    compares(cmp, Operator::Equal)
}

/// What a comparison for difference compares with.
fn differs(cmp: &[Cmp]) -> Option<&[u8]> {
    compares(cmp, Operator::NotEqual)
}

fn compares(cmp: &[Cmp], operator: Operator) -> Option<&[u8]> {
    if !cmp.contains(&Cmp::Op(operator)) {
        return None;
    }
    cmp.iter().find_map(|attribute| match attribute {
        Cmp::Data(DataAttribute::Value(bytes)) => Some(bytes.as_slice()),
        _ => None,
    })
}

fn compared(loaded: &Loaded, bytes: Option<&[u8]>) -> Match {
    let number = bytes.and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    let port = bytes.and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes);
    let id = bytes.and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    if let (Loaded::Group(level), Some(id)) = (loaded, id) {
        return Match::Group(ControlGroup { level: *level, id });
    }
    match (loaded, bytes, number, port) {
        (Loaded::Meta(MetaKey::SocketUserId), _, Some(id), _) => Match::User(id),
        (Loaded::Meta(MetaKey::Mark), _, Some(mark), _) => Match::Mark(mark),
        (Loaded::Meta(MetaKey::Iif), _, Some(index), _) => Match::Input(index),
        (Loaded::Meta(MetaKey::Oif), _, Some(index), _) => Match::Output(index),
        (Loaded::Meta(MetaKey::L4Proto), Some([TCP]), ..) => Match::Protocol(Transport::Tcp),
        (Loaded::Meta(MetaKey::L4Proto), Some([UDP]), ..) => Match::Protocol(Transport::Udp),
        (Loaded::Field(DESTINATION_PORT), _, _, Some(port)) => Match::Port(port),
        (Loaded::ConnectionMark, _, Some(mark), _) => Match::ConnectionMark(mark),
        _ => Match::Foreign(format!("{loaded:?} compared with {bytes:?}")),
    }
}

fn looked_up(loaded: &Loaded, lookup: &[Lookup], family: Option<Family>) -> Match {
    let set = lookup.iter().find_map(|attribute| match attribute {
        Lookup::Set(set) => Some(set.clone()),
        _ => None,
    });
    let inverted = lookup.iter().any(|attribute| matches!(attribute, Lookup::Flags(1..)));
    match (loaded, set, family) {
        (Loaded::Field(DESTINATION_PORT), Some(set), _) if !inverted => Match::PortIn(set),
        (Loaded::Field(DESTINATION_V4), Some(set), Some(Family::V4)) if !inverted => {
            Match::AddressIn(Family::V4, set)
        }
        (Loaded::Field(DESTINATION_V6), Some(set), Some(Family::V6)) if !inverted => {
            Match::AddressIn(Family::V6, set)
        }
        (_, set, _) => Match::Foreign(format!("{loaded:?} looked up in {set:?}")),
    }
}

/// The port that such an expression takes from a register.
fn port_from(attributes: &[DefaultNla], kind: u16, loaded: &Loaded) -> Option<u16> {
    match loaded {
        Loaded::Value(bytes) if about(attributes, kind) == Some(u32::from(Register::Reg1)) => {
            bytes.as_slice().try_into().ok().map(u16::from_be_bytes)
        }
        _ => None,
    }
}

fn number(attribute: &DefaultNla) -> Option<u32> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    parse_u32_be(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intercept::{Rules, Source};

    #[test]
    fn every_rule_reads_back_as_it_was_asked_for() {
        let rules = Rules { proxy_mark: Some(0x5745), source: Source::Caller, ..Rules::default() }.ruleset();
        let mut read = 0;
        for rule in rules.chains.iter().flat_map(|chain| &chain.rules) {
            assert_eq!(&decode(&encode(rule)), rule);
            read += 1;
        }
        assert!(read > 10);
        let group = ControlGroup { level: 2, id: 4711 };
        let of_group = Rule { matches: vec![Match::Group(group)], action: Action::Redirect(4140) };
        assert_eq!(decode(&encode(&of_group)), of_group);
        assert_eq!(of_group.to_string(), "socket cgroupv2 level 2 4711 redirect to :4140");
        let divert = Rule { matches: vec![Match::Protocol(Transport::Udp)], action: Action::Divert(4000) };
        assert_eq!(decode(&encode(&divert)), divert);
        assert_eq!(divert.to_string(), "meta l4proto udp meta mark set 0x574b tproxy to :4000");
    }

    #[test]
    fn a_rule_that_we_never_ask_for_is_foreign() {
        let counter = Expressions::Other { expression_type: "counter".to_owned(), attributes: Vec::new() };
        let rule = decode(&[counter.into()]);
        assert_eq!(rule.to_string(), "?counter ?");
        let negated =
            Expressions::Cmp(vec![Cmp::Op(Operator::NotEqual), Cmp::Data(DataAttribute::Value(vec![TCP]))]);
        assert!(matches!(decode(&[negated.into()]).matches.as_slice(), [Match::Foreign(_)]));
    }
}
