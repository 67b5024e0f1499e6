//! Rules that tie several keys together.
//!
//! Each rule looks up what it needs by itself, so that a mistake elsewhere hides none of theirs; a
//! value that is itself wrong takes part in no rule. What one key may hold is in `format.rs`.

use toml::Spanned;
use toml::de::DeValue;
use youquanti_models::CameraName;

use crate::choices::{Backend, Detector, LslProfile, Pace, Precision, VideoCodec};
use crate::format::{LslConfig, PipelineConfig, SupervisionConfig, SynchronyConfig, find, table_label};
use crate::table::{At, Key, Leaf, Problems};
use crate::values::{DetectorSize, DeviceSelector, Gpus, Int, Ordinal, ParticipantName, Period};

/// Reports every rule that the document breaks.
pub(crate) fn check(root: &Spanned<DeValue<'_>>, problems: &mut Problems<'_>) {
    let mut rules = Rules { root, problems };
    rules.camera_names();
    rules.camera_devices();
    rules.picture_sizes();
    rules.detector_size();
    rules.workers();
    rules.lossless();
    rules.placement();
    rules.precision();
    rules.participants();
    rules.lsl();
    rules.synchrony();
    rules.backoff();
    rules.derived_only();
    rules.required();
}

struct Rules<'r, 'p> {
    root: &'r Spanned<DeValue<'r>>,
    problems: &'r mut Problems<'p>,
}

impl Rules<'_, '_> {
    /// Names become file names, and some file systems take "Left" and "left" for the same.
    fn camera_names(&mut self) {
        let names = self.of_cameras::<CameraName>("name");
        for (later, (path, name)) in names.iter().enumerate() {
            let same =
                |(_, other): &&(String, CameraName)| other.as_str().eq_ignore_ascii_case(name.as_str());
            let Some((first, other)) = names[..later].iter().find(same) else { continue };
            let line = self.line(first);
            let phrase = if other == name {
                format!("is the name of another camera too, on line {line}")
            } else {
                format!(
                    "differs from {:?} on line {line} only in upper and lower case: their files would be the same",
                    other.as_str()
                )
            };
            self.report(path, &phrase, "give every camera a name of its own");
        }
    }

    /// A device can be opened once.
    fn camera_devices(&mut self) {
        let devices = self.of_cameras::<DeviceSelector>("v4l2.device");
        for (later, (path, device)) in devices.iter().enumerate() {
            let Some((first, _)) = devices[..later].iter().find(|(_, other)| other == device) else {
                continue;
            };
            let phrase = format!("is the device of another camera too, on line {}", self.line(first));
            self.report(path, &phrase, "choose another device: `youquanti cameras` lists them");
        }
    }

    /// A width alone would be combined with a height that nobody chose.
    fn picture_sizes(&mut self) {
        for camera in 0..self.cameras() {
            for source in ["scene", "v4l2"] {
                for (key, partner) in [("width", "height"), ("height", "width")] {
                    let path = |key| format!("camera[{camera}].{source}.{key}");
                    if find(self.root, &path(key)).is_some() && find(self.root, &path(partner)).is_none() {
                        self.report(
                            &path(key),
                            &format!("stands without {partner}"),
                            &format!("add {partner} = …"),
                        );
                    }
                }
            }
        }
    }

    /// Only YuNet has a choice of size, and who chooses the size leaves nothing to be derived.
    fn detector_size(&mut self) {
        let Some(DetectorSize::Width(width)) = self.written("pipeline.detector_size") else { return };
        match self.written("pipeline.detector") {
            None | Some(Detector::Yunet) => {
                let phrase =
                    format!("has no effect: detector_size = {} is what it would decide", width.get());
                if find(self.root, "pipeline.smallest_face").is_some() {
                    self.report("pipeline.smallest_face", &phrase, "remove one of the two");
                }
            }
            Some(fixed) => {
                let phrase = format!("does not go with detector = {:?}, whose size is fixed", fixed.name());
                self.report("pipeline.detector_size", &phrase, "remove it, or write detector = \"yunet\"");
            }
        }
    }

    /// A worker without a camera has nothing to do.
    fn workers(&mut self) {
        let cameras = self.cameras();
        let Some(workers) = self.written::<Int<1, 16>>("pipeline.workers") else { return };
        if workers.get() as usize > cameras.max(1) {
            let phrase = format!("is more than there are cameras ({cameras})");
            self.report(
                "pipeline.workers",
                &phrase,
                &format!("write a whole number from 1 to {}", cameras.max(1)),
            );
        }
    }

    /// A source that waits for its consumers would wait for ever for a pipeline that takes no frames.
    fn lossless(&mut self) {
        if self.written("pipeline.backend") != Some(Backend::None) {
            return;
        }
        for camera in 0..self.cameras() {
            for source in ["scene", "file"] {
                let path = format!("camera[{camera}].{source}.pace");
                if self.written(&path) == Some(Pace::Lossless) {
                    let phrase = "waits for a pipeline, and backend = \"none\" has none";
                    self.report(&path, phrase, "write pace = \"real\" or \"fast\", or another backend");
                }
            }
        }
    }

    /// A camera is placed on a GPU that is used.
    fn placement(&mut self) {
        let devices = "gpu.devices";
        let Some(Gpus::Listed(listed)) = self.written(devices) else { return };
        for (path, gpu) in self.of_cameras::<Ordinal>("gpu") {
            if !listed.contains(&gpu) {
                let phrase = format!("is none of the devices of [gpu], on line {}", self.line(devices));
                self.report(&path, &phrase, "choose one of those, or add it there");
            }
        }
    }

    /// What was measured decides what is offered.
    fn precision(&mut self) {
        let precision = "gpu.precision";
        if self.written(precision) == Some(Precision::Fp16)
            && self.written("pipeline.backend") != Some(Backend::Tensorrt)
        {
            let phrase =
                "goes with backend = \"tensorrt\" only: ONNX Runtime's CUDA kernels gained nothing from it";
            self.report(
                precision,
                phrase,
                "write \"tf32\" or \"fp32\", or backend = \"tensorrt\" in [pipeline]",
            );
        }
    }

    /// Nobody is expected who cannot be seen, nobody is named who is not expected, no name twice.
    fn participants(&mut self) {
        let expected =
            self.written::<Int<1, 64>>("participants.expected").map(|expected| expected.get() as usize);
        let max_faces = self.written_or::<Int<1, 16>>("pipeline.max_faces", PipelineConfig::KEYS);
        if let (Some(expected), Some(max_faces)) = (expected, max_faces) {
            let most = max_faces.get() as usize * self.cameras();
            if expected > most && most > 0 {
                let phrase = format!(
                    "is more than can be seen: max_faces = {} in each camera, {most} in all",
                    max_faces.get()
                );
                self.report(
                    "participants.expected",
                    &phrase,
                    "raise max_faces of [pipeline], or expect fewer",
                );
            }
        }
        let count = self.count("participants.names");
        if let Some(expected) = expected.filter(|expected| count > *expected) {
            let phrase = format!("has {count} names for {expected} participants");
            self.report("participants.names", &phrase, &format!("remove names, or write expected = {count}"));
        }
        let paths: Vec<_> = (0..count).map(|index| format!("participants.names[{index}]")).collect();
        let names: Vec<Option<ParticipantName>> = paths.iter().map(|path| self.written(path)).collect();
        for (later, name) in names.iter().enumerate().filter(|(_, name)| name.is_some()) {
            if let Some(first) = names[..later].iter().position(|other| other == name) {
                self.report(&paths[later], &format!("is names[{first}] too"), "write each name once");
            }
        }
    }

    /// Streams are made for those who are expected; what goes into YouQuantiPy's streams needs them.
    fn lsl(&mut self) {
        if self.written("lsl.enabled") == Some(true) && find(self.root, "participants.expected").is_none() {
            let phrase = "needs to know how many participants there are: their streams are made at the start";
            self.report("lsl.enabled", phrase, "add expected = … to [participants]");
        }
        if self.written("lsl.quality") != Some(true) {
            return;
        }
        let quality = "lsl.quality";
        match self.written_or("lsl.profile", LslConfig::KEYS) {
            Some(LslProfile::Youquanti) => {
                let phrase = "is of YouQuantiPy's streams, which profile = \"youquanti\" does not send";
                self.report(quality, phrase, "remove it, or write profile = \"youquantipy\" or \"both\"");
            }
            _ if self.written_or("lsl.mesh", LslConfig::KEYS) == Some(false) => {
                self.report(quality, "does not go without the mesh", "add mesh = true");
            }
            _ => {}
        }
    }

    /// Pairs are made of people who are expected, and chance is looked for in a past that holds what is compared.
    fn synchrony(&mut self) {
        let enabled = "synchrony.enabled";
        if self.written(enabled) == Some(true) {
            let remedy = "write how many people take part: expected = 2 or more in [participants]";
            match self.written::<Int<1, 64>>("participants.expected").map(Int::get) {
                None => self.report(enabled, "needs participants.expected", remedy),
                Some(1) => self.report(enabled, "needs two participants, and one is expected", remedy),
                Some(_) => {}
            }
        }
        let keys = SynchronyConfig::KEYS;
        let (Some(window), Some(max_lag), Some(history)) = (
            self.written_or::<Period<1_000, 60_000>>("synchrony.window", keys),
            self.written_or::<Period<0, 10_000>>("synchrony.max_lag", keys),
            self.written_or::<Period<2_000, 600_000>>("synchrony.history", keys),
        ) else {
            return;
        };
        let least = window.get() + 2 * max_lag.get();
        if history.get() < least {
            let phrase = format!("is too little: window and twice max_lag are {} s", least.as_secs_f64());
            let written = ["synchrony.history", "synchrony.window", "synchrony.max_lag"]
                .into_iter()
                .find(|path| find(self.root, path).is_some());
            if let Some("synchrony.history") = written {
                self.report("synchrony.history", &phrase, "lengthen it, ten times that or more");
            } else if let Some(path) = written {
                let phrase = format!("does not fit into history = \"{history}\"");
                self.report(path, &phrase, "shorten it, or lengthen history");
            }
        }
    }

    /// Waits between restarts grow from the first to the longest.
    fn backoff(&mut self) {
        let (first, longest) = ("supervision.backoff_first", "supervision.backoff_longest");
        let keys = SupervisionConfig::KEYS;
        let (Some(first_wait), Some(longest_wait)) = (
            self.written_or::<Period<10, 60_000>>(first, keys),
            self.written_or::<Period<10, 600_000>>(longest, keys),
        ) else {
            return;
        };
        if first_wait.get() <= longest_wait.get() {
            return;
        }
        if find(self.root, first).is_some() {
            self.report(first, &format!("is longer than backoff_longest = \"{longest_wait}\""), "shorten it");
        } else {
            self.report(longest, &format!("is shorter than backoff_first = \"{first_wait}\""), "lengthen it");
        }
    }

    /// Who says that no picture reaches a disk asks for no video.
    fn derived_only(&mut self) {
        if self.written("recording.derived_only") != Some(true) {
            return;
        }
        let cameras = (0..self.cameras()).map(|camera| format!("camera[{camera}].video"));
        for path in std::iter::once("recording.video.codec".to_owned()).chain(cameras) {
            if self.written::<VideoCodec>(&path).is_some_and(|codec| codec != VideoCodec::None) {
                let phrase = format!(
                    "does not go with derived_only = true, on line {}",
                    self.line("recording.derived_only")
                );
                self.report(&path, &phrase, "write \"none\" or remove it, or remove derived_only");
            }
        }
    }

    /// Faces are counted against the people that are expected, and streams are only seen where there is LSL.
    fn required(&mut self) {
        let faces = "recording.require_faces";
        if self.written(faces) == Some(true) {
            if self.written::<Int<1, 64>>("participants.expected").is_none() {
                let remedy = "write how many people take part: expected = 2 or so in [participants]";
                self.report(faces, "needs participants.expected", remedy);
            }
            if self.written("pipeline.backend") == Some(Backend::None) {
                let phrase = "needs a pipeline, and backend = \"none\" seeks no faces";
                self.report(faces, phrase, "choose another backend in [pipeline], or remove it");
            }
        }
        if self.written("lsl.enabled") != Some(true) {
            for place in 0..self.count("lsl.markers") {
                let path = format!("lsl.markers[{place}].required");
                if self.written(&path) == Some(true) {
                    let remedy = "write enabled = true in [lsl], or remove it";
                    self.report(&path, "needs LSL, which is switched off", remedy);
                }
            }
        }
    }

    /// How many cameras the file has.
    fn cameras(&self) -> usize {
        self.count("camera")
    }

    /// Length of a list; 0 when it is not there.
    fn count(&self, path: &str) -> usize {
        find(self.root, path).and_then(|value| value.get_ref().as_array()).map_or(0, |list| list.len())
    }

    /// A key of all cameras that have it, with its path.
    fn of_cameras<T: Leaf>(&self, key: &str) -> Vec<(String, T)> {
        let paths = (0..self.cameras()).map(|index| format!("camera[{index}].{key}"));
        paths.filter_map(|path| self.written(&path).map(|value| (path, value))).collect()
    }

    /// The value at a path, if it is there and right.
    fn written<T: Leaf>(&self, path: &str) -> Option<T> {
        find(self.root, path).and_then(|value| T::parse(value.get_ref()).ok())
    }

    /// The value at a path, or the default that `keys`, its table's, have for it; `None` when it is wrong.
    fn written_or<T: Leaf>(&self, path: &str, keys: &[Key]) -> Option<T> {
        if find(self.root, path).is_some() {
            return self.written(path);
        }
        let (_, name) = path.rsplit_once('.')?;
        let default = keys.iter().find(|key| key.name == name)?.default?;
        T::parse(DeValue::parse(default).ok()?.get_ref()).ok()
    }

    fn line(&self, path: &str) -> usize {
        find(self.root, path).map_or(1, |value| self.problems.line(value))
    }

    /// Reports the value at a path; `phrase` ends a sentence that begins with key and value.
    fn report(&mut self, path: &str, phrase: &str, remedy: &str) {
        let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
        if let Some(value) = find(self.root, path) {
            let table = &table_label(self.root, table);
            self.problems.misfit(At { table, key, value }, phrase, None, remedy.to_owned());
        }
    }
}
