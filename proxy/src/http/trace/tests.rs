//! What the W3C's own harness asks of an implementation, under its names, and what becomes of the other formats.

mod several;

use proptest::prelude::*;

use super::*;

const TRACE: &str = "12345678901234567890123456789012";
const PARENT: &str = "00-12345678901234567890123456789012-1234567890123456-01";

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// What is sent on: whether the trace is continued, and the tracestate's headers.
fn sent(fields: &[(&str, &str)]) -> (bool, Option<Vec<String>>) {
    let mut headers = map(fields);
    let span = trace(
        &mut headers,
        &mut fastrand::Rng::with_seed(7),
        Some(&Tracing::default()),
        &OwnTracing::default(),
    );
    let values: Vec<_> = headers.get_all(&TRACEPARENT).iter().collect();
    let [written] = values[..] else { panic!("{values:?}") };
    assert_eq!(w3c::parse(written.as_bytes()), Some(span.own));
    assert!(written.to_str().unwrap().starts_with("00-"));
    if let Some(parent) = span.parent {
        assert_ne!(span.own.span, parent);
    }
    let state: Vec<_> =
        headers.get_all(&TRACESTATE).iter().map(|it| it.to_str().unwrap().to_owned()).collect();
    (span.own.trace.to_string() == TRACE, (!state.is_empty()).then_some(state))
}

fn kept(fields: &[(&str, &str)]) {
    assert!(sent(fields).0, "{fields:?}");
}

fn begun(fields: &[(&str, &str)]) {
    assert_eq!(sent(fields), (false, None), "{fields:?}");
}

fn parent_is_kept(value: &str) {
    kept(&[("traceparent", value)]);
}

fn parent_is_refused(value: &str) {
    begun(&[("traceparent", value), ("tracestate", "foo=1")]);
}

fn state(values: &[&str], expected: Option<&[&str]>) {
    let mut fields = vec![("traceparent", PARENT)];
    fields.extend(values.iter().map(|value| ("tracestate", *value)));
    let expected = expected.map(|all| all.iter().map(|value| (*value).to_owned()).collect());
    assert_eq!(sent(&fields), (true, expected), "{values:?}");
}

#[test]
fn both_traceparent_and_tracestate_missing() {
    begun(&[]);
}

#[test]
fn traceparent_included_tracestate_missing() {
    assert_eq!(sent(&[("traceparent", PARENT)]), (true, None));
}

#[test]
fn traceparent_duplicated() {
    let other = PARENT.replace("1234567890123456-", "1234567890123457-");
    begun(&[("traceparent", PARENT), ("traceparent", &other)]);
    begun(&[("traceparent", PARENT), ("traceparent", PARENT), ("tracestate", "foo=1")]);
}

#[test]
fn traceparent_header_name() {
    begun(&[("trace-parent", PARENT)]);
    begun(&[("trace.parent", PARENT)]);
}

#[test]
fn traceparent_header_name_valid_casing() {
    for name in ["TraceParent", "TrAcEpArEnT", "TRACEPARENT"] {
        kept(&[(name, PARENT)]);
    }
}

#[test]
fn traceparent_version_0x00() {
    for more in [".", "-", "-what-the-future-will-be-like"] {
        parent_is_refused(&format!("{PARENT}{more}"));
    }
}

#[test]
fn traceparent_version_0xcc() {
    let future = PARENT.replacen("00", "cc", 1);
    parent_is_kept(&future);
    parent_is_kept(&format!("{future}-what-the-future-will-be-like"));
    parent_is_refused(&format!("{future}.what-the-future-will-be-like"));
}

#[test]
fn traceparent_version_0xff() {
    parent_is_refused(&PARENT.replacen("00", "ff", 1));
}

#[test]
fn traceparent_version_illegal_characters() {
    for version in [".0", "0."] {
        parent_is_refused(&PARENT.replacen("00", version, 1));
    }
}

#[test]
fn traceparent_version_too_long_and_too_short() {
    for version in ["000", "0000", "0"] {
        parent_is_refused(&PARENT.replacen("00", version, 1));
    }
}

#[test]
fn traceparent_trace_id_all_zero() {
    parent_is_refused(&PARENT.replace(TRACE, "00000000000000000000000000000000"));
}

#[test]
fn traceparent_trace_id_illegal_characters() {
    for id in [".2345678901234567890123456789012", "1234567890123456789012345678901."] {
        parent_is_refused(&PARENT.replace(TRACE, id));
    }
}

#[test]
fn traceparent_trace_id_too_long_and_too_short() {
    for id in ["123456789012345678901234567890123", "1234567890123456789012345678901"] {
        parent_is_refused(&PARENT.replace(TRACE, id));
    }
}

#[test]
fn traceparent_parent_id_all_zero() {
    parent_is_refused(&PARENT.replace("-1234567890123456-", "-0000000000000000-"));
}

#[test]
fn traceparent_parent_id_illegal_characters() {
    for id in ["-.234567890123456-", "-123456789012345.-"] {
        parent_is_refused(&PARENT.replace("-1234567890123456-", id));
    }
}

#[test]
fn traceparent_parent_id_too_long_and_too_short() {
    for id in ["-12345678901234567-", "-123456789012345-"] {
        parent_is_refused(&PARENT.replace("-1234567890123456-", id));
    }
}

#[test]
fn traceparent_trace_flags_illegal_characters() {
    for flags in ["-.0", "-0."] {
        parent_is_refused(&PARENT.replace("-01", flags));
    }
}

#[test]
fn traceparent_trace_flags_too_long_and_too_short() {
    for flags in ["-001", "-1"] {
        parent_is_refused(&PARENT.replace("-01", flags));
    }
}

#[test]
fn traceparent_ows_handling() {
    for value in
        [format!(" {PARENT}"), format!("\t{PARENT}"), format!("{PARENT} "), format!("\t {PARENT} \t")]
    {
        parent_is_kept(&value);
    }
}

#[test]
fn tracestate_included_traceparent_missing() {
    begun(&[("tracestate", "foo=1")]);
    begun(&[("tracestate", "foo=1,bar=2")]);
}

#[test]
fn tracestate_included_traceparent_included() {
    state(&["foo=1,bar=2"], Some(&["foo=1,bar=2"]));
    state(&["bar=2,foo=1"], Some(&["bar=2,foo=1"]));
}

#[test]
fn tracestate_header_name() {
    for name in ["trace-state", "trace.state"] {
        assert_eq!(sent(&[("traceparent", PARENT), (name, "foo=1")]), (true, None));
    }
}

#[test]
fn tracestate_header_name_valid_casing() {
    for name in ["TraceState", "TrAcEsTaTe", "TRACESTATE"] {
        assert_eq!(sent(&[("traceparent", PARENT), (name, "foo=1")]), (true, Some(vec!["foo=1".to_owned()])));
    }
}

#[test]
fn tracestate_empty_header() {
    for values in [&[""][..], &["foo=1", ""], &["", "foo=1"], &["foo=1", "", "bar=2"]] {
        state(values, Some(values));
    }
}

#[test]
fn tracestate_multiple_headers_different_keys() {
    let values = ["foo=1,bar=2", "rojo=1,congo=2", "baz=3"];
    state(&values, Some(&values));
}

#[test]
fn tracestate_duplicated_keys() {
    // They may be kept (section 3.3.1.3.3).
    for value in ["foo=1,foo=1", "foo=1,foo=2"] {
        state(&[value], Some(&[value]));
    }
}

#[test]
fn tracestate_all_allowed_characters() {
    let key: String = ('a'..='z').chain('0'..='9').chain("_-*/@".chars()).collect();
    let value: String = (' '..='~').filter(|character| !",=".contains(*character)).collect();
    let member = format!("{key}=x{value}");
    state(&[&member], Some(&[&member]));
    let digit = format!("0{key}=1");
    state(&[&digit], Some(&[&digit]));
}

#[test]
fn tracestate_ows_handling() {
    for value in ["foo=1 \t , \t bar=2, \t baz=3", "foo=1\t \t,\t \tbar=2,\t \tbaz=3", " foo=1", "foo=1\t"] {
        state(&[value], Some(&[value]));
    }
}

#[test]
fn tracestate_key_illegal_characters() {
    for value in ["foo =1", "FOO=1", "foo.bar=1", "@foo=1,bar=2", "-foo=1", "=1"] {
        state(&[value], None);
    }
}

#[test]
fn tracestate_key_illegal_vendor_format() {
    state(&["@foo=1,bar=2"], None);
    // Level 2 knows no more of an @ than that a key may have it behind its first character (section 3.3.1.3.1).
    for value in ["foo@=1,bar=2", "foo@@bar=1,bar=2", "foo@bar@baz=1,bar=2"] {
        state(&[value], Some(&[value]));
    }
}

#[test]
fn tracestate_member_count_limit() {
    let members = |range: std::ops::Range<u32>| {
        range.map(|n| format!("bar{n:02}={n:02}")).collect::<Vec<_>>().join(",")
    };
    state(&[&members(0..32)], Some(&[&members(0..32)]));
    state(&[&members(0..16), &members(16..32)], Some(&[&members(0..16), &members(16..32)]));
    state(&[&members(0..33)], None);
    state(&[&members(0..16), &members(16..33)], None);
}

#[test]
fn tracestate_key_length_limit() {
    let member = |length: usize| format!("{}=1", "z".repeat(length));
    state(&[&member(256)], Some(&[&member(256)]));
    state(&[&member(257)], None);
}

#[test]
fn tracestate_value_illegal_characters() {
    for value in ["foo=bar=baz", "foo=,bar=3", "foo=\u{7f}x"] {
        if HeaderValue::from_bytes(value.as_bytes()).is_ok() {
            state(&[value], None);
        }
    }
}

#[test]
fn the_random_flag_is_kept_and_no_other_unknown_one() {
    let flags = |flags: &str| {
        let mut headers = map(&[("traceparent", &PARENT.replace("-01", flags))]);
        trace(&mut headers, &mut fastrand::Rng::with_seed(7), None, &OwnTracing::default());
        headers[&TRACEPARENT].to_str().unwrap().rsplit_once('-').unwrap().1.to_owned()
    };
    assert_eq!((flags("-03").as_str(), flags("-02").as_str(), flags("-00").as_str()), ("03", "02", "00"));
    assert_eq!((flags("-fd").as_str(), flags("-ff").as_str()), ("01", "03"));
}

#[test]
fn baggage_is_not_touched() {
    let baggage = ["k=v;p=1,%20=%20", "broken,,;=", ""];
    let mut headers = map(&baggage.map(|value| ("baggage", value)));
    trace(&mut headers, &mut fastrand::Rng::with_seed(7), None, &OwnTracing::default());
    assert!(headers.get_all("baggage").iter().eq(baggage));
}

#[test]
fn a_foreign_context_is_continued_in_its_own_format_and_in_w3cs() {
    let mut headers = map(&[
        ("X-B3-TraceId", "8448eb211c80319c"),
        ("x-b3-spanid", "b7ad6b7169203331"),
        ("x-b3-parentspanid", "1234567890123456"),
        ("x-b3-flags", "1"),
        ("uber-trace-id", "nonsense"),
        ("tracestate", "foo=1"),
    ]);
    let span = trace(&mut headers, &mut fastrand::Rng::with_seed(7), None, &OwnTracing::default());
    assert_eq!(span.parent.unwrap().to_string(), "b7ad6b7169203331");
    assert!(span.own.sampled, "debug is more than sampled");
    let own = span.own.span;
    let expected = [
        ("x-b3-traceid", "8448eb211c80319c".to_owned()),
        ("x-b3-spanid", own.to_string()),
        ("x-b3-flags", "1".to_owned()),
        ("uber-trace-id", format!("8448eb211c80319c:{own}:0:3")),
        ("traceparent", format!("00-00000000000000008448eb211c80319c-{own}-01")),
    ];
    let expected: Vec<_> = expected.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(headers, map(&expected));
}

#[test]
fn w3cs_context_goes_before_others_and_b3_before_jaegers() {
    let b3 = ("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1");
    let jaeger = ("uber-trace-id", "1:2:0:1");
    let of = |fields: &[(&str, &str)]| {
        let mut headers = map(fields);
        let span = trace(&mut headers, &mut fastrand::Rng::with_seed(7), None, &OwnTracing::default());
        let text = headers.get("b3").map(|value| value.to_str().unwrap().to_owned());
        (span.own.trace.to_string(), text.is_none_or(|text| text.contains(&span.own.span.to_string())))
    };
    assert_eq!(of(&[jaeger, b3, ("traceparent", PARENT)]), (TRACE.to_owned(), true));
    assert_eq!(of(&[jaeger, b3]), ("0af7651916cd43dd8448eb211c80319c".to_owned(), true));
    assert_eq!(of(&[jaeger, ("b3", "nonsense")]), (format!("{:032x}", 1), true));
}

#[test]
fn a_decision_alone_is_heeded_and_a_missing_one_is_ours() {
    let sampled = |b3: &str, ours: u32| {
        let tracing = Tracing { sampling_per_million: ours, ..Tracing::default() };
        trace(
            &mut map(&[("b3", b3)]),
            &mut fastrand::Rng::with_seed(7),
            Some(&tracing),
            &OwnTracing::default(),
        )
        .own
        .sampled
    };
    assert!(!sampled("0", 1_000_000) && sampled("d", 0) && sampled("1", 0));
    let deferred = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
    assert!(sampled(deferred, 1_000_000) && !sampled(deferred, 0));
}

#[test]
fn configured_formats_are_written_where_nobody_wrote_them() {
    let propagation =
        vec![Propagation::W3c, Propagation::B3, Propagation::Jaeger, Propagation::Datadog, Propagation::Xray];
    let tracing = Tracing { propagation, ..Tracing::default() };
    let mut headers = map(&[("traceparent", PARENT)]);
    let span = trace(&mut headers, &mut fastrand::Rng::with_seed(7), Some(&tracing), &OwnTracing::default())
        .own
        .span;
    for (name, value) in [
        ("b3", format!("{TRACE}-{span}-1")),
        ("x-b3-spanid", span.to_string()),
        ("uber-trace-id", format!("{TRACE}:{span}:0:1")),
        ("x-datadog-parent-id", u64::from_be_bytes(*span.as_bytes()).to_string()),
        ("x-datadog-tags", "_dd.p.tid=1234567890123456".to_owned()),
        ("x-amzn-trace-id", format!("Root=1-12345678-901234567890123456789012;Parent={span};Sampled=1")),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(!headers.contains_key("ot-tracer-traceid"));
}

proptest! {
    #[test]
    fn nothing_makes_it_panic_or_send_on_a_malformed_context(
        parent in "([0-9a-f]{2}-)?[0-9a-fx]{30,33}-[0-9a-f]{15,17}-[0-9a-f.]{2}.?",
        state in "[ -~\t]{0,300}",
        b3 in "[0-9a-f]{0,32}[-]?[0-9a-f]{0,16}(-[01d2])?",
        jaeger in "[0-9a-f:%]{0,70}",
        datadog in "[0-9]{0,21}",
        tags in "(_dd\\.p\\.tid=[0-9a-f]{0,17},?)?[ -~]{0,40}",
        xray in "(Root=1-[0-9a-f]{8}-[0-9a-f]{24})?;?(Parent=[0-9a-f]{15,16})?[ -~]{0,40}",
        ot in "[0-9a-f]{15,17}",
    ) {
        let fields = [
            ("traceparent", parent), ("tracestate", state), ("b3", b3.clone()), ("x-b3-traceid", b3),
            ("uber-trace-id", jaeger), ("x-datadog-trace-id", datadog), ("x-datadog-tags", tags),
            ("x-amzn-trace-id", xray), ("ot-tracer-traceid", ot.clone()), ("ot-tracer-spanid", ot),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in &fields {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.append(*name, value);
            }
        }
        let span = trace(&mut headers, &mut fastrand::Rng::with_seed(1), None, &OwnTracing::default());
        prop_assert_eq!(w3c::parse(headers[&TRACEPARENT].as_bytes()), Some(span.own));
        prop_assert!(w3c::state_is_valid(headers.get_all(&TRACESTATE).iter().map(HeaderValue::as_bytes)));
        for format in present(&headers).iter() {
            let read = format.read(|name| headers.get(name).map(HeaderValue::as_bytes));
            prop_assert_eq!(read.and_then(|received| received.span), Some(span.own.span), "{:?}", format);
        }
    }
}

#[test]
fn a_second_try_has_a_span_of_its_own_in_every_format() {
    let propagation = vec![Propagation::B3, Propagation::Jaeger, Propagation::Datadog, Propagation::Xray];
    let tracing = Tracing { propagation, ..Tracing::default() };
    let mut headers = map(&[("traceparent", PARENT), ("x-other", "kept")]);
    let first = trace(&mut headers, &mut fastrand::Rng::with_seed(7), Some(&tracing), &OwnTracing::default())
        .own
        .span;
    let second = first.next();
    rename(&mut headers, first, second);
    for format in present(&headers).iter() {
        let read = format.read(|name| headers.get(name).map(HeaderValue::as_bytes));
        assert_eq!(read.and_then(|received| received.span), Some(second), "{format:?}");
    }
    assert_eq!(w3c::parse(headers[&TRACEPARENT].as_bytes()).map(|it| it.span), Some(second));
    assert!(headers[&TRACEPARENT].is_sensitive() && headers["x-other"] == "kept");
}

fn traced(headers: &mut HeaderMap, sampling_per_million: u32, own: OwnTracing) -> Span {
    let tracing = Tracing { sampling_per_million, ..Tracing::default() };
    trace(headers, &mut fastrand::Rng::with_seed(7), Some(&tracing), &own)
}

#[test]
fn our_own_sampler_goes_before_the_meshs_and_parents_before_ours_where_it_says_so() {
    let sampled = |parent: &str, own: Option<(u32, Parents)>| {
        let sampler = own.map(|(per_million, parents)| Sampler { per_million, parents });
        let mut headers = map(&[("traceparent", parent)]);
        let span = traced(&mut headers, 1_000_000, OwnTracing { sampler, formats: None });
        assert_eq!(w3c::parse(headers[&TRACEPARENT].as_bytes()), Some(span.own), "it is told as it is");
        (span.own.sampled, span.decider)
    };
    let unsampled = PARENT.replace("-01", "-00");
    assert_eq!(sampled("", None), (true, Decider::Sidecar));
    assert_eq!(sampled("", Some((0, Parents::Heeded))), (false, Decider::Sidecar));
    assert_eq!(sampled(PARENT, Some((0, Parents::Heeded))), (true, Decider::Sender));
    assert_eq!(sampled(&unsampled, Some((1_000_000, Parents::Heeded))), (false, Decider::Sender));
    assert_eq!(sampled(PARENT, Some((0, Parents::Overruled))), (false, Decider::Sidecar));
    assert_eq!(sampled(&unsampled, Some((1_000_000, Parents::Overruled))), (true, Decider::Sidecar));
}

#[test]
fn our_own_formats_are_written_in_place_of_the_meshs() {
    let mut formats = Formats::default();
    formats.insert(Format::Jaeger);
    let own = OwnTracing { sampler: None, formats: Some(formats) };
    let mut headers = map(&[]);
    let tracing = Tracing { propagation: vec![Propagation::B3], ..Tracing::default() };
    trace(&mut headers, &mut fastrand::Rng::with_seed(7), Some(&tracing), &own);
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["traceparent", "uber-trace-id"]);
}

#[test]
fn what_is_decided_later_is_told_in_every_format() {
    let deferred = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
    let mut headers = map(&[("b3", deferred)]);
    let span = traced(&mut headers, 0, OwnTracing::default());
    assert_eq!((span.own.sampled, span.decider), (false, Decider::Sidecar));
    tell(&mut headers, &TraceContext { sampled: true, ..span.own });
    let b3 = format!("0af7651916cd43dd8448eb211c80319c-{}-1", span.own.span);
    assert_eq!(headers["b3"], b3);
    assert_eq!(
        w3c::parse(headers[&TRACEPARENT].as_bytes()),
        Some(TraceContext { sampled: true, ..span.own })
    );
}
