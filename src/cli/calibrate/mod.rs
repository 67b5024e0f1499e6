//! `youquanti calibrate`: how far a camera's stamps are from the light, by a coded screen that it films.

mod marker;
mod screen;

use std::io::{self, BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValuesParser;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use youquanti::actors::calibration::code;
use youquanti::actors::calibration::estimate::Estimate;
use youquanti::actors::capture::{DeviceInfo, StampSource};
use youquanti::actors::clock::SystemClock;
use youquanti::calibrate::{self, CalibrateError, Camera, Film, Progress};
use youquanti::models::{Clock, PixelFormat};
use youquanti::offsets::{Offsets, StoredOffset};
use youquanti::{Config, ConfigErrors};
use youquanti_config::{CameraConfig, Period};

use self::marker::Marker;
use self::screen::Screen;
use super::{Exit, fail, fail_config};

pub(crate) const AFTER_HELP: &str = "\
How: make the terminal fill the screen, point the camera at it so that it fills the picture, fix the camera's
exposure (automatic exposure changes the result), darken the room. The terminal then flashes a code of black
and white, at most 2.35 flashes a second; the camera films it, and what it saw is compared with what was shown when.

The offset is stamp minus light, at the middle of the exposure: positive when stamps are late. Stamps are stored as
the device gives them; readers subtract the offset. It also contains the time from writing to the terminal until the
monitor lights up, which cannot be told from the camera's own: often 10 to 50 ms. Give it with --screen-delay if you
know it. With a rolling shutter the offset is that of the middle line of the flashing part of the picture.
How finely: about the time between frames over the number of changes (2.3 a second), below 1 ms after a minute at 25 fps.

The result is stored with the device, size, format and rate in $XDG_DATA_HOME/youquanti/offsets.toml (default
~/.local/share); `youquanti run` then records it with every camera that it was measured for.

Examples:
  youquanti calibrate anna --config experiment.toml
  youquanti calibrate usb-0000:00:14.0-1 --width 1280 --height 720 --fps 30 --format MJPG
  youquanti calibrate anna --config experiment.toml --screen-delay 12.5ms --duration 2min";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A camera's name in the configuration, or without --config a device as `youquanti cameras` shows it.
    camera: String,
    /// The configuration that the camera is part of; its size, format, rate and controls are used.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["width", "height", "fps", "format"])]
    config: Option<PathBuf>,
    /// Width of the picture in pixels (default 1280).
    #[arg(long, value_name = "PIXELS", requires = "height")]
    width: Option<i64>,
    /// Height of the picture in pixels (default 720).
    #[arg(long, value_name = "PIXELS", requires = "width")]
    height: Option<i64>,
    /// Frames a second (default 30).
    #[arg(long)]
    fps: Option<f64>,
    /// Format in which the camera sends (default MJPG).
    #[arg(long, value_parser = PossibleValuesParser::new(PixelFormat::ALL.map(PixelFormat::name)))]
    format: Option<String>,
    /// How long to film, 15s to 1h. Longer is finer.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    duration: Period<15_000, 3_600_000>,
    /// What flashes.
    #[arg(long, value_enum, default_value_t = ScreenChoice::Terminal)]
    screen: ScreenChoice,
    /// The screen's own delay, from writing until it lights up, e.g. 12.5ms; it is subtracted.
    #[arg(long, value_name = "TIME", value_parser = screen_delay)]
    screen_delay: Option<Duration>,
    /// Send each change of the terminal as a marker over Lab Streaming Layer, too: "white" or "black", stream youquanti_calibration.
    #[arg(long)]
    lsl: bool,
    /// Write stamp and brightness of every frame to this file as CSV, to see what the camera saw.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Do not ask before the terminal flashes.
    #[arg(long)]
    yes: bool,
    /// Print the result as JSON; progress stays on standard error.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScreenChoice {
    /// This terminal, by standard error.
    Terminal,
    /// Another program on this machine, which shows the code of `youquanti::actors::calibration::code`.
    External,
}

fn screen_delay(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix("ms").unwrap_or_default().trim().parse::<f64>();
    match number {
        Ok(number) if (0.0..=1000.0).contains(&number) => Ok(Duration::from_secs_f64(number / 1e3)),
        _ => Err("expected 0ms to 1000ms, e.g. 12.5ms".to_owned()),
    }
}

pub(crate) fn execute(args: &Args) -> Exit {
    let camera = match camera(args) {
        Ok(camera) => camera,
        Err(NoCamera::Config(errors)) => return fail_config(Exit::Usage, &errors, args.json),
        Err(NoCamera::Unknown { names }) => {
            eprintln!("error: no camera {:?} in the configuration, which has {names}", args.camera);
            return Exit::Usage;
        }
    };
    // Before the time of people is spent: there is a place, and what is stored there can be read.
    let path = match Offsets::path() {
        Ok(path) => path,
        Err(error) => return fail(Exit::Usage, &error),
    };
    if let Err(error) = Offsets::read(&path) {
        return fail(Exit::Missing, &error);
    }
    if args.lsl && args.screen == ScreenChoice::External {
        eprintln!(
            "error: --lsl sends the changes of this terminal; with --screen external another program shows the code"
        );
        return Exit::Usage;
    }
    if args.screen == ScreenChoice::Terminal {
        if !io::stderr().is_terminal() {
            eprintln!("error: standard error is no terminal that could flash: see --screen");
            return Exit::Usage;
        }
        if !args.yes && !confirm(args) {
            eprintln!("nothing was measured");
            return Exit::Usage;
        }
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut camera = match Camera::open(&camera, Arc::clone(&clock)) {
        Ok(camera) => camera,
        Err(error @ CalibrateError::NotLive { .. }) => return fail(Exit::Usage, &error),
        Err(error @ CalibrateError::Capture { .. }) => return fail(Exit::Missing, &error),
        Err(error @ CalibrateError::Runtime(_)) => return fail(Exit::Internal, &error),
    };
    let marker = match args.lsl.then(Marker::new).transpose() {
        Ok(marker) => marker,
        Err(error) => return fail(Exit::Missing, error.as_ref()),
    };
    let film = match film(args, &mut camera, &clock, marker) {
        Ok(Some(film)) => film,
        Ok(None) => {
            eprintln!("interrupted: nothing was measured");
            return Exit::Degraded;
        }
        Err(error) => return fail(Exit::Degraded, error.as_ref()),
    };
    if let Some(path) = &args.save
        && let Err(error) = film.save(path)
    {
        eprintln!("warning: {} cannot be written: {error}", path.display());
    }
    let estimate = match film.estimate(clock.utc()) {
        Ok(estimate) => estimate,
        Err(error) => {
            if args.json {
                outln!("{:#}", json!({ "error": error.to_string() }));
            }
            return fail(Exit::Degraded, &error);
        }
    };
    let stored = calibrate::to_store(camera.describe(), &estimate, args.screen_delay);
    if args.json {
        outln!("{:#}", to_json(args, camera.describe(), &film, &estimate, &stored));
    } else {
        out!("{}", to_text(args, camera.describe(), &film, &estimate, &stored));
    }
    if let Err(error) = Offsets::store(&path, stored) {
        return fail(Exit::Degraded, &error);
    }
    eprintln!("stored in {}", path.display());
    Exit::Fine
}

enum NoCamera {
    Config(ConfigErrors),
    Unknown { names: String },
}

/// The camera of the configuration, or one that has nothing but a device and a mode.
fn camera(args: &Args) -> Result<CameraConfig, NoCamera> {
    let (config, name) = match &args.config {
        Some(path) => (Config::load(path), args.camera.as_str()),
        None => (Config::from_toml(&config_of_device(args), "the command line as a configuration"), "camera"),
    };
    let cameras = config.map_err(NoCamera::Config)?.cameras;
    let names: Vec<_> = cameras.iter().map(|camera| format!("{:?}", camera.name.as_str())).collect();
    let named = cameras.into_iter().find(|camera| camera.name.as_str() == name);
    named.ok_or_else(|| NoCamera::Unknown { names: names.join(", ") })
}

fn config_of_device(args: &Args) -> String {
    let mut source = toml::Table::from_iter([("device".to_owned(), args.camera.as_str().into())]);
    let whole = [("width", args.width), ("height", args.height)];
    source.extend(whole.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))));
    source.extend(args.fps.map(|fps| ("fps".to_owned(), fps.into())));
    source.extend(args.format.as_deref().map(|format| ("format".to_owned(), format.into())));
    format!("version = 1\n[[camera]]\nname = \"camera\"\n[camera.v4l2]\n{source}")
}

/// Warns of the flashing, says how to set up, and asks.
fn confirm(args: &Args) -> bool {
    let flashes = 1.0 / (2.0 * code::BIT.as_secs_f64());
    eprint!(
        "WARNING: this terminal will flash black and white for {}, up to {flashes:.2} times a second.\n\
         Do not go on while anybody who is sensitive to flashing light (photosensitive epilepsy) can see it.\n\n\
         Make the terminal fill the screen, and point the camera at it so that it fills the picture.\n\
         Ctrl-C ends it. Go on? [y/N] ",
        args.duration
    );
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Films the screen; `None` when a signal broke it off.
fn film(
    args: &Args,
    camera: &mut Camera,
    clock: &Arc<dyn Clock>,
    marker: Option<Marker>,
) -> Result<Option<Film>, Box<dyn std::error::Error>> {
    let broken_off = Arc::<AtomicBool>::default();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&broken_off))?;
    }
    let screen = match args.screen {
        ScreenChoice::Terminal => Some(Screen::start(io::stderr(), Arc::clone(clock), marker)?),
        ScreenChoice::External => {
            eprintln!("filming the code for {}: another program must show it", args.duration);
            None
        }
    };
    let film = camera.film(args.duration.get(), |progress| {
        if let Some(progress) = progress {
            let line = progress_line(&progress, args.duration.get());
            match &screen {
                Some(screen) => screen.say(format!("{line}   Ctrl-C ends it")),
                None => eprintln!("{line}"),
            }
        }
        if broken_off.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let late = screen.map_or(Ok(Duration::ZERO), Screen::end);
    let film = film?;
    let late = late?.as_secs_f64() * 1e3;
    if film.is_some() && late > 1.0 {
        eprintln!(
            "warning: changes were written to the terminal {late:.1} ms late in the mean; the offset contains that"
        );
    }
    Ok(film)
}

fn progress_line(progress: &Progress, duration: Duration) -> String {
    format!(
        "{:.0} of {:.0} s, {} frames, contrast {:.0} of 255, {} changes of the screen",
        progress.elapsed.as_secs_f64(),
        duration.as_secs_f64(),
        progress.frames,
        progress.contrast,
        progress.changes
    )
}

fn stamps_text(stamps: StampSource) -> &'static str {
    match stamps {
        StampSource::DriverExposureStart => "the driver's, at the start of the exposure",
        StampSource::DriverFrameEnd => "the driver's, at the end of the frame",
        StampSource::Computed => "computed from the rate",
        StampSource::Receipt => "the time of receipt",
    }
}

fn to_text(
    args: &Args,
    info: &DeviceInfo,
    film: &Film,
    estimate: &Estimate,
    stored: &StoredOffset,
) -> String {
    let ms = |seconds: f64| seconds * 1e3;
    let (offset, layout) = (&stored.known.offset, info.layout);
    let mut text = format!(
        "\n{}: {} ({}), {}x{} {} at {} fps; stamps are {}\n\n",
        args.camera,
        info.name,
        info.id,
        layout.width,
        layout.height,
        layout.format.name(),
        info.fps,
        stamps_text(info.stamps)
    );
    text.push_str(&format!(
        "offset {:.2} ms ± {:.2} ms: stamps are {} than the light at the middle of the exposure\n",
        ms(offset.mean_s),
        ms(stored.standard_error_s),
        if offset.mean_s < 0.0 { "earlier" } else { "later" }
    ));
    text.push_str(&format!(
        "  spread: {:.2} ms rms; median {:.2} ms, 5 % below {:.2} ms, 5 % above {:.2} ms; {} changes of the screen\n",
        ms(offset.rms_s),
        ms(offset.median_s),
        ms(offset.p05_s),
        ms(offset.p95_s),
        offset.count
    ));
    text.push_str(&format!(
        "  exposure {:.1} ms ± {:.1} ms; contrast {:.0} of 255 levels, correlation {:.2}; {} frames at {:.2} fps",
        ms(estimate.exposure_s),
        ms(estimate.exposure_error_s),
        estimate.contrast,
        estimate.correlation,
        estimate.frames,
        estimate.fps
    ));
    text.push_str(&match film.left_out {
        0 => "\n".to_owned(),
        count => format!(", {count} left out that were damaged or badly stamped\n"),
    });
    text.push_str(&match args.screen_delay {
        Some(delay) => format!("  the screen's delay of {} ms was subtracted\n", ms(delay.as_secs_f64())),
        None => "  contains the screen's own delay, from writing until it lights up: see --screen-delay\n"
            .to_owned(),
    });
    text.push_str(
        "  readers subtract it from stamps; another size, format, rate or exposure has another offset\n",
    );
    text
}

fn to_json(
    args: &Args,
    info: &DeviceInfo,
    film: &Film,
    estimate: &Estimate,
    stored: &StoredOffset,
) -> serde_json::Value {
    json!({
        "camera": args.camera,
        "device": info.id,
        "name": info.name,
        "width": info.layout.width,
        "height": info.layout.height,
        "format": info.layout.format.name(),
        "fps": info.fps,
        "stamps": stamps_text(info.stamps),
        "offset": stored.known.offset,
        "standard_error_s": stored.standard_error_s,
        "exposure_s": estimate.exposure_s,
        "exposure_error_s": estimate.exposure_error_s,
        "screen_delay_s": stored.screen_delay_s,
        "contrast": estimate.contrast,
        "correlation": estimate.correlation,
        "frames": estimate.frames,
        "left_out": film.left_out,
        "measured_fps": estimate.fps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_of_screens() {
        let check = |text, expected: Option<f64>| {
            assert_eq!(screen_delay(text).ok(), expected.map(Duration::from_secs_f64), "{text}");
        };
        check("12ms", Some(0.012));
        check("8.3 ms", Some(0.0083));
        check("0ms", Some(0.0));
        for wrong in ["12", "ms", "-1ms", "1001ms", "nanms", "1s"] {
            check(wrong, None);
        }
    }
}
