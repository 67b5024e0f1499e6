//! What is sent is what is received, and what does not fit is an error instead of a read beyond a buffer.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use youquanti_lsl::{
    Declaration, Element, Format, Inlet, Lsl, LslError, Outlet, Resolver, Sample, StreamInfo, Values,
};

/// How long a test waits for what must come. Never a measure of anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// liblsl, for this process and nobody else; works where multicast does not.
fn alone() -> Lsl {
    let lsl = Lsl::load().unwrap();
    lsl.configure(&format!(
        "[ports]\nIPv6 = disable\n[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {{127.0.0.1}}\nSessionID = wrapper-{}\n\
         [log]\nlevel = -2\n",
        std::process::id()
    ));
    lsl
}

fn declaration(name: &str, channels: usize, format: Format) -> Declaration {
    Declaration {
        name: name.to_owned(),
        kind: "Test".to_owned(),
        channels,
        rate: 0.0,
        format,
        source_id: format!("{name}-of-{}", std::process::id()),
        desc: vec![Element::tree("channels", vec![Element::text("channel", "ä < b & \"c\"")])],
    }
}

fn outlet(lsl: Lsl, declaration: &Declaration) -> Outlet {
    Outlet::new(&StreamInfo::new(lsl, declaration).unwrap(), 1000).unwrap()
}

fn inlet(lsl: Lsl, declaration: &Declaration) -> Inlet {
    let resolver = Resolver::new(lsl, &format!("source_id='{}'", declaration.source_id), PATIENCE).unwrap();
    for _ in 0..PATIENCE.as_millis() / 10 {
        if let Some(info) = resolver.found().first() {
            assert_eq!(
                (info.name(), info.kind(), info.rate()),
                (declaration.name.clone(), "Test".to_owned(), 0.0)
            );
            assert_eq!((info.channels(), info.format()), (declaration.channels, declaration.format));
            assert!(!info.uid().is_empty() && !info.hostname().is_empty());
            return Inlet::open(info, 1000, PATIENCE).unwrap();
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("{} was not found", declaration.name);
}

fn pull(inlet: &mut Inlet, count: usize) -> Vec<Sample> {
    let mut samples = Vec::new();
    for _ in 0..PATIENCE.as_millis() / 10 {
        samples.extend(inlet.pull().unwrap());
        if samples.len() >= count {
            return samples;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("{} of {count} samples came", samples.len());
}

#[test]
fn numbers_and_stamps_arrive_as_they_were_sent() {
    let lsl = alone();
    for format in [Format::Float32, Format::Double64] {
        let declaration = declaration(&format!("numbers-{format:?}"), 700, format);
        let outlet = outlet(lsl, &declaration);
        let mut inlet = inlet(lsl, &declaration);
        let values: Vec<f64> = (0..700).map(|n| f64::from(n) / 8.0).collect();
        let stamps = [1.000_000_001, 12_345.678_901_234, 3.0];
        for at in stamps {
            match format {
                Format::Float32 => {
                    outlet.push_f32(&values.iter().map(|&value| value as f32).collect::<Vec<_>>(), at)
                }
                _ => outlet.push_f64(&values, at),
            }
            .unwrap();
        }
        let expected = stamps.map(|at| Sample { at, values: Values::Numbers(values.clone()) });
        assert_eq!(pull(&mut inlet, 3), expected);
        assert!(outlet.has_consumers());
        let correction = inlet.correction(PATIENCE).unwrap();
        assert!(correction.offset.abs() < 0.1, "one machine has one clock: {correction:?}");
    }
}

#[test]
fn texts_arrive_with_whatever_is_in_them() {
    let lsl = alone();
    let declaration = declaration("texts", 1, Format::Text);
    let outlet = outlet(lsl, &declaration);
    let mut inlet = inlet(lsl, &declaration);
    let texts = ["", "{\"a\":1}", "ä\0€", &"x".repeat(100_000)];
    for text in texts {
        outlet.push_text(text, 1.0).unwrap();
    }
    let expected = texts.map(|text| Sample { at: 1.0, values: Values::Texts(vec![text.to_owned()]) });
    assert_eq!(pull(&mut inlet, 4), expected);
}

#[test]
fn a_sender_that_goes_before_the_first_pull_holds_nobody_up() {
    let lsl = alone();
    let declaration = declaration("short", 1, Format::Text);
    let outlet = outlet(lsl, &declaration);
    let mut inlet = inlet(lsl, &declaration);
    drop(outlet);
    assert_eq!(inlet.pull().unwrap(), []);
}

#[test]
fn what_does_not_fit_is_refused() {
    let lsl = alone();
    let outlet = outlet(lsl, &declaration("narrow", 4, Format::Float32));
    let is_misfit = |outcome| matches!(outcome, Err(LslError::Misfit { .. }));
    assert!(is_misfit(outlet.push_f32(&[0.0; 3], 1.0)) && is_misfit(outlet.push_f32(&[0.0; 5], 1.0)));
    assert!(is_misfit(outlet.push_f64(&[0.0; 4], 1.0)) && is_misfit(outlet.push_text("a", 1.0)));
    assert!(outlet.push_f32(&[0.0; 4], 1.0).is_ok());
    let zero = StreamInfo::new(lsl, &declaration("a\0b", 1, Format::Text));
    assert!(matches!(zero, Err(LslError::Text(_))));
    let unnamed = StreamInfo::new(lsl, &declaration("", 1, Format::Text));
    assert!(matches!(unnamed, Err(LslError::Failed { .. })));
}
