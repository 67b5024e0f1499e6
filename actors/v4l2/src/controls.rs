//! Controls of a camera: exposure, gain, focus and whatever else a driver lets be set.
//!
//! Owns what a control is and the kernel's numbers of the usual ones. Never decides which are set, or in which
//! order: a manual value may need its automatic switched off first.

use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::{Device, Error, raw, text};

/// Numbers of the controls that most cameras have (`V4L2_CID_*`).
pub mod id {
    /// Boolean: the camera chooses the white balance.
    pub const AUTO_WHITE_BALANCE: u32 = 0x0098_090c;
    /// Boolean: the camera chooses the gain.
    pub const AUTOGAIN: u32 = 0x0098_0912;
    /// Integer, the camera's own unit.
    pub const GAIN: u32 = 0x0098_0913;
    /// Menu: filter against the flicker of lamps; off, 50 Hz, 60 Hz, automatic.
    pub const POWER_LINE_FREQUENCY: u32 = 0x0098_0918;
    /// Integer, kelvin.
    pub const WHITE_BALANCE_TEMPERATURE: u32 = 0x0098_091a;
    /// Menu: who chooses exposure time and iris; 0 the camera, 1 the user, 2 the user the time only, 3 the user the
    /// iris only.
    pub const EXPOSURE_AUTO: u32 = 0x009a_0901;
    /// Integer, units of 100 µs.
    pub const EXPOSURE_ABSOLUTE: u32 = 0x009a_0902;
    /// Boolean: automatic exposure may lower the frame rate.
    pub const EXPOSURE_AUTO_PRIORITY: u32 = 0x009a_0903;
    /// Integer, the camera's own unit.
    pub const FOCUS_ABSOLUTE: u32 = 0x009a_090a;
    /// Boolean: the camera focuses all the time.
    pub const FOCUS_AUTO: u32 = 0x009a_090c;
}

/// What a control's number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlKind {
    /// A number of 32 bits.
    Integer,
    /// 0 or 1.
    Boolean,
    /// An entry of the menu.
    Menu,
    /// A number of 64 bits.
    Integer64,
    /// A set of bits.
    Bitmask,
    /// An entry of the menu, whose entries are numbers.
    IntegerMenu,
}

impl ControlKind {
    /// From `V4L2_CTRL_TYPE_*`; `None` for what holds no single number: buttons, classes, texts, arrays.
    fn of(kind: u32) -> Option<Self> {
        match kind {
            1 => Some(Self::Integer),
            2 => Some(Self::Boolean),
            3 => Some(Self::Menu),
            5 => Some(Self::Integer64),
            8 => Some(Self::Bitmask),
            9 => Some(Self::IntegerMenu),
            _ => None,
        }
    }

    /// The value in the union of 64 bits that the kernel fills.
    fn value(self, bits: i64) -> i64 {
        match self {
            Self::Integer64 => bits,
            Self::Bitmask => i64::from(bits as u32),
            _ => i64::from(bits as i32),
        }
    }
}

/// A choice of a menu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MenuEntry {
    /// The control's value for it.
    pub value: i64,
    /// The driver's name of it; of an integer menu its number.
    pub name: String,
}

/// A control that holds a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The kernel's number of it.
    pub id: u32,
    /// The driver's name in the form of [`variable_name`].
    pub name: String,
    /// What its value means.
    pub kind: ControlKind,
    /// Least value.
    pub min: i64,
    /// Greatest value.
    pub max: i64,
    /// Values are `min` plus a multiple of it.
    pub step: u64,
    /// Value that the driver begins with.
    pub default: i64,
    /// Value now; `None` when it cannot be read.
    pub value: Option<i64>,
    /// The entries of a menu; those that the camera does not have are left out.
    pub menu: Vec<MenuEntry>,
    /// `V4L2_CTRL_FLAG_*`.
    pub flags: u32,
}

impl Control {
    /// Whether a value is one that the camera has.
    pub fn takes(&self, value: i64) -> bool {
        if self.menu.is_empty() {
            (self.min..=self.max).contains(&value)
        } else {
            self.menu.iter().any(|entry| entry.value == value)
        }
    }

    /// Its value is the camera's business.
    pub fn is_read_only(&self) -> bool {
        self.flags & raw::CTRL_FLAG_READ_ONLY != 0
    }

    /// Its value is kept but has no effect: an automatic has taken over.
    pub fn is_inactive(&self) -> bool {
        self.flags & raw::CTRL_FLAG_INACTIVE != 0
    }

    /// It cannot be set as long as the camera streams.
    pub fn is_grabbed(&self) -> bool {
        self.flags & raw::CTRL_FLAG_GRABBED != 0
    }
}

/// A driver's name of a control as programs write it: `Exposure Time, Absolute` is `exposure_time_absolute`.
/// Letters and digits of ASCII stay, in lower case; whatever is between them is one underscore.
pub fn variable_name(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_").to_ascii_lowercase()
}

impl Device {
    /// The controls that hold a number, in the driver's order, with their values. Empty for a camera that has none,
    /// which drivers say in two ways (EINVAL and ENOTTY).
    ///
    /// # Errors
    /// VIDIOC_QUERY_EXT_CTRL, with EIO for a camera that answers wrongly, ENODEV when it was pulled out.
    pub fn controls(&self) -> Result<Vec<Control>, Error> {
        let mut controls = Vec::new();
        let mut last = 0;
        // No driver has as many; one that never ends its list must not hang us.
        for _ in 0..1024 {
            let mut q = raw::QueryControl::after(last);
            match raw::query_control(self.fd.as_fd(), &mut q) {
                Ok(()) => {}
                Err(Errno::INVAL | Errno::NOTTY) => break,
                Err(e) => return Err(Error::new("VIDIOC_QUERY_EXT_CTRL", e)),
            }
            last = q.id;
            let unusable = raw::CTRL_FLAG_DISABLED | raw::CTRL_FLAG_HAS_PAYLOAD;
            let Some(kind) = ControlKind::of(q.kind).filter(|_| q.flags & unusable == 0) else { continue };
            let is_readable = q.flags & raw::CTRL_FLAG_WRITE_ONLY == 0;
            controls.push(Control {
                id: q.id,
                name: variable_name(&text(&q.name)),
                kind,
                min: q.minimum,
                max: q.maximum,
                step: q.step,
                default: q.default,
                value: is_readable.then(|| self.control(q.id, kind).ok()).flatten(),
                menu: self.menu(&q, kind),
                flags: q.flags,
            });
        }
        Ok(controls)
    }

    /// The value of a control.
    ///
    /// # Errors
    /// VIDIOC_G_EXT_CTRLS.
    pub fn control(&self, id: u32, kind: ControlKind) -> Result<i64, Error> {
        let bits = raw::ext_control(self.fd.as_fd(), id, None);
        bits.map(|bits| kind.value(bits)).map_err(|e| Error::new("VIDIOC_G_EXT_CTRLS", e))
    }

    /// Sets a control. Drivers take a number out of range for the nearest within: read it back.
    ///
    /// # Errors
    /// VIDIOC_S_EXT_CTRLS: EINVAL or ERANGE for a value that a menu does not have, EACCES for a control that is
    /// read-only or that an automatic has taken over, EBUSY for one that cannot be set while streaming.
    pub fn set_control(&self, id: u32, value: i64) -> Result<(), Error> {
        let set = raw::ext_control(self.fd.as_fd(), id, Some(value));
        set.map(drop).map_err(|e| Error::new("VIDIOC_S_EXT_CTRLS", e))
    }

    fn menu(&self, control: &raw::QueryControl, kind: ControlKind) -> Vec<MenuEntry> {
        if !matches!(kind, ControlKind::Menu | ControlKind::IntegerMenu) {
            return Vec::new();
        }
        // Drivers have at most some dozens.
        let last = control.maximum.min(control.minimum.saturating_add(255));
        let entries = (control.minimum..=last).filter_map(|value| {
            let index = u32::try_from(value).ok()?;
            let mut m = raw::QueryMenu { id: control.id, index, ..Default::default() };
            raw::query_menu(self.fd.as_fd(), &mut m).ok()?;
            let name = match (kind, m.name.first_chunk()) {
                (ControlKind::IntegerMenu, Some(number)) => i64::from_ne_bytes(*number).to_string(),
                _ => text(&m.name),
            };
            Some(MenuEntry { value, name })
        });
        entries.collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_as_programs_write_them() {
        for (name, expected) in [
            ("Exposure Time, Absolute", "exposure_time_absolute"),
            ("Exposure (Absolute)", "exposure_absolute"),
            ("White Balance, Automatic", "white_balance_automatic"),
            ("Inject V4L2_BUF_FLAG_ERROR", "inject_v4l2_buf_flag_error"),
            ("  Integer 32 Bits ", "integer_32_bits"),
            ("Auto-Focus", "auto_focus"),
            ("Größe", "gr_e"),
            ("", ""),
        ] {
            assert_eq!(variable_name(name), expected, "{name}");
        }
    }

    #[test]
    fn values_have_the_width_of_their_kind() {
        let bits = 0x1234_5678_ffff_fffe_u64 as i64;
        assert_eq!(ControlKind::Integer.value(bits), -2);
        assert_eq!(ControlKind::Bitmask.value(bits), 0xffff_fffe);
        assert_eq!(ControlKind::Integer64.value(bits), bits);
        assert_eq!(ControlKind::of(4), None, "a button holds nothing");
    }

    proptest! {
        #[test]
        fn a_name_is_words_and_stays(name in "\\PC{0,40}") {
            let short = variable_name(&name);
            prop_assert!(short.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            prop_assert!(!short.starts_with('_') && !short.ends_with('_') && !short.contains("__"));
            prop_assert_eq!(variable_name(&short), short);
        }
    }
}
