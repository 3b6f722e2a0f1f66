//! A task of a gang, as tests run it: it finds the others by what its environment says and by nothing else.
//!
//! Rank 0 listens where `MASTER_ADDR` and `MASTER_PORT` say, the others connect and say who they are, and once all are there
//! rank 0 tells them so. Each prints whom it met. A task that is alone gives up after [`PATIENCE`].

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How long the others may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// Pause before another try to connect to rank 0, which may begin later.
const PAUSE: Duration = Duration::from_millis(20);

fn main() -> Result<()> {
    let rank: usize = variable("RANK")?.parse()?;
    let size: usize = variable("WORLD_SIZE")?.parse()?;
    let master = (variable("MASTER_ADDR")?, variable("MASTER_PORT")?.parse()?);
    if rank == 0 {
        let listener = TcpListener::bind((master.0.as_str(), master.1))
            .with_context(|| format!("cannot listen on {master:?}"))?;
        lead(&listener, size)
    } else {
        follow(rank, &master)
    }
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

fn lead(listener: &TcpListener, size: usize) -> Result<()> {
    let mut met = Vec::new();
    while met.len() + 1 < size {
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        let rank: usize = line.trim().parse().context("who is this?")?;
        met.push((rank, stream));
    }
    met.sort_by_key(|(rank, _)| *rank);
    let ranks: Vec<String> = met.iter().map(|(rank, _)| rank.to_string()).collect();
    let ranks = ranks.join(",");
    for (_, stream) in &mut met {
        writeln!(stream, "{ranks}")?;
    }
    println!("rank 0 met {ranks}");
    Ok(())
}

fn follow(rank: usize, master: &(String, u16)) -> Result<()> {
    let begun = Instant::now();
    let mut stream = loop {
        match TcpStream::connect((master.0.as_str(), master.1)) {
            Ok(stream) => break stream,
            Err(error) => ensure!(begun.elapsed() < PATIENCE, "nobody at {master:?}: {error}"),
        }
        std::thread::sleep(PAUSE);
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{rank}")?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    ensure!(!line.is_empty(), "rank 0 hung up");
    println!("rank {rank} is one of {}", line.trim());
    Ok(())
}
