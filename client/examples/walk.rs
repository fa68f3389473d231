//! Walk: a game loop that tells the others where it is, 20 times a second, and never waits.
//!
//! `walk [--auth http://127.0.0.1:7000] [--relay relay-1-0] [--join CODE] [--seconds 10]`

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dreamcatcher_client::{Client, ConnectOptions, Error, ErrorCode, Event, Mode};
use dreamcatcher_client::{SessionOptions, Target, block_on};

const FRAME: Duration = Duration::from_millis(50);

fn main() -> Result<(), Error> {
    let seconds = argument("--seconds").map_or(Ok(10), |s| s.parse::<u16>());
    let seconds =
        seconds.map_err(|e| Error::new(ErrorCode::InvalidArgument, format!("--seconds: {e}")))?;
    let auth = argument("--auth").unwrap_or("http://127.0.0.1:7000".into());
    let mut options = block_on(ConnectOptions::guest(&auth, "Walker"))?;
    if let Some(relay) = argument("--relay") {
        options = options.prefer(&relay)?;
    }
    let client = block_on(Client::connect(options))?;
    let mut session = match argument("--join") {
        Some(code) => block_on(client.join_code(&code))?,
        None => block_on(client.create(SessionOptions::default()))?,
    };
    if let Some(code) = session.code() {
        println!("in session {code} through {}", client.node());
    }

    let start = Instant::now();
    let mut positions = BTreeMap::new();
    for frame in 0..20 * u32::from(seconds) {
        while let Some(event) = session.poll() {
            if let Event::Message {
                sender, payload, ..
            } = event
            {
                positions.insert(sender.0, payload);
            }
        }
        let angle = f64::from(frame) / 20.0;
        let here = format!("{:.1} {:.1}", angle.cos(), angle.sin());
        session.send(Mode::Latest, Target::Others, here)?;
        if frame % 20 == 0 {
            println!("{positions:?}");
        }
        let next = start + FRAME * (frame + 1);
        std::thread::park_timeout(next - Instant::now());
    }
    block_on(session.leave());
    block_on(client.close());
    Ok(())
}

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}
