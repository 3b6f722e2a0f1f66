//! `cargo run --release -p scheduler --example replay -- --help`: plays a trace of jobs through the scheduling core on a
//! described fleet, under one or two settings, and tells waits, use, slowdown, fairness and who starved. It is how
//! settings are chosen.
//!
//! - `trace`, `fleet`, `policy`: what is read.
//! - `generate`: made-up traces.
//! - `engine`: the replay by discrete events.
//! - `outcome`: what is measured; `report`, `plot` and `sweep`: how it is shown.

mod engine;
mod figures;
mod fleet;
mod generate;
mod outcome;
mod plot;
mod policy;
mod report;
mod sweep;
#[cfg(test)]
mod tests;
mod trace;

use std::io::Write as _;
use std::process::ExitCode;

use fleet::Fleet;
use generate::Wanted;
use policy::Policy;

/// Plain text of `--help`.
fn help() -> String {
    format!(
        "\
Plays a trace of jobs through the scheduling core, on a described fleet, and tells what came of it.

  replay --trace FILE --fleet FILE [--settings WORDS] [--against WORDS] [--svg FILE]
  replay sweep --trace FILE [--trace FILE ..] --fleet FILE --settings WORDS [--settings WORDS ..]
  replay generate [OPTIONS] > FILE

  --trace FILE      CSV with a header: submit,run[,gpus,vram,priority,queue,limit,preemptible,cpu,memory,name]
  --fleet FILE      lines such as `nodes 4 cpu=64 memory=512Gi gpus=8x80Gi nvlink=all numa=2` and `queue a weight=2`
  --settings WORDS  key=value,key=value; what is not named is as by default
  --against WORDS   plays the trace a second time under these and shows both, with ratios
  sweep             one line for each --settings, over all traces together
  --svg FILE        writes a picture: use of the fleet, length of the queue, waits by queue

Settings:
{}

Options of generate (and their defaults):
{}

The report goes to stdout. Exit status: 0, or 2 when something could not be read or written.
",
        policy::WORDS,
        generate::OPTIONS
    )
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let code = match answer(&words) {
        Ok(text) => out.write_all(text.as_bytes()).map(|()| ExitCode::SUCCESS),
        Err(why) => writeln!(err, "replay: {why}").map(|()| ExitCode::from(2)),
    };
    // Nobody is left to be told.
    code.unwrap_or(ExitCode::from(2))
}

fn answer(words: &[String]) -> Result<String, String> {
    match words.first().map(String::as_str) {
        None | Some("--help" | "-h" | "help") => Ok(help()),
        Some("generate") => {
            let wanted = Wanted::read(&words[1..])?;
            Ok(trace::write(&generate::generate(&wanted)))
        }
        Some("sweep") => sweep(&words[1..]),
        Some(_) => replay(words),
    }
}

fn sweep(words: &[String]) -> Result<String, String> {
    let (mut traces, mut policies, mut fleet) = (Vec::new(), Vec::new(), None);
    for pair in words.chunks(2) {
        let [name, value] = pair else {
            return Err(format!("{} needs a value; see --help", pair[0]));
        };
        match name.as_str() {
            "--trace" => traces.push(trace::read(&file(Some(value), "--trace")?)?),
            "--fleet" => fleet = Some(Fleet::read(&file(Some(value), "--fleet")?)?),
            "--settings" => policies.push(Policy::read(value)?),
            _ => return Err(format!("`{name}` is not known; see --help")),
        }
    }
    let fleet = fleet.ok_or("--fleet is missing; see --help")?;
    if traces.is_empty() || policies.is_empty() {
        return Err("a sweep needs a --trace and --settings; see --help".into());
    }
    Ok(sweep::sweep(&traces, &fleet, &policies))
}

fn file(path: Option<&String>, name: &str) -> Result<String, String> {
    let path = path.ok_or_else(|| format!("{name} is missing; see --help"))?;
    std::fs::read_to_string(path).map_err(|why| format!("{name} {path}: {why}"))
}

fn replay(words: &[String]) -> Result<String, String> {
    let (mut trace, mut fleet, mut svg) = (None, None, None);
    let (mut settings, mut against) = ("", None);
    for pair in words.chunks(2) {
        let [name, value] = pair else {
            return Err(format!("{} needs a value; see --help", pair[0]));
        };
        match name.as_str() {
            "--trace" => trace = Some(value),
            "--fleet" => fleet = Some(value),
            "--svg" => svg = Some(value),
            "--settings" => settings = value,
            "--against" => against = Some(value.as_str()),
            _ => return Err(format!("`{name}` is not known; see --help")),
        }
    }
    let fleet = Fleet::read(&file(fleet, "--fleet")?)?;
    let jobs = trace::read(&file(trace, "--trace")?)?;
    let mut policies = vec![Policy::read(settings)?];
    if let Some(words) = against {
        policies.push(Policy::read(words)?);
    }
    let outcomes: Vec<_> = policies
        .iter()
        .map(|policy| engine::replay(&jobs, &fleet, policy))
        .collect();
    if let Some(path) = svg {
        std::fs::write(path, plot::plot(&outcomes))
            .map_err(|why| format!("--svg {path}: {why}"))?;
    }
    Ok(report::report(
        &outcomes,
        &jobs,
        fleet.gpus(),
        fleet.nodes.len(),
    ))
}
