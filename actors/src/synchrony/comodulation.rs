//! The comodulation of two people as earlier analysis code knows it: how far both are from their own rest.
//!
//! Pure. Of each channel, the mean of both people's absolute deviation from the mean of their last 60 frames. A channel is
//! on from above [`ON`] until below [`OFF`]; while it is on, the largest value so far is held, and its baseline stays as it was.

use youquanti_models::BLENDSHAPE_COUNT;

/// Frames of the rolling mean.
pub const BASELINE_FRAMES: usize = 60;

/// A channel that is off goes on above this.
pub const ON: f32 = 0.05;

/// A channel that is on goes off below this.
pub const OFF: f32 = 0.98 * ON;

/// The channels of two people over time.
#[derive(Debug)]
pub struct Comodulation {
    channels: Vec<Channel>,
}

#[derive(Clone, Debug)]
struct Channel {
    /// The last frames of both; the oldest is at `place`.
    frames: [[f32; 2]; BASELINE_FRAMES],
    place: usize,
    count: usize,
    /// The largest value since it went on; 0 while it is off.
    held: f32,
}

impl Default for Comodulation {
    fn default() -> Self {
        let channel = Channel { frames: [[0.0; 2]; BASELINE_FRAMES], place: 0, count: 0, held: 0.0 };
        Self { channels: vec![channel; BLENDSHAPE_COUNT] }
    }
}

impl Comodulation {
    /// Takes the blendshapes of both people at one instant; what each channel holds, 0 where it is off. `None` until there are
    /// 60 frames before this one.
    pub fn take(&mut self, people: [&[f32; BLENDSHAPE_COUNT]; 2]) -> Option<[f32; BLENDSHAPE_COUNT]> {
        let mut held = [0.0; BLENDSHAPE_COUNT];
        let mut known = true;
        for (index, (channel, held)) in self.channels.iter_mut().zip(&mut held).enumerate() {
            match channel.take(people.map(|blendshapes| blendshapes[index])) {
                Some(value) => *held = value,
                None => known = false,
            }
        }
        known.then_some(held)
    }

    /// One of them has no face: every channel goes off, and baselines stay as they are.
    pub fn lose(&mut self) {
        for channel in &mut self.channels {
            channel.held = 0.0;
        }
    }
}

impl Channel {
    fn take(&mut self, now: [f32; 2]) -> Option<f32> {
        let known = self.count == BASELINE_FRAMES;
        if known {
            let baseline = [0, 1].map(|who| {
                let sum: f64 = self.frames.iter().map(|frame| f64::from(frame[who])).sum();
                (sum / BASELINE_FRAMES as f64) as f32
            });
            let both = ((now[0] - baseline[0]).abs() + (now[1] - baseline[1]).abs()) / 2.0;
            let stays = if self.held > 0.0 { both >= OFF } else { both > ON };
            self.held = if stays { both.max(self.held) } else { 0.0 };
        }
        if self.held == 0.0 {
            self.frames[self.place] = now;
            self.place = (self.place + 1) % BASELINE_FRAMES;
            self.count = (self.count + 1).min(BASELINE_FRAMES);
        }
        known.then_some(self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const JAW: usize = 25;

    /// What the channel of the jaw holds after each frame of both people.
    fn run(frames: &[[f32; 2]]) -> Vec<Option<f32>> {
        let mut comodulation = Comodulation::default();
        let shapes = |value| {
            let mut shapes = [0.0; BLENDSHAPE_COUNT];
            shapes[JAW] = value;
            shapes
        };
        let step = |&[a, b]: &[f32; 2]| {
            let held = comodulation.take([&shapes(a), &shapes(b)])?;
            assert!(held.iter().enumerate().all(|(channel, &held)| channel == JAW || held == 0.0));
            Some(held[JAW])
        };
        frames.iter().map(step).collect()
    }

    /// The definition, word by word, with the whole past at hand.
    fn naive(frames: &[[f32; 2]]) -> Vec<Option<f32>> {
        let mut baseline: Vec<[f32; 2]> = Vec::new();
        let (mut is_on, mut peak) = (false, 0.0_f32);
        let mut out = Vec::new();
        for now in frames {
            if baseline.len() < 60 {
                baseline.push(*now);
                out.push(None);
                continue;
            }
            let last = &baseline[baseline.len() - 60..];
            let deviation = |who: usize| {
                let mean = last.iter().map(|frame| f64::from(frame[who])).sum::<f64>() / 60.0;
                (now[who] - mean as f32).abs()
            };
            let both = (deviation(0) + deviation(1)) / 2.0;
            if is_on && both < 0.98 * 0.05 {
                is_on = false;
            } else if !is_on && both > 0.05 {
                (is_on, peak) = (true, 0.0);
            }
            if is_on {
                peak = peak.max(both);
            } else {
                baseline.push(*now);
            }
            out.push(Some(if is_on { peak } else { 0.0 }));
        }
        out
    }

    #[test]
    fn on_held_and_off() {
        let mut frames = vec![[0.2, 0.4]; 60];
        frames.extend([
            [0.2, 0.4],
            [0.25, 0.44],
            [0.5, 0.5],
            [0.3, 0.4],
            [0.25, 0.4475],
            [0.25, 0.49],
            [0.2, 0.4],
        ]);
        let found = run(&frames);
        assert_eq!(found[..60], [None; 60]);
        // At rest; below ON; on; between OFF and ON, so held; below OFF; on again; off.
        for (found, expected) in found[60..].iter().zip([0.0, 0.0, 0.2, 0.2, 0.0, 0.068, 0.0]) {
            let found = found.unwrap();
            // What was below ON has moved the baseline a little.
            let close = (found == 0.0) == (expected == 0.0) && (found - expected).abs() < 2e-3;
            assert!(close, "{found:?}, not {expected}");
        }
    }

    #[test]
    fn a_channel_that_is_on_keeps_its_baseline() {
        let mut frames = vec![[0.0, 0.0]; 60];
        frames.extend([[0.8, 0.8]; 500]);
        frames.push([0.0, 0.0]);
        let found = run(&frames);
        assert!(found[60..560].iter().all(|held| *held == Some(0.8)), "however long it lasts");
        assert_eq!(found[560], Some(0.0));
    }

    #[test]
    fn without_a_face_everything_is_off() {
        let mut comodulation = Comodulation::default();
        let (rest, moved) = ([0.0; BLENDSHAPE_COUNT], [0.5; BLENDSHAPE_COUNT]);
        for _ in 0..60 {
            assert_eq!(comodulation.take([&rest, &rest]), None);
        }
        assert_eq!(comodulation.take([&moved, &moved]), Some(moved));
        comodulation.lose();
        assert_eq!(comodulation.take([&rest, &rest]), Some(rest));
    }

    proptest! {
        #[test]
        fn as_defined(frames in prop::collection::vec(prop::array::uniform2(0.0_f32..0.3), 0..400)) {
            prop_assert_eq!(run(&frames), naive(&frames));
        }
    }
}
