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
    match youquanti::preflight::check_with_doors(&config) {
        Ok(backend) if args.json => {
            outln!("{:#}", serde_json::json!({ "problems": [], "backend": backend.to_json(&config) }));
        }
        Ok(backend) => {
            let cameras = config.cameras.len();
            outln!(
                "{}: ready ({cameras} {})",
                config.file(),
                if cameras == 1 { "camera" } else { "cameras" }
            );
            outln!("back end {backend}");
            for worker in backend.workers() {
                outln!("  {}: {}", worker.gpu, worker.camera_names(&config).join(", "));
            }
        }
        Err(errors) => return fail_config(Exit::Missing, &errors, args.json),
    }
    Exit::Fine
}
