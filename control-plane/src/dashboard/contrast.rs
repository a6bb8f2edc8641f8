//! The colours of the style sheet against one another, by the rules of WCAG 2.2 (success criteria 1.4.3 and 1.4.11).

use std::collections::BTreeMap;

const STYLE: &str = include_str!("style.css");
/// What text stands on.
const GROUNDS: [&str; 2] = ["bg", "panel"];
/// What text, and lines that say something, are drawn with.
const INKS: [&str; 8] = ["fg", "dim", "accent", "bad", "good", "warn", "second", "third"];
/// Of text.
const ENOUGH: f64 = 4.5;

/// `light` and `dark`: each colour by its name.
fn themes() -> [BTreeMap<&'static str, [f64; 3]>; 2] {
    let blocks: Vec<_> = STYLE.split(":root{").skip(1).filter_map(|rest| rest.split('}').next()).collect();
    let [light, dark] = blocks[..] else { panic!("two themes: {blocks:?}") };
    [light, dark].map(|block| {
        let pairs = block.split(';').filter_map(|pair| pair.strip_prefix("--")?.split_once(":#"));
        pairs.map(|(name, hex)| (name, colour(hex))).collect()
    })
}

fn colour(hex: &str) -> [f64; 3] {
    assert_eq!(hex.len(), 6, "{hex}");
    let value = u32::from_str_radix(hex, 16).expect("a colour");
    [16, 8, 0].map(|shift| f64::from(value >> shift & 255) / 255.0)
}

/// Relative luminance, as WCAG defines it.
fn luminance(colour: [f64; 3]) -> f64 {
    let linear = |part: f64| if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) };
    let [red, green, blue] = colour.map(linear);
    0.2126 * red + 0.7152 * green + 0.0722 * blue
}

fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
fn every_text_can_be_read_on_every_ground_in_both_themes() {
    for (theme, colours) in ["light", "dark"].iter().zip(themes()) {
        let mut worst = (f64::MAX, String::new());
        for ink in INKS {
            for ground in GROUNDS {
                let ratio = contrast(colours[ink], colours[ground]);
                assert!(ratio >= ENOUGH, "{theme}: {ink} on {ground} is {ratio:.2}, {ENOUGH} is needed");
                if ratio < worst.0 {
                    worst = (ratio, format!("{ink} on {ground}"));
                }
            }
        }
        eprintln!("{theme}: the least is {:.2}, {}", worst.0, worst.1);
    }
}

#[test]
fn no_colour_stands_outside_the_two_themes() {
    let (_, rules) = STYLE.split_once("\n\n").expect("rules after the themes");
    assert!(!rules.contains('#'), "a colour of its own");
    let used = rules.split("var(--").skip(1).filter_map(|rest| rest.split(')').next());
    let [light, dark] = themes();
    for name in used {
        assert!(light.contains_key(name) && dark.contains_key(name), "{name}");
    }
}

#[test]
fn contrasts_are_those_of_the_standard() {
    let ratio = contrast(colour("000000"), colour("ffffff"));
    assert!((ratio - 21.0).abs() < 1e-9, "{ratio}");
    let grey = contrast(colour("777777"), colour("ffffff"));
    assert!((grey - 4.48).abs() < 0.01, "{grey}");
}
