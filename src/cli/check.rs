//! `youquanti check`: everything that is wrong with a configuration on this machine, at once.

use super::{ConfigArg, Exit, fail_config};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Print the problems as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(args: &Args) -> Exit {
    let config = match args.config.load() {
        Ok(config) => config,
        Err(errors) => return fail_config(Exit::Usage, &errors, args.json),
    };
    match youquanti::preflight::check(&config) {
        Ok(()) if args.json => outln!("{:#}", serde_json::json!({ "problems": [] })),
        Ok(()) => {
            let cameras = config.cameras.len();
            outln!(
                "{}: ready ({cameras} {})",
                config.file(),
                if cameras == 1 { "camera" } else { "cameras" }
            );
        }
        Err(errors) => return fail_config(Exit::Missing, &errors, args.json),
    }
    Exit::Fine
}
