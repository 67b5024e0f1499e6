//! What the streams are: name, type, channels, and the description that travels with each.
//!
//! Owns every fact that a reader of a stream needs: frame of coordinates, camera, networks, and how stamps relate to light;
//! `channels.rs` has the channels. A further stream is one more [`StreamKey`] and one more entry of [`declare`].

use std::collections::BTreeMap;
use std::time::Duration;

use youquanti_lsl::{Declaration, Element, Format};
use youquanti_models::CameraId;

use super::LslPlan;
use super::channels::{self, Channel};
use crate::calibration::StampOffset;
use crate::plane::DataPlane;
use crate::session::SessionPlan;
use crate::session_file::{LIKENESS_CHANNELS, LIKENESS_COLUMNS};
use crate::synchrony::SynchronyOptions;

/// A stream of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StreamKey {
    /// `PN_blendshapes` of a participant, by index from 0.
    Blendshapes(u16),
    /// `PN_headpose`.
    HeadPose(u16),
    /// `PN_mesh`.
    Mesh(u16),
    /// `PN_landmarks`, YouQuantiPy's.
    Landmarks(u16),
    /// `PN_pose`, YouQuantiPy's.
    Pose(u16),
    /// `<camera>_frames`.
    Frames(CameraId),
    /// `camera_N_video_frames`, YouQuantiPy's.
    VideoFrames(CameraId),
    /// `Synchrony`.
    Synchrony,
    /// `CoModulation`, YouQuantiPy's.
    Comodulation,
    /// `youquanti_events`.
    Events,
}

/// A stream's description cannot change, and it lives as long as the session.
const RENAMED_BY: &str = "the name is that of the session's start; from an event participant_renamed of the stream youquanti_events on it is the \
                          event's detail.name";

/// Axes of everything in metres.
const CAMERA_AXES: &str = "camera: right-handed, x right in the picture, y up, the camera looks along -z; metres; the distance holds for a \
                           vertical field of view of 63 degrees; quaternion A + Bi + Cj + Dk turns the canonical face into the camera's axes";

/// Axes of the mesh.
const PICTURE_AXES: &str = "pixels of the camera picture: x right, y down, (0, 0) the centre of the first pixel; z in the same unit, negative is \
                            nearer than the middle of the face";

/// Axes of YouQuantiPy's pose.
const NORMALISED_BODY_AXES: &str = "as MediaPipe normalises: x and z in widths of the camera picture, y in heights; x right, y down; z 0 at the mid-hip, \
                                    negative is nearer";

/// Axes of YouQuantiPy's mesh.
const NORMALISED_AXES: &str = "as MediaPipe normalises: x and z in widths of the camera picture, y in heights; x right, y down, z negative is nearer";

/// The home camera of a participant that has not been seen yet: of C cameras, the j-th person of camera k is P(1 + k + jC).
pub(super) fn first_home(participant: u16, cameras: usize) -> CameraId {
    CameraId(u16::try_from(usize::from(participant) % cameras.max(1)).unwrap_or(0))
}

/// All streams of a session whose cameras are open and whose pipelines are built.
pub(super) fn declare(
    session: &SessionPlan,
    plan: &LslPlan,
    plane: &DataPlane,
    host: &str,
) -> BTreeMap<StreamKey, Declaration> {
    let facts = Facts { session, plane, host };
    let participants = session.expected_participants.unwrap_or(0);
    let mut streams = BTreeMap::new();
    for participant in 0..participants {
        let number = participant + 1;
        if plan.native {
            let name = format!("P{number}_blendshapes");
            streams.insert(
                StreamKey::Blendshapes(participant),
                facts.person(&name, "Face", participant, channels::blendshapes(), None),
            );
            let name = format!("P{number}_headpose");
            let stream = facts.person(&name, "MoCap", participant, channels::head_pose(), Some(CAMERA_AXES));
            streams.insert(StreamKey::HeadPose(participant), stream);
            if plan.mesh {
                let name = format!("P{number}_mesh");
                let stream = facts.person(
                    &name,
                    "MoCap",
                    participant,
                    channels::mesh("pixels").collect(),
                    Some(PICTURE_AXES),
                );
                streams.insert(StreamKey::Mesh(participant), stream);
            }
        }
        if plan.youquantipy {
            let name = format!("P{number}_landmarks");
            let axes = plan.mesh.then_some(NORMALISED_AXES);
            let stream = facts.person(&name, "Landmark", participant, channels::landmarks(plan), axes);
            streams.insert(StreamKey::Landmarks(participant), stream);
            if plane.pose().is_some() {
                streams.insert(
                    StreamKey::Pose(participant),
                    facts.body(&format!("P{number}_pose"), participant),
                );
            }
        }
    }
    for camera in plane.camera_ids() {
        if plan.native {
            let name = format!("{}_frames", plane.camera(camera).plan.name);
            streams.insert(
                StreamKey::Frames(camera),
                facts.camera(&name, "VideoExternal", camera, channels::FRAMES),
            );
        }
        if plan.youquantipy {
            let name = format!("camera_{}_video_frames", camera.0);
            streams.insert(
                StreamKey::VideoFrames(camera),
                facts.camera(&name, "VideoSync", camera, channels::VIDEO_FRAMES),
            );
        }
    }
    if let Some(options) = &session.synchrony {
        streams.insert(StreamKey::Synchrony, facts.synchrony(options));
    }
    if plan.youquantipy && participants >= 2 {
        streams.insert(StreamKey::Comodulation, facts.comodulation());
    }
    streams.insert(StreamKey::Events, facts.events());
    streams
}

/// What descriptions are made from.
struct Facts<'a> {
    session: &'a SessionPlan,
    plane: &'a DataPlane,
    host: &'a str,
}

impl Facts<'_> {
    /// A stream of what is seen of a participant's face, with the rate of its home camera.
    fn person(
        &self,
        name: &str,
        kind: &str,
        participant: u16,
        channels: Vec<Channel>,
        axes: Option<&str>,
    ) -> Declaration {
        self.participant(name, kind, participant, channels, axes, self.networks())
    }

    /// The same of their body.
    fn body(&self, name: &str, participant: u16) -> Declaration {
        let models = self.plane.pose().map(|plan| models(&plan.networks).collect()).unwrap_or_default();
        let networks = Element::tree("pipeline", models);
        self.participant(name, "Pose", participant, channels::pose(), Some(NORMALISED_BODY_AXES), networks)
    }

    fn participant(
        &self,
        name: &str,
        kind: &str,
        participant: u16,
        channels: Vec<Channel>,
        axes: Option<&str>,
        networks: Element,
    ) -> Declaration {
        let id = format!("P{}", participant + 1);
        let home = first_home(participant, self.plane.cameras.len());
        let given = self.session.participant_names.get(usize::from(participant)).unwrap_or(&id);
        let mut desc = vec![Element::tree(
            "participant",
            vec![
                Element::text("id", &id),
                Element::text("name", given),
                Element::text("renamed_by", RENAMED_BY),
            ],
        )];
        desc.extend(axes.map(|axes| Element::text("coordinate_frame", axes)));
        desc.push(self.synchronization(home));
        desc.push(self.camera_element(home));
        desc.push(networks);
        let rate = self.plane.camera(home).opened().map_or(0.0, |opened| opened.info.fps);
        self.declaration(name, kind, rate, Format::Float32, channels, desc)
    }

    /// A stream of what is known of each frame of a camera.
    fn camera(
        &self,
        name: &str,
        kind: &str,
        camera: CameraId,
        channels: [(&'static str, &'static str, &'static str); 4],
    ) -> Declaration {
        let desc = vec![self.synchronization(camera), self.camera_element(camera)];
        self.declaration(name, kind, 0.0, Format::Double64, channels.map(channels::owned).to_vec(), desc)
    }

    /// Windows of synchrony, stamped with their end: `P1-P2_smile_r`, `…_lag_s`, `…_p`, `…_common` of each pair and group.
    fn synchrony(&self, options: &SynchronyOptions) -> Declaration {
        let mut channels = Vec::new();
        for [first, second] in options.pairs() {
            for group in &options.groups {
                for (column, (unit, kind)) in LIKENESS_COLUMNS.iter().zip(LIKENESS_CHANNELS) {
                    channels.push((format!("{first}-{second}_{}_{column}", group.name), unit, kind));
                }
            }
        }
        let groups = options.groups.iter().map(|group| {
            let names: Vec<_> = group.names().collect();
            Element::tree(
                "group",
                vec![Element::text("name", &group.name), Element::text("blendshapes", names.join(" "))],
            )
        });
        let seconds = |name: &str, length: Duration| Element::text(name, length.as_secs_f64());
        let method = vec![
            seconds("window", options.window),
            seconds("step", options.step),
            seconds("max_lag", options.max_lag),
            seconds("history", options.history),
            Element::text("shifts", options.shifts),
            Element::text("positive_lag", "the second of the pair follows the first"),
            Element::tree("groups", groups.collect()),
        ];
        let skips = vec![Element::text("can_drop_samples", true)];
        let desc = vec![Element::tree("method", method), Element::tree("synchronization", skips)];
        let rate = options.step.as_secs_f64().recip();
        self.declaration("Synchrony", "Synchrony", rate, Format::Float32, channels, desc)
    }

    /// A row for each frame of the home camera of P1, at its stamp.
    fn comodulation(&self) -> Declaration {
        let home = first_home(0, self.plane.cameras.len());
        let channels = channels::scores();
        let rate = self.plane.camera(home).opened().map_or(0.0, |opened| opened.info.fps);
        let desc = vec![self.synchronization(home)];
        self.declaration("CoModulation", "Comodulation", rate, Format::Float32, channels.collect(), desc)
    }

    fn events(&self) -> Declaration {
        let channel = channels::owned(channels::EVENT);
        self.declaration("youquanti_events", "Markers", 0.0, Format::Text, vec![channel], Vec::new())
    }

    fn declaration(
        &self,
        name: &str,
        kind: &str,
        rate: f64,
        format: Format,
        channels: Vec<Channel>,
        mut desc: Vec<Element>,
    ) -> Declaration {
        let channel = |(label, unit, kind): &Channel| {
            Element::tree(
                "channel",
                vec![Element::text("label", label), Element::text("unit", unit), Element::text("type", kind)],
            )
        };
        desc.insert(0, Element::tree("channels", channels.iter().map(channel).collect()));
        desc.push(Element::tree(
            "acquisition",
            vec![
                Element::text("manufacturer", "YouQuanti"),
                Element::text("software", &self.session.recording.software),
                Element::text("session", &self.session.recording.session_name),
                Element::text("clock", "CLOCK_MONOTONIC of the host, which is lsl_local_clock()"),
            ],
        ));
        Declaration {
            name: name.to_owned(),
            kind: kind.to_owned(),
            channels: channels.len(),
            rate,
            format,
            source_id: format!("{}_{}_{name}", self.host, self.session.recording.session_name),
            desc,
        }
    }

    /// How stamps relate to light, in the words of XDF's specification: readers subtract `offset_mean` from the stamps.
    fn synchronization(&self, camera: CameraId) -> Element {
        let measured = self.plane.camera(camera).opened().and_then(|opened| opened.stamp_offset);
        let StampOffset { mean_s, rms_s, median_s, p05_s, p95_s, .. } = measured.unwrap_or(StampOffset {
            mean_s: 0.0,
            rms_s: 0.0,
            median_s: 0.0,
            p05_s: 0.0,
            p95_s: 0.0,
            count: 0,
            measured_at_utc_ns: 0,
        });
        let figure = |name: &str, value: f64| Element::text(name, format!("{value:.9}"));
        Element::tree(
            "synchronization",
            vec![
                figure("offset_mean", mean_s),
                figure("offset_rms", rms_s),
                figure("offset_median", median_s),
                figure("offset_5_centile", p05_s),
                figure("offset_95_centile", p95_s),
                Element::text("can_drop_samples", true),
                Element::text("calibrated", measured.is_some()),
            ],
        )
    }

    fn camera_element(&self, camera: CameraId) -> Element {
        let line = self.plane.camera(camera);
        let mut facts = vec![Element::text("name", &line.plan.name), Element::text("index", camera.0)];
        if let Some(opened) = line.opened() {
            let (info, layout) = (&opened.info, &opened.layout);
            facts.extend([
                Element::text("device", &info.name),
                Element::text("driver", &info.driver),
                Element::text("id", &info.id),
                Element::text("width", layout.width),
                Element::text("height", layout.height),
                Element::text("pixel_format", layout.format.name()),
                Element::text("frame_rate", info.fps),
                Element::text("stamps", info.stamps.meaning()),
            ]);
        }
        Element::tree("camera", facts)
    }

    fn networks(&self) -> Element {
        let mut facts = Vec::new();
        if let Some(info) = self.plane.backend() {
            facts.extend([
                Element::text("backend", info.backend),
                Element::text("device", &info.device),
                Element::text("runtime", &info.runtime),
            ]);
            facts.extend(models(&info.models));
        }
        Element::tree("pipeline", facts)
    }
}

/// Id and SHA-256 of each network.
fn models(models: &[(String, String)]) -> impl Iterator<Item = Element> {
    models.iter().map(|(id, sha256)| {
        Element::tree("model", vec![Element::text("id", id), Element::text("sha256", sha256)])
    })
}
