//! Rules that tie several keys together.

use toml::Spanned;
use toml::de::DeValue;

use crate::table::Problems;

pub(crate) fn check(_root: &Spanned<DeValue<'_>>, _problems: &mut Problems<'_>) {}
