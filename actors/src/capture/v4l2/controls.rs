//! What a camera is set to: from wishes to the driver's controls, in an order that works, and what came of it.
//!
//! Owns which control is meant, the order in which controls are set, and the comparison with what is read back.
//! Pure but for [`set`]; which differences are an error is the caller's business.

use youquanti_v4l2::{Control, ControlKind, Device, id};

use crate::capture::ControlReading;

/// What a control is to be set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// The camera chooses, all the time.
    Automatic(Usual),
    /// A value in the unit of the control; its automatic is switched off first, where there is one.
    Fixed(Usual, i64),
    /// A control by the driver's name: `exposure_time_absolute`.
    Named(String, ControlValue),
    /// Whether automatic exposure may lower the frame rate; left alone on cameras without such a switch.
    SlowInDark(bool),
}

/// A control that most cameras have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usual {
    /// Exposure time, units of 100 µs.
    Exposure,
    /// The camera's own unit.
    Gain,
    /// The camera's own unit.
    Focus,
    /// Kelvin.
    WhiteBalance,
    /// The driver's menu: 0 off, 1 50 Hz, 2 60 Hz, 3 automatic.
    PowerLine,
}

/// The value of a control that only the driver knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlValue {
    /// A number; of a menu, the number of its entry.
    Number(i64),
    /// On or off.
    Switch(bool),
    /// An entry of a menu, by its name; upper and lower case are the same.
    Entry(String),
}

/// An automatic: its control, and the values, best first, that switch it on and off.
struct Automatic {
    id: u32,
    on: &'static [i64],
    off: &'static [i64],
}

impl Usual {
    const fn name(self) -> &'static str {
        match self {
            Self::Exposure => "exposure",
            Self::Gain => "gain",
            Self::Focus => "focus",
            Self::WhiteBalance => "white_balance",
            Self::PowerLine => "power_line",
        }
    }

    const fn id(self) -> u32 {
        match self {
            Self::Exposure => id::EXPOSURE_ABSOLUTE,
            Self::Gain => id::GAIN,
            Self::Focus => id::FOCUS_ABSOLUTE,
            Self::WhiteBalance => id::WHITE_BALANCE_TEMPERATURE,
            Self::PowerLine => id::POWER_LINE_FREQUENCY,
        }
    }

    /// USB cameras have "the user the iris only" (3) for automatic exposure, others "the camera" (0); which of them,
    /// their menu says.
    fn automatic(self) -> Option<Automatic> {
        let switch = |id| Some(Automatic { id, on: &[1], off: &[0] });
        match self {
            Self::Exposure => Some(Automatic { id: id::EXPOSURE_AUTO, on: &[0, 3], off: &[1, 2] }),
            Self::Gain => switch(id::AUTOGAIN),
            Self::Focus => switch(id::FOCUS_AUTO),
            Self::WhiteBalance => switch(id::AUTO_WHITE_BALANCE),
            Self::PowerLine => None,
        }
    }
}

/// Controls that decide what a picture of a face looks like: read back whether or not they were asked for.
const RECORDED: [u32; 10] = [
    id::EXPOSURE_AUTO,
    id::EXPOSURE_ABSOLUTE,
    id::EXPOSURE_AUTO_PRIORITY,
    id::AUTOGAIN,
    id::GAIN,
    id::FOCUS_AUTO,
    id::FOCUS_ABSOLUTE,
    id::AUTO_WHITE_BALANCE,
    id::WHITE_BALANCE_TEMPERATURE,
    id::POWER_LINE_FREQUENCY,
];

/// One control to be set, in the driver's terms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step<'a> {
    control: &'a Control,
    value: i64,
}

/// Something that was asked for and not got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) asked: String,
    pub(super) got: String,
}

/// The steps that lead to all settings, in the order in which they must be made, and what cannot be had.
pub(super) fn plan<'a>(settings: &[Setting], controls: &'a [Control]) -> (Vec<Step<'a>>, Vec<Difference>) {
    let mut steps: Vec<Step<'a>> = Vec::new();
    let mut differences = Vec::new();
    for setting in settings {
        match resolve(setting, controls) {
            Ok(new) => {
                for step in new {
                    match steps.iter().find(|old| old.control.id == step.control.id) {
                        Some(old) if old.value != step.value => {
                            differences
                                .push(Difference { asked: step.text(), got: format!("{} too", old.text()) });
                        }
                        Some(_) => {}
                        None => steps.push(step),
                    }
                }
            }
            Err(difference) => differences.push(difference),
        }
    }
    // A manual value is refused as long as its automatic is on, so switches and menus come first.
    steps.sort_by_key(|step| !matches!(step.control.kind, ControlKind::Boolean | ControlKind::Menu));
    (steps, differences)
}

fn resolve<'a>(setting: &Setting, controls: &'a [Control]) -> Result<Vec<Step<'a>>, Difference> {
    let with_id = |id| controls.iter().find(|control| control.id == id);
    let nothing_for = |asked: String| {
        let names: Vec<_> = controls.iter().map(|control| control.name.as_str()).collect();
        let got = if names.is_empty() { "no controls".to_owned() } else { names.join(", ") };
        Difference { asked, got: format!("a camera that has {got}") }
    };
    let switched = |automatic: Automatic, on: bool| {
        let control = with_id(automatic.id)?;
        let values = if on { automatic.on } else { automatic.off };
        let value = values.iter().copied().find(|&value| control.takes(value))?;
        Some(Step { control, value })
    };
    match setting {
        Setting::Automatic(usual) => {
            let step = usual.automatic().and_then(|automatic| switched(automatic, true));
            step.map(|step| vec![step]).ok_or_else(|| nothing_for(format!("{} = auto", usual.name())))
        }
        Setting::Fixed(usual, value) => {
            let control =
                with_id(usual.id()).ok_or_else(|| nothing_for(format!("{} = {value}", usual.name())))?;
            let manual = usual.automatic().and_then(|automatic| switched(automatic, false));
            Ok(manual.into_iter().chain([Step { control, value: *value }]).collect())
        }
        Setting::SlowInDark(may) => Ok(with_id(id::EXPOSURE_AUTO_PRIORITY)
            .map(|control| Step { control, value: i64::from(*may) })
            .into_iter()
            .collect()),
        Setting::Named(name, value) => {
            let asked = || format!("{name} = {value}");
            let control =
                controls.iter().find(|control| control.name == *name).ok_or_else(|| nothing_for(asked()))?;
            let value = match value {
                ControlValue::Number(number) => Some(*number),
                ControlValue::Switch(on) if control.kind == ControlKind::Boolean => Some(i64::from(*on)),
                ControlValue::Switch(_) => None,
                ControlValue::Entry(text) => {
                    let entry = control.menu.iter().find(|entry| entry.name.eq_ignore_ascii_case(text));
                    entry.map(|entry| entry.value)
                }
            };
            let value = value.ok_or_else(|| Difference {
                asked: asked(),
                got: format!("one that takes {}", range(control)),
            })?;
            Ok(vec![Step { control, value }])
        }
    }
}

impl std::fmt::Display for ControlValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Switch(on) => on.fmt(f),
            Self::Entry(text) => text.fmt(f),
        }
    }
}

impl Step<'_> {
    fn text(&self) -> String {
        format!("{} = {}", self.control.name, value_text(self.control, self.value))
    }
}

/// Sets the controls. A refusal is no error of its own, as the control may have the value already: what is read back
/// decides. Returns the refused controls' numbers, with the reason.
pub(super) fn set(device: &Device, steps: &[Step<'_>]) -> Vec<(u32, youquanti_v4l2::Error)> {
    let refused = |step: &Step<'_>| {
        let error = device.set_control(step.control.id, step.value).err()?;
        Some((step.control.id, error))
    };
    steps.iter().filter_map(refused).collect()
}

/// What the camera has now, of what was asked for and of what is always recorded; and where that differs from what was
/// asked.
pub(super) fn compare(
    steps: &[Step<'_>],
    refused: &[(u32, youquanti_v4l2::Error)],
    now: &[Control],
) -> (Vec<ControlReading>, Vec<Difference>) {
    let mut differences = Vec::new();
    let mut readings = Vec::new();
    for control in now {
        let step = steps.iter().find(|step| step.control.id == control.id);
        if step.is_none() && !RECORDED.contains(&control.id) {
            continue;
        }
        let got = control.value.map_or("no value".to_owned(), |value| value_text(control, value));
        if let Some(step) = step
            && control.value != Some(step.value)
        {
            let why = refused.iter().find(|(id, _)| *id == control.id);
            let why = why.map_or(String::new(), |(_, error)| format!("{error}: {}; ", error.source));
            let got = format!("{got} ({why}it takes {})", range(control));
            differences.push(Difference { asked: step.text(), got });
        }
        let asked = step.map(|step| value_text(control, step.value));
        readings.push(ControlReading { name: control.name.clone(), asked, got });
    }
    (readings, differences)
}

/// A value as people read it: a number, or the name of a menu's entry.
fn value_text(control: &Control, value: i64) -> String {
    let entry = control.menu.iter().find(|entry| entry.value == value);
    entry.map_or_else(|| value.to_string(), |entry| entry.name.clone())
}

/// What a control takes: `0 to 255`, `1 to 5000 in steps of 2`, `"Disabled", "50 Hz"`.
pub(super) fn range(control: &Control) -> String {
    let entries: Vec<_> = control.menu.iter().map(|entry| format!("{:?}", entry.name)).collect();
    match (control.kind, control.step) {
        (ControlKind::Boolean, _) => "true or false".to_owned(),
        _ if !entries.is_empty() => entries.join(", "),
        (_, 0 | 1) => format!("{} to {}", control.min, control.max),
        (_, step) => format!("{} to {} in steps of {step}", control.min, control.max),
    }
}

#[cfg(test)]
mod tests {
    use youquanti_v4l2::MenuEntry;

    use super::*;

    fn control(id: u32, name: &str, kind: ControlKind, (min, max): (i64, i64), value: i64) -> Control {
        Control {
            id,
            name: name.to_owned(),
            kind,
            min,
            max,
            step: 1,
            default: min,
            value: Some(value),
            menu: Vec::new(),
            flags: 0,
        }
    }

    fn with_menu(control: Control, entries: &[(i64, &str)]) -> Control {
        let entry = |&(value, name): &(i64, &str)| MenuEntry { value, name: name.to_owned() };
        Control { menu: entries.iter().map(entry).collect(), ..control }
    }

    /// As a common webcam has them, in its order: values before the automatic that locks them.
    fn webcam() -> Vec<Control> {
        use ControlKind::{Boolean, Integer, Menu};
        let exposure = control(id::EXPOSURE_AUTO, "auto_exposure", Menu, (0, 3), 3);
        let power_line = control(id::POWER_LINE_FREQUENCY, "power_line_frequency", Menu, (0, 2), 2);
        vec![
            control(0x0098_0900, "brightness", Integer, (0, 255), 128),
            control(id::AUTO_WHITE_BALANCE, "white_balance_automatic", Boolean, (0, 1), 1),
            control(id::GAIN, "gain", Integer, (0, 100), 7),
            with_menu(power_line, &[(0, "Disabled"), (1, "50 Hz"), (2, "60 Hz")]),
            control(id::WHITE_BALANCE_TEMPERATURE, "white_balance_temperature", Integer, (2800, 6500), 4000),
            control(id::EXPOSURE_ABSOLUTE, "exposure_time_absolute", Integer, (1, 5000), 157),
            with_menu(exposure, &[(1, "Manual Mode"), (3, "Aperture Priority Mode")]),
            control(id::EXPOSURE_AUTO_PRIORITY, "exposure_dynamic_framerate", Boolean, (0, 1), 1),
        ]
    }

    fn named(name: &str, value: ControlValue) -> Setting {
        Setting::Named(name.to_owned(), value)
    }

    #[track_caller]
    fn check(settings: &[Setting], steps: &[&str], differences: &[(&str, &str)]) {
        let controls = webcam();
        let (planned, wrong) = plan(settings, &controls);
        assert_eq!(planned.iter().map(Step::text).collect::<Vec<_>>(), steps);
        let wrong: Vec<_> = wrong.iter().map(|d| (d.asked.as_str(), d.got.as_str())).collect();
        assert_eq!(wrong, differences);
    }

    #[test]
    fn automatics_are_switched_before_values_are_set() {
        let settings = [
            Setting::Fixed(Usual::WhiteBalance, 4600),
            Setting::Fixed(Usual::Gain, 10),
            Setting::Fixed(Usual::Exposure, 100),
            Setting::Fixed(Usual::PowerLine, 1),
            Setting::SlowInDark(false),
        ];
        let steps = [
            "white_balance_automatic = 0",
            "auto_exposure = Manual Mode",
            "power_line_frequency = 50 Hz",
            "exposure_dynamic_framerate = 0",
            "white_balance_temperature = 4600",
            "gain = 10",
            "exposure_time_absolute = 100",
        ];
        check(&settings, &steps, &[]);
        check(&[Setting::Automatic(Usual::Exposure)], &["auto_exposure = Aperture Priority Mode"], &[]);
    }

    #[test]
    fn controls_go_by_the_drivers_names_too() {
        let settings = [
            named("exposure_time_absolute", ControlValue::Number(20)),
            named("auto_exposure", ControlValue::Entry("manual mode".to_owned())),
            named("white_balance_automatic", ControlValue::Switch(true)),
        ];
        let steps =
            ["auto_exposure = Manual Mode", "white_balance_automatic = 1", "exposure_time_absolute = 20"];
        check(&settings, &steps, &[]);
    }

    #[test]
    fn what_a_camera_lacks_is_said_with_what_it_has() {
        let all = "a camera that has brightness, white_balance_automatic, gain, power_line_frequency, \
                   white_balance_temperature, exposure_time_absolute, auto_exposure, exposure_dynamic_framerate";
        check(&[Setting::Automatic(Usual::Gain)], &[], &[("gain = auto", all)]);
        check(&[Setting::Fixed(Usual::Focus, 3)], &[], &[("focus = 3", all)]);
        check(&[named("brightnes", ControlValue::Number(1))], &[], &[("brightnes = 1", all)]);
        let entry = named("power_line_frequency", ControlValue::Entry("55 Hz".to_owned()));
        let got = "one that takes \"Disabled\", \"50 Hz\", \"60 Hz\"";
        check(&[entry], &[], &[("power_line_frequency = 55 Hz", got)]);
        let switch = named("gain", ControlValue::Switch(true));
        check(&[switch], &[], &[("gain = true", "one that takes 0 to 100")]);
        let twice = [Setting::Fixed(Usual::Gain, 10), named("gain", ControlValue::Number(11))];
        check(&twice, &["gain = 10"], &[("gain = 11", "gain = 10 too")]);
        let (steps, wrong) = plan(&[Setting::Fixed(Usual::Gain, 1), Setting::SlowInDark(false)], &[]);
        assert!(steps.is_empty());
        assert_eq!(
            wrong,
            [Difference { asked: "gain = 1".into(), got: "a camera that has no controls".into() }]
        );
    }

    #[test]
    fn what_was_got_is_compared_and_what_matters_is_recorded() {
        let controls = webcam();
        let settings = [
            Setting::Fixed(Usual::Gain, 200),
            Setting::Fixed(Usual::PowerLine, 1),
            Setting::SlowInDark(true),
        ];
        let (steps, _) = plan(&settings, &controls);
        let source = std::io::Error::from_raw_os_error(34);
        let refused =
            [(id::POWER_LINE_FREQUENCY, youquanti_v4l2::Error { call: "VIDIOC_S_EXT_CTRLS", source })];
        let (readings, differences) = compare(&steps, &refused, &controls);
        let readings: Vec<_> = readings.iter().map(|r| (&*r.name, r.asked.as_deref(), &*r.got)).collect();
        let expected = [
            ("white_balance_automatic", None, "1"),
            ("gain", Some("200"), "7"),
            ("power_line_frequency", Some("50 Hz"), "60 Hz"),
            ("white_balance_temperature", None, "4000"),
            ("exposure_time_absolute", None, "157"),
            ("auto_exposure", None, "Aperture Priority Mode"),
            ("exposure_dynamic_framerate", Some("1"), "1"),
        ];
        assert_eq!(readings, expected);
        let differences: Vec<_> = differences.into_iter().map(|d| (d.asked, d.got)).collect();
        let power_line = "60 Hz (VIDIOC_S_EXT_CTRLS failed: Numerical result out of range (os error 34); \
                          it takes \"Disabled\", \"50 Hz\", \"60 Hz\")";
        let expected = [
            ("gain = 200".to_owned(), "7 (it takes 0 to 100)".to_owned()),
            ("power_line_frequency = 50 Hz".to_owned(), power_line.to_owned()),
        ];
        assert_eq!(differences, expected);
    }
}
