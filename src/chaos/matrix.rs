//! The fault matrix: what came of each fault, as JSON, as a section of Markdown, and in one word.
//!
//! Owns the verdict. Measures nothing.

use std::fmt::Write as _;

use serde::Serialize;

use super::campaign::Expectation;
use super::resources::Resources;

/// Resident memory that a campaign may add: threads come and go, and the allocator keeps pools for them.
const MEMORY_MARGIN: u64 = 32 << 20;

/// What came of one fault, all its repetitions together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// What it is called.
    pub fault: String,
    /// Camera, `all` or `pipeline`.
    pub target: String,
    /// How often it was done.
    pub repeat: u32,
    /// What should have come of it.
    pub expected: Expectation,
    /// From its beginning until it was noticed: the failure, or the first counted loss; ms of
    /// `CLOCK_MONOTONIC`, the longest of all repetitions and cameras. `None` when nothing was noticed.
    pub detected_after_ms: Option<f64>,
    /// From its end, or from its beginning if it strikes once, to the stamp of the first good frame; ms, the
    /// longest. `None` when none came.
    pub recovered_after_ms: Option<f64>,
    /// Frames that the failing cameras lost: by the driver, damaged, without a slot, or missed while they were
    /// away, estimated from their rates. Of a pipeline: frames without a result because it failed.
    pub lost: u64,
    /// The same of all other cameras.
    pub lost_by_others: u64,
    /// Whether every captured frame of the session is accounted for; `None` without a report.
    pub ledger_closed: Option<bool>,
    /// What did not hold.
    pub problems: Vec<String>,
}

/// What came of a campaign.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Matrix {
    /// Its heading.
    pub title: String,
    /// The campaign's file.
    pub campaign: String,
    /// The seed that it ran with.
    pub seed: u64,
    /// Cameras of the session.
    pub cameras: usize,
    /// Version of this program.
    pub software: String,
    /// Faults in the order in which they were done.
    pub outcomes: Vec<Outcome>,
    /// Before the first fault, all cameras delivering.
    pub before: Resources,
    /// After the last one.
    pub after: Resources,
    /// What else did not hold.
    pub problems: Vec<String>,
    /// Files that were recorded.
    pub files: Vec<std::path::PathBuf>,
}

impl Matrix {
    /// What the resources before and after say.
    pub(super) fn leaks(before: Resources, after: Resources) -> Vec<String> {
        let counts = [
            ("threads", before.threads, after.threads, 0, ""),
            ("descriptors", before.descriptors, after.descriptors, 0, ""),
            ("shared segments", before.segments, after.segments, 0, ""),
            ("resident memory", before.resident_bytes, after.resident_bytes, MEMORY_MARGIN, " bytes"),
        ];
        let leaks = counts.into_iter().filter(|(_, before, after, margin, _)| *after > before + margin);
        leaks
            .map(|(what, before, after, _, unit)| {
                format!("{what}: {before}{unit} before, {after}{unit} after")
            })
            .collect()
    }

    /// Everything that did not hold, with the fault that it belongs to. Empty when all is as expected.
    pub fn complaints(&self) -> Vec<String> {
        let of_faults = self.outcomes.iter().flat_map(|outcome| {
            outcome
                .problems
                .iter()
                .map(move |problem| format!("{} on {}: {problem}", outcome.fault, outcome.target))
        });
        of_faults.chain(self.problems.iter().cloned()).collect()
    }

    /// The matrix as a section of a Markdown file, heading included.
    pub fn to_markdown(&self) -> String {
        let mut text = format!(
            "## {}\n\n`youquanti chaos {} --seed {}`, version {}, {} cameras. Times in ms.\n\n",
            self.title, self.campaign, self.seed, self.software, self.cameras
        );
        text.push_str(
            "| fault | camera | expected | detected after | recovered after | frames lost | by the others | ledger closed | as expected |\n\
             | --- | --- | --- | ---: | ---: | ---: | ---: | --- | --- |\n",
        );
        for outcome in &self.outcomes {
            let cells = outcome.cells().map(|cell| cell.replace('|', "\\|"));
            // Writing to a string cannot fail.
            writeln!(text, "| {} |", cells.join(" | ")).ok();
        }
        let row = |name: &str, resources: &Resources| {
            let Resources { threads, descriptors, resident_bytes, segments } = resources;
            let resident = *resident_bytes as f64 / f64::from(1 << 20);
            format!("| {name} | {threads} | {descriptors} | {resident:.1} MiB | {segments} |\n")
        };
        text.push_str("\n| | threads | descriptors | resident memory | shared segments |\n| --- | ---: | ---: | ---: | ---: |\n");
        text.push_str(&row("before", &self.before));
        text.push_str(&row("after", &self.after));
        let complaints = self.complaints();
        if !complaints.is_empty() {
            text.push_str("\nNot as expected:\n\n");
            complaints.iter().for_each(|complaint| text.push_str(&format!("- {complaint}\n")));
        }
        text
    }

    /// `file`, the text of a Markdown file, with this matrix in place of the section of the same heading, or at
    /// its end.
    pub fn put_into(&self, file: &str) -> String {
        let section = self.to_markdown();
        let heading = format!("## {}", self.title);
        let mut kept = String::new();
        let mut lines = file.lines();
        for line in lines.by_ref().take_while(|line| line.trim_end() != heading) {
            kept.push_str(line);
            kept.push('\n');
        }
        let rest: Vec<_> = lines.skip_while(|line| !line.starts_with("## ")).collect();
        if kept.trim().is_empty() && rest.is_empty() {
            kept = PREFACE.to_owned();
        }
        let rest = if rest.is_empty() { String::new() } else { format!("\n{}\n", rest.join("\n")) };
        format!("{}\n\n{section}{rest}", kept.trim_end())
    }
}

/// What a new file begins with.
const PREFACE: &str = "\
# Fault matrix

What a session does when its cameras and pipelines fail: one section for each kind of camera, each written by
`youquanti chaos` itself.

- **detected after**: from the beginning of the fault to the failure that was noticed, or to the first counted loss.
- **recovered after**: from the end of the fault, or from its beginning if it strikes once, to the first good frame.
- **frames lost**: of the failing camera, counted, and estimated from its rate while it was away; **by the others**: of
  all other cameras together, frames that a newer one replaced in front of the pipeline not among them.
- **expected**: a *gap* that closes, *drops* that are counted, *nothing*, or that the session *stops* in good order.

Times are the longest of all repetitions, on `CLOCK_MONOTONIC`.
";

impl Outcome {
    /// Heads of [`cells`](Self::cells).
    pub const HEADS: [&str; 9] =
        ["fault", "camera", "expected", "detected ms", "recovered ms", "lost", "others", "ledger", "held"];

    /// One line of the matrix.
    pub fn cells(&self) -> [String; 9] {
        let millis = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.0}"));
        let times = if self.repeat > 1 { format!(" × {}", self.repeat) } else { String::new() };
        let word = |is: bool| if is { "yes" } else { "NO" }.to_owned();
        [
            format!("{}{times}", self.fault),
            self.target.clone(),
            self.expected.name().to_owned(),
            millis(self.detected_after_ms),
            millis(self.recovered_after_ms),
            self.lost.to_string(),
            self.lost_by_others.to_string(),
            self.ledger_closed.map_or("-".to_owned(), word),
            word(self.problems.is_empty()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(title: &str) -> Matrix {
        let outcome = Outcome {
            fault: "run a | b".to_owned(),
            target: "left".to_owned(),
            repeat: 50,
            expected: Expectation::Gap,
            detected_after_ms: Some(12.4),
            recovered_after_ms: None,
            lost: 7,
            lost_by_others: 0,
            ledger_closed: Some(true),
            problems: vec!["no good frame came".to_owned()],
        };
        Matrix {
            title: title.to_owned(),
            campaign: "c.toml".to_owned(),
            seed: 1,
            cameras: 4,
            software: "0".to_owned(),
            outcomes: vec![outcome],
            before: Resources::default(),
            after: Resources::default(),
            problems: Vec::new(),
            files: Vec::new(),
        }
    }

    #[test]
    fn a_line_for_each_fault() {
        let text = matrix("Here").to_markdown();
        let line = "| run a \\| b × 50 | left | gap | 12 | - | 7 | 0 | yes | NO |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("- run a | b on left: no good frame came\n"), "{text}");
    }

    #[test]
    fn sections_are_replaced_and_others_stay() {
        let (one, mut two) = (matrix("One"), matrix("Two"));
        let both = two.put_into(&one.put_into(""));
        assert!(both.starts_with("# Fault matrix") && both.find("## One") < both.find("## Two"), "{both}");
        assert_eq!(one.put_into(&both), both);
        assert_eq!(two.put_into(&both), both);
        two.seed = 99;
        let changed = two.put_into(&both);
        assert_eq!(changed.matches("--seed 99").count(), 1);
        assert_eq!(changed.replace("--seed 99", "--seed 1"), both);
    }

    #[test]
    fn what_is_left_behind_is_a_leak() {
        let before = Resources { threads: 9, descriptors: 30, resident_bytes: 50 << 20, segments: 4 };
        assert_eq!(
            Matrix::leaks(before, Resources { threads: 8, resident_bytes: 60 << 20, ..before }),
            [""; 0]
        );
        let after = Resources { threads: 10, segments: 5, resident_bytes: 90 << 20, ..before };
        let leaks = Matrix::leaks(before, after);
        assert_eq!(leaks.len(), 3, "{leaks:?}");
        assert_eq!(leaks[0], "threads: 9 before, 10 after");
    }
}
