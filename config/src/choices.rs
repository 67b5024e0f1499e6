//! Words to choose from: every key that takes one of a few names.
//!
//! Owns the enumerations of the format and the spelling of their names.

use serde_json::{Value as Json, json};
use toml::de::DeValue;
use youquanti_models::PixelFormat;

use crate::table::{Leaf, Misfit, nearest};

/// Declares an enumeration whose variants are written as words.
macro_rules! choice {
    ($(#[doc = $about:literal])+ $choice:ident { $($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $choice {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $choice {
            /// All of them, in the order in which they are documented.
            pub const ALL: &'static [$choice] = &[$(Self::$variant),+];

            /// As it is written in the file.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl Leaf for $choice {
            fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
                pick(value, Self::ALL, Self::name)
            }

            fn allowed() -> String {
                words(Self::ALL, Self::name)
            }

            fn schema() -> Json {
                json!({ "enum": Self::ALL.iter().map(|choice| choice.name()).collect::<Vec<_>>() })
            }
        }
    };
}

choice! {
    /// How the faces of a simulated camera are arranged.
    Layout {
        /// Rows and columns, as even as possible.
        Grid = "grid",
        /// Side by side.
        Row = "row",
        /// On paths that cross, so that faces pass in front of each other.
        Cross = "cross",
    }
}

choice! {
    /// Order of a preview's colours.
    PreviewFormat {
        /// Blue, green, red: as OpenCV has it.
        Bgr = "BGR24",
        /// Red, green, blue.
        Rgb = "RGB24",
    }
}

choice! {
    /// When a source that is no device gives its next frame.
    Pace {
        /// At its frame rate, as a camera would; slow consumers lose frames.
        Real = "real",
        /// As fast as it can; slow consumers lose frames.
        Fast = "fast",
        /// As fast as its slowest consumer: no frame is lost.
        Lossless = "lossless",
    }
}

choice! {
    /// The frequency at which lamps flicker.
    PowerLine {
        /// No filter.
        Off = "off",
        /// Europe, most of Africa, Asia and Australia.
        Hz50 = "50Hz",
        /// North America, parts of South America and Asia.
        Hz60 = "60Hz",
        /// The camera finds out.
        Auto = "auto",
    }
}

choice! {
    /// What the networks run on.
    Backend {
        /// NVIDIA GPUs where they and all they need are there, else the processor; log and session file say which and why.
        Auto = "auto",
        /// The processor.
        Cpu = "cpu",
        /// NVIDIA GPUs.
        Cuda = "cuda",
        /// NVIDIA GPUs through TensorRT.
        Tensorrt = "tensorrt",
        /// Nothing: no faces are sought.
        None = "none",
    }
}

choice! {
    /// How exactly networks are computed on a GPU.
    Precision {
        /// 24 bits of mantissa.
        Fp32 = "fp32",
        /// 11 bits in products, 24 in sums, where the GPU has that; faster.
        Tf32 = "tf32",
        /// 11 bits, and a smaller range of numbers.
        Fp16 = "fp16",
    }
}

choice! {
    /// What follows an error after which a program cannot use a GPU again.
    OnFatal {
        /// The processor takes the cameras of that GPU over.
        Cpu = "cpu",
        /// The session stops.
        Stop = "stop",
    }
}

choice! {
    /// The network that finds faces in the whole picture.
    Detector {
        /// YuNet: any input size, finds small faces.
        Yunet = "yunet",
        /// MediaPipe's detector for faces within 2 m; input 128 × 128.
        BlazefaceShort = "blazeface-short",
        /// MediaPipe's detector for faces within 5 m; input 192 × 192.
        BlazefaceFull = "blazeface-full",
    }
}

choice! {
    /// What follows a file that cannot be written to its end.
    OnRecordingFailure {
        /// The session stops, after saving what it can.
        Stop = "stop",
        /// The session goes on without a file, degraded.
        Continue = "continue",
    }
}

choice! {
    /// How the session file is compressed.
    Compression {
        /// Not at all.
        None = "none",
        /// Deflate with byte shuffling: smaller files for more processor time.
        Deflate = "deflate",
    }
}

choice! {
    /// What a camera's pictures are recorded as, in files beside the session's.
    VideoCodec {
        /// Not at all.
        None = "none",
        /// H.264, about as good as the picture.
        H264 = "h264",
        /// H.265: smaller files for more processor time.
        H265 = "h265",
        /// A JPEG a frame; of a camera that sends JPEG, its own pictures byte for byte.
        Mjpeg = "mjpeg",
        /// Every pixel as it was (FFV1); of a camera that sends JPEG, its own pictures byte for byte.
        Lossless = "lossless",
    }
}

choice! {
    /// Which streams are sent over LSL.
    LslProfile {
        /// This program's own: `PN_blendshapes`, `PN_headpose`, `PN_mesh`, `<camera>_frames`.
        Youquanti = "youquanti",
        /// Those of YouQuantiPy, for analysis code that exists: `PN_landmarks`, `camera_N_video_frames`, `CoModulation`.
        Youquantipy = "youquantipy",
        /// Both.
        Both = "both",
    }
}

choice! {
    /// The least important events that are logged.
    LogLevel {
        /// What ends something.
        Error = "error",
        /// What somebody should look at.
        Warn = "warn",
        /// What a session does.
        Info = "info",
        /// What each actor does.
        Debug = "debug",
        /// What happens to each frame.
        Trace = "trace",
    }
}

choice! {
    /// The form of the log's lines.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

impl Leaf for PixelFormat {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        pick(value, &Self::ALL, Self::name)
    }

    fn allowed() -> String {
        words(&Self::ALL, Self::name)
    }

    fn schema() -> Json {
        json!({ "enum": Self::ALL.map(Self::name) })
    }
}

/// The choice whose name was written.
fn pick<T: Copy>(value: &DeValue<'_>, all: &[T], name: fn(T) -> &'static str) -> Result<T, Misfit> {
    let text = value.as_str().ok_or(Misfit::Type)?;
    let found = all.iter().copied().find(|choice| name(*choice) == text);
    found.ok_or_else(|| match nearest(text, all.iter().map(|choice| name(*choice))) {
        Some(near) => Misfit::Near(near.to_owned()),
        None => Misfit::Value(format!("is not {}", words(all, name))),
    })
}

/// `"a", "b" or "c"`.
fn words<T: Copy>(all: &[T], name: fn(T) -> &'static str) -> String {
    let names: Vec<_> = all.iter().map(|choice| format!("{:?}", name(*choice))).collect();
    match names.as_slice() {
        [before @ .., last] if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        _ => names.join(", "),
    }
}
