//! What each format's headers say, and that what is written is read back.

use proptest::prelude::*;

use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn read(format: Format, headers: &[(&str, &str)]) -> Option<(String, String, Sampling)> {
    let received = format
        .read(|name| headers.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_bytes()))?;
    let text = |id: Option<String>| id.unwrap_or_default();
    let (trace, span) = (received.trace.map(|id| id.to_string()), received.span.map(|id| id.to_string()));
    Some((text(trace), text(span), received.sampling))
}

fn check(format: Format, headers: &[(&str, &str)], trace: &str, span: &str, sampling: Sampling) {
    assert_eq!(read(format, headers), Some((trace.to_owned(), span.to_owned(), sampling)), "{headers:?}");
}

fn none(format: Format, headers: &[(&str, &str)]) {
    assert_eq!(read(format, headers), None, "{headers:?}");
}

#[test]
fn b3_is_read_in_one_header() {
    let whole = |value: &str, sampling| check(Format::B3Single, &[("b3", value)], TRACE, SPAN, sampling);
    whole(&format!("{TRACE}-{SPAN}"), Sampling::Deferred);
    whole(&format!("{TRACE}-{SPAN}-1"), Sampling::Keep);
    whole(&format!("{TRACE}-{SPAN}-0-05e3ac9a4f6e3b90"), Sampling::Drop);
    whole(&format!(" {TRACE}-{SPAN}-d"), Sampling::Debug);
    let short = format!("{:016}{}", 0, "8448eb211c80319c");
    check(Format::B3Single, &[("b3", "8448eb211c80319c-b7ad6b7169203331")], &short, SPAN, Sampling::Deferred);
    check(Format::B3Single, &[("b3", "0")], "", "", Sampling::Drop);
    for bad in [
        "",
        "-",
        "x",
        "2",
        "b3",
        &format!("{TRACE}-{SPAN}-"),
        &format!("{TRACE}-{SPAN}-2"),
        &format!("{TRACE}-{SPAN}-1-"),
        &format!("{TRACE}-{SPAN}-1--"),
        &format!("{TRACE}-0000000000000000-1"),
        &format!("{:032}-{SPAN}-1", 0),
        &format!("{TRACE}a-{SPAN}"),
        &format!("{TRACE}-{SPAN}-1-{SPAN}-1"),
    ] {
        none(Format::B3Single, &[("b3", bad)]);
    }
}

#[test]
fn b3_is_read_in_several_headers() {
    let both = [(B3_TRACE, TRACE), (B3_SPAN, SPAN)];
    check(Format::B3Multi, &both, TRACE, SPAN, Sampling::Deferred);
    for (sampled, expected) in
        [("1", Sampling::Keep), ("true", Sampling::Keep), ("0", Sampling::Drop), ("x", Sampling::Deferred)]
    {
        check(Format::B3Multi, &[both[0], both[1], (B3_SAMPLED, sampled)], TRACE, SPAN, expected);
    }
    check(Format::B3Multi, &[both[0], both[1], (B3_FLAGS, "1")], TRACE, SPAN, Sampling::Debug);
    check(Format::B3Multi, &[(B3_SAMPLED, "0")], "", "", Sampling::Drop);
    none(Format::B3Multi, &both[..1]);
    none(Format::B3Multi, &[both[0], (B3_SPAN, "nonsense")]);
}

#[test]
fn jaegers_header_may_lack_leading_zeros() {
    let check = |value: &str, trace: &str, span: &str, sampling| {
        check(Format::Jaeger, &[(JAEGER, value)], trace, span, sampling);
    };
    check(&format!("{TRACE}:{SPAN}:0:1"), TRACE, SPAN, Sampling::Keep);
    check(&format!("{TRACE}%3A{SPAN}%3a0%3A00"), TRACE, SPAN, Sampling::Drop);
    check("1f:2:0:3", "0000000000000000000000000000001f", "0000000000000002", Sampling::Debug);
    for bad in ["", "::::", "1:2:3", "0:1:0:1", "1:0:0:1", "1:2:0:x", "1:2:0:100", &format!("{TRACE}0:1:0:1")]
    {
        none(Format::Jaeger, &[(JAEGER, bad)]);
    }
}

#[test]
fn datadogs_upper_half_stands_among_the_tags() {
    let headers = [
        (DATADOG_TRACE, "9532127138774266268"),
        (DATADOG_PARENT, "13235353014750950193"),
        (DATADOG_PRIORITY, "2"),
        (DATADOG_TAGS, "_dd.p.dm=-4,_dd.p.tid=0af7651916cd43dd"),
    ];
    check(Format::Datadog, &headers, TRACE, SPAN, Sampling::Keep);
    check(Format::Datadog, &headers[..1], "00000000000000008448eb211c80319c", "", Sampling::Deferred);
    check(
        Format::Datadog,
        &[headers[0], (DATADOG_PRIORITY, "-1")],
        "00000000000000008448eb211c80319c",
        "",
        Sampling::Drop,
    );
    for bad in ["", "0", "-1", "x", "+5", "18446744073709551616"] {
        none(Format::Datadog, &[(DATADOG_TRACE, bad)]);
    }
    none(Format::Datadog, &[headers[0], (DATADOG_PRIORITY, "often")]);
}

#[test]
fn xrays_parts_come_in_any_order() {
    let root = "Root=1-0af76519-16cd43dd8448eb211c80319c";
    let check =
        |value: &str, span: &str, sampling| check(Format::Xray, &[(XRAY, value)], TRACE, span, sampling);
    check(&format!("{root};Parent={SPAN};Sampled=1"), SPAN, Sampling::Keep);
    check(&format!("Sampled=0; Parent={SPAN}; Lineage=a:1; {root}"), SPAN, Sampling::Drop);
    check(&format!("{root};Sampled=?"), "", Sampling::Deferred);
    for bad in [
        "",
        "Root",
        "Root=2-0af76519-16cd43dd8448eb211c80319c",
        "Root=1-0af76519",
        "Parent=b7ad6b7169203331",
        &format!("{root};Parent=x"),
    ] {
        none(Format::Xray, &[(XRAY, bad)]);
    }
}

#[test]
fn opentracings_headers_say_true_and_false() {
    let headers = [(OT_TRACE, "8448eb211c80319c"), (OT_SPAN, SPAN), (OT_SAMPLED, "true")];
    check(Format::OpenTracing, &headers, "00000000000000008448eb211c80319c", SPAN, Sampling::Keep);
    none(Format::OpenTracing, &headers[..1]);
}

#[test]
fn what_others_say_is_kept_within_the_same_trace_alone() {
    let context = TraceContext {
        trace: TraceId::new(0x0af7651916cd43dd8448eb211c80319c_u128.to_be_bytes()).unwrap(),
        span: SpanId::new([1; 8]).unwrap(),
        sampled: true,
        random: false,
    };
    let sent = Sent { context, debug: false };
    let written = |format: Format, headers: &[(&str, &str)], name: &str| {
        let changes = format.write(&sent, |name| {
            headers.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_bytes())
        });
        changes.into_iter().find(|(found, _)| *found == name).unwrap().1
    };
    let lineage = "Self=1-5;Root=1-0af76519-16cd43dd8448eb211c80319c;Lineage=a:1";
    let expected = "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=0101010101010101;Sampled=1";
    assert_eq!(written(Format::Xray, &[(XRAY, lineage)], XRAY), Some(format!("{expected};Lineage=a:1")));
    let other = lineage.replace("0af76519", "0af76518");
    assert_eq!(written(Format::Xray, &[(XRAY, &other)], XRAY).as_deref(), Some(expected));
    let datadog = [
        (DATADOG_TRACE, "9532127138774266268"),
        (DATADOG_PRIORITY, "2"),
        (DATADOG_TAGS, "_dd.p.dm=-4,_dd.p.tid=0af7651916cd43dd,broken"),
    ];
    let tags = "_dd.p.tid=0af7651916cd43dd,_dd.p.dm=-4";
    assert_eq!(written(Format::Datadog, &datadog, DATADOG_TAGS).as_deref(), Some(tags));
    assert_eq!(written(Format::Datadog, &datadog, DATADOG_PRIORITY).as_deref(), Some("2"));
    let other = [(DATADOG_TRACE, "7"), (DATADOG_PRIORITY, "-1"), (DATADOG_TAGS, "_dd.p.dm=-4")];
    assert_eq!(written(Format::Datadog, &other, DATADOG_TAGS).as_deref(), Some("_dd.p.tid=0af7651916cd43dd"));
    assert_eq!(written(Format::Datadog, &other, DATADOG_PRIORITY).as_deref(), Some("1"));
}

fn contexts() -> impl Strategy<Value = Sent> {
    (1..u128::MAX, 1..u64::MAX, any::<bool>(), any::<bool>()).prop_map(|(trace, span, sampled, debug)| {
        let trace = TraceId::new(trace.to_be_bytes()).unwrap();
        let span = SpanId::new(span.to_be_bytes()).unwrap();
        Sent { context: TraceContext { trace, span, sampled: sampled || debug, random: false }, debug }
    })
}

/// Values that look like what a format wants, and some that do not.
fn values() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "[0-9a-fA-F]{0,33}[-:;,=]{0,2}[0-9a-f]{0,17}[-:]?[01d]?".prop_map(String::into_bytes),
        "Root=1-[0-9a-f]{7,8}-[0-9a-f]{24};(Parent=[0-9a-f]{16};)?(x=[ -~]{0,600})?"
            .prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_and_may_stand_in_a_header(sent in contexts(), value in values()) {
        for format in Format::ALL {
            let changes = format.write(&sent, |_| Some(&value));
            for (name, text) in &changes {
                prop_assert!(format.headers().contains(name));
                let is_plain = |byte: u8| (b' '..=b'~').contains(&byte);
                prop_assert!(text.as_deref().unwrap_or("x").bytes().all(is_plain), "{name}: {text:?}");
            }
            let found = |name| changes.iter().find(|(of, _)| *of == name).unwrap().1.as_deref().map(str::as_bytes);
            let Some(received) = format.read(found) else {
                prop_assert!(format == Format::Datadog || format == Format::OpenTracing, "{format:?} {changes:?}");
                prop_assert_eq!(lower(sent.context.trace), 0);
                continue;
            };
            let expected = match format {
                Format::OpenTracing => TraceId::new(u128::from(lower(sent.context.trace)).to_be_bytes()),
                _ => Some(sent.context.trace),
            };
            prop_assert_eq!((received.trace, received.span), (expected, Some(sent.context.span)));
            prop_assert_eq!(received.sampling.sampled(), Some(sent.context.sampled));
        }
    }

    #[test]
    fn no_value_makes_a_reader_panic_or_find_zeros(value in values()) {
        for format in Format::ALL {
            if let Some(received) = format.read(|_| Some(&value)) {
                prop_assert!(received.trace.is_none_or(|trace| *trace.as_bytes() != [0; 16]));
            }
        }
    }

    #[test]
    fn a_header_is_its_formats_in_any_case(index in 0..6_usize, upper in any::<bool>()) {
        let format = Format::ALL[index];
        for name in format.headers() {
            let name = if upper { name.to_ascii_uppercase() } else { (*name).to_owned() };
            prop_assert_eq!(Format::of(name.as_bytes()), Some(format));
            prop_assert_eq!(Format::of(format!("{name}x").as_bytes()), None);
        }
    }
}
