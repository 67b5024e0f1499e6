//! The validity card as a reader sees it: the rows of `/quality` about participants, minute by minute and as a whole.
//!
//! Computes nothing that is not in those rows; `validity.rs` says what they mean.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::inspect::{ParticipantInspection, QualitySeries};
use super::schema::{validity_item, validity_parts};

/// How far a participant's rows in one camera can be trusted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ValidityInspection {
    /// 1 is `P1`.
    pub participant: u32,
    /// From the configuration.
    pub name: String,
    /// In which camera.
    pub camera: String,
    /// All intervals together: counts are sums, shares are of all frames; of other figures the median of the intervals, and of
    /// 5th percentiles the least.
    pub whole: ValidityFigures,
    /// Each minute, and the rest at the end, oldest first; `end_ns` is the end of the time that it is of.
    pub minutes: Vec<ValidityFigures>,
    /// Blendshapes that are known to respond weakly → the widest range, 95th minus 5th percentile, of any interval.
    pub weak_blendshapes: BTreeMap<String, f64>,
}

/// Figures of one interval; none where too little was seen. See [`validity_item`] for what each is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the items of validity_item, one by one")]
pub struct ValidityFigures {
    pub end_ns: u64,
    pub analysed: u64,
    pub faces: u64,
    pub presence: Option<f64>,
    pub face_size_p50_px: Option<f64>,
    pub face_size_p05_px: Option<f64>,
    pub sharpness_p50: Option<f64>,
    pub sharpness_p05: Option<f64>,
    pub yaw_beyond_30deg: Option<f64>,
    pub noise_px: Option<f64>,
    pub noise_score: Option<f64>,
    pub still: u64,
}

impl ValidityFigures {
    fn set(&mut self, item: &str, value: f64) {
        match item {
            validity_item::ANALYSED => self.analysed = value as u64,
            validity_item::FACES => self.faces = value as u64,
            validity_item::PRESENCE => self.presence = Some(value),
            validity_item::SIZE_P50 => self.face_size_p50_px = Some(value),
            validity_item::SIZE_P05 => self.face_size_p05_px = Some(value),
            validity_item::SHARPNESS_P50 => self.sharpness_p50 = Some(value),
            validity_item::SHARPNESS_P05 => self.sharpness_p05 = Some(value),
            validity_item::YAW_BEYOND => self.yaw_beyond_30deg = Some(value),
            validity_item::NOISE_PX => self.noise_px = Some(value),
            validity_item::NOISE_SCORE => self.noise_score = Some(value),
            validity_item::STILL => self.still = value as u64,
            // An item of a later version.
            _ => {}
        }
    }

    fn whole(minutes: &[Self]) -> Self {
        let (analysed, faces) = minutes.iter().fold((0, 0), |(a, f), m| (a + m.analysed, f + m.faces));
        let turned: f64 = minutes.iter().filter_map(|m| Some(m.yaw_beyond_30deg? * m.faces as f64)).sum();
        let median = |figure: fn(&Self) -> Option<f64>| {
            let mut values: Vec<_> = minutes.iter().filter_map(figure).collect();
            values.sort_by(f64::total_cmp);
            let last = values.len().checked_sub(1)?;
            Some(f64::midpoint(values[last / 2], values[last.div_ceil(2)]))
        };
        let least =
            |figure: fn(&Self) -> Option<f64>| minutes.iter().filter_map(figure).min_by(f64::total_cmp);
        Self {
            end_ns: minutes.last().map_or(0, |minute| minute.end_ns),
            analysed,
            faces,
            presence: (analysed > 0).then(|| faces as f64 / analysed as f64),
            face_size_p50_px: median(|m| m.face_size_p50_px),
            face_size_p05_px: least(|m| m.face_size_p05_px),
            sharpness_p50: median(|m| m.sharpness_p50),
            sharpness_p05: least(|m| m.sharpness_p05),
            yaw_beyond_30deg: (faces > 0).then(|| turned / faces as f64),
            noise_px: median(|m| m.noise_px),
            noise_score: median(|m| m.noise_score),
            still: minutes.iter().map(|minute| minute.still).sum(),
        }
    }
}

/// The cards in these rows, by participant and camera.
pub(super) fn cards(
    quality: &BTreeMap<String, BTreeMap<String, QualitySeries>>,
    people: &[ParticipantInspection],
) -> Vec<ValidityInspection> {
    let mut cards: Vec<_> = quality
        .iter()
        .filter_map(|(source, items)| {
            let (participant, camera) = validity_parts(source)?;
            let mut minutes = BTreeMap::<u64, ValidityFigures>::new();
            let mut weak_blendshapes = BTreeMap::new();
            for (item, series) in items {
                if let Some(name) = validity_item::weak_blendshape(item) {
                    let widest = series.value.iter().copied().fold(0.0, f64::max);
                    weak_blendshapes.insert(name.to_owned(), widest);
                    continue;
                }
                for (&end_ns, &value) in series.time_ns.iter().zip(&series.value) {
                    let minute =
                        minutes.entry(end_ns).or_insert(ValidityFigures { end_ns, ..Default::default() });
                    minute.set(item, value);
                }
            }
            let minutes: Vec<_> = minutes.into_values().collect();
            let name =
                people.iter().find(|person| person.id == participant).map_or("", |person| &person.name);
            Some(ValidityInspection {
                participant,
                name: name.to_owned(),
                camera: camera.to_owned(),
                whole: ValidityFigures::whole(&minutes),
                minutes,
                weak_blendshapes,
            })
        })
        .collect();
    cards.sort_by(|a, b| (a.participant, &a.camera).cmp(&(b.participant, &b.camera)));
    cards
}

impl fmt::Display for ValidityInspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whole, .. } = self;
        let share =
            |value: Option<f64>| value.map_or("?".to_owned(), |value| format!("{:.1} %", value * 100.0));
        let number = |value: Option<f64>, digits: usize| {
            value.map_or("?".to_owned(), |value| format!("{value:.digits$}"))
        };
        write!(f, "validity  P{} in {}: present {}", self.participant, self.camera, share(whole.presence))?;
        write!(f, ", {} px (5 %: {})", number(whole.face_size_p50_px, 0), number(whole.face_size_p05_px, 0))?;
        match whole.sharpness_p50 {
            Some(median) => write!(f, ", sharpness {median:.0} (5 %: {})", number(whole.sharpness_p05, 0))?,
            None => write!(f, ", sharpness not measured")?,
        }
        write!(f, ", yaw beyond 30° {}", share(whole.yaw_beyond_30deg))?;
        match (whole.noise_px, whole.noise_score) {
            (Some(px), Some(score)) => {
                writeln!(f, ", noise {px:.2} px, {score:.4} of scores ({} times still)", whole.still)
            }
            _ => writeln!(f, ", noise unknown: the head was never still"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[(u64, f64)]) -> QualitySeries {
        QualitySeries {
            time_ns: values.iter().map(|value| value.0).collect(),
            value: values.iter().map(|value| value.1).collect(),
        }
    }

    #[test]
    fn rows_become_cards() {
        let items = [
            ("analysed", series(&[(60, 100.0), (120, 300.0)])),
            ("faces", series(&[(60, 100.0), (120, 100.0)])),
            ("yaw_beyond_30deg", series(&[(60, 0.5), (120, 0.0)])),
            ("noise_px", series(&[(120, 0.25)])),
            ("sharpness_p05", series(&[(60, 9.0), (120, 7.0)])),
            ("weak_range:cheekPuff", series(&[(60, 0.01), (120, 0.03)])),
            ("of_a_later_version", series(&[(60, 1.0)])),
        ];
        let items: BTreeMap<_, _> =
            items.into_iter().map(|(item, series)| (item.to_owned(), series)).collect();
        let camera = BTreeMap::from([("frames".to_owned(), series(&[(60, 1.0)]))]);
        let quality = BTreeMap::from([("P2 in left".to_owned(), items), ("left".to_owned(), camera)]);
        let ben = ParticipantInspection { id: 2, name: "Ben".to_owned(), role: String::new(), tracks: 1 };
        let found = cards(&quality, &[ben]);
        assert_eq!(found.len(), 1);
        let card = &found[0];
        assert_eq!((card.participant, &*card.name, &*card.camera), (2, "Ben", "left"));
        assert_eq!(card.minutes.len(), 2);
        assert_eq!((card.minutes[0].end_ns, card.minutes[0].noise_px), (60, None));
        let whole = &card.whole;
        assert_eq!((whole.end_ns, whole.analysed, whole.faces, whole.presence), (120, 400, 200, Some(0.5)));
        assert_eq!(
            (whole.yaw_beyond_30deg, whole.noise_px, whole.sharpness_p05),
            (Some(0.25), Some(0.25), Some(7.0))
        );
        assert_eq!(card.weak_blendshapes, BTreeMap::from([("cheekPuff".to_owned(), 0.03)]));
        let text = card.to_string();
        assert!(
            text.contains("P2 in left: present 50.0 %") && text.contains("sharpness not measured"),
            "{text}"
        );
    }

    #[test]
    fn sources_of_cards_are_told_from_others() {
        assert_eq!(validity_parts("P12 in left"), Some((12, "left")));
        for other in ["left", "machine", "Px in left", "12 in left", ""] {
            assert_eq!(validity_parts(other), None);
        }
    }
}
