#![doc = include_str!("arguments/walk.txt")]

mod arguments;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dreamcatcher_client::{Client, ConnectOptions, Error, Event, Mode};
use dreamcatcher_client::{SessionOptions, Target, block_on};

use arguments::Arguments;

const FRAME: Duration = Duration::from_millis(50);

fn main() -> Result<(), Error> {
    let arguments = Arguments::read(include_str!("arguments/walk.txt"));
    let seconds = arguments.value("--seconds").unwrap_or("10").parse();
    let seconds = seconds.ok().filter(|&seconds: &u16| seconds > 0);
    let seconds = seconds.unwrap_or_else(|| arguments::refuse("--seconds has to be 1-65535"));
    let auth = arguments.value("--auth").unwrap_or("http://127.0.0.1:7000");
    let mut options = block_on(ConnectOptions::guest(auth, "Walker"))?;
    if let Some(relay) = arguments.value("--relay") {
        options = options.prefer(relay)?;
    }
    let client = block_on(Client::connect(options))?;
    let mut session = match arguments.value("--join") {
        Some(code) => block_on(client.join_code(code))?,
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
